"""Command lines over Hydra: one-line errors, exit status, and where ``conf/`` lies."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from layermatch.command_line import explain_several, explain_unreadable, typed_arguments
from layermatch.components import find_target, option_names
from layermatch.errors import RunError, StoppedError, UserError
from layermatch.freed_memory import keep_freed_memory
from layermatch.output import steady_output
from layermatch.paths import expand

__all__ = [
    "NO_NAME",
    "config_dir",
    "explain",
    "explain_no_name",
    "is_timed",
    "one_line_errors",
    "plain",
    "run_app",
    "shows_tracebacks",
]

#: The file of a folder in ``conf/`` that holds what its other files share; no choice of its own.
SHARED = "base"

#: What Hydra says of a choice that is null or a number, without saying which.
NO_NAME = "Config group override"

#: What Hydra says of a group of conf/ that the command does not read; its advice, +GROUP=NAME, leads nowhere.
NO_SUCH_GROUP = re.compile(r"Could not override '([^'@]+)[^']*'\.\s+No match in the defaults list")

#: What is looked for in a section that has it not, and where it is.
ELSEWHERE = {"layerwise": "scales of the layers are algorithm.gradient_scale={PATTERN: SCALE}"}

#: Choices that packages bring, which the extra ``sweep`` installs.
OF_SWEEP_EXTRA = {"hydra/launcher=joblib", "hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm"}

#: A launcher ends all processes with the first one that ends: those that are silent let the other speak before.
SECONDS_TO_SPEAK = 5.0


def config_dir() -> Path:
    """Return the folder of the YAML files: in an installed package beside this file, in a checkout at its top."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as plain containers, interpolations resolved.

    Raises:
        UserError: A value that must be given is missing, or a file was chosen that is none of this package's commands.
    """
    if "sweep" in config:
        raise UserError("sweep=NAME is no choice here: the file is W&B's, as wandb sweep conf/sweep/wandb.yaml")
    try:
        container = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise UserError(f"{error.full_key} is not given: give {error.full_key}=VALUE") from error
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    if not isinstance(container, dict):
        raise TypeError(f"a configuration must be a mapping, not {type(container).__name__}")
    return {str(key): value for key, value in container.items()}


def is_timed(config: DictConfig) -> bool:
    """Return whether ``run_dir`` holds the time, and so is another one at each start."""
    raw = OmegaConf.to_container(config, resolve=False)
    return isinstance(raw, dict) and "${now:" in str(raw.get("run_dir"))


def _home(value: object) -> str:
    """Give Hydra a path of ours for its own use; what is no path is refused before Hydra comes to it."""
    return str(expand("run_dir", value, "a directory"))


def _unless_weights(default: Any, *, _root_: DictConfig) -> Any:
    """Leave a setting of the data to pretrained weights where the network has some, else have the default."""
    has_weights = OmegaConf.select(_root_, "model.weights") is not None
    return "weights" if has_weights else default


def _choices(*left_out: str, _root_: DictConfig) -> str:
    """Return the files that each group offers, for ``--help``: those of the command's own groups alone.

    Args:
        *left_out: Names that are no choices of this command.
    """
    loader = GlobalHydra.instance().config_loader()
    lines = []
    for group in sorted(str(group) for group in _root_.hydra.runtime.choices):
        if not group.startswith("hydra/"):
            names = loader.get_group_options(group, ObjectType.CONFIG)
            lines.append(f"{group}: {', '.join(name for name in names if name not in {SHARED, *left_out})}")
    return "\n".join(lines)


# Here, and not in run_app: a job of a sweep in another process composes its settings before it comes to ours.
for _name, _resolver in (("home", _home), ("choices", _choices), ("unless_weights", _unless_weights)):
    OmegaConf.register_new_resolver(f"layermatch.{_name}", _resolver, replace=True)


@steady_output()
def run_app(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Compose the configuration from the command line and run ``task`` on it.

    A mistake of the user ends the process with one line on standard error and status 2; ``debug=...`` shows the
    traceback instead.

    Args:
        task: A function that takes the composed configuration.
        config_name: The root file in ``conf/``.
    """
    keep_freed_memory()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the message is ours

    @wraps(task)
    def job(config: DictConfig) -> Any:
        with one_line_errors():  # here as well, as Hydra announces what leaves a job
            return task(config)

    with one_line_errors(), typed_arguments():
        hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(job)()


