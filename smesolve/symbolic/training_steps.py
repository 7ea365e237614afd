"""Training steps of the literature, on an explicit network.

Each function takes a network and the law of its noise, and returns an `Iteration` with fresh, independent noise in
every step. Gaussian multiplicative noise is `dropout` with `GaussianMasks(variance)`. `momentum` makes the heavy-ball
method from any of these steps.
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
from smesolve.symbolic.optimizer_steps import gradients_of, memory_of, with_memory
from smesolve.validation import check_expression, check_instance, check_integer, check_list, check_not_negative

__all__ = ["dropconnect", "dropout", "dropout_sgd", "label_noise", "momentum", "parameter_noise", "sgd"]


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

        V' = V + h (s_1 - friction V)                                                                                (1)
        theta' = theta + h V'                                                                                        (2)

    for gradient steps lr s_1. One step takes the time h. Order 1 in h is the equation of Li, Tai, E (JMLR 2019, sec.
    4): dV = -(friction V + grad f) dt + sqrt(h) C dW, dTheta = V dt.

    In time lr per step, with mu = 1 - c lr and the mean m of gradients, which is torch's momentum buffer up to a
    constant factor (`smesolve.problem.update_rules.sgd`),

        m' = m + c lr (g - m),      theta' = theta - lr m'.                                                         (3)

    Args:
        iteration: steps without momentum, proportional to the small parameter.
        friction: a number of at least 0, or an expression. Default: the symbol m.
        rate: c of (3), a number of at least 0, or an expression. Default: the time scale is sqrt(lr).

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
        steps = [-lr * (m + lr * change) for m, change in zip(means, changes, strict=True)]  # (3)
        return with_memory(iteration, means, steps, changes, [c])
    if friction is not None:
        friction = check_expression("friction", friction, check_not_negative)
    h = Symbol("h", positive=True)
    m = Symbol("m", positive=True) if friction is None else sympy.sympify(friction)
    velocity = [Symbol(f"V_{theta.name}", real=True) for theta in iteration.state]
    pull = [h * (s - m * V) for s, V in zip(iteration.step_terms[0], velocity, strict=True)]  # (1)
    drift = [h * (V + change) for V, change in zip(velocity, pull, strict=True)]  # (2)
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
