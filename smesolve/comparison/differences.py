"""Derivatives along directions by central differences, of fields and of functions that are known by their values.

Where fields are smooth, shifts are as short as rounding allows. Where fields jump, the derivative is meant in the sense
of distributions: its mean over paths includes the jumps if the shifts are longer than the distance that a path moves in
a step, and longer shifts have less scatter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Field", "cubic_stencil", "first_difference", "second_difference", "stencil"]

Field = Callable[[Tensor], Tensor]
"""From theta (A, D) to vectors (A, D)."""


def _scaled(direction: Tensor, x: Tensor, degree: int, shift: float | None) -> Tensor:
    """Return the factor (A, 1) by which a direction is multiplied in a central difference of this degree.

    Default: the shift has length eps^(1/(degree + 2)) max(1, |x|), which balances rounding and the next derivative.
    """
    if shift is not None:
        return x.new_full((len(x), 1), shift)
    length: Tensor = torch.finfo(x.dtype).eps ** (1 / (degree + 2)) * x.norm(dim=-1, keepdim=True).clamp(min=1.0)
    factor: Tensor = length / direction.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
    return factor


def first_difference(field: Field, x: Tensor, u: Tensor, shift: float | None = None) -> Tensor:
    """Return D field(x)[u] from field(x +- h u), with the step h = `shift` if that is given."""
    h = _scaled(u, x, 1, shift)
    return (field(x + h * u) - field(x - h * u)) / (2 * h)


def second_difference(field: Field, x: Tensor, u: Tensor, v: Tensor, shift: float | None = None) -> Tensor:
    """Return D^2 field(x)[u, v] from field(x +- h u +- k v), with h = k = `shift` if that is given."""
    h, k = _scaled(u, x, 2, shift), _scaled(v, x, 2, shift)
    diagonal = field(x + h * u + k * v) + field(x - h * u - k * v)
    return (diagonal - field(x + h * u - k * v) - field(x - h * u + k * v)) / (4 * h * k)


def stencil(directions: Sequence[Tensor], x: Tensor, shift: float | None = None) -> tuple[Tensor, Tensor]:
    """Return shifts (R, A, D) and weights (R, A): sum_r weight_r v(x + shift_r) is the derivative along directions."""
    scales = [_scaled(direction, x, len(directions), shift) for direction in directions]
    inverse = 1 / torch.stack([2 * scale[:, 0] for scale in scales]).prod(0)
    shifts: list[Tensor] = []
    weights: list[Tensor] = []
    for signs in itertools.product((1.0, -1.0), repeat=len(directions)):
        moved = [sign * scale * direction for sign, scale, direction in zip(signs, scales, directions, strict=True)]
        shifts.append(sum(moved, torch.zeros_like(x)))
        weights.append(math.prod(signs) * inverse)
    return torch.stack(shifts), torch.stack(weights)


def cubic_stencil(direction: Tensor, x: Tensor, shift: float | None = None) -> tuple[Tensor, Tensor]:
    """Return shifts (4, A, D) and weights (4, A) of the third derivative along one direction.

    D^3 v[c, c, c] = (v(2) - 2 v(1) + 2 v(-1) - v(-2)) / 2 in units of the shift.
    """
    scale = _scaled(direction, x, 3, shift)
    move, unit = scale * direction, 2 * scale[:, 0] ** 3
    return torch.stack([2 * move, move, -move, -2 * move]), torch.stack([1 / unit, -2 / unit, 2 / unit, -1 / unit])
