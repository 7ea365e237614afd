"""The design of a study: made once, checked once, and what a study says of itself."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from problems import make_problem

import smesolve as sme
from smesolve.comparison.control_variate import control_of
from smesolve.comparison.draw_control_variate import DrawControlVariate
from smesolve.comparison.outcomes import Status, Verdict
from smesolve.comparison.study_design import StudyDesign, chosen_control, chosen_scheme
from smesolve.errors import SmesolveError
from smesolve.problem.iteration import DropoutIteration

PROBLEM = make_problem(width=2)
SMALL = {"lrs": [0.2, 0.1], "horizon": 0.4, "paths": 64, "times": [0.2, 0.4]}


def module_problem():
    torch.manual_seed(0)
    layers = torch.nn.Linear(2, 3), torch.nn.Dropout(0.2), torch.nn.Linear(3, 1)
    return sme.ModuleProblem(torch.nn.Sequential(*layers).double(), PROBLEM.x, PROBLEM.y)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("dense_dim", [256, 0])
def test_the_stability_limit_is_computed_once_for_a_study_and_its_fit(activation, dense_dim, monkeypatch):
    """Also where Hessians of low rank, the size of the study and constants of networks with kinks take it."""
    for module in ("value_hessians", "weak_error", "study_size"):
        monkeypatch.setattr(f"smesolve.comparison.{module}.DENSE_DIM", dense_dim)
    problem, computed = make_problem(width=2, activation=activation), []
    limit = type(problem).stability_limit
    monkeypatch.setattr(type(problem), "stability_limit", lambda *given: computed.append(1) or limit(*given))
    sme.weak_error(problem, problem.initial(1), **SMALL, orders=[1]).fit()
    assert len(computed) == 1


def test_a_training_is_stable_up_to_the_learning_rate_of_its_last_beta():
    """There momentum is 0, and the step is one of gradient descent; beyond it there is no training."""
    training = sme.Training(PROBLEM, torch.optim.SGD, lr=0.05, momentum=0.5)
    state = training.initial(seed=0)
    assert training.largest_lr == training.stability_limit(state) == 0.1
    for lr in (0.1, 0.0999):
        StudyDesign.of(training, state, [lr], 2 * lr, orders=[2], observables=["loss"])
        step = training.step(state, PROBLEM.sample(1, seed=0)[0], lr)[: PROBLEM.dim]
        gradient = PROBLEM.gradient(state[: PROBLEM.dim], PROBLEM.sample(1, seed=0)[0])
        assert torch.allclose(step, state[: PROBLEM.dim] - lr**2 / 0.05 * gradient)
    with pytest.raises(SmesolveError, match=r"lr=0\.11 is above 0\.1, from where on 1 - beta"):
        sme.weak_error(training, state, [0.11], 0.22)


@pytest.mark.parametrize(("factor", "words"), [(1e120, "overflow; divide"), (1e-160, "vanish; multiply")])
def test_observables_whose_powers_are_no_floats(factor, words):
    observables = {"g": lambda theta: factor * theta[..., 0]}
    with pytest.raises(SmesolveError, match=f"observable 'g' has values of size .* whose powers {words}"):
        sme.weak_error(PROBLEM, PROBLEM.initial(seed=0), [0.2], 0.2, observables=observables)


def test_all_but_the_first_four_arguments_have_their_names():
    with pytest.raises(TypeError, match="4 positional arguments"):
        sme.weak_error(PROBLEM, PROBLEM.initial(), [0.1], 0.2, (1,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lrs": []}, "lrs must .*at least one value"),
        ({"lrs": [0.3]}, "lr=0.3 does not divide horizon=0.4; take for example lr=0.2"),
        ({"lrs": [0.1, 0.1]}, "lrs holds a value twice"),
        ({"lrs": [100.0], "horizon": 100.0, "times": None}, "lr=100 is beyond the stability limit"),
        ({"horizon": -1.0}, "horizon must be a positive number"),
        ({"orders": [4]}, r"orders\[0\] must be 1, 2 or 3, or 'quadratic' or 'poisson', got 4; order 4 would take"),
        ({"orders": [True]}, "orders"),
        ({"orders": [1.0]}, "orders"),
        ({"orders": "12"}, "orders"),
        ({"orders": ["quadratic"]}, "orders"),
        ({"times": []}, "times"),
        ({"times": [0.4, 0.2]}, "times"),
        ({"times": [0.2]}, "times must increase from above 0 to the horizon"),
        ({"times": [0.25, 0.4]}, "lr=0.2 does not divide"),
        ({"dt": 0.15}, "dt=0.15 does not divide"),
        ({"control": "both"}, "control must be one of"),
        ({"scheme": "milstein"}, "scheme must be one of"),
        ({"workers": 0}, "workers"),
        ({"progress": 1}, "progress"),
        ({"journal": "blocks"}, "journal"),
        ({"keep": -1}, "keep"),
        ({"max_memory": 0.0}, "max_memory"),
        ({"observables": []}, "observables"),
        ({"observables": "loss"}, "observables must be a sequence"),
        ({"observables": ["los"]}, "observable must be one of loss, modified_loss"),
        ({"observables": ["theta[99]"]}, "outside the 6 parameters"),
        ({"observables": [lambda theta: theta]}, "must map theta"),
        ({"paths": 1}, "paths must be an integer of at least 2"),
        ({"rel_tol": 1.0}, "rel_tol must lie in"),
        ({"rel_tol": 0.1, "max_paths": 8}, "max_paths=8 is below paths=64"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_every_argument_is_refused_by_its_name_before_anything_is_computed(change, words, monkeypatch):
    monkeypatch.setattr("smesolve.comparison.weak_error.ErrorBudget", None)
    with pytest.raises(SmesolveError, match=words) as caught:
        sme.weak_error(PROBLEM, PROBLEM.initial(), **SMALL | change)
    assert "\n" not in str(caught.value)


def test_control_variates_in_the_draws_are_zero_where_a_problem_does_not_expand_in_them():
    problem = module_problem()
    theta0, functions = problem.initial(), {"loss": problem.loss}
    design = StudyDesign(problem, theta0, [0.1], [0.2], (1,), functions, "sampled_euler", control="first")
    process = DropoutIteration(problem, 0.1)
    totals, taken = torch.zeros(1, process.block_size, 1, 1).double(), process.advance_split(theta0, 0, 0)
    control = control_of(design, process, [2], 0.1, 0.1, None)
    control.add(totals, 0, taken)
    assert isinstance(control, DrawControlVariate) and totals.abs().min() > 0

    class Bare(sme.Problem):
        """A problem with the methods of the base class alone, whose mean gradient has no closed form."""

        has_closed_form = False
        reference_gradient, loss, modified_loss = problem.reference_gradient, problem.loss, problem.modified_loss
        gradient, mean_gradient, noise_product, draw = problem.gradient, None, None, problem.draw
        dim, draw_dim, dtype, device = problem.dim, problem.draw_dim, problem.dtype, problem.device

    bare = StudyDesign(Bare(), theta0, [0.1], [0.2], (1,), functions, "sampled_euler", control="first")
    totals = torch.zeros_like(totals)
    control_of(bare, process, [2], 0.1, 0.1, None).add(totals, 0, taken)
    assert (totals == 0).all()


def test_a_study_shows_what_was_measured():
    study = sme.weak_error(PROBLEM, PROBLEM.initial(1), **SMALL, orders=[1])
    with pytest.raises(ValueError, match="at must be"):
        study.fit(at="end")
    first, sentence, *rows = repr(study).splitlines()
    assert first.startswith("WeakErrorStudy: order 1, 2 learning rates from 0.1 to 0.2, 2 times up to 0.4, ")
    final = study.table[study.table.time == 0.4]
    assert sentence.startswith("At T = 0.4 and lr = 0.2, with 95% confidence, the mean loss under the SME of order 1 ")
    assert len(rows) == 1 + len(final) and all(
        f"{row.discrete:.4g}" in text and f"{row.error:.4g}" in text
        for row, text in zip(final.itertuples(), rows[1:], strict=True)
    )
    page = study._repr_html_()
    assert page.count("<tr") == 1 + len(final) and "WeakErrorStudy" in page


def test_a_study_can_be_pickled_with_its_observables():
    """Also with lambdas, which predicted constants need."""
    observables = {"a coordinate": "theta[1]", "a lambda": lambda theta: theta[..., 0].square(), "loss": "loss"}
    study = sme.weak_error(PROBLEM, PROBLEM.initial(seed=0), **SMALL, orders=[1], observables=observables)
    for again in (pickle.loads(pickle.dumps(study)), copy.deepcopy(study)):
        pd.testing.assert_frame_equal(again.table, study.table)
        pd.testing.assert_frame_equal(again.constants, study.constants)
        assert repr(again) == repr(study) and repr(again.fit()) == repr(study.fit())


def test_a_study_with_one_time_says_so():
    study = sme.weak_error(PROBLEM, PROBLEM.initial(seed=0), [0.2], 0.2, orders=[1], paths=8)
    assert study.summary().startswith("WeakErrorStudy: order 1, lr 0.2, the horizon only, 8 paths; ")


def test_a_figure_has_a_panel_for_each_observable_and_no_empty_one():
    names = ["loss", "squared_norm", "theta[0]"]
    study = sme.weak_error(PROBLEM, PROBLEM.initial(1), **SMALL, orders=[1], observables=names)
    shown = [axis.get_ylabel() for axis in study.plot().axes if axis.get_visible()]
    assert shown == [f"|error| of the mean {name}" for name in ("loss", "squared norm", "theta[0]")]


def test_a_figure_has_at_most_twelve_panels_and_says_so():
    problem = make_problem(width=5)
    names = [f"theta[{k}]" for k in range(13)]
    given = SMALL | {"control": "none", "orders": [1]}
    figure = sme.weak_error(problem, problem.initial(1), **given, observables=names).plot()
    assert [axis.get_ylabel().split()[-1] for axis in figure.axes if axis.get_visible()] == names[:12]
    assert figure.get_suptitle() == "the first 12 of 13 observables; the table has all of them"
    assert not sme.weak_error(problem, problem.initial(1), **given, observables=names[:2]).plot().get_suptitle()


def test_statuses_and_verdicts_are_the_words_of_the_tables():
    """So that a table that was written and read again gives the same statuses."""
    study = sme.weak_error(PROBLEM, PROBLEM.initial(1), **SMALL, orders=[1])
    for reason, resolved in zip(study.table.reason, study.table.resolved, strict=True):
        assert Status(reason).resolved == resolved
    assert all(Verdict(verdict) is Verdict.LOCAL_SLOPE for verdict in study.fit().verdict)
    assert pd.Series([Status.WITHIN_SOLVER_BIAS]).to_csv(index=False).splitlines()[1] == "inside the solver bias"


@pytest.mark.parametrize("value", ["", 0, np.array([None, 1], dtype=object), "milstein"])
def test_what_is_no_choice_is_refused_and_no_default(value):
    problem = make_problem(samples=3, width=2)
    for choose, name in ((chosen_scheme, "scheme"), (chosen_control, "control")):
        with pytest.raises(SmesolveError, match=f"^{name} must be one of"):
            choose(value, problem)
