"""The one place that knows the names of all artefacts of a study."""

import hashlib
import re

STUDY = "study.yaml"
"""The resolved study file."""
PLAN = "plan.json"
"""The fold jobs, their fingerprints, and what they were planned from."""
COHORT = "cohort.arrow"
"""The images that are used, in the order of the folds' rows."""
QUARANTINE = "quarantine.json"
"""The images that are not used, with the reasons."""
MASKS = "masks.json"
"""Where the lung masks come from, and which are implausible, where a view needs masks."""
MASK_EXAMPLES = "mask_examples.arrow"
"""Some images with their masks, to look at."""
SHOWN_IMAGES = "shown_images.arrow"
"""The images of the report's figures, with masks and heat maps, so that a later report needs no cache."""
FOLDS = "folds.arrow"
"""Image ids and, for each fold, the part of each image."""
FOLDS_JSON = "folds.json"
"""The same for people: image ids by fold and part, and the counts by class."""
AUDIT_RUN = "audit"
"""Folder of the shortcut audit, a run directory of its own."""
AUDIT = "audit.json"
"""What the audit found, in its own run directory."""
DRIVERS = "driver"
"""Folder of the signs of life of whoever works on the study now, or asks whether it may."""
JOBS = "jobs"
"""Folder of the fold jobs."""
HEATMAPS = "heatmaps"
"""Folder of the heat maps."""
SET_ASIDE = "set_aside"
"""Folder of what the plan no longer holds: numbered run directories, as far as they go."""
REPORT = "report"
"""Folder of tables, figures and `index.html`."""

REPORT_MADE_FROM = f"{REPORT}/made_from.json"
"""Which results the report shows, and the files that were written for it: written last."""


def driver_sign(token: str) -> str:
    """Return the name of the sign of life of the driver with this token."""
    return f"{DRIVERS}/{token}.json"


class HeatFiles:
    """Names of one variant's heat maps, relative to the run directory.

    Args:
        variant: the variant's name.
        explained: which class of each image; nothing for the predicted one.
    """

    def __init__(self, variant: str, explained: str = "") -> None:
        self._name = f"{variant}.{explained}" if explained else variant
        self.maps = f"{HEATMAPS}/{self._name}.arrow"
        """The maps of all test images."""

    def image(self, image_id: str, ending: str) -> str:
        """Return the name of what was made of one image: its picture, or the bare map."""
        return f"{HEATMAPS}/images/{safe_name(image_id)}.{self._name}.{ending}"


def safe_name(text: str) -> str:
    """Return a file name for any text; one that says not all of it ends in a hash of the text."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", text)[:80]
    return safe if safe == text else f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


SWEEP = "sweep"
"""Folder of the searches of a sweep."""


class SearchFiles:
    """Names of one search's artefacts, relative to the run directory."""

    def __init__(self, key: str) -> None:
        self.folder = f"{SWEEP}/{key}"
        self.search = f"{self.folder}/search.json"
        """What is searched, and the rules."""
        self.images = f"{self.folder}/images.arrow"
        """The images that trials may see, with labels and inner folds."""
        self.choice = f"{self.folder}/choice.json"
        """Written last: what was chosen, and from which trials."""

    def trial(self, number: int) -> str:
        """Return the name of a trial that is over."""
        return f"{self.folder}/trials/{number:04d}.json"

    def progress(self, number: int) -> str:
        """Return the name of what a trial in work did so far."""
        return f"{self.folder}/trials/{number:04d}.progress.json"

    def checkpoint(self, number: int) -> str:
        """Return the name of the network of a trial in work."""
        return f"{self.folder}/trials/{number:04d}.safetensors"


class JobFiles:
    """Names of one fold job's artefacts, relative to the run directory."""

    def __init__(self, key: str) -> None:
        self.folder = f"{JOBS}/{key}"
        self.history = f"{self.folder}/history.jsonl"
        """One line an epoch."""
        self.progress = f"{self.folder}/progress.json"
        """Epoch, lane and fingerprint of the job in work."""
        self.checkpoint = f"{self.folder}/checkpoint.safetensors"
        """Everything needed to continue; removed when the job is done."""
        self.model = f"{self.folder}/model.safetensors"
        """The trained network (of a frozen one, its head)."""
        self.predictions = f"{self.folder}/predictions.parquet"
        """Class probabilities of the test part."""
        self.validation = f"{self.folder}/validation.parquet"
        """The same of the validation part, for calibration."""
        self.done = f"{self.folder}/done.json"
        """Written last: the job is done if and only if its fingerprint is the planned one."""
        self.ended = f"{self.folder}/ended.json"
        """How the job ended without predictions: failed or diverged, and why."""
