"""The Markdown of the reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["join", "table_of"]


def join(*parts: str) -> str:
    """Paragraphs, those that are empty left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def table_of(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
