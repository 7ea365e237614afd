"""What the operating system refuses ends every command with one sentence, whatever it is about."""

import errno
import os

import numpy as np
import pytest

from smesolve.experiments.shared.registry import commands, default_study, find_experiment
from smesolve.study.command_line import main

REFUSED = {
    errno.EACCES: "change its permissions",
    errno.ENOSPC: "make room on its disk",
    errno.EMFILE: "ulimit -n",
    errno.EAGAIN: "fewer workers",
    errno.EIO: "check its disk",
    errno.ENOENT: "correct that",
}
DATA = ["--data.name", "random", "--data.samples", "4", "--data.in_features", "2"]


def sentence(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("smesolve: ") and said.count("\n") == 1, said
    return said


def raising(*arguments):
    def run(*_, **__):
        raise OSError(*arguments)

    return run


@pytest.mark.parametrize("command", commands())
def test_an_error_of_the_system_is_one_sentence_of_every_command(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number, remedy in REFUSED.items():
        run = raising(number, os.strerror(number), "/elsewhere/font.ttf")
        kind = find_experiment(command, default_study(command))
        for method in ("cells", "dry_run"):
            monkeypatch.setattr(kind, method, run)
        data = [] if command in ("convergence", "derive", "reproduce") else DATA
        if number != errno.ENOSPC:  # which is about results, where these are to be written
            said = sentence(capsys, command, *data, "--out", "results")
            assert os.strerror(number) in said and "'/elsewhere/font.ttf'" in said and remedy in said
            assert said.endswith("nothing was written.\n") and not os.listdir(".")
        assert remedy in sentence(capsys, command, *data, "--dry-run")


@pytest.mark.parametrize("arguments", [(), ("no such\ndevice",), (None, None), (errno.EPIPE, "Broken pipe")])
def test_errors_without_a_number_or_a_file_are_said_as_well(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(find_experiment("derive"), "cells", raising(*arguments))
    assert "the operating system refuses" in sentence(capsys, "derive", "--out", "results")


def test_a_working_directory_that_vanishes_is_said(tmp_path, monkeypatch, capsys):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(experiment, directory):
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (directory / "report.md").write_text("# Report\n", encoding="utf-8")

    monkeypatch.setattr("smesolve.study.run.run", run)
    assert "nothing was written" in sentence(capsys, "derive", "--out", "results")


def test_data_that_may_not_be_read_say_so(tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "data.npz", x=np.ones((4, 2)), y=np.ones((4, 1)))
    (tmp_path / "folder.csv").mkdir()
    options = ["--network.width", "2", "--lrs", "[0.1]", "--horizon", "0.2", "--dry-run"]
    said = sentence(capsys, "weak-error", "--data.name", tmp_path / "folder.csv", *options)
    assert "cannot be read (Is a directory)" in said
    monkeypatch.setattr("zipfile.ZipFile", raising(errno.EACCES, os.strerror(errno.EACCES), "data.npz"))
    said = sentence(capsys, "weak-error", "--data.name", tmp_path / "data.npz", *options)
    assert "cannot be read (Permission denied); name a file that can be read." in said
