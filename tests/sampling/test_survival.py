"""Studies that are killed, interrupted, out of disk or extended: in the end the same bytes, and nothing lost."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml

from smesolve.study.command_line import main

STUDY = {
    "data": {"name": "random", "samples": 4, "in_features": 2},
    "network": {"width": 22},
    "lrs": [0.2, 0.1],
    "horizon": 0.4,
    "orders": [1],
    "paths": 3000,
    "control": "first",
    "threads": 1,
}

SERVER = """
import json, os, resource, signal, sys, time
from smesolve.sampling.journal import Journal
from smesolve.study.command_line import main
import smesolve.figures

put = Journal.put

def waits_for_ever(self, key, arrays):
    put(self, key, arrays)
    if os.path.getsize(self.path) > pause:
        open(f"{self.path}.paused", "w").close()
        while True:
            time.sleep(0.01)

for line in sys.stdin:
    argv, largest_file, pause = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
        if pause is not None:
            Journal.put = waits_for_ever
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        sys.exit(main(argv))
    print("began", pid, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Commands:
    """Runs commands in processes of their own, forked from one that has imported everything and done nothing."""

    def __init__(self, errors):
        self.errors = errors
        with open(errors, "w") as file:
            self.server = subprocess.Popen(
                [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )

    def start(self, *argv, largest_file=None, pause=None):
        """The process id of a command that has begun; it waits for ever once its journal has `pause` bytes."""
        self.server.stdin.write(json.dumps([[str(argument) for argument in argv], largest_file, pause]) + "\n")
        self.server.stdin.flush()
        return self.read("began")

    def read(self, word):
        found, number = self.server.stdout.readline().split()
        assert found == word
        return int(number)

    def end(self):
        """Exit code of the command; the last line that is no progress bar on stderr."""
        code = self.read("ended")
        message = [text for text in self.errors.read_text().splitlines() if text.startswith("smesolve: ")]
        return code, message[-1] if message else ""


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("commands") / "stderr")
    yield commands
    commands.server.communicate()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(commands, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "results"
    start = time.monotonic()
    commands.start("weak-error", config, "--out", out)
    assert commands.end()[0] == 0
    return out, time.monotonic() - start


def assert_same(out, other):
    for name in ("table.csv", "fit.csv", "report.md"):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name
    assert not out.with_name(f"{out.name}.partial").exists()


def wait_for_pause(process, out):
    """As long as it takes, on however busy a machine."""
    flag = out.with_name(f"{out.name}.partial") / "blocks.journal.paused"
    while not flag.exists():
        os.kill(process, 0)  # it is alive
        time.sleep(0.01)
    flag.unlink()


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bytes(
    commands, config, undisturbed, tmp_path, kills
):
    whole, duration = undisturbed
    random, killed, study = np.random.default_rng(kills), 0, 0
    while killed < kills:
        out = tmp_path / f"results{study}"
        workers = ["--workers", "2"] if kills > 3 and killed % 4 == 0 else []  # each part of a study may have others
        process = commands.start("weak-error", config, "--out", out, "--resume", *workers)
        time.sleep(random.uniform(0, duration / 2))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        code, _ = commands.end()
        assert code in (0, -signal.SIGKILL)
        if code == 0:  # it was faster
            assert_same(out, whole)
            study += 1
        killed += code == -signal.SIGKILL
    commands.start("weak-error", config, "--out", out, "--resume")
    assert commands.end()[0] == 0
    assert_same(out, whole)
    commands.start("weak-error", config, "--out", out, "--resume")
    assert commands.end()[0] == 0, "nothing is left to do"
    assert_same(out, whole)


def test_ctrl_c_leaves_a_partial_table_and_resume_goes_on(commands, config, undisturbed, tmp_path, capsys):
    out = tmp_path / "results"
    process = commands.start("weak-error", config, "--out", out, pause=20_000)
    wait_for_pause(process, out)
    # a second process on the folder is refused while the first is alive
    assert main(["weak-error", str(config), "--out", str(out), "--resume"]) == 2
    assert "results.partial' is in use by another process" in capsys.readouterr().err
    os.kill(process, signal.SIGINT)
    code, message = commands.end()
    assert code == 130
    assert "interrupted; " in message and "not final" in message and "--resume" in message
    assert not out.exists()
    partial = tmp_path / "results.partial"
    assert {path.name for path in partial.iterdir()} - {".lock"} == {"blocks.journal", "table.partial.csv"}
    table = pd.read_csv(partial / "table.partial.csv")
    assert len(table) and "final" in table
    # without --resume it is refused, and so is another study
    for options, fragment in (
        ([], "holds an interrupted study; go on with it by --resume"),
        (["--resume", "--seed", "1"], "its config.seed is 0, but 1 is asked for"),
    ):
        assert main(["weak-error", str(config), "--out", str(out), *options]) == 2
        assert fragment in capsys.readouterr().err
    commands.start("weak-error", config, "--out", out, "--resume")
    assert commands.end()[0] == 0
    assert_same(out, undisturbed[0])


@pytest.mark.slow
def test_a_full_disk_costs_nothing_but_time(commands, config, undisturbed, tmp_path):
    out = tmp_path / "results"
    commands.start("weak-error", config, "--out", out, largest_file=30_000)
    code, message = commands.end()
    assert code == 1
    assert "cannot be written (File too large)" in message and "--resume" in message
    commands.start("weak-error", config, "--out", out, "--resume")
    assert commands.end()[0] == 0
    assert_same(out, undisturbed[0])


def test_other_versions_other_data_and_damage_are_refused(commands, tmp_path, capsys, monkeypatch):
    x = np.linspace(0, 1, 8).reshape(4, 2)
    np.savez(tmp_path / "data.npz", x=x, y=x[:, :1])
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(STUDY | {"data": {"name": str(tmp_path / "data.npz")}, "paths": 500}))
    out = tmp_path / "results"
    assert main(["weak-error", str(config), "--out", str(out)]) == 0
    out.rename(tmp_path / "results.partial")
    capsys.readouterr()

    def refused(fragment):
        assert main(["weak-error", str(config), "--out", str(out), "--resume"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and fragment in error, error

    with monkeypatch.context() as other:
        other.setattr("smesolve.study.run.__version__", "99")
        refused("its version is")
    np.savez(tmp_path / "data.npz", x=x + 1, y=x[:, :1])
    refused("its data is")
    np.savez(tmp_path / "data.npz", x=x, y=x[:, :1])
    journal = tmp_path / "results.partial" / "blocks.journal"
    content = bytearray(journal.read_bytes())
    content[len(content) // 2] ^= 1
    journal.write_bytes(content)
    refused("damaged at byte")
    content[len(content) // 2] ^= 1
    journal.write_bytes(content)
    assert main(["weak-error", str(config), "--out", str(out), "--resume"]) == 0


def test_extend_adds_paths_and_repeats_nothing(commands, config, undisturbed, tmp_path, capsys):
    out = tmp_path / "results"
    commands.start("weak-error", config, "--out", out, "--paths", 1500)
    assert commands.end()[0] == 0
    few = (out / "blocks.journal").stat().st_size
    process = commands.start("extend", out, "--paths", 3000, pause=few)
    wait_for_pause(process, out)
    assert pd.read_csv(out / "table.csv").paths.max() < 2000, "the old results stay until the new ones are whole"
    os.kill(process, signal.SIGKILL)
    commands.end()
    commands.start("extend", out, "--paths", 3000, "--resume")
    assert commands.end()[0] == 0
    assert_same(out, undisturbed[0])
    # as many blocks as from the start
    assert (out / "blocks.journal").stat().st_size == (undisturbed[0] / "blocks.journal").stat().st_size
    for arguments, fragment in (
        ([out, "--paths", "3000"], "--paths 3000 is not more than the 3000 of"),
        ([out], "--paths is missing"),
        ([tmp_path, "--paths", "9000"], "has no manifest.json"),
    ):
        assert main(["extend", *map(str, arguments)]) == 2
        assert fragment in capsys.readouterr().err
    assert main(["extend", str(out), "--paths", "3000", "--resume"]) == 0
