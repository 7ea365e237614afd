"""Fixtures and settings that all tests share; the modules that tests import from one another are in support/."""

import pytest
from hypothesis import HealthCheck, settings

import smesolve as sme

settings.register_profile(
    "default",
    derandomize=True,  # a suite that passed passes again; tests that look further, marked slow, say so
    database=None,
    deadline=None,  # no test depends on the load of the machine
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("default")


@pytest.fixture
def registries():
    """Take out of the registries again what a test adds to them."""
    all_registries = (sme.SCHEMES, sme.OBSERVABLES, sme.ACTIVATIONS, sme.LOSSES)
    before = [dict(registry) for registry in all_registries]
    yield
    for registry, entries in zip(all_registries, before, strict=True):
        registry.clear()
        registry.update(entries)
