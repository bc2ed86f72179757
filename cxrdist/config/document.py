"""YAML with positions: plain data and, for every key, the line where it stands."""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

from cxrdist.errors import UserError

KeyPath = tuple[str | int, ...]

_TAGS = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core types: `off` is a word and `1e-3` a number, unlike in YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface


for _tag, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "float",
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    _CoreLoader.add_implicit_resolver(_TAGS + _tag, re.compile(_pattern), _first)


def _construct_int(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    # YAML 1.1 would read 010 as eight.
    return int(str(loader.construct_scalar(node)))


_CoreLoader.add_constructor(_TAGS + "int", _construct_int)


@dataclass(frozen=True)
class Document:
    """A YAML document as plain data, with the line (from 1) of each key path."""

    name: str
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """Return `file:line` of the key, or of the nearest one around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name


def parse_document(text: str, name: str) -> Document:
    """Parse a YAML mapping.

    Raises:
        UserError: not YAML, not a mapping, or a key that stands twice.
    """
    try:
        loader = _CoreLoader(text)
        try:
            node = loader.get_single_node()
            lines: dict[KeyPath, int] = {}
            _check(node, (), lines, name)
            data = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(f"{at}: this is not YAML: {error.problem}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{name}: this is not YAML: {error}.") from None
    if not isinstance(data, dict):
        raise UserError(f"{name}: a study file is a mapping of keys to values; see `cxrdist schema`.")
    return Document(name, data, lines)


def parse_value(text: str) -> Any:
    """Parse one YAML value, as on the right of `--set key=value`; what is not YAML is a string."""
    try:
        loader = _CoreLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError:
        return text


def _check(node: yaml.Node | None, path: KeyPath, lines: dict[KeyPath, int], name: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{name}:{line}: a key must be a word.")
            if key.value in seen:
                raise UserError(
                    f"{name}:{line}: key {key.value!r} stands here and in line {seen[key.value]}; keep one of them."
                )
            seen[key.value] = line
            lines[(*path, key.value)] = line
            _check(value, (*path, key.value), lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _check(item, (*path, index), lines, name)
