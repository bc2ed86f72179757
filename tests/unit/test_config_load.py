"""The study file: what is right round-trips, what is wrong is one sentence for each fault."""

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cxrdist.config import Study, load_study, parse_setting
from cxrdist.errors import UserError

JOBS = sorted((Path(__file__).resolve().parents[2] / "jobs").glob("*.yaml"))
SMALLEST = "name: small\ncohort:\n  manifest: images.csv\n  classes: [a, b]\n"


@pytest.fixture
def study_file(tmp_path):
    """Writes the smallest study and more, and returns its path."""

    def write(more="", smallest=SMALLEST):
        path = tmp_path / "s.yaml"
        path.write_text(smallest + more, encoding="utf-8")
        return path

    return write


@pytest.fixture
def message(study_file):
    """What is wrong with a study, without the folder's name."""

    def read(more="", *settings, smallest=SMALLEST):
        path = study_file(more, smallest)
        with pytest.raises(UserError) as caught:
            load_study(path, settings=settings)
        return str(caught.value).replace(str(path), "s.yaml")

    return read


def properties(schema, section):
    """The schema's properties of a section, with the sections in it followed: (dotted key, schema)."""
    for key, value in section["properties"].items():
        yield key, value
        if "$ref" in value:
            inner = schema["$defs"][value["$ref"].removeprefix("#/$defs/")]
            yield from ((f"{key}.{name}", each) for name, each in properties(schema, inner))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_study_file_of_the_repository_loads(path):
    assert load_study(path).name


def test_a_study_written_out_is_read_as_the_same_study(study_file, tmp_path):
    first = load_study(study_file("training: {epochs: 3, learning_rate: 1e-5}\nexecution: {workers: 2, cache: c}\n"))
    copy = tmp_path / "elsewhere" / "copy.yaml"
    copy.parent.mkdir()
    copy.write_text(yaml.safe_dump(first.model_dump(mode="json")))
    assert load_study(copy) == first
    assert first.training.epochs == 3
    assert first.training.learning_rate == 1e-5


