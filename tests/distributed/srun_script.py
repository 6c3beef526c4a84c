"""A job script of SLURM on two processes: ``python srun_script.py DIR WORDS``; see test_many_devices.py.

The launcher is a stand-in: what it is called is real, and so are its processes, their variables and their signals. They
are forks, to import once.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

import layermatch.run  # noqa: F401 -- once, for all that are forked

#: What SLURM sets for a step of two tasks on one machine.
STEP = {
    "SLURM_JOB_ID": "70123", "SLURM_JOBID": "70123", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_NAME": "layermatch",
}  # fmt: skip


def step(words: list[str]) -> list[int]:
    """Start the two tasks."""
    tasks = []
    for rank in range(2):
        task = os.fork()
        if not task:
            status = 1
            try:
                os.environ.update(STEP | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)})
                sys.argv = ["layermatch.run", *words]
                del sys.modules["layermatch.run"]
                runpy.run_module("layermatch.run", run_name="__main__")
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        tasks.append(task)
    return tasks


def ended(tasks: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(task, 0)[1]) for task in tasks]


if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    first = step([*words, "trainer.max_steps=100000"])
    deadline = time.monotonic() + 500
    while not list(Path(folder, "checkpoints").glob("step-*.ckpt")):
        if time.monotonic() > deadline:
            for task in first:
                os.kill(task, signal.SIGKILL)
            sys.exit("no checkpoint came")
        time.sleep(0.01)
    os.kill(first[1], signal.SIGUSR1)  # the scheduler may tell any of them
    stopped = ended(first)
    at = max(int(path.stem[5:]) for path in Path(folder, "checkpoints").glob("step-*.ckpt"))
    again = ended(step([*words, f"trainer.max_steps={at + 2}"]))
    sys.stdout.write(json.dumps({"stopped": stopped, "at": at, "again": again}) + "\n")
