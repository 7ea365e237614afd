"""A report as one self-contained HTML file: report.md with its figures, configuration, seed and versions.

The page loads nothing: pictures are data URIs, formulas are MathML, and there are no scripts.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.latex_lines import widest
from smesolve.experiments.shared.markdown import fenced, join, table_of
from smesolve.study.manifest import read_manifest

__all__ = ["html_report"]

PICTURES = {".png": "image/png"}
"""Types of the pictures of a report."""

NUMBER = re.compile(r"[-+]?\d[\d.]*e[-+]\d+")
"""Numbers in which a browser would break the line after the sign of the exponent."""

SHORT = 32
"""Largest number of characters of a cell that stays on one line."""


def html_report(directory: Path) -> str:
    """Return the HTML page for the report.md in a directory with finished results.

    Raises:
        SmesolveError: the report shows a picture that is not a PNG in the same directory.
    """
    source = (directory / "report.md").read_text(encoding="utf-8")
    body = _markdown(directory).render(join(source.rstrip(), _provenance(read_manifest(directory))))
    title = source.splitlines()[0].removeprefix("# ")
    style = files("smesolve.study").joinpath("html_report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )


def _inches(png: bytes) -> float:
    """Return the width (inches) for which a figure was drawn, so that letters have the same size in all figures."""
    from smesolve.figures import DPI  # here, because matplotlib takes long to load

    return int.from_bytes(png[16:20], "big") / DPI


def _provenance(manifest: dict[str, Any]) -> str:
    """Return command, seed, versions and configuration in Markdown, with which the study can be repeated."""
    config = yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True, default_flow_style=None).strip()
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    rows = [
        ["command", manifest["command"]],
        ["seed", "none" if manifest["seed"] is None else manifest["seed"]],
        ["versions", versions],
        ["platform", f"{manifest['platform']}, torch threads: {manifest['threads']}"],
        ["took", f"{manifest['wall_time']:.1f} s"],
    ]
    return join("## How it was made", table_of(["", ""], rows), "## Configuration", fenced(config, "yaml"))


def _markdown(directory: Path) -> MarkdownIt:
    """Return a renderer of CommonMark with tables.

    Pictures become data URIs, `math` fences become MathML, and wide tables and formulas scroll.
    """

    def image(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        path, caption = directory / str(tokens[index].attrs["src"]), html.escape(tokens[index].content)
        if path.parent != directory or path.suffix not in PICTURES or not path.is_file():
            raise SmesolveError(f"report.md shows {path.name!r}, which is not a picture in its directory; use a PNG.")
        data = path.read_bytes()
        picture = (
            f'<img alt="{caption}" style="--inches: {_inches(data):.2f}" '
            f'src="data:{PICTURES[path.suffix]};base64,{base64.b64encode(data).decode("ascii")}">'
        )
        return f'<span class="figure">{picture}<span class="caption">{caption}</span></span>'

    def fence(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        if tokens[index].info != "math":
            return RendererHTML.fence(self, tokens, index, options, env)
        source = tokens[index].content.strip()
        formula = convert(source, display="block").replace("~", "&#xa0;")  # the converter leaves ties in text unchanged
        return f'<div class="wide" style="--points: {widest(source):.0f}">{formula}</div>\n'

    def text(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return NUMBER.sub(r'<span class="number">\g<0></span>', html.escape(tokens[index].content, quote=False))

    def cell(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return '<td class="number">' if len(tokens[index + 1].content) <= SHORT else "<td>"

    def opened(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return '<div class="wide"><table>\n'

    def closed(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        return "</table></div>\n"

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    rules = {"image": image, "fence": fence, "text": text, "td_open": cell, "table_open": opened, "table_close": closed}
    for name, rule in rules.items():
        markdown.add_render_rule(name, rule)
    return markdown
