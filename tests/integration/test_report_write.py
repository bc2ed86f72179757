"""Writing a report: the same bytes from the same results, whole files only, and figures that show the curves."""

import itertools
import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from cxrdist.errors import CxrdistError, UserError
from cxrdist.outputs import RECORD
from cxrdist.report.learning_figures import by_epoch, learning_picture
from cxrdist.report.results import ClassCount, CohortSummary
from cxrdist.report.roc_figures import comparison_picture, macro_curve, roc_picture
from cxrdist.report.scores import all_scores
from cxrdist.report.sections import Findings
from cxrdist.report.write import headline_tables
from cxrdist.report.write import write_report as write_findings
from cxrdist.stats.resampling import Interval
from tests.unit.report_examples import VARIANTS, history, out_of_fold, small_results


def write_report(results, folder):
    return write_findings(Findings.of(results), folder)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != RECORD]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def half_done():
    """The first variant complete, the second without predictions."""
    complete = small_results()
    first = VARIANTS[0]
    return small_results(
        out_of_fold={first: complete.out_of_fold[first]},
        histories={key: own for key, own in complete.histories.items() if key[0] == first},
        missing=[f"{VARIANTS[1]} fold {fold}" for fold in (0, 1)],
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    paths = write_report(half_done(), folder)
    assert paths[-1] == folder / "index.html"
    assert {path.relative_to(folder).as_posix() for path in paths} == set(contents(folder))
    return contents(folder)


def test_a_report_is_the_page_each_table_three_ways_and_each_figure_two_ways(written):
    of_the_study = ["summary", "intervals", "cohort", "fold_counts", "folds", "calibration", "errors_by_source"]
    of_the_variant = [f"{name}_{VARIANTS[0]}" for name in ("confusion", "by_class", "by_class_intervals")]
    tables = [*of_the_study, "confident_errors", "claim", *of_the_variant]
    figures = ["comparison", "reliability", f"roc_{VARIANTS[0]}", f"learning_{VARIANTS[0]}"]
    assert set(written) == {
        "index.html",
        *(f"tables/{name}.{ending}" for name, ending in itertools.product(tables, ("csv", "md", "tex"))),
        *(f"figures/{name}.{ending}" for name, ending in itertools.product(figures, ("svg", "png"))),
    }


def test_equal_results_give_equal_bytes_whatever_matplotlib_is_set_to(written, tmp_path, monkeypatch):
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    results = half_done()
    backwards = small_results(
        out_of_fold=results.out_of_fold,
        histories=dict(reversed(results.histories.items())),
        missing=results.missing,
    )
    write_report(backwards, tmp_path)
    again = contents(tmp_path)
    assert {name for name in written if written[name] != again[name]} == set()


def test_figures_hold_no_date_and_no_font_from_elsewhere(written):
    for name, content in written.items():
        if name.endswith(".svg"):
            text = content.decode()
            assert "<dc:date>" not in text
            assert "<text" not in text
            assert "@font-face" not in text
        if name.endswith(".png"):
            assert content.startswith(b"\x89PNG")
            assert b"Matplotlib" not in content


def test_the_page_holds_the_figures(written):
    assert written["index.html"].count(b"data:image/svg+xml;base64,") == 4


def test_a_file_that_cannot_be_finished_leaves_the_old_one_and_no_rest(tmp_path, monkeypatch):
    results = small_results(out_of_fold={}, histories={}, missing=["-"] * 4)
    *_, page = write_report(results, tmp_path)
    before = contents(tmp_path)

    def full_disk(self, content):
        with self.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report(results, tmp_path)
    assert contents(tmp_path) == before
    assert page.stat().st_mode & 0o044 == 0o044


def test_a_file_of_the_users_is_not_replaced_and_then_no_file_is(tmp_path):
    theirs = tmp_path / "tables" / "summary.csv"
    theirs.parent.mkdir()
    theirs.write_text("mine")
    results = small_results(out_of_fold={}, histories={}, missing=["-"] * 4)
    summary = tmp_path / "tables" / "cohort.csv"
    summary.write_text("mine")
    with pytest.raises(UserError, match=r"tables/cohort\.csv' is there and is not known to be its own"):
        write_report(results, tmp_path)
    assert set(contents(tmp_path)) == {"tables/summary.csv", "tables/cohort.csv"}
    # Earlier versions listed their files elsewhere.
    write_findings(Findings.of(results), tmp_path, ["tables/cohort.csv"])
    write_report(results, tmp_path)
    (tmp_path / "index.html").write_text("commented")
    with pytest.raises(UserError, match=r"index\.html' is there and was changed since"):
        write_report(results, tmp_path)
    assert theirs.read_text() == "mine"


def test_no_file_is_ever_half_written_under_its_own_name(tmp_path, monkeypatch):
    opened = []
    write_bytes = Path.write_bytes

    def noted(self, content):
        opened.append(self)
        return write_bytes(self, content)

    monkeypatch.setattr(Path, "write_bytes", noted)
    write_report(small_results(out_of_fold={}, histories={}, missing=["-"] * 4), tmp_path)
    finished = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != RECORD}
    assert len(opened) == len(finished) == 1 + 3 * 3
    assert finished.isdisjoint(opened)


