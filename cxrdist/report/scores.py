"""A variant's scores, computed once for all tables and figures."""

from dataclasses import dataclass

from cxrdist.report.results import Results
from cxrdist.stats.averages import macro_average, weighted_average
from cxrdist.stats.confusion import (
    ClassScores,
    Counts,
    Summary,
    class_scores,
    confusion_matrix,
    summarize,
    wilson,
)
from cxrdist.stats.folds import FoldAccuracy, accuracy_by_fold
from cxrdist.stats.roc import OneVsRestAuc, one_vs_rest_auc
from cxrdist.study.outoffold import OutOfFold


@dataclass(frozen=True)
class AucAverages:
    """The AUC over all classes."""

    pooled_macro: float
    pooled_weighted: float
    folds_macro: float
    folds_weighted: float


@dataclass(frozen=True)
class VariantScores:
    """Everything computed from one variant's out-of-fold predictions."""

    variant: str
    predictions: OutOfFold
    confusion: Counts
    by_class: ClassScores
    summary: Summary
    accuracy_interval: tuple[float, float]
    auc: OneVsRestAuc
    auc_averages: AucAverages
    folds: FoldAccuracy


def variant_scores(predictions: OutOfFold, n_classes: int) -> VariantScores:
    """Compute the scores of one variant."""
    confusion = confusion_matrix(predictions.truth, predictions.predicted, n_classes)
    summary = summarize(confusion)
    auc = one_vs_rest_auc(predictions.truth, predictions.probabilities, predictions.fold)
    return VariantScores(
        variant=predictions.variant,
        predictions=predictions,
        confusion=confusion,
        by_class=class_scores(confusion),
        summary=summary,
        accuracy_interval=wilson(summary.correct, summary.n),
        auc=auc,
        auc_averages=AucAverages(
            pooled_macro=macro_average(auc.pooled),
            pooled_weighted=weighted_average(auc.pooled, auc.support),
            folds_macro=macro_average(auc.mean_of_folds),
            folds_weighted=weighted_average(auc.mean_of_folds, auc.support),
        ),
        folds=accuracy_by_fold(predictions.truth, predictions.predicted, predictions.fold),
    )


def all_scores(results: Results) -> list[VariantScores]:
    """Compute the scores of every variant that has predictions, in the study's order."""
    return [variant_scores(results.out_of_fold[variant], len(results.classes)) for variant in results.present]
