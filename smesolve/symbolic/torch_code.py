"""The modified equation as a Python module: an SDE that `torchsde.sdeint` accepts, or a drift with jumps.

The module imports only torch. The arguments of its class are the small parameter and all other symbols that are not
state variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

__all__ = ["TorchModule", "diffusion_module", "jump_module"]

HEAD = '''"""{title}"""

import torch


class {name}(torch.nn.Module):
    """{words} One step of the iteration takes time {small}.

    State, in this order: {state}.
    """
{attributes}
    def __init__(self, {arguments}):
        super().__init__()
        if not {small} > 0:
            raise ValueError(f"{small} must be positive, got {{{small}}}: it is the small parameter of the iteration.")
        self.register_buffer("_numbers", torch.tensor([{arguments}], dtype=torch.float64))
{more}'''

DIFFUSION = '''
    def f(self, _t, _state):
        """Drift (B, D)."""
{drift}

    def g(self, _t, _state):
        """Diffusion factor (B, D, M)."""
{diffusion}.unflatten(-1, ({rows}, {columns}))
'''

JUMPS = '''
    def drift(self, _t, _state):
        """Drift between the jumps (B, D)."""
{drift}

    def jump(self, _t, _state, _draw):
        """Size of a jump from _state (B, D) for the random variables _draw (B, R), in this order: {random}."""
{jump}
'''


class _Code:
    """Torch code for expressions in the state, the constants and the small parameter of an iteration.

    Raises:
        SmesolveError: if an expression contains undefined functions, functions without torch code of the same meaning,
            or symbols with the same name in Python.
    """

    def __init__(self, iteration: Iteration, entries: Sequence[Expr], random: Sequence[Symbol] = ()) -> None:
        undefined = sorted({str(call.func) for entry in entries for call in entry.atoms(AppliedUndef)})
        if undefined:
            raise SmesolveError(
                f"the equation contains undefined functions ({', '.join(undefined)}), which have no values: "
                "derive it with a concrete activation."
            )
        self.iteration, self.random = iteration, tuple(random)
        symbols = set().union(*(entry.free_symbols for entry in entries))
        others = symbols - {*iteration.state, *self.random, iteration.small}
        self.constants = [iteration.small, *sorted(others, key=str)]
        """The arguments of the class: the small parameter, then all other symbols outside of the state, by name."""
        # In real symbols sympy simplifies sqrt(a^2) to |a|.
        self.names: dict[Expr, Expr] = {
            symbol: Symbol(name, real=True, positive=symbol.is_positive)
            for symbol, name in python_names((*iteration.state, *self.constants, *self.random)).items()
        }
        # Integrals without symbols become numbers before cse takes sub-expressions out of them.
        integrals = {part for entry in entries for part in entry.atoms(ExprWithLimits) if part.is_number}
        self.names |= {part: part.evalf(20) for part in integrals}
        for entry in entries:
            check_functions(entry.xreplace(self.names))

    def listed(self, symbols: Sequence[Symbol]) -> str:
        """Return the names of symbols in Python."""
        return ", ".join(self.names[symbol].name for symbol in symbols)

    def head(self, **words: str) -> str:
        """Return the module up to the constructor of its class."""
        return HEAD.format(
            small=self.names[self.iteration.small].name,
            state=self.listed(self.iteration.state),
            arguments=self.listed(self.constants),
            **words,
        )

    def body(self, part: Sequence[Expr], random: bool = False) -> str:
        """Return the body of a method of the state, and of the random variables, that returns the expressions."""
        shared, outputs = sympy.cse([entry.xreplace(self.names) for entry in part], sympy.numbered_symbols("_c"))
        spread = ", ".join(f"_zero + {printed(output, '_zero')}" for output in outputs)
        lines = [
            f"{self.listed(self.constants)}, = self._numbers.to(_state).unbind()",
            f"{self.listed(self.iteration.state)}, = _state.unbind(-1)",
            *([f"{self.listed(self.random)}, = _draw.unbind(-1)"] if random and self.random else []),
            "_zero = torch.zeros_like(_state[..., 0])",
            *(f"{name} = {printed(value, '_zero')}" for name, value in shared),
            # Constant entries are spread over the paths.
            f"return torch.stack([{spread}], dim=-1)",
        ]
        return "\n".join(f"        {line}" for line in lines)


@dataclass(frozen=True)
class TorchModule:
    """A Python module with one class of equations."""

    source: str
    name: str
    """Name of the class."""
    iteration: Iteration
    constants: Sequence[Symbol]
    """Arguments of the class."""

    def instance(self, values: Mapping[Symbol | str, float], small: float) -> nn.Module:
        """Return an instance of the class with a number for every constant.

        Raises:
            SmesolveError: values lacks a constant, or names something that is not a constant.
        """
        numbers = _numbers(self.iteration, self.constants, values) | {self.iteration.small.name: small}
        missing = sorted(symbol.name for symbol in self.constants if symbol.name not in numbers)
        if missing:
            raise SmesolveError(f"values lacks {', '.join(missing)}: give a number for each constant.")
        namespace: dict[str, Any] = {}
        exec(compile(self.source, "<modified equation>", "exec"), namespace)
        equation: nn.Module = namespace[self.name](*(float(numbers[symbol.name]) for symbol in self.constants))
        return equation


def diffusion_module(iteration: Iteration, drift: ImmutableMatrix, diffusion: ImmutableMatrix) -> TorchModule:
    """Return the module of a diffusion. Raises the errors of `_Code`."""
    diffusion = sympy.sqrt(iteration.small) * diffusion
    code = _Code(iteration, [*drift, *diffusion])
    title = f"Stochastic modified equation, by smesolve: dTheta = f dt + g dW, Ito, {diffusion.cols} Brownian motions."
    head = code.head(
        title=title,
        name="ModifiedEquation",
        words="For torchsde.sdeint: f (B, D) and g (B, D, M) at a state (B, D).",
        attributes='\n    noise_type = "general"\n    sde_type = "ito"\n',
        more="",
    )
    methods = {"drift": code.body(list(drift)), "diffusion": code.body(list(diffusion))}
    source = head + DIFFUSION.format(rows=diffusion.rows, columns=diffusion.cols, **methods)
    return TorchModule(source, "ModifiedEquation", iteration, code.constants)


def jump_module(iteration: Iteration, drift: ImmutableMatrix, jump: ImmutableMatrix) -> TorchModule:
    """Return the module of a jump equation. Raises the errors of `_Code`."""
    random = [symbol for symbol in iteration.random if jump.has(symbol)]
    code = _Code(iteration, [*drift, *jump], random)
    small = code.names[iteration.small].name
    head = code.head(
        title=f"Modified equation of order 3, by smesolve: a drift, and jumps at rate 1/{small}.",
        name="JumpEquation",
        words="Drift (B, D) and jumps (B, D) at a state (B, D).",
        attributes="",
        more=f"        self.rate = 1 / {small}\n",
    )
    methods = {"drift": code.body(list(drift)), "jump": code.body(list(jump), random=True)}
    source = head + JUMPS.format(random=code.listed(random) or "none", **methods)
    return TorchModule(source, "JumpEquation", iteration, code.constants)


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
                f"values contains {shown(key)}, which is not a constant of the equation: its constants are "
                f"{', '.join(sorted(known)) or 'none'}, and the small parameter is given as lr."
            )
        if name in numbers:
            raise SmesolveError(f"values contains {name} twice, as a symbol and by its name: give one number for it.")
        numbers[name] = value
    return numbers
