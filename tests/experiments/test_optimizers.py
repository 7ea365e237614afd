"""Optimisers of configurations: the training that they name, its start, the words of reports, and what is refused."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_config import refused, write_config

import smesolve as sme
from smesolve.comparison.study_design import StudyDesign
from smesolve.experiments.scaling.acceleration import AccelerationSettings, Accelerator
from smesolve.experiments.shared.optimizer_settings import OPTIMIZERS
from smesolve.experiments.shared.settings import DataSettings, NetworkSettings, TrainingSettings
from smesolve.experiments.shared.weak_error_experiment import WeakErrorSettings
from smesolve.experiments.validity import Validity, ValiditySettings
from smesolve.experiments.weak_error import WeakError
from smesolve.study.command_line import main

RANDOM = {"data": DataSettings("random", samples=4, in_features=2), "network": NetworkSettings(width=3, seed=5)}
ADAM = {"optimizer": "adam", "betas": [0.9, 0.95], "warm": 40, "lr": 0.02}
CHOICES = [
    (torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.SGD, {"momentum": 0.8, "dampening": 0.5}),
    (torch.optim.Adam, {"betas": [0.5, 0.9], "eps": 1e-4, "weight_decay": 0.1}),
    (torch.optim.AdamW, {}),
    (torch.optim.NAdam, {"momentum_decay": 0.1, "decoupled_weight_decay": True, "weight_decay": 0.2}),
    (torch.optim.RMSprop, {"alpha": 0.9, "centered": True, "momentum": 0.5}),
]


@pytest.mark.parametrize(("optimizer", "options"), CHOICES)
def test_steps_of_a_configuration_are_those_of_torch(optimizer, options, monkeypatch):
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)  # torch keeps a product of NAdam in it
    training = TrainingSettings(optimizer=optimizer.__name__.lower(), warm=2, lr=0.05, **options)
    study = WeakError(WeakErrorSettings(**RANDOM, training=training))
    trained = study.trained
    parameter = torch.nn.Parameter(trained.initial(5).clone())
    other, state = optimizer([parameter], lr=0.05, **options), study.problem.initial(5)
    for step in range(5):
        draw = trained.sample(1, seed=1, step=step)[0]
        parameter.grad = trained.gradient(parameter.detach(), draw)
        other.step()
        state = study.problem.step(state, draw, 0.05)
        assert torch.allclose(study.problem.parameters(state), parameter.detach(), rtol=1e-10, atol=1e-12)
    assert torch.equal(study.theta0, study.problem.warm(study.problem.initial(5), 2, seed=5))


def test_every_option_of_torch_is_a_key_or_is_left_out_knowingly():
    left_out = {"params", "lr", "foreach", "maximize", "differentiable", "fused", "capturable", "amsgrad"}
    for name, cls in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop)):
        # torch 2.4 leaves some of them without an annotation.
        options = set(inspect.signature(cls).parameters) - left_out - {"decoupled_weight_decay"}
        assert options == set(OPTIMIZERS[name])


def test_all_commands_with_a_training_take_the_optimizer():
    training = TrainingSettings(**ADAM)
    for study in (
        WeakError(WeakErrorSettings(**RANDOM, training=training)),
        Validity(ValiditySettings(**RANDOM, training=training)),
        Accelerator(AccelerationSettings(**RANDOM, training=training)),
    ):
        assert isinstance(study.problem, sme.Training) and study.problem.lr == 0.02
        assert torch.equal(study.theta0, study.problem.warm(study.problem.initial(5), 40, seed=5))
        assert study.theta0[study.problem.trained.dim :].any()


def test_betas_hold_at_the_largest_learning_rate_where_none_is_given():
    settings = WeakErrorSettings(**RANDOM, lrs=[0.01, 0.04, 0.02], training=TrainingSettings(momentum=0.9))
    assert WeakError(settings).problem.lr == 0.04
    with pytest.raises(sme.SmesolveError, match=r"training\.lr is missing: .* give it, such as"):
        _ = Validity(ValiditySettings(**RANDOM, training=TrainingSettings(momentum=0.9))).problem


def test_plain_descent_stays_the_problem_itself_and_may_start_later():
    for training in (TrainingSettings(), TrainingSettings(momentum=0.0, lr=0.1)):
        study = WeakError(WeakErrorSettings(**RANDOM, training=training))
        assert study.problem is study.trained and study.problem.linear_step
        assert torch.equal(study.theta0, study.trained.initial(5))
    later = WeakError(WeakErrorSettings(**RANDOM, training=TrainingSettings(warm=3, lr=0.1)))
    descent = sme.Training(later.trained, torch.optim.SGD, lr=0.1)
    assert torch.equal(later.theta0, descent.warm(later.trained.initial(5), 3, seed=5))
    assert later.problem is later.trained


def test_weight_decay_belongs_to_the_optimizer_where_it_has_a_state():
    plain = WeakError(WeakErrorSettings(**RANDOM, training=TrainingSettings(weight_decay=0.3))).problem
    assert plain.weight_decay == 0.3
    heavy = WeakError(WeakErrorSettings(**RANDOM, training=TrainingSettings(weight_decay=0.3, momentum=0.9))).problem
    assert isinstance(heavy.trained, sme.DropoutProblem) and heavy.has_closed_form
    assert heavy.options["weight_decay"] == 0.3
    decoupled = WeakError(WeakErrorSettings(**RANDOM, training=TrainingSettings("adamw", warm=1))).problem
    assert decoupled.options["weight_decay"] == 0.01  # the default of torch


REFUSED = [
    ({"betas": [0.9, 0.99]}, r"training\.betas is an option of adam and adamw and nadam, got .*sgd"),
    ({"optimizer": "adam", "momentum": 0.9}, r"training\.momentum is an option of sgd and rmsprop"),
    ({"optimizer": "adamw", "alpha": 0.9}, r"training\.alpha is an option of rmsprop"),
    ({"optimizer": "rmsprop", "nesterov": True}, r"training\.nesterov is an option of sgd"),
    ({"optimizer": "adam", "betas": [0.9]}, r"training\.betas must hold two numbers"),
    ({"optimizer": "adam", "betas": [0.9, 1.0]}, r"training\.betas.* must lie in \[0, 1\)"),
    ({"optimizer": "adagrad"}, r"training\.optimizer must be one of 'sgd', 'adam'"),
    ({"nesterov": True}, r"training\.nesterov needs training\.momentum"),
    ({"dampening": 0.5, "momentum": 0.0}, r"training\.dampening needs training\.momentum"),
    ({"dampening": 0.5, "momentum": 0.5, "nesterov": True}, r"training\.nesterov takes no training\.dampening"),
    ({"lr": 0.1}, r"training\.lr is the learning rate at which momentum or betas hold"),
    ({"warm": -1}, r"training\.warm must be"),
    ({"momentum": 0.9, "batch_size": 2, "shuffle": True}, r"training\.shuffle is for sgd without momentum"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED)
def test_keys_that_do_not_belong_together_are_refused(keys, message):
    with pytest.raises(sme.SmesolveError, match=message):
        TrainingSettings(**keys)


@pytest.mark.parametrize(
    ("keys", "steps"),
    [
        ({"optimizer": "adam"}, 3000),
        ({"optimizer": "nadam", "betas": [0.9, 0.99]}, 300),
        ({"optimizer": "rmsprop"}, 300),
        ({"momentum": 0.9, "dampening": 0.1}, 1),
    ],
)
def test_a_cold_start_is_refused_on_the_command_line_with_the_steps_of_a_warm_one(tmp_path, capsys, keys, steps):
    config = write_config(tmp_path, training=keys)
    for command in ("weak-error", "compare"):
        refused(capsys, [command, config, "--out", tmp_path / "out"], "training.warm must be", f"such as {steps}.")
    assert not (tmp_path / "out").exists()


def test_a_study_by_adam_from_the_command_line(tmp_path, capsys):
    config = write_config(tmp_path, network={"width": 3}, horizon=0.02, orders=[1], paths=8, max_paths=8, training=ADAM)
    text = Path(config).read_text().replace("lrs: [0.2, 0.1]", "").replace("lrs:\n- 0.2\n- 0.1\n", "")
    Path(config).write_text(text)
    out = tmp_path / "out"
    arguments = ["validity", config, "--out", str(out)]
    assert main([*arguments, "--dry-run"]) == 0
    assert "Optimiser Adam with betas 0.9 and 0.95, eps 1e-08 at lr 0.02" in capsys.readouterr().out
    assert main(arguments) == 0
    report = (out / "report.md").read_text()
    assert "state of 29 numbers holds the parameters and exp_avg and exp_avg_sq of each" in report
    assert "one discrete run of 40 steps at lr 0.02" in report
    assert "where an eigenvalue of the mean step's Jacobian leaves the unit circle" in report
    assert main([*arguments, "--resume"]) == 0  # nothing is left to do
    assert "were finished before" in capsys.readouterr().out
    refused(capsys, [*arguments, "--resume", "--training.betas", "[0.9, 0.99]"], "another study", "training.betas")
    assert sme.load(out).settings["training"]["betas"] == [0.9, 0.95]


def test_observables_of_a_design_are_taken_again_as_functions_of_the_parameters():
    problem = sme.DropoutProblem(sme.LinearNetwork(2), np.eye(2), np.ones((2, 1)), keep_prob=0.5)
    training = sme.Training(problem, torch.optim.SGD, lr=0.1, momentum=0.9)
    start = training.initial()
    design = StudyDesign.of(
        training, start, [0.1], 0.2, orders=[1], observables=["loss", "theta[1]"], scheme="euler", control="none"
    )
    again = StudyDesign.of(
        training, start, [0.1], 0.2, orders=[1], observables=design.observables, scheme="euler", control="none"
    )
    assert again.start == design.start == {"loss": float(problem.loss(start[:2])), "theta[1]": float(start[1])}
