"""Malformed input to the public functions: each is answered by one sentence.

A malformed input is a valid call in which one to three arguments are replaced by values that they cannot have. It is
answered where `malformed.answer_of` finds nothing to object to. A result, an exception of a library, and a call that
does not end within `PATIENCE` seconds are no answers. Functions of a problem at theta (`loss`, `gradient`, ...) map NaN
to NaN, as diverged paths need it: there only shapes and dtypes are malformed.
"""

import inspect
import signal
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import sympy
import torch
from hypothesis import strategies as st
from malformed import (
    COUNT,
    EXPRESSION,
    FLAG,
    INDEX,
    KEEP_PROB,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SHARE,
    Kind,
    Odd,
    answer_of,
    circle,
    count_answered,
    data,
    either,
    endless,
    function,
    instance,
    integer,
    mapping,
    number,
    one_of,
    optional,
    sequence,
    tensor,
)

import smesolve as sme
from smesolve import experiments, landscape, symbolic
from smesolve.comparison import exact
from smesolve.comparison.gradient_flow import flow_change, relaxation_time
from smesolve.comparison.mean_square_growth import observed_limit
from smesolve.comparison.observables import OBSERVABLES, named_observables
from smesolve.comparison.readout_problem import readout_problem
from smesolve.comparison.stationary_variances import stationary_variances
from smesolve.errors import shown
from smesolve.experiments.landscape_sections.condensation import TRAININGS
from smesolve.experiments.scaling.acceleration import acceleration, gradients_per_step
from smesolve.experiments.scaling.horizon import long_horizon
from smesolve.experiments.scaling.kappa import linear_scaling_rule
from smesolve.experiments.scaling.map import error_map
from smesolve.experiments.scaling.schedule import SCHEDULES, schedules
from smesolve.experiments.scaling.width import mean_field_problem, width_sweep
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.problem import schedule
from smesolve.problem.iteration import DropoutIteration
from smesolve.symbolic import counterexamples

PATIENCE = 60

# --- valid calls -------------------------------------------------------------------------------------------------

X, Y = (
    torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2),
    torch.linspace(0, 1, 3, dtype=torch.float64)[:, None],
)
NETWORK = sme.TwoLayerNetwork(2, 3)
PROBLEM = sme.DropoutProblem(NETWORK, X, Y, keep_prob=0.8)
SAMPLED = sme.ModuleProblem(
    torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)).double(), X, Y
)
LINEAR = sme.DropoutProblem(sme.LinearNetwork(2), X, Y, keep_prob=0.8)
THETA, LINEAR_THETA = PROBLEM.initial(), LINEAR.initial()
EQUATION = sme.ModifiedEquation(PROBLEM, 0.1)
MOMENTS = exact.LinearMoments(LINEAR, LINEAR_THETA)
LAW = sme.BernoulliMasks(0.8)
D, M = PROBLEM.dim, PROBLEM.noise_dim
STARTS = torch.stack([THETA, 2 * THETA])
HESSIAN = landscape.hessian_operator(PROBLEM, THETA)
SIGMA = landscape.covariance_operator(PROBLEM, THETA)
NOISE = landscape.random_noise(PROBLEM, THETA, 8)
a, y, eta, h = sympy.symbols("a y eta h")
SYMBOLIC = symbolic.ExplicitNetwork()
ITERATION = symbolic.Iteration([a], [-h * eta * (eta * a - y)], {eta: LAW}, h, [y])
SYMBOLIC_EQUATION = symbolic.modified_equation(ITERATION)
CUMULANT = symbolic.third_cumulant(symbolic.dropout(SYMBOLIC, sme.BernoulliMasks(sympy.Symbol("p", positive=True))))


def is_single(values):
    """Right together with another single value, perhaps."""
    return len(values) == 1


def raising(*values):
    raise KeyError("missing")


def narrow(theta):
    return theta.float().sum(-1)


def whole(theta):
    return theta


PROBLEMS, DROPOUT = instance(sme.Problem), instance(sme.DropoutProblem)
POINT, POINTS, RUNS = tensor(D), tensor(..., D, finite=False), tensor(None, D)
LINEAR_POINT = tensor(LINEAR.dim)
OBSERVABLE = either(one_of(*OBSERVABLES, "theta[0]"), function(raising, narrow, whole))
ORDERS = sequence(Kind(lambda value: value in (1, 2) and type(value) is int))
ORDER = Kind(lambda value: type(value) in (int, str) and value in (1, 2, "quadratic"), [0, 3, 1.0, 2.5, "linear", True])
SCHEME = one_of(*sme.SCHEMES)
TRIPLE = Kind(lambda value: len(value) == 3 and sequence(number())._is_right(value))
LRS, STEPS = sequence(POSITIVE), sequence(INDEX)
ACTIVATION = either(one_of(*sme.ACTIVATIONS), function(raising, len, torch.sum, lambda z: z.float(), lambda z: z[0]))
DTYPE = Kind(
    lambda value: value in (torch.float64, torch.float32), [torch.float16, torch.int64, torch.complex128, "float64"]
)
DEVICE = Kind(lambda value: value is None or str(value) in ("cpu", "meta", "cuda"), ["gpu", "cpu:", "cuda:99", -1, 7])
MASKS = either(one_of("shared", "per_sample"), instance(sme.MaskLaw))
OPERATOR = instance(type(HESSIAN).__mro__[1])
LOSS = either(one_of("squared_error", "cross_entropy"), function(raising, lambda f, y: f.sum(), lambda f, y: "text"))
HUGE = Kind(lambda value: not isinstance(value, int) or isinstance(value, bool) or 0 < value < 10**10, [10**11, 10**12])
SIZE = Kind(COUNT._is_right)
SIZE.values |= st.sampled_from([10**12, 10**13])  # right as a number, too much for any machine
BUDGET = {
    "paths": (4, integer(2)),
    "rel_tol": (None, optional(SHARE)),
    "max_paths": (8, COUNT),
    "seed": (0, SEED),
    "progress": (False, FLAG),
}
EFFORT = {"effort": (SamplingEffort(4, max_paths=8), instance(SamplingEffort))}
SCALED = {"problem": (PROBLEM, DROPOUT), "theta0": (THETA, POINT)}

