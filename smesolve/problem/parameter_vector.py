"""Conversion between a module and its parameter vector theta (D,)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid, shown
from smesolve.problem.data import hidden_values
from smesolve.problem.one_at_a_time import one_at_a_time
from smesolve.problem.parameters import copied, drawn_parameters, trainable
from smesolve.validation import check_parameters, check_seed

__all__ = ["ParameterVector"]

SAME = "give a module of the same class and sizes, or its state_dict()"


class ParameterVector:
    """The part of `Problem` about the parameters of its network.

    theta holds the trainable parameters of the network one after the other, flattened, in the order of
    `network.named_parameters()`. It does not hold frozen parameters (requires_grad=False) and buffers.
    """

    network: nn.Module | None
    device: torch.device
    dtype: torch.dtype

    @property
    def parameter_names(self) -> list[str]:
        """Names of the parameters in theta, in their order, as in `network.named_parameters()`."""
        return list(self.parameter_slices)

    @property
    def parameter_slices(self) -> dict[str, slice]:
        """Slice of each parameter in theta: ``theta[..., problem.parameter_slices["readout.weight"]]``, row by row."""
        slices, begin = {}, 0
        for name, parameter in self._parameters().items():
            slices[name] = slice(begin, begin + parameter.numel())
            begin += parameter.numel()
        return slices

    @entry_point
    def theta_from(self, source: nn.Module | Mapping[str, Any]) -> Tensor:
        """Return theta (D,) with the parameters of a module like the network, or of a `state_dict()`.

        They are converted to the problem's dtype and device.

        Args:
            source: the module, or a mapping of names to tensors. Integer buffers in it are not read.

        Raises:
            SmesolveError: parameters are missing, unknown, not finite, or of other shapes; or frozen parameters or
                buffers, which theta does not hold, differ from those of the network.
        """
        trained = self._parameters()
        if not isinstance(source, (nn.Module, Mapping)):
            raise invalid("source", "be a torch.nn.Module or its state_dict()", source)
        with one_at_a_time:  # another thread may have its own parameters in the module
            values: dict[str, Any] = dict(source.state_dict() if isinstance(source, nn.Module) else source)
            known = self._network("parameters could be given").state_dict(keep_vars=True)
        for name, value in values.items():
            if name not in known:
                raise SmesolveError(f"source has {name!r}, which the problem's network does not have; {SAME}.")
            if not isinstance(value, Tensor) or value.shape != known[name].shape:
                got = tuple(value.shape) if isinstance(value, Tensor) else shown(value)
                raise SmesolveError(
                    f"source has {name!r} of shape {got} where the problem's network has {tuple(known[name].shape)}; "
                    f"{SAME}."
                )
            hidden = "complex numbers; take their real part" if value.is_complex() else hidden_values(value)
            if hidden is not None and not known[name].is_complex():
                raise SmesolveError(f"source has {name!r} as a tensor of other values than real ones, {hidden}.")
        missing = [name for name in trained if name not in values]
        if missing:
            raise SmesolveError(f"source lacks the parameter {missing[0]!r}; give the whole state_dict().")
        names = {id(parameter): name for name, parameter in trained.items()}
        for name, value in values.items():
            own = values[names[id(known[name])]] if id(known[name]) in names else known[name]
            if own is not value and own.is_floating_point() and not torch.equal(value.detach().to(own), own.detach()):
                raise SmesolveError(
                    f"source has another {name!r} than the problem's network, but theta holds neither frozen "
                    "parameters nor buffers, and shared parameters only once; make a problem of that module."
                )
        vector = torch.cat([values[name].detach().flatten().to(self.device, self.dtype) for name in trained])
        if not vector.isfinite().all():
            raise SmesolveError("source has values that are NaN or infinite; give finite parameters.")
        return vector

    @entry_point
    def to_module(self, theta: Tensor) -> nn.Module:
        """Return a copy of the network with the parameters theta (D,). Its layers keep their train or eval mode.

        Raises:
            SmesolveError: theta has another shape or dtype, or there is no network or it cannot be copied.
        """
        network, problem = self._network("parameters could be set; take a problem that has one"), cast(Any, self)
        vector = problem.parameters(check_parameters("theta", theta, problem))
        with one_at_a_time:
            module = copied("network", network)
        slices = self.parameter_slices
        with torch.no_grad():
            for name, parameter in trainable(module).items():
                parameter.copy_(vector[slices[name]].view_as(parameter))
        return module

    @entry_point
    def initial(self, seed: int | None = 0) -> Tensor:
        """Return initial parameters (D,): drawn by the modules' own initialisation, or the network's present values.

        Args:
            seed: seed of the draw, or None for the network's present values, such as loaded weights. A draw replaces
                all values, including those set by hand.

        Raises:
            SmesolveError: there is no network, or a module's own initialisation fails.

        Warns:
            MissingInitialiserWarning: no module draws some parameters, such as a bare torch.nn.Parameter; the message
                names them. They are drawn as normals with the mean and the standard deviation of their present values.
                Constant ones stay as they are.
        """
        seed = None if seed is None else check_seed("seed", seed)
        network = self._network("parameters could be drawn; define initial(seed), or give theta0 yourself")
        with one_at_a_time:  # another thread may have its own parameters in the module, or draw its own
            if seed is None:
                return parameters_to_vector(self._parameters().values()).detach()
            self._parameters()  # which must be those of theta
            return drawn_parameters(network, seed, self.device)

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters of the network."""
        network = self._network("parameters have names; take a problem that has one, such as a DropoutProblem")
        with one_at_a_time:
            found = trainable(network)
        if sum(parameter.numel() for parameter in found.values()) != cast(Any, self).trained.dim:
            raise SmesolveError(
                "the network has other trainable parameters than when the problem was made, whose theta it cannot "
                "hold; set requires_grad as it was, or make a new problem."
            )
        return found

    def _network(self, what: str) -> nn.Module:
        if self.network is None:
            raise SmesolveError(f"{type(self).__name__} has no network whose {what}.")
        return self.network
