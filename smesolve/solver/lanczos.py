"""Functions of a symmetric matrix that is given by its products with vectors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["apply_function"]


def apply_function(
    product: Callable[[Tensor], Tensor], vector: Tensor, function: Callable[[Tensor], Tensor], steps: int = 16
) -> Tensor:
    """Return f(A) vector for a symmetric matrix A of each path, (B, D), by the Lanczos process.

    f(A) v ~ |v| V f(T) e_1 with the orthonormal Krylov basis V and the tridiagonal T = V^T A V. The result is exact for
    steps >= D. The error falls geometrically in `steps` if f is analytic around the spectrum of A.

    Args:
        product: multiplication of (B, D) by A. Each path has a matrix of its own.
        vector: (B, D).
        function: f, elementwise.
        steps: size of the Krylov space, and number of products. Memory: B D steps floats.

    Source: Golub, Meurant, *Matrices, Moments and Quadrature* (2010), chapter 4.
    """
    norm = vector.norm(dim=-1, keepdim=True)
    tiny = torch.finfo(vector.dtype).tiny
    basis = [vector / norm.clamp_min(tiny)]
    diagonal, off_diagonal = [], []
    for _ in range(min(steps, vector.shape[-1])):
        image = product(basis[-1])
        diagonal.append((basis[-1] * image).sum(-1))
        # Twice, against the whole basis: rounding would otherwise bring old directions back.
        scale = image.norm(dim=-1, keepdim=True)
        space = torch.stack(basis, dim=-1)
        for _ in range(2):
            image = image - (space @ (space.mT @ image[..., None]))[..., 0]
        length = image.norm(dim=-1, keepdim=True)
        # An invariant subspace is reached where nothing but rounding is left: the process stops there.
        going = length > 1e-12 * scale
        off_diagonal.append(torch.where(going, length, 0.0)[..., 0])
        basis.append(torch.where(going, image / length.clamp_min(tiny), 0.0))
    T: Tensor = torch.diag_embed(torch.stack(diagonal, -1))
    if len(diagonal) > 1:
        links = torch.stack(off_diagonal[:-1], -1)
        T = T + torch.diag_embed(links, 1) + torch.diag_embed(links, -1)
    values, vectors = torch.linalg.eigh(T)
    weights = (vectors * (function(values) * vectors[..., 0, :])[..., None, :]).sum(-1)
    result: Tensor = norm * (torch.stack(basis[:-1], -1) @ weights[..., None])[..., 0]
    return result
