"""Malformed calls of public functions: each is answered by a `SmesolveError` with one sentence.

A malformed call is a valid one in which one or two arguments are replaced by values that they cannot have. The
functions are found, not listed: whatever checks its arguments is tried. An argument's name means the same everywhere,
so one table says what a valid value of a name is, from which those that come close, and are not, are made.
"""

import importlib
import inspect
import math
import pkgutil

import numpy as np
import pandas as pd
import pytest
import sympy
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from malformed import ANYWHERE, Odd, circle, close_to, nested, objection
from scipy.sparse.linalg import aslinearoperator

import smesolve as sme
from smesolve import landscape, symbolic
from smesolve.errors import shown

# --- what is called -------------------------------------------------------------------------------------------------

GUARDS = ("entry_point.py", "guard.py")
"""Files whose decorators stand in front of what users call."""

UNTRIED = {
    "gradients_per_step", "growth_rates", "squared_error", "load",
    "DropoutNetwork", "Journal", "Linearization", "SavedStudy", "SymbolicModifiedEquation", "ValidityRange",
    "ConvergenceStudy", "WeakErrorStudy", "mean_over",
}  # fmt: skip
"""Functions of what others return, classes that others construct, and means of NaN."""


def _is_guarded(value):
    guarded = inspect.isfunction(value) and hasattr(value, "__wrapped__")
    return guarded and value.__code__.co_filename.endswith(GUARDS)


def _callables():
    """Yield (name, callable) for guarded functions, constructors and methods, and for all that is public."""
    for info in pkgutil.walk_packages(sme.__path__, "smesolve."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) != module.__name__ or name in UNTRIED:
                continue
            if _is_guarded(value):
                yield name, value
            for method, called in vars(value).items() if inspect.isclass(value) else ():
                if _is_guarded(called):
                    yield (name, value) if method == "__init__" else (f"{name}.{method}", called)
    for module in (sme, symbolic, landscape):
        for name in module.__all__:
            value = getattr(module, name)
            made = module is sme and inspect.isclass(value) and "__init__" in vars(value)
            if (inspect.isfunction(value) or made) and name not in UNTRIED:
                yield name, value


CALLED = dict(_callables())

# --- valid values, by name ------------------------------------------------------------------------------------------

X = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
Y = torch.linspace(0, 1, 3, dtype=torch.float64)[:, None]
NETWORK, LAW = sme.TwoLayerNetwork(2, 3), sme.BernoulliMasks(0.8)
PROBLEM = sme.DropoutProblem(NETWORK, X, Y, keep_prob=0.8)
MODULE = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)).double()
SAMPLED = sme.ModuleProblem(MODULE, X, Y)
EPOCHS = sme.ShuffledEpochs(torch.nn.Linear(2, 1).double(), X, Y, batch_size=1)
LINEAR = sme.DropoutProblem(sme.LinearNetwork(2), X, Y, keep_prob=0.8)
SCHEDULED = sme.ScheduledProblem(LINEAR)
TRAINING = sme.Training(PROBLEM, torch.optim.Adam, 0.1)
THETA, LINEAR_THETA = PROBLEM.initial(), LINEAR.initial()
STARTS = torch.stack([THETA, 2 * THETA])
HESSIAN, SIGMA = landscape.hessian_operator(PROBLEM, THETA), landscape.covariance_operator(PROBLEM, THETA)
NOISE = landscape.random_noise(PROBLEM, THETA, 8)
ARRAY, UNIT = X.numpy(), STARTS / STARTS.norm(dim=-1, keepdim=True)
RUNS = pd.DataFrame([{"training": name, "run": k, "trace": 1.0 + k} for name in landscape.ABLATIONS for k in range(2)])
a, y, eta, h, p = *sympy.symbols("a y eta h"), sympy.Symbol("p", positive=True)
EXPLICIT = symbolic.ExplicitNetwork()
ITERATION = symbolic.Iteration([a], [-h * eta * (eta * a - y)], {eta: LAW}, h, [y])
EQUATION = symbolic.modified_equation(ITERATION)
CUMULANT = symbolic.third_cumulant(symbolic.dropout(EXPLICIT, sme.BernoulliMasks(p)))

FOURTH_CUMULANT = symbolic.fourth_cumulant(symbolic.Iteration([a], [h * eta], {eta: sme.BernoulliMasks(p)}, h))
JUMPS = symbolic.modified_equation(ITERATION, order=3)

