"""Training: a plain loop's numbers, the same bytes after any interruption, and divergence said aloud."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from cxrdist.learn.checkpoint import load_progress, save_progress
from cxrdist.learn.models import build_head
from cxrdist.learn.train import DivergedError, Epoch, evaluate, fit, precision_context, predict, split_batches
from cxrdist.study.recipe import Network
from cxrdist.study.seeds import derive_seed
from tests.unit.learn_examples import CPU, Table, recipe, tiny_data, tiny_network

pytestmark = pytest.mark.usefixtures("one_thread")

TRAINING, VALIDATION = torch.arange(13), torch.arange(13, 21)


def train(network, plan, stream=("whole-tiny", 0), data=None, **options):
    inputs, labels = data or tiny_data()
    return fit(network, Table(inputs), labels, TRAINING, VALIDATION, plan, seed=5, stream=stream, device=CPU, **options)


def bytes_of(network):
    return {key: value.detach().contiguous().numpy().tobytes() for key, value in network.state_dict().items()}


def measures(history):
    return [replace(epoch, seconds=0.0) for epoch in history]


class StopError(Exception):
    pass


@pytest.mark.parametrize("n", range(1, 12))
@pytest.mark.parametrize("batch_size", [2, 3, 4])
def test_batches_hold_every_row_in_order_and_never_one_alone(n, batch_size):
    batches = list(split_batches(torch.arange(n), batch_size))
    assert torch.cat(batches).tolist() == list(range(n))
    assert all(2 <= len(batch) <= batch_size + 1 for batch in batches) or n == 1


def vgg_head():
    network = Network("vgg16", 3, 32, vgg_hidden=8, dropout=0.5)
    return build_head(network, seed=1, fold=0)


@pytest.mark.parametrize("selection", ["last", "best_validation_loss"])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: tiny_network(dropout=0.5), (3, 8, 8)), (vgg_head, (512, 1, 1))],
    ids=["conv", "vgg-head"],
)
def test_training_interrupted_after_any_epoch_continues_to_the_same_bytes(tmp_path, make, shape, selection):
    inputs = torch.randn(21, *shape, generator=torch.Generator().manual_seed(3))
    data = (inputs.to(memory_format=torch.channels_last), torch.arange(21) % 3)
    plan = recipe(epochs=4, selection=selection, learning_rate=5e-2)
    whole = make()
    history = train(whole, plan, data=data)
    for last in range(1, plan.epochs + 1):
        path = tmp_path / f"{last}.safetensors"

        def stop(epoch, snapshot, last=last, path=path):
            if epoch.epoch == last:
                save_progress(path, snapshot(), "f")
                raise StopError

        with pytest.raises(StopError):
            train(make(), plan, data=data, on_epoch=stop)
        torch.manual_seed(last)
        continued = make()
        with torch.no_grad():
            continued[-1].weight.zero_()
        resumed = train(continued, plan, data=data, progress=load_progress(path, "f", Epoch))
        assert measures(resumed) == measures(history)
        assert bytes_of(continued) == bytes_of(whole)
        assert torch.equal(*(predict(net, Table(data[0]), VALIDATION, plan, CPU) for net in (continued, whole)))


class Recorder(Table):
    def __init__(self, values):
        super().__init__(values)
        self.batches = []

    def batch(self, rows):
        self.batches.append(rows.tolist())
        return super().batch(rows)


def batches_seen(stream, *, dropout=0.0):
    inputs, labels = tiny_data()
    source = Recorder(inputs)
    torch.manual_seed(hash(stream) % 1000)
    fit(tiny_network(dropout), source, labels, TRAINING, VALIDATION, recipe(), seed=5, stream=stream, device=CPU)
    return source.batches


def test_two_variants_of_one_fold_see_the_same_batches_and_two_folds_or_epochs_do_not():
    first = batches_seen(("whole-tiny", 0))
    assert batches_seen(("segmented-tiny", 0), dropout=0.5) == first
    assert batches_seen(("whole-tiny", 1)) != first
    # 13 rows are batches of 4, 4 and 5, and then one of validation.
    epochs = [first[start : start + 3] for start in (0, 4, 8)]
    assert all(sorted(row for batch in epoch for row in batch) == TRAINING.tolist() for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert first[3] == VALIDATION.tolist()


def test_losses_and_accuracies_are_those_of_a_plain_loop():
    inputs, labels = tiny_data()
    plan = recipe(epochs=2, weight_decay=0.01)
    network, reference = tiny_network(), tiny_network()
    history = train(network, plan)
    optimizer = torch.optim.Adam(reference.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    for number, epoch in enumerate(history, 1):
        generator = torch.Generator().manual_seed(derive_seed(5, "order", 0, number))
        order = TRAINING[torch.randperm(13, generator=generator)]
        reference.train()
        losses, right = [], 0
        for rows in (order[:4], order[4:8], order[8:]):
            logits = reference(inputs[rows])
            each = nn.functional.cross_entropy(logits, labels[rows], reduction="none")
            optimizer.zero_grad()
            each.mean().backward()
            optimizer.step()
            losses += each.tolist()
            right += int((logits.argmax(1) == labels[rows]).sum())
        assert epoch.epoch == number
        assert epoch.train_loss == pytest.approx(sum(losses) / 13, rel=1e-5)
        assert epoch.train_accuracy == right / 13
        reference.eval()
        probabilities = reference(inputs[VALIDATION]).detach().double().softmax(1).numpy()
        truth = labels[VALIDATION].numpy()
        assert epoch.validation_loss == pytest.approx(log_loss(truth, probabilities, labels=[0, 1, 2]), rel=1e-5)
        assert epoch.validation_accuracy == accuracy_score(truth, probabilities.argmax(1))
    for ours, theirs in zip(network.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_evaluation_and_prediction_agree_with_scikit_learn_over_several_batches():
    inputs, labels = tiny_data(150)
    rows = torch.randperm(150, generator=torch.Generator().manual_seed(0))[:140]
    network = tiny_network(dropout=0.9)
    held = evaluate(network, Table(inputs), labels, rows, recipe(), CPU)
    probabilities = predict(network, Table(inputs), rows, recipe(), CPU)
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(held.probabilities, probabilities)
    assert held.loss == pytest.approx(log_loss(labels[rows], probabilities.numpy(), labels=[0, 1, 2]), rel=1e-6)
    assert held.accuracy == accuracy_score(labels[rows], probabilities.argmax(1))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_predictions_are_probabilities_and_do_not_depend_on_the_training_batch(precision):
    inputs, _ = tiny_data(70)
    small, large = (
        predict(tiny_network(), Table(inputs), torch.arange(70), recipe(batch_size=n, precision=precision), CPU)
        for n in (2, 64)
    )
    assert torch.equal(small, large)
    assert (small >= 0).all()
    np.testing.assert_allclose(small.sum(1), 1, atol=1e-12)


def test_half_precision_is_used_where_it_was_asked_for_and_not_by_itself_on_a_cpu():
    kinds = {}
    for precision in ("auto", "fp32", "bf16"):
        with precision_context(recipe(precision=precision), CPU):
            kinds[precision] = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert kinds == {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}


# The one overfits from the first epoch on; the other wanders and comes upon its best late.
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_best_epochs_model_is_the_one_that_is_left(rate):
    best, shorter = tiny_network(), tiny_network()
    history = train(best, recipe(epochs=8, learning_rate=rate, selection="best_validation_loss"))
    losses = [epoch.validation_loss for epoch in history]
    train(shorter, recipe(epochs=1 + losses.index(min(losses)), learning_rate=rate))
    assert bytes_of(best) == bytes_of(shorter)
    inputs, labels = tiny_data()
    assert evaluate(best, Table(inputs), labels, VALIDATION, recipe(), CPU).loss == min(losses)


def test_parameters_that_are_frozen_stay_as_they_are():
    network = tiny_network()
    network[0].requires_grad_(requires_grad=False)
    before = network[0].weight.clone()
    train(network, recipe())
    assert torch.equal(network[0].weight, before)
    assert not torch.equal(network[-1].weight, tiny_network()[-1].weight)


@pytest.mark.parametrize("cause", ["learning rate", "input"])
def test_a_loss_that_is_no_number_ends_training_with_the_epoch(cause):
    inputs, labels = tiny_data()
    rate = 1e30 if cause == "learning rate" else 1e-3
    if cause == "input":
        inputs[3] = torch.nan
    told = []
    with pytest.raises(DivergedError, match=r"^the loss was not a finite number in epoch \d+ .*a lower learning rate"):
        train(
            tiny_network(),
            recipe(learning_rate=rate, epochs=30),
            data=(inputs, labels),
            on_epoch=lambda epoch, _: told.append(epoch),
        )
    assert not any(epoch.diverged for epoch in told)


def test_training_leaves_nothing_of_the_validation_labels_in_the_weights():
    inputs, labels = tiny_data()
    poisoned = labels.clone()
    poisoned[VALIDATION] = 2 - poisoned[VALIDATION]
    networks = tiny_network(), tiny_network()
    for network, truth in zip(networks, (labels, poisoned), strict=True):
        train(network, recipe(), data=(inputs, truth))
    assert bytes_of(networks[0]) == bytes_of(networks[1])