CALLS = {
    # problems
    "TwoLayerNetwork": (
        sme.TwoLayerNetwork,
        {
            "in_features": (2, SIZE),
            "width": (3, SIZE),
            "out_features": (1, SIZE),
            "activation": ("tanh", ACTIVATION),
            "bias": (False, FLAG),
            "dtype": (torch.float64, DTYPE),
            "device": (None, DEVICE),
        },
    ),
    "LinearNetwork": (
        sme.LinearNetwork,
        {
            "in_features": (2, SIZE),
            "out_features": (1, SIZE),
            "dtype": (torch.float64, DTYPE),
            "device": (None, DEVICE),
        },
    ),
    "FeatureNetwork": (
        sme.FeatureNetwork,
        {
            "features": (torch.nn.Linear(2, 3), instance(torch.nn.Module)),
            "readout": (torch.nn.Linear(3, 1), instance(torch.nn.Linear)),
        },
    ),
    "DropoutProblem": (
        sme.DropoutProblem,
        {
            "network": (NETWORK, instance(sme.DropoutNetwork)),
            "x": (X, data(3, 2)),
            "y": (Y, data(3, 1, uneven=True)),
            "keep_prob": (0.8, KEEP_PROB),
            "masks": ("shared", one_of("shared", "per_sample")),
        },
    ),
    "DropoutProblem of features": (
        sme.DropoutProblem,
        {
            "network": (
                sme.FeatureNetwork(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)).double(),
                instance(sme.DropoutNetwork),
            ),
            "x": (X, data(3, 2)),
            "y": (Y, data(3, 1, uneven=True)),
            "keep_prob": (0.8, KEEP_PROB),
        },
    ),
    "ModuleProblem": (
        sme.ModuleProblem,
        {
            "module": (torch.nn.Linear(2, 1).double(), instance(torch.nn.Module)),
            "x": (X, data(3, 2, any_dimensions=True)),
            "y": (Y, data(3, 1, uneven=True, any_dimensions=True)),
            "loss": ("squared_error", LOSS),
            "masks": ("per_sample", one_of("shared", "per_sample")),
            "batch_size": (
                2,
                Kind(lambda value: value is None or (type(value) is int and 1 <= value <= 3), [4, 0, 2.0]),
            ),
            "replacement": (False, FLAG),
            "weight_decay": (0.0, NOT_NEGATIVE),
            "label_noise": (0.1, NOT_NEGATIVE),
            "parameter_noise": (0.1, NOT_NEGATIVE),
        },
    ),
    "PolynomialLossProblem": (
        symbolic.PolynomialLossProblem,
        {
            "network": (NETWORK, instance(sme.DropoutNetwork)),
            "x": (X, data(3, 2)),
            "y": (Y, data(3, 1, uneven=True)),
            "loss": (
                lambda f, y: (f - y) ** 4,
                function(raising, lambda f, y: sympy.sin(f), lambda f, y: "f", lambda f, y: y),
            ),
            "keep_prob": (0.8, KEEP_PROB),
        },
    ),
    "AveragedProblem": (sme.AveragedProblem, {"problem": (PROBLEM, PROBLEMS), "count": (2, COUNT)}),
    "ScheduledProblem": (
        sme.ScheduledProblem,
        {
            "problem": (PROBLEM, PROBLEMS),
            "lr_factor": (
                torch.cos,
                optional(function(raising, lambda t: 1.0, lambda t: t / 0, lambda t: torch.zeros(2), len)),
            ),
            "keep_prob": (torch.exp, optional(function(raising, lambda t: 0.5, lambda t: t - 3, lambda t: t + 2, len))),
        },
    ),
    "CompiledProblem": (sme.CompiledProblem, {"problem": (PROBLEM, PROBLEMS)}),
    "Piecewise": (
        sme.Piecewise,
        {
            "breaks": ([1.0], Kind(lambda value: len(value) == 1 and LRS._is_right(value))),
            "pieces": ([torch.cos, torch.ones_like], sequence(function())),
        },
    ),
    "cosine": (schedule.cosine, {"horizon": (1.0, POSITIVE), "last": (0.1, NOT_NEGATIVE)}),
    "warm_up": (schedule.warm_up, {"duration": (1.0, POSITIVE), "first": (0.1, NOT_NEGATIVE)}),
    "step": (schedule.step, {"time": (1.0, POSITIVE), "factor": (0.1, NOT_NEGATIVE)}),
    "BernoulliMasks": (sme.BernoulliMasks, {"keep_prob": (0.8, either(KEEP_PROB, instance(sympy.Symbol)))}),
    "GaussianMasks": (sme.GaussianMasks, {"variance": (0.8, either(POSITIVE, instance(sympy.Symbol)))}),
    "UniformMasks": (sme.UniformMasks, {"half_width": (0.8, either(POSITIVE, instance(sympy.Symbol)))}),
    "FiniteMasks": (
        sme.FiniteMasks,
        {
            "values": ([0.5, 1.5], Kind(is_single)),
            "probabilities": ([0.5, 0.5], Kind(is_single)),
        },
    ),
    "initial": (PROBLEM.initial, {"seed": (0, optional(SEED))}),
    "with_keep_prob": (PROBLEM.with_keep_prob, {"keep_prob": (0.8, KEEP_PROB)}),
    "sample": (PROBLEM.sample, {"count": (2, integer(1, 10**9)), "seed": (0, SEED), "step": (0, INDEX)}),
    "stability_limit": (PROBLEM.stability_limit, {"theta": (THETA, POINT), "horizon": (1.0, NOT_NEGATIVE)}),
    "loss": (PROBLEM.loss, {"theta": (THETA, POINTS)}),
    "modified_loss": (PROBLEM.modified_loss, {"theta": (THETA, POINTS)}),
    "mean_gradient": (PROBLEM.mean_gradient, {"theta": (THETA, POINTS)}),
    "gradient": (
        PROBLEM.gradient,
        {"theta": (THETA, POINTS), "mask": (torch.ones(3).double(), tensor(..., 3, finite=False))},
    ),
    "noise_product": (
        PROBLEM.noise_product,
        {"theta": (THETA, POINTS), "normals": (torch.ones(M).double(), tensor(..., M, finite=False))},
    ),
    "loss of a module": (SAMPLED.loss, {"theta": (SAMPLED.initial(), tensor(..., SAMPLED.dim, finite=False))}),
    "mean_gradient_estimate": (
        SAMPLED.mean_gradient_estimate,
        {
            "theta": (SAMPLED.initial(), tensor(SAMPLED.dim)),
            "draws": (4, integer(2)),
            "seed": (0, SEED),
        },
    ),
    # iteration, equation, comparison
    "iterate": (
        sme.iterate,
        {
            "problem": (PROBLEM, PROBLEMS),
            "theta0": (THETA, POINT),
            "lr": (0.1, POSITIVE),
            "steps": (2, COUNT),
            "paths": (2, COUNT),
            "seed": (0, SEED),
            "save": ([0, 2], Kind(lambda value: value is None)),
            "workers": (None, optional(COUNT)),
            "max_memory": (None, optional(POSITIVE)),
        },
    ),
    "ModifiedEquation": (
        sme.ModifiedEquation,
        {"problem": (PROBLEM, PROBLEMS), "lr": (0.1, POSITIVE), "order": (2, ORDER)},
    ),
    "solve": (
        sme.solve,
        {
            "sde": (EQUATION, instance(sme.ModifiedEquation)),
            "theta0": (THETA, POINT),
            "ts": ([0.0, 0.2], sequence(number())),
            "scheme": ("small_noise_rk4", SCHEME),
            "dt": (0.1, POSITIVE),
            "paths": (2, COUNT),
            "seed": (0, SEED),
            "workers": (None, optional(COUNT)),
            "max_memory": (None, optional(POSITIVE)),
        },
    ),
    "KeyedBrownian": (
        sme.KeyedBrownian,
        {
            "paths": (2, COUNT),
            "noise_dim": (2, INDEX),
            "dt": (0.1, POSITIVE),
            "seed": (0, SEED),
            "block": (0, INDEX),
            "dtype": (torch.float64, DTYPE),
            "device": ("cpu", DEVICE),
        },
    ),
    "weak_error": (
        sme.weak_error,
        {
            "problem": (PROBLEM, PROBLEMS),
            "theta0": (THETA, POINT),
            "lrs": ([0.1], LRS),
            "horizon": (0.2, POSITIVE),
            "orders": ([1, 2], ORDERS),
            "observables": (["loss"], sequence(OBSERVABLE)),
            "times": ([0.2], Kind(lambda value: value is None)),
            "scheme": (None, optional(SCHEME)),
            "dt": (0.1, optional(POSITIVE)),
            "control": ("none", one_of("auto", "none", "first", "second")),
            "workers": (None, optional(COUNT)),
            "journal": (None, optional(instance(sme.Journal))),
            "keep": (0, INDEX),
            "max_memory": (None, optional(POSITIVE)),
            **BUDGET,
        },
    ),
    "named_observables": (
        named_observables,
        {"problem": (PROBLEM, PROBLEMS), "observables": (["loss"], sequence(OBSERVABLE))},
    ),
    # exact moments
    "enumerated_expectation": (
        exact.enumerated_expectation,
        {
            "problem": (PROBLEM, PROBLEMS),
            "theta0": (THETA, POINT),
            "lr": (0.1, POSITIVE),
            "steps": (1, COUNT),
            "observable": ("loss", OBSERVABLE),
        },
    ),
    "LinearMoments": (exact.LinearMoments, {"problem": (LINEAR, PROBLEMS), "theta0": (LINEAR_THETA, LINEAR_POINT)}),
    "ScheduledMoments": (
        exact.ScheduledMoments,
        {
            "problem": (sme.ScheduledProblem(LINEAR), instance(sme.ScheduledProblem)),
            "theta0": (LINEAR_THETA, LINEAR_POINT),
            "tolerance": (1e-6, SHARE),
        },
    ),
    "moments of the iteration": (
        MOMENTS.iteration,
        {"lr": (0.1, POSITIVE), "steps": (2, COUNT), "observable": ("loss", OBSERVABLE)},
    ),
    "moments of the equation": (
        MOMENTS.equation,
        {
            "lr": (0.1, POSITIVE),
            "order": (2, ORDER),
            "horizon": (1.0, POSITIVE),
            "observable": ("loss", OBSERVABLE),
        },
    ),
    "stationary": (
        MOMENTS.stationary,
        {"lr": (0.1, POSITIVE), "order": (2, optional(ORDER)), "observable": ("loss", OBSERVABLE)},
    ),
    "stability_limit of moments": (MOMENTS.stability_limit, {"order": (2, optional(ORDER))}),
    "exact error": (
        MOMENTS.error,
        {
            "lr": (0.1, POSITIVE),
            "order": (2, ORDER),
            "horizon": (1.0, POSITIVE),
            "observable": ("loss", OBSERVABLE),
        },
    ),
    "moments of a scheme": (
        MOMENTS.scheme,
        {
            "lr": (0.1, POSITIVE),
            "order": (2, ORDER),
            "horizon": (0.2, POSITIVE),
            "scheme": ("euler", SCHEME),
            "dt": (0.1, POSITIVE),
            "observable": ("loss", OBSERVABLE),
        },
    ),
    "scalar_dropout": (
        exact.scalar_dropout,
        {
            "keep_prob": (0.8, KEEP_PROB),
            "lr": (0.1, POSITIVE),
            "horizon": (1.0, POSITIVE),
            "u0": (1.0, number()),
        },
    ),
    # scaling
    "SamplingEffort": (SamplingEffort, BUDGET | {"workers": (None, optional(COUNT))}),
    "acceleration": (
        acceleration,
        {
            **SCALED,
            "lr": (0.1, POSITIVE),
            "horizon": (0.2, POSITIVE),
            "factors": ([1], sequence(COUNT)),
            "orders": ([1], ORDERS),
            "observable": ("loss", OBSERVABLE),
            "scheme": ("euler", SCHEME),
            **EFFORT,
        },
    ),
    "gradients_per_step": (
        gradients_per_step,
        {"scheme": ("euler", SCHEME), "order": (1, Kind(lambda value: type(value) is int))},
    ),
    "error_map": (
        error_map,
        {
            **SCALED,
            "keep_probs": ([0.8], sequence(KEEP_PROB)),
            "multiples": ([0.1], LRS),
            "relaxations": (1.0, POSITIVE),
            "orders": ([1], ORDERS),
            "observable": ("loss", OBSERVABLE),
            **EFFORT,
        },
    ),
    "flow_change": (flow_change, {**SCALED, "horizon": (0.1, POSITIVE), "observable": (PROBLEM.loss, function())}),
    "relaxation_time": (relaxation_time, SCALED),
    "linear_scaling_rule": (
        linear_scaling_rule,
        {
            **SCALED,
            "lr": (0.1, POSITIVE),
            "kappas": ([1], sequence(COUNT)),
            "horizon": (0.2, POSITIVE),
            "tolerance": (0.1, SHARE),
            "observable": ("loss", OBSERVABLE),
            **EFFORT,
        },
    ),
    "long_horizon": (
        long_horizon,
        {
            **SCALED,
            "lr": (0.1, POSITIVE),
            "times": ([0.2], LRS),
            "lrs": ([0.1], LRS),
            "observable": ("loss", OBSERVABLE),
            **EFFORT,
            "quadratic_paths": (4, integer(2)),
        },
    ),
    "stationary_variances": (
        stationary_variances,
        {
            "problem": (LINEAR, PROBLEMS),
            "theta0": (LINEAR_THETA, LINEAR_POINT),
            "lrs": ([0.1], LRS),
        },
    ),
    "observed_limit": (
        observed_limit,
        {
            "problem": (LINEAR, DROPOUT),
            "order": (1, optional(ORDER)),
            "populations": (2, integer(2)),
            "seed": (0, SEED),
        },
    ),
    "readout_problem": (readout_problem, SCALED),
    "schedules": (
        schedules,
        {
            **SCALED,
            "lrs": ([0.1, 0.05], LRS),
            "horizon": (0.2, POSITIVE),
            "names": (["step"], sequence(one_of(*SCHEDULES), empty=True)),
            "orders": ([1], ORDERS),
            "observable": ("loss", OBSERVABLE),
            **EFFORT,
        },
    ),
    "mean_field_problem": (
        mean_field_problem,
        {
            "x": (X, data(3, 2, any_columns=True)),
            "y": (Y, data(3, 1, uneven=True, any_columns=True)),
            "width": (4, SIZE),
            "keep_prob": (0.8, KEEP_PROB),
            "seed": (0, SEED),
        },
    ),
    "width_sweep": (
        width_sweep,
        {
            "x": (X, data(3, 2, any_columns=True)),
            "y": (Y, data(3, 1, uneven=True, any_columns=True)),
            "widths": ([4], sequence(COUNT)),
            "keep_prob": (0.8, KEEP_PROB),
            "lr": (0.1, POSITIVE),
            "horizon": (0.2, POSITIVE),
            "orders": ([1], ORDERS),
            **EFFORT,
        },
    ),
    # symbolic
    "ExplicitNetwork": (
        symbolic.ExplicitNetwork,
        {
            "in_features": (1, COUNT),
            "hidden": (2, either(COUNT, sequence(COUNT))),
            "out_features": (1, COUNT),
            "samples": (1, COUNT),
            "activation": (
                "tanh",
                either(one_of("tanh", "identity"), function(raising, lambda z: "z", lambda z: None)),
            ),
            "loss": (symbolic.squared_error, function(raising, lambda f, y: "f", lambda f, y: None)),
            "data": (
                None,
                Kind(
                    lambda value: value is None, [([[1.0]],), ([[1.0, 2.0]], [[1.0]]), (1.0, 2.0), ([["a"]], [[1.0]])]
                ),
            ),
        },
    ),
    "Iteration": (
        symbolic.Iteration,
        {
            "state": ([a], sequence(instance(sympy.Symbol))),
            "step": ([-h * eta * a], sequence(EXPRESSION)),
            "random": ({eta: LAW}, Kind()),
            "small": (h, instance(sympy.Symbol)),
            "constants": ([y], Kind(lambda value: len(value) == 0)),
            "loss": (None, optional(EXPRESSION)),
        },
    ),
    "gradient_descent": (
        symbolic.gradient_descent,
        {
            "loss": ((eta * a) ** 2, EXPRESSION),
            "parameters": ([a], sequence(instance(sympy.Symbol))),
            "random": ({eta: LAW}, Kind()),
        },
    ),
    "dropout": (
        symbolic.dropout,
        {
            "network": (SYMBOLIC, instance(symbolic.ExplicitNetwork)),
            "masks": (LAW, instance(sme.MaskLaw)),
            "layers": ([1], Kind(lambda value: value is None)),
        },
    ),
    "sgd": (symbolic.sgd, {"network": (SYMBOLIC, instance(symbolic.ExplicitNetwork)), "batch": (1, COUNT)}),
    "dropout_sgd": (
        symbolic.dropout_sgd,
        {
            "network": (SYMBOLIC, instance(symbolic.ExplicitNetwork)),
            "masks": (LAW, instance(sme.MaskLaw)),
            "layers": ([1], Kind(lambda value: value is None)),
            "batch": (1, COUNT),
        },
    ),
    "dropconnect": (
        symbolic.dropconnect,
        {
            "network": (SYMBOLIC, instance(symbolic.ExplicitNetwork)),
            "masks": (LAW, instance(sme.MaskLaw)),
            "layers": ([1], sequence(COUNT)),
        },
    ),
    "label_noise": (
        symbolic.label_noise,
        {"network": (SYMBOLIC, instance(symbolic.ExplicitNetwork)), "noise": (LAW, instance(sme.MaskLaw))},
    ),
    "parameter_noise": (
        symbolic.parameter_noise,
        {"network": (SYMBOLIC, instance(symbolic.ExplicitNetwork)), "noise": (LAW, instance(sme.MaskLaw))},
    ),
    "momentum": (
        symbolic.momentum,
        {
            "iteration": (ITERATION, instance(symbolic.Iteration)),
            "friction": (0.1, optional(either(NOT_NEGATIVE, instance(sympy.Symbol)))),
        },
    ),
    "SampleIndex": (symbolic.SampleIndex, {"samples": (3, COUNT)}),
    "Centred": (symbolic.Centred, {"law": (LAW, instance(sme.MaskLaw))}),
    "modified_equation": (
        symbolic.modified_equation,
        {"iteration": (ITERATION, instance(symbolic.Iteration)), "order": (1, Kind(lambda value: value in (1, 2)))},
    ),
    "to_torch": (SYMBOLIC_EQUATION.to_torch, {"values": ({"y": 1.0}, Kind()), "lr": (0.1, POSITIVE)}),
    "third_cumulant": (symbolic.third_cumulant, {"iteration": (ITERATION, instance(symbolic.Iteration))}),
    "roots": (CUMULANT.roots, {"symbol": (sympy.Symbol("p", positive=True), instance(sympy.Symbol))}),
    "averaged_modified_flow": (
        counterexamples.averaged_modified_flow,
        {"iteration": (ITERATION, instance(symbolic.Iteration))},
    ),
    "without_blocks": (
        counterexamples.without_blocks,
        {
            "equation": (SYMBOLIC_EQUATION, instance(symbolic.SymbolicModifiedEquation)),
            "groups": ([[0]], Kind(lambda value: value in ([[0]], [[False]]), [[[1]], [[-1]], [0]])),
        },
    ),
    "expectation": (
        symbolic.expectation,
        {"iteration": (ITERATION, instance(symbolic.Iteration)), "expression": (eta, EXPRESSION)},
    ),
    "vanishes": (symbolic.vanishes, {"expression": (a - a, EXPRESSION)}),
    "smooth_function": (symbolic.smooth_function, {"name": ("sigma", instance(str))}),
    "LossExpansion": (
        symbolic.LossExpansion,
        {
            "loss": (
                lambda f, y: (f - y) ** 2,
                function(raising, lambda f, y: "f", lambda f, y: None, lambda f, y: sympy.sin(f)),
            ),
            "law": (LAW, instance(sme.MaskLaw)),
        },
    ),
    "DropoutFormulas": (
        symbolic.DropoutFormulas,
        {"network": (SYMBOLIC, instance(symbolic.ExplicitNetwork)), "masks": (LAW, instance(sme.MaskLaw))},
    ),
    # landscape
    **{
        name: (getattr(landscape, name), {"problem": (PROBLEM, DROPOUT), "theta": (THETA, POINT)})
        for name in (
            "hessian_operator",
            "loss_hessian_operator",
            "gauss_newton_operator",
            "fisher_operator",
            "batch_of_one_operator",
            "covariance_operator",
            "gradient_term_operator",
            "pair_term_operator",
            "manifold_geometry",
        )
    },
    "random_noise": (
        landscape.random_noise,
        {"problem": (PROBLEM, PROBLEMS), "theta": (THETA, POINT), "draws": (4, COUNT), "seed": (0, SEED)},
    ),
    "filter_normalised_directions": (
        landscape.filter_normalised_directions,
        {
            "problem": (PROBLEM, PROBLEMS),
            "theta": (THETA, POINT),
            "count": (2, COUNT),
            "seed": (0, SEED),
        },
    ),
    **{
        name: (getattr(landscape, name), {"problem": (PROBLEM, PROBLEMS), "theta": (THETA, POINTS)})
        for name in ("first_penalty", "covariance_trace")
    },
    "second_penalty": (
        landscape.second_penalty,
        {"problem": (PROBLEM, PROBLEMS), "theta": (THETA, POINTS), "lr": (0.1, POSITIVE)},
    ),
    "sampled_covariance_operator": (
        landscape.sampled_covariance_operator,
        {"gradients": (NOISE, either(RUNS, tensor(None, D, dtype=torch.float32))), "mean": (THETA, POINT)},
    ),
    "alignment": (
        landscape.alignment,
        {
            "hessian": (HESSIAN, OPERATOR),
            "covariances": ({"full": SIGMA}, mapping(OPERATOR, empty=False)),
            "probes": (20, integer(9)),
            "seed": (0, SEED),
        },
    ),
    "sampled_alignment": (
        landscape.sampled_alignment,
        {
            "hessian": (HESSIAN, OPERATOR),
            "noise": (NOISE, RUNS),
            "probes": (20, integer(9)),
            "seed": (0, SEED),
        },
    ),
    "overlap": (
        landscape.overlap,
        {"hessian": (HESSIAN, OPERATOR), "covariance": (SIGMA, OPERATOR), "count": (2, integer(1, D - 1))},
    ),
    "alignment_along": (
        experiments.alignment_along,
        {
            "problem": (PROBLEM, DROPOUT),
            "states": (STARTS[None], tensor(1, None, D)),
            "steps": ([0], STEPS),
            "covariances": (["full batch"], sequence(one_of(*landscape.COVARIANCES))),
            "probes": (20, integer(9)),
            "eigenpairs": (2, integer(1, D - 1)),
            "seed": (0, SEED),
        },
    ),
    "input_weights": (landscape.input_weights, {"problem": (PROBLEM, DROPOUT), "theta": (THETA, tensor(..., D))}),
    "condensation": (
        experiments.condensation,
        {
            "problem": (PROBLEM, DROPOUT),
            "starts": (STARTS, RUNS),
            "lr": (0.1, POSITIVE),
            "steps": ([0, 1], STEPS),
            "trainings": (["dropout"], sequence(one_of(*TRAININGS))),
            "lines": (False, FLAG),
            "seed": (0, SEED),
        },
    ),
    "mean_over": (landscape.mean_over, {"values": ([1.0, 2.0], sequence(instance(int, float, np.number)))}),
    "loss_along": (
        landscape.loss_along,
        {
            "problem": (PROBLEM, PROBLEMS),
            "theta": (THETA, POINT),
            "directions": (STARTS, RUNS),
            "distances": ([0.1], sequence(number())),
        },
    ),
    "interpolation": (
        landscape.interpolation,
        {
            "problem": (PROBLEM, PROBLEMS),
            "first": (THETA, tensor(..., D)),
            "second": (THETA, tensor(..., D)),
            "alphas": ([0.1], sequence(number())),
        },
    ),
    "flatness": (
        experiments.flatness,
        {
            "problem": (PROBLEM, PROBLEMS),
            "solutions": ({"one": STARTS}, mapping(RUNS, empty=False)),
            "directions": (2, COUNT),
            "rise": (0.1, POSITIVE),
            "distances": ([0.1], sequence(number())),
            "alphas": ([0.1], sequence(number())),
            "probes": (20, integer(9)),
            "seed": (0, SEED),
        },
    ),
    "haar_null": (
        landscape.haar_null,
        {
            "first": ((1.0, 1.0, 1.0), TRIPLE),
            "second": ((1.0, 1.0, 1.0), TRIPLE),
            "dim": (3, integer(3)),
        },
    ),
    "flow": (
        landscape.flow,
        {
            "problem": (PROBLEM, PROBLEMS),
            "theta0": (THETA, POINT),
            "name": ("flow of R_S", one_of(*landscape.FLOWS)),
            "lr": (0.1, POSITIVE),
            "horizon": (0.1, POSITIVE),
        },
    ),
    "regularisation_orders": (
        experiments.regularisation_orders,
        {
            **SCALED,
            "lrs": ([0.1], LRS),
            "horizon": (0.2, POSITIVE),
            "observables": (["loss"], sequence(one_of(*OBSERVABLES))),
            **{k: v for k, v in BUDGET.items() if k != "progress"},
        },
    ),
    "exact_regularisation_orders": (
        experiments.exact_regularisation_orders,
        {
            "problem": (LINEAR, DROPOUT),
            "theta0": (LINEAR_THETA, LINEAR_POINT),
            "lrs": ([0.1], LRS),
            "horizon": (0.2, POSITIVE),
            "observables": (["loss"], sequence(one_of(*OBSERVABLES))),
        },
    ),
    "fisher_penalty": (
        landscape.fisher_penalty,
        {
            "features": (X, either(tensor(None, 2), tensor(None, 2, dtype=torch.float32))),
            "weights": (X.mT, tensor(2, None)),
            "variance": (0.1, NOT_NEGATIVE),
            "likelihood": ("gaussian", one_of("gaussian", "categorical")),
        },
    ),
    "dropout_penalty_error": (
        landscape.dropout_penalty_error,
        {
            "features": (X, either(tensor(None, 2), tensor(None, 2, dtype=torch.float32))),
            "weights": (X.mT, tensor(2, None)),
            "law": (LAW, instance(sme.MaskLaw)),
            "likelihood": ("gaussian", one_of("gaussian", "categorical")),
            "draws": (2, COUNT),
            "seed": (0, SEED),
        },
    ),
    "noisy_problem": (
        landscape.noisy_problem,
        {
            "problem": (PROBLEM, DROPOUT),
            "name": ("dropout", one_of(*landscape.NOISES)),
            "scales": (None, optional(instance(landscape.NoiseScales))),
        },
    ),
    "NoiseScales": (
        landscape.NoiseScales,
        {"batch_size": (2, COUNT), "label_noise": (0.1, NOT_NEGATIVE), "parameter_noise": (0.1, NOT_NEGATIVE)},
    ),
    "noise_alignment": (
        experiments.noise_alignment,
        {
            "problems": ({"dropout": PROBLEM}, mapping(PROBLEMS, empty=False)),
            "starts": (STARTS, RUNS),
            "lr": (0.1, POSITIVE),
            "steps": ([0, 1], STEPS),
            "draws": (8, COUNT),
            "probes": (20, integer(9)),
            "seed": (0, SEED),
        },
    ),
    "leading_eigenpairs": (
        landscape.leading_eigenpairs,
        {"operator": (HESSIAN, OPERATOR), "count": (2, integer(1, D - 1)), "tol": (0.1, SHARE)},
    ),
    "traces": (
        landscape.traces,
        {
            "operators": ({"H": HESSIAN}, mapping(OPERATOR, empty=False)),
            "words": (["H", "HH"], sequence(one_of("H", "HH", "HHH"))),
            "probes": (20, integer(9)),
            "seed": (0, SEED),
        },
    ),
    "trace": (landscape.trace, {"operator": (HESSIAN, OPERATOR), "probes": (20, integer(9)), "seed": (0, SEED)}),
    "frobenius_norm": (
        landscape.frobenius_norm,
        {"operator": (HESSIAN, OPERATOR), "probes": (20, integer(9)), "seed": (0, SEED)},
    ),
    "sampled_covariance_error": (
        landscape.sampled_covariance_error,
        {"gradients": (NOISE, either(RUNS, tensor(None, D, dtype=torch.float32))), "mean": (THETA, POINT)},
    ),
    "initial_points": (
        landscape.initial_points,
        {"problem": (PROBLEM, PROBLEMS), "count": (2, integer(1, 10**9)), "seed": (0, SEED), "scale": (1.0, POSITIVE)},
    ),
    "random_gradients": (
        landscape.random_gradients,
        {"problem": (PROBLEM, PROBLEMS), "theta": (THETA, POINT), "draws": (4, COUNT), "seed": (0, SEED)},
    ),
    "random_trajectories": (
        landscape.random_trajectories,
        {
            "problem": (PROBLEM, DROPOUT),
            "starts": (STARTS, RUNS),
            "lr": (0.1, POSITIVE),
            "steps": (2, COUNT),
            "seed": (0, SEED),
        },
    ),
    "variance_principle": (
        experiments.variance_principle,
        {
            "problem": (PROBLEM, DROPOUT),
            "starts": (STARTS, RUNS),
            "lr": (0.1, POSITIVE),
            "draws": (20, integer(4)),
            "directions": (3, integer(1, D - 1)),
            "factors": ([2.0], sequence(number(1))),
            "loss": ("loss", one_of("loss", "modified_loss")),
            "seed": (0, SEED),
        },
    ),
}

