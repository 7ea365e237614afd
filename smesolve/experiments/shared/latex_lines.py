"""Lines of LaTeX mathematics: their widths, and line breaks and abbreviations that make them fit a page."""

from __future__ import annotations

import re

__all__ = ["PAGE_WIDTH", "broken", "shortened", "widest"]

PAGE_WIDTH = 430.0
"""Text width (points) of a usual page."""

GLYPH = 5.5
"""Points of width that a symbol takes on average, in 10pt mathematics."""


def widest(lines: str) -> float:
    """Return the width of the widest line in points, estimated high: fractions and indices are narrower."""
    return max(map(_width, lines.split(r"\\")))


def shortened(environment: str, longest: int) -> str:
    """Return an align* environment in which words replace right sides of more than `longest` characters."""
    begin, *lines, end = environment.splitlines()
    kept = []
    for line in lines:
        left, right = line.removesuffix(r" \\").split("&= ", 1)
        words = rf"\text{{{len(right)}~characters,~see~equation.tex}}"
        kept.append(f"{left}&= {right if len(right) <= longest else words}")
    return "\n".join([begin, " \\\\\n".join(kept), end])


def broken(environment: str) -> str:
    """Return an align environment whose lines are broken before terms of their outermost sum to fit a page."""
    lines = []
    for line in environment.split(" \\\\\n"):
        rows = [""]
        for term in _terms(line):
            begun = rows[-1] and not rows[-1].endswith("&= ")
            if begun and _width(rows[-1] + term) > PAGE_WIDTH:
                rows.append(r"&\quad ")
            rows[-1] += term
        lines += rows
    return " \\\\\n".join(lines)


def _terms(line: str) -> list[str]:
    """Return the line cut before each + and - that stands outside all brackets."""
    terms, depth = [""], 0
    for token in re.findall(r"\\[a-zA-Z]+|.", line, flags=re.DOTALL):
        depth += (token in (r"\left", "{")) - (token in (r"\right", "}"))
        if token in "+-" and depth == 0 and "&=" in "".join(terms):
            terms.append("")
        terms[-1] += token
    return terms


def _width(line: str) -> float:
    """Return the width of a line of LaTeX in points, estimated high: fractions and indices are narrower."""
    invisible = r"\\(?:left|right|frac|mathrm|operatorname)\b|[{}_^\\\s]"
    return GLYPH * len(re.sub(r"\\[a-zA-Z]+", "x", re.sub(invisible, "", line)))
