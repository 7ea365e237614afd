"""Make the index of the examples, README.md in this folder, from the headers of the configurations.

`python examples/make_index.py` writes the page. `python examples/make_index.py results` first copies the figures from
the folder results, where the commands of the page and the scripts write them: results/NAME/*.png or results/NAME.png.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image

HERE = Path(__file__).parent

COLOURS = 256
"""Colours of a figure, chosen by an octree, which keeps those of thin lines; few of them keep the repository small."""

REDUCTION = 2
"""Figures are written with 300 dpi."""

GROUPS = {
    "Dropout compared with its equation": ("digits", "digits_deep", "digits_deep_tanh"),
    "Weak order": ("weak_order", "digits_certificate"),
    "Range of validity": ("validity", "validity_adam"),
    "Convergence of solvers": ("convergence",),
    "Learning-rate scaling": ("scaling_",),
    "Noise and landscape": ("landscape_",),
    "Numbers of a paper compared with ours": ("reproduce_",),
    "Derivations": ("derive_",),
}
"""Names of the examples, or their prefixes, by heading."""


SCRIPT = (
    "`python examples/own_modules.py`: weak errors of a small convolutional network and of a small transformer, by "
    "defects, in half a minute"
)
"""The example without a configuration, because configurations do not run code."""


class Header(NamedTuple):
    """The parts of the comment at the top of a configuration."""

    command: str
    summary: str
    seen: str


def header(path: Path) -> Header:
    """Return the command, the summary, and the result, which follows "Seen:"."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line[2:])
    command, *rest = lines
    summary, seen = " ".join(rest).split(" Seen: ")
    return Header(command, summary, seen)


def index() -> str:
    """Return the page in Markdown."""
    parts = [
        "# Examples",
        "Every study as a configuration for the command line, with its figure at full size. One study of each kind is "
        "also a script in Python. Run the commands in the root of the repository; a script, `python "
        "examples/NAME.py`, writes its figure into the working directory. Brackets are 95% intervals. `make_index.py` "
        "makes this page from the headers of the configurations.",
    ]
    for heading, names in GROUPS.items():
        parts.append(f"## {heading}")
        for path in sorted(HERE.glob("*.yaml")):
            if any(path.stem.startswith(name) if name.endswith("_") else path.stem == name for name in names):
                parts.append(_entry(path))
    parts += ["## Modules of your own", f"{SCRIPT} ([own_modules.py](own_modules.py))."]
    return "\n\n".join(parts) + "\n"


def _entry(path: Path) -> str:
    name, (command, summary, seen) = path.stem, header(path)
    lines = [
        f"### {name}",
        f"{summary} Seen: {seen}",
        " · ".join([f"`{command}`", *(f"[{file.name}]({file.name})" for file in _files(name))]),
    ]
    if (HERE / "figures" / f"{name}.png").is_file():
        lines.append(f"![{name}](figures/{name}.png)")
    return "\n\n".join(lines)


def _files(name: str) -> list[Path]:
    """Return the configuration of an example, and its script where there is one; all derivations share theirs."""
    script = "derived_paths" if name.startswith("derive_") else name
    return [file for file in (HERE / f"{name}.yaml", HERE / f"{script}.py") if file.is_file()]


def take_figures(results: Path) -> None:
    """Copy one figure of each study in the folder, the last by name, reduced to a size for the repository."""
    for path in sorted(HERE.glob("*.yaml")):
        found = [*sorted((results / path.stem).glob("*.png"), reverse=True), results / f"{path.stem}.png"]
        if found[0].is_file():
            picture = Image.open(found[0]).convert("RGB")
            small = picture.reduce(REDUCTION).quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            small.save(HERE / "figures" / f"{path.stem}.png", optimize=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take_figures(Path(sys.argv[1]))
    (HERE / "README.md").write_text(index(), encoding="utf-8")
