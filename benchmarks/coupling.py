"""What couplings add to the control variates: common uniforms for masks and normals, and antithetic pairs.

Printed is the factor by which each lowers the variance of a mean (antithetic) or of the difference of means (common
uniforms) at equal work; 1 means nothing. smesolve takes antithetic normals for the equation, which pay, and neither
antithetic masks nor common uniforms, which do not: they would also tie the numbers of paths of both sides together.

    python benchmarks/coupling.py [--lrs 0.1 0.025] [--out coupling.json]
"""

import one_thread  # noqa: F401 (first: the libraries below read it when they are loaded)

# isort: split
import harness
import numpy as np
import torch
from scipy import special

import smesolve as sme
from smesolve.comparison.control_variate import ControlVariate
from smesolve.comparison.noise_free_path import NoiseFreePath
from smesolve.comparison.value_hessians import value_hessians
from smesolve.problem.iteration import DropoutIteration
from smesolve.problem.observables import named_observables
from smesolve.solver.integration import Integration

HORIZON, BLOCKS = 2.0, 8


def residuals(process, path, hessians, observable, lr, given):
    """phi less its control variates for each path, with masks or normals given for every step; plain phi beside it."""
    control = ControlVariate(path, lr, process.noise_time, lr**2, hessians)
    theta = path.states[0].expand(process.block_size, -1)
    totals = theta.new_zeros(control.count, process.block_size, 1, 1)
    for step in range(len(path.predictions)):
        object.__setattr__(process, "given", given[step])
        taken = process.advance_split(theta, 0, step)
        control.add(totals, step, taken)
        theta = taken.state
    plain, controls = observable(theta).numpy(), totals[:, :, 0, 0].numpy().T
    centred = controls - controls.mean(0)
    return plain, plain - controls @ np.linalg.lstsq(centred, plain - plain.mean(), rcond=None)[0]


class GivenIteration(DropoutIteration):
    def _draw(self, problem, block, step):
        return self.given


class GivenIntegration(Integration):
    def advance_split(self, theta, block, step):
        return sme.sampling.ensemble.Step(*self._step(theta, step, self.given * self.dt**0.5), self.given)


@torch.no_grad()
def measure(lr):
    rng, problem = np.random.default_rng(0), harness.small_problem()
    theta0, observables = problem.initial(), named_observables(problem, ["loss"])
    steps = round(HORIZON / lr)
    hessians = value_hessians(problem, theta0, [HORIZON], observables, lr)
    iteration = GivenIteration(problem, lr)
    equation = GivenIntegration(sme.ModifiedEquation(problem, lr), theta0, "small_noise_rk4", lr)
    m, M, B = problem.width, problem.noise_dim, iteration.block_size
    paths = [NoiseFreePath.of(process, theta0, [steps], observables) for process in (iteration, equation)]
    found = {name: [] for name in ("iteration", "iteration anti", "equation", "equation anti")}
    for _ in range(BLOCKS):
        uniforms = rng.random((steps, B, m))
        pairs = rng.standard_normal((steps, B, M - m))

        # a kept neuron moves against the gradient: the iteration's noise enters with -lr
        normals = np.concatenate([-special.ndtri(np.clip(uniforms, 1e-16, None)), pairs], axis=2)
        for name, process, path, given in (
            ("iteration", iteration, paths[0], problem.law.quantile(torch.from_numpy(uniforms))),
            ("iteration anti", iteration, paths[0], problem.law.quantile(torch.from_numpy(1 - uniforms))),
            ("equation", equation, paths[1], torch.from_numpy(normals)),
            ("equation anti", equation, paths[1], torch.from_numpy(-normals)),
        ):
            found[name].append(np.stack(residuals(process, path, hessians, observables["loss"], lr, given)))
    values = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
    row = {"lr": lr}
    for k, kind in enumerate(("plain", "with control variates")):
        a, b = values["iteration"][k], values["equation"][k]
        row[f"common uniforms, {kind}"] = (a.var() + b.var()) / (a - b).var()
        for side in ("iteration", "equation"):
            pair = (values[side][k] + values[f"{side} anti"][k]) / 2
            row[f"antithetic {side}, {kind}"] = values[side][k].var() / 2 / pair.var()
    return row


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--lrs", type=float, nargs="+", default=[0.1, 0.025])
    arguments = parser.parse_args()
    rows = [measure(lr) for lr in arguments.lrs]
    print(f"{harness.SMALL}, T = {HORIZON:g}, loss, order 2, {BLOCKS} blocks of paths; {harness.threads()}")
    for name in rows[0]:
        print(f"{name:48}" + "".join(f"{row[name]:10.3g}" for row in rows))
    harness.write(arguments.out, rows)


if __name__ == "__main__":
    main()
