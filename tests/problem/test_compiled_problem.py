"""Kernels fused by torch.compile compute what the plain ones do."""

import pickle
import shutil
import sys

import pytest
import torch
from problems import make_problem

import smesolve as sme

# torch.compile looks at modules that are loaded, deprecated parts of torch and of others included
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


def arguments(problem):
    generator = torch.Generator().manual_seed(0)
    theta = problem.initial() + 0.1 * torch.randn(
        problem.block_size, problem.dim, generator=generator, dtype=torch.float64
    )
    normals = torch.randn(problem.block_size, problem.noise_dim, generator=generator, dtype=torch.float64)
    return theta, normals, problem.sample(problem.block_size, seed=0)


def gradient_noise_and_curvature(at, normals):
    mean = at.mean_gradient()
    return torch.cat([mean, at.noise_product(normals), at.hessian_product(mean)])


def assert_same(plain, compiled, names):
    theta, normals, draw = arguments(plain)
    given = {
        "gradient": (draw,),
        "mean_gradient": (),
        "noise_product": (normals,),
        "noisy_mean_gradient": (normals, -0.3),
        "evaluate": (gradient_noise_and_curvature, normals),
    }
    for name in names or given:
        one, other = (getattr(problem.linearize(theta), name)(*given[name]) for problem in (plain, compiled))
        assert (one - other).abs().max() < 1e-13 * one.abs().max()
    assert len(names or given) == len(compiled._kernels)


@NEEDS_COMPILER
def test_a_compiled_step_is_the_step():
    problem = make_problem(width=3, bias=True).with_weak_noise()
    compiled = sme.CompiledProblem(problem)
    with torch.no_grad():
        assert_same(problem, compiled, ["noisy_mean_gradient"])
        theta, normals, _ = arguments(problem)
        frames = torch._dynamo.utils.counters["frames"]
        before = dict(frames)
        compiled.linearize(theta).noisy_mean_gradient(normals, -0.4)
        assert dict(frames) == before  # nothing is compiled anew for another number
        theta = arguments(problem)[0][:5]  # not a whole block
        assert torch.equal(compiled.mean_gradient(theta), problem.mean_gradient(theta))
    assert sys.float_info.min / 2 > 0  # which -ffast-math would take for 0 in all that follows
    assert len(compiled._kernels) == 1
    assert not pickle.loads(pickle.dumps(compiled))._kernels


@NEEDS_COMPILER
@pytest.mark.slow
@pytest.mark.parametrize("case", [{}, {"out_features": 2, "bias": True}, {"masks": "per_sample"}, {"depth": 2}])
def test_every_compiled_kernel_is_the_kernel(case):
    problem = make_problem(**case)
    with torch.no_grad():
        assert_same(problem, sme.CompiledProblem(problem), None)


@NEEDS_COMPILER
@pytest.mark.slow
def test_a_compiled_problem_goes_through_weak_error():
    problem = make_problem(width=3, samples=4, keep_prob=0.8)
    theta0 = problem.initial(seed=0)
    tables = [
        sme.weak_error(one, theta0, lrs=[0.2, 0.1], horizon=0.4, orders=[1], paths=2048, rel_tol=None, seed=0).table
        for one in (problem, sme.CompiledProblem(problem))
    ]
    assert (tables[0].error - tables[1].error).abs().max() < 1e-12


def test_without_a_compiler_everything_works_uncompiled(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    problem = make_problem(width=2)
    with pytest.warns(sme.NotCompiledWarning, match="found no C\\+\\+ compiler 'no-such-compiler'"):
        compiled = sme.CompiledProblem(problem)
    theta, normals, _ = arguments(problem)
    assert torch.equal(compiled.noise_product(theta, normals), problem.noise_product(theta, normals))
