"""smesolve: derive, integrate and certify the stochastic modified equation of dropout."""

from smesolve.comparison.observables import OBSERVABLES
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.iteration import iterate
from smesolve.problem.masks import BernoulliMasks, MaskLaw
from smesolve.problem.networks import ACTIVATIONS, DropoutNetwork, LinearNetwork, TwoLayerNetwork
from smesolve.sampling.ensemble import DivergenceWarning
from smesolve.solver.brownian import KeyedBrownian
from smesolve.solver.integration import NothingTestedWarning, solve
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES
from smesolve.version import __version__
