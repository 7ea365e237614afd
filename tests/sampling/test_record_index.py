"""The index of a journal: a dictionary whose memory does not grow with what is in it."""

import errno
import sqlite3

import numpy as np
import pytest

from smesolve.sampling.journal import Journal
from smesolve.sampling.record_file import RecordIndex


def test_it_answers_as_a_dictionary_does():
    index, wanted, rng = RecordIndex(), {}, np.random.default_rng(0)
    for start in range(400):
        key = f"lr 0.1, é\0, block {rng.integers(150)}"
        index[key] = wanted[key] = start, int(rng.integers(2**40))
        assert len(index) == len(wanted)
    assert {key: index[key] for key in wanted} == wanted
    assert list(index) == sorted(wanted, key=wanted.__getitem__)
    assert "block 1" not in index
    with pytest.raises(KeyError):
        index["block 1"]
    index.close()


def test_its_memory_does_not_grow_with_the_records():
    """120,000 keys, which take more than 25 MB in a dictionary."""
    resource = pytest.importorskip("resource")

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    index = RecordIndex()
    for block in range(20_000):
        index[f"lr 0.1, order 2, dt 0.1, pairs, block {block}"] = block, 4000
    before = peak()
    for block in range(20_000, 120_000):
        index[f"lr 0.1, order 2, dt 0.1, pairs, block {block}"] = block, 4000
    grown = peak() - before
    assert len(index) == 120_000 and index["lr 0.1, order 2, dt 0.1, pairs, block 119999"] == (119_999, 4000)
    assert grown < 8 * 1024
    index.close()


def test_no_room_for_it_is_an_error_of_the_system_and_the_journal_stays_usable(tmp_path):
    class Full:
        def execute(self, *_):
            raise sqlite3.OperationalError("database or disk is full")

    journal = Journal(tmp_path / "blocks", {})
    journal.put("one", {"a": np.ones(5)})
    places = journal._records._places._database
    journal._records._places._database = Full()
    with pytest.raises(OSError, match="temporary files cannot be written to") as caught:
        journal.put("two", {"a": np.ones(5)})
    assert caught.value.errno == errno.ENOSPC
    journal._records._places._database = places
    journal.put("three", {"a": np.full(5, 3.0)})
    journal.close()
    with Journal(tmp_path / "blocks", {}) as journal:
        assert len(journal) == 2 and "two" not in journal and journal.get("three")["a"][0] == 3
