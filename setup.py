"""Build of the compiled kernels; everything else stands in setup.cfg.

They are shared libraries of their own, loaded by ctypes, so nothing of Python's is in them. Where they cannot be
compiled, the installation goes on: the formulas in torch stand in.
"""

import copy
import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("smesolve") / "problem" / "kernels"
# -ffast-math would undo the rounding by which the exponential function splits its argument.
OPTIONS = ["-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi", "-Wno-unknown-pragmas", "-g0"]


class BuildKernels(build_ext):
    """Compiles all variants at once, and gives each library a name of its own: Python takes .so for a module."""

    def finalize_options(self) -> None:
        """Take all processors, unless the command says how many."""
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extension(self, ext: Extension) -> None:
        """Build one library, with its object file in a folder of its own: all are compiled from one source."""
        own = copy.copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name)
        super(BuildKernels, own).build_extension(ext)

    def get_ext_filename(self, fullname: str) -> str:
        """Return the path of a library."""
        return os.path.join(*fullname.split(".")) + ".kernels"


def kernels(variant: str, *options: str) -> Extension:
    """Return the library of one variant."""
    return Extension(
        f"smesolve.problem.kernels.{variant}",
        sources=[(FOLDER / "kernels.cpp").as_posix()],
        depends=[path.as_posix() for path in sorted(FOLDER.glob("*.h"))],
        extra_compile_args=[*OPTIONS, *options],
        language="c++",
        optional=True,
    )


if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS = [kernels(f"x86-64-v{level}", f"-march=x86-64-v{level}") for level in (2, 3, 4)]
else:
    VARIANTS = [kernels("generic")]

setup(ext_modules=VARIANTS, cmdclass={"build_ext": BuildKernels})
