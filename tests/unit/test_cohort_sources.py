"""Kinds of sources: what each image is and whose, told from the layouts that people have, and nothing from outside."""

import csv
import io
import os
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cxrdist.cohort.dicom_header import pseudonym
from cxrdist.cohort.near_files import NearFiles
from cxrdist.cohort.sources.cohen import label_of
from cxrdist.cohort.sources.files import join_masks
from cxrdist.cohort.sources.folder import IGNORED, walk
from cxrdist.cohort.sources.kinds import KINDS
from cxrdist.cohort.sources.listing import Place, age_of, sex_of, slug
from cxrdist.cohort.sources.salt import read_salt
from cxrdist.cohort.sources.sheet import read_sheet, sheet_of
from cxrdist.errors import ImageError, UserError
from tests.unit.dicom_examples import dicom_file

SALT = bytes(range(32))


def put(folder, files):
    """Write files by relative path; of a list of names, with nothing in them."""
    for name, content in files.items() if isinstance(files, dict) else ((name, b"") for name in files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def listing(kind, folder, name="here", keep_ids=False, **options):
    place = Place(name, walk(folder), folder.parent, lambda: SALT, keep_ids)
    return KINDS[kind].list_images(place, KINDS[kind].options(**options))


def by_name(found):
    return {image.path.rpartition("/")[2]: image for image in found.images}


def facts(found, *names):
    return {name: tuple(getattr(image, n) for n in names) for name, image in by_name(found).items()}


# --- folders


def test_files_of_systems_and_programs_are_ignored_by_the_stated_rule(tmp_path):
    put(tmp_path, ["a.png", "b/c.dcm", "b/d"])
    put(
        tmp_path, [".DS_Store", "b/._c.dcm", "__MACOSX/a.png", "b/Thumbs.db", "DESKTOP.INI", "~$a.xlsx", "fetched.json"]
    )
    put(tmp_path, [".git/objects/x.png"])
    folder = walk(tmp_path)
    assert folder.files == ("a.png", "b/c.dcm", "b/d")
    assert len(folder.unused[IGNORED]) == 8


def test_no_link_leads_out_of_the_folder(tmp_path):
    put(tmp_path / "out", ["secret.png"])
    inside = put(tmp_path / "in", ["real.png", "deep/other.png"])
    (inside / "file.png").symlink_to(tmp_path / "out" / "secret.png")
    (inside / "folder").symlink_to(tmp_path / "out")
    (inside / "alias.png").symlink_to(inside / "real.png")
    (inside / "circle").symlink_to(inside)
    (inside / "self.png").symlink_to(inside / "self.png")
    os.mkfifo(inside / "pipe")
    folder = walk(inside)
    assert folder.files == ("alias.png", "deep/other.png", "real.png")
    assert dict(folder.unused) == {
        "is a link that leads out of the folder": ("file.png", "folder"),
        "is a link to a folder, which is not followed": ("circle",),
        "is a link to nothing": ("self.png",),
        "is neither a file nor a folder": ("pipe",),
    }


def test_a_walk_is_bounded_in_files_and_depth(tmp_path):
    put(tmp_path / "many", [f"{n}.png" for n in range(5)])
    with pytest.raises(UserError, match=r"holds more than 4 files"):
        walk(tmp_path / "many", max_files=4)
    put(tmp_path / "deep", ["/".join("d" * 70) + "/a.png"])
    with pytest.raises(UserError, match=r"more than 64 deep"):
        walk(tmp_path / "deep")
    with pytest.raises(UserError, match=r"'.*absent' does not exist"):
        walk(tmp_path / "absent")


def test_names_that_no_table_should_hold_are_counted_and_never_crash(tmp_path):
    put(tmp_path, ["good ü.png", "line\nbreak.png", "back\\slash.png"])
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9.png")).write_bytes(b"")
    folder = walk(tmp_path)
    assert folder.files == ("good ü.png",)
    assert [len(names) for names in folder.unused.values()] == [3]


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join), max_size=8), st.randoms()
)
def test_a_walk_does_not_depend_on_the_order_of_files(tmp_path_factory, names, random):
    leaves = [f"{name}/x.png" for name in names]
    seen = []
    for _ in range(2):
        random.shuffle(leaves)
        seen.append(walk(put(tmp_path_factory.mktemp("walk"), leaves)).files)
    assert seen[0] == seen[1] == tuple(sorted(leaves))


# --- tables


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=8).map(str.strip)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_a_table_is_the_same_whatever_divides_cells_and_however_it_is_encoded(
    tmp_path_factory, rows, delimiter, encoding
):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerows([("first", "second"), *rows])
    path = put(tmp_path_factory.mktemp("sheet"), {"t.csv": text.getvalue().encode(encoding)})
    sheet = read_sheet(path, "t.csv")
    assert sheet.columns == ("first", "second")
    assert [tuple(row.values()) for row in sheet.rows] == [row for row in rows if any(row)]


