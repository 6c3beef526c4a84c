"""Names of classes, which are names of folders: one name may be written in several ways in Unicode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from layermatch.data.sources.files import is_no_class, list_entries
from layermatch.data.wording import composed, printable
from layermatch.errors import UserError

__all__ = ["class_folders", "forms_text"]


def class_folders(folder: Path) -> dict[str, str]:
    """Return the class folders of a part.

    Names that start with a dot and folders that systems make for themselves are none. A class has the name of its
    folder, :func:`~layermatch.data.wording.composed`, so that a copy of the data on another system has the same
    classes.

    Args:
        folder: The folder of the part.

    Returns:
        The name of each class's folder by the name of the class, sorted.

    Raises:
        UserError: The folder cannot be read, or two of its folders have one name but for the Unicode form.

    Example:
        >>> list(class_folders(Path(__file__).parent.parent))[-1]
        'sources'
    """
    names = [entry.name for entry in list_entries(folder) if entry.is_dir() and not is_no_class(entry.name)]
    found: dict[str, str] = {}
    for name in names:
        other = found.setdefault(composed(name), name)
        if other != name:
            raise UserError(
                f"{folder} has two folders with the name {printable(composed(name))}, which differ in Unicode form "
                f"alone ({other!a} and {name!a}): put their images into one, or give one another name"
            )
    return dict(sorted(found.items()))


def forms_text(folders: Mapping[str, Mapping[str, str]]) -> str:
    r"""Return which classes are written in different ways in different parts.

    Args:
        folders: What :func:`class_folders` gives, for each part.

    Returns:
        A line; empty where there are none.

    Example:
        >>> forms_text({"train": {"caf\xe9": "caf\xe9"}, "test": {"caf\xe9": "cafe\u0301"}})
        'café is one class, though train/ and test/ write it in different Unicode forms (composed, decomposed)'
    """
    written: dict[str, set[str]] = {}
    for classes in folders.values():
        for name, folder in classes.items():
            written.setdefault(name, set()).add(folder)
    names = [name for name, forms in written.items() if len(forms) > 1]
    if not names:
        return ""
    what, it = (
        (f"{names[0]} is one class", "it") if len(names) == 1 else (f"{', '.join(names)} are one class each", "them")
    )
    parts = " and ".join(f"{part}/" for part in folders)
    return f"{what}, though {parts} write {it} in different Unicode forms (composed, decomposed)"
