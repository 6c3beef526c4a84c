"""A process that has imported what every run imports, and becomes each run by a fork.

To import torch, torchvision and Lightning takes five to eleven seconds of a core, as long as a short run trains. So a
study on the processors does it once. ``python -m layermatch.study.fork_server`` is that process. Its first line, of
JSON, says which code it has imported. Then it reads a line for each run that is to start and for each that is asked
after, and answers each with one.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from layermatch.study.code_version import code_version

__all__ = ["can_fork", "main"]

#: What a run imports; the last ones where it needs them. Without scikit-learn: it imports pyarrow where that is there,
#: which starts a thread.
PRELOADED = ("layermatch.run", "matplotlib.backends.backend_agg", "matplotlib.figure", "torch._dynamo")

#: What may be sent to a whole group or job of processes, to have runs write a checkpoint; it is meant for them alone.
FOR_RUNS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def can_fork() -> bool:
    """Return whether a process with these libraries can be forked here: on Linux alone it is known to work."""
    return sys.platform == "linux" and hasattr(os, "pidfd_open")


def main() -> None:
    """Import, and start runs until nobody asks any more; in a fork, be the run."""
    blocked = [getattr(signal, name) for name in FOR_RUNS]
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    with os.fdopen(os.dup(0), encoding="utf-8") as asked, os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        for name in PRELOADED:
            with suppress(ImportError):
                importlib.import_module(name)
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            raise SystemExit("a library has started a thread, which a fork would not have")
        _answer(answers, {"sources": code_version().sources})
        given = _serve(asked, answers)
    if given is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)  # what came since the fork comes now
        _become(given)


def _answer(answers: TextIO, answer: Mapping[str, Any]) -> None:
    answers.write(f"{json.dumps(answer)}\n")
    answers.flush()


def _serve(asked: TextIO, answers: TextIO) -> Mapping[str, Any] | None:
    """Answer until nobody asks any more; give a fork what it is to be."""
    for line in asked:
        given = json.loads(line)
        if "number" in given:
            _answer(answers, _look_at(given["number"]))
            continue
        try:
            number = os.fork()
        except OSError as error:  # no more processes, or no more memory
            _answer(answers, {"error": str(error)})
            continue
        if not number:
            return dict(given)
        _answer(answers, {"number": number})
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
    with suppress(OSError):  # for top; the command line stays the server's
        Path("/proc/self/comm").write_text(module[:15], encoding="utf-8")
    # Of a folder that matplotlib makes where the home is not writable: it is the server's, and other forks need it.
    atexit.unregister(shutil.rmtree)
    sys.argv = [module, *words]
    sys.modules.pop(module, None)  # else it would not be the main one
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
