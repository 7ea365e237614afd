"""Training with momentum, Adam and any other optimiser: a problem over the optimiser's state."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, invalid
from smesolve.problem.call_numbers import check_call_number, check_rate, check_term_count
from smesolve.problem.one_at_a_time import transposed_derivative
from smesolve.problem.problem import Problem, check_trailing
from smesolve.problem.step_expansion import check_step, taylor_terms
from smesolve.problem.update_rules.torch_options import rule_of
from smesolve.problem.update_rules.update_rule import UpdateRule
from smesolve.sampling.randomness import keyed_generator
from smesolve.validation import (
    check_integer,
    check_parameters,
    check_positive,
    check_problem,
    check_seed,
    check_tensor,
)

__all__ = ["Training"]

OwnStep = Callable[[Tensor, Any, "float | Tensor"], Tensor]
"""step(state (..., S), draw, lr) -> state."""

TRIED_DRAWS = 16
"""Number of draws with which a start is tried."""

TRIED_STEPS = 2
"""Number of steps of the user before the one that is tried."""


class Training(Problem):
    """The parameters of a problem, trained by an optimiser: `Problem.step` moves the optimiser's whole state.

    The state (S,) holds the parameters (D), then the optimiser's buffers (D each), then single numbers. Observables are
    functions of the parameters in it. Decay rates are taken in units of time, 1 - beta = c lr, so that the state moves
    by O(lr) in a step (`smesolve.problem.update_rules`). At the given learning rate the step is torch.optim's own. At
    orders 1 and 2 the modified equation follows from the step (`smesolve.solver.modified_equation`, eq. 5).

    Mean and noise of the step have a closed form where those of the problem do and the step is affine in the gradient:
    SGD with all its options. Adam and RMSprop square the gradient; their equations are solved by the schemes "svag" and
    "sampled_euler", and their weak errors are measured by defects.

    Adam, AdamW, NAdam and RMSprop start at v = 0, where m / (sqrt(v) + eps) is not smooth and the equation is singular.
    Studies of the equation begin at a state that `warm` returns. The iteration itself starts anywhere.

    Args:
        problem: what is trained.
        optimizer: `torch.optim.SGD`, `Adam`, `AdamW`, `NAdam` or `RMSprop` (the class); or a step of your own,
            step(state, draw, lr) -> state for states (..., S), which is a smooth function of lr, equals the state at
            lr = 0, and takes gradients from the problem.
        lr: learning rate at which the optimiser has these options.
        memory: initial values (E,) of the state beyond the parameters, for a step of your own. Default: none.
        options: options of the torch optimiser, with torch's defaults: momentum, dampening, nesterov, weight_decay,
            maximize, betas, eps, alpha, centered, momentum_decay, decoupled_weight_decay.

    Raises:
        SmesolveError: the optimiser is unknown, torch refuses the options, the problem has a schedule or is a training
            itself, or a step of your own is not smooth in lr.
        TypeError: the optimiser does not have such an option.

    Source: Li, Tai, E (JMLR 20(40), 2019) for momentum; Malladi, Lyu, Panigrahi, Arora (NeurIPS 2022) for adaptive
    optimisers of order 1.
    """

    linear_step = conservative = False

    @entry_point
    def __init__(
        self,
        problem: Problem,
        optimizer: type[torch.optim.Optimizer] | OwnStep,
        lr: float,
        *,
        memory: Tensor | None = None,
        **options: Any,
    ) -> None:
        self.problem = check_problem("problem", problem)
        if not problem.autonomous or not problem.linear_step or isinstance(problem, Training):
            raise SmesolveError(
                f"problem must have gradients, neither a schedule nor a step of its own as a training or shuffled "
                f"epochs have it, got {problem!r}; train the problem that it is made of, and schedule the training."
            )
        self.lr = check_positive("lr", lr)
        self.network, self.x, self.y, self.samples = problem.network, problem.x, problem.y, problem.samples
        self.dtype, self.device = problem.dtype, problem.device
        self.draw_dim, self.noise_dim, self.linear_noise = problem.draw_dim, problem.noise_dim, problem.linear_noise
        self._rule: UpdateRule | None = None
        self.options: Mapping[str, Any] = {}
        """All options of the torch optimiser, its defaults included; empty for a step of your own."""
        self.buffers: tuple[str, ...] = ()
        """Buffers of the torch optimiser for each parameter, by torch's names."""
        self._own: OwnStep | None = None
        self._given = optimizer, options
        self._limits, self._lr_factor = dict[bytes, float](), 1.0
        if inspect.isclass(optimizer) and issubclass(optimizer, torch.optim.Optimizer):
            if memory is not None:
                raise SmesolveError("memory is for a step of your own; leave it out: torch's optimisers have theirs.")
            self._rule = rule = rule_of(optimizer, self.lr, options)
            self.name, self.largest_lr = optimizer.__name__, rule.largest_lr
            self.options, self.buffers = rule.options, rule.buffers
            numbers = self._numbers(rule.numbers)
            self._memory = torch.cat([numbers.new_zeros(len(rule.buffers) * problem.dim), numbers])
            self._sizes = [problem.dim] * (1 + len(rule.buffers)) + [1] * len(rule.numbers)
            self.linear_step = rule.plain
            self.conservative = rule.plain and problem.conservative
        else:
            self._own, self.name = _own_step(optimizer, options), getattr(optimizer, "__name__", "step")
            self._memory = self._numbers(())
            if memory is not None:
                self._memory = check_tensor("memory", memory, "E", dtype=problem.dtype, device=problem.device)
        self.has_closed_form = problem.has_closed_form and self._rule is not None and self._rule.affine
        self.dim = problem.dim + len(self._memory)
        if not self.has_closed_form:
            self.noise_dim = 0
        if self._own is not None:
            parameters = torch.linspace(-0.5, 0.5, problem.dim, dtype=self.dtype, device=self.device)
            self._own_tried(torch.cat([parameters, self._memory]).expand(2, -1))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.problem!r}, {self.name}, lr={self.lr:g}, S={self.dim})"

    def check(self) -> None:
        """Do nothing: the constructor has checked problem and optimiser."""

    # --- the state ---------------------------------------------------------------------------------------------------

    @property
    def trained(self) -> Problem:
        """The problem whose parameters are trained."""
        return self.problem

    def parameters(self, theta: Tensor) -> Tensor:
        """Return the parameters (..., D) in states (..., S)."""
        check_trailing("state", theta, (self.dim,), "the training's dim S", self.dtype)
        return theta[..., : self.problem.dim]

    @entry_point
    def initial(self, seed: int | None = 0) -> Tensor:
        """Return the state (S,) at the first step, with the initial parameters of the problem (`Problem.initial`)."""
        return self.start(self.problem.initial(seed))

    @entry_point
    def theta_from(self, source: nn.Module | Mapping[str, Any]) -> Tensor:
        """Return the state (S,) at the first step, with the parameters of a module or its state_dict."""
        return self.start(self.problem.theta_from(source))

    @entry_point
    def start(self, theta: Tensor) -> Tensor:
        """Return the state (S,) at the first step from parameters theta (D,)."""
        return torch.cat([check_parameters("theta", theta, self.problem), self._memory])

    @entry_point
    @torch.no_grad()
    def warm(self, state: Tensor, steps: int, seed: int = 0) -> Tensor:
        """Return the state (S,) of one discrete run after some steps at the training's own learning rate.

        Args:
            state: (S,), the start, such as `initial`.
            steps: number of steps. With Adam a few of 1/(1 - beta_2) steps make the second moments settle.
            seed: of the draws, which are independent of those of every study.

        Raises:
            SmesolveError: an argument is malformed, or the run diverges.
        """
        state = check_parameters("state", state, self)
        steps, seed = check_integer("steps", steps, least=0), check_seed("seed", seed)
        for step in range(steps):
            uniforms = torch.from_numpy(keyed_generator(seed, "warm", 0, step).random((1, self.draw_dim)))
            state = self.step(state[None], self.draw(uniforms), self.lr)[0]
        if not state.isfinite().all():
            raise SmesolveError(f"lr={self.lr:g} makes training diverge in {steps} steps; take a smaller lr.")
        return state

    def with_lr_factor(self, factor: float) -> Training:
        """Return the training with torch's learning rate times a factor u: theta + u (theta' - theta), same buffers."""
        if self._rule is None:
            raise SmesolveError(f"schedules do not know {self.name}, a step of your own; let its state hold the time.")
        check_call_number("factor", factor)
        other = copy.copy(self)
        other._lr_factor, other._limits = factor * self._lr_factor, {}
        return other

    def stability_limit(self, theta: Tensor, horizon: float = 0.0) -> float:
        """Return the learning rate above which the mean iteration, linearized at a state (S,), is unstable; kept."""
        check_call_number("horizon", horizon, 0.0)
        key = check_parameters("theta", theta, self).cpu().numpy().tobytes()
        if key not in self._limits:
            self._limits[key] = super().stability_limit(theta, horizon)
        return self._limits[key]

    def check_lr(self, lr: float | Tensor) -> None:
        """Refuse a learning rate at which a beta would be negative."""
        check_rate(lr)
        if not isinstance(lr, Tensor) and lr > self.largest_lr * (1 + 1e-9):
            raise SmesolveError(
                f"lr={lr:g} is above {self.largest_lr:g}, from where on 1 - beta = c lr is above 1; take a smaller lr, "
                f"or make the training at a larger one than {self.lr:g} (training.lr in a configuration)."
            )

    def check_start(self, name: str, theta: Tensor) -> None:
        """Refuse a state (S,) from which there is no modified equation, as the step is not smooth in lr there."""
        if self._rule is None:
            return
        parameters, *memory = self._split(theta)
        gradients = self.problem.gradient(parameters, self.problem.sample(TRIED_DRAWS, seed=0))
        gradients = gradients.expand(TRIED_DRAWS, -1)  # without noise the gradient has no dimension for draws
        count = int(self._rule.singular(parameters, memory, gradients).any(0).sum())
        if count:
            raise SmesolveError(
                f"{name} is a cold start of {self.name} in {count} of {self.problem.dim} parameters: its step is not "
                f"smooth in lr there, so there is no modified equation; begin at training.warm({name}, steps=...)."
            )

    def _split(self, state: Tensor) -> list[Tensor]:
        """Return parameters and buffers (..., D), and numbers (..., 1)."""
        return list(torch.split(state, self._sizes, dim=-1))

    def _numbers(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    # --- the step ----------------------------------------------------------------------------------------------------

    def step(self, theta: Tensor, draw: Any, lr: float | Tensor) -> Tensor:
        """Return states (..., S) after one step with given draws. Cost: one gradient of the problem."""
        self.check_lr(lr)
        if self._own is not None:
            return self._own(theta, draw, lr)
        return self._moved(theta, self.problem.gradient(self.parameters(theta), draw), lr)

    def step_terms(self, theta: Tensor, draw: Any, count: int) -> list[Tensor]:
        """Return the first `count` of F, F2, F3, ..., each (..., S), by derivatives of the step in lr."""
        check_term_count(count)
        if self._rule is None or self.linear_step:
            return super().step_terms(theta, draw, count)
        return self._terms(theta, self.problem.gradient(self.parameters(theta), draw), count)

    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """Return -F, minus the derivative of the step in lr at lr = 0, for given draws: (..., S)."""
        if self._rule is None:
            return -self.step_terms(theta, draw, 1)[0]
        return self._field(theta, self.problem.gradient(self.parameters(theta), draw))

    def _moved(self, state: Tensor, gradient: Tensor, lr: float | Tensor) -> Tensor:
        """Return states after a step with given gradients (..., D)."""
        lr = check_rate(lr)
        assert self._rule is not None
        theta, *memory = (part.expand(*gradient.shape[:-1], -1) for part in self._split(state))
        return torch.cat(self._rule.scheduled_step(theta, memory, gradient, lr, self._lr_factor), dim=-1)

    def _terms(self, state: Tensor, gradient: Tensor, count: int) -> list[Tensor]:
        """Return F, F2, ... of the step with given gradients."""
        return taylor_terms(lambda lr: self._moved(state, gradient, lr), state, count)[1:]

    def _field(self, state: Tensor, gradient: Tensor) -> Tensor:
        """Return -F of the step with given gradients."""
        if self._rule is not None and self.linear_step:
            return self._lr_factor * self._rule.loss_gradient(state, gradient)
        return -self._terms(state, gradient, 1)[0]

    def _own_tried(self, state: Tensor) -> None:
        """Check a step of the user at states (B, S), after some steps that make its memory smooth."""
        draw = self.draw(torch.full((len(state), self.draw_dim), 0.5, dtype=torch.float64, device="cpu"))
        for _ in range(TRIED_STEPS):
            moved = call_of_user("step", self.step, state, draw, self.lr)
            if not isinstance(moved, Tensor) or moved.shape != state.shape or moved.dtype != state.dtype:
                break  # which is said below
            state = moved if moved.isfinite().all() else state
        check_step("step", False, lambda lr: self.step(state, draw, lr), state)

    # --- closed forms, of steps that are affine in the gradient -------------------------------------------------------

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Return -E F: (..., S)."""
        return self._field(theta, self._mean(theta))

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Return (..., S) from standard normals (..., M): mean zero and the covariance of F."""
        noise = self._noise(theta, normals)
        return self._field(theta, noise) - self._field(theta, torch.zeros_like(noise))

    def mean_second_term(self, theta: Tensor) -> Tensor:
        """Return E F2: (..., S)."""
        return super().mean_second_term(theta) if self.linear_step else self._terms(theta, self._mean(theta), 2)[1]

    def mean_step(self, theta: Tensor, lr: float | Tensor) -> Tensor:
        """Return the mean of the step over the draws: (..., S)."""
        return self._moved(theta, self._mean(theta), lr)

    def step_noise(self, theta: Tensor, normals: Tensor, lr: float | Tensor) -> Tensor:
        """Return (..., S) from standard normals (..., M): mean zero and the covariance of the step."""
        noise = self._noise(theta, normals)
        return self._moved(theta, noise, lr) - self._moved(theta, torch.zeros_like(noise), lr)

    def _mean(self, state: Tensor) -> Tensor:
        self._check_closed_form()
        return self.problem.mean_gradient(self.parameters(state))

    def _noise(self, state: Tensor, normals: Tensor) -> Tensor:
        self._check_closed_form()
        return self.problem.noise_product(self.parameters(state), normals)

    def _check_closed_form(self) -> None:
        if not self.has_closed_form:
            raise SmesolveError(
                f"optimizer {self.name} on {self.problem!r} has no mean step in closed form; take scheme='svag' or "
                "'sampled_euler', or estimator='defects'."
            )

    @entry_point
    def with_test_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Self:
        """Return the same training with test data, as `Problem.with_test_data`."""
        other = copy.copy(self)
        other.problem = self.problem.with_test_data(x, y)
        return other

    def of_problem(self, problem: Problem, lr: float | None = None, **options: Any) -> Training:
        """Return the training of another problem by the same optimiser of torch.

        Args:
            problem: what is trained.
            lr: learning rate at which the optimiser has its options. Default: the same.
            options: those that change.
        """
        optimizer, given = self._given
        return Training(problem, optimizer, self.lr if lr is None else lr, **{**given, **options})

    # --- from the problem ------------------------------------------------------------------------------------------

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path: those of the problem, and a state."""
        return self.problem.floats_per_path + self.dim

    @property
    def reference_floats(self) -> int:
        """Floats in the arrays of one `reference_gradient`: those of the problem, and some states."""
        return self.problem.reference_floats + 6 * self.dim

    @property
    def draw_count(self) -> float:
        """Number of different draws."""
        return self.problem.draw_count

    def draw(self, uniforms: Tensor) -> Any:
        """Return draws from uniforms (..., U)."""
        return self.problem.draw(uniforms)

    def all_draws(self) -> tuple[Any, Tensor]:
        """Return every draw and its probability (K,)."""
        return self.problem.all_draws()

    def loss(self, theta: Tensor) -> Tensor:
        """Return the loss of the parameters in states (..., S): (...,)."""
        return self.problem.loss(self.parameters(theta))

    def modified_loss(self, theta: Tensor) -> Tensor:
        """Return the mean of the noisy loss of the parameters in states (..., S): (...,)."""
        return self.problem.modified_loss(self.parameters(theta))

    def noise_coordinates(self, draw: Any) -> Tensor | None:
        """Return the functions of the draw that the noise product replaces by normals (..., M), or None."""
        return self.problem.noise_coordinates(draw) if self.has_closed_form else None

    def noise_coefficients(self, theta: Tensor, direction: Tensor) -> Any:
        """Return the coefficients of <direction, -F> to first order in the draw; both arguments are (S,)."""
        if self._rule is None:
            return None
        parameters = self.parameters(theta)
        mean = self.problem.reference_gradient(parameters)
        along = transposed_derivative(lambda gradient: self._field(theta, gradient), mean, direction)
        return self.problem.noise_coefficients(parameters, along)

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """Return the noise of first order in the draw along that direction: (...,)."""
        if self._rule is None:
            return super().noise_along(coefficients, draw)
        return self.problem.noise_along(coefficients, draw)


def _own_step(step: Any, options: dict[str, Any]) -> OwnStep:
    """Return a step written by the user after checking that it is a callable without options."""
    if not callable(step) or isinstance(step, torch.optim.Optimizer):
        raise invalid("optimizer", "be a class such as torch.optim.Adam, or a step(state, draw, lr)", step)
    for key in options:
        raise TypeError(f"Training has no argument {key} for a step of your own; leave it out.")
    made: OwnStep = step
    return made
