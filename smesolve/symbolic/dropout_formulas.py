"""The formulas of the dropout papers on an explicit network, and which of them are exact.

For one hidden layer with masks, one output and squared loss, with z_r(x_i) = a_r sigma(w_r . x_i), e_i = f(x_i) - y_i,
q_r = (w_r, a_r), v = E zeta^2 (v = 1/p - 1 for keep_prob p) and D_r(c) = 1/n sum_i c_i grad_{q_r} z_r(x_i):

    R_1 = v/(2n) sum_ir z_r(x_i)^2                                                                                   (1)
    R_2 = lr/4 (|grad L_S|^2 + Tr Sigma)                                                                             (2)
    Sigma_kk = v [D_k(e + v z_k)]^(x)2 + v (1 + v) sum_{l != k} [D_k(z_l)]^(x)2                                      (3)
    Sigma_kr = v D_k(c) D_r(z_k)^T + v D_k(z_r) D_r(c)^T - v^2 D_k(z_r) D_r(z_k)^T
               + v sum_{l != k, r} D_k(z_l) D_r(z_l)^T,    c = e + v (z_k + z_r), k != r                             (4)
    approximate Hess L_S = 1/n sum_i [grad f^(x)2 + v sum_r (grad z_r)^(x)2]                                         (5)
    approximate Sigma = 1/n sum_i [(e_i^2 + v sum_r z_r^2) grad f^(x)2 + v e_i^2 sum_r (grad z_r)^(x)2]              (6)
    d/dt 1/n sum_i |grad f(x_i)|^2 along the flow of R_S + R_1 at R_S = 0, by `smesolve.symbolic.gradient_norm`      (7)

Each `Claim` holds both sides of one equation and the result of their comparison. The papers' 1/p is written as 1 + v
here, so that claims can be tested with other mask laws as well.

Sources: Zhang, Li, Luo, Xu (ICLR 2024), eq. 4 (modified loss), sec. 5.1 for (3) and (4), sec. 5.2 for (5) and (6);
Zhang, Xu (TPAMI 2024) for (1) and (2), and their Theorem 2 for (7) where sigma'' = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import sympy
from sympy import Expr, ImmutableMatrix, Integer, Matrix, Rational, Symbol
from sympy.core.function import AppliedUndef

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.masks import MaskLaw
from smesolve.symbolic.chaos_expansion import expectation
from smesolve.symbolic.equation import SymbolicModifiedEquation, modified_equation
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.symbolic.explicit_network import ExplicitNetwork
from smesolve.symbolic.gradient_norm import curvature_rate, gradient_norm_rate, squares_rate
from smesolve.symbolic.latex_code import align, words
from smesolve.symbolic.orthogonal_polynomials import exact
from smesolve.symbolic.training_steps import dropout, dropout_sgd
from smesolve.symbolic.zero_test import vanishes
from smesolve.validation import check_instance

__all__ = ["Claim", "DropoutFormulas"]


@dataclass(frozen=True)
class Claim:
    """The claim left = right about two matrices of expressions."""

    name: str
    latex: str
    """The statement in the papers' notation."""
    left: ImmutableMatrix
    right: ImmutableMatrix

    @cached_property
    def difference(self) -> ImmutableMatrix:
        """left - right, with entries that are proven to vanish set to 0."""
        return (self.left - self.right).applyfunc(lambda entry: Integer(0) if vanishes(entry) else entry)

    @cached_property
    def exact(self) -> bool:
        """Whether every entry of left - right is proven to be 0; if not, one is shown not to be."""
        return all(entry == 0 for entry in self.difference)

    def _repr_latex_(self) -> str:
        verdict = words(f"{'exact' if self.exact else 'NOT exact'}: {self.name}")
        return align([rf"& {verdict}", rf"& {self.latex}"])

    def __str__(self) -> str:
        return f"{'exact' if self.exact else 'NOT exact'}: {self.name}"


