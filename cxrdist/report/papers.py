"""The two papers as data: what each prints, how it was made, and where it contradicts itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cxrdist.report.results import Results
from cxrdist.study.folds import Protocol as FoldProtocol
from cxrdist.study.recipe import ModelName

MODEL_NAMES: Mapping[ModelName, str] = {"vgg16": "VGG16", "resnet34": "ResNet-34"}
"""As the papers write them."""


@dataclass(frozen=True)
class PaperProtocol:
    """How a paper's networks were trained and tested, as far as it says."""

    images: Mapping[str, int]
    """By class, in the paper's order."""
    model: ModelName
    epochs: int
    batch_size: int
    learning_rate: float
    testing: str
    """What its scores are computed on, a clause."""
    same_testing: FoldProtocol | None
    """The division that is the same, where there is one."""
    validation: str
    """Its validation part, a clause."""
    same_validation: FoldProtocol | None


@dataclass(frozen=True)
class Paper:
    """What both papers have."""

    name: str
    protocol: PaperProtocol
    contradictions: tuple[str, ...]
    """Where what it prints cannot all be true, a sentence each."""
    limits: tuple[str, ...]
    """What its design cannot tell, a sentence each."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Its classes, in its order."""
        return tuple(self.protocol.images)


@dataclass(frozen=True)
class PrintedScores:
    """A printed row of scores over all classes."""

    sensitivity: float
    sensitivity_average: Literal["macro", "weighted"]
    """The average that it is, or that it is set beside where it is neither's for certain."""
    specificity: float
    accuracy: float
    auc: float

    def by_average(self) -> tuple[float | None, float | None, float, float, float]:
        """Return macro sensitivity, weighted sensitivity, specificity, accuracy and AUC; one of the first is None."""
        macro = self.sensitivity if self.sensitivity_average == "macro" else None
        weighted = self.sensitivity if self.sensitivity_average == "weighted" else None
        return macro, weighted, self.specificity, self.accuracy, self.auc


@dataclass(frozen=True)
class FourClassPaper(Paper):
    """Paper 1: VGG16 on the whole image and on segmented lungs."""

    confusion: tuple[tuple[int, ...], ...]
    """Table 1, of the whole image: rows = truth, in the paper's order of classes."""
    by_class: Mapping[str, tuple[float, float, float]]
    """Table 2, of the whole image: precision, recall, F1."""
    overall: Mapping[str, PrintedScores]
    """By view."""


@dataclass(frozen=True)
class ThreeClassPaper(Paper):
    """Paper 2: ResNet-34 on the whole image."""

    fold_accuracy: tuple[float, ...]
    """Table 2, in percent, as the mean below."""
    fold_error: tuple[float, ...]
    mean_accuracy: float
    mean_error: float
    sensitivity: Mapping[str, str]
    """As printed, digits and all, but as shares where the paper prints percent."""
    auc: Mapping[str, str]
    accuracy: str
    correct: Mapping[str, int]
    """The only numbers of images that give the printed sensitivities."""
    pairs: tuple[tuple[str, str], ...]
    """The classes that figure 3 compares."""
    sample_size: int
    """Images that it asks for."""
    sample_proportion: float
    """Not printed: it reproduces the sample size."""
    sample_margin: float
    sample_level: float


