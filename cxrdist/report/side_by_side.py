"""Studies of one cohort side by side: all their variants scored and tested as those of one study are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxrdist.report.compared_studies import (
    ComparedStudy,
    joined_facts,
    joined_warnings,
    settings_table,
    studies_table,
)
from cxrdist.report.headline import headline
from cxrdist.report.inference import Comparisons, VariantInference, compare, infer
from cxrdist.report.inference_tables import class_comparison_table, comparison_table, interval_table
from cxrdist.report.results import FoldSummary, Results
from cxrdist.report.roc_figures import comparison_picture
from cxrdist.report.scores import VariantScores, all_scores
from cxrdist.report.section import Section, Words
from cxrdist.report.sections import Findings
from cxrdist.report.table import Cell, Table
from cxrdist.report.tables import folds_table, summary_table

_OF_FOLDS = "Corrected t"
"""How the columns and notes of the test over folds begin."""


@dataclass(frozen=True)
class SideBySide:
    """All that is computed from the studies' results, once for all sections."""

    studies: Sequence[ComparedStudy]
    same_folds: bool
    results: Results
    """Of all variants, under the studies' labels. Where folds differ they have none in common: all are taken as one."""
    by_study: Sequence[Findings]
    """Of each study in its own folds, its variants under its label; without comparisons."""
    comparisons: Comparisons | None
    """All pairs, of one study and of two; None where there are no two of the same images."""

    @classmethod
    def of(cls, studies: Sequence[ComparedStudy]) -> "SideBySide":
        """Compute scores, intervals and tests."""
        same_folds = all(np.array_equal(one.folds.parts, studies[0].folds.parts) for one in studies)
        by_study = []
        for one in studies:
            # Replicates are paired only where they are drawn by the same seed.
            results = _labelled(one, studies[0].results.seed)
            scores = all_scores(results)
            by_study.append(Findings(results, scores, [infer(results, each) for each in scores], None))
        together = _together(studies, [one.results for one in by_study], same_folds=same_folds)
        inferences = [each for one in by_study for each in one.inferences]
        return cls(studies, same_folds, together, by_study, compare(together, all_scores(together), inferences))

    @property
    def scores(self) -> list[VariantScores]:
        """Of all variants, each in its own study's folds."""
        return [each for one in self.by_study for each in one.scores]

    @property
    def inferences(self) -> list[VariantInference]:
        """Of the same variants, in the same order."""
        return [each for one in self.by_study for each in one.inferences]

    @property
    def extent(self) -> str:
        """How many variants and folds there are, in words."""
        variants = f"{len(self.results.variants)} variants of {len(self.studies)} studies"
        folds = self.results.n_folds
        return (
            f"{variants} × {folds} fold{'s' if folds != 1 else ''}" if self.same_folds else f"{variants}, folds differ"
        )

    def headline(self) -> list[str]:
        """Say which variant is best and by how much, and whether that is real."""
        return headline(self.results, self.scores, self.inferences, self.comparisons)

    def summary(self) -> Table:
        """One row a variant: every score."""
        return _stacked([summary_table(one.results, one.scores) for one in self.by_study])

    def pairs(self) -> Table | None:
        """One row a pair of variants; without the test over folds where these differ."""
        if self.comparisons is None:
            return None
        table = comparison_table(self.results, self.comparisons)
        return table if self.same_folds else _without_test_over_folds(table)


def side_by_side_sections(found: SideBySide) -> list[Section]:
    """Return the sections of the page; `found.results` has what its head and end say."""
    words = Words(tuple(found.headline()), lead=True)
    intervals = _stacked([interval_table(one.results, one.inferences) for one in found.by_study])
    pairs = found.pairs()
    tests = [pairs, class_comparison_table(found.results, found.comparisons)] if pairs and found.comparisons else []
    folds = _stacked([folds_table(one.results, one.scores) for one in found.by_study])
    settings = settings_table(found.studies)
    what_differs = settings if settings.rows else Words(("The study files differ in no setting that changes results.",))
    return [
        Section("summary-section", "Summary", [words, found.summary(), intervals]),
        Section("studies-section", "Studies", [studies_table(found.studies), what_differs]),
        Section(
            "comparison-section", "Comparison of variants", [comparison_picture(found.results, found.scores), *tests]
        ),
        Section("by-fold", "All variants by fold", [folds]),
    ]


def _labelled(study: ComparedStudy, seed: int) -> Results:
    """Return the results with the study's label before each variant's name, without what one study alone shows."""
    names = {variant: f"{study.label}: {variant}" for variant in study.results.variants}
    return replace(
        study.results,
        variants=tuple(names.values()),
        out_of_fold={
            names[variant]: replace(own, variant=names[variant]) for variant, own in study.results.out_of_fold.items()
        },
        histories={},
        validation=(),
        heat_shares=(),
        seed=seed,
    )


def _together(studies: Sequence[ComparedStudy], labelled: Sequence[Results], *, same_folds: bool) -> Results:
    """Return the results of all studies as one."""
    # Of several ways to group the same images, the one with the fewest groups is what the statistics resample.
    cohort = min((one.cohort for one in labelled), key=lambda each: each.groups)
    n_folds, folds = labelled[0].n_folds, labelled[0].folds
    out_of_fold = {variant: own for one in labelled for variant, own in one.out_of_fold.items()}
    if not same_folds:
        counts = [one.images for one in cohort.classes]
        n_folds, folds = 1, [FoldSummary(0, training=counts, validation=[0] * len(counts), test=counts)]
        out_of_fold = {variant: replace(own, fold=np.zeros_like(own.fold)) for variant, own in out_of_fold.items()}
    return replace(
        labelled[0],
        study=f"Comparison of {len(studies)} studies",
        variants=tuple(variant for one in labelled for variant in one.variants),
        n_folds=n_folds,
        out_of_fold=out_of_fold,
        cohort=cohort,
        folds=folds,
        warnings=[*_notes(labelled, same_folds=same_folds), *joined_warnings(studies)],
        facts=joined_facts(studies),
        study_yaml="---\n".join(f"# {one.label}\n{one.results.study_yaml}" for one in studies),
    )


def _notes(labelled: Sequence[Results], *, same_folds: bool) -> list[str]:
    """Say what makes a comparison of two studies weaker than one of two variants of a study."""
    if same_folds:
        return []
    notes = [
        "The studies have different folds: paired tests compare the test predictions of each image, but the networks "
        "were trained on different parts of the cohort, so that a difference may come from the folds. The corrected t "
        "over folds is left out."
    ]
    tested = {tuple(own.image_ids) for one in labelled for own in one.out_of_fold.values()}
    if len(tested) > 1:
        notes.append("Variants that were not tested on the same images are not compared in pairs.")
    return notes


def _stacked(tables: Sequence[Table]) -> Table:
    """Return one table with the rows of all, which have the same columns, and their notes, each once."""
    rows: list[tuple[Cell, ...]] = []
    totals: set[int] = set()
    for table in tables:
        totals |= {len(rows) + number for number in table.totals}
        rows += table.rows
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    return replace(tables[0], rows=tuple(rows), totals=frozenset(totals), notes=tuple(notes))


def _without_test_over_folds(table: Table) -> Table:
    kept = [number for number, column in enumerate(table.columns) if not column.group.startswith(_OF_FOLDS)]
    return replace(
        table,
        columns=tuple(table.columns[number] for number in kept),
        rows=tuple(tuple(row[number] for number in kept) for row in table.rows),
        notes=tuple(note for note in table.notes if not note.startswith(_OF_FOLDS)),
    )
