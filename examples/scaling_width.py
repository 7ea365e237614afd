"""Error against width in the mean-field scaling: fixed lr/keep_prob, fixed lr, both fixed."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

from smesolve.comparison.scaling.width_sweep import width_sweep
from smesolve.experiments.shared.datasets import load_data
from smesolve.experiments.shared.figures import save_figure
from smesolve.experiments.shared.sampling_effort import SamplingEffort
from smesolve.study.configuration import DataConfig
from smesolve.study.scaling_width import width_figure


def main(widths: tuple[int, ...] = (4, 8, 16, 32), paths: int = 1024) -> Figure:
    """Run the study and draw it."""
    x, y = load_data(DataConfig("random", samples=8, in_features=2, seed=0))
    result = width_sweep(
        torch.from_numpy(x),
        torch.from_numpy(y),
        widths,
        keep_prob=0.8,
        lr=0.1,
        horizon=1.0,
        effort=SamplingEffort(paths),
    )
    print(result.slopes)
    return width_figure(result)


if __name__ == "__main__":
    save_figure(main(), Path("."), "scaling_width")
