"""Build the API reference from the docstrings: python docs/build.py FOLDER (needs the extra smesolve[docs])."""

from __future__ import annotations

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc
import pdoc.render

from smesolve.experiments import scaling

STUDIES = sorted(part.name for part in pkgutil.iter_modules(scaling.__path__))

MODULES = [
    "smesolve",
    "smesolve.comparison.exact",
    "smesolve.comparison.leading_constants",
    "smesolve.problem.observables",
    *(f"smesolve.experiments.scaling.{name}" for name in STUDIES),
    "smesolve.problem.schedule",
    "smesolve.problem.linearization",
    "smesolve.solver.perturbed_sde",
    "smesolve.solver.schemes.scheme",
    "smesolve.solver.schemes.gradient_scheme",
    "smesolve.sampling.randomness",
]
"""Modules that users import from; the public names of each are its __all__. smesolve holds experiments, landscape and
symbolic."""


def build(folder: Path) -> None:
    """Write one HTML page a module, and an index."""
    # pdoc looks up the types of a named tuple where `typing` is, not where the tuple is, and those of inherited fields
    # of a dataclass where the subclass is
    warnings.filterwarnings("ignore", message=r".*(Captioned|MomentCheck|Settings).__init__")
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/build.py FOLDER")
    build(Path(sys.argv[1]))
