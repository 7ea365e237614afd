"""Progress of a whole study with the time that is left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from tqdm import tqdm

__all__ = ["Progress", "hidden"]

EVERY, EVERY_IN_A_FILE = 0.1, 5.0
"""Seconds between two states of the bar that are shown on a terminal, and where a file keeps each of them."""


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
    seconds_left = math.nan

    def __init__(self, **options: Any) -> None:
        self.start_t = time.time()  # the first line is printed before tqdm sets it
        super().__init__(**options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """What the format of the bar may name."""
        left = tqdm.format_interval(self.seconds_left) if math.isfinite(self.seconds_left) else "?"
        # Rounded down: nothing is shown as done before all of it is.
        return {**super().format_dict, "percent": math.floor(100 * self.n), "left": left}


_OPEN: ContextVar[Progress | None] = ContextVar("open progress", default=None)
"""The innermost one that is open."""


class Progress:
    """One bar on stderr for all the work of a study, each piece weighed by its size.

    The share of the bar that is filled never falls. Each piece of work fills the share of the empty part that the piece
    has in the work that is left: where all work is known from the beginning, that is its share in the whole. Work that
    is found on the way shares the empty part, and the time that is left grows by it.

    A bar that is opened while another one is open is not shown. Its work counts as a part of the work of the outer one,
    in the same unit, and its descriptions stand behind those of the outer one: so a function with a bar of its own
    is a piece of a larger study.

    The time left is the work left at the speed so far; results that were there already count for neither.

    Args:
        shown: whether to show it; None for only on a terminal and in a notebook.
        work: all work that is known, in any unit.
        late: show it from the first work that is done on, or the first inner bar that is not late. What is refused
            before says so without a bar above it.
    """

    def __init__(self, shown: bool | None, work: float = 0.0, late: bool = False) -> None:
        self._outer = _OPEN.get()
        self._late = late
        self._total, self._done, self._before = 0.0, 0.0, 0.0
        self._set_aside = 0.0
        """Work of the part that is open which no inner bar has claimed yet."""
        self._described = ""
        self._token: Token[Progress | None] | None = None
        self._bar = _Bar(
            total=1.0,
            disable=True if self._outer else hidden(shown),
            leave=not in_notebook(),  # where results follow in the same cell
            delay=float(late),  # tqdm shows nothing by itself then
            bar_format="{percent:3d}% |{bar:30}| {elapsed}, {left} left: {desc}",
        )
        self._next_time = 0.0
        self._refreshed()  # tqdm shows the first state
        self.add(work)

    def __enter__(self) -> Progress:
        self._token = _OPEN.set(self)
        if not self._late:
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _OPEN.reset(self._token)
        if kind is None:
            self.add(-self.left)  # work that did not come
            self._bar.seconds_left = 0.0
        self._bar.close()

    @property
    def filled(self) -> float:
        """The share of the bar that is filled."""
        return float(self._bar.n)

    @property
    def left(self) -> float:
        """The work that is left, as far as it is known."""
        return max(0.0, self._total - self._done)

    def describe(self, text: str) -> None:
        """Show what is worked on."""
        self._described = text
        self._show_description(text)

    def detail(self, text: str) -> None:
        """Show what of it is worked on, or what for."""
        self._show_description(f"{self._described}, {text}" if self._described else text)

    def add(self, work: float) -> None:
        """Add work that was not expected, or take back what will not come, which is negative."""
        self._total = max(self._done, self._total + work)
        if self._outer is not None:
            self._outer._claim(work)
        if not self.left and self._done:
            self._bar.n = 1.0
        self._refresh()

    def done(self, work: float, before: bool = False) -> None:
        """Count work as done; `before` says that its results were there already."""
        self.add(max(0.0, self._done + work - self._total))
        self._begin()
        share = min(1.0, work / self.left) if self.left else 1.0
        self._bar.n = 1.0 if share == 1.0 else self._bar.n + (1.0 - self._bar.n) * share
        self._done += work
        self._before += work if before else 0.0
        self._refresh()
        if self._outer is not None:
            self._outer.done(work, before)

    @contextmanager
    def part(self, work: float, known: bool = False) -> Iterator[None]:
        """Count so much of the work as done in the end; the bars that are opened before the end divide it.

        Args:
            work: of the part, which this bar expects.
            known: the results were there already.
        """
        self._set_aside = work
        yield
        self.done(self._set_aside, before=known)
        self._set_aside = 0.0

    def _claim(self, work: float) -> None:
        """Give work of the open part to an inner bar; what the part does not hold is new."""
        given = min(work, self._set_aside) if work > 0 else 0.0
        self._set_aside -= given
        if work != given:
            self.add(work - given)

    def _begin(self) -> None:
        """Show the bar, and those around it, from now on."""
        self._late, self._bar.delay = False, 0.0
        if self._outer is not None:
            self._outer._begin()

    def _show_description(self, text: str) -> None:
        if self._outer is not None:
            self._outer.detail(text)
        self._bar.desc = text
        self._refresh(now=True)

    def _refresh(self, now: bool = False) -> None:
        """Show the present state, not more often than anyone can read it."""
        if self._bar.disable or self._late or not (now or time.monotonic() >= self._next_time):
            return
        speed = (self._done - self._before) / max(time.time() - self._bar.start_t, 1e-9)
        self._bar.seconds_left = self.left / speed if speed > 0 else math.nan
        self._bar.refresh()
        self._refreshed()

    def _refreshed(self) -> None:
        if not self._bar.disable:
            self._next_time = time.monotonic() + (EVERY if self._bar.fp.isatty() else EVERY_IN_A_FILE)
