"""Faults that the tests would not notice: random mutants of the core, each against the tests that reach its line.

    python benchmarks/mutants.py --out results/mutants --count 100
    python benchmarks/mutants.py --out results/mutants --shard 0/2 &      # two processes share the work
    python benchmarks/mutants.py --out results/mutants --shard 1/2

cosmic-ray makes the mutants: a number, an operator, a comparison, a condition or a decorator is another one. One run of
the default suite under coverage says which tests reach which line, and how long each takes. For a mutant they run
quickest first, in a copy of the tree, until one fails; a mutant with which they do not end counts as killed. One that
passes `--budget` seconds of tests survives. What is in --out is not done again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
COPIED = (
    "smesolve",
    "tests",
    "examples",
    "docs",
    "benchmarks",
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "pyproject.toml",
)
MUTATED = ("problem", "solver", "comparison", "landscape")
PRELOADED = (
    "torch",
    "scipy.stats",
    "sympy",
    "matplotlib.figure",
    "pandas",
    "pytest",
    "torchsde",
    "jsonargparse",
)
"""Imported once, before a process is forked for each mutant: they take longer than most tests."""

PYTEST = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0")
UNUSED = ("Variable", "_BitAnd", "_BitOr", "_BitXor", "_LShift", "_RShift")
"""Operators of cosmic-ray that need to be told a name, or put bitwise operations where floats refuse them."""

GUARDS = ("frozen", "strict")
"""Keywords that change nothing where nothing else is wrong."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    line: int
    lines: tuple[int, int]
    """First and last line of the statement, where a test is seen to reach it."""
    operator: str
    occurrence: int


# --- which tests reach which line --------------------------------------------------------------------------------


def reach(tree: Path, out: Path) -> dict[str, Any]:
    """Return {"lines": {file: {line: tests}}, "seconds": {test: seconds}} of the passing tests, from one run of all."""
    saved = out / "reach.json"
    if not saved.exists():
        code, _ = in_a_fork(tree, lambda: measure(tree, saved.with_suffix(".partial")), out / "reach.log", 3 * 3600)
        if code:
            raise SystemExit(f"the run of the suite ended with exit code {code}; see {out / 'reach.log'}.")
        saved.with_suffix(".partial").rename(saved)
    return json.loads(saved.read_text(encoding="utf-8"))


def measure(tree: Path, path: Path) -> int:
    """Run the default suite under coverage, one context for each test."""
    import coverage
    import pytest

    measured = coverage.Coverage(data_file=None, source=[str(tree / "smesolve")], messages=False)
    seconds: dict[str, float] = {}
    failed: set[str] = set()

    class Contexts:
        """A context and the duration of every test; its fixtures belong to it."""

        @pytest.hookimpl(hookwrapper=True)
        def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
            measured.switch_context(item.nodeid)
            begin = time.perf_counter()
            yield
            seconds[item.nodeid] = time.perf_counter() - begin
            measured.switch_context("")

        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.failed:
                failed.add(report.nodeid)

    measured.start()
    code = pytest.main([*(one for one in PYTEST if one != "-x"), "tests"], plugins=[Contexts()])
    measured.stop()
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return int(code)
    data, lines = measured.get_data(), {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file)
        lines[str(Path(file).relative_to(tree))] = {
            line: sorted(set(names) - failed - {""}) for line, names in contexts.items()
        }
    path.write_text(json.dumps({"lines": lines, "seconds": seconds, "failed": sorted(failed)}), encoding="utf-8")
    return 0


def tests_of(mutant: Mutant, reached: dict[str, Any], budget: float) -> list[str]:
    """Tests that reach the statement, quickest first; those of the whole file where it runs on import."""
    lines = reached["lines"].get(mutant.file, {})
    first, last = mutant.lines
    found = {test for line in range(first, last + 1) for test in lines.get(str(line), ())}
    if not found and any(str(line) in lines for line in range(first, last + 1)):
        found = {test for tests in lines.values() for test in tests}
    chosen, total = [], 0.0
    for test in sorted(found, key=lambda name: (reached["seconds"][name], name)):
        total += reached["seconds"][test]
        if chosen and total > budget:
            break
        chosen.append(test)
    return chosen


