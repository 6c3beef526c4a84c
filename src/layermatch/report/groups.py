"""Runs of one setting under one name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from layermatch.errors import UserError
from layermatch.report.runs import Run
from layermatch.runs import identity
from layermatch.runs.identity import Draw

__all__ = ["Group", "choose_baseline", "differing", "group_runs"]

#: More differences than this are counted in a name, not named.
NAMED_DIFFERENCES = 4


@dataclass
class Group:
    """The runs of one setting on one data set.

    Args:
        name: The algorithm, and what tells it from other settings with the same algorithm.
        runs: The finished runs, one per draw, in the order of the seeds.
        unfinished: All other runs with these settings.
        by_seed: Whether the seed tells its runs apart, and those of the groups that it is compared with.
    """

    name: str
    runs: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)
    by_seed: bool = True

    @property
    def example(self) -> Run:
        """Any run; all have the same settings."""
        return (self.runs or self.unfinished)[0]

    @property
    def shown(self) -> list[Run]:
        """The runs whose curves are drawn: the finished ones, or all where none is finished."""
        return self.runs or self.unfinished

    def draw_of(self, run: Run) -> Draw | None:
        """Return what tells a run from the others of its group, and pairs it with one of another group.

        Args:
            run: A run of the group.
        """
        return Draw(run.draw.seed) if run.draw is not None and self.by_seed else run.draw

    def figures(self, *path: str) -> dict[Draw, float]:
        """Return a figure of ``results.json`` by draw, of the finished runs that have it.

        Args:
            *path: The keys of the figure, as :meth:`Run.figure` takes them.
        """
        found = {self.draw_of(run): run.figure(*path) for run in self.runs}
        return {draw: value for draw, value in found.items() if draw is not None and value is not None}


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs that are repetitions of each other, in the order in which the settings first come.

    A run whose setting and draw another finished run has too is no second sample: the later one given is left out,
    which is noted in its problems. A run whose settings cannot be read is in no group. Where a data set lies is no part
    of a setting; so runs of other classes, or drawn from other files, are a group of their own.

    Args:
        runs: The runs, as they were read.
    """
    found: list[Group] = []
    for run in runs:
        if not run.settings:
            continue
        group = next((group for group in found if _is_of(run, group)), None)
        if group is None:
            group = Group("")
            found.append(group)
        twin = next((other for other in group.runs if other.draw == run.draw), None)
        if not run.is_finished:
            group.unfinished.append(run)
        elif twin is not None:
            run.problems.append(f"setting and seed are those of {twin.name}: not counted again")
        else:
            group.runs.append(run)
    for group in found:
        group.runs.sort(key=lambda run: run.draw or Draw(0))
    by_seed = all(len({run.seed for run in group.runs}) == len(group.runs) for group in found)
    for group, name in zip(found, _names(found), strict=True):
        group.name, group.by_seed = name, by_seed
    return found


def _is_of(run: Run, group: Group) -> bool:
    """Say whether a run has the setting and the data set of a group; what is not known of the data may be the same."""
    others = [*group.runs, *group.unfinished]
    return all(
        run.fingerprint == other.fingerprint
        and (run.classes == other.classes or not run.classes or not other.classes)
        and (run.pool == other.pool or not run.pool or not other.pool)
        for other in others
    )


def differing(groups: Sequence[Group]) -> list[str]:
    """Return the settings that are not the same in all groups, in the order of the configuration.

    Args:
        groups: The groups, at least one.
    """
    settings = [group.example.settings for group in groups]
    sections = list(dict.fromkeys(name.partition(".")[0] for each in settings for name in each))
    found = identity.differing(settings)
    return sorted(found, key=lambda name: sections.index(name.partition(".")[0]))


def _names(groups: Sequence[Group]) -> list[str]:
    algorithms = [group.example.settings.get("algorithm.name", "?") for group in groups]
    names = []
    for group, algorithm in zip(groups, algorithms, strict=True):
        peers = [peer for peer, other in zip(groups, algorithms, strict=True) if other == algorithm]
        settings = group.example.settings
        parts = [f"{_short(key, settings)}={settings[key]}" for key in differing(peers) if key in settings]
        twins = [peer for peer in peers if peer.example.fingerprint == group.example.fingerprint]
        if len({_root(twin) for twin in twins}) > 1:  # one setting on several data sets
            parts.insert(0, f"root={_root(group)}")
        if len(parts) > NAMED_DIFFERENCES:
            parts[NAMED_DIFFERENCES:] = [f"{len(parts) - NAMED_DIFFERENCES} more"]
        names.append(", ".join([algorithm, *parts]))
    taken = Counter(names)
    return [name if taken[name] == 1 else f"{name} #{place}" for place, name in enumerate(names, 1)]


def _root(group: Group) -> str:
    return group.example.shown_settings.get("data.root", "?")


def _short(key: str, settings: dict[str, str]) -> str:
    """Return the last part of a dotted name, where no other setting ends alike."""
    last = key.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in settings) == 1 else key


def choose_baseline(groups: Sequence[Group], name: str | None) -> Group | None:
    """Return the setting that the others are compared with.

    Args:
        groups: The groups, in their order.
        name: The name of the baseline; None takes the first group with a finished run.

    Returns:
        None if no run is finished.

    Raises:
        UserError: No setting with a finished run has that name.
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
