"""What an argument of a name must be: a name means the same everywhere in the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smesolve.arguments.kinds import AnyOf, Argument, Called, Instance, Integer, Items, Number, Parameters, SymbolOr
from smesolve.errors import invalid

if TYPE_CHECKING:
    import torch

__all__ = [
    "COUNT",
    "ENSEMBLE",
    "EXPRESSION",
    "INDEX",
    "KEEP_PROB",
    "MAY_BE_EMPTY",
    "MEANINGS",
    "NOT_NEGATIVE",
    "OBSERVABLE",
    "POINTS",
    "POSITIVE",
]

POINTS = Parameters(None, values=False)
"""Parameters with any leading dimensions, differentiable: NaN is answered by NaN."""

POSITIVE, NOT_NEGATIVE = Number(0.0), Number(0.0, closed=True)
COUNT, INDEX = Integer(1), Integer(0)
ENSEMBLE = Integer(2)
"""Paths, where their mean has an error bar."""
EXPRESSION = SymbolOr(Number())
OBSERVABLE = AnyOf((Instance((str,), "a name such as 'loss'"), Called()))
KEEP_PROB = Number(
    0.0,
    1.0,
    up_to=True,
    remedy="it is the probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob)",
)


def _dtype(name: str, value: Any, given: Mapping[str, Any]) -> torch.dtype:
    import torch  # here, as configurations and --help do without it

    if not isinstance(value, torch.dtype) or value not in (torch.float32, torch.float64):
        raise invalid(name, "be torch.float64 or torch.float32", value)
    return value


def _device(name: str, value: Any, given: Mapping[str, Any]) -> torch.device:
    import torch

    if isinstance(value, (str, torch.device)):
        try:
            return torch.empty(0, device=value).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            remedy = "take cpu, or cuda for a GPU" if "Expected one of" in reason else f"take cpu ({reason})"
            raise invalid(name, "be a device that is there", value, remedy) from None
    raise invalid(name, "be a torch device such as 'cpu'", value)


def _anything(name: str, value: Any, given: Mapping[str, Any]) -> Any:
    return value


MEANINGS: dict[str, Argument] = {
    # numbers
    "ts": Items(Number(), filled=True),
    "times": Items(POSITIVE, filled=True),
    "lr": POSITIVE,
    "lrs": POSITIVE,
    "dt": POSITIVE,
    "horizon": POSITIVE,
    "keep_prob": KEEP_PROB,
    "keep_probs": KEEP_PROB,
    "rel_tol": Number(0.0, 1.0, remedy="0.1 asks for errors known to 10%"),
    "tolerance": Number(0.0, 1.0, remedy="0.02 asks for errors under 2%"),
    "max_memory": POSITIVE,
    "multiples": POSITIVE,
    "relaxations": POSITIVE,
    "friction": SymbolOr(NOT_NEGATIVE),
    "scale": POSITIVE,
    "rise": POSITIVE,
    "tol": Number(0.0, 1.0),
    "variance": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "label_noise": NOT_NEGATIVE,
    "parameter_noise": NOT_NEGATIVE,
    # integers
    "orders": AnyOf((COUNT, Instance((str,), "'quadratic'"))),
    "seed": Integer(0, most=2**64 - 1),
    "block": INDEX,
    "keep": INDEX,
    "save": INDEX,
    "paths": COUNT,
    "max_paths": COUNT,
    "quadratic_paths": Integer(2),
    "populations": Integer(2),
    "steps": COUNT,
    "count": COUNT,
    "kappas": COUNT,
    "factors": COUNT,
    "widths": COUNT,
    "width": COUNT,
    "in_features": COUNT,
    "out_features": COUNT,
    "hidden": COUNT,
    "samples": COUNT,
    "batch": COUNT,
    "batch_size": COUNT,
    "noise_dim": INDEX,
    "workers": Integer(1, "leave it out to run in this process", most=2**12),
    "threads": Integer(1, most=2**12),
    "runs": Integer(2),
    "checkpoints": Integer(2),
    "layers": COUNT,
    "depth": COUNT,
    "probes": COUNT,
    "draws": COUNT,
    "directions": COUNT,
    "eigenpairs": COUNT,
    # observables, whose names `named_observables` knows
    "observable": OBSERVABLE,
    "observables": OBSERVABLE,
    # tensors
    "theta0": Parameters(),
    "theta": Parameters(),
    "starts": Parameters(("B",)),
    "states": Parameters(("T", "B")),
    # places
    "dtype": _dtype,
    "device": _device,
    # data: `finite_data` says what they must be, and turns them into tensors
    "x": _anything,
    "y": _anything,
}
"""What an argument of a name must be, in every function that `checked` guards and that does not say otherwise."""

MAY_BE_EMPTY = ("constants",)
"""Sequences that need not hold anything."""
