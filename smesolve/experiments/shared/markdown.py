"""The Markdown of the reports; names that users chose are shown as they are, never as markup or HTML.

Reports are joined from paragraphs in Python, without a template language: nearly every sentence holds a number with its
format and its interval, or is there only under a condition, so that a template would only repeat the code around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["conclusion_of", "counted", "fenced", "join", "picture", "plain", "printable", "table_of"]

MARKUP = re.compile(r"[\\`*~$|]|!(?=\[)|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")
"""Characters that a backslash turns into themselves, where they would be markup: underscores inside words are none."""

HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=#|\w+;)")
"""Where a tag or an entity begins."""


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
    """Return the conclusion of a report, without the figures behind it; "" where there is none."""
    _, _, after = report.partition("## Conclusion\n")
    return after.partition("\n## ")[0].partition("\n![")[0].strip()


def fenced(text: str, language: str) -> str:
    """Return a block that is shown as it is, whatever is in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def plain(text: object) -> str:
    """Return text on one line that is shown as it is."""
    escaped = MARKUP.sub(r"\\\g<0>", printable(text))
    return HTML.sub(lambda found: {"<": "&lt;", "&": "&amp;"}[found[0]], escaped)


def printable(text: object) -> str:
    """Return text on one line, with control characters and undecodable bytes as their escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def table_of(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table whose cells are shown as they are."""
    lines = [[plain(cell) for cell in line] for line in (headers, *rows)]
    lines.insert(1, ["---"] * len(headers))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
