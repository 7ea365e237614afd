"""Any torch module, any loss, and the noises that its training may have.

A step may have a mini-batch of the samples, dropout masks wherever the module drops, noise on the targets, and noise on
the parameters:

    (1)  g(theta; draw) = grad 1/b sum_{i in batch} loss(f(x_i; theta + s_p xi, masks), y_i + s_l eps_i) + decay theta.

Without dropout and parameter noise the mean is the full-batch gradient, and the covariance is that of

    (2)  C xi = grad_theta [ sum_i w_i loss_i - s_l / sqrt(b n) sum_i <eps_i, f_i> ],

with the weights w_i of `smesolve.problem.batch_noise`; it is exact and takes one backward pass. Otherwise no finite
expansion exists, and mean and covariance can only be sampled. With two independent draws,

    (3)  (g - g')/sqrt(2)

has mean zero, covariance Sigma and no odd moments, which is all that a scheme of weak order 2 needs of its increments.

Sources: Li, Tai, E (JMLR 20(40), 2019) for mini-batches; Wei, Kakade, Ma (arXiv 2002.12915) for dropout in any layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid
from smesolve.problem.batch_noise import BatchNoise
from smesolve.problem.data import check_samples, finite_data
from smesolve.problem.decompositions import DecomposedLoss
from smesolve.problem.leading_dimensions import check_leading
from smesolve.problem.losses import LOSSES, SampleLoss, class_targets
from smesolve.problem.masks import BernoulliMasks
from smesolve.problem.module_draws import Draw, DrawLayout
from smesolve.problem.module_trial import tried
from smesolve.problem.one_at_a_time import forward_derivative
from smesolve.problem.parameters import check_trainable, trainable
from smesolve.problem.problem import Problem, check_trailing
from smesolve.problem.recorded_function import FunctionsOfPaths
from smesolve.problem.training_step import REFERENCE_DRAWS
from smesolve.sampling.randomness import keyed_uniforms
from smesolve.validation import (
    check_flag,
    check_instance,
    check_integer,
    check_not_negative,
    check_optional,
    check_parameters,
    check_seed,
)

__all__ = ["Draw", "ModuleProblem"]

BATCH_FLOATS = 2**20
"""Floats in one working array of a batch of paths, each on all samples (8 MiB)."""


class ModuleProblem(Problem):
    """A torch module with its data, its loss, and the noise of its training.

    Without dropout and parameter noise, mean gradient and noise product are known in closed form (`has_closed_form`).
    Otherwise `mean_gradient_estimate` has an error, and equations are integrated by the schemes that take gradients
    ("svag", "sampled_euler").

    Dropout is the dropout in train mode of torch.nn.Dropout, Dropout1d to Dropout3d, their functions, and attention
    (torch.nn.MultiheadAttention, TransformerEncoderLayer, `scaled_dot_product_attention`), in place or not. If one
    dimension of the dropped tensor holds the samples, also as samples times heads, each sample can have a mask of its
    own. If its shape is the same for any number of samples, as for a weight, all samples share one mask, whatever
    `masks` says.

    theta holds the trainable parameters. Frozen ones (requires_grad=False) and buffers keep their values. The module
    is tried first. A copy with its present train flags is used, so that the module itself does not change. What module
    and loss read beside their tensors must not change either: gradients that are taken often run as recordings of their
    operations (`smesolve.problem.recorded_function`).

    Args:
        module: maps x (n, ...) to outputs (n, ...), each sample by itself, by operations that `torch.func` can
            differentiate and batch.
        x: inputs, samples first. Integers stay integers (int64) where the module takes them, such as indices for
            torch.nn.Embedding, and become floats otherwise.
        y: targets, samples first; for "cross_entropy" class indices from 0, or class probabilities.
        loss: a name in `LOSSES`, or a callable that gives one loss for each sample (torch's reduction="none").
        masks: "per_sample", as torch.nn.Dropout draws them, or "shared" by all samples of a step.
        batch_size: b, the number of samples per step; each step draws a new batch. Default: all samples.
            `ShuffledEpochs` takes every sample once per epoch.
        replacement: whether the samples of a batch are drawn with replacement.
        weight_decay: as in torch.optim.SGD.
        label_noise: standard deviation s_l of normals added to the targets, for "squared_error".
        parameter_noise: standard deviation s_p of normals added to the parameters before the gradient is taken.

    Raises:
        SmesolveError: data, loss, a noise scale or batch_size do not fit; or the module couples samples, draws other
            random numbers, has a state that changes its outputs, or cannot be trained, differentiated, batched, copied
            or pickled.
    """

    network: nn.Module
    x: Tensor
    y: Tensor

    @entry_point
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
        check_instance("module", module, nn.Module, "a torch.nn.Module")
        check_trainable("module", module, frozen_in_part=True)
        parameter = next(iter(trainable(module).values()))
        self.network = module
        self.dtype, self.device = parameter.dtype, parameter.device
        if not callable(loss) and (not isinstance(loss, str) or loss not in LOSSES):
            raise invalid("loss", f"be one of {', '.join(LOSSES)} or a callable", loss)
        self.x = finite_data("x", x, self.dtype, self.device, keep_integers=True)
        self.y = finite_data("y", y, self.dtype, self.device, keep_integers=loss != "squared_error")
        if loss != "cross_entropy" and not self.y.is_floating_point() and self.y.dtype != torch.bool:
            self.y = self.y.long()  # torch's losses have no gradient for class labels of other types
        self.samples = self.x.shape[0]
        check_samples(self.x, self.y)
        if not isinstance(masks, str) or masks not in ("shared", "per_sample"):
            raise invalid("masks", 'be "shared" or "per_sample"', masks)
        self.batch_size = check_optional("batch_size", batch_size, check_integer)
        if self.batch_size is not None and self.batch_size > self.samples:
            raise invalid("batch_size", f"be an integer from 1 to the {self.samples} samples", batch_size)
        self.replacement = check_flag("replacement", replacement)
        self.weight_decay = check_not_negative("weight_decay", weight_decay)
        self.label_noise = check_not_negative("label_noise", label_noise)
        self.parameter_noise = check_not_negative("parameter_noise", parameter_noise)
        if label_noise and loss != "squared_error":
            raise SmesolveError(
                f"label_noise={label_noise} needs loss='squared_error', got loss={loss!r}; leave one of them out."
            )

        self._loss = loss
        self._of_paths = FunctionsOfPaths()
        self._sample_loss = LOSSES[loss] if isinstance(loss, str) else DecomposedLoss(loss)
        trial, layers = tried("module", module, self.x, lambda: finite_data("x", x, self.dtype, self.device))
        self.x = trial.x
        self._function = trial.function
        self.dim = self._function.dim

        outputs = trial.outputs()
        if loss == "cross_entropy":
            self.y = class_targets(self.y, outputs)
        trial.losses(self._sample_loss, outputs, self.y)
        self._output_shape = tuple(outputs.shape[1:])
        self._laws = {f"mask {j}": BernoulliMasks(layer.keep_prob) for j, layer in enumerate(layers)}
        self._layers = {f"mask {j}": layer for j, layer in enumerate(layers)}
        self._shared = masks == "shared"
        trial.derivatives(self._sample_loss, self.y, layers, self._shared, batches=self.batch_size is not None)
        trial.pickles()
        self.has_closed_form = self.linear_noise = not layers and not parameter_noise

        # Shapes of one draw; the mean gradient is one of full batches, whose noise is that of masks and parameters.
        in_batch = self.batch_size or self.samples
        self._shapes = ({"indices": (in_batch,)} if self.batch_size else {}) | self._noise_shapes(in_batch)
        self._shapes = self._shapes or {"paths": (0,)}
        without_labels = {name: shape for name, shape in self._noise_shapes(self.samples).items() if name != "labels"}
        self._layout = self._layout_of(self._shapes)
        self._reference_layout = self._layout_of(without_labels)
        self.draw_dim = self._layout.uniforms
        self._batch_noise = BatchNoise(
            self.samples, self.batch_size, self.replacement, self.label_noise, self._output_shape
        )
        self.noise_dim = self._batch_noise.dim if self.has_closed_form else 2 * self.draw_dim
        some = min(2, self.samples)
        given = self._function.layer_floats(self.initial(seed=None), self.x[:some])
        self._loss_floats = self.dim + given * self.samples // some
        # Now, not within a derivative, whose tensors could be neither kept nor pickled.
        self._reference_draws: Draw = {} if self.has_closed_form else self._full_batch_draws(REFERENCE_DRAWS, seed=0)

    def _noise_shapes(self, rows: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the noise on a batch of `rows` samples."""
        lead = (1 if self._shared else rows,)
        shapes = {name: (*lead * layer.per_sample, *layer.shape) for name, layer in self._layers.items()}
        if self.label_noise:
            shapes["labels"] = (rows, *self._output_shape)
        if self.parameter_noise:
            shapes["parameters"] = (self.dim,)
        return shapes

    def _layout_of(self, shapes: dict[str, tuple[int, ...]]) -> DrawLayout:
        """Return the layout of draws with these shapes."""
        return DrawLayout(shapes, self._laws, self.samples, self.replacement, self.dtype, self.device)

    def check(self) -> None:
        """Do nothing: the constructor has tried the module."""

    # --- sizes ---------------------------------------------------------------------------------------------------

    @property
    def floats_per_path(self) -> int:
        """Floats in the working arrays of one path: parameters and draws."""
        return self.dim + self.draw_dim

    @property
    def reference_floats(self) -> int:
        """Floats in the arrays of one `reference_gradient`: parameters and outputs of the layers, for each draw."""
        return self._loss_floats * (1 if self.has_closed_form else REFERENCE_DRAWS)

    # --- draws and gradients -------------------------------------------------------------------------------------

    def draw(self, uniforms: Tensor) -> Draw:
        """Return batches, masks and normals from uniforms (..., U)."""
        return self._layout.drawn(uniforms)

    @property
    def draw_count(self) -> float:
        """Number of different draws: of batches, in any order of their samples, times those of masks."""
        return self._layout.count

    def all_draws(self) -> tuple[Draw, Tensor]:
        """Return all draws and their probabilities (K,); refused for label and parameter noise, and beyond 2^22."""
        return self._layout.every()

    def loss(self, theta: Tensor) -> Tensor:
        """Return the loss of all samples without noise, weight decay included: (...,)."""
        return self._over_paths("loss", self._mean_loss, theta)

    def outputs(self, theta: Tensor) -> Tensor:
        """Return the outputs of the module without noise, (..., n, ...)."""
        return self._over_paths("outputs", lambda vector: self._function(vector, self.x), theta)

    def on_data(self, x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> ModuleProblem:
        """Return the problem of the same module and loss on other data, without weight decay and noise but dropout."""
        return ModuleProblem(self.network, x, y, self._loss, "shared" if self._shared else "per_sample")

    def modified_loss(self, theta: Tensor) -> Tensor:
        """Return the mean of the noisy loss (...,), over the reference draws if it has no closed form."""
        constant = self.label_noise**2 * math.prod(self._output_shape) / 2
        if self.has_closed_form:
            return self.loss(theta) + constant
        losses, draws = vmap(self._mean_loss), self._reference_draws  # a vector for each draw, for dropout in place
        return constant + self._over_paths(
            "modified loss", lambda v: losses(v.expand(REFERENCE_DRAWS, -1), draws).mean(), theta, REFERENCE_DRAWS
        )

    def gradient(self, theta: Tensor, draw: Draw) -> Tensor:
        """Return (1), (..., D); leading dimensions of theta and draw broadcast. Cost: one gradient on b samples."""
        self._layout.check(draw)
        return self._batch_gradient(theta, draw)

    def _batch_gradient(self, theta: Tensor, draw: Draw) -> Tensor:
        check_trailing("theta", theta, (self.dim,), "the problem's dim D", self.dtype)
        for name, part in draw.items():
            check_leading(theta, "draw", part, len(self._shapes.get(name, (1,))))
        if "paths" in draw:  # one gradient for all paths that differ in their draws only
            lead = torch.broadcast_shapes(theta.shape[:-1], draw["paths"].shape[:-1])
            return self._over_paths("gradient", grad(self._mean_loss), theta).expand(*lead, self.dim)
        dimensions = {name: len(self._shapes[name]) for name in draw}
        return self._of_paths.with_noise(
            "noisy gradient", grad(self._mean_loss), theta, draw, [self.x, self.y], dimensions
        )

    def mean_gradient(self, theta: Tensor) -> Tensor:
        """Return the gradient on all samples (..., D), which is the mean without dropout and parameter noise.

        Raises:
            SmesolveError: the problem has dropout or parameter noise, so that the mean can only be sampled.
        """
        if not self.has_closed_form:
            raise SmesolveError(
                "mean_gradient is not known in closed form under dropout inside a module or parameter noise; use "
                "mean_gradient_estimate, or DropoutProblem for dropout on the last hidden layer with squared error."
            )
        return self._over_paths("gradient", grad(self._mean_loss), theta)

    @entry_point
    def mean_gradient_estimate(self, theta: Tensor, draws: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return the mean gradient at theta (D,) and its standard error, 0 if the mean is exact, each (D,).

        Cost: `draws` gradients on all samples. Batches and label noise do not enter the mean.
        """
        theta = check_parameters("theta", theta, self)
        draws, seed = check_integer("draws", draws, least=2), check_seed("seed", seed)
        if self.has_closed_form:
            mean = self.mean_gradient(theta)
            return mean, torch.zeros_like(mean)
        gradients = self._batch_gradient(theta, self._full_batch_draws(draws, seed))
        return gradients.mean(0), gradients.std(0) / draws**0.5

    def reference_gradient(self, theta: Tensor) -> Tensor:
        """Return `mean_gradient`, or the mean over 32 draws that are always the same: a smooth function of theta."""
        if self.has_closed_form:
            return self.mean_gradient(theta)
        return self._batch_gradient(theta[..., None, :], self._reference_draws).mean(-2)

    def _full_batch_draws(self, count: int, seed: int) -> Draw:
        layout = self._reference_layout
        return layout.drawn(keyed_uniforms((count, layout.uniforms), seed, 0, 0))

    def _outputs(self, vector: Tensor, x: Tensor, draw: Draw) -> Tensor:
        if "parameters" in draw:
            vector = vector + self.parameter_noise * draw["parameters"]
        masks = None
        if self._laws.keys() <= draw.keys():
            masks = [layer.placed(draw[name], len(x)) for name, layer in self._layers.items()]
        return self._function(vector, x, masks)

    def _mean_loss(self, vector: Tensor, draw: Draw = {}) -> Tensor:  # noqa: B006 (a mapping is not changed)
        """Return the loss of one path (D,) with the noise of one draw, on its batch or on all samples."""
        x, y = (self.x[draw["indices"]], self.y[draw["indices"]]) if "indices" in draw else (self.x, self.y)
        if "labels" in draw:
            y = y + self.label_noise * draw["labels"]
        loss = self._sample_loss(self._outputs(vector, x, draw), y).mean()
        return loss + self.weight_decay / 2 * vector.square().sum() if self.weight_decay else loss

    def _over_paths(self, name: str, function: Callable[[Tensor], Tensor], theta: Tensor, draws: int = 1) -> Tensor:
        """Return function(theta) for each path, in batches of paths. It takes all samples, with `draws` draws each."""
        check_trailing("theta", theta, (self.dim,), "the problem's dim D", self.dtype)
        batch = max(1, BATCH_FLOATS // (draws * self._loss_floats))
        return self._of_paths.in_batches(name, function, theta, [self.x, self.y], batch)

    # --- noise -----------------------------------------------------------------------------------------------------

    def noise_increment(self, theta: Tensor, draw: Draw, other: Draw) -> Tensor:
        """Return (3) for two independent draws: (..., D). Cost: two gradients."""
        return (self.gradient(theta, draw) - self.gradient(theta, other)) / 2**0.5

    def noise_product(self, theta: Tensor, normals: Tensor) -> Tensor:
        """Return noise of mean zero, covariance Sigma and no odd moments, (..., D), from standard normals (..., M).

        In closed form it is linear in the normals, which are xi (n) for batches, then eps (n o). Cost: one gradient.
        Otherwise the normals give the uniforms of two draws, and the result is their `noise_increment`, which is not
        linear.
        """
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)
        check_leading(theta, "normals", normals)
        if not self.has_closed_form:
            first, second = torch.special.ndtr(normals).chunk(2, dim=-1)
            return self.noise_increment(theta, self.draw(first), self.draw(second))
        if not self.noise_dim:  # plain gradient descent
            lead = np.broadcast_shapes(theta.shape[:-1], normals.shape[:-1])
            return theta.new_zeros(*lead, self.dim)
        functional, noise = grad(self._noise_functional), {"normals": normals}
        return self._of_paths.with_noise("noise", functional, theta, noise, [self.x, self.y], {"normals": 1})

    def _noise_functional(self, vector: Tensor, noise: Draw) -> Tensor:
        """Return the function in (2) whose gradient the noise product is."""
        outputs = self._function(vector, self.x)
        return self._batch_noise.functional(self._sample_loss(outputs, self.y), outputs, noise["normals"])

    def noise_coordinates(self, draw: Draw) -> Tensor | None:
        """Return chi (..., M), gradient = mean_gradient + noise_product(theta, chi), or None without a closed form."""
        if not self.has_closed_form or not self.noise_dim:
            return None
        return self._batch_noise.coordinates(draw, self.dtype)

    # --- first order in the noise --------------------------------------------------------------------------------

    def noise_coefficients(self, theta: Tensor, direction: Tensor) -> Draw:
        """Return the coefficients of <direction, g(theta; draw)> to first order in the draw, for `noise_along`.

        Both theta and direction are (D,). Cost: four gradients on all samples.
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
        return coefficients or {"paths": theta.new_zeros(0)}

    def _sees_batch(self, name: str) -> bool:
        """Return whether this noise has one row per sample of the batch."""
        return name == "labels" or (name in self._layers and self._layers[name].per_sample and not self._shared)

    def noise_along(self, coefficients: Draw, draw: Draw) -> Tensor:
        """Return the part of <direction, g(theta; draw)> of first order in the draw: (...,), of mean exactly zero."""
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
