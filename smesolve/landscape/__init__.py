"""Hessian and noise covariance at a point: operators, traces, spectra, and what the papers measure with them."""

from smesolve.landscape.alignment import (
    COVARIANCES,
    AlignmentStudy,
    alignment,
    alignment_along,
    overlap,
    sampled_alignment,
)
from smesolve.landscape.condensation import (
    CondensationStudy,
    condensation,
    cosine_map,
    effective_orientations,
    input_weights,
    participation,
)
from smesolve.landscape.estimates import Estimate, mean_over
from smesolve.landscape.flatness import (
    FlatnessStudy,
    filter_normalised_directions,
    flatness,
    half_effects,
    interpolation,
    loss_along,
)
from smesolve.landscape.haar_null import HaarNull, haar_null
from smesolve.landscape.implicit_regularisation import (
    FLOWS,
    RegularisationStudy,
    covariance_trace,
    exact_regularisation_orders,
    first_penalty,
    flow,
    regularisation_orders,
    second_penalty,
)
from smesolve.landscape.information_geometry import (
    ManifoldGeometry,
    dropout_penalty_error,
    fisher_penalty,
    manifold_geometry,
    penalty_comparison,
)
from smesolve.landscape.noises import NOISES, NoiseScales, noise_alignment, noisy_problem, random_noise
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
from smesolve.landscape.spectrum import Eigenpairs, leading_eigenpairs, principal_angles
from smesolve.landscape.traces import Traces, frobenius_norm, sampled_covariance_error, sampled_traces, trace, traces
from smesolve.landscape.training import HALVES, HalfIteration, initial_points, train
from smesolve.landscape.variance_principle import (
    VariancePrinciple,
    interval_flatness,
    principal_directions,
    random_gradients,
    random_trajectories,
    variance_principle,
)
