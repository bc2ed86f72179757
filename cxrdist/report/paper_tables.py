"""A run beside the paper that it reproduces: the section of a report."""

from collections.abc import Sequence

from cxrdist.report.counterpart import VIEW_TITLES, of_study, of_view
from cxrdist.report.four_class_tables import four_class_summary_table, four_class_table, printed_confusion_table
from cxrdist.report.inference import VariantInference
from cxrdist.report.paper_protocol import differences, open_points
from cxrdist.report.papers import FourClassPaper, Paper, ThreeClassPaper, paper_of
from cxrdist.report.results import Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.section import Section, Words
from cxrdist.report.table import Table
from cxrdist.report.three_class_tables import (
    chi_square_table,
    paper_folds_table,
    sample_size_table,
    three_class_summary_table,
)

_ANCHOR = "paper-section"


def paper_section(results: Results, scores: Sequence[VariantScores], inferences: Sequence[VariantInference]) -> Section:
    """Return the section that sets a run beside its paper; empty where the study is of neither.

    Args:
        results: what the report shows.
        scores: of the variants with predictions.
        inferences: of the same variants, in the same order.
    """
    paper = paper_of(results)
    if paper is None:
        return Section(_ANCHOR, "Beside the paper")
    tables = (
        _four_class(paper, results, scores, inferences)
        if isinstance(paper, FourClassPaper)
        else _three_class(paper, results, scores, inferences)
    )
    return Section(_ANCHOR, f"Beside {paper.name}", tables, _lists(results, paper))


def _four_class(
    paper: FourClassPaper,
    results: Results,
    scores: Sequence[VariantScores],
    inferences: Sequence[VariantInference],
) -> list[Table]:
    views = {view: of_view(results, scores, inferences, view=view, model=paper.protocol.model) for view in VIEW_TITLES}
    return [
        four_class_table(results, paper, views),
        four_class_summary_table(results, paper, views),
        printed_confusion_table(results, paper),
    ]


def _three_class(
    paper: ThreeClassPaper,
    results: Results,
    scores: Sequence[VariantScores],
    inferences: Sequence[VariantInference],
) -> list[Table]:
    own = of_study(results, scores, inferences, model=paper.protocol.model)
    return [
        paper_folds_table(results, paper, own),
        three_class_summary_table(results, paper, own),
        *([chi_square_table(results, paper, own.scores)] if own.scores is not None else []),
        sample_size_table(results, paper, own),
    ]


def _lists(results: Results, paper: Paper) -> list[Section]:
    differing = differences(results, paper)
    if results.config is None:
        differing.append("The settings of this run are not known here and are not compared.")
    elif not differing:
        differing.append("No difference was found in images, network, folds, training and preprocessing.")
    lists: tuple[tuple[str, str, Sequence[str]], ...] = (
        ("paper-differences", "Where this run's protocol differs", differing),
        ("paper-open-points", "What the paper leaves open", open_points(results, paper)),
        ("paper-contradictions", "Contradictions within the paper", paper.contradictions),
        ("paper-limits", "What the paper's design cannot tell", paper.limits),
    )
    return [
        Section(anchor, title, [Words(tuple(sentences), points=True)])
        for anchor, title, sentences in lists
        if sentences
    ]
