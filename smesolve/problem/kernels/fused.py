"""Gradients and noise of networks under dropout by the compiled kernels.

Each method computes formulas of `smesolve.problem.dropout_linearization`; tests compare the two. The kernels pass once
over the samples of a path, while the formulas in torch pass over arrays of all paths in each operation. The kernels
take plain tensors in the CPU's memory only, which `usable` recognises.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from smesolve.problem import activations
from smesolve.problem.feature_network import FeatureNetwork
from smesolve.problem.kernels.library import Features, Rows, library
from smesolve.problem.masks import MaskLaw
from smesolve.problem.networks import DropoutNetwork, LinearNetwork, NetworkLinearization, TwoLayerNetwork
from smesolve.problem.plain_tensors import are_plain

__all__ = ["ACTIVATIONS", "FusedKernels", "Kernels", "ReadoutKernels", "rows_of", "usable"]

ACTIVATIONS = {
    activations.tanh: 0,
    torch.relu: 1,
    functional.gelu: 2,
    torch.sigmoid: 3,
    functional.softplus: 4,
    activations.identity: 5,
}
"""Numbers of the compiled activations in kernels.cpp."""

GIVEN = 6
"""Number of the activation that stands for features computed by the caller."""

SIGNS, NORMALS, PER_SAMPLE = range(3)
"""Kinds of noise: with signs, or of independent normals, for masks shared by all samples; and for masks per sample."""


def usable(*tensors: Tensor) -> bool:
    """Return whether kernels can read the numbers of these tensors: plain ones on the CPU (`are_plain`)."""
    return are_plain(*tensors) and all(
        tensor.is_cpu and tensor.layout == torch.strided and not tensor.is_neg() for tensor in tensors
    )


class Kernels:
    """The common part of the kernels of a problem: its data in the library's memory.

    Args:
        sizes: activation, d, m, o, and whether the hidden layer and the readout have a bias.
        x: inputs (n, d); for the activation `GIVEN`, which has no inputs, the features (m, n) that all paths share.
        targets: (o, n).
        per_sample: whether each sample has a mask of its own.
    """

    def __init__(self, sizes: tuple[int, ...], x: Tensor, targets: Tensor, per_sample: bool) -> None:
        self._x, self._targets = x.contiguous(), targets.contiguous()
        activation, *layers = sizes
        self._sizes = (int(x.dtype == torch.float32), activation, targets.shape[-1], *layers)
        self._per_sample = per_sample
        self._handle: int | None = None
        self._library: Any = None
        self._moments: tuple[MaskLaw, list[Any], Any] | None = None

    def suit(self, *tensors: Tensor) -> bool:
        """Return whether the kernels can take these tensors, in this process."""
        return (
            (self._handle is not None or library() is not None)
            and all(tensor.dtype == self._x.dtype for tensor in tensors)
            and usable(*tensors)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the handle and the library, which belong to this process."""
        return self.__dict__ | {"_handle": None, "_library": None, "_moments": None}

    def _of_law(self, law: MaskLaw) -> Any:
        """Return v, s and w of a law. They are computed again only for another law or after a change of its attributes.

        Their computation takes as long as a small block.
        """
        known, attributes = self._moments, [*getattr(law, "__dict__", {}).values()]
        if known is None or known[0] is not law or list(map(id, known[1])) != list(map(id, attributes)):
            moments = float(law.variance), float(law.skew), float(law.chi_variance) ** 0.5
            known = self._moments = law, attributes, (ctypes.c_double * 3)(*moments)
        return known[2]

    def _kind(self, linear: bool) -> int:
        """Return the kind of noise. `linear` distinguishes the two kinds for masks shared by all samples."""
        return PER_SAMPLE if self._per_sample else NORMALS if linear else SIGNS

    def _masks(self, masks: Tensor) -> Tensor:
        """Return masks (..., m), or (..., n, m) per sample, with one dimension per path after the leading ones."""
        return masks.flatten(-2) if self._per_sample else masks

    def _call(self, name: str, *arguments: Any) -> None:
        if self._handle is None:
            # Threads may come here at once: each makes a handle, the last one is kept, and all are released in the end.
            made_in: Any = library()
            self._library = made_in
            handle = made_in.smesolve_make(*self._sizes, self._x.data_ptr(), self._targets.data_ptr())
            weakref.finalize(self, made_in.smesolve_release, handle)
            self._handle = handle
        getattr(self._library, f"smesolve_{name}")(self._handle, *arguments)


