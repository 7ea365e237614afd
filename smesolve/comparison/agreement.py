"""The distance of an equation from the iteration in words: relative errors and the bounds on them.

A 95% interval [low, high] of an error bounds the size of the error, whether or not it holds 0: it is at most
max(|low|, |high|), an equivalence bound. An error is given relative to

    the mean of the observable under the iteration, to the change of that mean since the start, and to its spread,
    the standard deviation over paths,

where these are known. A mean with an interval of its own enters by the end of its interval that makes the bound larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from smesolve.comparison.outcomes import Status
from smesolve.confidence import CONFIDENCE, with_interval
from smesolve.solver.orders import Order, equation_name, weak_order

__all__ = ["agreement", "at_most", "headline", "in_short", "leading_rows"]


def headline(final: pd.DataFrame, start: Mapping[str, float], spread: Mapping[tuple[float, str], float]) -> str:
    """Return one sentence about the errors at the largest learning rate, the highest order first.

    `final` holds rows of a weak-error table at the horizon, `start` the values of the observables at the start, and
    `spread` standard deviations over paths of the iteration by learning rate and observable, where they are known.
    """
    rows = leading_rows(final)
    if rows.empty:
        return f"No error at the horizon has an interval: {final.reason.iloc[0]}."
    text = agreement(rows, start, spread)
    return (
        f"At T = {rows.time.iloc[0]:g} and lr = {rows.lr.iloc[0]:g}, with {CONFIDENCE:.0%} confidence, the mean "
        f"{rows.observable.iloc[0].replace('_', ' ')} {text}."
    )


def in_short(final: pd.DataFrame) -> str:
    """Return one sentence that can be repeated: how near each order is at least, at the largest learning rate.

    `final` holds rows of a weak-error table at the horizon.
    """
    rows = leading_rows(final)
    if rows.empty:
        return f"No error at the horizon has an interval: {final.reason.iloc[0]}."
    observable, parts = rows.observable.iloc[0].replace("_", " "), list[str]()
    by_order = {row["order"]: row for row in rows.to_dict("records")}
    for order in _highest_first(by_order):
        name = equation_name(order)
        within = _bounds(by_order[order], {}, {})[0]
        parts.append(
            f"{name} to within {within}"
            if parts
            else f"{'The SME of ' if not isinstance(order, str) else ''}{name} gives the mean {observable} of dropout "
            f"at T = {rows.time.iloc[0]:g} to within {within}"
        )
    sentence = ", ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]} (lr = {rows.lr.iloc[0]:g}, {CONFIDENCE:.0%} confidence)."


def leading_rows(final: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first observable at the largest learning rate whose errors have intervals, if any."""
    known = final[[_has_bound(reason) for reason in final.reason]]
    if known.empty:
        return known
    known = known[known.observable == known.observable.iloc[0]]
    return known[known.lr == known.lr.max()]


def agreement(rows: pd.DataFrame, start: Mapping[str, float], spread: Mapping[tuple[float, str], float]) -> str:
    """Return the errors of all orders in words for one observable and learning rate, the highest order first."""
    parts: list[str] = []
    by_order = {row["order"]: row for row in rows.to_dict("records")}
    for order in _highest_first(by_order):
        name = equation_name(order)
        sme = "" if isinstance(order, str) else "the SME of "
        head = f"under {name} it" if parts else f"under {sme}{name}"
        parts.append(f"{head} {_of_row(by_order[order], start, spread)}")
    return "; ".join(parts)


def _highest_first(orders: Iterable[Order]) -> list[Order]:
    return sorted(orders, key=lambda order: (isinstance(order, str), -weak_order(order)))


def at_most(value: float) -> str:
    """Return a bound with two digits, rounded up."""
    if not value > 0 or not math.isfinite(value):
        return f"{value:g}"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit * (1 - 1e-12)) * unit:.2g}"


def _has_bound(reason: str) -> bool:
    """Return whether the interval of an error with this reason bounds it."""
    status = Status(reason)
    return status.has_interval and status != Status.OUTSIDE_ASYMPTOTICS


def _of_row(row: Mapping[str, Any], start: Mapping[str, float], spread: Mapping[tuple[float, str], float]) -> str:
    number = _numbers(row)
    if not _has_bound(str(row["reason"])):
        return f"is not known ({row['reason']})"
    level, uncertain = abs(number["discrete"]), number["discrete_half_width"]
    bounds = _bounds(row, start, spread)
    within = bounds[0] + (f" ({', '.join(bounds[1:])})" if bounds[1:] else "")
    if not row["resolved"]:
        return f"agrees to within {within}, and nothing larger is hidden"
    if not level > uncertain:
        return f"is off by {with_interval(number['error'], number['low'], number['high'], 2, '+')}"
    ends = [100 * number[end] / scale for end in ("low", "high") for scale in (level - uncertain, level + uncertain)]
    interval = with_interval(100 * number["error"] / level, min(ends), max(ends), 2, "+", "%")
    return f"is off by {interval}, by at most {within}"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(row[name]) for name in ("error", "low", "high", "discrete", "discrete_half_width", "lr")}


def _bounds(row: Mapping[str, Any], start: Mapping[str, float], spread: Mapping[tuple[float, str], float]) -> list[str]:
    """Return the largest size of an error, relative to each scale that is known, or as it is where none is."""
    number, name = _numbers(row), str(row["observable"])
    largest, level = max(abs(number["low"]), abs(number["high"])), abs(number["discrete"])
    uncertain = number["discrete_half_width"]
    scales = {"": level - uncertain}
    if name in start:
        scales["of its change"] = abs(number["discrete"] - start[name]) - uncertain
    if (number["lr"], name) in spread:
        scales["of its spread over paths"] = spread[number["lr"], name]
    bounds = [
        f"{at_most(100 * largest / scale)}%{' ' if words else ''}{words}"
        for words, scale in scales.items()
        if scale > 0 and math.isfinite(scale)
    ]
    return bounds or [at_most(largest)]
