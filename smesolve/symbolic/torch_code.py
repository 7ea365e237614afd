"""The modified equation as a Python module: torch code that `torchsde.sdeint` takes as it is.

The module imports torch and nothing else. Every symbol that is not a state variable, the small parameter first,
becomes an argument of its class.
"""

from __future__ import annotations

import keyword
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch
from sympy import Expr, ImmutableMatrix, Symbol
from sympy.core.function import AppliedUndef
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.pycode import AbstractPythonCodePrinter
from torch import nn

from smesolve.symbolic.iteration import Iteration

__all__ = ["printed", "python_module", "torch_equation"]

TEMPLATE = '''"""Stochastic modified equation, by smesolve: dTheta = f dt + g dW, Ito, {columns} Brownian motions."""

import torch


class ModifiedEquation(torch.nn.Module):
    """For torchsde.sdeint: f (B, D) and g (B, D, M) at a state (B, D), one step of the iteration takes time {small}.

    State, in this order: {state}.
    """

    noise_type = "general"
    sde_type = "ito"

    def __init__(self, {arguments}):
        super().__init__()
        if not {small} > 0:
            raise ValueError(f"{small} must be positive, got {{{small}}}: it is the small parameter of the iteration.")
        self.register_buffer("_numbers", torch.tensor([{arguments}], dtype=torch.float64))

    def f(self, _t, _state):
        """Drift (B, D)."""
{drift}

    def g(self, _t, _state):
        """Diffusion factor (B, D, M)."""
{diffusion}.unflatten(-1, ({rows}, {columns}))
'''


def python_module(iteration: Iteration, drift: ImmutableMatrix, diffusion: ImmutableMatrix) -> str:
    """The module's text.

    Raises:
        ValueError: undefined functions, which have no values, functions that torch does not have, and symbols whose
            names are the same as Python has them.
    """
    diffusion = sympy.sqrt(iteration.small) * diffusion
    entries = [*drift, *diffusion]
    undefined = sorted({str(call.func) for entry in entries for call in entry.atoms(AppliedUndef)})
    if undefined:
        raise ValueError(
            f"the equation contains undefined functions ({', '.join(undefined)}), which have no values: "
            "derive it with a concrete activation."
        )
    constants = _constants(iteration, entries)
    names = {symbol: Symbol(_identifier(symbol)) for symbol in (*iteration.state, *constants)}
    for name, count in Counter(names.values()).items():
        if count > 1:
            same = ", ".join(symbol.name for symbol in names if names[symbol] == name)
            raise ValueError(f"{same} would all be called {name} in Python: give them names that differ in letters.")
    arguments = ", ".join(names[symbol].name for symbol in constants)

    def body(part: Sequence[Expr]) -> str:
        shared, outputs = sympy.cse([entry.xreplace(names) for entry in part], sympy.numbered_symbols("_c"))
        state = ", ".join(names[symbol].name for symbol in iteration.state)
        lines = [
            f"{arguments}, = self._numbers.to(_state).unbind()",
            f"{state}, = _state.unbind(-1)",
            *(f"{name} = {printed(value)}" for name, value in shared),
            # Constant entries are spread over the paths.
            "_zero = torch.zeros_like(_state[..., 0])",
            f"return torch.stack([{', '.join(f'_zero + {printed(output)}' for output in outputs)}], dim=-1)",
        ]
        return "\n".join(f"        {line}" for line in lines)

    return TEMPLATE.format(
        small=names[iteration.small].name,
        state=", ".join(names[symbol].name for symbol in iteration.state),
        arguments=arguments,
        drift=body(list(drift)),
        diffusion=body(list(diffusion)),
        rows=diffusion.rows,
        columns=diffusion.cols,
    )


def torch_equation(
    iteration: Iteration,
    drift: ImmutableMatrix,
    diffusion: ImmutableMatrix,
    values: Mapping[Symbol | str, float],
    small: float,
) -> nn.Module:
    """The generated class with a number for every constant.

    Raises:
        ValueError: as `python_module`, and where values lacks a constant or the small parameter is not positive.
    """
    source = python_module(iteration, drift, diffusion)
    numbers = {str(name): value for name, value in values.items()} | {iteration.small.name: small}
    constants = _constants(iteration, [*drift, *diffusion])
    missing = sorted(symbol.name for symbol in constants if symbol.name not in numbers)
    if missing:
        raise ValueError(f"values lacks {', '.join(missing)}: give a number for each constant.")
    namespace: dict[str, Any] = {}
    exec(compile(source, "<modified equation>", "exec"), namespace)
    return namespace["ModifiedEquation"](*(float(numbers[symbol.name]) for symbol in constants))


def _constants(iteration: Iteration, entries: Sequence[Expr]) -> list[Symbol]:
    """The arguments of the class: the small parameter, then every other symbol that is not of the state, by name."""
    symbols = set().union(*(entry.free_symbols for entry in entries)) - {*iteration.state, iteration.small}
    return [iteration.small, *sorted(symbols, key=str)]


def _identifier(symbol: Symbol) -> str:
    name = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in symbol.name).lstrip("_") or "s"
    reserved = keyword.iskeyword(name) or name in ("self", "torch", "super") or not name.isidentifier()
    return f"s_{name}" if reserved else name


class _TorchPrinter(AbstractPythonCodePrinter):
    def _print_Pow(self, expr: Expr, rational: bool = False) -> str:
        power = PRECEDENCE["Pow"]
        return f"{self.parenthesize(expr.base, power, strict=True)}**{self.parenthesize(expr.exp, power, strict=True)}"

    def _print_Function(self, expr: Expr) -> str:
        name = expr.func.__name__.lower()
        if not hasattr(torch, name):
            raise ValueError(
                f"the equation contains {expr.func}, which torch does not have: use an activation made of "
                "exp, log, tanh, sin, cos, erf and powers."
            )
        return f"torch.{name}({', '.join(map(self._print, expr.args))})"


def printed(expression: Expr) -> str:
    """An expression as torch code."""
    return _TorchPrinter({"fully_qualified_modules": False}).doprint(expression)