METHODS = ("loss", "modified_loss", "mean_gradient", "gradient", "noise_product")
CALLED |= {f"DropoutProblem.{name}": getattr(PROBLEM, name) for name in METHODS} | {"ModuleProblem.loss": SAMPLED.loss}

MOMENTS = CALLED["LinearMoments"](LINEAR, LINEAR_THETA)
SCHEDULED_MOMENTS = CALLED["ScheduledMoments"](SCHEDULED, LINEAR_THETA)
OWNERS = {
    "DropoutProblem": PROBLEM, "LinearMoments": MOMENTS, "ModuleProblem": SAMPLED, "Problem": PROBLEM,
    "ShuffledEpochs": EPOCHS,
    "ScheduledMoments": SCHEDULED_MOMENTS, "ScheduledProblem": SCHEDULED, "SymbolicModifiedEquation": EQUATION,
    "ThirdCumulant": CUMULANT, "FourthCumulant": FOURTH_CUMULANT, "SymbolicJumpEquation": JUMPS,
    "ParameterVector": PROBLEM, "Training": TRAINING,
}  # fmt: skip
"""Of methods, by class."""

VALID = {
    "problem": PROBLEM, "problems": {"dropout": PROBLEM}, "network": NETWORK, "theta": THETA, "theta0": THETA,
    "starts": STARTS, "states": STARTS[None], "first": THETA, "second": THETA, "directions": STARTS,
    "draw": torch.ones(3).double(), "normals": torch.ones(PROBLEM.noise_dim).double(), "x": X, "y": Y, "module": MODULE,
    "lr": 0.1, "lrs": [0.1], "dt": 0.1, "horizon": 0.2, "ts": [0.0, 0.2], "times": [0.2], "time": 1.0, "steps": 2,
    "paths": 2, "count": 2, "seed": 0, "order": 2, "observable": "loss", "observables": ["loss"], "scheme": "euler",
    "sde": sme.ModifiedEquation(PROBLEM, 0.1), "factor": 0.1, "factors": [1], "kappas": [1], "multiples": [0.1],
    "keep_prob": 0.8, "keep_probs": [0.8], "width": 4, "widths": [4], "in_features": 2, "noise_dim": 2, "samples": 3,
    "features": X, "weights": X.mT, "variance": 0.1, "half_width": 0.5, "likelihood": "gaussian", "law": LAW,
    "hessian": HESSIAN, "operator": HESSIAN, "operators": {"H": HESSIAN}, "words": ["H"], "covariance": SIGMA,
    "covariances": {"S": SIGMA}, "noise": NOISE, "gradients": NOISE, "mean": THETA, "draws": 20, "dim": 3,
    "distances": [0.1], "alphas": [0.1], "solutions": {"one": STARTS}, "values": [1.0, 2.0], "name": "dropout",
    "trainings": ["dropout"], "duration": 1.0, "breaks": [1.0], "pieces": [torch.cos, torch.ones_like],
    "iteration": ITERATION, "expression": eta, "equation": EQUATION, "groups": [[0]], "masks": LAW, "symbol": p,
    "state": [a], "step": [-h * eta * a], "random": {eta: LAW}, "small": h, "parameters": [a],
    "loss": (eta * a) ** 2, "layers": [1], "rel_tol": 0.1, "max_memory": 1e9, "workers": 1, "friction": 0.1,
    "rate": 0.1, "first_rate": 0.1, "second_rate": 0.1, "eps": 0.1,
    "save": [0, 2], "batch_size": 2, "progress": False, "dts": [0.1, 0.05], "schemes": ["euler"],
    "reference": ("euler", 0.025), "source": NETWORK,
}  # fmt: skip
"""Valid values of what has no default, or None for one."""

