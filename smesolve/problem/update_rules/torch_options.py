"""The update rule of a torch optimiser, from its class and its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from smesolve.entry_point import nearest_name
from smesolve.errors import SmesolveError, shown
from smesolve.problem.update_rules import UPDATE_RULES
from smesolve.problem.update_rules.update_rule import UpdateRule
from smesolve.validation import check_flag, check_list, check_number, check_optional

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
    parameters = inspect.signature(optimizer).parameters.items()
    defaults = {key: parameter.default for key, parameter in parameters if key not in ("params", "lr")}
    for key, value in options.items():
        if key not in defaults:
            raise TypeError(f"{name} has no option {key}; {nearest_name(key, list(defaults))}.")
        options = {**options, key: _checked(key, value, defaults[key])}
    try:
        make: Callable[..., torch.optim.Optimizer] = optimizer
        found = make([torch.zeros(1, requires_grad=True)], lr=lr, **options).defaults
    except (ValueError, TypeError, RuntimeError) as error:
        given = ", ".join(f"{key}={shown(value)}" for key, value in options.items())
        raise SmesolveError(f"{name} of torch refuses {given} ({' '.join(str(error).split())[:200]}).") from error
    return UPDATE_RULES[optimizer]({**found, "lr": lr})


def _checked(name: str, value: Any, default: Any) -> Any:
    """Return an option of the kind that its default is of, as torch does not check every value."""
    if default is None:
        return check_optional(name, value, check_flag)
    if isinstance(default, bool):
        return check_flag(name, value)
    if isinstance(default, tuple):
        return tuple(check_list(name, value, check_number, size=len(default)))
    return check_number(name, value)
