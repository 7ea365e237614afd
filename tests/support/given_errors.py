"""What the studies of scaling make of errors that are given, in place of measured ones."""

from types import SimpleNamespace

import pandas as pd
import pytest
from scipy import stats

from smesolve.experiments.shared.sampling_effort import SamplingEffort

Q = stats.norm.ppf(0.975)


class GivenErrors(SamplingEffort):
    """In place of a measured study, a table whose error, interval and kurtosis are functions of its keys."""

    def weak_error(self, problem, theta0, lrs, times, orders, observable, **more):
        rows = [
            {"order": order, "lr": lr, "time": time, "observable": "loss", "discrete": 2.0, "sde": 2.0 + 0.3 * order}
            | {"error": 0.3 * order * lr * time, "stderr": 0.01 * order * time, "half_width": 0.02 * order * time}
            | {"low": (0.3 * order * lr - 0.05) * time, "high": (0.3 * order * lr + 0.07) * time}
            | {"solver_bias": 0.007 * order * lr}
            | {"resolved": order == 1, "reason": "" if order == 1 else "inside the solver bias"}
            for lr in lrs
            for time in times
            for order in orders
        ]
        table = pd.DataFrame(rows).assign(resolved=lambda frame: frame.resolved.astype(bool))
        fit = pd.DataFrame([{"order": orders[0], "observable": "loss", "p_value": 1.0, "slope": 1.25, "points": 2}])
        return SimpleNamespace(table=table, fit=lambda: fit)


def exactly(value):
    return pytest.approx(value, rel=1e-12, abs=1e-15)


def first_coordinate(theta):
    return theta[..., 0]
