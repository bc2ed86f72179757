"""Lanes get what a cluster has, and what it has not is said in one sentence."""

import pytest

from cxrdist.errors import UserError
from cxrdist.run.ray_executor import Lanes, divide_resources
from cxrdist.run.ray_session import RaySession


def divide(resources, *, workers=None, fewest=1, n_units=100, gpus_each=1.0, threads=None, **more):
    return divide_resources(
        resources, workers=workers, fewest=fewest, n_units=n_units, gpus_each=gpus_each, threads=threads, **more
    )


@pytest.mark.parametrize(
    ("resources", "asked", "lanes"),
    [
        ({"CPU": 1}, {}, Lanes(1, 1, 1, 0.0)),
        ({"CPU": 2}, {}, Lanes(1, 2, 1, 0.0)),
        ({"CPU": 64}, {}, Lanes(1, 16, 4, 0.0)),
        ({"CPU": 64}, {"n_units": 5}, Lanes(1, 5, 12, 0.0)),
        ({"CPU": 8}, {"threads": 4}, Lanes(1, 2, 4, 0.0)),
        ({"CPU": 32, "GPU": 4}, {}, Lanes(1, 4, 8, 1.0)),
        ({"CPU": 32, "GPU": 4}, {"gpus_each": 0.5, "fewest": 3}, Lanes(3, 8, 4, 0.5)),
        ({"CPU": 32, "GPU": 4}, {"workers": 2}, Lanes(1, 2, 16, 1.0)),
        ({"CPU": 4}, {"fewest": 3, "n_units": 2}, Lanes(2, 2, 2, 0.0)),
        ({"CPU": 32, "GPU": 4}, {"device": "cpu"}, Lanes(1, 8, 4, 0.0)),
        # A cluster that grows: what there is now, and room for as many as were asked for, or as there are units.
        ({"CPU": 32, "GPU": 4}, {"grows": True}, Lanes(1, 100, 8, 1.0)),
        ({"CPU": 32, "GPU": 4}, {"grows": True, "workers": 12, "fewest": 6}, Lanes(4, 12, 8, 1.0)),
        ({"CPU": 32, "GPU": 4}, {"grows": True, "n_units": 3}, Lanes(1, 3, 10, 1.0)),
        ({"CPU": 4}, {"grows": True, "device": "gpu", "workers": 8}, Lanes(1, 8, 1, 1.0)),
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


@pytest.mark.parametrize(
    ("resources", "asked", "sentence"),
    [
        ({"CPU": 8, "GPU": 2}, {"workers": 3}, "execution.workers is 3, but 2 GPUs carry 2"),
        ({"CPU": 2}, {"workers": 3}, "execution.workers is 3, but the cluster has 2 CPU cores"),
        ({"CPU": 4}, {"workers": 2, "threads": 3}, "execution.threads is 3 for each of 2 workers"),
        ({"CPU": 2, "GPU": 0}, {"threads": 4}, "execution.threads is 4"),
        ({"CPU": 2}, {"device": "gpu"}, "execution.device is 'gpu', but there is none"),
    ],
)
def test_asking_for_more_is_refused(resources, asked, sentence):
    with pytest.raises(UserError, match=sentence):
        divide(resources, **asked)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nowhere", "127.0.0.1:port"])
def test_an_address_where_no_cluster_answers_is_refused_at_once(address):
    with RaySession(address) as session, pytest.raises(UserError, match=f"'{address}'"):
        session.start()
