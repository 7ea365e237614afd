"""Leading dimensions of parameters and of what is given for them: draws, normals, vectors."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from smesolve.errors import SmesolveError

__all__ = ["check_leading"]


def check_leading(theta: Tensor, name: str, values: Tensor, trailing: int = 1) -> None:
    """Check that the leading dimensions of theta (..., D) and of other values broadcast.

    Args:
        theta: parameters.
        name: name of the other values in messages.
        values: draws, normals or vectors, whose shapes have been checked but for the leading dimensions.
        trailing: number of dimensions of the values that do not lead.

    Raises:
        SmesolveError: they do not broadcast.
    """
    lead, other = theta.shape[:-1], values.shape[: values.ndim - trailing]
    if lead == other:
        return
    try:
        np.broadcast_shapes(lead, other)  # torch's is slow
    except ValueError:
        raise SmesolveError(
            f"the leading dimensions of theta and {name} must be the same or 1, got {tuple(lead)} and {tuple(other)}; "
            f"give {name} for each theta, or one for all of them."
        ) from None
