"""What the host process has switched on does not reach into the numbers."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import smesolve as sme
from smesolve.comparison.exact import LinearMoments
from smesolve.comparison.leading_constants import leading_constants
from smesolve.landscape import alignment, covariance_operator, hessian_operator
from smesolve.problem.observables import named_observables

SCRIPT = """
import numpy as np
import smesolve as sme
from test_host_settings import exact_problem, numbers
"""


def exact_problem(x=None, y=None):
    generator = torch.Generator(device="cpu").manual_seed(0)
    data = torch.randn(5, 3, generator=generator, dtype=torch.float64, device="cpu")
    net = sme.TwoLayerNetwork(2, 3, 1, device="cpu")
    return sme.DropoutProblem(net, data[:, :2] if x is None else x, data[:, 2:] if y is None else y, keep_prob=0.8)


def numbers():
    """Paths, losses, exact moments and landscape of small problems."""
    problem = exact_problem()
    theta = problem.initial(0)
    equation = sme.ModifiedEquation(problem, 0.1, 2)
    scheduled = sme.ScheduledProblem(problem, lambda t: 1 - t / 4, lambda t: 0.8 + 0.1 * t)
    masks = sme.FiniteMasks([0.0, 1.0, 2.5], [0.3, 0.5, 0.2])
    linear = sme.DropoutProblem(sme.LinearNetwork(2, device="cpu"), problem.x, problem.y, law=masks)
    start = linear.initial(0)
    moments = LinearMoments(linear, start)
    averaged = sme.AveragedProblem(linear, 2)
    draws, weights = averaged.all_draws()
    layers = [torch.nn.Linear(2, 3, dtype=torch.float64, device="cpu"), torch.nn.Tanh(), torch.nn.Dropout(0.2)]
    layers.append(torch.nn.Linear(3, 2, dtype=torch.float64, device="cpu"))
    classes = sme.ModuleProblem(torch.nn.Sequential(*layers), problem.x, (problem.y[:, 0] > 0).long(), "cross_entropy")
    at = classes.initial(0)
    table = alignment(hessian_operator(problem, theta), {"S": covariance_operator(problem, theta)})
    constants = leading_constants(problem, theta, [0.2], named_observables(problem, ["loss"]), 0.1, (1, 2))
    return [
        float(value)
        for value in (
            sme.iterate(problem, theta, 0.1, 3, 4)[-1].sum(),
            sme.solve(equation, theta, [0.0, 0.2], dt=0.1, paths=4)[-1].sum(),
            sme.iterate(scheduled, theta, 0.1, 3, 4)[-1].sum(),
            sme.solve(sme.ModifiedEquation(scheduled, 0.1, 2), theta, [0.0, 0.2], dt=0.1, paths=4)[-1].sum(),
            problem.hessian_product(theta, theta).sum(),
            problem.stability_limit(theta),
            scheduled.stability_limit(theta, 1.0),
            moments.error(0.1, 2, 0.2, "squared_norm"),
            (weights @ averaged.gradient(start, draws)).sum(),
            sme.iterate(classes, at, 0.1, 3, 4)[-1].sum(),
            classes.hessian_product(at, at).sum(),
            table.ratio[0],
            *constants.constant,
        )
    ]


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def plain():
    return numbers()


@pytest.mark.parametrize(
    "surroundings",
    [
        lambda: np.errstate(all="raise"),
        lambda: torch.device("meta"),
        lambda: default_dtype(torch.float16),
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.set_grad_enabled(False),
        deterministic,
    ],
    ids=["numpy raises", "meta device", "float16", "inference mode", "no grad", "grad disabled", "deterministic"],
)
def test_numbers_are_those_of_a_plain_process(surroundings, plain):
    with surroundings():
        assert numbers() == plain


def test_data_and_parameters_made_in_inference_mode_serve_outside():
    with torch.inference_mode():
        problem = exact_problem(torch.ones(4, 2, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64))
        theta = torch.full((problem.dim,), 0.1, dtype=torch.float64)
    limit = problem.stability_limit(theta)
    assert limit == pytest.approx(problem.stability_limit(theta.clone()))
    assert hessian_operator(problem, theta).shape == (problem.dim, problem.dim)


def test_a_diverging_path_warns_where_numpy_raises():
    problem = exact_problem()
    with np.errstate(all="raise"), pytest.warns(sme.DivergenceWarning):
        sme.iterate(problem, 1e60 * problem.initial(0), 1e60, 4, 2)


def run(code, *flags):
    done = subprocess.run(
        [sys.executable, *flags, "-c", SCRIPT + code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=os.path.dirname(__file__),
    )
    assert done.returncode == 0, done.stderr
    return [float(value) for value in done.stdout.split()]


def test_without_asserts_and_docstrings(plain):
    assert run("print(*map(repr, numbers()))", "-OO") == plain


def test_where_every_warning_is_an_error():
    """Import, studies of both kinds of problem and a landscape; third-party imports may warn by themselves."""
    code = """
