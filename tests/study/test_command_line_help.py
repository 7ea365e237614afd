"""What the command line teaches: help, completion, a configuration to start from, nearest names, the dry run."""

import dataclasses
import re
import shutil
import subprocess

import pandas as pd
import pytest
import yaml

from smesolve.experiments.shared.registry import commands
from smesolve.study.command_line import main
from smesolve.study.command_parser import keys_of, known_commands
from smesolve.study.configuration_types import known_keys

DATA = ["--data.name", "random", "--data.samples", "4", "--data.in_features", "2"]
RANDOM = [*DATA, "--network.width", "3"]
COMMANDS = known_commands()
STUDY_OF = {"scaling": "map", "reproduce": "orientations"}
SMALL = ["--lrs", "[0.2]", "--horizon", "0.4", "--paths", "8", "--threads", "1"]


def said(capsys, *arguments):
    """What a command prints that ends the process, as --help does."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_help_names_every_command_with_worked_examples(capsys):
    text = said(capsys, "--help")
    for name in COMMANDS:
        assert re.search(rf"^    {name} +\w", text, flags=re.MULTILINE)
    assert text.count("smesolve weak-error study.yaml") == 2 and "smesolve compare examples/digits.yaml" in text
    assert "--print_completion bash" in text and "--print_config=comments" in text


@pytest.mark.parametrize("name", [*commands(), "extend"])
def test_the_help_of_a_command_has_an_example_what_it_writes_and_every_key(name, capsys):
    text = " ".join(said(capsys, name, "--help").split())
    assert f"example: smesolve {name} " in text and "writes: " in text
    text = text.partition("options: ")[2]
    for key, hint in known_keys(keys_of(name, STUDY_OF.get(name, "")).settings).items():
        if not dataclasses.is_dataclass(hint):
            option = re.search(rf"--{re.escape(key)}\b.*?\((?:required, )?type: [^)]*\)", text)
            assert option and "default" in option[0], key
            assert len(option[0].split("(type")[0].split()) > 2, f"{key} is not explained"


@pytest.mark.parametrize("name", commands())
def test_nested_and_plain_keys_are_refused_with_the_nearest_name(name, tmp_path, capsys):
    keys = [
        key
        for key, hint in known_keys(keys_of(name, STUDY_OF.get(name, "")).settings).items()
        if not dataclasses.is_dataclass(hint)
    ]
    nested = [key for key in keys if "." in key]
    for key in [keys[-1], *nested[:1], *nested[-1:]]:
        wrong = f"{key}x"
        assert main([name, f"--{wrong}", "1", "--out", str(tmp_path / "out")]) == 2
        assert f"key {wrong!r} is unknown; did you mean {key!r}" in capsys.readouterr().err
        content = {wrong: 1} if "." not in wrong else {wrong.split(".")[0]: {wrong.split(".")[1]: 1}}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        assert main([name, str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 2
        assert f"did you mean {key!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"training": {"keep_prob": 0.5}}, "key 'training.keep_prob' is unknown; did you mean 'keep_prob'."),
        ({"training": {"p": 0.5}}, "key 'training.p' is unknown; did you mean 'keep_prob', which is 1 - p."),
        ({"network": {"batch_size": 2}}, "key 'network.batch_size' is unknown; did you mean 'training.batch_size'."),
        ({"width": 2}, "key 'width' is unknown; did you mean 'network.width'."),
        ({"data": {"sample": 2}}, "key 'data.sample' is unknown; did you mean 'data.samples'."),
    ],
)
def test_a_key_in_another_mapping_is_found_where_it_belongs(content, words, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert main(["weak-error", str(tmp_path / "study.yaml"), "--dry-run"]) == 2
    assert capsys.readouterr().err == f"smesolve: {words}\n"


def test_known_keys_are_listed_once(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text("qqqqqq: 1", encoding="utf-8")
    assert main(["weak-error", str(tmp_path / "study.yaml"), "--dry-run"]) == 2
    names = capsys.readouterr().err.partition("known are ")[2].rstrip(".\n").split(", ")
    assert len(names) == len(set(names)) > 10


def test_the_help_of_sweep_has_an_example_and_its_options(capsys):
    text = " ".join(said(capsys, "sweep", "--help").split())
    assert "example: smesolve sweep " in text and "writes: " in text and "keep_prob: [0.8, 0.5]" in text
    for option in ("--out", "--shard", "--resume", "--dry-run"):
        assert option in text.partition("options: ")[2]


def test_a_key_that_is_near_none_is_answered_by_the_keys_without_those_inside_them(capsys):
    assert main(["landscape", "--qqqq", "1"]) == 2
    error = capsys.readouterr().err
    assert "key 'qqqq' is unknown; known are data, network, " in error and "data." not in error


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("option", [["--print_completion={}"], ["--print_completion", "{}"]])
def test_completion_scripts_know_commands_and_keys(shell, option, tmp_path, capsys):
    script = said(capsys, *(part.format(shell) for part in option))
    for word in (*COMMANDS, "--keep_prob", "--network.width", "--dry-run"):
        assert word in script
    if shutil.which(shell):
        path = tmp_path / "completion"
        path.write_text(script, encoding="utf-8")
        subprocess.run([shell, "-n", path], check=True)


COMPLETED = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={position} COMP_LINE="{words}" COMP_POINT=${{#COMP_LINE}}
_shtab_smesolve
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("smesolve com", "compare"),
        ("smesolve scaling --toler", "--tolerance"),
        ("smesolve weak-error stu", "study.yaml"),
        ("smesolve weak-error --paths 5 stu", "study.yaml"),
        ("smesolve weak-error --config stu", "study.yaml"),
        ("smesolve weak-error --out res", "results"),
        ("smesolve extend res", "results"),
        ("smesolve sweep stu", "study.yaml"),
        ("smesolve sweep --sh", "--shard"),
    ],
)
def test_the_shell_completes_commands_keys_and_paths(words, found, tmp_path, capsys):
    (tmp_path / "study.yaml").touch()
    (tmp_path / "results").mkdir()
    (tmp_path / "script").write_text(said(capsys, "--print_completion", "bash"), encoding="utf-8")
    lines = COMPLETED.format(script=tmp_path / "script", words=words, position=len(words.split()) - 1)
    done = subprocess.run(["bash", "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == found


@pytest.mark.parametrize("shell", ["fish", ""])
def test_an_unknown_shell_is_refused(shell, capsys):
    assert main(["--print_completion", shell]) == 2
    assert capsys.readouterr().err == f"smesolve: --print_completion must be one of bash, zsh, got {shell!r}.\n"


@pytest.mark.parametrize("flags", ["--print_config", "--print_config=comments"])
def test_a_printed_configuration_runs_as_it_is(flags, tmp_path, capsys):
    # 66 parameters: just too many for the predicted constant of order 2, which takes longer than all the rest
    study = [*DATA, "--network.width", "22", *SMALL]
    text = said(capsys, "compare", *study, flags)
    assert ("# probability that a neuron is kept" in text) == flags.endswith("comments")
    config = tmp_path / "study.yaml"
    config.write_text(text, encoding="utf-8")
    assert main(["compare", str(config), "--out", str(tmp_path / "printed")]) == 0
    assert main(["compare", *study, "--out", str(tmp_path / "asked")]) == 0
    tables = [pd.read_csv(tmp_path / name / "table.csv") for name in ("printed", "asked")]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("name", commands())
def test_every_printed_configuration_is_read_again(name, tmp_path, capsys):
    others = {"convergence": [], "derive": [], "reproduce": [], "landscape": [*RANDOM, "--alignment.eigenpairs", "2"]}
    options = others.get(name, RANDOM)
    config = tmp_path / "study.yaml"
    config.write_text(said(capsys, name, *options, "--print_config=comments"), encoding="utf-8")
    assert main([name, str(config), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith(f"smesolve: dry run of {name}, nothing is written\n")


STUDIES = {
    "compare": [*RANDOM, *SMALL],
    "weak-error": [*RANDOM, *SMALL, "--workers", "2"],
    "landscape": [*RANDOM, "--steps", "4", "--runs", "2", "--alignment.eigenpairs", "2"],
    "convergence": ["--paths", "8"],
    "derive": ["--width", "1"],
    "scaling map": [*RANDOM, "--paths", "8", "--keep_probs", "[0.8]", "--multiples", "[0.1]"],
    "scaling kappa": [*RANDOM, "--lrs", "[0.2]", "--horizon", "0.4", "--paths", "8", "--kappas", "[1, 2]"],
    "scaling schedule": [*RANDOM, "--lrs", "[0.2, 0.1]", "--horizon", "0.4", "--paths", "8"],
    "scaling horizon": [*RANDOM, "--lrs", "[0.2]", "--times", "[0.4]", "--paths", "8"],
    "scaling small-keep-prob": [*RANDOM, "--paths", "8", "--keep_probs", "[0.8]"],
    "scaling width": [*DATA, "--lrs", "[0.2]", "--horizon", "0.4", "--paths", "8", "--widths", "[2, 4]"],
    "scaling rule": [*RANDOM, "--lrs", "[0.1]", "--horizon", "0.4", "--paths", "8", "--kappas", "[2]"],
    "scaling shuffle": [*RANDOM, "--training.batch_size", "2", "--lrs", "[0.1]", "--horizon", "0.2", "--paths", "8"],
    "reproduce orientations": ["--width", "3", "--steps", "4", "--runs", "2"],
    "reproduce recovery": ["--width", "3", "--steps", "4", "--runs", "2", "--samples", "[3]"],
    "reproduce barriers": [*RANDOM, "--steps", "4", "--runs", "2"],
    "scaling acceleration": [*RANDOM, "--lrs", "[0.1]", "--horizon", "0.4", "--paths", "8", "--factors", "[2]"],
}


@pytest.mark.parametrize("study", STUDIES)
def test_a_dry_run_says_what_a_study_takes_and_writes_nothing(study, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *which = study.split()
    options = [*STUDIES[study], *(["--study", *which] if which else [])]
    assert main([name, *options, "--dry-run", "--out", "results"]) == 0
    assert not list(tmp_path.iterdir())
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"smesolve: dry run of {name}, nothing is written"
    fields = dict(line.strip().split(":", 1) for line in lines)
    assert list(fields) == ["problem", "cells", "D", "M", "steps", "paths", "time", "memory"]
    dims = {"convergence": 1, "derive": 2, "scaling width": 12, "reproduce orientations": 10, "reproduce recovery": 10}
    dim = dims.get(study, 9)  # of the widest network
    assert int(fields["D"]) == dim and int(fields["M"]) >= (study != "scaling shuffle")  # whose epochs have no noise
    assert "start and report" in fields["time"]
    assert re.search(r"[\d.e+-]+ s\b", fields["time"]) and re.search(r"about [\d,]+ MiB", fields["memory"])
    if name == "compare":
        assert fields["steps"].strip() == "2 at lr 0.2" and fields["paths"].strip().startswith("8 of each ensemble")
        assert "iteration" in fields["time"] and "order 1" in fields["time"] and "order 2" in fields["time"]


def test_a_dry_run_refuses_what_the_study_would_refuse(tmp_path, capsys):
    assert main(["compare", *RANDOM, "--lrs", "[0.3]", "--horizon", "1.0", "--dry-run"]) == 2
    assert "lr=0.3 does not divide horizon=1" in capsys.readouterr().err
    for options, words in (
        (["--lrs", "[0.2]", "--horizon", "0.4", "--observables", "[weight]"], "observable must be one of loss"),
        (["--lrs", "[0.2]", "--horizon", "0.4", "--dt", "0.15"], "dt=0.15 does not divide times[0]"),
        (["--lrs", "[1000.0]", "--horizon", "1000.0"], "beyond the stability limit"),
    ):
        assert main(["weak-error", *RANDOM, *options, "--paths", "8", "--dry-run"]) == 2
        assert words in capsys.readouterr().err
    assert main(["landscape", *RANDOM, "--sections", "[alignement]", "--dry-run"]) == 2
    assert "did you mean 'alignment'" in capsys.readouterr().err


def test_a_dry_run_of_extend_says_what_the_study_takes_and_changes_nothing(tmp_path, capsys):
    out = tmp_path / "results"
    assert main(["weak-error", *RANDOM, *SMALL, "--out", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert main(["extend", str(out), "--paths", "1234", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "nothing is written" in told and "1234 of each ensemble" in told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_prose_of_the_help_fits_a_narrow_terminal(capsys, monkeypatch):
    """Examples, which are copied, stay on their lines."""
    monkeypatch.setenv("COLUMNS", "60")
    usage, *lines = said(capsys, "--help").splitlines()
    prose = [line for line in lines if not line.startswith(" ")]
    assert usage.startswith("usage: smesolve COMMAND") and len(prose) > 10 and max(map(len, prose)) <= 60
    assert "    smesolve compare examples/digits.yaml --paths 512 --out results/digits" in lines
