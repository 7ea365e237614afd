"""Malformed configurations of every command: exit code 2, one sentence on stderr, nothing written.

Values of the wrong type or range at any key, unknown keys at any depth, files that are no configuration at all.
"""

import contextlib
import copy
import functools
import io
import math
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from smesolve.study import command_line
from smesolve.study.command_line import main

SCALARS = st.none() | st.text("abc-{}[]:,#&*!|>'\"%@` \n\t", max_size=8) | st.floats() | st.integers() | st.booleans()
NESTED = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner))
ODD_VALUES = [None, "", "rubbish", "0x", "1e", "nan%", [], {}, [[]], {"a": 1}, [None], ["a"], [{"a": []}], True, False]
ODD_VALUES += [math.nan, math.inf, -math.inf, -1, 0, 1.5, -0.5, 1e300, 10**30, -(10**30)]
VALUES = st.sampled_from(ODD_VALUES) | NESTED


class Kind:
    """Values that YAML has and that are not right for one kind of key."""

    def __init__(self, right=lambda value: False):
        self.right, self.values = right, VALUES.filter(lambda value: not right(value))


def number(low=-math.inf, high=math.inf, *, closed=False, up_to=False):
    """Not a number in the interval."""

    def right(value):
        plain = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return plain and low <= value <= high and (closed or value != low) and (up_to or value != high)

    return Kind(right)


def integer(least=1, most=2**53):
    """Not an integer from `least` to `most`."""
    return Kind(lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most)


def either(*kinds):
    """What is wrong for each of the kinds."""
    return Kind(lambda value: any(kind.right(value) for kind in kinds))


def optional(kind):
    """The same, but None is right."""
    return either(Kind(lambda value: value is None), kind)


def sequence(kind, empty=False):
    """Not a list of what is right for the kind."""
    return Kind(lambda value: isinstance(value, list) and (value or empty) and all(map(kind.right, value)))


def instance(*classes):
    """Not an object of the classes."""
    return Kind(lambda value: isinstance(value, classes))


def one_of(*names):
    """None of the names."""
    return Kind(lambda value: isinstance(value, str) and value in names)


