"""Test what users install: the wheel, in an environment and a folder that cannot see the source tree.

    python3.11 tests/run_installed.py                 # checks of the source, then the default suite
    python3.11 tests/run_installed.py -m slow         # arguments go to pytest

The script makes the environment `.venv` of the checkout, builds the sdist and from it the wheel, installs the wheel
with the versions of constraints.txt, checks the source by ruff and mypy, and runs the tests in a copy of everything
but the package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("tests", "examples", "docs", "benchmarks")
FILES = ("README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "mkdocs.yml", "pyproject.toml")
"""What tests read beside the package; pyproject.toml holds the settings of pytest."""


def main(pytest_arguments: list[str]) -> int:
    """Return the exit code of the first command that fails, or of pytest."""
    environment = ROOT / ".venv"
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        run(sys.executable, "-m", "venv", environment)
    pip = (python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt")
    run(*pip, "build")
    with tempfile.TemporaryDirectory(prefix="smesolve-") as name:
        place = Path(name)
        run(python, "-m", "build", "--outdir", place / "dist", ROOT, quiet=True)
        (wheel,) = (place / "dist").glob("*.whl")
        run(*pip, f"{wheel}[test]")  # what it needs, and then the wheel itself if this version was there before
        run(*pip, "--no-deps", "--force-reinstall", wheel)
        for command in (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]):
            run(python, "-m", *command, cwd=ROOT)
        run(python, "-m", "mypy", "--strict", "--follow-imports=silent", "tests/typed_user.py", cwd=ROOT)

        work = place / "work"
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, work / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in FILES:
            shutil.copy(ROOT / file, work)
        # -P: the current folder does not come first among the places where Python looks for modules.
        where = "import smesolve, pathlib; print(pathlib.Path(smesolve.__file__).resolve())"
        found = subprocess.run([python, "-P", "-c", where], cwd=work, capture_output=True, text=True, check=True).stdout
        if (ROOT / "smesolve") in Path(found.strip()).parents:
            raise SystemExit(f"{found.strip()} is the source tree, not the wheel; remove {environment} and try again.")
        # Two processes, of one thread of torch each: more threads would wait for each other.
        command = [python, "-P", "-m", "pytest", "-n", "2", "--dist", "worksteal", *pytest_arguments]
        return subprocess.run(command, cwd=work, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode


def run(*command: str | Path, cwd: Path | None = None, quiet: bool = False) -> None:
    """Run a command; where it fails, end with its exit code. With `quiet`, show its output only then."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, check=False, capture_output=quiet, text=True)
    if done.returncode:
        print(done.stdout or "", done.stderr or "", sep="", file=sys.stderr)
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
