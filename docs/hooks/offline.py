"""The site loads nothing from elsewhere: no script, style, font or picture."""

from __future__ import annotations

import logging
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

_LOADED = re.compile(
    r"<(?:script|img|iframe|link(?![^>]*canonical))\b[^>]*\b(?:src|href)=[\"']?(?P<url>(?:https?:)?//[^\"'\s>]+)"
)

logger = logging.getLogger("mkdocs.hooks.offline")


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001 -- MkDocs gives it
    """Warn of what a page would load from elsewhere, which fails the build.

    Args:
        output: The page as HTML.
        page: The page.
        config: The site's settings.
    """
    for url in loaded_from_elsewhere(output):
        logger.warning("%s loads %s: a page must do without the network", page.file.src_uri, url)
    return output


def loaded_from_elsewhere(output: str) -> list[str]:
    """Return the addresses of other hosts that a page loads something from; links that a reader may follow are none.

    Args:
        output: The page as HTML.

    Example:
        >>> loaded_from_elsewhere('<a href="https://a.org">, <script defer src="https://b.org/x.js"><img src="x.png">')
        ['https://b.org/x.js']
    """
    return [match["url"] for match in _LOADED.finditer(output)]
