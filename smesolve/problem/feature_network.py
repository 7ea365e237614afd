"""Networks of any depth with dropout on their last hidden layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.module_function import ModuleFunction
from smesolve.problem.module_trial import ModuleTrial
from smesolve.problem.networks import DropoutNetwork, NetworkLinearization
from smesolve.validation import check_instance

__all__ = ["FeatureNetwork"]


class FeatureNetwork(DropoutNetwork):
    """f(x; eta) = A (eta o h(x)) [+ b]: a torch module h, dropout on its outputs, and a linear readout.

    Parameters in the order of `torch.nn.utils.parameters_to_vector`: those of features, then readout.weight (o, m) and
    readout.bias (o). h may be any module that `torch.func` can differentiate and batch, without random numbers of its
    own. For dropout inside h take `ModuleProblem`.

    Args:
        features: maps inputs (n, ...) to features (n, m), each sample by itself.
        readout: linear map of the features; its bias, if it has one, is not under dropout.

    Raises:
        SmesolveError: readout is not a torch.nn.Linear, or shares a parameter with features. When a problem is made of
            the network: features drop, couple the samples, return another shape, or cannot be differentiated, batched,
            copied or pickled.
    """

    @entry_point
    def __init__(self, features: nn.Module, readout: nn.Linear) -> None:
        super().__init__()
        check_instance("features", features, nn.Module, "a torch.nn.Module")
        check_instance("readout", readout, nn.Linear, "a torch.nn.Linear")
        if {*map(id, features.parameters())} & {*map(id, readout.parameters())}:
            raise SmesolveError("readout must not share parameters with features; give it weights of its own.")
        self.features, self.readout = features, readout
        self.width, self.out_features = readout.in_features, readout.out_features
        self._features = ModuleFunction(features, "features")

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (..., n, o) without dropout."""
        outputs: Tensor = self.readout(self.features(x))
        return outputs

    def check(self, x: Tensor) -> None:
        """Check that features do not drop and map x to (n, m)."""
        trial = ModuleTrial("features", self.features, x)
        if trial.dropout_layers():
            raise SmesolveError(
                "features must not drop: FeatureNetwork has dropout on its last hidden layer only; put that dropout "
                "into eval mode, or use ModuleProblem for dropout in several layers."
            )
        shape = tuple(trial.outputs().shape)
        if shape != (x.shape[0], self.width):
            raise SmesolveError(
                f"features must map x to shape ({x.shape[0]}, {self.width}), samples by the readout's in_features, "
                f"got {shape}; end them with nn.Flatten(), or change in_features."
            )
        trial.derivatives(lambda outputs, targets: outputs.square().sum(1), x)
        trial.pickles()

    def linearize(self, theta: Tensor, x: Tensor) -> NetworkLinearization:
        """Return features and their pullback by `torch.func`, batched over paths."""
        lead = theta.shape[:-1]
        inner, readout, *bias = theta.split([self._features.dim, *(p.numel() for p in self.readout.parameters())], -1)
        features, pull = vjp(
            vmap(lambda vector: self._features(vector, x).mT), inner.reshape(lead.numel(), self._features.dim)
        )

        def pullback(features_cotangent: Tensor, readout_cotangent: Tensor, bias_cotangent: Tensor | None) -> Tensor:
            pieces = [_pull_back(pull, features_cotangent, lead), readout_cotangent.flatten(-2)]
            if bias_cotangent is not None:
                pieces.append(bias_cotangent[..., 0])
            return torch.cat(pieces, dim=-1)

        return NetworkLinearization(
            features.reshape(*lead, self.width, x.shape[0]),
            readout.reshape(*lead, self.out_features, self.width),
            bias[0][..., None] if bias else None,
            pullback,
        )


def _pull_back(pull: Callable[..., tuple[Tensor, ...]], cotangent: Tensor, lead: torch.Size) -> Tensor:
    """Apply the pullback of paths with leading shape `lead` to a cotangent whose leading shape `lead` expands to."""
    wide = cotangent.shape[:-2]
    ones = (1,) * (len(wide) - len(lead)) + tuple(lead)
    # If one path has several cotangents, their dimensions come first, and the pullback is batched over them.
    several = [axis for axis, (one, all_) in enumerate(zip(ones, wide, strict=True)) if one == 1 < all_]
    first = list(range(len(several)))
    ordered = cotangent.movedim(several, first)
    pulled: Tensor = vmap(lambda one: pull(one)[0])(ordered.reshape(-1, lead.numel(), *cotangent.shape[-2:]))
    return pulled.reshape(*ordered.shape[:-2], -1).movedim(first, several)
