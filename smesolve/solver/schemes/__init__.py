"""Schemes by name. Add a subclass of `Scheme` or `GradientScheme` to `SCHEMES` to use it everywhere."""

from smesolve.solver.schemes.euler import Euler
from smesolve.solver.schemes.gradient_scheme import GradientScheme
from smesolve.solver.schemes.sampled_euler import SampledEuler
from smesolve.solver.schemes.scheme import Scheme
from smesolve.solver.schemes.small_noise_heun import SmallNoiseHeun
from smesolve.solver.schemes.small_noise_rk4 import SmallNoiseRK4
from smesolve.solver.schemes.svag import SVAG

SCHEMES: dict[str, type[Scheme] | type[GradientScheme]] = {
    "euler": Euler,
    "small_noise_heun": SmallNoiseHeun,
    "small_noise_rk4": SmallNoiseRK4,
    "svag": SVAG,
    "sampled_euler": SampledEuler,
}
