"""Errors by defects of any module: attention, integer inputs, class probabilities, a loss on held-out data."""

from functools import partial

import pytest
import torch
from torch import nn

import smesolve as sme


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


def test_a_vector_of_class_probabilities_is_a_mapping_of_observables():
    """They add up to one, and so their errors add up to zero on every path."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.2), nn.Linear(3, 3)).double()
    problem = sme.ModuleProblem(module, x, torch.arange(8) % 3, loss="cross_entropy")

    def probability(theta, label):
        return problem.outputs(theta).softmax(-1)[..., label].mean(-1)

    observables = {f"probability[{label}]": partial(probability, label=label) for label in range(3)}
    table = sme.weak_error(
        problem, problem.initial(seed=0), [0.2], 0.4, times=[0.4], paths=32, observables=observables
    ).table
    assert sorted(table.observable.unique()) == [f"probability[{label}]" for label in range(3)]
    for _, rows in table.groupby("order"):
        assert abs(rows.error.sum()) < 1e-6 * rows.error.abs().max()
    assert table[table.order == 1].resolved.any()
