"""The Markdown of the reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["counted", "join", "picture", "plain", "table_of"]


def counted(number: int, noun: str) -> str:
    """The number with the noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def join(*parts: str) -> str:
    """Paragraphs, those that are empty left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def picture(caption: str, name: str) -> str:
    """The figure `name`.png of the same directory."""
    return f"![{caption}]({name}.png)"


def plain(text: str) -> str:
    """Text in which asterisks are asterisks."""
    return text.replace("*", r"\*")


def table_of(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
