"""Plain tensors, which hold numbers and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["are_plain"]


def are_plain(*tensors: Tensor) -> bool:
    """Return whether tensors are plain: no derivative, batching or compilation goes through them.

    Inside a transform of torch.func new tensors have no storage, even if the given ones have; and a dispatch mode, such
    as the one that finds kinks, would not see operations that are computed in another way.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if torch._C._len_torch_dispatch_stack() > 0:
        return False
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and not (forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None)
        for tensor in tensors
    )
