"""Every command and study with its defaults: its dry run says what it takes, or one sentence says what it needs."""

import pytest

from smesolve.experiments.shared.registry import commands, studies
from smesolve.study.command_line import main

ALL = [(command, study) for command in commands() for study in studies(command) or [""]]

NEEDS_A_SMALL_READOUT = [("scaling", study) for study in ("horizon", "kappa", "map", "schedule")]
"""Studies beside exact moments, which images of ten classes have too many weights for."""

REMEDY = ["--network.width", "4", "--data.name", "random", "--data.samples", "8", "--data.in_features", "2"]
"""The one that the sentence names."""


def dry_run(command, study, options, capsys):
    code = main([command, *(["--study", study] if study else []), *options, "--dry-run"])
    return code, capsys.readouterr()


@pytest.mark.parametrize(("command", "study"), NEEDS_A_SMALL_READOUT)
def test_what_a_study_needs_is_said_at_once(command, study, capsys):
    code, said = dry_run(command, study, [], capsys)
    assert code == 2 and not said.out and said.err.count("\n") == 1
    assert said.err.startswith("smesolve: network.width=32 with 10 outputs of the data makes a readout of 320 weights")
    assert " ".join(REMEDY) in said.err


@pytest.mark.slow
@pytest.mark.parametrize(("command", "study"), ALL)
def test_defaults_have_a_dry_run(command, study, capsys):
    options = REMEDY if (command, study) in NEEDS_A_SMALL_READOUT else []
    code, said = dry_run(command, study, options, capsys)
    assert code == 0, said.err
    assert " time: " in said.out and "memory:" in said.out and not said.err