def test_old_spreadsheets_umlauts_are_read(tmp_path):
    put(tmp_path, {"t.csv": "Größe;Befund\n3;unauffällig\n".encode("cp1252")})
    assert read_sheet(tmp_path, "t.csv").rows == ({"Größe": "3", "Befund": "unauffällig"},)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no line that names its columns"),
        (b"a,a\n1,2\n", "two columns called 'a'"),
        (b"a,b\n1,2,3\n", "Line 2 of .* has more cells than the first, 2"),
        (
            b"a,b\n" + b"x" * 10_000_000 + b",1\n",
            "Line 2 of .* has a cell of more than 131,072 characters; does a quot",
        ),
        (b'a,b\n"1,' + b"2" * 200_000, "Line 2 of .* has a cell of more than"),
    ],
    ids=["empty", "twice", "shifted", "huge cell", "open quote"],
)
def test_a_table_that_is_none_is_refused_in_a_sentence(tmp_path, content, words):
    put(tmp_path, {"t.csv": content})
    with pytest.raises(UserError, match=words) as refused:
        read_sheet(tmp_path, "t.csv")
    assert len(str(refused.value)) < 500


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_no_bytes_of_a_table_crash(tmp_path_factory, content):
    path = put(tmp_path_factory.mktemp("bytes"), {"t.csv": content, "t.parquet": b"PAR1" + content})
    for name in ("t.csv", "t.parquet"):
        with suppress(UserError):
            read_sheet(path, name)


def test_a_column_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"'t.csv' has no column 'patientid'; did you mean 'patient_id'\?"):
        sheet_of(b"patient_id,x\n", "t.csv").require("patientid")


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("65", "65"),
        ("058Y", "58"),
        ("45yrs", "45"),
        ("65.0", "65"),
        ("0", "0"),
        ("97", "90"),
        ("411", None),
        ("", None),
    ],
)
def test_ages_are_whole_years_and_at_most_90(text, age):
    assert age_of(text) == age


def test_words_become_sexes_and_labels():
    assert [sex_of(text) for text in ("M", "female", "Male", "o", "unknown", "")] == ["M", "F", "M", "O", None, None]
    assert slug("No Lung Opacity / Not Normal") == "no_lung_opacity_not_normal"
    assert slug("Cardiomegaly|Effusion") == "cardiomegaly|effusion"


# --- Cohen's collection


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("COVID-19", "covid19"),
        ("COVID-19, ARDS", "covid19"),
        ("Pneumonia/Viral/COVID-19", "covid19"),
        ("No Finding", "normal"),
        ("SARS", "viral_pneumonia"),
        ("Pneumonia/Viral/SARS", "viral_pneumonia"),
        ("Pneumonia/Viral/Influenza/H1N1", "viral_pneumonia"),
        ("Varicella", "viral_pneumonia"),
        ("Streptococcus", "bacterial_pneumonia"),
        ("Pneumonia/Bacterial/Staphylococcus/MRSA", "bacterial_pneumonia"),
        ("Mycoplasma Bacterial Pneumonia", "bacterial_pneumonia"),
        ("E.Coli", "bacterial_pneumonia"),
        ("Pneumocystis", "fungal_pneumonia"),
        ("Pneumonia/Fungal/Aspergillosis", "fungal_pneumonia"),
        ("Pneumonia", "pneumonia"),
        ("ARDS", "ards"),
        ("Tuberculosis", "tuberculosis"),
        ("todo", None),
        ("Unknown", None),
        ("", None),
    ],
)
def test_findings_of_every_state_of_the_collection_have_one_label(finding, label):
    assert label_of(finding) == label


COHEN = """patientid,sex,age,finding,view,modality,folder,filename,
2,M,65,COVID-19,PA,X-ray,images,a.jpeg,
2,M,65,Pneumonia/Viral/COVID-19,L,X-ray,images,a-L.jpeg,
311a,F,97,No Finding,AP Supine,X-ray,images,b.png,
4,,,COVID-19,Axial,CT,images,ct.png,
5,,,todo,?,X-ray,images,todo.png,
6,,,SARS,PA,X-ray,images,absent.png,
2,M,65,COVID-19,PA,X-ray,images,a.jpeg,
7,,,COVID-19,PA,X-ray,images,../../outside.png,
8,,,COVID-19,?,X-ray,images,"line
break.png",
"""


def test_cohens_collection_is_read_from_wherever_its_archive_was_unpacked(tmp_path):
    put(tmp_path, ["outside.png"])
    top = "in/covid-chestxray-dataset-cec70d/"
    images = ["a.jpeg", "a-L.jpeg", "b.png", "ct.png", "todo.png", "unlisted.png"]
    put(tmp_path, {f"{top}metadata.csv": COHEN, **{f"{top}images/{name}": b"" for name in images}})
    put(tmp_path, ["in/covid-chestxray-dataset-cec70d/volumes/v.nii.gz", "outside.png"])
    found = listing("cohen", tmp_path / "in", name="cohen")
    assert facts(found, "image_id", "label", "patient_id", "view_position", "age", "sex") == {
        "a.jpeg": ("cohen/a.jpeg", "covid19", "cohen:2", "PA", "65", "M"),
        "a-L.jpeg": ("cohen/a-L.jpeg", "covid19", "cohen:2", "L", "65", "M"),
        "b.png": ("cohen/b.png", "normal", "cohen:311a", "AP Supine", "90", "F"),
    }
    assert {reason: len(names) for reason, names in found.unused.items()} == {
        "is of the modality 'CT', not X-ray": 1,
        "has no finding yet": 1,
        "is listed in metadata.csv, but is not in the folder": 3,
        "is the second of its name": 1,
        "is not listed in metadata.csv": 1,
    }


def test_several_tables_are_told_apart_by_the_recipe(tmp_path):
    put(tmp_path, {"a/metadata.csv": COHEN, "b/metadata.csv": COHEN, "b/images/b.png": b""})
    with pytest.raises(UserError, match=r"holds several tables, 'a/metadata.csv' and 'b/metadata.csv'; name one"):
        listing("cohen", tmp_path)
    assert list(by_name(listing("cohen", tmp_path, metadata="b/metadata.csv"))) == ["b.png"]
    with pytest.raises(UserError, match=r"There is no file '../x.csv'"):
        listing("cohen", tmp_path, metadata="../x.csv")
    with pytest.raises(UserError, match=r"There is no metadata.csv of Cohen's"):
        listing("cohen", put(tmp_path / "empty", ["x"]))


