"""Calls of torch in other words: for derivatives and batches that torch lacks, and for dropout that it hides.

torch drops attention weights inside two functions. One of them is compiled, the other hides its calls from a
`TorchFunctionMode`. Here both are written in calls that such a mode sees:

    A = softmax(scale q k^T + mask),      attention = dropout(A) v,      A (..., h, L, S).                          (1)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from smesolve.problem.losses import SampleLoss

__all__ = ["Decomposed", "DecomposedLoss", "dropped_attention", "drops_attention", "multi_head_attention"]


class Decomposed(TorchFunctionMode):
    """A context in which calls of torch are replaced by their decompositions."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DECOMPOSITIONS:
            return _DECOMPOSITIONS[func](*args, **kwargs)
        if func is functional.embedding:
            kwargs = {**kwargs, "sparse": False}  # says how a gradient is stored, and theta's is dense
        elif func in _RECURRENT:  # has no batching rule, but under a derivative torch takes it apart
            return vjp(lambda _: func(*args, **kwargs), torch.zeros((), device="cpu"))[0]
        return func(*args, **kwargs)


class DecomposedLoss:
    """A loss written by the user, with calls of torch replaced by their decompositions."""

    def __init__(self, loss: SampleLoss) -> None:
        self.loss = loss

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return one loss per sample."""
        with Decomposed():
            return self.loss(outputs, targets)


_RECURRENT = (torch.gru, torch.lstm, torch.rnn_relu, torch.rnn_tanh)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """Return g v / |v|, the norm over all dimensions but `dim`, or over all of them where it is -1."""
    others = [other for other in range(v.ndim) if dim == -1 or other != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=others, keepdim=dim != -1)
    return v * (g / norm)


def _embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Return sums, means or maxima over bags, the rows of input (n, k). torch's own call has no second derivative."""
    given = {**locals(), "sparse": False}
    if input.ndim != 2 or max_norm is not None or scale_grad_by_freq:
        return functional.embedding_bag(**given)
    rows = functional.embedding(input, weight)
    padding = -1 if padding_idx is None else padding_idx % weight.shape[0]  # a negative one counts from the end
    kept = input != padding
    if mode == "max":
        largest = rows.masked_fill(~kept[..., None], -torch.inf).amax(-2)
        return largest.where(kept.any(-1, keepdim=True), 0.0)  # bags of padding only are 0 in every mode
    weights = kept.to(rows.dtype) if per_sample_weights is None else per_sample_weights * kept
    total = (rows * weights[..., None]).sum(-2)
    return total / kept.sum(-1, keepdim=True).clamp(min=1) if mode == "mean" else total


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str = "") -> Tensor:
    """Return distances (..., a, b) of rows (..., a, d), (..., b, d). torch's own call has only a first derivative."""
    distances: Tensor = torch.linalg.vector_norm(x1[..., :, None, :] - x2[..., None, :, :], ord=p, dim=-1)
    return distances


def _normalised(values: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    """Return (x - mean) / sqrt(variance + eps) over some dimensions."""
    centred = values - values.mean(dims, keepdim=True)
    normalised: Tensor = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    return normalised


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    values = functional.hardtanh(input + 3, 0.0, 6.0) / 6
    return input.copy_(values) if inplace else values


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    first, second = input.chunk(2, dim)
    return first * second.sigmoid()


def _huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    error = input - target
    far = delta * (error * error.sign() - delta / 2)
    losses = torch.where(error.square() <= delta**2, error.square() / 2, far)
    return _reduced(losses if weight is None else losses * weight, reduction)


def _soft_margin_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    return _reduced(functional.softplus(-target * input), reduction)


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """Return the normalised values times the weight, plus the bias."""
    return _affine(_normalised(input, tuple(range(-len(normalized_shape), 0)), eps), weight, bias, 0)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    """Return the normalised values (n, C, ...) times the weight of their channel, plus its bias.

    Running averages, on which outputs do not depend where they would be changed, stay as they are.
    """
    if not use_input_stats:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _affine(_normalised(input, tuple(range(2, input.ndim)), eps), weight, bias, input.ndim - 2)


def _affine(values: Tensor, weight: Tensor | None, bias: Tensor | None, trailing: int) -> Tensor:
    """Return values times a weight, plus a bias, which have so many dimensions less at the end."""
    if weight is not None:
        values = values * weight[(..., *[None] * trailing)]
    return values if bias is None else values + bias[(..., *[None] * trailing)]


_DECOMPOSITIONS: Mapping[Any, Callable[..., Tensor]] = {
    torch._weight_norm: _weight_norm,
    torch.cdist: _cdist,
    functional.embedding_bag: _embedding_bag,
    functional.hardsigmoid: _hardsigmoid,
    functional.glu: _glu,
    functional.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    functional.instance_norm: _instance_norm,
    torch.instance_norm: _instance_norm,
    functional.huber_loss: _huber_loss,
    functional.soft_margin_loss: _soft_margin_loss,
}
"""Decompositions of the calls of torch whose gradient has no derivative, or that have no forward derivative.

The forward derivatives of a batch of gradients of layer_norm and instance_norm lack terms in torch: the first one where
they have weights, the second one without weights, too.
"""


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
