"""The journal gives back what was put into it, and refuses what it could not give back."""

import numpy as np
import pytest

import smesolve as sme
from smesolve.sampling.journal import Journal


@pytest.mark.parametrize("name", ["file", "allow_pickle", "kwds", "a/b", "é\n"])
def test_arrays_may_have_any_name(tmp_path, name):
    arrays = {name: np.arange(3), "other": np.array(["x", "yz"]), "number": np.array(1.5)}
    with Journal(tmp_path / "blocks") as journal:
        journal.put("one", arrays)
    with Journal(tmp_path / "blocks") as journal:
        found = journal.get("one")
    assert found.keys() == arrays.keys() and all(np.array_equal(found[key], arrays[key]) for key in arrays)


def test_what_cannot_be_given_back_is_refused_and_the_journal_stays_usable(tmp_path):
    path = tmp_path / "blocks"
    with Journal(path, {"lr": 0.1}) as journal:
        with pytest.raises(sme.SmesolveError, match="key must be another string, got 'study'"):
            journal.put("study", {"a": np.ones(1)})
        with pytest.raises(
            sme.SmesolveError, match=r"arrays\['a'\] must hold numbers or strings, got an array of object"
        ):
            journal.put("one", {"a": np.array([None])})
        journal.part("A").put("study", {"a": np.ones(1)})
    for use in (lambda: journal.put("two", {"a": np.ones(1)}), lambda: journal.get("two")):
        with pytest.raises(sme.SmesolveError, match="was closed by this program; open the journal again"):
            use()
    with Journal(path, {"lr": 0.1}) as journal:
        assert len(journal) == 1 and "one" not in journal and "study" in journal.part("A")


def test_a_study_with_nan_is_the_same_study(tmp_path):
    for _ in range(2):
        with Journal(tmp_path / "blocks", {"a": float("nan"), "b": [float("nan")]}):
            pass
    with pytest.raises(sme.SmesolveError, match="its a is nan, but 1 is asked for"):
        Journal(tmp_path / "blocks", {"a": 1, "b": [float("nan")]})


def test_a_study_that_json_cannot_write_is_refused(tmp_path):
    ring = []
    ring.append(ring)
    for value in (ring, {1}, b"x", np.int64(1)):
        with pytest.raises(sme.SmesolveError, match="study must hold only what JSON has"):
            Journal(tmp_path / "blocks", {"a": value})
    with pytest.raises(sme.SmesolveError, match="study must be a mapping, got 1; give a dict"):
        Journal(tmp_path / "blocks", 1)
    with pytest.raises(sme.SmesolveError, match=r"source must be a pathlib\.Path"):
        Journal.continued("blocks", tmp_path / "more", {})