# --- the others


def test_covid_cxnet_is_read_by_file_name(tmp_path):
    rows = ["260.jpg,10,female,68,,COVID-19", "261.jpg,11,male,47,AP,", "9.jpg,1,,,,COVID-19"]
    table = "\n".join(["filename,patient_id,sex,age,view,label", *rows])
    put(tmp_path, {"metadata.csv": b"\xef\xbb\xbf" + table.encode(), "chest_xray_images/covid19/260.jpg": b""})
    found = listing("covid_cxnet", tmp_path, name="covid_cxnet")
    assert facts(found, "image_id", "label", "patient_id", "view_position", "age", "sex") == {
        "260.jpg": ("covid_cxnet/260.jpg", "covid19", "cxnet:10", None, "68", "F")
    }
    assert sorted(map(len, found.unused.values())) == [1, 1]


def test_kaggles_copies_within_copies_count_once(tmp_path):
    names = ["person1_bacteria_1.jpeg", "person1_virus_6.jpeg", "NORMAL2-IM-0892-0001.jpeg", "IM-0115-0001-0002.jpeg"]
    for top in ("chest_xray/train/PNEUMONIA", "chest_xray/chest_xray/train/PNEUMONIA", "__MACOSX/chest_xray"):
        put(tmp_path / top, names)
    put(tmp_path, ["chest_xray/test/NORMAL/README.txt", "chest_xray/test/NORMAL/IM-0001-0001.jpeg"])
    found = listing("kaggle_pneumonia", tmp_path, name="kaggle")
    assert facts(found, "path", "label", "patient_id", "group_id", "view_position") == {
        "person1_bacteria_1.jpeg": (
            "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg",
            "bacterial_pneumonia",
            "kaggle:person1_bacteria",
            "kaggle:person1",
            "AP",
        ),
        "person1_virus_6.jpeg": (
            "chest_xray/train/PNEUMONIA/person1_virus_6.jpeg",
            "viral_pneumonia",
            "kaggle:person1_virus",
            "kaggle:person1",
            "AP",
        ),
        "NORMAL2-IM-0892-0001.jpeg": (
            "chest_xray/train/PNEUMONIA/NORMAL2-IM-0892-0001.jpeg",
            "normal",
            "kaggle:NORMAL2-IM-0892",
            "kaggle:NORMAL2-IM-0892",
            "AP",
        ),
        "IM-0115-0001-0002.jpeg": (
            "chest_xray/train/PNEUMONIA/IM-0115-0001-0002.jpeg",
            "normal",
            "kaggle:IM-0115",
            "kaggle:IM-0115",
            "AP",
        ),
        "IM-0001-0001.jpeg": (
            "chest_xray/test/NORMAL/IM-0001-0001.jpeg",
            "normal",
            "kaggle:IM-0001",
            "kaggle:IM-0001",
            "AP",
        ),
    }
    assert {image.facts["split"] for image in found.images} == {"train", "test"}
    assert {reason: len(names) for reason, names in found.unused.items()} == {
        IGNORED: 1,
        "is the second of its name": 4,
        "has none of the set's names": 1,
    }


def test_names_of_every_release_of_the_radiography_database_are_read(tmp_path):
    put(tmp_path, ["COVID/images/COVID-19.png", "COVID/masks/COVID-19.png", "COVID-19/COVID-19 (1).png"])
    put(tmp_path, ["NORMAL/NORMAL (7).png", "Viral Pneumonia/images/Viral Pneumonia-2.png", "COVID.metadata.xlsx"])
    put(tmp_path, ["Lung_Opacity/images/Lung_Opacity-3.png", "COVID-19/COVID-19(2).png"])
    found = listing("radiography", tmp_path)
    assert facts(found, "label", "mask_paths", "patient_id") == {
        "COVID-19.png": ("covid19", ("COVID/masks/COVID-19.png",), None),
        "COVID-19 (1).png": ("covid19", (), None),
        "COVID-19(2).png": ("covid19", (), None),
        "NORMAL (7).png": ("normal", (), None),
        "Viral Pneumonia-2.png": ("viral_pneumonia", (), None),
        "Lung_Opacity-3.png": ("lung_opacity", (), None),
    }


NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    "00000773_001.png,Cardiomegaly|Effusion,1,773,058Y,M,PA,2894,2729,0.143,0.143,\n"
    "00001992_000.png,No Finding,0,1992,411,F,AP,2500,2048,0.168,0.168,\n"
)


def test_nih_is_read_with_its_table_and_without(tmp_path):
    images = ["images_001/images/00000773_001.png", "images_002/00001992_000.png", "images_002/00000001_000.png"]
    put(tmp_path / "all", {"Data_Entry_2017_v2020.csv": NIH, **dict.fromkeys(images, b"")})
    found = listing("nih", tmp_path / "all", name="nih")
    assert facts(found, "label", "patient_id", "view_position", "age", "sex") == {
        "00000773_001.png": ("cardiomegaly|effusion", "nih:00000773", "PA", "58", "M"),
        "00001992_000.png": ("normal", "nih:00001992", "AP", None, "F"),
    }
    assert found.unused == {"is not listed in Data_Entry_2017_v2020.csv": ("images_002/00000001_000.png",)}
    put(tmp_path / "alone", ["No_findings/00001992_000.png", "Pneumonia/00000773_001.png", "00000001_000.png"])
    assert facts(listing("nih", tmp_path / "alone"), "label", "patient_id") == {
        "00001992_000.png": ("normal", "nih:00001992"),
        "00000773_001.png": ("pneumonia", "nih:00000773"),
        "00000001_000.png": (None, "nih:00000001"),
    }


