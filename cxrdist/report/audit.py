"""The shortcut audit: how much is told of the classes by what should tell nothing of them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from cxrdist.errors import CxrdistError
from cxrdist.report.table import show_number

Kind = Literal["whole", "segmented", "lungs_blanked", "source", "aspect", "size", "thumbnail"]
Shortcut = Literal["most", "found", "some", "not found", "nothing to compare"]
Interval = tuple[float, float, float]
"""A value, and the low and high end of its interval; NaN where undefined."""

CHANCE = 0.5
"""The AUC of a guess."""
MOST, FOUND, SOME = 0.75, 0.5, 0.25
"""Least shares of a network's distance from chance that it must keep without the lungs."""

RULE = (
    "A shortcut is judged by the share of a model's distance from chance that is left without the lungs: (AUC with "
    f"the lungs blanked - {CHANCE}) / (AUC of the whole image - {CHANCE}). Found: the interval of the former lies "
    f"above {CHANCE} and the share is at least {FOUND}; most: it is at least {MOST}. Not found: the interval reaches "
    f"{CHANCE}, or the share is below {SOME}. Some: in between. Nothing to compare: the interval of the whole image's "
    f"AUC does not lie above {CHANCE}."
)
CAUTION = (
    "An image without its lungs, or a thumbnail, can still show signs of a disease, so that not all it tells need be "
    "a shortcut; and a shortcut that was not found may be there."
)

_VIEWS = ("whole", "segmented", "lungs_blanked")
_PROBES = ("aspect", "size", "thumbnail")
_WORDS: Mapping[Shortcut, str] = {
    "most": "a shortcut is found, and most of what the network tells, it can tell without the lungs",
    "found": "a shortcut is found",
    "some": "some of what the network tells, it can tell without the lungs",
    "not found": "no shortcut found",
    "nothing to compare": "nothing to compare",
}


@dataclass(frozen=True)
class AuditRow:
    """The scores of one predictor.

    Raises:
        CxrdistError: the kind is unknown, the AUC is not of every class, or a network's name lacks its view.
    """

    name: str
    """Of a network on a view, the view and its model, such as `whole-resnet34`."""
    sees: str
    """What the predictor sees, such as "the whole image"; of a source, what is predicted from what."""
    kind: Kind
    classes: tuple[str, ...]
    """What is told apart: the study's classes, or sources."""
    images: int
    """Images tested."""
    accuracy: float
    majority: float
    """Share of the largest class."""
    macro: Interval
    """Mean of the classes' AUC."""
    by_class: tuple[Interval, ...]
    """AUC of each class against the rest."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise CxrdistError(f"The audit holds {self.name!r} of the unknown kind {self.kind!r}.")
        if len(self.by_class) != len(self.classes):
            raise CxrdistError(
                f"The audit holds {len(self.by_class)} values for the {len(self.classes)} classes of {self.name!r}."
            )
        if self.kind in _VIEWS and not self.name.startswith(f"{self.kind}-"):
            raise CxrdistError(f"The audit's network {self.name!r} is not named by its view {self.kind!r} and model.")

    @property
    def model(self) -> str:
        """The model of a network on a view; of any other predictor its name."""
        return self.name.removeprefix(f"{self.kind}-") if self.kind in _VIEWS else self.name


@dataclass(frozen=True)
class Audit:
    """All that was tried.

    Raises:
        CxrdistError: two predictors have one name, or networks to be compared tell different classes apart.
    """

    rows: tuple[AuditRow, ...]
    doubts: tuple[str, ...]
    """What the cohort says of classes and sources, sentences without final stop."""
    intervals: str
    """How the intervals were made, a sentence without final stop."""

    def __post_init__(self) -> None:
        if len({row.name for row in self.rows}) < len(self.rows):
            raise CxrdistError("The audit holds two predictors of one name.")
        if len({row.classes for row in self.rows if row.kind in _VIEWS}) > 1:
            raise CxrdistError("The audit's networks tell different classes apart and cannot be compared.")

    def to_json(self) -> dict[str, Any]:
        """Return objects, lists, texts and numbers; what is undefined is null."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Audit":
        """Return the audit that `to_json` was called on.

        Raises:
            CxrdistError: the value is not an audit's.
        """
        try:
            rows = tuple(_row_from_json(row) for row in value["rows"])
            return cls(rows, tuple(value["doubts"]), value["intervals"])
        except (LookupError, TypeError, ValueError) as error:
            raise CxrdistError(f"The audit cannot be read ({error!r}); make it again.") from None


@dataclass(frozen=True)
class Verdict:
    """Whether a model keeps without the lungs what it tells from the whole image."""

    model: str
    label: str | None
    """A class against the rest, or None for the mean over classes."""
    share: float
    """Of the AUC's distance from chance; NaN where there is nothing to compare."""
    shortcut: Shortcut


