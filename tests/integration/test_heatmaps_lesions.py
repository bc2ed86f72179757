"""What heat maps of trained networks find: the phantoms' lesions, and less of the lungs where a shortcut is outside."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from rich.console import Console
from scipy.stats import binomtest

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.config import load_study
from cxrdist.learn.heatmaps import enlarge, hits, peaks
from cxrdist.run.display import ConsoleDisplay
from cxrdist.run.driver import run_study
from cxrdist.run.store import Store
from cxrdist.study.layout import HeatFiles
from tests.integration.conftest import rows_of, run_here, write_rows

pytestmark = pytest.mark.long

SIDE = 192
ILL = "bacterial_pneumonia"

# From random weights, and small enough for a minute on one core: 90 images, three epochs.
STUDY = """\
name: lesions
seed: 2
cohort: {{manifest: {manifest}, classes: [normal, bacterial_pneumonia]}}
preprocessing: {{size: 192}}
folds: {{protocol: holdout_75_25}}
variants: {{views: [whole, segmented], models: [resnet34]}}
model: {{weights: none, transfer: finetune}}
training: {{epochs: 3, batch_size: 8, learning_rate: 1e-3}}
execution: {{threads: 1, executor: inline}}
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """By view: the maps of the ill test images for their class, lesions and lungs, and the shares inside the lungs.

    Every ill image has a bright square beside the lungs, which the view `segmented` takes away.
    """
    folder = tmp_path_factory.mktemp("lesions")
    images = folder / "images"
    draw_phantoms(images, patients_per_class=72, images_per_patient=(1, 1), size=SIDE, seed=2, marker=ILL)
    write_rows(images, [row for row in rows_of(images) if row["label"] in ("normal", ILL)], "two.csv")
    (folder / "study.yaml").write_text(STUDY.format(manifest=images / "two.csv"))
    overrides = {"cohort.images": str(images), "execution.cache": str(folder / "cache")}
    study = load_study(folder / "study.yaml", settings=(), overrides=overrides)
    assert not run_study(study, Store(folder / "run"), ConsoleDisplay(Console(quiet=True))).unfinished
    status, output = run_here("heatmaps", str(folder / "run"), "--class", "true")
    assert status == 0, output
    return {view: of_ill_images(folder, view) for view in ("whole", "segmented")}


def of_ill_images(folder, view):
    path = folder / "run" / HeatFiles(f"{view}-resnet34", "true").maps
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    ill = np.array([label == ILL for label in table.column("label").to_pylist()])
    ids = np.array(table.column("image_id").to_pylist())[ill]
    maps = table.column("map").combine_chunks().to_numpy_ndarray()[ill]
    lesions, lungs = (
        torch.from_numpy(np.stack([np.asarray(Image.open(folder / "images" / kind / f"{one}.png")) > 0 for one in ids]))
        for kind in ("lesions", "masks")
    )
    maps = enlarge(torch.from_numpy(maps.astype(np.float32)), SIDE)
    return maps, lesions, lungs, table.column("inside").to_numpy()[ill]


def test_the_hottest_place_is_on_a_lesion_far_more_often_than_by_chance_even_within_the_lungs(found):
    maps, lesions, lungs, _ = found["segmented"]
    assert len(maps) == 18
    chance = float(lesions.sum() / lungs.sum())
    assert 2 * float(lesions.double().mean()) < chance < 0.3
    on_lesion = int(hits(peaks(maps), lesions).sum())
    assert binomtest(on_lesion, len(maps), chance, alternative="greater").pvalue < 0.01


def test_heat_is_more_inside_the_lungs_where_a_shortcut_outside_them_is_not_seen(found):
    *_, whole = found["whole"]
    *_, segmented = found["segmented"]
    assert len(whole) == len(segmented) == 18
    assert segmented.mean() > whole.mean() + 0.02
