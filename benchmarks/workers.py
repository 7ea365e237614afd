"""Speed of two worker processes against one, each on one thread.

The workers have started when the clock does; each number of workers is timed several times, and the best time counts.
The tables must be the same, bit for bit. There are no control variates: making them is work of the parent alone.

    python benchmarks/workers.py [--workers 2] [--paths 8192] [--repeats 3] [--out workers.json]
"""

import argparse
import json
import time

import joblib
import numpy as np
import torch

import smesolve as sme


def start(workers):
    """Start the processes and let them import what they need."""
    study(workers, 64 * workers)


def study(workers, paths):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8))
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(8, 16), x, np.sin(2 * x[:, :1]), keep_prob=0.8)
    theta0 = problem.initial()
    begin = time.perf_counter()
    table = sme.weak_error(problem, theta0, [0.1], 1.0, paths=paths, control="none", workers=workers).table
    return time.perf_counter() - begin, table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--paths", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{joblib.cpu_count()} processors; tanh 8-16-1, 64 samples, {arguments.paths} paths a side, one thread each")
    seconds, tables = {}, []
    for workers in (1, arguments.workers):
        start(workers)
        runs = [study(workers, arguments.paths) for _ in range(arguments.repeats)]
        seconds[workers] = min(elapsed for elapsed, _ in runs)
        tables += [table for _, table in runs]
        print(f"workers {workers}: {seconds[workers]:.2f} s (of {', '.join(f'{elapsed:.2f}' for elapsed, _ in runs)})")
    assert all(table.equals(tables[0]) for table in tables), "the tables differ"
    gain = seconds[1] / seconds[arguments.workers]
    print(f"{gain:.2f} times as fast with {arguments.workers} workers; the tables are the same, bit for bit")
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump({"seconds": seconds, "gain": gain}, file, indent=1)


if __name__ == "__main__":
    main()
