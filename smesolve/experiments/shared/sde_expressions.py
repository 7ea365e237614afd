"""SDEs from a closed list of test equations, or from expressions that are parsed and not executed as Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sympy import Expr, Symbol
from torch import Tensor, nn

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.derivation.expressions import is_name, read_expression
from smesolve.symbolic.symbol_names import python_names
from smesolve.symbolic.torch_printer import printed

__all__ = ["TEST_EQUATIONS", "ExpressionSDE", "TestEquation", "torch_function"]

TIME = "t"


@dataclass(frozen=True)
class TestEquation:
    """A test SDE, as expressions in its state y and the time t."""

    words: str
    drift: str
    diffusion: str
    start: float
    noise: str
    """Noise type, in torchsde's words."""
    exact: Callable[[Tensor, float], Tensor] | None = None
    """Exact solution (W(T) (B, 1), T) -> Y(T) (B, 1), if it is known."""


TEST_EQUATIONS: dict[str, TestEquation] = {
    "geometric": TestEquation(
        "geometric Brownian motion dY = -Y dt + 0.8 Y dW",
        "-y",
        "0.8*y",
        1.5,
        "scalar",
        lambda W, T: 1.5 * torch.exp(-1.32 * T + 0.8 * W),
    ),
    # Y = sinh(arsinh Y_0 - t + W): Kloeden and Platen, Numerical Solution of SDEs (1992), section 4.4
    "hyperbolic": TestEquation(
        "dY = (Y/2 - sqrt(1 + Y^2)) dt + sqrt(1 + Y^2) dW, of solution sinh(arsinh Y_0 - t + W)",
        "y/2 - sqrt(1 + y**2)",
        "sqrt(1 + y**2)",
        1.0,
        "scalar",
        lambda W, T: torch.sinh(torch.asinh(torch.ones_like(W)) - T + W),
    ),
    "ornstein-uhlenbeck": TestEquation(
        "Ornstein-Uhlenbeck process dY = -1.2 Y dt + 0.7 dW", "-1.2*y", "0.7", 2.0, "additive"
    ),
    "double-well": TestEquation("double well dY = (Y - Y^3) dt + 0.5 dW", "y - y**3", "0.5", 0.5, "additive"),
}
"""Ito SDEs of one variable by name."""


def torch_function(entries_by_key: Mapping[str, str], state: Sequence[str]) -> Callable[[Any, Tensor], Tensor]:
    """Return (t, y (..., D)) -> (..., K), the values of expressions in the state and the time t.

    Args:
        entries_by_key: K expressions, as `read_expression` takes them, by their keys in the configuration.
        state: names of the D variables.

    Raises:
        SmesolveError: a string is not an expression, or contains other names.
    """
    names = {name: Symbol(name, real=True) for name in (*state, TIME)}
    entries: list[Expr] = []
    for key, text in entries_by_key.items():
        entry = read_expression(key, text, names)
        unknown = sorted(map(str, entry.free_symbols - set(names.values())))
        if unknown:
            raise SmesolveError(
                f"{key} {text!r} holds {unknown[0]!r}, which is no state variable; the names are {', '.join(names)}."
            )
        entries.append(entry)
    written = {symbol: Symbol(name, real=True) for symbol, name in python_names(names.values()).items()}
    time, *variables = (written[names[name]].name for name in (TIME, *state))
    body = ", ".join(f"_zero + {printed(entry.xreplace(written), '_zero')}" for entry in entries)
    code = (
        f"def values(_t, _state):\n    {', '.join(variables)}, = _state.unbind(-1)\n"
        f"    _zero = torch.zeros_like(_state[..., 0])\n    {time} = _zero + _t\n"
        f"    return torch.stack([{body}], dim=-1)\n"
    )
    made: dict[str, Any] = {"torch": torch}
    exec(compile(code, "<sde>", "exec"), made)  # generated from the parsed expressions, not from the text
    function: Callable[[Any, Tensor], Tensor] = made["values"]
    return function


class ExpressionSDE(nn.Module):
    """An SDE whose drift and diffusion are expressions.

    Args:
        state: names of the D variables.
        drift: D expressions.
        diffusion: D rows of M expressions; for diagonal noise one expression per row.
        sde_type: "ito" or "stratonovich".
        noise_type: in torchsde's words.

    Raises:
        SmesolveError: invalid names, wrong numbers of expressions, or strings that are not expressions.
    """

    def __init__(
        self,
        state: Sequence[str],
        drift: Sequence[str],
        diffusion: Sequence[Sequence[str]],
        sde_type: str,
        noise_type: str,
    ) -> None:
        super().__init__()
        wrong = [name for name in state if not is_name(name) or name == TIME]
        if wrong or len(set(state)) < len(state):
            raise SmesolveError(
                f"state must hold different names of letters and digits other than t, got {', '.join(state)}; write "
                "for example [y1, y2]."
            )
        columns = len(diffusion[0]) if diffusion else 0
        if len(drift) != len(state) or len(diffusion) != len(state) or any(len(row) != columns for row in diffusion):
            raise SmesolveError(
                f"drift must hold {len(state)} expressions and diffusion {len(state)} rows of one length, one for each "
                f"of state, got {len(drift)} and rows of {', '.join(str(len(row)) for row in diffusion) or 'none'}."
            )
        if columns != 1 and noise_type in ("scalar", "diagonal"):
            raise SmesolveError(f"noise={noise_type} has one expression in each row of diffusion, got {columns}.")
        self.sde_type, self.noise_type = sde_type, noise_type
        self._drift = torch_function({f"drift[{k}]": entry for k, entry in enumerate(drift)}, state)
        self._diffusion = torch_function(
            {
                f"diffusion[{k}], column {j + 1},": entry
                for k, row in enumerate(diffusion)
                for j, entry in enumerate(row)
            },
            state,
        )
        self._shape = (len(state),) if noise_type == "diagonal" else (len(state), columns)

    def f(self, t: Any, y: Tensor) -> Tensor:
        """Return the drift (B, D)."""
        return self._drift(t, y)

    def g(self, t: Any, y: Tensor) -> Tensor:
        """Return the diffusion (B, D, M), or (B, D) for diagonal noise."""
        noise: Tensor = self._diffusion(t, y).unflatten(-1, self._shape)
        return noise
