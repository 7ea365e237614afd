"""Speed of two worker processes against one, each on one thread.

The workers have started when the clock does; each number of workers is timed several times, and the best time counts.
The tables must be the same, bit for bit. There are no control variates: making them is work of the parent alone.

    python benchmarks/workers.py [--workers 2] [--paths 8192] [--repeats 3] [--out workers.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split

import harness
import joblib

import smesolve as sme


def start(workers):
    """Start the processes and let them import what they need."""
    study(workers, 64 * workers)


def study(workers, paths):
    problem = harness.sine_problem(64, 8, 16, normalised=False)
    theta0 = problem.initial()
    elapsed, study = harness.timed(
        sme.weak_error, problem, theta0, [0.1], 1.0, paths=paths, control="none", workers=workers
    )
    return elapsed, study.table


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--paths", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
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
    harness.write(arguments.out, {"seconds": seconds, "gain": gain})


if __name__ == "__main__":
    main()
