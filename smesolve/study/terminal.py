"""Output of commands to stdout and stderr, each of which may be an ASCII terminal, a closed pipe, or missing."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["complain", "prepare_streams", "say"]


def say(text: str) -> None:
    """Write a line to stdout, if it can be written."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """Write a line to stderr, if it can be written."""
    _write(sys.stderr, text)


def prepare_streams() -> None:
    """Make stdout and stderr of this process accept every string, even if it was started without them.

    The next file that is opened gets the lowest free descriptor. If this were the descriptor of stderr, messages of
    libraries would be written into that file. All three standard descriptors are therefore opened first.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the process ends)
        elif isinstance(stream, io.TextIOWrapper):
            lines = stream.line_buffering
            setattr(sys, name, _Unfailing(stream.buffer, stream.encoding, "backslashreplace", line_buffering=lines))


class _Unfailing(io.TextIOWrapper):
    """Drops output that nobody reads any more."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except (OSError, ValueError):
            _drop(self)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except (OSError, ValueError):
            _drop(self)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(OSError, ValueError):  # nobody reads it, or it is closed
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def _drop(stream: TextIO) -> None:
    """Redirect a stream to the null device: its buffer cannot be written, and would be flushed again at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
