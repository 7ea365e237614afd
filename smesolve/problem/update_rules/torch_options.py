"""The update rule of a torch optimiser, from its class and its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, invalid, shown
from smesolve.problem.update_rules import UPDATE_RULES
from smesolve.problem.update_rules.update_rule import UpdateRule
from smesolve.validation import check_number

__all__ = ["rule_of"]


def rule_of(optimizer: type[torch.optim.Optimizer], lr: float, options: dict[str, Any]) -> UpdateRule:
    """Return the update rule of a torch optimiser with all its options, which torch itself checks.

    Raises:
        SmesolveError: the optimiser is not in `UPDATE_RULES`, or torch refuses the options.
        TypeError: the optimiser does not have such an option.
    """
    name = optimizer.__name__
    if optimizer not in UPDATE_RULES:
        known = ", ".join(one.__name__ for one in UPDATE_RULES)
        raise SmesolveError(f"optimizer must be one of {known} of torch.optim, or a step of your own, got {name}.")
    known_options = [key for key in inspect.signature(optimizer).parameters if key not in ("params", "lr")]
    for key, value in options.items():
        if key not in known_options:
            raise TypeError(f"{name} has no option {key}; {nearest_name(key, known_options)}.")
        _check_option(key, value)
    try:
        make: Callable[..., torch.optim.Optimizer] = optimizer
        defaults = make([torch.zeros(1, requires_grad=True)], lr=lr, **options).defaults
    except (ValueError, TypeError, RuntimeError) as error:
        given = ", ".join(f"{key}={shown(value)}" for key, value in options.items())
        raise SmesolveError(f"{name} of torch refuses {given} ({' '.join(str(error).split())[:200]}).") from error
    return UPDATE_RULES[optimizer]({**defaults, "lr": lr})


def _check_option(name: str, value: Any) -> None:
    """Check the type of an option, some of whose values torch does not check."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise invalid(name, "hold two numbers", value)
        for number in value:
            check_number(name, number)
    else:
        check_number(name, value)
