"""The papers' formulas: which are exact is found out, for the law that they are made for and for another."""

import numpy as np
import pytest
import sympy
from symbolic_problems import numeric, p
from sympy import Function, Rational

from smesolve.problem.masks import BernoulliMasks, GaussianMasks
from smesolve.symbolic import DropoutFormulas, ExplicitNetwork, squared_error

WRONG = {
    "drift of the flow of R_S + R_1 + R_2",
    "approximate Hessian as Hess L_S",
    "approximate covariance as Cov, one mask",
    "approximate covariance as Cov, one mask and one sample per step",
    "approximate covariance as second moment, one mask and one sample per step",
}


@pytest.mark.parametrize(
    "network",
    [
        ExplicitNetwork(activation=Function("sigma")),
        pytest.param(ExplicitNetwork(in_features=2, samples=2), marks=pytest.mark.slow),
        pytest.param(ExplicitNetwork(hidden=3, samples=2, activation=Function("sigma")), marks=pytest.mark.slow),
    ],
)
def test_claims_under_dropout(network):
    claims = DropoutFormulas(network, BernoulliMasks(p)).claims
    assert {claim.name for claim in claims if not claim.exact} == WRONG
    blocks = [claim.name for claim in claims if claim.name.startswith("Sigma_")]
    assert len(blocks) == network.widths[0] * (network.widths[0] + 1) // 2
    assert any("sigma'' = 0" in claim.name for claim in claims) == (network.sigma is not sympy.tanh)


def test_the_blocks_are_those_of_two_valued_masks_only():
    claims = DropoutFormulas(ExplicitNetwork(), GaussianMasks(Rational(1, 4))).claims
    wrong = {claim.name for claim in claims if not claim.exact}
    assert wrong == WRONG | {"Sigma_11", "Sigma_22", "Sigma_12"}


def test_differences_of_what_is_not_exact():
    """The flow lacks -lr/4 grad Tr Sigma; the Hessian lacks the second derivatives of the contributions."""
    formulas = DropoutFormulas(ExplicitNetwork(activation=Function("sigma")), BernoulliMasks(p))
    claims = {claim.name: claim for claim in formulas.claims}
    state, points = formulas.iteration.state, np.random.default_rng(0)
    trace = formulas.equation.covariance.trace()
    flow = claims["drift of the flow of R_S + R_1 + R_2"].difference
    lr = formulas.iteration.small
    expected = sympy.Matrix([lr / 4 * sympy.diff(trace, theta) for theta in state])
    hessian = claims["approximate Hessian as Hess L_S"].difference
    z, e, v = formulas.contributions[0], formulas.errors[0], formulas.variance
    second = sum(((e + v * c) * sympy.hessian(c, state) for c in z), sympy.zeros(4, 4))
    for got, want in ((flow, expected), (hessian, second)):
        tokens = {call: sympy.Dummy() for call in (got - want).atoms(sympy.Function)}
        difference = (got - want).xreplace(tokens)
        symbols = sorted(difference.free_symbols, key=str)
        point = points.uniform(0.2, 0.8, size=len(symbols))
        assert np.abs(numeric(difference, symbols, point)).max() < 1e-12


def test_other_networks_are_refused():
    for network, words in [
        (ExplicitNetwork(hidden=[1, 1]), "got 2 hidden layers, 1 outputs"),
        (ExplicitNetwork(out_features=2), "got 1 hidden layers, 2 outputs"),
        (ExplicitNetwork(loss=lambda f, y: (f - y) ** 4), "and another loss"),
    ]:
        with pytest.raises(ValueError, match=words):
            DropoutFormulas(network, BernoulliMasks(p))
    DropoutFormulas(ExplicitNetwork(loss=squared_error), BernoulliMasks(p))


def test_latex_defines_the_symbols_of_the_claims():
    formulas = DropoutFormulas(ExplicitNetwork(hidden=1), BernoulliMasks(p))
    tex = formulas.latex() + "".join(claim.latex for claim in formulas.claims)
    assert tex.count("{") == tex.count("}")
    for symbol in ("z_r", "D_r(c)", "R_1", "R_2", r"\widetilde{H}", r"\widetilde{\Sigma}", r"\Sigma_{kk}"):
        assert symbol in tex
