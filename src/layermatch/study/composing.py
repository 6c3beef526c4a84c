"""The configuration that the words of a run's command line make, as the run will compose it."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from layermatch.cli import explain, plain
from layermatch.command_line import as_typed
from layermatch.errors import UserError
from layermatch.files import replace_text
from layermatch.study.design import Cell, Setting, Study, drawn_by, labels_name

__all__ = ["COMPOSED", "Composer", "config_folders", "files_of"]

#: What was composed before: to compose takes longer than to read.
COMPOSED = ".composed.json"

#: Where a study with folds keeps them.
FOLDS = "folds"

#: A file of a folder in ``conf/`` that is no choice.
SHARED = "base"


def files_of(group: str) -> list[str]:
    """Return the files of a folder of conf, in their order; those of ``--config-dir`` too.

    Args:
        group: The name of the folder.

    Raises:
        UserError: There is no such folder.
    """
    names = GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG)
    found = sorted(name for name in names if name != SHARED)
    if not found:
        raise UserError(f"study.grid.{group}=all: there is no folder conf/{group}: name a folder of conf")
    return found


def config_folders() -> list[str]:
    """Return the folders that the command line gave with ``--config-dir``."""
    sources = HydraConfig.get().runtime.config_sources
    return [str(source.path) for source in sources if source.provider == "command-line"]


class Composer:
    """Composes configurations, and remembers them as long as no file of conf changes.

    Args:
        folder: The directory of the study, which keeps what was composed; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / COMPOSED
        self._known: dict[str, Any] = {}
        self._used: dict[str, Any] = {}
        self._files = _digest_of_files()
        with suppress(OSError, ValueError):
            known = json.loads(self.path.read_text(encoding="utf-8"))
            self._known = known if isinstance(known, dict) else {}

    def cells(self, study: Study, *, study_dir: Path) -> tuple[list[Cell], dict[str, str]]:
        """Return every run of a study, seed by seed: what is stopped has all settings of the seeds that it came to.

        Args:
            study: The study.
            study_dir: The directory of the study.

        Returns:
            The runs; and the settings that are left out, by name, with the reason: what cannot be composed, where the
            study says so, and what is another setting once more.

        Raises:
            UserError: The words of a run are not legal.
        """
        composed: dict[str, dict[str, Any]] = {}
        left_out: dict[str, str] = {}
        known: dict[str, str] = {}
        for setting in study.settings:
            try:
                found = self._compose(study.words_of(setting))
                probe = self._cell(study, found, setting, labels=None, seed=study.seeds[0], study_dir=study_dir)
            except (UserError, HydraException) as error:
                if study.illegal == "refuse":
                    raise UserError(f"setting {setting.name!r}: {explain(error)}") from error
                left_out[setting.name] = explain(error)
                continue
            same = known.setdefault(probe.fingerprint, setting.name)
            if same == setting.name:
                composed[setting.name] = found
            else:
                left_out[setting.name] = f"the same as {same}"
        folds = [None] if study.folds is None else range(1, study.folds + 1)
        places = itertools.product(study.seeds, folds, study.num_labels, study.settings)
        cells = [
            self._cell(study, composed[setting.name], setting, labels=labels, seed=seed, fold=fold, study_dir=study_dir)
            for seed, fold, labels, setting in places
            if setting.name in composed
        ]
        return cells, left_out

    def _cell(
        self,
        study: Study,
        unresolved: Mapping[str, Any],
        setting: Setting,
        *,
        labels: int | None,
        seed: int,
        study_dir: Path,
        fold: int | None = None,
    ) -> Cell:
        config = OmegaConf.create(dict(unresolved))
        words = list(study.words_of(setting))
        if labels is not None and not any(word.partition("=")[0] == "data.num_labels" for word in words):
            words.append(f"data.num_labels={labels}")
            OmegaConf.update(config, "data.num_labels", labels)
        config.seed, config.run_dir, config.ckpt_path = seed, "", "auto"
        undivided: dict[str, Any] = {}
        if fold is not None:
            undivided = plain(config)["data"]
            name = f"{labels_name(labels)}_seed-{seed}_fold-{fold}-of-{study.folds}_{drawn_by(undivided)}.json"
            words += _hold_out(config, study_dir / FOLDS / name)
        words.append(f"seed={seed}")
        return Cell(setting, labels, seed, tuple(words), plain(config), study_dir, fold, study.folds, undivided)

    def _compose(self, words: Sequence[str]) -> dict[str, Any]:
        key = hashlib.sha256(json.dumps([self._files, *words]).encode("utf-8", "surrogatepass")).hexdigest()
        if key not in self._known:
            try:
                config = compose("run", overrides=["run_dir=unused", *words])
            except OmegaConfBaseException as error:
                raise UserError(str(error).partition("\n")[0]) from error
            self._known[key] = OmegaConf.to_container(config, resolve=False)
        self._used[key] = self._known[key]
        return dict(self._used[key])

    def model_of(self, words: Sequence[str]) -> Mapping[str, Any]:
        """Return the section ``model`` of a run; empty where its words are not legal, which :meth:`cells` says.

        Args:
            words: Its command line.
        """
        try:
            model = OmegaConf.to_container(OmegaConf.create(self._compose(words)["model"]), resolve=False)
        except (UserError, HydraException, ValueError):
            return {}
        return {str(key): value for key, value in model.items()} if isinstance(model, dict) else {}

    def keep(self) -> None:
        """Write what was composed; where it cannot be written, it is composed again."""
        with suppress(OSError):
            replace_text(self.path, json.dumps(self._used))


def _hold_out(config: DictConfig, split: Path) -> list[str]:
    """Let a run hold out the fold of a split; return what it has on its command line for it."""
    if config.checkpoint.selection != "last":
        raise UserError(
            f"checkpoint.selection={config.checkpoint.selection} is not legal with study.folds: the weights would be "
            "chosen by the images that judge them: give checkpoint.selection=last"
        )
    held_out = {"split": str(split), "num_labels": None, "num_val": 0, "val_from": "pool"}
    for key, value in held_out.items():
        OmegaConf.update(config, f"data.{key}", value)
    return [as_typed(f"data.{key}={'null' if value is None else value}") for key, value in held_out.items()]


def _digest_of_files() -> str:
    """Return what all files of conf are now."""
    digest = hashlib.sha256()
    for source in HydraConfig.get().runtime.config_sources:
        if source.schema == "file":
            for path in sorted(Path(source.path).rglob("*.yaml")):
                digest.update(str(path).encode("utf-8", "surrogateescape"))
                digest.update(path.read_bytes())
    return digest.hexdigest()
