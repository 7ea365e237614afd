"""Schemes of this package and methods of torchsde on the same Brownian paths.

A block of Brownian paths is drawn once on a fine grid of N steps of length h, as increments W_k and, for methods that
need time integrals, the H_k in them (`smesolve.solver.brownian`, eq. 1). On each step dt = r h a solver sees

    W = sum_k W_k,      U = sum_k [ h (W_k/2 + H_k) + h (W_1 + ... + W_(k-1)) ],      k = 1..r,               (1)

so that runs differ by their solvers and steps only, and not by their paths.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchsde._core.base_sde import ForwardSDE
from torchsde._core.methods import select

from smesolve.errors import SmesolveError
from smesolve.sampling.randomness import keyed_normals
from smesolve.solver.perturbed_sde import PerturbedSDE
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.scheme import Scheme
from smesolve.solver.sde_contract import CompletedSDE
from smesolve.validation import check_choice

__all__ = ["NestedPaths", "Solver", "solver_named"]

TORCHSDE = ("euler", "milstein", "srk", "midpoint", "heun", "euler_heun", "reversible_heun")
"""Methods of torchsde that need no areas between Brownian motions."""

PREFIX = "torchsde."
"""Prefix for methods of torchsde with the name of a scheme of this package."""


@dataclass(frozen=True)
class NestedPaths:
    """Blocks of Brownian paths on a grid of steps of length h."""

    paths: int
    """B, the number of paths in a block."""
    noise_dim: int
    """M."""
    steps: int
    """N, the number of steps up to the horizon."""
    h: float
    seed: int
    with_areas: bool
    """Whether time integrals are needed."""
    like: Tensor
    """A tensor with the dtype and the device of the increments."""

    def block(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Return W, and H or None, of one block: (N, B, M) each."""
        shape = self.paths, self.noise_dim
        W = self._drawn(shape, number, "normals", self.h**0.5)
        return W, self._drawn(shape, number, "areas", (self.h / 12) ** 0.5) if self.with_areas else None

    def _drawn(self, shape: tuple[int, int], block: int, stream: str, scale: float) -> Tensor:
        drawn = torch.stack([keyed_normals(shape, self.seed, block, k, stream) for k in range(self.steps)])
        return drawn.mul_(scale).to(self.like)

    def over_steps(self, W: Tensor, H: Tensor | None, ratio: int) -> tuple[Tensor, Tensor | None]:
        """Return W, and U or None, of (1) over steps of `ratio` grid steps: (N / ratio, B, M) each."""
        fine = W.unflatten(0, (-1, ratio))
        if H is None:
            return fine.sum(1), None
        before = fine.cumsum(1) - fine
        return fine.sum(1), self.h * (before + fine / 2 + H.unflatten(0, (-1, ratio))).sum(1)


@dataclass(frozen=True)
class Solver:
    """A scheme of this package, or a method of torchsde, on one SDE."""

    name: str
    run: Callable[[Tensor, Tensor, Tensor | None, float], Tensor]
    """(theta (B, D), W (K, B, M), U (K, B, M) or None, dt) -> theta (B, D) after K steps of dt."""
    with_areas: bool
    """Whether it needs time integrals U."""
    weak_order: float
    strong_order: float


def solver_named(name: str, sde: Any) -> Solver:
    """Return a solver by name.

    Args:
        name: the name of a `Scheme` in `SCHEMES` or of a method of torchsde, the latter with the prefix "torchsde." if
            both exist.
        sde: a `ModifiedEquation` or a `CompletedSDE`.

    Raises:
        SmesolveError: the name is unknown, or the solver cannot integrate this SDE.
    """
    if getattr(sde, "jumps", None) is not None:
        raise SmesolveError(f"sde of order {sde.order!r} has jumps, and no Brownian paths; measure it by weak_error.")
    theirs = [method for method in TORCHSDE if method not in SCHEMES]
    check_choice("schemes", name, [*SCHEMES, *theirs, *(PREFIX + method for method in TORCHSDE)])
    if name in SCHEMES:
        chosen = SCHEMES[name]
        if not inspect.isclass(chosen) or not issubclass(chosen, Scheme):
            raise SmesolveError(
                f"schemes: {name!r} takes draws and no Brownian motion, so that its paths cannot be nested; measure it "
                "by weak_error."
            )
        if sde.sde_type != "ito":
            raise SmesolveError(f"schemes: {name!r} is for Ito SDEs, got one of type {sde.sde_type!r}; take 'heun'.")
        strong = 1.0 if sde.noise_type == "additive" else 0.5
        return Solver(name, partial(_by_scheme, chosen(), PerturbedSDE(sde)), False, chosen.weak_order, strong)
    method = name.removeprefix(PREFIX)
    kind = select(method, sde.sde_type)
    if kind.sde_type != sde.sde_type or sde.noise_type not in kind.noise_types:
        raise SmesolveError(
            f"schemes: torchsde's {method!r} is for SDEs of type {kind.sde_type!r} with noise "
            f"{', '.join(kind.noise_types)}, got {sde.sde_type!r} with {sde.noise_type} noise; take another scheme."
        )
    if method in ("milstein", "srk") and not hasattr(sde, "g"):
        raise SmesolveError(f"schemes: torchsde's {method!r} needs g, which this sde does not have; give it g(t, y).")
    if method in ("milstein", "srk") and isinstance(sde, CompletedSDE):
        sde.check_elementwise_noise(derivative=method == "milstein")
    made = _method(kind, sde, _Increments(sde.noise_dim))
    with_areas = "none" not in kind.levy_area_approximations
    orders = float(made.weak_order), float(made.strong_order)
    return Solver(name, partial(_by_torchsde, kind, sde), with_areas, *orders)


def _by_scheme(scheme: Scheme, sde: PerturbedSDE, theta: Tensor, W: Tensor, U: Tensor | None, dt: float) -> Tensor:
    for k, increments in enumerate(W):
        theta = scheme.advance(sde, k * dt, (k + 1) * dt, theta, increments)
    return theta


class _Increments:
    """A Brownian motion in torchsde's sense that returns the increments of the present step."""

    levy_area_approximation = "space-time"

    def __init__(self, noise_dim: int, paths: int = 1) -> None:
        self.shape = (paths, noise_dim)
        self.W: Tensor | None = None
        self.U: Tensor | None = None

    def __call__(self, ta: Any, tb: Any, return_U: bool = False) -> Any:
        return (self.W, self.U) if return_U else self.W


def _method(kind: Any, sde: Any, increments: _Increments) -> Any:
    return kind(sde=ForwardSDE(sde), bm=increments, dt=0.0, adaptive=False, rtol=0.0, atol=0.0, dt_min=0.0, options={})


def _by_torchsde(kind: Any, sde: Any, theta: Tensor, W: Tensor, U: Tensor | None, dt: float) -> Tensor:
    increments = _Increments(sde.noise_dim, len(theta))
    method = _method(kind, sde, increments)
    extra = None
    for k in range(len(W)):
        t0, t1 = (theta.new_tensor(number * dt) for number in (k, k + 1))
        increments.W, increments.U = W[k], None if U is None else U[k]
        if extra is None:
            extra = method.init_extra_solver_state(t0, theta)
        theta, extra = method.step(t0, t1, theta, extra)
    return theta
