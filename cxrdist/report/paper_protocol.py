"""Where a run was made otherwise than the paper beside which it is set."""

from collections.abc import Iterator

from cxrdist.config.models import Study
from cxrdist.report.papers import MODEL_NAMES, Paper
from cxrdist.report.results import Results

_GROUPS = {
    "group": "one known patient, or of one group where the manifest names groups,",
    "patient": "one known patient",
}
_VGG16_HIDDEN = 4096
_INPUT_SIDE = 224


def has_model(results: Results, model: str) -> bool:
    """Return whether a variant of the study is of this model."""
    return any(variant.endswith(f"-{model}") for variant in results.variants)


def differences(results: Results, paper: Paper) -> list[str]:
    """Return a sentence for each difference, with the paper's and this run's value; settings need `results.config`."""
    found = [*_images(results, paper), *_model(results, paper)]
    if results.config is not None:
        found += [
            *_division(results, results.config, paper),
            *_network(results, results.config, paper),
            *_training(results.config, paper),
            *_pixels(results, results.config),
        ]
    return found


def open_points(results: Results, paper: Paper) -> list[str]:
    """Return a sentence for each choice that the paper leaves open, with this run's."""
    if results.config is None:
        return []
    model = results.config.model
    trained = {
        "frozen": "the convolutional layers are kept as they start and the head alone is trained",
        "finetune": "all layers are trained",
    }
    points = [f"The paper does not say which layers are trained; here {trained[model.transfer]}."]
    if paper.protocol.model == "vgg16" and has_model(results, "vgg16") and model.dropout:
        points.append(f"The paper does not give its rate of dropout; here it is {model.dropout:g}.")
    return points


def _images(results: Results, paper: Paper) -> Iterator[str]:
    for one in results.cohort.classes:
        printed = paper.protocol.images[one.label]
        if one.images != printed:
            yield f"The paper has {printed} images of {one.label}; this run has {one.images}."


def _model(results: Results, paper: Paper) -> Iterator[str]:
    name = MODEL_NAMES[paper.protocol.model]
    if not has_model(results, paper.protocol.model):
        yield f"The paper's network is {name}; this run has none of it."


def _division(results: Results, config: Study, paper: Paper) -> Iterator[str]:
    folds, protocol = config.folds, paper.protocol
    here = {
        "kfold": f"the test parts of {results.n_folds} folds hold every image once",
        "holdout_75_25": "there is one split, with 25 % of the images in the test part",
        "holdout_batches": "there is one split in random batches of 16 images, 60/20/20 %, and no folds",
    }
    if folds.protocol != protocol.same_testing:
        yield f"{protocol.testing}; here {here[folds.protocol]}."
    if folds.protocol != protocol.same_validation:
        unit = "images" if folds.group_by == "image" else "patients"
        part = (
            "a random 20 % of all images are"
            if folds.protocol == "holdout_batches"
            else f"{100 * folds.validation:g} % of the {unit} left for training are"
        )
        yield f"{protocol.validation}; here {part} the validation part."
    if folds.group_by != "image":
        yield (
            "The paper names no grouping of images by patient; here all images of "
            f"{_GROUPS[folds.group_by]} are in the same part of a fold."
        )


def _network(results: Results, config: Study, paper: Paper) -> Iterator[str]:
    model = config.model
    if model.weights == "none":
        yield "The paper's network starts from ImageNet weights; this run's from random ones."
    elif model.weights != "imagenet":
        yield (
            "The paper's network starts from ImageNet weights; this run's from those in files of its own, of which "
            "the study file does not say what they were trained on."
        )
    if paper.protocol.model != "vgg16" or not has_model(results, "vgg16"):
        return
    if model.vgg_head == "average_pool":
        yield (
            "The paper's fully connected layers follow the last max-pool, as VGG16's do; in this run the features are "
            "averaged over the image first."
        )
    if model.vgg_hidden != _VGG16_HIDDEN:
        yield f"The paper's fully connected layers have {_VGG16_HIDDEN} nodes each; this run's have {model.vgg_hidden}."
    if not model.dropout:
        yield "The paper has dropout; this run has none."


def _training(config: Study, paper: Paper) -> Iterator[str]:
    training, protocol = config.training, paper.protocol
    if training.epochs != protocol.epochs:
        yield f"The paper trains for {protocol.epochs} epochs; this run for {training.epochs}."
    if training.batch_size != protocol.batch_size:
        yield f"The paper's batches are of {protocol.batch_size} images; this run's of {training.batch_size}."
    if training.learning_rate != protocol.learning_rate:
        yield f"The paper's learning rate is {protocol.learning_rate:g}; this run's is {training.learning_rate:g}."
    if training.weight_decay:
        yield f"The paper names no weight decay; this run's is {training.weight_decay:g}."
    if training.selection == "best_validation_loss":
        yield (
            "The paper names no choice among its epochs; this run tests the network of the epoch with the lowest "
            "validation loss."
        )


def _pixels(results: Results, config: Study) -> Iterator[str]:
    pixels = config.preprocessing
    if pixels.size != _INPUT_SIDE:
        yield (
            f"The paper's images have {_INPUT_SIDE} x {_INPUT_SIDE} pixels; this run's have "
            f"{pixels.size} x {pixels.size}."
        )
    if pixels.resize == "pad":
        yield "The paper resizes images as they are; this run pads them to a square with black first."
    if pixels.equalize != "none":
        method = {"histogram": "histogram equalisation", "clahe": "contrast-limited adaptive equalisation (CLAHE)"}
        yield f"The paper names no equalisation of contrast; this run has {method[pixels.equalize]}."
    # Of weights that a user trained it is not known here on what.
    if "segmented" in config.variants.views and results.masks is not None and config.lungs.weights == "builtin":
        yield (
            "The paper's lung masks are of a network trained on the Montgomery set; this run's are from "
            f"{results.masks.origin}."
        )
