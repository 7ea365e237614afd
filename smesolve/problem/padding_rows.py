"""Rows of embeddings that torch does not train: those of `padding_idx`.

torch.nn.Embedding passes no gradient to the row of its padding_idx, although its outputs depend on that row. A gradient
without it is not the gradient of the loss. If the row is zero, as torch initialises it, the layer is a smooth function
nevertheless: its outputs for padding are the constant 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smesolve.errors import SmesolveError
from smesolve.problem.parameters import layer_name

__all__ = ["padding_factors"]


def padding_factors(name: str, module: nn.Module) -> dict[str, Tensor]:
    """Return a factor for each trainable weight with a row of padding, by name: 0 in this row and 1 elsewhere, (V, 1).

    Args:
        name: name of the module in messages.
        module: any module.

    Raises:
        SmesolveError: the row is not zero, or another layer uses the same weight and trains the row.
    """
    factors: dict[str, Tensor] = {}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    users = [
        (id(parameter), layer)
        for layer in module.modules()
        for parameter in layer.parameters(recurse=False)
        if parameter.requires_grad
    ]
    for key, layer in module.named_modules():
        if not isinstance(layer, nn.Embedding) or layer.padding_idx is None or not layer.weight.requires_grad:
            continue
        row = f"the row of padding_idx={layer.padding_idx} in its {layer_name(key, layer)}"
        if layer.weight[layer.padding_idx].any():
            raise SmesolveError(
                f"{name} has values in {row}, which torch does not train, so that its gradient is not that of the "
                "loss; set this row to 0, or leave padding_idx out."
            )
        for user, other in users:
            same_row = isinstance(other, nn.Embedding) and other.padding_idx == layer.padding_idx
            if user == id(layer.weight) and not same_row:
                raise SmesolveError(
                    f"{name} trains {row} by another layer with the same weight, and not by this one, so that its "
                    "gradient is not that of the loss; leave padding_idx out."
                )
        factor = torch.ones_like(layer.weight[:, :1])
        factor[layer.padding_idx] = 0.0
        factors[names[id(layer.weight)]] = factor.detach()
    return factors
