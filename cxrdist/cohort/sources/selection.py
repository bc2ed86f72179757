"""Which images of the sources are taken: by rules, or those of another manifest."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from cxrdist.cohort.missing import known
from cxrdist.cohort.recipes import Rule
from cxrdist.cohort.sources.listing import SourceImage, age_of, sex_of
from cxrdist.cohort.sources.sheet import Sheet
from cxrdist.errors import UserError, nearest, one_of
from cxrdist.study.seeds import derive_seed


@dataclass(frozen=True)
class Available:
    """What a source has for rules to choose from."""

    images: Sequence[SourceImage]
    columns: Sequence[str]
    """That `where` can name."""


def renamed(images: Sequence[SourceImage], labels: Mapping[str, str]) -> list[SourceImage]:
    """Return images with the cohort's labels instead of the sources'.

    Raises:
        UserError: a label to be renamed is that of no image.
    """
    known = {image.label for image in images} - {None}
    unknown = next((label for label in labels if label not in known), None)
    if unknown is not None:
        raise UserError(
            f"'labels' of the recipe renames {unknown!r}, which no image of the sources is labelled; a label there is "
            f"{one_of(sorted(map(str, known)), unknown)}."
        )
    return [replace(image, label=labels.get(image.label or "", image.label)) for image in images]


def select(sources: Mapping[str, Available], rules: Sequence[Rule], seed: int) -> list[SourceImage]:
    """Return the images that rules take, each once, by the first that takes it.

    A rule with a count takes the images of the smallest `derive_seed(seed, "select", image_id)`, so that the choice
    depends neither on the order of files nor on what else there is.

    Args:
        sources: by name; the images have labels.
        rules: in order; all images of all sources where there is none.
        seed: the recipe's.

    Raises:
        UserError: a rule names an unknown column, takes no image, or asks for more than there are.
    """
    if not rules:
        return [image for available in sources.values() for image in available.images]
    taken: dict[str, SourceImage] = {}
    for number, rule in enumerate(rules, start=1):
        left = [image for image in sources[rule.source].images if image.image_id not in taken]
        found = _matching(left, rule, sources[rule.source].columns, f"Rule {number} of 'select'")
        if rule.count is not None:
            if len(found) < rule.count:
                raise UserError(
                    f"Rule {number} of 'select' asks for {rule.count} images of {rule.source!r}, but only {len(found)} "
                    "that can be used fit it and no rule before it; lower 'count', or see above what is not used."
                )
            found = sorted(found, key=lambda image: (derive_seed(seed, "select", image.image_id), image.image_id))
            found = found[: rule.count]
        taken |= {image.image_id: image for image in found}
    return list(taken.values())


def _matching(images: Sequence[SourceImage], rule: Rule, columns: Sequence[str], which: str) -> list[SourceImage]:
    conditions: list[tuple[str, list[str], tuple[str, ...]]] = []
    if rule.label is not None:
        conditions.append(("label", [image.label or "" for image in images], (rule.label,)))
    for column, meant in rule.where.items():
        if column not in columns:
            guess = nearest(column, columns)
            raise UserError(
                f"{which}: {rule.source!r} has no column {column!r}; "
                + (f"did you mean {guess!r}?" if guess else f"its columns are {', '.join(columns) or 'none'}.")
            )
        conditions.append((column, [image.facts.get(column, "") for image in images], meant))
    if rule.view_position is not None:
        conditions.append(("view_position", [image.view_position or "" for image in images], rule.view_position))
    if rule.has_mask:
        conditions.append(("has_mask", ["true" if image.mask_paths else "false" for image in images], ("true",)))
    keep = list(range(len(images)))
    for name, values_there, wanted in conditions:
        there = Counter(values_there[place] for place in keep)
        keep = [place for place in keep if values_there[place] in wanted]
        if not keep:
            values = ", ".join(f"{value!r} ({count})" for value, count in there.most_common(5))
            raise UserError(
                f"{which}: no image of {rule.source!r} that is left has {name} {' or '.join(map(repr, wanted))}; "
                + (f"there is {values}." if values else "there is none left at all.")
            )
    if not keep:
        raise UserError(f"{which}: {rule.source!r} has no image that is left and can be used.")
    return [images[place] for place in keep]


def match_listed(
    listed: Sheet, images: Sequence[SourceImage], originals: Sequence[str | None]
) -> tuple[list[SourceImage], list[str], int]:
    """Return the images that a manifest lists, as it has them, with the files of the sources.

    Files are told by SHA-256. Where several have the same bytes, those of the same source and then of the same name
    belong together, else the order of paths decides.

    Args:
        listed: a manifest with original_sha256.
        images: of the sources.
        originals: [n] SHA-256 of the file that each image is, or was made from; None where it cannot be read.

    Returns:
        The images; the ids of those that are missing; how many have another label in their source.

    Raises:
        UserError: the manifest lacks a column.
    """
    listed.require("image_id", "label", "original_sha256")
    waiting: defaultdict[str, list[SourceImage]] = defaultdict(list)
    for digest, image in sorted(zip(originals, images, strict=True), key=lambda pair: pair[1].path):
        if digest is not None:
            waiting[digest].append(image)
    found: list[SourceImage] = []
    missing: list[str] = []
    differing = 0
    for row in sorted(listed.rows, key=lambda row: row["image_id"]):
        files = waiting[row["original_sha256"].lower()]
        if not files:
            missing.append(row["image_id"])
            continue
        stem, source = PurePosixPath(row["image_id"]).stem, row.get("source")
        file = min(files, key=lambda file: (file.source != source, PurePosixPath(file.path).stem != stem))
        files.remove(file)
        differing += file.label is not None and file.label != row["label"]
        found.append(
            replace(
                file,
                image_id=row["image_id"],
                label=row["label"],
                source=known(row.get("source")) or file.source,
                original_sha256=row["original_sha256"].lower(),
                patient_id=known(row.get("patient_id")),
                group_id=known(row.get("group_id")),
                view_position=known(row.get("view_position")),
                age=age_of(row.get("age", "")),
                sex=sex_of(row.get("sex", "")),
            )
        )
    return found, missing, differing
