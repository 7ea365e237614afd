"""What a wheel must hold, what it declares, and what is imported when."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import smesolve
from smesolve.experiments.shared.problems import ACTIVATION_LAYERS
from smesolve.experiments.shared.settings import ACTIVATIONS
from smesolve.experiments.shared.settings import LOSSES as LOSS_NAMES
from smesolve.problem.losses import LOSSES

PACKAGE = Path(smesolve.__file__).parent

OPTIONAL = {"sklearn"}
"""Imported only for what an extra is for."""


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_every_folder_is_a_package():
    """A folder without __init__.py is left out of a wheel."""
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    assert len(folders) >= 10
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_data_files_are_installed():
    names = "py.typed", "__init__.pyi", "experiments/__init__.pyi", "study/html_report.css"
    for name in (*names, "experiments/shared/paper_numbers.csv"):
        assert (PACKAGE / name).is_file(), name


def imported(file):
    """Top-level names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_everything_imported_is_declared():
    def key(name):
        return re.sub(r"[-_.]+", "-", name).lower()

    needed = [entry for entry in requires("smesolve") if "extra ==" not in entry]
    declared = {key(re.match(r"[\w.-]+", entry).group()) for entry in needed}
    names = {name for file in PACKAGE.rglob("*.py") for name in imported(file)}
    others = names - set(sys.stdlib_module_names) - OPTIONAL - {"smesolve"}
    assert {"torch", "torchsde", "yaml"} <= others
    distributions = packages_distributions()
    missing = [name for name in others if not declared & {key(one) for one in distributions.get(name, ())}]
    assert missing == []
    assert all(">=" in entry for entry in needed), "every dependency says its lowest version"


def test_every_public_name_is_there():
    for name in smesolve.__all__:
        assert getattr(smesolve, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        smesolve.no_such_name  # noqa: B018
    assert {"Piecewise", "CompiledProblem", "landscape", "symbolic"} <= set(smesolve.__all__)


HEAVY = ("torch", "scipy", "sympy", "matplotlib", "pandas")


@pytest.mark.parametrize(
    "code",
    [
        "import smesolve",
        *(
            f"from smesolve.study.command_line import main\ntry: main({arguments})\nexcept SystemExit: pass"
            for arguments in ("['--help']", "['--version']")
        ),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    done = python("-c", f"{code}\nimport sys; print([name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stdout[-300:] + done.stderr


def test_the_module_is_the_command_and_says_the_versions():
    done = python("-m", "smesolve", "--version")
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith(f"smesolve {smesolve.__version__}\n")
    for package in ("python", "torch", "torchsde", "numpy", "sympy"):
        assert re.search(rf"\b{package} \d+\.\d+", done.stdout), package


def test_names_in_configurations_are_those_that_there_are():
    """The shared blocks of settings are read without torch, so they do not ask the tables themselves."""
    assert set(LOSS_NAMES) == set(LOSSES) and set(ACTIVATIONS) == set(ACTIVATION_LAYERS)
