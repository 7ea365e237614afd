"""Landscape studies of data that carry little or nothing: the right limit, or one sentence."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

import smesolve as sme
from smesolve.study.landscape_configuration import AlignmentConfig, GeometryConfig, LandscapeConfig, NoisesConfig
from smesolve.study.landscape_sections import SECTIONS

CONFIG = LandscapeConfig(
    steps=4,
    runs=2,
    lr=0.05,
    alignment=AlignmentConfig(checkpoints=2, probes=12, eigenpairs=2),
    noises=NoisesConfig(checkpoints=2, draws=16, probes=12, batch_size=1),
    information_geometry=GeometryConfig(keep_probs=[0.8], draws=4, checkpoints=2, directions=2, probes=12),
)
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 2, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(6, 1, generator=GENERATOR, dtype=torch.float64)

DATA = {
    "zero x": (0 * X, Y, 3, 0.8),
    "zero y": (X, 0 * Y, 3, 0.8),
    "zero x and y": (0 * X, 0 * Y, 3, 0.8),
    "one sample": (X[:1], Y[:1], 3, 0.8),
    "equal samples": (X[:1].expand(6, 2), Y[:1].expand(6, 1), 3, 0.8),
    "equal targets": (X, torch.ones(6, 2, dtype=torch.float64), 3, 0.8),
    "no dropout": (X, Y, 3, 1.0),
    "one neuron": (X, Y, 1, 0.8),
    "one of everything": (X[:1, :1], Y[:1], 1, 0.8),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("section", ["alignment", "information_geometry", "variance_principle"])
def test_a_section_ends_well_or_says_why_not(section, name):
    x, y, width, keep_prob = DATA[name]
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(x.shape[1], width, y.shape[1]), x, y, keep_prob=keep_prob)
    config = dataclasses.replace(CONFIG, sections=[section])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        try:
            found = SECTIONS[section](problem, config)
        except ValueError as error:
            assert sme.arguments.is_own_sentence(error), error
        else:
            assert found.conclusion and all(len(table) for table in found.tables.values())
            if section == "alignment" and "x" in name:
                assert (found.tables["alignment"].verdict == "unresolved").all()


def test_a_penalty_of_zero_has_no_relative_error():
    from smesolve.landscape import penalty_comparison

    table = penalty_comparison(0 * X, X[:2], {0.8: sme.BernoulliMasks(0.8)}, draws=4)
    assert table.penalty[0] == 0 and np.isnan(table.relative_error[0])