LINEAR_ONES, SINGLES, SAMPLED_THETA = {"problem": LINEAR, "theta0": LINEAR_THETA}, (1.0, 1.0, 1.0), SAMPLED.initial()
VALID_HERE = {
    **{name: {"network": EXPLICIT} for name in ("DropoutFormulas", "dropout", "sgd", "dropout_sgd", "dropconnect")},
    **{name: {"network": EXPLICIT, "noise": LAW} for name in ("label_noise", "parameter_noise")},
    **dict.fromkeys(["LinearMoments", "exact_regularisation_orders", "stationary_variances"], LINEAR_ONES),
    **{f"ModuleProblem.{name}": {"theta": SAMPLED_THETA} for name in ("loss", "mean_gradient_estimate")},
    **{name: {"steps": [0, 1]} for name in ("condensation", "noise_alignment")},
    "DropoutProblem": {"keep_prob": 0.8},
    "FeatureNetwork": {"features": torch.nn.Linear(2, 3), "readout": torch.nn.Linear(3, 1)},
    "FiniteMasks": {"values": [0.5, 1.5], "probabilities": [0.5, 0.5]},
    "LossExpansion": {"loss": lambda f, y: (f - y) ** 2},
    "PolynomialLossProblem": {"loss": lambda f, y: (f - y) ** 4, "keep_prob": 0.8},
    "ScheduledMoments": LINEAR_ONES | {"problem": SCHEDULED},
    "ScheduledProblem.stability_limit": {"theta": LINEAR_THETA},
    "SymbolicJumpEquation.to_torch": {"values": {"y": 1.0}},
    "SymbolicModifiedEquation.to_torch": {"values": {"y": 1.0}},
    "convergence": {"observables": ["loss"], "reference": ("euler", 0.025), "paths": 2},
    "Training": {"optimizer": torch.optim.Adam},
    "Training.warm": {"state": TRAINING.initial()},
    "warm_up_cosine": {"duration": 0.1},
    "alignment_along": {"steps": [0], "covariances": ["full batch"], "eigenpairs": 2},
    **{name: {"weights": ARRAY} for name in ("cosine_map", "covering")},
    "factorial_effects": {"table": RUNS, "measures": ["trace"]},
    "flow": {"name": "flow of R_S"},
    "flow_change": {"observable": PROBLEM.loss},
    "haar_null": {"first": SINGLES, "second": SINGLES},
    "interval_flatness": {"loss": PROBLEM.loss, "directions": UNIT, "factor": 2.0},
    "loss_profile": {"alphas": [-0.5, 0.0, 1.0, 1.5], "losses": [1.0, 2.0, 1.5, 1.0]},
    "noise_effect": {"observables": {"loss": PROBLEM.loss}},
    "observed_limit": {"problem": LINEAR},
    "overlap": {"count": 2},
    "participation": {"weights": ARRAY, "amplitudes": ARRAY[:, 0] ** 2},
    "penalty_comparison": {"laws": {0.8: LAW}},
    "principal_angles": {"first": ARRAY, "second": ARRAY},
    "principal_directions": {"data": NOISE},
    "schedules": {"lrs": [0.1, 0.05]},
    "ShuffledEpochs": {"batch_size": 1},
    "scaling_rule": {"equation": symbolic.modified_equation(ITERATION, order=1), "by": y, "fixed": [a]},
    "scaling_rule_study": {"kappas": [2]},
    "shuffled_noise": {"problem": EPOCHS, "theta0": EPOCHS.initial()},
    "train": {"process": landscape.AblatedIteration(PROBLEM, 0.1), "saved": [0, 1]},
    "train_by_adam": {"saved": [0, 1]},
    "train_by_flow": {"training": "flow of R_S"},
    "smooth_function": {"name": "sigma"},
    "variance_principle": {"directions": 3},
}
"""Where a name does not mean what it means elsewhere."""

# --- what valid values do not tell ----------------------------------------------------------------------------------

RANGES = {
    **dict.fromkeys(["label_noise", "parameter_noise", "weight_decay", "variance", "last", "friction", "factor"], (0,)),
    **dict.fromkeys(["rate", "first_rate", "second_rate", "eps"], (0,)),
    **dict.fromkeys(["seed", "keep", "block", "noise_dim", "step", "save", "saved", "warm_up.first"], (0,)),
    **dict.fromkeys([f"{name}.steps" for name in ("alignment_along", "condensation", "noise_alignment")], (0,)),
    "Training.warm.steps": (0,),
    **dict.fromkeys([f"{name}.stability_limit.horizon" for name in ("Problem", "ScheduledProblem")], (0,)),
    **dict.fromkeys(["ts", "distances", "alphas", "losses", "values", "probabilities", "u0"], (-math.inf,)),
    **dict.fromkeys(["haar_null.first", "haar_null.second"], (-math.inf,)),
    **dict.fromkeys(["rel_tol", "tolerance", "tol", "keep_prob", "keep_probs", "threshold"], (None, 1)),
    "interval_flatness.factor": (1,),
}
"""Smallest and largest number that is allowed, where any positive one is not."""

