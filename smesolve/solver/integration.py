"""Integration of an SDE for many paths on an integer time grid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from smesolve.arguments import checked
from smesolve.errors import SmesolveError, shown
from smesolve.problem.problem import Problem
from smesolve.sampling.ensemble import Step, collect_paths, fitting_block_size
from smesolve.solver.brownian import GivenIncrements, KeyedBrownian
from smesolve.solver.gradient_integration import GradientIntegration
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.schemes.scheme import NothingTestedWarning, PerturbedSDE, what_tests_nothing
from smesolve.solver.time_grid import grid_numbers, grid_steps

__all__ = ["Integration", "check_declared", "check_jumps", "check_scheme", "integration", "solve"]


DECLARED = ("noise_time", "weak_error", "drift_evaluations", "corrections", "noise_products")
"""What a scheme says of itself, for measurements with it."""


def check_declared(scheme: str) -> None:
    """Refuse a scheme that does not declare its properties."""
    missing = [name for name in DECLARED if not hasattr(SCHEMES[scheme], name)]
    if missing:
        raise SmesolveError(
            f"scheme={scheme!r} must declare {', '.join(missing)}; see smesolve.solver.schemes.scheme.Scheme."
        )


def check_jumps(problem: Problem | None, step: float, last: float, name: str = "dt") -> None:
    """Refuse a step that does not meet all jumps of a schedule before the last time; `name` names the step."""
    for jump in () if problem is None else problem.jumps:
        if jump < last:
            grid_steps(jump, step, "the schedule's jump", name)


def check_scheme(problem: Problem | None, scheme: str) -> None:
    """Refuse an unknown scheme, and one that needs a drift and noise in closed form where the problem has none."""
    if scheme not in SCHEMES:
        raise SmesolveError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}.")
    if problem is not None and not problem.exact and not issubclass(SCHEMES[scheme], GradientScheme):
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
        scheme: a name in `SCHEMES`.
        dt: step.
        seed: root seed of the Brownian motion.
        antithetic: in a block of B paths, path b + B/2 takes the increments of path b with the other sign.
        nested: the Brownian path lives on a grid of dt/nested; with equal dt/nested two integrations see one path.
    """

    def __init__(
        self, sde: Any, theta0: Tensor, scheme: str, dt: float, seed: int = 0, nested: int = 1, antithetic: bool = False
    ) -> None:
        check_scheme(getattr(sde, "problem", None), scheme)
        noise_dim = sde.noise_dim if hasattr(sde, "noise_dim") else sde.g(0.0, theta0[None]).shape[-1]
        self.block_size = getattr(sde, "block_size", None) or fitting_block_size(theta0.numel() * noise_dim)
        self.dt, self.antithetic = dt, antithetic
        self.autonomous = not hasattr(sde, "problem") or sde.problem.autonomous
        self._brownian = KeyedBrownian(
            self.block_size // (2 if antithetic else 1),
            noise_dim,
            dt / nested,
            seed,
            dtype=theta0.dtype,
            device=theta0.device,
        )
        self._increments = GivenIncrements(theta0.new_zeros(self.block_size, noise_dim))
        made: Any = SCHEMES[scheme]
        self._solver = made(
            sde=PerturbedSDE(sde), bm=self._increments, dt=dt, adaptive=False, rtol=0, atol=0, dt_min=0, options={}
        )

    @property
    def noise_time(self) -> float:
        """Where in a step the noise enters."""
        return self._solver.noise_time

    def advance(self, theta: Tensor, block: int, step: int) -> Tensor:
        """One step of the scheme for every path of a block."""
        self._increments.value = self._drawn(block, step)
        return self._solver.advance(step * self.dt, (step + 1) * self.dt, theta)

    def advance_split(self, theta: Tensor, block: int, step: int) -> Step:
        """The step with the scheme's prediction, noise increment and normals."""
        increments = self._drawn(block, step)
        state, (prediction, increment) = self._step(theta, step, increments)
        return Step(state, prediction, increment, increments / self.dt**0.5)

    def _drawn(self, block: int, step: int) -> Tensor:
        """Brownian increments (B, M) of one step."""
        self._brownian.block = block
        increments = self._brownian(step * self.dt, (step + 1) * self.dt)
        return torch.cat([increments, -increments]) if self.antithetic else increments

    def noise_free_step(self, theta: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """State and prediction of the scheme's step with all Brownian increments zero."""
        state, (prediction, _) = self._step(theta, step, theta.new_zeros(theta.shape[0], self._increments.shape[1]))
        return state, prediction

    def _step(self, theta: Tensor, step: int, increments: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        self._increments.value = increments
        return self._solver.step(step * self.dt, (step + 1) * self.dt, theta, ())


def integration(
    sde: Any, theta0: Tensor, scheme: str, dt: float, seed: int = 0, nested: int = 1, antithetic: bool = False
) -> Integration | GradientIntegration:
    """The process of an SDE under a scheme by name, whichever kind of scheme it is; arguments as `Integration`."""
    chosen = SCHEMES.get(scheme)
    if chosen is not None and issubclass(chosen, GradientScheme):
        return GradientIntegration(sde, chosen, dt, seed, nested, antithetic)
    return Integration(sde, theta0, scheme, dt, seed, nested, antithetic)


def _check_sde(sde: Any) -> None:
    """Refuse what is no Ito SDE in torchsde's sense."""
    drift, noise = callable(getattr(sde, "f", None)), any(callable(getattr(sde, g, None)) for g in ("g", "g_prod"))
    if not (drift and noise and getattr(sde, "sde_type", None) == "ito"):
        raise SmesolveError(
            f"sde must be a ModifiedEquation, or an object with f, g or g_prod, and sde_type 'ito', got {shown(sde)}."
        )


@checked
@torch.no_grad()
def solve(
    sde: Any,
    theta0: Tensor,
    ts: Sequence[float] | Tensor,
    scheme: str = "small_noise_rk4",
    *,
    dt: float,
    paths: int,
    seed: int = 0,
    workers: int | None = None,
    max_memory: float | None = None,
) -> Tensor:
    """Independent paths of an SDE from theta0.

    Args:
        sde: a `ModifiedEquation`, or any Ito SDE in torchsde's sense.
        theta0: (D,), the start of every path.
        ts: increasing times to return, ts[0] the start; dt divides every one of them.
        scheme: "euler", "small_noise_heun", "small_noise_rk4"; "svag" or "sampled_euler" for problems whose drift is
            known by sampling alone; or one added to `SCHEMES`.
        dt: step of the scheme; not the learning rate.
        paths: number of independent paths.
        seed: root seed; path b is the same whatever `paths` is.
        workers: processes that share the blocks of paths; the result is the same for any number of them.
        max_memory: bytes that the result may take; more are refused.

    Returns:
        (T, paths, D), the parameters at `ts`. Cost a step: see the scheme.

    Raises:
        SmesolveError: unknown scheme, dt that does not divide the times or the jumps of a schedule, times that do not
            increase, bad theta0, paths or workers, more paths than max_memory holds.

    Warns:
        NothingTestedWarning: dt = lr on an order-1 equation, for schemes whose step then is that of the iteration.
        DivergenceWarning: where paths are not finite at the end.
    """
    _check_sde(sde)
    times = [t if isinstance(t, float) else float(t) for t in ts]
    if len(times) < 2 or times[0] < 0:
        raise SmesolveError(f"ts must hold at least two increasing times from 0 on, got {shown(times)}.")
    saved = grid_numbers(times, dt, "ts", least=0)
    check_jumps(getattr(sde, "problem", None), dt, saved[-1] * dt)
    check_scheme(getattr(sde, "problem", None), scheme)
    nothing = what_tests_nothing(SCHEMES[scheme], scheme, getattr(sde, "order", None), getattr(sde, "lr", None), dt)
    if nothing:
        warnings.warn(nothing, NothingTestedWarning, stacklevel=4)  # 4: past the guards
    return collect_paths(
        integration(sde, theta0, scheme, dt, seed), theta0, paths, saved, workers, max_memory, saved[0]
    )
