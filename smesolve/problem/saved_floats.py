"""The size of what a gradient of a module keeps of its layers, which no module says of itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from smesolve.problem.module_function import ModuleFunction

__all__ = ["saved_floats"]


def saved_floats(
    function: ModuleFunction,
    sample_loss: Callable[[Tensor, Tensor], Tensor],
    theta: Tensor,
    x: Tensor,
    y: Tensor,
    shapes: Sequence[tuple[int, ...]],
) -> int:
    """Return the floats that torch keeps for a gradient, parameters, data and masks not included.

    Args:
        function: the module.
        sample_loss: of outputs and targets.
        theta: (D,), its parameters.
        x: inputs.
        y: targets.
        shapes: of the masks of its calls of dropout; empty where it has none.
    """
    saved: dict[int, int] = {}
    with torch.inference_mode(False), torch.enable_grad():
        # Copies are no tensors for inference only, which autograd refuses, and have storages of their own.
        function = copy.deepcopy(function)
        theta, x, y = (part.clone() for part in (theta, x, y))
        masks = [theta.new_ones(shape) for shape in shapes]
        given = {part.untyped_storage().data_ptr() for part in (theta, x, y, *masks)}

        def keep(part: Tensor) -> Tensor:
            place = part.untyped_storage().data_ptr()
            if place not in given:
                saved[place] = part.numel()
            return part

        with saved_tensors_hooks(keep, lambda part: part):
            sample_loss(function(theta.requires_grad_(), x, masks or None), y).sum()
    return sum(saved.values())