# --- mutants -----------------------------------------------------------------------------------------------------


def mutants(tree: Path, count: int, seed: int) -> list[Mutant]:
    """Return `count` mutants at random places, all different; the operator is drawn at the place."""
    places = [
        place
        for folder in MUTATED
        for file in sorted((tree / "smesolve" / folder).rglob("*.py"))
        for place in places_of(tree, file)
    ]
    rng = random.Random(seed)
    return [rng.choice(choices) for choices in rng.sample(places, min(count, len(places)))]


def places_of(tree: Path, file: Path) -> list[list[Mutant]]:
    """The mutants of a file, those at one place together; what computes nothing is left as it is."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = file.read_text(encoding="utf-8")
    module = ast.parse(source)
    left, statements = left_out(module), [node for node in ast.walk(module) if isinstance(node, ast.stmt)]
    nodes, found = list(ast_nodes(get_ast(source))), {}
    for name in sorted(operator_names()):
        if any(word in name for word in UNUSED):
            continue
        operator, occurrence = get_operator(name)(), -1
        for node in nodes:
            for begin, end in operator.mutation_positions(node):
                occurrence += 1
                if any(low <= begin and end <= high for low, high in left):
                    continue
                lines = statement_lines(statements, begin[0])
                mutant = Mutant(str(file.relative_to(tree)), begin[0], lines, name, occurrence)
                found.setdefault((begin, end), []).append(mutant)
    return list(found.values())


def left_out(module: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges (line, column) of code that computes nothing: annotations, __all__, what is raised, and guards."""
    parts: list[ast.AST | None] = []
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            parts.append(node.returns)
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            parts.append(node.annotation)
        elif (
            (isinstance(node, ast.keyword) and node.arg in GUARDS)
            or isinstance(node, ast.Raise)
            or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")
        ):
            parts.append(node)
    return [((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)) for part in parts if part]


def statement_lines(statements: list[ast.stmt], line: int) -> tuple[int, int]:
    """The lines of the innermost statement at a line; of its head where it has a body."""
    around = [node for node in statements if node.lineno <= line <= node.end_lineno]
    if not around:  # a decorator
        return line, line
    inner = max(around, key=lambda node: (node.lineno, -node.end_lineno))
    body = getattr(inner, "body", None)
    last = max(inner.lineno, body[0].lineno - 1) if isinstance(body, list) else inner.end_lineno
    return inner.lineno, last