def test_nih_knows_its_files_whatever_they_were_saved_as(tmp_path):
    files = ["b/00000773_001.PNG", "a/00001992_000.jpg", "c/00001992_000.png"]
    put(tmp_path, {"Data_Entry_2017.csv": NIH.replace("1992_000.png", "1992_000"), **dict.fromkeys(files, b"")})
    found = listing("nih", tmp_path, name="nih")
    assert facts(found, "image_id", "label", "patient_id") == {
        "00000773_001.PNG": ("nih/00000773_001.PNG", "cardiomegaly|effusion", "nih:00000773"),
        "00001992_000.jpg": ("nih/00001992_000.jpg", "normal", "nih:00001992"),
    }
    assert found.unused == {"is the second of its name": ("c/00001992_000.png",)}


def test_rsna_knows_its_files_in_capitals(tmp_path):
    files = {"0A.DCM": dicom_file(), "0b.Dcm": dicom_file()}
    put(tmp_path, {"stage_2_train_labels.csv": "patientId,Target\n0a,0\n0B.dcm,1.0\n", **files})
    assert facts(listing("rsna", tmp_path), "label", "patient_id") == {
        "0A.DCM": ("no_lung_opacity", "rsna:0a"),
        "0b.Dcm": ("lung_opacity", "rsna:0b"),
    }


def test_rows_that_contradict_each_other_are_refused_by_name(tmp_path):
    sentence = r"1 of 2 values of '{}' in .*{}' have several of '{}', such as {} in data rows 2, 3; give each one\.$"
    again = NIH + "00001992_000.png,Pneumonia,0,1992,411,F,AP,,,,,\n"
    put(tmp_path / "nih", {"Data_Entry_2017.csv": again, "00001992_000.png": b""})
    values = "'No Finding', 'Pneumonia', '00001992_000.png'"
    with pytest.raises(UserError, match=sentence.format("Image Index", "2017.csv", "Finding Labels", values)):
        listing("nih", tmp_path / "nih")
    boxes = "patientId,x,Target\n0a,,0\n0b,,0\n0b,1,1\n"
    put(tmp_path / "rsna", {"stage_2_train_labels.csv": boxes, "0a.dcm": dicom_file()})
    with pytest.raises(UserError, match=sentence.format("patientId", "labels.csv", "Target", "'0', '1', '0b'")):
        listing("rsna", tmp_path / "rsna")
    put(tmp_path / "table", {"t.csv": "f,l\nx.png,flu\na.png,flu\na.png,normal\n"})
    with pytest.raises(UserError, match=sentence.format("f", "t.csv", "l", "'flu', 'normal', 'a.png'")):
        listing("table", tmp_path / "table", table="t.csv", columns={"image_id": "f", "path": "f", "label": "l"})
    two_ids = "id,f,l\n0,x.png,flu\n1,a.png,flu\n2,./a.png,normal\n"
    put(tmp_path / "table", {"t.csv": two_ids})
    with pytest.raises(UserError, match=sentence.format("f", "t.csv", "l", "'flu', 'normal', 'a.png'")):
        listing("table", tmp_path / "table", table="t.csv", columns={"image_id": "id", "path": "f", "label": "l"})


def test_a_row_that_contradicts_the_first_of_a_public_collection_is_told_with_both_labels(tmp_path):
    again = COHEN + "2,M,65,No Finding,PA,X-ray,images,a.jpeg,\n"
    put(tmp_path, {"metadata.csv": again, "images/a.jpeg": b""})
    found = listing("cohen", tmp_path)
    assert facts(found, "label") == {"a.jpeg": ("covid19",)}
    reason = "contradicts what was said of it before, which counts: label 'normal', not 'covid19'"
    assert found.unused[reason] == ("images/a.jpeg",)


def test_rsna_takes_classes_from_its_tables_and_the_rest_from_headers(tmp_path):
    exam = dicom_file(Modality="CR", ViewPosition="AP", PatientAge="51", PatientSex="F", PatientID="0a")
    files = {f"stage_2_train_images/{name}.dcm": exam for name in ("0a", "0b", "0c", "0d")}
    classes = "patientId,class\n0a,Normal\n0b,Lung Opacity\n" + "0c,No Lung Opacity / Not Normal\n" * 2
    put(tmp_path, {"stage_2_detailed_class_info.csv": classes, **files})
    found = listing("rsna", tmp_path, name="rsna")
    assert facts(found, "label", "patient_id", "view_position", "age", "sex") == {
        "0a.dcm": ("normal", "rsna:0a", "AP", "51", "F"),
        "0b.dcm": ("lung_opacity", "rsna:0b", "AP", "51", "F"),
        "0c.dcm": ("not_normal", "rsna:0c", "AP", "51", "F"),
    }
    assert found.unused == {"is not listed in stage_2_detailed_class_info.csv": ("stage_2_train_images/0d.dcm",)}
    (tmp_path / "stage_2_detailed_class_info.csv").unlink()
    put(tmp_path, {"stage_2_train_labels.csv": "patientId,x,Target\n0a,,0\n0b,1,1\n"})
    assert facts(listing("rsna", tmp_path), "label") == {"0a.dcm": ("no_lung_opacity",), "0b.dcm": ("lung_opacity",)}


