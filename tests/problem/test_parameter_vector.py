"""From a module to theta and back: the same outputs, names in the order of theta, and refusals."""

import pytest
import torch
from problems import Quadratic, make_problem
from torch import nn
from torch.nn.utils import parametrizations

import smesolve as sme

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)


def perceptron(seed=0, first=None):
    torch.manual_seed(seed)
    return nn.Sequential(first or nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Dropout(0.2), nn.Linear(4, 2)).double()


def module_problem(**options):
    return sme.ModuleProblem(perceptron(**options), X, X[:, :2])


def with_weight_norm():
    return sme.ModuleProblem(perceptron(first=parametrizations.weight_norm(nn.Linear(3, 4))), X, X[:, :2])


PROBLEMS = {
    "dropout": make_problem(bias=True),
    "features": make_problem(depth=2),
    "module": module_problem(),
    "weight_norm": with_weight_norm(),
    "training": sme.Training(make_problem(), torch.optim.Adam, lr=0.01),
    "schedule": sme.ScheduledProblem(make_problem(), lambda t: 1 + t),
    "epochs": sme.ShuffledEpochs(sme.TwoLayerNetwork(3, 2), X, X[:, :1], batch_size=2),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_module_and_its_parameters_are_the_same_network(name):
    problem = PROBLEMS[name]
    theta, before = problem.initial(seed=3), problem.initial(seed=None)
    module = problem.to_module(theta)
    assert type(module) is type(problem.network) and module is not problem.network
    assert torch.allclose(module.eval()(problem.x), problem.trained.outputs(problem.parameters(theta)), rtol=1e-12)
    for source in (module, module.state_dict(), {k: v.float() for k, v in module.state_dict().items()}):
        found = problem.theta_from(source)
        assert found.dtype == torch.float64
        assert torch.allclose(found, theta, atol=1e-7)
    assert torch.equal(problem.theta_from(module), theta) and torch.equal(problem.initial(seed=None), before)
    assert problem.parameter_names == [key for key, _ in module.named_parameters()]
    for key, parameter in module.named_parameters():
        assert torch.equal(theta[problem.parameter_slices[key]], parameter.detach().flatten())


def test_weights_that_were_trained_elsewhere_are_a_start():
    problem, trained = module_problem(), perceptron(seed=7)
    theta = problem.theta_from(trained)
    assert torch.equal(theta, nn.utils.parameters_to_vector(trained.parameters()).detach())
    end = problem.to_module(sme.iterate(problem, theta, lr=0.1, steps=2, paths=1)[-1, 0])
    assert end[2].training and not end[1].training and torch.isfinite(end(X)).all()


def frozen_module():
    module = perceptron()
    module[0].requires_grad_(False)
    return module


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3, r"source must be a torch.nn.Module or its state_dict\(\), got 3"),
        (nn.Linear(3, 4), "source has 'weight', which the problem's network does not have; give a module of the same"),
        (
            {**perceptron().state_dict(), "0.weight": torch.ones(2, 2)},
            r"source has '0.weight' of shape \(2, 2\) where the problem's network has \(4, 3\)",
        ),
        ({**perceptron().state_dict(), "0.bias": 1}, "source has '0.bias' of shape 1 where"),
        ({"0.weight": torch.ones(4, 3)}, "source lacks the parameter '1.weight'"),
        ({**perceptron().state_dict(), "0.weight": torch.ones(4, 3)}, "another '0.weight' than the problem's network"),
        ({**perceptron().state_dict(), "1.running_mean": torch.ones(4)}, "source has another '1.running_mean'"),
        ({**perceptron().state_dict(), "3.bias": torch.full((2,), torch.nan)}, "source has values that are NaN"),
    ],
)
def test_what_is_no_parameter_vector_is_refused(source, words):
    problem = sme.ModuleProblem(frozen_module(), X, X[:, :2])
    assert problem.parameter_names == ["1.weight", "1.bias", "3.weight", "3.bias"]
    with pytest.raises(sme.SmesolveError, match=words):
        problem.theta_from(source)


def test_counters_and_shared_parameters_are_read_once():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Linear(3, 2)).double()
    module[2].weight = module[0].weight
    problem = sme.ModuleProblem(module, X, X[:, :2])
    theta = problem.initial(seed=1)
    assert (
        torch.equal(problem.theta_from(problem.to_module(theta)), theta) and "2.weight" not in problem.parameter_names
    )
    untied = {**module.state_dict(), "2.weight": torch.zeros(3, 3)}
    with pytest.raises(sme.SmesolveError, match=r"another '2.weight'.* shared parameters only once"):
        problem.theta_from(untied)
    counted = module_problem().network
    counted[1].num_batches_tracked += 5
    assert module_problem().theta_from(counted).isfinite().all()


def test_problems_without_a_network_have_no_module():
    for call in (
        lambda problem: problem.parameter_names,
        lambda problem: problem.theta_from(nn.Linear(1, 1)),
        lambda problem: problem.to_module(torch.zeros(1, dtype=torch.float64)),
        lambda problem: problem.initial(),
    ):
        with pytest.raises(sme.SmesolveError, match="Quadratic has no network whose parameters"):
            call(Quadratic())
    with pytest.raises(sme.SmesolveError, match=r"theta must be one parameter vector of shape \(12,\)"):
        make_problem(width=4).to_module(torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("convert", "words"),
    [
        (lambda bias: bias + 1j, "complex numbers; take their real part"),
        (lambda bias: bias.to_sparse(), "a sparse one"),
        (lambda bias: bias.to("meta"), "on the meta device"),
    ],
)
def test_tensors_without_plain_values_are_no_parameters(convert, words):
    net = nn.Linear(3, 2).double()
    problem, state = sme.ModuleProblem(net, X, torch.zeros(4, 2)), net.state_dict()
    with pytest.raises(sme.SmesolveError, match=f"source has 'bias' as a tensor of other values.*{words}"):
        problem.theta_from({**state, "bias": convert(state["bias"])})
    assert torch.equal(problem.theta_from(state), problem.initial(seed=None))


def test_a_network_whose_trainable_parameters_have_changed_is_another_one():
    """Slices of theta would be those of another vector."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    net[0].requires_grad_(False)
    problem = sme.ModuleProblem(net, X, torch.zeros(4, 1))
    assert list(problem.parameter_slices) == ["1.weight", "1.bias"]
    net[0].requires_grad_(True)
    for call in (lambda: problem.parameter_slices, lambda: problem.initial(seed=None), lambda: problem.initial(seed=0)):
        with pytest.raises(sme.SmesolveError, match="other trainable parameters than when the problem was made"):
            call()
