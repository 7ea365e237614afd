"""The report that is sent: one HTML file that asks for nothing else and says everything."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from matplotlib.figure import Figure

from smesolve.experiments.shared.latex_lines import PAGE_WIDTH, broken, shortened, widest
from smesolve.figures import PAGE, save_figure
from smesolve.study.command_line import main
from smesolve.study.html_report import html_report
from smesolve.symbolic.latex_code import align

DATA = {"data": {"name": "random", "samples": 4, "in_features": 2}, "threads": 1}
# 66 parameters: just too many for the predicted constant of order 2, which takes longer than all the rest.
WEAK = DATA | {"network": {"width": 22}, "lrs": [0.2, 0.1], "horizon": 0.4, "paths": 64, "seed": 5}

STUDIES = {
    "compare": (WEAK, ["At T = 0.4 and lr = 0.2, with 95% confidence, the mean", "95% intervals"]),
    "weak-error": (WEAK, ["Order 2, loss: slope", "errors are resolved"]),
    "scaling": (
        DATA | {"network": {"width": 2}, "study": "kappa", "lrs": [0.05], "kappas": [1, 2], "horizon": 0.4,
                "paths": 64},
        ["readout: the iteration follows", "intervals are 95% intervals"],
    ),
    "landscape": (
        DATA | {"network": {"width": 4}, "sections": ["condensation"], "steps": 20, "runs": 2,
                "condensation": {"checkpoints": 3}},
        ["dropout, initial scale 1:", "95% intervals"],
    ),
    "derive": ({"iteration": "dropout", "width": 1}, ["Weak order 2 in lr is proven", "No diffusion has order 3"]),
}  # fmt: skip


class Page(HTMLParser):
    """Everything that a browser would fetch, the elements, and the text by heading."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.tags, self.sections, self.inside = [], [], {}, []
        self.heading = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.inside.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        if tag == "h2":
            self.heading = ""

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" in self.inside:
            assert "url(" not in data and "@import" not in data
        if "h2" in self.inside:
            self.heading += data
        elif self.heading:
            self.sections[self.heading] = self.sections.get(self.heading, "") + data


@pytest.fixture(scope="module", params=STUDIES)
def study(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    config, words = STUDIES[request.param]
    (directory / "study.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main([request.param, str(directory / "study.yaml"), "--out", str(directory / "results")]) == 0
    return directory / "results", words


def test_the_page_holds_everything_and_fetches_nothing(study):
    out, words = study
    text = (out / "report.html").read_text(encoding="utf-8")
    source = (out / "report.md").read_text(encoding="utf-8")
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    page = Page(text)
    assert all(address.startswith("data:image/png;base64,") for address in page.fetched)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("img") == len(page.fetched) == len(list(out.glob("*.png")))

    # Every row of every table of the Markdown, and the table of how it was made.
    rows = [line for line in source.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    made = ("command", "seed", "versions", "platform", "took")
    assert page.tags.count("tr") == len(rows) + 1 + len(made)

    first, *_, how_made, last = page.sections
    assert [first, how_made, last] == ["Conclusion", "How it was made", "Configuration"]
    conclusion, confidence = words
    assert conclusion in page.sections["Conclusion"] and confidence in text
    how = page.sections["How it was made"]
    assert manifest["command"] in how and f"{manifest['wall_time']:.1f} s" in how
    assert str(manifest["seed"] if manifest["seed"] is not None else "none") in how
    for name, number in manifest["versions"].items():
        assert f"{name} {number}" in how
    assert yaml.safe_load(page.sections["Configuration"]) == manifest["config"]


def test_the_markdown_alone_says_the_conclusion_first_and_shows_the_figures(study):
    out, words = study
    source = (out / "report.md").read_text(encoding="utf-8")
    assert source.splitlines()[2] == "## Conclusion"
    assert words[0] in source.split("\n## ")[1]
    captions = {name: caption for caption, name in re.findall(r"!\[([^\]]+)\]\((\w+)\.png\)", source)}
    assert set(captions) == {path.stem for path in out.glob("*.png")}
    for caption in captions.values():
        assert caption.endswith(".") and "against " in caption.lower(), "it says what is drawn against what"


def test_formulas_are_mathml_and_text_is_escaped(tmp_path):
    manifest = {"config": {}, "command": "smesolve <x>", "seed": None, "versions": {}, "platform": "", "threads": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"wall_time": 1.0}), encoding="utf-8")
    source = (
        "# A <b>\n\n```math\n\\frac{a}{b}\n```\n\nx < y, <script>alert(1)</script>, 4.30e-04\n\n```yaml\na: <1>\n```\n"
    )
    (tmp_path / "report.md").write_text(source, encoding="utf-8")
    text = html_report(tmp_path)
    assert re.search("<mfrac>.*<mi>a</mi>.*<mi>b</mi>.*</mfrac>", text) and "</math>" in text
    assert "<script" not in text and "x &lt; y, &lt;script&gt;" in text and "a: &lt;1&gt;" in text
    assert "<title>A &lt;b&gt;</title>" in text and '<span class="number">4.30e-04</span>' in text
    for address in ("https://somewhere.org/a.png", "../a.png", "missing.png"):
        (tmp_path / "report.md").write_text(f"# A\n\n![figure]({address})\n", encoding="utf-8")
        with pytest.raises(ValueError, match="not a picture in its directory"):
            html_report(tmp_path)


def test_figures_are_as_wide_as_they_were_drawn_and_formulas_fit_a_page(tmp_path):
    manifest = {"config": {}, "command": "smesolve", "seed": None, "versions": {}, "platform": "", "threads": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"wall_time": 1.0}), encoding="utf-8")
    save_figure(Figure(figsize=(PAGE / 2, 1)), tmp_path, "half")
    line = f"a &= {' + '.join(['y'] * 200)}"
    formula = broken(align([line]))
    assert widest(formula) <= PAGE_WIDTH < widest(line) and formula.count("y") == 200
    source = f"# A\n\n![A figure.](half.png)\n\n```math\n{formula}\n```\n\n```math\n{line}\n```\n"
    (tmp_path / "report.md").write_text(source, encoding="utf-8")
    text = html_report(tmp_path)
    assert f'style="--inches: {PAGE / 2:.2f}"' in text
    # wider lines are printed smaller, in the measure of their width
    assert re.findall("--points: ([0-9]+)", text) == [f"{widest(one):.0f}" for one in (formula, line)]
    assert re.search(r"@media print {.*500 / var\(--points\)", text, flags=re.S) and PAGE_WIDTH < 500


def test_formulas_that_are_too_long_are_words():
    lines = align(["a &= b", f"c &= {'d' * 50}"])
    assert shortened(lines, 50) == lines
    words = shortened(lines, 49)
    assert words == align(["a &= b", r"c &= \text{50~characters,~see~equation.tex}"])
