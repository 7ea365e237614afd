"""Progress of a whole study with the time that is left."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

__all__ = ["Progress", "hidden"]


def hidden(shown: bool | None) -> bool | None:
    """What tqdm calls `disable`. Default: bars are shown only on a terminal; without stderr they never are."""
    if sys.stderr is None:
        return True
    return None if shown is None else not shown


class Progress:
    """One bar on stderr for all blocks of a study, each weighed by its work.

    The time left is the work left at the speed so far; results that were there already count for neither.
    """

    def __init__(self, shown: bool | None, work: float) -> None:
        self._bar = tqdm(
            total=work,
            disable=hidden(shown),
            smoothing=0,
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
        """What is worked on."""
        self._described = text
        self._bar.set_description_str(text)

    def detail(self, text: str) -> None:
        """What of it is worked on, or what for."""
        self._bar.set_description_str(f"{self._described}, {text}")

    def add(self, work: float) -> None:
        """More work than was expected."""
        self._bar.total += work
        self._bar.refresh()

    def done(self, work: float, before: bool = False) -> None:
        """Work is done; `before`: its results were there already."""
        if before and not self._bar.disable:  # a bar that is not shown has no such number
            self._bar.initial += work
        self._bar.update(work)
