"""Odd names of symbols: in torch code, and in LaTeX."""

import dataclasses
import math
import re

import pytest
import sympy
import torch
from sympy import Symbol, symbols

import smesolve as sme
from smesolve.symbolic import Iteration, modified_equation

ODD = [
    "lambda", "torch", "x0", "I", "E", "pi", "self", "super", "float", "ValueError", "None", "f", "g", "math", "exp",
    "_state", "_zero", "_c0", "_numbers", "__class__", "x²", "θ", "Ångström", "a b", "a-b", "x^2", "1x", "", "_", "a'",
    'quote"""quote', "back\\slash", "new\nline", "brace{", "}", "{0}", "100%", "a&b", "$", "#", "名",
    "😀", "S", "N", "Q", "oo", "nan",
]  # fmt: skip


def equation_of(names, order=2):
    """Drift of the first: -(first second + 2 third), with the second constant and the third a state without motion."""
    state, constant, other, lr, eta = *map(Symbol, names), Symbol("step_size"), Symbol("noise")
    step = [-lr * eta * (eta * state * constant + 2 * other), -lr * other]
    return modified_equation(Iteration([state, other], step, {eta: sme.BernoulliMasks(0.5)}, lr, [constant]), order)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_torch_code_does_not_depend_on_names(name, place):
    names = ["first", "second", "third"]
    plain = equation_of(names).to_torch({"second": 0.75}, 0.1)
    names[place] = name
    sde = equation_of(names).to_torch({names[1]: 0.75}, 0.1)
    state = torch.tensor([[0.5, -1.5], [2.0, 0.25]], dtype=torch.float64)
    assert torch.allclose(sde.f(0.0, state), plain.f(0.0, state), rtol=1e-15, atol=1e-15)
    assert torch.allclose(sde.g(0.0, state), plain.g(0.0, state), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("small", ["lambda", "torch", "x²", "self", "", "ε", '"""'])
def test_the_small_parameter_may_be_called_anything(small):
    a, h = Symbol("a"), Symbol(small)
    sde = modified_equation(Iteration([a], [-h * a], {}, h)).to_torch({}, 0.5)
    assert sde.f(0.0, torch.ones(1, 1, dtype=torch.float64)).item() == -1.25


@pytest.mark.parametrize("pair", [("c'", "c_"), ("ﬁ", "fi"), ("a b", "a-b"), ("_x", "x"), ("", "s_"), ("𝜃", "θ")])
def test_names_that_python_reads_alike_are_refused(pair):
    first, second, lr = *map(Symbol, pair), Symbol("lr")
    equation = modified_equation(Iteration([first], [-lr * first * second], {}, lr, [second]))
    with pytest.raises(ValueError, match=r"would all be called .* in Python: give them names that differ in letters"):
        equation.to_torch({second: 1.0}, 0.1)


@pytest.mark.parametrize("name", ODD)
def test_latex_is_balanced_and_names_are_told_apart(name):
    text = equation_of([name, "second", "third"], order=1).latex()
    bare = re.sub(r"\\(textbackslash|textasciicircum|textasciitilde)\{\}|\\[#$%&_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[#$%~]|&[^=]", bare)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        (("x1", "x_1"), (r"\texttt{x1}", r"\texttt{x\_1}")),
        (("θ", "theta"), (r"\texttt{θ}", r"\texttt{theta}")),
        (("θ", "λ_2"), (r"\theta", r"\lambda_{2}")),
        (("lambda", "Ω"), (r"\lambda", r"\Omega")),
        (("100%", "x²"), (r"\texttt{100\%}", r"\texttt{x²}")),
        (("w_1_1", "a'"), ("w_{1 1}", "a'")),
    ],
)
def test_latex_of_names(names, written):
    text = equation_of([*names, "third"], order=1).latex()
    for latex in written:
        assert latex in text


def test_values_are_for_the_constants_and_once():
    a, y, lr, eta = symbols("a y lr eta")
    p = Symbol("p", positive=True)
    iteration = Iteration([a], [-lr * eta * (eta * a - y)], {eta: sme.BernoulliMasks(p)}, lr, [y, Symbol("unused")])
    equation = modified_equation(iteration)
    expected = equation.to_torch({"y": 1.0, "p": 0.5}, 0.1).f(0.0, torch.ones(1, 1)).item()
    b0 = -1 / 0.5 + 1
    assert expected == pytest.approx(b0 + 0.1 / 2 * b0 / 0.5, rel=1e-6) and math.isfinite(expected)
    assert equation.to_torch({y: 1.0, p: 0.5, "unused": 3.0}, 0.1).f(0.0, torch.ones(1, 1)).item() == expected
    for values, sentence in [
        (
            {"y": 1.0, "p": 0.5, "q": 2.0},
            "values contains 'q', which is not a constant of the equation: its constants are p, ",
        ),
        ({"y": 1.0, "p": 0.5, "lr": 0.2}, "values contains 'lr', which is not a constant of the equation"),
        ({"y": 1.0, "p": 0.5, a: 0.2}, "values contains a, which is not a constant of the equation"),
        ({"y": 1.0, y: 2.0, "p": 0.5}, "values contains y twice, as a symbol and by its name: give one number for it."),
        ({"y": 1.0, Symbol("p"): 0.5}, "symbols of one name with different assumptions are different symbols"),
        ({"y": 1.0, 3: 0.5}, "values contains 3, which is not a constant of the equation"),
    ]:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            equation.to_torch(values, 0.1)


def test_terms_of_an_equation_are_averaged_coefficients():
    a, y, lr, eta = symbols("a y lr eta")
    equation = modified_equation(Iteration([a], [-lr * eta * (a - y)], {eta: sme.BernoulliMasks(0.5)}, lr, [y]))
    for drift, sentence in [
        ((equation.drift_terms[0] * lr,), "drift_terms[0] contains lr, which is random or the small parameter"),
        ((equation.drift_terms[0] * eta,), "drift_terms[0] contains eta, which is random or the small parameter"),
        ((sympy.Matrix([Symbol("a", real=True)]),), "symbols of one name with different assumptions"),
    ]:
        with pytest.raises(ValueError, match=re.escape(sentence)):
            dataclasses.replace(equation, drift_terms=drift)
