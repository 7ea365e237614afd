"""Peak memory of a weak-error measurement: at growing D, and at growing numbers of paths.

With first-order control variates there is no D x D or D x M array; with streaming statistics a hundred times the paths
take no more. Each size runs in a process of its own; the growth over the peak after importing the package is what the
run took.

    python benchmarks/memory.py [--out memory.json]
"""

import argparse
import json
import multiprocessing
import resource

SIZES = {2_000: (60, 32), 50_000: (780, 64)}
"""D -> (inputs, width), one output."""


PATHS = (10**4, 10**6)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(inputs, width, control, queue):
    import numpy as np
    import torch

    import smesolve as sme

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, inputs)) / inputs**0.5
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(inputs, width), x, np.sin(3 * x[:, :1]), keep_prob=0.8)
    before = peak()
    sme.weak_error(problem, problem.initial(), [0.1], 1.0, paths=64, control=control)
    queue.put((problem.dim, problem.noise_dim, before, peak()))


def measure_paths(paths, queue):
    import numpy as np
    import torch

    import smesolve as sme

    torch.set_num_threads(1)
    x = np.linspace(-1, 1, 4)[:, None]
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(1, 2), x, x**2, keep_prob=0.8)
    before = peak()
    sme.weak_error(problem, problem.initial(), [0.1], 0.2, paths=paths)
    queue.put((before, peak()))


def in_a_process_of_its_own(context, function, *arguments):
    queue = context.Queue()
    process = context.Process(target=function, args=(*arguments, queue))
    process.start()
    result = queue.get()
    process.join()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    rows = []
    print("     D      M  control  imported MiB  peak MiB   D x D would be MiB   D x M a path MiB")
    for size, (inputs, width) in SIZES.items():
        for control in ("first", "second") if size <= 4096 else ("first",):
            D, M, before, after = in_a_process_of_its_own(context, measure, inputs, width, control)
            row = {"D": D, "M": M, "control": control, "imported": before, "peak": after}
            rows.append(row | {"square": 8 * D**2 / 2**20, "factor": 8 * D * M / 2**20})
            would = f"{rows[-1]['square']:19.0f}  {rows[-1]['factor']:17.0f}"
            print(f"{D:6} {M:6}  {control:7}  {before:12.0f}  {after:8.0f}  {would}")
    print("\n  paths  imported MiB  peak MiB")
    peaks = []
    for paths in PATHS:
        before, after = in_a_process_of_its_own(context, measure_paths, paths)
        rows.append({"paths": paths, "imported": before, "peak": after})
        peaks.append(after)
        print(f"{paths:7}  {before:12.0f}  {after:8.0f}", flush=True)
    print(f"{PATHS[-1]:g} paths take {peaks[-1] / peaks[0] - 1:+.1%} of the peak at {PATHS[0]:g}")
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
