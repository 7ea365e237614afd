"""Tests with a chosen variant of the compiled kernels."""

import pytest

import smesolve as sme
from smesolve.problem.kernels.library import CHOICE, kernels_in_use


def choose_variant(monkeypatch, variant):
    """Compute with this variant, or skip the test where the processor does not have it."""
    monkeypatch.setenv(CHOICE, variant)
    try:
        assert kernels_in_use() == variant
    except sme.SmesolveError:
        pytest.skip("not for this processor")
