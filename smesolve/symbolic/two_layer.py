"""Dropout on an explicit two-layer network.

    f(x_i; eta)_o = sum_r eta_r A_or sigma(w_r . x_i),    R_S = 1/(2n) sum_i |f(x_i; eta) - y_i|^2,

one mask for all samples, a fresh one in every step (Zhang, Li, Luo, Xu, ICLR 2024, sec. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
from sympy import Expr, Rational, Symbol
from sympy.core.function import UndefinedFunction

from smesolve.problem.masks import BernoulliMasks
from smesolve.symbolic.iteration import Iteration
from smesolve.symbolic.smooth_function import smooth_function

__all__ = ["two_layer_dropout"]

ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {"tanh": sympy.tanh}


def two_layer_dropout(
    samples: int,
    in_features: int,
    width: int,
    out_features: int = 1,
    activation: str | Callable[[Expr], Expr] = "tanh",
    keep_prob: Any = None,
    data: tuple[Any, Any] | None = None,
) -> Iteration:
    """Gradient descent on R_S under dropout, differentiated by sympy.

    The parameters are in the order of `torch.nn.utils.parameters_to_vector`: hidden weights w_r_k (width,
    in_features) row by row, then readout weights a_o_r (out_features, width) row by row; all indices count
    from 1. `activation` is "tanh" or a function of sympy expressions; `sympy.Function("sigma")` stands for
    every smooth one (`smooth_function("sigma")`, whose derivative is sigmaprime). `keep_prob` is a number or
    a symbol (the default: a positive symbol p). `data` are arrays x (samples, in_features) and y (samples,
    out_features); without them they are constants x_i_k and y_i_o. For other mask laws replace `masks` of
    the result by `dataclasses.replace`.
    """
    sizes = dict(samples=samples, in_features=in_features, width=width, out_features=out_features)
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}: give a positive integer.")
    sigma = _activation(activation)
    if keep_prob is None:
        keep_prob = Symbol("p", positive=True)
    law = BernoulliMasks(sympy.nsimplify(keep_prob, rational=True))

    w = [_symbols(f"w_{r + 1}", in_features) for r in range(width)]
    a = [_symbols(f"a_{o + 1}", width) for o in range(out_features)]
    eta = _symbols("eta", width)
    x = [_symbols(f"x_{i + 1}", in_features) for i in range(samples)]
    y = [_symbols(f"y_{i + 1}", out_features) for i in range(samples)]
    constants = [symbol for row in (*x, *y) for symbol in row]
    if data is not None:
        x = _numbers("x", data[0], samples, in_features)
        y = _numbers("y", data[1], samples, out_features)
        constants = []

    def output(i: int, o: int) -> Expr:
        preactivations = [sympy.Add(*(wk * xk for wk, xk in zip(row, x[i], strict=True))) for row in w]
        return sympy.Add(*(eta[r] * a[o][r] * sigma(preactivations[r]) for r in range(width)))

    residuals = [output(i, o) - y[i][o] for i in range(samples) for o in range(out_features)]
    loss = Rational(1, 2 * samples) * sympy.Add(*(residual**2 for residual in residuals))
    parameters = [symbol for row in (*w, *a) for symbol in row]
    return Iteration(
        parameters=parameters,
        gradient=[sympy.diff(loss, parameter) for parameter in parameters],
        masks={mask: law for mask in eta},
        lr=Symbol("lr", positive=True),
        constants=constants,
    )


def _activation(activation: str | Callable[[Expr], Expr]) -> Callable[[Expr], Expr]:
    if isinstance(activation, UndefinedFunction):
        return smooth_function(activation.__name__)
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"activation {activation!r} is not known: use one of {sorted(ACTIVATIONS)} or give a "
                "function of sympy expressions."
            )
        return ACTIVATIONS[activation]
    return activation


def _symbols(stem: str, count: int) -> list[Symbol]:
    return [Symbol(f"{stem}_{k + 1}", real=True) for k in range(count)]


def _numbers(name: str, rows: Any, samples: int, features: int) -> list[list[Expr]]:
    matrix = sympy.Matrix(rows)
    if matrix.shape != (samples, features):
        raise ValueError(
            f"data: {name} has shape {tuple(matrix.shape)}, expected {(samples, features)}: give one row "
            "for each sample."
        )
    return sympy.nsimplify(matrix, rational=True).tolist()
