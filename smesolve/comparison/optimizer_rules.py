"""The scaling rules of torch's optimisers, derived from their modified equation, and their application to a training.

One coordinate of a gradient that averages kappa draws has the mean G and the variance S/kappa,

    g = G + sqrt(S/kappa) xi,                                                                                    (1)

with which `smesolve.symbolic` derives the equation of each optimiser, and `scaling_rule` the powers of kappa that leave
it unchanged. G and S are functions of the parameters, which have exponent 0. SGD has a rule for any noise, with
momentum or without. Adam and RMSprop have one rule where noise dominates the gradient, and one where the gradient
dominates its noise, but none in between, as the mean of g^2 is G^2 + S/kappa.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from sympy import Rational, Symbol, sqrt
from torch import Tensor

from smesolve.errors import SmesolveError
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.masks import GaussianMasks
from smesolve.problem.problem import Problem
from smesolve.problem.training import Training
from smesolve.symbolic import Centred, Iteration, adam, modified_equation, momentum, rmsprop
from smesolve.symbolic.scaling_rules import ScalingRule, scaling_rule

__all__ = ["OptimizerRule", "optimizer_rules"]

THETA, GRADIENT = sympy.symbols("theta G", real=True)
VARIANCE, KAPPA, LR = sympy.symbols("S kappa lr", positive=True)
FIRST, SECOND, EPS, DECAY = sympy.symbols("c_1 c_2 epsilon lambda", positive=True)
XI = Symbol("xi", real=True)
FIXED = (THETA, GRADIENT, VARIANCE)

EVERYWHERE, NOISE, DRIFT = (
    "for any noise",
    "where noise dominates the gradient",
    "where the gradient dominates its noise",
)
"""Regimes."""

NAMES = {Rational(1): "linear", Rational(1, 2): "square root"}
"""Names of rules by the exponent of the learning rate."""


@dataclass(frozen=True)
class OptimizerRule:
    """One rule of one optimiser, in one regime."""

    regime: str
    """The regime in which the equation is unchanged, in words."""
    rule: ScalingRule
    options: Mapping[str, Rational]
    """Exponents of torch's options: "lr", "1 - momentum", "1 - beta_1", "1 - beta_2", "1 - alpha", "eps",
    "weight_decay"."""
    buffers: Mapping[str, Rational]
    """Exponents of the buffers of a `Training`, by torch's names."""

    @property
    def name(self) -> str:
        """ "linear" or "square root"."""
        return NAMES[self.rule.exponents[LR]]

    def __str__(self) -> str:
        changed = [f"{name} ~ {_power(exponent)}" for name, exponent in self.options.items() if exponent]
        kept = [name for name, exponent in self.options.items() if not exponent]
        same = [f"{' and '.join(kept)} as before"] if kept else []
        return ", ".join([*changed, *same, f"steps ~ {_power(self.rule.steps)}"])

    def applied(self, trained: Problem, state: Tensor, lr: float, kappa: int) -> tuple[Problem, Tensor, float]:
        """Return the training with kappa draws per step by this rule, its start, and its learning rate.

        Args:
            trained: the training with one draw per step: a `Training`, or a problem for plain SGD.
            state: (S,), the start with one draw per step.
            lr: learning rate with one draw per step.
            kappa: number of draws that a step averages.

        Raises:
            SmesolveError: a beta would be negative.
        """
        averaged, scaled = AveragedProblem(trained.trained, kappa), lr * _factor(kappa, self.rule.exponents[LR])
        if not isinstance(trained, Training):
            return averaged, state, scaled
        if self.regime == EVERYWHERE:  # what decays is constant in the time of the learning rate
            made = trained.of_problem(averaged)
        else:
            made = trained.of_problem(averaged, scaled, **self._changed(trained, lr, kappa))
        made.check_lr(scaled)
        sizes = [trained.problem.dim] * (1 + len(trained.buffers))
        theta, *parts = state.split([*sizes, len(state) - sum(sizes)])
        buffers = [
            _factor(kappa, self.buffers[name]) * part for name, part in zip(trained.buffers, parts[:-1], strict=True)
        ]
        return made, torch.cat([theta, *buffers, parts[-1]]), scaled

    def _changed(self, trained: Training, lr: float, kappa: int) -> dict[str, Any]:
        """Return the options of adaptive optimisers at the learning rate for kappa draws per step."""
        given = trained.options

        def decayed(name: str, beta: float) -> float:
            left = (1 - beta) * lr / trained.lr * _factor(kappa, self.options[f"1 - {name}"])
            if left > 1:
                raise SmesolveError(
                    f"kappa={kappa} makes 1 - {name} = {left:.3g} by the {self.name} rule; average fewer draws, or "
                    f"take {name} nearer to 1 than {beta:g}."
                )
            return 1 - left

        changed: dict[str, Any] = {"eps": given["eps"] * _factor(kappa, self.options["eps"])}
        if "betas" in given:
            changed["betas"] = tuple(decayed(f"beta_{k}", beta) for k, beta in enumerate(given["betas"], start=1))
        else:
            changed["alpha"] = decayed("alpha", given["alpha"])
        if "weight_decay" in self.options:
            changed["weight_decay"] = given["weight_decay"] * _factor(kappa, self.options["weight_decay"])
        return changed


