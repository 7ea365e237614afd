"""Integration of an SDE for many paths on an integer time grid."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any, overload

import pandas as pd
import torch
from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, call_of_user, invalid, shown
from smesolve.problem.differentiable_scalar import value_of
from smesolve.problem.observables import Observables, check_nothing_kept, measured_observables
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Chain, Step, collect_paths, fitting_block_size
from smesolve.sampling.observed_paths import observed_paths
from smesolve.solver.brownian import KeyedBrownian
from smesolve.solver.differentiable_paths import check_differentiable, differentiable_paths
from smesolve.solver.gradient_integration import GradientIntegration
from smesolve.solver.jump_integration import JumpIntegration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.schemes.scheme import NothingTestedWarning, Scheme, what_tests_nothing
from smesolve.solver.schemes.scheme_trial import try_step
from smesolve.solver.sde_contract import CompletedSDE, check_sde
from smesolve.solver.skewed_rk4 import SKEWED_RK4, SkewedRK4
from smesolve.solver.time_grid import grid_numbers, grid_steps
from smesolve.validation import (
    check_choice,
    check_flag,
    check_instance,
    check_integer,
    check_list,
    check_not_negative,
    check_number,
    check_optional,
    check_parameters,
    check_positive,
    check_seed,
    check_tensor,
    check_workers,
)

__all__ = ["JUMP_SCHEME", "Integration", "check_declared", "check_jumps", "check_scheme", "integration", "solve"]


JUMP_SCHEME = "jumps"
"""The entry of tables in place of a scheme for equations with jumps."""

GRAPH = (3, 4, 10)
"""Sizes of the graphs of a gradient, a noise product and a correction, in units of `floats_per_path`. They are right to
about a factor of two for networks and modules of one hidden layer."""

DECLARED = ("noise_time", "weak_error", "drift_evaluations", "corrections", "noise_products")
"""Properties that a scheme must declare for measurements with it."""


def check_declared(scheme: str) -> None:
    """Check that a scheme declares its properties, and that they are possible."""
    chosen = SCHEMES[scheme]
    missing = [name for name in DECLARED if not hasattr(chosen, name)]
    if missing:
        raise SmesolveError(f"scheme={scheme!r} must declare {', '.join(missing)}; see help(smesolve.Scheme).")
    check_number(f"noise_time of scheme={scheme!r}", chosen.noise_time, 0, 1, low_allowed=True, high_allowed=True)
    check_instance(f"weak_error of scheme={scheme!r}", chosen.weak_error, str, "a string such as 'dt^2 + lr dt'")
    for name in DECLARED[2:]:
        check_not_negative(f"{name} of scheme={scheme!r}", getattr(chosen, name))


def check_jumps(problem: Problem | None, step: float, last: float, name: str = "dt") -> None:
    """Check that all jumps of a schedule before the last time lie on the grid of a step. `name` is the step's name."""
    for jump in () if problem is None else problem.jumps:
        if jump < last:
            grid_steps(jump, step, "the schedule's jump", name)


def check_scheme(problem: Problem | None, scheme: str) -> None:
    """Check that a scheme is known and complete, and that it can integrate equations of the problem."""
    chosen = SCHEMES[check_choice("scheme", scheme, SCHEMES)]
    if not inspect.isclass(chosen) or not issubclass(chosen, (Scheme, GradientScheme)):
        raise SmesolveError(f"SCHEMES[{scheme!r}] must be a subclass of Scheme or GradientScheme, got {shown(chosen)}.")
    undefined = sorted(getattr(chosen, "__abstractmethods__", ()))
    if undefined:
        raise SmesolveError(f"scheme={scheme!r} must define {', '.join(undefined)}; see help(smesolve.Scheme).")
    if problem is not None and not problem.has_closed_form and not issubclass(chosen, GradientScheme):
        raise SmesolveError(
            f"scheme={scheme!r} needs drift and noise in closed form, which this {type(problem).__name__} does not "
            "have; take scheme='svag' or 'sampled_euler'."
        )


