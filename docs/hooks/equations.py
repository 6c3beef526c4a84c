"""Equations as MathML, which browsers draw by themselves: a page needs neither a script nor a font for them."""

from __future__ import annotations

import html
import logging
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_EQUATION = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
# What the converter does not know stays in its output as it was written.
_UNKNOWN = re.compile(r">(\\[A-Za-z]+|&)<")

logger = logging.getLogger("mkdocs.hooks.equations")


def on_page_content(output: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 -- MkDocs's
    """Draw the equations of a page.

    Args:
        output: The page as HTML.
        page: The page.
        config: The site's settings.
        files: The files of the site.
    """

    def drawn(match: re.Match[str]) -> str:
        equation = mathml(html.unescape(match["tex"]), block=match["tag"] == "div")
        for command in _UNKNOWN.findall(equation):
            logger.warning("%s: the equation %s has an unknown %s", page.file.src_uri, match["tex"], command)
        return equation

    return _EQUATION.sub(drawn, output)


def mathml(tex: str, *, block: bool) -> str:
    r"""Return an equation as MathML.

    Args:
        tex: The equation as LaTeX has it.
        block: Whether it stands on a line of its own.

    Example:
        >>> mathml(r"\arg x", block=False)  # doctest: +ELLIPSIS
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline">...arg...x...</math>'
    """
    tex = re.sub(r"\\arg\b", r"\\operatorname{arg}", tex.strip())
    if "\\begin" not in tex and ("\\\\" in tex or "&" in tex):
        tex = rf"\begin{{split}}{tex}\end{{split}}"
    return str(convert(tex, display="block" if block else "inline"))
