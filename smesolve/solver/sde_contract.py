"""torchsde's requirements of an SDE, checked and completed before anything is integrated.

An SDE is any object with `sde_type` ("ito" or "stratonovich"), `noise_type` ("general", "additive", "scalar" or
"diagonal"), and drift and noise in one of these forms, with times t, states y (B, D) and increments v (B, M):

    f(t, y) (B, D)  and  g(t, y) (B, D, M), for diagonal noise (B, D)
    f(t, y)         and  g_prod(t, y, v) (B, D)
    f_and_g(t, y)   or   f_and_g_prod(t, y, v)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from smesolve.errors import SmesolveError, call_of_user, invalid, shown
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.function_trial import check_derivative, check_rows, equal_up_to_rounding
from smesolve.validation import check_integer

__all__ = ["NOISE_TYPES", "CompletedSDE", "check_sde", "states_near"]

NOISE_TYPES = ("general", "additive", "scalar", "diagonal")

FORMS = ("f", "g", "g_prod", "f_and_g", "f_and_g_prod")


class CompletedSDE:
    """An SDE with f, g_prod and f_and_g_prod, and with g if it is known, made of the methods that it defines.

    The SDE receives times as tensors, as torchsde passes them.

    Args:
        sde: an SDE that `check_sde` accepts.
        theta0: (D,), for sizes, dtype and device.

    Raises:
        SmesolveError: the number of Brownian motions is not known, or drift or noise has a wrong shape or dtype.
    """

    def __init__(self, sde: Any, theta0: Tensor) -> None:
        self.sde, self.sde_type, self.noise_type = sde, sde.sde_type, sde.noise_type
        self._given = {
            name: self._timed(getattr(sde, name), theta0) for name in FORMS if callable(getattr(sde, name, None))
        }
        if "g" in self._given or "f_and_g" in self._given:
            self.g: Callable[..., Any] = self._given.get("g", self._second_of_both)
        self.noise_dim = self._noise_dim(theta0)
        self.f: Callable[..., Any] = self._given.get("f", self._drift)
        self.g_prod: Callable[..., Any] = self._given.get("g_prod", self._product)
        self.f_and_g_prod = self._given.get("f_and_g_prod", self._drift_and_product)
        self._try(theta0)

    @staticmethod
    def _timed(function: Callable[..., Any], theta0: Tensor) -> Callable[..., Any]:
        return lambda t, *rest: function(torch.as_tensor(t, dtype=theta0.dtype, device=theta0.device), *rest)

    def _second_of_both(self, t: Any, y: Tensor) -> Any:
        return self._given["f_and_g"](t, y)[1]

    def _drift(self, t: Any, y: Tensor) -> Any:
        if "f_and_g" in self._given:
            return self._given["f_and_g"](t, y)[0]
        return self._given["f_and_g_prod"](t, y, y.new_zeros(len(y), self.noise_dim))[0]

    def _product(self, t: Any, y: Tensor, v: Tensor) -> Any:
        if not hasattr(self, "g"):
            return self._given["f_and_g_prod"](t, y, v)[1]
        return self._applied(self.g(t, y), v)

    def _applied(self, noise: Tensor, v: Tensor) -> Tensor:
        if self.noise_type == "diagonal":
            return noise * v
        return torch.einsum("...dm,...m->...d", noise, v)

    def _drift_and_product(self, t: Any, y: Tensor, v: Tensor) -> Any:
        if "f_and_g" not in self._given or "g_prod" in self._given:
            return self.f(t, y), self.g_prod(t, y, v)
        drift, noise = self._given["f_and_g"](t, y)
        return drift, self._applied(noise, v)

    def _noise_dim(self, theta0: Tensor) -> int:
        given = getattr(self.sde, "noise_dim", None)
        if given is not None:
            dim = check_integer("sde.noise_dim", given)
            check_numbers_fit(f"sde.noise_dim={dim}", dim * theta0.numel(), "correct it")
            return dim
        if self.noise_type in ("scalar", "diagonal"):
            return 1 if self.noise_type == "scalar" else theta0.numel()
        if not hasattr(self, "g"):
            raise SmesolveError(
                "sde has no g, and does not say its number of Brownian motions; give it noise_dim, an integer."
            )
        noise = call_of_user("sde.g", self.g, 0.0, theta0.expand(2, -1))
        return int(noise.shape[-1]) if isinstance(noise, Tensor) and noise.ndim else 0

    def _try(self, theta0: Tensor) -> None:
        """Check shapes and dtypes of drift and noise."""
        y, states = theta0.expand(2, -1), (2, theta0.numel())
        calls: list[tuple[str, tuple[Tensor, ...], tuple[int, ...]]] = [
            ("f", (y,), states),
            ("g_prod", (y, y.new_zeros(2, self.noise_dim)), states),
        ]
        if hasattr(self, "g"):  # first, as products may be made of it
            calls.insert(0, ("g", (y,), states if self.noise_type == "diagonal" else (*states, self.noise_dim)))
        for name, given, wanted in calls:
            found = call_of_user(f"sde.{name}", getattr(self, name), 0.0, *given)
            if not isinstance(found, Tensor) or tuple(found.shape) != wanted:
                got = tuple(found.shape) if isinstance(found, Tensor) else shown(found)
                raise SmesolveError(
                    f"sde.{name} must return shape {wanted} for 2 paths and noise_type={self.noise_type!r}, got {got}."
                )
            if found.dtype != theta0.dtype:
                raise SmesolveError(
                    f"sde.{name} must return {theta0.dtype} as theta0 is, got {found.dtype}; convert its constants."
                )
        self._try_rows(theta0, [name for name, _, _ in calls])

    def _try_rows(self, theta0: Tensor, names: Sequence[str]) -> None:
        """Check that drift and noise treat each path by itself, and that additive noise is the same everywhere."""
        self._near = y = states_near(theta0)
        v = y.new_ones(3, self.noise_dim)

        def values(rows: Tensor, name: str) -> Tensor:
            found: Tensor = getattr(self, name)(0.0, y[rows], *([v[rows]] if name == "g_prod" else []))
            return found

        for name in names:
            what = f"sde.{name}"
            call_of_user(what, check_rows, what, partial(values, name=name), torch.arange(3, device="cpu"))
        noise = self.g_prod(0.0, y, v)
        if self.noise_type == "additive" and not equal_up_to_rounding(noise[:1].expand_as(noise), noise):
            raise SmesolveError(
                "sde.noise_type='additive' says that the noise does not depend on y, but here it does; say 'general'."
            )

    def check_elementwise_noise(self, derivative: bool) -> None:
        """Check that element i of diagonal noise is a function of y_i only, as methods of higher order assume.

        Args:
            derivative: whether to check its derivative as well, which Milstein's method takes by automatic
                differentiation.
        """
        if self.noise_type == "diagonal":
            y = self._near[:1]
            moved = torch.cat([y[:, :1], self._near[1:2, 1:]], dim=1)
            before, after = self.g(0.0, y), self.g(0.0, moved)
            others = self.g(0.0, torch.cat([self._near[1:2, :1], y[:, 1:]], dim=1))
            if not (
                equal_up_to_rounding(after[:, :1], before[:, :1]) and equal_up_to_rounding(others[:, 1:], before[:, 1:])
            ):
                raise SmesolveError(
                    "sde.noise_type='diagonal' says that element i of g is a function of y_i only, but here it "
                    "depends on others, with which 'milstein' and 'srk' lose their order; take 'euler'."
                )
        if derivative:
            y = self._near[:2]
            check_derivative("sde.g", lambda at: self.g(0.0, at), y, 1 + y.abs())


def states_near(theta0: Tensor) -> Tensor:
    """Return three different states (3, D) that differ from theta0 (D,) by at most 1% and 0.001."""
    numbers = torch.arange(1.0, 3 * theta0.numel() + 1, dtype=torch.float64, device="cpu").sin().to(theta0)
    return theta0 + 0.01 * (0.1 + theta0.abs()) * numbers.view(3, theta0.numel())


def check_sde(name: str, sde: Any, kinds: Sequence[str] = ("ito",)) -> None:
    """Check that an object is an SDE in torchsde's sense, of one of the kinds ("ito", "stratonovich").

    Raises:
        SmesolveError: the object is no such SDE.
    """
    has = {form: callable(getattr(sde, form, None)) for form in FORMS}
    complete = has["f_and_g"] or has["f_and_g_prod"] or (has["f"] and (has["g"] or has["g_prod"]))
    kind, noise = getattr(sde, "sde_type", None), getattr(sde, "noise_type", None)
    if isinstance(sde, type) or not complete or kind not in kinds:
        raise SmesolveError(
            f"{name} must be a ModifiedEquation, or an object with f, g or g_prod, and sde_type "
            f"{' or '.join(map(repr, kinds))}, got {shown(sde)}."
        )
    if noise not in NOISE_TYPES:
        raise invalid(f"{name}.noise_type", f"be one of {', '.join(map(repr, NOISE_TYPES))}", noise)
