"""Networks of any depth with dropout on their last hidden layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from smesolve.arguments import checked
from smesolve.errors import SmesolveError
from smesolve.problem.module_function import ModuleFunction
from smesolve.problem.module_trial import ModuleTrial
from smesolve.problem.networks import DropoutNetwork, Linearisation

__all__ = ["FeatureNetwork"]


class FeatureNetwork(DropoutNetwork):
    """f(x; eta) = A (eta o h(x)) [+ b]: any torch module h up to the last hidden layer, dropout there, linear readout.

    Parameters in the order of `torch.nn.utils.parameters_to_vector`: those of features, then readout.weight (o, m) and
    readout.bias (o). h may hold whatever `torch.func` can differentiate and batch, but no randomness of its own:
    dropout inside h is for `ModuleProblem`.

    Args:
        features: maps inputs (n, ...) to features (n, m), each sample by itself.
        readout: linear map of the features; its bias, if it has one, is not under dropout.

    Raises:
        SmesolveError: readout is not a torch.nn.Linear, or shares a parameter with features; when a problem is made of
            it, features that drop, couple the samples, return another shape, or fail in what a study does with them.
    """

    @checked
    def __init__(self, features: nn.Module, readout: nn.Linear) -> None:
        super().__init__()
        if {*map(id, features.parameters())} & {*map(id, readout.parameters())}:
            raise SmesolveError("readout must not share parameters with features; give it weights of its own.")
        self.features, self.readout = features, readout
        self.width, self.out_features = readout.in_features, readout.out_features
        self._features = ModuleFunction(features)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., n, o) without dropout."""
        return self.readout(self.features(x))

    def check(self, x: Tensor) -> None:
        """Refuse features that drop or do not map x to (n, m)."""
        trial = ModuleTrial("features", self.features, x)
        if trial.dropout_layers():
            raise SmesolveError(
                "features must not drop: FeatureNetwork has dropout on its last hidden layer alone; put that dropout "
                "into eval mode, or use ModuleProblem for dropout in several layers."
            )
        shape = tuple(trial.outputs().shape)
        if shape != (x.shape[0], self.width):
            raise SmesolveError(
                f"features must map x to shape ({x.shape[0]}, {self.width}), samples by the readout's in_features, "
                f"got {shape}."
            )
        trial.derivatives(lambda outputs, targets: outputs.square().sum(1), x)
        trial.pickles()

    def linearise(self, theta: Tensor, x: Tensor) -> Linearisation:
        """Features and their pullback by `torch.func`, batched over paths."""
        lead = theta.shape[:-1]
        inner, readout, *bias = theta.split([self._features.dim, *(p.numel() for p in self.readout.parameters())], -1)
        features, pull = vjp(
            vmap(lambda vector: self._features(vector, x).mT), inner.reshape(math.prod(lead), self._features.dim)
        )

        def pullback(features_cotangent: Tensor, readout_cotangent: Tensor, bias_cotangent: Tensor | None) -> Tensor:
            pieces = [_pull_back(pull, features_cotangent, lead), readout_cotangent.flatten(-2)]
            if bias_cotangent is not None:
                pieces.append(bias_cotangent[..., 0])
            return torch.cat(pieces, dim=-1)

        return Linearisation(
            features.reshape(*lead, self.width, x.shape[0]),
            readout.reshape(*lead, self.out_features, self.width),
            bias[0][..., None] if bias else None,
            pullback,
        )


def _pull_back(pull: Callable[[Tensor], tuple[Tensor]], cotangent: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Apply a pullback made for paths of leading shape `lead` to a cotangent whose leading shape broadcasts it."""
    wide = cotangent.shape[:-2]
    lead = (1,) * (len(wide) - len(lead)) + tuple(lead)
    # Where one path meets several cotangents, the pullback itself is batched over them.
    many = [axis for axis, (one, all_) in enumerate(zip(lead, wide, strict=True)) if one == 1 < all_]
    order = [*many, *(axis for axis in range(len(wide)) if axis not in many)]
    flat = cotangent.permute(*order, -2, -1).reshape(-1, math.prod(lead), *cotangent.shape[-2:])
    pulled = vmap(lambda one: pull(one)[0])(flat).reshape(*(wide[axis] for axis in order), -1)
    return pulled.permute(*(order.index(axis) for axis in range(len(wide))), -1)
