"""What sizes and thumbnails tell of the papers' own images."""

from pathlib import Path

import numpy as np
import pytest

from cxrdist.cohort.decode import Preprocessing, decode_grey, read_image_file
from cxrdist.cohort.sizes import read_sizes
from cxrdist.cohort.table import load_cohort
from cxrdist.stats.probes import linear_probe, size_features, thumbnails
from cxrdist.study.folds import Part, make_folds

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT / ".." / "shared" / "cxr"
CLASSES = ["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"]


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real chest X-rays is absent")
def test_aspect_ratio_and_thumbnail_tell_paper_1s_classes_far_better_than_the_largest_class():
    cohort = load_cohort(ROOT / "data_manifests" / "four_class.yaml", SHARED, CLASSES)
    labels, paths = cohort.labels, [str(path) for path in cohort.column("path")]
    folds = make_folds(
        cohort.image_ids,
        labels,
        cohort.groups("group"),
        cohort.sources,
        classes=CLASSES,
        protocol="kfold",
        k=5,
        validation=0.1,
        stratify_by_source=True,
        seed=0,
    )

    def accuracy(features):
        probabilities = linear_probe(features, labels, folds.parts == Part.TEST, n_classes=4, seed=0)
        return (probabilities.argmax(axis=1) == labels).mean()

    aspect = size_features(read_sizes(SHARED, paths))[:, :1]
    images = np.stack([decode_grey(read_image_file(SHARED, path), Preprocessing(32)) for path in paths])
    assert np.bincount(labels).max() / len(labels) == pytest.approx(0.27, abs=0.005)
    assert accuracy(aspect) == pytest.approx(0.50, abs=0.03)
    assert accuracy(thumbnails(images)) == pytest.approx(0.78, abs=0.03)
