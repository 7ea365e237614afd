"""Orientations of the input weights along training runs, in tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from torch import Tensor

from smesolve.landscape.covering import covering
from smesolve.landscape.orientations import cosine_map, input_weights, participation
from smesolve.problem.dropout import DropoutProblem

__all__ = ["ODD", "draw_cosines", "orientation_rows"]

ODD = ("tanh", "identity")
"""Odd activations, for which orientations are counted up to their sign."""


def orientation_rows(problem: DropoutProblem, states: Tensor, steps: Sequence[int], lines: bool) -> dict[str, Any]:
    """Return the orientations of each run at each step, and a cosine map.

    Args:
        problem: dropout on a `TwoLayerNetwork`.
        states: parameters (T, B, D) of B runs.
        steps: the T step numbers.
        lines: count orientations up to their sign.

    Returns:
        `table`: run, step, orientations (an upper bound), least_orientations (a lower bound), effective_ratio
        (orientations over the width), participation, loss. `map`: cosines (m, m) of the last state of the first run,
        with the neurons sorted by group.
    """
    weights, amplitudes = input_weights(problem, states)
    rows = []
    for i, step in enumerate(steps):
        losses = problem.loss(states[i])
        for run, loss in enumerate(losses.tolist()):
            caps = covering(weights[i, run], lines)
            counts = {"orientations": caps.upper, "least_orientations": caps.lower}
            shares = {"effective_ratio": caps.upper / problem.width}
            shares["participation"] = participation(weights[i, run], amplitudes[i, run])
            rows.append({"run": run, "step": step} | counts | shares | {"loss": loss})
    order = np.argsort(covering(weights[-1, 0], lines).groups, kind="stable")
    return {"table": pd.DataFrame(rows), "map": cosine_map(weights[-1, 0][order])}


def draw_cosines(axis: Axes, cosines: np.ndarray, title: str) -> AxesImage:
    """Draw a cosine map, and return the image for a colour bar."""
    image = axis.imshow(cosines, cmap="cividis", vmin=-1, vmax=1)
    axis.set_title(title, loc="left")
    axis.set(xlabel="cosines of weights", xticks=[], yticks=[])
    return image
