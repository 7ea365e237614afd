"""Names of symbols in Python and in LaTeX."""

from __future__ import annotations

import builtins
import keyword
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import sympy
from sympy import Symbol

from smesolve.errors import SmesolveError

__all__ = ["latex_names", "python_names"]

TAKEN = {"self", "torch", *keyword.kwlist, *dir(builtins)}
"""Names that the generated code uses itself, or that Python reserves."""


def python_names(symbols: Iterable[Symbol]) -> dict[Symbol, str]:
    """Return an identifier for each symbol: its name, with underscores in place of forbidden characters.

    Identifiers start with a letter, so that names with a leading underscore are free for the surrounding code.

    Raises:
        SmesolveError: if two symbols have the same identifier.
    """
    names = {symbol: _identifier(symbol.name) for symbol in symbols}
    for name, count in Counter(names.values()).items():
        if count > 1:
            same = ", ".join(symbol.name for symbol in names if names[symbol] == name)
            raise SmesolveError(f"{same} would all be called {name} in Python: give them names that differ in letters.")
    return names


def _identifier(name: str) -> str:
    # Python reads identifiers in the normal form NFKC.
    name = unicodedata.normalize("NFKC", name)
    name = "".join(letter if f"a{letter}".isidentifier() else "_" for letter in name).lstrip("_")
    return name if name.isidentifier() and name not in TAKEN else f"s_{name}"


def latex_names(symbols: Iterable[Symbol]) -> dict[Symbol, str]:
    """Return LaTeX for each symbol: sympy's, or the name in typewriter letters where it is not a mathematical name.

    Symbols that sympy writes alike, such as x1 and x_1, get typewriter letters as well.
    """
    plain = {symbol: GREEK.sub(_spelled, symbol.name) for symbol in symbols}
    written = {symbol: sympy.latex(Symbol(name)) for symbol, name in plain.items()}
    count = Counter(written.values())
    return {
        symbol: latex if count[latex] == 1 and MATHEMATICAL.fullmatch(plain[symbol]) else _typewriter(symbol.name)
        for symbol, latex in written.items()
    }


MATHEMATICAL = re.compile(r"[A-Za-z][A-Za-z0-9]*([_^]+[A-Za-z0-9]+)*'*")
GREEK = re.compile(r"(?<![^_^])[\u0391-\u03a9\u03b1-\u03c9](?![^_^'])")
"""A Greek letter that is a whole name, index or exponent."""


def _spelled(letter: re.Match[str]) -> str:
    _, size, _, name = unicodedata.name(letter[0]).split()[:4]
    return name.capitalize() if size == "CAPITAL" else name.lower()


SPECIAL = {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}


def _typewriter(name: str) -> str:
    escaped = "".join(SPECIAL.get(letter, f"\\{letter}" if letter in "#$%&_{}" else letter) for letter in name)
    return rf"\texttt{{{escaped}}}"
