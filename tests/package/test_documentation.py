"""The documentation site builds without a warning; changelog and citation fit the version."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import smesolve

ROOT = Path(__file__).parents[2]


MODULES = ("smesolve", "smesolve.symbolic", "smesolve.landscape", "smesolve.experiments", "smesolve.comparison.exact")
"""The larger ones of the modules that users import from."""

ELSEWHERE = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//""")


def test_the_site_builds_without_a_warning_and_can_be_read_from_the_disk(tmp_path):
    """It runs the tutorials, has every page and every public name, and asks for nothing from elsewhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-4000:]

    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    reference = "".join(text for name, text in pages.items() if name.startswith("reference/"))
    for name in MODULES:
        module = importlib.import_module(name)
        names = [public for public in module.__all__ if not isinstance(getattr(module, public), ModuleType)]
        missing = [f"{name}.{public}" for public in names if f'id="{name}.{public}"' not in reference]
        assert missing == (["smesolve.__version__"] if name == "smesolve" else [])

    for path in (ROOT / "docs").glob("*.md"):
        assert f"{path.stem}.html" in pages
    for path in (ROOT / "docs" / "tutorials").glob("*.ipynb"):
        assert f"tutorials/{path.stem}.html" in pages
    assert {"index.html", "examples/index.html", "contributing.html", "changelog.html"} <= pages.keys()
    assert 'href="training.html"' in pages["index.html"] and 'href="examples/index.html"' in pages["index.html"]
    assert 'href="weak_order.yaml"' in pages["examples/index.html"]
    for name, text in pages.items():
        assert not ELSEWHERE.search(text), name

    own, derived = (pages[f"tutorials/{name}.html"] for name in ("own_network", "deriving_an_equation"))
    assert own.count("<img") == 2 and "Order 1 describes the training to 2% of the change of the loss up to" in own
    assert "weak order 2 holds" in derived and "weak order 3 holds" in derived and "<math" in derived
    for text in (own, derived):
        assert r"\(" not in text and "$$" not in text

    index = json.loads((tmp_path / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"] for entry in index["docs"]}
    assert {"torchsde.html", "reference/weak_errors_and_orders.html#smesolve.weak_error"} <= found


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None, "clear all outputs"


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
