"""Numbers of the paper's figures, and the verdicts on ours beside them."""

import numpy as np
import pandas as pd
import pytest

from smesolve.experiments.shared.paper_numbers import beside_paper, judged, paper_numbers


def test_the_figures_have_their_numbers():
    accuracy = paper_numbers("12", 0.05)
    assert set(accuracy.lr) == {0.05} and len(accuracy) == 25
    assert accuracy[accuracy.training == "dropout"].value.tolist() == [0.896, 0.8934, 0.8963, 0.8982, 0.8976]
    penalties = paper_numbers("2", 0.05)  # printed at 0.005 only
    assert set(penalties.lr) == {0.005} and len(penalties) == 42
    chosen = penalties[(penalties.quantity == "R_S") & (penalties.keep_prob == 0.8)]
    assert chosen.value.tolist() == [2.237e-4, 2.234e-4]
    assert len(paper_numbers("13", 0.005)) == 15 and (accuracy.value < 1).all()


def test_ours_stand_beside_theirs():
    ours = pd.DataFrame(
        [
            {"quantity": "test_accuracy", "training": "dropout", "keep_prob": 0.8, "value": 0.9},
            {"quantity": "test_accuracy", "training": "R_S", "keep_prob": 0.8, "value": 0.8},  # without dropout
            {"quantity": "test_accuracy", "training": "dropout", "keep_prob": 0.55, "value": 0.9},
        ]
    )
    ours = ours.assign(value_low=ours.value - 0.01, value_high=ours.value + 0.01)
    beside = beside_paper(ours, "12", 0.05)
    assert beside.paper.tolist()[:2] == [0.8982, 0.8296] and np.isnan(beside.paper[2])
    assert beside.agrees.tolist() == ["yes", "no", "-"]
    assert beside.ratio[1] == pytest.approx(0.8 / 0.8296)
    assert (beside.ratio_low[1], beside.ratio_high[1]) == pytest.approx((0.79 / 0.8296, 0.81 / 0.8296))


@pytest.mark.parametrize(
    ("low", "high", "paper", "agrees"),
    [
        (0.1, 0.3, 0.2, "yes"),
        (-0.3, -0.1, -0.2, "yes"),
        (0.1, 0.3, 0.4, "no"),
        (-0.1, 0.3, 0.2, "unresolved"),
        (-0.1, 0.3, 0.4, "no"),
        (0.1, 0.3, np.nan, "-"),
    ],
)
def test_agreement_needs_an_interval_that_holds_their_number_and_not_0(low, high, paper, agrees):
    table = pd.DataFrame([{"value": (low + high) / 2, "value_low": low, "value_high": high, "paper": paper}])
    row = judged(table).iloc[0]
    assert row.agrees == agrees
    assert np.isnan(paper) or row.ratio_low <= row.ratio <= row.ratio_high
