"""From sources, as people have them on disk, to the manifest of a cohort."""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from cxrdist.cohort.check_cache import MarksCache
from cxrdist.cohort.duplicates import MarkedImages, across_patients, conflicts_of_label, find_duplicates, merge_groups
from cxrdist.cohort.missing import is_missing
from cxrdist.cohort.recipes import BuildRecipe
from cxrdist.cohort.schema import COHORT_SCHEMA, OPTIONAL_EXTRA
from cxrdist.cohort.sources.files import ImageFiles, join_masks
from cxrdist.cohort.sources.folder import is_plain, walk
from cxrdist.cohort.sources.kinds import KINDS
from cxrdist.cohort.sources.listing import Listing, Place, Progress, SourceImage
from cxrdist.cohort.sources.selection import Available, match_listed, renamed, select
from cxrdist.cohort.sources.sheet import read_sheet
from cxrdist.errors import ImageError, UserError, first_few, one_of

COLUMNS = (*COHORT_SCHEMA.names, *OPTIONAL_EXTRA)
"""Of the manifest, in this order."""

_MOST_REASONS = 12
_MOST_COUNTED = 50
"""Reasons beyond those, of which no file is named."""
_NO_LABEL = "has no label"


@dataclass(frozen=True)
class BuiltCohort:
    """A manifest, and what a person wants to know of it."""

    manifest: bytes
    """A CSV table of COLUMNS, sorted by image_id: the same bytes for the same files and recipe."""
    root: Path
    """The folder that its paths start from."""
    labels: Mapping[str, int]
    """How many images each has."""
    patients: int
    without_patient: int
    """Images."""
    groups: int | None
    """None where the recipe does not merge those of copies."""