class FusedKernels(Kernels):
    """The kernels for a network of one or two layers and its data; `of` makes them."""

    NOTHING: ClassVar[Features] = Features(Rows(None, 0), None)
    """Stands for no features from the caller."""

    @classmethod
    def of(cls, network: DropoutNetwork, x: Tensor, targets: Tensor, per_sample: bool) -> FusedKernels | None:
        """Return the kernels for a network, or None if there are none for it.

        Args:
            network: provides sizes and activation; parameters are arguments of the methods.
            x: inputs (n, d).
            targets: (o, n).
            per_sample: whether each sample has a mask of its own.
        """
        if library() is None or not usable(x, targets):
            return None
        if type(network) is LinearNetwork:
            return cls((GIVEN, 0, network.width, network.out_features, 0, 0), x.mT, targets, per_sample)
        if type(network) is not TwoLayerNetwork or network.activation not in ACTIVATIONS:
            return None
        biases = int(network.hidden.bias is not None), int(network.readout.bias is not None)
        sizes = ACTIVATIONS[network.activation], network.in_features, network.width, network.out_features, *biases
        return cls(sizes, x, targets, per_sample)

    def loss(self, theta: Tensor, variance: float) -> Tensor:
        """Return R_S(theta) for variance 0, or L_S(theta) for the variance of the masks: (...,)."""
        lead, paths, at = rows_of(theta)
        out = theta.new_empty(paths)
        self._call("loss", variance, paths, Rows.of(at), out.data_ptr())
        return out.view(lead)

    def gradient(self, theta: Tensor, masks: Tensor) -> Tensor:
        """Return the gradients (..., D) under masks (..., m), or (..., n, m) per sample."""
        lead, paths, at, eta = rows_of(theta, self._masks(masks))
        out = theta.new_empty(paths, theta.shape[-1])
        self._call("gradient", self._per_sample, paths, Rows.of(at), Rows.of(eta), self.NOTHING, out.data_ptr())
        return out.view(*lead, theta.shape[-1])

    def gradient_and_mean(self, theta: Tensor, law: MaskLaw, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Return `gradient` and `mean_gradient`, each (..., D), by one forward pass."""
        lead, paths, at, eta = rows_of(theta, self._masks(masks))
        gradient, mean = theta.new_empty(2, *lead, theta.shape[-1]).unbind()
        pointers = gradient.data_ptr(), mean.data_ptr()
        rows = Rows.of(at), Rows.of(eta)
        self._call("gradient_and_mean", self._of_law(law), self._per_sample, paths, *rows, *pointers)
        return gradient, mean

    def mean_gradient(self, theta: Tensor, law: MaskLaw) -> Tensor:
        """Return grad L_S(theta), (..., D)."""
        lead, paths, at = rows_of(theta)
        out = theta.new_empty(paths, theta.shape[-1])
        self._call("mean_gradient", self._of_law(law), paths, Rows.of(at), self.NOTHING, out.data_ptr())
        return out.view(*lead, theta.shape[-1])

    def noise(self, theta: Tensor, law: MaskLaw, normals: Tensor, linear: bool, weight: float) -> Tensor:
        """Return weight grad L_S(theta) + C(theta) normals, (..., D), with linear noise or with signs."""
        return self._noise(theta, law, normals, linear, weight, 1.0, advance=False)

    def noisy_step(
        self, theta: Tensor, law: MaskLaw, normals: Tensor, linear: bool, weight: float, scale: float
    ) -> Tensor:
        """Return theta plus scale times `noise`, (..., D)."""
        return self._noise(theta, law, normals, linear, weight, scale, advance=True)

    def _noise(
        self, theta: Tensor, law: MaskLaw, normals: Tensor, linear: bool, weight: float, scale: float, advance: bool
    ) -> Tensor:
        lead, paths, at, drawn = rows_of(theta, normals)
        out = theta.new_empty(paths, theta.shape[-1])
        factors = self._of_law(law), self._kind(linear), weight, scale, int(advance)
        self._call("noise", *factors, paths, Rows.of(at), Rows.of(drawn), self.NOTHING, out.data_ptr())
        return out.view(*lead, theta.shape[-1])

    def hessian_product(self, theta: Tensor, law: MaskLaw, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector, (..., D)."""
        lead, paths, at, along = rows_of(theta, vector)
        out = theta.new_empty(paths, theta.shape[-1])
        self._call("hessian_product", self._of_law(law), paths, Rows.of(at), Rows.of(along), out.data_ptr())
        return out.view(*lead, theta.shape[-1])

    def third_derivative(self, theta: Tensor, law: MaskLaw, first: Tensor, second: Tensor) -> Tensor:
        """Return D^3 L_S(theta)[first, second], (..., D)."""
        lead, paths, at, *along = rows_of(theta, first, second)
        out = theta.new_empty(paths, theta.shape[-1])
        self._call("third_derivative", self._of_law(law), paths, Rows.of(at), *map(Rows.of, along), out.data_ptr())
        return out.view(*lead, theta.shape[-1])

    def parts(self, theta: Tensor, law: MaskLaw, normals: Tensor, linear: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return g = grad L_S(theta), C(theta) normals and Hess L_S(theta) g, each (..., D), by one forward pass."""
        lead, paths, at, drawn = rows_of(theta, normals)
        mean, noise, curvature = theta.new_empty(3, *lead, theta.shape[-1]).unbind()
        pointers = mean.data_ptr(), noise.data_ptr(), curvature.data_ptr()
        self._call("parts", self._of_law(law), self._kind(linear), paths, Rows.of(at), Rows.of(drawn), *pointers)
        return mean, noise, curvature

    def small_noise_rk4(
        self,
        theta: Tensor,
        law: MaskLaw,
        increments: Tensor,
        linear: bool,
        order: int,
        lr: float,
        dt: float,
        split: bool,
    ) -> tuple[Tensor, ...]:
        """Return a step of the scheme on the equation of order 1 or 2, with `split` also its prediction and noise."""
        lead, paths, at, drawn = rows_of(theta, increments)
        out = theta.new_empty(3 if split else 1, *lead, theta.shape[-1]).unbind()
        pointers = [one.data_ptr() for one in out] if split else [out[0].data_ptr(), None, None]
        kind = self._kind(linear)
        self._call("rk4", self._of_law(law), kind, order, lr, dt, paths, Rows.of(at), Rows.of(drawn), *pointers)
        return out


class ReadoutKernels(Kernels):
    """The kernels for the readout, with features that the network has computed; `of` makes them.

    All methods return cotangents, divided by n: of features (..., m, n), of the readout (..., o, m), and of its bias
    (..., o, 1), or None if it has no bias.
    """

    @classmethod
    def of(cls, network: DropoutNetwork, targets: Tensor, per_sample: bool) -> ReadoutKernels | None:
        """Return the kernels for a network, or None if there are none for it.

        Args:
            network: provides the sizes; features and readout are arguments of the methods.
            targets: (o, n).
            per_sample: whether each sample has a mask of its own.
        """
        if library() is None or type(network) not in (FeatureNetwork, TwoLayerNetwork) or not usable(targets):
            return None
        readout: Any = network.readout
        sizes = GIVEN, 0, network.width, network.out_features, 0, int(readout.bias is not None)
        return cls(sizes, targets.new_empty(0), targets, per_sample)

    def gradient(self, at: NetworkLinearization, masks: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the cotangents of the gradient under masks (..., m), or (..., n, m) per sample."""
        return self._cotangents("gradient", [self._per_sample], at, self._masks(masks))

    def mean_gradient(self, at: NetworkLinearization, law: MaskLaw) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the cotangents of grad L_S."""
        return self._cotangents("mean_gradient", [self._of_law(law)], at)

    def noise(
        self, at: NetworkLinearization, law: MaskLaw, normals: Tensor, linear: bool, weight: float
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the cotangents of weight grad L_S + C normals."""
        return self._cotangents("noise", [self._of_law(law), self._kind(linear), weight, 1.0, 0], at, normals)

    def _cotangents(
        self, name: str, first: list[Any], at: NetworkLinearization, *drawn: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        o, m = at.readout.shape[-2:]
        parts = [at.readout.flatten(-2)] if at.bias is None else [at.readout.flatten(-2), at.bias[..., 0]]
        lead, paths, given, theta, *others = rows_of(at.features.flatten(-2), torch.cat(parts, -1), *drawn)
        back, out = given.new_empty(given.shape), theta.new_empty(theta.shape)
        features = Features(Rows.of(given), back.data_ptr())
        self._call(name, *first, paths, *map(Rows.of, [theta, *others]), features, out.data_ptr())
        readout, bias = out.view(*lead, theta.shape[-1]).tensor_split([o * m], dim=-1)
        cotangents = back.view(*lead, m, at.features.shape[-1]), readout.unflatten(-1, (o, m))
        return *cotangents, None if at.bias is None else bias[..., None]


def rows_of(theta: Tensor, *others: Tensor) -> tuple[Any, ...]:
    """Return the common leading dimensions of tensors, their product, and each tensor as rows of adjacent numbers.

    A single row stands for all rows without a copy, so that the kernels compute the features of one theta only once.
    """
    lead, rows = theta.shape[:1], [theta, *others]
    if theta.ndim != 2 or any(one.ndim != 2 or one.shape[:1] != lead for one in others):
        lead = torch.Size(np.broadcast_shapes(theta.shape[:-1], *(one.shape[:-1] for one in others)))  # torch's is slow
        rows = [one.expand(*lead, -1).reshape(-1, one.shape[-1]) for one in rows]
    return lead, lead.numel(), *(one if one.stride(1) == 1 else one.contiguous() for one in rows)
