"""The mean squared gradient norm of a network, a measure of flatness, along the flow of the penalised loss R_S + R_1.

For f(x) = sum_r a_r sigma(w_r . x) and its parameters theta,

    G(theta) = 1/n sum_i |grad f(x_i)|^2                                                                             (1)

is the trace of the Hessian of R_S where R_S = 0. There grad R_S = 0, so that along d theta/dt = -grad (R_S + R_1)

    dG/dt = -grad G . grad R_1                                                                                       (2)
          = -2v/n^2 sum_r a_r^2 [(sum_i sigma_ri^2) (sum_i sigma'_ri^2 |x_i|^2) + |sum_i sigma_ri sigma'_ri x_i|^2]  (3)
            -2v/n^2 sum_r a_r^4 (sum_i sigma_ri sigma'_ri x_i) . (sum_i sigma'_ri sigma''_ri |x_i|^2 x_i),           (4)

with sigma_ri = sigma(w_r . x_i). (3) is minus a sum of squares: where sigma'' = 0, as for relu, G falls unless no
neuron contributes to any sample. (4) has no definite sign, and G can rise: for tanh on one sample

    dG/dt = -4v sum_r (a_r sigma_r sigma'_r |x|)^2 (1 - a_r^2 sigma'_r |x|^2).                                       (5)

Source: Zhang, Xu (TPAMI 2024, arXiv 2207.05952), Theorem 2, for piecewise linear activations; (4) is derived here.
"""

from __future__ import annotations

import sympy
from sympy import Expr, Rational

from smesolve.symbolic.explicit_network import ExplicitNetwork

__all__ = ["curvature_rate", "gradient_norm_rate", "squares_rate"]


def gradient_norm_rate(network: ExplicitNetwork, variance: Expr) -> Expr:
    """Return (2) by differentiation, for one hidden layer, one output and masks of the given variance v."""
    n, state = network.samples, network.parameters
    norm = Rational(1, n) * sympy.Add(  # (1)
        *(sympy.diff(network.output(i)[0], theta) ** 2 for i in range(n) for theta in state)
    )
    squares = sympy.Add(*(z**2 for i in range(n) for z in network.contributions(i)[0]))
    penalty = variance / (2 * n) * squares  # R_1
    return -sympy.Add(*(sympy.diff(norm, theta) * sympy.diff(penalty, theta) for theta in state))


def squares_rate(network: ExplicitNetwork, variance: Expr) -> Expr:
    """Return (3)."""
    total = sympy.Integer(0)
    for neuron in _Neuron.all(network):
        slopes = sympy.Add(*(slope**2 * size for slope, size in zip(neuron.slopes, neuron.sizes, strict=True)))
        pull = neuron.weighted(neuron.values, neuron.slopes)
        total += neuron.readout**2 * (
            sympy.Add(*(value**2 for value in neuron.values)) * slopes + sympy.Add(*(entry**2 for entry in pull))
        )
    return -2 * variance / network.samples**2 * total


def curvature_rate(network: ExplicitNetwork, variance: Expr) -> Expr:
    """Return (4)."""
    total = sympy.Integer(0)
    for neuron in _Neuron.all(network):
        pull = neuron.weighted(neuron.values, neuron.slopes)
        bend = neuron.weighted(neuron.slopes, neuron.curvatures, neuron.sizes)
        total += neuron.readout**4 * sympy.Add(*(a * b for a, b in zip(pull, bend, strict=True)))
    return -2 * variance / network.samples**2 * total


class _Neuron:
    """Neuron r: a_r, and on each sample i sigma_ri, sigma'_ri, sigma''_ri and |x_i|^2."""

    def __init__(self, network: ExplicitNetwork, r: int) -> None:
        hidden, readout = network.weights
        self.inputs = network.x
        self.readout = readout[0][r]
        self.sizes = [sympy.Add(*(entry**2 for entry in x)) for x in network.x]
        pre = sympy.Dummy("z", real=True)
        derivatives = [network.sigma(pre)]
        for _ in range(2):
            derivatives.append(sympy.diff(derivatives[-1], pre))
        arguments = [sympy.Add(*(w * entry for w, entry in zip(hidden[r], x, strict=True))) for x in network.x]
        self.values, self.slopes, self.curvatures = (
            [derivative.subs(pre, argument) for argument in arguments] for derivative in derivatives
        )

    @classmethod
    def all(cls, network: ExplicitNetwork) -> list[_Neuron]:
        """Return all neurons of the hidden layer."""
        return [cls(network, r) for r in range(network.widths[0])]

    def weighted(self, *factors: list[Expr]) -> list[Expr]:
        """Return sum_i x_i times the product of the factors of sample i, (d,)."""
        weights = [sympy.Mul(*entries) for entries in zip(*factors, strict=True)]
        return [
            sympy.Add(*(w * x[k] for w, x in zip(weights, self.inputs, strict=True)))
            for k in range(len(self.inputs[0]))
        ]
