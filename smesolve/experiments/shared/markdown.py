"""The Markdown of the reports; names chosen by users are shown literally, never as markup or HTML.

Reports are joined from paragraphs in Python, without a template language: nearly every sentence contains a number with
a format and an interval, or depends on a condition, so a template would only repeat the code around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["conclusion_of", "counted", "fenced", "join", "picture", "plain", "printable", "table_of"]

MARKUP = re.compile(r"[\\`*~$|]|!(?=\[)|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
"""Characters that would be markup and are escaped by a backslash; underscores inside words are not markup."""

HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=#|\w+;)")
"""Beginnings of tags and entities."""


def counted(number: int, noun: str) -> str:
    """Return the number with the noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def join(*parts: str) -> str:
    """Return paragraphs; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def picture(caption: str, name: str) -> str:
    """Return the figure `name`.png of the same directory."""
    return f"![{caption}]({name}.png)"


def conclusion_of(report: str) -> str:
    """Return the conclusion of a report, without the figures after it; "" if there is none."""
    _, _, after = report.partition("## Conclusion\n")
    return after.partition("\n## ")[0].partition("\n![")[0].strip()


def fenced(text: str, language: str) -> str:
    """Return a code block, with a fence that its content cannot close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def plain(text: object) -> str:
    """Return text on one line, escaped so that it is shown literally."""
    escaped = MARKUP.sub(r"\\\g<0>", printable(text))
    return HTML.sub(lambda found: {"<": "&lt;", "&": "&amp;"}[found[0]], escaped)


def printable(text: object) -> str:
    """Return text on one line, with control characters and undecodable bytes as their escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def table_of(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose cells are shown literally."""
    lines = [[plain(cell) for cell in line] for line in (headers, *rows)]
    lines.insert(1, ["---"] * len(headers))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
