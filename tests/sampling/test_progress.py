"""Progress bars that rounding or an interruption catches at a bad moment."""

import io
import sys
import warnings

from tqdm import tqdm

from smesolve.sampling import progress
from smesolve.sampling.progress import Progress


def test_work_that_sums_to_more_than_all_of_it_by_a_rounding_is_no_warning(monkeypatch, capsys):
    monkeypatch.setattr(tqdm, "monitor_interval", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Progress(True, 0.3) as bar:
            bar._bar.mininterval = 0  # every step is shown
            for _ in range(3):
                bar.done(0.1)
        assert bar._bar.total == bar._bar.n == 0.1 + 0.1 + 0.1 > 0.3
    assert "100%" in capsys.readouterr().err


def test_a_bar_that_was_interrupted_while_it_was_made_says_nothing(capsys):
    """As where SIGTERM comes after the first line: its destructor closes what its constructor has not finished."""
    bar = progress._Bar(total=1, disable=False)
    del bar.last_print_t, bar.start_t
    capsys.readouterr()
    bar.close()
    assert capsys.readouterr().err == ""


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
    assert "lr 0.1:" in shown and not shown.split("\r")[-1].strip()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Progress(None, 1) as bar:
        bar.done(1)
    assert sys.stderr.getvalue() == ""
