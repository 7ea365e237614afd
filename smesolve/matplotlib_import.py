"""The import of matplotlib, which fails where the user's settings name a backend that is not installed."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress

from smesolve.errors import SmesolveError

__all__ = ["import_matplotlib"]


def import_matplotlib() -> None:
    """Import matplotlib whatever MPLBACKEND is: figures here are files, which need no backend.

    A notebook sets MPLBACKEND for all programs that it starts, even in environments where its backend is not installed.
    A backend that can be used is set afterwards, for other code in this process.

    Raises:
        SmesolveError: matplotlib cannot read its own settings.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.CRITICAL)  # warnings of unknown settings do not matter here
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