def test_off_needs_no_quotes(study_file):
    assert load_study(study_file("tracking:\n  wandb: off\n")).tracking.wandb == "off"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (
            "training:\n  epoch: 5\n",
            "s.yaml:6: unknown key 'training.epoch'; did you mean 'epochs'? valid keys of training: epochs, "
            "batch_size, learning_rate, weight_decay, precision, selection, gpus_per_fold.",
        ),
        (
            "zzz: 5\n",
            "s.yaml:5: unknown key 'zzz'; valid keys of a study file: name, seed, cohort, preprocessing, lungs, "
            "folds, variants, model, training, sweep, execution, tracking.",
        ),
        (
            "folds:\n  k: 3\n  group_by: patients\n",
            "s.yaml:7: folds.group_by is 'patients', but should be one of group, patient, image "
            "(did you mean 'patient'?).",
        ),
        (
            "variants:\n  views:\n  - whole\n  - wohle\n",
            "s.yaml:8: variants.views.1 is 'wohle', but should be one of whole, segmented, lung_box, lungs_blanked "
            "(did you mean 'whole'?).",
        ),
        (
            "execution: {workers: atuo}\n",
            "s.yaml:5: execution.workers is 'atuo', but should be one of auto (did you mean 'auto'?) "
            "or a whole number.",
        ),
        ("execution: {workers: 0}\n", "s.yaml:5: execution.workers is 0, but should be greater than or equal to 1."),
        ("training: {epochs: ten}\n", "s.yaml:5: training.epochs is 'ten', but should be a whole number."),
        ("training: {epochs: 2.0}\n", "s.yaml:5: training.epochs is 2.0, but should be a whole number."),
        (
            "training: {learning_rate: .nan}\n",
            "s.yaml:5: training.learning_rate is nan, but should be a finite number.",
        ),
        ("training: {learning_rate: fast}\n", "s.yaml:5: training.learning_rate is 'fast', but should be a number."),
        ("folds: {validation: 0.6}\n", "s.yaml:5: folds.validation is 0.6, but should be less than or equal to 0.5."),
        ("preprocessing: {size: 100}\n", "s.yaml:5: preprocessing.size is 100, but should be a multiple of 32."),
        ("execution: {keep_models: 1}\n", "s.yaml:5: execution.keep_models is 1, but should be true or false."),
        ("variants: {views: whole}\n", "s.yaml:5: variants.views is 'whole', but should be a list, such as [a, b]."),
        ("variants: {views: []}\n", "s.yaml:5: variants.views is [], but should be a list of at least 1."),
        ("variants: {views: [whole, whole]}\n", "s.yaml:5: variants.views: 'whole' is listed twice."),
        ("model: {weights: ''}\n", "s.yaml:5: model.weights is '', but should be at least 1 character long."),
        ("model: 5\n", "s.yaml:5: model is 5, but should be keys with values."),
        ("model: {weights: 5}\n", "s.yaml:5: model.weights is 5, but should be a word."),
        (
            "tracking: {project: a/b}\n",
            "s.yaml:5: tracking.project is 'a/b', but should be letters, digits, dots, hyphens and underscores, "
            "starting with a letter or digit.",
        ),
        (
            "folds:\n  protocol: holdout_batches\n",
            "s.yaml:5: folds: protocol 'holdout_batches' divides images, so it needs group_by 'image', not 'group' "
            "('kfold' and 'holdout_75_25' keep patients together).",
        ),
        (
            "training: {gpus_per_fold: 4, batch_size: 3}\nmodel: {transfer: finetune}\n",
            "s.yaml:5: training: gpus_per_fold is 4, but a batch of 3 images (batch_size) is work for 3 devices at "
            "most.",
        ),
        (
            "training: {gpus_per_fold: 2}\n",
            "s.yaml:5: training: gpus_per_fold is 2, but with model.transfer 'frozen' the head alone is trained, which "
            "one device does best; use 1, or transfer 'finetune'.",
        ),
        (
            "training: {gpus_per_fold: 2}\nmodel: {transfer: finetune}\nexecution: {executor: inline}\n",
            "s.yaml:7: execution: executor is 'inline', one process, but training.gpus_per_fold is 2; use executor "
            "'ray', or 1.",
        ),
        (
            "training: {gpus_per_fold: 2}\nmodel: {transfer: finetune}\nexecution: {gpus_per_worker: 0.5}\n",
            "s.yaml:7: execution: gpus_per_worker is 0.5, but training.gpus_per_fold is 2, and each of them needs a "
            "whole GPU; use gpus_per_worker 1.",
        ),
        (
            "lungs: {missing: drop}\n",
            "s.yaml:5: lungs: missing 'drop' needs masks 'files', not 'auto' (the lung network makes one for every "
            "image).",
        ),
        (
            "lungs: {masks: network, missing: drop}\n",
            "s.yaml:5: lungs: missing 'drop' needs masks 'files', not 'network' (the lung network makes one for every "
            "image).",
        ),
        (
            "lungs: {implausible: drpo}\n",
            "s.yaml:5: lungs.implausible is 'drpo', but should be one of whole, drop, error (did you mean 'drop'?).",
        ),
        ("lungs: {weights: ''}\n", "s.yaml:5: lungs.weights is '', but should be at least 1 character long."),
        (
            'execution: {cache: "a\\0"}\n',
            "s.yaml:5: execution.cache is 'a\\x00', but should be a path: it holds a null byte.",
        ),
    ],
    ids=lambda value: value.replace("\n", " ")[:40],
)
def test_a_wrong_key_or_value_is_one_sentence_with_its_place_and_what_would_be_valid(message, more, expected):
    assert message(more) == expected


def test_the_smallest_study_is_the_smallest(message):
    assert message("", smallest="name: x\n") == "s.yaml: key 'cohort' is missing; see `cxrdist schema`."
    without_manifest = "name: x\ncohort:\n  classes: [a, b]\n"
    assert message("", smallest=without_manifest) == "s.yaml:2: key 'cohort.manifest' is missing; see `cxrdist schema`."


def test_each_fault_has_its_own_line(message):
    lines = message("training:\n  epochs: 0\n  batch_size: x\nfolds: {k: 1}\nsede: 3\n").splitlines()
    assert sorted(line.split(" ")[0] for line in lines) == ["s.yaml:6:", "s.yaml:7:", "s.yaml:8:", "s.yaml:9:"]
    assert any("did you mean 'seed'?" in line for line in lines)


