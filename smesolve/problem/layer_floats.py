"""The size of the outputs of a module's layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from smesolve.problem.module_function import ModuleFunction

__all__ = ["layer_floats"]


@torch.no_grad()
def layer_floats(function: ModuleFunction, theta: Tensor, x: Tensor) -> int:
    """Return the number of floats in the outputs of all calls of layers with parameters, without dropout.

    Args:
        function: the module.
        theta: (D,), its parameters.
        x: inputs.
    """
    function, total = copy.deepcopy(function), 0

    def count(layer: nn.Module, given: Any, outputs: Any) -> None:
        nonlocal total
        total += _floats(outputs)

    for layer in function.module.modules():
        if next(layer.parameters(recurse=False), None) is not None:
            layer.register_forward_hook(count)
    function(theta, x)
    return total


def _floats(outputs: Any) -> int:
    """Return the number of floats in a tensor, or in nested tuples of tensors as recurrent layers return them."""
    if isinstance(outputs, Tensor):
        return outputs.numel()
    return sum(map(_floats, outputs)) if isinstance(outputs, (tuple, list)) else 0
