"""Any torch module, any loss, and the noises that its training may have.

One step sees, each where it is asked for, a mini-batch of the samples, dropout masks wherever the module drops, noise
on the targets and noise on the parameters:

    g(theta; draw) = grad 1/b sum_{i in batch} loss(f(x_i; theta + s_p xi, masks), y_i + s_l eps_i) + decay theta.

Without dropout and parameter noise the mean is the full-batch gradient, and the covariance that of

    C xi = grad_theta [ sum_i w_i loss_i - s_l / sqrt(b n) sum_i <eps_i, f_i> ],   w_i = sqrt(q / (b n)) (xi_i - xibar),

with q = 1 for batches drawn with replacement, (n - b)/(n - 1) without: one backward pass, exact. Otherwise no finite
expansion exists and mean and covariance are known by sampling: (g - g')/sqrt(2) of two independent draws has mean zero,
covariance Sigma and no odd moments, which is all that a weak scheme of order 2 asks of its increments.

Sources: Li, Tai, E (JMLR 20(40), 2019) for mini-batches; Wei, Kakade, Ma (arXiv 2002.12915) for dropout in any layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from smesolve.arguments import Integer, checked
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.problem.decompositions import DecomposedLoss
from smesolve.problem.losses import LOSSES, SampleLoss, class_targets
from smesolve.problem.masks import BernoulliMasks
from smesolve.problem.module_trial import ModuleTrial
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.parameters import check_parameters
from smesolve.problem.problem import Problem, check_trailing, finite_data
from smesolve.sampling.randomness import keyed_uniforms

__all__ = ["Draw", "ModuleProblem"]

REFERENCE_DRAWS = 32
"""Draws, always the same, over which `reference_gradient` averages."""

Draw = Mapping[str, Tensor]
"""What is random in one step, by name, with leading dimensions of paths; what a problem does not have is not there.

    indices         (..., b)           samples of the mini-batch
    mask 0, ...     (..., b, ...)      one for each dropout call; 1 for b if shared, without b if a weight is dropped
    labels          (..., b, o)        standard normals eps
    parameters      (..., D)           standard normals xi
