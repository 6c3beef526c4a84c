"""Paths as the user wrote them: text whatever it looks like, with ``~`` for the home folder."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layermatch.errors import UserError

__all__ = ["PATHS", "absolute_paths", "argument_path", "check_path", "expand", "is_file", "is_folder"]

#: Settings that are paths, and what each is the path of.
PATHS = {
    "run_dir": "a directory",
    "ckpt_path": "a checkpoint file",
    "data.root": "a folder",
    "data.split": "a split.json",
    "data.cache_dir": "a folder",
    "data.class_list": "a file",
    "data.manifest": "a CSV or Parquet file",
    "data.index_dir": "a folder",
    "model.weights": "a file of weights",
    "input": "a folder, a manifest, a list of files or an image",
    "root": "a folder",
    "output": "a .csv or .parquet file",
    "features": "a .npy file",
    "gallery": "an .html file",
    "copy_to": "a folder",
    "link_to": "a folder",
    "algorithm.teacher": "a run directory",
}

#: Settings that are lists of paths.
LISTS = ("algorithm.teachers",)

#: Values of ``ckpt_path`` that name no file.
WORDS = ("last", "auto")


def check_path(name: str, value: object, expected: str) -> None:
    """Refuse a setting that is not a path. Whether anything is there is another question.

    Args:
        name: The setting as the user writes it, for example ``data.root``.
        value: What was given.
        expected: What the path should be of, for the message.

    Raises:
        UserError: ``value`` is not a string or a path, or is empty.

    Example:
        >>> check_path("data.root", "data", "a folder")
        >>> check_path("data.root", 2024, "a folder")
        Traceback (most recent call last):
        layermatch.errors.UserError: data.root=2024 is not legal: give the path of a folder, quoted: '2024'
    """
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        shown = "null" if value is None else repr(value)
        # Of a YAML file; the command line gives text.
        hint = f", quoted: '{value}'" if isinstance(value, int | float) else ""
        raise UserError(f"{name}={shown} is not legal: give the path of {expected}{hint}")


def expand(name: str, value: object, expected: str) -> Path:
    """Return a path with the home folder in the place of a leading ``~``.

    Args:
        name: The setting as the user writes it.
        value: What was given.
        expected: What the path should be of, for the message.

    Raises:
        UserError: ``value`` is no path, or there is no such home folder.

    Example:
        >>> expand("data.root", "pictures (1)", "a folder")
        PosixPath('pictures (1)')
    """
    check_path(name, value, expected)
    text = str(value)
    full = os.path.expanduser(text)  # noqa: PTH111 -- Path would make ~x of ./~x, which is no home folder
    if full.startswith("~"):
        user = full.split("/", maxsplit=1)[0]
        whose = f"user {user[1:]!r} is unknown" if user[1:] else "this user has no home folder, and HOME is not set"
        raise UserError(f"{name}={text}: {whose}: write the path in full, or {name}=./{text} for a folder of that name")
    path = Path(full)
    return Path.cwd() / path if str(path).startswith("~") else path  # ./~x stays what it is, however often it is asked


def argument_path(value: str) -> Path:
    """Return a path with ``~`` expanded, for argparse; the shell does so only where the word begins with it.

    Args:
        value: What was given.

    Raises:
        argparse.ArgumentTypeError: There is no such home folder.
    """
    try:
        return expand("the path", value, "a file or folder") if value else Path()
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; a name that is too long, or one that may not be looked at, is none."""
    return os.path.isdir(path)  # noqa: PTH112 -- Path's own raises at both


def is_file(path: Path) -> bool:
    """Return whether there is a file; a name that is too long, or one that may not be looked at, is none."""
    return os.path.isfile(path)  # noqa: PTH113 -- Path's own raises at both


def absolute_paths(settings: Mapping[str, Any], *, base: Path) -> dict[str, Any]:
    """Return the settings whose relative paths are relative to ``base``, whatever the working directory is now.

    Args:
        settings: The composed configuration.
        base: The folder in which the command was given.

    Returns:
        A copy.
    """
    moved = {key: dict(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for name in PATHS:
        section, _, key = name.rpartition(".")
        values = moved.get(section, {}) if section else moved
        value = values.get(key)
        if not isinstance(value, str) or not value or value.startswith("~") or (key == "ckpt_path" and value in WORDS):
            continue
        path = base / value
        # A list of classes may be relative to the data set instead, and weights may be a word.
        values[key] = value if key in {"class_list", "weights"} and not is_file(path) else str(path)
    for name in LISTS:
        section, _, key = name.rpartition(".")
        values = moved.get(section, {})
        if isinstance(values.get(key), list):
            values[key] = [
                str(base / value) if isinstance(value, str) and value[:1] not in {"", "~"} else value
                for value in values[key]
            ]
    return moved
