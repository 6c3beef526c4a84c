"""A process that has imported what every run imports, and becomes each run by a fork.

To import torch, torchvision and Lightning takes five to eleven seconds of a core, as long as a short run trains. So a
study on the processors does it once. ``python -m layermatch.study.fork_server`` is that process: it reads a line of
JSON for each run that is to start and for each that is asked after, and answers each with one.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

__all__ = ["can_fork", "main"]

#: What a run imports; the last ones where it needs them. Without scikit-learn: it imports pyarrow where that is there,
#: which starts a thread.
PRELOADED = ("layermatch.run", "matplotlib.backends.backend_agg", "matplotlib.figure", "torch._dynamo")


def can_fork() -> bool:
    """Return whether a process with these libraries can be forked here: on Linux alone it is known to work."""
    return sys.platform == "linux"


def main() -> None:
    """Import, and start runs until nobody asks any more; in a fork, be the run."""
    with os.fdopen(os.dup(0), encoding="utf-8") as asked, os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        for name in PRELOADED:
            with suppress(ImportError):
                importlib.import_module(name)
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            raise SystemExit("a library has started a thread, which a fork would not have")
        given = _serve(asked, answers)
    if given is not None:
        _become(given)


def _serve(asked: TextIO, answers: TextIO) -> Mapping[str, Any] | None:
    """Answer until nobody asks any more; give a fork what it is to be."""
    for line in asked:
        given = json.loads(line)
        if "number" in given:
            answer = _look_at(given["number"])
        else:
            number = os.fork()
            if not number:
                return dict(given)
            answer = {"number": number}
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()
    return None


def _look_at(number: int) -> dict[str, Any]:
    """Return the status of a run that has ended and its processor seconds, or neither."""
    found, status, used = os.wait4(number, os.WNOHANG)
    if not found:
        return {}
    return {"status": os.waitstatus_to_exitcode(status), "processor": used.ru_utime + used.ru_stime}


def _become(given: Mapping[str, Any]) -> None:
    """Be ``python -m MODULE WORD ...`` with a log instead of a terminal, to its end."""
    os.setsid()
    log = os.open(given["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(stream, number)
    for stream in (nothing, log):
        os.close(stream)
    os.environ.clear()
    os.environ.update(given["environment"])
    module, *words = given["words"]
    Path("/proc/self/comm").write_text(module[:15], encoding="utf-8")  # for top; the command line stays the server's
    sys.argv = [module, *words]
    sys.modules.pop(module, None)  # else it would not be the main one
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