def test_montgomery_and_shenzhen_know_status_masks_and_readings(tmp_path):
    top = tmp_path / "m" / "MontgomerySet"
    put(top / "CXR_png", ["MCUCXR_0001_0.png", "MCUCXR_0104_1.png", "MCUCXR_0002_0.png"])
    put(top / "ManualMask/leftMask", ["MCUCXR_0001_0.png", "MCUCXR_0104_1.png"])
    put(top / "ManualMask/rightMask", ["MCUCXR_0001_0.png"])
    put(top / "ClinicalReadings", {"MCUCXR_0001_0.txt": "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n"})
    found = listing("montgomery", tmp_path / "m", name="montgomery")
    lungs = tuple(f"MontgomerySet/ManualMask/{side}Mask/MCUCXR_0001_0.png" for side in ("left", "right"))
    assert facts(found, "label", "patient_id", "view_position", "age", "sex", "mask_paths") == {
        "MCUCXR_0001_0.png": ("normal", "montgomery:0001", "PA", "27", "F", lungs),
        # One lung's mask alone would make the other lung background.
        "MCUCXR_0104_1.png": ("tuberculosis", "montgomery:0104", "PA", None, None, ()),
        "MCUCXR_0002_0.png": ("normal", "montgomery:0002", "PA", None, None, ()),
    }
    put(tmp_path / "s/CXR_png", ["CHNCXR_0001_0.png", "CHNCXR_0327_1.png"])
    put(tmp_path / "s/mask", ["CHNCXR_0327_1_mask.png"])
    put(tmp_path / "s/Annotations-2/masks", ["CHNCXR_0001_0_Pleural_Effusion_2.png"])
    put(tmp_path / "s/ClinicalReadings", {"CHNCXR_0327_1.txt": "male 45yrs\nPTB"})
    found = listing("shenzhen", tmp_path / "s", name="shenzhen")
    assert facts(found, "label", "patient_id", "age", "sex", "mask_paths") == {
        "CHNCXR_0001_0.png": ("normal", "shenzhen:0001", None, None, ()),
        "CHNCXR_0327_1.png": ("tuberculosis", "shenzhen:0327", "45", "M", ("mask/CHNCXR_0327_1_mask.png",)),
    }


def test_masks_of_both_lungs_become_one_file_that_holds_both(tmp_path):
    rng = np.random.default_rng(0)
    lungs = [rng.random((40, 30)) < 0.3 for _ in range(2)]
    for side, lung in zip(("left", "right"), lungs, strict=True):
        (tmp_path / f"M/{side}Mask").mkdir(parents=True)
        Image.fromarray(lung).save(tmp_path / f"M/{side}Mask/a.png")
    masks = ("M/leftMask/a.png", "M/rightMask/a.png")
    assert join_masks(tmp_path, masks) == "M/joinedMask/a.png"
    with Image.open(tmp_path / "M/joinedMask/a.png") as joined:
        assert np.array_equal(np.asarray(joined), np.where(lungs[0] | lungs[1], 255, 0))
    for side, label in (("left", 1), ("right", 200)):
        Image.fromarray(lungs[0] * np.uint8(label)).save(tmp_path / f"M/{side}Mask/c.png")
    with Image.open(tmp_path / join_masks(tmp_path, ("M/leftMask/c.png", "M/rightMask/c.png"))) as joined:
        assert np.array_equal(np.asarray(joined), np.where(lungs[0], 255, 0))
    Image.fromarray(lungs[0][:-1]).save(tmp_path / "M/leftMask/b.png")
    Image.fromarray(lungs[1]).save(tmp_path / "M/rightMask/b.png")
    with pytest.raises(ImageError, match="several sizes"):
        join_masks(tmp_path, ("M/leftMask/b.png", "M/rightMask/b.png"))
    assert [path.name for path in (tmp_path / "M/joinedMask").glob("[!c]*")] == ["a.png"]


@pytest.mark.parametrize("content", [b"notes", None])
def test_a_joined_mask_that_is_not_what_its_parts_are_together_is_neither_taken_nor_replaced(tmp_path, content):
    for side in ("left", "right", "joined"):
        (tmp_path / f"M/{side}Mask").mkdir(parents=True)
        lung = np.zeros((40, 30), np.bool_)
        lung[10:20, {"left": 5, "right": 20, "joined": 5}[side]] = True
        Image.fromarray(lung).save(tmp_path / f"M/{side}Mask/a.png")
    target = tmp_path / "M/joinedMask/a.png"
    if content is not None:
        target.write_bytes(content)
    before = target.read_bytes()
    for _ in range(2):
        with pytest.raises(UserError, match=r"joinedMask/a\.png' is there, but is not what M/leftMask/a\.png, "):
            join_masks(tmp_path, ("M/leftMask/a.png", "M/rightMask/a.png"))
        assert target.read_bytes() == before
    target.unlink()
    for _ in range(2):
        join_masks(tmp_path, ("M/leftMask/a.png", "M/rightMask/a.png"))


