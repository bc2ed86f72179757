"""`cxrdist plan`: what would be done, without doing any of it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cxrdist.cli.gather import cohort_summary, fold_summaries
from cxrdist.cohort.table import Cohort
from cxrdist.config import Study, load_study
from cxrdist.learn.memory import training_bytes
from cxrdist.learn.models import count_parameters
from cxrdist.learn.weights import IMAGENET
from cxrdist.lungs.segmenter import LungWeights
from cxrdist.report.render import render_text
from cxrdist.report.results import Results
from cxrdist.report.tables import cohort_table, fold_counts_table
from cxrdist.run.plan_file import recipe_of
from cxrdist.run.prepare import (
    divide,
    doubts_of_decoded,
    grouping_doubts,
    network_of,
    networks_of,
    open_cohort,
    training_doubts,
    with_masks_only,
)
from cxrdist.run.study_masks import mask_origin, mixture_note
from cxrdist.run.sweep_plan import dimension_of, sweep_doubts, sweep_images
from cxrdist.study.folds import Folds
from cxrdist.study.plan import image_passes, make_variants
from cxrdist.study.recipe import Network
from cxrdist.study.search import combinations


def plan_command(study_file: Path, settings: Sequence[str], overrides: Mapping[str, Any]) -> None:
    """Print the plan of a study; images are not opened, and what is said of them is what an earlier run saw."""
    study = load_study(study_file, settings=settings, overrides=overrides)
    cohort, left_out = with_masks_only(open_cohort(study), study)
    folds = divide(cohort, study)
    if study.model.weights != IMAGENET:
        # Those of ImageNet are fetched when the study runs; a file should be there now.
        networks_of(study)
    networks: dict[str, Network] = {m: network_of(study, m, study.model.weights) for m in study.variants.models}
    variants = [variant.name for variant in make_variants(study.variants.views, study.variants.models)]
    sweep_images(study, cohort, folds)
    doubts = [
        *doubts_of_decoded(study, cohort),
        *cohort.doubts(),
        *grouping_doubts(study),
        *training_doubts(folds, cohort),
        *sweep_doubts(study, folds.n_folds),
    ]
    note = mixture_note(study, cohort)
    if note:
        doubts.insert(0, note)
    if left_out:
        doubts.insert(0, f"{len(left_out)} images have no lung mask and are left out of every variant")
    nothing_yet = Results(
        study=study.name,
        classes=cohort.classes,
        variants=tuple(variants),
        n_folds=folds.n_folds,
        out_of_fold={},
        histories={},
        cohort=cohort_summary(cohort, study),
        folds=fold_summaries(folds, cohort),
        warnings=doubts,
        missing=[f"{variant}/fold-{fold}" for variant in variants for fold in range(folds.n_folds)],
        facts=(),
        study_yaml="",
    )
    click.echo(render_text(cohort_table(nothing_yet)))
    click.echo(render_text(fold_counts_table(nothing_yet)))
    click.echo(_work(study, folds, networks, len(cohort.image_ids)) + _masks(study, cohort))
    click.echo("\n".join(f"Warning: {doubt}." for doubt in doubts) if doubts else "No warnings.")


def _work(study: Study, folds: Folds, networks: Mapping[str, Network], n_images: int) -> str:
    recipe, devices = recipe_of(study), study.training.gpus_per_fold
    passes = sum(image_passes(folds, recipe, fold) for fold in range(folds.n_folds))
    n_views = len(study.variants.views)
    lines = [
        f"{_count(n_views * len(networks) * folds.n_folds, 'fold job')}: {_count(n_views, 'view')} x "
        f"{_count(len(networks), 'model')} x {_count(folds.n_folds, 'fold')}, "
        f"{_count(recipe.epochs, 'epoch')} of batches of {recipe.batch_size}"
        + (f", divided between {devices} devices" if devices > 1 else "")
    ]
    for model, network in networks.items():
        count = count_parameters(network)
        memory = training_bytes(network, math.ceil(recipe.batch_size / devices))
        what = "features to pass through its head" if network.transfer == "frozen" else "images to pass"
        lines.append(
            f"{model}: {count.total:,} parameters, {count.trained:,} of them trained; {passes * n_views:,} {what}"
            f"{f' after {n_images * n_views:,} images through its trunk' if network.transfer == 'frozen' else ''}; "
            f"about {memory / 1e9:.1f} GB a worker while training"
        )
    pixels = n_images * study.preprocessing.size**2
    lines.append(f"decoded images: {pixels / 1e6:,.0f} MB, shared by the workers of a machine")
    return "\n".join([*lines, *_sweep(study, folds, n_views * len(networks))]) + "\n"


def _sweep(study: Study, folds: Folds, n_variants: int) -> list[str]:
    sweep = study.sweep
    if sweep is None:
        return []
    every = combinations([dimension_of(key, one) for key, one in sweep.space.dimensions.items()])
    trials = sweep.trials if every is None else min(every, sweep.trials)
    searches = n_variants * (1 if sweep.nesting == "shared" else folds.n_folds)
    return [
        f"sweep of {', '.join(sweep.space.dimensions)}: {searches} search{'' if searches == 1 else 'es'} x "
        f"{_count(trials, 'trial')} x {_count(sweep.folds, 'inner fold')}, the best by {sweep.metric}"
        + (", fewer where trials stop early" if sweep.scheduler == "asha" else "")
    ]


def _masks(study: Study, cohort: Cohort) -> str:
    match mask_origin(study, cohort):
        case "files":
            return "lung masks: the manifest's files\n"
        case "network":
            LungWeights.find(study.lungs.weights)
            return f"lung masks: by the lung network, weights {study.lungs.weights}, for images that have none yet\n"
        case None:
            return ""


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
