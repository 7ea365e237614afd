"""No silent minutes: what a command computes, it computes while its progress bar is open and not yet full."""

import functools
import re

import pytest
import yaml

from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.problem import Problem
from smesolve.sampling import progress
from smesolve.study.command_line import main

DATA = {"data": {"name": "random", "samples": 8, "in_features": 2}, "threads": 1}
TINY = DATA | {"network": {"width": 4, "seed": 1}}
DEEP = DATA | {"training": {"dropout": "every"}, "network": {"width": [2, 2]}}
STUDIES = {
    "compare": TINY
    | {"horizon": 2.0, "lrs": [0.2], "paths": 256, "rel_tol": 0.001, "max_paths": 8192, "observables": ["loss"]},
    "compare, defects": DEEP | {"horizon": 0.4, "lrs": [0.2], "paths": 16, "observables": ["loss"]},
    "weak-error": TINY | {"horizon": 2.0, "lrs": [0.4, 0.2, 0.1], "orders": [1], "paths": 256},
    "validity": TINY | {"horizon": 2.0, "tolerance": 0.02, "rel_tol": 0.3, "max_paths": 256},
    "scaling, kappa": TINY | {"study": "kappa", "lrs": [0.1], "kappas": [1, 2], "paths": 64},
    "scaling, shuffle": TINY | {"study": "shuffle", "paths": 64},
    "landscape": TINY | {"sections": ["noises"], "steps": 20, "runs": 2, "lr": 0.05, "noises": {"batch_size": 4}},
}
"""By command, and what else tells them apart."""


class Work:
    """Gradients, by where the progress bar was: not open, open, or full."""

    def __init__(self):
        self.inside = self.outside = 0

    def count(self, gradients):
        bar = progress._OPEN.get()
        while bar is not None and bar._outer is not None:
            bar = bar._outer
        if bar is not None and bar.filled < 1:
            self.inside += gradients
        else:
            self.outside += gradients


def subclasses(kind):
    """The classes of problems that are loaded, those of the commands among them."""
    assert issubclass(DropoutProblem, Problem) and issubclass(ModuleProblem, Problem)
    return {kind}.union(*(subclasses(below) for below in kind.__subclasses__()))


@pytest.fixture
def work(monkeypatch):
    """Count every evaluation of a problem at a point: all gradients come from there."""
    counted = Work()

    def counts(method, each):
        @functools.wraps(method)
        def evaluate(self, theta, *rest, **more):
            counted.count(each * theta.numel() // theta.shape[-1])
            return method(self, theta, *rest, **more)

        return evaluate

    for kind in subclasses(Problem):
        for name, each in (("linearize", 1), ("small_noise_rk4", 5)):
            if name in vars(kind):
                monkeypatch.setattr(kind, name, counts(vars(kind)[name], each))
    return counted


QUICK = ("compare", "scaling, kappa", "validity")


@pytest.mark.parametrize(
    "study", [study if study in QUICK else pytest.param(study, marks=pytest.mark.slow) for study in STUDIES]
)
def test_all_work_is_inside_of_the_progress_bar(study, work, tmp_path, capsys):
    config, out = tmp_path / "study.yaml", tmp_path / "out"
    config.write_text(yaml.safe_dump(STUDIES[study]), encoding="utf-8")
    assert main([study.partition(",")[0], str(config), "--out", str(out)]) == 0
    assert work.inside > 100
    assert work.outside < 0.02 * work.inside, "checks of the settings at the start"
    said = capsys.readouterr().err
    shown = [int(found) for found in re.findall(r"(\d+)% \|", said)]
    assert shown == sorted(shown) and shown[-1] == 100
    assert study != "compare" or "more paths for rel_tol" in said
