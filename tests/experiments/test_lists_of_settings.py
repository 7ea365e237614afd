"""A value that stands twice in a list of settings would be measured twice, or silently once: it is refused."""

import pytest

from smesolve.errors import SmesolveError
from smesolve.experiments.reproduce.barriers import BarriersSettings
from smesolve.experiments.reproduce.penalties import PenaltiesSettings
from smesolve.experiments.scaling.horizon import HorizonSettings
from smesolve.experiments.scaling.map import MapSettings
from smesolve.experiments.scaling.schedule import ScheduleSettings
from smesolve.experiments.scaling.small_keep_prob import SmallKeepProbSettings


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
    ],
)
def test_a_repeated_value_is_refused(settings, key, values):
    with pytest.raises(SmesolveError, match=f"^{key} holds a value twice: .*; leave one of them out.$"):
        settings(**{key: values})


def test_keep_probs_that_differ_in_a_late_digit_are_different_cells():
    """Their results lie on the disk under the keys of their cells."""
    from smesolve.experiments.scaling.small_keep_prob import SmallKeepProb
    from smesolve.experiments.shared.settings import DataSettings, NetworkSettings

    given = {"data": DataSettings("random", samples=4, in_features=1), "network": NetworkSettings(width=2)}
    cells = SmallKeepProb(SmallKeepProbSettings(keep_probs=[0.8, 0.80000001], **given)).cells()
    assert len({cell.key for cell in cells}) == len(cells) == 10
