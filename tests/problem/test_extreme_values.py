"""Values at the ends of the range of floats, and empty tensors, are refused by one sentence at the start."""

import math

import pytest
import torch

import smesolve as sme
from smesolve.errors import SmesolveError

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 2, generator=GENERATOR, dtype=torch.float64)
Y = torch.randn(6, 1, generator=GENERATOR, dtype=torch.float64)
SIZE = "must (be 0 or )?have a size from 1e-100 to 1e\\+100"


def network(**options):
    return sme.TwoLayerNetwork(2, 3, 1, **options)


def problem(net=None, x=X, y=Y, **options):
    return sme.DropoutProblem(net or network(), x, y, **(options or {"keep_prob": 0.8}))


PROBLEM = problem()
THETA = PROBLEM.initial(0)


def mixed():
    net = network()
    net.readout.float()
    return net


def sparse():
    net = network()
    net.hidden.weight = torch.nn.Parameter(net.hidden.weight.detach().to_sparse())
    return net


def study(theta0=THETA, lr=0.1):
    return sme.weak_error(PROBLEM, theta0, [lr], 0.2, paths=16)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sme.iterate(PROBLEM, THETA, 1e300, 1, 2), f"lr {SIZE}"),
        (lambda: sme.iterate(PROBLEM, THETA, 1e-320, 1, 2), f"lr {SIZE}"),
        (lambda: study(lr=1e-320), f"lrs\\[0\\] {SIZE}|lr {SIZE}"),
        (lambda: sme.ModifiedEquation(PROBLEM, 1e-200), f"lr {SIZE}"),
        (lambda: sme.GaussianMasks(1e300), f"variance {SIZE}"),
        (lambda: sme.UniformMasks(1e300), f"half_width {SIZE}"),
        (lambda: sme.FiniteMasks([1.0, 1e200], [1.0, 1e-200]), f"values\\[1\\] {SIZE}"),
        (lambda: problem(keep_prob=1e-300), f"keep_prob {SIZE}"),
        (lambda: problem(keep_prob=1e-20), "keep_prob must be at least 1.1e-13"),
        (
            lambda: problem(network(dtype=torch.float32), law=sme.GaussianMasks(1e30)),
            "moments whose products torch.float32 holds",
        ),
        (lambda: study(1e300 * THETA), "theta0 has values up to .* whose squares overflow in torch.float64"),
        (lambda: sme.iterate(PROBLEM, 1e200 * THETA, 0.1, 1, 2), "theta0 has values up to .* whose squares overflow"),
        (lambda: study(THETA.to_sparse()), "theta0 must be a strided tensor .* convert it by .to_dense"),
        (lambda: study(THETA.to("meta")), "theta0 must be on cpu as the problem is"),
        (lambda: problem(network(device="meta")), "network has parameters on the meta device"),
        (lambda: problem(network().half()), "hidden.weight is torch.float16; convert the module by .double"),
        (lambda: problem(network().to(torch.bfloat16)), "hidden.weight is torch.bfloat16"),
        (
            lambda: problem(mixed()),
            "must have all parameters of one dtype, got torch.float32 and torch.float64",
        ),
        (lambda: problem(sparse()), "hidden.weight is sparse, quantized or nested"),
        (lambda: network(dtype=torch.float16), "dtype must be torch.float64 or torch.float32"),
    ],
)
def test_one_sentence_at_the_start(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert isinstance(caught.value, SmesolveError) and "\n" not in str(caught.value)


def test_a_hessian_that_overflows_is_said():
    wide = sme.DropoutProblem(sme.LinearNetwork(2), 1e100 * X, Y, keep_prob=0.8)
    with pytest.raises(ValueError, match=r"theta has a Hessian whose entries are not finite|beyond the"):
        sme.weak_error(wide, 1e60 * wide.initial(0), [0.1], 0.2, paths=16)


def test_small_but_plain_numbers_are_taken():
    assert sme.iterate(PROBLEM, THETA, 1e-90, 2, 2).isfinite().all()
    assert math.isfinite(problem(keep_prob=1e-12).law.variance)
    assert problem(network(dtype=torch.float32), keep_prob=1e-12).law.variance < 1.1e12
