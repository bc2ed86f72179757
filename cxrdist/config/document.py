"""YAML with positions: plain data and, for every key, the line where it stands.

All YAML is read here, and so by one set of rules; what is written here is read as the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import yaml

from cxrdist.errors import UserError

KeyPath = tuple[str | int, ...]

_STUDY_FILE: Final = "a study file"

_TAGS = "tag:yaml.org,2002:"
_WHERE_TO_LOOK = {_STUDY_FILE: "see `cxrdist schema`", "a recipe": "see data_manifests/README.md"}


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core types: `off` is a word and `1e-3` a number, unlike in YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface


class CoreDumper(yaml.SafeDumper):
    """Quotes the words that are something else in YAML 1.2, such as `1e-3`, and those that are in YAML 1.1."""


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
    CoreDumper.add_implicit_resolver(_TAGS + _tag, re.compile(_pattern), _first)


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
    spelled: dict[KeyPath, str] = field(default_factory=dict)
    """The text of each value that is one, `010` of what is the number 10."""

    def where(self, path: KeyPath) -> str:
        """Return `file:line` of the key, or of the nearest one around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.name}:{self.lines[path[:end]]}"
        return self.name

    def as_spelled(self, path: KeyPath) -> Any:
        """Return what stands at a path, numbers and truths as the text that they are written as.

        It is for what is compared with the text of tables. Empty values stay None, and so do aliases of mappings and
        lists what they are.
        """
        value: Any = self.data
        for part in path:
            value = value[part]
        return self._as_spelled(value, path)

    def _as_spelled(self, value: Any, path: KeyPath) -> Any:
        if path not in self.lines:
            return value
        if isinstance(value, Mapping):
            return {key: self._as_spelled(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._as_spelled(inner, (*path, index)) for index, inner in enumerate(value)]
        return value if value is None else self.spelled.get(path, value)


def dump_document(data: Any) -> str:
    """Return plain data as YAML, which `parse_document` and readers of YAML 1.1 read as the same."""
    return str(yaml.dump(data, Dumper=CoreDumper, sort_keys=False, allow_unicode=True))


def parse_document(text: str, name: str, what: Literal["a study file", "a recipe"] = _STUDY_FILE) -> Document:
    """Parse a YAML mapping.

    Args:
        text: the YAML.
        name: of the file, for messages.
        what: it is meant to be, for messages.

    Raises:
        UserError: not YAML, not a mapping, or a key that stands twice.
    """
    try:
        data, lines, spelled = _load(text, name, what)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f"{name}:{mark.line + 1}" if mark else name
        raise UserError(f"{at}: this is not YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: this is not YAML: {str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise UserError(f"{name}: this is nested too deep for {what}.") from None
    if not isinstance(data, dict):
        raise UserError(f"{name}: {what} is a mapping of keys to values; {_WHERE_TO_LOOK[what]}.")
    return Document(name, data, lines, spelled)


def parse_value(text: str, name: str) -> Any:
    """Parse one YAML value, as on the right of `--set key=value`; what is not YAML is a string.

    Raises:
        UserError: a key in it stands twice or is not a word, or a value has a tag.
    """
    try:
        return _load(text, name, _STUDY_FILE)[0]
    except (yaml.YAMLError, RecursionError):
        return text


def _load(text: str, name: str, what: str) -> tuple[Any, dict[KeyPath, int], dict[KeyPath, str]]:
    loader = _CoreLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}, {}
        lines, spelled = _by_key(loader, node, name, what)
        return loader.construct_document(node), lines, spelled
    finally:
        loader.dispose()


def _by_key(
    loader: _CoreLoader, root: yaml.Node, name: str, what: str
) -> tuple[dict[KeyPath, int], dict[KeyPath, str]]:
    """Return the line of each key and list item, and the text of each plain value.

    What the constructor would take without a word is refused before.
    """
    lines: dict[KeyPath, int] = {}
    spelled: dict[KeyPath, str] = {}
    visited: set[int] = set()
    nodes: list[tuple[KeyPath, yaml.Node]] = [((), root)]
    for path, node in nodes:
        if isinstance(node, yaml.ScalarNode):
            spelled[path] = node.value
        # Aliases make a document a graph, which may have circles and very many paths.
        if id(node) in visited:
            continue
        visited.add(id(node))
        _refuse_tag(loader, node, name, what)
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
    return lines, spelled


def _refuse_tag(loader: _CoreLoader, node: yaml.Node, name: str, what: str) -> None:
    plain = not isinstance(node, yaml.ScalarNode) or node.style is None
    usual = loader.resolve(type(node), node.value, (plain, not plain))  # type: ignore[no-untyped-call]
    if node.tag != usual:
        tag = node.tag.replace(_TAGS, "!!")
        raise UserError(f"{name}:{node.start_mark.line + 1}: {what} has plain values, without the tag {tag!r}.")
