"""Runs that differ in nothing but the seed, under one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from layermatch.errors import UserError
from layermatch.report.runs import Run

__all__ = ["Group", "choose_baseline", "differing", "group_runs"]

#: More differences than this are counted in a name, not named.
NAMED_DIFFERENCES = 4


@dataclass
class Group:
    """The runs of one setting.

    Args:
        name: the algorithm, and what tells it from other settings with the same algorithm.
        runs: finished, one per seed, in the order of the seeds.
        unfinished: all others with these settings.
    """

    name: str
    runs: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)

    @property
    def example(self) -> Run:
        """Any run; all have the same settings."""
        return (self.runs or self.unfinished)[0]

    @property
    def shown(self) -> list[Run]:
        """The runs whose curves are drawn: the finished ones, or all where none is finished."""
        return self.runs or self.unfinished

    def figures(self, *path: str) -> dict[int, float]:
        """A figure of ``results.json`` by seed, of the finished runs that have it.

        Args:
            *path: as :meth:`Run.figure` takes it.
        """
        found = {run.seed: run.figure(*path) for run in self.runs}
        return {seed: value for seed, value in found.items() if seed is not None and value is not None}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by all settings but the seed and where they write, in the order in which the settings first come.

    A run whose setting and seed another finished run has too is a repetition, no second sample: the later one given
    is left out, which is noted in its problems. A run whose settings cannot be read is in no group.

    Args:
        runs: as read.
    """
    groups: dict[tuple[tuple[str, str], ...], Group] = {}
    for run in runs:
        if not run.settings:
            continue
        group = groups.setdefault(tuple(sorted(run.settings.items())), Group(""))
        twin = next((other for other in group.runs if other.seed == run.seed), None)
        if not run.is_finished:
            group.unfinished.append(run)
        elif twin is not None:
            run.problems.append(f"setting and seed are those of {twin.name}: not counted again")
        else:
            group.runs.append(run)
    for group in groups.values():
        group.runs.sort(key=lambda run: run.seed or 0)
    found = [group for group in groups.values() if group.runs or group.unfinished]
    for group, name in zip(found, _names(found), strict=True):
        group.name = name
    return found


def differing(groups: Sequence[Group]) -> list[str]:
    """The settings that are not the same in all groups, in the order of the configuration.

    Args:
        groups: at least one.
    """
    names = dict.fromkeys(name for group in groups for name in group.example.settings)
    sections = list(dict.fromkeys(name.partition(".")[0] for name in names))
    found = [name for name in names if len({group.example.settings.get(name) for group in groups}) > 1]
    return sorted(found, key=lambda name: sections.index(name.partition(".")[0]))


def _names(groups: Sequence[Group]) -> list[str]:
    algorithms = [group.example.settings.get("algorithm.name", "?") for group in groups]
    names = []
    for group, algorithm in zip(groups, algorithms, strict=True):
        peers = [peer for peer, other in zip(groups, algorithms, strict=True) if other == algorithm]
        settings = group.example.settings
        parts = [f"{_short(key, settings)}={settings[key]}" for key in differing(peers) if key in settings]
        if len(parts) > NAMED_DIFFERENCES:
            parts[NAMED_DIFFERENCES:] = [f"{len(parts) - NAMED_DIFFERENCES} more"]
        names.append(", ".join([algorithm, *parts]))
    taken = Counter(names)
    return [name if taken[name] == 1 else f"{name} #{place}" for place, name in enumerate(names, 1)]


def _short(key: str, settings: dict[str, str]) -> str:
    """The last part of a dotted name, where no other setting ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in settings) == 1 else key


def choose_baseline(groups: Sequence[Group], name: str | None) -> Group | None:
    """The setting that the others are compared with.

    Args:
        groups: in their order.
        name: of one; None takes the first with a finished run.

    Returns:
        None if no run is finished.

    Raises:
        UserError: no setting with a finished run has that name.
    """
    finished = [group for group in groups if group.runs]
    if name is None:
        return finished[0] if finished else None
    for group in finished:
        if group.name == name:
            return group
    legal = ", ".join(repr(group.name) for group in finished)
    raise UserError(
        f"--baseline {name!r} is no setting with a finished run: {f'choose {legal}' if legal else 'none is'}"
    )
