"""Dropout on the last hidden layer at any width: the cotangents of mean and noise.

Network f(x_i; eta) = sum_r eta_r z_ir + b with contributions z and an unmasked readout bias b, squared loss,
one mask for all samples. The gradient of R_S(theta; eta) is one pullback J(c) of theta -> z (and of b), with

    c_k = eta_k (sum_r eta_r z_r + b - y) = sum_r S_kr z_r + u_k (b - y),    S = eta eta^T,  u = eta,

linear in the pair (S, u). So only the three monomials eta_k^2, eta_k eta_r (r != k) and eta_k need to be
expanded in orthonormal mask polynomials, whatever the width, the data and the activation:

    S_kk = (1 + v) + sqrt(v) (2 + s) xi_k + sqrt(h_2) omega_k,    h_2 = E zeta^4 - v^2 - s^2 v,
    S_kr = 1 + sqrt(v) (xi_k + xi_r) + v Xi_kr,
    u_k  = 1 + sqrt(v) xi_k.

Exactly so for the masks, with xi_k = zeta_k/sqrt(v), Xi_kr = xi_k xi_r, omega_k = q_2(zeta_k)/sqrt(h_2); for
the SDE xi, Xi (symmetric) and omega are independent standard normals, which have the same covariance. With
e = sum_r z_r + b - y this is the mean cotangent c_k = e + v z_k of Zhang, Li, Luo & Xu (ICLR 2024, sec. 4.1)
and an exact factor of their covariance (sec. 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import sympy
from sympy import Expr, Integer, Symbol

from smesolve.problem.masks import MaskLaw
from smesolve.symbolic.chaos_expansion import expand
from smesolve.symbolic.latex_code import align
from smesolve.symbolic.variable_functions import Powers

__all__ = ["Contributions", "CotangentExpansion", "cotangent_expansion"]

ERROR, OWN, OWN_NORMAL, OTHER_NORMAL = map(Symbol, ("e", "z_k", "xi_k", "xi_r"))
PAIR_NORMAL, QUADRATIC_NORMAL = map(Symbol, ("Xi_kr", "omega_k"))
LINEAR_SUM = Symbol(r"\sum_{r} \xi_{r} z_{r}")
PAIR_SUM = Symbol(r"\sum_{r \ne k} \Xi_{kr} z_{r}")


class Contributions(NamedTuple):
    """c_k in the error e = sum_r z_r + b - y and the contributions."""

    mean: Expr
    noise: Expr


@dataclass(frozen=True)
class CotangentExpansion:
    """Coefficients of S_kk, S_kr and u_k on 1, xi_k, Xi_kr, omega_k.

    sympy expressions; for a law of numbers `float` takes each of them.
    """

    law: MaskLaw
    square_mean: Expr
    """E S_kk."""
    square_linear: Expr
    """S_kk on xi_k."""
    square_quadratic: Expr
    """S_kk on omega_k: 0 for laws on two values."""
    pair_mean: Expr
    """E S_kr."""
    pair_linear: Expr
    """S_kr on xi_k, and on xi_r."""
    pair_pair: Expr
    """S_kr on Xi_kr."""
    mask_mean: Expr
    """E u_k."""
    mask_linear: Expr
    """u_k on xi_k."""

    def contributions_form(self) -> Contributions:
        """c_k with b - y = e - sum_r z_r put in; sum_r z_r drops out of the mean and of the noise.

        For dropout: e + v z_k, and sqrt(v) [xi_k (e + s z_k) + sum_r xi_r z_r] + v sum_{r != k} Xi_kr z_r.
        """
        total = Symbol("Z")
        mean = self.square_mean * OWN + self.pair_mean * (total - OWN) + self.mask_mean * (ERROR - total)
        noise = (
            (self.square_linear * OWN_NORMAL + self.square_quadratic * QUADRATIC_NORMAL) * OWN
            + self.pair_linear * (OWN_NORMAL * (total - OWN) + LINEAR_SUM - OWN_NORMAL * OWN)
            + self.pair_pair * PAIR_SUM
            + self.mask_linear * OWN_NORMAL * (ERROR - total)
        )
        return Contributions(
            sympy.collect(sympy.expand(mean), OWN),
            sympy.collect(sympy.expand(noise), [OWN_NORMAL * OWN, OWN_NORMAL, PAIR_SUM]),
        )

    def latex(self) -> str:
        """S, u and the cotangents of mean and noise as one align environment (amsmath)."""
        square = self.square_mean + self.square_linear * OWN_NORMAL + self.square_quadratic * QUADRATIC_NORMAL
        pair = self.pair_mean + self.pair_linear * (OWN_NORMAL + OTHER_NORMAL) + self.pair_pair * PAIR_NORMAL
        mask = self.mask_mean + self.mask_linear * OWN_NORMAL
        mean, noise = self.contributions_form()
        named = {
            "S_{kk}": square,
            r"S_{kr} \; (r \ne k)": pair,
            "u_{k}": mask,
            r"\mathrm{E}\, c_{k}": mean,
            r"c_{k} - \mathrm{E}\, c_{k}": noise,
        }
        return align([f"{name} &= {sympy.latex(expression)}" for name, expression in named.items()])


def cotangent_expansion(law: MaskLaw) -> CotangentExpansion:
    """Expand eta_k^2, eta_k eta_r and eta_k in the orthonormal polynomials of two independent masks."""
    columns = expand([Powers(law, 2)] * 2, [{(2, 0): Integer(1)}, {(1, 1): Integer(1)}, {(1, 0): Integer(1)}])
    absent = [Integer(0)] * 3
    mean, linear, pair, quadratic = (columns.get(degrees, absent) for degrees in ((0, 0), (1, 0), (1, 1), (2, 0)))
    return CotangentExpansion(
        law=law,
        square_mean=mean[0],
        square_linear=linear[0],
        square_quadratic=quadratic[0],
        pair_mean=mean[1],
        pair_linear=linear[1],
        pair_pair=pair[1],
        mask_mean=mean[2],
        mask_linear=linear[2],
    )
