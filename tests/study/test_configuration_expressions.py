"""Expressions of a configuration: they mean what is declared, and no text runs as code or takes long."""

import os

import pytest
import sympy
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.derivation.derivation import derived_iteration
from smesolve.experiments.shared.derivation.expressions import EXTREMA, FUNCTIONS, read_expression
from smesolve.experiments.shared.derivation.settings import DeriveSettings
from smesolve.problem.masks import GaussianMasks
from smesolve.study.command_line import main
from smesolve.symbolic import Iteration, modified_equation

a, b = sympy.symbols("a b", real=True)
NAMES = {"a": a, "b": b}
CUSTOM = {"iteration": "custom", "state": ["a"], "random": ["eta"], "constants": ["y"]}


def read(text, names=NAMES):
    return read_expression("step", text, names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a - b)**2/2", (a - b) ** 2 / 2),
        ("a^2", a**2),
        ("-a**2", -(a**2)),
        ("2**-a", 2**-a),
        ("a - b - 1", a - b - 1),
        ("a/b/2", a / b / 2),
        ("a**b**2", a ** (b**2)),
        ("0.1*a", a / 10),
        ("0.12345678901234567890*a", sympy.Rational("0.12345678901234567890") * a),
        ("1e-3 + .5 + 5.", sympy.Rational("5.501")),
        ("0e999999999", 0),
        ("pi*a", sympy.pi * a),
        ("a +\n\tb", a + b),
        ("tanh(a)*exp(-b)", sympy.tanh(a) * sympy.exp(-b)),
        ("max(0, a)", sympy.Max(0, a)),
        ("sign(a) + abs(a)", sympy.sign(a) + sympy.Abs(a)),
        ("Piecewise((a, a > 0), (a/10, True))", sympy.Piecewise((a, a > 0), (a / 10, True))),
    ],
)
def test_an_expression_means_what_it_says(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize("text", ["+".join(["a"] * 900), "*".join(["(1 + a)"] * 90), "(" * 40 + "a" + ")" * 40])
def test_long_expressions_are_read(text):
    assert read(text).free_symbols == {a}


@pytest.mark.parametrize(
    "name", ["E", "I", "S", "N", "O", "Q", "beta", "gamma", "lambda", "is", "pi", "exp", "max", "True", "None", "θ"]
)
def test_a_declared_name_means_what_is_declared(name):
    symbol = sympy.Symbol(name, real=True)
    assert read(f"2*{name} - 1", {name: symbol}) == 2 * symbol - 1
    config = DeriveSettings(**CUSTOM | {"constants": [name], "step": [f"-lr*eta*(eta*a - {name})"]})
    assert derived_iteration(config).constants == (symbol,)


@pytest.mark.parametrize("name", ["E", "I", "zoo", "oo", "nan", "x"])
def test_an_undeclared_name_is_no_number(name):
    with pytest.raises(ValueError, match=f"step contains {name}, which has no role"):
        derived_iteration(DeriveSettings(**CUSTOM | {"step": [f"-lr*eta*(eta*a - y*{name})"]}))


CODE = [
    "open('witness', 'w').write('x')",
    "__import__('os').system('touch witness')",
    "exec(a)",
    "eval(a)",
    "Symbol(a)",
    "a.__class__",
    "a[0]",
    "[a for a in b]",
    "(lambda: a)()",
    "lambda: a",
    "f'{a}'",
    "a if a else b",
    "a and b",
    "a := b",
    "tanh(*a)",
    "tanh(x=a)",
    "`a`",
    "a; b",
    "a # b",
    "a\\\nb",
    "1j",
    "0x10",
    "0100",
    "1_000",
    "2a",
    "2(a)",
    "a!",
    "a(b)",
    "tanh",
    "tanh()",
    "tanh(a, b)",
    "max()",
    "a > 0",
    "(a, b)",
    "()",
    "",
    "Piecewise(a)",
    "Piecewise((a, a > 0))",
    "Piecewise((a, b))",
    "True",
    "gamma(a)",
]
NO_NUMBERS = [
    "1/0",
    "a/(b - b)",
    "0**-1",
    "log(0)",
    "sqrt(-1)",
    "tan(pi/2)",
    "asin(2)",
    "acosh(0.1)",
    "1e309",
    "1e-400",
]
TOO_LARGE = [
    "9**9**9",
    "9**9**9**9**9",
    "a**101",
    "((1 + a)**100)**100",
    "((1 + a)**20 + 1)**20",
    "(10**99)**99",
    "1e999999999",
    "1e-999999999",
    "9" * 500,
    "cosh(cosh(cosh(100)))",
    "max(a, exp(exp(exp(100))))",
    "(" * 10**6,
    "(" * 10**6 + "a" + ")" * 10**6,
    "(" * 60 + "a" + ")" * 60,
    "-" * 1_900 + "a",
    "**".join(["a"] * 900),
    "a+" * 1_500 + "a",
    "a" * 10_001,
]


@pytest.mark.parametrize("text", CODE[:-2] + NO_NUMBERS + TOO_LARGE + CODE[-1:])
def test_what_is_no_expression_is_answered_by_one_sentence(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SmesolveError) as refused:
        read(text)
    sentence = str(refused.value)
    assert sentence.startswith("step ") and "cannot be read as an expression: " in sentence and "; " in sentence
    assert "\n" not in sentence and sentence.endswith(".") and len(sentence) < 500
    assert not os.listdir(tmp_path)


LETTERS = st.text("ab01+-*/^().,<>=[]{}'\"_ \n\\#:;!@%&|~πθ²\x00", max_size=20)
WORDS = st.sampled_from(["a", "b", "lambda", "open", "__import__", "True", "1e5", *FUNCTIONS, *EXTREMA, "Piecewise"])
SIGNS = st.sampled_from(["+", "-", "*", "/", "**", "(", ")", ",", "<", ">=", ".", "'", " "])


@settings(max_examples=300, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(LETTERS | st.lists(WORDS | SIGNS, max_size=15).map("".join))
def test_any_text_is_an_expression_or_answered_by_one_sentence(text):
    try:
        value = read(text)
    except SmesolveError as error:
        assert "cannot be read as an expression" in str(error) and "\n" not in str(error)
    else:
        assert isinstance(value, sympy.Expr)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": ["a b"], "step": ["a"]}, "state has the name 'a b'"),
        ({"constants": ['"""'], "step": ["a"]}, 'constants has the name \'"""\''),
        ({"constants": ["eta"], "step": ["a"]}, "eta is named in random and again in constants"),
        ({"random": ["eta", "eta"], "step": ["a"]}, "eta is named in random and again in random"),
    ],
)
def test_names_are_names_and_stand_for_one_thing(changes, words):
    with pytest.raises(SmesolveError, match=words):
        derived_iteration(DeriveSettings(**CUSTOM | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": ["a"]}, "step is not read by iteration 'dropout'"),
        ({"batch": 2}, "batch is not read by iteration 'dropout'"),
        ({"variance": 0.5}, "variance is not read by law 'bernoulli'"),
        ({"iteration": "sgd", "keep_prob": 0.5}, "keep_prob is not read by iteration 'sgd'"),
        (CUSTOM | {"width": 3}, "width is not read by iteration 'custom'"),
    ],
)
def test_a_key_that_is_not_read_is_refused(changes, words):
    with pytest.raises(SmesolveError, match=words):
        DeriveSettings(**changes)


@pytest.mark.parametrize("key", ["step", "loss"])
def test_a_configuration_runs_no_code(key, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "0*open('witness', 'w').write('x')"
    custom = f'iteration: custom\nstate: [a]\nrandom: [eta]\nstep: ["-lr*eta*a + {code}"]\n'
    text = custom if key == "step" else f'loss: "(f - y)**2/2 + {code}"\n'
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    assert main(["derive", "study.yaml", "--out", "results"]) == 2
    assert capsys.readouterr().err.startswith(f"smesolve: {key} ")
    assert os.listdir(tmp_path) == ["study.yaml"]


def test_the_name_of_a_symbol_is_no_code_of_the_generated_module():
    hostile = sympy.Symbol('"""\nraise SystemExit\n"""', real=True)
    eta, lr = sympy.Symbol("eta"), sympy.Symbol("lr")
    iteration = Iteration([hostile], [-lr * eta * hostile], {eta: GaussianMasks(0.25)}, lr)
    module = modified_equation(iteration, order=1).to_torch({}, lr=0.1)
    assert module.f(0.0, torch.ones(1, 1, dtype=torch.float64)).item() == -1
