"""smesolve: derive, integrate and certify the stochastic modified equation of dropout.

Public names are imported on first use, as `__init__.pyi` lists them: `import smesolve` takes milliseconds, and the
command line explains itself without loading torch.
"""

from typing import Any

import lazy_loader

from smesolve.garbage_collection import paused_collections

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Import a public name."""
    with paused_collections():
        return _load(name)
