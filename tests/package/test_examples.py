"""The examples run in a small size, each as a configuration and as a script; the index says what the headers say."""

import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import smesolve.study
from smesolve.experiments.shared.figures import save_figure
from smesolve.study.command_line import main

EXAMPLES = Path(__file__).parents[2] / "examples"

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
SCRIPTS = [name for name in NAMES if (EXAMPLES / f"{name}.py").exists()]

WEAK = "--lrs [0.05,0.025] --horizon 0.1 --paths 64 --workers 1 --threads 1"
EFFORT = "--paths 32 --data.samples 4 --workers 1 --threads 1"
SCALING = f"{EFFORT} --network.width 2"
LANDSCAPE = "--data.samples 12 --network.width 4 --steps 8 --runs 2 --threads 1"

# Options of the command and arguments of the script that make each example small.
SMALL = {
    "digits": (f"{WEAK} --data.samples 12 --network.width 2 --control none", {"samples": 12, "width": 4, "paths": 32}),
    "digits_certificate": (
        f"{WEAK} --data.samples 12 --network.width 2 --max_paths 64 --control none",
        {"samples": 12, "width": 2, "lrs": (0.05, 0.025), "horizon": 0.1, "rel_tol": 0.9},
    ),
    "digits_deep": (
        f"{WEAK} --data.samples 8 --network.width [3,3] --dt 0.0125",
        {"samples": 8, "lrs": (0.2, 0.1), "horizon": 2.0, "dt": 0.05, "paths": 16},
    ),
    "weak_order": (f"{WEAK} --network.width 22 --max_paths 64", {"lrs": (0.2, 0.1), "horizon": 0.4, "rel_tol": 0.5}),
    "scaling_acceleration": (f"{SCALING} --factors [40,200]", {"factors": (40, 200), "paths": 32}),
    "scaling_horizon": (
        f"{SCALING} --times [1.0,2.0] --multiples [0.1,0.4]",
        {"times": (1.0, 2.0), "multiples": (0.1, 0.4), "paths": 32},
    ),
    "scaling_kappa": (
        f"{SCALING} --kappas [1,2] --horizon 0.4 --max_paths 64",
        {"kappas": (1, 2), "horizon": 0.4, "rel_tol": 0.5},
    ),
    "scaling_map": (
        f"{SCALING} --keep_probs [0.8,0.5] --multiples [0.2,0.4]",
        {"keep_probs": (0.8, 0.5), "multiples": (0.2, 0.4), "paths": 32},
    ),
    "scaling_schedule": (
        f"{SCALING} --lrs [0.25,0.125] --horizon 0.5 --schedules [cosine] --max_paths 64",
        {"lrs": (0.25, 0.125), "horizon": 0.5, "names": ("cosine",), "rel_tol": 0.9},
    ),
    "scaling_width": (f"{EFFORT} --widths [2,4] --horizon 0.5", {"widths": (2, 4), "paths": 32}),
    "landscape_alignment": (
        f"{LANDSCAPE} --alignment.checkpoints 3 --alignment.probes 12 --alignment.eigenpairs 2",
        {"samples": 12, "steps": 8, "runs": 2, "probes": 12, "eigenpairs": 2},
    ),
    "landscape_condensation": (LANDSCAPE, {"samples": 12, "steps": 8, "runs": 2}),
    "landscape_condensation_1d": (LANDSCAPE, {"steps": 8, "runs": 2}),
    "landscape_flatness": (
        f"{LANDSCAPE} --flatness.directions 2 --flatness.probes 12 --noises.batch_size 6",
        {"samples": 60, "steps": 8, "runs": 2, "directions": 2, "probes": 12},
    ),
    "landscape_geometry": (
        f"{LANDSCAPE} --information_geometry.draws 8 --information_geometry.checkpoints 2 "
        "--information_geometry.directions 1 --information_geometry.probes 12",
        {"samples": 60, "steps": 8, "runs": 2, "draws": 8, "probes": 12},
    ),
    "landscape_noises": (
        f"{LANDSCAPE} --noises.batch_size 6 --noises.checkpoints 2 --noises.draws 8 --noises.probes 12",
        {"samples": 60, "steps": 8, "runs": 2, "draws": 8, "probes": 12},
    ),
    "landscape_regularisation": (
        "--data.samples 12 --network.width 4 --threads 1 --implicit_regularisation.lrs [0.04,0.02] "
        "--implicit_regularisation.paths 64 --implicit_regularisation.max_paths 64",
        {"samples": 12, "lrs": (0.04, 0.02), "max_paths": 256},
    ),
    "landscape_variance": (
        f"{LANDSCAPE} --variance_principle.draws 30 --variance_principle.directions 4",
        {"samples": 12, "steps": 8, "runs": 2, "draws": 30, "directions": 4},
    ),
    "derive_dropout": ("--width 1", {"paths": 50}),
    "derive_momentum": ("", {"paths": 50}),
    "derive_own": ("", {"paths": 50}),
}


# Those that take longer than the rest.
SLOW = {
    "configuration": {"digits_deep", "landscape_regularisation", "scaling_map", "scaling_schedule"},
    "script": {
        "digits", "digits_certificate", "digits_deep", "scaling_map", "scaling_schedule", "scaling_width", "weak_order",
    },
}  # fmt: skip


def cases(kind):
    """Names of the examples, those that take long marked so."""
    names = NAMES if kind == "configuration" else SCRIPTS
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW[kind] else []) for name in names]


