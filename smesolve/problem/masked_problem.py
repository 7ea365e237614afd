"""Problems of networks with dropout on their last hidden layer: network, data and mask law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smesolve.errors import SmesolveError, invalid
from smesolve.machine_memory import check_numbers_fit
from smesolve.problem.data import check_samples, check_table, finite_data
from smesolve.problem.linearized_problem import LinearizedProblem
from smesolve.problem.masks import BernoulliMasks, MaskLaw, all_masks
from smesolve.problem.networks import DropoutNetwork, NetworkLinearization
from smesolve.problem.parameters import check_trainable
from smesolve.problem.problem import check_trailing
from smesolve.validation import check_instance, check_keep_prob

__all__ = ["MaskedProblem"]


class MaskedProblem(LinearizedProblem):
    """A network f(x; eta) = sum_r eta_r z_r(x) + b, its data, and the law of its masks eta. A subclass adds the loss.

    Arguments and errors are those of `smesolve.DropoutProblem`.
    """

    network: DropoutNetwork
    x: Tensor
    y: Tensor

    def __init__(
        self,
        network: DropoutNetwork,
        x: Tensor | np.ndarray,
        y: Tensor | np.ndarray,
        keep_prob: float | None = None,
        masks: str = "shared",
        law: MaskLaw | None = None,
    ) -> None:
        remedy = "take a TwoLayerNetwork, or a FeatureNetwork of your own layers; ModuleProblem takes any module"
        check_instance("network", network, DropoutNetwork, "a DropoutNetwork", remedy)
        check_trainable("network", network)
        parameter = next(network.parameters())
        self.network = network
        self.dtype, self.device = parameter.dtype, parameter.device
        self.x = finite_data("x", x, self.dtype, self.device)
        self.y = finite_data("y", y, self.dtype, self.device)
        self.law, self.per_sample = _mask_law(keep_prob, masks, law), masks == "per_sample"
        moments = (self.law.variance, abs(self.law.skew), self.law.chi_variance)
        if max(moments) > torch.finfo(self.dtype).max ** 0.5:
            raise SmesolveError(
                f"law must have moments whose products {self.dtype} holds, got {self.law!r}; take masks that spread "
                "less, or a network in float64."
            )
        check_table("y", self.y)
        if self.x.ndim < 2:
            check_table("x", self.x)
        check_samples(self.x, self.y)
        network.check(self.x)
        self.width, self.out_features = network.width, network.out_features
        check_numbers_fit(f"the pairs of {self.width} neurons", 4 * self.width**2, "take a narrower network")
        if self.y.shape[1] != self.out_features:
            raise SmesolveError(
                f"y must have {self.out_features} columns, the network's out_features, got {tuple(self.y.shape)}; "
                "give the network as many outputs as there are targets."
            )
        self.samples = self.x.shape[0]
        self.dim = sum(p.numel() for p in network.parameters())
        self.draw_dim = math.prod(self.mask_shape)
        self.targets = self.y.mT.contiguous()
        """Targets (o, n), samples last as in `NetworkLinearization`."""

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of one mask: (m,), or (n, m) for masks per sample."""
        return (self.samples, self.width) if self.per_sample else (self.width,)

    def draw(self, uniforms: Tensor) -> Tensor:
        """Return masks eta (..., m), or (..., n, m) per sample, from uniforms (..., U)."""
        masks: Tensor = self.law.quantile(uniforms).to(dtype=self.dtype, device=self.device)
        return masks.reshape(*masks.shape[:-1], *self.mask_shape)

    @property
    def draw_count(self) -> float:
        """Number of different masks; infinity beyond the range of floats."""
        try:
            return math.inf if self.law.support is None else float(len(self.law.support[0])) ** self.draw_dim
        except OverflowError:
            return math.inf

    def all_draws(self) -> tuple[Tensor, Tensor]:
        """Return all masks (K, m), or (K, n, m) per sample, and their probabilities (K,).

        Raises:
            SmesolveError: the law has infinitely many values, or there are more than 2^22 masks.
        """
        masks, weights = all_masks(self.law, self.draw_dim)
        return masks.to(dtype=self.dtype, device=self.device).unflatten(-1, self.mask_shape), weights.to(self.device)

    def contributions(self, theta: Tensor) -> Tensor:
        """Return z (..., n, m, o), the contribution of each neuron to each output, for small problems and tests."""
        at = self.network_at(theta)
        return torch.einsum("...mn,...om->...nmo", at.features, at.readout)

    def network_at(self, theta: Tensor) -> NetworkLinearization:
        """Return the network at theta (..., D) on the inputs: features, readout, bias and pullback."""
        self.check_theta(theta)
        return self.network.linearize(theta, self.x)

    def check_theta(self, theta: Tensor) -> None:
        """Check that parameters have the problem's dimension and dtype."""
        check_trailing("theta", theta, (self.dim,), "the problem's dim D", self.dtype)

    def outputs(self, theta: Tensor) -> Tensor:
        """Return the outputs without dropout, (..., n, o)."""
        at = self.network_at(theta)
        outputs = (at.readout @ at.features).mT
        return outputs if at.bias is None else outputs + at.bias.mT

    def check_mask(self, mask: Tensor) -> None:
        """Check that masks have the shape and the dtype of those that `draw` returns."""
        meaning = "one mask entry for each neuron" + " and sample" * self.per_sample
        check_trailing("draw", mask, self.mask_shape, meaning, self.dtype)

    def check_normals(self, normals: Tensor) -> None:
        """Check that normals have the number and the dtype that a noise product takes."""
        check_trailing("normals", normals, (self.noise_dim,), "the problem's noise_dim M", self.dtype)


def _mask_law(keep_prob: float | None, masks: Any, law: Any) -> MaskLaw:
    if isinstance(masks, MaskLaw):
        raise invalid("masks", 'be "shared" or "per_sample"', masks, "give a mask law as law=")
    if masks not in ("shared", "per_sample"):
        raise invalid("masks", 'be "shared" or "per_sample"', masks, "it says which samples share a mask")
    if law is None:
        if keep_prob is None:
            raise SmesolveError("keep_prob is missing; give a probability in (0, 1], or a mask law as law=.")
        return BernoulliMasks(check_keep_prob("keep_prob", keep_prob))
    checked = check_instance("law", law, MaskLaw, "a MaskLaw", "take for example GaussianMasks(variance)")
    if keep_prob is not None:
        raise SmesolveError(f"keep_prob={keep_prob} and law={law!r} both name a mask law; give one of them.")
    checked.check_moments()
    return checked
