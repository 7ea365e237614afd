"""Expressions of a configuration, from a string to sympy without evaluating it as Python.

`sympy.sympify` passes its string to Python's `eval`, so a foreign file could run any code. Here every name and number
is replaced by a placeholder before `ast.parse` sees it, so nothing is a keyword, an attribute or a string. The
remaining operators, calls and brackets are translated if they are in a closed list. A name means the symbol that the
configuration declares; `FUNCTIONS` and `CONSTANTS` apply to names that it does not declare. Decimals are exact rational
numbers: 0.1 is 1/10.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

import sympy
from sympy import Expr, Integer, Rational, Symbol
from sympy.logic.boolalg import Boolean

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, shown

__all__ = ["CONSTANTS", "FUNCTIONS", "is_name", "read_expression"]

MOST_LETTERS, MOST_TOKENS, MOST_BRACKETS = 10_000, 2_000, 50
"""Bounds on an expression, far above the size for which a derivation is feasible."""

MOST_DIGITS = 400
"""Digits of a number, as it is written or as a power of numbers comes out."""

MOST_DEGREE = 100
"""Largest degree of an expression in its symbols, and largest numerator and denominator of an exponent."""

NAME = r"[^\W\d]\w*"
NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
TOKEN = re.compile(rf"(?P<number>{NUMBER})|(?P<name>{NAME})|(?P<operator>\*\*|[<>]=|[-+*/^(),<>])")

FUNCTIONS: Mapping[str, Callable[[Expr], Expr]] = {
    "exp": sympy.exp,
    "log": sympy.log,
    "sqrt": sympy.sqrt,
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "asin": sympy.asin,
    "acos": sympy.acos,
    "atan": sympy.atan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
    "asinh": sympy.asinh,
    "acosh": sympy.acosh,
    "atanh": sympy.atanh,
    "erf": sympy.erf,
    "abs": sympy.Abs,
    "Abs": sympy.Abs,
    "sign": sympy.sign,
}
"""Functions of one argument by name, all available in torch."""

EXTREMA: Mapping[str, Callable[..., Expr]] = {"max": sympy.Max, "Max": sympy.Max, "min": sympy.Min, "Min": sympy.Min}
"""Functions of any number of arguments by name."""

PIECEWISE = "Piecewise"

CONSTANTS: Mapping[str, Expr] = {"pi": sympy.pi}
"""Numbers by name."""

RELATIONS: Mapping[type[ast.cmpop], Callable[[Expr, Expr], Boolean]] = {
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
}


def is_name(text: str) -> bool:
    """Return whether a string can be the name of a symbol: letters, digits and underscores, no digit first."""
    return re.fullmatch(NAME, text) is not None


def read_expression(key: str, text: str, names: Mapping[str, Symbol]) -> Expr:
    """Return the expression in a string; undeclared names become symbols.

    Args:
        key: key of the configuration, for messages.
        text: numbers, names, + - * / ** (or ^), brackets, calls of `FUNCTIONS` and `EXTREMA`, and
            Piecewise((value, condition), ..., (value, True)).
        names: the symbols that the configuration declares.

    Raises:
        SmesolveError: the string is not such an expression, is too large, or contains numbers that are not real and
            finite.
    """
    reader = _Reader(key, text, names)
    try:
        return reader.term(reader.tree()).value
    except RecursionError:
        reader.refuse("it is nested too deeply", "write it with fewer signs and powers inside each other")


class _Term(NamedTuple):
    """An expression and a bound of its degree in its symbols."""

    value: Expr
    degree: float


class _Reader:
    """One text on its way to an expression."""

    def __init__(self, key: str, text: str, names: Mapping[str, Symbol]) -> None:
        self.key, self.text, self.names = key, text, names
        self.tokens: list[re.Match[str]] = []

    def refuse(self, reason: str, remedy: str) -> NoReturn:
        """Raise an error with the reason and the remedy."""
        raise SmesolveError(f"{self.key} {shown(self.text)} cannot be read as an expression: {reason}; {remedy}.")

    # --- text to tree ------------------------------------------------------------------------------------------------

    def tree(self) -> ast.expr:
        """Return the syntax tree, in which the name _k represents token k."""
        self._read_tokens()
        depth, parts = 0, []
        for position, token in enumerate(self.tokens):
            text = token.group()
            depth += (text == "(") - (text == ")")
            if depth > MOST_BRACKETS:
                self.refuse(f"more than {MOST_BRACKETS} brackets are open at once", "write it with fewer brackets")
            operator = "**" if text == "^" else text
            parts.append(operator if token["operator"] else f"_{position}")
        try:
            return ast.parse(" ".join(parts), mode="eval").body
        except (SyntaxError, MemoryError):
            self.refuse(
                "an operator, an operand or a bracket is missing or one too many",
                "correct it, for example (f - y)**2/2 with * for every product",
            )

    def _read_tokens(self) -> None:
        if len(self.text) > MOST_LETTERS:
            self.refuse(f"it has {len(self.text)} letters, more than {MOST_LETTERS}", "write a shorter one")
        position = 0
        while self.text[position:].strip():
            position += len(self.text[position:]) - len(self.text[position:].lstrip())
            token = TOKEN.match(self.text, position)
            if token is None:
                self.refuse(
                    f"{self.text[position]!r} is no part of expressions",
                    "use numbers, names, + - * / ** and brackets",
                )
            self.tokens.append(token)
            position = token.end()
        if len(self.tokens) > MOST_TOKENS:
            self.refuse(f"it has {len(self.tokens)} symbols, more than {MOST_TOKENS}", "write a shorter one")

    def _token(self, node: ast.expr) -> re.Match[str] | None:
        """Return the token of a node, or None."""
        return self.tokens[int(node.id[1:])] if isinstance(node, ast.Name) else None

    # --- tree to expression ------------------------------------------------------------------------------------------

    def term(self, node: ast.expr) -> _Term:
        """Return the expression of a node of the tree."""
        match node:
            case ast.Name():
                return self._atom(node)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub()):
                value, degree = self.term(node.operand)
                return _Term(-value if isinstance(node.op, ast.USub) else value, degree)
            case ast.BinOp():
                return self._operation(node)
            case ast.Call(func=ast.Name(), keywords=[]):
                return self._call(node)
        self.refuse(
            "comparisons, tuples and the like stand in Piecewise only",
            "write Piecewise((value, condition), ..., (value, True))",
        )

    def _atom(self, node: ast.Name) -> _Term:
        token = self.tokens[int(node.id[1:])]
        if token["number"]:
            return _Term(self._number(token["number"]), 0)
        name = token["name"]
        if name not in self.names and name in CONSTANTS:
            return _Term(CONSTANTS[name], 0)
        if name not in self.names and (name in FUNCTIONS or name in EXTREMA or name == PIECEWISE):
            self.refuse(f"the function {name} has no argument", f"write {name}(...), or declare {name} as a symbol")
        return _Term(self.names.get(name, Symbol(name, real=True)), 1)

    def _number(self, text: str) -> Rational:
        """Return a decimal number, exactly."""
        if re.match("0[0-9]", text):
            self.refuse(f"{text} has a leading zero, which some take for octal", "leave the zero out")
        nearby, digits = float(text), re.split("[eE]", text)[0]
        if not digits.strip("0."):
            return Integer(0)
        if len(text) > MOST_DIGITS or math.isinf(nearby) or nearby == 0:
            self.refuse(f"{shown(text)} is too large, too small or too long for a number", "scale it")
        return Rational(text)

    def _operation(self, node: ast.BinOp) -> _Term:
        """Return a chain such as a + b - c, without recursion along a long sum."""
        chain: list[ast.BinOp] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp):
            chain.append(left)
            left = left.left
        result = self.term(left)
        for operation in reversed(chain):
            result = self._combined(operation.op, result, self.term(operation.right))
        return result

    def _combined(self, operator: ast.operator, left: _Term, right: _Term) -> _Term:
        match operator:
            case ast.Add():
                return _Term(left.value + right.value, max(left.degree, right.degree))
            case ast.Sub():
                return _Term(left.value - right.value, max(left.degree, right.degree))
            case ast.Mult():
                return self._bounded(lambda: left.value * right.value, left.degree + right.degree)
            case ast.Div() if right.value.is_zero:
                self.refuse("it divides by zero", "correct the divisor")
            case ast.Div():
                return self._bounded(lambda: left.value / right.value, left.degree + right.degree)
        return self._power(left, right)

    def _power(self, base: _Term, exponent: _Term) -> _Term:
        value = exponent.value
        if not value.is_number:
            return _Term(base.value**value, max(1, base.degree, exponent.degree))
        size = max(abs(value.p), value.q) if value.is_Rational else abs(float(value))
        if size > MOST_DEGREE:
            self.refuse(
                f"{shown(str(value))} is an exponent beyond {MOST_DEGREE}", "take small integers or simple fractions"
            )
        if base.value.is_zero and value.is_negative:
            self.refuse("it divides by zero", "correct the divisor")
        if base.value.is_Rational:
            digits = math.log10(max(abs(base.value.p), base.value.q)) * size
            if digits > MOST_DIGITS:
                self.refuse(f"a power in it has {digits:.0f} digits, more than {MOST_DIGITS}", "take smaller numbers")
        return self._bounded(lambda: base.value**value, base.degree * max(size, 1))

    def _call(self, node: ast.Call) -> _Term:
        token = self._token(node.func)
        name = token["name"] if token else None
        if name is None:
            self.refuse("a number is followed by a bracket", "write * between them")
        if name in self.names:
            self.refuse(f"{name} is a symbol of this configuration, no function", f"write {name}*(...) for a product")
        if name == PIECEWISE:
            return self._piecewise(node.args)
        if name not in FUNCTIONS and name not in EXTREMA:
            self.refuse(f"there is no function {name}", nearest_name(name, [*FUNCTIONS, *EXTREMA, PIECEWISE]))
        if not node.args or (name in FUNCTIONS and len(node.args) != 1):
            self.refuse(f"{name} has {len(node.args)} arguments", f"give {name} one argument")
        arguments = [self.term(argument) for argument in node.args]
        function: Callable[..., Expr] = FUNCTIONS.get(name) or EXTREMA[name]
        degree = max(1, *(argument.degree for argument in arguments))
        return self._bounded(lambda: function(*(argument.value for argument in arguments)), degree)

    def _piecewise(self, pieces: list[ast.expr]) -> _Term:
        """Return Piecewise((value, condition), ..., (value, True))."""
        values, conditions = [], []
        for piece in pieces:
            if not isinstance(piece, ast.Tuple) or len(piece.elts) != 2:
                self.refuse("Piecewise has an argument that is no pair", "write (value, condition)")
            values.append(self.term(piece.elts[0]))
            conditions.append(self._condition(piece.elts[1]))
        if not conditions or conditions[-1] != sympy.true:
            self.refuse("Piecewise does not say what holds otherwise", "let its last pair be (value, True)")
        pairs = [(value.value, condition) for value, condition in zip(values, conditions, strict=True)]
        return self._bounded(lambda: sympy.Piecewise(*pairs), max(1, *(value.degree for value in values)))

    def _condition(self, node: ast.expr) -> Boolean:
        """Return one comparison, or True."""
        token = self._token(node)
        if token and token["name"] == "True" and "True" not in self.names:
            return sympy.true
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in RELATIONS:
            left, right = self.term(node.left), self.term(node.comparators[0])
            return RELATIONS[type(node.ops[0])](left.value, right.value)
        self.refuse("a condition of Piecewise is no comparison", "write one of < <= > >= between two expressions")

    def _bounded(self, made: Callable[[], Expr], degree: float) -> _Term:
        """Return the result of `made`, whose degree must be bounded, and which must be finite if it is a number."""
        if degree > MOST_DEGREE:
            self.refuse(f"its degree is {degree:g}, more than {MOST_DEGREE}", "take lower powers")
        value = made()
        if value.is_number and not _is_float(value):
            self.refuse("a number in it is not real and finite", "correct it")
        return _Term(value, degree)


def _is_float(number: Expr) -> bool:
    """Return whether a number is real and in the range of floats."""
    try:
        return math.isfinite(float(number))
    except (TypeError, OverflowError):
        return False
