"""What the software knows of the items of the CLAIM checklist, by their numbers of 2020."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cxrdist.config.models import FoldsConfig, LungsConfig, ModelName, Study
from cxrdist.config.recipe import ModelConfig
from cxrdist.report.audit import audit_verdicts
from cxrdist.report.inference import ALPHA, LEVEL, RESAMPLES
from cxrdist.report.papers import MODEL_NAMES
from cxrdist.report.results import CohortSummary, Results
from cxrdist.report.scores import VariantScores
from cxrdist.report.sweep import SELECTION_ON_REPORTED_FOLDS, key_title
from cxrdist.report.sweep_words import NESTED, design, space
from cxrdist.report.table import show_number
from cxrdist.report.tables import SCORE_DIGITS
from cxrdist.study.folds import BATCH_OF_THE_PAPER

State = Literal["filled in", "to be completed", "to be filled in"]

_UNITS = {"group": "patient groups", "patient": "patients", "image": "images"}
"""What `folds.group_by` keeps together, as a cohort names it."""
_APART = {
    "group": "Patient groups: neither a patient nor a group that the manifest names is in two parts of a fold. An "
    "image with neither id stands alone.",
    "patient": "Patients: none is in two parts of a fold, but patients who share an image may be. An image without a "
    "patient id stands alone.",
    "image": "Images: this leaks patients, since images of one patient may be in training and test parts, so that the "
    "scores are too good.",
}
_EQUALIZED = {
    "none": "contrast untouched",
    "histogram": "histogram equalisation",
    "clahe": "contrast-limited adaptive equalisation (CLAHE)",
}
_VIEWS = {
    "whole": "whole, the image as it is",
    "segmented": "segmented, black outside the lungs",
    "lung_box": "lung_box, cut to the lungs' box with a margin",
    "lungs_blanked": "lungs_blanked, black inside the lungs",
}
_IMPLAUSIBLE = {
    "whole": "where a lung mask is implausible, all of the image counts as lung",
    "drop": "an image with an implausible lung mask is left out of every variant",
    "error": "a study with an implausible lung mask is refused",
}
_HEAT_METHODS = {"cam": "CAM (Zhou et al. 2016)", "gradcam": "Grad-CAM (Selvaraju et al. 2017)"}

_BY_SWEEP = "chosen by a sweep"


@dataclass(frozen=True)
class Answer:
    """What the software knows of an item."""

    text: str
    whole: bool = True
    """Whether it answers all of the item."""

    @property
    def state(self) -> State:
        """Who has to do what."""
        if not self.text:
            return "to be filled in"
        return "filled in" if self.whole else "to be completed"


def claim_answers(results: Results, scores: Sequence[VariantScores]) -> dict[int, Answer]:
    """Return answers by item; items of which nothing is known may be absent."""
    known = _of_cohort(results) | _of_run(results) | _of_findings(results) | _of_scores(results, scores)
    if results.config is not None:
        known |= _of_data(results, results.config) | _of_training(results, results.config)
    return known


def _of_cohort(results: Results) -> dict[int, Answer]:
    cohort = results.cohort
    grouped = "" if cohort.group_name == "images" else f" of {cohort.groups} {cohort.group_name}"
    used = f"{_images(cohort.images)}{grouped}"
    by_class = ", ".join(f"{one.label} {one.images}" for one in cohort.classes)
    counts: Counter[str] = Counter()
    for one in cohort.classes:
        counts.update(one.sources)
    by_source = ", ".join(f"{source} {count}" for source, count in sorted(counts.items()))
    excluded = _excluded(cohort)
    listed = _images(cohort.images + sum(cohort.excluded.values()))
    classes = f"one of the classes {', '.join(results.classes)}"
    return {
        7: Answer(f"{used}{f'; images by source: {by_source}' if by_source else ''}.", whole=False),
        8: Answer(f"Images that the manifest lists as {classes}; {excluded}.", whole=False),
        11: Answer(f"Input: the pixels of one image. Outcome: {classes}.", whole=False),
        13: Answer(f"Of the images listed, {excluded}.", whole=False),
        14: Answer(f"The label that the manifest gives an image, {classes}, is taken as true.", whole=False),
        19: Answer(f"{used}; images by class: {by_class}.", whole=False),
        33: Answer(f"{listed} listed, {cohort.images} used, {excluded}.", whole=False),
    }


def _of_run(results: Results) -> dict[int, Answer]:
    facts = dict(results.facts)
    folds = "1 fold" if results.n_folds == 1 else f"{results.n_folds} folds"
    apart = [_APART[by] for by, unit in _UNITS.items() if unit == results.cohort.group_name]
    python = f", Python {facts['Python']}" if facts.get("Python") else ""
    machines = f" Fold jobs were done on: {facts['Machines']}." if facts.get("Machines") else ""
    mark = f" (fingerprint {facts['Study fingerprint']})" if facts.get("Study fingerprint") else ""
    software = f"Where this report was made: {facts['Software']}{python}.{machines}" if facts.get("Software") else ""
    doubts = "; ".join(warning.rstrip(".") for warning in results.warnings)
    return {
        20: Answer(f"{folds}, the same for all variants.", whole=False),
        21: Answer("".join(apart)),
        22: Answer(f"Variants, each a view with a network: {', '.join(results.variants)}.", whole=False),
        23: Answer(software),
        34: Answer('The table "Folds" counts the images of each class in each part.', whole=False),
        38: Answer(f"Doubts that the software raises: {doubts}." if doubts else "", whole=False),
        41: Answer(f"The study file{mark} is printed at the end of this report.", whole=False),
    }


def _of_findings(results: Results) -> dict[int, Answer]:
    """Say what was looked into besides scores, or that it was not."""
    heat = Answer("This report has no heat maps.", whole=False)
    shown = sum(bool(image.heat) for image in results.images.values())
    if results.heat_shares:
        maps = ", ".join(f"{one.variant} by {_HEAT_METHODS[one.method]}" for one in results.heat_shares)
        heat = Answer(f"Heat maps of all test images, and the share of them that lies in the lungs: {maps}.")
    elif shown:
        heat = Answer(f"Heat maps of {_images(shown)}, for people to judge.", whole=False)
    audit = Answer("No audit for shortcuts was made.", whole=False)
    if results.audit is not None:
        verdicts = [f"{one.model}: {one.shortcut}" for one in audit_verdicts(results.audit) if one.label is None]
        told = f" Shortcuts, in its words: {', '.join(verdicts)}." if verdicts else ""
        audit = Answer(f"An audit for shortcuts, of {len(results.audit.rows)} predictors.{told}")
    return {
        30: audit,
        31: heat,
        32: Answer("This report tests on images of the study's own cohort alone.", whole=False),
    }


def _of_scores(results: Results, scores: Sequence[VariantScores]) -> dict[int, Answer]:
    if not scores:
        return {}
    complete = not results.missing
    reached = "; ".join(
        f"{one.variant}: accuracy {show_number(one.summary.accuracy, SCORE_DIGITS)}, "
        f"macro AUC (pooled) {show_number(one.auc_averages.pooled_macro, SCORE_DIGITS)}"
        for one in scores
    )
    errors = "; ".join(f"{one.variant}: {one.summary.n - one.summary.correct} of {one.summary.n}" for one in scores)
    curves = " Training and validation parts: loss and accuracy by epoch, as learning curves."
    paired = len({tuple(one.predictions.image_ids) for one in scores}) < len(scores)
    tests = (
        " Variants are compared in pairs on the same images, by two-sided tests, with p values corrected for all tests "
        f"of a kind (Holm) and significant below {ALPHA:g}."
    )
    return {
        27: Answer("None: a variant predicts a test image by one network, which was not trained on that image."),
        28: Answer(
            "On test parts: AUC, sensitivity, specificity, precision and F1 of each class against the rest and "
            "averaged over classes; accuracy, confusion matrix, Cohen's kappa, MCC; log loss, Brier score and "
            'calibration error. Definitions: "How it is computed".'
        ),
        29: Answer(
            f"{100 * LEVEL:g} % intervals: percentiles of {RESAMPLES:,} bootstrap resamples of patients within "
            "classes; where no patient has several test images, Wilson's for proportions and DeLong's for the AUC of "
            f"a class. They do not hold the uncertainty of training.{tests if paired else ''}"
        ),
        35: Answer(
            f"Test parts, all folds together: {reached}.{curves if results.histories else ''}",
            whole=complete and len(results.histories) == results.jobs,
        ),
        36: Answer(
            f"The tables of scores over all classes and by class give the {100 * LEVEL:g} % intervals of each variant.",
            whole=complete,
        ),
        37: Answer(f'Test images classified wrongly: {errors}. The section "Errors" lists some.', whole=False),
    }


def _of_data(results: Results, config: Study) -> dict[int, Answer]:
    pixels, by = config.preprocessing, config.folds.group_by
    resized = "padded with black to a square and resized" if pixels.resize == "pad" else "resized"
    views = "; ".join(_VIEWS[view] for view in config.variants.views)
    masks = f" Lung masks: {results.masks.origin}." if results.masks is not None else ""
    rules = [
        "nothing is imputed",
        f"unreadable image files are left out, up to {100 * config.cohort.max_quarantined:g} % of the images",
        *(_mask_rules(config.lungs) if config.needs_masks else []),
    ]
    return {
        9: Answer(
            f"From the image file on: 8-bit grey, {resized} to {pixels.size} x {pixels.size} pixels (bilinear), "
            f"{_EQUALIZED[pixels.equalize]}, three equal channels, normalised by ImageNet's mean and standard "
            "deviation."
        ),
        10: Answer(f"What networks see of an image: {views}.{masks}"),
        13: Answer(f"Of the images listed, {_excluded(results.cohort)}. Rules: {'; '.join(rules)}."),
        20: Answer(
            f"{_division(config.folds)} Drawn are {_UNITS[by]}, by the seed {config.seed}, the same for all variants."
        ),
        21: Answer(_APART[by]),
    }


def _mask_rules(lungs: LungsConfig) -> list[str]:
    without = ["an image without a mask file is left out of every variant"] if lungs.missing == "drop" else []
    return [*without, _IMPLAUSIBLE[lungs.implausible]]


def _division(folds: FoldsConfig) -> str:
    if folds.protocol == "holdout_batches":
        return (
            f"One random split in batches of {BATCH_OF_THE_PAPER} images, about 60 % training, 20 % validation and "
            "20 % test, without stratification."
        )
    parts = {
        "kfold": f"{folds.k}-fold cross-validation, every image tested once",
        "holdout_75_25": "One random split, about 25 % of the images in the test part",
    }
    strata = {"class": "class", "class_and_source": "class and source (class alone where sources are too small)"}
    return (
        f"{parts[folds.protocol]}, in proportion by {strata[folds.stratify_by]}; of what is left, about "
        f"{100 * folds.validation:g} % are the validation part, in proportion by class."
    )


def _of_training(results: Results, config: Study) -> dict[int, Answer]:
    recipe, side = config.training, config.preprocessing.size
    trained = {
        "frozen": "the convolutional layers stay as they start, and the new layers alone are trained",
        "finetune": "all layers are trained",
    }
    chosen = {
        "last": "The network of the last epoch is tested, without a choice by validation or test parts.",
        "best_validation_loss": "The network of the epoch with the lowest loss on the validation part is tested; test "
        "parts choose no epoch.",
    }
    searched = results.sweep.keys if results.sweep else ()
    settings = {
        "epochs": f"{recipe.epochs} epochs",
        "batch_size": f"batches of {recipe.batch_size}",
        "learning_rate": f"learning rate {recipe.learning_rate:g}",
        "weight_decay": f"weight decay {recipe.weight_decay:g}",
        "dropout": f"dropout {config.model.dropout:g}",
    }
    settings |= {key: f"{key_title(key)} {_BY_SWEEP}" for key in searched}
    networks = " ".join(_network(name, config.model, settings["dropout"]) for name in config.variants.models)
    return {
        22: Answer(
            f"{networks} Input: {side} x {side} pixels in three channels; output: probabilities (softmax) of "
            f"{len(results.classes)} classes."
        ),
        24: _initial_weights(results, config),
        # Why these settings, and what was tried before, stands in no study file.
        25: Answer(
            f"Transfer {config.model.transfer}: {trained[config.model.transfer]}. Adam on the cross-entropy, classes "
            f"unweighted: {settings['epochs']}, {settings['batch_size']}, constant {settings['learning_rate']}, "
            f"{settings['weight_decay']}, precision {recipe.precision}. No augmentation. Networks trained: "
            f"{results.jobs_done}, one for each variant and fold{_sweep_design(results)}.",
            whole=False,
        ),
        26: Answer(f"{chosen[recipe.selection]} All variants are reported.{_sweep_nesting(results)}"),
    }


def _sweep_design(results: Results) -> str:
    sweep = results.sweep
    if sweep is None:
        return ""
    trials = sum(len(search.trials) for search in sweep.searches)
    return (
        f", besides those of {trials} trials of a sweep, which chose among {space(sweep)}. {design(sweep)} The table "
        '"Chosen settings" gives the choices'
    )


def _sweep_nesting(results: Results) -> str:
    if results.sweep is None:
        return ""
    return f" Settings: {SELECTION_ON_REPORTED_FOLDS}." if results.sweep.shared else f" Settings: {NESTED}"


def _network(name: ModelName, model: ModelConfig, dropout: str) -> str:
    if name == "resnet34":
        return f"{MODEL_NAMES[name]} (He et al. 2016): convolutional layers, global average pooling, one linear layer."
    pooled = "global average pooling" if model.vgg_head == "average_pool" else "flattened features"
    return (
        f"{MODEL_NAMES[name]} (Simonyan and Zisserman 2015): convolutional layers, {pooled}, three hidden layers of "
        f"{model.vgg_hidden} units with ReLU and {dropout}, one linear layer."
    )


def _initial_weights(results: Results, config: Study) -> Answer:
    weights, hashes = config.model.weights, dict(results.facts).get("Weights")
    new = f"new layers: random, from the seed {config.seed}."
    if weights == "none":
        return Answer(f"Convolutional layers: random; {new}")
    sha = f" (SHA-256 of the file: {hashes})" if hashes else ""
    if weights == "imagenet":
        return Answer(f"Convolutional layers: torchvision's ImageNet weights{sha}; {new}")
    # What somebody's own file was trained on stands in no study file.
    return Answer(f"Convolutional layers: weights from {Path(weights).name}{sha}; {new}", whole=False)


def _excluded(cohort: CohortSummary) -> str:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in cohort.excluded.items())
    return f"{sum(cohort.excluded.values())} left out ({reasons})" if reasons else "none left out"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
