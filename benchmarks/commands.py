"""Seconds of the commands that people run, of this version beside an older one, in one run.

    python benchmarks/commands.py [--before PYTHON] [--jobs digits ...] [--rounds 2] [--out commands.json]

PYTHON is the interpreter of another environment with the older version in it:

    git worktree add ../before 73c9f50   # 0.3.1
    python3.11 -m venv ../before/.venv && ../before/.venv/bin/pip install "../before[examples]"

Every job runs in processes of its own, those of both versions in turns; printed are the minima over the rounds of the
seconds on the clock and of processor time, and their ratios. Both versions get the same configurations, those of
`examples/`; a dash stands for one that the older version refuses. `digits_0_3` and `digits_deep_0_3` are the main job
and the deep classifier as they were in 0.3, kept in `benchmarks/`. "weak_error, M" is
`weak_error` on a tanh 64-8-32 network (64 samples, 8 inputs, 32 neurons) at lrs 0.1 and 0.05, with both orders, 2048
paths and two workers; "the call" is without the start of Python and imports (processor time is that of the process).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = {
    "digits": ("compare", "examples/digits.yaml"),
    "digits_0_3": ("compare", "benchmarks/digits_0_3.yaml"),
    "digits_certificate": ("weak-error", "examples/digits_certificate.yaml"),
    "weak_order": ("weak-error", "examples/weak_order.yaml"),
    "scaling_map": ("scaling", "examples/scaling_map.yaml"),
    "digits_deep": ("compare", "examples/digits_deep.yaml"),
    "digits_deep_0_3": ("compare", "benchmarks/digits_deep_0_3.yaml"),
}
"""Command and configuration by the name of the job."""

WEAK_ERROR, CALL = "weak_error, M", "weak_error, M, the call"

SCRIPT = """
import time

import numpy as np, torch
import smesolve as sme

if __name__ == "__main__":
    torch.set_num_threads(2)
    x = np.random.default_rng(0).standard_normal((64, 8))
    torch.manual_seed(0)
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(8, 32), x, np.sin(x.sum(1, keepdims=True)), keep_prob=0.8)
    begin = time.perf_counter()
    study = sme.weak_error(
        problem, problem.initial(seed=0), lrs=[0.1, 0.05], horizon=2.0, orders=(1, 2), paths=2048, workers=2
    )
    print(study.table.to_csv())
    print(time.perf_counter() - begin)
"""


REFUSED = 2
"""Exit code of a command that cannot read its configuration."""


def run(python: str, job: str, may_refuse: bool) -> tuple[float, float]:
    """Seconds on the clock and of processor time of one job in a process of its own, its workers included.

    They are NaN for a command that refuses its configuration, where it may.
    """
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "weak_error_at_m.py"
        script.write_text(SCRIPT)
        if job in (WEAK_ERROR, CALL):
            arguments = [python, str(script)]
        else:
            command, configuration = COMMANDS[job]
            arguments = [python, "-m", "smesolve", command, str(ROOT / configuration), "--out", f"{folder}/results"]
        begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        # Beside the script: the package of the working folder must not stand in for the installed one.
        done = subprocess.run(arguments, cwd=folder, env=os.environ, capture_output=True, text=True)
        seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode == REFUSED and may_refuse:
        return float("nan"), float("nan")
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    if job == CALL:
        seconds = float(done.stdout.split()[-1])
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--before", help="python of an environment with the older version")
    parser.add_argument(
        "--jobs", nargs="+", choices=[*COMMANDS, WEAK_ERROR, CALL], default=[*COMMANDS, WEAK_ERROR, CALL]
    )
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    pythons = {"before": arguments.before, "now": sys.executable} if arguments.before else {"now": sys.executable}
    rows = []
    for job in arguments.jobs:
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in pythons}
        for _ in range(arguments.rounds):
            for name, python in pythons.items():
                times[name].append(run(python, job, may_refuse=name == "before"))
        row: dict[str, object] = {"job": job}
        for kind, position in (("seconds", 0), ("processor", 1)):
            least = {name: min(found[position] for found in values) for name, values in times.items()}
            row |= {f"{kind}, {name}": value for name, value in least.items()}
            if arguments.before:
                row[f"{kind}, ratio"] = least["before"] / least["now"]
        rows.append(row)
        print(harness.shown(pd.DataFrame([row]), na_rep="-"), flush=True)
    print("\n" + harness.shown(pd.DataFrame(rows), na_rep="-"))
    harness.write(arguments.out, {"threads": harness.threads(), "rounds": arguments.rounds, "jobs": rows})


if __name__ == "__main__":
    main()
