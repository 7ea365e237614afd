"""What is trained with noise: theta' = step(theta, draw, lr), with a fresh draw in each step.

The training step is the step of gradient descent, theta - lr gradient(theta, draw), or another one
(`smesolve.problem.training_step`).

A draw is everything that is random in one step: dropout masks, the indices of a mini-batch, noise on labels or
parameters. Iteration, modified equation, comparison and landscape use a problem through the attributes and methods of
`Problem` only.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from smesolve.entry_point import entry_point, use_one_thread_if_forked
from smesolve.errors import SmesolveError, invalid
from smesolve.problem.call_numbers import check_call_number, check_rate
from smesolve.problem.definition import check_definition, check_derivatives
from smesolve.problem.leading_dimensions import check_leading
from smesolve.problem.linearization import (
    Linearization,
    PointwiseLinearization,
    dense_noise_factor,
    reference_hessian_product,
    reference_third_derivative,
)
from smesolve.problem.parameter_vector import ParameterVector
from smesolve.problem.stability import curvature_limit, step_limit
from smesolve.problem.training_step import REFERENCE_DRAWS, TrainingStep
from smesolve.sampling.ensemble import BLOCK_FLOATS, LARGEST_BLOCK, fitting_block_size, holding_block_size
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import check_integer, check_not_negative, check_parameters, check_seed

__all__ = ["Problem", "check_trailing"]


class Problem(ParameterVector, TrainingStep):
    """A loss with a noisy gradient.

    A problem of your own subclasses this and defines `dim`, `draw_dim`, `noise_dim`, `draw`, `loss`, `gradient`,
    `mean_gradient` and `noise_product`; everything else has a default. If mean gradient and noise product are not known
    in closed form, set ``has_closed_form = False`` and leave out `noise_dim`, `mean_gradient` and `noise_product`: the
    schemes "svag" and "sampled_euler" need gradients only.

    All methods take theta (..., D) with any leading dimensions; draws and normals broadcast against them. Shapes:
    n samples, D parameters, U uniforms per draw, M normals per noise product. Methods must be differentiable by
    `torch.func`.
    """

    dim: int
    """D."""
    draw_dim: int
    """U, the number of uniforms in a draw."""
    noise_dim: int = 0
    """M, the number of normals in a noise product; 0 if the gradient has no noise, or its noise no closed form."""
    samples: int = 1
    """n, the number of samples in the data."""
    network: nn.Module | None = None
    """The network whose parameters theta holds and `initial` draws, or None."""
    x: Tensor | None = None
    """Inputs, samples first, or None."""
    y: Tensor | None = None
    """Targets, samples first, or None."""
    dtype: torch.dtype = torch.float64
    """Dtype of the parameters."""
    device: torch.device = torch.device("cpu")
    """Device of the parameters."""
    has_closed_form: bool = True
    """Whether mean gradient and noise product are known in closed form. Otherwise they can only be sampled: see
    `reference_gradient`, and the schemes that take gradients in place of drift and noise."""
    test: Problem | None = None
    """The problem on test data, without noise, or None. `with_test_data` sets it."""
    autonomous: bool = True
    """Whether nothing depends on time. Otherwise `at(t)` is the problem at time t."""
    linear_noise: bool = True
    """Whether `noise_product` is linear in its normals."""
    largest_block: int = LARGEST_BLOCK
    """Paths that a block holds at most; `in_blocks_for` lowers it."""
    block_floats: int = BLOCK_FLOATS
    """Floats of the working arrays of a block; `in_blocks_for` doubles them."""
    in_threads: bool = False
    """Whether compiled kernels, which release Python's lock, compute the training step. If so, blocks of paths run in
    threads."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.samples} samples, D={getattr(self, 'dim', '?')}, M={self.noise_dim})"

    def _repr_latex_(self) -> str:
        sizes = rf"\quad n = {self.samples},\; D = {getattr(self, 'dim', '?')},\; M = {self.noise_dim}"
        return (
            rf"$\displaystyle \theta_{{k+1}} = \theta_k - \mathrm{{lr}}\, \nabla R_S(\theta_k; \eta_{{k+1}}),{sizes}$"
        )

    # --- what a problem defines --------------------------------------------------------------------------------------

    def draw(self, uniforms: Tensor) -> Any:
        """Return draws, as `gradient` takes them, from uniforms (..., U) in [0, 1)."""
        raise self._missing("draw")

    def loss(self, theta: Tensor) -> Tensor:
        """Return R_S(theta), the loss without noise: (...,)."""
        raise self._missing("loss")

    def modified_loss(self, theta: Tensor) -> Tensor:
        """Return L_S(theta), the mean of the noisy loss: (...,). Only the observable "modified_loss" needs it."""
        raise self._missing("modified_loss")

    def outputs(self, theta: Tensor) -> Tensor:
        """Return the outputs of the network on x without noise, (..., n, o). Only accuracies need it."""
        raise self._missing("outputs")

    def gradient(self, theta: Tensor, draw: Any) -> Tensor:
        """Return the noisy gradient for given draws: (..., D)."""
        raise self._missing("gradient")

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Return grad L_S(theta), the mean of `gradient` over its draws: (..., D)."""
        raise self._missing("mean_gradient")

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Return noise (..., D) made of standard normals (..., M).

        It has mean zero, the covariance of `gradient`, and no odd moments.
        """
        raise self._missing("noise_product")

    def check(self) -> None:
        """Check that the problem defines everything that it must, with the right shapes. Cost: a few calls on 3 paths.

        Raises:
            SmesolveError: an attribute is missing (the message lists all of them), fails, or has another shape or
                dtype.
        """
        check_definition(self)

    def defines(self, name: str) -> bool:
        """Return whether the problem, or its class, defines an attribute itself instead of inheriting the default."""
        own = type(self).__mro__[: type(self).__mro__.index(Problem)]
        return any(name in vars(owner) for owner in (self, *own))

    def _missing(self, name: str) -> SmesolveError:
        return SmesolveError(f"{type(self).__name__} must define {name} for this; see help(smesolve.Problem.{name}).")

    # --- defaults ----------------------------------------------------------------------------------------------------

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path, approximately. Default: four arrays of each of D, U and M."""
        return 4 * (self.dim + self.draw_dim + self.noise_dim)

    @property
    def reference_floats(self) -> int:
        """Floats in the working arrays of one `reference_gradient`, approximately.

        Default: `floats_per_path` less two arrays of normals; without a closed form 32 times `floats_per_path`, for 32
        draws.
        """
        if not self.has_closed_form:
            return REFERENCE_DRAWS * self.floats_per_path
        return max(self.dim, self.floats_per_path - 2 * self.noise_dim)

    @property
    def block_size(self) -> int:
        """Number of paths in a block, whose working arrays fit a cache."""
        return min(fitting_block_size(self.floats_per_path, self.block_floats), self.largest_block)

    def in_blocks_for(self, paths: int) -> Self:
        """Return the same problem with the blocks of a study of `paths` paths.

        A block holds at most the smallest power of two that is at least 8 and not below `paths`, so that few paths are
        in one small block. Up to there it may have twice the floats, as each step of a block in a study also calls
        control variates. A problem that defines `block_size` keeps it.
        """
        sizes = {"largest_block": holding_block_size(check_integer("paths", paths)), "block_floats": 2 * BLOCK_FLOATS}
        if sizes.items() <= vars(self).items():
            return self
        other = copy.copy(self)
        vars(other).update(sizes)  # also where the class is a frozen dataclass
        return other

    @property
    def breaks(self) -> Sequence[float]:
        """Times between which the problem is a smooth function of time. Default: none."""
        return ()

    @property
    def jumps(self) -> Sequence[float]:
        """The breaks at which gradient or noise jumps. Default: none."""
        return ()

    @property
    def draw_count(self) -> float:
        """Number of different draws. Default: infinity, for draws that cannot be enumerated."""
        return math.inf

    def all_draws(self) -> tuple[Any, Tensor]:
        """Return all draws and their probabilities (K,).

        Raises:
            SmesolveError: the draws cannot be enumerated, or are too many.
        """
        raise SmesolveError(f"the draws of {type(self).__name__} cannot be enumerated; use Monte Carlo.")

    def at(self, time: float, left_limit: bool = False) -> Problem:
        """Return the problem at time t = k lr, a number or a tensor; `left_limit` means just before it."""
        check_call_number("time", time)
        return self

    def continued(self, time: float, left_limit: bool, ahead: float) -> Problem:
        """Return the problem at time + ahead, as what holds at a time, or just before it, goes on to there smoothly."""
        check_call_number("time", time)
        check_call_number("ahead", ahead)
        return self

    def drift_slope(self, time: float, theta: Tensor, left_limit: bool = False) -> Tensor:
        """Return the time derivative of -`reference_gradient` at a time, or just before it: (..., D). Default: 0.

        Where the mean gradient has a closed form, that is the one of -grad L_S(theta).
        """
        check_call_number("time", time)
        return torch.zeros_like(theta)

    def with_lr_factor(self, factor: float) -> Problem:
        """Return the training whose learning rate is multiplied by a factor, for a problem with `linear_step = False`.

        What schedules of the learning rate multiply. Default: refused.
        """
        raise SmesolveError(
            f"{type(self).__name__} has a step of its own, and does not say what a schedule of the learning rate does "
            "to it; define with_lr_factor(factor)."
        )

    def linearize(self, theta: Tensor) -> Linearization:
        """Return the problem at theta, whose losses, gradients and noise share a forward pass if there is one."""
        return PointwiseLinearization(self, theta)

    @property
    def trained(self) -> Problem:
        """The problem whose parameters `parameters` returns, and whose observables are measured. Default: this one."""
        return self

    def parameters(self, theta: Tensor) -> Tensor:
        """Return the parameters in theta (..., D): a part of it if theta is an optimiser's state, else all of it."""
        return theta

    def check_lr(self, lr: float) -> None:
        """Refuse a learning rate above `largest_lr`, where the step is not defined. Default: accept all numbers."""
        check_rate(lr)

    def check_start(self, name: str, theta: Tensor) -> None:
        """Refuse a start (D,) without a modified equation; `name` is its name in the message. Default: accept all."""

    def small_noise_rk4(
        self, theta: Tensor, increments: Tensor, order: int, lr: float, dt: float, split: bool
    ) -> tuple[Tensor, ...] | None:
        """Return a whole step of the scheme "small_noise_rk4", if one kernel computes it.

        Args:
            theta: (B, D).
            increments: of the Brownian motion, (B, M).
            order: order of the modified equation, 1 or 2.
            lr: learning rate of the equation.
            dt: step of the scheme.
            split: whether to return prediction and noise of the step as well.

        Returns:
            The parameters after the step, and with `split` its prediction and its noise, each (B, D). Default: None.
        """
        return None

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """Return a smooth function close to `mean_gradient`, for stability limits and control variates: (..., D).

        Default: `mean_gradient`; without a closed form the mean of `gradient` over 32 draws, which are always the same.
        """
        if self.has_closed_form:
            return self.mean_gradient(theta)
        return self.gradient(theta[..., None, :], self.sample(REFERENCE_DRAWS, seed=0)).mean(-2)

    def hessian_product(self, theta: Tensor, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector, the derivative of `reference_gradient`: (..., D). Cost: two gradients."""
        self.check_vectors(theta, vector=vector)
        return reference_hessian_product(self, theta, vector)

    def third_derivative(self, theta: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Return D^3 L_S(theta)[first, second], the derivative of `hessian_product(., second)` along `first`: (..., D).

        Cost: some 3 to 10 gradients.
        """
        self.check_vectors(theta, first=first, second=second)
        return reference_third_derivative(self, theta, first, second)

    def check_vectors(self, theta: Tensor, **vectors: Tensor) -> None:
        """Check that vectors, by their names, are directions (..., D) of the problem's dtype at theta (..., D)."""
        for name, vector in vectors.items():
            check_trailing(name, vector, (self.dim,), "the problem's dim D", self.dtype)
            check_leading(theta, name, vector)

    def noise_factor(self, theta: Tensor) -> Tensor:
        """Return C(theta), (..., D, K) with C C^T = Cov(gradient); K = M by default.

        Memory: D K floats per path, for small problems and tests.
        """
        return dense_noise_factor(self, theta)

    def covariance(self, theta: Tensor) -> Tensor:
        """Return Sigma(theta) = Cov(gradient), (..., D, D).

        Memory: D^2 + D K floats per path, for small problems and tests.
        """
        return self.linearize(theta).covariance()

    def noise_coordinates(self, draw: Any) -> Tensor | None:
        """Return chi (..., M) with gradient = mean_gradient + noise_product(theta, chi), mean 0 and covariance I.

        The covariance may differ from I in directions that the noise product ignores at all times. Default: None, for
        gradients without such functions of the draw.
        """
        return None

    def noise_coefficients(self, theta: Tensor, direction: Tensor) -> Any:
        """Return the coefficients of <direction, gradient(theta, draw)> to first order in the draw, for `noise_along`.

        Both theta and direction are (D,). Default: None.
        """
        return None

    def noise_along(self, coefficients: Any, draw: Any) -> Tensor:
        """Return the part of <direction, gradient> of first order in the draw, of mean 0: (...,). Default: 0."""
        return torch.zeros((), dtype=self.dtype, device=self.device)

    @entry_point
    def with_test_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Self:
        """Return the same problem with test data, for the observables "test_loss" and "test_accuracy".

        The test loss is the problem's loss on the test data, without noise and without weight decay.

        Args:
            x: inputs of the test data, samples first.
            y: their targets.

        Raises:
            SmesolveError: the data do not fit the problem, or the problem has no data.
        """
        other = copy.copy(self)
        other.test = self.on_data(x, y)
        return other

    def on_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> Problem:
        """Return the problem of the same network and loss on other data, without noise and weight decay."""
        raise self._missing("on_data")

    @entry_point
    def sample(self, count: int, seed: int, step: int = 0) -> Any:
        """Return `count` independent draws, keyed by (seed, step)."""
        count, seed = check_integer("count", count), check_seed("seed", seed)
        return self.draw(keyed_uniforms((count, self.draw_dim), seed, 0, check_integer("step", step, least=0)))

    @entry_point
    def stability_limit(self, theta: Tensor, horizon: float = 0.0) -> float:
        """Return the learning rate above which the mean iteration, linearized at theta (D,), is unstable.

        For gradient descent that is 2 / lambda_max(Hess L_S(theta)), computed by Lanczos' method. For any other step it
        is the smallest lr at which an eigenvalue of the Jacobian of `reference_step` with a real part below 1 leaves
        the unit circle, and at most `largest_lr`. Under a schedule it is the smallest limit at any time up to the
        horizon. Infinity if there is no limit.

        Cost: some 20 Hessian products, or some 6 spectra of the Jacobian.

        Raises:
            SmesolveError: theta of another shape or dtype, or derivatives at theta that are not finite.
            ArithmeticError: the eigenvalues do not converge.
        """
        theta = check_parameters("theta", theta, self)
        check_not_negative("horizon", horizon)
        check_derivatives(self, theta)
        if self.linear_step and self.conservative:
            return curvature_limit(self.linearize(theta).hessian_product, theta)
        return step_limit(lambda at, lr: self.reference_step(at, lr) - at, theta, self.largest_lr)


def check_trailing(name: str, values: Tensor, shape: tuple[int, ...], meaning: str, dtype: torch.dtype) -> None:
    """Check that values have a dtype and last dimensions `shape`, before a kernel computes with them."""
    if not torch.compiler.is_compiling():
        use_one_thread_if_forked()
    if not isinstance(values, Tensor) or values.layout != torch.strided or tuple(values.shape[-len(shape) :]) != shape:
        expected = f"(..., {', '.join(map(str, shape))})"
        if isinstance(values, Tensor) and values.layout == torch.strided:
            raise SmesolveError(f"{name} must have shape {expected}, {meaning}, got {tuple(values.shape)}.")
        remedy = ".to_dense()" if isinstance(values, Tensor) else f"torch.as_tensor(..., dtype={dtype})"
        raise invalid(name, f"be a dense tensor of shape {expected}", values, f"convert it by {remedy}")
    if values.dtype != dtype:
        raise SmesolveError(f"{name} must be {dtype} as the problem is, got {values.dtype}; use .to({dtype}).")
