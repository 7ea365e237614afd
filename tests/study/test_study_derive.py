"""`smesolve derive` as a user sees it: article, module and report; and the sentence for what cannot be derived."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smesolve.study.command_line import main

EXAMPLES = Path(__file__).parents[2] / "examples"

INTEGRATE = """
import sys
sys.modules["smesolve"] = None
import torch, torchsde
from equation import ModifiedEquation
sde = ModifiedEquation(**{values})
y0 = torch.full((5, {size}), 0.5, dtype=torch.float64)
paths = torchsde.sdeint(sde, y0, torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64), method="euler", dt=0.05)
assert paths.shape == (3, 5, {size}) and paths.isfinite().all() and paths[-1].std(0).max() > 0
print("integrated")
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def derive(out, *options):
    return main(["derive", *map(str, options), "--out", str(out)])


def integrated(directory, values, size):
    """Import the generated module in a process that cannot import this package, and integrate it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = INTEGRATE.format(values=values, size=size)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "integrated\n", done.stderr


@pytest.mark.parametrize("order, activation, keep_prob", [(1, "tanh", "0.8"), (2, "sigma", None)])
def test_dropout(out, order, activation, keep_prob):
    options = [] if keep_prob is None else ["--keep_prob", keep_prob]
    assert derive(out, "--order", order, "--activation", activation, *options) == 0
    article = (out / "equation.tex").read_text(encoding="utf-8")
    assert article.startswith(r"\documentclass") and article.endswith("\\end{document}\n")
    assert article.count(r"\begin{align*}") == article.count(r"\end{align*}") == 4
    assert (r"\tanh" in article) == (activation == "tanh")
    assert (out / "equation.py").is_file() == (activation == "tanh")
    report = (out / "report.md").read_text(encoding="utf-8")
    assert f"Weak order {order} is proven" in report and f"At lr^{order + 1}" in report
    assert "flow of R_S + R_1 + R_2, without noise: claims order 2 and has order 1" in report
    assert "independent noise of the neurons (no Sigma_kr): claims order 2 and has order 1" in report
    assert "- exact: Sigma_12\n" in report and "- NOT exact: approximate covariance as Cov, one mask\n" in report
    if keep_prob is None:
        assert "Values of p at which it vanishes whatever the other symbols are: 1." in report
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8"))["config"]["order"] == order


@pytest.mark.parametrize(
    "example, values, size",
    [
        ("derive_momentum", dict(h=0.2, m=1.0, x_1_1=1.0, x_2_1=-0.5, y_1_1=0.3, y_2_1=1.0), 4),
        ("derive_own", dict(lr=0.05, c=0.1, v=0.25, x=1.0, y=0.3), 1),
    ],
)
def test_examples_and_their_modules(out, example, values, size):
    assert derive(out, EXAMPLES / f"{example}.yaml") == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    small = "h" if "momentum" in example else "lr"
    assert (
        f"is proven at the level of moments: the one-step moments of iteration and SDE agree up to {small}^" in report
    )
    integrated(out, values, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--iteration", "dropout", "--depth", 2, "--width", 1, "--layers", "[1, 2]"],
        ["--iteration", "dropout", "--law", "uniform", "--loss", "(f - y)**4/4", "--width", 1],
        ["--iteration", "sgd", "--samples", 3],
        ["--iteration", "dropout_sgd", "--samples", 2, "--keep_prob", 0.8],
        ["--iteration", "dropconnect"],
        ["--iteration", "label_noise", "--law", "gaussian", "--momentum", "true"],
        ["--iteration", "parameter_noise", "--activation", "identity", "--law", "gaussian", "--width", 1],
        ["--law", "finite", "--values", "[0, 1, 3]", "--probabilities", "[0.4, 0.4, 0.2]"],
    ],
)
def test_every_iteration(out, options):
    assert derive(out, *options) == 0
    assert "Weak order 2 is proven" in (out / "report.md").read_text(encoding="utf-8")
    assert (out / "equation.py").is_file()
    if shutil.which("pdflatex"):
        compiled(out)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_the_article_compiles(out):
    assert derive(out, "--order", 1) == 0
    compiled(out)


def compiled(directory):
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "equation.tex"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-1000:]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--iteration", "dropuot"], ["iteration 'dropuot' is unknown", "did you mean 'dropout'"]),
        (["--law", "bernouli"], ["law 'bernouli' is unknown", "did you mean 'bernoulli'"]),
        (["--loss", "(f - z)**2"], ["loss must be an expression in the output f and the target y", "with z"]),
        (["--loss", "(f - "], ["loss '(f - ' cannot be read as an expression"]),
        (["--iteration", "custom", "--state", "[a]"], ["state and step must have the same length", "got 1 and 0"]),
        (
            ["--iteration", "custom", "--state", "[a]", "--step", "[-lr*eta*(a - y)]", "--random", "[eta]"],
            ["step contains y, which has no role: name it in constants, or, if it is random, give its law in random."],
        ),
        (
            ["--iteration", "custom", "--state", "[a]", "--step", "[-lr*eta*a]"],
            ["step contains eta, which has no role", "give its law in random"],
        ),
        (
            ["--law", "finite", "--values", "[0, 1.5]", "--probabilities", "[0.5, 0.5]"],
            ["the mean of the masks must be 1, got 3/4", "divide the values by the mean"],
        ),
        (["--iteration", "dropconnect", "--law", "gaussian"], ["step of w_1_1 is not a polynomial in eta_w_1_1"]),
        (["--layers", "[3]"], ["layers[0] must be at most 1, got 3; the number of hidden layers is 1."]),
    ],
)
def test_what_cannot_be_derived_gets_one_sentence(out, capsys, options, words):
    assert derive(out, *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("smesolve: ")
    for word in words:
        assert word in error
    assert not out.exists()
