"""What a difference over folds and seeds says, in words, and the rule by which it says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import fmean

from layermatch.report.compare import Comparison, compare
from layermatch.runs.quantities import points
from layermatch.study.rows import LEVEL, Row, ordered

__all__ = ["FEWEST", "RULE", "Outcome", "Verdict", "better_of", "verdict_on"]

#: The fewest pairs of runs that anything is concluded from.
FEWEST = 5

#: The rule, for people.
RULE = (
    "Verdict on each method with a pool, against the row of labels alone that has the higher mean in the same runs "
    "(against the reference where no row is of labels alone): helps, where the whole 95 % interval of the paired "
    "difference is above 0; hurts, where it is below 0; cannot tell, where 0 is in it or there are fewer than "
    f"{FEWEST} pairs."
)


class Outcome(Enum):
    """What may be said of a setting."""

    HELPS = "helps"
    HURTS = "hurts"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Verdict:
    """What may be said of a setting against its reference.

    Args:
        outcome: The word.
        comparison: What it is said by.
    """

    outcome: Outcome
    comparison: Comparison

    def sentence(self, setting: str, reference: str, *, where: str = "") -> str:
        """Return it as one line for people.

        Args:
            setting: The name of the setting.
            reference: The name of what it is compared with.
            where: What follows the names, such as the number of labels.
        """
        found = self.comparison
        interval = "" if found.interval is None else f", 95 % interval {' to '.join(map(points, found.interval))}"
        said = f"{setting} against {reference}{where}: {self.outcome.value}"
        better = f"better in {found.wins} of {found.n} pairs{f', equal in {found.ties}' if found.ties else ''}"
        line = f"{said}. {points(found.difference)} points{interval}, {better}."
        if found.n < FEWEST:
            return f"{line} Fewer than {FEWEST} pairs say nothing."
        is_wide = self.outcome is Outcome.CANNOT_TELL and found.interval != (0.0, 0.0)
        return f"{line} More labels or seeds make the interval narrower." if is_wide else line


def verdict_on(comparison: Comparison) -> Verdict:
    """Return what a difference says, by :data:`RULE`.

    Args:
        comparison: The difference over folds and seeds, with its interval.

    Example:
        >>> found = Comparison(difference=0.03, interval=(0.01, 0.05), wins=9, ties=0, n=10)
        >>> verdict_on(found).outcome.value
        'helps'
        >>> print(verdict_on(found).sentence("ours", "supervised", where=" with 40 labels"))
        ours against supervised with 40 labels: helps. +3.0 points, 95 % interval +1.0 to +5.0, better in 9 of 10 pairs.
    """
    outcome = Outcome.CANNOT_TELL
    if comparison.n >= FEWEST and comparison.interval is not None:
        low, high = comparison.interval
        if low > 0:
            outcome = Outcome.HELPS
        elif high < 0:
            outcome = Outcome.HURTS
    return Verdict(outcome, comparison)


def better_of(row: Row, baselines: Sequence[Row], *, overlap: float = 0.0) -> tuple[str, Comparison] | None:
    """Return the baseline that a setting has to be better than, and the difference to it.

    It is the one with the higher mean over the draws that the setting and all baselines have; the difference is over
    these as well. As it is chosen by the same runs, it is a little better than another run of it would be, and the
    difference a little lower.

    Args:
        row: The setting.
        baselines: What it is compared with, at least one.
        overlap: See :func:`~layermatch.report.compare.compare`.

    Returns:
        The name of the baseline and the difference; None where they have no draw in common.
    """
    draws = ordered(set(row.by_draw).intersection(*(each.by_draw for each in baselines)))
    if not draws:
        return None
    best = max(baselines, key=lambda each: fmean(each.by_draw[draw] for draw in draws))
    figures = {draw: row.by_draw[draw] for draw in draws}
    comparison = compare(figures, best.by_draw, level=LEVEL, overlap=overlap)
    return None if comparison is None else (best.setting, comparison)
