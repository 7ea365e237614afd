"""Pickles of what the workers of a study need."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import cloudpickle
from torch import nn
from torch.nn.utils import parametrize

__all__ = ["dumps"]


def dumps(value: Any) -> bytes:
    """Pickle as `cloudpickle.dumps` does, also modules with torch's parametrizations, which refuse to be pickled."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, nn.Module) and parametrize.is_parametrized(value):
            return _parametrized, (type(value).__bases__[0], vars(value))
        return super().reducer_override(value)


def _parametrized(kind: type[nn.Module], attributes: Mapping[str, Any]) -> nn.Module:
    """Rebuild a parametrized module, whose class torch makes at run time, as `copy.deepcopy` does."""
    module = kind.__new__(kind)
    vars(module).update(attributes)
    parametrize._inject_new_class(module)
    parametrizations: Any = module.parametrizations
    for name in parametrizations:
        parametrize._inject_property(module, name)
    return module
