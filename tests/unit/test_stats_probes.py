"""Linear probes: what they can tell, and that nothing of a tested row is known before it is predicted."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cxrdist.stats.probes import linear_probe, size_features, thumbnails
from cxrdist.stats.roc import auc

N, FOLDS, CLASSES = 180, 3, 3
LABELS = np.arange(N) % CLASSES
TEST = np.arange(N) // (N // FOLDS) == np.arange(FOLDS)[:, None]


def probe(features, labels=LABELS, test=TEST, n_classes=CLASSES, seed=0):
    return linear_probe(features, labels, test, n_classes=n_classes, seed=seed)


def noise(columns=3, seed=0):
    return np.random.default_rng(seed).standard_normal((N, columns))


def areas(probabilities, labels=LABELS):
    return [auc(labels == index, probabilities[:, index]) for index in range(probabilities.shape[1])]


def test_a_feature_that_separates_the_classes_tells_them():
    features = noise()
    features[:, 1] = 10 * LABELS + 0.1 * features[:, 1]
    probabilities = probe(features)
    assert (probabilities.argmax(axis=1) == LABELS).all()
    assert min(areas(probabilities)) > 0.999
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


def test_noise_tells_nothing():
    tried = [areas(probe(noise(seed=seed))) for seed in range(8)]
    assert np.mean(tried) == pytest.approx(0.5, abs=0.05)
    assert np.max(tried) < 0.65


def test_it_is_a_logistic_regression_on_standardised_training_rows():
    features = noise() + 0.5 * LABELS[:, None]
    probabilities = probe(features)
    for tested in TEST:
        training = features[~tested]
        mean, sd = training.mean(axis=0), training.std(axis=0)
        model = LogisticRegression(max_iter=1000).fit((training - mean) / sd, LABELS[~tested])
        expected = model.predict_proba((features[tested] - mean) / sd)
        np.testing.assert_allclose(probabilities[tested], expected, atol=1e-3)


def test_scale_and_offset_of_a_feature_change_nothing():
    features = noise() + 0.5 * LABELS[:, None]
    moved = features * [1e-6, 1.0, 1e6] + [5.0, -3.0, 1e4]
    np.testing.assert_allclose(probe(moved), probe(features), atol=1e-3)


def test_the_label_of_a_tested_row_never_reaches_its_own_prediction():
    features = noise() + LABELS[:, None]
    honest = probe(features)
    for tested in TEST:
        poisoned = np.where(tested, (LABELS + 1) % CLASSES, LABELS)
        predicted = probe(features, poisoned)
        np.testing.assert_array_equal(predicted[tested], honest[tested])
        assert not np.array_equal(predicted[~tested], honest[~tested])


def test_the_features_of_other_tested_rows_do_not_reach_a_prediction():
    features = noise() + LABELS[:, None]
    honest = probe(features)
    row = np.flatnonzero(TEST[0])[0]
    features[row] += 1000
    np.testing.assert_allclose(np.delete(probe(features)[TEST[0]], 0, axis=0), honest[TEST[0]][1:], rtol=1e-12)


def test_rows_that_no_fold_tests_are_undefined_but_trained_on():
    features = noise() + LABELS[:, None]
    tested = TEST[0]
    probabilities = probe(features, test=tested[None])
    assert np.isnan(probabilities[~tested]).all()
    np.testing.assert_array_equal(probabilities[tested], probe(features)[tested])


def test_a_fold_that_tests_nothing_is_passed_over():
    features = noise()
    with_empty = np.vstack([np.zeros((1, N), bool), TEST])
    np.testing.assert_array_equal(probe(features, test=with_empty), probe(features))


def test_a_class_that_is_absent_from_training_has_probability_0():
    features = noise()
    labels = np.where(TEST[0], 2, np.arange(N) % 2)
    first = probe(features, labels)[TEST[0]]
    assert (first[:, 2] == 0).all()
    np.testing.assert_allclose(first.sum(axis=1), 1)
    assert (first[:, :2] > 0).all()
    assert (probe(features, labels)[~TEST[0]][:, 2] > 0).all()


def test_a_class_in_the_middle_that_is_absent_moves_no_other():
    features = noise()
    features[:, 0] = 10 * LABELS
    labels = np.where(LABELS == 1, 3, LABELS)
    probabilities = probe(features, labels, n_classes=4)
    assert (probabilities[:, 1] == 0).all()
    assert (probabilities.argmax(axis=1) == labels).all()


def test_where_training_knows_one_class_only_it_is_certain():
    labels = TEST[0].astype(np.int64)
    assert probe(noise(), labels)[TEST[0]].tolist() == [[1, 0, 0]] * (N // FOLDS)


def test_a_constant_column_is_harmless():
    features = noise() + LABELS[:, None]
    with_constants = np.column_stack([features, np.zeros(N), np.full(N, 0.1)])
    np.testing.assert_allclose(probe(with_constants), probe(features), atol=1e-6)
    assert probe(np.ones((N, 1))) == pytest.approx(np.full((N, CLASSES), 1 / CLASSES))


def test_equal_arguments_give_equal_bytes():
    features = noise() + LABELS[:, None]
    assert probe(features, seed=2**40).tobytes() == probe(features, seed=2**40).tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": np.vstack([TEST, TEST[:1]])}, "tested in more than one fold"),
        ({"test": np.ones((1, N), bool)}, "leaves none to train on"),
        ({"test": TEST[:, 1:]}, r"need features \[n, d\]"),
        ({"labels": LABELS[1:]}, r"need features \[n, d\]"),
        ({"labels": LABELS - 1}, r"labels must be in \[0, 3\), not in \[-1, 1\]"),
        ({"n_classes": 2}, r"labels must be in \[0, 2\)"),
        ({"features": np.full((N, 1), np.nan)}, "features must be finite"),
        ({"features": np.full((N, 1), np.inf)}, "features must be finite"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        probe(**{"features": noise()} | change)


def test_size_features_are_the_logarithms_of_aspect_ratio_and_area():
    features = size_features(np.array([[200, 100], [100, 200], [300, 300]]))
    expected = [[math.log(2), math.log(2e4)], [-math.log(2), math.log(2e4)], [0, math.log(9e4)]]
    np.testing.assert_allclose(features, expected, atol=1e-12)


def test_sizes_of_millions_of_pixels_do_not_overflow():
    assert size_features(np.array([[4_000_000_000, 4_000_000_000]]))[0].tolist() == pytest.approx([0, math.log(1.6e19)])


def test_a_thumbnail_is_the_mean_of_each_block_row_by_row():
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    made = thumbnails(images)
    assert made.shape == (3, 256)
    assert made.dtype == np.float64
    assert made[1, 0] == images[1, :4, :4].mean()
    assert made[1, 1] == images[1, :4, 4:8].mean()
    assert made[2, 16] == images[2, 4:8, :4].mean()
    np.testing.assert_allclose(thumbnails(images, side=1)[:, 0], images.mean(axis=(1, 2)))
    np.testing.assert_array_equal(thumbnails(images, side=64), images.reshape(3, -1))


def test_white_stays_white_in_a_thumbnail():
    assert set(np.unique(thumbnails(np.full((1, 512, 512), 255, np.uint8)))) == {255.0}


@pytest.mark.parametrize("shape", [(2, 64, 32), (2, 40, 40)])
def test_images_without_equal_blocks_are_refused(shape):
    with pytest.raises(ValueError, match="no 16 x 16 blocks of equal size"):
        thumbnails(np.zeros(shape, np.uint8))
