"""YAML of a configuration: every text has the one meaning that all readers give it, or is answered by one sentence."""

import contextlib
import io
import math
import os

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smesolve.errors import SmesolveError
from smesolve.study.command_line import main
from smesolve.study.yaml_reader import read_file, read_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-1", 0.1),
        ("1E+5", 1e5),
        (".5", 0.5),
        ("-.5", -0.5),
        ("5.", 5.0),
        ("-0", 0),
        ("+7", 7),
        ("0e-400", 0.0),
        ("-.INF", -math.inf),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("y", "y"),
        ("[y, n]", ["y", "n"]),
        ("'0100'", "0100"),
        ('"yes"', "yes"),
        ("!!str 5", "5"),
        ("", None),
        ("~", None),
        ("a: TRUE", {"a": True}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: |\n  1:30\n", {"a": "1:30\n"}),
        ("${oc.env:HOME}", "${oc.env:HOME}"),
    ],
)
def test_a_value_is_read_as_it_is_meant(text, expected):
    value = read_yaml(text, "text")
    assert value == expected and type(value) is type(expected)


LAUGHS = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + last] * 9)}]\n" for last, name in ("ab", "bc", "cd", "de", "ef", "fg")
)
REFUSED = {
    "1:30": "one number to some",
    "12:30:45.5": "one number to some",
    "0100": "one number to some",
    "-08": "one number to some",
    "1_000": "one number to some",
    "1_0.5e3": "one number to some",
    "0x1F": "one number to some",
    "0o14": "one number to some",
    "0b11": "one number to some",
    "._": "one number to some",
    "[1,000]": "one number to some",
    "yes": "true or false to some",
    "a: {b: [Off]}": "true or false to some",
    "{a: 1, a: 1}": "'a' is given twice",
    "a: 1\nb:\n  c: 1\n  c: 2": "line 4: key 'c' is given twice",
    "a: {x: 1}\nb: {<<: {x: 2}}": "merge key",
    "&a [*a]": "too many values",
    "a: &a {b: *a}": "too many values",
    LAUGHS: "too many values",
    "a: 1\n---\nb: 2": "more than one document",
    "a:\n\t- 1": "has a tab at line 2",
    "a: 1\n\tb: 2": "has a tab at line 2",
    "1: 2": "has the key '1'",
    "null: 2": "has the key 'null'",
    "[1]: 2": "has the key a sequence",
    "!!python/object/apply:os.system ['true']": "tag",
    "!!binary aGk=": "tag",
    "!!set {a}": "tag",
    "!a b": "tag",
    "!!int x": "type of its tag",
    "!!bool yes": "true or false to some",
    "1e400": "beyond the range of floats",
    "1e-400": "beyond the range of floats",
    "9" * 5000: "beyond the range of floats",
    "[" * 100_000: "nested too deeply",
    "{" * 100_000: "nested too deeply",
    "[" * 30 + "]" * 30: "too deep",
    "*a": "not valid YAML",
    "a: 1\x00": "not valid YAML",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: ascii(text[:20]))
def test_what_has_no_one_meaning_is_answered_by_one_sentence(text):
    with pytest.raises(SmesolveError) as refused:
        read_yaml(text, "text")
    sentence = str(refused.value)
    assert REFUSED[text] in sentence and "\n" not in sentence and sentence.endswith(".") and "; " in sentence


