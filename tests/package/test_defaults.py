"""Sample sizes, tolerances and ranges that hold where a user gives none: published numbers were made with them."""

import inspect

import numpy as np
import pytest

import smesolve as sme
from smesolve import experiments, landscape
from smesolve.comparison.exact import ScheduledMoments, scalar_dropout
from smesolve.comparison.mean_square_growth import observed_limit
from smesolve.experiments.scaling.acceleration import acceleration
from smesolve.experiments.scaling.horizon import long_horizon
from smesolve.experiments.scaling.kappa import linear_scaling_rule
from smesolve.experiments.scaling.map import error_map
from smesolve.experiments.scaling.schedule import schedules
from smesolve.experiments.scaling.width import width_sweep
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.problem.schedule import cosine, warm_up
from smesolve.solver.lanczos import apply_function

DEFAULTS = [
    (sme.weak_error, {"orders": (1, 2), "observables": ("loss",), "paths": 1024, "max_paths": 2**17, "rel_tol": None}),
    (sme.weak_error, {"control": "auto", "seed": 0, "keep": 0, "dt": None, "scheme": None}),
    (sme.iterate, {"seed": 0}),
    (sme.solve, {"scheme": None, "seed": 0}),
    (sme.ModifiedEquation, {"order": 2}),
    (sme.ModuleProblem, {"weight_decay": 0.0, "label_noise": 0.0, "parameter_noise": 0.0, "batch_size": None}),
    (sme.ModuleProblem.mean_gradient_estimate, {"draws": 64, "seed": 0}),
    (sme.TwoLayerNetwork, {"out_features": 1, "bias": False}),
    (SamplingEffort, {"paths": 1024, "rel_tol": None, "max_paths": 4096, "seed": 0}),
    (ScheduledMoments, {"tolerance": 1e-10}),
    (scalar_dropout, {"u0": 1.0}),
    (acceleration, {"orders": (1, 2), "observable": "loss", "scheme": "small_noise_rk4"}),
    (error_map, {"relaxations": 1.0, "orders": (1, 2), "observable": "modified_loss"}),
    (linear_scaling_rule, {"tolerance": 0.02, "observable": "modified_loss"}),
    (long_horizon, {"quadratic_paths": 256, "observable": "modified_loss"}),
    (observed_limit, {"order": None, "populations": 8, "seed": 0}),
    (schedules, {"orders": (1, 2), "observable": "loss"}),
    (width_sweep, {"orders": (1,)}),
    (cosine, {"last": 0.0}),
    (warm_up, {"first": 0.0}),
    (apply_function, {"steps": 16}),
    (landscape.alignment, {"probes": 200, "seed": 0}),
    (experiments.alignment_along, {"probes": 200, "eigenpairs": 10, "seed": 0}),
    (landscape.sampled_alignment, {"probes": 200, "seed": 0}),
    (landscape.overlap, {"count": 10}),
    (landscape.dropout_penalty_error, {"draws": 200, "seed": 0}),
    (landscape.penalty_comparison, {"likelihood": "categorical", "draws": 200, "seed": 0}),
    (landscape.manifold_geometry, {"probes": 60, "directions": 4, "seed": 0}),
    (landscape.covering, {"lines": False, "threshold": 0.95}),
    (experiments.flatness, {"directions": 20, "rise": 0.05, "probes": 100, "seed": 0}),
    (landscape.initial_points, {"seed": 0, "scale": 1.0}),
    (landscape.interval_flatness, {"factor": 2.0}),
    (landscape.leading_eigenpairs, {"tol": 1e-6}),
    (experiments.noise_alignment, {"draws": 400, "probes": 100, "seed": 0}),
    (landscape.NoiseScales, {"batch_size": 50, "label_noise": 0.5, "parameter_noise": 0.02}),
    (experiments.regularisation_orders, {"paths": 256, "rel_tol": 0.1, "max_paths": 2**14, "seed": 0}),
    (landscape.trace, {"probes": 100, "seed": 0}),
    (landscape.traces, {"probes": 100, "seed": 0}),
    (landscape.frobenius_norm, {"probes": 100, "seed": 0}),
    (landscape.sampled_traces, {"probes": 100, "seed": 0}),
    (experiments.variance_principle, {"draws": 1000, "directions": 30, "factors": (1.5, 2.0, 4.0), "loss": "loss"}),
]


@pytest.mark.parametrize(("function", "expected"), DEFAULTS)
def test_what_holds_unless_it_is_given(function, expected):
    parameters = inspect.signature(function).parameters
    assert {name: parameters[name].default for name in expected} == expected


def test_curves_of_flatness_reach_as_far_as_the_filters_and_lines_beyond_both_ends():
    parameters = inspect.signature(experiments.flatness).parameters
    assert parameters["distances"].default == pytest.approx(np.arange(-10, 11) / 10)
    assert parameters["alphas"].default == pytest.approx(np.arange(-5, 16) / 10)
