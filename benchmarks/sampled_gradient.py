"""Cost of a sampled gradient of a deep network, beside jax's vmap(grad), and of the masks in it.

    python benchmarks/sampled_gradient.py [--seconds 30] [--out sampled_gradient.json]

Network 64-50-50-10 with relu, dropout 0.2 after both hidden layers with a mask for each sample, cross-entropy, 200
samples: that of `examples/digits_deep.yaml` on random data; float64, one thread. Microseconds of processor time a path,
minimum over rounds in which all take their turn:

    gradient          ours, masks given, in the blocks of the package and in blocks of 64 paths
    products          the products of matrices in it, by torch's BLAS
    jax gradient      jitted vmap(grad) of the same loss with the same masks; left out where jax is not installed
    masks             ours: one float64 in [0, 1) a mask, from the keyed stream, compared with the quantile
    masks from bytes  the same number of masks from one random byte each, which gives keep_prob to 1/256 only
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
from collections.abc import Callable

import harness
import numpy as np
import torch
from step_cost import clocks
from torch import nn

import smesolve as sme
from smesolve.sampling.randomness import keyed_generator, keyed_uniforms

KEEP_PROB, SAMPLES, MANY = 0.8, 200, 64

CALLS = 40
"""Calls after which the gradient runs as the recording of its operations."""

Run = tuple[Callable[[], object], int]


def deep_problem() -> sme.ModuleProblem:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((SAMPLES, 64)), rng.integers(0, 10, SAMPLES)
    layers = [nn.Linear(64, 50), nn.ReLU(), nn.Dropout(0.2), nn.Linear(50, 50), nn.ReLU(), nn.Dropout(0.2)]
    module = nn.Sequential(*layers, nn.Linear(50, 10)).double()
    return sme.ModuleProblem(module, x, torch.from_numpy(y), loss="cross_entropy")


def ours(problem: sme.ModuleProblem, theta: torch.Tensor, size: int) -> Run:
    draw = problem.draw(keyed_uniforms((size, problem.draw_dim), 0, 0, 0))
    at = theta.expand(size, -1).contiguous()
    run = torch.no_grad()(lambda: problem.gradient(at, draw))
    for _ in range(CALLS):
        run()
    return run, size


def in_jax(problem: sme.ModuleProblem, theta: torch.Tensor, size: int) -> Run | None:
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return None
    jax.config.update("jax_enable_x64", True)
    x, y = jnp.asarray(problem.x.numpy()), jnp.asarray(problem.y.numpy())
    shapes = [(50, 64), (50,), (50, 50), (50,), (10, 50), (10,)]
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])

    def loss(vector: jax.Array, masks: list[jax.Array]) -> jax.Array:
        parts = [vector[a:b].reshape(shape) for a, b, shape in zip(ends, ends[1:], shapes, strict=False)]
        hidden = x
        for layer in range(2):
            hidden = jax.nn.relu(hidden @ parts[2 * layer].T + parts[2 * layer + 1]) * masks[layer]
        scores = jax.nn.log_softmax(hidden @ parts[4].T + parts[5])
        return -jnp.take_along_axis(scores, y[:, None], 1).mean()

    gradient = jax.jit(jax.vmap(jax.grad(loss)))
    draw = problem.draw(keyed_uniforms((size, problem.draw_dim), 0, 0, 0))
    at, masks = jnp.tile(jnp.asarray(theta.numpy()), (size, 1)), [jnp.asarray(mask.numpy()) for mask in draw.values()]
    expected = problem.gradient(theta.expand(size, -1), draw).numpy()
    assert np.abs(np.asarray(gradient(at, masks)) - expected).max() < 1e-12  # it does compute what we compute
    return lambda: gradient(at, masks).block_until_ready(), size


def products(size: int) -> Run:
    """The batched products of matrices in a gradient, one for each path: by torch's BLAS, nothing between them."""
    n, rng = SAMPLES, torch.Generator().manual_seed(0)
    layers = [(64, 50), (50, 50), (50, 10)]
    shapes = [shape for d, m in layers for shape in ((n, d, m), (m, n, d))] + [(n, m, d) for d, m in layers[1:]]
    pairs = [
        [torch.randn(size, *shape, generator=rng, dtype=torch.float64) for shape in ((rows, inner), (inner, columns))]
        for rows, inner, columns in shapes
    ]
    return lambda: [torch.bmm(*pair) for pair in pairs], size


def masks(problem: sme.ModuleProblem, size: int) -> dict[str, Run]:
    count = size * problem.draw_dim
    least = round(256 * (1 - KEEP_PROB))

    def from_bytes() -> torch.Tensor:
        drawn = np.frombuffer(keyed_generator(0, "masks").bytes(count), dtype=np.uint8)
        return torch.where(torch.from_numpy(drawn.copy()) >= least, 1 / KEEP_PROB, 0.0).double()

    return {
        "masks": (lambda: problem.draw(keyed_uniforms((size, problem.draw_dim), 0, 0, 0)), size),
        "masks from bytes": (from_bytes, size),
    }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    arguments = parser.parse_args()
    problem = deep_problem()
    theta = problem.initial(seed=0)
    runs: dict[str, Run] = {}
    for size in sorted({problem.block_size, MANY}):
        runs[f"gradient, block of {size}"] = ours(problem, theta, size)
        jitted = in_jax(problem, theta, size)
        if jitted:
            runs[f"jax gradient, block of {size}"] = jitted
        runs[f"products, block of {size}"] = products(size)
    times = clocks(runs | masks(problem, problem.block_size), arguments.seconds)
    print(f"{harness.threads()}; D {problem.dim}, {problem.draw_dim} masks; microseconds a path: minimum (median)")
    for name, (minimum, median) in times.items():
        print(f"  {name:28}{minimum:10.4g} ({median:.4g})")
    found = {
        f"ours / jax, block of {size}": times[f"gradient, block of {size}"][0]
        / times[f"jax gradient, block of {size}"][0]
        for size in (problem.block_size, MANY)
        if f"jax gradient, block of {size}" in times
    }
    for name, value in found.items():
        print(f"  {name:28}{value:10.2f}")
    harness.write(arguments.out, {"times": times, "ratios": found})


if __name__ == "__main__":
    main()
