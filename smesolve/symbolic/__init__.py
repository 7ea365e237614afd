"""Derivation of the stochastic modified equation of an explicit iteration, by sympy.

    network = ExplicitNetwork(in_features=1, hidden=2)
    equation = modified_equation(dropout(network, BernoulliMasks(keep_prob)), order=2)     # keep_prob: number or symbol
    equation.drift, equation.diffusion, equation.covariance
    print(equation.verify())                       # the proven order, or the first mismatch
    sde = equation.to_torch({"p": 0.8, "x_1_1": 1.0, "y_1_1": 0.5}, lr=0.05)    # for torchsde.sdeint

`LossExpansion` does the same for dropout at any width and any loss that is a polynomial in the output.
`PolynomialLossProblem` is the numerical problem with the kernels that are generated from it.
"""

from smesolve.symbolic.chaos_expansion import expectation
from smesolve.symbolic.counterexamples import averaged_modified_flow, without_blocks
from smesolve.symbolic.cumulants import FourthCumulant, ThirdCumulant, fourth_cumulant, third_cumulant
from smesolve.symbolic.dropout_formulas import Claim, DropoutFormulas
from smesolve.symbolic.equation import SymbolicModifiedEquation, modified_equation
from smesolve.symbolic.explicit_iteration import Iteration, gradient_descent
from smesolve.symbolic.explicit_network import ExplicitNetwork, squared_error
from smesolve.symbolic.jump_equation import SymbolicJumpEquation
from smesolve.symbolic.laws import Centred, SampleIndex
from smesolve.symbolic.loss_expansion import LossExpansion
from smesolve.symbolic.polynomial_problem import PolynomialLossProblem
from smesolve.symbolic.scaling_rules import ScalingRule, scaling_rule
from smesolve.symbolic.smooth_functions import smooth_function
from smesolve.symbolic.training_steps import (
    adam,
    dropconnect,
    dropout,
    dropout_sgd,
    label_noise,
    momentum,
    parameter_noise,
    rmsprop,
    sgd,
)
from smesolve.symbolic.verification import MomentCheck, Verification
from smesolve.symbolic.zero_test import vanishes

__all__ = [
    "Centred",
    "Claim",
    "DropoutFormulas",
    "ExplicitNetwork",
    "FourthCumulant",
    "Iteration",
    "LossExpansion",
    "MomentCheck",
    "PolynomialLossProblem",
    "SampleIndex",
    "ScalingRule",
    "SymbolicJumpEquation",
    "SymbolicModifiedEquation",
    "ThirdCumulant",
    "Verification",
    "adam",
    "averaged_modified_flow",
    "dropconnect",
    "dropout",
    "dropout_sgd",
    "expectation",
    "fourth_cumulant",
    "gradient_descent",
    "label_noise",
    "modified_equation",
    "momentum",
    "parameter_noise",
    "rmsprop",
    "scaling_rule",
    "sgd",
    "smooth_function",
    "squared_error",
    "third_cumulant",
    "vanishes",
    "without_blocks",
]