"""


class ModuleProblem(Problem):
    """A torch module with its data, its loss, and the noise that it is trained with.

    `exact` says whether mean gradient and noise product are known in closed form: they are without dropout and
    parameter noise. Otherwise `mean_gradient_estimate` has an error, and equations are integrated by the schemes that
    take gradients ("svag", "sampled_euler").

    Dropout is what torch.nn.Dropout, its 1d to 3d kinds, and their functions do in train mode, in place or not. Where
    the dropped tensor has the samples in its first dimension its masks have them, too; where its shape is the same for
    any number of samples, as that of a weight, all samples see one mask, whatever `masks` says.

    The module is tried first. A copy of it with its present train flags is used, so that the module does not change.

    Args:
        module: maps x (n, ...) to outputs (n, ...), each sample by itself, by operations that `torch.func` can
            differentiate and batch.
        x: inputs, samples first.
        y: targets, samples first; for "cross_entropy" class indices from 0, or class probabilities.
        loss: a name in `LOSSES`, or a callable that gives one loss for each sample (torch's reduction="none").
        masks: "per_sample", as torch.nn.Dropout, or "shared" by all samples of a step.
        batch_size: b, the samples of a step. Default: all.
        replacement: draw the samples of a batch with replacement.
        weight_decay: as in torch.optim.SGD.
        label_noise: standard deviation s_l of normals added to the targets, for "squared_error".
        parameter_noise: standard deviation s_p of normals added to the parameters before the gradient is taken.

    Raises:
        SmesolveError: unfit data, loss, scale or batch_size; a module that couples samples, draws other random numbers,
            has a state that changes its outputs, or cannot be trained, differentiated, batched, copied or pickled.
    """

    @checked
    def __init__(
        self,
        module: nn.Module,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        loss: str | SampleLoss = "squared_error",
        masks: str = "per_sample",
        batch_size: int | None = None,
        replacement: bool = False,
        weight_decay: float = 0.0,
        label_noise: float = 0.0,
        parameter_noise: float = 0.0,
    ) -> None:
        check_parameters("module", module)
        parameter = next(module.parameters())
        self.network = module
        self.dtype, self.device = parameter.dtype, parameter.device
        self.x = finite_data("x", x, self.dtype, self.device)
        self.y = finite_data("y", y, self.dtype, self.device, keep_integers=loss != "squared_error")
        if loss != "cross_entropy" and not self.y.is_floating_point() and self.y.dtype != torch.bool:
            self.y = self.y.long()  # torch's losses have no gradient for class labels of other types
        self.samples = self.x.shape[0]
        if self.y.shape[0] != self.samples:
            raise SmesolveError(
                f"x and y must hold the same number of samples, got shapes {tuple(self.x.shape)} and "
                f"{tuple(self.y.shape)}."
            )
        if isinstance(loss, str) and loss not in LOSSES:
            raise SmesolveError(f"loss must be one of {', '.join(LOSSES)} or a callable, got {loss!r}.")
        if masks not in ("shared", "per_sample"):
            raise SmesolveError(f'masks must be "shared" or "per_sample", got {masks!r}.')
        if batch_size is not None and batch_size > self.samples:
            raise SmesolveError(f"batch_size must be at most the {self.samples} samples, got {batch_size!r}.")
        if label_noise and loss != "squared_error":
            raise SmesolveError(f"label_noise={label_noise} needs loss='squared_error', got loss={loss!r}.")

        self._sample_loss = LOSSES[loss] if isinstance(loss, str) else DecomposedLoss(loss)
        trial = ModuleTrial("module", module, self.x)
        self._function = trial.function
        self.dim = self._function.dim
        self.batch_size, self.replacement = batch_size, replacement
        self.weight_decay, self.label_noise, self.parameter_noise = weight_decay, label_noise, parameter_noise

        layers = trial.dropout_layers()
        outputs = trial.outputs()
        if loss == "cross_entropy":
            self.y = class_targets(self.y, outputs)
        losses = call_of_user("loss", self._sample_loss, outputs, self.y)
        if not isinstance(losses, Tensor) or tuple(losses.shape) != (self.samples,):
            raise SmesolveError(
                f"loss must give one number for each of the {self.samples} samples, as torch's losses with "
                f"reduction='none' do, got {shown(losses)}."
            )
        self._output_shape = tuple(outputs.shape[1:])
        self._laws = {f"mask {j}": BernoulliMasks(layer.keep_prob) for j, layer in enumerate(layers)}
        self._layers = {f"mask {j}": layer for j, layer in enumerate(layers)}
        self._shared = masks == "shared"
        trial.derivatives(self._sample_loss, self.y, layers, self._shared, batches=batch_size is not None)
        trial.pickles()
        self.exact = self.linear_noise = not layers and not parameter_noise

        # Shapes of one draw; the mean gradient is one of full batches, whose noise is masks and parameters alone.
        in_batch = batch_size or self.samples
        self._shapes = ({"indices": (in_batch,)} if batch_size else {}) | self._noise_shapes(in_batch)
        self._reference_shapes = self._noise_shapes(self.samples)
        self._reference_shapes.pop("labels", None)
        # Now, not in the midst of a derivative, whose tensors could be neither kept nor pickled.
        self._reference_draws: Draw = {} if self.exact else self._full_batch_draws(REFERENCE_DRAWS, seed=0)

    def _noise_shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the noise on a batch of `rows` samples."""
        lead = (1 if self._shared else rows,)
        shapes = {name: (*lead * layer.per_sample, *layer.shape) for name, layer in self._layers.items()}
        if self.label_noise:
            shapes["labels"] = (rows, *self._output_shape)
        if self.parameter_noise:
            shapes["parameters"] = (self.dim,)
        return shapes

    # --- sizes ---------------------------------------------------------------------------------------------------

    @property
    def draw_dim(self) -> int:
        """U: one uniform for each number of a draw; n for the indices of a batch without replacement."""
        return sum(self._uniforms(self._shapes).values())

    def _uniforms(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        if "indices" in sizes and not self.replacement:
            sizes["indices"] = self.samples
        return sizes

    @property
    def noise_dim(self) -> int:
        """M: n for mini-batches and n o for label noise; 2 U where the noise is that of two draws."""
        if not self.exact:
            return 2 * self.draw_dim
        labels = self.samples * math.prod(self._output_shape) if self.label_noise else 0
        return (self.samples if self.batch_size else 0) + labels

    @property
    def numbers_per_path(self) -> int:
        """Parameters and draws."""
        return self.dim + self.draw_dim

    # --- draws and gradients -------------------------------------------------------------------------------------

    def draw(self, uniforms: Tensor) -> Draw:
        """Batches, masks and normals from uniforms (..., U)."""
        return self._drawn(uniforms, self._shapes)

    def _drawn(self, uniforms: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> Draw:
        sizes = self._uniforms(shapes)
        draw = dict(zip(sizes, uniforms.split(list(sizes.values()), dim=-1), strict=True))
        for name, part in draw.items():
            if name == "indices":
                chosen = (part * self.samples).long() if self.replacement else part.argsort(dim=-1)
                draw[name] = chosen[..., : shapes[name][0]].to(self.device)
            else:
                values = self._laws[name].quantile(part) if name in self._laws else _normals(part)
                draw[name] = values.unflatten(-1, shapes[name]).to(dtype=self.dtype, device=self.device)
        return draw

    def loss(self, theta: Tensor) -> Tensor:
        """Loss of all samples without noise, weight decay included: (...,)."""
        return self._over_paths(self._mean_loss, theta)

    def modified_loss(self, theta: Tensor) -> Tensor:
        """Mean of the noisy loss (...,): exact, or over the reference draws where `exact` is False."""
        constant = self.label_noise**2 * math.prod(self._output_shape) / 2
        if self.exact:
            return self.loss(theta) + constant
        losses, draws = vmap(self._mean_loss), self._reference_draws  # a vector for each draw, for dropout in place
        return self._over_paths(lambda v: losses(v.expand(REFERENCE_DRAWS, -1), draws).mean(), theta) + constant

    def gradient(self, theta: Tensor, draw: Draw) -> Tensor:
        """g(theta; draw): (..., D); leading dimensions of theta and draw broadcast. Cost: one gradient on b samples."""
        check_trailing("theta", theta, (self.dim,), "the problem's dim D", self.dtype)
        if not draw:
            return self._over_paths(grad(self._mean_loss), theta)
        leads = [part.shape[: part.ndim - len(self._shapes[name])] for name, part in draw.items()]
        lead = torch.broadcast_shapes(theta.shape[:-1], *leads)

        def flat(part: Tensor, trailing: int) -> Tensor:
            shape = part.shape[part.ndim - trailing :]
            return part.expand(*lead, *shape).reshape(-1, *shape)

        draws = {name: flat(part, len(self._shapes[name])) for name, part in draw.items()}
        return vmap(grad(self._mean_loss))(flat(theta, 1), draws).reshape(*lead, self.dim)

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Gradient of all samples (..., D), where it is exact.

        Raises:
            SmesolveError: dropout or parameter noise, under which the mean is known by sampling alone.
        """
        if not self.exact:
            raise SmesolveError(
                "mean_gradient is not known in closed form under dropout inside a module or parameter noise; use "
                "mean_gradient_estimate, or DropoutProblem for dropout on the last hidden layer with squared error."
            )
        return self._over_paths(grad(self._mean_loss), theta)

    @checked(draws=Integer(2))
    def mean_gradient_estimate(self, theta: Tensor, draws: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Mean gradient at theta (D,) and its standard error, each (D,); the error is 0 where the mean is exact.

        Cost: `draws` gradients of all samples; batches and label noise do not enter the mean.
        """
        if self.exact:
            mean = self.mean_gradient(theta)
            return mean, torch.zeros_like(mean)
        gradients = self.gradient(theta, self._full_batch_draws(draws, seed))
        return gradients.mean(0), gradients.std(0) / draws**0.5

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """`mean_gradient`, or the mean over 32 draws that are always the same: a smooth function of theta."""
        if self.exact:
            return self.mean_gradient(theta)
        return self.gradient(theta[..., None, :], self._reference_draws).mean(-2)

    def _full_batch_draws(self, count: int, seed: int) -> Draw:
        size = sum(self._uniforms(self._reference_shapes).values())
        return self._drawn(keyed_uniforms((count, size), seed, 0, 0), self._reference_shapes)

    def _outputs(self, vector: Tensor, x: Tensor, draw: Draw) -> Tensor:
        if "parameters" in draw:
            vector = vector + self.parameter_noise * draw["parameters"]
        masks = [draw[name] for name in self._laws] if self._laws.keys() <= draw.keys() else None
        return self._function(vector, x, masks)

    def _mean_loss(self, vector: Tensor, draw: Draw = {}) -> Tensor:  # noqa: B006 (a mapping is not changed)
        """The loss of one path (D,) and one draw, on its batch or on all samples; nothing drawn is no noise."""
        x, y = (self.x[draw["indices"]], self.y[draw["indices"]]) if "indices" in draw else (self.x, self.y)
        if "labels" in draw:
            y = y + self.label_noise * draw["labels"]
        losses = self._sample_loss(self._outputs(vector, x, draw), y)
        return losses.mean() + self.weight_decay / 2 * vector.square().sum()

    def _over_paths(self, function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
        check_trailing("theta", theta, (self.dim,), "the problem's dim D", self.dtype)
        values = vmap(function)(theta.reshape(-1, self.dim))
        return values.reshape((*theta.shape[:-1], *values.shape[1:]))

    # --- noise -----------------------------------------------------------------------------------------------------

    def noise_increment(self, theta: Tensor, draw: Draw, other: Draw) -> Tensor:
        """(g(theta; draw) - g(theta; other)) / sqrt(2): (..., D), for two independent draws. Cost: two gradients."""
        return (self.gradient(theta, draw) - self.gradient(theta, other)) / 2**0.5

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Mean zero, covariance Sigma and no odd moments from standard normals (..., M): (..., D).

        Where `exact`, linear: normals holds xi (n) for batches, then eps (n o); one gradient. Otherwise the normals
        give the uniforms of two draws, and this is their `noise_increment`; not linear in the normals.
        """
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)
        if not self.exact:
            first, second = torch.special.ndtr(normals).chunk(2, dim=-1)
            return self.noise_increment(theta, self.draw(first), self.draw(second))
        lead = torch.broadcast_shapes(theta.shape[:-1], normals.shape[:-1])
        if not self.noise_dim:  # plain gradient descent
            return theta.new_zeros(*lead, self.dim)
        vectors = theta.expand(*lead, -1).reshape(-1, self.dim)
        flat = normals.expand(*lead, -1).reshape(-1, self.noise_dim)
        return vmap(grad(self._noise_functional))(vectors, flat).reshape(*lead, self.dim)

    def _noise_functional(self, vector: Tensor, normals: Tensor) -> Tensor:
        """What the noise product is the gradient of: sum_i w_i loss_i - s_l / sqrt(b n) sum_i <eps_i, f_i>."""
        outputs, value = self._function(vector, self.x), vector.new_zeros(())
        if self.batch_size:
            batch, normals = normals[: self.samples], normals[self.samples :]
            weights = self._batch_scale * (batch - batch.mean())
            value = value + weights @ self._sample_loss(outputs, self.y)
        if self.label_noise:
            value = value - self._label_scale * (normals * outputs.flatten()).sum()
        return value

    @property
    def _batch_scale(self) -> float:
        """sqrt(q / (b n))."""
        n, b = self.samples, self.batch_size or self.samples
        q = 1.0 if self.replacement or n == 1 else (n - b) / (n - 1)
        return (q / (b * n)) ** 0.5

    @property
    def _label_scale(self) -> float:
        """s_l / sqrt(b n)."""
        return self.label_noise / ((self.batch_size or self.samples) * self.samples) ** 0.5

    def noise_functions(self, draw: Draw) -> Tensor | None:
        """chi (..., M) with gradient = mean_gradient + noise_product(theta, chi), where `exact`; else None.

        From the counts c_i of a batch, chi_i = (c_i / b - 1/n) / sqrt(q / (b n)), of covariance I but along the vector
        of ones, which the noise product ignores; for labels sqrt(n / b) times the sum of the normals that sample i met.
        """
        if not self.exact or not self.noise_dim:
            return None
        parts = []
        if self.batch_size:
            chosen = nn.functional.one_hot(draw["indices"], self.samples).to(self.dtype)
            counts = chosen.sum(-2) / self.batch_size - 1 / self.samples
            parts.append(counts / self._batch_scale if self._batch_scale else torch.zeros_like(counts))
        if self.label_noise:
            normals = draw["labels"]
            if self.batch_size:
                spread = (self.samples / self.batch_size) ** 0.5
                rows = normals.reshape(*normals.shape[: chosen.ndim - 1], -1)
                normals = spread * torch.einsum("...bn,...bo->...no", chosen, rows)
            parts.append(normals.reshape(*draw["labels"].shape[: -1 - len(self._output_shape)], -1))
        return torch.cat(parts, dim=-1)

    # --- first order in the noise --------------------------------------------------------------------------------

    def noise_coefficients(self, theta: Tensor, direction: Tensor) -> Draw:
        """Coefficients of <direction, g(theta; draw)> to first order in the draw, at theta (D,), direction (D,).

        Cost: about four gradients on all samples. For control variates: see `noise_along`.
        """
        neutral = {
            name: theta.new_ones(shape) if name in self._laws else theta.new_zeros(shape)
            for name, shape in self._noise_shapes(self.samples).items()
        }

        def slope(draw: Draw) -> Tensor:
            return forward_derivative(lambda vector: self._mean_loss(vector, draw), theta, direction)[1]

        coefficients = dict(grad(slope)(neutral)) if neutral else {}
        if self.batch_size:
            both = forward_derivative(lambda v: self._sample_loss(self._function(v, self.x), self.y), theta, direction)
            coefficients["indices"] = both[1] - both[1].mean()
        return coefficients

    def _sees_batch(self, name: str) -> bool:
        """Whether this noise has a row for each sample of the batch."""
        return name == "labels" or (name in self._layers and self._layers[name].per_sample and not self._shared)

    def noise_along(self, coefficients: Draw, draw: Draw) -> Tensor:
        """The part of <direction, g(theta; draw)> that is of first order in the draw: (...,), of mean exactly zero."""
        indices, total = draw.get("indices"), torch.zeros((), dtype=self.dtype, device=self.device)
        for name, part in draw.items():
            weights = coefficients[name]
            if name == "indices":
                total = total + weights[part].mean(-1)
                continue
            if indices is not None and self._sees_batch(name):
                weights = weights[indices] * (self.samples / indices.shape[-1])
            noise = part - 1 if name in self._laws else part
            total = total + (weights * noise).flatten(-len(self._shapes[name])).sum(-1)
        return total


def _normals(uniforms: Tensor) -> Tensor:
    """Standard normals from uniforms in [0, 1)."""
    return torch.special.ndtri(uniforms.clamp_min(2.0**-54))
