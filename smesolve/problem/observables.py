"""Observables g(theta): functions of the parameters that are measured along paths, and whose means are compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.function_trial import called, check_derivative, check_rows
from smesolve.problem.losses import ROUNDING
from smesolve.problem.problem import Problem
from smesolve.problem.reverse_derivative import value_and_gradient
from smesolve.validation import MOST_ENTRIES, check_observables, check_problem

__all__ = [
    "OBSERVABLES",
    "Observable",
    "ObservableWarning",
    "Observables",
    "check_nothing_kept",
    "check_sizes",
    "grows_polynomially",
    "in_threads",
    "is_piecewise_constant",
    "measured_observables",
    "named_observables",
    "squared_norm",
]

Observable = Callable[[Tensor], Tensor]
"""A map of theta (..., D) to (...,). To measure its weak error it must be differentiable by `torch.func`; the theorem
of weak order needs a smooth one."""

Observables = Sequence[str | Observable] | Mapping[str, str | Observable]
"""Names and callables, which are named by their `__name__`; or a mapping from names of your own to them."""


class ObservableWarning(RuntimeWarning):
    """An observable that jumps, or that is not finite on some paths."""


def squared_norm(theta: Tensor) -> Tensor:
    """Return |theta|^2, (...,)."""
    return theta.square().sum(-1)


def in_threads(observable: Observable) -> bool:
    """Return whether threads may share an observable: a method of a problem that they may share, or |theta|^2."""
    owner = getattr(observable, "__self__", None)
    return observable is squared_norm or (isinstance(owner, Problem) and owner.in_threads)


def _accuracy(problem: Problem) -> Observable:
    """Return the share of samples (...,) whose largest output is that of their class."""
    labels = _class_labels(problem)

    def accuracy(theta: Tensor) -> Tensor:
        return (problem.outputs(theta).argmax(-1) == labels).to(theta.dtype).mean(-1)

    return accuracy


OBSERVABLES: dict[str, Callable[[Problem], Observable]] = {
    "loss": lambda problem: problem.loss,
    "modified_loss": lambda problem: problem.modified_loss,
    "squared_norm": lambda problem: squared_norm,
    "test_loss": lambda problem: _held_out(problem).loss,
    "accuracy": _accuracy,
    "test_accuracy": lambda problem: _accuracy(_held_out(problem)),
}
"""Observables by name, each a function that makes it for a problem. Add one of your own to use it by name."""

_BUILT_IN = frozenset(OBSERVABLES)

MAX_DEGREE = 16
"""Growth like a higher power of theta counts as faster than any polynomial."""

LARGEST_VALUE = 1e60
"""Largest value of an observable, and largest inverse of one, around the start of a study."""

RAYS = 8
"""Number of rays along which the growth of an observable is evaluated, and of points at which its gradient is."""


@entry_point
def named_observables(problem: Problem, observables: Observables) -> dict[str, Observable]:
    """Return observables for a comparison of means, by name.

    Args:
        problem: the problem that the names refer to.
        observables: names in `OBSERVABLES`, coordinates "theta[3]", and callables, named by their `__name__`; or a
            mapping from names of your own to them.

    Raises:
        SmesolveError: a name is unknown or needs what this problem does not have; a coordinate lies outside the
            parameters; or a callable does not map (B, D) to (B,), or torch cannot differentiate it.
    """
    problem = check_problem("problem", problem)
    origin = torch.zeros(problem.dim, dtype=problem.dtype, device=problem.device)
    result = measured_observables(problem, origin, observables)
    point = _trial_points(origin)[1]
    for name, function in result.items():
        what = f"observable {name!r}"
        _, gradient = call_of_user(f"{what}, whose derivative torch takes,", value_and_gradient, function, point)
        direction = torch.linspace(1.0, 2.0, len(point), device="cpu").to(point)
        check_derivative(what, function, point, direction, (gradient * direction).sum())
    return result


def measured_observables(problem: Problem | None, like: Tensor, observables: Observables) -> dict[str, Observable]:
    """Return observables that are evaluated but not differentiated, by name.

    Args:
        problem: the problem that the names refer to. None for an SDE without one: then names that need a problem are
            refused.
        like: a tensor of the parameters' size (D,), dtype and device, or an optimiser's state (S,).
        observables: as for `named_observables`. For a state they are applied to the parameters in it.

    Raises:
        SmesolveError: as for `named_observables`, except that derivatives are not tried.
    """
    if problem is not None and problem.trained is not problem:
        found = measured_observables(problem.trained, problem.parameters(like), _without_state(observables))
        return {name: _OfParameters(problem, function) for name, function in found.items()}
    checked = check_observables("observables", observables)
    if len(checked) > MOST_ENTRIES:
        raise SmesolveError(
            f"observables has {len(checked)} entries, more than {MOST_ENTRIES}; give fewer, or a callable that "
            "computes what you want of many."
        )
    result: dict[str, Observable] = {}
    for name, observable in checked.items() if isinstance(checked, dict) else ((_name_of(o), o) for o in checked):
        if name in result:
            raise SmesolveError(f"observables holds {name!r} twice; leave one out, or rename the callable.")
        if callable(observable):
            _try(name, observable, like)
            result[name] = observable
        else:
            result[name] = _known(problem, observable, like)
    return result


@dataclass(frozen=True)
class _OfParameters:
    """An observable as a function of an optimiser's state: it is applied to the parameters in the state."""

    problem: Problem
    observable: Observable

    def __call__(self, state: Tensor) -> Tensor:
        return self.observable(self.problem.parameters(state))


