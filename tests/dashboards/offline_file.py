"""Reads back what W&B wrote into the ``.wandb`` file of a run.

The file is a log in the format of LevelDB, with a header of 7 bytes: blocks of 32 KiB, records of (checksum 4 bytes,
length 2, kind 1, content), where a record that crosses a block's end comes in a first, middle and last part.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32 * 1024
WHOLE, LAST = 1, 4


@dataclass
class WandbFile:
    """A run as W&B's file has it."""

    folder: Path
    run_id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None

    @property
    def keys(self) -> set[str]:
        return {key for row in self.history for key in row}


def wandb_files(run_dir: Path) -> list[WandbFile]:
    """The runs in a run directory, the oldest first."""
    folders = [path for path in (run_dir / "wandb").glob("*run-*") if path.is_dir() and not path.is_symlink()]
    return [read_file(folder) for folder in sorted(folders, key=lambda path: path.name.partition("run-")[2])]


def read_file(folder: Path) -> WandbFile:
    (path,) = folder.glob("run-*.wandb")
    read = WandbFile(folder)
    for record in records(path):
        _take(read, record)
    return read


def _take(read: WandbFile, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    content = getattr(record, kind) if kind else None
    if kind == "run":
        read.run_id, read.group, read.job_type = content.run_id, content.run_group, content.job_type
        read.name, read.tags = content.display_name, list(content.tags)
        _update(read.config, content.config.update)
    elif kind == "config":
        _update(read.config, content.update)
    elif kind == "history":
        row: dict[str, Any] = {}
        _update(row, content.item)
        read.history.append(row)
    elif kind == "summary":
        _update(read.summary, content.update)
    elif kind == "metric":
        read.metrics[content.name or content.glob_name] = content
    elif kind == "files":
        read.files += [file.path for file in content.files]
    elif kind == "artifact":
        read.artifacts.append(content)
    elif kind == "exit":
        read.exit_code = content.exit_code


def _update(values: dict[str, Any], items: Any) -> None:
    for item in items:
        *sections, last = list(item.nested_key) or [item.key]
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = json.loads(item.value_json)


def records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    for content in _contents(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        yield record


def _contents(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:  # too little for another record's header
            position += left
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in {WHOLE, LAST}:
            yield parts
            parts = b""
