"""A small fully connected network written out in symbols, with the places where noise may enter.

    h_0 = x_i,    h_l = eta_l o sigma(W_l h_{l-1}) (l = 1 .. L),    f(x_i) = A h_L,    R_S = 1/n sum_io loss(f_o, y_io)

eta_l are masks of the hidden layers. The default loss is squared error, loss(f, y) = (f - y)^2 / 2.
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

from smesolve.arguments import EXPRESSION, checked
from smesolve.errors import SmesolveError, call_of_user, shown
from smesolve.symbolic.orthogonal_polynomials import exact
from smesolve.symbolic.smooth_function import smooth_function

__all__ = ["ExplicitNetwork", "squared_error"]

ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {"tanh": sympy.tanh, "identity": lambda pre: pre}

MOST_DERIVATIVES = 2**20
"""Terms of the second derivatives of the loss: minutes of sympy's time."""

Matrix = list[list[Expr]]


def squared_error(f: Expr, y: Expr) -> Expr:
    """(f - y)^2 / 2."""
    return (f - y) ** 2 / 2


@checked
@dataclass(frozen=True)
class ExplicitNetwork:
    """Sizes, activation, loss and data; the weights are symbols.

    The parameters are in the order of `torch.nn.utils.parameters_to_vector`: weights layer by layer, each matrix
    (out, in) row by row. Those of a single hidden layer are w_r_k, of several w1_r_k, w2_r_k, ...; those of the readout
    a_o_r; all indices count from 1.

    Args:
        in_features: d.
        hidden: width of the hidden layer, or the widths of several.
        out_features: o.
        samples: n.
        activation: "tanh", "identity", or a function of sympy expressions; `sympy.Function("sigma")` stands for every
            smooth one (`smooth_function("sigma")`, whose derivative is sigmaprime).
        loss: of an output and its target, summed over outputs and averaged over samples.
        data: arrays x (n, d) and y (n, o); without them they are constants x_i_k and y_i_o.

    Raises:
        SmesolveError: sizes that are no positive integers, an unknown activation, data of another shape.
    """

    in_features: int = 1
    hidden: int | Sequence[int] = 2
    out_features: int = 1
    samples: int = 1
    activation: str | Callable[[Expr], Expr] = "tanh"
    loss: Callable[[Expr, Expr], Expr] = squared_error
    data: tuple[Any, Any] | None = None
    widths: tuple[int, ...] = field(init=False)
    """Of the hidden layers."""
    sigma: Callable[[Expr], Expr] = field(init=False)
    """The activation as a function."""
    weights: list[Matrix] = field(init=False)
    """W_1, ..., W_L, A as nested lists of symbols."""
    x: Matrix = field(init=False)
    y: Matrix = field(init=False)
    constants: list[Symbol] = field(init=False)
    """The data, where they are symbols."""

    def __post_init__(self) -> None:
        widths = (self.hidden,) if isinstance(self.hidden, int) else tuple(self.hidden)
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
            x = _numbers("x", self.data[0], self.samples, self.in_features)
            y = _numbers("y", self.data[1], self.samples, self.out_features)
            constants = []
        sigma = _activation(self.activation)
        for name, value in dict(widths=widths, sigma=sigma, weights=weights, x=x, y=y, constants=constants).items():
            object.__setattr__(self, name, value)

        f, target, pre = sympy.symbols("f y z")
        EXPRESSION("the value of loss", call_of_user("loss", self.loss, f, target), {})
        EXPRESSION("the value of activation", call_of_user("activation", sigma, pre), {})

    @property
    def parameters(self) -> list[Symbol]:
        """All weights, in torch's order."""
        return [symbol for matrix in self.weights for row in matrix for symbol in row]

    def output(
        self, i: int, masks: Mapping[int, Sequence[Expr]] | None = None, weights: Sequence[Matrix] | None = None
    ) -> list[Expr]:
        """f(x_i), one expression an output; masks are {hidden layer (from 1): one factor a neuron}."""
        values = self.x[i]
        *inner, readout = self.weights if weights is None else weights
        for layer, matrix in enumerate(inner, start=1):
            factors = (masks or {}).get(layer, [Integer(1)] * len(matrix))
            values = [factor * self.sigma(pre) for factor, pre in zip(factors, _product(matrix, values), strict=True)]
        return _product(readout, values)

    def contributions(self, i: int) -> list[list[Expr]]:
        """z_r for each output o: [o][r], what neuron r of the last hidden layer adds to output o on sample i."""
        width = self.widths[-1]
        choose = [[Integer(r == k) for k in range(width)] for r in range(width)]
        outputs = [self.output(i, {len(self.widths): row}) for row in choose]
        return [list(column) for column in zip(*outputs, strict=True)]

    def sample_loss(self, outputs: Sequence[Expr], targets: Sequence[Expr]) -> Expr:
        """sum_o loss(f_o, y_o)."""
        return sympy.Add(*(self.loss(f, y) for f, y in zip(outputs, targets, strict=True)))

    def losses(
        self, masks: Mapping[int, Sequence[Expr]] | None = None, weights: Sequence[Matrix] | None = None
    ) -> list[Expr]:
        """The loss of each sample; arguments as `output`."""
        return [self.sample_loss(self.output(i, masks, weights), self.y[i]) for i in range(self.samples)]

    def risk(self, losses: Sequence[Expr] | None = None) -> Expr:
        """R_S = 1/n sum_i loss_i; the losses are those without noise unless given."""
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


def _activation(activation: str | Callable[[Expr], Expr]) -> Callable[[Expr], Expr]:
    if isinstance(activation, UndefinedFunction):
        return smooth_function(activation.__name__)
    if isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise SmesolveError(
                f"activation {activation!r} is not known: use one of {sorted(ACTIVATIONS)} or give a "
                "function of sympy expressions."
            )
        return ACTIVATIONS[activation]
    return activation


def _symbols(stem: str, count: int) -> list[Symbol]:
    return [Symbol(f"{stem}_{k + 1}", real=True) for k in range(count)]


def _numbers(name: str, rows: Any, samples: int, features: int) -> Matrix:
    for entry in np.array(rows, dtype=object).flat:
        EXPRESSION(f"data of {name}", entry, {})
    matrix = call_of_user(f"data of {name}", sympy.Matrix, rows)
    if matrix.shape != (samples, features):
        raise SmesolveError(
            f"data: {name} has shape {tuple(matrix.shape)}, expected {(samples, features)}: give one row "
            "for each sample."
        )
    return exact(matrix).tolist()
