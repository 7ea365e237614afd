"""YAML of a configuration: every string has one meaning, or is refused with one sentence.

Scalars are those of the core schema of YAML 1.2, in decimal. Scalars that YAML 1.1 reads differently (1:30 as 90, 0100
as 64, yes as true, 1_000 as 1000) are refused, as are repeated keys, merge keys, tags, several documents, and files and
aliases that are too large for a configuration. The result contains only mappings, lists, strings, numbers, booleans and
null.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from smesolve.errors import SmesolveError, shown

__all__ = ["read_file", "read_yaml"]

MOST_BYTES = 100_000
"""Largest size of a file or an option. A configuration has a few kilobytes; PyYAML reads about 100 kB per second."""

MOST_VALUES, MOST_DEPTH = MOST_BYTES, 20
"""Largest number of values of a document with all aliases written out, and largest depth of nesting."""

MOST_DIGITS = 308
"""Largest number of digits of an integer: floats have no more."""

TAG = "tag:yaml.org,2002:"

PATTERNS: dict[str, tuple[str, str]] = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""Plain scalars of each kind, and their first characters; an empty one is null."""

OTHERWISE_NUMBER = re.compile(
    r"[-+]?0[0-9_]+"  # octal in YAML 1.1
    r"|[-+]?0[box][0-9a-fA-F_]+"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"  # base 60 in YAML 1.1
    r"|[-+]?(?=[0-9.]*_)(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?"
)
"""Plain scalars that are numbers to some YAML readers, and other numbers or strings to others."""

OTHERWISE_BOOL = re.compile(r"yes|no|on|off", re.IGNORECASE)
"""Plain scalars that are booleans to some YAML readers, and strings to others."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no stubs
    """PyYAML's reader in Python, with the plain scalars of `PATTERNS`; the reader in C does not bound its stack."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for _kind, (_pattern, _first) in PATTERNS.items():
    _Loader.add_implicit_resolver(TAG + _kind, re.compile(f"^(?:{_pattern})$"), ["", *_first])


def read_file(path: str) -> dict[str, Any]:
    """Return the mapping in a configuration file.

    Raises:
        SmesolveError: the file does not exist, or is not a configuration.
    """
    origin = f"CONFIG {path!r}"
    try:
        with Path(path).open("rb") as file:
            content, size = file.read(MOST_BYTES + 1), os.fstat(file.fileno()).st_size
        if len(content) > MOST_BYTES:
            raise _too_long(origin, size)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise SmesolveError(f"{origin} does not exist; give the path of a YAML file.") from None
    except UnicodeDecodeError:
        raise SmesolveError(f"{origin} is not UTF-8 text; save it as UTF-8.") from None
    except SmesolveError:
        raise
    except (OSError, ValueError) as error:  # ValueError: characters that no path may contain
        raise SmesolveError(f"{origin} cannot be read ({error}); give the path of a YAML file.") from None
    mapping = read_yaml(text, origin)
    if mapping is None:
        raise SmesolveError(f"{origin} is empty; give lines 'key: value'.")
    if not isinstance(mapping, dict):
        raise SmesolveError(f"{origin} must hold lines 'key: value', got {type(mapping).__name__}.")
    return mapping


def _too_long(origin: str, size: int) -> SmesolveError:
    """Return the error for an input of `size` bytes, which is 0 for pipes and devices."""
    bytes_ = f"{size} bytes, more than {MOST_BYTES}" if size > MOST_BYTES else f"more than {MOST_BYTES} bytes"
    return SmesolveError(f"{origin} has {bytes_}; give lines 'key: value' with shorter lists and strings.")


def read_yaml(text: str, origin: str) -> Any:
    """Return the value of a YAML string: None, bool, int, float, str, or lists and dictionaries of these.

    Args:
        text: one YAML document.
        origin: source of the string, for messages.

    Raises:
        SmesolveError: the string is not YAML, or has more than one meaning.
    """
    if len(text) > MOST_BYTES:
        raise _too_long(origin, len(text.encode(errors="surrogateescape")))
    try:
        node = _Loader(text).get_single_node()
    except RecursionError:
        raise SmesolveError(f"{origin} is nested too deeply; give lines 'key: value'.") from None
    except yaml.YAMLError as error:
        raise SmesolveError(f"{origin} {_invalid(error)}.") from None
    return None if node is None else _Reader(origin, "\n" in text.strip()).value(node, 0)


def _invalid(error: yaml.YAMLError) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or ""
    where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if "another document" in problem:
        return f"holds more than one document{where}; keep one"
    if "'\\t'" in problem:
        return f"has a tab{where}, where YAML allows spaces only; replace it"
    return f"is not valid YAML{where}; correct it there"


class _Reader:
    """Makes values from the nodes of one document."""

    def __init__(self, origin: str, several_lines: bool) -> None:
        self.origin, self.several_lines, self.count = origin, several_lines, 0

    def refused(self, node: yaml.Node, reason: str) -> SmesolveError:
        """Return the error for a node, with its line."""
        line = f", line {node.start_mark.line + 1}" if self.several_lines else ""
        return SmesolveError(f"{self.origin}{line}: {reason}.")

    def value(self, node: yaml.Node, depth: int) -> Any:
        """Return the value of a node; an alias is read again at each of its positions."""
        self.count += 1
        if self.count > MOST_VALUES or depth > MOST_DEPTH:
            raise self.refused(
                node,
                f"it holds too many values (more than {MOST_VALUES} with all aliases written out), or values too deep "
                f"inside each other (more than {MOST_DEPTH} levels); write less",
            )
        kind = node.tag.removeprefix(TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and kind in ("str", *PATTERNS):
            return self._scalar(node, kind)
        raise self.refused(node, f"the tag {shown(node.tag)} has no meaning in a configuration; leave it out")

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{TAG}str":
                shape = shown(key_node.value) if isinstance(key_node, yaml.ScalarNode) else f"a {key_node.id}"
                raise self.refused(key_node, f"it has the key {shape}; keys must be names such as keep_prob")
            key = key_node.value
            if key == "<<":
                raise self.refused(key_node, "the merge key << is read by some YAML readers only; write its keys out")
            if key in mapping:
                raise self.refused(key_node, f"key {shown(key)} is given twice; keep one of the two")
            mapping[key] = self.value(value_node, depth + 1)
        return mapping

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text = node.value
        if node.style is None and OTHERWISE_NUMBER.fullmatch(text):
            raise self.refused(
                node,
                f"{shown(text)} is one number to some YAML readers, and another or a string to others; write a "
                "decimal number without leading zeros or separators, or put a string into quotes",
            )
        if node.style is None and OTHERWISE_BOOL.fullmatch(text):
            raise self.refused(
                node,
                f"{shown(text)} is true or false to some YAML readers, and a string to others; write true or false, "
                "or put a string into quotes",
            )
        if kind == "str":
            return text
        if not re.fullmatch(PATTERNS[kind][0], text):
            raise self.refused(node, f"{shown(text)} does not have the type of its tag; leave the tag out")
        if kind == "null":
            return None
        return text.lower() == "true" if kind == "bool" else self._number(node, kind)

    def _number(self, node: yaml.ScalarNode, kind: str) -> int | float:
        text = node.value
        if kind == "int" and len(text.lstrip("-+")) <= MOST_DIGITS:
            return int(text)
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan")) if kind == "float" else math.inf
        digits = re.split("[eE]", text)[0]
        overflows = math.isinf(number) and "inf" not in text.lower()
        if overflows or (number == 0 and digits.strip("-+0.")):
            raise self.refused(node, f"{shown(text)} is beyond the range of floats; scale it")
        return number