ANY_LEAD = {"draw", "normals", "interpolation.first", "interpolation.second", "ModuleProblem.loss.theta"}
ANY_LEAD |= {f"DropoutProblem.{name}.theta" for name in METHODS}
ANY_LEAD |= {f"{name}.theta" for name in ("input_weights", "first_penalty", "second_penalty", "covariance_trace")}
"""Tensors with any dimensions before the last one; all but `input_weights` answer NaN by NaN."""


def raising(*values):
    raise KeyError("missing")


def narrow(values, *_):
    return values.float()


NO_FACTOR = [0.5, raising, lambda t: t / 0, lambda t: torch.zeros(2), lambda t: t - 3, len]
NO_FEATURES = [X * math.nan, X[None], X.long(), X.half(), X.tolist(), X[:, :0], X[0], X.to_sparse()]
NO_ARRAY = [X, X.tolist(), ARRAY * np.nan, ARRAY.astype(complex), ARRAY.astype(str), ARRAY.astype(object), ARRAY[None]]
NO_ARRAY += [ARRAY > 0, np.ma.masked_array(ARRAY, ARRAY > 0), pd.DataFrame(ARRAY)]
NO_DRAWS = [
    NOISE[:4],
    NOISE[:, :-1],
    NOISE[0],
    NOISE.long(),
    NOISE.half(),
    NOISE * math.nan,
    NOISE * 1e90,
    NOISE * 1e-90,
]
NO_TABLE = [RUNS[:0], RUNS[1:].drop(columns="run"), RUNS.drop(columns="trace"), RUNS.assign(trace="a"), RUNS.to_dict()]
NO_EXPRESSION = [None, "a +", sympy.true, sympy.Matrix([a]), []]
GOOD = X.numpy()
NO_DATA = [GOOD * np.nan, GOOD.astype(complex), GOOD.astype(object), GOOD.astype(str), GOOD[:0], X.to_sparse(), None]
NO_DATA += [[*GOOD.tolist(), [1, 2, 3, 4]], X[:, :0], X.to(torch.complex128), pd.DataFrame(GOOD.astype(str)), "x", 0.5]

INSTEAD = {
    "order": [0, 3, 1.0, 2.5, "linear", True],
    **{  # which has equations with jumps, too
        f"LinearMoments.{name}.order": [0, 1.0, 2.5, "linear", True]
        for name in ("equation", "error", "moments", "stability_limit", "stationary")
    },
    "ModifiedEquation.order": [0, 1.0, 2.5, "linear", True],
    "orders": [[], [0], [3], [1.0], ["linear"], [1, True], 1],
    "device": ["gpu", "cpu:", "cuda:99", -1, 7],
    "dtype": [torch.float16, torch.int64, torch.complex128, "float64", float],
    "lr_factor": NO_FACTOR, "ScheduledProblem.keep_prob": NO_FACTOR,
    "features": NO_FEATURES, "weights": NO_FEATURES, "gradients": NO_FEATURES, "FeatureNetwork.features": NO_EXPRESSION,
    "x": NO_DATA, "y": [*NO_DATA, Y[:-1], Y[1:].tolist()],
    **{f"{name}.weights": NO_ARRAY for name in ("cosine_map", "covering", "participation")},
    **{f"principal_angles.{name}": NO_ARRAY for name in ("first", "second")},
    "participation.amplitudes": [*NO_ARRAY, ARRAY[:, 0], ARRAY[:2, 0] ** 2],
    **{f"{name}.noise": NO_DRAWS for name in ("sampled_alignment", "sampled_traces")},
    "principal_directions.data": [0 * NOISE, *NO_DRAWS[2:6]],
    "interval_flatness.theta": [STARTS, THETA.long(), THETA * math.nan, THETA.numpy()],
    "factorial_effects.table": NO_TABLE,
    "factorial_effects.measures": [[], "trace", ["a"], ["run"], ["trace", "trace"], [0]],
    "penalty_comparison.laws": [{}, {0.8: 0.8}, {0.0: LAW}, {"a": LAW}, [LAW]],
    "groups": [[[1]], [[-1]], [0], [[0.5]], "a"],
    "data": [([[1.0]],), ([[1.0, 2.0]], [[1.0]]), (1.0, 2.0), ([["a"]], [[1.0]])],
    "names": [["rubbish"], [0.5], "abc", 0.1], "constants": [[0.5], [None], 0.5, "abc"],
    "flow_change.observable": [0.5, "loss", []], "expression": NO_EXPRESSION,
    "gradient_descent.loss": NO_EXPRESSION, "Iteration.loss": NO_EXPRESSION[1:],
    "Iteration.step": [[each] for each in NO_EXPRESSION], "smooth_function.name": NO_EXPRESSION[2:],
}  # fmt: skip
"""Values that are almost right, where those made from the valid one could be right."""

