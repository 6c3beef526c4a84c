"""``python -m layermatch.convert input=FILE root=DIR``: make a manifest of what another tool exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from layermatch.cli import plain, run_app
from layermatch.components import check_keys
from layermatch.console import Reporter
from layermatch.data.exports import Export, read_export
from layermatch.data.manifest import class_names, is_parquet, write_manifest
from layermatch.errors import UserError
from layermatch.paths import expand, is_folder

__all__ = ["convert", "main"]

#: The keys of conf/convert.yaml.
_KEYS = ("input", "root", "output", "format", "field")


def convert(settings: Mapping[str, Any]) -> Export:
    """Read an export, and write the manifest.

    Args:
        settings: The composed configuration of ``conf/convert.yaml``.

    Raises:
        UserError: A setting is not legal, the export cannot be read, or the manifest cannot be written.
    """
    check_keys("", settings, _KEYS)
    for name in _KEYS:
        if name not in settings:
            raise UserError(f"{name} is missing: give {name}=VALUE; ~{name} takes it away")
    path = expand("input", settings["input"], "an export")
    output = _output(settings["output"])
    root = path if path.is_dir() else path.parent
    if settings["root"] is not None:
        root = expand("root", settings["root"], "a folder")
    if not is_folder(root):
        raise UserError(f"root={root} is not a folder: give the folder that the images are below")
    field = settings["field"]
    export = read_export(path, root=root, kind=settings["format"], field=None if field is None else str(field))
    try:
        write_manifest(output, export.rows)
    except OSError as error:
        raise UserError(f"output: cannot write {output}: {error.strerror or error}") from error
    return export


def _output(given: object) -> Path:
    output = expand("output", given, "the manifest, such as labels.csv")
    if output.suffix.lower() != ".csv" and not is_parquet(output):
        raise UserError(f"output={output} is no manifest: give a name that ends with .csv or .parquet")
    if output.exists():
        raise UserError(f"output={output} exists: give another name")
    if not is_folder(output.parent):
        raise UserError(f"output={output}: there is no folder {output.parent}: give a file in a folder that exists")
    return output


def _convert(config: DictConfig) -> None:
    settings = plain(config)
    export = convert(settings)
    labelled = sum(bool(row.label) for row in export.rows)
    reporter = Reporter()
    reporter.show(
        f"{len(export.rows):,} images: {labelled:,} with a label, of {len(class_names(export.rows))} classes; "
        f"{len(export.rows) - labelled:,} without"
    )
    if export.disagreements:
        reporter.warn(f"{export.disagreements:,} images have no label, as annotators gave them different ones")
    reporter.show(
        f"written to {settings['output']}: python -m layermatch.check data=manifest data.manifest=... looks at it"
    )


def main() -> None:
    """Start the command."""
    run_app(_convert, "convert")


if __name__ == "__main__":
    main()
