"""YAML with positions: plain data and, for every key, the line where it stands."""

import re
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
    text = str(loader.construct_scalar(node))
    try:
        return int(text)
    except ValueError:
        # Python refuses thousands of digits.
        raise yaml.constructor.ConstructorError(problem="too long a number", problem_mark=node.start_mark) from None


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
        data, lines = _load(text, name)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(f"{at}: this is not YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: this is not YAML: {str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise UserError(f"{name}: this is nested too deep for a study file.") from None
    if not isinstance(data, dict):
        raise UserError(f"{name}: a study file is a mapping of keys to values; see `cxrdist schema`.")
    return Document(name, data, lines)


def parse_value(text: str, name: str) -> Any:
    """Parse one YAML value, as on the right of `--set key=value`; what is not YAML is a string.

    Raises:
        UserError: a key in it stands twice or is not a word, or a value has a tag.
    """
    try:
        return _load(text, name)[0]
    except (yaml.YAMLError, RecursionError):
        return text


def _load(text: str, name: str) -> tuple[Any, dict[KeyPath, int]]:
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = _lines_by_key(loader, node, name)
        return loader.construct_document(node), lines
    finally:
        loader.dispose()


def _lines_by_key(loader: _CoreLoader, root: yaml.Node, name: str) -> dict[KeyPath, int]:
    """Return the line of each key and list item, having refused what the constructor would take without a word."""
    lines: dict[KeyPath, int] = {}
    visited: set[int] = set()
    nodes: list[tuple[KeyPath, yaml.Node]] = [((), root)]
    for path, node in nodes:
        # Aliases make a document a graph, which may have circles and very many paths.
        if id(node) in visited:
            continue
        visited.add(id(node))
        _refuse_tag(loader, node, name)
        if isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode) or key.tag != _TAGS + "str":
                    raise UserError(f"{name}:{line}: a key must be a word.")
                if key.value in seen:
                    raise UserError(
                        f"{name}:{line}: key {key.value!r} stands here and in line {seen[key.value]}; keep one of them."
                    )
                seen[key.value] = line
                lines[(*path, key.value)] = line
                nodes.append(((*path, key.value), value))
        elif isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                lines[(*path, index)] = item.start_mark.line + 1
                nodes.append(((*path, index), item))
    return lines


def _refuse_tag(loader: _CoreLoader, node: yaml.Node, name: str) -> None:
    plain = not isinstance(node, yaml.ScalarNode) or node.style is None
    usual = loader.resolve(type(node), node.value, (plain, not plain))  # type: ignore[no-untyped-call]
    if node.tag != usual:
        tag = node.tag.replace(_TAGS, "!!")
        raise UserError(f"{name}:{node.start_mark.line + 1}: a study file has plain values, without the tag {tag!r}.")
