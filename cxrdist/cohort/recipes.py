"""Recipes of cohorts: which images of which sources, read from YAML and checked before any source is looked at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from cxrdist.cohort.sources.kinds import KINDS
from cxrdist.config.document import Document, KeyPath, parse_document
from cxrdist.config.location import with_home
from cxrdist.config.section import Section
from cxrdist.errors import UserError, nearest, one_of

_Model = TypeVar("_Model", bound=Section)

_COMPARED = ("label", "where", "view_position")
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_EXPECTED = {
    "string_pattern_mismatch": "letters, digits, dots, hyphens and underscores, starting with a letter or digit",
    "dict_type": "keys with values",
    "list_type": "a list",
    "model_type": "keys with values",
    "string_type": "a word",
    "int_type": "a whole number",
    "bool_type": "true or false",
}


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(each, str) for each in values):
        raise ValueError("should be quoted text, or a list of such")
    return tuple(values)


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class Rule(Section):
    """Which images of one source are taken; all conditions must hold."""

    source: str
    label: str | None = None
    """After `labels` of the recipe."""
    where: dict[str, Texts] = Field(default_factory=dict)
    """By column of the source: the values that are meant."""
    view_position: Texts | None = None
    has_mask: bool = False
    """Whether images without a lung mask are left out."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Exactly so many, drawn by the recipe's seed; by default all."""


class Duplicates(Section):
    """What is done where two images are of the same radiograph."""

    merge: bool = False
    """Whether their groups become one."""


class _RecipeFile(Section):
    name: Annotated[str, Field(pattern=_NAME)]
    seed: Annotated[int, Field(ge=0)] = 0
    sources: Annotated[dict[Annotated[str, Field(pattern=_NAME)], dict[str, Any]], Field(min_length=1)]
    select: Annotated[list[Rule], Field(min_length=1)] | None = None
    like: Annotated[str, Field(min_length=1)] | None = None
    duplicates: Duplicates = Duplicates()
    labels: dict[str, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)


@dataclass(frozen=True)
class RecipeSource:
    """A source that a recipe names."""

    kind: str
    """Of `KINDS`."""
    options: Section
    """Of the kind."""


@dataclass(frozen=True)
class BuildRecipe:
    """How a cohort is built."""

    path: Path
    name: str
    seed: int
    sources: Mapping[str, RecipeSource]
    """By name, in the order in which they are read."""
    select: tuple[Rule, ...]
    """In order; empty where all images with a label are taken."""
    like: Path | None
    """A manifest, of which exactly the images are taken."""
    merge_duplicates: bool
    labels: Mapping[str, str]
    """The cohort's label of each of the sources'; those that are not named stay."""


def read_recipe(path: Path) -> BuildRecipe:
    """Read a recipe; the path of `like` starts at its folder.

    Raises:
        UserError: it cannot be read, or is not a valid recipe; one line for each fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"There is no recipe {str(path)!r}; the papers' are in data_manifests/recipes/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The recipe {str(path)!r} cannot be read: {error}.") from None
    document = parse_document(text, str(path), "a recipe")
    file = _validated(_RecipeFile, _with_texts_as_spelled(document), document, ())
    sources = {name: _source(name, options, document) for name, options in file.sources.items()}
    for place, rule in enumerate(file.select or ()):
        if rule.source not in sources:
            where = document.where(("select", place, "source"))
            raise UserError(f"{where}: the source {rule.source!r} is not {one_of(sources, rule.source)} of 'sources'.")
    if file.like is not None and (file.select is not None or file.labels):
        raise UserError(
            f"{document.where(('like',))}: 'like' takes images and labels from a manifest, so that 'select' and "
            "'labels' have no meaning beside it; keep one."
        )
    return BuildRecipe(
        path=path,
        name=file.name,
        seed=file.seed,
        sources=sources,
        select=tuple(file.select or ()),
        like=None if file.like is None else path.parent / _at_home(file.like, document),
        merge_duplicates=file.duplicates.merge,
        labels=file.labels,
    )


def _with_texts_as_spelled(document: Document) -> dict[str, Any]:
    """Return the recipe's data, with `010` where values are compared with a table's text, not 10."""
    data = dict(document.data)
    if isinstance(rules := data.get("select"), list):
        data["select"] = [
            rule | {key: document.as_spelled(("select", place, key)) for key in _COMPARED if key in rule}
            if isinstance(rule, dict)
            else rule
            for place, rule in enumerate(rules)
        ]
    if "labels" in data:
        data["labels"] = document.as_spelled(("labels",))
    return data


def _source(name: str, options: Mapping[str, Any], document: Document) -> RecipeSource:
    where = document.where(("sources", name))
    kind = options.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        given = f"is {kind!r}" if "kind" in options else "is missing"
        wrong = kind if isinstance(kind, str) else None
        raise UserError(f"{where}: 'kind' of the source {name!r} {given}; it is {one_of(KINDS, wrong)}.")
    others = {key: value for key, value in options.items() if key != "kind"}
    return RecipeSource(kind, _validated(KINDS[kind].options, others, document, ("sources", name)))


def _at_home(name: str, document: Document) -> Path:
    try:
        return with_home(name)
    except ValueError as error:
        raise UserError(f"{document.where(('like',))}: 'like' is {name!r}, but {error}.") from None


def _validated(model: type[_Model], data: Mapping[str, Any], document: Document, prefix: KeyPath) -> _Model:
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        faults = (_explain(detail, model, document, prefix) for detail in error.errors(include_url=False))
        raise UserError("\n".join(dict.fromkeys(faults))) from None


def _explain(detail: ErrorDetails, model: type[BaseModel], document: Document, prefix: KeyPath) -> str:
    path = (*prefix, *detail["loc"])
    where, dotted = document.where(path), ".".join(map(str, path))
    match detail["type"]:
        case "extra_forbidden":
            valid = [*_section_at(model, detail["loc"][:-1]).model_fields]
            if len(path) == 3 and path[0] == "sources":
                valid.insert(0, "kind")
            guess = nearest(str(path[-1]), valid)
            hint = f"did you mean {guess!r}? " if guess else ""
            return f"{where}: unknown key {dotted!r}; {hint}valid keys there: {', '.join(valid)}."
        case "missing":
            return f"{where}: key {dotted!r} is missing."
        case "value_error":
            return f"{where}: {dotted}: {detail['ctx']['error']}."
    expected = _EXPECTED.get(detail["type"]) or detail["msg"].removeprefix("Input should be ")
    return f"{where}: {dotted} is {str(detail['input'])[:100]!r}, but should be {expected}."


def _section_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel]:
    """The model of the section that a path leads to."""
    for part in path:
        field = model.model_fields.get(str(part))
        model = next(_models_in(field.annotation), model) if field is not None else model
    return model


def _models_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
