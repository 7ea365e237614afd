"""A small configuration and a place for results."""

import pytest
from tiny_config import write_config


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"