def test_variants_never_write_outside_the_folder_nor_over_each_other(tmp_path):
    results = small_results(variants=("../a", ".._a"), out_of_fold={}, histories={}, missing=["-"] * 4)
    with pytest.raises(CxrdistError, match="same file names"):
        write_report(results, tmp_path)
    name = "../../a/b"
    predictions = out_of_fold(name, [0, 1, 2], [0, 1, 2], [0, 0, 0], 3)
    outside = small_results(variants=(name,), n_folds=1, out_of_fold={name: predictions}, histories={})
    assert [table.name for table in headline_tables(Findings.of(outside))] == [
        "summary",
        "confusion_.._.._a_b",
        "by_class_.._.._a_b",
        "folds",
    ]


def test_dollar_signs_are_drawn_as_they_are_and_a_class_without_images_as_undefined():
    base = small_results()
    labels = ("$\\frac$", "a$b", "c_d^e")
    classes = [
        ClassCount(label, one.images, one.groups, {}) for label, one in zip(labels, base.cohort.classes, strict=True)
    ]
    truth = [0, 1, 0, 1]
    results = small_results(
        classes=labels,
        cohort=CohortSummary(classes, groups=9, group_name="patients", excluded={}),
        out_of_fold={variant: out_of_fold(variant, truth, truth, [0, 0, 1, 1], 3) for variant in VARIANTS},
    )
    scores = all_scores(results)
    assert macro_curve(scores[0]) is None
    assert roc_picture(
        results, scores[0], [Interval(area, 0.5, 1.0) for area in scores[0].auc.pooled]
    ).alternative.endswith("$\\frac$ 1.000, a$b 1.000, c_d^e n/a.")
    assert "whole-resnet34: macro AUC n/a, accuracy 1.000;" in comparison_picture(results, scores).alternative


def test_the_macro_curve_is_the_mean_of_the_classes_curves():
    curve = macro_curve(all_scores(small_results())[0])
    assert curve is not None
    assert (np.diff(curve) >= 0).all()
    assert curve[-1] == 1


def test_learning_curves_leave_out_missing_epochs_and_values_that_are_not_finite():
    long, short = history(0, epochs=3), history(1, epochs=2)
    short[1] = {**short[1], "train_loss": math.inf}
    epochs, values = by_epoch([long, short], "train_loss")
    assert epochs.tolist() == [1, 2, 3]
    np.testing.assert_allclose(values, [[1, 1 / 2, 1 / 3], [1.1, np.nan, np.nan]])
    results = small_results(histories={(VARIANTS[0], 0): long, (VARIANTS[0], 1): short})
    picture = learning_picture(results, VARIANTS[0])
    assert picture is not None
    assert picture.caption.startswith("Mean over 2 of 2 folds")
    assert learning_picture(results, VARIANTS[1]) is None
