"""Time that loading a problem and `weak_error` takes beyond torch's import, each in a process of its own.

python benchmarks/import_time.py [--runs 5] [--out import_time.json]
"""

import statistics
import subprocess
import sys

import harness

CODE = """
import time
import torch
start = time.perf_counter()
import smesolve as sme
sme.TwoLayerNetwork, sme.DropoutProblem, sme.weak_error  # public names are loaded on first use
print(time.perf_counter() - start)
"""


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    seconds = [float(subprocess.check_output([sys.executable, "-c", CODE])) for _ in range(arguments.runs)]
    print(f"seconds beyond torch's: minimum {min(seconds):.2f}, median {statistics.median(seconds):.2f}")
    harness.write(arguments.out, seconds)


if __name__ == "__main__":
    main()
