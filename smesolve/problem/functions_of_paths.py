"""Functions of the parameters of one path, applied to many paths at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap

from smesolve.problem.recorded_function import RecordedFunctions

__all__ = ["FunctionsOfPaths"]

Parts = Mapping[str, Tensor]


class FunctionsOfPaths:
    """Applies functions of parameters (D,) to parameters (..., D), by recordings if they are called often.

    A name stands for one function. Everything that it reads besides its arguments is in `data`, or never changes.
    """

    def __init__(self) -> None:
        self._recorded = RecordedFunctions()

    def in_batches(
        self, name: str, function: Callable[[Tensor], Tensor], theta: Tensor, data: Sequence[Tensor], batch: int
    ) -> Tensor:
        """Return function (D,) -> (...) for each path, in batches of `batch` paths."""
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
        """Return function ((D,), noise) -> (D,) for each path and its noise. Leading dimensions broadcast.

        Args:
            name: name of the function.
            function: function of the parameters and of a mapping with the noise.
            theta: (..., D).
            noise: noise by name, with the dimensions of paths first.
            data: other tensors that the function reads.
            dimensions: number of dimensions of the noise of one path, by name.
        """
        lead = theta.shape[:-1]
        leads = [part.shape[: part.ndim - dimensions[key]] for key, part in noise.items()]
        if any(one != lead for one in leads):
            lead = torch.Size(np.broadcast_shapes(lead, *leads))

        def flat(part: Tensor, count: int) -> Tensor:
            shape = part.shape[part.ndim - count :]
            return part.expand(*lead, *shape).reshape(-1, *shape)

        def of_paths(theta: Tensor, **noise: Tensor) -> Tensor:
            values: Tensor = vmap(function)(theta, noise)
            return values

        paths = {"theta": flat(theta, 1)} | {key: flat(part, dimensions[key]) for key, part in noise.items()}
        return self._recorded.call(name, of_paths, paths, data).reshape(*lead, theta.shape[-1])
