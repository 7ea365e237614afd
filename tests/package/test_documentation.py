"""The API reference builds without a warning and holds every public name; changelog and citation fit the version."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import smesolve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    pytest.importorskip("pdoc")
    folder = tmp_path_factory.mktemp("reference")
    command = [sys.executable, "-W", "error", ROOT / "docs" / "build.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr[-2000:]
    return folder


def test_every_public_name_is_in_the_reference(reference):
    for page in reference.rglob("*.html"):
        name = ".".join(page.relative_to(reference).with_suffix("").parts)
        if name == "index":
            continue
        text = page.read_text(encoding="utf-8")
        module = importlib.import_module(name)
        for public in module.__all__:
            if isinstance(getattr(module, public), ModuleType):  # which has a page of its own
                assert (page.with_suffix("") / f"{public}.html").is_file(), f"{name}.{public}"
            else:
                assert f'id="{public}"' in text, f"{name}.{public}"
    for name in ("smesolve", "smesolve/symbolic", "smesolve/landscape", "smesolve/comparison/exact"):
        assert (reference / f"{name}.html").is_file()


def test_the_changelog_begins_with_this_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text, flags=re.MULTILINE)[0] == smesolve.__version__


def test_the_citation_is_that_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == smesolve.__version__ and citation["license"] == "Apache-2.0"
    assert citation["message"] and citation["title"] == "smesolve" and citation["authors"]
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year"} <= reference.keys()
