"""What a report consists of, in the order of reading."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cxrdist.report.audit import audit_findings
from cxrdist.report.audit_tables import audit_by_class_table, audit_table
from cxrdist.report.calibration import calibration_section
from cxrdist.report.claim import claim_section
from cxrdist.report.headline import headline
from cxrdist.report.heat_tables import heat_table
from cxrdist.report.image_figures import error_pictures, example_pictures
from cxrdist.report.inference import Comparisons, VariantInference, compare, infer
from cxrdist.report.inference_tables import (
    by_class_interval_table,
    class_comparison_table,
    comparison_table,
    interval_table,
)
from cxrdist.report.learning_figures import learning_picture
from cxrdist.report.masks import implausible_table, mask_pictures, mask_table
from cxrdist.report.mistakes import mistakes_section
from cxrdist.report.paper_tables import paper_section
from cxrdist.report.results import Results
from cxrdist.report.roc_figures import comparison_picture, roc_picture
from cxrdist.report.scores import VariantScores, all_scores
from cxrdist.report.section import Section, Words
from cxrdist.report.sweep_section import sweep_section
from cxrdist.report.tables import (
    by_class_table,
    cohort_table,
    confusion_table,
    fold_counts_table,
    folds_table,
    summary_table,
)


@dataclass(frozen=True)
class Findings:
    """All that is computed from the results, once for all sections."""

    results: Results
    scores: Sequence[VariantScores]
    inferences: Sequence[VariantInference]
    """Of the same variants, in the same order."""
    comparisons: Comparisons | None

    @classmethod
    def of(cls, results: Results) -> "Findings":
        """Compute scores, intervals and tests."""
        scores = all_scores(results)
        inferences = [infer(results, one) for one in scores]
        return cls(results, scores, inferences, compare(results, scores, inferences))


def report_sections(findings: Findings) -> list[Section]:
    """Return the sections of a report; those without content are left out of the page."""
    results, scores = findings.results, findings.scores
    return [
        _summary(findings),
        _cohort(results),
        _variants(findings),
        _comparison(findings),
        sweep_section(results.sweep),
        paper_section(results, scores, findings.inferences),
        calibration_section(results, scores),
        _mistakes(results, scores),
        _heat(results),
        _audit(results),
        _masks(results),
        claim_section(results, scores),
    ]


def _summary(findings: Findings) -> Section:
    results, scores = findings.results, findings.scores
    tables = [summary_table(results, scores), interval_table(results, findings.inferences)] if scores else []
    words = Words(tuple(headline(results, scores, findings.inferences, findings.comparisons)), lead=True)
    return Section("summary-section", "Summary", [words, *tables])


def _cohort(results: Results) -> Section:
    return Section("cohort-section", "Cohort and folds", [cohort_table(results), fold_counts_table(results)])


def _variants(findings: Findings) -> Section:
    results = findings.results
    inferred = {one.variant: one for one in findings.inferences}
    scored = {one.variant: one for one in findings.scores}
    parts = []
    for number, variant in enumerate(results.variants, start=1):
        learning = learning_picture(results, variant)
        curves = [learning] if learning else []
        if variant in scored:
            own = scored[variant]
            tables = [
                confusion_table(results, own),
                by_class_table(results, own),
                by_class_interval_table(results, inferred[variant]),
            ]
            areas = [each.interval for each in inferred[variant].by_class["auc"]]
            parts.append(Section(f"variant-{number}", variant, [*tables, roc_picture(results, own, areas), *curves]))
        elif curves:
            parts.append(Section(f"variant-{number}", variant, curves))
    if findings.scores:
        parts.append(Section("by-fold", "All variants by fold", [folds_table(results, findings.scores)]))
    return Section("variants-section", "Variants", parts=parts)


def _comparison(findings: Findings) -> Section:
    if not findings.scores:
        return Section("comparison-section", "Comparison of variants")
    tests = []
    if findings.comparisons is not None:
        tests = [
            comparison_table(findings.results, findings.comparisons),
            class_comparison_table(findings.results, findings.comparisons),
        ]
    return Section(
        "comparison-section",
        "Comparison of variants",
        [comparison_picture(findings.results, findings.scores), *tests],
    )


def _mistakes(results: Results, scores: Sequence[VariantScores]) -> Section:
    section = mistakes_section(results, scores)
    return replace(section, content=[*section.content, *error_pictures(results)]) if section else section


def _heat(results: Results) -> Section:
    shares = heat_table(results)
    pictures = [*example_pictures(results), *results.kept_pictures]
    return Section("heat-section", "What the networks look at", [*([shares] if shares else []), *pictures])


def _audit(results: Results) -> Section:
    if results.audit is None:
        return Section("audit-section", "Shortcuts")
    words = Words(tuple(audit_findings(results.audit)), points=True)
    return Section(
        "audit-section", "Shortcuts", [words, audit_table(results.audit), audit_by_class_table(results.audit)]
    )


def _masks(results: Results) -> Section:
    if results.masks is None:
        return Section("masks-section", "Lung masks")
    implausible = [implausible_table(results.masks)] if results.masks.implausible else []
    return Section(
        "masks-section", "Lung masks", [mask_table(results.masks), *implausible, *mask_pictures(results.masks)]
    )
