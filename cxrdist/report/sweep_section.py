"""The section of a report about the search for settings."""

from cxrdist.report.section import Section, Words
from cxrdist.report.style import Picture
from cxrdist.report.sweep import SELECTION_ON_REPORTED_FOLDS, SweepSummary
from cxrdist.report.sweep_figures import cells_picture, progress_picture
from cxrdist.report.sweep_importance import importances, important_pair
from cxrdist.report.sweep_parallel import parallel_picture
from cxrdist.report.sweep_tables import agreement_table, best_table, cost_table, importance_table
from cxrdist.report.sweep_words import at_ends, how_it_was_searched
from cxrdist.report.table import Table


def sweep_section(summary: SweepSummary | None) -> Section:
    """Return words, tables and figures of a sweep; empty where there was none."""
    if summary is None or not summary.searches:
        return Section("sweep-section", "Sweep")
    found = importances(summary)
    ends = at_ends(summary)
    content: list[Words | Table | Picture] = [Words(how_it_was_searched(summary))]
    if summary.shared:
        content.append(Words((f"{SELECTION_ON_REPORTED_FOLDS}.",), warning=True))
    content += [best_table(summary), agreement_table(summary)]
    if ends:
        content.append(Words(ends, points=True))
    content += [parallel_picture(summary, variant) for variant in summary.variants]
    pair = important_pair(summary, found)
    if pair is not None:
        content += [cells_picture(summary, variant, pair) for variant in summary.variants]
        # A single setting explains all that is explained.
        content.append(importance_table(summary, found))
    content += [progress_picture(summary), cost_table(summary)]
    return Section("sweep-section", "Sweep", content)
