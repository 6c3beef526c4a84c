"""Which images should BatchNorm's statistics be of? Runs of each ``algorithm.forward``, paired by seed.

    python benchmarks/forwards.py --seeds 10 --jobs 2 --out runs/forwards

Each cell is an ordinary ``python -m layermatch.run`` in a directory of its own below ``--out``, on one thread. Cells
that are finished are left alone and stopped ones go on, so the command may be stopped at any time and given again. It
ends with a table in Markdown: test accuracy of the EMA weights at the last step, and each forward's difference from
``joint``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.layer_sweep import paired

FORWARDS = ("split", "shared", "joint")
REFERENCE = "joint"
ALGORITHMS = ("fixmatch", "layermatch")


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        algorithm: ``supervised``, ``fixmatch`` or ``layermatch``.
        forward: one of :data:`FORWARDS`; ``None`` with ``supervised``, which has no choice.
        num_labels: labelled images in all.
        seed: of everything.
    """

    algorithm: str
    forward: str | None
    num_labels: int
    seed: int

    @property
    def setting(self) -> str:
        """What the cells of all seeds share."""
        return f"{self.algorithm}-{self.forward}" if self.forward else self.algorithm

    def run_dir(self, out: Path) -> Path:
        """Where the run is."""
        return out / f"{self.num_labels}-labels" / self.setting / f"seed-{self.seed}"

    def overrides(self) -> list[str]:
        """The arguments of ``python -m layermatch.run``, without its directory."""
        chosen = [f"algorithm={self.algorithm}", f"data.num_labels={self.num_labels}", f"seed={self.seed}"]
        return chosen + ([f"algorithm.forward={self.forward}"] if self.forward else [])


def make_cells(*, seeds: Sequence[int], num_labels: Sequence[int]) -> list[Cell]:
    """Every cell, seed by seed, so that what is stopped has all settings of the seeds it came to."""
    settings = [("supervised", None), *((name, forward) for name in ALGORITHMS for forward in FORWARDS)]
    return [Cell(*setting, labels, seed) for seed in seeds for labels in num_labels for setting in settings]


def accuracy_of(cell: Cell, out: Path) -> float | None:
    """Test accuracy in points, of the EMA weights at the last step; nothing where the run is not finished."""
    path = cell.run_dir(out) / "results.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    return 100 * results["test"]["accuracy_ema"] if results.get("status") == "finished" else None


def train(cell: Cell, out: Path, more: Sequence[str]) -> str:
    """Start the run, or go on with it; give one line about it."""
    if accuracy_of(cell, out) is None:
        folder = cell.run_dir(out)
        resume = ["ckpt_path=last"] if any((folder / "checkpoints").glob("*.ckpt")) else []
        command = [sys.executable, "-m", "layermatch.run", f"run_dir={folder}", *cell.overrides(), *more, *resume]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            return f"{folder}: status {done.returncode}: {last}"
    return f"{cell.run_dir(out)}: {accuracy_of(cell, out):.1f} %"


def table(cells: Sequence[Cell], out: Path) -> str:
    """A Markdown table: each setting's mean, its seeds, and its difference from the joint forward."""
    lines = [
        "| labels | setting | mean ± std | difference from joint [95 %] | wins | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found: dict[tuple[int, str], dict[int, float]] = {}
    for cell in cells:
        accuracy = accuracy_of(cell, out)
        if accuracy is not None:
            found.setdefault((cell.num_labels, cell.setting), {})[cell.seed] = accuracy
    for (labels, setting), by_seed in sorted(found.items()):
        algorithm, _, forward = setting.partition("-")
        joint = found.get((labels, f"{algorithm}-{REFERENCE}"), {})
        both = sorted(by_seed.keys() & joint.keys()) if forward not in {"", REFERENCE} else []
        gap = paired([by_seed[seed] - joint[seed] for seed in both]) if len(both) > 1 else None
        spread = f" ± {np.std(list(by_seed.values()), ddof=1):.1f}" if len(by_seed) > 1 else ""
        compared = f"{gap} | {gap.wins} of {gap.num_seeds}" if gap else " | "
        each = " ".join(f"{by_seed[seed]:.1f}" for seed in sorted(by_seed))
        lines.append(
            f"| {labels} | `{setting}` | {np.mean(list(by_seed.values())):.1f}{spread} | {compared} | {each} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the command line; 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them")
    parser.add_argument("--num-labels", type=int, nargs="+", default=[10, 40], help="labelled images in all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/forwards"), help="where the runs are")
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE", help="more arguments for every run")
    given = parser.parse_args(arguments)
    cells = make_cells(seeds=range(given.first_seed, given.first_seed + given.seeds), num_labels=given.num_labels)
    with ThreadPoolExecutor(given.jobs) as pool:
        for line in pool.map(lambda cell: train(cell, given.out, given.more), cells):
            sys.stderr.write(line + "\n")
    sys.stdout.write(table(cells, given.out) + "\n")
    return int(any(accuracy_of(cell, given.out) is None for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
