"""Stochastic gradient descent with momentum, dampening, Nesterov's step and weight decay, as `torch.optim.SGD`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smesolve.problem.update_rules.update_rule import UpdateRule, decay_rate

__all__ = ["SGD"]


class SGD(UpdateRule):
    """SGD with momentum. torch's step with learning rate lr_0, momentum mu, dampening d and the gradient g is

        buf' = mu buf + (1 - d) g,     theta' = theta - lr_0 buf',     Nesterov: theta' = theta - lr_0 (g + mu buf').

    Without dampening the buffer is of size 1/(1 - mu), so that with 1 - mu = c lr both the buffer and lr_0 must be
    rescaled. At the learning rate lr the step is torch's step with momentum mu(lr) = 1 - c lr, learning rate lr^2/lr_0
    and the same dampening, written in the buffer m = buf lr/lr_0:

        m' = (1 - c lr) m + lr/lr_0 (1 - d) g                                                                    (1)
        theta' = theta - lr m',          Nesterov: theta' = theta - lr (lr/lr_0 g + (1 - c lr) m')               (2)

    At lr = lr_0 both are torch's, and m is torch's momentum_buffer. To first order in lr noise enters m only.

    torch does not dampen the first gradient: (1) has d = 0 in the first step. With dampening the state therefore has
    one more number, which is 0 before the first step and 1 after it.
    """

    affine = True

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        momentum = options["momentum"]
        self.plain = momentum == 0
        if self.plain:
            return
        self.buffers, self.rates = ("momentum_buffer",), (decay_rate(momentum, self.lr),)
        self._dampening, self._nesterov = options["dampening"], options["nesterov"]
        if self._dampening:
            self.numbers = (0.0,)

    def singular(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return whether the first step, which is not dampened, is still to come: booleans (..., D)."""
        first = memory[1] <= 0.5 if self.numbers else torch.zeros((), dtype=torch.bool, device=gradient.device)
        return first.expand(gradient.shape)

    def step(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor, lr: float | Tensor) -> list[Tensor]:
        """Return theta, then with momentum the buffer, and with dampening 1: there has been a step."""
        gradient = self.loss_gradient(theta, gradient)
        if self.plain:
            return [theta - lr * gradient]
        weight, momentum = lr / self.lr, 1 - self.rates[0] * lr
        m = momentum * memory[0] + weight * (1 - self._dampening) * gradient  # (1)
        if self._dampening:
            m = torch.where(memory[1] > 0.5, m, weight * gradient)
        moved = weight * gradient + momentum * m if self._nesterov else m
        return [theta - lr * moved, m, *(torch.ones_like(number) for number in memory[1:])]  # (2)
