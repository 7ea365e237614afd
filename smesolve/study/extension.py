"""`smesolve extend`: more paths for finished results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smesolve.errors import SmesolveError
from smesolve.experiments.shared.experiment import Experiment
from smesolve.experiments.shared.registry import find_experiment
from smesolve.experiments.shared.settings import StudySettings, build
from smesolve.sampling.journal import Journal
from smesolve.study.manifest import MANIFEST, finished_manifest, read_manifest
from smesolve.study.output import JOURNAL, finish_move
from smesolve.version import __version__

__all__ = ["ExtendSettings", "begin_extended", "experiment_of", "extended", "settings_of"]


@dataclass(frozen=True)
class ExtendSettings(StudySettings):
    """Extension of finished results.

    Args:
        paths: independent paths on each side, more than the study had.
        threads: threads of torch, divided among the workers. Default: left as they are.
        workers: processes that share the paths. Default: only this one.
    """

    paths: int = 0
    threads: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise SmesolveError(
                "--paths is missing; give the number of paths that the study shall have, such as 100000."
            )
        super().__post_init__()


def extended(directory: Path, more: ExtendSettings, resume: bool, dry_run: bool) -> Experiment[Any]:
    """Return the experiment of the results in a directory, with more paths.

    Raises:
        SmesolveError: the directory holds no results that can be extended.
    """
    if not dry_run:
        finish_move(directory)
    manifest = read_manifest(directory)
    name, versions = manifest.get("study"), manifest.get("versions")
    written_by = versions.get("smesolve") if isinstance(versions, dict) else None
    if isinstance(written_by, str) and written_by != __version__:
        raise SmesolveError(
            f"{str(directory)!r} was written by smesolve {written_by}, and this is {__version__}; extend it "
            "with the version that wrote it."
        )
    manifest = finished_manifest(directory)
    kind = experiment_of(manifest["study"], manifest["config"])
    if kind is None or not kind.extendable:
        raise SmesolveError(f"{str(directory)!r} holds results of {name}, which has no paths to add.")
    old = settings_of(kind, manifest["config"], directory)
    if more.paths < old.paths or (more.paths == old.paths and not resume):
        raise SmesolveError(f"--paths {more.paths} is not more than the {old.paths} of {str(directory)!r}; raise it.")
    return kind(dataclasses.replace(old, **dataclasses.asdict(more)))


def begin_extended(out: Path, paths: int, directory: Path) -> None:
    """Begin the journal of an extended study, in `directory`, with the journal of the finished study in `out`."""
    Journal.continued(out / JOURNAL, directory / JOURNAL, {"config": {"paths": paths}})


def experiment_of(command: str, config: Mapping[str, Any]) -> type[Experiment[Any]] | None:
    """Return the experiment of finished results, or None if it is unknown."""
    try:
        return find_experiment(command, str(config.get("study", "")))
    except SmesolveError:
        return None


def settings_of(kind: type[Experiment[Any]], config: Mapping[str, Any], directory: Path) -> Any:
    """Return the settings of finished results."""
    try:
        return build(kind.Settings, dict(config))
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else " ".join(str(error).split()).rstrip(".")
        raise SmesolveError(
            f"the configuration in {str(directory / MANIFEST)!r} is damaged: {reason}; restore it from a copy, or run "
            "the study anew."
        ) from None