@dataclass(frozen=True)
class _Coordinate:
    """One parameter."""

    index: int

    def __call__(self, theta: Tensor) -> Tensor:
        return theta[..., self.index]


def _without_state(observables: Any) -> Any:
    """Return observables as functions of the parameters: the entries of a mapping may be `_OfParameters`."""
    if not isinstance(observables, Mapping):
        return observables
    return {name: one.observable if isinstance(one, _OfParameters) else one for name, one in observables.items()}


def _name_of(observable: str | Observable) -> str:
    return observable if isinstance(observable, str) else getattr(observable, "__name__", repr(observable))


def _try(name: str, observable: Observable, like: Tensor) -> None:
    """Check that a callable maps (B, D) to (B,), and returns the same values when it is called again."""
    points = like.new_zeros(3, like.shape[-1])
    trial = call_of_user(f"observable {name!r}", observable, points)
    if not isinstance(trial, Tensor) or trial.shape != (3,):
        raise SmesolveError(
            f"observable {name!r} must map theta (..., D) to (...,), but it maps (3, {like.shape[-1]}) to "
            f"{tuple(trial.shape) if isinstance(trial, Tensor) else shown(trial)}; reduce the last dimension only, as "
            "theta.norm(dim=-1) does."
        )
    if trial.dtype != like.dtype:
        raise SmesolveError(
            f"observable {name!r} must return numbers of the problem's {like.dtype}, but returns "
            f"{trial.dtype}; convert them, for example by .to({like.dtype}), or take the real part."
        )
    call_of_user(f"observable {name!r}", called, f"observable {name!r}", observable, _trial_points(like))
    check_rows(f"observable {name!r}", observable, _trial_points(like))


def _trial_points(like: Tensor) -> Tensor:
    """Return three different points (3, D), between whose coordinates there are no simple relations."""
    numbers = torch.arange(3 * like.shape[-1], dtype=torch.float64, device="cpu")
    return (0.4 + 1.7 * torch.sin(numbers.square() + 1)).to(like).view(3, -1)


def _known(problem: Problem | None, name: str, like: Tensor) -> Observable:
    """Return a coordinate, or the observable of a name in `OBSERVABLES`."""
    coordinate = re.fullmatch(r"theta\[(\d+)\]", name)
    if coordinate:
        index, dim = int(coordinate[1]), like.shape[-1]
        if index >= dim:
            raise SmesolveError(
                f"observable {name!r} lies outside the {dim} parameters; take an index from 0 to {dim - 1}."
            )
        return _Coordinate(index)
    if name not in OBSERVABLES:
        raise SmesolveError(
            f"observable must be one of {', '.join(OBSERVABLES)}, a coordinate such as 'theta[0]', or a callable, "
            f"got {name!r}."
        )
    if problem is None and name != "squared_norm":
        raise SmesolveError(
            f"observable {name!r} needs a problem, which this sde does not have; give a callable, a coordinate such as "
            "'theta[0]', or 'squared_norm'."
        )
    observable = OBSERVABLES[name](problem)  # type: ignore[arg-type]  # the squared norm needs no problem
    if name not in _BUILT_IN:
        _try(name, observable, like)
    return observable


