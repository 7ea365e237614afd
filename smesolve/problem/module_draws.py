"""Draws of a `ModuleProblem`: everything random in one step, made from uniforms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, shown
from smesolve.problem.masks import MaskLaw, standard_normals

__all__ = ["Draw", "DrawLayout"]

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
    """Shape of each part without the dimensions of paths."""
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
                    f"draw[{name!r}] must be a tensor of shape (..., {', '.join(map(str, shape))}), got {given}; take "
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
