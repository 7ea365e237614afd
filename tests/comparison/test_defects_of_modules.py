"""Errors by defects of any module: attention, integer inputs, class probabilities, a loss on held-out data."""

from functools import partial

import pytest
import torch
from torch import nn

import smesolve as sme
from smesolve.problem.observables import OBSERVABLES


class Attention(nn.Module):
    """A block of fused attention, which has no forward mode, on embedded tokens; inputs come as floats."""

    def __init__(self):
        super().__init__()
        self.embedding, self.projections = nn.Embedding(5, 4), nn.Linear(4, 12)
        self.dropout, self.readout = nn.Dropout(0.2), nn.Linear(4, 3)

    def forward(self, tokens):
        query, key, value = self.projections(self.embedding(tokens.long())).chunk(3, -1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.readout(self.dropout(attended).mean(-2))


def attention_problem():
    generator = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, most, size, generator=generator) for most, size in ((5, (6, 3)), (3, (6,))))
    return sme.ModuleProblem(Attention().double(), tokens, labels, loss="cross_entropy")


def test_fused_attention_on_integer_inputs():
    problem = attention_problem()
    study = sme.weak_error(problem, problem.initial(seed=0), [0.2, 0.1], 0.4, times=[0.4], paths=16)
    assert set(study.table.estimator) == {"defects"} and study.table.resolved.any()
    first = study.table[study.table.order == 1].set_index("lr").error
    assert first[0.2] / first[0.1] == pytest.approx(2, rel=0.2)


@pytest.mark.slow
def test_the_range_of_validity_of_attention():
    problem = attention_problem()
    found = sme.validity_range(problem, problem.initial(seed=0), 1.0, 0.01, orders=[1], paths=16, max_paths=64)
    row = found.table.iloc[0]
    assert 0 < row.lr_low < row.lr < row.lr_high < found.stability_limit


@pytest.mark.slow
def test_relu_after_attention_takes_derivatives_of_it():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.attention = nn.Embedding(5, 4), nn.MultiheadAttention(4, 2, batch_first=True)
            self.hidden, self.dropout, self.readout = nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 3)

        def forward(self, tokens):
            h = self.embedding(tokens.long())
            attended = self.attention(h, h, h, need_weights=False)[0]
            return self.readout(self.dropout(self.hidden(attended).relu()).mean(-2))

    given = attention_problem()
    problem = sme.ModuleProblem(Block().double(), given.x, given.y, loss="cross_entropy")
    table = sme.weak_error(problem, problem.initial(seed=0), [0.1], 0.4, times=[0.4], paths=64).table
    assert table.error.notna().all() and (table.diverged == 0).all()


def test_a_vector_of_ten_class_probabilities_is_a_mapping_of_observables():
    """Of an image that is held out. They add up to one, and so their errors add up to zero on every path."""
    generator = torch.Generator().manual_seed(0)
    x, unseen = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (20, 1))
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 10)).double()
    problem = sme.ModuleProblem(module, x, torch.arange(20) % 10, loss="cross_entropy")
    problem = problem.with_test_data(unseen, torch.tensor([3]))

    def probability(theta, label):
        return problem.test.outputs(theta).softmax(-1)[..., 0, label]

    names = [f"probability[{label}]" for label in range(10)]
    observables = {name: partial(probability, label=label) for label, name in enumerate(names)}
    observables["test_loss"] = OBSERVABLES["test_loss"](problem)
    theta0, common = problem.initial(seed=0), {"times": [0.4], "observables": observables}
    table = sme.weak_error(problem, theta0, [0.2], 0.4, paths=32, **common).table
    assert list(table[table.order == 1].observable) == [*names, "test_loss"]
    for _, rows in table.groupby("order"):
        of_classes = rows[rows.observable != "test_loss"]
        assert abs(of_classes.error.sum()) < 1e-6 * of_classes.error.abs().max()
        assert of_classes.discrete.sum() == pytest.approx(1)
    first = table[table.order == 1].set_index("observable")
    assert first.resolved["test_loss"] and first.resolved["probability[3]"]
    # test_loss is -log probability[3]: their errors are as their derivatives where the paths scatter little
    slope = -1 / first.discrete["probability[3]"]
    assert first.error["test_loss"] == pytest.approx(slope * first.error["probability[3]"], rel=0.2)
