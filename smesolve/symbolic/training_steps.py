"""Training steps of the literature, on an explicit network.

Each function takes a network and the law of its noise, and returns an `Iteration` with fresh, independent noise in
every step. Gaussian multiplicative noise is `dropout` with `GaussianMasks(variance)`. `momentum`, `adam` and `rmsprop`
make an optimiser with memory from any of these steps.

Decay rates of adaptive optimisers are taken in units of time, 1 - beta = c lr, as in the numerical rules of
`smesolve.problem.update_rules`. With gradients g, for each coordinate and after the first steps, where bias corrections
are 1,

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
from sympy import Expr, KroneckerDelta, Rational, Symbol

from smesolve.entry_point import entry_point
from smesolve.errors import SmesolveError, invalid, shown
from smesolve.problem.masks import Law, MaskLaw
from smesolve.symbolic.explicit_iteration import Iteration, gradient_descent
from smesolve.symbolic.explicit_network import ExplicitNetwork
from smesolve.symbolic.laws import Centred, SampleIndex
from smesolve.validation import check_expression, check_instance, check_integer, check_list, check_not_negative

__all__ = [
    "adam",
    "dropconnect",
    "dropout",
    "dropout_sgd",
    "gradients_of",
    "label_noise",
    "memory_of",
    "momentum",
    "parameter_noise",
    "rmsprop",
    "sgd",
    "with_memory",
]


@entry_point
def dropout(network: ExplicitNetwork, masks: MaskLaw, layers: Sequence[int] | None = None) -> Iteration:
    """Return gradient descent with masks on the neurons of hidden layers, one mask for all samples.

    Source: Zhang, Li, Luo, Xu (ICLR 2024), sec. 3, for one hidden layer.

    Args:
        network: the network.
        masks: law of the masks. If an activation that is not a polynomial follows, it must have finitely many values.
        layers: hidden layers with masks, numbered from 1. Default: the last one.
    """
    factors, random = _masks(_network(network), masks, layers)
    return gradient_descent(network.risk(network.losses(factors)), network.parameters, random, network.constants)


@entry_point
def sgd(network: ExplicitNetwork, batch: int = 1) -> Iteration:
    """Return gradient descent on `batch` samples per step, drawn uniformly and with replacement.

    Source: Li, Tai, E (JMLR 2019), sec. 2.
    """
    loss, random = _sampled(_network(network).losses(), check_integer("batch", batch))
    return gradient_descent(loss, network.parameters, random, network.constants)


@entry_point
def dropout_sgd(
    network: ExplicitNetwork, masks: MaskLaw, layers: Sequence[int] | None = None, batch: int = 1
) -> Iteration:
    """Return `dropout` and `sgd` together: one mask and `batch` samples per step."""
    factors, masks_of = _masks(_network(network), masks, layers)
    loss, samples = _sampled(network.losses(factors), check_integer("batch", batch))
    return gradient_descent(loss, network.parameters, masks_of | samples, network.constants)


@entry_point
def dropconnect(network: ExplicitNetwork, masks: MaskLaw, layers: Sequence[int] = (1,)) -> Iteration:
    """Return gradient descent with masks on the entries of weight matrices.

    Source: Wan et al. (ICML 2013).

    Args:
        network: the network.
        masks: law of the masks.
        layers: weight matrices with masks: W_1, W_2, ..., A, numbered from 1.
    """
    layers = _check_layers(layers, len(_network(network).weights), "weight matrices")
    masks = _mask_law("masks", masks)
    random: dict[Symbol, Law] = {}
    weights = []
    for number, matrix in enumerate(network.weights, start=1):
        if number in layers:
            eta = [[Symbol(f"eta_{w.name}", real=True) for w in row] for row in matrix]
            random |= {symbol: masks for row in eta for symbol in row}
            matrix = [[e * w for e, w in zip(*rows, strict=True)] for rows in zip(eta, matrix, strict=True)]
        weights.append(matrix)
    loss = network.risk(network.losses(weights=weights))
    return gradient_descent(loss, network.parameters, random, network.constants)


@entry_point
def label_noise(network: ExplicitNetwork, noise: MaskLaw) -> Iteration:
    """Return gradient descent on labels y_io + xi_io, where xi_io + 1 has the law `noise`."""
    _network(network), _mask_law("noise", noise)
    xi = [
        [Symbol(f"xi_{i + 1}_{o + 1}", real=True) for o in range(network.out_features)] for i in range(len(network.y))
    ]
    losses = [
        network.sample_loss(network.output(i), [y + e for y, e in zip(network.y[i], xi[i], strict=True)])
        for i in range(network.samples)
    ]
    random = {symbol: Centred(noise) for row in xi for symbol in row}
    return gradient_descent(network.risk(losses), network.parameters, random, network.constants)


@entry_point
def parameter_noise(network: ExplicitNetwork, noise: MaskLaw) -> Iteration:
    """Return gradient descent with gradients at theta + xi, where xi_j + 1 has the law `noise`.

    Source: Orvieto, Raj, Kersting, Bach (AISTATS 2023, arXiv 2206.04613).
    """
    _network(network), _mask_law("noise", noise)
    xi = {theta: Symbol(f"xi_{theta.name}", real=True) for theta in network.parameters}
    loss = network.risk().xreplace({theta: theta + e for theta, e in xi.items()})
    return gradient_descent(loss, network.parameters, {e: Centred(noise) for e in xi.values()}, network.constants)


@entry_point
def momentum(
    iteration: Iteration, friction: Expr | float | None = None, *, rate: Expr | float | None = None
) -> Iteration:
    """Return the heavy-ball method in its own time scale h = sqrt(lr) or, with `rate`, in time lr per step.

    In its own time scale v' = mu v + step, theta' = theta + v'. With V = v/h and mu = 1 - friction h, both fixed as lr
    goes to 0, the state (theta, V) makes small steps:

        V' = V + h (s_1 - friction V)                                                                                (4)
        theta' = theta + h V'                                                                                        (5)

    for gradient steps lr s_1. One step takes the time h. Order 1 in h is the equation of Li, Tai, E (JMLR 2019, sec.
    4): dV = -(friction V + grad f) dt + sqrt(h) C dW, dTheta = V dt.

    In time lr per step, with mu = 1 - c lr and the mean m of gradients, which is torch's momentum buffer up to a
    constant factor (`smesolve.problem.update_rules.sgd`),

        m' = m + c lr (g - m),      theta' = theta - lr m'.                                                         (6)

    Args:
        iteration: steps without momentum, proportional to the small parameter.
        friction: a number of at least 0, or an expression. Default: the symbol m.
        rate: c of (6), a number of at least 0, or an expression. Default: the time scale is sqrt(lr).

    Raises:
        SmesolveError: if both friction and rate are given, or the step is not proportional to the small parameter.
    """
    gradients = gradients_of(iteration)
    if rate is not None:
        if friction is not None:
            raise SmesolveError(
                f"friction={shown(friction)} and rate={shown(rate)} name two time scales; give one of them."
            )
        c, lr = sympy.sympify(check_expression("rate", rate, check_not_negative)), iteration.small
        means = memory_of("m", iteration)
        changes = [c * (g - m) for g, m in zip(gradients, means, strict=True)]
        steps = [-lr * (m + lr * change) for m, change in zip(means, changes, strict=True)]  # (6)
        return with_memory(iteration, means, steps, changes, [c])
    if friction is not None:
        friction = check_expression("friction", friction, check_not_negative)
    h = Symbol("h", positive=True)
    m = Symbol("m", positive=True) if friction is None else sympy.sympify(friction)
    velocity = [Symbol(f"V_{theta.name}", real=True) for theta in iteration.state]
    pull = [h * (s - m * V) for s, V in zip(iteration.step_terms[0], velocity, strict=True)]  # (4)
    drift = [h * (V + change) for V, change in zip(velocity, pull, strict=True)]  # (5)
    return Iteration(
        state=[*iteration.state, *velocity],
        step=[*drift, *pull],
        random=iteration.random,
        small=h,
        constants=[*iteration.constants, *sorted(m.free_symbols, key=str)],
    )


def _network(network: ExplicitNetwork) -> ExplicitNetwork:
    return check_instance("network", network, ExplicitNetwork, "an ExplicitNetwork")


def _mask_law(name: str, law: MaskLaw) -> MaskLaw:
    return check_instance(name, law, MaskLaw, "a MaskLaw, such as BernoulliMasks(keep_prob)")


def _masks(
    network: ExplicitNetwork, masks: MaskLaw, layers: Sequence[int] | None
) -> tuple[dict[int, list[Symbol]], dict[Symbol, Law]]:
    """Return mask symbols by hidden layer, and their laws."""
    depth, law = len(network.widths), _mask_law("masks", masks)
    layers = [depth] if layers is None else _check_layers(layers, depth, "hidden layers")
    stems = {layer: "eta" if depth == 1 else f"eta{layer}" for layer in layers}
    factors = {
        layer: [Symbol(f"{stem}_{r + 1}", real=True) for r in range(network.widths[layer - 1])]
        for layer, stem in stems.items()
    }
    return factors, {symbol: law for symbols in factors.values() for symbol in symbols}


def _sampled(losses: Sequence[Expr], batch: int) -> tuple[Expr, dict[Symbol, Law]]:
    """Return the mean loss of `batch` samples with random indices, and the law of the indices."""
    indices = [Symbol("I" if batch == 1 else f"I_{b + 1}", integer=True) for b in range(batch)]
    chosen = [KroneckerDelta(index, i) * loss for index in indices for i, loss in enumerate(losses, start=1)]
    return Rational(1, batch) * sympy.Add(*chosen), dict.fromkeys(indices, SampleIndex(len(losses)))


def _check_layers(layers: Sequence[int], count: int, what: str) -> list[int]:
    """Return numbers of layers from 1 to `count`."""
    layers = check_list("layers", layers, check_integer)
    for k, layer in enumerate(layers):
        if layer > count:
            raise invalid(f"layers[{k}]", f"be at most {count}", layer, f"the number of {what} is {count}")
    return layers


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
