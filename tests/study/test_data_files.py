"""Data from files: every number is the one that stands there, or the file is answered by one sentence."""

import io
import os
import struct
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.datasets import load_data, training_and_test
from smesolve.experiments.shared.problems import build_problem
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings, TrainingSettings

X = np.linspace(-1, 1, 6)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_csv(content, target=None, encoding="utf-8"):
    with open("data.csv", "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode(encoding))
    return [part.tolist() for part in load_data(DataSettings("data.csv", target=target))]


def refused(read, words):
    with pytest.raises(ValueError) as error:
        read()
    sentence = str(error.value)
    assert (
        words in sentence and "\n" not in sentence and sentence.endswith(".") and isinstance(error.value, SmesolveError)
    )


# --- csv ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("x1,x2,y\n1,.5,-2e-3\n3.,4,+5\n", "utf-8"),
        ("x1;x2;y\r\n1;0.5;-0.002\r\n3;4;5", "utf-8-sig"),
        ("x1\tx2\ty\n1\t0.5\t-0.002\n3\t4\t5\n", "utf-16"),
        ('"x1", "x2" ,"y"\n"1", 0.5,-0.002\n\n3,4,5\n\n', "utf-8"),
        ("x1,x2,y\r1,0.5,-0.002\r3,4,5\r", "utf-8"),
    ],
)
def test_a_table_is_read_whatever_program_wrote_it(content, encoding):
    assert read_csv(content, None, encoding) == [[[1, 0.5], [3, 4]], [[-0.002], [5]]]
    assert read_csv(content, "y", encoding) == [[[1, 0.5], [3, 4]], [[-0.002], [5]]]


def test_columns_that_pandas_numbers_are_names():
    pd.DataFrame([[1, 2, 3], [4, 5, 6]]).to_csv("data.csv", index=False)
    x, y = load_data(DataSettings("data.csv", target="1"))
    assert x.tolist() == [[1, 3], [4, 6]] and y.tolist() == [[2], [5]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (",x,y\n0,1,2\n", "column 1 of data.name='data.csv' has no name"),
        ("x,,y\n0,1,2\n", "column 2 of data.name='data.csv' has no name"),
        ("Unnamed: 0,x,y\n0,1,2\n", "column 1 of data.name='data.csv' has no name"),
        ("x,y\nr1,1,2\nr2,3,4\n", "rows that do not fit its header"),
        ("x,y\n1,2,\n3,4,\n", "rows that do not fit its header"),
        ("x,y\n1,2\n3,4,5\n", "rows that do not fit its header"),
        ("x,y\n1,2\n3\n", "column 'y' of data.name='data.csv' in row 2 under the header holds no number ('')"),
        ("x,x,y\n0,1,2\n", "2 columns with the name 'x'"),
        ("x,y\n,2\n", "holds no number ('')"),
        ("x,y\nNA,2\n", "holds no number ('NA')"),
        ("x,y\n1,nan\n", "holds no number ('nan')"),
        ('x,y\n"1,000",2\n', "is '1,000'; write decimal numbers"),
        ("x;y\n1,5;2\n", "is '1,5'; write decimal numbers"),
        ("x,y\n1_000,2\n", "is '1_000'"),
        ("x,y\n1 000,2\n", "is '1 000'"),
        ("x,y\n0x1F,2\n", "is '0x1F'"),
        ("x,y\n1+2j,2\n", "is '1+2j'"),
        ("x,y\nTrue,2\n", "is 'True'"),
        ("x,y\n2020-01-01,2\n", "is '2020-01-01'"),
        ("x,y\n١,2\n", "is '١'"),
        ("x,y\n1,12345678901234567890\n", "holds 12345678901234567890, which float64 rounds"),
        ("x,y\n1,1e400\n", "NaN or infinite"),
        ("x,y\n1,1e308\n", "whose squares overflow"),
        ("x,y\n1,2\n# note\n", "is '# note'"),
        ("1,2\n3,4\n", "begins with the numbers 1, 2"),
        ("x\n1\n", "no column that begins with 'y'"),
        ("x,y,z\n1,2,3\n", "the column 'z', which begins with neither x nor y"),
        ("x,y\n", "no sample"),
        ("x,y", "no sample"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ('x,y\n"1,2\n', "rows that do not fit its header"),
        ("xé,y\n1,2\n".encode("latin-1"), "not UTF-8 text"),
        ("x,y\n1,2\n".encode("utf-16-le"), "is not text"),
        (b"\x00\x01\x02\xff", "UTF-8"),
    ],
)
def test_a_table_that_is_not_one_of_numbers_is_refused(content, words):
    refused(lambda: read_csv(content), words)


