"""Functions of the parameters of one path, applied to many paths at once, by recordings of their torch operations.

A gradient of a module by `torch.func` runs the code of every layer, and passes each operation through several layers of
torch before it is computed. For arguments of the same shapes this results in the same list of operations on plain
tensors each time. Running this list takes a fraction of the calls and gives the same numbers.

`torch.fx.experimental.proxy_tensor.make_fx` makes such lists as well. They run as quickly once views that copy nothing
are taken out, but take 6 to 7 times as long to make, so that they pay after some 110 calls in place of 30.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.func import vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from smesolve.problem.plain_tensors import are_plain

__all__ = ["FunctionsOfPaths", "RecordedFunctions"]

Parts = Mapping[str, Tensor]


class FunctionsOfPaths:
    """Applies functions of parameters (D,) to parameters (..., D), by recordings if they are called often.

    A name stands for one function. Everything that it reads besides its arguments is in `data`, or never changes.
    """

    def __init__(self) -> None:
        self._recorded = RecordedFunctions()

    def in_batches(
        self, name: str, function: Callable[[Tensor], Tensor], theta: Tensor, data: Sequence[Tensor], batch: int
    ) -> Tensor:
        """Return function (D,) -> (...) for each path, in batches of `batch` paths."""
        parts = [
            self._recorded.call(name, lambda theta: vmap(function)(theta), {"theta": part}, data)
            for part in theta.reshape(-1, theta.shape[-1]).split(batch)
        ]
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        return values.reshape((*theta.shape[:-1], *values.shape[1:]))

    def with_noise(
        self,
        name: str,
        function: Callable[[Tensor, Parts], Tensor],
        theta: Tensor,
        noise: Parts,
        data: Sequence[Tensor],
        dimensions: Mapping[str, int],
    ) -> Tensor:
        """Return function ((D,), noise) -> (D,) for each path and its noise. Leading dimensions broadcast.

        The noise is given by name, with the dimensions of paths first; `dimensions` are the numbers of dimensions of
        the noise of one path. `data` are other tensors that the function reads.
        """
        lead = theta.shape[:-1]
        leads = [part.shape[: part.ndim - dimensions[key]] for key, part in noise.items()]
        if any(one != lead for one in leads):
            lead = torch.Size(np.broadcast_shapes(lead, *leads))

        def flat(part: Tensor, count: int) -> Tensor:
            shape = part.shape[part.ndim - count :]
            return part.expand(*lead, *shape).reshape(-1, *shape)

        def of_paths(theta: Tensor, **noise: Tensor) -> Tensor:
            values: Tensor = vmap(function)(theta, noise)
            return values

        paths = {"theta": flat(theta, 1)} | {key: flat(part, dimensions[key]) for key, part in noise.items()}
        return self._recorded.call(name, of_paths, paths, data).reshape(*lead, theta.shape[-1])


RECORDED_FROM = 32
"""Number of calls with arguments of one shape before they are recorded, which takes the time that 30 calls save."""

MOST_RECORDINGS = 16
"""Largest number of recordings. Calls with arguments of further shapes are not recorded."""

Key = tuple[Any, ...]
Recording = Callable[..., Tensor]

aten = torch.ops.aten


class RecordedFunctions:
    """Recordings of functions of tensors, one for each shape of the arguments.

    A function is recorded when it has been called often. The recording is kept if it gives the same numbers, to the
    last bit, for the same arguments in another order of the paths, so that results do not depend on its use. The
    function itself is called where a recording cannot be used: under derivatives and `torch.func`, inside
    `torch.compile`, for a single path, and for functions that draw random numbers or branch on values of tensors.

    Copies and pickles start without recordings. Threads may share an object.
    """

    def __init__(self) -> None:
        self._calls: Counter[Key] = Counter()
        self._recorded: dict[Key, Recording | None] = {}

    def __reduce__(self) -> tuple[type[RecordedFunctions], tuple[()]]:
        return RecordedFunctions, ()

    def call(
        self, name: str, function: Callable[..., Tensor], paths: Mapping[str, Tensor], fixed: Sequence[Tensor]
    ) -> Tensor:
        """Return function(**paths), with the paths in the first dimension of the arguments.

        Functions of one name perform the same operations on their tensors. `fixed` are other tensors that the function
        reads, for which later calls may have different tensors of the same shape. Any further tensors, numbers and
        flags that it reads keep their values from the recording.
        """
        if not are_plain(*paths.values(), *fixed):
            return function(**paths)
        key = (name, *((part, *_layout(tensor)) for part, tensor in paths.items()), *map(_layout, fixed))
        if key not in self._recorded:
            self._calls[key] += 1
            if self._calls[key] < RECORDED_FROM or len(self._recorded) >= MOST_RECORDINGS:
                return function(**paths)
            self._recorded[key] = _recorded(function, paths, fixed)
        recording = self._recorded[key]
        return function(**paths) if recording is None else recording(*paths.values(), *fixed)


def _layout(tensor: Tensor) -> Key:
    """Return the properties of a tensor on which the list of operations depends."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _recorded(
    function: Callable[..., Tensor], paths: Mapping[str, Tensor], fixed: Sequence[Tensor]
) -> Recording | None:
    """Return the recording of a function, or None if it cannot be recorded or differs for other arguments."""
    reversed_paths = {name: _reversed(tensor) for name, tensor in paths.items()}
    if any(tensor is None for tensor in reversed_paths.values()):
        return None
    recorder = _Recorder([*paths.values(), *fixed])
    try:
        with recorder:
            result = function(**paths)
        recording = recorder.finished(result)
        if recording is None:
            return None
        expected, found = function(**reversed_paths), recording(*reversed_paths.values(), *fixed)
    except Exception:  # the caller calls the function, which raises what is its own
        return None
    same = (found == expected) | (found.isnan() & expected.isnan())
    return recording if bool(same.all()) else None


