"""Derivations that nobody can wait for are refused at once, from a count of their terms."""

from itertools import product

import pytest
import sympy
from sympy import KroneckerDelta, Poly, Symbol, symbols

import smesolve as sme
from smesolve.study.command_line import main
from smesolve.symbolic import ExplicitNetwork, Iteration, SampleIndex, modified_equation, third_cumulant
from smesolve.symbolic.term_count import monomial_bound

A, LR = Symbol("a", real=True), Symbol("lr", positive=True)
INDEX = Symbol("I", integer=True)
ETAS = symbols("e1:30", real=True)
LAW = sme.BernoulliMasks(0.8)


def iteration(factor, random, law=LAW):
    return Iteration([A], [-LR * A * factor], dict.fromkeys(random, law), LR)


@pytest.mark.parametrize(
    "expression",
    [
        "(x + y + 1)**3",
        "(x + y)*(x - y)*(1 + a)",
        "x*y*a + x**2*(1 + y)**2",
        "(x**2 + 1)**5*y",
        "a**3 + 2",
        "x/2 + sin(a)*x",
        "((x + 1)**2 + y)**2",
    ],
)
def test_the_bound_is_at_least_the_number_of_monomials(expression):
    x, y, a = symbols("x y a")
    value = sympy.sympify(expression, {"x": x, "y": y, "a": a})
    count = len(Poly(value, x, y).monoms())
    assert count <= monomial_bound(value, (x, y)) <= 4 * count


def test_the_bound_of_a_product_of_sums_is_its_number_of_monomials():
    assert monomial_bound(sympy.Mul(*(1 + e for e in ETAS)), ETAS) == 2**29
    assert monomial_bound(sympy.Add(*ETAS) ** 2, ETAS) == 29 * 30 / 2
    assert monomial_bound((1 + ETAS[0]) ** 10**6, ETAS) == 10**6 + 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: iteration(INDEX, [INDEX], SampleIndex(10**6)), ["samples must be at most 65536", "1000000"]),
        (lambda: iteration(INDEX, [INDEX], SampleIndex(10**9)), ["samples must be at most 65536", "1000000000"]),
        (lambda: iteration(KroneckerDelta(INDEX, 3), [INDEX], SampleIndex(100)), ["100 values", "64 as indicators"]),
        (lambda: iteration(sympy.Mul(*(1 + e for e in ETAS)), ETAS), ["5.37e+08 terms in 29 random symbols"]),
        (lambda: iteration(sympy.tanh(sympy.Add(*ETAS)), ETAS), ["5.37e+08 terms in 29 random symbols"]),
        (lambda: modified_equation(iteration(sympy.Mul(*ETAS), ETAS)), ["the expansion of the step", "5.37e+08"]),
        (
            lambda: modified_equation(iteration(sympy.Add(*ETAS[:15]) ** 3, ETAS[:15])).verify(),
            ["the proof of order 2", "products of 680 terms for 1 state variables"],
        ),
        (lambda: third_cumulant(iteration(KroneckerDelta(INDEX, 3), [INDEX], SampleIndex(36))), ["third cumulant"]),
        (lambda: ExplicitNetwork(hidden=[2] * 30), ["1.07e+09 paths", "take a smaller hidden"]),
        (lambda: ExplicitNetwork(hidden=10**4), ["1e+04 paths"]),
        (lambda: ExplicitNetwork(samples=10**9), ["on 1000000000 samples"]),
    ],
)
def test_sizes_that_take_too_long_are_refused_with_their_numbers(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    said = str(caught.value)
    assert all(word in said for word in words) and said.endswith("."), said


def test_many_random_symbols_in_a_short_step_are_derived():
    found = modified_equation(iteration(sympy.Add(*ETAS), ETAS))
    assert found.diffusion.shape == (1, 29) and found.verify().holds
    (entry,) = third_cumulant(found.iteration).entries.values()
    assert sympy.simplify(entry + 29 * A**3 * sympy.nsimplify(LAW.central_moment(3), rational=True)) == 0


def test_the_moments_of_an_index_are_those_of_its_values():
    for samples, degree in product((1, 2, 7), range(5)):
        law = SampleIndex(samples)
        direct = sum((i - law.mean) ** degree for i in range(1, samples + 1)) / sympy.Integer(samples)
        assert law.central_moment(degree) == direct


@pytest.mark.parametrize("last", [["--dry-run"], ["--out"]])
@pytest.mark.parametrize(
    "options", [["--depth", "30"], ["--samples", "1000000"], ["--iteration", "sgd", "--samples", "100"]]
)
def test_the_command_line_refuses_them_as_well(options, last, tmp_path, capsys):
    out = [str(tmp_path / "results")] if last == ["--out"] else []
    assert main(["derive", *options, *last, *out]) == 2
    said = capsys.readouterr().err
    assert said.startswith("smesolve: ") and said.count("\n") == 1
    assert "more than" in said or "the most is" in said
