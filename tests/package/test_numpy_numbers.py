"""Numbers of numpy, which public functions receive as numbers of Python."""

import numpy as np
import pytest

import smesolve as sme
from smesolve.entry_point import entry_point
from smesolve.rounded_number import RoundedNumber
from smesolve.validation import check_integer, check_number


@entry_point
def given(first, *, second=None):
    return first, second


@pytest.mark.parametrize(
    ("number", "value", "kind"),
    [
        (np.int8(100), 100, int), (np.uint64(2**63), 2**63, int), (np.float64(0.1), 0.1, float),
        (np.float32(0.1), 0.1, RoundedNumber), (np.float16(0.1), 0.1, RoundedNumber),
        (np.bool_(True), True, np.bool_), (np.timedelta64(2, "s"), np.timedelta64(2, "s"), np.timedelta64),
        ("text", "text", str), (None, None, type(None)),
    ],
)  # fmt: skip
def test_a_public_function_receives_numbers_of_python(number, value, kind):
    for found in (*given(number, second=number),):
        assert found == value and type(found) is kind


@pytest.mark.parametrize("value", [np.timedelta64(2), np.timedelta64(2, "s"), np.timedelta64("NaT"), np.bool_(True)])
@pytest.mark.parametrize("check", [check_integer, check_number])
def test_durations_and_truths_are_no_numbers(check, value):
    with pytest.raises(sme.SmesolveError, match="paths must be a"):
        check("paths", value)
