"""Functions in torch code mean what they mean in sympy: each of the closed list against sympy's own numbers."""

import random
import re

import pytest
import sympy
import torch
from sympy import Abs, Heaviside, Max, Min, Mod, Ne, Piecewise, Rational, Symbol, diff, symbols

from smesolve.symbolic import Iteration, modified_equation
from smesolve.symbolic.torch_printer import FUNCTIONS, printed

x, y = symbols("x y", real=True)
WITHIN = {
    sympy.acosh: (1.1, 4.0),
    sympy.acos: (-0.9, 0.9),
    sympy.asin: (-0.9, 0.9),
    sympy.atanh: (-0.9, 0.9),
    sympy.erfinv: (-0.9, 0.9),
    sympy.log: (0.1, 4.0),
}
"""Where a function is real and not too steep for float32; elsewhere from -3 to 3."""
STEPS = (sympy.floor, sympy.ceiling, sympy.frac, sympy.Mod)
"""Functions of which sympy has no derivative."""
TWO_ARGUMENTS = {
    sympy.atan2: lambda u, v: sympy.atan2(u, v + 4),
    sympy.Mod: lambda u, v: Mod(u, v + Rational(7, 2)),
    sympy.Max: Max,
    sympy.Min: Min,
    sympy.Heaviside: lambda u, v: Heaviside(u - v),
}


def value(expression, dtype=torch.float64, **numbers):
    """The printed code at tensors of numbers."""
    tensors = {name: torch.as_tensor(number, dtype=dtype) for name, number in numbers.items()}
    zero = f"torch.zeros_like({next(iter(tensors))})"
    return eval(printed(sympy.sympify(expression), zero), {"torch": torch} | tensors)


def sympy_value(expression, **numbers):
    return float(expression.subs({Symbol(name, real=True): Rational(number) for name, number in numbers.items()}))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_every_function_has_sympys_values_and_derivatives(function, dtype, tolerance):
    rng = random.Random(function.__name__)
    low, high = WITHIN.get(function, (-3.0, 3.0))
    expression = TWO_ARGUMENTS[function](x, y) if function in TWO_ARGUMENTS else function(x)
    expressions = [expression]
    if function not in STEPS:
        expressions.append(diff(expression, x))
    if function not in (*STEPS, sympy.Max, sympy.Min, sympy.Abs, sympy.sign, sympy.Heaviside):
        expressions.append(diff(expression, x, 2))
    expressions = [e.replace(sympy.DiracDelta, lambda *_: sympy.Integer(0)) for e in expressions]
    points = torch.tensor([[rng.uniform(low, high) for _ in range(4)] for _ in range(3)], dtype=dtype)
    others = torch.tensor([[rng.uniform(-3, 3) for _ in range(4)] for _ in range(3)], dtype=dtype)
    for e in expressions:
        ours = value(e, dtype, x=points, y=others)
        ours = ours + torch.zeros_like(points) if isinstance(ours, torch.Tensor) else torch.full_like(points, ours)
        assert ours.dtype == dtype
        for mine, u, v in zip(ours.flatten(), points.flatten().tolist(), others.flatten().tolist(), strict=True):
            exact = sympy_value(e, x=u, y=v)
            assert abs(float(mine) - exact) <= tolerance * max(1, abs(exact)), (e, u, v)