def test_what_the_target_is_not_is_refused():
    refused(lambda: read_csv("a,b\n1,2\n", "c"), "data.target='c' is no column")
    refused(lambda: read_csv("a\n1\n", "a"), "and no inputs")
    refused(lambda: read_csv(",width,label\n0,1,2\n", "label"), "column 1 of data.name='data.csv' has no name")
    refused(lambda: read_csv("id,a,b\nfirst,1,2\n", "b"), "column 'id' of data.name='data.csv' in row 1")


# --- npz ---------------------------------------------------------------------------------------------------------


def read_npz(**arrays):
    np.savez("data.npz", **arrays)
    return load_data(DataSettings("data.npz"))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", ">f8", "longdouble"])
@pytest.mark.parametrize("column", [False, True])
def test_vectors_are_columns_and_all_real_numbers_are_read(kind, column):
    x = np.array([0.5, -1.25, 2.0]).astype(kind)
    read = read_npz(x=x[:, None] if column else x, y=np.asfortranarray(x[:, None] > 0))
    assert [part.tolist() for part in read] == [[[0.5], [-1.25], [2]], [[1], [0], [1]]]
    assert all(part.dtype == np.float64 for part in read)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X[0], "must have shape (samples,) or (samples, columns), got ()"),
        (X.reshape(1, 2, 3), "got (1, 2, 3)"),
        (X[:0], "holds no sample"),
        (X.astype(object), "must hold real numbers, got object"),
        (X * 1j, "must hold real numbers, got complex128"),
        (np.zeros(6, dtype=[("a", float)]), "must hold real numbers"),
        (np.zeros(6, dtype=[("é", float)]), "must hold real numbers"),
        (X.astype(str), "must hold real numbers"),
        (X.astype(bytes), "must hold real numbers"),
        (np.arange(6).astype("datetime64[s]"), "must hold real numbers, got datetime64[s]"),
        (np.full(6, 2**63, dtype="u8"), "integers up to 9.22337e+18"),
        (X * 1e308, "whose squares overflow"),
        (X * np.nan, "NaN or infinite"),
        (X[:5], "5 rows of x and 6 of y"),
    ],
)
def test_an_array_that_is_no_table_of_real_numbers_is_refused(x, words):
    y = X[:0] if len(np.atleast_1d(x)) == 0 else X
    refused(lambda: read_npz(x=x, y=y if x.shape != (1, 2, 3) else X), words)


def test_arrays_are_named_x_and_y():
    refused(lambda: read_npz(X=X, y=X), "has no array 'x'")


class Witness:
    def __reduce__(self):
        return os.mkdir, ("witness",)


def test_nothing_is_unpickled():
    refused(lambda: read_npz(x=np.array([Witness()] * 6), y=X), "must hold real numbers, got object")
    with open("data.npz", "wb") as file:
        np.save(file, np.array([Witness()]), allow_pickle=True)
    refused(lambda: load_data(DataSettings("data.npz")), "cannot be read as numbers")
    assert not os.path.exists("witness")


