"""Progress of a whole study with the time that is left."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "hidden"]


def hidden(shown: bool | None) -> bool | None:
    """Return what tqdm calls `disable`.

    None shows bars on a terminal and in a notebook, which is no terminal to tqdm. Without stderr they are never shown.
    """
    if sys.stderr is None:
        return True
    if shown is None:
        return False if in_notebook() else None
    return not shown


def in_notebook() -> bool:
    """Return whether stderr is the output of a notebook's cell."""
    return type(sys.stderr).__module__.startswith("ipykernel.")


class _Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A bar whose destructor knows its times where an interruption came before they were set: nothing is to clear."""

    last_print_t, start_t = 0.0, 1.0

    def __init__(self, **options: Any) -> None:
        self.start_t = time.time()  # the first line is printed before tqdm sets it
        super().__init__(**options)


class Progress:
    """One bar on stderr for all blocks of a study, each weighed by its work.

    The time left is the work left at the speed so far; results that were there already count for neither.

    Args:
        shown: whether to show it; None for only on a terminal and in a notebook.
        work: all work, in any unit.
    """

    def __init__(self, shown: bool | None, work: float) -> None:
        self._bar = _Bar(
            total=work,
            disable=hidden(shown),
            smoothing=0,
            leave=not in_notebook(),  # where results follow in the same cell
            bar_format="{desc}: {percentage:3.0f}% |{bar:30}| {elapsed}, {remaining} left",
        )
        self._described = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def describe(self, text: str) -> None:
        """Show what is worked on."""
        self._described = text
        self._bar.set_description_str(text)

    def detail(self, text: str) -> None:
        """Show what of it is worked on, or what for."""
        self._bar.set_description_str(f"{self._described}, {text}")

    def add(self, work: float) -> None:
        """Add work that was not expected."""
        self._bar.total += work
        self._bar.refresh()

    def done(self, work: float, before: bool = False) -> None:
        """Count work as done; `before` says that its results were there already."""
        if self._bar.disable:  # a bar that is not shown counts nothing
            return
        if before:
            self._bar.initial += work
        self._bar.total = max(self._bar.total, self._bar.n + work)  # a sum may exceed it by a rounding
        self._bar.update(work)