def _reversed(tensor: Tensor) -> Tensor | None:
    """Return the paths in reversed order, with the same strides; None for a single path or paths that share memory."""
    if len(tensor) < 2 or any(
        size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    ):
        return None
    other = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return other.copy_(tensor.flip(0))


class _Recorder(TorchDispatchMode):
    """Records the operations on plain tensors that are computed in its context, below `torch.func`.

    Args:
        inputs: arguments of the recording.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._constants = fx.Graph(), dict[str, Tensor]()
        self._nodes: Any = WeakTensorKeyDictionary()
        self._copies: list[tuple[fx.Node, fx.Node]] = []
        """Pairs of a node and the node whose values it copies."""
        self._repeatable = True
        self._mutates = False
        for k, tensor in enumerate(inputs):
            self._nodes[tensor] = self._graph.placeholder(f"input_{k}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        if not _is_repeatable(func, args):
            self._repeatable = False
        if not self._repeatable:
            return outputs
        first = args[0] if args else None
        if func is aten.lift_fresh.default:  # of a tensor that is new in every call, and may be written to
            self._nodes[outputs] = self._graph.call_function(aten.clone.default, (self._node_of(outputs.clone()),))
            return outputs
        if func in _VIEWS and isinstance(first, Tensor) and _layout(first) == _layout(outputs):
            self._nodes[outputs] = self._node_of(first)  # the same numbers at the same place
            return outputs
        self._mutates |= func._schema.is_mutable
        node = self._graph.call_function(func, *tree_map(self._node_of, (args, kwargs)))
        if func in _COPYING and args[1] == 1 and isinstance(first, Tensor) and first.dtype == outputs.dtype:
            self._copies.append((node, self._node_of(first)))
        if isinstance(outputs, Tensor):
            if outputs is not first:
                self._nodes[outputs] = node
        elif isinstance(outputs, (tuple, list)):
            for k, output in enumerate(outputs):
                if isinstance(output, Tensor):
                    self._nodes[output] = self._graph.call_function(operator.getitem, (node, k))
        return outputs

    def _node_of(self, value: Any) -> Any:
        """Return the node of a tensor, which is a constant if it was made before the recording; else the value."""
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = value
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]

    def finished(self, result: Tensor) -> Recording | None:
        """Return the function from the inputs to `result`, or None if it was not recorded."""
        if not self._repeatable or result not in self._nodes:
            return None
        self._graph.output(self._nodes[result])
        if not self._mutates:  # else a copy is not what it was copied from, and what is not used may be written to
            for copied, original in self._copies:
                copied.replace_all_uses_with(original)
            self._graph.eliminate_dead_code()
        recording: Recording = fx.GraphModule(self._constants, self._graph).forward
        return recording


def _is_repeatable(func: Any, args: Any) -> bool:
    """Return whether an operation is not random and makes no Python number or shape from the values of tensors."""
    if not isinstance(func, torch._ops.OpOverload):
        return False
    if func is aten.index.Tensor:  # whose shape depends on values where it takes booleans
        return all(index is None or index.dtype != torch.bool for index in args[1])
    return not _UNREPEATABLE & set(func.tags)


_UNREPEATABLE = {torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

_VIEWS = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.expand.default,
    aten.permute.default,
    aten.transpose.int,
    aten.detach.default,
    aten.alias.default,
}
"""Operations that copy nothing."""

_COPYING = {aten.mul.Scalar, aten.div.Scalar, aten.pow.Tensor_Scalar}
"""Operations that return their first argument unchanged if the second one is 1."""
