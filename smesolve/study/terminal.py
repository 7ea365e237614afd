"""What commands say on stdout and stderr, whatever these are: a terminal in ASCII, a pipe that has ended, nothing."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

__all__ = ["complain", "end_quietly", "open_standard_files", "printable", "say"]


def say(text: str) -> None:
    """Write a line to stdout, if that takes it."""
    _write(sys.stdout, text)


def complain(text: str) -> None:
    """Write a line to stderr, if that takes it."""
    _write(sys.stderr, text)


def printable(text: object) -> str:
    """A path or another text on one line; control characters, and bytes that are no text, as their escape sequences."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def open_standard_files() -> None:
    """Give a process that was started without stdin, stdout or stderr empty ones.

    Otherwise the first files that it opens get their numbers, and what a library writes to stderr is written into them.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def end_quietly() -> None:
    """Write what is left for stdout and stderr; where nobody reads it any more, drop it instead of failing at exit."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                _drop(stream)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):  # nobody reads it, or it is closed
        _drop(stream)


def _drop(stream: TextIO) -> None:
    """Let a stream lead nowhere: what is in its buffer cannot be written and would be tried again at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
