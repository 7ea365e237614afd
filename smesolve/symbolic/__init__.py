"""From an explicit iteration to its stochastic modified equation, by sympy.

    iteration = two_layer_dropout(samples=1, in_features=1, width=2)
    equation = modified_equation(iteration, order=2)
    equation.drift, equation.diffusion, equation.covariance
    print(equation.verify())                       # the order proven, the first mismatch
    sde = equation.to_torch({"p": 0.8, "x_1_1": 1.0, "y_1_1": 0.5}, lr=0.05)    # for torchsde.sdeint

`cotangent_expansion` does the same for dropout at any width, in the form that the numeric kernels have.
"""

from smesolve.symbolic.iteration import Iteration
from smesolve.symbolic.modified_equation import SymbolicModifiedEquation, modified_equation
from smesolve.symbolic.smooth_function import smooth_function
from smesolve.symbolic.structure import Contributions, CotangentExpansion, cotangent_expansion
from smesolve.symbolic.torch_code import TorchModifiedEquation
from smesolve.symbolic.two_layer import two_layer_dropout
from smesolve.symbolic.verification import MomentCheck, Verification
from smesolve.symbolic.zero_test import vanishes

__all__ = [
    "Contributions",
    "CotangentExpansion",
    "Iteration",
    "MomentCheck",
    "SymbolicModifiedEquation",
    "TorchModifiedEquation",
    "Verification",
    "cotangent_expansion",
    "modified_equation",
    "smooth_function",
    "two_layer_dropout",
    "vanishes",
]
