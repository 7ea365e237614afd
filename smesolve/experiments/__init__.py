"""Experiments that are run by name: one file per experiment, from its settings to its figure and its report.

Public names are imported on first use, as `__init__.pyi` lists them: the names of all experiments are known without
loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
