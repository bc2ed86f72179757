"""A look at the decoded images of a study."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa

from cxrdist.cohort.schema import COHORT_SCHEMA
from cxrdist.cohort.shard_looks import doubts_about_looks
from cxrdist.cohort.table import Cohort

SIDE = 32


def study(images, labels):
    """A cohort of `images` and their shards, which hold another image first."""
    names = [f"i{row:03d}" for row in range(len(images))]
    rows = [
        {"image_id": name, "path": f"{name}.png", "label": label, "patient_id": name}
        for name, label in zip(names, labels, strict=True)
    ]
    cohort = Cohort(pa.Table.from_pylist(rows, COHORT_SCHEMA), Path("/"), ("a", "b"))
    every = np.concatenate([np.zeros((1, SIDE, SIDE), dtype=np.uint8), images])
    return cohort, SimpleNamespace(image_ids=["another", *names], take=lambda rows: every[rows])


def pictures(count):
    """[count, SIDE, SIDE] uint8, noise upon a shape that all have in common."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    shape = 150 - 60 * np.exp(-((np.abs(x) - 0.5) ** 2 + y**2) * 8)
    return np.clip(shape + rng.normal(0, 12, (count, SIDE, SIDE)), 0, 255).astype(np.uint8)


def doubts(images, labels):
    cohort, shards = study(images, labels)
    return doubts_about_looks(cohort, shards, cohort.groups("patient"))


def test_nothing_is_said_of_images_that_are_alike():
    assert doubts(pictures(40), list("ab") * 20) == []


def test_negatives_are_counted_by_class_and_the_black_image_is_named():
    images = pictures(40)
    images[1:20:6] = 255 - images[1:20:6]
    images[30] = 0
    assert [one for one in doubts(images, list("ab") * 20) if not one.startswith("from the ")] == [
        "1 of 40 images looks like no radiograph (i030 has one grey value everywhere (0 of 0 to 255))",
        "4 of 40 images look like negatives of what most have in common (b: 4; i001, i007, i013 and 1 more)",
    ]


def test_brightness_that_tells_the_class_is_said_with_both_shares():
    images = pictures(400)
    images[1::2] -= 20
    (first, *_) = doubts(images, list("ab") * 200)
    assert first == (
        "from the mean grey value alone, a rule made of other groups tells the class of 100.0% of the images; "
        "to say a of every image is right for 50.0%"
    )
