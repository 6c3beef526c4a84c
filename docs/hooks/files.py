"""Pages made of files outside ``docs/``, and links that work in the repository and on the site alike.

A link in ``docs/`` names its target where it lies in the repository. Where that is outside ``docs/``, the site gets a
page of it: the Markdown of ``MADE_OF`` as it is, any other file as highlighted text, a folder file by file. A link to
nothing is left as it is, and MkDocs refuses it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]

#: The site's pages that are files of the repository, by their names in ``docs/``.
MADE_OF = {
    "index.md": "README.md",
    "benchmarks.md": "benchmarks/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}

LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".json": "json", ".txt": "text"}
# Code in fences and between backticks is passed over; what is left and looks like a link is one.
_LINK = re.compile(
    r"^(?P<fence>```+).*?^(?P=fence)\s*$|`[^`\n]+`(?!\()|\]\((?P<target>[^)\s]+)\)", re.DOTALL | re.MULTILINE
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file of the repository that the site shows or links to.

    Args:
        files: The files of the site until now.
        config: The site's settings.
    """
    for uri, origin in MADE_OF.items():
        files.append(File.generated(config, uri, content=(ROOT / origin).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        for target in targets(page.content_string):
            linked = in_repository(page.src_uri, target)
            uri = shown_at(linked)
            if (ROOT / linked).exists() and files.get_file_from_path(uri) is None:
                files.append(_shown(linked, uri, config))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 -- MkDocs's
    """Point the links of a page to the site's pages of what they name.

    Args:
        markdown: The page's text.
        page: The page.
        config: The site's settings.
        files: The files of the site.
    """
    here = page.file.src_uri

    def repointed(target: str) -> str:
        path, mark, anchor = target.partition("#")
        uri = shown_at(in_repository(here, path))
        known = bool(path) and files.get_file_from_path(uri) is not None
        return posixpath.relpath(uri, posixpath.dirname(here) or ".") + mark + anchor if known else target

    return relinked(markdown, repointed)


def targets(markdown: str) -> list[str]:
    """Return the relative paths that a text links to, without their anchors.

    Args:
        markdown: The text.

    Example:
        >>> targets("[a](../x.py#L1), [b](https://example.org), [c](#here), `[d](y.md)`")
        ['../x.py']
    """
    found = (match["target"] or "" for match in _LINK.finditer(markdown))
    return [path for path, _, _ in (target.partition("#") for target in found if not _outside(target)) if path]


def relinked(markdown: str, change: Callable[[str], str]) -> str:
    """Return a text with its relative links changed.

    Args:
        markdown: The text.
        change: Gives the new target for a target.

    Example:
        >>> relinked("[a](x.py) `[d](y.md)`", str.upper)
        '[a](X.PY) `[d](y.md)`'
    """

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        return match[0] if target is None or _outside(target) else f"]({change(target)})"

    return _LINK.sub(link, markdown)


def in_repository(page: str, target: str) -> str:
    """Return the path, from the root of the repository, of what a page links to.

    Args:
        page: The page's path on the site.
        target: The relative path that it links to.

    Example:
        >>> in_repository("notebooks/1.md", "../../CONTRIBUTING.md"), in_repository("benchmarks.md", "soak.py")
        ('CONTRIBUTING.md', 'benchmarks/soak.py')
    """
    origin = MADE_OF.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def shown_at(path: str) -> str:
    """Return the path, from ``docs/``, of the site's page of a file of the repository.

    Args:
        path: The file's path from the root of the repository.

    Example:
        >>> shown_at("docs/batchnorm.md"), shown_at("CHANGELOG.md"), shown_at("tests/test_ema.py")
        ('batchnorm.md', 'changelog.md', 'source/tests/test_ema.py.md')
    """
    made = {origin: page for page, origin in MADE_OF.items()}
    if path in made or path.startswith("docs/"):
        return made.get(path, path.removeprefix("docs/"))
    return f"source/{path}" if path.endswith(".ipynb") else f"source/{path}.md"


def _outside(target: str) -> bool:
    return target.startswith("#") or bool(re.match(r"[a-z]+:", target))


def _shown(path: str, uri: str, config: MkDocsConfig) -> File:
    """Make a page that shows a file or the files of a folder; a notebook is there to be downloaded."""
    origin = ROOT / path
    if not uri.endswith(".md"):
        return File.generated(config, uri, abs_src_path=str(origin))
    parts = sorted(part for part in origin.rglob("*.*") if part.suffix in LANGUAGES) if origin.is_dir() else [origin]
    body = "\n".join(_fenced(part, headed=origin.is_dir()) for part in parts)
    text = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n{body}"
    return File.generated(config, uri, content=text, inclusion=InclusionLevel.NOT_IN_NAV)


def _fenced(path: Path, *, headed: bool) -> str:
    head = f"## {path.relative_to(ROOT).as_posix()}\n\n" if headed else ""
    text = path.read_text(encoding="utf-8").rstrip()
    return f"{head}`````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n`````\n"
