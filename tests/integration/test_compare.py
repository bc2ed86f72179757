"""Comparing runs: of one cohort side by side, of another one refused with a sentence that says what differs."""

import csv
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cxrdist.config import load_study
from cxrdist.report import inference, side_by_side
from cxrdist.report.roc_figures import comparison_picture
from cxrdist.report.scores import all_scores
from cxrdist.report.style import Picture
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.driver import run_study
from cxrdist.run.store import Store
from tests.integration.conftest import STUDY, Command, assert_one_sentence, rows_of, run_here, vouch_for, write_rows
from tests.unit.report_examples import VARIANTS, small_results

CLASSES = ["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, phantoms: Path, shared_cache: Path) -> Path:
    """Runs: `first`, `faster` of another learning rate, `copy`, and `redivided` of other folds."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "study.yaml").write_text(STUDY.format(manifest=phantoms / "manifest.csv"))
    train(folder, "first", phantoms, shared_cache)
    train(folder, "faster", phantoms, shared_cache, "name=faster", "training.learning_rate=0.03")
    train(folder, "redivided", phantoms, shared_cache, "name=redivided", "variants.views=[whole]", "folds.k=3")
    shutil.copytree(folder / "first", folder / "copy")
    return folder


@pytest.fixture(scope="module")
def compared(folder: Path) -> tuple[Path, str]:
    """The page's folder of `first` and `faster`, and what was printed."""
    status, output = run_here("compare", str(folder / "first"), str(folder / "faster"), "--out", str(folder / "out"))
    assert status == 0, output
    return folder / "out", output


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few resamples, and figures are not drawn."""
    picture = Picture("comparison", "All", "", "", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"")
    monkeypatch.setattr(inference, "RESAMPLES", 60)
    monkeypatch.setattr(side_by_side, "comparison_picture", lambda *_: picture)


def train(folder: Path, name: str, images: Path, cache: Path, *settings: str) -> None:
    """Run the folder's study without making its report."""
    study = load_study(
        folder / "study.yaml",
        settings=[f"execution.cache={cache}", "training.epochs=2", *settings],
        overrides={"cohort.images": str(images), "execution.executor": "inline"},
    )
    assert not run_study(study, Store(folder / name), ConsoleDisplay(Console(file=io.StringIO()))).unfinished


def table(folder: Path, name: str) -> list[dict[str, str]]:
    """Read one of a page's tables."""
    with (folder / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def changed_copy(folder: Path, images: Path, cache: Path, change: Mapping[str, str]) -> Path:
    """Return a run in `folder` on the same images, with these values in the first row of the manifest."""
    rows = rows_of(images)
    write_rows(folder, [{**rows[0], **change}, *rows[1:]])
    (folder / "study.yaml").write_text(STUDY.format(manifest=folder / "manifest.csv"))
    train(folder, "run", images, cache, "variants.views=[whole]")
    return folder / "run"


def test_variants_of_both_studies_are_side_by_side(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    names = [f"{study}: {view}-vgg16" for study in ("tiny", "faster") for view in ("whole", "segmented")]
    assert [row["Variant"] for row in table(folder, "summary")] == names
    assert len(table(folder, "pairs")) == 6
    assert {row["Variant"] for row in table(folder, "folds")} == set(names)


def test_the_page_lists_the_studies_and_what_differs_between_them(compared: tuple[Path, str]) -> None:
    folder, _ = compared
    assert table(folder, "settings") == [
        {"Setting": "training.learning_rate", "tiny": "0.001", "faster": "0.03"},
    ]
    assert [(row["Study"], row["Run directory"], row["Seed"]) for row in table(folder, "studies")] == [
        ("tiny", "../first", "5"),
        ("faster", "../faster", "5"),
    ]
    page = (folder / "index.html").read_text()
    assert "<h1>Comparison of 2 studies</h1>" in page
    doubts = page.partition("Read these numbers with care")[2].partition("</ul>")[0]
    assert doubts.count("<li>") == doubts.count("has a single training patient"), "the phantoms are few, and no worse"
    assert page.count("data:image/svg+xml") == 1
    assert (folder / "figures" / "comparison.png").exists()


def test_a_terminal_shows_the_summary_and_the_pairs(compared: tuple[Path, str]) -> None:
    folder, output = compared
    for text in (
        "Summary of all variants.",
        "Variants compared in pairs.",
        "Corrected t over folds",
        "has the highest",
    ):
        assert text in output
    assert output.rstrip().endswith(f"report: {folder / 'index.html'}")


@pytest.mark.usefixtures("quick")
def test_a_copy_of_a_run_differs_in_nothing(command: Command, folder: Path, tmp_path: Path) -> None:
    code, output = command("compare", str(folder / "first"), str(folder / "copy"), "--out", str(tmp_path))
    assert code == 0, output
    (row,) = [
        row
        for row in table(tmp_path, "pairs")
        if (row["First"], row["Second"]) == ("first: whole-vgg16", "copy: whole-vgg16")
    ]
    for name in ("AUC pooled, macro", "Accuracy"):
        assert [float(row[f"{name} {part}"]) for part in ("difference", "low", "high", "p", "p Holm")] == [
            0,
            0,
            0,
            1,
            1,
        ]
    assert (row["McNemar p"], row["Corrected t over folds p"]) == ("1", "1")
    assert not (tmp_path / "tables" / "settings.csv").exists()


@pytest.mark.usefixtures("quick")
def test_a_comparison_that_cannot_be_written_is_printed_first(command: Command, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    status, output = command(
        "compare", str(folder / "first"), str(folder / "copy"), "--out", str(tmp_path / "file/out")
    )
    assert (status, "choose another with --out" in output) == (2, True), output
    assert output.index("Summary") < output.index("Error: ")


@pytest.mark.usefixtures("quick")
def test_other_folds_are_said_and_leave_out_the_test_over_folds(command: Command, folder: Path, tmp_path: Path) -> None:
    code, output = command("compare", str(folder / "first"), str(folder / "redivided"), "--out", str(tmp_path))
    assert code == 0, output
    note = "The studies have different folds"
    assert output.startswith(note)
    assert note in (tmp_path / "index.html").read_text()
    pairs = table(tmp_path, "pairs")
    assert len(pairs) == 3
    assert not [name for name in pairs[0] if name.startswith("Corrected t")]
    assert [row["Folds"] for row in table(tmp_path, "summary")] == ["2 of 2", "2 of 2", "3 of 3"]
    assert {row["Setting"] for row in table(tmp_path, "settings")} == {"folds.k", "variants.views"}


def test_runs_of_other_images_are_refused(
    command: Command, folder: Path, tmp_path: Path, phantoms: Path, shared_cache: Path
) -> None:
    rows = rows_of(phantoms)
    write_rows(tmp_path, rows[:-2])
    (tmp_path / "study.yaml").write_text(STUDY.format(manifest=tmp_path / "manifest.csv"))
    train(tmp_path, "run", phantoms, shared_cache, "variants.views=[whole]")
    first, other = folder / "first", tmp_path / "run"
    words = [
        f"{first} has {len(rows)} images and {other} {len(rows) - 2}",
        f"2 of {first} are not in {other}, such as {min(row['image_id'] for row in rows[-2:])}",
        "only studies of the same images",
    ]
    assert_one_sentence(command("compare", str(first), str(other), "--out", str(tmp_path / "out")), 2, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": "covid19", "patient_id": "new", "group_id": ""}, "differ in the class of 1 image, such as"),
        ({"source": "elsewhere"}, "but their manifests differ in source"),
    ],
)
def test_runs_of_other_classes_or_sources_are_refused(
    command: Command,
    folder: Path,
    tmp_path: Path,
    phantoms: Path,
    shared_cache: Path,
    change: dict[str, str],
    words: str,
) -> None:
    other = changed_copy(tmp_path, phantoms, shared_cache, change)
    assert_one_sentence(command("compare", str(folder / "first"), str(other)), 2, [words])


@pytest.mark.parametrize(
    ("classes", "words"),
    [(CLASSES[::-1], "the same in another order"), ([*CLASSES[:3], "other"], "only studies of the same images")],
)
def test_runs_of_other_lists_of_classes_are_refused(
    command: Command, folder: Path, tmp_path: Path, classes: list[str], words: str
) -> None:
    shutil.copytree(folder / "copy", tmp_path / "run")
    study = (tmp_path / "run" / "study.yaml").read_text()
    listed = "".join(f"  - {label}\n" for label in CLASSES)
    assert listed in study
    (tmp_path / "run" / "study.yaml").write_text(study.replace(listed, "".join(f"  - {label}\n" for label in classes)))
    vouch_for(tmp_path / "run", "study.yaml")
    assert_one_sentence(
        command("compare", str(folder / "first"), str(tmp_path / "run")), 2, [", ".join(classes), words]
    )


def test_an_incomplete_run_is_named_and_refused(command: Command, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "copy", tmp_path / "run")
    (tmp_path / "run" / "jobs" / "whole-vgg16" / "fold-1" / "done.json").unlink()
    alone = command("report", str(tmp_path / "run"))
    sentence = alone[1][len("Error: ") :].strip()
    assert sentence.startswith("1 of 4 fold jobs")
    assert_one_sentence(
        command("compare", str(folder / "first"), str(tmp_path / "run")), alone[0], [f"{tmp_path / 'run'}: {sentence}"]
    )


def test_what_is_no_two_runs_is_refused(command: Command, folder: Path, tmp_path: Path) -> None:
    first = str(folder / "first")
    assert_one_sentence(command("compare", first), 2, ["needs two or more"])
    assert_one_sentence(command("compare", first, str(tmp_path)), 2, [f"{tmp_path} is not a run directory"])
    again = f"{first}/../first"
    assert_one_sentence(command("compare", first, again), 2, [f"{again} are the same place"])
    assert_one_sentence(command("compare", first, first), 2, [f"{first} is given twice"])
    (tmp_path / "link").symlink_to(first)
    for same in (f"{first}/", str(tmp_path / "link"), os.path.relpath(first)):
        assert_one_sentence(command("compare", first, same), 2, [f"{first} and", "are the same place"])
    assert_one_sentence(
        command("compare", first, str(folder / "copy"), "--out", f"{first}/report"), 2, ["choose another folder"]
    )
    assert not (folder / "first" / "report").exists()


def test_names_too_long_for_a_panel_are_drawn_below_it() -> None:
    names = [f"{'s' * 64}: {variant}" for variant in VARIANTS]
    base = small_results()
    results = replace(
        base,
        variants=tuple(names),
        out_of_fold={
            name: replace(base.out_of_fold[variant], variant=name)
            for name, variant in zip(names, VARIANTS, strict=True)
        },
        histories={},
    )
    picture = comparison_picture(results, all_scores(results))
    assert f"{names[0]}: macro AUC" in picture.alternative
