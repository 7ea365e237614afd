"""Experiments are found by their files, and each says what a user needs to know of it."""

import dataclasses
import re
from pathlib import Path

import pytest

import smesolve.experiments
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.registry import commands, default_study, find_experiment, studies, summary
from smesolve.study.command_line import main
from smesolve.study.configuration_types import known_keys

FOLDER = Path(smesolve.experiments.__path__[0])
ALL = [(command, study) for command in commands() for study in studies(command) or [""]]


def test_the_experiments_are_those_of_the_files():
    names = {"compare", "convergence", "derive", "landscape", "reproduce", "scaling", "validity", "weak-error"}
    assert {command for command, _ in ALL} == names
    found = ["acceleration", "horizon", "kappa", "map", "rule", "schedule", "shuffle", "small-keep-prob", "width"]
    assert studies("scaling") == found
    assert studies("reproduce") == ["barriers", "orientations", "penalties", "recovery"]
    assert default_study("scaling") == "map" and default_study("compare") == ""


@pytest.mark.parametrize(("command", "study"), ALL)
def test_an_experiment_is_registered_under_the_name_of_its_file(command, study):
    kind = find_experiment(command, study)
    assert (kind.command, kind.study) == (command, study)
    file = FOLDER.joinpath(*(part.replace("-", "_") for part in (command, study) if part)).with_suffix(".py")
    assert file.is_file() and len(summary(command, study)) > 20
    assert kind.title and kind.example and issubclass(kind.Settings, object) and dataclasses.is_dataclass(kind.Settings)
    kind.Settings()  # the defaults are a study


@pytest.mark.parametrize(("command", "study"), ALL)
def test_the_help_explains_every_key(command, study, capsys):
    with pytest.raises(SystemExit):
        main([command, *(["--study", study] if study else []), "--help"])
    text = " ".join(capsys.readouterr().out.split()).partition("options: ")[2]
    for key, hint in known_keys(find_experiment(command, study).Settings).items():
        if not dataclasses.is_dataclass(hint):
            option = re.search(rf"--{re.escape(key)}\b.*?\((?:required, )?type: [^)]*\)", text)
            assert option and len(option[0].split("(type")[0].split()) > 2, f"{key} is not explained"


@pytest.mark.parametrize(
    ("command", "study", "words"),
    [
        (
            "scaling",
            "",
            "study must be one of acceleration, horizon, kappa, map, rule, schedule, shuffle, small-keep-prob, width",
        ),
        ("scaling", "kapa", "did you mean 'kappa'"),
        ("weak-eror", "", "did you mean 'weak-error'"),
    ],
)
def test_an_unknown_experiment_is_refused_with_the_nearest_name(command, study, words):
    with pytest.raises(SmesolveError, match=words):
        find_experiment(command, study)