def test_a_table_maps_its_columns_and_never_leaves_the_folder(tmp_path):
    inside = put(tmp_path / "in", ["x/a.png"])
    put(tmp_path / "out", ["s.png"])
    (inside / "link").symlink_to(tmp_path / "out")
    table = "file,dx,id,old,sex,years,digest\n"
    for file in ("x/a.png", "./x/./b.png", "../out/s.png", "/etc/passwd", "link/s.png", "", "x/a.png"):
        table += f"{file},normal,7,65.0,female,{'99' if file else ''},{'AB' * 32}\n"
    put(inside, {"labels.csv": table})
    columns = {
        "image_id": "file",
        "path": "file",
        "label": "dx",
        "patient_id": "id",
        "age": "years",
        "sha256": "digest",
    }
    found = listing("table", inside, table="labels.csv", columns=columns)
    assert facts(found, "path", "label", "patient_id", "age", "sha256", "source") == {
        "a.png": ("x/a.png", "normal", "7", "90", "ab" * 32, "here"),
        "b.png": ("x/b.png", "normal", "7", "90", "ab" * 32, "here"),
    }
    assert found.unused == {
        "has a path that leads out of the folder": ("data row 3", "data row 5"),
        "has an absolute path; paths start at the source's folder": ("data row 4",),
        "has no image_id or no path": ("data row 6",),
        "is the second of its name": ("x/a.png",),
        "is a link that leads out of the folder": ("link",),
    }
    assert found.columns[:2] == ("file", "dx")
    for wrong, words in (
        (
            {**columns, "patient": "id"},
            r"'patient' in 'columns' of the source 'here' is not .*did you mean 'patient_id'",
        ),
        ({"image_id": "file", "path": "file"}, "lacks 'label'"),
        ({**columns, "label": "dxx"}, "has no column 'dxx'; did you mean 'dx'"),
    ):
        with pytest.raises(UserError, match=words):
            listing("table", inside, table="labels.csv", columns=wrong)


@pytest.mark.parametrize("word", ["nan", "NULL", "N/A", "none", "<NA>", ""])
def test_a_word_for_nothing_is_no_patient_no_view_and_no_finding_of_any_source(tmp_path, word):
    head = COHEN.splitlines()[0]
    cohen = f"{head}\n{word},M,65,COVID-19,{word},X-ray,images,a.jpeg,\n9,M,65,{word},PA,X-ray,images,b.png,\n"
    put(tmp_path / "cohen", {"metadata.csv": cohen, "images/a.jpeg": b"", "images/b.png": b""})
    found = listing("cohen", tmp_path / "cohen")
    assert facts(found, "patient_id", "view_position") == {"a.jpeg": (None, None)}
    assert found.unused == {"has no finding yet": ("images/b.png",)}
    cxnet = f"filename,patient_id,label,view\na.jpg,{word},COVID-19,{word}\n"
    put(tmp_path / "cxnet", {"metadata.csv": cxnet, "a.jpg": b""})
    assert facts(listing("covid_cxnet", tmp_path / "cxnet"), "patient_id", "view_position") == {"a.jpg": (None, None)}
    nih = NIH.replace("Cardiomegaly|Effusion", word).replace("F,AP", f"F,{word}")
    put(tmp_path / "nih", {"Data_Entry_2017.csv": nih, "00000773_001.png": b"", "00001992_000.png": b""})
    assert facts(listing("nih", tmp_path / "nih"), "label", "view_position") == {
        "00000773_001.png": (None, "PA"),
        "00001992_000.png": ("normal", None),
    }
    put(tmp_path / "rsna", {"stage_2_train_labels.csv": f"patientId,Target\n0a,{word}\n", "0a.dcm": dicom_file()})
    assert facts(listing("rsna", tmp_path / "rsna"), "label") == {"0a.dcm": (None,)}
    names = ["id", "f", "l", "patient_id", "source", "view_position", "group_id", "mask_path"]
    lines = [",".join(names), *(f"{n},{n}.png,normal{f',{word}' * 5}" for n in range(2))]
    put(tmp_path / "table", {"t.csv": "\n".join(lines)})
    columns = {"image_id": "id", "path": "f", "label": "l"} | {name: name for name in names[3:]}
    assert facts(listing("table", tmp_path / "table", table="t.csv", columns=columns), *names[3:7], "mask_paths") == {
        f"{n}.png": (None, "here", None, None, ()) for n in range(2)
    }


def test_a_word_for_nothing_is_nobodys_key_in_a_table_of_labels(tmp_path):
    put(tmp_path / "in", {"a.dcm": exam("nan", 1), "b.dcm": exam("7", 2)})
    put(tmp_path, {"labels.csv": "patient_id,label\nnan,flu\nnan,normal\n7,flu\n"})
    found = listing("dicom", tmp_path / "in", labels={"by": "patient_id", "table": "labels.csv"})
    assert list(by_name(found)) == ["b.dcm"]
    put(tmp_path, {"labels.csv": "file,label\na.dcm,flu\n"})
    (image,) = listing("dicom", tmp_path / "in", labels={"by": "file", "table": "labels.csv"}).images
    assert (image.patient_id, image.group_id) == (None, pseudonym("1.3.1", SALT, "study"))


def test_how_a_table_was_read_is_noted(tmp_path):
    table = "id,f,l\n1,a.png,bénin\n".encode("cp1252")
    put(tmp_path, {"t.csv": table})
    (note,) = listing("table", tmp_path, table="t.csv", columns={"image_id": "id", "path": "f", "label": "l"}).notes
    assert "is not UTF-8 and was read as Windows-1252, so that it says 'bénin'" in note


NEAR = {"x/A 1.PNG": "x/a 1.png", "b.jpeg": "b", "é.png": "e\u0301.png", "d/c.png": "o\\c.png", "f.dcm": "q/f.jpg"}


@pytest.mark.parametrize(("there", "listed"), NEAR.items())
def test_a_file_that_is_not_there_is_answered_with_the_nearest_that_is(tmp_path, there, listed):
    columns = {"image_id": "id", "path": "f", "label": "l"}
    cohen = f"{COHEN.splitlines()[0]}\n2,M,65,COVID-19,PA,X-ray,images,{listed},\n"
    cxnet = f"filename,patient_id,label,view\n{listed},1,COVID-19,\n"
    labels = {"by": "file", "table": "labels.csv"}
    put(tmp_path / "table", {"t.csv": f"id,f,l\n1,{listed},flu\n", there: b""})
    put(tmp_path / "cxnet", {"metadata.csv": cxnet, there: b""})
    put(tmp_path / "cohen", {"metadata.csv": cohen, f"images/{there}": b""})
    put(tmp_path, {"labels.csv": f"file,label\n{listed},flu\n", f"dicom/{there}": exam("p", 1)})
    for found, near in (
        (listing("table", tmp_path / "table", table="t.csv", columns=columns), there),
        (listing("covid_cxnet", tmp_path / "cxnet"), there),
        (listing("cohen", tmp_path / "cohen"), f"images/{there}"),
        (listing("dicom", tmp_path / "dicom", labels=labels), there),
    ):
        (note,) = found.notes
        assert f"1 of 1 may be others that are there, such as {near!r} for '" in note
        assert note.endswith("composed and decomposed)") is (there == "é.png")


