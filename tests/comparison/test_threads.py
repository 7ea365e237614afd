"""Studies in several threads at once: the same digits as one after the other, also with one module for all."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from problems import feature_network, make_problem

import smesolve as sme

THREADS = 4
CALLS = 40


def together(call, arguments):
    """call(argument) of all arguments, in threads that start at the same moment; the first exception is raised."""
    gate = threading.Barrier(THREADS)

    def waiting(position):
        if position < THREADS:
            gate.wait()
        return call(arguments[position])

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(waiting, range(len(arguments))))


def same_as_one_after_the_other(call, different, calls=CALLS):
    """All calls together, with so many different arguments in turn, have the values of one call of each alone."""
    alone = [call(argument) for argument in range(different)]
    for number, found in enumerate(together(call, [k % different for k in range(calls)])):
        one = alone[number % different]
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(found, one, check_exact=True)
        else:
            assert torch.equal(found, one)


def module(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)
    ).double()


def data(samples=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(samples, 2, generator=generator, dtype=torch.float64), torch.ones(samples, 1).double()


def table(problem, seed, **more):
    """Of a small study with every kind of control variate that the problem has."""
    options = {"lrs": [0.2], "horizon": 0.2, "paths": 8, "seed": seed} | more
    return sme.weak_error(problem, problem.initial(seed), **options).table


def test_studies_of_one_problem_in_several_threads():
    problem = make_problem(samples=4, width=2)
    same_as_one_after_the_other(lambda seed: table(problem, seed, orders=[1 + seed % 2]), 3)


def test_studies_of_two_problems_that_share_a_module():
    shared, (x, y) = module(), data()
    problems = [
        sme.ModuleProblem(shared, x, y, masks="shared"),
        sme.ModuleProblem(shared, x[:2], y[:2], masks="shared", batch_size=1),
    ]
    same_as_one_after_the_other(
        lambda k: table(problems[k % 2], k % 4, orders=[1], scheme="sampled_euler", dt=0.1), 2, calls=12
    )


def test_fits_with_their_predicted_constants():
    problem = make_problem(samples=3, width=2)
    theta0 = problem.initial()
    study = sme.weak_error(problem, theta0, lrs=[0.2, 0.1], horizon=0.2, orders=[1], paths=8)
    same_as_one_after_the_other(lambda _: study.predict(), 1, calls=THREADS)


@pytest.mark.parametrize("kind", ["dropout", "features", "module"])
def test_iterations_and_solutions(kind):
    x, y = data()
    if kind == "module":
        problem, scheme = sme.ModuleProblem(module(), x, y), "svag"
    else:
        network = feature_network(2, 3) if kind == "features" else sme.TwoLayerNetwork(2, 3)
        problem, scheme = sme.DropoutProblem(network, x, y, keep_prob=0.8), "small_noise_rk4"
    theta0, sde = problem.initial(), sme.ModifiedEquation(problem, lr=0.1, order=2)

    def paths(seed):
        first = sme.iterate(problem, theta0, 0.1, 2, 4, seed=seed)
        return torch.cat([first, sme.solve(sde, theta0, [0.0, 0.2], scheme, dt=0.05, paths=4, seed=seed)])

    same_as_one_after_the_other(paths, 4)


def test_initial_values_and_problems_made_while_others_use_the_module():
    shared, (x, y) = module(), data()
    used = sme.ModuleProblem(shared, x, y)
    theta0 = used.initial(3)

    def start(k):
        if k % 2:
            return used.gradient(theta0 + 1, used.sample(8, 0)).mean(0)
        return sme.ModuleProblem(shared, x, y).initial(k)

    same_as_one_after_the_other(start, 8)


def test_threads_leave_the_filters_of_warnings_as_they_are():
    problem = make_problem(samples=3, width=2)
    before = list(warnings.filters)
    together(lambda seed: table(problem, seed, orders=[1]), list(range(THREADS)))
    assert warnings.filters == before
