"""Heat maps of a run: each image's by the network that never saw it, made once, drawn, and shown in the report."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cxrdist.cli import commands
from cxrdist.cli.gather import gather, with_images
from cxrdist.cli.gather_images import heat_shares
from cxrdist.cohort.decode import Preprocessing, decode_grey, read_image_file
from cxrdist.config import load_study
from cxrdist.learn.heatmaps import heat_maps, min_max
from cxrdist.learn.models import build_classifier
from cxrdist.learn.sources import ImageSource
from cxrdist.learn.views import apply_view
from cxrdist.outputs import RECORD
from cxrdist.report.sections import Findings
from cxrdist.run.context import Context
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.driver import run_study
from cxrdist.run.heatmaps import KeptNetworks, explain, lung_masks
from cxrdist.run.store import Store
from cxrdist.study.folds import Part
from cxrdist.study.layout import HeatFiles, JobFiles
from cxrdist.study.recipe import Network
from tests.integration.conftest import assert_one_sentence, rewrite, run_here, vouch_for

STUDY = """\
name: explained
seed: 3
cohort:
  manifest: {manifest}
  classes: [normal, covid19, viral_pneumonia, bacterial_pneumonia]
preprocessing: {{size: 64}}
folds: {{k: 2, validation: 0.3}}
variants: {{views: [whole, lung_box], models: [resnet34, vgg16]}}
model: {{weights: none, transfer: frozen, vgg_hidden: 16}}
training: {{epochs: 1, batch_size: 8, learning_rate: 1e-3}}
execution: {{threads: 1}}
"""
VARIANTS = ["whole-resnet34", "whole-vgg16", "lung_box-resnet34", "lung_box-vgg16"]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "cxr"


def train(folder, phantoms, cache, *settings):
    """Train the study into `folder / "run"`, without a report; return that folder."""
    (folder / "study.yaml").write_text(STUDY.format(manifest=phantoms / "manifest.csv"))
    overrides = {"cohort.images": str(phantoms), "execution.cache": str(cache), "execution.executor": "inline"}
    study = load_study(folder / "study.yaml", settings=settings, overrides=overrides)
    assert not run_study(study, Store(folder / "run"), ConsoleDisplay(Console(quiet=True))).unfinished
    return folder / "run"


@pytest.fixture(scope="module")
def explained(tmp_path_factory, phantoms, shared_cache):
    """A run with its heat maps, and what the command printed."""
    run = train(tmp_path_factory.mktemp("explained"), phantoms, shared_cache)
    status, output = run_here("heatmaps", str(run))
    assert status == 0, output
    return run, output


@pytest.fixture
def run(explained, tmp_path):
    """A copy of it to spoil."""
    return Path(shutil.copytree(explained[0], tmp_path / "run"))


def read(run, name):
    """The columns of a file of heat maps, and its metadata."""
    table = pa.ipc.open_file(pa.memory_map(str(run / "heatmaps" / f"{name}.arrow"))).read_all()
    columns: dict[str, Any] = {name: table.column(name).to_pylist() for name in table.column_names if name != "map"}
    columns["map"] = table.column("map").combine_chunks().to_numpy_ndarray()
    return columns, {key.decode(): value.decode() for key, value in table.schema.metadata.items()}


def rows_tested(run, fold):
    return Context(Store(run), torch.device("cpu")).folds.rows(fold, Part.TEST)


def give_network(run, source, target):
    """Let the network of one fold job pass for that of another."""
    with safe_open(run / JobFiles(target).model, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(run / JobFiles(source).model), run / JobFiles(target).model, metadata=metadata)
    vouch_for(run, JobFiles(target).model)


def results_of(run):
    store = Store(run)
    return with_images(store, gather(store, partial=False))[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_tested_image_has_one_map_of_the_predicted_class_by_its_own_folds_network(explained, variant):
    run, _ = explained
    columns, metadata = read(run, variant)
    predicted = pa.concat_tables(
        pq.read_table(run / JobFiles(f"{variant}/fold-{fold}").predictions) for fold in (0, 1)
    ).sort_by("image_id")
    assert columns["image_id"] == predicted.column("image_id").to_pylist()
    assert columns["fold"] == predicted.column("fold").to_pylist()
    classes = [name.removeprefix("p_") for name in predicted.column_names if name.startswith("p_")]
    probabilities = np.column_stack([predicted.column(f"p_{name}").to_numpy() for name in classes])
    assert columns["label"] == [classes[index] for index in probabilities.argmax(1)]
    assert columns["probability"] == probabilities.max(1).tolist()
    is_resnet = variant.endswith("resnet34")
    assert metadata["method"] == ("cam" if is_resnet else "gradcam")
    assert columns["map"].shape[1:] == ((2, 2) if is_resnet else (4, 4))
    assert np.isfinite(columns["map"]).all()
    # Grad-CAM may find nothing that speaks for the class.
    largest = np.abs(columns["map"]).max(axis=(1, 2))
    assert (largest == (np.array(columns["scale"]) > 0)).all()
    assert largest.mean() > (0.99 if is_resnet else 0.8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shares_are_shares_and_the_area_is_that_of_the_mask_in_the_view(explained, variant):
    run, _ = explained
    columns, _ = read(run, variant)
    inside, has_heat = np.array(columns["inside"]), columns["map"].max(axis=(1, 2)) > 0
    assert (np.isnan(inside) == ~has_heat).all()
    assert ((inside[has_heat] >= 0) & (inside[has_heat] <= 1)).all()
    assert inside[has_heat].std() > 0
    context = Context(Store(run), torch.device("cpu"))
    assert context.masks is not None
    masks = torch.from_numpy(context.masks.take(np.arange(len(context.image_ids))))
    if variant.startswith("lung_box"):
        stretched = apply_view(255 * masks, masks, "lung_box")
        assert stretched.double().mean() / 255 > masks.double().mean() + 0.1
        masks = stretched >= 128
    assert columns["area"] == pytest.approx(masks.double().mean((1, 2)).tolist(), abs=1e-12)


def test_the_command_prints_a_row_a_variant(explained):
    _, output = explained
    for variant, method in zip(VARIANTS, ["CAM", "Grad-CAM"] * 2, strict=True):
        line = next(line for line in output.splitlines() if line.split()[:1] == [variant])
        assert line.split()[1] == method
    assert "Lung area" in output


def test_another_folds_network_changes_nothing_and_its_own_changes_the_maps(run):
    before, _ = read(run, "whole-resnet34")
    shutil.rmtree(run / "heatmaps")
    give_network(run, "whole-resnet34/fold-0", "whole-resnet34/fold-1")
    assert run_here("heatmaps", str(run), "--variant", "whole-resnet34")[0] == 0
    after, _ = read(run, "whole-resnet34")
    same = np.array([(one == other).all() for one, other in zip(before["map"], after["map"], strict=True)])
    fold = np.array(after["fold"])
    assert set(fold.tolist()) == {0, 1}
    assert same[fold == 0].all()
    assert not same[fold == 1].any()


def test_an_image_is_never_explained_by_a_network_that_did_not_test_it(run):
    context = Context(Store(run), torch.device("cpu"))
    job = context.jobs["whole-resnet34/fold-0"]
    rows = rows_tested(run, 1)[:1]
    with pytest.raises(ValueError, match="did not test"):
        explain(context, job, KeptNetworks(context).load(job), rows, np.zeros(1, np.int64), "cam")


def test_what_is_made_is_not_made_again(run):
    files = {path: path.stat().st_mtime_ns for path in (run / "heatmaps").iterdir()}
    # Nothing that could be computed with is there any more.
    for path in run.glob("jobs/*/*/model.safetensors"):
        path.unlink()
    status, output = run_here("heatmaps", str(run))
    assert status == 0, output
    assert "Heat inside the lungs" in output
    assert not re.search(r"made \d+ of", output)
    assert {path: path.stat().st_mtime_ns for path in (run / "heatmaps").iterdir()} == files


def test_a_damaged_file_and_one_of_another_method_are_made_again(run):
    before = read(run, "lung_box-resnet34")
    path = run / HeatFiles("lung_box-resnet34").maps
    path.write_bytes(path.read_bytes()[:1000])
    assert run_here("heatmaps", str(run), "--variant", "lung_box-resnet34", "--method", "gradcam")[0] == 0
    by_gradients, metadata = read(run, "lung_box-resnet34")
    assert metadata["method"] == "gradcam"
    assert (by_gradients["map"] >= 0).all()
    assert run_here("heatmaps", str(run), "--variant", "lung_box-resnet34")[0] == 0
    after = read(run, "lung_box-resnet34")
    assert (after[0]["map"] == before[0]["map"]).all()
    assert after[1] == before[1]


def test_maps_of_another_class_leave_those_of_the_predicted_one(run):
    path = run / HeatFiles("whole-vgg16").maps
    before = path.read_bytes()
    assert run_here("heatmaps", str(run), "--variant", "whole-vgg16", "--class", "true")[0] == 0
    status, output = run_here("heatmaps", str(run), "--variant", "whole-vgg16", "--class", "covid19")
    assert status == 0
    assert "for the class covid19" in output
    assert path.read_bytes() == before
    true, of_covid19 = (read(run, f"whole-vgg16.{name}")[0] for name in ("true", "class-1"))
    assert [one.rsplit("-", 2)[0] for one in true["image_id"]] == true["label"]
    assert set(of_covid19["label"]) == {"covid19"}


def test_an_image_is_drawn_for_every_variant_at_twice_the_side_with_its_bare_map(run):
    image_id = "covid19-0001-00"
    status, output = run_here("heatmaps", str(run), "--image", image_id, "--image", "normal-0000-00")
    assert status == 0, output
    assert len(list((run / "heatmaps" / "images").iterdir())) == 2 * 2 * len(VARIANTS)
    for variant in VARIANTS:
        columns, _ = read(run, variant)
        row = columns["image_id"].index(image_id)
        picture, bare = (HeatFiles(variant).image(image_id, ending) for ending in ("png", "npy"))
        expected = columns["map"][row].astype(float) * columns["scale"][row]
        assert np.load(run / bare) == pytest.approx(expected, rel=2e-3, abs=2e-3 * columns["scale"][row])
        drawn = np.asarray(Image.open(run / picture))
        assert drawn.shape == (128, 128, 3)
        assert (drawn[..., 0] != drawn[..., 2]).any()
        assert f"{image_id}  {variant}  {columns['label'][row]} {columns['probability'][row]:.3f}" in output


def test_an_image_can_be_drawn_of_one_variant_alone(run):
    arguments = ("--image", "normal-0000-00", "--variant", "whole-resnet34", "--class", "viral_pneumonia")
    assert run_here("heatmaps", str(run), *arguments)[0] == 0
    names = sorted(path.name for path in (run / "heatmaps" / "images").iterdir())
    assert names == [f"normal-0000-00.whole-resnet34.class-2.{ending}" for ending in ("npy", "png")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--image", "covid19-0001-00x"], ["no image 'covid19-0001-00x'", "did you mean 'covid19-0001-00'?"]),
        (["--variant", "whole-resnet"], ["--variant is 'whole-resnet'", "did you mean 'whole-resnet34'?"]),
        (["--class", "covid"], ["--class is 'covid'", "predicted, true, normal", "did you mean 'covid19'?"]),
        (["--method", "cam"], ["--method is cam", "whole-vgg16 has none", "gradcam, or auto"]),
    ],
)
def test_what_is_not_there_is_one_sentence_with_what_is(explained, arguments, words):
    assert_one_sentence(run_here("heatmaps", str(explained[0]), *arguments), 2, words)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    assert_one_sentence(run_here("heatmaps", str(tmp_path)), 2, ["is not a run directory"])


def test_the_network_of_another_fold_job_is_refused(run):
    shutil.rmtree(run / "heatmaps")
    models = [run / JobFiles(f"whole-resnet34/fold-{fold}").model for fold in (0, 1)]
    shutil.copy(*models)
    vouch_for(run, JobFiles("whole-resnet34/fold-1").model)
    result = run_here("heatmaps", str(run), "--variant", "whole-resnet34")
    assert_one_sentence(result, 2, [str(models[1]), "is not the network of whole-resnet34/fold-1"])
    assert not (run / HeatFiles("whole-resnet34").maps).exists()


def test_without_decoded_images_the_command_says_how_to_get_them(run):
    shutil.rmtree(run / "heatmaps")
    forget_cache(run)
    assert_one_sentence(run_here("heatmaps", str(run)), 2, ["decoded images", "--cache", "`cxrdist run` again"])


def forget_cache(run):
    """Let the plan name shards that are gone."""
    rewrite(run, "plan.json", shards=str(run / "gone"))


def test_the_report_has_images_with_heat_and_the_shares_of_the_kept_maps(run):
    results = results_of(run)
    assert [one.variant for one in results.heat_shares] == VARIANTS
    assert len(results.images) >= 4
    kept = {variant: read(run, variant)[0] for variant in VARIANTS}
    for image_id, image in results.images.items():
        assert image.label == image_id.rsplit("-", 2)[0]
        assert image.pixels.shape == (64, 64)
        assert image.mask is not None
        assert set(image.views) == {"whole", "lung_box"}
        assert (image.views["whole"] == image.pixels).all()
        assert set(image.heat) == set(VARIANTS)
        for variant, heat in image.heat.items():
            row = kept[variant]["image_id"].index(image_id)
            assert (heat.label, heat.probability) == (kept[variant]["label"][row], kept[variant]["probability"][row])
            assert (heat.values.min(), heat.values.max()) == (0, kept[variant]["scale"][row] > 0)


def test_the_report_makes_the_heat_maps_that_it_shows_where_none_are_kept(run):
    kept = results_of(run)
    shutil.rmtree(run / "heatmaps")
    made = results_of(run)
    assert list(made.heat_shares) == []
    assert list(made.images) == list(kept.images)
    for image_id, image in made.images.items():
        for variant, heat in image.heat.items():
            assert heat.values == pytest.approx(kept.images[image_id].heat[variant].values, abs=3e-3)


def test_the_report_of_a_run_without_networks_has_images_without_heat_and_without_a_cache_none(run):
    shutil.rmtree(run / "heatmaps")
    for path in run.glob("jobs/*/*/model.safetensors"):
        path.unlink()
    images = results_of(run).images
    assert images
    assert all(not image.heat for image in images.values())
    forget_cache(run)
    assert dict(results_of(run).images) == {}


def test_heat_maps_of_a_study_that_changed_are_stale_and_new_ones_renew_the_report(
    explained, tmp_path, phantoms, shared_cache
):
    shutil.copytree(explained[0], tmp_path / "run")
    settings = ("training.learning_rate=1e-2", "variants.views=[whole]", "variants.models=[resnet34]")
    run = train(tmp_path, phantoms, shared_cache, *settings)
    assert list(results_of(run).heat_shares) == []
    report = (
        *("run", str(tmp_path / "study.yaml"), "--images", str(phantoms), "--run-dir", str(run)),
        *("--executor", "inline", "--set", f"execution.cache={shared_cache}"),
        *(part for setting in settings for part in ("--set", setting)),
    )
    table = run / "report" / "tables" / "heat_inside_lungs.csv"
    assert run_here(*report)[0] == 0
    assert not table.exists()
    before, _ = read(run / "set_aside" / "1", "whole-resnet34")
    assert run_here("heatmaps", str(run))[0] == 0
    after, _ = read(run, "whole-resnet34")
    assert (before["map"] != after["map"]).any()
    assert run_here(*report)[0] == 0
    assert len(table.read_text().splitlines()) == 2


def test_a_study_that_kept_no_networks_or_tests_no_such_image_says_so(tmp_path, phantoms, shared_cache):
    settings = ("execution.keep_models=false", "folds.protocol=holdout_75_25", "variants.models=[resnet34]")
    run = train(tmp_path, phantoms, shared_cache, *settings)
    result = run_here("heatmaps", str(run))
    words = ["1 of 1 fold jobs", "whole-resnet34/fold-0", "execution.keep_models: true"]
    assert_one_sentence(result, 2, words)
    context = Context(Store(run), torch.device("cpu"))
    trained = context.image_ids[int(context.folds.rows(0, Part.TRAINING)[0])]
    result = run_here("heatmaps", str(run), "--image", trained)
    assert_one_sentence(result, 2, [f"No fold of the study tests the image '{trained}'"])
    tested = context.image_ids[int(context.folds.rows(0, Part.TEST)[0])]
    assert_one_sentence(run_here("heatmaps", str(run), "--image", tested), 2, words)


def test_a_study_without_masks_takes_those_of_the_lung_network(tmp_path, phantoms, shared_cache):
    run = train(tmp_path, phantoms, shared_cache, "variants.views=[whole]", "variants.models=[resnet34]")
    status, output = run_here("heatmaps", str(run))
    assert status == 0, output
    columns, _ = read(run, "whole-resnet34")
    context = Context(Store(run), torch.device("cpu"))
    assert context.masks is None
    masks = lung_masks(context).take(np.arange(len(context.image_ids)))
    assert columns["area"] == pytest.approx(masks.mean(axis=(1, 2)).tolist(), abs=1e-12)
    assert np.mean(columns["area"]) > 0.05
    assert not re.search(r"made \d+ of", run_here("heatmaps", str(run))[1])
    # What it made stays where its weights are out of reach.
    study = (run / "study.yaml").read_text()
    assert study.count("weights: builtin") == 1
    (run / "study.yaml").write_text(study.replace("weights: builtin", "weights: /gone.safetensors"))
    vouch_for(run, "study.yaml")
    assert [one.variant for one in heat_shares(Context(Store(run), torch.device("cpu")))] == ["whole-resnet34"]


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared folder of real chest X-rays is absent")
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_of_real_images_grad_cam_of_resnet34_is_the_positive_part_of_cam(pooling):
    paths = sorted((SHARED / "radiography").iterdir())[:4]
    grey = np.stack(
        [decode_grey(read_image_file(SHARED, str(p.relative_to(SHARED))), Preprocessing(224)) for p in paths]
    )
    classifier = build_classifier(Network("resnet34", 3, 224), seed=0, fold=0).eval()

    class Images:
        def take(self, rows):
            return grey[rows]

    images = ImageSource(Images(), None, "whole", torch.device("cpu")).batch(torch.arange(4))
    with torch.no_grad():
        classes = classifier(images).argmax(1)
    cam = heat_maps(classifier, "resnet34", images, classes, "cam").maps
    grad_cam = heat_maps(classifier, "resnet34", images, classes, "gradcam", pooling=pooling).maps
    assert grad_cam.shape == (4, 7, 7)
    assert (grad_cam.amax((1, 2)) > 0).all()
    torch.testing.assert_close(min_max(grad_cam), min_max(cam.relu()), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def reported(tmp_path_factory, phantoms, shared_cache):
    """A run of one variant with heat maps and a report, its cache out of reach."""
    settings = ("variants.views=[lung_box]", "variants.models=[resnet34]")
    run = train(tmp_path_factory.mktemp("reported"), phantoms, shared_cache, *settings)
    for name in ("heatmaps", "report"):
        assert run_here(name, str(run))[0] == 0
    change_plan(run, cache=str(run / "gone"))
    return run


@pytest.fixture
def moved(reported, tmp_path):
    """A copy of it elsewhere, to spoil."""
    return Path(shutil.copytree(reported, tmp_path / "moved"))


def change_plan(run, **changes):
    rewrite(run, "plan.json", **changes)


def shown(run):
    """All that a reader sees of a report."""
    own = ("made_from.json", RECORD)
    files = [path for path in (run / "report").rglob("*") if path.is_file() and path.name not in own]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def test_a_report_needs_the_decoded_images_once(moved):
    before = shown(moved)
    assert "report/figures/heat_by_view.svg" in before
    for path in moved.glob("jobs/*/*/model.safetensors"):
        path.unlink()
    shutil.rmtree(moved / "report")
    status, output = run_here("report", str(moved))
    assert status == 0, output
    assert output.count("The decoded images of the study are out of reach") == 1
    assert "those that an earlier report kept" in output
    assert shown(moved) == before


def test_figures_that_cannot_be_drawn_again_are_those_of_the_earlier_report(moved, shared_cache):
    (moved / "shown_images.arrow").unlink()
    before = shown(moved)
    status, output = run_here("report", str(moved))
    assert status == 0, output
    assert "out of reach" in output
    assert "--cache" in output
    after = shown(moved)
    assert {name for name in before if after.get(name) != before[name]} == {"report/index.html"}
    page = after["report/index.html"].decode()
    assert page.count("As an earlier report drew it") == 4
    assert "What the networks look at" in page
    status, output = run_here("report", str(moved), "--cache", str(shared_cache))
    assert (status, "out of reach" in output) == (0, False), output
    assert shown(moved) == before


@pytest.mark.parametrize("of", ["the same", "others"])
def test_images_and_figures_are_kept_of_the_same_predictions_alone(moved, monkeypatch, of):
    written = []

    def write_nothing(findings, _, **__):
        written.append(findings.results)
        return []

    monkeypatch.setattr(commands, "write_report", write_nothing)
    if of == "others":
        rewrite(moved, "report/made_from.json", predictions="of others")
        table = pa.ipc.open_file(moved / "shown_images.arrow").read_all()
        with pa.ipc.new_file(moved / "shown_images.arrow", table.schema.with_metadata({"predictions": "of others"})):
            pass
    store = Store(moved)
    commands.write_report_of(store, Findings.of(gather(store, partial=False)))
    assert bool(written[0].images) == (of == "the same")
    assert list(written[0].kept_pictures) == []


def test_heat_maps_of_a_run_that_was_moved_are_made_with_the_cache_given_anew(moved, shared_cache):
    before, _ = read(moved, "lung_box-resnet34")
    shutil.rmtree(moved / "heatmaps")
    arguments = ("heatmaps", str(moved))
    assert_one_sentence(run_here(*arguments), 2, ["decoded images", "gone", "--cache"])
    status, output = run_here(*arguments, "--cache", str(shared_cache))
    assert status == 0, output
    assert (read(moved, "lung_box-resnet34")[0]["map"] == before["map"]).all()


def test_a_cache_of_other_images_is_not_taken_for_the_runs(run):
    change_plan(run, pixels="0" * 64)
    result = run_here("heatmaps", str(run), "--image", "normal-0000-00")
    assert_one_sentence(result, 2, ["decoded images", "holds others"])


def test_a_report_that_cannot_be_written_is_printed_first(moved):
    shutil.rmtree(moved / "report")
    (moved / "report").write_text("a file where the folder should be\n")
    status, output = run_here("report", str(moved))
    assert status == 2
    assert "cannot be written" in output
    assert output.index("Summary") < output.index("Error: ")
