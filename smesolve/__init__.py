"""smesolve: derive, integrate and certify the stochastic modified equation of dropout."""

import importlib
from typing import Any

import smesolve.process_settings  # first, as torch must not be loaded before
from smesolve.comparison.observables import OBSERVABLES
from smesolve.comparison.weak_error import weak_error
from smesolve.comparison.weak_error_study import WeakErrorStudy
from smesolve.problem.activations import ACTIVATIONS
from smesolve.problem.averaged_problem import AveragedProblem
from smesolve.problem.compiled_problem import CompiledProblem, NotCompiledWarning
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.feature_network import FeatureNetwork
from smesolve.problem.iteration import iterate
from smesolve.problem.losses import LOSSES
from smesolve.problem.masks import BernoulliMasks, FiniteMasks, GaussianMasks, MaskLaw, UniformMasks
from smesolve.problem.module_problem import ModuleProblem
from smesolve.problem.networks import DropoutNetwork, LinearNetwork, TwoLayerNetwork
from smesolve.problem.problem import Problem
from smesolve.problem.schedule import Piecewise, ScheduledProblem
from smesolve.sampling.ensemble import DivergenceWarning
from smesolve.sampling.journal import Journal
from smesolve.solver.brownian import KeyedBrownian
from smesolve.solver.integration import solve
from smesolve.solver.modified_equation import ModifiedEquation
from smesolve.solver.schemes import SCHEMES
from smesolve.solver.schemes.scheme import NothingTestedWarning
from smesolve.version import __version__

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "OBSERVABLES",
    "SCHEMES",
    "AveragedProblem",
    "BernoulliMasks",
    "DivergenceWarning",
    "DropoutNetwork",
    "DropoutProblem",
    "FeatureNetwork",
    "FiniteMasks",
    "GaussianMasks",
    "Journal",
    "KeyedBrownian",
    "LinearNetwork",
    "MaskLaw",
    "ModifiedEquation",
    "ModuleProblem",
    "NothingTestedWarning",
    "Problem",
    "ScheduledProblem",
    "TwoLayerNetwork",
    "UniformMasks",
    "WeakErrorStudy",
    "__version__",
    "iterate",
    "solve",
    "weak_error",
]


def __getattr__(name: str) -> Any:
    """Import `smesolve.symbolic` and `smesolve.study` on first use: sympy and matplotlib are slow to import."""
    if name in ("symbolic", "study"):
        return importlib.import_module(f"smesolve.{name}")
    raise AttributeError(f"module 'smesolve' has no attribute {name!r}")
