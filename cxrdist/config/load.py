"""Read a study file, apply `--set`, and explain what is wrong with it."""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cxrdist.config.document import Document, KeyPath, parse_document, parse_value
from cxrdist.config.location import absolute_path, is_remote, parse_bucket
from cxrdist.config.models import Study
from cxrdist.errors import UserError, nearest, one_of

_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "keys with values",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list, such as [a, b]",
    "model_type": "keys with values",
    "string_pattern_mismatch": "letters, digits, dots, hyphens and underscores, starting with a letter or digit",
    "string_too_long": "at most {max_length} characters long",
    "string_too_short": "at least {min_length} character long",
    "string_type": "a word",
    "string_unicode": "text of valid characters",
    "too_short": "a list of at least {min_length}",
}
_BUILT_IN_WEIGHTS = ("imagenet", "none")
_BUILT_IN_LUNGS = "builtin"

_shown = reprlib.Repr()
_shown.maxlevel = 2
_shown.maxstring = _shown.maxother = _shown.maxlong = 100


def load_study(
    path: Path,
    *,
    settings: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Study:
    """Read a study file and return it with absolute paths.

    Args:
        path: the YAML file; relative paths in it start at its folder.
        settings: `key=value` texts such as `training.epochs=5`; relative paths in them start at the working folder.
        overrides: values by dotted key, from options of the command line; None leaves the file's value.

    Raises:
        UserError: the file cannot be read or is not a valid study; one line for each fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"There is no study file {str(path)!r}; the papers' are in the folder jobs/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The study file {str(path)!r} cannot be read: {error}.") from None
    document = parse_document(text, str(path))
    changed: dict[str, str] = {}
    for setting in settings:
        key, value = parse_setting(setting)
        _put(document.data, key, value, f"--set {setting}")
        changed[key] = f"--set {setting}"
    for key, value in (overrides or {}).items():
        if value is not None:
            _put(document.data, key, value, key)
            changed[key] = f"the option for {key}"
    return _with_absolute_paths(validated_study(document, changed), path.resolve().parent, document, changed)


def validated_study(document: Document, changed: Mapping[str, str] | None = None) -> Study:
    """Return the study that a document describes, its paths as they stand there.

    Args:
        document: the YAML.
        changed: by dotted key, the option that set the value.

    Raises:
        UserError: it is not a valid study; one line for each fault.
    """
    try:
        return Study.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        lines = dict.fromkeys(_explain(detail, document, changed or {}) for detail in _without_union_echoes(details))
        raise UserError("\n".join(lines)) from None


def parse_setting(setting: str) -> tuple[str, Any]:
    """Split `key=value`; the value is YAML.

    >>> parse_setting("training.epochs=5")
    ('training.epochs', 5)
    """
    key, equals, value = setting.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {setting!r} should be key=value, such as --set training.epochs=5.")
    return key.strip(), parse_value(value, f"--set {setting}")


def _put(data: dict[str, Any], key: str, value: Any, origin: str) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        inner = data.setdefault(parent, {})
        if inner is None:
            inner = data[parent] = {}
        if not isinstance(inner, dict):
            raise UserError(f"{origin}: {'.'.join(parents[: depth + 1])!r} holds a value, not keys.")
        data = inner
    data[last] = value


def _with_absolute_paths(study: Study, folder: Path, document: Document, changed: Mapping[str, str]) -> Study:
    def absolute(key: str, value: str) -> str:
        base = Path.cwd() if any(_is_within(key, other) for other in changed) else folder
        try:
            return str(absolute_path(value, base))
        except ValueError as error:
            where = _where(tuple(key.split(".")), document, changed)
            raise UserError(f"{where}: {key} is {value!r}, but should be a path: {error}.") from None

    updates: dict[str, BaseModel] = {}
    cohort = {"manifest": absolute("cohort.manifest", study.cohort.manifest)}
    if study.cohort.images is not None:
        cohort["images"] = absolute("cohort.images", study.cohort.images)
    updates["cohort"] = study.cohort.model_copy(update=cohort)
    if study.model.weights not in _BUILT_IN_WEIGHTS:
        weights = absolute("model.weights", study.model.weights)
        updates["model"] = study.model.model_copy(update={"weights": weights})
    if study.lungs.weights != _BUILT_IN_LUNGS:
        weights = absolute("lungs.weights", study.lungs.weights)
        updates["lungs"] = study.lungs.model_copy(update={"weights": weights})
    execution: dict[str, str] = {}
    if study.execution.cache is not None:
        cache = study.execution.cache
        if is_remote(cache):
            parse_bucket(cache, "execution.cache")
        else:
            cache = absolute("execution.cache", cache)
        execution["cache"] = cache
    if study.execution.node_cache is not None:
        execution["node_cache"] = absolute("execution.node_cache", study.execution.node_cache)
    updates["execution"] = study.execution.model_copy(update=execution)
    return study.model_copy(update=updates)


def _without_union_echoes(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Keep one of the errors that pydantic reports for each member of a union, for the same key."""
    kept: dict[KeyPath, ErrorDetails] = {}
    for detail in details:
        key = _key_path(detail)
        if key not in kept or kept[key]["type"] == "literal_error":
            kept[key] = detail
    return list(kept.values())


def _key_path(detail: ErrorDetails) -> KeyPath:
    """Drop the names of union members from pydantic's location."""
    if detail["type"] == "extra_forbidden":
        # Any word may be an unknown key, also one that looks like a member's name.
        return detail["loc"]
    return tuple(
        part
        for part in detail["loc"]
        if isinstance(part, int) or not (part.startswith(("literal[", "constrained-")) or part in ("int", "str"))
    )


def _is_within(key: str, section: str) -> bool:
    """Return whether the dotted `key` is `section` or a key in it."""
    return f"{key}.".startswith(f"{section}.")


def _where(path: KeyPath, document: Document, changed: Mapping[str, str]) -> str:
    """Return the place that a person has to change: an option where it set the value, else a line of the file."""
    dotted = ".".join(str(part) for part in path)
    origin = next((changed[key] for key in changed if _is_within(dotted, key)), None)
    if origin is not None:
        return origin
    partly = [changed[key] for key in changed if _is_within(key, dotted)]
    return " with ".join([document.where(path), *partly])


def _explain(detail: ErrorDetails, document: Document, changed: Mapping[str, str]) -> str:
    path = _key_path(detail)
    dotted = ".".join(str(part) for part in path)
    where = _where(path, document, changed)
    parent, annotation = _field(path)
    match detail["type"]:
        case "extra_forbidden":
            name, valid = str(path[-1]), list(parent.model_fields)
            section = ".".join(str(part) for part in path[:-1]) or "a study file"
            guess = nearest(name, valid)
            hint = f"did you mean {guess!r}? " if guess else ""
            return f"{where}: unknown key {dotted!r}; {hint}valid keys of {section}: {', '.join(valid)}."
        case "missing":
            return f"{where}: key {dotted!r} is missing; see `cxrdist schema`."
        case "value_error":
            return f"{where}: {dotted}: {detail['ctx']['error']}."
    valid_words = _literals(annotation)
    value = detail["input"]
    shown = _shown.repr(value)
    if valid_words and detail["type"] in ("literal_error", "int_type", "int_parsing"):
        choice = one_of(valid_words, value if isinstance(value, str) else None)
        also = " or a whole number" if _takes(annotation, int) else ""
        return f"{where}: {dotted} is {shown}, but should be {choice}{also}."
    expected = _EXPECTED.get(detail["type"]) or detail["msg"].removeprefix("Input should be ")
    return f"{where}: {dotted} is {shown}, but should be {expected.format(**detail.get('ctx', {}))}."


def _field(path: KeyPath) -> tuple[type[BaseModel], Any]:
    """Return the section that holds the last key of `path`, and that key's annotation (None where unknown)."""
    section: type[BaseModel] = Study
    annotation: Any = Study
    for part in path:
        models = (m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel))
        section = next(models, section)
        if isinstance(part, int):
            annotation = next(iter(get_args(annotation)), None)
        else:
            found = section.model_fields.get(part)
            annotation = found.annotation if found else None
    return section, annotation


def _members(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    if hasattr(annotation, "__metadata__"):
        return _members(get_args(annotation)[0])
    return [annotation]


def _literals(annotation: Any) -> list[str]:
    return [str(v) for m in _members(annotation) if get_origin(m) is Literal for v in get_args(m)]


def _takes(annotation: Any, kind: type) -> bool:
    return kind in _members(annotation)