class Integration:
    """An SDE under a scheme with step dt, as a process on blocks of paths.

    Time is t = k dt with integer k, so the last step is exact and times are not sums of floats.

    Args:
        sde: an Ito SDE in torchsde's sense with `f` and `g_prod` or `g`: a `ModifiedEquation`, or one of your own.
        theta0: (D,), for sizes, dtype and device.
        scheme: the name of a `Scheme` in `SCHEMES`.
        dt: step of the scheme.
        seed: root seed of the Brownian motion.
        antithetic: whether path b + B/2 of a block of B paths takes the increments of path b with the other sign.
        nested: grid steps of the Brownian path per step; with equal dt/nested two integrations see the same path.
        bm: a Brownian motion in torchsde's sense in place of a keyed one. Its paths are the only block.

    Raises:
        SmesolveError: the scheme is unknown, is not a `Scheme`, needs closed forms that the problem does not have, or
            fails in a trial step.
    """

    def __init__(
        self,
        sde: Any,
        theta0: Tensor,
        scheme: str,
        dt: float,
        seed: int = 0,
        nested: int = 1,
        antithetic: bool = False,
        bm: Any = None,
    ) -> None:
        check_scheme(sde.problem if isinstance(sde, ModifiedEquation) else None, scheme)
        chosen = SCHEMES[scheme]
        if not issubclass(chosen, Scheme):
            raise SmesolveError(f"scheme={scheme!r} takes gradients, not drift and noise; call integration instead.")
        self._noise_dim = sde.noise_dim if hasattr(sde, "noise_dim") else sde.g(0.0, theta0[None]).shape[-1]
        self.block_size = getattr(sde, "block_size", None) or fitting_block_size(theta0.numel() * self._noise_dim)
        self.dt, self.antithetic, self._nested = dt, antithetic, nested
        self.autonomous = not isinstance(sde, ModifiedEquation) or sde.problem.autonomous
        paths = self.block_size // (2 if antithetic else 1)
        self._brownian = KeyedBrownian(
            paths, self._noise_dim, dt / nested, seed, dtype=theta0.dtype, device=theta0.device
        )
        self.in_threads = isinstance(sde, ModifiedEquation) and sde.problem.in_threads and chosen.in_threads
        self._sde = PerturbedSDE(sde)
        self._scheme: Scheme = call_of_user(f"scheme={scheme!r}", chosen)
        if not chosen.__module__.startswith("smesolve."):
            try_step(scheme, chosen, self._sde, theta0, self._noise_dim, dt)
        self._given = bm
        if bm is not None:
            self.block_size = int(bm.shape[0])

    @property
    def noise_time(self) -> float:
        """Where in a step the noise enters."""
        return self._scheme.noise_time

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Return one step of the scheme for every path of a block, or for the first len(theta) paths."""
        t0, t1 = step * self.dt, (step + 1) * self.dt
        return self._scheme.advance(self._sde, t0, t1, theta, self._increments(block, step)[: len(theta)])

    def advance_split(self, theta: Tensor, block: int, step: int) -> Step:
        """Return the step with the scheme's prediction, noise increment and normals."""
        increments = self._increments(block, step)
        return Step(*self._step(theta, step, increments), increments / self.dt**0.5)

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Return state and prediction of the scheme's step with all Brownian increments zero."""
        state, prediction, _ = self._step(theta, step, theta.new_zeros(theta.shape[0], self._noise_dim))
        return state, prediction

    def noise_free_pullback(self, theta: Tensor, step: int, vectors: Tensor) -> Tensor | None:
        """Return vectors times the Jacobians of that state if scheme and equation know them, else None."""
        return self._scheme.noise_free_pullback(self._sde, step * self.dt, (step + 1) * self.dt, theta, vectors)

    def _increments(self, block: int, step: int) -> Tensor:
        """Return the Brownian increments (B, M) of one step."""
        if self._given is not None:
            given = self._given(step * self.dt, (step + 1) * self.dt)
            shape = (self.block_size, self._noise_dim)
            if not isinstance(given, Tensor) or given.shape != shape:
                raise invalid("bm", f"return a tensor of shape {shape}, its `shape`", given)
            return given
        increments = self._brownian.increment(step * self._nested, (step + 1) * self._nested, block)
        return torch.cat([increments, -increments]) if self.antithetic else increments

    def _step(self, theta: Tensor, step: int, increments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._scheme.step(self._sde, step * self.dt, (step + 1) * self.dt, theta, increments)


def integration(
    sde: Any, theta0: Tensor, scheme: str, dt: float, seed: int = 0, nested: int = 1, antithetic: bool = False
) -> Integration | GradientIntegration | JumpIntegration:
    """Return an SDE of any kind under a scheme as a process. The arguments are as for `Integration`.

    An equation with jumps ignores `scheme` and `antithetic`: it has one scheme, and its paths are independent.
    """
    if isinstance(sde, ModifiedEquation) and sde.jumps is not None:
        return JumpIntegration(sde.problem, sde.jumps, sde.lr, dt, seed, nested)
    chosen = SCHEMES[check_choice("scheme", scheme, SCHEMES)]
    if inspect.isclass(chosen) and issubclass(chosen, GradientScheme):
        return GradientIntegration(sde, chosen, dt, seed, nested, antithetic)
    return Integration(sde, theta0, scheme, dt, seed, nested, antithetic)


def _check_brownian(bm: Any, sde: Any, scheme: str, paths: int, seed: int, workers: int | None) -> None:
    """Check that a Brownian motion of the user's fits the SDE, the scheme and the other arguments."""
    if scheme == JUMP_SCHEME:
        raise SmesolveError(f"bm drives a diffusion, but the equation of order {sde.order!r} has jumps; leave bm out.")
    if scheme not in SCHEMES or not issubclass(SCHEMES[scheme], Scheme):
        raise SmesolveError(f"scheme={scheme!r} takes draws and no Brownian motion; leave bm out.")
    shape = getattr(bm, "shape", ())
    if not callable(bm) or not isinstance(shape, Sequence) or tuple(shape) != (paths, sde.noise_dim):
        raise SmesolveError(
            f"bm must be a Brownian motion of shape ({paths}, {sde.noise_dim}), paths by the sde's Brownian motions, "
            f"got {shown(getattr(bm, 'shape', bm))}; make it by KeyedBrownian({paths}, {sde.noise_dim}, dt)."
        )
    for name, value, default in (("seed", seed, 0), ("workers", workers or 1, 1)):
        if value != default:
            raise SmesolveError(f"{name}={value} has no meaning beside bm, which has its own paths; leave it out.")


def _chosen_scheme(sde: Any, problem: Problem | None, scheme: str | None) -> str:
    """Return the scheme for an SDE, after checking that it is one for diffusions or for jumps as the SDE needs."""
    if scheme is not None:
        check_choice("scheme", scheme, [*SCHEMES, SKEWED_RK4])
    third = isinstance(sde, ModifiedEquation) and sde.order == 3
    if scheme == SKEWED_RK4 and not third:
        raise SmesolveError(f"scheme={scheme!r} steps the equation of order 3, and this is another one; leave it out.")
    if not isinstance(sde, ModifiedEquation) or sde.jumps is None:
        scheme = "small_noise_rk4" if scheme is None else scheme
        check_scheme(problem, scheme)
        return scheme
    if scheme == SKEWED_RK4:
        return SKEWED_RK4
    if scheme is not None:
        remedy = f"leave scheme out, or take {SKEWED_RK4!r} for long steps" if third else "leave scheme out"
        raise SmesolveError(
            f"scheme={scheme!r} steps a diffusion, but the equation of order {sde.order!r} has jumps; {remedy}."
        )
    return JUMP_SCHEME


def _floats_in_graph(sde: Any, scheme: str, dim: int) -> float:
    """Return the number of floats that the graph keeps per step and path, approximately."""
    chosen = SCHEMES[scheme]
    gradients, products, corrections = (
        getattr(chosen, name, 1) for name in ("drift_evaluations", "noise_products", "corrections")
    )
    if not isinstance(sde, ModifiedEquation):
        return float(4 * dim + (gradients + products) * dim * (1 + sde.noise_dim))
    corrections = corrections if sde.order == 2 else 0
    arrays = sum(count * size for count, size in zip((gradients, products, corrections), GRAPH, strict=True))
    return float(4 * dim + arrays * sde.problem.floats_per_path)


@overload
def solve(
    sde: Any,
    theta0: Tensor,
    ts: Sequence[float] | Tensor,
    scheme: str | None = None,
    *,
    dt: float,
    paths: int,
    seed: int = 0,
    workers: int | None = None,
    max_memory: float | None = None,
    bm: Any = None,
    observables: None = None,
    differentiable: bool = False,
) -> Tensor: ...


@overload
def solve(
    sde: Any,
    theta0: Tensor,
    ts: Sequence[float] | Tensor,
    scheme: str | None = None,
    *,
    dt: float,
    paths: int,
    seed: int = 0,
    workers: int | None = None,
    bm: Any = None,
    observables: Observables,
) -> pd.DataFrame: ...


@entry_point
@torch.no_grad()
def solve(
    sde: Any,
    theta0: Tensor,
    ts: Sequence[float] | Tensor,
    scheme: str | None = None,
    *,
    dt: float,
    paths: int,
    seed: int = 0,
    workers: int | None = None,
    max_memory: float | None = None,
    bm: Any = None,
    observables: Observables | None = None,
    differentiable: bool = False,
) -> Tensor | pd.DataFrame:
    """Return independent paths of an SDE from theta0.

    Args:
        sde: a `ModifiedEquation`, or any Ito SDE in torchsde's sense.
        theta0: (D,), the start of every path.
        ts: increasing times to return, multiples of dt. ts[0] is the start.
        scheme: "euler", "small_noise_heun" or "small_noise_rk4"; "svag" or "sampled_euler" for problems whose drift can
            only be sampled; or a scheme that was added to `SCHEMES`. For order 3, "skewed_rk4" with dt of at least
            2 lr. Default: "small_noise_rk4" for a diffusion, and from jump to jump for order 3 and "poisson".
        dt: step of the scheme, not the learning rate. From jump to jump it only names the random numbers.
        paths: number of independent paths.
        seed: root seed. Path b does not depend on `paths`.
        workers: processes, or threads for compiled kernels, that share the blocks of paths. Results do not depend on
            their number. Default: only this process.
        max_memory: bytes that the paths may take; more are refused. Default: the free memory of this machine.
        bm: the Brownian motion of all paths, a `KeyedBrownian` or torchsde's `BrownianInterval` of size (paths, M).
            Runs with different steps and schemes but the same bm see the same paths. It has a seed of its own, so leave
            out `seed`; its paths run in one process. Default: a Brownian motion keyed by `seed`.
        observables: observables to measure along the paths, none of which are then kept, as for `iterate`. For an SDE
            other than a `ModifiedEquation`: callables, coordinates and "squared_norm". Default: the paths are returned.
        differentiable: whether to return paths with their graph, so that gradients reach theta0, the parameters of the
            sde, and the `lr` and `keep_prob` of a `ModifiedEquation` if they are tensors. Random numbers are held
            fixed. Formulas in torch replace compiled kernels, and everything runs in this process. The memory of the
            graph grows with paths and steps, and `max_memory` bounds it.

    Returns:
        (T, paths, D), the parameters at `ts`. For the cost per step see the scheme. With observables a DataFrame of
        their statistics at `ts`, with the columns of `iterate`.

    Raises:
        SmesolveError: the scheme is unknown; times do not increase, or dt does not divide them or the jumps of a
            schedule; theta0, paths or workers are malformed; the paths exceed max_memory; or an observable is unknown
            or does not map (B, D) to (B,). With `differentiable` also: observables, several workers, an equation with
            jumps or of order "quadratic", a graph that exceeds the memory, or no input that requires a gradient.

    Warns:
        NothingTestedWarning: dt = lr on an order-1 equation, with a scheme whose step is then the discrete iteration's.
        DivergenceWarning: some paths are not finite at the end.
    """
    check_sde("sde", sde)
    problem, start = sde.problem if isinstance(sde, ModifiedEquation) else None, theta0
    theta0 = check_tensor("theta0", theta0, "D") if problem is None else check_parameters("theta0", theta0, problem)
    times, dt = check_list("ts", ts, check_number), check_positive("dt", dt)
    paths, seed = check_integer("paths", paths), check_seed("seed", seed)
    workers = check_workers("workers", workers)
    max_memory = check_optional("max_memory", max_memory, check_positive)
    scheme = _chosen_scheme(sde, problem, scheme)
    if check_flag("differentiable", differentiable):
        check_differentiable(sde, start, workers, observables)
    elif isinstance(sde, ModifiedEquation):
        sde = sde.detached()
    if problem is None:
        sde = CompletedSDE(sde, theta0)
    else:
        sde.check_start("theta0", theta0, jumps=scheme == JUMP_SCHEME)
    if len(times) < 2 or times[0] < 0:
        raise SmesolveError(
            f"ts must hold two or more increasing times from 0 on, got {shown(times)}; the first is the start."
        )
    saved = grid_numbers(times, dt, "ts", least=0)
    check_jumps(problem, dt, saved[-1] * dt)
    lr = value_of(sde.lr) if isinstance(sde, ModifiedEquation) else getattr(sde, "lr", None)
    nothing = what_tests_nothing(SCHEMES.get(scheme), scheme, getattr(sde, "order", None), lr, dt)
    if nothing:
        warnings.warn(nothing, NothingTestedWarning, stacklevel=4)  # 4: past the guards
    if bm is None:
        with torch.set_grad_enabled(differentiable):  # weights of gradients are functions of lr
            if scheme == SKEWED_RK4:
                process: Chain = SkewedRK4(sde.problem, value_of(sde.lr), dt, seed)
            else:
                process = integration(sde, theta0, scheme, dt, seed)
    else:
        _check_brownian(bm, sde, scheme, paths, seed, workers)
        process = Integration(sde, theta0, scheme, dt, bm=bm)
    if isinstance(process, JumpIntegration):
        process, saved = process.in_longer_steps(saved)
    if differentiable:
        floats = _floats_in_graph(sde, scheme, theta0.numel())
        with torch.enable_grad():
            return differentiable_paths(
                process, theta0 if start.is_inference() else start, paths, saved, floats, max_memory
            )
    if observables is not None:
        check_nothing_kept(max_memory)
        functions = measured_observables(problem, theta0, observables)
        return observed_paths(process, theta0, paths, saved, [float(t) for t in times], functions, workers, saved[0])
    return collect_paths(process, theta0, paths, saved, workers, max_memory, saved[0])
