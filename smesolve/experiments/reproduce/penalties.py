"""Penalties in place of dropout: accuracy, R_1 and R_S of six trainings against keep_prob (figures 2 and 12).

The trainings are those of `smesolve.landscape.penalised_training`. They have the same initial points and the same
masks, so their differences are paired. The predicted difference between dropout and R_S + R_1, which have the same mean
step, is computed by `smesolve.comparison.noise_effect`, with other masks. At the size of the paper, the gradient flows
of R_S and R_S + R_1 replace the descents, which follow them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from torch import Tensor

from smesolve.comparison.noise_effect import noise_effect
from smesolve.errors import SmesolveError
from smesolve.experiments.shared.cells import Cell, training_cost
from smesolve.experiments.shared.markdown import join
from smesolve.experiments.shared.paper_numbers import judged, means_beside_paper, paper_numbers
from smesolve.experiments.shared.registry import experiment
from smesolve.experiments.shared.section import Captioned, Section, interval, markdown
from smesolve.experiments.shared.settings import check_choices
from smesolve.experiments.shared.training_runs import TrainingRuns, TrainingRunsSettings
from smesolve.figures import PAGE, SEQUENCE, Figure, band, drawing
from smesolve.landscape.estimates import mean_over, over_runs
from smesolve.landscape.penalised_training import (
    PENALISED_FLOWS,
    PENALISED_TRAININGS,
    PenalisedIteration,
    train_by_flow,
)
from smesolve.landscape.penalties import first_penalty
from smesolve.landscape.training import train
from smesolve.problem.dropout import DropoutProblem
from smesolve.problem.observables import Observable, named_observables
from smesolve.validation import check_flag

__all__ = ["Penalties", "PenaltiesSettings", "penalties_figure"]

CAPTION = (
    "Against keep_prob, one line per training, means over runs with 95% intervals, hollow markers: the numbers of "
    "the paper. (a) test accuracy; (b) R_1 and (c) R_S after dropout and after descent on R_S + R_1 or its flow; (d) "
)

OF_PREDICTION = "difference of R_S between both, measured and predicted, in units of R_S."
OF_RATIO = "R_1 and R_S in units of the paper's."
"""What panel (d) shows where the difference is predicted, and where it is not."""

PAIRS = (
    ("dropout", "R_S"),
    ("dropout", "R_S + R_1"),
    ("dropout - R_2", "dropout"),
    ("dropout - R_1", "R_S"),
    ("R_S + R_2", "R_S"),
    ("dropout - R_1", "R_S + R_2"),
    ("flow of R_S + R_1", "flow of R_S"),
)
"""Trainings whose test accuracies are compared."""

FIGURES = {"test_accuracy": "12", "R_1": "2", "R_S": "2"}
"""Quantities in the figures, with the number of the figure."""

TRAININGS = (*PENALISED_TRAININGS, *PENALISED_FLOWS)
"""Names of trainings that the settings take."""

UNMASKED = ("R_S", "flow of R_S")
"""Trainings that keep_prob does not change."""

FLOW_GRADIENTS = 2000
"""Gradients of a flow, about, for the dry run."""

UNIT = 0.5
"""keep_prob of masks whose variance is 1."""


@dataclass(frozen=True)
class PenaltiesSettings(TrainingRunsSettings):
    """Penalties in place of dropout.

    Args:
        data: the data; data.test holds out the samples for the accuracy.
        trainings: R_S, R_S + R_1, R_S + R_2, dropout, dropout - R_1, dropout - R_2, and the gradient flows of losses
            up to the time lr times steps, flow of R_S and flow of R_S + R_1, which take far fewer gradients.
        predict: predict the difference between dropout and R_S + R_1 if both are trained. Cost: five times that of
            dropout.
    """

    keep_probs: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.9])
    trainings: list[str] = field(default_factory=lambda: list(PENALISED_TRAININGS))
    predict: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices("trainings", self.trainings, TRAININGS)
        check_flag("predict", self.predict)
        if self.data.test is None:
            raise SmesolveError("data.test is missing; give the share that accuracies are measured on, such as 0.8.")


@experiment("reproduce", "penalties")
class Penalties(TrainingRuns[PenaltiesSettings]):
    """Penalties in place of dropout: accuracy, R_1 and R_S against keep_prob (figures 2 and 12)."""

    Settings = PenaltiesSettings
    title = "Penalties in place of dropout"
    example = "examples/reproduce_penalties.yaml --out results/reproduce_penalties"

    def cells(self) -> list[Cell]:
        """Return one cell per keep_prob and training, one cell for R_S, and one prediction per keep_prob."""
        s = self.settings
        _observables(self.dropout_problem)  # targets that are no classes are refused before anything is trained
        cells = []
        unit = self.dropout_problem.with_keep_prob(UNIT)
        cells += [self._cell(unit, training, training) for training in UNMASKED if training in s.trainings]
        for keep_prob in s.keep_probs:
            problem = self.dropout_problem.with_keep_prob(keep_prob)
            for training in s.trainings:
                if training not in UNMASKED:
                    cells.append(self._cell(problem, training, f"keep_prob {keep_prob!r}, {training}"))
            if self._predicts:
                predict = partial(noise_effect, problem, self.starts, s.lr, s.steps, _observables(problem), s.seed + 1)
                cells.append(Cell(f"keep_prob {keep_prob!r}, prediction", predict, self.cost(problem, 5)))
        return cells

    @property
    def _predicts(self) -> bool:
        return self.settings.predict and {"dropout", "R_S + R_1"} <= set(self.settings.trainings)

    def _cell(self, problem: DropoutProblem, training: str, key: str) -> Cell:
        s = self.settings
        if training in PENALISED_FLOWS:
            ends = partial(train_by_flow, problem, self.starts, training, s.lr * s.steps)
            cost = training_cost(problem, self.starts[0], s.lr, min(s.steps, FLOW_GRADIENTS), s.runs)
        else:
            process = PenalisedIteration(problem, s.lr, s.seed, training, s.runs)
            ends = partial(_ends, process, self.starts, s.steps)
            cost = self.cost(problem, 4 if PENALISED_TRAININGS[training][2] else 1)
        return Cell(key, partial(_measured, problem, ends), cost)

    def summarise(self, results: list[Any]) -> list[Section]:
        """Return our numbers compared with the figures, and the measured differences with the predicted ones."""
        s = self.settings
        left = iter(results)
        runs, predictions = [], []
        unmasked = {training: next(left) for training in UNMASKED if training in s.trainings}
        for keep_prob in s.keep_probs:
            for training, ends in unmasked.items():  # only R_1 depends on keep_prob, like the variance of the masks
                scaled = ends.assign(R_1=ends.R_1 * (1 - keep_prob) / keep_prob)
                runs.append(scaled.assign(training=training, keep_prob=keep_prob))
            others = [training for training in s.trainings if training not in UNMASKED]
            runs += [next(left).assign(training=training, keep_prob=keep_prob) for training in others]
            if self._predicts:
                predictions.append(next(left).assign(keep_prob=keep_prob))
        table = pd.concat(runs, ignore_index=True)
        means = over_runs(table, ["training", "keep_prob"], list(FIGURES))
        beside = means_beside_paper(means, FIGURES, s.lr, PENALISED_FLOWS)
        pairs = _paired(table, s.lr)
        predicted = _differences(table, pd.concat(predictions), s.lr) if predictions else None
        caption = CAPTION + (OF_RATIO if predicted is None else OF_PREDICTION)
        tables = {"penalties": table, "penalties_figures": beside, "penalties_differences": pairs}
        if predicted is not None:
            tables["penalties_prediction"] = predicted
        figures = {"penalties": Captioned(penalties_figure(beside, predicted), caption)}
        text = _report(beside, pairs, predicted)
        return [Section("Penalties in place of dropout", tables, figures, text, _conclusion(beside, pairs, predicted))]

    def measured(self) -> str:
        """Return data, network and training in words, ours and theirs."""
        return (
            f"{super().measured()} The paper: 784-1000-10 on the first 1,000 images of MNIST, tested on MNIST's own "
            "test set, which is not among our data; number of steps, activation and initial scale are not stated."
        )


def _observables(problem: DropoutProblem) -> dict[str, Observable]:
    named = named_observables(problem, ["loss", "test_accuracy", "test_loss"])
    return {
        "R_S": named["loss"],
        "R_1": lambda theta: first_penalty(problem, theta),
        "test_accuracy": named["test_accuracy"],
        "test_loss": named["test_loss"],
    }


def _ends(process: PenalisedIteration, starts: Tensor, steps: int) -> Tensor:
    """Return the parameters (B, D) after the last step."""
    return train(process, starts, [steps])[0]


def _measured(problem: DropoutProblem, trained: Callable[[], Tensor]) -> pd.DataFrame:
    """Return a row for each run, with what is measured at its end."""
    ends = trained()
    values = {name: function(ends).double().cpu().numpy() for name, function in _observables(problem).items()}
    return pd.DataFrame({"run": np.arange(len(ends))} | values)


def _paired(table: pd.DataFrame, lr: float) -> pd.DataFrame:
    """Return differences of test accuracies between trainings, paired by run, compared with the paper."""
    numbers = paper_numbers("12", lr)
    accuracies = numbers.assign(keep_prob=numbers.keep_prob.round(9)).set_index(["training", "keep_prob"]).value
    rows = []
    for keep_prob, group in table.groupby("keep_prob", sort=False):
        wide = group.pivot(index="run", columns="training", values="test_accuracy")
        for first, second in PAIRS:
            if first not in wide or second not in wide:
                continue
            names = [PENALISED_FLOWS.get(name, name) for name in (first, second)]
            keys = [(name, 1.0 if name == "R_S" else round(keep_prob, 9)) for name in names]
            known = all(key in accuracies.index for key in keys)
            paper = accuracies[keys[0]] - accuracies[keys[1]] if known else np.nan
            change = mean_over(wide[first] - wide[second]).columns("value")
            rows.append({"first": first, "second": second, "keep_prob": keep_prob} | change | {"paper": paper})
    columns = ["first", "second", "keep_prob", "value", "value_low", "value_high", "paper"]
    return judged(pd.DataFrame(rows, columns=columns))


def _differences(table: pd.DataFrame, predictions: pd.DataFrame, lr: float) -> pd.DataFrame:
    """Return dropout minus R_S + R_1, measured and predicted, in units of the mean after R_S + R_1.

    To leading order the difference at a given time is proportional to lr, so that the prediction has a value at the
    learning rate of the paper, which stands beside theirs.
    """
    numbers = paper_numbers("2", lr)
    theirs = float(numbers.lr.iloc[0])
    rows = []
    for (keep_prob, quantity), group in predictions.groupby(["keep_prob", "observable"], sort=False):
        here = table[table.keep_prob == keep_prob]
        wide = here.pivot(index="run", columns="training", values=quantity)
        unit = wide["R_S + R_1"].mean() or np.nan  # a share of 0 is not defined
        share = group.sort_values("run").effect / unit
        row = mean_over((wide["dropout"] - wide["R_S + R_1"]) / unit).columns("measured")
        row |= mean_over(share).columns("predicted") | mean_over(share * theirs / lr).columns("value")
        printed = numbers[(numbers.quantity == quantity) & np.isclose(numbers.keep_prob, keep_prob)]
        printed = printed.set_index("training").value
        paper = printed["dropout"] / printed["R_S + R_1"] - 1 if len(printed) == 2 else np.nan
        head = {"quantity": quantity, "keep_prob": keep_prob}
        rows.append(head | row | {"paper": paper, "verdict": _verdict(row)})
    ends = {f"value{end}": f"at_paper_lr{end}" for end in ("", "_low", "_high")}
    return judged(pd.DataFrame(rows)).rename(columns=ends)


def _verdict(row: dict[str, Any]) -> str:
    """Return the verdict on the measured and the predicted difference."""
    if np.isnan(row["measured"]):
        return "not defined"
    if row["measured_low"] <= 0 <= row["measured_high"]:
        return "unresolved"
    if row["predicted_low"] <= 0 <= row["predicted_high"]:
        return "prediction unresolved"
    if row["measured"] * row["predicted"] < 0:
        return "other sign"
    apart = row["predicted_high"] < row["measured_low"] or row["measured_high"] < row["predicted_low"]
    return "same sign" if apart else "agrees"


def _report(beside: pd.DataFrame, pairs: pd.DataFrame, predicted: pd.DataFrame | None) -> str:
    known, shown = (
        beside[beside.paper.notna()],
        ["quantity", "training", "keep_prob", "paper", "value", "ratio", "agrees"],
    )
    parts = [
        "Numbers of the figures beside ours; `agrees` says whether theirs lies in our interval, which holds the spread "
        "over initial points and masks and no difference of the settings; an interval that holds 0 too is unresolved.",
        markdown(known, shown, {"value": ".4g", "paper": ".4g"}, {"value": "ours"}),
        "Differences of test accuracies, paired by run:",
        markdown(pairs, ["first", "second", "keep_prob", "paper", "value", "ratio", "agrees"]),
    ]
    if predicted is not None:
        parts += [
            "Dropout minus R_S + R_1, in units of the value after R_S + R_1: `measured` on paired runs; `predicted` "
            "from the defects of single steps, lr^2/2 Sigma : Hess v summed along the descent on R_S + R_1, to leading "
            "order in lr, from masks of its own. `at_paper_lr`: the prediction times the ratio of their lr to ours, to "
            "which it is proportional at a given time; `agrees` says whether `paper` lies in its interval. Their size "
            "and number of steps are not ours.",
            markdown(
                predicted,
                ["quantity", "keep_prob", "measured", "predicted", "verdict", "at_paper_lr", "paper", "agrees"],
            ),
        ]
    return join(*parts)


def _conclusion(beside: pd.DataFrame, pairs: pd.DataFrame, predicted: pd.DataFrame | None) -> str:
    lines = []
    for row in beside[beside.training.isin(PENALISED_FLOWS)].to_dict("records"):
        name, ratio = row["quantity"].replace("test_", "test "), f"{row['ratio']:.3g} times"
        paper = "" if np.isnan(row["paper"]) else f", {ratio} the {row['paper']:.4g} of the paper"
        lines.append(
            f"- {name} after the {row['training']}, keep_prob {row['keep_prob']:g}: "
            f"{interval(row, 'value', '.4g')}{paper}."
        )
    for row in pairs.to_dict("records"):
        resolved = row["value_low"] > 0 or row["value_high"] < 0
        paper = "" if np.isnan(row["paper"]) else f"; the paper has {row['paper']:+.4f}"
        lines.append(
            f"- Test accuracy of {row['first']} minus that of {row['second']}, keep_prob {row['keep_prob']:g}: "
            f"{interval(row, 'value', '+.4f')}{'' if resolved else ', unresolved'}{paper}."
        )
    for row in [] if predicted is None else predicted.to_dict("records"):
        if np.isnan(row["measured"]):
            continue
        name = row["quantity"].replace("test_", "test ")
        lines.append(
            f"- {name} of dropout against R_S + R_1, keep_prob {row['keep_prob']:g}: "
            f"{interval(row, 'measured', '+.2%')}, predicted {interval(row, 'predicted', '+.2%')}: {row['verdict']}."
        )
    return "\n".join(lines)


def penalties_figure(beside: pd.DataFrame, predicted: pd.DataFrame | None) -> Figure:
    """Draw accuracy, R_1 and R_S against keep_prob, and the difference of R_S with its prediction."""
    trainings = list(beside.training.unique())
    with drawing():
        figure = Figure(figsize=(PAGE, 5.0), layout="constrained")
        axes = figure.subplots(2, 2)
        for axis, letter, quantity in zip(axes.flat, "abc", FIGURES, strict=False):
            chosen = trainings if quantity == "test_accuracy" else ["dropout", "R_S + R_1", "flow of R_S + R_1"]
            for training in [name for name in chosen if name in trainings]:
                _curve(axis, beside[(beside.quantity == quantity) & (beside.training == training)], trainings, training)
            axis.set_title(
                f"({letter}) {quantity.replace('_', ' ') if quantity == 'test_accuracy' else f'${quantity}$'}"
            )
            if quantity != "test_accuracy" and (beside[beside.quantity == quantity].value > 0).any():
                axis.set_yscale("log")
        if predicted is not None:
            rows = predicted[predicted.quantity == "R_S"].sort_values("keep_prob")
            for index, column in enumerate(("measured", "predicted")):
                band(axes[1, 1], rows, "keep_prob", column, index, column)
            axes[1, 1].plot(
                rows.keep_prob, rows.paper, "o", color="0.4", markerfacecolor="white", label="paper, at its lr"
            )
            axes[1, 1].axhline(0, color="0.5", linewidth=0.8)
            axes[1, 1].set_title("(d) $R_S$ of dropout relative to $R_S + R_1$, minus 1")
        else:
            _ratios(axes[1, 1], beside)
            axes[1, 1].set_title("(d) in units of the paper's")
        if axes[1, 1].get_legend_handles_labels()[0]:
            axes[1, 1].legend()
        for axis in axes.flat:
            axis.set_xlabel("keep_prob")
            axis.title.set_horizontalalignment("left")
            axis.title.set_x(0)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
        return figure


def _ratios(axis: Axes, beside: pd.DataFrame) -> None:
    """Draw R_1 and R_S in units of those of the paper, where it has them."""
    index = 0
    for training in ("dropout", "R_S + R_1", "flow of R_S + R_1"):
        for quantity in ("R_1", "R_S"):
            rows = beside[(beside.training == training) & (beside.quantity == quantity) & beside.ratio.notna()]
            if len(rows):
                band(axis, rows.sort_values("keep_prob"), "keep_prob", "ratio", index, f"${quantity}$, {training}")
                index += 1
    axis.axhline(1, color="0.5", linewidth=0.8)


def _curve(axis: Axes, rows: pd.DataFrame, trainings: Sequence[str], training: str) -> None:
    """Draw our values as a line with its interval, and theirs as hollow markers."""
    index = trainings.index(training)
    rows = rows.sort_values("keep_prob")
    band(axis, rows, "keep_prob", "value", index, training)
    style = SEQUENCE[index]
    axis.plot(rows.keep_prob, rows.paper, style.marker, color=style.colour, markerfacecolor="white")
