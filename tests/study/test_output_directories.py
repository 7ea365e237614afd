"""What a command does to its output directory: whole results or none, and never what others wrote."""

import subprocess
import sys

from tiny_config import refused

from smesolve.study import command_line
from smesolve.study.command_line import main


def test_an_output_directory_with_content_is_refused_and_kept(config, out, capsys):
    out.mkdir()
    (out / "thesis.txt").write_text("years of work", encoding="utf-8")
    refused(capsys, ["compare", config, "--out", out], "--out", "not empty", "--overwrite")
    refused(capsys, ["compare", config, "--out", out, "--overwrite"], "not written by smesolve")
    assert (out / "thesis.txt").read_text(encoding="utf-8") == "years of work"
    refused(capsys, ["compare", config, "--out", out / "thesis.txt"], "is a file")


def test_overwrite_replaces_results_whole_and_nothing_else(config, out):
    assert main(["compare", config, "--out", str(out)]) == 0
    (out / "notes.txt").write_text("of the first run", encoding="utf-8")
    assert main(["weak-error", config, "--out", str(out), "--overwrite"]) == 0
    assert (out / "fit.csv").is_file()
    assert (out / "notes.txt").is_file() and not (out / "comparison.png").exists()


def test_interruption_leaves_nothing(config, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("smesolve.experiments.shared.weak_error_experiment.weak_error", interrupted)
    assert main(["compare", config, "--out", str(tmp_path / "new" / "results")]) == 130
    assert capsys.readouterr().err == "smesolve: interrupted; nothing was written.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


def test_the_end_by_a_batch_system_leaves_nothing(config, out):
    program = [sys.executable, "-c", "import sys; from smesolve.study.command_line import main; sys.exit(main())"]
    process = subprocess.Popen(
        [*program, "compare", config, "--out", str(out), "--horizon", "1000"], stderr=subprocess.PIPE, text=True
    )
    # The first progress bar is there, so the work has begun.
    assert process.stderr.read(1)
    process.terminate()
    _, error = process.communicate()
    assert process.returncode == 130
    assert error.endswith("smesolve: interrupted; nothing was written.\n")
    assert [path.name for path in out.parent.iterdir()] == ["study.yaml"]


def test_interruption_while_overwriting_keeps_the_old_results(config, out, monkeypatch):
    assert main(["compare", config, "--out", str(out)]) == 0
    before = (out / "table.csv").read_bytes()

    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "write_manifest", interrupted)
    assert main(["compare", config, "--out", str(out), "--overwrite", "--seed", "9"]) == 130
    assert (out / "table.csv").read_bytes() == before
    assert {path.name for path in out.parent.iterdir()} == {"study.yaml", "results", "results.partial"}
