"""What is made on the way is made on the device of the problem: on another one than the CPU, numbers are the same."""

import pytest
import torch
from other_device import DEVICE, other_device

import smesolve as sme
from smesolve.comparison.mean_square_growth import growth_rates
from smesolve.problem.kernels.fused import FusedKernels, ReadoutKernels

CPU = torch.device("cpu")
X = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)


def measured(device):
    network = sme.TwoLayerNetwork(2, 3, 1, "tanh").to(device)
    problem = sme.DropoutProblem(network, X.to(device), (X[:, :1] ** 2).to(device), keep_prob=0.8)
    theta0 = problem.initial(seed=0)
    paths = [sme.iterate(problem, theta0, 0.1, 2, paths=3)]
    for order in (1, 3):
        paths.append(sme.solve(sme.ModifiedEquation(problem, 0.1, order), theta0, [0, 0.2], dt=0.1, paths=3))
    paths.append(sme.solve(sme.ModifiedEquation(problem, 0.1, 1), theta0, [0, 0.1], scheme="svag", dt=0.05, paths=3))
    assert all(part.device == device for part in paths)
    return torch.cat([part.flatten().cpu() for part in paths])


class Stretch:
    """A linear process on a device, with noise of its own."""

    block_size, antithetic = 16, False

    def __init__(self, device, dtype):
        self.factors = torch.tensor([3.0, 1.0], dtype=dtype).to(device)

    def advance(self, theta, block, step):
        assert (theta.device, theta.dtype) == (self.factors.device, self.factors.dtype)
        return theta * self.factors


def test_operands_on_both_devices_are_refused():
    with other_device(), pytest.raises(RuntimeError, match="found one on the CPU"):
        torch.ones(2).to(DEVICE) + torch.ones(2)


def test_paths_are_the_same_on_another_device(monkeypatch):
    for kernels in (FusedKernels, ReadoutKernels):
        monkeypatch.setattr(kernels, "of", lambda *given: None)
    with other_device():
        elsewhere = measured(DEVICE)
    assert torch.allclose(elsewhere, measured(CPU), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_growth_rates_are_measured_where_the_states_are(dtype):
    def rates(device):
        return growth_rates(Stretch(device, dtype), torch.zeros(2, dtype=dtype).to(device), 2, 4, 2, 0)

    with other_device():
        elsewhere = rates(DEVICE)
    assert elsewhere == pytest.approx(rates(CPU), rel=1e-12)