def optimizer_rules(trained: Problem) -> list[OptimizerRule]:
    """Derive the rules of a training.

    Args:
        trained: a `Training` by SGD, Adam, AdamW or RMSprop, or a problem for plain SGD.

    Returns:
        One rule for SGD; two rules for adaptive optimisers, the rule for large noise first.

    Raises:
        SmesolveError: another optimiser, or RMSprop with momentum or centred.
    """
    options = trained.options if isinstance(trained, Training) else {"momentum": 0.0}
    name = trained.name if options and isinstance(trained, Training) else "SGD" if options else "a step of its own"
    if name == "SGD" and not options["momentum"]:
        return [_rule(_descent(), EVERYWHERE, {})]
    if name == "SGD":
        return [_rule(momentum(_descent(), rate=FIRST), EVERYWHERE, {"momentum": FIRST})]
    if name in ("Adam", "AdamW"):
        made = adam(_descent(), FIRST, SECOND, EPS)
        if name == "AdamW" and options["weight_decay"]:
            made = _with_decay(made)
        return _adaptive(made, {"beta_1": FIRST, "beta_2": SECOND})
    if name == "RMSprop" and not options["momentum"] and not options["centered"]:
        return _adaptive(rmsprop(_descent(), SECOND, EPS), {"alpha": SECOND})
    raise SmesolveError(
        f"optimizer must be one whose scaling rule is derived, got {name} with its options; "
        "take sgd, adam, adamw, or rmsprop without momentum and not centered, or derive the rule of your own by "
        "smesolve.symbolic.scaling_rule."
    )


def _descent() -> Iteration:
    """Return gradient descent with the gradient (1)."""
    step = -LR * (GRADIENT + sqrt(VARIANCE / KAPPA) * XI)
    return Iteration([THETA], [step], {XI: Centred(GaussianMasks(1))}, LR, [GRADIENT, VARIANCE, KAPPA])


def _with_decay(iteration: Iteration) -> Iteration:
    """Return the iteration with decoupled weight decay."""
    step = [iteration.step[0] - LR * DECAY * THETA, *iteration.step[1:]]
    return dataclasses.replace(iteration, step=step, constants=[*iteration.constants, DECAY])


def _adaptive(iteration: Iteration, decays: Mapping[str, Symbol]) -> list[OptimizerRule]:
    """Return the rules of an optimiser that divides by the root of second moments v.

    v averages 1/(1 - beta_2) gradients, so that its own noise is small: the rule for large noise neglects it.
    """
    *means, v = iteration.state[1:]
    beside = [symbol for symbol in (*means, DECAY) if symbol in (*iteration.state, *iteration.constants)]
    large = {"vanishing": {GRADIENT: 1, **dict.fromkeys(beside, 1)}, "noiseless": [v]}
    small = {"vanishing": {VARIANCE: 1}}
    return [_rule(iteration, NOISE, decays, **large), _rule(iteration, DRIFT, decays, **small)]


def _rule(iteration: Iteration, regime: str, decays: Mapping[str, Symbol], **limit: Any) -> OptimizerRule:
    found = scaling_rule(modified_equation(iteration, order=1), KAPPA, FIXED, **limit)
    assert found is not None
    lr, exponents = found.exponents[LR], found.exponents
    options = {"lr": lr} | {f"1 - {name}": lr + exponents[c] for name, c in decays.items()}  # 1 - beta = c lr
    if "momentum" in decays:  # torch's learning rate is that of the mean gradient times 1 - momentum
        options["lr"] += options["1 - momentum"]
    for name, symbol in (("eps", EPS), ("weight_decay", DECAY)):
        if symbol in exponents:
            options[name] = exponents[symbol]
    of_buffers = {"m": ("exp_avg", "momentum_buffer"), "v": ("exp_avg_sq", "square_avg")}
    buffers = {
        name: exponents[state] for state in iteration.state[1:] for name in of_buffers[state.name.partition("_")[0]]
    }
    return OptimizerRule(regime, found, options, buffers)


def _factor(kappa: int, exponent: Rational) -> float:
    return math.pow(kappa, exponent)


def _power(exponent: Rational) -> str:
    if exponent == 1:
        return "kappa"
    return "1/kappa" if exponent == -1 else f"kappa^{exponent}" if exponent.q == 1 else f"kappa^({exponent})"