def load(name):
    """The module of a file in examples/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_size_for_every_example():
    assert set(SMALL) == set(NAMES) and len(NAMES) >= 21


@pytest.mark.parametrize("name", cases("configuration"))
def test_the_configuration_runs_by_the_command_of_its_header(name, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(EXAMPLES)
    program, *arguments = load("make_index").header(EXAMPLES / f"{name}.yaml").command.split()
    assert program == "smesolve" and arguments[1:] == [f"examples/{name}.yaml", "--out", f"results/{name}"]
    assert main([*arguments, *SMALL[name][0].split()]) == 0
    assert (tmp_path / "results" / name / "report.html").stat().st_size > 5000


@pytest.mark.parametrize("name", cases("script"))
def test_the_script_runs(name, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    save_figure(load(name).main(**SMALL[name][1]), tmp_path, name)
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


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


# --- a script and its configuration are one study ---------------------------------------------------------------------

# Functions that measure, by example; the last one ends the study. What they are called with is the study.
CALLED = {
    "digits": ["weak_error"],
    "digits_certificate": ["weak_error"],
    "digits_deep": ["weak_error"],
    "weak_order": ["weak_error"],
    "scaling_acceleration": ["acceleration"],
    "scaling_horizon": ["long_horizon"],
    "scaling_kappa": ["linear_scaling_rule"],
    "scaling_map": ["error_map"],
    "scaling_schedule": ["schedules"],
    "scaling_width": ["width_sweep"],
    "landscape_alignment": ["train"],
    "derive_dropout": ["modified_equation"],
    "derive_momentum": ["modified_equation"],
    "derive_own": ["modified_equation"],
}

# How much is shown, how the work is shared out, and what is made of other arguments.
NOT_THE_STUDY = {"progress", "workers", "journal", "max_memory", "keep", "over_runs"}


class Reached(Exception):
    """The last of the functions that measure was called."""


ONE = SimpleNamespace(value=1.0)
NOTHING = SimpleNamespace(
    table=pd.DataFrame(), fits="", trace=ONE, dimension=ONE, curvature=ONE, top_eigenvalue=1.0
)  # fmt: skip


def called(run, names, monkeypatch):
    """What the functions are called with, defaults included, in the order of their calls; nothing is measured."""
    calls = []

    def recorder(name, function):
        def record(*args, **kwargs):
            bound = inspect.signature(function).bind(*args, **kwargs)
            bound.apply_defaults()
            calls.append((name, {} if name in NOT_THE_STUDY else dict(bound.arguments)))
            if name == names[-1]:
                raise Reached
            if name == "train":
                return args[1].expand(len(args[2]), *args[1].shape)
            return NOTHING

        return record

    for part in pkgutil.iter_modules(smesolve.study.__path__, "smesolve.study."):
        importlib.import_module(part.name)  # what is imported late would keep a recorder for good
    for public in smesolve.__all__:  # and so would a public name on its first use
        getattr(smesolve, public)
    with monkeypatch.context() as patch:
        for module in [module for name, module in sys.modules.items() if name.startswith(("smesolve", "examples_"))]:
            for name, value in list(vars(module).items()):
                if name in names and inspect.isfunction(value):
                    patch.setattr(module, name, recorder(name, value))
        with pytest.raises(Reached):
            run()
    return calls


def differences(first, second, where=""):
    """Where two arguments are not the same, through everything that they are made of."""
    if isinstance(first, (torch.Tensor, np.ndarray)):
        same = first.shape == second.shape and np.allclose(first, second, rtol=1e-3, atol=1e-3)
        return [] if same else [f"{where}: {first} and {second}"]
    if isinstance(first, Mapping):
        keys = [key for key in {**first, **second} if key not in NOT_THE_STUDY]
        return [line for key in keys for line in differences(first.get(key), second.get(key), f"{where}.{key}")]
    if isinstance(first, Sequence) and not isinstance(first, str):
        if len(first) != len(second):
            return [f"{where}: {first} and {second}"]
        return [
            line
            for k, pair in enumerate(zip(first, second, strict=True))
            for line in differences(*pair, f"{where}[{k}]")
        ]
    if isinstance(first, torch.nn.Module):  # whose parameters a start replaces
        first, second = ([type(one), str(one), _public(one)] for one in (first, second))
        return differences(first, second, where)
    if type(first).__module__.startswith("smesolve") and type(first) is type(second):
        return differences([type(first), vars(first)], [type(second), vars(second)], where)
    return [] if first == second or first is second else [f"{where}: {first!r} and {second!r}"]


def _public(module):
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def both(name, monkeypatch, **changes):
    """Calls by the configuration, and by the script with some of its arguments changed."""
    command = load("make_index").header(EXAMPLES / f"{name}.yaml").command.split()[1]
    script = load(name)
    monkeypatch.setitem(sys.modules, script.__name__, script)
    arguments = [command, str(EXAMPLES / f"{name}.yaml"), "--out", "results"]
    return [called(run, CALLED[name], monkeypatch) for run in (lambda: main(arguments), lambda: script.main(**changes))]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_and_the_configuration_are_one_study(name, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    configured, written = both(name, monkeypatch)
    assert {called for called, _ in configured} == set(CALLED[name])
    assert not differences(configured, written)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("weak_order", {"horizon": 1.0}),
        ("digits", {"width": 16}),
        ("scaling_kappa", {"rel_tol": 0.2}),
        ("landscape_alignment", {"steps": 2000}),
    ],
)
def test_a_script_that_drifts_apart_from_its_configuration_is_seen(name, changes, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    assert differences(*both(name, monkeypatch, **changes))
