"""The studies of a comparison: what they are called, how they differ, and what is said of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from cxrdist.report.results import Results
from cxrdist.report.table import Cell, Column, Table
from cxrdist.report.tables import file_name
from cxrdist.study.folds import Folds

_HASH_DIGITS = 12


@dataclass(frozen=True)
class ComparedStudy:
    """A complete study, of the same cohort as the others."""

    label: str
    """Names it; no other study has the same, nor one that makes the same file name."""
    folder: str
    """Its run directory, from the page's folder."""
    fingerprint: str
    weights: Mapping[str, str]
    """By model, the hash of the weights that training starts from."""
    folds: Folds
    results: Results


def study_labels(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """Return what each study is called: its name, else its run directory's where names are equal, else with a number.

    Args:
        names: the studies' names.
        folders: the names of their run directories.
    """
    files = [file_name(name) for name in names]
    labels = [
        folder if files.count(file) > 1 else name for name, folder, file in zip(names, folders, files, strict=True)
    ]
    if len({file_name(label) for label in labels}) == len(labels):
        return labels
    return [f"{number}. {label}" for number, label in enumerate(labels, start=1)]


def studies_table(studies: Sequence[ComparedStudy]) -> Table:
    """One row a study: which it is and where."""
    seeds = {one.results.seed for one in studies}
    redrawn = (
        f"Intervals and tests of all studies are of the same resamples, drawn by the seed of {studies[0].label}; "
        "those of another study's own report may differ a little.",
    )
    return Table(
        name="studies",
        title="Studies compared",
        caption="All of the same images with the same classes; run directories as seen from this page.",
        columns=(
            Column("Study"),
            Column("Run directory"),
            Column("Fingerprint"),
            Column("Seed"),
            Column("Folds"),
            Column("Variants"),
        ),
        rows=tuple(
            (
                one.label,
                one.folder,
                one.fingerprint[:_HASH_DIGITS],
                str(one.results.seed),
                one.results.n_folds,
                len(one.results.variants),
            )
            for one in studies
        ),
        notes=redrawn if len(seeds) > 1 else (),
    )


def settings_table(studies: Sequence[ComparedStudy]) -> Table:
    """One row a key of the study files whose values differ, one column a study; no row where none does."""
    settings = [_settings(one) for one in studies]
    keys = dict.fromkeys(key for own in settings for key in own)
    values = {key: [own.get(key) for own in settings] for key in keys}
    # Where a study makes no use of masks or of a model, its views and models say so.
    rows: list[tuple[Cell, ...]] = [(key, *own) for key, own in values.items() if len(set(own) - {None}) > 1]
    return Table(
        name="settings",
        title="Settings that differ",
        caption="Keys of the study files whose values are not the same in all, without names, paths, execution and "
        "tracking.",
        columns=(Column("Setting"), *(Column(one.label) for one in studies)),
        rows=tuple(rows),
    )


def _settings(study: ComparedStudy) -> dict[str, str]:
    """Return what the study file says, and the content of the files that it names."""
    config, masks = study.results.config, study.results.masks
    if config is None:
        return {}
    # What changes no result of one cohort is left out.
    found = _flat(
        config.model_dump(
            mode="json",
            exclude={"name": True, "cohort": {"manifest", "images"}, "execution": True, "tracking": True},
        )
    )
    # A folder does not matter, and which file it is the hash says.
    for key in ("model.weights", "lungs.weights"):
        found[key] = PurePath(found[key]).name
    if masks is not None:
        found["origin of lung masks"] = masks.origin.replace(config.lungs.weights, found["lungs.weights"])
    return found | {f"weights of {model}": text[:_HASH_DIGITS] for model, text in study.weights.items()}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        else:
            found[name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def joined_warnings(studies: Sequence[ComparedStudy]) -> list[str]:
    """Return the warnings of all studies, each once, after the labels of those that have it."""
    whose: dict[str, list[str]] = {}
    for one in studies:
        for warning in dict.fromkeys(one.results.warnings):
            whose.setdefault(warning, []).append(one.label)
    return [f"{', '.join(labels)}: {warning}" for warning, labels in whose.items()]


def joined_facts(studies: Sequence[ComparedStudy]) -> list[tuple[str, str]]:
    """Return what is needed to do the studies again; what is the same in all of them once."""
    by_study = [dict(one.results.facts) for one in studies]
    facts: list[tuple[str, str]] = []
    for name in dict.fromkeys(name for own in by_study for name in own):
        values = [own.get(name) for own in by_study]
        if values[0] is not None and len(set(values)) == 1:
            facts.append((f"Every study: {name}", values[0]))
        else:
            facts += [
                (f"{one.label}: {name}", value) for one, value in zip(studies, values, strict=True) if value is not None
            ]
    return facts
