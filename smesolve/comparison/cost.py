"""The work of paths in gradients, which progress bars count and which decides how paths are shared between sides."""

from __future__ import annotations

from smesolve.solver.modified_equation import Order, weak_order
from smesolve.solver.schemes import SCHEMES

__all__ = ["ITERATION_STEP_COST", "step_cost"]

ITERATION_STEP_COST = 1.5
"""Gradients that one step of the iteration takes with its control variates."""

NOISE_PRODUCT_COST, HESSIAN_PRODUCT_COST = 1.5, 4.0
"""Gradients that a noise product and a Hessian product take."""


JUMP_COST, FLOW_COST = 4.0, 4.0
"""Gradients that a jump of the equation of order 3 takes, and the flow up to it."""


def step_cost(order: Order, scheme: str) -> float:
    """Return the gradients that one step of a scheme takes on the equation of an order.

    Where it has jumps no scheme has a part, and it is that of a step of lr. At order 3 these are one jump on average,
    the flow up to it, and the share of a flow that is cut at the end of a step; for "poisson" one training step.
    """
    if order == "poisson":
        return ITERATION_STEP_COST
    if order == 3:
        return JUMP_COST + 2 * FLOW_COST
    declared = SCHEMES[scheme]
    noise = NOISE_PRODUCT_COST * declared.noise_products
    corrections = HESSIAN_PRODUCT_COST * declared.corrections * (weak_order(order) - 1)
    return float(declared.drift_evaluations + noise + corrections)
