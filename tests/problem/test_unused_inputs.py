"""Inputs that are 0 for all samples, which the compiled kernels leave out."""

import pytest
import torch

import smesolve as sme

X, Y = torch.randn(2, 70, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X[:, 1] = 0
PROBLEM = sme.DropoutProblem(sme.TwoLayerNetwork(3, 4, 2), X, Y[:, :2], keep_prob=0.8)


def test_their_weights_have_no_gradient():
    gradient = PROBLEM.mean_gradient(PROBLEM.initial(seed=0))[:12].view(4, 3)
    assert (gradient[:, 1] == 0).all() and (gradient[:, [0, 2]] != 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("problem", [PROBLEM, PROBLEM.without_kernels()], ids=["kernels", "torch"])
def test_a_path_whose_unused_weight_is_not_finite_is_so(problem, value):
    theta = problem.initial(seed=0).repeat(2, 1)
    theta[0, 4] = value
    finite = problem.mean_gradient(theta).isfinite()
    assert finite[1].all() and not finite[0].all()
    assert problem.loss(theta).isnan().tolist() == [True, False]
