"""Which images a report shows: the same for the same predictions and seed."""

from collections import Counter

import numpy as np

from cxrdist.report.results import Results
from cxrdist.study.seeds import derive_seed

EXAMPLES = 2
"""Images shown of each class."""
ERRORS = 6
"""Images shown of each variant's errors."""


def images_to_show(results: Results) -> list[str]:
    """Return the ids of the examples of each class, then of each variant's most confident errors, each once."""
    examples = [image_id for own in examples_by_class(results).values() for image_id in own]
    errors = [image_id for variant in results.present for image_id in confident_errors(results, variant, ERRORS)]
    return list(dict.fromkeys([*examples, *errors]))


def examples_by_class(results: Results) -> dict[str, list[str]]:
    """Return for each class the ids of at most `EXAMPLES` of its images that most variants classify correctly.

    Among images with as many correct variants it is chance that decides, derived from the study's seed.
    """
    truth: dict[str, int] = {}
    correct: Counter[str] = Counter()
    for predictions in results.out_of_fold.values():
        true = predictions.truth.tolist()
        truth.update(zip(predictions.image_ids, true, strict=True))
        right = (predictions.predicted == predictions.truth).tolist()
        correct.update(dict(zip(predictions.image_ids, right, strict=True)))
    chosen = {}
    for index, label in enumerate(results.classes):
        own = sorted(image_id for image_id, true in truth.items() if true == index)
        order = np.random.default_rng(derive_seed(results.seed, "examples", label)).permutation(len(own))
        shuffled = [own[number] for number in order]
        chosen[label] = sorted(shuffled, key=lambda image_id: -correct[image_id])[:EXAMPLES]
    return chosen


def confident_errors(results: Results, variant: str, most: int) -> list[str]:
    """Return the ids of at most `most` images that a variant gets wrong, the most probable errors first.

    Of equally probable ones the smaller id is first. None where the variant has no predictions.
    """
    if variant not in results.out_of_fold:
        return []
    predictions = results.out_of_fold[variant]
    probability = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions.predicted != predictions.truth).tolist()
    ranked = sorted((-float(probability[row]), predictions.image_ids[row]) for row in wrong)
    return [image_id for _, image_id in ranked[:most]]
