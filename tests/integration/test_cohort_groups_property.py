"""From copies to folds: whatever the patients, groups, copies, classes and sources, nothing that belongs together is
ever divided between training and test; and what cannot be divided is refused in a sentence."""

from collections import defaultdict

import numpy as np
import pyarrow as pa

from cxrdist.cohort.duplicates import Pair, merge_groups
from cxrdist.cohort.table import COHORT_SCHEMA, Cohort
from cxrdist.errors import UserError
from cxrdist.study.folds import Part, make_folds

COHORTS = 2000
CLASSES = ("normal", "covid19", "pneumonia")


def random_cohort(rng, root):
    """A small cohort, more or less of its images without patient, group or source, and pairs of copies in it."""
    n = int(rng.integers(4, 40))
    n_classes = int(rng.integers(2, 4))
    unknown = rng.random(3)

    def named(letter, most, share_unknown):
        names = [f"{letter}{i}" for i in rng.integers(0, most, n)]
        return [None if rng.random() < share_unknown else name for name in names]

    table = pa.Table.from_pydict(
        {
            "image_id": [f"{i:02d}" for i in range(n)],
            "path": [str(i) for i in range(n)],
            # One name as patient, group and image must not join what has nothing to do with each other.
            "patient_id": named("0", int(rng.integers(2, n + 1)), unknown[0] ** 2),
            "group_id": named("0", int(rng.integers(2, n + 1)), unknown[1]),
            "source": named("s", 3, unknown[2] ** 2),
            "label": [CLASSES[i] for i in rng.integers(0, n_classes, n)],
            **{name: [None] * n for name in ("view_position", "sha256", "mask_path")},
        },
        schema=COHORT_SCHEMA,
    )
    n_pairs = int(rng.integers(0, 4)) if rng.random() < 0.8 else int(rng.integers(0, n))
    ends = [np.sort(rng.choice(n, 2, replace=False)) for _ in range(n_pairs)]
    return Cohort(table, root, CLASSES[:n_classes]), [Pair(int(a), int(b), 3, 0.9, False) for a, b in ends]


def kept_together(cohort, pairs):
    """Sets of rows that no fold may divide, as they were given, before anything was joined."""
    by_name = defaultdict(set)
    for name in ("patient_id", "group_id"):
        for row, value in enumerate(cohort.column(name)):
            if value is not None:
                by_name[name, value].add(row)
    return [*by_name.values(), *({pair.a, pair.b} for pair in pairs)]


def divided(cohort, pairs, rng):
    """The folds of a cohort; None where it cannot be divided, and a sentence says why."""
    groups = np.array(merge_groups(cohort.groups("group").tolist(), pairs))
    try:
        return make_folds(
            cohort.image_ids,
            cohort.labels,
            groups,
            cohort.sources,
            classes=cohort.classes,
            protocol="kfold" if rng.random() < 0.8 else "holdout_75_25",
            k=int(rng.integers(2, 5)),
            validation=float(rng.choice([0.0, 0.15, 0.4])),
            stratify_by_source=bool(rng.random() < 0.5),
            seed=int(rng.integers(0, 1000)),
        )
    except UserError as error:
        assert str(error).endswith(".")
        assert "\n" not in str(error)
        return None


def faults(folds, together):
    """What belongs together and is in two tests, or in training and test of one fold; and who is not tested once."""
    test = folds.parts == Part.TEST
    n_tests = test.sum(axis=0)
    found = ["a row is not tested once"] if n_tests.max() > 1 or (folds.n_folds > 1 and n_tests.min() == 0) else []
    for rows in map(sorted, together):
        if test[:, rows].any(axis=1).sum() > 1:
            found.append(f"{rows} are in the tests of several folds")
        if (folds.parts[:, rows] != folds.parts[:, rows[:1]]).any():
            found.append(f"{rows} are in several parts of a fold")
    return found


def test_no_patient_group_or_copy_is_ever_divided(tmp_path):
    rng = np.random.default_rng(20)
    n_divided = n_refused = n_joined = 0
    for number in range(COHORTS):
        cohort, pairs = random_cohort(rng, tmp_path)
        folds = divided(cohort, pairs, rng)
        if folds is None:
            n_refused += 1
            continue
        n_divided += 1
        before = cohort.groups("group").tolist()
        n_joined += any(before[pair.a] != before[pair.b] for pair in pairs)
        assert faults(folds, kept_together(cohort, pairs)) == [], f"cohort {number}"
    # Most of these would be worth nothing if all were refused, or no copies joined any groups.
    assert n_divided > COHORTS / 4
    assert n_refused > COHORTS / 10
    assert n_joined > COHORTS / 8
