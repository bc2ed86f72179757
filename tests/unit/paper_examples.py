"""The papers' own numbers as runs."""

from dataclasses import replace

import numpy as np

from cxrdist.report.inference import infer
from cxrdist.report.paper_tables import paper_section
from cxrdist.report.results import ClassCount, CohortSummary
from cxrdist.report.scores import all_scores
from tests.unit.report_examples import results_of_confusion

FOUR = ("normal", "covid19", "viral_pneumonia", "bacterial_pneumonia")
THREE = ("covid19", "viral_pneumonia", "normal")
TABLE_1 = np.array([[122, 3, 17, 2], [6, 102, 3, 6], [16, 2, 94, 20], [4, 1, 30, 85]])
TOTALS = np.array([[240, 0, 0], [0, 273, 1], [1, 2, 264]])
IMAGES = {"normal": 532, "covid19": 455, "viral_pneumonia": 552, "bacterial_pneumonia": 492}


def section_of(results):
    scores = all_scores(results)
    return paper_section(results, scores, [infer(results, one) for one in scores])


def tables(results):
    return {table.name: table for table in section_of(results).content}


def points(results):
    return {part.title: part.content[0].sentences for part in section_of(results).parts}


def four_class(order=FOUR, **changes):
    index = [FOUR.index(label) for label in order]
    return replace(results_of_confusion(TABLE_1[np.ix_(index, index)], order), **changes)


def three_class(confusion=TOTALS, order=THREE, **changes):
    results = results_of_confusion(confusion, order)
    own = replace(results.out_of_fold["whole-vgg16"], variant="whole-resnet34")
    return replace(results, variants=("whole-resnet34",), out_of_fold={own.variant: own}, **changes)


def as_of_the_paper(results, images, **changes):
    classes = [ClassCount(label, images[label], images[label], {}) for label in results.classes]
    return replace(results, cohort=CohortSummary(classes, sum(images.values()), "patients", {}), **changes)
