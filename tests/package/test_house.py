"""The package is a house: its rooms import one way, without a circle, and every file is short enough to be read."""

import ast
import graphlib
from pathlib import Path

import smesolve

PACKAGE = Path(smesolve.__file__).parent
ROOT = Path(__file__).parents[2]

ROOMS = [
    {"study"},
    {"experiments"},
    {"comparison", "landscape"},
    {"solver"},
    {"symbolic"},
    {"problem"},
    {"sampling"},
]
"""A module imports from its own room, and from those further down; see CONTRIBUTING.md."""

LEVELS = {room: level for level, rooms in enumerate(reversed(ROOMS)) for room in rooms}
BELOW = -1
"""Level of modules that stand in no room, such as smesolve.errors: every room may import them."""

MOST_LINES = 400

UPWARD_HINTS = {("validation", "problem")}
"""Imports against the rule, by room, for type hints only."""

CIRCULAR_HINTS = {
    ("smesolve.experiments.shared.registry", "smesolve.experiments.shared.experiment"),
    ("smesolve.validation", "smesolve.problem.problem"),
    ("smesolve.problem.definition", "smesolve.problem.problem"),
    ("smesolve.problem.dropout_linearization", "smesolve.problem.dropout"),
    ("smesolve.problem.linearization", "smesolve.problem.problem"),
}
"""Imports that would close a circle, for type hints only."""


def module_of(file):
    """Return the dotted name of a file of the package."""
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in PACKAGE.rglob("*.py")}


def imports(module):
    """Return the modules of the package that a module imports, in functions and for type hints too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return found & MODULES.keys() - {module}


IMPORTS = {module: imports(module) for module in MODULES if module not in ("smesolve", "smesolve.__main__")}


def room(module):
    """Return the folder of the package that a module is in, or its own name where it is in none."""
    return module.split(".")[1]


def test_every_folder_is_a_room():
    rooms = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert rooms - {"arguments"} <= LEVELS.keys()


def test_imports_go_one_way():
    pairs = {(room(module), room(imported)) for module in IMPORTS for imported in IMPORTS[module] - {"smesolve"}}
    against = {
        (here, there)
        for here, there in pairs
        if here != there and there in LEVELS and LEVELS[there] >= LEVELS.get(here, BELOW)
    }
    assert against <= UPWARD_HINTS


def test_there_is_no_circle():
    straight = {
        module: {name for name in imported if (module, name) not in CIRCULAR_HINTS}
        for module, imported in IMPORTS.items()
    }
    graphlib.TopologicalSorter(straight).prepare()


def test_no_file_is_long():
    files = {file.relative_to(PACKAGE.parent).as_posix(): file for file in PACKAGE.rglob("*.py")}
    for folder in ("tests", "benchmarks", "examples", "docs"):
        files |= {file.relative_to(ROOT).as_posix(): file for file in (ROOT / folder).rglob("*.py")}
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in files.items()}
    assert [name for name, length in lengths.items() if length > MOST_LINES] == []
