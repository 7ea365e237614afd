"""CPU against GPU, and float32 against float64 on the same draws.

Time: one block of paths over some steps of the iteration and of the order-2 equation, widths and samples growing.
Rounding: means in float32 less those in float64, as a share of the mean; the errors (differences of means) as well.

    python benchmarks/device.py [--out device.json]
"""

import harness
import numpy as np
import torch

import smesolve as sme

SIZES = ((4, 8), (32, 500), (128, 1000))
"""Hidden neurons and samples; 64 inputs, 10 outputs."""

STEPS, PATHS = 5, 64


def problem_of(width, samples, inputs=64, outputs=10, dtype=torch.float64, device="cpu"):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, inputs)) / inputs**0.5
    y = np.sin(2 * x[:, :1] + np.arange(outputs))
    network = sme.TwoLayerNetwork(inputs, width, outputs, dtype=dtype, device=device)
    return sme.DropoutProblem(network, x, y, keep_prob=0.8)


def start_of(problem):
    """The same parameters on every device."""
    double = problem_of(problem.width, problem.samples, problem.x.shape[1], problem.out_features)
    return double.initial().to(dtype=problem.dtype, device=problem.device)


def seconds(problem, lr=0.05):
    theta0 = start_of(problem)
    equation = sme.ModifiedEquation(problem, lr, order=2)

    def run():
        sme.iterate(problem, theta0, lr, STEPS, PATHS, save=[STEPS])
        sme.solve(equation, theta0, [0.0, STEPS * lr], dt=lr, paths=PATHS)[-1].cpu()

    run()
    return harness.timed(run)[0]


def rounding():
    tables = []
    for dtype in (torch.float64, torch.float32):
        problem = problem_of(8, 32, 4, 1, dtype)
        tables.append(
            sme.weak_error(
                problem, start_of(problem), [0.1, 0.025], 1.0, times=[1.0], dt=0.025, paths=1024,
                observables=["loss", "modified_loss", "squared_norm"],
            ).table
        )  # fmt: skip
    double, single = tables
    means = largest(*((single[side] - double[side]) / double[side] for side in ("discrete", "sde")))
    return {"means": means, "errors": largest((single.error - double.error) / double.discrete)}


def largest(*columns):
    return float(max(column.abs().max() for column in columns))


def main():
    parser = harness.parser(__doc__)
    arguments = parser.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if len(devices) == 1:
        print("no GPU here: torch.cuda.is_available() is False, so there is nothing to compare the CPU with")
    else:
        print(f"GPU: {torch.cuda.get_device_name()}")
    print(f"{PATHS} paths, {STEPS} steps of the iteration and of the order-2 equation; {harness.threads()}")
    rows = []
    for width, samples in SIZES:
        for dtype in (torch.float64, torch.float32):
            row = {"width": width, "samples": samples, "dtype": str(dtype)}
            for device in devices:
                row[device] = seconds(problem_of(width, samples, dtype=dtype, device=device))
            rows.append(row)
            times = "  ".join(f"{device} {row[device]:7.3f} s" for device in devices)
            gain = f"  GPU {row['cpu'] / row['cuda']:.1f} times as fast" if "cuda" in row else ""
            print(f"64-{width}-10, {samples:4} samples, {row['dtype']}: {times}{gain}", flush=True)
    share = rounding()
    print(
        f"float32 less float64 on the same draws, as a share of the mean: {share['means']:.1e} for means, "
        f"{share['errors']:.1e} for errors (machine epsilon {torch.finfo(torch.float32).eps:.1e})"
    )
    harness.write(arguments.out, {"seconds": rows, "rounding": share})


if __name__ == "__main__":
    main()