@pytest.mark.parametrize(
    "text", ["1" * 90_000 + "x", "1_" * 45_000 + "x", "1:1" * 30_000, "- " * 100 + "1", "a: " + "-" * 90_000]
)
def test_long_scalars_take_no_long_time(text):
    with contextlib.suppress(SmesolveError):
        read_yaml(text, "text")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"5", "must hold lines 'key: value', got int"),
        (b"\xff\xfea\x00", "is not UTF-8 text"),
        ("é: 1".encode("latin-1"), "is not UTF-8 text"),
        (b"\x7fELF\x02\x01", "is not valid YAML"),
        (b"a: 1\n" * 30_000, "has 150000 bytes, more than 100000;"),
    ],
)
def test_a_file_that_is_no_configuration_is_answered_by_one_sentence(content, words, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(SmesolveError, match=words):
        read_file(str(path))


def test_an_endless_file_is_refused():
    with pytest.raises(SmesolveError, match="more than 100000 bytes"):
        read_file("/dev/zero")


STUDY = ["--data.name", "nowhere.npz"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--horizon", "1:30"], "--horizon '1:30': '1:30' is one number to some"),
        (["--paths", "0100"], "--paths '0100'"),
        (["--seed=1_000"], "--seed '1_000'"),
        (["--network.bias", "yes"], "--network.bias 'yes'"),
        (["--lrs", "[0.1, 1:30]"], "--lrs '[0.1, 1:30]'"),
        (["--lrs", "['1:30']"], "lrs must be a list of numbers such as [0.1, 0.05], got '1:30' in it"),
        (["--lrs", "[0.1]", "--lrs", "[0.2]"], "--lrs is given twice, first by --lrs '[0.1]'"),
        (["--network", "{width: 3}", "--network.width", "4"], "--network.width is given twice"),
        (["--network", "{width: 3, width: 4}"], "'width' is given twice"),
        (["--network", "other.yaml"], "network must be a mapping with the keys width"),
        (["--lrs+", "0.1"], "key 'lrs+' is unknown; did you mean 'lrs'"),
        (["--hor", "1"], "key 'hor' is unknown; did you mean 'horizon'"),
        (["--horizon"], "--horizon needs a value"),
        (["--horizon", "--seed", "1"], "--horizon needs a value"),
        (["--horizon", "1e400"], "beyond the range of floats"),
        (["--horizon", ".inf"], "horizon must be finite, got inf"),
        (["--paths", "1e3"], "paths must be an integer, got 1000.0"),
        (["--paths", "true"], "paths must be an integer, got True"),
        (["--network.bias", "1"], "network.bias must be true or false, got 1"),
        (["--overwrite=no"], "--overwrite takes no value"),
        (["--config", "a.yaml", "--config", "b.yaml"], "CONFIG 'a.yaml' does not exist"),
        (["a.yaml", "b.yaml"], "CONFIG 'a.yaml' does not exist"),
        (["-x"], "key '-x' is unknown"),
        (["--", "extra"], "argument '--' names no option; leave it out, or write --KEY VALUE."),
        (["--=1"], "argument '--=1' names no option"),
        (["-"], "argument '-' names no option"),
    ],
)
def test_options_are_read_as_files_are(options, words, capsys):
    assert main(["weak-error", *STUDY, *options, "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("smesolve: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lrs: ['0.1']", "lrs must be a list of numbers such as [0.1, 0.05], got '0.1' in it"),
        ("paths: '100'", "paths must be an integer, got '100'"),
        ("data: {name: 5}", "data.name must be a string, got 5; put it into quotes"),
        ("lrs: [0.1, .nan]", "lrs[1] must be finite, got nan"),
        ("observables: [loss, 5]", "such as [loss], got 5 in it; put it into quotes"),
        ("network: {width: [4, a]}", "network.width must be a list of integers such as [1, 2], got 'a' in it"),
        ("orders: [1, '2']", "orders must be a list of integers and names such as [1, poisson], got '2' in it"),
        ("orders: [1, poison]", "orders[1] must be 1, 2 or 3, or 'quadratic' or 'poisson', got 'poison'"),
        ("orders: [1, quadratic]", "orders[1] must be 1, 2 or 3, or 'poisson', got 'quadratic'"),
        ("network: {width: a}", "network.width must be an integer, got 'a'"),
        ("data: other.yaml", "data must be a mapping"),
        ("data:", "data must be a mapping"),
        ("data: {nam: a}", "key 'data.nam' is unknown; did you mean 'data.name'"),
        ("data.name: a", "key 'data.name' must be nested in a file, data: {name: ...}"),
        ("config: other.yaml", "key 'config' is unknown"),
        ("print_config: true", "key 'print_config' is unknown"),
        ("overwrite: 1", "overwrite must be true or false, got 1"),
        ("network: {bias: null}", "network.bias must be true or false, got None"),
        ("seed: true", "seed must be an integer, got True"),
        ("seed: 1.0", "seed must be an integer, got 1.0"),
        ("class_path: os.system", "key 'class_path' is unknown"),
        ("data: {class_path: os.system, init_args: {}}", "key 'data.class_path' is unknown"),
    ],
)
def test_values_have_the_types_of_their_keys(text, words, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    assert main(["weak-error", str(path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_configuration_is_read_in_utf_8_whatever_the_locale_is(tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + "data: {name: 'données.npz'}\n".encode())
    assert main(["weak-error", str(path), "--dry-run"]) == 2
    assert "data.name='données.npz': no such file" in capsys.readouterr().err


# --- any text ----------------------------------------------------------------------------------------------------

WORDS = ["a", "lrs", "data", "name", "network", "width", "1:30", "0100", "yes", "null", "1e-1", ".inf", "<<", "*a"]
WORDS += [*"{}[]'\"#\t\n\x00\u2028\U0001f600", "&a ", ": ", "- ", ", ", "\n  ", "|\n ", "!!str "]
WORDS += ["${HOME}", "---\n", "...\n", "%YAML 1.1\n", "!!python/name:os.system "]
PIECES = st.lists(st.sampled_from(WORDS), max_size=25).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["lrs", "data", "name", "a"]), inner),
)
DUMPED = VALUES.map(lambda value: yaml.safe_dump(value, allow_unicode=True))
ANY = PIECES | DUMPED | st.text(max_size=40)


def some(count):
    return settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )


@some(40)
@given(ANY)
@example("!!python/object/apply:os.system ['touch witness']")
def test_any_file_is_a_configuration_or_answered_by_one_sentence(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    path = folder / "study.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    told = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = main(["weak-error", str(path), "--data.name", "nowhere.npz", "--dry-run"])
    assert code == 2, "there is no such file, if nothing else"
    error = told.getvalue()
    assert error.startswith("smesolve: ") and error.endswith(".\n") and error.count("\n") == 1
    assert os.listdir(folder) == ["study.yaml"]


@some(300)
@given(ANY)
def test_any_text_is_a_value_or_answered_by_one_sentence(text):
    try:
        value = read_yaml(text, "text")
    except SmesolveError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and isinstance(error, SmesolveError)
    else:
        assert isinstance(value, (type(None), bool, int, float, str, list, dict))


@some(100)
@given(VALUES)
def test_what_yaml_writes_is_read_again(value):
    try:
        again = read_yaml(yaml.safe_dump(value, sort_keys=False), "text")
    except SmesolveError as error:
        assert "beyond the range" in str(error) or "true or false" in str(error)
    else:
        assert again == value or repr(again) == repr(value)
