"""Cost of one path step: ours beside the peers, in one run, and the floor of unavoidable kernels.

    python benchmarks/step_cost.py [--sizes S M L XL] [--seconds 40] [--threads 2] [--out step_cost.json]

Tanh network, one output, keep_prob 0.8, float64, one thread for every contestant. Times are microseconds of processor
time a path step, minimum (and median) over rounds in which all contestants take their turn, after a warm-up; only
ratios hold on a shared machine. The peers get the best form that we know: the same formulas, jitted and matrix-free.
Left out are peers whose packages are not installed (jax, diffrax), and those whose arrays would not fit
(`MAX_NUMBERS`). "torch" is our step by the formulas in torch, which stand in where kernels are not compiled.

    naive            covariance sampled from 64 masks and a matrix square root for each path, Euler: at S only
    torchsde dense   torchsde euler, factor of our problem as a (B, D, M) array
    torchsde         torchsde euler, our f_and_g_prod
    jax              hand-written Euler loop, jitted and scanned
    diffrax          diffrax.Euler, matrix-free linear operator, jitted
    diffrax dense    diffrax.Euler, dense factor, jitted

"weak noise" is `DropoutProblem.with_weak_noise`, in jax the same formulas. With `--threads 2` our steps and those of
jax run in two threads as well, on blocks of paths of their own, and the ratios of seconds on the clock are printed.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import harness
import numpy as np
import torch
import torchsde
from jax_peers import jax_peers

import smesolve as sme
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.kernels.library import kernels_in_use
from smesolve.sampling.randomness import keyed_normals
from smesolve.solver.integration import integration

SIZES = {"S": (16, 2, 8, 1024), "M": (64, 8, 32, 256), "L": (256, 32, 50, 64), "XL": (1000, 784, 100, 8)}
"""n, d, m, B."""

LR, DT = 0.01, 0.01
STEPS = 4
WEAK = ", weak noise"
RK4_WEAK = "small_noise_rk4, order 2" + WEAK
MAX_NUMBERS = 2**24
"""Numbers in the largest array of a contestant (128 MiB)."""

NAIVE_DIM = 64
"""Largest D of the naive contestant, which takes minutes beyond."""

LONG_RUN = 0.1
"""Seconds of a run in threads, at least."""

Clock = Callable[[], float]


def clocks(
    runs: dict[str, tuple[Callable[[], object], int]],
    seconds: float,
    rounds: int = 3,
    clock: Clock = time.process_time,
) -> dict[str, tuple[float, float]]:
    """Minimum and median microseconds a path step of runs (function, its path steps), which take turns.

    One that takes more than a tenth of the time for a run is timed once after the warm-up: it is far from the others.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}

    def timed(name: str) -> float:
        run, path_steps = runs[name]
        begin = clock()
        run()
        elapsed = clock() - begin
        times[name].append(elapsed / path_steps * 1e6)
        return elapsed

    for name in runs:
        timed(name)  # warm-up: compiles, allocates
        times[name].clear()
    quick = [name for name in runs if timed(name) < seconds / 10]
    end = time.perf_counter() + seconds
    while quick and (time.perf_counter() < end or len(times[quick[0]]) < rounds):
        for name in quick:
            timed(name)
    return {name: (min(values), statistics.median(values)) for name, values in times.items()}


def make(size: str) -> tuple[sme.DropoutProblem, torch.Tensor, int]:
    n, d, m, B = SIZES[size]
    problem = harness.sine_problem(n, d, m)
    return problem, problem.initial(), B