FLAG = instance(bool)
POSITIVE, NOT_NEGATIVE, SHARE = number(0), number(0, closed=True), number(0, 1)
KEEP_PROB = number(0, 1, up_to=True)
COUNT, SEED = integer(1), integer(0, 2**64 - 1)
TEXT, TEXTS = (
    instance(str),
    Kind(lambda value: isinstance(value, list) and all(isinstance(entry, str) for entry in value)),
)
FILLED = Kind(lambda value: TEXTS.right(value) and value)
NUMBERS = sequence(POSITIVE)
DEFAULTS = Kind(lambda value: value == {})
PROBES, DRAWS = integer(12), integer(8)
DATA = {
    "data.name": one_of("random"),
    "data.target": Kind(lambda value: value is None),
    "data.samples": COUNT,
    "data.in_features": COUNT,
    "data.seed": optional(SEED),
    "network.width": either(COUNT, sequence(COUNT)),
    "network.activation": one_of("tanh", "relu"),
    "network.bias": FLAG,
    "network.seed": SEED,
    "keep_prob": KEEP_PROB,
    "seed": SEED,
    "threads": optional(COUNT),
    "data": DEFAULTS,
    "network": DEFAULTS,
}
STUDY = DATA | {
    "training.loss": one_of("squared_error"),
    "training.dropout": one_of("last"),
    "training.masks": one_of("shared"),
    "training.batch_size": optional(COUNT),
    "training.replacement": FLAG,
    "training.optimizer": one_of("sgd"),
    "training.lr": optional(POSITIVE),
    "training.momentum": optional(number(0, 1, closed=True)),
    "training.dampening": optional(number(0, 1, closed=True)),
    "training.nesterov": optional(FLAG),
    "training.betas": optional(sequence(number(0, 1, closed=True))),
    "training.alpha": optional(number(0, 1, closed=True)),
    "training.eps": optional(NOT_NEGATIVE),
    "training.centered": optional(FLAG),
    "training.momentum_decay": optional(NOT_NEGATIVE),
    "training.decoupled_weight_decay": optional(FLAG),
    "training.weight_decay": optional(NOT_NEGATIVE),
    "training.warm": integer(0, 10**7),
    "training.label_noise": NOT_NEGATIVE,
    "training.parameter_noise": NOT_NEGATIVE,
    "training": DEFAULTS,
    "lrs": NUMBERS,
    "horizon": POSITIVE,
    "orders": sequence(Kind(lambda value: value in (1, 2))),
    "observables": sequence(one_of("loss", "modified_loss", "squared_norm", "theta[0]")),
    "paths": integer(2),
    "rel_tol": optional(SHARE),
    "max_paths": COUNT,
    "scheme": optional(one_of("euler", "small_noise_rk4")),
    "dt": optional(POSITIVE),
    "control": one_of("auto", "none", "first", "second"),
    "workers": optional(COUNT),
    "device": one_of("cpu"),
    "dtype": one_of("float64", "float32"),
    "max_memory": optional(POSITIVE),
}
UNREAD = ("training", "workers", "device", "dtype", "max_memory", "dt", "control", "scheme", "orders")
SCALING = {key: kind for key, kind in STUDY.items() if key.split(".")[0] not in UNREAD} | {
    "study": one_of("kappa"),
    "kappas": sequence(COUNT),
    "tolerance": SHARE,
}
LANDSCAPE = DATA | {
    "sections": sequence(one_of("alignment")),
    "lr": POSITIVE,
    "steps": COUNT,
    "runs": integer(2),
    "alignment.checkpoints": integer(2),
    "alignment.probes": PROBES,
    "alignment.eigenpairs": COUNT,
    "noises.names": FILLED,
    "noises.batch_size": COUNT,
    "noises.label_noise": NOT_NEGATIVE,
    "noises.draws": integer(4),
    "noises.parameter_noise": NOT_NEGATIVE,
    "variance_principle.draws": DRAWS,
    "variance_principle.directions": integer(3),
    "variance_principle.factors": sequence(number(1)),
    "variance_principle.loss": TEXT,
    "flatness.noises": TEXTS,
    "flatness.rise": POSITIVE,
    "flatness.probes": PROBES,
    "condensation.scales": NUMBERS,
    "condensation.trainings": FILLED,
    "information_geometry.keep_probs": sequence(KEEP_PROB),
    "information_geometry.draws": integer(2),
    "implicit_regularisation.lrs": NUMBERS,
    "implicit_regularisation.rel_tol": SHARE,
    "flatness": Kind(),
}
DERIVE = {
    "iteration": one_of("dropout"),
    "momentum": FLAG,
    "width": COUNT,
    "depth": COUNT,
    "in_features": COUNT,
    "samples": COUNT,
    "out_features": COUNT,
    "activation": one_of("tanh", "identity", "sigma"),
    "loss": Kind(),
    "batch": COUNT,
    "layers": optional(sequence(COUNT)),
    "law": one_of("bernoulli"),
    "keep_prob": optional(KEEP_PROB),
    "variance": optional(POSITIVE),
    "half_width": optional(POSITIVE),
    "values": sequence(number(), empty=True),
    "probabilities": sequence(number(), empty=True),
    "state": TEXTS,
    "step": TEXTS,
    "random": TEXTS,
    "constants": TEXTS,
    "small": TEXT,
    "order": Kind(lambda value: value in (1, 2)),
}
TINY = {"data": {"name": "random", "samples": 4, "in_features": 2}, "network": {"width": 2}}
BASES = {
    "compare": (TINY | {"lrs": [0.2], "horizon": 0.2, "paths": 8}, STUDY),
    "weak-error": (TINY | {"lrs": [0.2], "horizon": 0.2, "paths": 8}, STUDY),
    "scaling": (TINY | {"study": "kappa", "lrs": [0.2], "horizon": 0.2, "paths": 8}, SCALING),
    "landscape": (TINY | {"sections": ["alignment"], "lr": 0.1, "steps": 2, "runs": 2}, LANDSCAPE),
    "derive": ({"width": 1}, DERIVE),
}
NO_CONFIGURATION = [
    b"",
    b"\xff\xfe\x00",
    b"\x00" * 9,
    b"\t- a",
    b"[",
    b"5",
    b"null",
    b"- 1\n- 2",
    b"a: b: c",
    b"{" * 5000,
]
NO_CONFIGURATION += [
    b"%YAML 9\n---\na: 1",
    b"---\na: 1\n---\nb: 2",
    b"x: !!python/object:os.system 1",
    b"? [1]\n: 2",
    b"1: 2",
]
NO_CONFIGURATION += [b"._: 1", b"lrs: ._", b"&a {b: *a}", b"a: &a [*a]\n"]
FILES = st.sampled_from(NO_CONFIGURATION) | st.binary(max_size=40).filter(
    lambda content: content.strip() not in (b"", b"{}")
)


