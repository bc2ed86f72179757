"""A study makes the lung masks it needs, each once, wherever it runs; and says what it did about bad ones."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torchvision
from PIL import Image
from safetensors.torch import save_file

from cxrdist.cohort.phantoms import draw_phantoms
from cxrdist.lungs.segmenter import BUILT_IN_FILE
from cxrdist.run.masks import MASKS_A_CHUNK
from tests.integration.conftest import (
    DEADLINE,
    Command,
    Workplace,
    assert_one_sentence,
    rows_of,
    run_here,
    wait_for,
    write_rows,
)

IMAGES = 40
TOGETHER = MASKS_A_CHUNK["cpu"]
LAST = IMAGES - 2 * TOGETHER
"""Three chunks on two cores, the last one small, so that some masks are written before others are made."""

SIDE = 64

PLANTED = ("a-black", "a-noise")
"""Images without lungs; first in the order of names, which is that of sentences."""

STUDY = """\
name: masks
seed: 3
cohort:
  manifest: {manifest}
  classes: [normal, covid19, viral_pneumonia, bacterial_pneumonia]
preprocessing: {{size: 64}}
folds: {{k: 2, validation: 0.3}}
variants: {{views: [segmented, lungs_blanked], models: [resnet34]}}
model: {{weights: none, transfer: frozen}}
training: {{epochs: 2, batch_size: 16, learning_rate: 1e-3}}
execution: {{threads: 1, keep_models: false}}
"""


@dataclass(frozen=True)
class Made:
    """A finished study whose masks the network made, and what it printed."""

    place: Workplace
    output: str

    def copied(self, folder: Path, *, cache: bool) -> Workplace:
        """Return a copy that a test may spoil, with a copy of the cache or an empty one."""
        shutil.copytree(self.place.folder, folder, ignore=None if cache else shutil.ignore_patterns("cache"))
        return replace(self.place, folder=folder, cache=folder / "cache")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms, manifests with mask files of all, none and half of them, and one with images without lungs."""
    folder = tmp_path_factory.mktemp("masks") / "images"
    draw_phantoms(folder, patients_per_class=5, images_per_patient=(2, 2), size=SIDE, seed=11)
    rows = rows_of(folder)
    assert len(rows) == IMAGES
    assert 0 < LAST < TOGETHER
    bare = [{**row, "mask_path": ""} for row in rows]
    write_rows(folder, bare, "bare.csv")
    # One image of each patient, so that those with files can be divided by themselves.
    write_rows(folder, [*rows[::2], *bare[1::2]], "half.csv")
    noise = np.random.default_rng(0).integers(0, 256, (SIDE // 4, SIDE // 4)).repeat(4, axis=0).repeat(4, axis=1)
    planted = []
    for name, pixels in zip(PLANTED, (np.zeros((SIDE, SIDE)), noise), strict=True):
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{name}.png")
        like = {"label": "normal", "source": "hospital_a", "patient_id": name, "group_id": name, "sha256": ""}
        planted.append({**bare[0], "image_id": name, "path": f"images/{name}.png", **like})
    write_rows(folder, [*bare, *planted], "planted.csv")
    left = np.arange(SIDE) < SIDE / 2
    for name, change in (("inverted", lambda mask: 255 - mask), ("halves", lambda mask: mask * left)):
        for row in rows:
            with Image.open(folder / row["mask_path"]) as mask:
                pixels = np.asarray(mask.convert("L"))
            path = Path(name) / row["mask_path"]
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(change(pixels).astype(np.uint8)).save(folder / path)
        write_rows(folder, [{**row, "mask_path": f"{name}/{row['mask_path']}"} for row in rows], f"{name}.csv")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Made:
    """A study of images without mask files."""
    folder = tmp_path_factory.mktemp("made") / "study"
    folder.mkdir()
    (folder / "study.yaml").write_text(STUDY.format(manifest=images / "bare.csv"))
    place = Workplace(folder, images, folder / "cache")
    status, output = run_here(*place.arguments())
    assert status == 0, output
    return Made(place, output)


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(command: Command, made: Made, tmp_path: Path) -> Run:
    """Run the study, with another manifest and other settings, in a run directory of the test's own."""

    def call(manifest: str, *settings: str) -> tuple[int, str]:
        (tmp_path / "study.yaml").write_text(STUDY.format(manifest=made.place.images / manifest))
        place = replace(made.place, folder=tmp_path)
        return command(*place.arguments(*(word for one in settings for word in ("--set", one))))

    return call


def test_masks_are_made_where_there_are_no_files_and_the_report_shows_them(made: Made) -> None:
    assert f"made {IMAGES} of {IMAGES} lung masks" in made.output
    run_dir = made.place.folder / "run"
    kept = json_of(run_dir / "masks.json")
    assert kept["origin"].startswith("the lung network, weights builtin (SHA-256 ")
    assert kept["policy"] == "whole"
    assert sorted(kept["sources"]) == ["hospital_a", "hospital_b"]
    assert sum(source["images"] for source in kept["sources"].values()) == IMAGES
    examples = read_arrow(run_dir / "mask_examples.arrow")
    assert set(examples.column("source").to_pylist()) == {"hospital_a", "hospital_b"}
    for name in ("pixels", "mask"):
        pixels = examples.column(name).combine_chunks().to_numpy_ndarray()
        assert pixels.shape == (len(examples), SIDE, SIDE)
        assert pixels.any()
    page = (run_dir / "report" / "index.html").read_text()
    assert ">Lung masks</h2>" in page
    assert kept["origin"] in page
    assert (run_dir / "report" / "tables" / "lung_masks.csv").exists()
    assert (run_dir / "report" / "figures" / "lung_mask_outlines.png").exists()


def test_views_without_lungs_make_no_masks(run: Run, tmp_path: Path) -> None:
    code, output = run("bare.csv", "variants.views=[whole]", "lungs.weights=nowhere.safetensors")
    assert code == 0, output
    assert "lung masks" not in output
    assert not (tmp_path / "run" / "masks.json").exists()
    assert "Lung masks" not in (tmp_path / "run" / "report" / "index.html").read_text()


def test_another_study_of_the_same_images_makes_no_mask_again(run: Run, made: Made, tmp_path: Path) -> None:
    before = written(made.place.cache)
    code, output = run("bare.csv", "seed=4", "name=another", "variants.views=[lung_box]")
    assert code == 0, output
    assert "lung masks" not in output
    assert written(made.place.cache) == before
    assert plan_of(tmp_path / "run")["masks"] == plan_of(made.place.folder / "run")["masks"]


@pytest.mark.long
@pytest.mark.alone
def test_ray_makes_the_same_masks_as_inline(made: Made, tmp_path: Path) -> None:
    copy = made.copied(tmp_path / "copy", cache=False)
    status, output = copy.run(*copy.arguments("--workers", "2", executor="ray"))
    assert status == 0, output
    assert f"made {IMAGES} of {IMAGES} lung masks" in output
    assert masks_in(copy.cache) == masks_in(made.place.cache)
    assert plan_of(copy.folder / "run")["study"] == plan_of(made.place.folder / "run")["study"]
    # Fold jobs are named by their masks, among others: those of the other executor's are done.
    assert "Nothing to train: all 4 fold jobs" in output


def test_a_damaged_file_of_masks_is_made_again(command: Command, made: Made, tmp_path: Path) -> None:
    copy = made.copied(tmp_path / "copy", cache=True)
    before = written(copy.cache)
    (victim,) = [path for path in before if read_arrow(path).num_rows == LAST]
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    code, output = command(*copy.arguments())
    assert code == 0, output
    assert f"made {LAST} of {LAST} lung masks" in output
    assert victim.read_bytes() == content
    after = written(copy.cache)
    assert {path for path in before if after[path] != before[path]} == {victim}
    assert "Nothing to train: all 4 fold jobs" in output


@pytest.mark.long
def test_masks_that_were_written_outlive_a_killed_process(command: Command, made: Made, tmp_path: Path) -> None:
    copy = made.copied(tmp_path / "copy", cache=False)
    process = copy.start(*copy.arguments())
    wait_for(process, lambda: " ".join(map(str, written(copy.cache))))
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=DEADLINE)
    kept = written(copy.cache)
    missing = IMAGES - sum(read_arrow(path).num_rows for path in kept)
    assert missing > 0, "all masks were made before the process was killed"

    code, output = command(*copy.arguments())

    assert code == 0, output
    assert f"made {missing} of {missing} lung masks" in output
    assert {path: written(copy.cache)[path] for path in kept} == kept, "what was made was made again"
    assert masks_in(copy.cache) == masks_in(made.place.cache)
    assert "Nothing to train: all 4 fold jobs" in output


def test_where_half_of_the_images_have_files_the_network_makes_all_masks(run: Run, made: Made, tmp_path: Path) -> None:
    code, output = run("half.csv")
    assert code == 0, output
    assert "the lung network" in json_of(tmp_path / "run" / "masks.json")["origin"]
    assert plan_of(tmp_path / "run")["masks"] == plan_of(made.place.folder / "run")["masks"]
    note = f"{IMAGES // 2} of {IMAGES} images have a mask file, and a mixture could tell the classes apart"
    assert note in (tmp_path / "run" / "report" / "index.html").read_text()


def test_files_alone_are_used_where_they_are_asked_for(run: Run, tmp_path: Path) -> None:
    half = IMAGES // 2
    result = run("half.csv", "lungs.masks=files")
    assert_one_sentence(result, 2, [f"{half} of {IMAGES} images have no mask file", "lungs.missing", "'network'"])

    code, output = run("half.csv", "lungs.masks=files", "lungs.missing=drop")
    assert code == 0, output
    assert json_of(tmp_path / "run" / "masks.json")["origin"] == "mask files of the manifest"
    left_out = json_of(tmp_path / "run" / "quarantine.json")["images"]
    assert [one["reason"] for one in left_out] == ["has no lung mask"] * half
    assert read_arrow(tmp_path / "run" / "cohort.arrow").num_rows == half
    assert f"{half} of {IMAGES} images are not used" in (tmp_path / "run" / "report" / "index.html").read_text()


def test_an_implausible_mask_counts_all_of_its_image_as_lung(
    run: Run, command: Command, made: Made, tmp_path: Path
) -> None:
    code, output = run("planted.csv")
    assert code == 0, output
    implausible = implausible_ids(tmp_path / "run")
    assert set(PLANTED) <= implausible
    said = f"Warning: {len(implausible)} of {IMAGES + 2} lung masks are implausible"
    assert said in output[: output.index("epoch")]
    cache = ["--set", f"execution.cache={made.place.cache}"]
    code, planned = command("plan", str(tmp_path / "study.yaml"), "--images", str(made.place.images), *cache)
    assert code == 0, planned
    assert said in planned
    assert "looks like no radiograph (a-black has one grey value everywhere" in planned
    assert read_arrow(tmp_path / "run" / "cohort.arrow").num_rows == IMAGES + 2
    plan = plan_of(tmp_path / "run", whole=True)
    table = read_arrow(Path(plan["cache"]) / plan["masks"])
    masks = dict(zip(table.column("image_id").to_pylist(), table.column("mask").to_pylist(), strict=True))
    assert len(masks) == IMAGES + 2
    assert {name for name, packed in masks.items() if set(packed) == {255}} == implausible
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert f"{len(implausible)} of {IMAGES + 2} lung masks are implausible: all of their image counts as lung" in page
    listed = (tmp_path / "run" / "report" / "tables" / "implausible_masks.csv").read_text()
    assert all(name in listed for name in implausible)


def test_an_image_with_an_implausible_mask_can_be_left_out(run: Run, tmp_path: Path) -> None:
    code, output = run("planted.csv", "lungs.implausible=drop")
    assert code == 0, output
    implausible = implausible_ids(tmp_path / "run")
    assert set(PLANTED) <= implausible
    used = read_arrow(tmp_path / "run" / "cohort.arrow").column("image_id").to_pylist()
    assert len(used) == IMAGES + 2 - len(implausible)
    assert not implausible & set(used)
    left_out = json_of(tmp_path / "run" / "quarantine.json")["images"]
    assert {one["image_id"] for one in left_out} == implausible
    assert all(one["reason"].startswith("has a lung mask that ") for one in left_out)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert f"{len(implausible)} of {IMAGES + 2} images are not used" in page
    assert f"Left out: {len(implausible)} images: implausible lung mask." in page


@pytest.mark.parametrize(
    ("manifest", "words"),
    [
        ("inverted.csv", [f"{IMAGES} of {IMAGES} images (100.0%) cannot be used", "as an inverted mask does"]),
        ("halves.csv", [f"{IMAGES} of {IMAGES} lung masks are implausible", "is one-sided", "mask_path", "'network'"]),
    ],
)
def test_masks_of_which_none_can_be_right_stop_a_study_and_then_its_plan(
    run: Run, command: Command, tmp_path: Path, made: Made, manifest: str, words: list[str]
) -> None:
    assert_one_sentence(run(manifest), 2, words)
    cache = ["--set", f"execution.cache={made.place.cache}"]
    plan = command("plan", str(tmp_path / "study.yaml"), "--images", str(made.place.images), *cache)
    assert_one_sentence(plan, 2, words)


def test_a_study_with_implausible_masks_can_be_refused(run: Run) -> None:
    result = run("planted.csv", "lungs.implausible=error")
    assert_one_sentence(result, 2, [f"of {IMAGES + 2} lung masks are implausible", PLANTED[0], "whole or drop"])


def some_network(path: Path) -> None:
    save_file(torchvision.models.resnet18().state_dict(), path)


def half_of_the_network(path: Path) -> None:
    path.write_bytes(BUILT_IN_FILE.read_bytes()[:5000])


WRONG: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "of another network": some_network,
    "text": lambda path: path.write_text("weights"),
    "cut short": half_of_the_network,
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_weight_file_gets_one_sentence(run: Run, tmp_path: Path, wrong: str) -> None:
    weights = tmp_path / "lungs.safetensors"
    WRONG[wrong](weights)
    assert_one_sentence(run("bare.csv", f"lungs.weights={weights}"), 2, [str(weights)])
    assert not (tmp_path / "run" / "plan.json").exists()


def json_of(path: Path) -> dict[str, Any]:
    """Read a JSON file."""
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def read_arrow(path: Path) -> pa.Table:
    """Read an Arrow file."""
    return pa.ipc.open_file(path.read_bytes()).read_all()


def plan_of(run_dir: Path, *, whole: bool = False) -> dict[str, Any]:
    """Read the plan of a run; the file of the masks by its name alone, unless `whole`."""
    plan = json_of(run_dir / "plan.json")
    return plan if whole else {**plan, "masks": Path(plan["masks"]).name}


def written(cache: Path) -> dict[Path, int]:
    """Return the files of the network's masks, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in sorted((cache / "lungs").glob("*/*.arrow"))}


def masks_in(cache: Path) -> dict[tuple[str, bytes], bytes]:
    """Return the masks of a cache by network and image."""
    masks = {}
    for path in written(cache):
        table = read_arrow(path)
        packed = table.column("mask").combine_chunks().to_numpy_ndarray()
        for digest, mask in zip(table.column("pixels_sha256").to_pylist(), packed, strict=True):
            masks[path.parent.name, digest] = mask.tobytes()
    return masks


def implausible_ids(run_dir: Path) -> set[str]:
    """Return the images whose masks are implausible."""
    return {one["image_id"] for one in json_of(run_dir / "masks.json")["implausible"]}
