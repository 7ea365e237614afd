"""Every landscape measurement at D = 101,632 (784-128-10): time and peak memory, no D x D or D x M array.

Each measurement runs in a process of its own, on one thread; a D x D array would take 77 GiB, D x M 6.3 GiB.

    python benchmarks/landscape_scale.py [--samples 200] [--only alignment] [--out landscape_scale.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import numpy as np

import smesolve as sme
from smesolve import experiments, landscape


def eigenpairs(problem, theta):
    first, second = (
        landscape.leading_eigenpairs(operator(problem, theta), 5)
        for operator in (landscape.hessian_operator, landscape.covariance_operator)
    )
    angles = landscape.principal_angles(first.vectors, second.vectors)
    return f"smallest angle of the 5 leading eigenvectors {angles[0]:.3f}"


def alignment(problem, theta):
    covariances = {name: make(problem, theta) for name, make in landscape.COVARIANCES.items()}
    table = landscape.alignment(landscape.hessian_operator(problem, theta), covariances, probes=60)
    row = table.iloc[0]
    return f"cosine {row.cosine:.3f} [{row.cosine_low:.3f}, {row.cosine_high:.3f}], {row.verdict}"


def sampled_alignment(problem, theta):
    noisy = landscape.noisy_problem(problem, "dropout and mini-batch")
    noise = landscape.random_noise(noisy, theta, 100)
    row = landscape.sampled_alignment(landscape.loss_hessian_operator(noisy, theta), noise, probes=60)
    return f"cosine {row['cosine']:.3f} [{row['cosine_low']:.3f}, {row['cosine_high']:.3f}], {row['verdict']}"


def variance_principle(problem, theta):
    study = experiments.variance_principle(problem, theta[None], lr=0.02, draws=60, directions=10, factors=[2.0])
    return f"{len(study.points)} points"


def flatness(problem, theta):
    solutions = {"first": theta[None], "second": problem.initial(1)[None]}
    row = experiments.flatness(problem, solutions, directions=5, probes=60).table.iloc[0]
    return f"trace {row.trace:.3g}, largest eigenvalue {row.top_eigenvalue:.3g}, width {row.width:.3g}"


def implicit_regularisation(problem, theta):
    return f"R_2 {float(landscape.second_penalty(problem, theta, 0.1)):.4g} (M = {problem.noise_dim} noise products)"


def condensation(problem, theta):
    study = experiments.condensation(problem, theta[None], lr=0.02, steps=[0, 10])
    return f"participation {study.table.participation.iloc[-1]:.4g}"


def information_geometry(problem, theta):
    found = landscape.manifold_geometry(problem, theta, probes=60, directions=1)
    return f"Fisher trace {found.trace}, curvature {found.curvature.value:.3g}"


MEASUREMENTS = (
    eigenpairs, alignment, sampled_alignment, variance_principle, flatness, implicit_regularisation, condensation,
    information_geometry,
)  # fmt: skip


def measure(measurement, samples):
    rng = np.random.default_rng(0)
    x, classes = rng.random((samples, 784)), rng.integers(10, size=samples)
    problem = sme.DropoutProblem(sme.TwoLayerNetwork(784, 128, 10), x, np.eye(10)[classes], keep_prob=0.8)
    theta = problem.initial()
    before = harness.peak()
    elapsed, found = harness.timed(measurement, problem, theta)
    return problem.dim, elapsed, before, harness.peak(), found


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--only", choices=[measurement.__name__ for measurement in MEASUREMENTS])
    arguments = parser.parse_args()
    rows = []
    print("measurement                    D   seconds  imported MiB  peak MiB  found")
    for measurement in MEASUREMENTS:
        name = measurement.__name__
        if arguments.only not in (None, name):
            continue
        D, seconds, before, after, found = harness.in_a_process_of_its_own(measure, measurement, arguments.samples)
        rows.append({"measurement": name, "D": D, "seconds": seconds, "imported": before, "peak": after})
        print(f"{name:24} {D:7}  {seconds:8.1f}  {before:12.0f}  {after:8.0f}  {found}", flush=True)
    harness.write(arguments.out, rows)


if __name__ == "__main__":
    main()
