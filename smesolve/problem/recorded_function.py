"""Functions of tensors as the operations of torch that they come to: recorded once, then run without their code.

A gradient of a module by `torch.func` runs the code of every layer, and passes each operation through several layers of
torch before it is computed. What is computed is the same list of operations on plain tensors each time, as long as the
arguments have the same shapes. Running this list takes a fraction of the calls and gives the same numbers.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from smesolve.problem.plain_tensors import are_plain

__all__ = ["RecordedFunctions"]

RECORDED_FROM = 32
"""Calls with arguments of one shape from which on they are recorded, which takes as long as some 30 calls save."""

MOST_RECORDINGS = 16
"""Recordings that are kept; arguments of further shapes are not recorded."""

Key = tuple[Any, ...]
Recording = Callable[..., Tensor]

aten = torch.ops.aten


class RecordedFunctions:
    """Recordings of functions of tensors, one for each shape of the arguments.

    A function is recorded when it has been called often. The recording is kept if it gives the same numbers, to the
    last bit, for the same arguments in another order of the paths. So results do not depend on whether it is used.
    Where it cannot be used, the function is called: under derivatives and `torch.func`, inside `torch.compile`, for a
    single path, for functions that draw random numbers or whose course depends on values of tensors.

    Copies and pickles begin without recordings. Threads may share one.
    """

    def __init__(self) -> None:
        self._calls: Counter[Key] = Counter()
        self._recorded: dict[Key, Recording | None] = {}

    def __reduce__(self) -> tuple[type[RecordedFunctions], tuple[()]]:
        return RecordedFunctions, ()

    def call(
        self, name: str, function: Callable[..., Tensor], paths: Mapping[str, Tensor], fixed: Sequence[Tensor]
    ) -> Tensor:
        """Return function(**paths).

        Args:
            name: of the function; a function of the same name makes the same operations of its tensors.
            function: of tensors by name.
            paths: its arguments, with the paths in their first dimension.
            fixed: other tensors that it reads, of which later calls may have others of the same shape. Any further
                tensors, numbers and flags that it reads are those of the recording.
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
    """Return what the list of operations on a tensor depends on."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _recorded(
    function: Callable[..., Tensor], paths: Mapping[str, Tensor], fixed: Sequence[Tensor]
) -> Recording | None:
    """Return the recording of a function, or None where it has none or another one for other arguments."""
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
    """Return the paths in the other order, with the same strides; None where they are one, or share their numbers."""
    if len(tensor) < 2 or any(
        size > 1 and not stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    ):
        return None
    other = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return other.copy_(tensor.flip(0))


class _Recorder(TorchDispatchMode):
    """Writes down the operations on plain tensors that are computed within it, below `torch.func`.

    Args:
        inputs: what the recording takes.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._constants = fx.Graph(), dict[str, Tensor]()
        self._nodes: Any = WeakTensorKeyDictionary()
        self._copies: list[tuple[fx.Node, fx.Node]] = []
        """Nodes with the values of another one, and that one."""
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
        """Return the node of a tensor; a tensor that was there before is a constant. Other values are returned."""
        if not isinstance(value, Tensor):
            return value
        if value not in self._nodes:
            name = f"constant_{len(self._constants)}"
            self._constants[name] = value
            self._nodes[value] = self._graph.get_attr(name)
        return self._nodes[value]

    def finished(self, result: Tensor) -> Recording | None:
        """Return what gives `result` from the inputs, or None where that is not known."""
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
    """Return whether an operation is neither random nor makes numbers, or a shape, from the values of tensors."""
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
"""Operations that give the numbers that they take if their second argument is 1."""
