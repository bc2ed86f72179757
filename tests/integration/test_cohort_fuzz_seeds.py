"""Damaged files that once told readers apart: each gives a result, an `ImageError` or a `UserError`, and nothing else.

`python -m benchmarks.fuzz_cohort` looks for more.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from benchmarks.damaged_files import Case, case_of, intact
from benchmarks.fuzz_cohort import outcomes_of
from cxrdist.cohort.recipes import read_recipe
from cxrdist.cohort.table import load_cohort
from cxrdist.errors import UserError

SEEDS = {
    "jpeg": (100004, 100006, 100012),
    "png": (100000, 100007, 100207),
    "webp": (100008, 100014, 100076),
    "dicom": (100032, 100122, 100232),
    "csv": (100001, 100038, 100056),
    "parquet": (100003, 100005, 100385),
    "manifest": (100002, 100022, 100345),
    "recipe": (100028, 100048, 100091),
}
"""Of the kinds' most frequent outcomes, which differ."""
FAILED = (11680, 16071, 100845, 100992, 101081, 101097, 101184, 101222, 103855, 110024)
"""What once raised something else."""

COLUMNS = "columns: {image_id: image_id, path: path, label: label}"
MANIFESTS = {
    "nested too deep": "table: " + "[" * 3000,
    "a day that is none": "table: 2001-99-99",
    "a number that is none": "table: !!int x",
    "a number of 5,000 digits": "table: " + "9" * 5000,
    "a value that is no Unicode": f'table: table.csv\n{COLUMNS}\nwhere: {{source: "\\ud800"}}',
    "a name that is no Unicode": f'table: "\\ud800.csv"\n{COLUMNS}',
}


@pytest.mark.parametrize("seed", [seed for seeds in SEEDS.values() for seed in seeds])
def test_a_damaged_file_is_read_or_explained(seed: int, tmp_path: Path) -> None:
    assert outcomes_of(case_of(seed), tmp_path)


@pytest.mark.parametrize("seed", FAILED)
def test_what_once_failed_is_read_or_explained(seed: int, tmp_path: Path) -> None:
    assert outcomes_of(case_of(seed), tmp_path)


@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_of_odd_values_is_explained(text: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("image_id,path,label,source\na,a.png,x,s\n", encoding="utf-8")
    (tmp_path / "manifest.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError):
        load_cohort(tmp_path / "manifest.yaml", tmp_path, None)


def test_text_of_a_parquet_file_that_is_no_unicode_is_explained(tmp_path: Path) -> None:
    columns = {name: pa.array([b"\xff", b"b"]).view(pa.string()) for name in ("image_id", "path", "label")}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    with pytest.raises(UserError):
        load_cohort(tmp_path / "table.parquet", tmp_path, None)


def test_a_home_of_nobody_in_a_build_recipe_is_explained(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(intact()["recipe"][1].replace(b"other.csv", b"~nobody-of-this-name/x.csv"))
    with pytest.raises(UserError):
        read_recipe(recipe)


def test_intact_files_give_results(tmp_path: Path) -> None:
    for kind, files in intact().items():
        for data in files:
            others = [one for one in outcomes_of(Case(kind, data, 1), tmp_path) if not one.endswith(": result")]
            # DICOM holds no masks, a picture has more values than a mask may, and of the rows that the manifest keeps
            # all are of one class.
            known = ("dicom mask: ", "manifest load_cohort of classes: ")
            assert all(one.startswith(known) or " mask: ImageError: 'has N values" in one for one in others)


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    assert [case_of(seed) for seed in range(20)] == [case_of(seed) for seed in range(20)]
