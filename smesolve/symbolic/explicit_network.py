"""A small fully connected network in symbols, with masks on its hidden layers.

    h_0 = x_i,    h_l = eta_l o sigma(W_l h_{l-1}) (l = 1 .. L),    f(x_i) = A h_L                                   (1)
    R_S = 1/n sum_io loss(f_o, y_io)                                                                                 (2)

eta_l are the masks of hidden layer l. The default loss is squared error, loss(f, y) = (f - y)^2 / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import sympy
from sympy import Expr, Integer, Rational, Symbol
from sympy.core.function import UndefinedFunction

from smesolve.errors import SmesolveError, call_of_user, invalid, shown
from smesolve.symbolic.orthogonal_polynomials import exact
from smesolve.symbolic.smooth_functions import smooth_function
from smesolve.validation import check_callable, check_expression, check_integer, check_list

__all__ = ["ExplicitNetwork", "squared_error"]

ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {"tanh": sympy.tanh, "identity": lambda pre: pre}

MOST_DERIVATIVES = 2**20
"""Largest number of terms of the second derivatives of the loss; sympy takes minutes for it."""

Matrix = list[list[Expr]]


def squared_error(f: Expr, y: Expr) -> Expr:
    """Return (f - y)^2 / 2."""
    return (f - y) ** 2 / 2


@dataclass(frozen=True)
class ExplicitNetwork:
    """A network with given sizes, activation, loss and data, whose weights are symbols.

    The parameters are in the order of `torch.nn.utils.parameters_to_vector`: weights layer by layer, each matrix
    (out, in) row by row. Weights of a single hidden layer are called w_r_k, of several w1_r_k, w2_r_k, ..., and those
    of the readout a_o_r; all indices count from 1.

    Args:
        in_features: d.
        hidden: width of the hidden layer, or the widths of several.
        out_features: o.
        samples: n.
        activation: "tanh", "identity", or a function of sympy expressions; `sympy.Function("sigma")` stands for any
            smooth function (`smooth_function("sigma")`, whose derivative is sigmaprime).
        loss: loss of an output and its target, summed over outputs and averaged over samples.
        data: arrays x (n, d) and y (n, o). Default: symbols x_i_k and y_i_o.
    """

    in_features: int = 1
    hidden: int | Sequence[int] = 2
    out_features: int = 1
    samples: int = 1
    activation: str | Callable[[Expr], Expr] = "tanh"
    loss: Callable[[Expr, Expr], Expr] = squared_error
    data: tuple[Any, Any] | None = None
    widths: tuple[int, ...] = field(init=False)
    """Widths of the hidden layers."""
    sigma: Callable[[Expr], Expr] = field(init=False)
    """The activation as a function."""
    weights: list[Matrix] = field(init=False)
    """W_1, ..., W_L, A as nested lists of symbols."""
    x: Matrix = field(init=False)
    y: Matrix = field(init=False)
    constants: list[Symbol] = field(init=False)
    """The data, where they are symbols."""

    def __post_init__(self) -> None:
        for name in ("in_features", "out_features", "samples"):
            check_integer(name, getattr(self, name))
        several = isinstance(self.hidden, Sequence | np.ndarray) and not isinstance(self.hidden, str)
        widths = check_list("hidden", self.hidden if several else [self.hidden], lambda _, width: _checked_width(width))
        check_callable("loss", self.loss)
        layers = [self.in_features, *widths, self.out_features]
        _check_size(layers, self.samples)
        stems = ["w"] if len(widths) == 1 else [f"w{layer + 1}" for layer in range(len(widths))]
        weights = [
            [_symbols(f"{stem}_{r + 1}", columns) for r in range(rows)]
            for stem, columns, rows in zip([*stems, "a"], layers, layers[1:], strict=False)
        ]
        if self.data is None:
            x = [_symbols(f"x_{i + 1}", self.in_features) for i in range(self.samples)]
            y = [_symbols(f"y_{i + 1}", self.out_features) for i in range(self.samples)]
            constants = [symbol for row in (*x, *y) for symbol in row]
        else:
            data: list[Any] = check_list("data", self.data, size=2)
            x = _numbers("x", data[0], self.samples, self.in_features)
            y = _numbers("y", data[1], self.samples, self.out_features)
            constants = []
        sigma = _activation(self.activation)
        for name, value in dict(
            widths=tuple(widths), sigma=sigma, weights=weights, x=x, y=y, constants=constants
        ).items():
            object.__setattr__(self, name, value)

        f, target, pre = sympy.symbols("f y z")
        check_expression("the value of loss", call_of_user("loss", self.loss, f, target))
        check_expression("the value of activation", call_of_user("activation", sigma, pre))

    @property
    def parameters(self) -> list[Symbol]:
        """All weights, in the order of torch."""
        return [symbol for matrix in self.weights for row in matrix for symbol in row]

    def output(
        self, i: int, masks: Mapping[int, Sequence[Expr]] | None = None, weights: Sequence[Matrix] | None = None
    ) -> list[Expr]:
        """Return f(x_i) of (1), one expression for each output.

        Args:
            i: number of the sample, from 0.
            masks: factors of the neurons by hidden layer, numbered from 1. Default: no masks.
            weights: the weight matrices. Default: `self.weights`.
        """
        values = self.x[i]
        *inner, readout = self.weights if weights is None else weights
        for layer, matrix in enumerate(inner, start=1):
            factors = (masks or {}).get(layer, [Integer(1)] * len(matrix))
            values = [factor * self.sigma(pre) for factor, pre in zip(factors, _product(matrix, values), strict=True)]
        return _product(readout, values)

    def contributions(self, i: int) -> list[list[Expr]]:
        """Return the contributions z_r of the last hidden layer to the outputs on sample i, as a nested list (o, m)."""
        width = self.widths[-1]
        choose = [[Integer(r == k) for k in range(width)] for r in range(width)]
        outputs = [self.output(i, {len(self.widths): row}) for row in choose]
        return [list(column) for column in zip(*outputs, strict=True)]

    def sample_loss(self, outputs: Sequence[Expr], targets: Sequence[Expr]) -> Expr:
        """Return sum_o loss(f_o, y_o)."""
        return sympy.Add(*(self.loss(f, y) for f, y in zip(outputs, targets, strict=True)))

    def losses(
        self, masks: Mapping[int, Sequence[Expr]] | None = None, weights: Sequence[Matrix] | None = None
    ) -> list[Expr]:
        """Return the loss of each sample; arguments as in `output`."""
        return [self.sample_loss(self.output(i, masks, weights), self.y[i]) for i in range(self.samples)]

    def risk(self, losses: Sequence[Expr] | None = None) -> Expr:
        """Return R_S of (2) from the losses of the samples. Default: the losses without noise."""
        return Rational(1, self.samples) * sympy.Add(*(self.losses() if losses is None else losses))


def _check_size(layers: Sequence[int], samples: int) -> None:
    """Refuse a network whose loss has too many terms to be differentiated: each path from an input to an output."""
    paths, parameters = float(samples) * prod(map(float, layers)), sum(a * b for a, b in pairwise(layers))
    terms = paths * parameters**2
    if terms > MOST_DERIVATIVES:
        raise SmesolveError(
            f"a network of layers {shown(layers)} on {samples} samples has {paths:.3g} paths from inputs to "
            f"outputs and {parameters} parameters, whose second derivatives have {terms:.3g} terms, more than "
            f"{MOST_DERIVATIVES}; take a smaller hidden, in_features, out_features or samples."
        )


def _product(matrix: Matrix, vector: Sequence[Expr]) -> list[Expr]:
    return [sympy.Add(*(entry * value for entry, value in zip(row, vector, strict=True))) for row in matrix]


def _checked_width(width: Any) -> int:
    return check_integer("hidden", width, remedy="give the width of the hidden layer, or a list of widths")


def _activation(activation: str | Callable[[Expr], Expr]) -> Callable[..., Any]:
    """Return an activation as a function of sympy expressions."""
    if isinstance(activation, UndefinedFunction):
        smooth: Callable[..., Any] = smooth_function(activation.__name__)
        return smooth
    if not isinstance(activation, str):
        return check_callable("activation", activation)
    if activation not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise invalid("activation", f"be one of {known}", activation, "give a function of sympy expressions for others")
    return ACTIVATIONS[activation]


def _symbols(stem: str, count: int) -> list[Symbol]:
    return [Symbol(f"{stem}_{k + 1}", real=True) for k in range(count)]


def _numbers(name: str, rows: Any, samples: int, features: int) -> Matrix:
    """Return data (samples, features), floats read as decimals."""
    for entry in np.array(rows, dtype=object).flat:
        check_expression(f"data of {name}", entry)
    matrix = call_of_user(f"data of {name}", sympy.Matrix, rows)
    if matrix.shape != (samples, features):
        must = f"have shape {(samples, features)}"
        raise invalid(f"data of {name}", must, tuple(matrix.shape), "give one row for each sample")
    entries: Matrix = exact(matrix).tolist()
    return entries
