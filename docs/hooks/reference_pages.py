"""The API reference: a page for each group of public names, made by mkdocstrings from their docstrings.

Names are read from the sources, so that a new public name is on its page without a change here.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SECTION = "API reference"
"""The entry of the navigation that holds the pages."""


class ReferencePage(NamedTuple):
    """A page of the reference.

    Attributes:
        title: in the navigation.
        text: what the page is about.
        module: from which the names are imported.
        names: public names, in their order on the page.
    """

    title: str
    text: str
    module: str
    names: list[str]


ROOMS = {
    "problem": ("Problems", "What is trained: networks, mask laws, problems, optimisers and the discrete iteration."),
    "solver": ("Equations and schemes", "The modified equation, how it is solved, and schemes of your own."),
    "comparison": ("Weak errors and orders", "How far an equation is from the iteration, and a scheme from its SDE."),
    "sampling": ("Sampling", "Interrupted studies, and warnings about paths."),
    "study": ("Results from disk", "Results of the command line in Python."),
    "errors": ("Errors", "What is raised for a call that cannot be carried out."),
}
"""Packages whose names `smesolve` exports, with title and text of their page."""

MODULES = {
    "smesolve.symbolic": ("Symbolic derivation", "From a step in sympy to its equation and the proof of its order."),
    "smesolve.landscape": ("Landscape", "Hessian, noise covariance and flatness as matrix-free operators."),
    "smesolve.experiments": ("Experiments", "What is run by name, and what an experiment of your own is made of."),
    "smesolve.comparison.exact": ("Exact references", "Moments without Monte Carlo."),
    "smesolve.comparison.leading_constants": ("Leading constants", "Predicted leading terms of the weak error."),
    "smesolve.problem.observables": ("Observables", "What is measured of the parameters."),
    "smesolve.problem.schedule": ("Schedules", "Learning rates and keep_prob that depend on time."),
    "smesolve.problem.linearization": ("Linearization", "Everything that a problem computes at a point."),
    "smesolve.solver.perturbed_sde": ("Perturbed SDE", "What a scheme gets to evaluate."),
    "smesolve.sampling.randomness": ("Random numbers", "Keyed generators."),
}
"""Modules from which users import directly, with title and text of their page."""

SCALING = "smesolve.experiments.scaling"
"""The package whose modules are the studies of `smesolve scaling`."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages into the navigation."""
    for entry in config.nav or []:
        if SECTION in entry:
            entry[SECTION] = [
                {"All names": "reference/index.md"},
                *(f"reference/{file_name(page)}" for page in pages()),
            ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages and their index."""
    index = [f"# {SECTION}\n"]
    for page in pages():
        path = f"reference/{file_name(page)}"
        files.append(File.generated(config, path, content=markdown(page)))
        names = ", ".join(f"[`{name}`][{page.module}.{name}]" for name in page.names)
        index.append(f"## [{page.title}]({file_name(page)})\n\n{page.text} From `{page.module}`:\n\n{names}\n")
    files.append(File.generated(config, "reference/index.md", content="\n".join(index)))
    return files


def pages() -> list[ReferencePage]:
    """Return the pages in their order."""
    exported = stub_names("smesolve")
    listed = [ReferencePage(*ROOMS[room], "smesolve", exported[room]) for room in ROOMS]
    for module, (title, text) in MODULES.items():
        listed.append(ReferencePage(title, text, module, public_names(module)))
    for path in sorted(source(SCALING).parent.glob("[!_]*.py")):
        module = f"{SCALING}.{path.stem}"
        listed.append(ReferencePage(f"Study {path.stem}", summary(path), module, public_names(module)))
    return listed


def file_name(page: ReferencePage) -> str:
    """Return the name of the file of a page."""
    return page.title.lower().replace(" ", "_") + ".md"


def markdown(page: ReferencePage) -> str:
    """Return the page for mkdocstrings."""
    entries = [f"::: {page.module}.{name}\n    options:\n      heading_level: 2\n" for name in page.names]
    return "\n".join([f"# {page.title}\n\n{page.text}\n", *entries])


def public_names(module: str) -> list[str]:
    """Return what a module declares in `__all__`, or in the stub that stands for it."""
    if source(module).with_suffix(".pyi").is_file():
        return [name for names in stub_names(module).values() for name in names]
    for node in ast.parse(source(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{module} has no __all__.")


def stub_names(module: str) -> dict[str, list[str]]:
    """Return the names that the stub of a package exports, by the first part of the module that they come from.

    Names of modules and of the version are left out.
    """
    names: dict[str, list[str]] = {}
    for node in ast.parse(source(module).with_suffix(".pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module != "version":
            names.setdefault(node.module.split(".")[0], []).extend(alias.name for alias in node.names)
    return names


def summary(path: Path) -> str:
    """Return the first paragraph of the docstring of a module."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0]


def source(module: str) -> Path:
    """Return the file of a module."""
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"{module} has no file.")
    return Path(found.origin)