def shows_tracebacks() -> bool:
    """Return whether the command line asks for tracebacks, by ``debug=...``."""
    return any(arg.startswith("debug=") and arg != "debug=none" for arg in sys.argv)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line and a status where a run was refused, or something happened to it.

    Raises:
        SystemExit: There was an error.
    """
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if shows_tracebacks():
            raise
        if getattr(error, "is_said", True):
            sys.stderr.write(f"error: {explain(error)}\n")
        else:
            time.sleep(SECONDS_TO_SPEAK)
        sys.exit(UserError.status)
    except ValueError as error:
        if shows_tracebacks() or NO_NAME not in str(error):
            raise
        sys.stderr.write(f"error: {explain_no_name(sys.argv[1:])}\n")
        sys.exit(UserError.status)
    except RunError as error:
        from layermatch.distributed import is_rank_zero  # it needs torch, which not every command does

        if is_rank_zero() if error.is_said is None else error.is_said:
            sys.stderr.write(f"{'' if isinstance(error, StoppedError) else 'error: '}{error}\n")
        # The first process ends all others when one of them ends with a status; to be stopped is none.
        sys.exit(error.status if is_rank_zero() or not isinstance(error, StoppedError) else 0)


def explain_no_name(words: Sequence[str]) -> str:
    """Return one line for ``model=null`` and its like.

    Args:
        words: The command line.
    """
    given = {word.partition("=")[0].lstrip("+~"): word for word in words if "=" in word}
    chosen = {group: word for group, word in given.items() if (config_dir() / group).is_dir()}
    numbers = {
        group: word for group, word in chosen.items() if not (config_dir() / f"{word.replace('=', '/')}.yaml").is_file()
    }
    group, word = next(iter((numbers or chosen).items()), ("GROUP", "a choice"))
    return f"{word} is not legal: choose one of the files of conf/{group}"


def explain(error: Exception) -> str:
    """Return one line for an error: what was given, and what is legal.

    Args:
        error: An error of ours, of Hydra's or of OmegaConf's.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        if f"{group}={name}" in OF_SWEEP_EXTRA:
            return f"{group}={name} needs a package that is not installed: pip install 'layermatch[sweep]'"
        if error.options:
            legal = ", ".join(option for option in error.options if option != SHARED)
            return f"unknown {group}={name}: choose one of {legal}"
    if isinstance(error, OverrideParseException):
        return explain_unreadable(error)
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and cause.key is not None:
        return _explain_key(cause)
    return explain_several(error) or _one_line(error)


def _explain_key(error: OmegaConfBaseException) -> str:
    key = error.full_key or str(error.key)
    parent = error.parent_node
    legal = sorted(str(name) for name in parent) if isinstance(parent, Mapping | DictConfig) else []
    if not legal:
        above = key.rpartition(".")[0]
        algorithm = _that_reads_no(above, error)
        if algorithm:
            return f"unknown setting {key}: algorithm={algorithm} reads no {above}"
        return f"unknown setting {key}: {above} has no settings of its own: give {above}=VALUE"
    # Hydra's own section is legal, but not what the user looks for here.
    hint = ELSEWHERE.get(key.partition(".")[0])
    chosen = ", ".join(name for name in legal if name != "hydra")
    return f"unknown setting {key}: choose one of {chosen}{f'; {hint}' if hint else ''}"


def _that_reads_no(section: str, error: OmegaConfBaseException) -> str:
    """Return the name of the chosen algorithm where its method takes no part of a section; empty otherwise."""
    from layermatch.build import PARTS_OF_METHODS  # which takes long to import, and is here already in a run

    root = error.parent_node._get_root() if isinstance(error.parent_node, DictConfig) else None
    if section not in PARTS_OF_METHODS or not isinstance(root, DictConfig):
        return ""
    try:
        method = find_target("", OmegaConf.select(root, "algorithm._target_"), plugins=root.get("plugins") or ())
    except (UserError, TypeError):
        return ""
    takes = PARTS_OF_METHODS[section] in option_names(method)
    return "" if takes else str(OmegaConf.select(root, "algorithm.name"))


def _one_line(error: Exception) -> str:
    unknown = NO_SUCH_GROUP.search(str(error))
    if unknown is not None:
        return f"unknown setting {unknown[1]}: this command has no choice of it; --help shows its settings"
    if isinstance(error, ConfigCompositionException) and str(error).strip():
        return " ".join(str(error).split())  # the remedy stands in the other lines
    return _first_line(error)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