# --- the property ------------------------------------------------------------------------------------------------


@contextmanager
def patience(what):
    def give_up(number, frame):
        raise AssertionError(f"{what} did not answer within {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def malformed_calls(draw):
    """A public function, and rubbish for one to three of its arguments."""
    name = draw(st.sampled_from(sorted(CALLS)))
    arguments = CALLS[name][1]
    some = st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=min(3, len(arguments)), unique=True)
    return name, {argument: draw(arguments[argument][1].values) for argument in draw(some)}


def objection(name, replaced):
    """Why a malformed call is not answered, or None."""
    called, arguments = CALLS[name]
    values = {argument: valid for argument, (valid, _) in arguments.items()} | replaced
    try:
        with patience(name), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
            result = called(**values)
    except Exception as error:
        found = answer_of(error, list(replaced))
        return found and f"{found}: {type(error).__name__}: {str(error)[:300]}"
    return f"a result, {type(result).__name__}"


def count_answers(examples, derandomize):
    """Try malformed calls until one is not answered; returns how many different ones there were."""

    def key(call):
        name, replaced = call
        return name, tuple((argument, type(value), shown(value)) for argument, value in replaced.items())

    return count_answered(malformed_calls(), key, lambda call: objection(*call), examples, derandomize)


def test_malformed_calls_are_answered_by_one_sentence():
    assert count_answers(2_000, derandomize=True) >= 1_500


