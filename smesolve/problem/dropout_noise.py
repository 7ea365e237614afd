"""The noise of the dropout gradient as cotangents, for squared error.

Gradients and noise are J of cotangents c_k of the contributions z_k = A_k h_k, where J is the pullback divided by n. A
pair (S, u) determines the cotangents,

    (1)  c_k = sum_r S_kr z_r + u_k (b - y).

With independent standard normals xi (m), Xi (m, m; symmetric, zero diagonal, m(m-1)/2 free entries) and omega (m), and
the moments v, s and w^2 = E chi^2 of the mask law (`smesolve.problem.masks`), the noise is

    (2)  u = sqrt(v) xi,    S = u 1^T + 1 u^T + v Xi + diag(s u + w omega).

This is the Hoeffding expansion of (eta eta^T, eta) with its orthonormal functions of the masks replaced by normals.
For masks on two values w = 0 and omega is absent. A cheaper choice of the pairs, with which S has rank three plus a
diagonal, is

    (3)  Xi_kr = g e_k e_r  (k != r),      g a standard normal, e_k = +-1 independent fair signs.

Like independent normals it has mean zero, covariance I and no odd moments; the fourth moments differ. With
R = sum_r z_r + b - y, L = sum_r u_r z_r and E = sum_r e_r z_r, (1) to (3) become

    (4)  c_k = u_k R + L + v g e_k E + delta_k z_k,      delta = s u - v g + w omega.

The mean gradient has S = 1 1^T + v I and u = 1. A multiple `weight` of it is added by

    (5)  S + weight (1 1^T + v I),  u + weight,          or in (4)  L + weight R,  delta + weight v.

The readout bias b is not masked; its cotangent is sum_r u_r z_r + weight (b - y), with u as in (5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from smesolve.problem.differentiable_scalar import as_scalar
from smesolve.problem.masks import MaskLaw
from smesolve.problem.networks import NetworkLinearization

__all__ = ["Cotangents", "PairNoise", "per_sample_noise", "sign_noise", "squared_norms"]

Cotangents = tuple[Tensor, Tensor, Tensor]
"""Cotangents of features (..., m, n), readout (..., o, m) and outputs (..., o, n). The sum of the last one over samples
is the cotangent of the bias."""


class PairNoise:
    """(2) with independent normals, m + m(m-1)/2 of them, and m more for laws on more than two values.

    Args:
        width: m.
        device: of the normals.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self.width = width
        first, second = torch.triu_indices(width, width, 1, device=device)
        self.pairs = len(first)
        """m(m-1)/2."""
        # Entry (k, r) of S is read from the vector (diagonal terms, pairs).
        position = torch.diag(torch.arange(width, device=device))
        position[first, second] = width + torch.arange(self.pairs, device=device)
        self._position = (position + position.triu(1).mT).flatten()

    def cotangents(
        self, at: NetworkLinearization, offset: Tensor, law: MaskLaw, normals: Tensor, weight: float
    ) -> Cotangents:
        """Return (1) for (2) and (5), with offset = b - y, without an array (n, m, o).

        S acts on features as S o A^T A and on the readout as S o h h^T (o: Hadamard product). For one output the
        product S z serves both.
        """
        S, u = self._pair(law, normals, weight)
        if at.readout.shape[-2] == 1:
            cotangents = _added_product(u[..., :, None] * offset, S * at.readout, at.features)  # (1)
            features, readout = at.readout.mT * cotangents, torch.linalg.vecdot(at.features, cotangents)[..., None, :]
        else:
            through = (at.readout * u[..., None, :]).mT @ offset
            features = _added_product(through, S * (at.readout.mT @ at.readout), at.features)
            readout = at.readout @ (S * (at.features @ at.features.mT)) + u[..., None, :] * (offset @ at.features.mT)
        outputs = offset
        if at.bias is not None:
            outputs = (at.readout * u[..., None, :]) @ at.features + weight * offset
        return features, readout, outputs

    def _pair(self, law: MaskLaw, normals: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Return (S, u): (..., m, m) and (..., m)."""
        m = self.width
        u = as_scalar(law.variance) ** 0.5 * normals[..., :m]  # (2)
        diagonal = law.skew * u + weight * law.variance  # (2), (5)
        if law.chi_variance:
            diagonal = diagonal + law.chi_variance**0.5 * normals[..., m + self.pairs :]
        entries = torch.cat([diagonal, law.variance * normals[..., m : m + self.pairs]], dim=-1)
        S = entries.index_select(-1, self._position).unflatten(-1, (m, m))
        return S + (u + weight)[..., :, None] + u[..., None, :], u + weight  # (2), (5)


def sign_noise(at: NetworkLinearization, offset: Tensor, law: MaskLaw, normals: Tensor, weight: float) -> Cotangents:
    """Return (4) with (5) for masks shared by all samples, with offset = b - y.

    `normals` holds xi (m), m normals whose signs are e, g (1), and omega (m) for laws on more than two values.
    """
    o, m = at.readout.shape[-2:]
    u, signs = as_scalar(law.variance) ** 0.5 * normals[..., :m], normals[..., m : 2 * m].sign()
    pairs = law.variance * normals[..., 2 * m : 2 * m + 1]  # v g
    diagonal = law.skew * u - pairs + weight * law.variance  # delta of (4), (5)
    if law.chi_variance:
        diagonal = diagonal + law.chi_variance**0.5 * normals[..., 2 * m + 1 :]
    plain, masked, signed = torch.broadcast_tensors(
        at.readout, at.readout * u[..., None, :], at.readout * signs[..., None, :]
    )
    R, L, E = (torch.cat([plain, masked, signed], -2) @ at.features).split(o, -2)
    R = R + offset
    L = L + weight * R  # (5)
    E = pairs[..., None] * E
    if o == 1:
        cotangents = torch.addcmul(L, u[..., None], R)  # (4), term by term
        cotangents = torch.addcmul(cotangents, signs[..., None], E)
        cotangents = torch.addcmul(cotangents, diagonal[..., None] * at.readout.mT, at.features)
        features, readout = at.readout.mT * cotangents, torch.linalg.vecdot(at.features, cotangents)[..., None, :]
        return features, readout, L
    cotangents = torch.cat([R, L, E], -2)
    features = torch.addcmul(
        torch.cat([masked, plain, signed], -2).mT @ cotangents,
        (diagonal * at.readout.square().sum(-2))[..., None],
        at.features,
    )
    from_R, from_L, from_E = (cotangents @ at.features.mT).split(o, -2)
    readout = u[..., None, :] * from_R + from_L + signs[..., None, :] * from_E
    readout = readout + at.readout * (diagonal * squared_norms(at.features))[..., None, :]
    return features, readout, L


def per_sample_noise(
    at: NetworkLinearization, residual: Tensor, law: MaskLaw, normals: Tensor, weight: float
) -> Cotangents:
    """Return (4) with (5), where each sample has xi, e, g and omega of its own; `residual` is R.

    `normals` (..., n (2m + 1)), or (..., n (3m + 1)), holds the normals of `sign_noise` for one sample after the other.
    """
    m = at.readout.shape[-1]
    normals = normals.unflatten(-1, (at.features.shape[-1], -1)).mT  # neurons before samples, as in the features
    u = as_scalar(law.variance) ** 0.5 * normals[..., :m, :]
    signs = normals[..., m : 2 * m, :].sign()
    pairs = law.variance * normals[..., 2 * m : 2 * m + 1, :] * signs  # v g e_k
    diagonal = law.skew * u - pairs * signs + weight * law.variance  # delta of (4), (5)
    if law.chi_variance:
        diagonal = diagonal + law.chi_variance**0.5 * normals[..., 2 * m + 1 :, :]
    linear, signed = at.readout @ (u * at.features), at.readout @ (signs * at.features)  # L and E of (4)
    linear = linear + weight * residual  # (5)
    features = u * (at.readout.mT @ residual) + at.readout.mT @ linear + pairs * (at.readout.mT @ signed)
    features = features + diagonal * at.readout.square().sum(-2)[..., None] * at.features
    readout = residual @ (u * at.features).mT + linear @ at.features.mT + signed @ (pairs * at.features).mT
    readout = readout + at.readout * (diagonal * at.features.square()).sum(-1)[..., None, :]
    return features, readout, linear


def squared_norms(features: Tensor) -> Tensor:
    """Return sum_i h_ki^2 (..., m)."""
    squares: Tensor = torch.linalg.vecdot(features, features)
    return squares


def _added_product(summand: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Return summand + left @ right, in one pass if each of them holds one matrix per path."""
    if summand.ndim == left.ndim == right.ndim == 3 and summand.shape[0] == left.shape[0] == right.shape[0]:
        return torch.baddbmm(summand, left, right)
    return summand + left @ right