@pytest.mark.parametrize("key", ["str", "int", "literal[x]", "constrained-int"])
def test_an_unknown_key_may_be_called_like_a_type(message, key):
    assert message(f"{key}: 5\n").startswith(f"s.yaml:5: unknown key {key!r}; ")


def test_a_value_of_any_size_is_shown_in_short(message):
    lists = ["k0: &k0 [x, x, x, x]"] + [f"k{n}: &k{n} [*k{n - 1}, *k{n - 1}, *k{n - 1}]" for n in range(1, 60)]
    more = "\n".join(lists) + f"\nseed: *k59\nmodel: {{weights: [{'x' * 9999}]}}\n"
    assert max(len(line) for line in message(more).splitlines()) < 300


def test_a_file_that_is_not_there_or_not_text_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"There is no study file .*absent\.yaml'; the papers' are in the folder jobs/"):
        load_study(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_study(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_study(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("setting", "parsed"),
    [
        ("training.epochs=5", ("training.epochs", 5)),
        ("variants.views=[whole, segmented]", ("variants.views", ["whole", "segmented"])),
        ("training={epochs: 2}", ("training", {"epochs": 2})),
        ("cohort.images=/a=b", ("cohort.images", "/a=b")),
        ("cohort.images=C: x: y", ("cohort.images", "C: x: y")),
        (" seed = 1e-3", ("seed", 1e-3)),
        ("tracking.wandb=off", ("tracking.wandb", "off")),
        ("execution.cache=", ("execution.cache", None)),
    ],
)
def test_a_setting_is_a_key_and_a_yaml_value(setting, parsed):
    assert parse_setting(setting) == parsed


@pytest.mark.parametrize("setting", ["training.epochs", "=5", " = 5", ""])
def test_a_setting_without_key_or_value_is_refused(setting):
    with pytest.raises(UserError, match=r"should be key=value, such as --set training\.epochs=5\.$"):
        parse_setting(setting)


def test_settings_change_keys_whether_their_section_is_there_or_not(study_file):
    study = load_study(
        study_file("training: {epochs: 3, batch_size: 8}\nfolds:\n"),
        settings=[
            "training.epochs=5",
            "model.dropout=0.1",
            "variants.models=[vgg16]",
            "training.epochs=6",
            "folds.k=4",
        ],
        overrides={"seed": 9, "execution.workers": None},
    )
    assert (study.training.epochs, study.training.batch_size) == (6, 8)
    assert (study.model.dropout, study.variants.models, study.folds.k) == (0.1, ["vgg16"], 4)
    assert (study.seed, study.execution.workers) == (9, "auto")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.epochs=x", "--set training.epochs=x: training.epochs is 'x', but should be a whole number."),
        ("training={epochs: x}", "--set training={epochs: x}: training.epochs is 'x', but should be a whole number."),
        ("seed.inner=1", "--set seed.inner=1: 'seed' holds a value, not keys."),
        ("cohort.classes.0=c", "--set cohort.classes.0=c: 'cohort.classes' holds a value, not keys."),
        ("training={1: 2}", "--set training={1: 2}:1: a key must be a word."),
        (
            "folds.protocol=holdout_batches",
            "s.yaml:5 with --set folds.protocol=holdout_batches: folds: protocol 'holdout_batches' divides images, "
            "so it needs group_by 'image', not 'group' ('kfold' and 'holdout_75_25' keep patients together).",
        ),
        (
            "cohort.manifest=~nobody-of-this-name/x",
            "--set cohort.manifest=~nobody-of-this-name/x: cohort.manifest is '~nobody-of-this-name/x', "
            "but should be a path: the system knows no user 'nobody-of-this-name'.",
        ),
    ],
)
def test_a_fault_of_a_setting_names_the_setting(message, setting, expected):
    assert message("folds: {k: 4}\nseed: 3\n", setting) == expected


def test_a_fault_of_the_file_is_not_blamed_on_a_setting_beside_it(message):
    assert message("training: {epoch: 5}\n", "training.epochs=7").startswith("s.yaml:5: unknown key 'training.epoch'")
    assert message("folds: {protocol: holdout_batches}\n", "training.epochs=7").startswith("s.yaml:5: folds: ")


