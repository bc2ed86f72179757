"""One HTML page that needs nothing but itself."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxrdist.report.audit import audit_findings
from cxrdist.report.audit_tables import audit_by_class_table, audit_table
from cxrdist.report.headline import headline
from cxrdist.report.masks import implausible_table, mask_table
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.style import Picture
from cxrdist.report.table import Table
from cxrdist.report.tables import (
    by_class_table,
    cohort_table,
    confusion_table,
    fold_counts_table,
    folds_table,
    summary_table,
)

Numbered = tuple[Table, int]


@dataclass(frozen=True)
class VariantTables:
    """The tables of one variant, numbered."""

    name: str
    tables: Sequence[Numbered]


def render_page(results: Results, scores: Sequence[VariantScores], pictures: Sequence[Picture]) -> str:
    """Return the page: styles and figures inside, no script, every name escaped."""
    numbers = count(1)

    def numbered(table: Table) -> Numbered:
        return table, next(numbers)

    environment = Environment(
        loader=PackageLoader("cxrdist.report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["data_uri"] = _data_uri
    summary = numbered(summary_table(results, scores)) if scores else None
    cohort = [numbered(cohort_table(results)), numbered(fold_counts_table(results))]
    variants = [
        VariantTables(one.variant, [numbered(confusion_table(results, one)), numbered(by_class_table(results, one))])
        for one in scores
    ]
    return environment.get_template("page.html.j2").render(
        results=results,
        headline=headline(scores),
        summary=summary,
        cohort=cohort,
        variants=variants,
        folds=numbered(folds_table(results, scores)) if scores else None,
        audit=[numbered(table) for table in audit_tables(results)],
        masks=[numbered(table) for table in mask_tables(results)],
        findings=[] if results.audit is None else audit_findings(results.audit),
        pictures=pictures,
    )


def mask_tables(results: Results) -> list[Table]:
    """Return the tables of the lung masks, none where there are no masks."""
    if results.masks is None:
        return []
    implausible = [implausible_table(results.masks)] if results.masks.implausible else []
    return [mask_table(results.masks), *implausible]


def audit_tables(results: Results) -> list[Table]:
    """Return the tables of the shortcut audit, none where there was no audit."""
    return [] if results.audit is None else [audit_table(results.audit), audit_by_class_table(results.audit)]


def _data_uri(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