def steps(sde: sme.ModifiedEquation | None, problem: sme.Problem, theta0: torch.Tensor, B: int, scheme: str) -> object:
    """STEPS steps of B paths and the number of path steps; without an equation those of the iteration."""
    # Euler at dt = lr is warned of, as it tests nothing; here it is timed.
    process = DropoutIteration(problem, LR) if sde is None else integration(sde, theta0, scheme, DT * 0.99)
    blocks = -(-B // process.block_size)

    @torch.no_grad()
    def run() -> object:
        ends = []
        for block in range(blocks):
            theta = theta0.expand(process.block_size, -1)
            for step in range(STEPS):
                theta = process.advance(theta, block, step)
            ends.append(theta)
        return ends

    return run, blocks * process.block_size * STEPS


def kernels(problem: sme.DropoutProblem, theta0: torch.Tensor, B: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Noise products, on as many blocks: of shared masks and of masks per sample."""
    size, runs = problem.block_size, {}
    count = -(-B // size) * STEPS
    theta = theta0.expand(size, -1).contiguous()
    per_sample = sme.DropoutProblem(problem.network, problem.x, problem.y, keep_prob=0.8, masks="per_sample")
    noises = {"": problem, WEAK: problem.with_weak_noise(), ", masks per sample": per_sample}
    noises[", masks per sample, torch"] = per_sample.without_kernels()
    for label, one in noises.items():
        normals = torch.randn(size, one.noise_dim, dtype=torch.float64)

        @torch.no_grad()
        def run(one: sme.DropoutProblem = one, normals: torch.Tensor = normals) -> object:
            return [one.noise_product(theta, normals) for _ in range(count)]

        runs["noise product" + label] = run, count * size
    return runs


def ours(problem: sme.DropoutProblem, theta0: torch.Tensor, B: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Whole steps, random numbers included."""
    weak = problem.with_weak_noise()
    in_torch = [problem.without_kernels(), weak.without_kernels()]
    runs = {"dropout step": steps(None, problem, theta0, B, "")}
    for label, one in (("", problem), (WEAK, weak), (", torch", in_torch[0]), (WEAK + ", torch", in_torch[1])):
        for scheme in ("euler", "small_noise_heun", "small_noise_rk4"):
            for order in (1, 2):
                if one in in_torch and (scheme, order) not in (("euler", 1), ("small_noise_rk4", 2)):
                    continue
                equation = sme.ModifiedEquation(one, LR, order)
                runs[f"{scheme}, order {order}{label}"] = steps(equation, one, theta0, B, scheme)
    return runs | kernels(problem, theta0, B)


class Dense(torch.nn.Module):
    """The order-1 equation with its factor as an array."""

    noise_type, sde_type = "general", "ito"

    def __init__(self, problem: sme.DropoutProblem) -> None:
        super().__init__()
        self.problem = problem

    def f(self, t: object, y: torch.Tensor) -> torch.Tensor:
        return -self.problem.mean_gradient(y)

    def g(self, t: object, y: torch.Tensor) -> torch.Tensor:
        return LR**0.5 * self.problem.noise_factor(y)


def naive(problem: sme.DropoutProblem, theta0: torch.Tensor, B: int, rng: np.random.Generator) -> Callable[[], object]:
    """What a throw-away script does: sample the covariance, take its root, multiply by normals, path by path."""

    def run() -> object:
        theta = theta0.expand(B, -1)
        for _ in range(STEPS):
            masks = problem.law.sample((64, B, problem.width), rng)
            gradients = problem.gradient(theta, masks)
            mean = gradients.mean(0)
            ends = []
            for path in range(B):
                centred = gradients[:, path] - mean[path]
                values, vectors = torch.linalg.eigh(centred.mT @ centred / 64)
                root = vectors * values.clamp_min(0).sqrt()
                normals = torch.from_numpy(rng.standard_normal(problem.dim))
                ends.append(theta[path] - DT * mean[path] + (LR * DT) ** 0.5 * root @ (vectors.mT @ normals))
            theta = torch.stack(ends)
        return theta

    return run


def torch_peers(
    problem: sme.DropoutProblem, theta0: torch.Tensor, B: int, order: int = 1
) -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(1)
    ts = torch.linspace(0, STEPS * DT, 2, dtype=torch.float64)

    def through_torchsde(sde: torch.nn.Module) -> Callable[[], object]:
        def run() -> object:
            bm = sme.KeyedBrownian(B, problem.noise_dim, DT)
            return torchsde.sdeint(sde, theta0.expand(B, -1), ts, bm=bm, method="euler", dt=DT)

        return torch.no_grad()(run)

    runs = {"torchsde": through_torchsde(sme.ModifiedEquation(problem, LR, order))}
    if B * problem.dim * problem.noise_dim <= MAX_NUMBERS:
        runs["torchsde dense"] = through_torchsde(Dense(problem))
    if problem.dim <= NAIVE_DIM:
        runs["naive"] = torch.no_grad()(naive(problem, theta0, B, rng))
    return runs


def floor(problem: sme.DropoutProblem, B: int) -> dict[str, tuple[Callable[[], object], int]]:
    """The kernels that a step cannot do without: two GEMMs, the activation, noise with its normals."""
    n, d, m = problem.samples, problem.x.shape[1], problem.width
    B = problem.block_size
    rng = np.random.Generator(np.random.SFC64(0))
    weights, features = torch.randn(B * m, d, dtype=torch.float64), torch.randn(B, m, n, dtype=torch.float64)
    S, rows = torch.randn(B, m, m, dtype=torch.float64), torch.randn(B, 3, m, dtype=torch.float64)
    inputs = problem.x.mT
    backward = features.reshape(-1, n).mT
    runs = {
        "forward GEMM": lambda: weights @ inputs,
        "backward GEMM": lambda: inputs @ backward,
        "activation": lambda: torch.sigmoid(features),
        "batched GEMM": lambda: S @ features,
        "normals": lambda: rng.standard_normal((B, problem.noise_dim)),
        "three rows": lambda: rows @ features,
        "weak normals": lambda: rng.standard_normal((B, 2 * m + 1)),
    }
    return {name: (run, B) for name, run in runs.items()}


def gemm_rates(problem: sme.DropoutProblem) -> dict[str, float]:
    """GFLOP/s of the forward GEMM by torch, numpy and jax: each library brings BLAS kernels of its own.

    A run has many products, because the processor time of jax's own threads is known some milliseconds later.
    """
    weights = torch.randn(problem.block_size * problem.width, problem.x.shape[1], dtype=torch.float64)
    rows, inputs = weights.numpy(), problem.x.numpy()
    products: dict[str, Callable[[], object]] = {
        "torch": lambda: weights @ problem.x.mT,
        "numpy": lambda: rows @ inputs.T,
    }
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        pass
    else:
        left, right = jnp.asarray(rows), jnp.asarray(inputs)
        product = jax.jit(lambda left, right: left @ right.T)
        products["jax"] = lambda: product(left, right).block_until_ready()
    flops = 2 * weights.numel() * problem.samples
    count = max(1, MANY_FLOPS // flops)

    def repeated(one: Callable[[], object]) -> Callable[[], object]:
        return lambda: [one() for _ in range(count)]

    runs = {name: (repeated(one), count) for name, one in products.items()}
    return {name: flops / value / 1e3 for name, (value, _) in clocks(runs, 4.0).items()}


def in_threads(run: Callable[[], object], path_steps: int, threads: int) -> tuple[Callable[[], object], int]:
    """The same run in so many threads at a time, repeated so often that their start does not count; its path steps."""
    run()
    repeats = max(1, round(LONG_RUN / harness.timed(run)[0]))

    def together() -> object:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda _: [run() for _ in range(repeats)], range(threads)))

    return together, repeats * threads * path_steps


def threaded(runs: dict[str, tuple[Callable[[], object], int]], seconds: float, threads: int) -> dict[str, float]:
    """Ratios of jax to ours in threads, each of which has paths of its own: minima of seconds on the clock."""
    pairs = {
        "euler, normals": ("jax", "euler, order 1"),
        "euler, weak noise": ("jax, weak noise", "euler, order 1, weak noise"),
        "rk4 of order 2, weak noise": (f"jax, {RK4_WEAK}", RK4_WEAK),
    }
    chosen = {name for pair in pairs.values() for name in pair if name in runs}
    together = {name: in_threads(*runs[name], threads) for name in chosen}
    times = clocks(together, seconds, clock=time.perf_counter) if together else {}
    for name, (minimum, median) in times.items():
        print(f"  {name + f', {threads} threads':46}{minimum:12.4g} ({median:.4g})")
    return {
        f"jax / ours, {threads} threads: {name}": times[peer][0] / times[own][0]
        for name, (peer, own) in pairs.items()
        if peer in times
    }


MANY_FLOPS = 10**9
"""Operations in a run of products, ten milliseconds or more."""

PRODUCTS = ("forward GEMM", "backward GEMM", "batched GEMM", "three rows")
COMMON = ("forward GEMM", "backward GEMM", "activation")
FLOORS = {"": (*COMMON, "batched GEMM", "normals"), WEAK: (*COMMON, "three rows", "weak normals")}
"""What an Euler step needs."""


def profile(
    problem: sme.DropoutProblem, theta0: torch.Tensor, label: str
) -> dict[str, tuple[Callable[[], object], int]]:
    """Parts of an Euler step of order 1, each with all that comes before it in its own function."""
    size = problem.block_size
    theta = theta0.expand(size, -1).contiguous()
    normals = torch.randn(size, problem.noise_dim, dtype=torch.float64)
    at = problem.network.linearize(theta, problem.x)
    features, readout = torch.randn_like(at.features), torch.randn_like(at.readout)
    runs = {
        "random numbers": lambda: keyed_normals((size, problem.noise_dim), 0, 0, 0),
        "forward pass": lambda: problem.network.linearize(theta, problem.x),
        "pullback": lambda: at.pullback(features, readout, None),
        "drift and noise": lambda: problem.linearize(theta).noisy_mean_gradient(normals, -0.1),
    }
    return {f"{name}{label}": (torch.no_grad()(run), size) for name, run in runs.items()}


def ratios(times: dict[str, tuple[float, float]], floors: dict[str, float]) -> dict[str, float]:
    """What is promised, by minima."""
    found = {}

    def add(name: str, above: str, below: str) -> None:
        if above in times and below in times:
            found[name] = times[above][0] / times[below][0]

    for noise in ("", WEAK):
        for label in (noise, noise + ", torch"):
            euler = f"euler, order 1{label}"
            for peer in ("jax", "jax, weak noise", "diffrax", "torchsde", "naive"):
                add(f"{peer} / {euler}", peer, euler)
            if euler in times:
                found[f"{euler} / floor"] = times[euler][0] / floors[noise]
            add(f"rk4 of order 2{label} / dropout step", f"small_noise_rk4, order 2{label}", "dropout step")
        add(f"jax / {RK4_WEAK}", f"jax, {RK4_WEAK}", RK4_WEAK)
        add(f"noise product{noise} / dropout step", f"noise product{noise}", "dropout step")
    return found


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--seconds", type=float, default=40.0, help="time for each size")
    parser.add_argument("--threads", type=int, default=1, help="threads in which ours and jax run as well")
    arguments = parser.parse_args()
    print(f"kernels {kernels_in_use()}, {harness.threads()}")
    print("microseconds of processor time a path step: minimum (median)")
    results = {}
    for size in arguments.sizes:
        problem, theta0, B = make(size)
        n, d, m, _ = SIZES[size]
        print(f"\n{size}: n {n}, d {d}, m {m}, B {B}; D {problem.dim}, M {problem.noise_dim}")
        peers = torch_peers(problem, theta0, B) | jax_peers(problem, theta0, B, LR, DT, STEPS, MAX_NUMBERS)
        runs = ours(problem, theta0, B) | {name: (run, B * STEPS) for name, run in peers.items()}
        times = clocks(runs, arguments.seconds)
        rates = gemm_rates(problem)
        share = rates["torch"] / max(rates.values())  # of the time of torch's products, by the best library
        parts = {
            name: (least * share, median * share) if name in PRODUCTS else (least, median)
            for name, (least, median) in clocks(floor(problem, B), arguments.seconds / 10).items()
        }
        floors = {label: sum(parts[name][0] for name in names) for label, names in FLOORS.items()}
        profiled = profile(problem, theta0, "") | profile(problem.with_weak_noise(), theta0, WEAK)
        profiles = clocks(profiled, arguments.seconds / 10)
        for name, (minimum, median) in times.items():
            print(f"  {name:40}{minimum:12.4g} ({median:.4g})")
        print("  forward GEMM, GFLOP/s: " + ", ".join(f"{name} {value:.3g}" for name, value in rates.items()))
        pieces = ", ".join(f"{name} {value:.3g}" for name, (value, _) in parts.items())
        print(f"  floor at the best of these rates: {pieces}")
        print("  sums:  " + ", ".join(f"euler{label} {value:.3g}" for label, value in floors.items()))
        print("  parts of an euler step: " + ", ".join(f"{name} {value:.3g}" for name, (value, _) in profiles.items()))
        found = ratios(times, floors)
        if arguments.threads > 1:
            found |= threaded(runs, arguments.seconds / 2, arguments.threads)
        for name, value in found.items():
            print(f"  {name:60}{value:10.2f}")
        results[size] = {"times": times, "floor": parts, "parts": profiles, "rates": rates, "ratios": found}
    harness.write(arguments.out, {"threads": 1, "torch": torch.__version__, "microseconds": results})


if __name__ == "__main__":
    main()