def test_a_fault_of_an_option_names_the_option(study_file):
    with pytest.raises(UserError, match=r"^the option for execution\.workers: execution\.workers is 0, but should be"):
        load_study(study_file(), overrides={"execution.workers": 0})


def test_relative_paths_of_the_file_start_at_the_file(study_file, tmp_path, monkeypatch):
    path = study_file("model: {weights: w.pth}\nexecution: {cache: ../cache, node_cache: fast}\n")
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    study = load_study(Path("..") / path.name)
    assert study.cohort.manifest == str(tmp_path / "images.csv")
    assert study.manifest_path() == tmp_path / "images.csv"
    assert study.model.weights == str(tmp_path / "w.pth")
    assert study.execution.cache == str(tmp_path.parent / "cache")
    assert study.execution.node_cache == str(tmp_path / "fast")
    assert study.cohort.images is None


@pytest.mark.parametrize("setting", ["cohort.manifest=m.csv", "cohort={manifest: m.csv, classes: [a, b]}"])
def test_relative_paths_of_a_setting_start_at_the_working_folder(study_file, tmp_path, monkeypatch, setting):
    path = study_file()
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    assert load_study(path, settings=[setting]).cohort.manifest == str(tmp_path / "working" / "m.csv")


@pytest.mark.parametrize("weights", ["imagenet", "none"])
def test_the_names_of_weights_are_no_paths(study_file, weights):
    assert load_study(study_file(f"model: {{weights: {weights}}}\n")).model.weights == weights


def test_weights_of_the_lung_network_are_built_in_or_a_path_that_starts_at_the_file(study_file, tmp_path):
    assert load_study(study_file()).lungs.weights == "builtin"
    assert load_study(study_file("lungs: {weights: builtin}\n")).lungs.weights == "builtin"
    assert load_study(study_file("lungs: {weights: l.safetensors}\n")).lungs.weights == str(tmp_path / "l.safetensors")


def test_a_study_without_a_word_about_masks_makes_them_of_one_origin_and_loses_no_image(study_file):
    lungs = load_study(study_file()).lungs
    assert (lungs.masks, lungs.missing, lungs.implausible) == ("auto", "error", "whole")


def test_images_without_a_mask_file_may_be_dropped_where_masks_are_files(study_file):
    assert load_study(study_file("lungs: {masks: files, missing: drop}\n")).lungs.missing == "drop"


def test_masks_are_needed_for_every_view_but_the_whole(study_file):
    assert not load_study(study_file()).needs_masks
    assert load_study(study_file("variants: {views: [whole, segmented]}\n")).needs_masks


@pytest.mark.parametrize("view", ["segmented", "lung_box", "lungs_blanked"])
def test_each_view_of_the_lungs_needs_masks_by_itself(study_file, view):
    assert load_study(study_file(f"variants: {{views: [{view}]}}\n")).needs_masks


def test_the_schema_describes_every_key():
    schema = Study.model_json_schema()
    keys = dict(properties(schema, schema))
    assert "training.learning_rate" in keys
    for section in schema["$defs"].values():
        assert section["description"]
    assert [key for key, value in keys.items() if "$ref" not in value and not value.get("description")] == []


SECTION = st.builds(
    "{}: {}\n".format, st.sampled_from(sorted(Study.model_fields)), st.text("ab01[]{}:, .\n'\"", max_size=20)
)
SETTING = st.builds("{}={}".format, st.text("abk.", max_size=5) | st.just("folds.k"), st.text(max_size=5))


@given(st.text(max_size=30) | SECTION, st.lists(SETTING, max_size=2))
@example("str: 1", [])
@example("training: {epochs: {int: 1}}", [])
@example("cohort: &c {manifest: m, classes: [*c, a]}", ["=", "a..b=1"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arbitrary_text_in_a_study_is_a_study_or_a_user_error(tmp_path, more, options):
    path = tmp_path / "any.yaml"
    path.write_bytes((SMALLEST + more).encode("utf-8", "surrogatepass"))
    try:
        load_study(path, settings=options)
    except UserError as error:
        assert str(error)