def test_several_or_no_files_of_nearly_a_name_are_no_hint():
    near = NearFiles(["a/x.png", "b/x.png", "y.png"])
    assert (near.of("x.png"), near.of("z.png"), near.of("A/X")) == (None, None, "a/x.png")
    assert near.hint(["z.png"]) == ""


@pytest.mark.parametrize(("key", "patient"), [("1230", "001230"), ("001230.0", "001230"), ("p7", "P7"), ("p 7", "p7")])
def test_keys_that_are_nearly_patient_ids_are_counted_and_not_named(tmp_path, key, patient):
    put(tmp_path / "dicom", {"a.dcm": exam(patient, 1), "b.dcm": exam("fine", 2)})
    put(tmp_path, {"labels.csv": f"patient_id,label\n{key},flu\nfine,flu\nnobody,flu\n"})
    (note,) = listing("dicom", tmp_path / "dicom", labels={"by": "patient_id", "table": "labels.csv"}).notes
    assert "2 of 3 keys of" in note and "1 of them are nearly PatientIDs of images without a label" in note
    assert key not in note.replace("p7, P7 and P 7", "") and patient not in note.replace("p7, P7 and P 7", "")


def test_a_file_that_is_listed_under_two_ids_is_taken_once(tmp_path):
    put(tmp_path, {"t.csv": "id,f,l\n1,a.png,normal\n2,./a.png,normal\n3,b.png,flu\n"})
    found = listing("table", tmp_path, table="t.csv", columns={"image_id": "id", "path": "f", "label": "l"})
    assert [image.image_id for image in found.images] == ["1", "3"]
    assert found.unused == {"is listed twice": ("a.png",)}


def test_texts_that_no_table_should_hold_are_left_out(tmp_path):
    put(tmp_path, {"t.csv": 'f,l\na.png,"nor\nmal"\nb.png,nul\0l\nc.png,' + "x" * 2000 + "\nd.png,normal\n"})
    found = listing("table", tmp_path, table="t.csv", columns={"image_id": "f", "path": "f", "label": "l"})
    assert list(by_name(found)) == ["d.png"]
    assert [len(names) for names in found.unused.values()] == [3]


# --- a hospital's DICOM files


def exam(patient, number, **elements):
    return dicom_file(PatientID=patient, SOPInstanceUID=f"1.2.{number}", StudyInstanceUID=f"1.3.{number}", **elements)


@pytest.fixture
def hospital(tmp_path):
    files = {
        "normal/x/IM1": exam("SECRET^1", 1, ViewPosition="PA", PatientAge="045Y", PatientSex="F"),
        "normal/y/IM1": exam("SECRET^1", 2, ViewPosition="LL"),
        "sick/IM2.dcm": exam("SECRET^2", 3, PatientAge="099Y"),
        "sick/copy.dcm": exam("SECRET^2", 3),
        "sick/nobody.dcm": exam(None, 4),
        "sick/report.txt": b"Dear colleague",
        "sick/ct.dcm": exam("SECRET^3", 5, Modality="CT"),
        "DICOMDIR": b"\0" * 128 + b"DICM",
        "top.dcm": exam("SECRET^4", 6),
    }
    return put(tmp_path / "dicom", files)


def test_labels_by_folder_and_everything_else_from_headers(hospital):
    found = listing("dicom", hospital, name="h", labels={"by": "folder"})
    first, second = pseudonym("SECRET^1", SALT), pseudonym("SECRET^2", SALT)
    assert {i.path: (i.label, i.patient_id, i.view_position, i.age, i.sex) for i in found.images} == {
        "normal/x/IM1": ("normal", first, "PA", "45", "F"),
        "normal/y/IM1": ("normal", first, "LL", None, None),
        "sick/IM2.dcm": ("sick", second, None, "90", None),
        "sick/nobody.dcm": ("sick", None, None, None, None),
    }
    nobody = next(image for image in found.images if image.patient_id is None)
    assert nobody.group_id == pseudonym("1.3.4", SALT, "study")
    assert all(image.image_id.startswith("h/image-") for image in found.images)
    assert {path for paths in found.unused.values() for path in paths} == {
        "sick/copy.dcm",
        "sick/report.txt",
        "sick/ct.dcm",
        "DICOMDIR",
        "top.dcm",
    }
    assert found.unused["is of the modality 'CT', not a radiograph (CR, DX, RG or DR)"] == ("sick/ct.dcm",)
    assert found.unused["is another file of an image that is there already (SOPInstanceUID)"] == ("sick/copy.dcm",)
    assert "SECRET" not in repr(found)


