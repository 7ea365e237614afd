"""Training of only the readout on the features of theta0: a linear problem whose moments are known exactly."""

from __future__ import annotations

from torch import Tensor

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.networks import LinearNetwork
from smesolve.validation import check_parameters

__all__ = ["readout_problem"]


@entry_point
def readout_problem(problem: DropoutProblem, theta0: Tensor) -> tuple[DropoutProblem, Tensor]:
    """Return the problem of the readout on the features at theta0 (D,), and its start (o m,).

    Hidden layers and an unmasked bias stay at theta0; mask law, masks and targets are those of `problem`.

    Raises:
        SmesolveError: `problem` is not a `DropoutProblem` with shared masks.
    """
    if not isinstance(problem, DropoutProblem) or problem.per_sample:
        masks = " with masks per sample" if isinstance(problem, DropoutProblem) else ""
        raise SmesolveError(
            f"problem must be a DropoutProblem with shared masks, got a {type(problem).__name__}{masks}; exact moments "
            "of other problems are not known."
        )
    theta0 = check_parameters("theta0", theta0, problem)
    at = problem.network.linearize(theta0, problem.x)
    network = LinearNetwork(problem.width, problem.out_features, dtype=problem.dtype, device=problem.device)
    targets = problem.y if at.bias is None else problem.y - at.bias.mT
    return DropoutProblem(network, at.features.mT, targets, law=problem.law), at.readout.flatten()
