"""Where results go: links, names, places that cannot be written to, and files that smesolve did not write."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import small_study
import yaml

from smesolve.experiments.shared.registry import EXPERIMENTS, find_experiment
from smesolve.experiments.shared.section import Section
from smesolve.sampling.journal import Journal, JournalError
from smesolve.study import command_line, output
from smesolve.study.command_line import main
from smesolve.study.manifest import finished_manifest
from smesolve.study.output import whole_directory

STUDY = small_study.STUDY | {"data": {"name": "data.npz"}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A directory with study.yaml, data.npz, and results."""
    directory = tmp_path_factory.mktemp("finished")
    here = os.getcwd()
    os.chdir(directory)
    try:
        save_data(0)
        Path("study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
        assert main(["weak-error", "study.yaml", "--out", "results"]) == 0
    finally:
        os.chdir(here)
    return directory


def save_data(shift):
    x = np.linspace(-1, 1, 8).reshape(4, 2) + shift
    np.savez("data.npz", x=x, y=x[:, :1])


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of it, the working directory."""
    shutil.copytree(finished, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


class Quick(find_experiment("derive")):
    """An experiment that writes two files; it is not the numbers that are tried here."""

    def cells(self):
        return []

    def summarise(self, results):
        return [Section("Nothing", {}, {}, "", "", {"table.csv": "lr\n"})]

    def report(self, sections, warnings=()):
        return "# Report\n"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, ("derive", ""), Quick)


def sentence(capsys, *arguments, code=2):
    """What a command says that is refused."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    bar, start, error = capsys.readouterr().err.rpartition("smesolve: ")
    assert start and error.count("\n") == 1 and (not bar or "100% |" in bar), bar + error
    return start + error


# --- links and names -------------------------------------------------------------------------------------------------


def test_a_link_stays_a_link_and_results_lie_where_it_points(place, quick):
    Path("scratch/run").mkdir(parents=True)
    os.symlink("scratch/run", "link")
    os.symlink("scratch/missing", "dangling")
    os.symlink("scratch", "parent")
    for out, where in (("link", "scratch/run"), ("dangling", "scratch/missing"), ("parent/below", "scratch/below")):
        for options in ([], ["--overwrite"]):
            assert main(["derive", "--out", out, *options]) == 0
            assert Path(where, "report.html").is_file() and not Path(where).is_symlink()
    assert os.path.islink("link") and os.path.islink("dangling") and os.path.islink("parent")
    assert sorted(os.listdir("scratch")) == ["below", "missing", "run"]


def test_the_folder_itself_stays_when_results_move_into_it(place, quick):
    Path("empty").mkdir()
    before = os.stat("empty").st_ino
    os.chdir("empty")
    assert main(["derive", "--out", "."]) == 0
    assert os.stat(".").st_ino == before and Path("report.html").is_file()
    assert main(["derive", "--out", ".", "--overwrite"]) == 0
    assert os.stat(".").st_ino == before and os.listdir("..").count("empty.partial") == 0


def test_a_tilde_that_the_shell_left_is_the_home(place, quick, monkeypatch):
    monkeypatch.setenv("HOME", str(place / "home"))
    assert main(["derive", "--out=~/deep/results"]) == 0
    assert (place / "home" / "deep" / "results" / "report.md").is_file() and not Path("~").exists()


@pytest.mark.parametrize("name", [b"r\xe9sultats", "résumé".encode(), b"two\nlines", b"<script>", b"a'b", b" "])
def test_odd_names_are_written_and_said(place, quick, capsys, name):
    out = os.fsdecode(name)
    assert main(["derive", "--out", out]) == 0
    lines = capsys.readouterr().out.splitlines(keepends=True)
    said = "".join(line for line in lines if "no compiled kernels" not in line)  # as where there is no compiler
    assert said.count("\n") == 1 and said.isascii() == (name != "résumé".encode())
    page = Path(out, "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    command = finished_manifest(Path(out))["command"]
    assert command.isprintable()
    if shutil.which("bash"):  # a shell reads the command that is in the manifest as it was given
        script = f'smesolve() {{ printf %s "${{@: -1}}"; }}\n{command}'
        assert subprocess.run(["bash"], input=script.encode(), capture_output=True, check=True).stdout == name


@pytest.mark.parametrize(
    ("out", "fragment"),
    [
        ("", "got ''"),
        ("a\0b", "got 'a\\x00b'"),
        ("/", "root of a file system"),
        ("loop", "a loop of symbolic links"),
        ("loop/below", "symbolic links"),
        ("study.yaml", "is a file"),
        ("study.yaml/below", "Not a directory"),
        ("to_file", "is a file"),
        ("n" * 250, "too long"),
        ("n" * 300, "too long"),
        ("~nobody-of-this-name/results", "home directory that is not known"),
    ],
)
def test_places_that_cannot_be_are_refused_before_anything_is_computed(place, capsys, out, fragment):
    os.symlink("loop", "loop")
    os.symlink("study.yaml", "to_file")
    before = sorted(os.listdir("."))
    assert fragment in sentence(capsys, "derive", "--out", out)
    assert sorted(os.listdir(".")) == before


def test_places_that_cannot_be_written_to_are_refused_first(place, quick, capsys, monkeypatch):
    """As root may write everywhere, the system's answers are made here."""

    def refused(number):
        def call(*args, **options):
            raise OSError(number, os.strerror(number))

        return call

    Path("there").mkdir()
    for number in (errno.EACCES, errno.EROFS, errno.ENOSPC):
        with monkeypatch.context() as broken:
            broken.setattr(Path, "mkdir", refused(number))
            assert os.strerror(number) in sentence(capsys, "derive", "--out", "new")
        with monkeypatch.context() as broken:
            broken.setattr(output.tempfile, "TemporaryFile", refused(number))
            assert os.strerror(number) in sentence(capsys, "derive", "--out", "there")
    assert not any("partial" in name for name in os.listdir("."))


# --- files of the user -----------------------------------------------------------------------------------------------


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_nothing_that_smesolve_did_not_write_is_touched(place, quick, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years", encoding="utf-8")
    for directory in ("res.partial", ".res.old", "res.partial/below", "results/below"):
        Path(directory).mkdir()
        Path(directory, "notes.txt").write_text(directory, encoding="utf-8")
        os.symlink(precious, Path(directory, "link"))
    kept = {name: text for name, text in contents(place).items() if name.endswith("notes.txt")}
    for arguments in (
        ["derive", "--out", "res"],
        ["derive", "--out", "res", "--overwrite"],
        ["extend", "results", "--paths", "16"],
        ["derive", "--out", "results", "--overwrite"],
    ):
        assert main(arguments) == 0
        assert contents(place).items() >= kept.items()
        assert os.path.islink("res.partial/link") and os.path.islink("results/below/link")
    assert contents(precious) == {"thesis.txt": b"years"}
    assert not Path("results/fit.csv").exists() and Path("results/report.md").read_bytes() == b"# Report\n"
    assert sorted(os.listdir("res.partial")) == ["below", "link", "notes.txt"]


def test_a_file_that_the_user_has_changed_is_not_replaced(place, capsys):
    with open("results/report.md", "a", encoding="utf-8") as file:
        file.write("what I think of it")
    for arguments in (
        ["extend", "results", "--paths", "16"],
        ["weak-error", "study.yaml", "--out", "results", "--overwrite"],
    ):
        assert "'report.md' in 'results' has changed since" in sentence(capsys, *arguments)
    os.rename("results/report.md", "mine.md")
    assert main(["extend", "results", "--paths", "16"]) == 0
    assert Path("mine.md").read_text(encoding="utf-8").endswith("what I think of it")


def test_results_that_find_their_place_taken_are_kept_and_move_later(place, quick, capsys):
    def taken(*args):
        path.write_text("mine", encoding="utf-8")
        return write(*args)

    write = command_line.write_manifest
    path = Path("new/table.csv")
    path.parent.mkdir()
    with pytest.MonkeyPatch.context() as late:
        late.setattr(command_line, "write_manifest", taken)
        said = sentence(capsys, "derive", "--out", "new")
    assert "table.csv' was not written by smesolve" in said and ".smesolve" in said
    assert path.read_text(encoding="utf-8") == "mine" and os.listdir("new") == ["table.csv"]
    assert "table.csv' was not written by smesolve" in sentence(capsys, "derive", "--out", "new")
    os.remove(path)
    assert main(["derive", "--out", "new"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert path.read_text(encoding="utf-8") == "lr\n" and not Path("new.partial").exists()


@pytest.mark.parametrize("moved", range(5))
def test_a_move_that_is_interrupted_anywhere_is_completed(place, quick, monkeypatch, moved):
    """Into results that are there, so that it takes several steps."""
    assert main(["derive", "--out", "results", "--overwrite"]) == 0
    Path("results/notes.txt").write_text("mine", encoding="utf-8")
    calls = []

    def counted(source, target):
        if ".partial" in str(source) and ".partial" not in str(target):
            calls.append(target)
            if len(calls) > moved:
                raise KeyboardInterrupt
        return replace(source, target)

    replace = os.replace
    with monkeypatch.context() as late:
        late.setattr(output.os, "replace", counted)
        code = main(["derive", "--out", "results", "--overwrite", "--order", "1"])
    assert code == (130 if moved < 4 else 0)
    assert main(["derive", "--out", "results", "--order", "1"]) == (0 if moved < 4 else 2)
    assert finished_manifest(Path("results"))["config"]["order"] == 1
    assert set(os.listdir("results")) == {"report.md", "report.html", "table.csv", "manifest.json", "notes.txt"}
    assert not Path("results.partial").exists()


@pytest.mark.parametrize("name", ["blocks.journal", ".lock", ".smesolve", "table.partial.csv", "."])
def test_names_that_are_taken_beside_the_results_are_refused(place, quick, capsys, name):
    path = Path("new.partial", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine", encoding="utf-8")
    assert "move it away" in sentence(capsys, "derive", "--out", "new", "--overwrite")
    assert path.read_text(encoding="utf-8") == "mine"
    os.rename(path, "elsewhere")
    os.symlink("elsewhere", path)
    assert "move it away" in sentence(capsys, "derive", "--out", "new", "--overwrite")
    assert Path("elsewhere").read_text(encoding="utf-8") == "mine"


def test_parents_that_somebody_else_uses_stay(place):
    with pytest.raises(KeyboardInterrupt), whole_directory(Path("a/b/results"), False):
        Path("a/notes.txt").write_text("mine", encoding="utf-8")
        raise KeyboardInterrupt
    assert os.listdir("a") == ["notes.txt"]


# --- which study it is -----------------------------------------------------------------------------------------------


def test_results_of_other_data_are_not_finished(place, capsys):
    again = ["weak-error", "study.yaml", "--out", "results", "--resume"]
    assert main(again) == 0
    assert "finished before" in capsys.readouterr().out
    save_data(1)
    assert "the data, or the initial parameters, have changed" in sentence(capsys, *again)
    assert "the data, or the initial parameters, have changed" in sentence(capsys, "extend", "results", "--paths", "16")
    assert finished_manifest(Path("results"))["config"]["paths"] == 8
    assert "its config.seed is 0, but 1 is asked for" in sentence(capsys, *again, "--seed", "1")
    save_data(0)
    assert main(["extend", "results", "--paths", "16"]) == 0


def damaged_manifests():
    yield "not JSON", lambda manifest: "{"
    yield "bytes that are no text", lambda manifest: "\udcff"
    yield "nested deeply", lambda manifest: "[" * 100_000
    yield "a list", lambda manifest: "[]"
    yield "of a web page", lambda manifest: json.dumps({"name": "app", "icons": []})
    for key in ("study", "config", "versions", "files"):
        yield f"without {key}", lambda manifest, key=key: json.dumps({**manifest, key: None})
    yield "files elsewhere", lambda manifest: json.dumps({**manifest, "files": {"../study.yaml": ""}})
    yield "without a version", lambda manifest: json.dumps({**manifest, "versions": {}})
    yield "of another version", lambda manifest: json.dumps({**manifest, "versions": {"smesolve": "0.1"}})
    yield "of another command", lambda manifest: json.dumps({**manifest, "study": "scaling"})
    yield "of no command", lambda manifest: json.dumps({**manifest, "study": "thesis"})
    yield "empty configuration", lambda manifest: json.dumps({**manifest, "config": {}})
    for key, value in (("paths", float("nan")), ("network", 3), ("lrs", "x"), ("data", []), ("seed", None)):
        config = {key: value}
        yield (
            f"{key} {value}",
            lambda manifest, config=config: json.dumps({**manifest, "config": manifest["config"] | config}),
        )


MANIFESTS = dict(damaged_manifests())


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_that_are_not_ours_are_refused_by_a_sentence(place, capsys, name):
    path = Path("results/manifest.json")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    path.write_bytes(MANIFESTS[name](manifest).encode("utf-8", "surrogateescape"))
    before = contents(place)
    sentence(capsys, "extend", "results", "--paths", "16")
    sentence(capsys, "weak-error", "study.yaml", "--out", "results", "--resume")
    assert contents(place) == before


@pytest.mark.parametrize("content", [b"", b"x", b"sme", b"sme1", b"thesis" * 99, None])
def test_journals_that_are_not_ours_are_refused_by_a_sentence(place, capsys, content):
    path = Path("results/blocks.journal")
    path.unlink() if content is None else path.write_bytes(content)
    before = contents(place)
    sentence(capsys, "extend", "results", "--paths", "16")
    assert contents(place) == before


def test_a_journal_that_loses_its_name_is_not_lost(tmp_path):
    path = tmp_path / "below" / "blocks.journal"
    path.parent.mkdir()
    study = {"seed": 0}
    journal = Journal(path, study)
    for block in range(3):
        journal.put(f"block {block}", {"a": np.full(3, block)})
    shutil.rmtree(path.parent)
    with pytest.raises(JournalError, match="was removed or replaced"):
        journal.put("block 3", {"a": np.ones(3)})
    journal.close()
    with Journal(path, study) as again:
        assert len(again) == 3 and again.get("block 2")["a"].tolist() == [2, 2, 2]
        os.rename(path, tmp_path / "mine")
        path.write_text("of somebody else", encoding="utf-8")
        with pytest.raises(JournalError, match=r"in '.*blocks\.journal\.1' now"):
            again.put("block 4", {"a": np.ones(3)})
    assert path.read_text(encoding="utf-8") == "of somebody else"
    with Journal(tmp_path / "below" / "blocks.journal.1", study) as copy:
        assert len(copy) == 3
        with open(copy.path, "ab") as other:
            other.write(b"x")
        with pytest.raises(JournalError, match="by another program"):
            copy.put("block 5", {"a": np.ones(3)})


def test_a_folder_that_is_removed_while_a_study_runs_is_answered_by_a_sentence(place, quick, capsys, monkeypatch):
    def removed(*args):
        shutil.rmtree("new.partial")
        return write(*args)

    write = command_line.write_manifest
    monkeypatch.setattr(command_line, "write_manifest", removed)
    assert "results cannot be written" in sentence(capsys, "derive", "--out", "new", code=1)


def test_a_journal_must_be_a_file_that_can_be_opened(tmp_path):
    for path, said in ((tmp_path, "is not a file"), (tmp_path / "missing" / "journal", "cannot be opened")):
        with pytest.raises(JournalError, match=said):
            Journal(path, {})
    path = tmp_path / "thesis.txt"
    path.write_text("short", encoding="utf-8")  # shorter than the head of a record, which an interruption may leave
    with pytest.raises(JournalError, match="was not written by smesolve"):
        Journal(path, {})
    assert path.read_text(encoding="utf-8") == "short"
