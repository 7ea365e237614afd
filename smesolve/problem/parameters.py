"""The parameters of a network: requirements of a problem, copies, and initial draws."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parameters_to_vector, parametrize

from smesolve.errors import SmesolveError

__all__ = [
    "MissingInitialiserWarning",
    "check_trainable",
    "copied",
    "drawn_parameters",
    "held",
    "layer_name",
    "trainable",
]

M = TypeVar("M", bound=nn.Module)


class MissingInitialiserWarning(UserWarning):
    """Some parameters have no initialiser of their own."""


# --- requirements ------------------------------------------------------------------------------------------------


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of a module that are not frozen, by name, in the order of `parameters_to_vector`."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def check_trainable(name: str, module: nn.Module, frozen_in_part: bool = False) -> None:
    """Check that the parameters of a module can be trained as one real vector; `name` names the module in messages.

    Raises:
        SmesolveError: the module has compiled or lazy layers; it has no parameters, or frozen ones only, or some frozen
            ones against `frozen_in_part`; or its parameters have no values, other dtypes than float32 or float64,
            several dtypes or devices, or are not dense.
    """
    _check_layers(name, module)
    parameters = dict(module.named_parameters())
    if not parameters:
        raise SmesolveError(f"{name} has no parameters, so there is nothing to train; give a module with parameters.")
    if any(parameter.is_meta for parameter in parameters.values()):
        raise SmesolveError(
            f"{name} has parameters on the meta device, which hold no values; give them values by "
            ".to_empty(device='cpu') and the layers' reset_parameters(), or by load_state_dict."
        )
    for key, parameter in parameters.items():
        if parameter.layout != torch.strided or parameter.is_quantized or parameter.is_nested:
            raise SmesolveError(
                f"{name} must have dense parameters, but {key} is sparse, quantized or nested; convert it."
            )
        if parameter.dtype not in (torch.float32, torch.float64):
            remedy = (
                "write it as two real parameters"
                if parameter.is_complex()
                else "convert the module by .double(), or .float()"
            )
            raise SmesolveError(
                f"{name} must have parameters of dtype float64 or float32, but {key} is {parameter.dtype}; {remedy}."
            )
    for what, remedy in (("dtype", ".double()"), ("device", ".to(device)")):
        values = {getattr(parameter, what) for parameter in parameters.values()}
        if len(values) > 1:
            raise SmesolveError(
                f"{name} must have all parameters of one {what}, got {' and '.join(sorted(map(str, values)))}; "
                f"convert the module by {remedy}."
            )
    frozen = [key for key, parameter in parameters.items() if not parameter.requires_grad]
    if len(frozen) == len(parameters):
        raise SmesolveError(
            f"{name} has frozen parameters only (requires_grad=False), so there is nothing to train; unfreeze some by "
            "requires_grad_()."
        )
    if frozen and not frozen_in_part:
        raise SmesolveError(
            f"{name} has frozen parameters (requires_grad=False), {', '.join(frozen[:3])}, but all parameters are "
            "trained here; take ModuleProblem, which trains the others, make constants buffers (register_buffer), or "
            "unfreeze them by requires_grad_()."
        )


def _check_layers(name: str, module: nn.Module) -> None:
    for key, layer in module.named_modules():
        if hasattr(layer, "_orig_mod") or layer._compiled_call_impl is not None:
            raise SmesolveError(
                f"{name} is compiled by torch.compile in its {layer_name(key, layer)}, which hides the dropout inside; "
                "give the module as it was before, which torch.compile(module) keeps as ._orig_mod."
            )
        if any(map(is_lazy, [*layer.parameters(recurse=False), *layer.buffers(recurse=False)])):
            raise SmesolveError(
                f"{name} has a lazy layer, {layer_name(key, layer)}, whose parameters have no shape yet; call the "
                f"module once on x first."
            )


def layer_name(key: str, layer: nn.Module) -> str:
    """Return the name of a layer in messages, from its key in `named_modules`."""
    return f"layer {key!r} ({type(layer).__name__})" if key else f"top level ({type(layer).__name__})"


# --- copies ------------------------------------------------------------------------------------------------------


def copied(name: str, module: M, share: bool = False) -> M:
    """Return a deep copy, without the graphs of tensors that earlier calls have left in attributes.

    With `share` the copy shares the module's own parameters and buffers. `name` names the module in messages.

    Raises:
        SmesolveError: an attribute of the module cannot be copied.
    """
    attributes = [value for layer in module.modules() for value in vars(layer).values()]
    given = {id(value): value.detach() for value in attributes if isinstance(value, Tensor) and not value.is_leaf}
    if share:
        given |= {id(value): value for value in (*module.parameters(), *module.buffers())}
    try:
        return copy.deepcopy(module, given)
    except Exception as error:
        raise SmesolveError(
            f"{name} must be copied, which failed ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            f"{held(module, copy.deepcopy)}."
        ) from error


def held(module: nn.Module, operation: Any) -> str:
    """Return a remedy that names the attribute of the module for which an operation fails."""
    for key, layer in module.named_modules():
        for attribute, value in vars(layer).items():
            if attribute == "_modules":
                continue
            try:
                operation(value)
            except Exception:
                if attribute.endswith("hooks"):
                    return (
                        f"hooks of its {layer_name(key, layer)} are the reason: remove them, or let them keep nothing"
                    )
                return (
                    f"the attribute {attribute} of its {layer_name(key, layer)}, of type {type(value).__name__}, is "
                    "the reason: make it inside forward, or leave it out of the module"
                )
    return "keep only tensors, numbers and layers in the module"


# --- drawing -----------------------------------------------------------------------------------------------------


def drawn_parameters(network: nn.Module, seed: int, device: torch.device) -> Tensor:
    """Return trainable parameters (D,) drawn by the modules' own initialisation with a seed.

    Neither the network nor torch's generator changes. Frozen parameters are drawn with the others and then left out.

    Every module draws by its `reset_parameters`, or by torch's private `_reset_parameters`, after its submodules, which
    are also made before it. Under a parametrization, such as weight_norm, the weight is drawn and its parameters
    follow. A parameter that no module draws is filled with normals with the mean and the standard deviation of its
    present values, or kept if its present values are all the same.

    Raises:
        SmesolveError: a module's own initialisation fails.

    Warns:
        MissingInitialiserWarning: no module draws some parameters, which the message names.
    """
    network = copied("network", network)
    before = {name: (parameter.detach().clone(), parameter._version) for name, parameter in network.named_parameters()}
    filled, kept = [], []
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]), torch.no_grad():
        torch.manual_seed(seed)
        for key, layer in _submodules_first("", network, set()):
            _reset(key, layer)
        for name, parameter in trainable(network).items():
            present, version = before.get(name, (None, 0))
            if present is None or parameter._version != version or not torch.equal(parameter, present):
                continue
            if present.numel() > 1 and present.std() > 0:
                parameter.normal_(float(present.mean()), float(present.std()))
                filled.append(name)
            else:
                kept.append(name)
    if filled or kept:
        done = [f"drew {', '.join(filled)} as normals of their present mean and standard deviation"] * bool(filled)
        done += [f"kept the constant {', '.join(kept)}"] * bool(kept)
        warnings.warn(
            f"initial(seed={seed}) found no reset_parameters method for some parameters: it {' and '.join(done)}; give "
            "their module such a method, or take initial(seed=None) for the present values.",
            MissingInitialiserWarning,
            stacklevel=4,
        )
    return parameters_to_vector(trainable(network).values()).detach()


def _submodules_first(key: str, module: nn.Module, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module once, with its name, after its submodules."""
    if module in seen:
        return
    seen.add(module)
    for name, child in module.named_children():
        yield from _submodules_first(f"{key}.{name}" if key else name, child, seen)
    yield key, module


def _reset(key: str, layer: nn.Module) -> None:
    reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
    if reset is None:
        return
    parametrizations: Any = layer.parametrizations if parametrize.is_parametrized(layer) else {}
    # Cached, so that `reset` writes into the very tensor that is read afterwards.
    with parametrize.cached():
        drawn = {name: getattr(layer, name) for name in parametrizations}
        try:
            reset()
        except Exception as error:
            raise SmesolveError(
                f"initial could not draw the parameters of {layer_name(key, layer)}: its reset_parameters() failed "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); fix it, or take initial(seed=None) "
                "for the present values."
            ) from error
    for name, value in drawn.items():
        _assign(layer, name, value)


def _assign(layer: nn.Module, name: str, value: Tensor) -> None:
    """Set the parameters behind a parametrized tensor from its value, if they determine it.

    Some parametrizations have no inverse, and some keep a part of the value in a buffer, which theta does not hold.
    """
    attempt = copy.deepcopy(layer)
    try:
        setattr(attempt, name, value)
    except (NotImplementedError, RuntimeError):
        return
    if all(map(torch.equal, attempt.buffers(), layer.buffers())):
        setattr(layer, name, value)
