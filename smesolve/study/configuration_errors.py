"""What is wrong with a configuration, in one sentence that names the key, the value and the remedy."""

from __future__ import annotations

import difflib

from smesolve.entry_point import OTHER_NAMES
from smesolve.errors import SmesolveError

__all__ = ["ConfigError", "nearest"]


class ConfigError(SmesolveError):
    """A configuration that cannot be used; the message is one sentence for the user."""


def nearest(key: str, known: list[str]) -> str:
    """The known name that a user may have meant, or all of them; of nested ones where they begin."""
    if OTHER_NAMES.get(key) in known:
        return f"did you mean {OTHER_NAMES[key]!r}{f', which is 1 - {key}' if OTHER_NAMES[key] == 'keep_prob' else ''}"
    tails = {name.split(".")[-1]: name for name in reversed(known)}
    close = difflib.get_close_matches(key, known, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(key.split(".")[-1], list(tails), n=1)
    ]
    return (
        f"did you mean {close[0]!r}" if close else f"known are {', '.join(name for name in known if '.' not in name)}"
    )
