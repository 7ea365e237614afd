"""The README and docs/: their Python runs, the table of schemes is that of the classes, links lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import yaml

import smesolve as sme

ROOT = Path(__file__).parents[2]

PAGES = [
    "README.md",
    "docs/derivation.md",
    "docs/extending.md",
    "docs/observables.md",
    "docs/showing_results.md",
    "docs/training.md",
    "docs/convergence.md",
    "docs/modules.md",
]


def blocks(page):
    """The blocks of Python of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.mark.filterwarnings("ignore::smesolve.NotCompiledWarning")  # nothing is compiled here
@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_python_runs(page, tmp_path, monkeypatch, registries):
    """Blocks of a page follow each other, as in a notebook."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)  # its data are random, and some take ten times as many paths
    names = {"sme": sme}
    assert len(blocks(page)) >= 2
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    if page == "docs/extending.md":
        assert names["paths"].shape == (2, 100, 2) and set(names["study"].table.order) == {1, 2}
        assert names["heavy"].law.central_moment(4) == 9
    elif page == "docs/defects.md":
        assert set(names["study"].table.estimator) == {"defects"} and names["study"].table.resolved.any()
        assert "to 2% of the change of the loss up to lr = 0." in names["found"].conclusion()
    elif page == "docs/observables.md":
        assert set(names["table"].observable) == {"size"} and names["study"].table.error.notna().all()
    elif page == "docs/torchsde.md":
        assert names["paths"].shape == (2, 4, 9) and names["sensitivity"].abs().sum() > 0
        assert all(names[name].grad.abs().sum() > 0 for name in ("lr", "keep_prob", "theta0"))
    elif page == "docs/modules.md":
        assert names["problem"].parameter_names[0] == "1.self_attn.in_proj_weight" and names["norms"].shape == (11, 4)
        assert torch.equal(names["resumed"], names["paths"][-1, 0])
    elif page == "docs/convergence.md":
        assert names["study"].fit().declared.tolist() == [0.5, 1.0, 1.5] and 0 < names["distance"] < 0.3
    elif page == "docs/showing_results.md":
        assert names["saved"].settings["lrs"] == [0.2] and names["figure"].axes
    elif page == "docs/training.md":
        assert names["paths"].isfinite().all() and names["equation"].verify().order == 1
    else:
        assert names["equation"].verify().order == 2
    if page == "README.md":
        assert set(names["study"].table.observable) == {"largest_weight", "theta[0]"}
        assert set(yaml.safe_load((tmp_path / "study.yaml").read_text())) >= {"data", "network", "lrs"}
        assert names["noisy"].table.resolved.any()


def test_the_table_of_schemes_is_what_the_classes_declare():
    spec = importlib.util.spec_from_file_location("scheme_table", ROOT / "docs" / "scheme_table.py")
    scheme_table = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scheme_table)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == scheme_table.with_table(readme), "run python docs/scheme_table.py"
    for name in sme.SCHEMES:
        assert f"| `{name}` |" in readme


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_to_files_and_examples_are_named_rightly(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    for name in re.findall(r"`((?:landscape|scaling|derive|digits)_\w+)`", text):
        assert (ROOT / "examples" / f"{name}.yaml").is_file(), name


def test_the_readme_is_short_and_names_every_example():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for path in (ROOT / "examples").glob("*.yaml"):
        assert f"`{path.stem}`" in text, path.stem