class DropoutFormulas:
    """The formulas of the papers for one network and mask law.

    Args:
        network: a network with one hidden layer, one output and squared loss.
        masks: law of the masks; BernoulliMasks in the papers.

    Raises:
        SmesolveError: if the network has several hidden layers, several outputs or another loss.
    """

    @entry_point
    def __init__(self, network: ExplicitNetwork, masks: MaskLaw) -> None:
        check_instance("network", network, ExplicitNetwork, "an ExplicitNetwork")
        check_instance("masks", masks, MaskLaw, "a MaskLaw, such as BernoulliMasks(keep_prob)")
        f, y = sympy.symbols("f y")
        squared = sympy.expand(network.loss(f, y) - (f - y) ** 2 / 2) == 0
        if len(network.widths) != 1 or network.out_features != 1 or not squared:
            raise SmesolveError(
                "network must have one hidden layer, one output and squared loss for the formulas of the papers, got "
                f"{len(network.widths)} hidden layers, {network.out_features} outputs"
                f"{'' if squared else ' and another loss'}; derive others by modified_equation."
            )
        self.network, self.masks = network, masks
        self.variance: Expr = exact(masks.variance)
        self.iteration: Iteration = dropout(network, masks)
        self.equation: SymbolicModifiedEquation = modified_equation(self.iteration, order=2)
        self.contributions: list[list[Expr]] = [network.contributions(i)[0] for i in range(network.samples)]
        """z_r(x_i), as `contributions[i][r]`."""
        self.errors: list[Expr] = [sympy.Add(*z) - y[0] for z, y in zip(self.contributions, network.y, strict=True)]
        """e_i."""

    # --- losses --------------------------------------------------------------------------------------------------

    @cached_property
    def risk(self) -> Expr:
        """R_S, the loss without dropout."""
        return self.network.risk()

    @cached_property
    def modified_loss(self) -> Expr:
        """L_S = E R_S(theta; eta), from the moments of the masks."""
        return expectation(self.iteration, self.iteration.loss)

    @cached_property
    def r1(self) -> Expr:
        """R_1 of (1)."""
        squares = sympy.Add(*(z**2 for row in self.contributions for z in row))
        return self.variance / (2 * self.network.samples) * squares

    @cached_property
    def r2(self) -> Expr:
        """R_2 of (2); the claim "R_2" compares it with lr/4 E|grad R_S(theta; eta)|^2."""
        b0, covariance = self.equation.drift_terms[0], self.equation.covariance
        return self.iteration.small / 4 * ((b0.T * b0)[0] + covariance.trace())

    # --- covariance, block by block ---------------------------------------------------------------------------------

    def neuron(self, r: int) -> list[int]:
        """Return the positions of q_r = (w_r, a_r) in the state; neurons count from 0."""
        (hidden, readout) = self.network.weights
        return [self.iteration.state.index(symbol) for symbol in (*hidden[r], readout[0][r])]

    def pulled(self, r: int, cotangents: Sequence[Expr]) -> Matrix:
        """Return D_r(c), a column over q_r."""
        state, n = self.iteration.state, self.network.samples
        return Matrix(
            [
                Rational(1, n)
                * sympy.Add(
                    *(c * sympy.diff(z[r], state[j]) for c, z in zip(cotangents, self.contributions, strict=True))
                )
                for j in self.neuron(r)
            ]
        )

    def diagonal_block(self, k: int) -> ImmutableMatrix:
        """Return Sigma_kk by (3)."""
        v = self.variance
        own = self.pulled(k, [e + v * z[k] for e, z in zip(self.errors, self.contributions, strict=True)])
        others = [self.pulled(k, self._neuron_values(j)) for j in self._others(k)]
        return ImmutableMatrix(v * own * own.T + v * (1 + v) * self._sum_of_squares(others))

    def cross_block(self, k: int, r: int) -> ImmutableMatrix:
        """Return Sigma_kr, k != r, by (4)."""
        v = self.variance
        c = [e + v * (z[k] + z[r]) for e, z in zip(self.errors, self.contributions, strict=True)]
        z_k, z_r = self._neuron_values(k), self._neuron_values(r)
        block = v * self.pulled(k, c) * self.pulled(r, z_k).T + v * self.pulled(k, z_r) * self.pulled(r, c).T
        block -= v**2 * self.pulled(k, z_r) * self.pulled(r, z_k).T
        for j in self._others(k, r):
            block += v * self.pulled(k, self._neuron_values(j)) * self.pulled(r, self._neuron_values(j)).T
        return ImmutableMatrix(block)

    # --- the approximations of sec. 5.2 -------------------------------------------------------------------------------

    @cached_property
    def approximate_hessian(self) -> ImmutableMatrix:
        """The approximation (5) of Hess L_S."""
        return self._weighted_squares([1] * self.network.samples, [self.variance] * self.network.samples)

    @cached_property
    def approximate_covariance(self) -> ImmutableMatrix:
        """The approximation (6) of Sigma."""
        v = self.variance
        first = [e**2 + v * sympy.Add(*(x**2 for x in z)) for e, z in zip(self.errors, self.contributions, strict=True)]
        return self._weighted_squares(first, [v * e**2 for e in self.errors])

    @cached_property
    def hessian(self) -> ImmutableMatrix:
        """Hess L_S."""
        return ImmutableMatrix(sympy.hessian(self.modified_loss, self.iteration.state))

    # --- claims -------------------------------------------------------------------------------------------------------

    @cached_property
    def claims(self) -> list[Claim]:
        """Each formula beside the derivation from the moments of the masks; `exact` says whether they agree."""
        state, lr, equation = self.iteration.state, self.iteration.small, self.equation
        gradient = _gradient(self.modified_loss, state)
        mean = -equation.drift_terms[0]
        covariance = equation.covariance
        claims = [
            _claim(
                "modified loss",
                r"\mathrm{E} R_S(\theta; \eta) = R_S + R_1",
                [self.modified_loss],
                [self.risk + self.r1],
            ),
            _claim("mean gradient", r"\mathrm{E} \nabla R_S(\theta; \eta) = \nabla L_S", mean, gradient),
            _claim(
                "R_2",
                r"R_2 = \tfrac{\mathrm{lr}}{4} \left(|\nabla L_S|^2 + \mathrm{Tr}\, \Sigma\right)",
                [self._second_moment() * lr / 4],
                [self.r2],
            ),
            _claim(
                "drift of order 2",
                r"b_0 + \mathrm{lr}\, b_1 = -\nabla \left(L_S + \tfrac{\mathrm{lr}}{4} |\nabla L_S|^2\right)",
                equation.drift,
                -_gradient(self.modified_loss + lr / 4 * (gradient.T * gradient)[0], state),
            ),
            _claim(
                "drift of the flow of R_S + R_1 + R_2",
                r"b_0 + \mathrm{lr}\, b_1 = -\nabla \left(R_S + R_1 + R_2\right)",
                equation.drift,
                -_gradient(self.risk + self.r1 + self.r2, state),
            ),
        ]
        width = range(self.network.widths[0])
        for k in width:
            block = covariance.extract(self.neuron(k), self.neuron(k))
            claims.append(_claim(f"Sigma_{k + 1}{k + 1}", SIGMA_KK, block, self.diagonal_block(k)))
        for k in width:
            for r in range(k + 1, len(width)):
                block = covariance.extract(self.neuron(k), self.neuron(r))
                claims.append(_claim(f"Sigma_{k + 1}{r + 1}", SIGMA_KR, block, self.cross_block(k, r)))
        return [*claims, self._gradient_norm_claim(), *self._approximations()]

    def _gradient_norm_claim(self) -> Claim:
        network, v = self.network, self.variance
        return _claim(
            "rate of the mean squared gradient of f at R_S = 0",
            GRADIENT_NORM_RATE,
            [gradient_norm_rate(network, v)],
            [squares_rate(network, v) + curvature_rate(network, v)],
        )

    def _approximations(self) -> list[Claim]:
        one_sample = modified_equation(dropout_sgd(self.network, self.masks), order=1)
        b0 = one_sample.drift_terms[0]
        second_moment = one_sample.covariance + b0 * b0.T
        ours, H, S = self.approximate_covariance, r"\widetilde{H}", r"\widetilde{\Sigma}"
        hidden = range(len(self.iteration.state) - self.network.widths[0])
        claims = [
            _claim("approximate Hessian as Hess L_S", rf"\nabla^2 L_S = {H}", self.hessian, self.approximate_hessian),
            _claim("approximate covariance as Cov, one mask", rf"\Sigma = {S}", self.equation.covariance, ours),
            _claim(
                "approximate covariance as Cov, one mask and one sample per step",
                rf"\mathrm{{Cov}}_{{i, \eta}} \nabla \ell_i = {S}",
                one_sample.covariance,
                ours,
            ),
            _claim(
                "approximate covariance as second moment, one mask and one sample per step",
                rf"\mathrm{{E}}_{{i, \eta}} \left(\nabla \ell_i\right)^{{\otimes 2}} = {S}",
                second_moment,
                ours,
            ),
        ]
        if self.hessian.atoms(AppliedUndef):
            piecewise_linear = _claim(
                "approximate Hessian of the hidden weights where sigma'' = 0",
                rf"\nabla_w^2 L_S = {H}_{{ww}} \text{{ for }} \sigma'' = 0",
                _without_second_derivatives(self.hessian.extract(hidden, hidden)),
                self.approximate_hessian.extract(hidden, hidden),
            )
            claims.insert(1, piecewise_linear)
        return claims

    def latex(self) -> str:
        """Return the definitions as one align environment (amsmath)."""
        return align(DEFINITIONS)

    def _second_moment(self) -> Expr:
        gradient = [sympy.diff(self.iteration.loss, theta) for theta in self.iteration.state]
        return sympy.Add(*(expectation(self.iteration, g**2) for g in gradient))

    def _neuron_values(self, r: int) -> list[Expr]:
        return [z[r] for z in self.contributions]

    def _others(self, *excluded: int) -> list[int]:
        return [r for r in range(self.network.widths[0]) if r not in excluded]

    def _sum_of_squares(self, columns: Sequence[Matrix]) -> Matrix:
        size = len(self.neuron(0))
        return sum((column * column.T for column in columns), sympy.zeros(size, size))

    def _weighted_squares(self, first: Sequence[Expr], second: Sequence[Expr]) -> ImmutableMatrix:
        """Return 1/n sum_i [first_i grad f^(x)2 + second_i sum_r (grad z_r)^(x)2], as in (5) and (6)."""
        state, size = self.iteration.state, len(self.iteration.state)
        total = sympy.zeros(size, size)
        for l1, l2, z in zip(first, second, self.contributions, strict=True):
            parts = [_gradient(x, state) for x in z]
            whole = sum(parts, sympy.zeros(size, 1))
            total += l1 * whole * whole.T + l2 * sum((part * part.T for part in parts), sympy.zeros(size, size))
        return ImmutableMatrix(total / self.network.samples)


