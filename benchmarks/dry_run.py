"""The time and the memory that --dry-run predicts beside those of the real run, each in a process of its own.

Times are processor times of one thread, so that they do not depend on what else the machine does.

python benchmarks/dry_run.py [--only "small" "compare"] [--out dry_run.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import os
import re
import subprocess
import sys
import tempfile

import harness

COMMAND = [sys.executable, "-m", "smesolve"]

INPUTS = ["--data.name", "random", "--data.in_features", "4"]
DATA = [*INPUTS, "--data.samples", "16"]
SHORT = ["--horizon", "0.4", "--paths", "64", "--seed", "0"]
LARGE = [*SHORT, "--lrs", "[0.1]"]
BRIEF = ["--horizon", "0.02", "--paths", "16", "--lrs", "[0.01]", "--network.width", "1000", "--seed", "0"]
OBSERVABLES = "[" + ", ".join(f"'theta[{k}]'" for k in range(60)) + "]"
RATES = "[" + ", ".join(str(0.4 / steps) for steps in range(4, 24)) + "]"
SAMPLED = [*INPUTS, "--data.samples", "64", "--training.batch_size", "16", "--seed", "0", "--paths", "64"]
COARSE = ["--horizon", "0.4", "--lrs", "[0.1]", "--dt", "0.05"]
DEEP = ["--network.width", "[32, 32]", "--training.dropout", "every"]
FINE = ["--horizon", "0.02", "--lrs", "[0.01]", "--dt", "0.005"]
TEN_STEPS = ["--horizon", "1.0", "--lrs", "[0.1]"]
DROPOUT_DEEP = [*INPUTS, "--data.samples", "32", "--training.masks", "per_sample", *DEEP]
LANDSCAPE = ["landscape", *DATA, "--network.width", "8", "--steps", "20", "--runs", "4", "--lr", "0.05"]

STUDIES = {
    "small": ["weak-error", *DATA, *LARGE, "--network.width", "4"],
    "compare": ["compare", *DATA, *LARGE, "--network.width", "4"],
    "dense Hessians, D 250": ["weak-error", *DATA, *SHORT, "--lrs", "[0.02]", "--network.width", "50"],
    "60 observables": ["weak-error", *DATA, *LARGE, "--network.width", "20", "--observables", OBSERVABLES],
    "20 learning rates": ["weak-error", *DATA, *SHORT, "--lrs", RATES, "--network.width", "8"],
    "low-rank Hessians, D 2,000": ["weak-error", *DATA, *SHORT, "--lrs", "[0.05]", "--network.width", "400"],
    "low-rank Hessians, D 5,000": ["weak-error", *DATA, *BRIEF],
    "adjoints, D 5,000": ["weak-error", *DATA, *BRIEF, "--control", "first"],
    "500 samples": ["weak-error", *INPUTS, "--data.samples", "500", *LARGE, "--network.width", "30"],
    "masks for each sample": ["weak-error", *DATA, *LARGE, "--network.width", "20", "--training.masks", "per_sample"],
    "mini-batches": ["weak-error", *SAMPLED, *COARSE, "--network.width", "32"],
    "mini-batches, deep": ["weak-error", *SAMPLED, *COARSE, *DEEP],
    "mini-batches, D 5,000": ["weak-error", *SAMPLED, *FINE, "--network.width", "1000"],
    "float32": ["weak-error", *DATA, *LARGE, "--network.width", "50", "--dtype", "float32"],
    "two workers": ["weak-error", *DATA, *LARGE, "--network.width", "20", "--workers", "2"],
    "kappa": ["scaling", *DATA, "--study", "kappa", "--network.width", "4", "--paths", "64", "--kappas", "[1, 2]"],
    "landscape, alignment": [*LANDSCAPE, "--sections", "[alignment]"],
    "landscape, flatness": [*LANDSCAPE, "--sections", "[flatness]", "--noises.batch_size", "4"],
    "4,096 paths": ["weak-error", *DATA, "--lrs", "[0.1, 0.05, 0.025]", "--network.width", "8", "--paths", "4096"],
    "compare, D 2,368": ["compare", "--data.samples", "200", *TEN_STEPS, "--paths", "256"],
    "masks for each sample, deep": ["weak-error", *DROPOUT_DEEP, *TEN_STEPS, "--paths", "128"],
    "schedule": ["scaling", *DATA, "--study", "schedule", "--network.width", "4", "--paths", "512"],
    "convergence": ["convergence", "--error", "strong"],
    "derive": ["derive", "--iteration", "dropout", "--width", "2", "--order", "2"],
}
"""By name, the arguments of the command line."""


def predicted(arguments):
    """Seconds and MiB that the dry run says."""
    said = subprocess.run([*COMMAND, *arguments, "--dry-run"], capture_output=True, text=True, check=True).stdout
    seconds = re.search(r"time:\s+about ([\d.e+]+) s", said)[1]
    return float(seconds), float(re.search(r"memory:\s+about ([\d,]+) MiB", said)[1].replace(",", ""))


def measured(arguments):
    """Seconds of processor time, and MiB of the largest resident set, of the real run."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*COMMAND, *arguments, "--out", f"{folder}/results"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"smesolve {' '.join(arguments)} ended with status {status}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--only", nargs="*", choices=list(STUDIES), default=list(STUDIES))
    arguments = parser.parse_args()
    rows = []
    print(f"{'':28}{'seconds':>30}{'MiB':>30}")
    print(f"{'study':28}" + 2 * f"{'predicted':>10}{'measured':>10}{'ratio':>10}")
    for name in arguments.only:
        row, line = {"study": name}, f"{name:28}"
        for kind, said, found in zip(
            ("seconds", "MiB"), predicted(STUDIES[name]), measured(STUDIES[name]), strict=True
        ):
            row |= {f"predicted {kind}": said, f"measured {kind}": found, f"ratio of {kind}": said / found}
            line += f"{said:10.3g}{found:10.3g}{said / found:10.2f}"
        rows.append(row)
        print(line, flush=True)
    harness.write(arguments.out, rows)


if __name__ == "__main__":
    main()
