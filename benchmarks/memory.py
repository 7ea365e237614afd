"""Peak memory of a weak-error measurement: at growing D, and at growing numbers of paths.

With first-order control variates there is no D x D or D x M array; with streaming statistics a hundred times the paths
take no more. Each size runs in a process of its own; the growth over the peak after importing the package is what the
run took.

    python benchmarks/memory.py [--out memory.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import numpy as np

import smesolve as sme

SIZES = {2_000: (60, 32), 50_000: (780, 64)}
"""D -> (inputs, width), one output."""


PATHS = (10**4, 10**6)


def measure(inputs, width, control):
    problem = harness.sine_problem(64, inputs, width, frequency=3.0)
    before = harness.peak()
    sme.weak_error(problem, problem.initial(), [0.1], 1.0, paths=64, control=control)
    return problem.dim, problem.noise_dim, before, harness.peak()


def measure_paths(paths):
    x = np.linspace(-1, 1, 4)[:, None]
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(1, 2), x, x**2, keep_prob=0.8)
    before = harness.peak()
    sme.weak_error(problem, problem.initial(), [0.1], 0.2, paths=paths)
    return before, harness.peak()


def main():
    parser = harness.parser(__doc__)
    arguments = parser.parse_args()
    rows = []
    print("     D      M  control  imported MiB  peak MiB   D x D would be MiB   D x M a path MiB")
    for size, (inputs, width) in SIZES.items():
        for control in ("first", "second") if size <= 4096 else ("first",):
            D, M, before, after = harness.in_a_process_of_its_own(measure, inputs, width, control)
            row = {"D": D, "M": M, "control": control, "imported": before, "peak": after}
            rows.append(row | {"square": 8 * D**2 / 2**20, "factor": 8 * D * M / 2**20})
            would = f"{rows[-1]['square']:19.0f}  {rows[-1]['factor']:17.0f}"
            print(f"{D:6} {M:6}  {control:7}  {before:12.0f}  {after:8.0f}  {would}")
    print("\n  paths  imported MiB  peak MiB")
    peaks = []
    for paths in PATHS:
        before, after = harness.in_a_process_of_its_own(measure_paths, paths)
        rows.append({"paths": paths, "imported": before, "peak": after})
        peaks.append(after)
        print(f"{paths:7}  {before:12.0f}  {after:8.0f}", flush=True)
    print(f"{PATHS[-1]:g} paths take {peaks[-1] / peaks[0] - 1:+.1%} of the peak at {PATHS[0]:g}")
    harness.write(arguments.out, rows)


if __name__ == "__main__":
    main()
