"""Lanes get what a cluster has, and what it has not is said in one sentence."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cxrdist.errors import UserError
from cxrdist.learn.memory import training_bytes
from cxrdist.run.lanes import Lanes, divide_resources
from cxrdist.run.ray_session import RaySession
from cxrdist.run.sweep_plan import Search
from cxrdist.run.sweep_tune import GPU_CONTEXT, GPU_MARGIN, MOST_ON_A_GPU, gpu_share, trial_bytes
from cxrdist.study.plan import Variant
from cxrdist.study.recipe import Network, Recipe
from cxrdist.study.search import Dimension, SearchRules


def divide(resources, *, workers=None, fewest=1, n_units=100, gpus_each=1.0, threads=None, **more):
    return divide_resources(
        resources, workers=workers, fewest=fewest, n_units=n_units, gpus_each=gpus_each, threads=threads, **more
    )


@pytest.mark.parametrize(
    ("resources", "asked", "lanes"),
    [
        ({"CPU": 1}, {}, Lanes(1, 1, 1, 1, 0.0)),
        ({"CPU": 2}, {}, Lanes(1, 2, 1, 1, 0.0)),
        ({"CPU": 64}, {}, Lanes(1, 16, 4, 4, 0.0)),
        ({"CPU": 64}, {"n_units": 5}, Lanes(1, 5, 12, 12, 0.0)),
        ({"CPU": 8}, {"threads": 4}, Lanes(1, 2, 4, 4, 0.0)),
        ({"CPU": 32, "GPU": 4}, {}, Lanes(1, 4, 8, 8, 1.0)),
        ({"CPU": 32, "GPU": 4}, {"gpus_each": 0.5, "fewest": 3}, Lanes(3, 8, 4, 4, 0.5)),
        ({"CPU": 32, "GPU": 4}, {"workers": 2}, Lanes(1, 2, 16, 16, 1.0)),
        ({"CPU": 4}, {"fewest": 3, "n_units": 2}, Lanes(2, 2, 2, 2, 0.0)),
        ({"CPU": 32, "GPU": 4}, {"device": "cpu"}, Lanes(1, 8, 4, 4, 0.0)),
        # A cluster that grows: what there is now, and room for as many as were asked for, or as there are units.
        ({"CPU": 32, "GPU": 4}, {"grows": True}, Lanes(1, 100, 8, 8, 1.0)),
        ({"CPU": 32, "GPU": 4}, {"grows": True, "workers": 12, "fewest": 6}, Lanes(4, 12, 8, 8, 1.0)),
        ({"CPU": 32, "GPU": 4}, {"grows": True, "n_units": 3}, Lanes(1, 3, 10, 10, 1.0)),
        ({"CPU": 4}, {"grows": True, "device": "gpu", "workers": 8}, Lanes(1, 8, 1, 1, 1.0)),
        # Lanes of several ranks, each of which gets what is said here.
        ({"CPU": 2}, {"ranks": 2}, Lanes(1, 1, 1, 1, 0.0)),
        ({"CPU": 64}, {"ranks": 3}, Lanes(1, 5, 4, 4, 0.0)),
        ({"CPU": 12}, {"ranks": 2, "threads": 2}, Lanes(1, 3, 2, 2, 0.0)),
        ({"CPU": 32, "GPU": 5}, {"ranks": 2}, Lanes(1, 2, 8, 8, 1.0)),
        ({"CPU": 32, "GPU": 8}, {"ranks": 2, "workers": 3}, Lanes(1, 3, 5, 5, 1.0)),
        ({"CPU": 32, "GPU": 5}, {"ranks": 2, "grows": True, "fewest": 4}, Lanes(2, 100, 8, 8, 1.0)),
        ({"CPU": 32, "GPU": 1}, {"ranks": 2, "grows": True, "device": "gpu", "workers": 4}, Lanes(1, 4, 1, 1, 1.0)),
    ],
)
def test_lanes_share_what_there_is(resources, asked, lanes):
    assert divide(resources, **asked) == lanes


@pytest.mark.parametrize("cpus", range(1, 70))
@pytest.mark.parametrize("gpus", [0, 1, 3, 8])
def test_lanes_never_ask_for_more_than_there_is(cpus, gpus):
    lanes = divide({"CPU": max(cpus, gpus), "GPU": gpus})
    assert 1 <= lanes.fewest <= lanes.most
    assert lanes.most * lanes.cpus <= max(cpus, gpus)
    assert lanes.most * lanes.gpus <= gpus


@given(st.integers(1, 70), st.integers(0, 9), st.integers(1, 40), st.integers(1, 70), st.booleans())
def test_threads_are_those_of_the_plan_whatever_is_left_and_however_few_cores_there_are(
    planned_cores, gpus, n_left, cores_now, grows
):
    planned = divide({"CPU": planned_cores + gpus, "GPU": gpus}, n_units=40).threads
    cores_now += gpus
    lanes = divide({"CPU": cores_now, "GPU": gpus}, n_units=n_left, threads=planned, keeps_threads=True, grows=grows)
    assert lanes.threads == planned
    assert 1 <= lanes.fewest <= lanes.most <= n_left
    assert grows or lanes.most * lanes.cpus <= cores_now
    assert lanes.cpus <= lanes.threads


@given(st.integers(1, 70), st.integers(0, 9), st.integers(1, 6), st.sampled_from([None, 1, 3]))
def test_ranks_never_ask_for_more_than_there_is(cores, gpus, ranks, threads):
    cores = max(cores, gpus)
    try:
        lanes = divide({"CPU": cores, "GPU": gpus}, ranks=ranks, threads=threads)
    except UserError:
        assert (
            ranks > (gpus or cores) or ranks * (threads or 1) > cores or gpus // ranks * ranks * (threads or 1) > cores
        )
        return
    assert 1 <= lanes.fewest <= lanes.most
    assert lanes.most * ranks * lanes.cpus <= cores
    assert lanes.most * ranks * lanes.gpus <= gpus


@pytest.mark.parametrize(
    ("resources", "asked", "sentence"),
    [
        ({"CPU": 8, "GPU": 2}, {"workers": 3}, "execution.workers is 3, but 2 GPUs carry 2"),
        ({"CPU": 2}, {"workers": 3}, "execution.workers is 3, but the cluster has 2 CPU cores"),
        ({"CPU": 4}, {"workers": 2, "threads": 3}, "execution.threads is 3 for each of 2 workers"),
        ({"CPU": 2, "GPU": 0}, {"threads": 4}, "execution.threads is 4"),
        ({"CPU": 2}, {"device": "gpu"}, "execution.device is 'gpu', but there is none"),
        ({"CPU": 2}, {"ranks": 3}, "training.gpus_per_fold is 3, but the cluster has 2 CPU cores"),
        ({"CPU": 8, "GPU": 1}, {"ranks": 2, "grows": True}, "training.gpus_per_fold is 2, but the cluster has 1 GPUs"),
        ({"CPU": 8, "GPU": 3}, {"ranks": 2, "workers": 2}, "3 GPUs carry 1 with .* and training.gpus_per_fold 2"),
        ({"CPU": 3}, {"ranks": 2, "workers": 2}, r"each worker needs 2 \(training.gpus_per_fold\)"),
        ({"CPU": 3}, {"ranks": 2, "threads": 2}, "for each of 1 workers and training.gpus_per_fold 2"),
    ],
)
def test_asking_for_more_is_refused(resources, asked, sentence):
    with pytest.raises(UserError, match=sentence):
        divide(resources, **asked)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere", "127.0.0.1:port"])
def test_an_address_where_no_cluster_answers_is_refused_at_once(address):
    with RaySession(address) as session, pytest.raises(UserError, match=f"'{address}'"):
        session.start()


@given(st.integers(1, 10**12), st.integers(1, 10**12))
@example(10**6, 80 * 10**9)
@example(79 * 10**9, 80 * 10**9)
def test_trials_share_a_gpu_only_as_far_as_they_fit_with_a_margin(needed, memory):
    trials = round(1 / gpu_share(needed, memory))
    each = GPU_MARGIN * needed + GPU_CONTEXT
    assert gpu_share(needed, memory) == 1 / trials
    assert 1 <= trials <= MOST_ON_A_GPU
    assert trials == 1 or trials * each <= memory
    assert trials == MOST_ON_A_GPU or (trials + 1) * each > memory, "one more would have fitted"


def search_of(network, *space):
    rules = SearchRules(space=space, folds=3, larger_is_better=True, lag=4, seed=0)
    return Search(
        Variant("whole", network.model), 0, False, rules, "val_auc", 8, network, Recipe(10, 16, 1e-3), 0, 3, "f"
    )


RATE = Dimension("learning_rate", low=1e-5, high=1e-2, log=True)
BATCHES = Dimension("batch_size", choices=(8, 64, 16), whole=True)
TUNED = Network("resnet34", 3, 64)


def test_a_trial_takes_as_much_as_the_largest_batch_of_the_space():
    assert trial_bytes(search_of(TUNED, RATE), 100) == training_bytes(TUNED, 16) + 64**2 * 100
    assert trial_bytes(search_of(TUNED, RATE, BATCHES), 100) == training_bytes(TUNED, 64) + 64**2 * 100
    to_32 = Dimension("batch_size", low=2, high=32, whole=True)
    assert trial_bytes(search_of(TUNED, to_32), 100) == training_bytes(TUNED, 32) + 64**2 * 100


@pytest.mark.parametrize(
    ("network", "values"),
    [
        (replace(TUNED, transfer="frozen"), 512),
        (Network("vgg16", 3, 64, "frozen", vgg_hidden=8), 512 * 2 * 2),
        (Network("vgg16", 3, 64, "frozen", vgg_hidden=8, vgg_head="average_pool"), 512),
    ],
)
def test_of_a_frozen_trunk_a_trial_holds_the_features_of_its_images(network, values):
    own = search_of(network, RATE)
    assert trial_bytes(own, 100) - trial_bytes(own, 0) == 4 * values * 100
