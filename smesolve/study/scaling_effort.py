"""What a study of scaling samples, from its configuration."""

from __future__ import annotations

from smesolve.comparison.scaling.sampling_effort import SamplingEffort
from smesolve.study.scaling_configuration import ScalingConfig

__all__ = ["configured_effort"]


def configured_effort(config: ScalingConfig) -> SamplingEffort:
    """Return the sampling effort of a configuration, with progress bars."""
    return SamplingEffort(config.paths, config.rel_tol, config.max_paths, config.seed, True, config.workers)