@pytest.fixture(autouse=True)
def one_parser(monkeypatch):
    """Build the parser once: that takes longer than to refuse a file."""
    monkeypatch.setattr(command_line, "command_parser", functools.cache(command_line.command_parser))


@st.composite
def malformed_files(draw):
    """A command and the content of a file that is no configuration of it."""
    command = draw(st.sampled_from(sorted(BASES)))
    base, kinds = BASES[command]
    way = draw(st.sampled_from(["value", "value", "value", "value", "key", "file"]))
    if way == "file":
        return command, draw(FILES)
    content = copy.deepcopy(base)
    for _ in range(draw(st.integers(1, 3)) if way == "value" else 1):
        key = draw(st.sampled_from(sorted(kinds)))
        value = draw(kinds[key].values) if way == "value" else 1
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place[section] = place.get(section) if isinstance(place.get(section), dict) else {}
            place = place[section]
        last = last if way == "value" else draw(st.text("abcxyz_", min_size=1, max_size=9)) + "q"
        place[last] = value
        if any(not isinstance(content.get(section, {}), dict) for section in ("data", "network", "training")):
            break
    return command, yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")


def refuse(command, content):
    """Fail where a malformed file is not answered as it must be."""
    with tempfile.TemporaryDirectory() as folder:
        config, out = Path(folder) / "study.yaml", Path(folder) / "results"
        config.write_bytes(content)
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            code = main([command, str(config), "--out", str(out)])
        text, left = told.getvalue(), sorted(path.name for path in Path(folder).iterdir())
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.startswith("smesolve: ")]
    assert code == 2, f"{command} of {content!r}: exit code {code}: {text[-300:]}"
    assert len(lines) == 1 and text.endswith(lines[0] + "\n") and lines[0].endswith("."), text[-500:]
    assert "Traceback" not in text and left == ["study.yaml"], f"{text[-500:]}, left {left}"


@settings(max_examples=150, phases=[Phase.generate])
@given(malformed_files())
def test_malformed_configurations_are_answered_by_one_sentence(file):
    refuse(*file)


@pytest.mark.slow
@settings(max_examples=2_500, phases=[Phase.generate], derandomize=False)
@given(malformed_files())
def test_two_thousand_malformed_configurations_are_answered_by_one_sentence(file):
    refuse(*file)


@pytest.mark.parametrize("command", BASES)
def test_missing_files_and_directories(command, tmp_path, capsys):
    for place in (tmp_path, tmp_path / "nowhere.yaml", tmp_path / "no" / "such.yaml", "\x00"):
        assert main([command, str(place), "--out", str(tmp_path / "results")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("place", ["", "nowhere", "\x00"])
def test_extend_of_what_is_no_study(place, tmp_path, capsys):
    assert main(["extend", str(tmp_path / place), "--paths", "100"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
