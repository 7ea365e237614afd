"""Steps of adaptive optimisers, made from gradient steps, in the time scale of the learning rate.

Decay rates are taken in units of time, 1 - beta = c lr, as in the numerical rules of `smesolve.problem.update_rules`.
With gradients g, for each coordinate and after the first steps, where bias corrections are 1,

    m' = m + c_1 lr (g - m),      v' = v + c_2 lr (g^2 - v)                                                       (1)
    Adam:     theta' = theta - lr m' / (sqrt(v') + eps)                                                          (2)
    RMSprop:  theta' = theta - lr g / (sqrt(v') + eps)                                                           (3)

(2) and (3) are expanded in lr up to the third power: the equations of order 1 and 2 need the first two powers, the
equation of order 3 needs all three. Each coefficient is a polynomial in g, so that drift and covariance, including the
covariance of g and g^2, follow from the moments of the noise.

Sources: Kingma, Ba (ICLR 2015); Tieleman, Hinton (2012); Malladi, Lyu, Panigrahi, Arora (NeurIPS 2022) for order 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, Symbol

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError
from smesolve.symbolic.explicit_iteration import Iteration
from smesolve.validation import check_expression, check_instance, check_not_negative

__all__ = ["adam", "gradients_of", "memory_of", "rmsprop", "with_memory"]

HIGHEST_POWER = 3
"""Highest power of the learning rate that is kept in a step."""


@entry_point
def adam(
    iteration: Iteration,
    first_rate: Expr | float | None = None,
    second_rate: Expr | float | None = None,
    eps: Expr | float | None = None,
) -> Iteration:
    """Return Adam (2), with the state (theta, m, v), for an iteration of gradient steps.

    Args:
        iteration: steps without memory, proportional to the small parameter.
        first_rate: c_1, a number of at least 0, or an expression. Default: the symbol c_1.
        second_rate: c_2, as c_1. Default: the symbol c_2.
        eps: number or expression that is added to the root. Default: the symbol epsilon.

    Raises:
        SmesolveError: bad arguments, or a step that is not proportional to the small parameter.
    """
    gradients, lr = gradients_of(iteration), iteration.small
    c_1, c_2 = _constant("first_rate", first_rate, "c_1"), _constant("second_rate", second_rate, "c_2")
    eps = _constant("eps", eps, "epsilon")
    means, squares = memory_of("m", iteration), memory_of("v", iteration)
    m_change = [c_1 * (g - m) for g, m in zip(gradients, means, strict=True)]  # (1)
    v_change = [c_2 * (g**2 - v) for g, v in zip(gradients, squares, strict=True)]
    steps = []
    for m, dm, v, dv in zip(means, m_change, squares, v_change, strict=True):
        steps.append(-lr * sum((m + lr * dm) * term for term in _inverse_root(v, dv, eps, lr)))  # (2)
    steps = [_truncated(step, lr) for step in steps]
    return with_memory(iteration, [*means, *squares], steps, [*m_change, *v_change], (c_1, c_2, eps))


@entry_point
def rmsprop(iteration: Iteration, rate: Expr | float | None = None, eps: Expr | float | None = None) -> Iteration:
    """Return RMSprop (3), with the state (theta, v), for an iteration of gradient steps.

    Args:
        iteration: steps without memory, proportional to the small parameter.
        rate: c_2, a number of at least 0, or an expression. Default: the symbol c_2.
        eps: number or expression that is added to the root. Default: the symbol epsilon.

    Raises:
        SmesolveError: bad arguments, or a step that is not proportional to the small parameter.
    """
    gradients, lr = gradients_of(iteration), iteration.small
    c_2, eps = _constant("rate", rate, "c_2"), _constant("eps", eps, "epsilon")
    squares = memory_of("v", iteration)
    changes = [c_2 * (g**2 - v) for g, v in zip(gradients, squares, strict=True)]  # (1)
    steps = [
        _truncated(-lr * g * sum(_inverse_root(v, dv, eps, lr)), lr)  # (3)
        for g, v, dv in zip(gradients, squares, changes, strict=True)
    ]
    return with_memory(iteration, squares, steps, changes, (c_2, eps))


def gradients_of(iteration: Iteration) -> list[Expr]:
    """Return the gradients g of an iteration theta' = theta - lr g."""
    check_instance("iteration", iteration, Iteration, "an Iteration, such as dropout(network, masks)")
    if len(iteration.step_terms) > 1:
        raise SmesolveError(
            "iteration must have a step that is proportional to the small parameter, got one with higher powers; take "
            "gradient steps."
        )
    return [-s for s in iteration.step_terms[0]]


def _constant(name: str, value: Expr | float | None, symbol: str) -> Expr:
    if value is None:
        return Symbol(symbol, positive=True)
    return sympy.sympify(check_expression(name, value, check_not_negative))


def memory_of(stem: str, iteration: Iteration) -> list[Symbol]:
    """Return a symbol for each state variable: positive for second moments ("v"), real for means."""
    return [
        Symbol(f"{stem}_{theta.name}", **{"positive" if stem == "v" else "real": True}) for theta in iteration.state
    ]


def _inverse_root(v: Symbol, change: Expr, eps: Expr, lr: Symbol) -> list[Expr]:
    """Return the first terms of the expansion of 1 / (sqrt(v + lr change) + eps) in powers of lr."""
    function, terms = 1 / (sympy.sqrt(v) + eps), []
    for power in range(HIGHEST_POWER):
        terms.append(function * (lr * change) ** power / sympy.factorial(power))
        function = sympy.diff(function, v)
    return terms


def _truncated(step: Expr, lr: Symbol) -> Expr:
    """Return a step without the powers of lr beyond `HIGHEST_POWER`."""
    parts = sympy.collect(sympy.expand(step), lr, evaluate=False)
    return sympy.Add(*[parts.get(lr**power, 0) * lr**power for power in range(1, HIGHEST_POWER + 1)])


def with_memory(
    iteration: Iteration,
    memory: Sequence[Symbol],
    steps: Sequence[Expr],
    changes: Sequence[Expr],
    given: Sequence[Expr],
) -> Iteration:
    """Return the iteration of theta, which moves by `steps`, and of its memory, which moves by lr `changes`.

    Symbols in the `given` expressions become constants, unless they are constants of the iteration already.
    """
    constants = sorted(set().union(*(value.free_symbols for value in given)), key=str)
    return Iteration(
        state=[*iteration.state, *memory],
        step=[*steps, *(iteration.small * change for change in changes)],
        random=iteration.random,
        small=iteration.small,
        constants=[*iteration.constants, *(symbol for symbol in constants if symbol not in iteration.constants)],
    )
