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
from smesolve.errors import SmesolveError, shown
from smesolve.problem.definition import check_derivatives
from smesolve.problem.differentiable_scalar import value_of
from smesolve.problem.observables import Observables, check_nothing_kept, measured_observables
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Chain, Step, collect_paths, fitting_block_size
from smesolve.sampling.observed_paths import observed_paths
from smesolve.solver.brownian import KeyedBrownian
from smesolve.solver.differentiable_paths import differentiable_paths
from smesolve.solver.gradient_integration import GradientIntegration
from smesolve.solver.jump_integration import JumpIntegration
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.schemes.scheme import NothingTestedWarning, Scheme, what_tests_nothing
from smesolve.solver.sde_contract import CompletedSDE, check_sde
from smesolve.solver.skewed_rk4 import SKEWED_RK4, SkewedRK4
from smesolve.solver.time_grid import grid_numbers, grid_steps
from smesolve.validation import (
    check_choice,
    check_flag,
    check_integer,
    check_list,
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
"""What tables say in place of a scheme where an equation has jumps."""

GRAPH = (3, 4, 10)
"""Arrays that the graphs of a gradient, a noise product and a correction keep, in units of `floats_per_path`: right to
about a factor of two for networks and modules of one hidden layer."""

DECLARED = ("noise_time", "weak_error", "drift_evaluations", "corrections", "noise_products")
"""What a scheme declares, for measurements with it."""


def check_declared(scheme: str) -> None:
    """Check that a scheme declares its properties."""
    missing = [name for name in DECLARED if not hasattr(SCHEMES[scheme], name)]
    if missing:
        raise SmesolveError(f"scheme={scheme!r} must declare {', '.join(missing)}; see help(smesolve.Scheme).")


def check_jumps(problem: Problem | None, step: float, last: float, name: str = "dt") -> None:
    """Check that a step meets all jumps of a schedule before the last time; `name` names the step."""
    for jump in () if problem is None else problem.jumps:
        if jump < last:
            grid_steps(jump, step, "the schedule's jump", name)


def check_scheme(problem: Problem | None, scheme: str) -> None:
    """Check that a scheme is known and complete, and that the problem has what it needs."""
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

    Time is t = k dt with integer k, so the last step is exact and nothing adds up in floating point.

    Args:
        sde: torchsde SDE, Ito, with `f` and `g_prod` or `g` (a `ModifiedEquation`, or one of your own).
        theta0: (D,), for sizes, dtype and device.
        scheme: a name in `SCHEMES`, of a `Scheme`.
        dt: step.
        seed: root seed of the Brownian motion.
        antithetic: in a block of B paths, path b + B/2 takes the increments of path b with the other sign.
        nested: the Brownian path lives on a grid of dt/nested; with equal dt/nested two integrations see one path.
        bm: a Brownian motion in torchsde's sense in place of the seed's; its paths are the only block.
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
        self._sde, self._scheme = PerturbedSDE(sde), chosen()
        self._given = bm
        if bm is not None:
            self.block_size = int(bm.shape[0])

    @property
    def noise_time(self) -> float:
        """Where in a step the noise enters."""
        return self._scheme.noise_time

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """Return one step of the scheme for every path of a block, or for its first ones."""
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
        """Return vectors times the Jacobians of that state, where scheme and equation know them, else None."""
        return self._scheme.noise_free_pullback(self._sde, step * self.dt, (step + 1) * self.dt, theta, vectors)

    def _increments(self, block: int, step: int) -> Tensor:
        """Return the Brownian increments (B, M) of one step."""
        if self._given is not None:
            increments: Tensor = self._given(step * self.dt, (step + 1) * self.dt)
            return increments
        increments = self._brownian.increment(step * self._nested, (step + 1) * self._nested, block)
        return torch.cat([increments, -increments]) if self.antithetic else increments

    def _step(self, theta: Tensor, step: int, increments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._scheme.step(self._sde, step * self.dt, (step + 1) * self.dt, theta, increments)


def integration(
    sde: Any, theta0: Tensor, scheme: str, dt: float, seed: int = 0, nested: int = 1, antithetic: bool = False
) -> Integration | GradientIntegration | JumpIntegration:
    """Return the process of an SDE under a scheme by name, of any kind; arguments as for `Integration`.

    An equation with jumps has one scheme and independent paths: `scheme` and `antithetic` do not concern it.
    """
    if isinstance(sde, ModifiedEquation) and sde.jumps is not None:
        return JumpIntegration(sde.problem, sde.jumps, sde.lr, dt, seed, nested)
    chosen = SCHEMES[check_choice("scheme", scheme, SCHEMES)]
    if inspect.isclass(chosen) and issubclass(chosen, GradientScheme):
        return GradientIntegration(sde, chosen, dt, seed, nested, antithetic)
    return Integration(sde, theta0, scheme, dt, seed, nested, antithetic)


def _check_brownian(bm: Any, sde: Any, scheme: str, paths: int, seed: int, workers: int | None) -> None:
    """Check that a Brownian motion of the user's fits the SDE, the scheme and what else was asked for."""
    if scheme not in SCHEMES or not issubclass(SCHEMES[scheme], Scheme):
        raise SmesolveError(f"scheme={scheme!r} takes draws and no Brownian motion; leave bm out.")
    shape = tuple(getattr(bm, "shape", ()))
    if not callable(bm) or shape != (paths, sde.noise_dim):
        raise SmesolveError(
            f"bm must be a Brownian motion of shape ({paths}, {sde.noise_dim}), paths by the sde's Brownian motions, "
            f"got {shape or shown(bm)}; make it by KeyedBrownian({paths}, {sde.noise_dim}, dt)."
        )
    for name, value, default in (("seed", seed, 0), ("workers", workers or 1, 1)):
        if value != default:
            raise SmesolveError(f"{name}={value} has no meaning beside bm, which has its own paths; leave it out.")


def _chosen_scheme(sde: Any, problem: Problem | None, scheme: str | None) -> str:
    """Return the scheme of an SDE, or refuse one that steps a diffusion for an equation with jumps."""
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
        check_choice("scheme", scheme, SCHEMES)
        remedy = f"leave scheme out, or take {SKEWED_RK4!r} for long steps" if third else "leave scheme out"
        raise SmesolveError(
            f"scheme={scheme!r} steps a diffusion, but the equation of order {sde.order!r} has jumps; {remedy}."
        )
    return JUMP_SCHEME


def _check_differentiable(sde: Any, workers: int | None, observables: Observables | None) -> None:
    """Refuse what has no derivative."""
    if isinstance(sde, ModifiedEquation) and sde.order not in (1, 2):
        why = "resums by Lanczos' method" if sde.order == "quadratic" else "jumps at random times"
        raise SmesolveError(
            f"differentiable=True is for equations of order 1 and 2, but that of order={sde.order!r} {why}; take "
            "another order, or leave it out."
        )
    if observables is not None:
        raise SmesolveError(
            "differentiable=True returns paths, and the table of observables has no gradients; leave observables out "
            "and apply the functions to the paths, such as problem.loss(paths[-1]).mean()."
        )
    if workers not in (None, 1):
        raise SmesolveError(
            f"workers={workers} has no meaning beside differentiable=True, as no graph goes from one process to "
            "another; leave it out."
        )


def _with_graph(start: Tensor, checked: Tensor) -> Tensor:
    """Return the start as it was given, or its copy where no derivative can be taken of it."""
    return checked if start.is_inference() else start


def _floats_in_graph(sde: Any, scheme: str, dim: int) -> float:
    """Return how many numbers the graph of a step keeps for a path, approximately."""
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
        ts: increasing times to return, ts[0] the start; dt divides every one of them.
        scheme: "euler", "small_noise_heun", "small_noise_rk4"; "svag" or "sampled_euler" for problems whose drift is
            known by sampling only; or one added to `SCHEMES`. Order 3 may be stepped by "skewed_rk4", dt being at least
            2 lr. Default: "small_noise_rk4" for a diffusion, and from jump to jump for order 3 and "poisson".
        dt: step of the scheme; not the learning rate. With jumps it is no error: random numbers are keyed by steps of
            dt.
        paths: number of independent paths.
        seed: root seed; path b is the same whatever `paths` is.
        workers: processes, or threads for compiled kernels, that share the blocks; results do not depend on them.
        max_memory: bytes that the paths may take; more are refused.
        bm: the Brownian motion of all paths, a `KeyedBrownian` or torchsde's `BrownianInterval` of size (paths, M):
            runs with one of them and different steps and schemes see the same paths. It has a seed of its own, so seed
            stays 0, and its paths run in one process. Default: one of the seed.
        observables: what is measured along the paths, none of which are then kept; as for `iterate`. Of an SDE that is
            no `ModifiedEquation` these are callables, coordinates and "squared_norm". Default: the paths are returned.
        differentiable: return paths with their graph, so that gradients go back to theta0, to what the sde holds, and
            to `lr` and `keep_prob` of a `ModifiedEquation` to which they were given as tensors; random numbers are held
            fixed. Compiled kernels are left out, and all runs in this process. The graph keeps what every step
            computes: memory grows with paths and steps, and `max_memory` bounds it.

    Returns:
        (T, paths, D), the parameters at `ts`. Cost a step: see the scheme. With observables a DataFrame of their
        statistics at `ts`, with the columns that `iterate` gives.

    Raises:
        SmesolveError: unknown scheme, dt that does not divide the times or the jumps of a schedule, times that do not
            increase, bad theta0, paths or workers, more paths than max_memory holds; an observable that is unknown, or
            does not map (B, D) to (B,). With `differentiable`, what has no derivative: a table, an equation with jumps
            or of order "quadratic"; more workers than one; a graph that does not fit; nothing that requires a gradient.

    Warns:
        NothingTestedWarning: dt = lr on an order-1 equation, for schemes whose step then is that of the iteration.
        DivergenceWarning: some paths are not finite at the end.
    """
    check_sde("sde", sde)
    problem = sde.problem if isinstance(sde, ModifiedEquation) else None
    start = theta0
    theta0 = check_tensor("theta0", theta0, "D") if problem is None else check_parameters("theta0", theta0, problem)
    times, dt = check_list("ts", ts, check_number), check_positive("dt", dt)
    paths, seed = check_integer("paths", paths), check_seed("seed", seed)
    workers = check_workers("workers", workers)
    max_memory = check_optional("max_memory", max_memory, check_positive)
    scheme = _chosen_scheme(sde, problem, scheme)
    if check_flag("differentiable", differentiable):
        _check_differentiable(sde, workers, observables)
    elif isinstance(sde, ModifiedEquation):
        sde = sde.detached()
    if problem is not None and scheme != JUMP_SCHEME:
        problem.check_start("theta0", theta0)
    if problem is None:
        sde = CompletedSDE(sde, theta0)
    if len(times) < 2 or times[0] < 0:
        raise SmesolveError(f"ts must hold at least two increasing times from 0 on, got {shown(times)}.")
    saved = grid_numbers(times, dt, "ts", least=0)
    if problem is not None and sde.order not in (1, "poisson"):
        check_derivatives(problem.at(times[0]), theta0)
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
            return differentiable_paths(process, _with_graph(start, theta0), paths, saved, floats, max_memory)
    if observables is not None:
        check_nothing_kept(max_memory)
        functions = measured_observables(problem, theta0, observables)
        return observed_paths(process, theta0, paths, saved, [float(t) for t in times], functions, workers, saved[0])
    return collect_paths(process, theta0, paths, saved, workers, max_memory, saved[0])
