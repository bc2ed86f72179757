"""Data cards and Croissant metadata: they count right, claim nothing that nobody stated, and survive any text."""

import csv
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxrdist.cli.cohort_card import card, card_command
from cxrdist.cohort.card import NOT_STATED, Stated
from cxrdist.cohort.checks import LONGEST_TEXT
from cxrdist.errors import CxrdistError, UserError
from tests.unit.cohort_check_examples import HOSTILE

SPEC_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "column": "cr:column",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "includes": "cr:includes",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "sc": "https://schema.org/",
    "source": "cr:source",
}
"""Of Appendix 1 of the Croissant specification 1.0, what a cohort needs."""
PREFIXES = {
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
}
"""Namespaces of the two specifications."""
RAI_ONE = {"rai:dataCollectionRawData", "rai:dataCollectionMissingData"}
RAI_MANY = {"rai:personalSensitiveInformation", "rai:dataBiases"}
EVERYTHING = Stated(
    name="Everything",
    description="What is known.",
    licence="https://spdx.org/licenses/CC-BY-4.0.html",
    citation="@misc{x}",
    url="https://example.org/cohort",
    persons=("Jane Doe",),
    organisations=("A hospital",),
    published="2026-05-01",
)
ROWS = [
    {
        "image_id": f"i{n}",
        "path": f"a/i{n}.{'png' if n % 2 else 'jpg'}",
        "label": ("covid19", "normal", "normal")[n % 3],
        "patient_id": "" if n == 7 else f"p{n // 2}",
        "source": ("kaggle", "nowhere")[n % 2],
        "view_position": ("PA", "AP", "")[n % 3],
        "age": str(20 + n),
        "sex": "FM"[n % 2],
        "group_id": "g" if n in (0, 9) else "",
    }
    for n in range(10)
]


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def described(
    folder: Path, rows: Sequence[dict[str, str]] = ROWS, stated: Stated = EVERYTHING
) -> tuple[str, dict[str, Any]]:
    """The card and the metadata of some rows."""
    card_command(write_csv(folder / "cohort.csv", rows), folder, folder / "out", stated)
    return written(folder / "out")


def written(out: Path) -> tuple[str, dict[str, Any]]:
    return (out / "card.md").read_bytes().decode(), json.loads((out / "croissant.json").read_bytes().decode())


def tables(markdown: str) -> list[list[str]]:
    """The cells of all rows of tables."""
    # A pipe that is part of a text has its backslash directly before it, never a space.
    return [line[2:-2].split(" | ") for line in markdown.splitlines() if line.startswith("| ")]


