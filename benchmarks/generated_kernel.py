"""Speed of the generated kernels for squared error beside the hand-written ones of DropoutProblem.

Both run in one process, call by call in turn, on the shape of the digits example. A call takes one block of paths, as
`solve` does. Printed are the times that one call in ten stays below, which what else runs on the machine disturbs
least, their ratio generated / hand-written, and the range of that ratio over ten parts of the run.

    python benchmarks/generated_kernel.py [--repeats 300] [--out generated_kernel.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split

import harness
import numpy as np
import torch

import smesolve as sme
from smesolve.symbolic import PolynomialLossProblem, squared_error

SHAPES = {"digits 64-32-10": (500, 64, 32, 10), "one output 64-32-1": (500, 64, 32, 1)}
"""(samples, inputs, width, outputs)."""


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=300)
    arguments = parser.parse_args()
    rows = []
    print("shape                call                                hand ms  generated ms  ratio [range]")
    for name, (samples, inputs, width, outputs) in SHAPES.items():
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((samples, inputs)) / inputs**0.5, rng.standard_normal((samples, outputs))
        network = sme.TwoLayerNetwork(inputs, width, outputs)
        hand = sme.DropoutProblem(network, x, y, keep_prob=0.8)
        generated = PolynomialLossProblem(network, x, y, squared_error, keep_prob=0.8)
        paths = hand.block_size
        theta = hand.initial() + 0.01 * torch.randn(paths, hand.dim, dtype=torch.float64)
        normals = torch.randn(paths, hand.noise_dim, dtype=torch.float64)
        mask = hand.draw(torch.rand(paths, width, dtype=torch.float64))
        calls = {
            "gradient": lambda problem, theta=theta, mask=mask: problem.gradient(theta, mask),
            "mean_gradient": lambda problem, theta=theta: problem.mean_gradient(theta),
            "noise_product": lambda problem, theta=theta, xi=normals: problem.noise_product(theta, xi),
            "noisy_mean_gradient": lambda problem, theta=theta, xi=normals: problem.linearize(
                theta
            ).noisy_mean_gradient(xi, 0.1),
            "hessian_product": lambda problem, theta=theta: problem.hessian_product(theta, theta),
        }
        for call, function in calls.items():
            both = (hand, generated)
            for problem in both:
                for _ in range(3):
                    function(problem)
            pairs = np.array(
                [[harness.timed(function, problem)[0] for problem in both] for _ in range(arguments.repeats)]
            )
            fast = np.quantile(pairs, 0.1, axis=0) * 1e3
            parts = [np.quantile(part, 0.1, axis=0) for part in np.array_split(pairs, 10)]
            low, high = np.quantile([theirs / ours for ours, theirs in parts], [0, 1])
            ratio = fast[1] / fast[0]
            print(f"{name:20} {call:34} {fast[0]:8.2f} {fast[1]:13.2f}  {ratio:.3f} [{low:.3f}, {high:.3f}]")
            rows.append(
                {"shape": name, "call": call, "hand": fast[0], "generated": fast[1], "ratio": [low, ratio, high]}
            )
    harness.write(arguments.out, rows)


if __name__ == "__main__":
    main()
