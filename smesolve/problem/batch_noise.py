"""The noise of mini-batches and of normal label noise, in closed form.

For a batch of b of the n samples, and labels y_i + s_l eps_i with standard normals eps_i and squared error, the
gradient of the mean loss over the batch has the covariance of

    (1)  grad_theta [ sum_i w_i loss_i - s_l / sqrt(b n) sum_i <eps_i, f_i> ],    w_i = sqrt(q / (b n)) (xi_i - xibar),

where q = 1 for batches drawn with replacement and q = (n - b)/(n - 1) without, xi and eps are standard normals, f_i are
the outputs and xibar is the mean of the xi_i. If sample i occurs c_i times in a batch,

    (2)  xi_i = (c_i / b - 1/n) / sqrt(q / (b n)),      eps_i = sqrt(n / b) sum of the label normals of sample i,

have covariance I except along the vector of ones, which (1) ignores, and (1) is the noise of that batch's gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["BatchNoise"]


@dataclass(frozen=True)
class BatchNoise:
    """The sizes in (1)."""

    samples: int
    """n."""
    batch_size: int | None
    """b, or None if every step takes all samples."""
    replacement: bool
    """Whether batches are drawn with replacement."""
    label_noise: float
    """s_l."""
    output_shape: tuple[int, ...]
    """Shape of the outputs for one sample."""

    @property
    def dim(self) -> int:
        """Number of normals: xi (n) for batches, then eps (n o) for label noise."""
        labels = self.samples * math.prod(self.output_shape)
        return (self.samples if self.batch_size else 0) + (labels if self.label_noise else 0)

    @property
    def _in_batch(self) -> int:
        return self.batch_size or self.samples

    @property
    def _scale(self) -> float:
        """sqrt(q / (b n))."""
        n, b = self.samples, self._in_batch
        q = 1.0 if self.replacement or n == 1 else (n - b) / (n - 1)
        return float((q / (b * n)) ** 0.5)

    def functional(self, losses: Tensor, outputs: Tensor, normals: Tensor) -> Tensor:
        """Return the function in (1) of losses (n,) and outputs (n, ...), whose gradient is the noise product."""
        value = outputs.new_zeros(())
        if self.batch_size:
            batch, normals = normals[: self.samples], normals[self.samples :]
            weights = self._scale * (batch - batch.mean())
            value = value + weights @ losses
        if self.label_noise:
            scale = self.label_noise / float((self._in_batch * self.samples) ** 0.5)
            value = value - scale * (normals * outputs.flatten()).sum()
        return value

    def coordinates(self, draw: Mapping[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Return (2) for draws of "indices" (..., b) and "labels" (..., b, ...): (..., dim)."""
        parts = []
        if self.batch_size:
            chosen = nn.functional.one_hot(draw["indices"], self.samples).to(dtype)
            counts = chosen.sum(-2) / self.batch_size - 1 / self.samples
            parts.append(counts / self._scale if self._scale else torch.zeros_like(counts))
        if self.label_noise:
            normals = draw["labels"]
            lead = normals.shape[: -1 - len(self.output_shape)]
            if self.batch_size:
                spread = (self.samples / self.batch_size) ** 0.5
                normals = spread * torch.einsum(
                    "...bn,...bo->...no", chosen, normals.reshape(*lead, self.batch_size, -1)
                )
            parts.append(normals.reshape(*lead, -1))
        return torch.cat(parts, dim=-1)
