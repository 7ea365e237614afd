"""What a configuration says reaches the function that measures."""

import pytest

from smesolve.experiments.shared import weak_error_experiment
from smesolve.study.command_line import main


class Called(Exception):
    """Everything was handed over."""


@pytest.mark.parametrize("command", ["compare", "weak-error"])
def test_every_setting_reaches_weak_error(command, tmp_path, monkeypatch):
    given = {}

    def recorded(problem, theta0, lrs, horizon, **options):
        given.update(options, lrs=lrs, horizon=horizon)
        raise Called

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weak_error_experiment, "weak_error", recorded)
    settings = {
        "lrs": [0.2, 0.1],
        "horizon": 0.4,
        "orders": [2],
        "observables": ["squared_norm"],
        "paths": 24,
        "rel_tol": 0.3,
        "max_paths": 4321,
        "scheme": "euler",
        "dt": 0.05,
        "control": "first",
        "seed": 17,
        "workers": 2,
        "max_memory": 1e9,
    }
    arguments = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    network = ["--data.name", "random", "--data.samples", "4", "--data.in_features", "2", "--network.width", "2"]
    with pytest.raises(Called):
        main([command, *network, *[part.replace("'", '"') for part in arguments], "--out", "results"])
    assert {name: given[name] for name in settings} == settings
