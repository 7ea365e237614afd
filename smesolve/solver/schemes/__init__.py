"""Schemes by name; add a `Scheme` of your own to the dict to use it everywhere."""

from smesolve.solver.schemes.euler import Euler
from smesolve.solver.schemes.scheme import Scheme
from smesolve.solver.schemes.small_noise_heun import SmallNoiseHeun
from smesolve.solver.schemes.small_noise_rk4 import SmallNoiseRK4

SCHEMES: dict[str, type[Scheme]] = {
    "euler": Euler,
    "small_noise_heun": SmallNoiseHeun,
    "small_noise_rk4": SmallNoiseRK4,
}