@pytest.mark.parametrize("name", sorted(CALLS))
def test_no_argument_may_be_just_any_object(name):
    """Each argument of each function, one after the other."""
    assert [found for argument in CALLS[name][1] if (found := objection(name, {argument: object()}))] == []


@pytest.mark.slow
def test_ten_thousand_malformed_calls_are_answered_by_one_sentence():
    tried = count_answers(16_000, derandomize=False)
    print(f"{tried} different malformed calls, each answered by one sentence")
    assert tried >= 10_000


SECONDS_LONG = (
    "acceleration",
    "error_map",
    "linear_scaling_rule",
    "long_horizon",
    "observed_limit",
    "regularisation_orders",
    "schedules",
    "width_sweep",
)
"""Functions whose valid call takes seconds; their own tests make it."""


@pytest.mark.parametrize("name", [name for name in CALLS if name not in SECONDS_LONG])
def test_the_call_is_valid_as_it_stands(name):
    called, arguments = CALLS[name]
    called(**{argument: valid for argument, (valid, _) in arguments.items()})


def test_every_public_name_is_tried():
    tried = [called for called, _ in CALLS.values()]
    for module in (sme, symbolic, landscape, experiments):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) and name not in TAKES_RESULTS:
                assert value in tried, f"{module.__name__}.{name}"


