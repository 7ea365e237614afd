"""The size of what a derivative of a function of the parameters keeps, which no module says of itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["saved_floats"]


def saved_floats(function: Callable[..., Tensor], vector: Tensor, *inputs: Tensor) -> int:
    """Return the floats that torch keeps for a backward derivative by the vector, but for vector and inputs.

    Args:
        function: of the vector (D,) and the inputs, a number.
        vector: the parameters.
        inputs: further arguments.
    """
    saved: dict[int, int] = {}
    with torch.inference_mode(False), torch.enable_grad():
        vector, *copies = (part.clone() for part in (vector, *inputs))  # each with a storage of its own
        given = {part.untyped_storage().data_ptr() for part in (vector, *copies)}

        def keep(part: Tensor) -> Tensor:
            place = part.untyped_storage().data_ptr()
            if place not in given:
                saved[place] = part.numel()
            return part

        with saved_tensors_hooks(keep, lambda part: part):
            function(vector.requires_grad_(), *copies)
    return sum(saved.values())