def mutated(source: str, mutant: Mutant) -> str:
    """The source with the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    assert changed is not None and changed != source, mutant
    return changed


# --- running -----------------------------------------------------------------------------------------------------


def in_a_fork(tree: Path, function: Callable[[], int], log: Path, limit: float) -> tuple[int | None, float]:
    """Exit code of function() in a process of its own in `tree` (None: it did not end within `limit`), and seconds."""
    begin, child = time.perf_counter(), os.fork()
    if not child:
        os.setsid()
        code = 70
        try:
            with open(log, "wb") as file:
                for stream in (1, 2):
                    os.dup2(file.fileno(), stream)
            os.chdir(tree)
            sys.path.insert(0, str(tree))
            os.environ["PYTHONPATH"] = str(tree)
            code = function()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    while time.perf_counter() - begin < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            kill_group(child)  # what the tests left running
            return os.waitstatus_to_exitcode(status), time.perf_counter() - begin
        time.sleep(0.05)
    kill_group(child)
    os.waitpid(child, 0)
    return None, time.perf_counter() - begin


def kill_group(leader: int) -> None:
    """End every process of the group, if there is one left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def fate(tree: Path, mutant: Mutant, reached: dict[str, Any], budget: float, log: Path) -> dict[str, Any]:
    """What becomes of a mutant."""
    import pytest

    tests = tests_of(mutant, reached, budget)
    file = tree / mutant.file
    source = file.read_text(encoding="utf-8")
    changed = mutated(source, mutant)
    outcome, seconds = "survived: no test reaches it", 0.0
    if tests:
        # other processes may share the cores: an end that never comes is far beyond what all the tests took
        limit = 60 + 10 * sum(reached["seconds"][test] for test in tests)
        file.write_text(changed, encoding="utf-8")
        try:
            code, seconds = in_a_fork(tree, lambda: int(pytest.main([*PYTEST, *tests])), log, limit)
        finally:
            file.write_text(source, encoding="utf-8")
        outcome = "survived" if code == 0 else "killed: no end" if code is None else "killed"
    diff = difflib.unified_diff(source.splitlines(), changed.splitlines(), lineterm="", n=0)
    return {
        **asdict(mutant),
        "outcome": outcome,
        "tests": len(tests),
        "seconds": round(seconds, 1),
        "diff": [line for line in diff if line[:1] in "+-" and line[:3] not in ("+++", "---")],
    }


def main() -> None:
    """Sort the mutants into killed and survived, and print the survivors."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="folder of the results, which are gone on with.")
    options.add_argument("--count", type=int, default=100, help="mutants. Default: 100.")
    options.add_argument("--seed", type=int, default=0, help="of the places. Default: 0.")
    options.add_argument("--budget", type=float, default=120.0, help="seconds of tests for each mutant. Default: 120.")
    options.add_argument("--shard", default="0/1", help="i/n: every n-th mutant from the i-th on. Default: 0/1.")
    given = options.parse_args()
    shard, shards = map(int, given.shard.split("/"))
    out = given.out.resolve()
    tree = out / f"tree-{shard}"
    (out / "logs").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    for name in PRELOADED:
        importlib.import_module(name)
    reached = reach(tree, out)
    chosen, saved = mutants(tree, given.count, given.seed), out / f"fates-{shard}.jsonl"
    done = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()] if saved.exists() else []
    for number in range(shard, len(chosen), shards):
        mutant = chosen[number]
        if any(one["number"] == number for one in done):
            continue
        done.append({"number": number, **fate(tree, mutant, reached, given.budget, out / "logs" / f"{number}.txt")})
        with open(saved, "a", encoding="utf-8") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(
            f"{number:4} {done[-1]['outcome']:10} {mutant.file}:{mutant.line} {done[-1]['diff'][-1].strip()}",
            flush=True,
        )
    shutil.rmtree(tree)
    report(out)


def report(out: Path) -> None:
    """Print how many mutants of each folder survive, and each survivor; write both as JSON."""
    fates = [
        json.loads(line)
        for file in sorted(out.glob("fates-*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    table = pd.DataFrame(fates).assign(
        folder=lambda frame: frame.file.str.split("/").str[1],
        killed=lambda frame: frame.outcome.str.startswith("killed"),
    )
    counts = table.groupby("folder").killed.agg(mutants="count", killed="sum")
    counts.loc["all"] = counts.sum()
    print(counts.to_string())
    survivors = [one for one in fates if not one["outcome"].startswith("killed")]
    for one in survivors:
        print(
            f"\n{one['file']}:{one['line']} ({one['operator']}, {one['outcome']}, {one['tests']} tests)",
            *one["diff"],
            sep="\n  ",
        )
    (out / "mutants.json").write_text(
        json.dumps({"counts": counts.to_dict("index"), "survivors": survivors}, indent=2), encoding="utf-8"
    )


if __name__ == "__main__":
    sys.path.remove(str(Path(__file__).resolve().parent))  # where coverage.py would hide the package of that name
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(
            sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        )
    main()
