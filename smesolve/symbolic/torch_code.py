"""The modified equation as torch code that `torchsde.sdeint` takes as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sympy
import torch
from sympy import Expr, ImmutableMatrix, Rational, Symbol
from sympy.core.function import AppliedUndef
from torch import Tensor, nn

from smesolve.symbolic.iteration import Iteration

__all__ = ["TorchModifiedEquation"]

DIGITS = 20


class TorchModifiedEquation(nn.Module):
    """dTheta = f dt + g dW, Ito, general noise; f and g are evaluated for all paths at once."""

    noise_type = "general"
    sde_type = "ito"

    def __init__(
        self,
        iteration: Iteration,
        drift: ImmutableMatrix,
        diffusion: ImmutableMatrix,
        values: Mapping[Symbol | str, float],
        lr: float,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"lr must be positive, got {lr}: it is the step of the iteration.")
        self.shape = diffusion.shape
        numbers = {str(name): value for name, value in values.items()} | {iteration.lr.name: lr}
        entries = [*drift, *(sympy.sqrt(iteration.lr) * diffusion)]
        undefined = sorted({str(call.func) for entry in entries for call in entry.atoms(AppliedUndef)})
        if undefined:
            raise ValueError(
                f"the equation contains undefined functions ({', '.join(undefined)}), which have no values: "
                "derive it with a concrete activation."
            )
        constants = set().union(*(entry.free_symbols for entry in entries)) - set(iteration.parameters)
        missing = sorted(symbol.name for symbol in constants if symbol.name not in numbers)
        if missing:
            raise ValueError(f"values lacks {', '.join(missing)}: give a number for each constant.")
        # Through the exact binary value, so that no digit of a float is lost on the way into the code.
        exact = {symbol: Rational(float(numbers[symbol.name])) for symbol in constants}
        entries = [sympy.N(entry.xreplace(exact), DIGITS) for entry in entries]
        size = len(drift)
        self._drift = _Vectorised(iteration.parameters, entries[:size])
        self._diffusion = _Vectorised(iteration.parameters, entries[size:])

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Drift (B, D) at y (B, D)."""
        return self._drift(y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """sqrt(lr) C (B, D, M) at y (B, D)."""
        return self._diffusion(y).unflatten(-1, self.shape)


class _Vectorised:
    """A list of expressions of the parameters as one tensor, entries last, constants spread over paths."""

    def __init__(self, parameters: Iterable[Symbol], entries: list[Expr]) -> None:
        # A list: sympy prints a Matrix into torch code that does not run.
        self.function = sympy.lambdify(list(parameters), entries, "torch", cse=True)

    def __call__(self, y: Tensor) -> Tensor:
        columns = y.unbind(-1)
        zero = torch.zeros_like(columns[0])
        return torch.stack([zero + entry for entry in self.function(*columns)], dim=-1)