ROWS = np.eye(3)[:2]
TAKES_RESULTS = {
    "cosine_map": (landscape.cosine_map, {"weights": ROWS}),
    "effective_orientations": (landscape.effective_orientations, {"weights": ROWS, "lines": True, "threshold": 0.9}),
    "factorial_effects": (landscape.factorial_effects, {"table": pd.DataFrame(), "measures": ["trace"]}),
    "participation": (landscape.participation, {"weights": ROWS, "amplitudes": ROWS[0, :2]}),
    "principal_angles": (landscape.principal_angles, {"first": ROWS.T, "second": ROWS.T}),
    "principal_directions": (landscape.principal_directions, {"data": STARTS, "count": 1}),
    "interval_flatness": (
        landscape.interval_flatness,
        {"loss": PROBLEM.loss, "theta": THETA, "directions": STARTS, "factor": 2.0},
    ),
    "sampled_traces": (landscape.sampled_traces, {"operator": HESSIAN, "noise": STARTS, "probes": 4, "seed": 0}),
    "train": (landscape.train, {"process": DropoutIteration(PROBLEM, 0.1), "starts": STARTS, "saved": [1]}),
    "penalty_comparison": (
        landscape.penalty_comparison,
        {"features": X, "weights": Y[:2], "laws": {0.8: LAW}, "likelihood": "gaussian", "draws": 4, "seed": 0},
    ),
    "squared_error": (symbolic.squared_error, {}),
}
"""Functions of what others return, arrays and tables mostly: what is in them is not looked at."""


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, (_, valid) in TAKES_RESULTS.items() for argument in valid]
)
def test_what_is_no_result_is_refused(name, argument):
    called, valid = TAKES_RESULTS[name]
    with pytest.raises(ValueError) as caught:
        called(**valid | {argument: object()})
    assert answer_of(caught.value, [argument]) is None


@pytest.mark.parametrize(
    "make", [lambda: 10**5000, Odd, lambda: endless(3000), circle, lambda: {1: endless(3000)}, lambda: b"\n" * 10**6]
)
def test_whatever_is_given_is_shown_in_one_short_line(make):
    assert len(shown(make())) <= 210 and "\n" not in shown(make())
