"""The step of an optimiser as a smooth function of the learning rate.

The options of a torch optimiser hold at one learning rate lr_0. Its modified equation needs its step at every lr near
0. Decay rates are therefore taken in units of time, t = k lr,

    1 - beta(lr) = c lr,      c = (1 - beta) / lr_0,                                                              (1)

so that the step moves the whole state by O(lr), and is torch's own step at lr = lr_0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["UpdateRule", "decay_rate", "root"]


class UpdateRule(ABC):
    """The step of an optimiser, given a gradient. A subclass takes the options of the torch optimiser.

    Args:
        options: all options, including `lr`, by torch's names.
    """

    affine: ClassVar[bool] = False
    """Whether the step is affine in the gradient, so that its mean is the step with the mean gradient."""
    plain: bool = False
    """Whether the step is gradient descent, theta - lr (gradient + weight_decay theta), without memory."""
    buffers: tuple[str, ...] = ()
    """Names of the buffers in the state, each (..., D)."""
    numbers: tuple[float, ...] = ()
    """Initial values of the further numbers in the state, each (..., 1)."""
    rates: tuple[float, ...] = ()
    """Rates c of eq. (1)."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.lr: float = options["lr"]
        self._sign = -1.0 if options.get("maximize", False) else 1.0
        self._weight_decay: float = options["weight_decay"]

    @property
    def largest_lr(self) -> float:
        """Learning rate above which a beta would be negative."""
        return 1 / max(self.rates) if self.rates and max(self.rates) > 0 else math.inf

    @abstractmethod
    def step(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor, lr: float | Tensor) -> list[Tensor]:
        """Return theta and memory after a step, in the order of the arguments.

        Args:
            theta: parameters (..., D).
            memory: buffers (..., D), then numbers (..., 1).
            gradient: of the loss at theta (..., D).
            lr: learning rate.
        """

    def singular(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return where the step is not a smooth function of lr at lr = 0: booleans (..., D). Default: nowhere."""
        return torch.zeros_like(gradient, dtype=torch.bool)

    def loss_gradient(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of the minimised function, including coupled weight decay."""
        if self._sign < 0:
            gradient = -gradient
        return gradient + self._weight_decay * theta if self._weight_decay else gradient


def decay_rate(beta: float, lr: float) -> float:
    """Return c of eq. (1)."""
    return (1 - beta) / lr


def root(values: Tensor, dead: Tensor) -> Tensor:
    """Return square roots, and 0 with zero derivative for dead parameters, which have had no gradient so far."""
    return torch.where(dead, 0.0, torch.where(dead, 1.0, values).sqrt())
