"""The mean of values of images with its interval by patients."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm

from cxrdist.stats.heat import mean_by_patient_bootstrap


@st.composite
def measured(draw):
    """Values, some undefined, of images of patients that have one to several of them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(6, 40))
    values = generator.random(n)
    values[generator.random(n) < 0.2] = np.nan
    values[:2] = 0.25, 0.75
    groups = generator.integers(0, n // 2, n)
    groups[:2] = 0, 1
    return values, groups


def interval(values, groups, *, seed=0, resamples=60, level=0.95):
    rng = np.random.default_rng(seed)
    return mean_by_patient_bootstrap(np.asarray(values, float), groups, rng, resamples, level)


@given(measured())
@settings(max_examples=20, deadline=None)
def test_the_interval_is_what_repeating_the_images_of_drawn_patients_gives(case):
    values, groups = case
    kept = ~np.isnan(values)
    values, groups = values[kept], groups[kept]
    patients = list(dict.fromkeys(groups.tolist()))
    rng = np.random.default_rng(0)
    means = []
    for _ in range(60):
        drawn = rng.integers(len(patients), size=len(patients))
        means.append(np.concatenate([values[groups == patients[one]] for one in drawn]).mean())
    found = interval(*case)
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-12)


@given(measured())
@settings(max_examples=15, deadline=None)
def test_names_of_patients_and_undefined_images_do_not_matter(case):
    values, groups = case
    kept = ~np.isnan(values)
    found = interval(values, groups)
    assert found == interval(values, [f"patient {one}" for one in groups])
    assert found == interval(values[kept], groups[kept])


def test_with_one_image_a_patient_it_is_the_plain_bootstrap():
    values = np.random.default_rng(1).beta(2, 5, 60)
    found = interval(values, np.arange(60), resamples=4000)
    expected = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


def test_intervals_cover_the_true_mean_of_patients_with_alike_images_where_images_taken_as_independent_do_not():
    generator = np.random.default_rng(3)
    covered, naive = 0, 0
    for _ in range(80):
        groups = np.repeat(np.arange(40), 5)
        values = np.repeat(generator.normal(0, 1, 40), 5) + generator.normal(0, 0.3, 200)
        by_patient = mean_by_patient_bootstrap(values, groups, generator, 100)
        covered += by_patient.low <= 0 <= by_patient.high
        reach = norm.ppf(0.975) * values.std() / math.sqrt(200)
        naive += abs(values.mean()) <= reach
    assert covered / 80 > 0.85
    assert naive / 80 < 0.75


def test_a_constant_has_an_interval_without_width():
    found = interval([0.5] * 6, [0, 0, 1, 2, 3, 3])
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_without_values_all_is_undefined(values):
    found = interval(values, list(range(len(values))))
    assert all(math.isnan(one) for one in (found.value, found.low, found.high))


def test_one_patient_says_nothing_about_others():
    found = interval([0.2, 0.4, math.nan], ["a", "a", "b"])
    assert found.value == pytest.approx(0.3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [0, 1]}, "alike"),
        ({"values": [[0.1, 0.2, 0.3]]}, "alike"),
        ({"values": [0.1, math.inf, 0.3]}, "infinite"),
        ({"resamples": 0}, "resamples >= 1"),
        ({"level": 1.0}, "level < 1"),
    ],
)
def test_what_has_no_meaning_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        interval(**{"values": [0.1, 0.2, 0.3], "groups": [0, 1, 2]} | change)
