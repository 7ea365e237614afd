"""Adam, AdamW and NAdam, as in `torch.optim`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.update_rules.update_rule import UpdateRule, decay_rate, root

__all__ = ["Adam", "AdamW", "NAdam"]


class Adam(UpdateRule):
    """Adam with beta_i = 1 - c_i lr, and p_i = beta_i^k after k steps for the bias correction,

        m' = m + c_1 lr (g - m),     v' = v + c_2 lr (g^2 - v),     p_i' = (1 - c_i lr) p_i                      (1)
        theta' = theta - lr m' / (1 - p_1') / (sqrt(v' / (1 - p_2')) + eps).                                     (2)

    The bias correction is a schedule; with p_1 and p_2 in the state the equation is autonomous nevertheless. Before the
    first step they are 1, and (2) has no limit for lr -> 0, because m and v are as small as 1 - p_1 and 1 - p_2.

    Source: Kingma, Ba (ICLR 2015); Malladi, Lyu, Panigrahi, Arora (NeurIPS 2022) for 1 - beta in units of time.
    """

    decoupled = False
    """Whether weight decay is decoupled from the gradient, theta (1 - lr weight_decay), by default."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        if options.get("amsgrad"):
            raise SmesolveError(
                "amsgrad takes the largest second moment of the whole run, which makes no smooth step; leave it out."
            )
        self.rates = (decay_rate(options["betas"][0], self.lr), decay_rate(options["betas"][1], self.lr))
        self._eps = options["eps"]
        self._decoupled = self.decoupled or options.get("decoupled_weight_decay", False)
        self.buffers, self.numbers = ("exp_avg", "exp_avg_sq"), (1.0, 1.0)

    def step(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor, lr: float | Tensor) -> list[Tensor]:
        """Return theta, m, v, p_1 and p_2."""
        theta, g = self._decayed(theta, gradient, lr)
        m, v, p_1, p_2 = memory
        (m, v), dead = self._averages(m, v, g, lr), (v == 0) & (g == 0)
        p_1, p_2 = ((1 - rate * lr) * p for rate, p in zip(self.rates, (p_1, p_2), strict=True))
        theta = theta - lr / (1 - p_1) * m / (root(v, dead) / (1 - p_2).sqrt() + self._eps)  # (2)
        return [theta, m, v, p_1, p_2]

    def singular(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return where v is neither positive nor dead, or a bias correction is 0: booleans (..., D)."""
        v, g = memory[1], self._decayed(theta, gradient, 0.0)[1]
        return ~((v > 0) | (v == 0) & (g == 0)) | (memory[2] == 1) | (memory[3] == 1)

    def _decayed(self, theta: Tensor, gradient: Tensor, lr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return theta and gradient with weight decay in one of them."""
        if not self._decoupled:
            return theta, self.loss_gradient(theta, gradient)
        return theta * (1 - lr * self._weight_decay), self._sign * gradient

    def _averages(self, m: Tensor, v: Tensor, g: Tensor, lr: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return m' and v' of (1)."""
        return m.lerp(g, self.rates[0] * lr), v.lerp(g * g, self.rates[1] * lr)


class AdamW(Adam):
    """Adam with decoupled weight decay: theta (1 - lr weight_decay) in place of theta in (2).

    Source: Loshchilov, Hutter (ICLR 2019).
    """

    decoupled = True


class NAdam(Adam):
    """Adam with Nesterov's step.

    torch uses mu_k = beta_1 (1 - q_k/2) with q_k = 0.96^(k momentum_decay), and the product P_k of mu_1, ..., mu_k.
    With d(q) = (1 - beta_1 (1 - q/2)) / lr_0 at the given learning rate lr_0, mu = 1 - d lr, q' = (1 - c_3 lr) q and
    q'' = (1 - c_3 lr) q', the step is

        P' = (1 - d(q') lr) P,      mu'' = 1 - d(q'') lr                                                         (3)
        theta' = theta - lr [ lr d(q') g / (1 - P') + mu'' m' / (1 - mu'' P') ] / (sqrt(v' / (1 - p_2')) + eps).  (4)

    P takes the place of p_1. As d lr_0 is near 1/2 for the first thousands of steps, P is negligible after a few steps.

    Source: Dozat (ICLR 2016 workshop).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.numbers = (1.0, 1.0, 1.0)
        self._beta: float = options["betas"][0]
        self._decay_rate = decay_rate(0.96 ** options["momentum_decay"], self.lr)  # c_3

    @property
    def largest_lr(self) -> float:
        """Learning rate above which a beta or mu, or the factor of q, would be negative."""
        of_q = 1 / self._decay_rate if self._decay_rate > 0 else math.inf
        return min(super().largest_lr, self.lr / (1 - self._beta / 2), of_q)

    def step(self, theta: Tensor, memory: Sequence[Tensor], gradient: Tensor, lr: float | Tensor) -> list[Tensor]:
        """Return theta, m, v, P, p_2 and q."""
        theta, g = self._decayed(theta, gradient, lr)
        m, v, product, p_2, q = memory
        (m, v), dead = self._averages(m, v, g, lr), (v == 0) & (g == 0)
        p_2, q = (1 - self.rates[1] * lr) * p_2, (1 - self._decay_rate * lr) * q
        falls, ahead = self._rate(q), 1 - lr * self._rate((1 - self._decay_rate * lr) * q)
        product = (1 - lr * falls) * product  # (3)
        moved = lr * falls / (1 - product) * g + ahead / (1 - ahead * product) * m
        theta = theta - lr * moved / (root(v, dead) / (1 - p_2).sqrt() + self._eps)  # (4)
        return [theta, m, v, product, p_2, q]

    def _rate(self, q: Tensor) -> Tensor:
        """Return d(q)."""
        return (1 - self._beta * (1 - q / 2)) / self.lr
