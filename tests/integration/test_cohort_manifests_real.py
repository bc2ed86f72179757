"""The committed cohorts are what their recipes make of the collected images; kinds of sources agree with the facts."""

import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest

from cxrdist.cohort.build import COLUMNS, BuiltCohort, build_cohort
from cxrdist.cohort.recipes import read_recipe
from cxrdist.cohort.sources.folder import walk
from cxrdist.cohort.sources.kinds import KINDS
from cxrdist.cohort.sources.listing import Listing, Place
from cxrdist.cohort.table import load_cohort

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "data_manifests"
SHARED = ROOT / ".." / "shared" / "cxr"
COUNTS = {
    "four_class": {"normal": 532, "covid19": 455, "viral_pneumonia": 552, "bacterial_pneumonia": 492},
    "three_class": {"covid19": 240, "viral_pneumonia": 274, "normal": 267},
    "lungs": {"cohen": 428, "kaggle": 1413, "montgomery": 138, "shenzhen": 250},
}
FRONTAL = ("PA", "AP", "AP Supine", "AP semi erect")

with_images = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real chest X-rays is absent")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was seen of the images, for all tests."""
    return tmp_path_factory.mktemp("cache")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def no_salt() -> bytes:
    raise AssertionError("public sources need no pseudonyms")


def built(name: str, cache: Path, notes: list[str], *, partial: bool = False, **folders: Path) -> BuiltCohort:
    recipe = read_recipe(MANIFESTS / "recipes" / f"{name}.yaml")
    return build_cohort(recipe, folders, cache, salt=no_salt, partial=partial, on_note=notes.append)


# --- without the images


@pytest.mark.parametrize("name", COUNTS)
def test_committed_tables_hold_facts_alone_and_all_of_them(name: str) -> None:
    text = (MANIFESTS / f"{name}.csv").read_bytes()
    assert b"\r" not in text and text.endswith(b"\n")
    rows = rows_of(MANIFESTS / f"{name}.csv")
    assert tuple(rows[0]) == COLUMNS
    assert Counter(row["label"] for row in rows) == COUNTS[name]
    assert not [row for row in rows if row["path"].startswith(("/", "..")) or row["mask_path"].startswith(("/", ".."))]
    assert [row["image_id"] for row in rows] == sorted({row["image_id"] for row in rows})
    for column in ("image_id", "path", "label", "patient_id", "source", "group_id"):
        assert all(row[column] for row in rows), column
    for column in ("sha256", "original_sha256", "pixel_sha256"):
        assert all(len(row[column]) == 64 and int(row[column], 16) for row in rows), column


def test_no_group_divides_a_patient() -> None:
    for name in COUNTS:
        groups: dict[str, set[str]] = {}
        for row in rows_of(MANIFESTS / f"{name}.csv"):
            groups.setdefault(row["patient_id"], set()).add(row["group_id"])
        assert {len(group) for group in groups.values()} == {1}, name


def test_the_tables_agree_where_they_share_images() -> None:
    tables = {name: {row["image_id"]: row for row in rows_of(MANIFESTS / f"{name}.csv")} for name in COUNTS}
    shared = tables["four_class"].keys() & tables["three_class"].keys()
    assert {image for image, row in tables["three_class"].items() if row["label"] == "covid19"} <= shared
    for image in shared:
        for column in set(COLUMNS) - {"group_id"}:
            assert tables["four_class"][image][column] == tables["three_class"][image][column]


# --- with them


@with_images
@pytest.mark.real_data
@pytest.mark.parametrize("name", COUNTS)
def test_recipes_make_the_committed_tables_again_byte_for_byte(name: str, cache: Path) -> None:
    cohort = built(name, cache, [], bundle=SHARED)
    assert cohort.manifest == (MANIFESTS / f"{name}.csv").read_bytes()
    assert cohort.labels == COUNTS[name]
    assert cohort.root == SHARED.resolve()


@with_images
@pytest.mark.real_data
@pytest.mark.parametrize("name", ["four_class", "three_class"])
def test_a_committed_table_is_the_same_cohort_as_the_recipe_that_maps_the_bundle(name: str) -> None:
    cohorts = [load_cohort(MANIFESTS / f"{name}.{end}", SHARED, list(COUNTS[name])) for end in ("csv", "yaml")]
    assert cohorts[0].content_hash == cohorts[1].content_hash


