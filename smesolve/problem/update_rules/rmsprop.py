"""RMSprop, as `torch.optim.RMSprop`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from smesolve.problem.update_rules.update_rule import UpdateRule, decay_rate, root

__all__ = ["RMSprop"]


class RMSprop(UpdateRule):
    """RMSprop with alpha = 1 - c lr,

        v' = v + c lr (g^2 - v)                                                                                   (1)
        u = g / (sqrt(v') + eps),     theta' = theta - lr u.                                                      (2)

    The centred form has a' = a + c lr (g - a), and v' - a'^2 in place of v' in (2). With momentum, as in `SGD`, the
    buffer is m = buf lr/lr_0 and torch's learning rate is lr^2/lr_0,

        m' = (1 - c_2 lr) m + lr/lr_0 u,      theta' = theta - lr m'.                                             (3)

    The state starts at v = 0, where (2) is not smooth in lr.

    Source: Tieleman, Hinton (2012, lecture 6.5); Graves (arXiv 1308.0850) for the centred form.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self._eps, self._centered, momentum = options["eps"], options["centered"], options["momentum"]
        self.rates = (decay_rate(options["alpha"], self.lr),)
        self.buffers = ("square_avg", *["grad_avg"] * self._centered, *["momentum_buffer"] * (momentum > 0))
        if momentum > 0:
            self.rates = (*self.rates, decay_rate(momentum, self.lr))

    def step(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor, lr: float | Tensor) -> list[Tensor]:
        """Return theta, v, then a in the centred form, and m with momentum."""
        g, (v, *others) = self.loss_gradient(theta, gradient), memory
        dead = (v == 0) & (g == 0)
        v = v + self.rates[0] * lr * (g * g - v)  # (1)
        after, variance = [v], v
        if self._centered:
            a = others[0] + self.rates[0] * lr * (g - others[0])
            after, variance = [v, a], v - a * a
        moved = g / (root(variance, dead) + self._eps)  # (2)
        if len(self.rates) > 1:
            moved = (1 - self.rates[1] * lr) * others[-1] + lr / self.lr * moved  # (3)
            after = [*after, moved]
        return [theta - lr * moved, *after]

    def singular(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return where the second moment is neither positive nor dead: booleans (..., D)."""
        v, g = memory[0], self.loss_gradient(theta, gradient)
        variance = v - memory[1] * memory[1] if self._centered else v
        return ~((variance > 0) | (v == 0) & (g == 0))
