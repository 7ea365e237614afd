"""What is trained with noise: theta' = theta - lr gradient(theta, draw), a fresh draw each step.

A draw is whatever is random in one step: dropout masks, the indices of a mini-batch, noise on labels or parameters.
Iteration, modified equation, comparison and landscape know a problem by the methods of this class alone.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn
from torch.masked import is_masked_tensor
from torch.utils.data import Dataset

from smesolve.arguments import INDEX, NOT_NEGATIVE, checked
from smesolve.errors import SmesolveError, shown
from smesolve.problem.one_at_a_time import forward_derivative, one_at_a_time
from smesolve.problem.parameters import drawn_parameters
from smesolve.sampling.ensemble import fitting_block_size
from smesolve.sampling.randomness import keyed_uniforms

__all__ = ["Problem", "check_table", "check_trailing", "finite_data"]


class Problem(ABC):
    """A loss with a noisy gradient.

    All methods take theta (..., D) with any leading dimensions; draws and normals broadcast against them. Shapes:
    n samples, D parameters, U uniforms a draw, M Brownian motions.
    """

    network: Any
    """A torch.nn.Module."""
    x: Tensor
    y: Tensor
    samples: int
    """n."""
    dim: int
    """D."""
    draw_dim: int
    """U, the uniforms that one draw is made of."""
    noise_dim: int
    """M, the normals that one noise product is made of; 0 where the gradient has no noise."""
    numbers_per_path: int
    """Numbers in the working arrays of one path, about."""
    dtype: torch.dtype
    device: torch.device
    exact: bool = True
    """Mean gradient and noise product are known in closed form. Otherwise they are known by sampling alone: see
    `reference_gradient`, and the schemes that take gradients in place of drift and noise."""
    autonomous: bool = True
    """Nothing depends on time; otherwise `at(t)` is the problem at time t."""
    breaks: Sequence[float] = ()
    """Times between which it depends on time smoothly."""
    jumps: Sequence[float] = ()
    """Those of them at which gradient or noise jumps."""
    linear_noise: bool = True
    """noise_product is linear in its normals; `noise_functions` returns what it replaces by them, if anything."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.samples} samples, D={self.dim}, M={self.noise_dim})"

    # --- what a problem defines -------------------------------------------------------------------------------------

    @abstractmethod
    def draw(self, uniforms: Tensor) -> Any:
        """Draws from uniforms (..., U) in [0, 1), as `gradient` takes them."""

    @abstractmethod
    def loss(self, theta: Tensor) -> Tensor:
        """R_S(theta), the loss without noise: (...,)."""

    @abstractmethod
    def modified_loss(self, theta: Tensor) -> Tensor:
        """L_S(theta), the mean of the noisy loss: (...,)."""

    @abstractmethod
    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """The noisy gradient (..., D) for given draws."""

    @abstractmethod
    def mean_gradient(self, theta: Tensor) -> Tensor:
        """grad L_S(theta), the mean of `gradient` over its draws: (..., D)."""

    @abstractmethod
    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """(..., D) from standard normals (..., M): mean zero, the covariance of `gradient`, no odd moments."""

    def noise_factor(self, theta: Tensor) -> Tensor:
        """C(theta) (..., D, K) with C C^T = Cov(gradient). Memory D K a path: small problems and tests."""
        if not self.linear_noise:
            raise SmesolveError(
                f"{type(self).__name__} has no noise factor, its noise is not a linear map of normals; estimate the "
                "covariance from noise_product."
            )
        columns = torch.eye(self.noise_dim, dtype=self.dtype, device=self.device)
        return self.noise_product(theta[..., None, :], columns).mT

    def noise_functions(self, draw: Any) -> Tensor | None:
        """chi (..., M) with gradient = mean_gradient + noise_product(theta, chi), mean zero and covariance I, or None.

        The covariance may be another one where the noise product does not see it, at this and every other time.
        """
        return None

    @property
    def draw_count(self) -> float:
        """Number of different draws; infinity unless they can be enumerated."""
        return math.inf

    def all_draws(self) -> tuple[Any, Tensor]:
        """Every draw and its probability (K,)."""
        raise SmesolveError(f"the draws of {type(self).__name__} cannot be enumerated; use Monte Carlo.")

    # --- what follows -------------------------------------------------------------------------------------------------

    def at(self, time: float) -> Problem:
        """The problem at time t = k lr; a number, or a tensor as torchsde has it."""
        return self

    @property
    def block_size(self) -> int:
        """Paths that are run together: the working arrays of a block fit a cache."""
        return fitting_block_size(self.numbers_per_path)

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """A smooth function close to `mean_gradient`, which is enough for stability limits and control variates."""
        return self.mean_gradient(theta)

    def gradient_and_mean_gradient(self, theta: Tensor, draw: Any) -> tuple[Tensor, Tensor]:
        """`gradient` and `mean_gradient` at one theta."""
        return self.gradient(theta, draw), self.mean_gradient(theta)

    def mean_gradient_and_noise_product(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """`mean_gradient` and `noise_product` at one theta."""
        return self.mean_gradient(theta), self.noise_product(theta, normals)

    def mean_gradient_noise_product_and_bend(self, theta: Tensor, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`mean_gradient`, `noise_product`, and Hess L_S times the mean gradient, at one theta."""
        mean, noise = self.mean_gradient_and_noise_product(theta, normals)
        return mean, noise, self.hessian_product(theta, mean)

    def drift_and_noise(self, theta: Tensor, normals: Tensor, weight: float) -> Tensor:
        """weight `mean_gradient` + `noise_product` at one theta: an Euler step."""
        mean, noise = self.mean_gradient_and_noise_product(theta, normals)
        return weight * mean + noise

    @checked(step=INDEX)
    def sample(self, count: int, seed: int, step: int = 0) -> Any:
        """`count` independent draws, keyed by (seed, step)."""
        return self.draw(keyed_uniforms((count, self.draw_dim), seed, 0, step))

    def covariance(self, theta: Tensor) -> Tensor:
        """Sigma(theta) = Cov(gradient) (..., D, D). Memory D^2 + D K a path: small problems and tests."""
        factor = self.noise_factor(theta)
        return factor @ factor.mT

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Hess L_S(theta) vector (..., D), the derivative of `reference_gradient`. Cost: about two of these."""
        return forward_derivative(self.reference_gradient, theta, vector)[1]

    @checked
    def initial(self, seed: int | None = 0) -> Tensor:
        """Initial parameters (D,): drawn anew by the modules' own initialisation, or those that the network has now.

        Args:
            seed: of the draw; None for the network's present values, such as weights that were loaded. A draw replaces
                all of them, and what was set by hand.

        Raises:
            SmesolveError: a module's own initialisation fails.

        Warns:
            MissingInitialiserWarning: parameters that no module draws, such as a bare torch.nn.Parameter, are named.
                They become normals of the mean and the standard deviation of their present values, constants stay.
        """
        with one_at_a_time:  # another thread may have its own parameters in the module, or draw its own
            if seed is None:
                return nn.utils.parameters_to_vector(self.network.parameters()).detach()
            return drawn_parameters(self.network, seed, self.device)

    @checked(horizon=NOT_NEGATIVE)
    def stability_limit(self, theta: Tensor, horizon: float = 0.0) -> float:
        """2 / lambda_max(Hess L_S(theta)), theta (D,): beyond this lr the mean iteration leaves theta's neighbourhood.

        Under a schedule it is the least of the limits at all times up to the horizon.

        The largest eigenvalue is by Lanczos (scipy `eigsh`; some 20 Hessian products); infinity where it is <= 0.
        """

        def product(vector: np.ndarray) -> np.ndarray:
            direction = torch.as_tensor(vector.reshape(-1), dtype=self.dtype, device=self.device)
            return self.hessian_product(theta, direction).cpu().numpy()

        if self.dim == 1:
            largest = float(product(np.ones(1))[0])
        else:
            operator = LinearOperator((self.dim, self.dim), matvec=product, dtype=np.float64)
            start = np.random.default_rng(0).standard_normal(self.dim)  # in no invariant subspace
            first = product(start)
            if not np.isfinite(first).all():
                raise SmesolveError(
                    f"theta has a Hessian whose entries are not finite in {self.dtype}; take smaller parameters, or "
                    "scale the data."
                )
            if not first.any():
                return float("inf")
            try:
                largest = float(eigsh(operator, k=1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[0])
            except ArpackNoConvergence as failure:
                raise ArithmeticError(
                    f"the largest Hessian eigenvalue at theta did not converge: {failure}"
                ) from failure
        return 2 / largest if largest > 0 else float("inf")


def finite_data(
    name: str,
    values: Tensor | np.ndarray,
    dtype: torch.dtype,
    device: torch.device,
    keep_integers: bool = False,
) -> Tensor:
    """Data as a tensor of the given dtype, integers kept if asked.

    Raises:
        SmesolveError: data that are empty, hide values (masks, other layouts), or hold other numbers than finite ones
            that `dtype` represents: integers beyond its digits, and values whose sum of squares overflows.
    """
    data = _as_tensor(name, values)
    if data.ndim == 0 or data.numel() == 0:
        raise SmesolveError(f"{name} holds no sample, got {shown(values)}; give at least one.")
    if torch.device(device).type == "meta":
        raise SmesolveError(f"{name} cannot go to the meta device, which holds no values; give a network with values.")
    if not data.isfinite().all():
        bad = int((~data.isfinite()).sum())
        raise SmesolveError(f"{name} has {bad} values that are NaN or infinite; remove those samples or fill them in.")
    if keep_integers and not data.is_floating_point():
        return data.to(device)
    largest, limits = float(data.to(torch.float64).abs().max()), torch.finfo(dtype)
    if not data.is_floating_point() and largest >= 2 / limits.eps:
        raise SmesolveError(
            f"{name} has integers up to {largest:g}, which {dtype} rounds from {2 / limits.eps:g} on; scale them, or "
            "leave them out where they are identifiers."
        )
    if largest > math.sqrt(limits.max / data.numel()):
        raise SmesolveError(f"{name} has values up to {largest:g}, whose squares overflow in {dtype}; scale them.")
    return data.to(device=device, dtype=dtype)


def check_table(name: str, data: Tensor) -> None:
    """Refuse data that are not samples by inputs, or samples by outputs."""
    if data.ndim != 2:
        raise SmesolveError(
            f"{name} must have two dimensions, samples by {'inputs' if name == 'x' else 'outputs'}, got shape "
            f"{tuple(data.shape)}; a vector becomes one column by {name}.reshape(-1, 1)."
        )


def _as_tensor(name: str, values: Any) -> Tensor:
    """Numbers as a strided tensor without a graph; an array is copied, as torch warns of read-only ones."""
    if isinstance(values, Tensor):
        hidden = next((words for hides, words in _HIDING if hides(values)), None)
        if hidden is not None:
            raise SmesolveError(f"{name} must be a tensor of plain values, got {hidden}.")
        # a clone of what inference mode made, of which no derivative can be taken
        data = values.detach().clone() if values.is_inference() else values.detach()
    elif count := _masked_values(values):
        raise SmesolveError(f"{name} has {count} masked values; remove those samples, or use .filled(value).")
    else:
        try:
            array = np.array(values)
            real = array.dtype.kind in "fiub"
            wide = array.dtype.kind == "f" and array.dtype.itemsize > 8  # torch has no longer floats
            data = torch.as_tensor(
                array.astype("f8" if wide else array.dtype.newbyteorder("=")) if real else None, device="cpu"
            )
        except (ValueError, TypeError, RuntimeError, RecursionError, MemoryError):
            data = None
    if data is None or data.is_complex():
        remedy = "; a TensorDataset has them in .tensors" if isinstance(values, Dataset) else ""
        raise SmesolveError(f"{name} must hold real numbers, as a tensor or an array, got {shown(values)}{remedy}.")
    return data


def _masked_values(values: Any) -> int:
    """How many values a numpy masked array hides, or a sequence of them does."""
    parts = values if isinstance(values, (list, tuple)) else [values]
    return sum(int(np.ma.count_masked(part)) for part in parts if isinstance(part, np.ma.MaskedArray))


_HIDING: tuple[tuple[Callable[[Tensor], bool], str], ...] = (
    (lambda tensor: tensor.is_nested, "a nested one; pad it by torch.nested.to_padded_tensor, or leave samples out"),
    (is_masked_tensor, "a masked one; remove those samples or fill them in"),
    (lambda tensor: tensor.is_meta, "one on the meta device; give one with values"),
    (lambda tensor: tensor.is_quantized, "a quantized one; convert it by .dequantize()"),
    (lambda tensor: tensor.layout != torch.strided, "a sparse one; convert it by .to_dense()"),
)
"""Tensors whose values are not simply there, and what can be done."""


def check_trailing(name: str, values: Tensor, shape: tuple[int, ...], meaning: str, dtype: torch.dtype) -> None:
    """Refuse what is no tensor of `dtype` whose last dimensions are `shape`."""
    strided = isinstance(values, Tensor) and values.layout == torch.strided
    if not strided or tuple(values.shape[-len(shape) :]) != shape:
        expected = ", ".join(map(str, shape))
        got = tuple(values.shape) if strided else shown(values)
        raise SmesolveError(f"{name} must have shape (..., {expected}), {meaning}, got {got}.")
    if values.dtype != dtype:
        raise SmesolveError(f"{name} must be {dtype} as the problem is, got {values.dtype}; use .to({dtype}).")