@with_images
@pytest.mark.real_data
def test_the_cohort_is_built_from_the_sources_own_files_wherever_they_lie(tmp_path: Path, cache: Path) -> None:
    top = {"person": "kaggle/chest_xray/train/PNEUMONIA", "NORMAL": "kaggle/chest_xray/test/NORMAL"}
    tables = {"cohen": "metadata.csv", "covid_cxnet": "metadata.csv"}
    for file in sorted((SHARED / "originals").iterdir()):
        start = next((start for start in top if file.name.startswith(start)), "")
        folder = tmp_path / top.get(start, "cohen/top/images")
        if file.name.startswith("cxnet_"):
            folder = tmp_path / "covid_cxnet" / "chest_xray_images" / "covid19"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / file.name.removeprefix("cxnet_"))
    for source, state in (
        ("cohen/top", "cohen_metadata_2020-07_generalblockchain"),
        ("covid_cxnet", "covid_cxnet_metadata"),
    ):
        shutil.copyfile(SHARED / "metadata" / f"{state}.csv", tmp_path / source / tables[source.split("/")[0]])
    folders = {name: tmp_path / name for name in ("cohen", "covid_cxnet", "kaggle")}
    notes: list[str] = []
    cohort = built("four_class_from_sources", cache, notes, partial=True, **folders)
    (tmp_path / "built.csv").write_bytes(cohort.manifest)
    found = rows_of(tmp_path / "built.csv")
    committed = {row["image_id"]: row for row in rows_of(MANIFESTS / "four_class.csv")}
    here = {row["sha256"] for row in rows_of(SHARED / "originals.csv")}
    assert {row["image_id"] for row in found} == {i for i, row in committed.items() if row["original_sha256"] in here}
    assert len(found) >= 12 and {row["source"] for row in found} == {"cohen", "kaggle"}
    for row in found:
        same = set(COLUMNS) - {"path", "sha256", "pixel_sha256", "mask_path"}
        assert {name: row[name] for name in same} == {name: committed[row["image_id"]][name] for name in same}
        assert row["sha256"] == row["original_sha256"]
        assert (tmp_path / row["path"]).is_file()
    assert any(f"{len(committed) - len(found)} of 2031 images of four_class.csv are missing" in note for note in notes)


def listing(kind: str, folder: Path, **options: str) -> Listing:
    place = Place(folder.name, walk(folder), folder, no_salt, keep_ids=False)
    return KINDS[kind].list_images(place, KINDS[kind].options(**options))


@with_images
@pytest.mark.real_data
def test_cohens_collection_held_331_frontal_covid_images_of_198_patients_on_the_day_of_paper_1(tmp_path: Path) -> None:
    state = "cohen_metadata_2020-05-27_093cc11.csv"
    shutil.copyfile(SHARED / "metadata" / state, tmp_path / "metadata.csv")
    for row in rows_of(tmp_path / "metadata.csv"):
        (tmp_path / row["folder"]).mkdir(exist_ok=True)
        (tmp_path / row["folder"] / row["filename"]).touch()
    found = listing("cohen", tmp_path)
    frontal = [image for image in found.images if image.label == "covid19" and image.view_position in FRONTAL]
    assert (len(frontal), len({image.patient_id for image in frontal})) == (331, 198)
    assert {reason: len(names) for reason, names in found.unused.items()} == {
        "is of the modality 'CT', not X-ray": 84,
        "has no finding yet": 56,
    }


@with_images
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("source", "kind", "folder", "table"),
    [
        ("cohen", "cohen", "covid-chestxray-dataset-1/images", "cohen_metadata_2020-07_generalblockchain"),
        ("covid_cxnet", "covid_cxnet", "chest_xray_images/covid19", "covid_cxnet_metadata"),
        ("kaggle", "kaggle_pneumonia", "chest_xray/train/ANY", ""),
        ("nih", "nih", "X-Ray Image DataSet/No_findings", ""),
        ("montgomery", "montgomery", "MontgomerySet/CXR_png", ""),
        ("shenzhen", "shenzhen", "ChinaSet_AllFiles/CXR_png", ""),
        ("radiography", "radiography", "COVID-19_Radiography_Dataset", ""),
    ],
)
def test_kinds_of_sources_agree_with_what_was_found_out_by_hand(
    tmp_path: Path, source: str, kind: str, folder: str, table: str
) -> None:
    rows = [row for row in rows_of(SHARED / "manifest.csv") if row["source"] == source]
    root = tmp_path / source
    (root / folder).mkdir(parents=True)
    for row in rows:
        (root / folder / row["original_name"]).touch()
    if table:
        shutil.copyfile(
            SHARED / "metadata" / f"{table}.csv", (root / folder).parents[folder.count("/") - 1] / "metadata.csv"
        )
    by_name = {image.path.rpartition("/")[2]: image for image in listing(kind, root).images}
    # The newest metadata.csv of Cohen's has no finding for some images that an older one told of.
    assert len(by_name) == len(rows) - (16 if source == "cohen" else 0)
    for row in rows:
        image = by_name.get(row["original_name"])
        if image is not None:
            told = (image.label, image.patient_id or "", image.group_id or image.patient_id or "")
            assert told == (row["label"] or row["finding_original"], row["patient_id"], row["group_id"])
            assert source == "nih" or (image.view_position or "") == row["view"]
