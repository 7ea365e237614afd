"""What a landscape study is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from smesolve.arguments import ENSEMBLE, POSITIVE, Integer, Number, check_fields
from smesolve.experiments.shared.settings import ProblemSettings

__all__ = [
    "AlignmentConfig",
    "FlatnessConfig",
    "LandscapeConfig",
    "NoisesConfig",
    "RegularisationConfig",
    "VarianceConfig",
]

PROBES = Integer(12, "fewer leave no sample for an interval")


@dataclass(frozen=True)
class AlignmentConfig:
    """Alignment of Hessian and noise covariance along training.

    Args:
        checkpoints: points along training, the start and then evenly in the logarithm of the step.
        probes: vectors for the traces of one point.
        eigenpairs: leading eigenvectors whose overlap is measured.
    """

    checkpoints: int = 10
    probes: int = 150
    eigenpairs: int = 10

    def __post_init__(self) -> None:
        check_fields(self, "alignment.", probes=PROBES)


@dataclass(frozen=True)
class NoisesConfig:
    """Alignment of other noises.

    Args:
        names: of the noises; the first one's runs are the common points.
        batch_size: of the mini-batches.
        label_noise: standard deviation of normals added to the targets.
        parameter_noise: standard deviation of normals added to the parameters.
        checkpoints: points along training, the start and then evenly in the logarithm of the step.
        draws: of a noise whose covariance is not known in closed form.
        probes: vectors for the traces of one point.
    """

    names: list[str] = field(
        default_factory=lambda: ["dropout", "mini-batch", "dropout and mini-batch", "parameter noise", "label noise"]
    )
    batch_size: int = 50
    label_noise: float = 0.5
    parameter_noise: float = 0.02
    checkpoints: int = 5
    draws: int = 200
    probes: int = 60

    def __post_init__(self) -> None:
        check_fields(self, "noises.", draws=Integer(5), probes=PROBES)


@dataclass(frozen=True)
class VarianceConfig:
    """Variance principle.

    Args:
        draws: points of each data set: consecutive steps, and gradients at one point.
        directions: principal directions of the data, and leading Hessian eigenvectors.
        factors: thresholds of the interval flatness in units of the loss at the centre.
        loss: whose flatness and Hessian: loss (without dropout, as in the papers) or modified_loss.
    """

    draws: int = 1000
    directions: int = 30
    factors: list[float] = field(default_factory=lambda: [1.5, 2.0, 4.0])
    loss: str = "loss"

    def __post_init__(self) -> None:
        check_fields(self, "variance_principle.", draws=Integer(8), directions=Integer(3), factors=Number(1.0))


@dataclass(frozen=True)
class FlatnessConfig:
    """Flatness of solutions.

    Args:
        noises: trainings beside gradient descent, dropout and its two halves; scales are those of the section noises.
        directions: random filter-normalised directions a solution.
        rise: of the loss that ends the width along a direction.
        probes: vectors for the trace of the Hessian.
    """

    noises: list[str] = field(default_factory=lambda: ["mini-batch", "parameter noise"])
    directions: int = 20
    rise: float = 0.05
    probes: int = 100

    def __post_init__(self) -> None:
        check_fields(self, "flatness.", noises=None, probes=PROBES)


@dataclass(frozen=True)
class CondensationConfig:
    """Condensation of the input weights.

    Args:
        trainings: gradient descent, drift only (R_1 alone), noise only, dropout, SME order 2.
        scales: factors of the initial parameters; 1 is the network's own initialisation, small ones condense by
            themselves.
        checkpoints: points along training, the start and then evenly in the logarithm of the step.
    """

    trainings: list[str] = field(default_factory=lambda: ["gradient descent", "drift only", "dropout", "SME order 2"])
    scales: list[float] = field(default_factory=lambda: [1.0, 0.1])
    checkpoints: int = 8

    def __post_init__(self) -> None:
        check_fields(self, "condensation.", scales=POSITIVE)


@dataclass(frozen=True)
class GeometryConfig:
    """Information geometry.

    Args:
        keep_probs: at which the Fisher form of the dropout penalty of logistic regression is compared with the penalty.
        draws: masks a sample for that.
        checkpoints: points along training, the start and then evenly in the logarithm of the step.
        directions: random tangent directions a point, for the curvature.
        probes: vectors for the Fisher trace.
    """

    keep_probs: list[float] = field(default_factory=lambda: [0.99, 0.95, 0.9, 0.8, 0.65, 0.5])
    draws: int = 200
    checkpoints: int = 5
    directions: int = 4
    probes: int = 60

    def __post_init__(self) -> None:
        check_fields(self, "information_geometry.", draws=Integer(2), probes=PROBES)


@dataclass(frozen=True)
class RegularisationConfig:
    """Weak orders of flows and SMEs.

    Args:
        lrs: learning rates; each divides the horizon.
        horizon: last time T.
        observables: loss, modified_loss, squared_norm, coordinates such as theta[0]; the first one is drawn.
        paths: of dropout and of each SME, in the first round.
        rel_tol: paths are added until every error of an SME is known to this share of itself.
        max_paths: bound on the paths.
    """

    lrs: list[float] = field(default_factory=lambda: [0.05, 0.025, 0.0125])
    horizon: float = 0.5
    observables: list[str] = field(default_factory=lambda: ["loss"])
    paths: int = 256
    rel_tol: float = 0.1
    max_paths: int = 2**14

    def __post_init__(self) -> None:
        check_fields(self, "implicit_regularisation.", paths=ENSEMBLE)


@dataclass(frozen=True)
class LandscapeConfig(ProblemSettings):
    """Landscape study.

    Args:
        sections: what is measured: alignment, noises, variance_principle,
            implicit_regularisation, flatness, condensation, information_geometry.
        data: what is learned.
        network: what learns; its seed is that of the first run, the following runs have the following seeds.
        keep_prob: probability that a neuron is kept (torch.nn.Dropout's p is 1 - keep_prob).
        lr: learning rate.
        steps: of training.
        runs: independent runs, each from its own initial point with its own masks; intervals are over them.
        seed: root seed of the masks and of the random vectors.
        threads: of torch; left as they are unless given.
        alignment: options of that section.
        noises: options of that section.
        variance_principle: options of that section.
        implicit_regularisation: options of that section.
        flatness: options of that section.
        condensation: options of that section.
        information_geometry: options of that section.
    """

    sections: list[str] = field(default_factory=lambda: ["alignment"])
    keep_prob: float = 0.8
    lr: float = 0.1
    steps: int = 2000
    runs: int = 4
    seed: int = 0
    threads: int | None = None
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    noises: NoisesConfig = field(default_factory=NoisesConfig)
    variance_principle: VarianceConfig = field(default_factory=VarianceConfig)
    implicit_regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)
    flatness: FlatnessConfig = field(default_factory=FlatnessConfig)
    condensation: CondensationConfig = field(default_factory=CondensationConfig)
    information_geometry: GeometryConfig = field(default_factory=GeometryConfig)

    def __post_init__(self) -> None:
        check_fields(self)
