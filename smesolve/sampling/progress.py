"""Progress of a whole study, with the remaining time."""

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
"""Seconds between two updates of the bar: on a terminal, and in a file, which keeps all of them."""


def hidden(shown: bool | None) -> bool | None:
    """Return tqdm's argument `disable`.

    With `shown` None, bars are shown on a terminal and in a notebook, which tqdm does not count as a terminal. Without
    stderr they are never shown.
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
    """A bar that its destructor, after an interruption, or tqdm's monitor may meet before tqdm has set its numbers.

    There is nothing to clear then, and nothing to refresh.
    """

    last_print_t, start_t, miniters = 0.0, 1.0, 0
    seconds_left = math.nan

    def __init__(self, **options: Any) -> None:
        self.start_t = time.time()  # the first line is printed before tqdm sets it
        super().__init__(**options)

    @property
    def format_dict(self) -> dict[str, Any]:
        """The values that the format of the bar can use."""
        left = tqdm.format_interval(self.seconds_left) if math.isfinite(self.seconds_left) else "?"
        # Rounded down: nothing is shown as done before all of it is.
        return {**super().format_dict, "percent": math.floor(100 * self.n), "left": left}


_OPEN: ContextVar[Progress | None] = ContextVar("open progress", default=None)
"""The innermost open bar."""


class Progress:
    """One bar on stderr for all the work of a study, each piece weighed by its size.

    The filled part of the bar never shrinks. A piece of work that is a share s of the remaining work fills a share s of
    the empty part: if all work is known from the beginning, this is its share in the whole. Work that is found later
    shares the empty part, and adds to the remaining time.

    A bar that is opened while another one is open is not shown. Its work counts as a part of the work of the outer bar,
    in the same unit, and its descriptions are appended to those of the outer bar. A function with a bar of its own can
    therefore be a piece of a larger study.

    The remaining time is the remaining work at the mean speed so far. Results that were there already count neither as
    work nor as time.

    Args:
        shown: whether to show the bar. None shows it on a terminal and in a notebook.
        work: all known work, in any unit.
        late: whether to show the bar only when the first work is done, or the first inner bar that is not late is
            opened, so that an error before that has no bar above it.
    """

    def __init__(self, shown: bool | None, work: float = 0.0, late: bool = False) -> None:
        self._outer = _OPEN.get()
        self._late = late
        self._total, self._done, self._before = 0.0, 0.0, 0.0
        self._set_aside = 0.0
        """Work of the open part that no inner bar has claimed yet."""
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
        """The filled share of the bar."""
        return float(self._bar.n)

    @property
    def left(self) -> float:
        """The remaining work, as far as it is known."""
        return max(0.0, self._total - self._done)

    def describe(self, text: str) -> None:
        """Show the name of the present work."""
        self._described = text
        self._show_description(text)

    def detail(self, text: str) -> None:
        """Show which part of the present work is running, or its purpose."""
        self._show_description(f"{self._described}, {text}" if self._described else text)

    def add(self, work: float) -> None:
        """Add unexpected work to the total, or subtract work that will not come, as a negative number."""
        self._total = max(self._done, self._total + work)
        if self._outer is not None:
            self._outer._claim(work)
        if not self.left and self._done:
            self._bar.n = 1.0
        self._refresh()

    def done(self, work: float, before: bool = False) -> None:
        """Count work as done. `before` says that its results were there already."""
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
        """A context for a part of the work, which counts as done at its end. Bars that are opened inside divide it.

        Args:
            work: work of the part, as counted in the total of this bar.
            known: whether the results were there already.
        """
        self._set_aside = work
        yield
        self.done(self._set_aside, before=known)
        self._set_aside = 0.0

    def _claim(self, work: float) -> None:
        """Give work of the open part to an inner bar. Work beyond that of the part is new."""
        given = min(work, self._set_aside) if work > 0 else 0.0
        self._set_aside -= given
        if work != given:
            self.add(work - given)

    def _begin(self) -> None:
        """Show this bar and the outer ones from now on."""
        self._late, self._bar.delay = False, 0.0
        if self._outer is not None:
            self._outer._begin()

    def _show_description(self, text: str) -> None:
        if self._outer is not None:
            self._outer.detail(text)
        self._bar.desc = text
        self._refresh(now=True)

    def _refresh(self, now: bool = False) -> None:
        """Show the present state, at most once per `EVERY` seconds."""
        if self._bar.disable or self._late or not (now or time.monotonic() >= self._next_time):
            return
        speed = (self._done - self._before) / max(time.time() - self._bar.start_t, 1e-9)
        self._bar.seconds_left = self.left / speed if speed > 0 else math.nan
        self._bar.refresh()
        self._refreshed()

    def _refreshed(self) -> None:
        if not self._bar.disable:
            self._next_time = time.monotonic() + (EVERY if self._bar.fp.isatty() else EVERY_IN_A_FILE)