BESIDES = {
    "observable": [raising, narrow], "observables": [[raising], [narrow], ["loss", "nonsense"], ["theta[99]"]],
    "activation": [raising, narrow, len, torch.sum, lambda z: z[0]],
    "loss": [raising, narrow, lambda f, y: "text", lambda f, y: None],
    **{f"{name}.{size}": [10**12, 10**13] for name in ("TwoLayerNetwork", "LinearNetwork")
       for size in ("in_features", "width", "out_features")},  # more than any machine holds
}  # fmt: skip
"""Values that are almost right, besides those made from the valid one."""


def malformed_values(name, key, default):
    """Return a strategy of values that an argument cannot have."""
    here = f"{name}.{key}"
    if (instead := INSTEAD.get(here, INSTEAD.get(key))) is not None:
        return ANYWHERE | st.sampled_from(instead)
    unknown = default in (None, (), [], inspect.Parameter.empty)
    valid = VALID_HERE.get(name, {}).get(key, VALID.get(key) if unknown else default)
    close = close_to(valid, *RANGES.get(here, RANGES.get(key, ())), any_lead=bool({here, key} & ANY_LEAD))
    more = BESIDES.get(here, BESIDES.get(key))
    return ANYWHERE | close | st.sampled_from(more) if more else ANYWHERE | close


# --- the property ---------------------------------------------------------------------------------------------------


def arguments_of(name):
    """Return the parameters of a function but for `self` and for any keywords."""
    parameters = inspect.signature(CALLED[name]).parameters.items()
    return {key: each for key, each in parameters if key != "self" and each.kind is not each.VAR_KEYWORD}


def valid_call(name):
    """Return the valid values of what must be given, and of what its default does not fit."""
    here = VALID_HERE.get(name, {})
    required = [key for key, each in arguments_of(name).items() if each.default is each.empty and key not in here]
    return here | {key: VALID[key] for key in required}


def call(name, values):
    """Call a function, or a method of the class's object."""
    owner = [OWNERS[name.split(".")[0]]] if "self" in inspect.signature(CALLED[name]).parameters else []
    return CALLED[name](*owner, **values)


@st.composite
def malformed_calls(draw):
    """A public function, and values that one or two of its arguments cannot have."""
    name = draw(st.sampled_from([name for name in sorted(CALLED) if arguments_of(name)]))
    defaults = {key: each.default for key, each in arguments_of(name).items()}
    some = draw(st.lists(st.sampled_from(sorted(defaults)), min_size=1, max_size=min(2, len(defaults)), unique=True))
    return name, {key: draw(malformed_values(name, key, defaults[key])) for key in some}


def refuse(name, replaced):
    """Fail where a malformed call is not answered as it must be."""
    try:
        result = call(name, valid_call(name) | replaced)
    except Exception as error:
        assert (found := objection(error, list(replaced))) is None, f"{name}({replaced!r}): {found}"
    else:
        raise AssertionError(f"{name}({replaced!r}) returns a {type(result).__name__}")


OTHER_SIZE = aslinearoperator(np.eye(len(THETA) + 1))

