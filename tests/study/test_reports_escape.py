"""Names that users chose are shown in reports as they are: no HTML, no Markdown, no LaTeX, no formulas."""

import os
import subprocess
import sys
import threading
import warnings

import matplotlib
import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt

import smesolve as sme
from smesolve.experiments.shared.derivation.article import _escaped
from smesolve.experiments.shared.markdown import fenced, plain, table_of
from smesolve.figures import Figure, drawing, save_figure
from smesolve.study.command_line import main

NAMES = [
    "<script>alert(1)</script>",
    "a_b _c_ **d** `e` ~~f~~ $g$ | h",
    "![x](http://nowhere/x.png) [y](z) [y][z] [y]: z",
    "&lt; &amp; & x < y > z \\* \\",
    "theta[0]",
    "two\nlines\r\tand \x1b",
    "r\udce9sultats",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_markdown_is_shown_as_it_is(name):
    shown = name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for source in (f"Data {plain(name)}: 3", table_of(["a"], [[name]])):
        tokens = [child for token in markdown.parse(source) for child in token.children or []]
        assert {token.type for token in tokens} <= {"text", "text_special"}
        assert shown in "".join(token.content for token in tokens)
    assert "<script" not in plain(name)


def test_a_configuration_cannot_end_its_block():
    source = fenced("a: |\n  ```\n  <b>\n  ````", "yaml")
    (token,) = MarkdownIt("commonmark").parse(source)
    assert token.type == "fence" and token.content == "a: |\n  ```\n  <b>\n  ````\n"


def test_text_in_latex():
    assert _escaped("a_b\\c~d^e{f}\n50%") == r"a\_b\textbackslash{}c\textasciitilde{}d\^{}e\{f\} 50\%"


def test_odd_names_in_a_whole_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "![<b>data_$x$_$y$](q)`.csv"
    table = np.linspace(-1, 1, 18).reshape(6, 3)
    np.savetxt(name, table, delimiter=",", header="x1,x2,y", comments="")
    observable = "cost_$5_$6 <i>|"
    monkeypatch.setitem(sme.OBSERVABLES, observable, lambda problem: problem.loss)
    study = {"data": {"name": name}, "network": {"width": 3}, "lrs": [0.2], "horizon": 0.4, "paths": 16, "threads": 1}
    study |= {"observables": [observable], "orders": [1], "control": "none"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    assert main(["compare", "study.yaml", "--out", "a\n<script>b"]) == 0
    for report in ("report.md", "report.html"):
        text = (tmp_path / "a\n<script>b" / report).read_text(encoding="utf-8")
        assert "cost" in text and not any(tag in text for tag in ("<script", "<b>", "<i>")), report
        assert text.count("<img") == (report == "report.html"), "the figure, and no picture of that name"


def test_figures_are_drawn_in_their_own_style_and_leave_that_of_the_user(tmp_path, monkeypatch):
    """The bytes are the same whatever the user's settings are, and these are untouched."""

    def drawn(name):
        with drawing():
            figure = Figure(figsize=(2, 2))
            axis = figure.subplots()
            axis.plot([1, 2], label="a_b $x$")
            axis.legend()
        save_figure(figure, tmp_path, name)
        return (tmp_path / f"{name}.png").read_bytes()

    plainly = drawn("plain")
    with matplotlib.rc_context(
        {"text.usetex": True, "font.family": ["Nonsense"], "lines.linewidth": 9, "savefig.dpi": 5}
    ):
        before = dict.copy(matplotlib.rcParams)
        assert drawn("odd") == plainly
        assert dict.copy(matplotlib.rcParams) == before


def test_matplotlib_is_imported_whatever_backend_a_notebook_has_set(tmp_path):
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: thick\ntext.usetex: True\nbackend: nowhere\n")
    code = (
        "import os, smesolve.figures as f; import matplotlib; from pathlib import Path\n"
        "f.save_figure(f.Figure(figsize=(1, 1)), Path('.'), 'x')\n"
        "print(os.environ['MPLBACKEND'], matplotlib.rcParams._get('text.usetex'))"
    )
    environment = os.environ | {"MPLBACKEND": "module://nowhere.backend_inline", "MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.stdout.split() == ["module://nowhere.backend_inline", "True"], done.stderr
    assert (tmp_path / "x.pdf").stat().st_size > 0


def test_drawing_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with drawing():
            assert matplotlib.rcParams["font.size"] == 8


def test_threads_that_draw_at_the_same_time_leave_the_settings_of_the_user():
    before = dict.copy(matplotlib.rcParams)
    inside = threading.Event()

    def other():
        with drawing():
            inside.set()

    thread = threading.Thread(target=other)
    with drawing():
        thread.start()
        assert not inside.wait(0.2)  # else it ends after this one, and restores what this one has set
    thread.join()
    assert inside.is_set() and dict.copy(matplotlib.rcParams) == before
