"""smesolve: derive, integrate and certify the stochastic modified equation of dropout.

Public names are imported on first use, as `__init__.pyi` lists them: `import smesolve` takes milliseconds, and the
command line explains itself without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
