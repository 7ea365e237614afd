"""Progress bars that rounding or an interruption catches at a bad moment."""

import io
import re
import sys
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import TMonitor, tqdm

from smesolve.sampling import progress
from smesolve.sampling.progress import Progress


def test_work_that_sums_to_more_than_all_of_it_by_a_rounding_is_no_warning(monkeypatch, capsys):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Progress(True, 0.3) as bar:
            for _ in range(3):
                bar.done(0.1)
            assert bar.filled == 1.0 and bar.left == 0.0
    assert "100%" in capsys.readouterr().err


def test_a_bar_that_was_interrupted_while_it_was_made_says_nothing(capsys):
    """As where SIGTERM comes after the first line: its destructor closes what its constructor has not finished."""
    bar = progress._Bar(total=1, disable=False)
    del bar.last_print_t, bar.start_t
    capsys.readouterr()
    bar.close()
    assert capsys.readouterr().err == ""


def test_the_monitor_of_tqdm_goes_on_if_it_meets_a_bar_that_is_being_made():
    bar = tqdm.__new__(progress._Bar)
    bar.disable = True  # for its destructor
    monitor = TMonitor(tqdm, 1e-3)
    time.sleep(0.05)
    assert monitor.is_alive()
    monitor.exit()


def test_the_first_line_counts_from_now(capsys):
    with Progress(True, 1):
        assert "| 00:00, ? left" in capsys.readouterr().err


class CellOutput(io.StringIO):
    """What stands for stderr in a notebook."""


CellOutput.__module__ = "ipykernel.iostream"


def test_a_notebook_shows_the_bar_and_clears_it(monkeypatch):
    monkeypatch.setattr("sys.stderr", CellOutput())
    with Progress(None, 1) as bar:
        bar.describe("lr 0.1")
        bar.done(1)
    shown = sys.stderr.getvalue()
    assert "lr 0.1" in shown and not shown.split("\r")[-1].strip()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Progress(None, 1) as bar:
        bar.done(1)
    assert sys.stderr.getvalue() == ""


def shares(text):
    """The percentages that a bar showed, in their order."""
    return [int(found) for found in re.findall(r"(\d+)% \|", text)]


def test_the_share_is_that_of_the_work_where_all_is_known_from_the_beginning():
    with Progress(False, 8.0) as bar:
        for k in range(1, 9):
            bar.done(1.0)
            assert bar.filled == pytest.approx(k / 8)


def test_work_that_is_found_on_the_way_takes_its_share_of_the_empty_part():
    with Progress(False, 4.0) as bar:
        bar.done(3.0)
        bar.add(5.0)  # 6 are left for the last quarter
        assert bar.filled == 0.75 and bar.left == 6.0
        bar.done(3.0)
        assert bar.filled == 0.875
        bar.add(-2.0)  # 1 is left
        bar.done(0.5)
        assert bar.filled == pytest.approx(0.9375)
    assert bar.filled == 1.0


@given(st.lists(st.tuples(st.sampled_from(["add", "done", "before"]), st.floats(-5, 20)), max_size=20))
def test_the_share_never_falls_and_no_full_bar_has_work_left(steps):
    with Progress(False, 10.0) as bar:
        filled = [0.0]
        for kind, work in steps:
            if kind == "add":
                bar.add(work)
            else:
                bar.done(abs(work), before=kind == "before")
            filled.append(bar.filled)
            if filled[-2] < 1:
                assert bar.filled < 1 or bar.left == 0
    assert (np.diff([*filled, bar.filled]) >= 0).all()


def test_an_inner_bar_fills_the_part_of_the_outer_one(capsys):
    with Progress(True, 10.0) as bar:
        bar.describe("cell 1")
        with bar.part(4.0):
            with Progress(False, 3.0) as inner:
                inner.describe("lr 0.1")
                inner.done(1.5)
                assert bar.filled == pytest.approx(0.15) and inner.filled == 0.5
                inner.add(3.0)  # 1 was set aside, 2 are new
                assert bar.left == pytest.approx(10.5)
                inner.done(4.5)
            assert bar.left == pytest.approx(6.0)
        with bar.part(6.0), Progress(None, 60.0) as inner:  # who expected 6 did not know better
            inner.done(30.0)
            assert bar.left == pytest.approx(30.0)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and "left: cell 1, lr 0.1" in shown
    assert shares(shown) == sorted(shares(shown))


def test_a_part_without_an_inner_bar_is_done_in_the_end_and_a_known_one_takes_no_time():
    with Progress(False, 3.0) as bar:
        with bar.part(2.0):
            assert bar.filled == 0.0
        assert bar.filled == pytest.approx(2 / 3)
        with bar.part(1.0, known=True):
            pass
        assert bar.filled == 1.0 and bar._before == 1.0


def test_what_ends_early_leaves_nothing_to_be_done_and_what_fails_does_not_look_done(capsys):
    with Progress(True, 4.0) as bar, bar.part(4.0), Progress(True, 4.0) as inner:
        inner.done(1.0)
    assert shares(capsys.readouterr().err)[-1] == 100
    with pytest.raises(KeyboardInterrupt), Progress(True, 4.0) as bar:
        bar.done(1.0)
        raise KeyboardInterrupt
    assert shares(capsys.readouterr().err)[-1] == 25
