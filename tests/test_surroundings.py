"""Commands without stdout, without stderr, on a terminal in ASCII, in a pipe that ends, without a home directory."""

import io
import os
import subprocess
import sys

import pytest
import yaml

from smesolve.sampling.progress import Progress
from smesolve.study.terminal import complain, printable, say

STUDY = {
    "data": {"name": "random", "samples": 4, "in_features": 2},
    "network": {"width": 2},
    "lrs": [0.2],
    "horizon": 0.2,
    "orders": [1],
    "observables": ["loss"],
    "control": "none",
    "paths": 8,
    "threads": 1,
}

PROGRAM = "import sys; from smesolve.study.command_line import main; sys.exit(main())"


class Ended(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, Ended()])
def test_lines_that_nobody_reads_are_dropped(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    say("results in \udce9")
    complain("interrupted")


def test_no_bar_is_shown_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    for shown in (True, None):
        with Progress(shown, 2.0) as bar:
            bar.describe("lr")
            bar.done(1.0, before=True)
            bar.detail("more")
            bar.add(1.0)
            bar.done(2.0)


def test_characters_that_a_terminal_does_not_have_are_escaped(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    say(f"results in {printable('r' + chr(0xDCE9) + 'sultats')} and é")
    say(printable("two\nlines"))
    assert content.getvalue() == b"results in r\\udce9sultats and \\xe9\ntwo\\nlines\n"


def shell(command, directory, **environment):
    """The exit codes of all parts of a pipe, and what is on stdout and stderr."""
    script = f"{command.replace('smesolve', f'{sys.executable} -c {PROGRAM!r}')}\necho codes ${{PIPESTATUS[@]}}"
    env = {name: value for name, value in os.environ.items() if name != "HOME"} | environment
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=directory, env=env)
    *lines, codes = done.stdout.splitlines()
    return [int(code) for code in codes.split()[1:]], lines, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_closed_streams_pipes_that_end_and_ascii(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    study = "smesolve weak-error study.yaml --out"
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "TMPDIR": "/nowhere"}
    codes, lines, error = shell(f"{study} résumé", tmp_path, **ascii_only)
    assert codes == [0] and lines == ["smesolve: results in r\\xe9sum\\xe9"] and "Traceback" not in error
    codes, lines, error = shell(f"{study} closed >&- 2>&- <&-", tmp_path)
    assert codes == [0] and (tmp_path / "closed" / "report.html").is_file()
    codes, _, error = shell("smesolve weak-error --help | head -c 1; true", tmp_path)
    assert "BrokenPipe" not in error and "Traceback" not in error
    assert sorted(os.listdir(tmp_path)) == ["closed", "résumé", "study.yaml"]
