"""Settings of experiments that train one network several times, from independent initial points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smesolve.experiments.shared.settings import ProblemSettings
from smesolve.validation import check_choice, check_device, check_integer, check_positive, check_seed

__all__ = ["RunSettings"]

DTYPES: Sequence[str] = ("float64", "float32")


@dataclass(frozen=True)
class RunSettings(ProblemSettings):
    """Settings of training runs.

    Args:
        data: what is learned.
        network: what learns; its seed is that of the first run, the following runs have the following seeds.
        lr: learning rate.
        steps: steps of training.
        runs: number of independent runs; intervals are over them.
        scale: factor of the initial parameters; 1 is the network's own initialisation.
        seed: root seed of the masks.
        dtype: float64 or float32.
        device: device of torch, such as cpu or cuda.
        threads: threads of torch. Default: as torch has them.
    """

    lr: float = 0.05
    steps: int = 2000
    runs: int = 4
    scale: float = 1.0
    seed: int = 0
    dtype: str = "float64"
    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_integer("steps", self.steps)
        check_integer("runs", self.runs, 2, remedy="intervals are over the runs")
        check_positive("scale", self.scale)
        check_seed("seed", self.seed)
        check_choice("dtype", self.dtype, DTYPES)
        check_device("device", self.device)
        if self.threads is not None:
            check_integer("threads", self.threads, most=2**12)