def audit_verdicts(audit: Audit) -> list[Verdict]:
    """Return a verdict for each model that saw whole images and lungs blanked: first on the mean, then on each class.

    share = (AUC with the lungs blanked - 0.5) / (AUC of the whole image - 0.5).

    - nothing to compare: the interval of the whole image's AUC does not lie above 0.5, or one is undefined;
    - not found: the interval of the blanked image's AUC does not lie above 0.5, or the share is below 0.25;
    - some: the share is below 0.5;
    - found: it is at least 0.5;
    - most: it is at least 0.75.
    """
    wholes = {row.model: row for row in audit.rows if row.kind == "whole"}
    pairs = [(wholes[row.model], row) for row in audit.rows if row.kind == "lungs_blanked" and row.model in wholes]
    return [
        _verdict(whole.model, label, from_whole, without_lungs)
        for whole, blanked in pairs
        for label, from_whole, without_lungs in zip(
            (None, *whole.classes), (whole.macro, *whole.by_class), (blanked.macro, *blanked.by_class), strict=True
        )
    ]


def audit_findings(audit: Audit) -> list[str]:
    """Return what was found, a sentence each: networks, sources, plain numbers of the files, doubts.

    Of the predictors that see no lungs, those whose AUC may be chance have no sentence; networks always have.
    """
    rows = {(row.kind, row.model): row for row in audit.rows}
    verdicts = audit_verdicts(audit)
    sentences = []
    for verdict in verdicts:
        if verdict.label is None:
            whole, blanked = rows["whole", verdict.model], rows["lungs_blanked", verdict.model]
            own = [one for one in verdicts if one.model == verdict.model and one.label is not None]
            sentences += [_network_sentence(verdict, whole, blanked), _classes_sentence(verdict.model, own)]
    told = [row for row in audit.rows if _above_chance(row.macro)]
    sentences += [_source_sentence(row) for row in told if row.kind == "source"]
    sentences += [_probe_sentence(row) for row in told if row.kind in _PROBES]
    return sentences + [f"{_capital(doubt)}." for doubt in audit.doubts]


def audit_warnings(audit: Audit) -> list[str]:
    """Return what must stand on top of a report, a sentence without final stop for each model with a shortcut."""
    sentences = []
    verdicts = audit_verdicts(audit)
    for model in dict.fromkeys(one.model for one in verdicts):
        told = [
            f"{one.label} ({_percent(one.share)})"
            for one in verdicts
            if one.model == model and one.label is not None and one.shortcut in ("found", "most")
        ]
        if told:
            sentences.append(
                f"shortcuts: {model} keeps much of what it tells of {', '.join(told)} when the lungs are blacked out "
                f"(share of the AUC's distance from {CHANCE} that is left)"
            )
    return sentences


def _verdict(model: str, label: str | None, whole: Interval, blanked: Interval) -> Verdict:
    if not _above_chance(whole) or any(math.isnan(end) for end in blanked):
        return Verdict(model, label, math.nan, "nothing to compare")
    share = (blanked[0] - CHANCE) / (whole[0] - CHANCE)
    shortcut: Shortcut
    if not _above_chance(blanked) or share < SOME:
        shortcut = "not found"
    elif share < FOUND:
        shortcut = "some"
    else:
        shortcut = "found" if share < MOST else "most"
    return Verdict(model, label, share, shortcut)


def _above_chance(area: Interval) -> bool:
    """Whether an AUC's interval lies above chance; an undefined one does not."""
    return area[1] > CHANCE


def _network_sentence(verdict: Verdict, whole: AuditRow, blanked: AuditRow) -> str:
    compared = "" if math.isnan(verdict.share) else f", {_percent(verdict.share)} of the distance from {CHANCE}"
    return (
        f"{verdict.model} has a macro AUC of {_area(whole.macro)} from the whole image and of {_area(blanked.macro)} "
        f"without the lungs{compared}: {_WORDS[verdict.shortcut]}."
    )


def _classes_sentence(model: str, verdicts: list[Verdict]) -> str:
    shares = [
        f"{one.label} {'' if math.isnan(one.share) else f'{_percent(one.share)} '}({one.shortcut})" for one in verdicts
    ]
    return f"{model} by class, as shares of the distance from {CHANCE}: {', '.join(shares)}."


def _source_sentence(row: AuditRow) -> str:
    return f"Predicting {_with_article(row.sees)} reaches {_reached(row, 'most frequent source')}."


def _probe_sentence(row: AuditRow) -> str:
    verb = "give" if row.kind == "size" else "gives"
    return f"{_capital(_with_article(row.sees))} alone {verb} {_reached(row, 'largest class')}."


def _with_article(sees: str) -> str:
    return sees if sees.startswith(("a ", "the ")) else f"the {sees}"


def _reached(row: AuditRow, largest: str) -> str:
    return (
        f"an AUC of {_area(row.macro)} and {_percent(row.accuracy)} accuracy, where always answering the {largest} "
        f"gives {_percent(row.majority)}"
    )


def _area(area: Interval) -> str:
    value, low, high = (show_number(number, 2) for number in area)
    return f"{value} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{show_number(100 * share, 0)} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _row_from_json(row: Mapping[str, Any]) -> AuditRow:
    return AuditRow(
        name=row["name"],
        sees=row["sees"],
        kind=row["kind"],
        classes=tuple(row["classes"]),
        images=int(row["images"]),
        accuracy=_number(row["accuracy"]),
        majority=_number(row["majority"]),
        macro=_interval(row["macro"]),
        by_class=tuple(_interval(one) for one in row["by_class"]),
    )


def _interval(value: Any) -> Interval:
    centre, low, high = (_number(one) for one in value)
    return centre, low, high


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
