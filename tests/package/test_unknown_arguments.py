"""Arguments by the names that papers and other libraries have for them, and by misspelled ones."""

import inspect

import pytest
import torch

import smesolve as sme
from smesolve.entry_point import OTHER_NAMES

NETWORK = sme.TwoLayerNetwork(2, 3, 1)
DATA = torch.ones(4, 2), torch.ones(4, 1)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: sme.DropoutProblem(NETWORK, *DATA, p=0.2),
            "DropoutProblem has no argument p; use keep_prob, the probability of keeping: 1 - p.",
        ),
        (
            lambda: sme.DropoutProblem(NETWORK, *DATA, dropout=0.2),
            "DropoutProblem has no argument dropout; use keep_prob, the probability of keeping: 1 - dropout.",
        ),
        (lambda: sme.DropoutProblem(NETWORK, *DATA, keep_probs=0.2), "DropoutProblem has no argument keep_probs; use"),
        (lambda: sme.solve(method="euler"), "solve has no argument method; use scheme."),
        (lambda: sme.weak_error(lr=0.1), "weak_error has no argument lr; use lrs."),
        (lambda: sme.iterate(learning_rate=0.1), "iterate has no argument learning_rate; use lr."),
        (
            lambda: sme.iterate(zzz=0.1),
            "iterate has no argument zzz; its arguments are problem, theta0, lr, steps, paths, seed, save, workers, "
            "max_memory, observables.",
        ),
    ],
)
def test_the_name_that_is_meant_is_said(call, sentence):
    with pytest.raises(TypeError) as found:
        call()
    assert str(found.value).startswith(sentence)


def test_the_names_here_are_names_of_arguments():
    called = (sme.DropoutProblem, sme.ModuleProblem, sme.ModifiedEquation, sme.solve, sme.weak_error)
    names = {name for function in called for name in inspect.signature(function).parameters}
    assert set(OTHER_NAMES.values()) <= names
