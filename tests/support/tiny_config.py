"""A configuration that takes a second, and how bad ones are answered."""

import yaml

from smesolve.study.command_line import main

# 66 parameters: just too many for the predicted constant of order 2, which takes longer than all the rest.
TINY = {
    "data": {"name": "random", "samples": 4, "in_features": 2},
    "network": {"width": 22},
    "lrs": [0.2, 0.1],
    "horizon": 0.4,
    "paths": 64,
    "threads": 1,
}


def write_config(directory, **changes):
    path = directory / "study.yaml"
    path.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
    return str(path)


def refused(capsys, arguments, *fragments):
    """Exit code 2, one line on stderr that names each fragment, no traceback."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("smesolve: ")
    assert "Traceback" not in error
    for fragment in fragments:
        assert fragment in error, f"{fragment!r} is not in {error!r}"