def nodes(value: Any) -> list[dict[str, Any]]:
    """All objects with a type, nested ones too."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return ([value] if isinstance(value, dict) and "@type" in value else []) + [n for one in inner for n in nodes(one)]


def assert_croissant(metadata: dict[str, Any]) -> None:
    """What the specifications 1.0 demand, as far as it can be told without their software."""
    context = metadata["@context"]
    assert context.items() >= (SPEC_CONTEXT | PREFIXES).items()
    assert metadata["@type"] == "sc:Dataset"
    assert metadata["conformsTo"][0] == "http://mlcommons.org/croissant/1.0"
    assert metadata["conformsTo"][1:] == ["http://mlcommons.org/croissant/RAI/1.0"]
    assert all(isinstance(metadata[key], str) and metadata[key] for key in ("name", "description"))
    body = {key: value for key, value in metadata.items() if key != "@context"}
    parts = nodes([value for key, value in body.items() if key != "@type"])
    allowed = {"cr:FileObject", "cr:FileSet", "cr:RecordSet", "cr:Field"}
    assert {part["@type"] for part in parts} <= allowed | {"sc:Person", "sc:Organization", "sc:CreativeWork"}
    ids = [part["@id"] for part in parts if part["@type"] in allowed]
    assert len(ids) == len(set(ids))
    by_type: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        by_type.setdefault(part["@type"], []).append(part)
    assert [one["@type"] for one in metadata["distribution"]].count("cr:FileObject") >= 1
    for file in by_type["cr:FileObject"]:
        assert re.fullmatch("[0-9a-f]{64}", file["sha256"])
        assert re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", file["encodingFormat"])
        assert re.fullmatch(r"[0-9]+ B", file["contentSize"])
        assert re.fullmatch(r"[A-Za-z0-9%._~/-]+", file["contentUrl"])
    for files in by_type.get("cr:FileSet", []):
        assert files["containedIn"]["@id"] in ids
        assert files["includes"]
    for field in by_type["cr:Field"]:
        types = field["dataType"] if isinstance(field["dataType"], list) else [field["dataType"]]
        assert {one.partition(":")[0] for one in types} <= {"sc", "cr"}
        assert isinstance(field["name"], str)
        if "references" in field:
            assert field["references"]["@id"] in {one["@id"] for one in by_type["cr:Field"]}
        if "source" in field:
            (origin,) = {"fileObject", "fileSet"} & set(field["source"])
            assert field["source"][origin]["@id"] in ids
            assert len(field["source"]["extract"]) == 1
    for records in by_type["cr:RecordSet"]:
        fields = {field["@id"] for field in records["field"]}
        assert records["key"]["@id"] in fields
        assert all(one.startswith(f"{records['@id']}/") for one in fields)
        assert all(set(row) <= fields for row in records.get("data", []))
    # A key that no term of the context expands is dropped silently by readers of JSON-LD.
    own = {key for part in [body, *parts] for key in part if not key.startswith("@")}
    schema_org = {"name", "description", "license", "url", "creator", "datePublished", "distribution"}
    schema_org |= {"contentUrl", "contentSize", "encodingFormat", "sha256"}
    rai = {key for key in own if key.startswith("rai:")}
    assert own - rai <= set(context) | schema_org
    assert rai <= RAI_ONE | RAI_MANY
    assert all(isinstance(body[key], str) == (key in RAI_ONE) for key in rai)


def test_the_metadata_have_what_the_specification_requires(tmp_path: Path) -> None:
    _, metadata = described(tmp_path)
    assert_croissant(metadata)
    assert metadata["license"] == EVERYTHING.licence
    assert metadata["citeAs"] == EVERYTHING.citation
    assert metadata["url"] == EVERYTHING.url
    assert metadata["datePublished"] == EVERYTHING.published
    assert metadata["creator"] == [
        {"@type": "sc:Person", "name": "Jane Doe"},
        {"@type": "sc:Organization", "name": "A hospital"},
    ]
    assert not EVERYTHING.missing


def test_what_nobody_stated_is_neither_in_the_card_nor_in_the_metadata(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, metadata = described(tmp_path, stated=Stated("bare"))
    assert_croissant(metadata)
    assert not {"license", "citeAs", "url", "creator", "datePublished"} & set(metadata)
    statements = dict(row for row in tables(text) if len(row) == 2)
    for name in ("licence", "citation", "url", "persons", "organisations", "published"):
        assert statements[name] == NOT_STATED
    assert "requires it: license, url, creator, datePublished." in capsys.readouterr().out


def test_the_manifest_is_named_by_its_hash_and_each_column_by_its_field(tmp_path: Path) -> None:
    text, metadata = described(tmp_path)
    data = (tmp_path / "cohort.csv").read_bytes()
    file = metadata["distribution"][0]
    assert file["sha256"] == hashlib.sha256(data).hexdigest()
    assert (file["contentSize"], file["encodingFormat"]) == (f"{len(data)} B", "text/csv")
    assert file["sha256"] in text
    images = next(one for one in metadata["recordSet"] if one["@id"] == "images")
    assert images["key"] == {"@id": "images/image_id"}
    columns = {field["name"]: field["source"]["extract"]["column"] for field in images["field"]}
    assert columns == {name: name for name in ROWS[0]}
    types = {field["name"]: field["dataType"] for field in images["field"]}
    assert (types["age"], types["label"]) == ("sc:Float", ["sc:Text", "cr:Label"])
    assert metadata["distribution"][1]["includes"] == ["**/*.jpg", "**/*.png"]
    assert metadata["distribution"][1]["encodingFormat"] == ["image/jpeg", "image/png"]


def test_an_age_that_is_no_number_makes_the_column_text(tmp_path: Path) -> None:
    _, metadata = described(tmp_path, [*ROWS[:-1], ROWS[-1] | {"age": "old"}])
    images = next(one for one in metadata["recordSet"] if one["@id"] == "images")
    assert {field["name"]: field["dataType"] for field in images["field"]}["age"] == "sc:Text"


def test_a_recipe_and_its_table_are_both_files_and_fields_come_from_the_table(tmp_path: Path) -> None:
    table = pa.table({"file": ["a.png", "b.png", "c.png"], "finding": ["x", "y", "y"], "use": ["1", "2", "0"]})
    pyarrow.parquet.write_table(table, tmp_path / "all.parquet")
    recipe = tmp_path / "cohort.yaml"
    recipe.write_text(
        "table: all.parquet\ncolumns: {image_id: file, path: file, label: finding}\nwhere: {use: [1, 2]}\n",
        encoding="utf-8",
    )
    card_command(recipe, tmp_path, tmp_path / "out", EVERYTHING)
    text, metadata = written(tmp_path / "out")
    assert_croissant(metadata)
    kinds = {file["@id"]: (file["name"], file["encodingFormat"]) for file in metadata["distribution"][:2]}
    assert kinds == {
        "manifest": ("all.parquet", "application/x-parquet"),
        "recipe": ("cohort.yaml", "application/yaml"),
    }
    images = next(one for one in metadata["recordSet"] if one["@id"] == "images")
    assert {field["name"]: field["source"]["extract"]["column"] for field in images["field"]} == {
        "image_id": "file",
        "path": "file",
        "label": "finding",
    }
    assert images["description"] == "One record for each image; only rows where use is 1 or 2."
    assert ["use", "1 or 2"] in tables(text)
    assert ["all", "all", "2", "0", "2"] in tables(text)


def test_images_and_patients_are_counted_by_class_and_source(tmp_path: Path) -> None:
    text, _ = described(tmp_path)
    rows = tables(text)
    expected = []
    for label in ("covid19", "normal"):
        for source in ("kaggle", "nowhere"):
            chosen = [row for row in ROWS if (row["label"], row["source"]) == (label, source)]
            patients = {row["patient_id"] for row in chosen} - {""}
            unknown = sum(not row["patient_id"] for row in chosen)
            expected.append([label, source, str(len(chosen)), str(len(patients)), str(unknown)])
    assert [row for row in rows if row[0] in ("covid19", "normal") and row[1] != "all"] == expected
    assert ["all", "all", "10", "5", "1"] in rows
    for view, count in Counter(row["view_position"] or NOT_STATED for row in ROWS).items():
        assert [view, str(count)] in rows
    assert ["20-29", "10"] in rows
    assert ["F", "5"] in rows
    assert "joins 6 patients to 5 groups" in text
    assert "- patient ids are missing for 1 of 10 images" in text


def test_the_same_manifest_gives_the_same_bytes(tmp_path: Path) -> None:
    def both() -> list[bytes]:
        described(tmp_path)
        return [(tmp_path / "out" / name).read_bytes() for name in ("card.md", "croissant.json")]

    assert both() == both()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_text_becomes_markup_or_a_formula(tmp_path: Path, data: st.DataObject) -> None:
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    texts = st.one_of(st.sampled_from(HOSTILE), st.text(characters, min_size=1, max_size=30))
    rows = [
        {"image_id": f"i{n}", "path": f"{n}.png", "label": data.draw(texts) + str(n)}
        | {name: data.draw(texts) for name in ("source", "view_position", "sex")}
        for n in range(3)
    ]
    text, metadata = described(tmp_path, rows, Stated(data.draw(texts), licence=data.draw(texts)))
    assert_croissant(metadata)
    assert all(line.isprintable() for line in text.splitlines())
    # A bracket with a backslash before it ends no link, and a backslash of the text's own is two.
    assert not re.search(r"[<>]|javascript:|(?<!\\)\]\(", text)
    widths = {len(row) for row in tables(text)}
    assert widths <= {2, 3, 5}
    assert not any(cell[:1] in {"=", "+", "@"} for row in tables(text) for cell in row)
    assert {row["classes/name"] for row in metadata["recordSet"][0]["data"]} == {row["label"].strip() for row in rows}


@pytest.mark.parametrize("text", HOSTILE)
def test_known_attacks_are_shown_as_text(tmp_path: Path, text: str) -> None:
    card_text, metadata = described(tmp_path, [ROWS[0] | {"label": text}, ROWS[1]], Stated("x"))
    assert_croissant(metadata)
    assert not re.search(r"[<>\x00-\x09\x0b-\x1f\u202e]|(?m:^\| [=+@-][^-])", card_text)


def test_the_longest_cells_are_cut(tmp_path: Path) -> None:
    rows = [ROWS[0] | {"view_position": "x" * LONGEST_TEXT}, ROWS[1] | {"label": "y" * LONGEST_TEXT}]
    text, metadata = described(tmp_path, rows)
    assert_croissant(metadata)
    assert "x" * (LONGEST_TEXT // 2) not in text
    assert "y" * (LONGEST_TEXT // 2) not in text
    assert len(text) < 20_000
    assert len(json.dumps(metadata)) < 20_000


def test_no_image_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for row in ROWS:
        # A file that cannot be opened by anybody.
        (tmp_path / row["path"]).symlink_to(row["path"].rpartition("/")[2] + "-nowhere")
    described(tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--url", "ftp://x"], "--url is 'ftp://x', but should be a web address"),
        (["--published", "20260501"], "--published is '20260501', but should be a date"),
        (["--images", "nowhere"], "The image folder 'nowhere' does not exist"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    manifest = write_csv(tmp_path / "cohort.csv", ROWS)
    result = CliRunner().invoke(card, [str(manifest), "--out", str(tmp_path / "out"), *options])
    assert isinstance(result.exception, UserError)
    assert result.exception.exit_status == 2
    assert str(result.exception).startswith(sentence)
    assert not (tmp_path / "out").exists()


def test_a_missing_manifest_and_a_wrong_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        card_command(tmp_path / "none.csv", tmp_path, tmp_path / "out", EVERYTHING)
    with pytest.raises(UserError, match="listed twice"):
        described(tmp_path, [ROWS[0], ROWS[0]])


def test_a_manifest_that_changes_meanwhile_is_not_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxrdist.cohort import check_table

    def change(self: check_table.CheckedTable) -> Any:
        yield from original(self)
        with self.manifest.location.open("a") as file:
            file.write("\n")

    original = check_table.CheckedTable.batches
    monkeypatch.setattr(check_table.CheckedTable, "batches", change)
    with pytest.raises(CxrdistError, match="was changed"):
        described(tmp_path)


def test_the_help_shows_how_to_call_it() -> None:
    result = CliRunner().invoke(card, ["--help"])
    assert result.exit_code == 0
    assert "cxrdist cohort card cohort.csv" in result.output
