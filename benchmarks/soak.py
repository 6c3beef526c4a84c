"""Many steps with many resumes in one process: do memory, open files and speed stay what they are?

python benchmarks/soak.py --steps 20000 --every 1000 --out docs/soak

writes OUT.json and OUT.png, and ends with status 1 if memory grew by more than 2 %, a file stayed open, or a part was
slower than the median by more than 10 %. The first two parts warm the process up and are not judged.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
from hydra import compose, initialize_config_dir

from layermatch.callbacks.cost import process_memory
from layermatch.cli import config_dir, plain
from layermatch.freed_memory import keep_freed_memory
from layermatch.quiet import quiet_libraries
from layermatch.run import run
from layermatch.settings import Settings

WARM_UP = 2
LARGEST_GROWTH, LARGEST_SLOWDOWN = 0.02, 0.10


def resident_mib() -> float:
    """Return the memory of this process that is in use, after what is garbage is gone."""
    gc.collect()
    return process_memory() / 2**20


def steps_per_second(run_dir: Path, first: int, last: int) -> float:
    """Take the time by the run's own clock, so that starting and evaluating do not count."""
    with (run_dir / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if first < int(row["step"]) <= last and row.get("time/network")]
    parts = ("time/data", "time/augment", "time/network", "time/other")
    return 1 / statistics.median(sum(float(row[part]) for part in parts) for row in rows)


def soak(folder: Path, *, steps: int, every: int, options: list[str]) -> list[dict[str, float]]:
    """Train ``every`` steps, resume, and so on; measure after each part."""
    run_dir, parts = folder / "run", []
    for last in range(every, steps + 1, every):
        given = [f"run_dir={run_dir}", f"trainer.max_steps={last}", "schedule=constant", *options]
        settings = Settings.parse(plain(compose("run", overrides=given)))
        checkpoint = run_dir / f"checkpoints/step-{last - every:07d}.ckpt"
        started = time.monotonic()
        with quiet_libraries():
            run(settings, run_dir=run_dir, ckpt_path=checkpoint if last > every else None)
        parts.append(
            {
                "step": last,
                "resident_mib": resident_mib(),
                "open_files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
                "steps_per_second": steps_per_second(run_dir, last - every, last),
                "seconds": time.monotonic() - started,
            }
        )
        sys.stdout.write(f"{parts[-1]}\n")
    return parts


def judge(parts: list[dict[str, float]]) -> dict[str, float]:
    """Return the growth of memory, of open files, and the largest loss of speed, after the warm-up."""
    warm = parts[WARM_UP:]
    typical = statistics.median(part["steps_per_second"] for part in warm)
    return {
        "memory growth": warm[-1]["resident_mib"] / warm[0]["resident_mib"] - 1,
        "more open files": warm[-1]["open_files"] - warm[0]["open_files"],
        "slowest part below the median": 1 - min(part["steps_per_second"] for part in warm) / typical,
    }


def draw(parts: list[dict[str, float]], path: Path) -> None:
    """Draw three curves over the steps."""
    steps = [part["step"] for part in parts]
    shown = {
        "resident_mib": "memory in use (MiB)",
        "open_files": "open files",
        "steps_per_second": "steps per second",
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(12, 3.4), layout="constrained")
    for axis, (name, label) in zip(axes, shown.items(), strict=True):
        values = [part[name] for part in parts]
        axis.axvspan(0, steps[WARM_UP - 1], color="0.92", label="warm-up")
        axis.plot(steps, values, marker="o", markersize=3)
        axis.set(xlabel="optimizer step", ylabel=label, ylim=(0, 1.15 * max(values)), xlim=(0, steps[-1]))
    axes[0].legend(frameon=False, loc="lower right")
    figure.suptitle(f"{steps[-1]:,} steps on digits, resumed every {steps[0]:,} in one process")
    figure.savefig(path, dpi=130)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("soak"))
    parser.add_argument("options", nargs="*", help="settings of the run, as on layermatch.run's command line")
    given = parser.parse_args()
    keep_freed_memory()
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(config_dir()), version_base="1.3"),
    ):
        parts = soak(Path(folder), steps=given.steps, every=given.every, options=given.options)
    verdict = judge(parts)
    given.out.with_suffix(".json").write_text(json.dumps({"parts": parts, "verdict": verdict}, indent=1) + "\n")
    draw(parts, given.out.with_suffix(".png"))
    sys.stdout.write(f"{verdict}\n")
    flat = verdict["memory growth"] <= LARGEST_GROWTH and verdict["more open files"] <= 0
    return 0 if flat and verdict["slowest part below the median"] <= LARGEST_SLOWDOWN else 1


if __name__ == "__main__":
    sys.exit(main())
