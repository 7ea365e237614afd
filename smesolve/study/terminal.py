"""What commands say on stdout and stderr, whatever these are: a terminal in ASCII, a pipe that has ended, nothing."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["complain", "prepare_streams", "say"]


def say(text: str) -> None:
    """Write a line to stdout, if that takes it."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """Write a line to stderr, if that takes it."""
    _write(sys.stderr, text)


def prepare_streams() -> None:
    """Make stdout and stderr of this process take every text, also where it was started without them.

    A number that no file has goes to the first file that is opened, and what a library writes to stderr would be
    written into that: all three standard files are opened.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the process ends)
        elif isinstance(stream, io.TextIOWrapper):
            lines = stream.line_buffering
            setattr(sys, name, _Unfailing(stream.buffer, stream.encoding, "backslashreplace", line_buffering=lines))


class _Unfailing(io.TextIOWrapper):
    """Drops what nobody reads any more."""

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
    """Let a stream lead nowhere: what is in its buffer cannot be written and would be tried again at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