@pytest.mark.parametrize(
    ("by", "keys", "labelled"),
    [
        ("file", ["normal/x/IM1", r"sick\IM2.dcm"], {"normal/x/IM1", "sick/IM2.dcm"}),
        ("file", ["IM2.dcm"], {"sick/IM2.dcm"}),
        ("file", ["IM1"], set()),
        ("patient_id", ["SECRET^1"], {"normal/x/IM1", "normal/y/IM1"}),
        ("pseudonym", [pseudonym("SECRET^2", SALT)], {"sick/IM2.dcm"}),
    ],
)
def test_labels_of_a_table_by_file_patient_or_pseudonym(hospital, by, keys, labelled):
    rows = "".join(f"{key},flu\n" for key in [*keys, "nothing here"])
    put(hospital.parent, {"labels.csv": f"key,dx\n{rows}"})
    labels = {"by": by, "table": "labels.csv", "key": "key", "label": "dx"}
    found = listing("dicom", hospital, labels=labels)
    assert {image.path for image in found.images if image.label == "flu"} == labelled
    assert len(found.images) == len(labelled)
    (note,) = found.notes
    assert note.startswith(f"1 of {len(keys) + 1} keys of") and note.endswith("belong to no image")
    if keys == ["IM1"]:
        ambiguous = next(names for reason, names in found.unused.items() if "shares its name" in reason)
        assert ambiguous == ("normal/x/IM1", "normal/y/IM1")


def test_ids_are_kept_where_that_was_asked_for(hospital):
    found = listing("dicom", hospital, keep_ids=True, labels={"by": "folder"})
    assert {image.patient_id for image in found.images} == {"SECRET^1", "SECRET^2", None}
    assert found.patients.startswith("PatientID as it is")


@pytest.fixture
def films(tmp_path):
    parts = ["CHEST"] * 7 + ["SKULL", "Schädel", None]
    files = {
        f"sick/{n}.dcm": exam(
            f"p{n}",
            n,
            BodyPartExamined=part,
            Modality=None if part is None else "CR",
            SpecificCharacterSet="ISO_IR 100",
        )
        for n, part in enumerate(parts)
    }
    return put(tmp_path / "films", files)


@pytest.mark.parametrize(
    ("body_parts", "used"),
    [("any", 10), (["SKULL"], 8), (["skull", "SCHADEL"], 9), (["CHEST"], 7), (["SKULL", "KNEE"], 8)],
)
def test_a_recipe_says_which_parts_of_the_body_are_meant(films, body_parts, used):
    found = listing("dicom", films, labels={"by": "folder"}, body_parts=body_parts)
    assert len(found.images) == used
    assert sum(len(paths) for paths in found.unused.values()) == 10 - used
    if used == 7:
        (note,) = found.notes
        assert note == (
            "3 of 10 radiographs with a label are not used, because BodyPartExamined does not say that they show the "
            "chest, but 'SKULL' 1, 'Schädel' 1, nothing 1"
        )


def test_more_radiographs_of_other_parts_than_a_tenth_are_an_error_with_their_counts(films):
    with pytest.raises(
        UserError, match=r"h: 3 of 10 radiographs .*'SKULL' 1, 'Schädel' 1, nothing 1.*'body_parts: any'"
    ):
        listing("dicom", films, name="h", labels={"by": "folder"})
    for name in ("8", "9"):
        (films / f"sick/{name}.dcm").unlink()
    for number in (20, 21):
        put(films, {f"sick/{number}.dcm": exam(f"p{number}", number)})
    found = listing("dicom", films, labels={"by": "folder"})
    assert len(found.images) == 9
    assert found.notes[0].startswith("1 of 10 radiographs with a label are not used")


def test_radiographs_without_a_label_may_show_anything(films):
    put(films.parent, {"labels.csv": "file,label\n0.dcm,flu\n"})
    found = listing("dicom", films, labels={"by": "file", "table": "labels.csv"})
    assert len(found.images) == 1
    assert not found.notes
    assert found.unused["is a radiograph of 'SKULL', not of the chest"] == ("sick/7.dcm",)


def test_paths_that_hold_the_id_are_said(tmp_path):
    put(tmp_path, {"a/P77/1.dcm": exam("P77", 1), "a/P78/2.dcm": exam("P79", 2)})
    (note,) = listing("dicom", tmp_path, labels={"by": "folder"}).notes
    assert note.startswith("the paths of 1 files hold their PatientID, and so will the manifest")
    assert "P77" not in note
    assert not listing("dicom", tmp_path, keep_ids=True, labels={"by": "folder"}).notes


def test_a_patient_with_two_labels_is_refused_without_naming_the_patient(hospital):
    put(hospital.parent, {"labels.csv": "patient_id,label\nSECRET^1,normal\nSECRET^1,flu\nSECRET^2,flu\n"})
    with pytest.raises(
        UserError, match=r"1 of 2 values of 'patient_id' in .* have several of 'label', such"
    ) as refused:
        listing("dicom", hospital, labels={"by": "patient_id", "table": "labels.csv"})
    assert "SECRET" not in str(refused.value)


# --- the salt


def test_a_salt_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "new" / "salt"
    salt = read_salt(path)
    assert len(salt) == 32 and path.read_bytes() == salt == read_salt(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_salt(tmp_path / "other") != salt


@pytest.mark.parametrize(("size", "mode", "words"), [(32, 0o644, "0644"), (31, 0o600, "32 bytes"), (33, 0o600, "32 b")])
def test_a_salt_that_others_can_read_or_that_is_none_is_refused(tmp_path, size, mode, words):
    path = tmp_path / "salt"
    path.write_bytes(b"\x07" * size)
    path.chmod(mode)
    with pytest.raises(UserError, match=words):
        read_salt(path)


def test_a_salt_that_cannot_be_made_is_refused_in_a_sentence(tmp_path):
    put(tmp_path, ["file"])
    with pytest.raises(UserError, match=re.escape("--salt-file")):
        read_salt(tmp_path / "file" / "salt")
