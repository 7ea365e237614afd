"""A second device with values, on a machine that has none: tensors of device "cpu:1", which the CPU computes.

As on a GPU, operations refuse operands on both devices, except CPU tensors of no dimension and CPU indices. The forward
derivatives of `torch.func.jvp` and compiled kernels do not know such tensors.
"""

from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cpu", 1)

ON_BOTH = ("_to_copy", "copy", "copy_", "index", "index_put", "index_put_")
"""Operations whose operands may be on both devices."""


class Elsewhere(torch.Tensor):
    """A tensor of the other device; `held` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, dtype=held.dtype, device=DEVICE, **layout)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func, args, kwargs):
    """The result of an operation on the device of its operands, or on the one that is asked for."""
    tensors = [part for part in tree_leaves((args, kwargs)) if isinstance(part, torch.Tensor)]
    elsewhere = any(isinstance(part, Elsewhere) for part in tensors)
    name = func.overloadpacket.__name__
    if elsewhere and name not in ON_BOTH and any(part.ndim and not isinstance(part, Elsewhere) for part in tensors):
        raise RuntimeError(f"{name}: expected all tensors on {DEVICE}, but found one on the CPU")
    if kwargs.get("device") is not None:
        elsewhere = torch.device(kwargs["device"]) == DEVICE
        kwargs = kwargs | {"device": torch.device("cpu")}
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if name.endswith("_") and not name.startswith("_"):
        return args[0]
    return tree_map(lambda part: Elsewhere(part) if isinstance(part, torch.Tensor) and elsewhere else part, result)


def _held(part):
    return part.held if isinstance(part, Elsewhere) else part


@contextmanager
def other_device():
    """Let operations know tensors of `DEVICE`, which `.to(DEVICE)` makes."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Mode():
            yield DEVICE
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