PAPER_1 = FourClassPaper(
    name="Paper 1 (VGG16, four classes)",
    protocol=PaperProtocol(
        images={"normal": 532, "covid19": 455, "viral_pneumonia": 552, "bacterial_pneumonia": 492},
        model="vgg16",
        epochs=50,
        batch_size=32,
        learning_rate=1e-3,
        testing="The paper's table 1 is of one test part of about 25 % of the images, although it names five-fold "
        "cross-validation",
        same_testing="holdout_75_25",
        validation="The paper divides its images into 75 % for training and 25 % for testing, and does not say on "
        "which ones its validation loss is computed",
        same_validation=None,
    ),
    contradictions=(
        "Table 1 holds 513 test images, while 25 % of the 2,031 images are 508.",
        "Table 1 is of one split, although five-fold cross-validation is named.",
        "The printed overall sensitivity of 0.79 is the support-weighted one, which equals the accuracy; the macro "
        "average of table 1 is 0.7849, which rounds to 0.78.",
        "The printed row of the segmented lungs (sensitivity 0.91, specificity 0.93, accuracy 0.88) cannot be a macro "
        "average over four classes: that accuracy forces a macro specificity of at least 0.956.",
        "F1 is called the mean of recall and precision; at two decimals the harmonic and the arithmetic mean cannot be "
        "told apart in table 2. In this report it is the harmonic mean.",
        "The AUC of the whole image is 0.84 in the results and 0.85 in the abstract.",
    ),
    limits=(
        "The 455 COVID-19 images are of 197 patients, so a division by image tests on patients seen in training.",
        "Every COVID-19 image comes from one source and every other image from another, adults against children: the "
        "classes are confounded with the source.",
    ),
    confusion=((122, 3, 17, 2), (6, 102, 3, 6), (16, 2, 94, 20), (4, 1, 30, 85)),
    by_class={
        "normal": (0.82, 0.85, 0.84),
        "covid19": (0.94, 0.87, 0.91),
        "viral_pneumonia": (0.65, 0.71, 0.68),
        "bacterial_pneumonia": (0.75, 0.71, 0.73),
    },
    overall={
        "whole": PrintedScores(0.79, "weighted", 0.93, 0.79, 0.84),
        "segmented": PrintedScores(0.91, "macro", 0.93, 0.88, 0.89),
    },
)

PAPER_2 = ThreeClassPaper(
    name="Paper 2 (ResNet-34, three classes)",
    protocol=PaperProtocol(
        images={"covid19": 240, "viral_pneumonia": 274, "normal": 267},
        model="resnet34",
        epochs=10,
        batch_size=16,
        learning_rate=1e-3,
        testing="The paper gives its overall accuracy for a test part of ten random batches of 16 images, beside its "
        "five folds",
        same_testing=None,
        validation="The paper's validation part is ten of 49 random batches of 16 images, 20 % of all",
        same_validation="holdout_batches",
    ),
    contradictions=(
        "All five accuracies of table 2 equal 1 − k/581 at two decimals, with k = 5, 4, 3, 8 and 6; no test part of "
        "156 or 157 images, which five folds of 781 have, can give any of them.",
        "The mean of the five printed accuracies is 99.104 %, while 99.11 % is printed.",
        "The overall accuracy of 99.5 % on the test subset is 777 of all 781 images; 157 test images can give 99.36 or "
        "100 %, not 99.5 %.",
        "The text says “three-fold” twice, beside a table of five folds.",
    ),
    limits=(),
    fold_accuracy=(99.14, 99.31, 99.48, 98.62, 98.97),
    fold_error=(8.61e-3, 6.89e-3, 5.16e-3, 13.77e-3, 10.33e-3),
    mean_accuracy=99.11,
    mean_error=8.95e-3,
    sensitivity={"covid19": "1.000", "viral_pneumonia": "0.996", "normal": "0.989"},
    auc={"covid19": "1.00", "viral_pneumonia": "0.99", "normal": "0.99"},
    accuracy="0.995",
    correct={"covid19": 240, "viral_pneumonia": 273, "normal": 264},
    pairs=(("covid19", "normal"), ("viral_pneumonia", "normal")),
    sample_size=722,
    sample_proportion=0.989,
    sample_margin=0.01,
    sample_level=0.99,
)


def paper_of(results: Results) -> FourClassPaper | ThreeClassPaper | None:
    """Return the paper whose classes a study has, in whatever order; None where it is neither's."""
    papers: tuple[FourClassPaper | ThreeClassPaper, ...] = (PAPER_1, PAPER_2)
    return next((paper for paper in papers if set(paper.classes) == set(results.classes)), None)