def _held_out(problem: Problem) -> Problem:
    """Return the problem on the test data."""
    if problem.test is None:
        raise SmesolveError(
            f"observables of test data need test data, which this {type(problem).__name__} does not have; give them by "
            "problem.with_test_data(x, y), or by data.test in a configuration."
        )
    return problem.test


def _class_labels(problem: Problem) -> Tensor:
    """Return the class of each sample (n,), from class indices or from the unique largest probability (n, C)."""
    y = problem.y
    if y is not None and y.ndim == 1 and not y.is_floating_point():
        return y
    if y is not None and y.ndim == 2 and y.shape[1] > 1:
        top = y.topk(2, dim=1).values
        if bool((y >= 0).all() & ((y.sum(1) - 1).abs() <= ROUNDING).all() & (top[:, 0] > top[:, 1]).all()):
            return y.argmax(1)
    raise SmesolveError(
        "observable 'accuracy' needs classes: y must hold class indices for loss='cross_entropy', or rows with a 1 for "
        f"the class and 0 elsewhere, got {'no y' if y is None else shown(y)}; take 'loss' for regression."
    )


def check_nothing_kept(max_memory: float | None) -> None:
    """Refuse a bound on the memory of paths if observables are measured, as no paths are kept then."""
    if max_memory is not None:
        raise SmesolveError(
            f"max_memory={max_memory:g} bounds the paths that are kept, and with observables none are; leave it out."
        )


def is_piecewise_constant(observable: Observable, theta0: Tensor) -> bool:
    """Return whether the gradient of an observable is exactly zero at theta0 and around it, as for an accuracy.

    The weak error of such an observable can only be measured as a difference of means: defects and predicted constants
    rest on derivatives.
    """
    return not value_and_gradient(observable, _points_around(theta0))[1].any()


def check_sizes(observables: Mapping[str, Observable], theta0: Tensor) -> None:
    """Check that powers of the values of observables around theta0 (D,) are floats: means of them need the fourth.

    Raises:
        SmesolveError: an observable is larger than `LARGEST_VALUE` or smaller than its inverse, and not zero.
    """
    points = _points_around(theta0)
    for name, observable in observables.items():
        size = float(observable(points).abs().nan_to_num(0.0, 0.0, 0.0).max())
        if size > LARGEST_VALUE or 0 < size < 1 / LARGEST_VALUE:
            happens, remedy = ("overflow", "divide") if size > 1 else ("vanish", "multiply")
            raise SmesolveError(
                f"observable {name!r} has values of size {size:.3g} around theta0, whose powers {happens}; {remedy} it "
                "by a constant."
            )


def _points_around(theta0: Tensor) -> Tensor:
    """Return theta0 (D,) and points around it, (1 + RAYS, D)."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    shifts = torch.randn(RAYS, theta0.numel(), generator=generator, dtype=torch.float64, device="cpu").to(theta0)
    return torch.cat([theta0[None], theta0 + 0.1 * (1 + theta0.abs()) * shifts])


def grows_polynomially(observable: Observable, theta0: Tensor) -> bool:
    """Return whether |g| grows at most like a power of |theta|, judged along a few rays from the origin.

    The theorem of weak order needs this, and not only for its proof: if the noise grows with theta, the solution of the
    modified equation has the tails of a lognormal law, and E exp(|theta|) is infinite.
    """
    generator = torch.Generator(device="cpu").manual_seed(0)
    rays = torch.randn(RAYS, theta0.numel(), generator=generator, dtype=torch.float64, device="cpu")
    rays = (rays / rays.norm(dim=1, keepdim=True)).to(theta0)
    # Powers of degree up to 24 of the far distance are finite in this dtype, unless theta0 itself is large.
    far = max(1.0, float(theta0.norm())) * torch.finfo(theta0.dtype).max ** (1 / 24)
    near = far**0.5
    sizes = [observable(distance * rays).abs().double() for distance in (near, far)]
    known = ~(sizes[0].isnan() | sizes[1].isnan())
    growth = (sizes[1].clamp(min=1.0).log() - sizes[0].clamp(min=1.0).log()) / np.log(far / near)
    return not bool(((growth > MAX_DEGREE) | growth.isnan())[known].any())
