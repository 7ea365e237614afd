"""The modified equation as a Python module: torch code that `torchsde.sdeint` takes as it is.

The module imports torch and nothing else. Every symbol that is not a state variable, the small parameter first,
becomes an argument of its class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
from sympy import Expr, ImmutableMatrix, Symbol
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.core.function import AppliedUndef
from torch import nn

from smesolve.errors import SmesolveError, shown
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.symbol_names import python_names
from smesolve.symbolic.symbol_roles import check_one_symbol_per_name
from smesolve.symbolic.torch_printer import check_functions, printed

__all__ = ["python_module", "torch_equation"]

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
    """Return the text of the module.

    Raises:
        SmesolveError: if the equation contains undefined functions, functions without torch code of the same meaning,
            or symbols with the same name in Python.
    """
    diffusion = sympy.sqrt(iteration.small) * diffusion
    entries = [*drift, *diffusion]
    undefined = sorted({str(call.func) for entry in entries for call in entry.atoms(AppliedUndef)})
    if undefined:
        raise SmesolveError(
            f"the equation contains undefined functions ({', '.join(undefined)}), which have no values: "
            "derive it with a concrete activation."
        )
    constants = _constants(iteration, entries)
    # In real symbols sympy simplifies sqrt(a^2) to |a|.
    names: dict[Expr, Expr] = {
        symbol: Symbol(name, real=True, positive=symbol.is_positive)
        for symbol, name in python_names((*iteration.state, *constants)).items()
    }
    # Integrals without symbols become numbers before cse takes sub-expressions out of them.
    integrals = {part for entry in entries for part in entry.atoms(ExprWithLimits) if part.is_number}
    names |= {part: part.evalf(20) for part in integrals}
    for entry in entries:
        check_functions(entry.xreplace(names))
    arguments = ", ".join(names[symbol].name for symbol in constants)

    def body(part: Sequence[Expr]) -> str:
        shared, outputs = sympy.cse([entry.xreplace(names) for entry in part], sympy.numbered_symbols("_c"))
        state = ", ".join(names[symbol].name for symbol in iteration.state)
        spread = ", ".join(f"_zero + {printed(output, '_zero')}" for output in outputs)
        lines = [
            f"{arguments}, = self._numbers.to(_state).unbind()",
            f"{state}, = _state.unbind(-1)",
            "_zero = torch.zeros_like(_state[..., 0])",
            *(f"{name} = {printed(value, '_zero')}" for name, value in shared),
            # Constant entries are spread over the paths.
            f"return torch.stack([{spread}], dim=-1)",
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
    """Return an instance of the generated class with a number for every constant.

    Raises:
        SmesolveError: as `python_module`; if values lacks a constant, or names something else.
    """
    source = python_module(iteration, drift, diffusion)
    constants = _constants(iteration, [*drift, *diffusion])
    numbers = _numbers(iteration, constants, values) | {iteration.small.name: small}
    missing = sorted(symbol.name for symbol in constants if symbol.name not in numbers)
    if missing:
        raise SmesolveError(f"values lacks {', '.join(missing)}: give a number for each constant.")
    namespace: dict[str, Any] = {}
    exec(compile(source, "<modified equation>", "exec"), namespace)
    equation: nn.Module = namespace["ModifiedEquation"](*(float(numbers[symbol.name]) for symbol in constants))
    return equation


def _numbers(
    iteration: Iteration, constants: Sequence[Symbol], values: Mapping[Symbol | str, float]
) -> dict[str, float]:
    """Return the numbers by name; constants that have dropped out of the equation are allowed."""
    check_one_symbol_per_name({**iteration.roles, "values": [key for key in values if isinstance(key, Symbol)]})
    known = {symbol.name for symbol in (*iteration.constants, *iteration.roles["the laws in random"], *constants[1:])}
    numbers: dict[str, float] = {}
    for key, value in values.items():
        name = key.name if isinstance(key, Symbol) else key
        if name not in known:
            raise SmesolveError(
                f"values contains {shown(key)}, which is no constant of the equation: its constants are "
                f"{', '.join(sorted(known)) or 'none'}, and the small parameter is given as lr."
            )
        if name in numbers:
            raise SmesolveError(f"values contains {name} twice, as a symbol and by its name: give one number for it.")
        numbers[name] = value
    return numbers


def _constants(iteration: Iteration, entries: Sequence[Expr]) -> list[Symbol]:
    """Return the arguments of the class: the small parameter, then all other symbols outside of the state, by name."""
    symbols = set().union(*(entry.free_symbols for entry in entries)) - {*iteration.state, iteration.small}
    return [iteration.small, *sorted(symbols, key=str)]
