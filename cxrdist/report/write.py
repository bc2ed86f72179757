"""Writing a report: tables, figures and the page, each under a temporary name and then renamed."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from cxrdist.errors import CxrdistError
from cxrdist.outputs import Outputs
from cxrdist.report.inference_tables import comparison_table
from cxrdist.report.page import render_page
from cxrdist.report.render import render_csv, render_latex, render_markdown
from cxrdist.report.results import Results
from cxrdist.report.section import Section, pictures_of, tables_of
from cxrdist.report.sections import Findings, report_sections
from cxrdist.report.table import Table
from cxrdist.report.tables import by_class_table, confusion_table, file_name, folds_table, summary_table

PAGE = "index.html"


def headline_tables(findings: Findings) -> list[Table]:
    """Return what a terminal shows: summary, each variant's confusion matrix and scores by class, folds, tests."""
    results, scores = findings.results, findings.scores
    if not scores:
        return []
    by_variant = [make(results, one) for one in scores for make in (confusion_table, by_class_table)]
    tests = [comparison_table(results, findings.comparisons)] if findings.comparisons else []
    return [summary_table(results, scores), *by_variant, folds_table(results, scores), *tests]


def write_report(findings: Findings, folder: Path, known: Collection[str] = ()) -> list[Path]:
    """Write the report of a study as `write_sections` does.

    Raises:
        UserError: as `write_sections`.
        CxrdistError: two variants would have the same file names.
    """
    place = "a run directory, by --run-dir of `cxrdist run`"
    return write_sections(findings.results, report_sections(findings), folder, known=known, option=place)


def write_sections(
    results: Results,
    sections: Sequence[Section],
    folder: Path,
    *,
    extent: str = "",
    known: Collection[str] = (),
    option: str = "--out",
) -> list[Path]:
    """Write `tables/`, `figures/` and last `index.html` into `folder`; equal results give equal bytes.

    Args:
        results: what the page's head and end are of.
        sections: what it shows.
        folder: where it is written.
        extent: how many variants and folds there are, in words; by default as the results say.
        known: names in the folder of what is known to be written by this program, besides what is recorded there.
        option: by which the user names the folder, for messages.

    Returns:
        The paths of all files that were written, index.html last.

    Raises:
        UserError: one of the files is there and is not as this program wrote it; then none is written.
        CxrdistError: two variants would have the same file names.
    """
    names = [file_name(variant) for variant in results.variants]
    if len(set(names)) < len(names):
        raise CxrdistError(f"Two variants would have the same file names: {', '.join(sorted(names))}.")
    files: dict[str, bytes] = {}
    for table in tables_of(sections):
        for ending, render in (("csv", render_csv), ("md", render_markdown), ("tex", render_latex)):
            files[f"tables/{table.name}.{ending}"] = render(table).encode()
    for picture in pictures_of(sections):
        files |= {f"figures/{picture.name}.svg": picture.svg, f"figures/{picture.name}.png": picture.png}
    files[PAGE] = render_page(results, sections, extent).encode()
    with Outputs(folder, files, option=option, known=known).writing():
        return [_write(folder / name, content) for name, content in files.items()]


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
