"""A repeated value in a list would be measured twice, or silently once: it is refused."""

import pytest
from problems import make_problem

from smesolve import experiments
from smesolve.errors import SmesolveError
from smesolve.experiments.reproduce.barriers import BarriersSettings
from smesolve.experiments.reproduce.penalties import PenaltiesSettings
from smesolve.experiments.scaling.horizon import HorizonSettings, long_horizon
from smesolve.experiments.scaling.map import MapSettings, error_map
from smesolve.experiments.scaling.rule import RuleSettings
from smesolve.experiments.scaling.schedule import ScheduleSettings, schedules
from smesolve.experiments.scaling.small_keep_prob import SmallKeepProb, SmallKeepProbSettings, small_keep_prob
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings


@pytest.mark.parametrize(
    ("settings", "key", "values"),
    [
        (MapSettings, "keep_probs", [0.8, 0.3, 0.8]),
        (SmallKeepProbSettings, "keep_probs", [0.8, 0.8]),
        (SmallKeepProbSettings, "probabilities", [0.5, 0.50]),
        (HorizonSettings, "multiples", [0.1, 0.1]),
        (ScheduleSettings, "schedules", ["step", "step"]),
        (ScheduleSettings, "lrs", [0.1, 0.1]),
        (BarriersSettings, "keep_probs", [0.5, 0.5]),
        (PenaltiesSettings, "trainings", ["dropout", "dropout"]),
        (RuleSettings, "keep_probs", [0.5, 0.5]),
    ],
)
def test_a_repeated_value_is_refused(settings, key, values):
    with pytest.raises(SmesolveError, match=f"^{key} holds a value twice: .*; leave one of them out.$"):
        settings(**{key: values})


PROBLEM = make_problem()
START = PROBLEM.initial()
TWO = START.expand(2, -1)


@pytest.mark.parametrize(
    ("called", "key"),
    [
        (lambda: experiments.alignment_along(PROBLEM, TWO[:, None], [5, 5]), "steps"),
        (lambda: experiments.alignment_along(PROBLEM, TWO[None], [5], ["full batch"] * 2), "covariances"),
        (lambda: experiments.flatness(PROBLEM, {"SGD": TWO}, distances=[0.1, 0.1]), "distances"),
        (lambda: experiments.flatness(PROBLEM, {"SGD": TWO}, alphas=[0, 0.0]), "alphas"),
        (lambda: experiments.condensation(PROBLEM, TWO, 0.1, [1], ["dropout"] * 2), "trainings"),
        (lambda: experiments.variance_principle(PROBLEM, TWO, 0.1, factors=[2.0, 2.0]), "factors"),
        (lambda: error_map(PROBLEM, START, [0.8, 0.8], [0.1]), "keep_probs"),
        (lambda: long_horizon(PROBLEM, START, 0.1, [0.1], [0.1, 0.1]), "lrs"),
        (lambda: schedules(PROBLEM, START, [0.1, 0.05], 0.2, ["step", "step"]), "names"),
        (lambda: small_keep_prob(PROBLEM, START, [0.8], probabilities=[0.5, 0.5]), "probabilities"),
    ],
)
def test_functions_refuse_repeated_values(called, key):
    """They would count twice in means over runs, whose intervals would be too short."""
    with pytest.raises(SmesolveError, match=f"^{key} holds a value twice"):
        called()


def test_keep_probs_that_differ_in_a_late_digit_are_different_cells():
    """Their results lie on the disk under the keys of their cells."""
    given = {"data": DataSettings("random", samples=4, in_features=1), "network": NetworkSettings(width=2)}
    cells = SmallKeepProb(SmallKeepProbSettings(keep_probs=[0.8, 0.80000001], **given)).cells()
    assert len({cell.key for cell in cells}) == len(cells) == 10
