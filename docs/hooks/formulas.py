"""Formulas of the site as MathML, which browsers show without a script."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\((.*?)\\\)|\\\[(.*?)\\\])</\1>', re.DOTALL)
"""A formula as the extension pymdownx.arithmatex marks it, in a line or as a block."""


def on_page_content(page_html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put MathML in the place of LaTeX."""
    return FORMULA.sub(_mathml, page_html)


def _mathml(match: re.Match[str]) -> str:
    tag, inline, block = match.groups()
    formula = html.unescape(inline or block).strip()
    return f'<{tag} class="formula">{convert(formula, display="inline" if inline else "block")}</{tag}>'
