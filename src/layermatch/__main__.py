"""``layermatch COMMAND``: every command of this package under one name, and alone the list of them.

A command starts as ``python -m layermatch.COMMAND`` does, also for the processes that it starts of itself.
"""

from __future__ import annotations

import ast
import runpy
import shlex
import sys
from difflib import get_close_matches
from pathlib import Path

__all__ = ["commands", "main"]

#: By this line a module can be started.
GUARD = '\nif __name__ == "__main__":\n'


def commands() -> dict[str, str]:
    """Return the name of each command and what it does, in the first sentence of its module, which is not imported.

    Example:
        >>> commands()["run"]
        'Train, evaluate, and leave a run directory behind'
    """
    folder = Path(__file__).parent
    files = {path.stem: path for path in folder.glob("[!_]*.py")}
    files |= {path.parent.name: path for path in folder.glob("*/__main__.py")}
    texts = {name: files[name].read_text(encoding="utf-8") for name in sorted(files)}
    return {name: _summary(text) for name, text in texts.items() if GUARD in text}


def _summary(text: str) -> str:
    line = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].rstrip(".")
    does = line.rpartition("``: ")[2]  # what stands before it is the command line
    return does[:1].upper() + does[1:]


def main() -> None:
    """Start the command that the command line names, with the words after it.

    Raises:
        SystemExit: There is no such command.
    """
    words, known = sys.argv[1:], commands()
    if not words or words[0] in {"-h", "--help"}:
        sys.stdout.write(_listing(known))
        return
    if words[0] not in known:
        sys.stderr.write(f"error: {_unknown(words, known)}\n")
        sys.exit(2)
    sys.argv = [sys.argv[0], *words[1:]]
    # As `python -m`: Lightning starts the other ranks of a run with the name of the module that is the main one.
    runpy.run_module(f"layermatch.{words[0]}", run_name="__main__", alter_sys=True)


def _listing(known: dict[str, str]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {summary}" for name, summary in known.items()]
    usage = "usage: layermatch COMMAND ..."
    return "\n".join([usage, "", *lines, "", "layermatch COMMAND --help says what a command takes.", ""])


def _unknown(words: list[str], known: dict[str, str]) -> str:
    if "=" in words[0]:
        return f"{words[0]!r} is no command: settings come after one: layermatch run {shlex.join(words)}"
    nearest = get_close_matches(words[0], known, n=1)
    advice = f"give layermatch {nearest[0]}, or another of" if nearest else "choose one of"
    return f"unknown command {words[0]!r}: {advice} {', '.join(known)}"


if __name__ == "__main__":
    main()