@pytest.mark.parametrize(
    "expression",
    [
        Abs(x),
        diff(Abs(x), x),
        sympy.sign(x),
        Heaviside(x),
        Heaviside(x, 0),
        Heaviside(x, Rational(1, 3)),
        Heaviside(x, 1),
        Max(0, x),
        diff(Max(0, x), x),
        Min(0, x),
        diff(Min(0, x), x),
        diff(Max(x, 2 * x), x),
        sympy.sinc(x),
        sympy.floor(x),
        sympy.ceiling(x),
        sympy.frac(x),
        Mod(x, 3),
        Mod(x, -3),
        sympy.atan2(0, x + 4),
        Piecewise((1, x > 0), (2, x >= 0), (3, True)),
        Piecewise((1, Ne(x, 0)), (Rational(1, 3), True)),
        Piecewise((x, (x > -1) & (x < 1)), (x**2, x > 1), (-1, True)),
        Piecewise((x, (x <= -1) | (x >= 1)), (7, ~(x > 0) | (x > 5)), (Rational(1, 7), True)),
        Max(0, x, x**2 - 1),
        x**2,
        (x + 4) ** Rational(1, 3),
        2**x,
    ],
)
def test_values_at_kinks_and_jumps(expression):
    points = [-3.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    ours = value(expression, x=points)
    for mine, point in zip(ours.tolist(), points, strict=True):
        assert mine == pytest.approx(sympy_value(expression, x=point), rel=1e-15, abs=1e-16), point


@pytest.mark.parametrize(
    "constant",
    [
        sympy.pi,
        sympy.E,
        sympy.EulerGamma,
        sympy.GoldenRatio,
        sympy.log(2),
        sympy.tanh(1),
        sympy.cos(3),
        sympy.sqrt(2),
        sympy.besselj(0, 1),
        sympy.gamma(Rational(1, 3)),
        sympy.Integer(10) ** 30,
        Rational(1, 3),
        Rational(10**40, 3),
    ],
)
def test_constants_are_numbers(constant):
    for expression in (
        constant * y,
        y - constant,
        Max(constant, y),
        Heaviside(y - constant),
        (y + 5) ** (1 / constant),
    ):
        ours = value(expression, y=[0.25, 0.75])
        assert ours.dtype == torch.float64
        for mine, point in zip(ours.tolist(), (0.25, 0.75), strict=True):
            assert mine == pytest.approx(sympy_value(expression, y=point), rel=1e-14)


def test_an_integral_without_symbols_is_a_number():
    integral = sympy.Integral(sympy.exp(-(x**2)), (x, 0, 1))
    assert value(integral * y, y=[1.0]).item() == pytest.approx(
        float(sympy.sqrt(sympy.pi) * sympy.erf(1) / 2), rel=1e-15
    )


def test_a_negative_constant_keeps_its_brackets():
    base = sympy.Mul(-1, sympy.cos(3), evaluate=False)
    assert value(sympy.cos(3) * y**2 - sympy.cos(3), y=[2.0]).item() == pytest.approx(3 * float(sympy.cos(3)))
    assert value(base**y, y=[2.0]).item() == pytest.approx(float(sympy.cos(3)) ** 2)
    assert value(sympy.cos(3) ** y, y=[0.5]).isnan().all()  # a negative number to a fraction is not real


def test_gradients_are_those_of_sympy_and_nan_stays_nan():
    for expression in (Abs(x), sympy.sign(x), Heaviside(x), Max(0, x), Min(0, x), Piecewise((x**2, x > 0), (-x, True))):
        point = torch.tensor([-1.5, 2.0], dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(value(expression, x=point).sum(), point)
        slope = diff(expression, x).replace(sympy.DiracDelta, lambda *_: sympy.Integer(0))
        assert gradient.tolist() == [sympy_value(slope, x=-1.5), sympy_value(slope, x=2.0)]
    for function in FUNCTIONS:
        if function is not sympy.Heaviside and function not in TWO_ARGUMENTS:
            assert value(function(x), x=[float("nan")]).isnan().all(), function
    assert value(Heaviside(x), x=[float("nan")]).isnan().all()


@pytest.mark.parametrize(
    ("step", "part"),
    [
        (lambda a: sympy.Integral(sympy.exp(-(a**2)), (a, 0, a)), "Integral"),
        (lambda a: sympy.Derivative(sympy.exp(-(a**2)), a), "Derivative"),
        (lambda a: sympy.besselj(0, a), "besselj"),
        (lambda a: sympy.loggamma(a), "loggamma"),
        (lambda a: sympy.KroneckerDelta(a, 1), "KroneckerDelta"),
        (lambda a: sympy.Sum(a ** Symbol("n"), (Symbol("n"), 1, 3)), "Sum"),
        (lambda a: sympy.arg(a), "arg"),
        (lambda a: sympy.Function("f")(a), "f"),
        (lambda a: sympy.Integer(10) ** 400 * a, "not a finite real number"),
        (lambda a: sympy.sqrt(-2) * sympy.sqrt(sympy.pi - 4) * a, "not a real number"),
        (lambda a: sympy.log(-2) * a, "not a real number"),
        (lambda a: sympy.asin(2) * a, "not a finite real number"),
    ],
)
def test_what_has_no_torch_code_is_refused_at_once(step, part):
    a, lr = symbols("a lr")
    with pytest.raises(ValueError, match=rf"(contains|undefined functions).*{part}.*: .*"):
        modified_equation(Iteration([a], [-lr * step(a)], {}, lr), order=1).to_torch({}, 0.1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(
    "function",
    [
        lambda a: Max(0, a),
        lambda a: Abs(a),
        lambda a: Abs(a) ** 3,
        lambda a: sympy.sqrt(a**2),
        lambda a: sympy.sign(a) * a**2,
        lambda a: Piecewise((a, a > 0), (a / 10, True)),
        lambda a: Min(1, Max(-1, a)),
        lambda a: sympy.frac(a) * a,
        lambda a: sympy.log(1 + sympy.exp(a)) - sympy.log(2),
        lambda a: Max(0, a) * sympy.tanh(1) * sympy.pi,
        lambda a: sympy.re(a) + sympy.im(a) + sympy.conjugate(a) * a,
        lambda a: sympy.sinc(a),
    ],
)
def test_equations_with_kinks_have_the_numbers_of_their_definition(function, order):
    """b0 = -f, b1 = -1/2 f' f, f' by differences: symbols without assumptions are real."""
    a, lr = symbols("a lr")
    sde = modified_equation(Iteration([a], [-lr * function(a)], {}, lr), order).to_torch({}, lr=0.25)
    points, tiny = [-1.3, -0.4, 0.3, 1.6], Rational(1, 10**12)
    ours = sde.f(0.0, torch.tensor(points, dtype=torch.float64)[:, None])[:, 0]
    real = function(x)
    for mine, point in zip(ours.tolist(), points, strict=True):
        here = real.subs(x, Rational(point)).evalf(40)
        slope = (
            (real.subs(x, Rational(point) + tiny).evalf(40) - real.subs(x, Rational(point) - tiny).evalf(40)) / tiny / 2
        )
        expected = -here - (0.25 / 2 * slope * here if order == 2 else 0)
        assert mine == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batches_of_any_shape_and_both_precisions(shape, dtype):
    a, b, c, lr = symbols("a b c lr")
    step = [-lr * (Max(0, a) + Heaviside(b) + Rational(1, 3)), -lr * Piecewise((c, a > c), (Rational(1, 3), True))]
    sde = modified_equation(Iteration([a, b], step, {}, lr, [c]), order=1).to_torch({"c": 0.1}, lr=0.25)
    state = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    drift, (first, second) = sde.f(0.0, state), state.unbind(-1)
    assert drift.dtype == dtype and drift.shape == state.shape and sde.g(0.0, state).shape == (*shape, 2, 1)
    zero = torch.zeros_like(first)
    expected = [-first.clamp(min=0) - (second > 0).to(dtype) - 1 / 3, -torch.where(first > 0.1, 0.1, zero + 1 / 3)]
    assert torch.allclose(drift, torch.stack(expected, dim=-1), rtol=0, atol=1e-15 if dtype == torch.float64 else 1e-6)


def test_the_closed_list_has_no_function_of_another_name_by_accident():
    """sinc and frac are the ones that torch has under the same name with another meaning."""
    assert value(sympy.sinc(x), x=[2.0]).item() == pytest.approx(float(sympy.sin(2)) / 2, rel=1e-15)
    assert value(sympy.frac(x), x=[-0.25]).item() == 0.75
    assert (
        re.search(r"\btorch\.(frac|sgn|heaviside)\b", " ".join(printed(f(x), "0") for f in (sympy.frac, Heaviside)))
        is None
    )