def written(header_shape, content=b""):
    """An archive whose x has a header of this shape."""
    x = io.BytesIO()
    np.lib.format.write_array_header_1_0(x, {"shape": header_shape, "fortran_order": False, "descr": "<f8"})
    y = io.BytesIO()
    np.save(y, X)
    with zipfile.ZipFile("data.npz", "w") as archive:
        archive.writestr("x.npy", x.getvalue() + content)
        archive.writestr("y.npy", y.getvalue())


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2**51,), "but this machine has"),
        ((2**31, 2**31), "but this machine has"),
        ((7,), "says it has shape (7,) and holds 48 bytes"),
        ((5,), "says it has shape (5,) and holds 48 bytes"),
        ((-6,), "says it has shape (-6,) and holds 48 bytes"),
        ((-2, -3), "cannot be read as numbers"),
    ],
)
def test_a_header_is_not_believed(shape, words):
    written(shape, X.tobytes())
    refused(lambda: load_data(DataSettings("data.npz")), words)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + b"\0" * 18, b"x,y\n1,2\n"])
def test_a_file_that_is_no_archive_is_refused(content):
    with open("data.npz", "wb") as file:
        file.write(content)
    refused(lambda: load_data(DataSettings("data.npz")), "data.name='data.npz'")


def archive():
    content = io.BytesIO()
    np.savez_compressed(content, x=X.reshape(6, 1), y=X)
    return content.getvalue()


ARCHIVE = archive()
FLAGS = 6
"""Where the general flags of a local header are; the first one says that its file is encrypted."""


@settings(max_examples=200, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, len(ARCHIVE) - 1), st.integers(0, 255)), max_size=3), st.integers(0, 60))
@example([(FLAGS, 1)], 0)
@example([], len(ARCHIVE) // 2)
def test_a_damaged_archive_is_read_or_refused(changes, missing):
    content = bytearray(ARCHIVE[: len(ARCHIVE) - missing])
    for position, byte in changes:
        content[min(position, len(content) - 1)] = byte
    with open("data.npz", "wb") as file:
        file.write(content)
    try:
        x, _ = load_data(DataSettings("data.npz"))
    except ValueError as error:
        assert isinstance(error, SmesolveError) and "\n" not in str(error)
    else:
        assert x.shape == (6, 1)


def test_an_encrypted_archive_is_refused():
    content = bytearray(ARCHIVE)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = content.find(mark)
        while position >= 0:
            struct.pack_into("<H", content, position + offset, 1)
            position = content.find(mark, position + 1)
    with open("data.npz", "wb") as file:
        file.write(content)
    refused(lambda: load_data(DataSettings("data.npz")), "encrypted")


def test_a_share_of_the_samples_is_held_out_and_classes_are_numbered_before():
    labels = np.array([[7.0], [3.0]] * 4 + [[9.0], [7.0]])
    x = np.arange(20.0).reshape(10, 2)
    kept, held_out = training_and_test(DataSettings(test=0.3), 10)
    assert len(held_out) == 3 and sorted([*kept, *held_out]) == list(range(10))
    training, network = TrainingSettings(loss="cross_entropy"), NetworkSettings(width=2)
    problem = build_problem(x, labels, network, training, 0.8, held_out=held_out)
    assert problem.test.x.tolist() == x[held_out].tolist() and problem.x.tolist() == x[kept].tolist()
    assert problem.test.y.tolist() == [[3, 7, 9].index(label) for label in labels[held_out, 0]]
    assert problem.test.samples == 3 and problem.samples == 7


@pytest.mark.parametrize(("share", "words"), [(0.01, "holds out 0 of 10 samples"), (0.99, "holds out 10 of 10")])
def test_both_parts_have_a_sample(share, words):
    with pytest.raises(SmesolveError, match=words):
        training_and_test(DataSettings(test=share), 10)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, True])
def test_a_share_lies_between_0_and_1(share):
    with pytest.raises(SmesolveError, match=r"data\.test must"):
        DataSettings(test=share)
