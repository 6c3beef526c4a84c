"""``python -m layermatch.run`` in processes of their own: W&B keeps state of the whole process."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.processes import Process

SMALL = (
    "data.batch_size=8", "data.mu=2", "data.num_val=50", "trainer.log_every=2", "eval_every=3",
    "checkpoint.every_n_steps=3", "pseudo_labels.threshold=0.15", "trainer.precision=32-true",
)  # fmt: skip

#: Runs one after the other, each in a W&B environment of its own. Writes how long each took, and when all were done.
SCRIPT = """
import json, os, pathlib, sys, time
from layermatch.run import main
seconds = []
for arguments, environment in json.loads(sys.argv[1]):
    if environment:
        import wandb
        wandb.teardown()
        os.environ.update(environment)
    sys.argv = ["layermatch.run", *arguments]
    started = time.monotonic()
    main()
    seconds.append(time.monotonic() - started)
    pathlib.Path("seconds.json").write_text(json.dumps({"runs": seconds, "ended": time.time()}))
"""


def clean_environment(home: Path) -> dict[str, str]:
    """Without anybody's W&B settings and keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    fonts = kept.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))  # else each run lists them again
    own = {"HOME": str(home), "NETRC": str(home / "none"), "OMP_NUM_THREADS": "1", "PATH": path, "MPLCONFIGDIR": fonts}
    return kept | own


def start_runs(
    *command_lines: tuple[str, ...],
    folder: Path,
    environment: dict[str, str] | None = None,
    each: list[dict[str, str]] | None = None,
    pictures: bool = False,
) -> Process:
    """Start the runs, one after the other in one process, in the same environment or ``each`` in its own."""
    jobs = list(zip(command_lines, each or [{}] * len(command_lines), strict=True))
    return Process(
        [sys.executable, "-c", SCRIPT, json.dumps(jobs)],
        cwd=folder, env=clean_environment(folder) | (environment or {}), pictures=pictures,
    )  # fmt: skip


def do_runs(
    *command_lines: tuple[str, ...],
    folder: Path,
    environment: dict[str, str] | None = None,
    each: list[dict[str, str]] | None = None,
    timeout: float = 550,
    pictures: bool = False,
) -> tuple[str, str]:
    """As :func:`start_runs`, to the end; gives standard output and standard error."""
    process = start_runs(*command_lines, folder=folder, environment=environment, each=each, pictures=pictures)
    output, errors = process.communicate(timeout=timeout)
    assert process.returncode == 0, errors[-3000:]
    return output, errors
