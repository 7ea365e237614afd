"""Functions of the parameters of one path, taken of many paths at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import vmap

from smesolve.problem.recorded_function import RecordedFunctions

__all__ = ["FunctionsOfPaths"]

Parts = Mapping[str, Tensor]


class FunctionsOfPaths:
    """Functions of parameters (D,) as functions of parameters (..., D), which run as recordings once they ran often.

    A name stands for one function. What it reads beside its arguments is `data`, or never changes.
    """

    def __init__(self) -> None:
        self._recorded = RecordedFunctions()

    def in_batches(
        self, name: str, function: Callable[[Tensor], Tensor], theta: Tensor, data: Sequence[Tensor], batch: int
    ) -> Tensor:
        """Return function (D,) -> (...) of each path, for so many paths at once."""
        parts = [
            self._recorded.call(name, lambda theta: vmap(function)(theta), {"theta": part}, data)
            for part in theta.reshape(-1, theta.shape[-1]).split(batch)
        ]
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        return values.reshape((*theta.shape[:-1], *values.shape[1:]))

    def with_noise(
        self,
        name: str,
        function: Callable[[Tensor, Parts], Tensor],
        theta: Tensor,
        noise: Parts,
        data: Sequence[Tensor],
        dimensions: Mapping[str, int],
    ) -> Tensor:
        """Return function ((D,), noise) -> (D,) of each path with its noise; what both have before that broadcasts.

        Args:
            name: of the function.
            function: of parameters and noise, by name.
            theta: (..., D).
            noise: (..., what one path has).
            data: other tensors that the function reads.
            dimensions: of the noise of one path, by name.
        """
        lead = theta.shape[:-1]
        leads = [part.shape[: part.ndim - dimensions[key]] for key, part in noise.items()]
        if any(one != lead for one in leads):
            lead = torch.broadcast_shapes(lead, *leads)

        def flat(part: Tensor, count: int) -> Tensor:
            shape = part.shape[part.ndim - count :]
            return part.expand(*lead, *shape).reshape(-1, *shape)

        def of_paths(theta: Tensor, **noise: Tensor) -> Tensor:
            values: Tensor = vmap(function)(theta, noise)
            return values

        paths = {"theta": flat(theta, 1)} | {key: flat(part, dimensions[key]) for key, part in noise.items()}
        return self._recorded.call(name, of_paths, paths, data).reshape(*lead, theta.shape[-1])
