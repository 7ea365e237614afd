"""The manifest of results: how to repeat the study, and the list of files that smesolve wrote."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smesolve.errors import SmesolveError
from smesolve.study.versions import versions

__all__ = ["MANIFEST", "changed_file", "finished_manifest", "read_manifest", "seal", "sealed", "write_manifest"]

MANIFEST = "manifest.json"

CHUNK = 2**20
"""Bytes of a file that are read at once."""


def write_manifest(
    directory: Path,
    name: str,
    command: Sequence[str],
    config: Mapping[str, Any],
    seed: int | None,
    wall_time: float,
    data: str | None = None,
    code: str | None = None,
) -> None:
    """Write the manifest of a study: configuration, seed, versions, command, threads, and wall time (s).

    Args:
        directory: where the manifest is written.
        name: command of the study. `command` differs from it for "smesolve extend".
        command: arguments of the command line.
        config: configuration of the study.
        seed: root seed of the study, if it has one.
        wall_time: seconds that this command took.
        data: digest of the data, if there are data.
        code: digest of the user's code, if the study ran any; the configuration names it.
    """
    import torch  # here, because the command line reads its arguments without it

    manifest = {
        "study": name,
        "command": " ".join(["smesolve", *map(_quoted, command)]),
        "config": config,
        "seed": seed,
        "data": data,
        **({} if code is None else {"code": code}),
        "versions": versions(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "wall_time": round(wall_time, 3),
    }
    _write(directory, manifest)


def seal(directory: Path) -> None:
    """Add the names and digests of all other files in the directory to the manifest.

    From then on the results count as whole.
    """
    names = sorted(path.name for path in directory.iterdir() if path.name != MANIFEST)
    _write(directory, read_manifest(directory) | {"files": {name: _digest(directory / name) for name in names}})


def sealed(directory: Path) -> bool:
    """Return whether a directory holds a manifest that lists the files beside it."""
    try:
        return "files" in read_manifest(directory)
    except SmesolveError:
        return False


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest in a directory, also of unfinished results.

    Raises:
        SmesolveError: there is no manifest, or it cannot be read.
    """
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise SmesolveError(
            f"{str(directory)!r} has no {MANIFEST} that can be read ({reason}); name a directory with finished results."
        ) from None
    if not isinstance(manifest, dict):
        raise _foreign(directory, f"it holds no mapping but {type(manifest).__name__}")
    return manifest


def finished_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of finished results: study, configuration, versions, and names of the files beside it.

    Raises:
        SmesolveError: there is no manifest, it cannot be read, or another program wrote it.
    """
    manifest = read_manifest(directory)
    for key, kind in {"study": str, "config": dict, "versions": dict, "files": dict}.items():
        if not isinstance(manifest.get(key), kind):
            raise _foreign(directory, f"its entry {key!r} is {'of another kind' if key in manifest else 'missing'}")
    if not isinstance(manifest["versions"].get("smesolve"), str):
        raise _foreign(directory, "it does not say which version of smesolve wrote it")
    for name, digest in manifest["files"].items():
        # Files in this list are replaced, so no name may lead out of the directory.
        if not name or Path(name).name != name or "\0" in name or not isinstance(digest, str):
            raise _foreign(directory, f"its list of files holds {name!r}")
    return manifest


def changed_file(directory: Path, files: Mapping[str, str]) -> str | None:
    """Return the first file that has changed since smesolve wrote it; a missing file counts as unchanged."""
    for name, digest in files.items():
        path = directory / name
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file() or _digest(path) != digest):
            return name
    return None


def _foreign(directory: Path, reason: str) -> SmesolveError:
    return SmesolveError(
        f"the {MANIFEST} of {str(directory)!r} is not one that smesolve wrote, or is damaged: {reason}; name a "
        "directory with finished results of this version."
    )


def _write(directory: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest atomically."""
    new = directory / f"{MANIFEST}.new"
    new.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(new, directory / MANIFEST)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _quoted(argument: str) -> str:
    """Return an argument for a shell, on one line and in characters that every terminal shows."""
    if argument.isprintable():
        return shlex.quote(argument)
    parts = (
        "\\" + char if char in "\\'" else char if char.isprintable() else "".join(f"\\x{b:02x}" for b in _bytes(char))
        for char in argument
    )
    return f"$'{''.join(parts)}'"


def _bytes(char: str) -> bytes:
    return char.encode("utf-8", "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass")
