"""Cells and their store: what is put is what is got, to the bit; another study's results are refused."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cell_store import CellStore, decoded, encoded
from smesolve.experiments.shared.cells import Cell, run_cells
from smesolve.sampling.journal import Journal, JournalError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@given(VALUES)
def test_values_come_back_as_they_were(value):
    assert repr(decoded(encoded(value))) == repr(value)


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, np.nan, -np.inf, -0.0, 5e-324]),
        np.arange(6).reshape(2, 3),
        np.array([[True], [False]]),
        np.zeros((0, 3)),
        np.float32([1 / 3, 1e-45]),
        np.array(1.5),
    ],
)
def test_arrays_come_back_bit_for_bit(array):
    again = decoded(encoded(array))
    assert again.dtype == array.dtype and again.shape == array.shape and again.tobytes() == array.tobytes()


def test_tables_come_back_with_their_types():
    table = pd.DataFrame(
        {
            "a": [1, 2],
            "b": [0.1, np.nan],
            "c": ["x", ""],
            "d": [True, None],
            "e": [True, False],
            "f": pd.Series([1.5, "y"], dtype=object),
        }
    )
    pd.testing.assert_frame_equal(decoded(encoded(table)), table, check_exact=True)
    empty = pd.DataFrame({"a": pd.Series([], dtype=float)})
    pd.testing.assert_frame_equal(decoded(encoded(empty)), empty)


@pytest.mark.parametrize("value", [{1: 2}, {"__array__": 0}, object(), {1, 2}, [1j]])
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises(TypeError, match="the result of a cell must be made of"):
        encoded(value)


def test_cells_run_once_and_are_found_again(tmp_path):
    runs = []

    def cell(number):
        def run():
            runs.append(number)
            return {"number": number, "third": np.float64(1 / 3)}

        return Cell(f"cell {number}", run)

    cells = [cell(number) for number in range(3)]
    with Journal(tmp_path / "journal", {"seed": 0}) as journal:
        first = run_cells(cells[:2], CellStore(journal))
    with Journal(tmp_path / "journal", {"seed": 0}) as journal:
        again = run_cells(cells, CellStore(journal))
    assert runs == [0, 1, 2] and again[:2] == first == [{"number": k, "third": 1 / 3} for k in range(2)]
    with pytest.raises(JournalError, match="holds another study"):
        Journal(tmp_path / "journal", {"seed": 1})
    assert run_cells(cells) == again


def test_cells_of_one_key_are_refused(tmp_path):
    """The second one would be given the result of the first from the disk."""
    cells = [Cell("size 5", lambda: 1), Cell("size 5", lambda: 2)]
    with (
        Journal(tmp_path / "journal", {}) as journal,
        pytest.raises(SmesolveError, match="'size 5' stands for several"),
    ):
        run_cells(cells, CellStore(journal))


def test_a_cell_that_keeps_its_own_blocks_is_not_stored(tmp_path):
    with Journal(tmp_path / "journal", {}) as journal:
        marker = object()
        assert run_cells([Cell("own", lambda: marker, kept=False)], CellStore(journal)) == [marker]
        assert len(journal) == 0
