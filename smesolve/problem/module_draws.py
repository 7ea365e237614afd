"""Draws of a `ModuleProblem`: everything random in one step, made from uniforms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, shown
from smesolve.problem.masks import MAX_MASKS, MaskLaw, all_masks, standard_normals

__all__ = ["Draw", "DrawLayout", "of_parts"]

Draw = Mapping[str, Tensor]
"""Everything random in one step, by name, with leading dimensions of paths. Noise that a problem lacks has no entry.

Draws of a problem without noise are empty tensors, which only have the dimensions of paths, so that gradients for one
theta and several draws have the same shape whatever the noise.

    indices         (..., b)           samples of the mini-batch
    mask 0, ...     (..., b, ...)      one per dropout call; 1 in place of b if shared, without b if a weight is dropped
    labels          (..., b, o)        standard normals eps
    parameters      (..., D)           standard normals xi
    paths           (..., 0)           if the problem has no noise
"""


@dataclass(frozen=True)
class DrawLayout:
    """The parts of a draw, and how they are made from uniforms."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shape of each part without the dimensions of paths. Indices (N, b) are those of N batches with no common sample.
    """
    laws: Mapping[str, MaskLaw]
    """Law of each mask."""
    samples: int
    """n, the number of samples from which batches are drawn."""
    replacement: bool
    """Whether batches are drawn with replacement."""
    dtype: torch.dtype
    device: torch.device

    @property
    def sizes(self) -> dict[str, int]:
        """Uniforms of each part: one per number, but n for a batch without replacement, cut from a random order."""
        sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        if "indices" in sizes and not self.replacement:
            sizes["indices"] = self.samples
        return sizes

    @property
    def uniforms(self) -> int:
        """U, the number of uniforms in a draw."""
        return sum(self.sizes.values())

    def check(self, draw: Draw) -> None:
        """Check that draws have all parts, in their shapes with any leading dimensions.

        Raises:
            SmesolveError: a part is missing, unknown, or has another shape.
        """
        if not isinstance(draw, Mapping) or draw.keys() != self.shapes.keys():
            got = f"a mapping of {sorted(draw)}" if isinstance(draw, Mapping) else shown(draw)
            raise SmesolveError(
                f"draw must be a mapping of {sorted(self.shapes)}, got {got}; take one that sample returns."
            )
        for name, shape in self.shapes.items():
            part = draw[name]
            if not isinstance(part, Tensor) or tuple(part.shape[-len(shape) :]) != shape:
                given = tuple(part.shape) if isinstance(part, Tensor) else shown(part)
                raise SmesolveError(
                    f"draw[{name!r}] must have shape (..., {', '.join(map(str, shape))}), got {given}; take "
                    "one that sample returns."
                )

    def drawn(self, uniforms: Tensor) -> Draw:
        """Return draws from uniforms (..., U) in [0, 1)."""
        draw = dict(zip(self.sizes, uniforms.split(list(self.sizes.values()), dim=-1), strict=True))
        for name, part in draw.items():
            if name == "indices":
                chosen = (part * self.samples).long() if self.replacement else part.argsort(dim=-1)
                draw[name] = chosen[..., : self.shapes[name][0]].to(self.device)
            else:
                values = self.laws[name].quantile(part) if name in self.laws else standard_normals(part)
                draw[name] = values.unflatten(-1, self.shapes[name]).to(dtype=self.dtype, device=self.device)
        return draw

    # --- enumeration -------------------------------------------------------------------------------------------------

    @property
    def count(self) -> float:
        """Number of different draws; infinity beyond the range of floats, and where a part is continuous.

        The order of the samples in a batch does not count: their masks are independent of each other and have one law.
        """
        try:
            return math.prod(float(self._count(name)) for name in self.shapes)
        except OverflowError:
            return math.inf

    def every(self) -> tuple[Draw, Tensor]:
        """Return all draws and their probabilities (K,).

        Raises:
            SmesolveError: a part is continuous, or there are more than 2^22 draws.
        """
        if self.count > MAX_MASKS:
            raise SmesolveError(
                f"the draws of batches, masks and normals cannot be enumerated, as there are {self.count:g}, more than "
                f"{MAX_MASKS}; use Monte Carlo."
            )
        parts = {name: self._every(name) for name in self.shapes}
        numbers = [torch.arange(len(weights), device="cpu") for _, weights in parts.values()]
        places = torch.cartesian_prod(*numbers).reshape(-1, len(parts)).T
        draw = {
            name: values[rows].reshape(len(rows), *self.shapes[name]).to(self.device)
            for rows, (name, (values, _)) in zip(places, parts.items(), strict=True)
        }
        chosen = [weights[rows] for rows, (_, weights) in zip(places, parts.values(), strict=True)]
        return draw, torch.stack(chosen).prod(0).to(self.device)

    def _count(self, name: str) -> float:
        """Return the number of different values of one part."""
        if name == "indices":
            *batches, size = self.shapes[name]
            if self.replacement:
                return math.comb(self.samples + size - 1, size)
            return math.prod(math.comb(self.samples - k * size, size) for k in range(math.prod(batches)))
        if name in self.laws and (support := self.laws[name].support) is not None:
            return float(len(support[0])) ** self.sizes[name]
        return math.inf if self.sizes[name] else 1

    def _every(self, name: str) -> tuple[Tensor, Tensor]:
        """Return all values of one part (K, size) and their probabilities (K,)."""
        if name in self.laws:
            masks, weights = all_masks(self.laws[name], self.sizes[name])
            return masks.to(self.dtype), weights
        if name != "indices":
            return torch.zeros(1, 0, dtype=self.dtype, device="cpu"), torch.ones(1, dtype=torch.float64, device="cpu")
        *batches, size = self.shapes[name]
        if self.replacement:
            chosen = list(combinations_with_replacement(range(self.samples), size))
            orders = [math.factorial(size) / math.prod(map(math.factorial, Counter(c).values())) for c in chosen]
        else:
            chosen = list(_batches(range(self.samples), size, math.prod(batches)))
            orders = [1.0] * len(chosen)
        weights = torch.tensor(orders, dtype=torch.float64, device="cpu")
        return torch.tensor(chosen, device="cpu"), weights / weights.sum()


def _batches(samples: Sequence[int], size: int, count: int) -> Iterator[tuple[int, ...]]:
    """Yield all sequences of `count` batches of some samples without common ones, one after the other in one tuple."""
    if not count:
        yield ()
        return
    for batch in combinations(samples, size):
        rest = [sample for sample in samples if sample not in batch]
        for others in _batches(rest, size, count - 1):
            yield batch + others


def of_parts(function: Callable[[Tensor], Tensor], draw: Any) -> Any:
    """Return a function of a draw that is a tensor, or of every part of a draw that has several."""
    if isinstance(draw, Mapping):
        return {name: function(part) for name, part in draw.items()}
    return function(draw)
