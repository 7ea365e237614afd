"""The work of paths in gradients, which progress bars count and by which paths are shared between sides."""

from __future__ import annotations

from smesolve.solver.orders import Order, weak_order
from smesolve.solver.schemes import SCHEMES

__all__ = ["ITERATION_STEP_COST", "step_cost"]

ITERATION_STEP_COST = 1.5
"""Work of one step of the iteration with its control variates, in gradients."""

NOISE_PRODUCT_COST, HESSIAN_PRODUCT_COST = 1.5, 4.0
"""Work of a noise product and of a Hessian product, in gradients, as it is counted.

Measured (`benchmarks/product_cost.py`): noise products take 0.9 to 1.9 gradients; Hessian products 1.2 to 1.5 by the
compiled kernels, 1.6 to 2.8 by the formulas in torch, and 3 to 5 in a `ModuleProblem`. Paths are shared between the two
sides of a study by these numbers, so that tables of finished studies depend on them; the shares are close to the best
ones for any of these costs.
"""


JUMP_COST, FLOW_COST = 4.0, 4.0
"""Work of a jump of the equation of order 3, and of the flow up to it, in gradients."""


def step_cost(order: Order, scheme: str) -> float:
    """Return the work of one step of a scheme on the equation of an order, in gradients.

    For equations with jumps, which have no scheme, it is the work of a step of length lr: at order 3 one jump on
    average, the flow up to it, and a flow that the end of the step cuts; for "poisson" one training step.
    """
    if order == "poisson":
        return ITERATION_STEP_COST
    if order == 3:
        return JUMP_COST + 2 * FLOW_COST
    declared = SCHEMES[scheme]
    noise = NOISE_PRODUCT_COST * declared.noise_products
    corrections = HESSIAN_PRODUCT_COST * declared.corrections * (weak_order(order) - 1)
    return float(declared.drift_evaluations + noise + corrections)
