"""Dropout inside torch's attention, as calls of dropout on the attention weights.

torch drops attention weights inside two functions. One of them is compiled, the other hides its calls from a
`TorchFunctionMode`. Here both are written in calls that such a mode sees:

    A = softmax(scale q k^T + mask),      attention = dropout(A) v,      A (..., h, L, S).                          (1)
"""

from __future__ import annotations

import math
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dropped_attention", "drops_attention", "multi_head_attention"]


def drops_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *rest: Any,
    **others: Any,
) -> bool:
    """Return whether a call of `scaled_dot_product_attention` with these arguments drops."""
    return dropout_p > 0


def dropped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Return (1), as torch documents `scaled_dot_product_attention`, with a visible call of dropout."""
    if enable_gqa:
        key, value = (one.repeat_interleave(query.size(-3) // one.size(-3), -3) for one in (key, value))
    scores = query @ key.mT * (1 / math.sqrt(query.size(-1)) if scale is None else scale)
    if is_causal:
        earlier = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~earlier, -math.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return functional.dropout(scores.softmax(-1), dropout_p) @ value


_SEEN = FunctionType(
    functional.multi_head_attention_forward.__code__,
    {**functional.multi_head_attention_forward.__globals__, "has_torch_function": lambda tensors: False},
    "multi_head_attention_forward",
    functional.multi_head_attention_forward.__defaults__,
    functional.multi_head_attention_forward.__closure__,
)
_SEEN.__kwdefaults__ = functional.multi_head_attention_forward.__kwdefaults__


def multi_head_attention(*args: Any, **kwargs: Any) -> Any:
    """Call torch's own `multi_head_attention_forward` without handing the call over to a `TorchFunctionMode` first."""
    return _SEEN(*args, **kwargs)