FOUND = [
    ("DropoutProblem", {"keep_prob": True}), ("DropoutProblem", {"x": np.full((3, 2), np.inf)}),
    ("DropoutProblem", {"x": X.to_sparse()}), ("DropoutProblem", {"y": Y[:-1]}),
    ("FiniteMasks", {"probabilities": [0.5, 0.6]}), ("KeyedBrownian", {"device": "cuda:99"}),
    ("LinearMoments", {"problem": PROBLEM, "theta0": THETA}),
    ("PolynomialLossProblem", {"loss": lambda f, y: sympy.sin(f)}),
    ("ModifiedEquation", {"order": 1.0}), ("ModuleProblem", {"batch_size": 4}),
    ("ModuleProblem", {"loss": lambda f, y: f.sum()}), ("Piecewise", {"pieces": [torch.cos]}),
    ("ScheduledProblem", {"lr_factor": lambda t: t / 0}), ("TwoLayerNetwork", {"activation": narrow}),
    ("TwoLayerNetwork", {"activation": lambda z: z[0]}), ("TwoLayerNetwork", {"width": 10**12}),
    ("enumerated_expectation", {"steps": 100}), ("iterate", {"max_memory": 1.0}), ("iterate", {"paths": 2**53}),
    ("iterate", {"theta0": THETA.half()}), ("iterate", {"save": range(10**12)}), ("solve", {"dt": 0.3}),
    ("solve", {"ts": [0.2, 0.1]}), ("solve", {"theta0": THETA * math.nan}), ("trace", {"probes": 1}),
    ("weak_error", {"lrs": range(10**12)}), ("weak_error", {"lrs": [0.1, 10**400]}), ("weak_error", {"lrs": circle()}),
    ("weak_error", {"observables": [narrow]}), ("weak_error", {"observables": [raising]}),
    ("weak_error", {"rel_tol": 1e-300}), ("without_blocks", {"groups": [[-1]]}),
    ("without_blocks", {"groups": [[0], [0]]}), ("scaling_rule", {"fixed": [a, y]}),
    ("flow", {"problem": SCHEDULED}), ("flow_change", {"problem": SCHEDULED}),
    ("trace", {"operator": aslinearoperator(np.ones((3, 4)))}), ("overlap", {"covariance": OTHER_SIZE}),
    ("alignment", {"covariances": {"S": OTHER_SIZE}}), ("traces", {"operators": {"H": HESSIAN, "S": OTHER_SIZE}}),
    ("interpolation", {"first": THETA.expand(2, -1), "second": THETA.expand(3, -1)}),
    ("observed_limit", {"problem": sme.DropoutProblem(sme.LinearNetwork(2), 0 * X, Y, keep_prob=0.8)}),
    ("ScheduledMoments.equation", {"order": "quadratic"}), ("ScheduledMoments.error", {"order": "quadratic"}),
]  # fmt: skip
"""Malformed calls that once were answered by a result, by another library's error, or not at all."""


@pytest.mark.parametrize(("name", "replaced"), FOUND)
def test_what_once_went_wrong_is_answered_by_one_sentence(name, replaced):
    refuse(name, replaced)


@settings(max_examples=400, phases=[Phase.generate])  # to shrink a failure takes minutes, and says little more
@given(malformed_calls())
def test_malformed_calls_are_answered_by_one_sentence(malformed):
    refuse(*malformed)


@pytest.mark.slow
@settings(max_examples=10_000, phases=[Phase.generate], derandomize=False)
@given(malformed_calls())
def test_ten_thousand_malformed_calls_are_answered_by_one_sentence(malformed):
    refuse(*malformed)


SECONDS_LONG = {
    "acceleration", "error_map", "linear_scaling_rule", "long_horizon", "observed_limit", "regularisation_orders",
    "schedules", "shuffled_noise", "width_sweep", "ThirdCumulant.roots",
}  # fmt: skip
"""Functions whose valid call takes seconds; their own tests make it."""


@pytest.mark.parametrize("name", sorted(CALLED.keys() - SECONDS_LONG))
def test_the_call_is_valid_as_it_stands(name):
    """A new public function whose argument has no valid value here fails too: add one to VALID."""
    call(name, valid_call(name))


def test_what_users_call_is_found():
    assert {"weak_error", "iterate", "solve", "DropoutProblem", "modified_equation", "flatness"} <= CALLED.keys()
    assert len(CALLED) > 100


@pytest.mark.parametrize("name", sorted(CALLED))
def test_an_unknown_name_is_answered_by_a_type_error(name):
    with pytest.raises(TypeError, match="no_such_argument"):
        call(name, valid_call(name) | {"no_such_argument": 1})


@pytest.mark.parametrize(
    "make", [lambda: 10**5000, Odd, lambda: nested(3000), circle, lambda: {1: nested(3000)}, lambda: b"\n" * 10**6]
)
def test_whatever_is_given_is_shown_in_one_short_line(make):
    assert len(shown(make())) <= 210 and "\n" not in shown(make())