def build_cohort(
    recipe: BuildRecipe,
    folders: Mapping[str, Path],
    cache: Path,
    *,
    salt: Callable[[], bytes],
    keep_ids: bool = False,
    partial: bool = False,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> BuiltCohort:
    """Build the cohort of a recipe.

    Every image is opened; one that cannot be used is left out, and another one is drawn where a rule has a count.

    Args:
        recipe: which images are taken.
        folders: where each source lies.
        cache: folder for everything that can be made again.
        salt: returns the secret key of pseudonyms; called for DICOM alone.
        keep_ids: whether PatientID is taken as it is.
        partial: whether sources, and images that `like` lists, may be missing.
        on_progress: called now and then while files are opened.
        on_note: called with a sentence about what was found or is not used.

    Raises:
        UserError: the sources do not fit the recipe, or hold too little.
        OSError: the cache cannot be written.
    """
    there = _folders(recipe, folders, partial=partial)
    root = common_folder(list(there.values()))
    if partial and set(there) != set(recipe.sources):
        on_note(f"Without the sources {', '.join(name for name in recipe.sources if name not in there)}.")
    sources = {}
    for name, folder in there.items():
        source = recipe.sources[name]
        place = Place(name, walk(folder), recipe.path.resolve().parent, salt, keep_ids, on_progress)
        listing = KINDS[source.kind].list_images(place, source.options)
        on_note(f"{name}: {len(listing.images)} images; patients: {listing.patients}.")
        _tell(name, listing.unused, on_note)
        for note in listing.notes:
            on_note(f"{name}: {note}.")
        sources[name] = Available(_below(listing, os.path.relpath(place.folder.root, root)), listing.columns)
    files = ImageFiles(root, MarksCache(cache, root, on_note))
    if recipe.like is not None:
        images = _listed(recipe.like, sources, files, partial=partial, on_progress=on_progress, on_note=on_note)
    else:
        images = _selected(recipe, sources, files, on_progress, on_note)
    marks = files.marks([image.path for image in images])
    images = _with_masks(images, root, on_progress, on_note)
    groups: list[str | None] = [image.group_id for image in images]
    if recipe.merge_duplicates:
        groups = [*_merged(images, marks, on_note)]
    patients = {image.patient_id for image in images if image.patient_id}
    return BuiltCohort(
        manifest=_manifest(images, groups, files, marks),
        root=root,
        labels=dict(sorted(Counter(str(image.label) for image in images).items())),
        patients=len(patients),
        without_patient=sum(image.patient_id is None for image in images),
        groups=len(set(groups)) if recipe.merge_duplicates else None,
    )


def common_folder(folders: Sequence[Path]) -> Path:
    """Return the folder that paths start from: the source's own, or the nearest that holds all of several.

    Raises:
        UserError: several have none in common but the root of the file system.
    """
    roots = [folder.resolve() for folder in folders]
    common = Path(os.path.commonpath(roots))
    if common == Path(common.anchor):
        raise UserError(
            f"The folders {str(roots[0])!r} and {str(roots[-1])!r} are in no folder together but {str(common)!r}; a "
            "manifest's paths start from one folder, so move or mount the sources below one."
        )
    return common


def write_manifest(path: Path, manifest: bytes) -> bool:
    """Write a manifest whole or not at all; return whether the file was another before.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if path.is_file() and path.read_bytes() == manifest:
            return False
        temporary.write_bytes(manifest)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _folders(recipe: BuildRecipe, folders: Mapping[str, Path], *, partial: bool) -> dict[str, Path]:
    for name in folders:
        if name not in recipe.sources:
            raise UserError(
                f"--source {name}=... is none of the recipe's; a source of {str(recipe.path)!r} is "
                f"{one_of(recipe.sources, name)}."
            )
    for name, source in recipe.sources.items():
        if name not in folders and not (partial and folders):
            raise UserError(
                f"The recipe {str(recipe.path)!r} needs the source {name!r} ({source.kind}); give its folder as "
                f"--source {name}=DIR."
            )
    return {name: folders[name] for name in recipe.sources if name in folders}


def _below(listing: Listing, prefix: str) -> list[SourceImage]:
    """The images, with paths that start where the manifest's do."""
    if prefix == ".":
        return list(listing.images)
    return [
        replace(image, path=f"{prefix}/{image.path}", mask_paths=tuple(f"{prefix}/{mask}" for mask in image.mask_paths))
        for image in listing.images
    ]


def _tell(name: str, unused: Mapping[str, Sequence[str]], on_note: Callable[[str], None]) -> None:
    reasons = sorted((r for r in unused if unused[r]), key=lambda reason: (-len(unused[reason]), reason))
    for reason in reasons[:_MOST_REASONS]:
        files = [file if is_plain(file) and len(file) < 200 else ascii(file[:100]) for file in unused[reason][:4]]
        files += unused[reason][4:]
        each = ": each" if len(files) > 1 else ", which"
        on_note(f"{name}: {len(files)} not used ({first_few(files)}){each} {reason}.")
    others = reasons[_MOST_REASONS:]
    if others:
        counts = "; ".join(f"{len(unused[reason])}: {reason}" for reason in others[:_MOST_COUNTED])
        more = f"; and {len(others) - _MOST_COUNTED} reasons more" if len(others) > _MOST_COUNTED else ""
        total = sum(len(unused[reason]) for reason in others)
        on_note(f"{name}: {total} not used for {len(others)} other reasons ({counts}{more}).")


def _selected(
    recipe: BuildRecipe,
    sources: Mapping[str, Available],
    files: ImageFiles,
    on_progress: Progress | None,
    on_note: Callable[[str], None],
) -> list[SourceImage]:
    labelled = renamed([image for available in sources.values() for image in available.images], recipe.labels)
    _refuse_equal(labelled)
    by_path = {image.path: image for image in labelled}
    named = {*recipe.labels.values(), *(rule.label for rule in recipe.select)}
    usable: dict[str, Available] = {}
    for name, available in sources.items():
        images = [by_path[image.path] for image in available.images]
        without: dict[str, list[str]] = {}
        for image in images:
            if not image.label:
                without.setdefault(_NO_LABEL, []).append(image.path)
            elif is_missing(image.label) and image.label not in named:
                reason = f"{_NO_LABEL} but {image.label!r}, which is none unless 'labels' or 'select' names it"
                without.setdefault(reason, []).append(image.path)
        left_out = set(chain.from_iterable(without.values()))
        usable[name] = Available([image for image in images if image.path not in left_out], available.columns)
        _tell(name, without, on_note)
    bad: dict[str, list[str]] = {}
    try:
        while True:
            images = select(usable, recipe.select, recipe.seed)
            files.open([(image.path, image.sha256) for image in images], on_progress)
            faulty = {image.path: str(files.fault(image.path)) for image in images if files.fault(image.path)}
            if not faulty:
                break
            for path, reason in faulty.items():
                bad.setdefault(reason, []).append(path)
            usable = {
                name: Available([image for image in available.images if image.path not in faulty], available.columns)
                for name, available in usable.items()
            }
    finally:
        _tell("files", bad, on_note)
    if not images:
        raise UserError(f"No image of the sources can be used for {str(recipe.path)!r}; the lines above say why.")
    return sorted(images, key=lambda image: image.image_id)


def _listed(
    like: Path,
    sources: Mapping[str, Available],
    files: ImageFiles,
    *,
    partial: bool,
    on_progress: Progress | None,
    on_note: Callable[[str], None],
) -> list[SourceImage]:
    listed = read_sheet(like.resolve().parent, like.name)
    for note in listed.notes:
        on_note(f"{note}.")
    images = [image for available in sources.values() for image in available.images]
    originals = []
    for done, image in enumerate(images, start=1):
        originals.append(image.original_sha256 or files.sha256(image.path))
        if on_progress is not None:
            on_progress(done, len(images))
    found, missing, differing = match_listed(listed, images, originals)
    _refuse_equal(found)
    files.open([(image.path, image.sha256) for image in found], on_progress)
    bad: dict[str, list[str]] = {}
    for image in found:
        if files.fault(image.path):
            bad.setdefault(str(files.fault(image.path)), []).append(image.path)
            missing.append(image.image_id)
    _tell("files", bad, on_note)
    if missing and (not partial or len(missing) == len(listed.rows)):
        raise UserError(
            f"{len(missing)} of the {len(listed.rows)} images of {str(like)!r} are in none of the sources "
            f"({first_few(sorted(missing))}); files are told by original_sha256"
            + ("." if partial else ", and --partial builds the cohort without them.")
        )
    if missing:
        on_note(
            f"{len(missing)} of {len(listed.rows)} images of {like.name} are missing: {first_few(sorted(missing), 20)}"
        )
    if differing:
        on_note(f"Images with another label in their source than in {like.name}, which holds: {differing}.")
    return [image for image in found if not files.fault(image.path)]


def _refuse_equal(images: Sequence[SourceImage]) -> None:
    for what, values in (("image_id", [i.image_id for i in images]), ("file", [i.path for i in images])):
        repeated = next((value for value, count in Counter(values).items() if count > 1), None)
        if repeated is not None:
            raise UserError(f"The {what} {repeated!r} is in two sources of the recipe; leave one of them out.")


def _with_masks(
    images: Sequence[SourceImage], root: Path, on_progress: Progress | None, on_note: Callable[[str], None]
) -> list[SourceImage]:
    """The images with one mask each, or none."""
    done = list(images)
    unused: dict[str, list[str]] = {}
    several = [place for place, image in enumerate(images) if len(image.mask_paths) > 1]
    for count, place in enumerate(several, start=1):
        masks: tuple[str, ...] = ()
        try:
            masks = (join_masks(root, images[place].mask_paths),)
        except ImageError as error:
            unused.setdefault(str(error), []).append(images[place].path)
        done[place] = replace(images[place], mask_paths=masks)
        if on_progress is not None:
            on_progress(count, len(several))
    _tell("masks", unused, on_note)
    return done


def _merged(images: Sequence[SourceImage], marks: MarkedImages, on_note: Callable[[str], None]) -> list[str]:
    pairs = find_duplicates(marks)
    ids, patients = [image.image_id for image in images], [image.patient_id for image in images]
    if pairs:
        on_note(f"Pairs of images that show one radiograph, so that their groups are one: {len(pairs)}.")
    two_names = sorted({f"{patients[pair.a]} = {patients[pair.b]}" for pair in across_patients(pairs, patients)})
    if two_names:
        on_note(f"Pairs of patients who share a radiograph: {len(two_names)} ({first_few(two_names)}).")
    torn = [f"{ids[p.a]} and {ids[p.b]}" for p in conflicts_of_label(pairs, [image.label for image in images])]
    if torn:
        on_note(f"Radiographs with two labels: {len(torn)} ({first_few(torn)}); look at them before you train.")
    return merge_groups([image.group_id or image.patient_id or image.image_id for image in images], pairs)


def _manifest(
    images: Sequence[SourceImage], groups: Sequence[str | None], files: ImageFiles, marks: MarkedImages
) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for image, group, pixels in zip(images, groups, marks.pixel_hashes.tolist(), strict=True):
        sha256 = files.sha256(image.path)
        values = {
            "image_id": image.image_id,
            "path": image.path,
            "label": image.label,
            "patient_id": image.patient_id,
            "source": image.source,
            "view_position": image.view_position,
            "sha256": sha256,
            "group_id": group,
            "mask_path": image.mask_paths[0] if image.mask_paths else None,
            "original_sha256": image.original_sha256 or sha256,
            "pixel_sha256": pixels.decode(),
            "age": image.age,
            "sex": image.sex,
        }
        writer.writerow([values[column] or "" for column in COLUMNS])
    return text.getvalue().encode()
