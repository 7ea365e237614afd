"""The derivation of an equation, its proof and its counterexamples, from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy
from sympy import Expr, Symbol

from smesolve.errors import SmesolveError, shown
from smesolve.experiments.shared.derivation.expressions import is_name, read_expression
from smesolve.experiments.shared.derivation.settings import DeriveSettings
from smesolve.experiments.shared.markdown import counted
from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks, MaskLaw, UniformMasks
from smesolve.sampling.progress import Progress
from smesolve.symbolic import (
    DropoutFormulas,
    ExplicitNetwork,
    Iteration,
    LossExpansion,
    SymbolicJumpEquation,
    SymbolicModifiedEquation,
    ThirdCumulant,
    Verification,
    averaged_modified_flow,
    dropconnect,
    dropout,
    dropout_sgd,
    label_noise,
    modified_equation,
    momentum,
    parameter_noise,
    sgd,
    third_cumulant,
    without_blocks,
)
from smesolve.symbolic.verification import check_proof

__all__ = ["Derivation", "derive", "derived_iteration", "description"]

OBSTRUCTION = 2.0
"""Work of the third cumulant and of where it vanishes, in units of a proof."""


@dataclass(frozen=True)
class Derivation:
    """The derived equation and the proven statements."""

    config: DeriveSettings
    description: str
    """The iteration in one sentence."""
    equation: SymbolicModifiedEquation | SymbolicJumpEquation
    verification: Verification
    obstruction: ThirdCumulant
    unobstructed: dict[Symbol, list[Expr]]
    """Values of the law's parameter at which the obstruction vanishes for all values of the other symbols."""
    counterexamples: dict[str, Verification]
    """Equations that claim order 2 and do not have it."""
    expansion: LossExpansion | None
    """Cotangents at any width, for dropout on the last hidden layer."""
    formulas: DropoutFormulas | None
    """The papers' formulas, for dropout on one hidden layer, one output and squared error."""
    module: str | None
    """The equation as a Python module; None where the activation is arbitrary."""


def derive(config: DeriveSettings) -> Derivation:
    """Derive the equation, prove its order, and test the counterexamples.

    Raises:
        SmesolveError: contradictory options, expressions that cannot be read, or an iteration without a finite
            expansion.
    """
    law, network = _law(config), _network(config)
    iteration = derived_iteration(config)
    check_proof(iteration, max(2, config.order))
    last_layer = config.iteration == "dropout" and config.layers in (None, [config.depth]) and not config.momentum
    papers = last_layer and config.depth == 1 and config.out_features == 1 and _squared(config)
    without_pairs = last_layer and config.depth == 1 and config.width > 1
    proofs = 1 + (iteration.loss is not None) + without_pairs
    with Progress(False, proofs + OBSTRUCTION, late=True) as bar:  # an order may be refused
        bar.describe("equation and proof")
        equation = modified_equation(iteration, order=config.order)
        with bar.part(1.0):
            verification = equation.verify()
        bar.describe("equations of other papers")
        counterexamples = {}
        if iteration.loss is not None:
            with bar.part(1.0):
                counterexamples["flow of R_S + R_1 + R_2, without noise"] = averaged_modified_flow(iteration).verify()
        if without_pairs:
            with bar.part(1.0):
                claimed = modified_equation(iteration, order=2)
                neurons = _neurons(config, iteration)
                independent = without_blocks(claimed, neurons).verify()
                counterexamples["independent noise of the neurons (no Sigma_kr)"] = independent
        bar.describe("third cumulant")
        with bar.part(OBSTRUCTION):
            obstruction = third_cumulant(iteration)
            unobstructed = _roots(obstruction, law)
    return Derivation(
        config=config,
        description=description(config),
        equation=equation,
        verification=verification,
        obstruction=obstruction,
        unobstructed=unobstructed,
        # Without noise these equations are the modified equation.
        counterexamples={name: proof for name, proof in counterexamples.items() if not proof.holds},
        expansion=LossExpansion(network.loss, law) if last_layer else None,
        formulas=DropoutFormulas(network, law) if papers else None,
        module=None if config.activation == "sigma" and config.iteration != "custom" else equation.python_module(),
    )


def derived_iteration(config: DeriveSettings) -> Iteration:
    """Return the iteration of the settings."""
    law = _law(config)
    if config.iteration == "custom":
        return _own_iteration(config, law)
    return _named_iteration(config, _network(config), law)


def _roots(obstruction: ThirdCumulant, law: MaskLaw) -> dict[Symbol, list[Expr]]:
    symbols = sympy.sympify(law.variance).free_symbols
    if obstruction.vanishes:
        return {}
    inside = set().union(*(e.atoms(sympy.Function) for e in obstruction.nonzero.values()))
    return {symbol: obstruction.roots(symbol) for symbol in symbols if not any(call.has(symbol) for call in inside)}


# --- configuration -> iteration ----------------------------------------------------------------------------------


def _named_iteration(config: DeriveSettings, network: ExplicitNetwork, law: MaskLaw) -> Iteration:
    iterations: dict[str, Callable[[], Iteration]] = {
        "dropout": lambda: dropout(network, law, config.layers),
        "sgd": lambda: sgd(network, config.batch),
        "dropout_sgd": lambda: dropout_sgd(network, law, config.layers, config.batch),
        "dropconnect": lambda: dropconnect(network, law, config.layers or [1]),
        "label_noise": lambda: label_noise(network, law),
        "parameter_noise": lambda: parameter_noise(network, law),
    }
    iteration = iterations[config.iteration]()
    return momentum(iteration) if config.momentum else iteration


