"""Predictions in; tables, figures and one HTML page out."""

from cxrdist.report.render import render_csv, render_latex, render_markdown, render_text
from cxrdist.report.results import ClassCount, CohortSummary, FoldSummary, Results
from cxrdist.report.table import Column, Table
from cxrdist.report.write import headline_tables, write_report

__all__ = [
    "ClassCount",
    "CohortSummary",
    "Column",
    "FoldSummary",
    "Results",
    "Table",
    "headline_tables",
    "render_csv",
    "render_latex",
    "render_markdown",
    "render_text",
    "write_report",
]
