"""A run of the command line that also writes down what its process has chosen and decoded; see test_agreement.py.

``python watched_run.py FOLDER decide|train SETTING ...``: with ``decide`` it ends where a run would begin, and the
first process then stays until the other has written its report.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import layermatch.run as command
from layermatch.data import file_images
from layermatch.settings import Settings

_decode, _decoded = file_images.decode_image, []


def counted(path: str, **options: Any) -> Any:
    _decoded.append(path)
    return _decode(path, **options)


def report(folder: Path, **found: Any) -> None:
    unfinished = folder / f"{os.environ['RANK']}.tmp"
    unfinished.write_text(json.dumps(found))
    unfinished.rename(unfinished.with_suffix(".json"))


if __name__ == "__main__":
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    sys.argv[1:] = sys.argv[3:]
    file_images.decode_image = counted
    if kind == "decide":

        def chosen(settings: Settings, *, run_dir: Path, ckpt_path: Path | None, **_: Any) -> dict[str, Any]:
            report(folder, run_dir=str(run_dir), set_to=settings.run_dir, ckpt_path=ckpt_path and str(ckpt_path))
            deadline = time.monotonic() + 400
            while not (folder / "1.json").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            return {}

        command.run = chosen
    command.main()
    if kind == "train":
        report(folder, decoded=_decoded)
