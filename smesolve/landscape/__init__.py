"""Hessian and noise covariance at a point: operators, traces, spectra, flatness and penalties.

These are tools. The experiments of the papers, which use them, are in `smesolve.experiments.landscape_sections`.
"""

from smesolve.landscape.covering import Covering, covering
from smesolve.landscape.estimates import Estimate, Interval, mean_over
from smesolve.landscape.flatness import (
    LossProfile,
    factorial_effects,
    filter_normalised_directions,
    interpolation,
    interval_flatness,
    loss_along,
    loss_profile,
)
from smesolve.landscape.hessian_alignment import COVARIANCES, alignment, overlap, sampled_alignment
from smesolve.landscape.information_geometry import (
    ManifoldGeometry,
    dropout_penalty_error,
    fisher_penalty,
    manifold_geometry,
    penalty_comparison,
)
from smesolve.landscape.likelihoods import LIKELIHOODS, Likelihood
from smesolve.landscape.noise_samples import (
    principal_directions,
    random_gradients,
    random_noise,
    random_trajectories,
)
from smesolve.landscape.noise_scale import NoiseScale, noise_scale
from smesolve.landscape.noises import NOISES, NoiseScales, noisy_problem
from smesolve.landscape.null_model import HaarNull, haar_null
from smesolve.landscape.operators import (
    batch_of_one_operator,
    covariance_operator,
    fisher_operator,
    gauss_newton_operator,
    gradient_term_operator,
    hessian_operator,
    loss_hessian_operator,
    pair_term_operator,
    sampled_covariance_operator,
)
from smesolve.landscape.orientations import cosine_map, input_weights, participation
from smesolve.landscape.penalised_training import (
    PENALISED_FLOWS,
    PENALISED_TRAININGS,
    PenalisedIteration,
    train_by_flow,
)
from smesolve.landscape.penalties import FLOWS, covariance_trace, first_penalty, flow, second_penalty
from smesolve.landscape.spectrum import Eigenpairs, leading_eigenpairs, principal_angles
from smesolve.landscape.trace_estimation import (
    Traces,
    frobenius_norm,
    sampled_covariance_error,
    sampled_traces,
    trace,
    traces,
)
from smesolve.landscape.training import (
    ABLATIONS,
    ADAM_TRAININGS,
    AblatedIteration,
    checkpoints,
    initial_points,
    train,
    train_by_adam,
)

__all__ = [
    "ABLATIONS",
    "ADAM_TRAININGS",
    "COVARIANCES",
    "FLOWS",
    "LIKELIHOODS",
    "NOISES",
    "PENALISED_FLOWS",
    "PENALISED_TRAININGS",
    "AblatedIteration",
    "Covering",
    "Eigenpairs",
    "Estimate",
    "HaarNull",
    "Interval",
    "Likelihood",
    "LossProfile",
    "ManifoldGeometry",
    "NoiseScale",
    "NoiseScales",
    "PenalisedIteration",
    "Traces",
    "alignment",
    "batch_of_one_operator",
    "checkpoints",
    "cosine_map",
    "covariance_operator",
    "covariance_trace",
    "covering",
    "dropout_penalty_error",
    "factorial_effects",
    "filter_normalised_directions",
    "first_penalty",
    "fisher_operator",
    "fisher_penalty",
    "flow",
    "frobenius_norm",
    "gauss_newton_operator",
    "gradient_term_operator",
    "haar_null",
    "hessian_operator",
    "initial_points",
    "input_weights",
    "interpolation",
    "interval_flatness",
    "leading_eigenpairs",
    "loss_along",
    "loss_hessian_operator",
    "loss_profile",
    "manifold_geometry",
    "mean_over",
    "noise_scale",
    "noisy_problem",
    "overlap",
    "pair_term_operator",
    "participation",
    "penalty_comparison",
    "principal_angles",
    "principal_directions",
    "random_gradients",
    "random_noise",
    "random_trajectories",
    "sampled_alignment",
    "sampled_covariance_error",
    "sampled_covariance_operator",
    "sampled_traces",
    "second_penalty",
    "trace",
    "traces",
    "train",
    "train_by_adam",
    "train_by_flow",
]