SIGMA_KK = (
    r"\Sigma_{kk} = v\, D_k\!\left(e_{\setminus k} + \tfrac{z_k}{p}\right)^{\otimes 2}"
    r" + \left(\tfrac{1}{p^2} - \tfrac{1}{p}\right) \sum_{l \ne k} D_k(z_l)^{\otimes 2}"
)
SIGMA_KR = (
    r"\Sigma_{kr} = v\, D_k(c) \otimes D_r(z_k) + v\, D_k(z_r) \otimes D_r(c) - v^2 D_k(z_r) \otimes D_r(z_k)"
    r" + v \sum_{l \ne k, r} D_k(z_l) \otimes D_r(z_l)"
)
GRADIENT_NORM_RATE = (
    r"-\nabla R_1 \cdot \nabla \frac{1}{n} \sum_i |\nabla f(x_i)|^2 = -\frac{2v}{n^2} \sum_r \Big[ a_r^2 \sum_i"
    r" \sigma_{ri}^2 \sum_i \sigma_{ri}'^2 |x_i|^2 + a_r^2 \Big|\sum_i \sigma_{ri} \sigma_{ri}' x_i\Big|^2"
    r" + a_r^4 \sum_i \sigma_{ri} \sigma_{ri}' x_i \cdot \sum_i \sigma_{ri}' \sigma_{ri}'' |x_i|^2 x_i \Big]"
)
DEFINITIONS = [
    r"z_r(x_i) &= a_r \sigma(w_r \cdot x_i), \quad e_i = \sum_r z_r(x_i) - y_i, \quad v = \tfrac{1}{p} - 1",
    r"D_r(c) &= \frac{1}{n} \sum_i c_i \nabla_{q_r} z_r(x_i), \quad q_r = (w_r, a_r)",
    r"c &= e_{\setminus k, r} + \tfrac{z_k + z_r}{p}",
    r"R_1 &= \frac{v}{2n} \sum_{i, r} z_r(x_i)^2, \quad"
    r" R_2 = \frac{\mathrm{lr}}{4} \mathrm{E} |\nabla R_S(\theta; \eta)|^2",
    r"\widetilde{H} &= \frac{1}{n} \sum_i \Big[ \nabla f(x_i)^{\otimes 2} + v \sum_r \nabla z_r(x_i)^{\otimes 2} \Big]",
    r"\widetilde{\Sigma} &= \frac{1}{n} \sum_i \Big[ \Big(e_i^2 + v \sum_r z_r(x_i)^2\Big) \nabla f(x_i)^{\otimes 2}"
    r" + v\, e_i^2 \sum_r \nabla z_r(x_i)^{\otimes 2} \Big]",
]


def _claim(name: str, latex: str, left: Sequence[Expr] | Matrix, right: Sequence[Expr] | Matrix) -> Claim:
    return Claim(name, latex, ImmutableMatrix(left), ImmutableMatrix(right))


def _gradient(function: Expr, state: Sequence[Symbol]) -> Matrix:
    return Matrix([sympy.diff(function, theta) for theta in state])


def _without_second_derivatives(matrix: ImmutableMatrix) -> ImmutableMatrix:
    """Return the matrix for an undefined activation that is piecewise linear."""
    calls = {call for call in matrix.atoms(AppliedUndef) if call.func.__name__.endswith("primeprime")}
    return matrix.xreplace(dict.fromkeys(calls, Integer(0)))
