"""Training by shuffled epochs: one step is an epoch, in which every sample belongs to exactly one batch.

An epoch takes the N = n/b batches of a random order of the samples one after the other, as torch's DataLoader with
shuffle=True does, with fresh masks in each batch,

    (1)  theta_k = theta_(k-1) - lr g_k(theta_(k-1)),     k = 1, ..., N,     step(theta, draw, lr) = theta_N.

In powers of lr the step is theta + lr F + lr^2 F2 + ... with

    (2)  F = -sum_k g_k,       F2 = sum_(j<k) (D g_k) g_j.

Without masks the sum of the batch gradients is N times the gradient G of all samples, in any order: F has no noise, and
through weak order 2 the modified equation is an ordinary differential equation. In place of the noise of variance O(lr)
of independent batches there is a drift,

    (3)  E F2 = N (N - 1) / (2 n (n - 1)) [ n^2 (D G) G - sum_i (D h_i) h_i ],

where h_i is the gradient of sample i, so that the mean of the h_i is G. It follows because samples of two different
batches are a random pair of different samples. With b = -N G this gives the drift b + lr (E F2 - 1/2 (Db) b) of order
2, the implicit regularisation of Smith, Dherin, Barrett, De (ICLR 2021, eq. 1 and 22). The remaining variance falls
like lr^3.

Time t is lr times the number of epochs, so the small parameter is lr N.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from smesolve.entry_point import entry_point
from smesolve.errors import invalid
from smesolve.problem.batch_noise import BatchNoise
from smesolve.problem.call_numbers import check_rate, check_term_count
from smesolve.problem.derived_problem import ScaledProblem
from smesolve.problem.losses import SampleLoss
from smesolve.problem.module_draws import Draw
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.problem import Problem
from smesolve.problem.step_expansion import taylor_terms
from smesolve.validation import check_integer

__all__ = ["ShuffledEpochs"]


class ShuffledEpochs(ModuleProblem):
    """A `ModuleProblem` whose training step is an epoch, eq. (1), as with torch's DataLoader and shuffle=True.

    Draws have one more dimension, for the N batches, before the dimensions of a batch. Cost of a step: N gradients on b
    samples.

    Args:
        module: the module to be trained. All arguments but batch_size are as for `ModuleProblem`.
        x: inputs (n, ...).
        y: targets (n, ...).
        loss: of each sample. Default: "squared_error".
        masks: "shared" or "per_sample". Default: "per_sample".
        batch_size: b, the number of samples in a batch, which divides the number of samples.
        weight_decay: c, which adds c |theta|^2 / 2 to the loss. Default: 0.
        label_noise: standard deviation of the noise on the targets. Default: 0.
        parameter_noise: standard deviation of the noise on the parameters. Default: 0.

    Raises:
        SmesolveError: as for `ModuleProblem`, or batch_size does not divide the number of samples.
    """

    batch_size: int
    linear_step = False
    has_mean_step = False

    @entry_point
    def __init__(
        self,
        module: nn.Module,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        loss: str | SampleLoss = "squared_error",
        masks: str = "per_sample",
        *,
        batch_size: int,
        weight_decay: float = 0.0,
        label_noise: float = 0.0,
        parameter_noise: float = 0.0,
    ) -> None:
        noises = weight_decay, label_noise, parameter_noise
        given = module, x, y, loss, masks, check_integer("batch_size", batch_size), False, *noises
        self._make_independent = partial(ModuleProblem, *given)
        super().__init__(*given)
        if self.samples % self.batch_size:
            raise invalid(
                "batch_size", f"divide the {self.samples} samples", batch_size, "change it, or leave some out"
            )
        self.batches = self.samples // self.batch_size
        others = {name: shape for name, shape in self._shapes.items() if name != "indices"}
        self._batch_layout = self._layout_of(others)  # of all but the order of the samples
        self._layout = self._layout_of({name: (self.batches, *shape) for name, shape in self._shapes.items()})  # all
        self.draw_dim = self.samples + self.batches * self._batch_layout.uniforms
        self._batch_noise = BatchNoise(self.samples, None, False, self.label_noise, self._output_shape)
        self.noise_dim = self._batch_noise.dim if self.has_closed_form else 2 * self.draw_dim

    @cached_property
    def independent_batches(self) -> ModuleProblem:
        """The same problem with one independently drawn batch per step."""
        return self._make_independent()

    # --- the epoch ---------------------------------------------------------------------------------------------------

    def draw(self, uniforms: Tensor) -> Draw:
        """Return an order of the samples, masks and normals of all batches, from uniforms (..., U)."""
        layout = self._batch_layout
        order, rest = uniforms.split([self.samples, self.batches * layout.uniforms], dim=-1)
        draw = dict(layout.drawn(rest.unflatten(-1, (self.batches, layout.uniforms))))
        draw["indices"] = order.argsort(dim=-1).unflatten(-1, (self.batches, -1)).to(self.device)
        return draw

    def _batch(self, draw: Draw, number: int) -> Draw:
        """Return the part of a draw that belongs to one batch of the epoch."""
        return {name: part.select(-1 - len(self._shapes[name]), number) for name, part in draw.items()}

    def gradient(self, theta: Tensor, draw: Draw) -> Tensor:
        """Return sum_k g_k(theta), which is -F of eq. (2): (..., D)."""
        self._layout.check(draw)
        total = self._batch_gradient(theta, self._batch(draw, 0))
        for number in range(1, self.batches):
            total = total + self._batch_gradient(theta, self._batch(draw, number))
        return total

    def step(self, theta: Tensor, draw: Draw, lr: float | Tensor) -> Tensor:
        """Return theta after an epoch, eq. (1): (..., D)."""
        check_rate(lr)
        self._layout.check(draw)
        for number in range(self.batches):
            theta = theta - lr * self._batch_gradient(theta, self._batch(draw, number))
        return theta

    def step_terms(self, theta: Tensor, draw: Draw, count: int) -> list[Tensor]:
        """Return the first `count` of F, F2, F3, ..., each (..., D). Cost: 2^(count - 1) N gradients.

        With theta_(k-1) = theta + lr t_1 + lr^2 t_2 + ..., batch k subtracts from t_(p+1) the term of order p of its
        gradient at theta_(k-1).
        """
        check_term_count(count)
        self._layout.check(draw)
        terms = [torch.zeros_like(theta)] * count
        for number in range(self.batches):
            batch = self._batch(draw, number)

            def gradient(lr: Tensor, terms: list[Tensor] = terms, batch: Draw = batch) -> Tensor:
                moved = theta
                for power, term in enumerate(terms[:-1], start=1):
                    moved = moved + lr**power * term
                return self._batch_gradient(moved, batch)

            orders = taylor_terms(gradient, theta, count - 1)
            terms = [term - order for term, order in zip(terms, orders, strict=True)]
        return terms

    def with_lr_factor(self, factor: float) -> Problem:
        """Return the epochs whose learning rate is multiplied by a factor, the same for all of their batches."""
        return ScaledProblem(self, factor)

    # --- its mean ----------------------------------------------------------------------------------------------------

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Return N G(theta): (..., D)."""
        return self.batches * super().mean_gradient(theta)

    def mean_gradient_estimate(self, theta: Tensor, draws: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return the mean gradient of an epoch at theta (D,) and its standard error, each (D,)."""
        mean, stderr = super().mean_gradient_estimate(theta, draws, seed)
        return (mean, stderr) if self.has_closed_form else (self.batches * mean, self.batches * stderr)

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """Return N times the reference gradient of all samples: (..., D)."""
        gradient = super().reference_gradient(theta)
        return gradient if self.has_closed_form else self.batches * gradient

    def mean_second_term(self, theta: Tensor) -> Tensor:
        """Return E F2, eq. (3): (..., D), for problems in which only the order of the samples and labels are random.

        Cost: about six gradients of every sample, in chunks of a batch.
        """
        if self.batches == 1:
            return torch.zeros_like(theta)
        n, N = self.samples, self.batches

        def pairs(vector: Tensor) -> Tensor:
            """Return n^2 (D G) G - sum_i (D h_i) h_i, by the gradients of |G|^2 / 2 and of |h_i|^2 / 2."""
            G = grad(lambda v: grad(self._mean_loss)(v).square().sum() / 2)
            own = torch.zeros_like(vector)
            for start in range(0, n, n // N):
                x, y = self.x[start : start + n // N], self.y[start : start + n // N]
                own = own + grad(lambda v, x=x, y=y: self._squared_gradients(v, x, y))(vector)
            result: Tensor = n**2 * G(vector) - own
            return result

        factor = N * (N - 1) / (2 * n * (n - 1))
        return factor * self._over_paths("pairs of batches", pairs, theta)  # (3)

    def _squared_gradients(self, vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return sum_i |h_i|^2 / 2 over some samples."""

        def loss(v: Tensor, one: Tensor, target: Tensor) -> Tensor:
            value = self._sample_loss(self._outputs(v, one[None], {}), target[None]).squeeze(0)
            return value + self.weight_decay / 2 * v.square().sum()

        gradients: Tensor = vmap(grad(loss), in_dims=(None, 0, 0))(vector, x, y)
        return gradients.square().sum() / 2

    # --- its noise ---------------------------------------------------------------------------------------------------

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Return noise with the covariance of `gradient`, (..., D): in closed form the label noise, or zero."""
        product = super().noise_product(theta, normals)
        return self.batches * product if self.has_closed_form else product

    def noise_coordinates(self, draw: Draw) -> Tensor | None:
        """Return the label normals in the order of the samples (..., n o), or None if there are none."""
        if not self.has_closed_form or not self.noise_dim:
            return None
        normals = draw["labels"].reshape(*draw["indices"].shape[:-2], self.samples, -1)
        order = draw["indices"].flatten(-2)[..., None].expand(normals.shape)
        return torch.zeros_like(normals).scatter(-2, order, normals).flatten(-2)

    def noise_coefficients(self, theta: Tensor, direction: Tensor) -> Draw:
        """Return no coefficients: the effect of masks on an epoch is not expanded."""
        return {}

    def noise_along(self, coefficients: Draw, draw: Draw) -> Tensor:
        """Return 0."""
        return torch.zeros((), dtype=self.dtype, device=self.device)
