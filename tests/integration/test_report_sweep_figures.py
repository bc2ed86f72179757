"""The figures of a sweep: they can be drawn of whatever a sweep left, are the same each time, and hold no markup."""

import io
import math
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from cxrdist.report.style import Picture
from cxrdist.report.sweep import SweepSearch, SweepSummary, SweepTrial
from cxrdist.report.sweep_figures import cells_picture, progress_picture
from cxrdist.report.sweep_parallel import parallel_picture

VARIANT = "whole-<b>$x_1$</b> & co"
PAIR = ("learning_rate", "batch_size")
STATES = ("complete", "complete", "stopped", "complete", "diverged", "failed")


def trials(n: int) -> list[SweepTrial]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(n):
        state = STATES[number % len(STATES)]
        score = float(rng.uniform(0.6, 0.9)) if state in ("complete", "stopped") else math.nan
        settings = {"learning_rate": float(10 ** rng.uniform(-5, -2)), "batch_size": int(rng.choice([8, 16, 32]))}
        made.append(SweepTrial(number, settings, state, score if state == "complete" else None, score, 1.0, 9.0))
    return made


def summary(n: int = 12, folds: int = 2) -> SweepSummary:
    return SweepSummary(
        keys=PAIR,
        choices={"batch_size": (8, 16, 32)},
        ranges={"learning_rate": (1e-5, 1e-2)},
        log_keys=frozenset({"learning_rate"}),
        metric="val_auc",
        larger_is_better=True,
        inner_folds=3,
        searcher="tpe",
        scheduler="asha",
        searches=[
            SweepSearch(VARIANT, fold, False, n, trials(n), 0, trials(n)[0].score or 0.0) for fold in range(folds)
        ],
        seed=7,
    )


def pictures(one: SweepSummary) -> list[Picture]:
    pair = [cells_picture(one, VARIANT, PAIR)] if len(one.keys) > 1 else []
    return [parallel_picture(one, VARIANT), *pair, progress_picture(one)]


def with_trials(one: SweepSummary, **changes: Any) -> SweepSummary:
    return replace(
        one,
        searches=[
            replace(search, trials=[replace(trial, **changes) for trial in search.trials]) for search in one.searches
        ],
    )


def margin_is_white(png: bytes) -> bool:
    """Whether nothing is drawn on the outermost pixels, where a label that is cut off would be."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    return all(edge.min() > 250 for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def test_the_same_sweep_gives_the_same_bytes_and_names_are_never_markup():
    once, again = pictures(summary()), pictures(summary())
    assert once == again
    names = [picture.name for picture in once]
    assert names == ["sweep_parallel_whole-_b__x_1___b____co", "sweep_cells_whole-_b__x_1___b____co", "sweep_progress"]
    for picture in once:
        ElementTree.fromstring(picture.svg)
        assert margin_is_white(picture.png)
        assert "nan" not in picture.alternative


@pytest.mark.parametrize(
    "one",
    [
        replace(summary(), keys=("learning_rate",)),
        summary(n=1, folds=1),
        replace(summary(), metric="val_loss", larger_is_better=False),
        with_trials(summary(), state="complete", score=0.9, best_seen=0.9),
        with_trials(summary(), state="diverged", score=None, best_seen=None),
        summary(folds=9),
        replace(summary(folds=1), searches=[replace(summary().searches[0], shared=True)]),
    ],
    ids=["one setting", "one trial", "a loss", "equal scores", "no score", "many folds", "shared"],
)
def test_whatever_a_sweep_left_can_be_drawn(one):
    for picture in pictures(one):
        assert margin_is_white(picture.png), picture.name
        assert "nan" not in picture.alternative