import sys, warnings
import joblib, matplotlib.figure, numpy, pandas, scipy.stats, sympy, torch, torchsde
try:
    import setuptools  # as torch 2.4 does when forward derivatives are first taken; it adds a filter
except ImportError:
    pass
warnings.simplefilter("error")
before = list(warnings.filters)
import smesolve as sme
from smesolve.landscape import alignment, covariance_operator, hessian_operator
generator = torch.Generator().manual_seed(0)
x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
layers = torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)
module = sme.ModuleProblem(torch.nn.Sequential(*layers).double(), x, x[:, :1])
dropout = sme.DropoutProblem(sme.TwoLayerNetwork(2, 3), x, x[:, :1], keep_prob=0.8)
for problem in (module, dropout):
    options = {"paths": 64, "max_paths": 64, "rel_tol": None, "dt": 0.1}  # a given dt is not halved
    study = sme.weak_error(problem, problem.initial(0), [0.2], 0.2, **options)
    study.fit()
theta = dropout.initial(0)
alignment(hessian_operator(dropout, theta), {"S": covariance_operator(dropout, theta)})
assert warnings.filters == before, "the host's filters are as they were"
print(len(study.table))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2\n"


def test_importing_changes_nothing_in_the_process():
    code = """
import ctypes, os
class Watched(ctypes.CDLL):
    def __getattr__(self, name):
        assert name != "mallopt"
        return super().__getattr__(name)
ctypes.CDLL = Watched
def forbidden(**hooks):
    assert not any("smesolve" in str(hook.__module__) for hook in hooks.values())
register, os.register_at_fork = os.register_at_fork, lambda **hooks: (forbidden(**hooks), register(**hooks))
environment = dict(os.environ)
import smesolve as sme
for name in sme.__all__:
    getattr(sme, name)
assert dict(os.environ) == environment
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_command_line_settles_its_process(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = """
import contextlib, gc, os, sys
from smesolve.study.command_line import main
assert "OMP_WAIT_POLICY" not in os.environ
with contextlib.suppress(SystemExit):
    main(["--version"])  # by a program, whose process is left as it is
assert gc.isenabled() and not gc.get_freeze_count() and "OMP_WAIT_POLICY" not in os.environ
sys.argv = ["smesolve", "--version"]
with contextlib.suppress(SystemExit):
    main()
assert gc.isenabled()
print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "PASSIVE False", done.stderr


@pytest.mark.parametrize("before", ["enable", "disable"])
def test_public_names_load_without_collections(before):
    code = f"""
import gc
gc.{before}()
before, collected = gc.isenabled(), []
import smesolve as sme
gc.callbacks.append(lambda phase, info: collected.append(phase))
sme.TwoLayerNetwork
assert len(collected) < (20 if before else 1), len(collected)
try:
    sme.no_such_name
except AttributeError:
    pass
assert gc.isenabled() == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_in_a_forked_process(plain):
    """Threads of the parent are not there in the child."""
    code = """
import os, sys, torch
torch.set_num_threads(2)
large = torch.ones(300, 300); large @ large
child = os.fork()
if child == 0:
    print(*map(repr, numbers()), flush=True)
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code) == pytest.approx(plain, rel=1e-9)
