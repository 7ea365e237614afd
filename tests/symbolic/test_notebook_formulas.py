"""What notebooks typeset: equations, proofs and problems as LaTeX that matplotlib or a parser of MathML can read."""

import re

import pytest
import sympy
from latex2mathml.converter import convert
from problems import linear_problem, make_problem

import smesolve as sme
from smesolve import symbolic
from smesolve.symbolic.latex_code import LONGEST, align, shown, words

a, y, eta, h = sympy.symbols("a y eta h")
ITERATION = symbolic.Iteration([a], [-h * eta * (eta * a - y)], {eta: sme.BernoulliMasks(0.8)}, h, [y])
EQUATION = symbolic.modified_equation(ITERATION)


def typeset(latex):
    """Each line of an align* environment, or the formula between dollars, as MathML."""
    if latex.startswith("$"):
        assert latex.endswith("$") and latex.count("$") == 2
        return convert(latex.strip("$"))
    assert latex.startswith("\\begin{align*}\n") and latex.endswith("\n\\end{align*}")
    lines = latex.removeprefix("\\begin{align*}\n").removesuffix("\n\\end{align*}").split(" \\\\\n")
    return "".join(convert(line.replace("&", "")) for line in lines)


@pytest.mark.parametrize("order", [1, 2, "quadratic", 3, "poisson"])
def test_an_equation_says_which_one_it_is(order):
    problem = linear_problem()
    equation = sme.ModifiedEquation(problem, lr=0.05, order=order)
    assert repr(equation) == f"ModifiedEquation({problem!r}, lr=0.05, order={order!r})"
    latex = equation._repr_latex_()
    assert "<math" in typeset(latex) and r"\varepsilon = 0.05" in latex and f"D = {problem.dim}" in latex
    assert (r"\tfrac{\varepsilon}{4} |\nabla L_S|^2" in latex) == (order == 2) and (r"\log" in latex) == (
        order == "quadratic"
    )
    assert ("dN" in latex) == (order in (3, "poisson"))


def test_problems_say_their_sizes():
    dropout = make_problem(width=3)
    assert r"m = 3" in dropout._repr_latex_() and r"\mathrm{keep\_prob} = 0.8" in dropout._repr_latex_()
    module = sme.ModuleProblem(dropout.network, dropout.x, dropout.y, batch_size=2)
    assert f"D = {module.dim}" in module._repr_latex_()
    assert all("<math" in typeset(each._repr_latex_()) for each in (dropout, module))


def test_a_derivation_shows_its_equation_its_proof_and_its_obstruction():
    assert EQUATION._repr_latex_() == EQUATION.latex()
    jumps = symbolic.modified_equation(ITERATION, order=3)
    assert jumps._repr_latex_() == jumps.latex() and "<math" in typeset(jumps.latex())
    proof = EQUATION.verify()
    latex = proof._repr_latex_()
    assert r"\text{weak order 2 holds: " in latex and f"h^{{{proof.agreement}}}" in latex
    assert sympy.latex(proof.first_mismatch.difference) in latex
    obstruction = symbolic.third_cumulant(ITERATION)
    assert obstruction.simplest[0] in obstruction._repr_latex_()
    assert all("<math" in typeset(each._repr_latex_()) for each in (EQUATION, proof, obstruction))


def test_a_claim_is_shown_with_its_verdict():
    claims = symbolic.DropoutFormulas(symbolic.ExplicitNetwork(), sme.BernoulliMasks(0.8)).claims
    for claim in claims:
        assert claim.latex in claim._repr_latex_() and str(claim).split(":")[0] in claim._repr_latex_()


def test_long_formulas_say_how_many_lines_are_left_out():
    lines = [f"x_{{{k}}} &= {'y' * 1000}" for k in range(50)]
    short = shown(align(lines))
    kept = len(re.findall("x_", short))
    assert len(short) < LONGEST + 1000 and f"{50 - kept} more lines" in short and kept > 10
    assert shown(align(lines[:3])) == align(lines[:3])


def test_words_have_no_superscripts():
    assert words("a_1^2") == r"\text{a\_1 to the power 2}"
