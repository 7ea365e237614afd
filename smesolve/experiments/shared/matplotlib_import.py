"""The import of matplotlib, which fails where a setting of the user's names what is not installed."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from smesolve.errors import SmesolveError

__all__ = ["import_matplotlib"]


def import_matplotlib() -> None:
    """Import matplotlib, whatever MPLBACKEND is: figures here are files, and are drawn without it.

    A notebook sets it for all programs that it starts, also in environments where its backend is not installed. Where
    it can be used it is what matplotlib has afterwards, for whoever shares this process.

    Raises:
        SmesolveError: matplotlib cannot read its own settings.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL)  # settings that it does not know do not matter here
    try:
        import matplotlib
    except (ValueError, OSError) as error:  # a matplotlibrc that is not text, no place for its cache
        reason = " ".join(str(error).split())
        raise SmesolveError(
            f"matplotlib cannot be imported ({reason}); correct its settings (file matplotlibrc, MPLCONFIGDIR)."
        ) from None
    finally:
        log.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
