"""Writing a report: tables, figures and the page, each under a temporary name and then renamed."""

import os
from collections.abc import Sequence
from pathlib import Path

from cxrdist.errors import CxrdistError
from cxrdist.report.learning_figures import learning_picture
from cxrdist.report.masks import mask_pictures
from cxrdist.report.page import audit_tables, mask_tables, render_page
from cxrdist.report.render import render_csv, render_latex, render_markdown
from cxrdist.report.results import Results
from cxrdist.report.roc_figures import comparison_picture, roc_picture
from cxrdist.report.scores import VariantScores, all_scores
from cxrdist.report.style import Picture
from cxrdist.report.table import Table
from cxrdist.report.tables import (
    by_class_table,
    cohort_table,
    confusion_table,
    file_name,
    fold_counts_table,
    folds_table,
    summary_table,
)


def headline_tables(results: Results) -> list[Table]:
    """Return what a terminal shows: the summary, each variant's confusion matrix and scores by class, the folds."""
    return _score_tables(results, all_scores(results))


def write_report(results: Results, folder: Path) -> Path:
    """Write `tables/`, `figures/` and last `index.html` into `folder`; equal results give equal bytes.

    Returns:
        The path of index.html.

    Raises:
        CxrdistError: two variants would have the same file names.
    """
    names = [file_name(variant) for variant in results.variants]
    if len(set(names)) < len(names):
        raise CxrdistError(f"Two variants would have the same file names: {', '.join(sorted(names))}.")
    scores = all_scores(results)
    tables = [*_score_tables(results, scores), cohort_table(results), fold_counts_table(results)]
    for table in [*tables, *mask_tables(results), *audit_tables(results)]:
        for ending, render in (("csv", render_csv), ("md", render_markdown), ("tex", render_latex)):
            _write(folder / "tables" / f"{table.name}.{ending}", render(table).encode())
    pictures = _pictures(results, scores)
    for picture in pictures:
        _write(folder / "figures" / f"{picture.name}.svg", picture.svg)
        _write(folder / "figures" / f"{picture.name}.png", picture.png)
    return _write(folder / "index.html", render_page(results, scores, pictures).encode())


def _score_tables(results: Results, scores: Sequence[VariantScores]) -> list[Table]:
    if not scores:
        return []
    by_variant = [make(results, one) for one in scores for make in (confusion_table, by_class_table)]
    return [summary_table(results, scores), *by_variant, folds_table(results, scores)]


def _pictures(results: Results, scores: Sequence[VariantScores]) -> list[Picture]:
    learning = [learning_picture(results, variant) for variant in results.variants]
    comparison = [comparison_picture(results, scores)] if scores else []
    return [
        *comparison,
        *(roc_picture(results, one) for one in scores),
        *(picture for picture in learning if picture is not None),
        *(mask_pictures(results.masks) if results.masks else []),
    ]


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
