"""Cost of noise products and Hessian products in gradients, of bilinear forms, and of gradients of images.

    python benchmarks/product_cost.py [--seconds 20] [--out product_cost.json]

Tanh network, one output, keep_prob 0.8, float64, one thread, the sizes of `step_cost.py`: by compiled kernels, by the
formulas in torch, and the same network as a module with mini-batches. A gradient is a mean gradient. Processor times,
minimum over rounds in which all take their turn; normals are not counted. `smesolve.comparison.cost` counts a noise
product as 1.5 gradients and a Hessian product as 4. "at one theta": under different masks, or for different vectors.

Bilinear forms of control variates are those of value Hessians of rank 32 for D parameters, in microseconds per path, by
the kernel and by products in torch. The last table shows gradients of 500 samples of 64 inputs by 32 neurons and 10
outputs, as for the digits: where all inputs are used, and where 8 of them are 0 for all samples, as at the borders of
images.
"""

from __future__ import annotations

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import pandas as pd
import torch
from step_cost import SIZES, clocks

import smesolve as sme
from smesolve.comparison.value_hessians import RANK, LowRankForms
from smesolve.problem.kernels.library import kernels_in_use


def costs(problem: sme.Problem, paths: int, seconds: float) -> dict[str, float]:
    """Processor times over that of a mean gradient."""
    generator = torch.Generator().manual_seed(0)
    theta = problem.initial(seed=0).repeat(paths, 1)
    vector, normals = (
        torch.randn(paths, size, generator=generator, dtype=torch.float64) for size in (problem.dim, problem.noise_dim)
    )
    draw = problem.sample(paths, seed=0)
    runs = {
        "gradient": (lambda: problem.mean_gradient(theta), paths),
        "gradient at one theta": (lambda: problem.gradient(theta[0], draw), paths),
        "noise product": (lambda: problem.noise_product(theta, normals), paths),
        "Hessian product": (lambda: problem.hessian_product(theta, vector), paths),
        "Hessian product at one theta": (lambda: problem.hessian_product(theta[0], vector), paths),
    }
    least = {name: times[0] for name, times in clocks(runs, seconds, rounds=5).items()}
    return {name: least[name] / least["gradient"] for name in list(runs)[1:]}


def forms(dim: int, paths: int, seconds: float) -> dict[str, object]:
    """Microseconds of one bilinear form (left - origin)^T F diag(s) F^T right, left and right (D,)."""
    generator = torch.Generator().manual_seed(0)
    factors, values, left, right, origin = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((dim, RANK), (RANK,), (paths, dim), (paths, dim), (dim,))
    )
    lam = LowRankForms(factors[None, None], values[None, None])
    runs = {
        "kernel": (lambda: lam.bilinear(left, right, origin), paths),
        "torch": (lambda: torch.linalg.vecdot((left - origin) @ factors * values, right @ factors), paths),
    }
    least = {name: times[0] for name, times in clocks(runs, seconds, rounds=5).items()}
    return {"D": dim, "paths": paths} | least | {"torch / kernel": least["torch"] / least["kernel"]}


def unused_inputs(paths: int, seconds: float) -> dict[str, object]:
    """Microseconds of a mean gradient of a network with 64 inputs, all of them used or seven in eight."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(500, size, generator=generator, dtype=torch.float64) for size in (64, 10))
    network, every_eighth = sme.TwoLayerNetwork(64, 32, 10), torch.arange(64) % 8 == 0
    problems = [sme.DropoutProblem(network, data, y, keep_prob=0.8) for data in (x, x.masked_fill(every_eighth, 0.0))]
    theta = problems[0].initial(seed=0).repeat(paths, 1)
    runs = {
        name: (lambda problem=problem: problem.mean_gradient(theta), paths)
        for name, problem in zip(("64 used", "56 used"), problems, strict=True)
    }
    least = {name: times[0] for name, times in clocks(runs, seconds, rounds=5).items()}
    return {"inputs": 64} | least | {"56 / 64": least["56 used"] / least["64 used"]}


def main() -> None:
    arguments = harness.parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=20.0, help="for each size and kind")
    given = arguments.parse_args()
    print(f"{harness.threads()}, kernels {kernels_in_use()}")
    rows: list[dict[str, object]] = []
    for size, (n, d, m, paths) in SIZES.items():
        dropout = harness.sine_problem(n, d, m)
        batches = sme.ModuleProblem(dropout.network, dropout.x, dropout.y, batch_size=n // 2)
        kinds = {"kernels": dropout, "formulas": dropout.without_kernels(), "module": batches}
        for kind, problem in kinds.items():
            if kind != "kernels" or kernels_in_use() != "torch":
                rows.append({"size": size, "kind": kind} | costs(problem, paths, given.seconds))
    print(harness.shown(pd.DataFrame(rows)))
    if kernels_in_use() != "torch":
        bilinear: list[dict[str, object]] = [
            forms(dim, paths, given.seconds / 4) for dim, paths in ((288, 64), (2368, 16))
        ]
        print("\n" + harness.shown(pd.DataFrame(bilinear)))
        images = unused_inputs(16, given.seconds)
        print("\n" + harness.shown(pd.DataFrame([images])))
        rows += [*bilinear, images]
    harness.write(given.out, rows)


if __name__ == "__main__":
    main()