def _own_iteration(config: DeriveSettings, law: MaskLaw) -> Iteration:
    """Return the iteration state' = state + step, in which all random symbols have the same law."""
    if not config.state or len(config.state) != len(config.step):
        raise SmesolveError(
            f"state and step must have the same length for iteration: custom, got {len(config.state)} and "
            f"{len(config.step)}; give one expression for each state variable, such as state: [a], step: "
            "[-lr*eta*(eta*a - y)]."
        )
    _check_names(config)
    names = {config.small: Symbol(config.small, positive=True)}
    for key in ("state", "random", "constants"):
        names |= {name: Symbol(name, real=True) for name in getattr(config, key)}
    iteration = Iteration(
        state=[names[name] for name in config.state],
        step=[read_expression("step", text, names) for text in config.step],
        random={names[name]: law for name in config.random},
        small=names[config.small],
        constants=[names[name] for name in config.constants],
    )
    return momentum(iteration) if config.momentum else iteration


def _check_names(config: DeriveSettings) -> None:
    """Refuse invalid names and names with two meanings."""
    owners: dict[str, str] = {}
    for key in ("state", "random", "constants", "small"):
        names = [config.small] if key == "small" else getattr(config, key)
        for name in names:
            if not is_name(name):
                raise SmesolveError(
                    f"{key} has the name {shown(name)}; a name must contain only letters, digits and underscores, and "
                    "not begin with a digit."
                )
            if name in owners:
                raise SmesolveError(f"{name} is named in {owners[name]} and again in {key}; name it once.")
            owners[name] = key


def _network(config: DeriveSettings) -> ExplicitNetwork:
    f, y = sympy.symbols("f y", real=True)
    loss = read_expression("loss", config.loss, {"f": f, "y": y})
    unknown = sorted(map(str, loss.free_symbols - {f, y}))
    if unknown:
        raise SmesolveError(
            f"loss must be an expression in the output f and the target y, got {config.loss!r} with {unknown[0]}."
        )
    return ExplicitNetwork(
        in_features=config.in_features,
        hidden=[config.width] * config.depth,
        out_features=config.out_features,
        samples=config.samples,
        activation=sympy.Function("sigma") if config.activation == "sigma" else config.activation,
        loss=lambda output, target: loss.xreplace({f: output, y: target}),
    )


def _law(config: DeriveSettings) -> MaskLaw:
    """Return the law of the settings; a missing parameter becomes a symbol."""

    def parameter(name: str, symbol: str) -> Expr:
        number = getattr(config, name)
        return Symbol(symbol, positive=True) if number is None else sympy.nsimplify(number, rational=True)

    if config.law == "bernoulli":
        return BernoulliMasks(parameter("keep_prob", "p"))
    if config.law == "gaussian":
        return GaussianMasks(parameter("variance", "v"))
    if config.law == "uniform":
        return UniformMasks(parameter("half_width", "b"))
    numbers = [[sympy.nsimplify(x, rational=True) for x in part] for part in (config.values, config.probabilities)]
    return FiniteMasks(*numbers)


def _squared(config: DeriveSettings) -> bool:
    f, y = sympy.symbols("f y", real=True)
    return bool(sympy.expand(read_expression("loss", config.loss, {"f": f, "y": y}) - (f - y) ** 2 / 2) == 0)


def _neurons(config: DeriveSettings, iteration: Iteration) -> list[list[int]]:
    """Return the positions of the parameters of each hidden neuron: its row of W and its column of A."""
    hidden, inputs = config.width, config.in_features
    return [
        [*range(r * inputs, (r + 1) * inputs), *range(hidden * inputs + r, len(iteration.state), hidden)]
        for r in range(hidden)
    ]


def description(config: DeriveSettings) -> str:
    """Return the iteration in one sentence."""
    law = _law(config)
    heavy_ball = ", heavy-ball momentum in its own time scale h = sqrt(lr)" if config.momentum else ""
    if config.iteration == "custom":
        random = f"random {', '.join(config.random)} with law {law!r}"
        return f"Iteration of {', '.join(config.state)}, {random}{heavy_ball}."
    noise = {
        "dropout": f"dropout, one mask for all samples, {law!r}",
        "sgd": f"SGD with {counted(config.batch, 'sample')} a step",
        "dropout_sgd": f"dropout ({law!r}) and SGD with {counted(config.batch, 'sample')} a step",
        "dropconnect": f"DropConnect, {law!r}",
        "label_noise": f"noise on the labels, {law!r} less 1",
        "parameter_noise": f"noise on the parameters, {law!r} less 1",
    }[config.iteration]
    return (
        f"Network with {counted(config.in_features, 'input')}, {counted(config.depth, 'hidden layer')} of "
        f"{counted(config.width, 'neuron')} ({config.activation}) and {counted(config.out_features, 'output')} on "
        f"{counted(config.samples, 'sample')}; loss {config.loss}; {noise}{heavy_ball}."
    )
