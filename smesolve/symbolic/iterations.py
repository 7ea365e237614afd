"""The iterations of the literature, on an explicit network.

Each takes the network and the law of its noise and returns an `Iteration`; a fresh, independent draw in every step.
Gaussian multiplicative noise is `dropout` with `GaussianMasks(variance)`. `momentum` turns any of them into heavy ball.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, KroneckerDelta, Rational, Symbol

from smesolve.arguments import COUNT, checked
from smesolve.errors import SmesolveError
from smesolve.problem.masks import Law, MaskLaw
from smesolve.symbolic.explicit_network import ExplicitNetwork
from smesolve.symbolic.iteration import Iteration, gradient_descent
from smesolve.symbolic.laws import Centred, SampleIndex

__all__ = ["dropconnect", "dropout", "dropout_sgd", "label_noise", "momentum", "parameter_noise", "sgd"]


@checked(layers=COUNT)
def dropout(network: ExplicitNetwork, masks: MaskLaw, layers: Sequence[int] | None = None) -> Iteration:
    """Masks on the neurons of hidden layers (1, 2, ...; the last one unless given), one mask for all samples.

    Zhang, Li, Luo, Xu (ICLR 2024), sec. 3, for one hidden layer. Masks below a non-polynomial activation need a law on
    finitely many values.
    """
    factors, random = _masks(network, masks, layers)
    return gradient_descent(network.risk(network.losses(factors)), network.parameters, random, network.constants)


@checked
def sgd(network: ExplicitNetwork, batch: int = 1) -> Iteration:
    """Each step takes `batch` samples, drawn uniformly and with replacement: Li, Tai, E (JMLR 2019), sec. 2."""
    loss, random = _sampled(network.losses(), batch)
    return gradient_descent(loss, network.parameters, random, network.constants)


@checked(layers=COUNT)
def dropout_sgd(
    network: ExplicitNetwork, masks: MaskLaw, layers: Sequence[int] | None = None, batch: int = 1
) -> Iteration:
    """`dropout` and `sgd` together: one mask and `batch` samples a step."""
    factors, masks_of = _masks(network, masks, layers)
    loss, samples = _sampled(network.losses(factors), batch)
    return gradient_descent(loss, network.parameters, masks_of | samples, network.constants)


@checked(layers=COUNT)
def dropconnect(network: ExplicitNetwork, masks: MaskLaw, layers: Sequence[int] = (1,)) -> Iteration:
    """Masks on the weights of the matrices W_1, W_2, ..., A, numbered from 1 (Wan et al., ICML 2013)."""
    _check_layers(layers, len(network.weights), "weight matrices")
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


@checked
def label_noise(network: ExplicitNetwork, noise: MaskLaw) -> Iteration:
    """Gradient descent on labels y_io + xi_io; the law of xi_io + 1 is `noise`."""
    xi = [
        [Symbol(f"xi_{i + 1}_{o + 1}", real=True) for o in range(network.out_features)] for i in range(len(network.y))
    ]
    losses = [
        network.sample_loss(network.output(i), [y + e for y, e in zip(network.y[i], xi[i], strict=True)])
        for i in range(network.samples)
    ]
    random = {symbol: Centred(noise) for row in xi for symbol in row}
    return gradient_descent(network.risk(losses), network.parameters, random, network.constants)


@checked
def parameter_noise(network: ExplicitNetwork, noise: MaskLaw) -> Iteration:
    """Gradients at theta + xi instead of theta; the law of xi_j + 1 is `noise`.

    Orvieto, Raj, Kersting, Bach (AISTATS 2023, arXiv 2206.04613).
    """
    xi = {theta: Symbol(f"xi_{theta.name}", real=True) for theta in network.parameters}
    loss = network.risk().xreplace({theta: theta + e for theta, e in xi.items()})
    return gradient_descent(loss, network.parameters, {e: Centred(noise) for e in xi.values()}, network.constants)


@checked
def momentum(iteration: Iteration, friction: Expr | float | None = None) -> Iteration:
    """Heavy ball v' = mu v + step, theta' = theta + v', in its own time scale h = sqrt(lr).

    With V = v/h and mu = 1 - friction h, both fixed as lr goes to 0, the state (theta, V) makes small steps:

        V' = V + h (s_1 - friction V),    theta' = theta + h V'

    for gradient steps lr s_1. One step takes the time h. Order 1 in h is the equation of Li, Tai, E (JMLR 2019, sec.
    4): dV = -(friction V + grad f) dt + sqrt(h) C dW, dTheta = V dt. friction is the constant m unless given.
    """
    if len(iteration.step_terms) > 1:
        raise SmesolveError("momentum needs an iteration whose step is proportional to the small parameter.")
    h = Symbol("h", positive=True)
    m = Symbol("m", positive=True) if friction is None else sympy.sympify(friction)
    velocity = [Symbol(f"V_{theta.name}", real=True) for theta in iteration.state]
    pull = [h * (s - m * V) for s, V in zip(iteration.step_terms[0], velocity, strict=True)]
    drift = [h * (V + change) for V, change in zip(velocity, pull, strict=True)]
    return Iteration(
        state=[*iteration.state, *velocity],
        step=[*drift, *pull],
        random=iteration.random,
        small=h,
        constants=[*iteration.constants, *sorted(m.free_symbols, key=str)],
    )


def _masks(
    network: ExplicitNetwork, law: MaskLaw, layers: Sequence[int] | None
) -> tuple[dict[int, list[Symbol]], dict[Symbol, Law]]:
    depth = len(network.widths)
    layers = [depth] if layers is None else layers
    _check_layers(layers, depth, "hidden layers")
    stems = {layer: "eta" if depth == 1 else f"eta{layer}" for layer in layers}
    factors = {
        layer: [Symbol(f"{stem}_{r + 1}", real=True) for r in range(network.widths[layer - 1])]
        for layer, stem in stems.items()
    }
    return factors, {symbol: law for symbols in factors.values() for symbol in symbols}


def _sampled(losses: Sequence[Expr], batch: int) -> tuple[Expr, dict[Symbol, Law]]:
    """The mean loss of `batch` samples with random indices, and the law of the indices."""
    indices = [Symbol("I" if batch == 1 else f"I_{b + 1}", integer=True) for b in range(batch)]
    chosen = [KroneckerDelta(index, i) * loss for index in indices for i, loss in enumerate(losses, start=1)]
    return Rational(1, batch) * sympy.Add(*chosen), dict.fromkeys(indices, SampleIndex(len(losses)))


def _check_layers(layers: Sequence[int], count: int, what: str) -> None:
    for layer in layers:
        if not 1 <= layer <= count:
            raise SmesolveError(f"layers contains {layer}, but the {what} are numbered from 1 to {count}.")
