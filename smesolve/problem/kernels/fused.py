"""Gradients and noise of a two-layer network under dropout by the compiled kernels.

Each method stands for formulas of `smesolve.problem.dropout.DropoutLinearization`, to which tests prove it equal; the
kernels pass once over the samples of a path, where the formulas in torch pass over arrays of all paths for each
operation. Only plain tensors in the CPU's memory can be given to them: `usable` says whether some are.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from smesolve.problem.activations import ACTIVATIONS as BY_NAME
from smesolve.problem.kernels.library import Rows, library
from smesolve.problem.masks import MaskLaw
from smesolve.problem.networks import DropoutNetwork, TwoLayerNetwork

__all__ = ["FusedKernels", "usable"]

ACTIVATIONS = {BY_NAME[name]: number for number, name in enumerate(BY_NAME)}
"""Activations that are compiled, by the numbers of kernels.cpp."""


def usable(*tensors: Tensor) -> bool:
    """Return whether tensors are what they seem: no derivative, batch or compilation goes through them.

    Within a transform of torch.func what is made anew has no storage, even where the given tensors have.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.is_cpu
        and tensor.layout == torch.strided
        and not tensor.is_neg()
        and not (tensor.requires_grad and torch.is_grad_enabled())
        and not (forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None)
        for tensor in tensors
    )


class FusedKernels:
    """The kernels for one network and its data.

    Args:
        network: its sizes and activation; parameters are arguments.
        x: inputs (n, d).
        targets: (o, n).
    """

    def __init__(self, network: TwoLayerNetwork, x: Tensor, targets: Tensor) -> None:
        self._x, self._targets = x.contiguous(), targets.contiguous()
        self._sizes = (
            int(x.dtype == torch.float32),
            ACTIVATIONS[network.activation],
            len(x),
            network.in_features,
            network.width,
            network.out_features,
            int(network.hidden.bias is not None),
            int(network.readout.bias is not None),
        )
        self._dim = sum(parameter.numel() for parameter in network.parameters())
        self._handle: int | None = None
        self._library: Any = None

    @classmethod
    def of(cls, network: DropoutNetwork, x: Tensor, targets: Tensor) -> FusedKernels | None:
        """Return the kernels for a network on inputs and targets, or None where there are none."""
        if library() is None or type(network) is not TwoLayerNetwork or network.activation not in ACTIVATIONS:
            return None
        return cls(network, x, targets) if usable(x, targets) else None

    def suit(self, *tensors: Tensor) -> bool:
        """Return whether these tensors can be given to the kernels, in this process."""
        return (
            (self._handle is not None or library() is not None)
            and all(tensor.dtype == self._x.dtype for tensor in tensors)
            and usable(*tensors)
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is in the library's memory in its process."""
        return self.__dict__ | {"_handle": None, "_library": None}

    def gradient(self, theta: Tensor, masks: Tensor) -> Tensor:
        """Return the gradients (..., D) under masks (..., m)."""
        lead, paths, at, eta = _rows(theta, masks)
        out = theta.new_empty(paths, self._dim)
        self._call("gradient", paths, _of(at), _of(eta), out.data_ptr())
        return out.view(*lead, self._dim)

    def mean_gradient(self, theta: Tensor, law: MaskLaw) -> Tensor:
        """Return grad L_S(theta), (..., D)."""
        lead, paths, at = _rows(theta)
        out = theta.new_empty(paths, self._dim)
        self._call("mean_gradient", _moments(law), paths, _of(at), out.data_ptr())
        return out.view(*lead, self._dim)

    def noise(self, theta: Tensor, law: MaskLaw, normals: Tensor, linear: bool, weight: float) -> Tensor:
        """Return weight grad L_S(theta) + C(theta) normals, (..., D), of linear noise or of the one with signs."""
        lead, paths, at, drawn = _rows(theta, normals)
        out = theta.new_empty(paths, self._dim)
        self._call("noise", _moments(law), linear, weight, paths, _of(at), _of(drawn), out.data_ptr())
        return out.view(*lead, self._dim)

    def hessian_product(self, theta: Tensor, law: MaskLaw, vector: Tensor) -> Tensor:
        """Return Hess L_S(theta) vector, (..., D)."""
        lead, paths, at, along = _rows(theta, vector)
        out = theta.new_empty(paths, self._dim)
        self._call("hessian_product", _moments(law), paths, _of(at), _of(along), out.data_ptr())
        return out.view(*lead, self._dim)

    def parts(self, theta: Tensor, law: MaskLaw, normals: Tensor, linear: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return g = grad L_S(theta), C(theta) normals and Hess L_S(theta) g, each (..., D), by one forward pass."""
        lead, paths, at, drawn = _rows(theta, normals)
        out = theta.new_empty(3, paths, self._dim)
        pointers = [one.data_ptr() for one in out]
        self._call("parts", _moments(law), linear, paths, _of(at), _of(drawn), *pointers)
        mean, noise, curvature = out.view(3, *lead, self._dim)
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
        """Return a step of the scheme on the equation of an order, with `split` its prediction and noise, too."""
        lead, paths, at, drawn = _rows(theta, increments)
        out = theta.new_empty(3 if split else 1, paths, self._dim)
        pointers = [one.data_ptr() for one in out] if split else [out.data_ptr(), None, None]
        self._call("rk4", _moments(law), linear, order, lr, dt, paths, _of(at), _of(drawn), *pointers)
        return tuple(out.view(-1, *lead, self._dim))

    def _call(self, name: str, *arguments: Any) -> None:
        if self._handle is None:
            self._library = library()
            self._handle = self._library.smesolve_make(*self._sizes, self._x.data_ptr(), self._targets.data_ptr())
            weakref.finalize(self, self._library.smesolve_release, self._handle)
        getattr(self._library, f"smesolve_{name}")(self._handle, *arguments)


def _rows(theta: Tensor, *others: Tensor) -> tuple[Any, ...]:
    """Return the leading dimensions that tensors share, their product, and each tensor as rows of adjacent numbers."""
    if theta.ndim == 2 and all(one.ndim == 2 and len(one) == len(theta) for one in others):
        lead = theta.shape[:1]
        rows = [one if one.stride(1) == 1 else one.contiguous() for one in (theta, *others)]
    else:
        lead = torch.broadcast_shapes(theta.shape[:-1], *(one.shape[:-1] for one in others))
        rows = [one.expand(*lead, -1).reshape(-1, one.shape[-1]).contiguous() for one in (theta, *others)]
    return lead, lead.numel(), *rows


def _moments(law: MaskLaw) -> Any:
    """Return v, s and w of a law."""
    return (ctypes.c_double * 3)(float(law.variance), float(law.skew), float(law.chi_variance) ** 0.5)


def _of(rows: Tensor) -> Rows:
    return Rows(rows.data_ptr(), rows.stride(0))
