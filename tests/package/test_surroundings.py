"""Commands without stdout, without stderr, on a terminal in ASCII, in a pipe that ends, without a home directory."""

import io
import os
import subprocess
import sys

import pytest
import yaml
from small_study import STUDY

from smesolve.experiments.shared.markdown import printable
from smesolve.sampling.progress import Progress
from smesolve.study.terminal import complain, say

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


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_closed_streams_and_no_home(directory):
    codes, _, _ = shell("smesolve weak-error study.yaml --out closed >&- 2>&- <&-", directory)
    assert codes == [0] and (directory / "closed" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="shell")
def test_ascii_and_pipes_that_end(directory):
    ascii_only = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "TMPDIR": "/nowhere"}
    codes, lines, error = shell("smesolve weak-error study.yaml --out résumé", directory, **ascii_only)
    assert codes == [0] and lines == ["smesolve: results in r\\xe9sum\\xe9"] and "Traceback" not in error
    for pipe in ("2>&1 | head -c 1", "> /dev/full"):
        codes, _, error = shell(f"smesolve weak-error study.yaml --out piped --overwrite {pipe}", directory)
        assert codes[0] == 0 and "BrokenPipe" not in error and "Traceback" not in error
    codes, _, error = shell("smesolve weak-error --help | head -c 1", directory)
    assert codes == [0, 0] and not error
