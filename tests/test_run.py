"""A run within one process; what only the command line or several processes show is in
test_training.py."""

import functools
import io
import itertools
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bn_helpers import data, records
from bn_helpers.data.image_files import Files
from bn_helpers.training import run
from bn_helpers.training.augment import Normalizer
from bn_helpers.training.command_line import write_record
from bn_helpers.training.recipes import BASE_LR, RECIPES, Recipe, RunError, Settings


@functools.cache
def digits(size=None):
    return data.load("digits", dtype="uint8", size=size)


def settings(name="bn-baseline", steps=12, **changes):
    """BN-Baseline has everything that has a state: momentum, Dropout, BN's buffers, all chance."""
    chosen = {"recipe": RECIPES[name], "every": 5, "width": 0.25}
    return Settings(steps=steps, **chosen | changes)


SHUFFLED = settings("speed", steps=6, every=4, width=0.05)  # nesterov, smoothing, a plain network
SHUFFLED = replace(SHUFFLED, recipe=replace(SHUFFLED.recipe, batch_size=64))


def same(one, two):
    """Whether two results are bitwise the same."""
    assert one.curve == two.curve
    assert (one.status, one.diverged_at) == (two.status, two.diverged_at)
    assert one.test_accuracy == two.test_accuracy
    if one.probabilities is not None:
        assert torch.equal(one.probabilities, two.probabilities)
    return True


@functools.cache
def uninterrupted(chosen):
    return run.train(chosen, digits())


def checkpoint(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


# --- what a run computes ---------------------------------------------------------------------


@given(
    batch_size=st.integers(1, 7),
    per_epoch=st.integers(1, 6),
    left_over=st.integers(0, 6),
    epochs=st.integers(2, 4),
    start=st.integers(0, 12),
    shuffle=st.booleans(),
)
def test_the_order_of_batches(batch_size, per_epoch, left_over, epochs, start, shuffle):
    """Catches drawing with replacement, one order for all epochs, and a start anew when resumed."""
    index = 100 + np.arange(batch_size * per_epoch + left_over % batch_size)
    steps = per_epoch * epochs
    order = functools.partial(run.batch_order, index, batch_size, 3, shuffle=shuffle)
    batches = list(order(steps=steps))
    assert len(batches) == steps
    as_sets = []
    for epoch in range(epochs):
        part = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert {len(batch) for batch in part} == {batch_size}
        together = np.concatenate(part)
        assert len(set(together)) == len(together)
        assert set(together) <= set(index)
        as_sets.append({tuple(batch) for batch in part})
    if not shuffle:
        assert all(found == as_sets[0] for found in as_sets)
    start = min(start, steps - 1)
    np.testing.assert_array_equal(list(order(steps=steps, start=start)), batches[start:])


def test_with_shuffling_the_examples_of_a_batch_change_and_without_only_its_place():
    order = functools.partial(run.batch_order, np.arange(60), 3, steps=40)
    for shuffle in (True, False):
        first, second = np.split(np.array(list(order(5, shuffle=shuffle))), 2)
        assert (first != second).any()
        common = {tuple(sorted(batch)) for batch in first} & {tuple(sorted(b)) for b in second}
        assert len(common) < 3 if shuffle else len(common) == 20
        other, _ = np.split(np.array(list(order(6, shuffle=shuffle))), 2)
        assert (first != other).any()


def test_the_loop_is_the_recipe():
    """SGD written out: Nesterov's momentum, decay of weights only, halved rates, smoothed labels.

    In float32, over six steps: to 1e-4 of probabilities.
    """
    recipe = SHUFFLED.recipe
    train, test = digits().train, digits().test
    number = len(train.labels)
    mixed = np.random.default_rng(0).permutation(number)
    index = np.sort(mixed[number // 10 :])
    x = train.images[index] / 255
    normalizer = Normalizer([x.mean()], [x.std()], 8, pad=1, flip=True)
    model = run.build(SHUFFLED, digits(), 8)
    chance = torch.Generator().manual_seed(0)
    buffers = [torch.zeros_like(p) for p in model.parameters()]
    order = run.batch_order(index, recipe.batch_size, 0, shuffle=True, steps=SHUFFLED.steps)
    losses = []
    for step, batch in enumerate(order):
        outputs = model(normalizer.random(torch.from_numpy(train.images[batch]), chance))
        log_p = outputs.log_softmax(1)
        label = log_p[torch.arange(len(batch)), torch.from_numpy(train.labels[batch])]
        loss = -(0.9 * label + 0.1 * log_p.mean(1)).mean()
        losses.append(loss.item())
        lr = 4 * BASE_LR["plain"] * 0.5 ** (8 * step / SHUFFLED.steps)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, gradient, buffer in zip(model.parameters(), gradients, buffers, strict=True):
                gradient = gradient + (5e-4 * p if p.dim() > 1 else 0)
                buffer.mul_(0.9).add_(gradient)
                p -= lr * (gradient + 0.9 * buffer)
    model.eval()
    result = uninterrupted(SHUFFLED)
    found = model(normalizer.plain(torch.from_numpy(test.images))).softmax(1).detach()
    torch.testing.assert_close(result.probabilities, found, rtol=0, atol=1e-4)
    assert result.test_accuracy == (result.probabilities.argmax(1).numpy() == test.labels).mean()
    held_out = np.sort(mixed[: number // 10])
    images_, labels = torch.from_numpy(train.images[held_out]), train.labels[held_out]
    accuracy = (model(normalizer.plain(images_)).argmax(1).numpy() == labels).mean()
    assert [step for step, _, _ in result.curve] == [4, 6]
    assert [loss for _, loss, _ in result.curve] == pytest.approx(
        [np.mean(losses[:4]), np.mean(losses[4:])], abs=1e-4
    )
    assert result.curve[-1][2] == pytest.approx(accuracy, abs=0.008)  # one image
    assert result.held_out_accuracy == pytest.approx(accuracy, abs=0.008)
    shown = np.sort(mixed[number // 10 :])
    images_, labels = torch.from_numpy(train.images[shown]), train.labels[shown]
    accuracy = (model(normalizer.plain(images_)).argmax(1).numpy() == labels).mean()
    assert result.train_accuracy == pytest.approx(accuracy, abs=0.002)


def test_a_curve_may_look_at_fewer_images():
    """Every seventh of the 143 held out: the last look is no longer the held-out accuracy."""
    whole, few = uninterrupted(settings()), run.train(settings(look_at=20), digits())
    assert torch.equal(whole.probabilities, few.probabilities)
    assert whole.curve[-1][2] == round(whole.held_out_accuracy, 5)
    assert few.held_out_accuracy == whole.held_out_accuracy
    found = [21 * row[2] for row in few.curve]
    assert found == pytest.approx(np.round(found), abs=1e-3)


def test_neither_evaluations_nor_checkpoints_change_what_is_trained(tmp_path):
    """Nor the global random states. Catches eval() that stays, and chance drawn on the way."""
    chosen = settings()
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    plain = uninterrupted(chosen)
    for every, save_every in ((1, 1), (12, 5), (3, 12)):
        folder = tmp_path / str(every)
        folder.mkdir()
        other = run.train(
            replace(chosen, every=every), digits(), folder=folder, save_every=save_every
        )
        assert torch.equal(other.probabilities, plain.probabilities)
        assert [step for step, _, _ in other.curve] == [*range(every, 13, every)]
        assert [file.name for file in folder.iterdir()] == ["checkpoint.pt"]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_the_seed_alone_decides():
    assert same(run.train(settings(), digits()), uninterrupted(settings()))
    other = run.train(settings(seed=1), digits())
    assert not torch.equal(other.probabilities, uninterrupted(settings()).probabilities)


def test_held_out_images_are_not_trained_on(monkeypatch):
    seen = []
    real = run.batch_order
    monkeypatch.setattr(
        run, "batch_order", lambda index, *a, **k: (seen.append(index), real(index, *a, **k))[1]
    )
    _, held_out = run.divide(settings(train_on=100), 1437)
    run.train(settings(train_on=100, steps=1), digits())
    assert len(seen[0]) == 100
    assert not set(seen[0]) & set(held_out)
    assert len(held_out) == 143
    run.train(settings(held_out=7, steps=1), digits())
    assert len(seen[1]) == 1437 - 7


@given(seed=st.integers(0, 99), channels=st.sampled_from((1, 3)), number=st.integers(1, 1100))
def test_moments_are_numpys(seed, channels, number):
    """Catches a part that is left out, a channel for another, and values that wrap around."""
    rng = np.random.default_rng(seed)
    pixels = (
        rng.integers(0, 256, (1100, channels, 2, 3)) // (1 + np.arange(channels))[:, None, None]
    )
    pixels, index = pixels.astype(np.uint8), rng.permutation(1100)[:number]
    mean, std = run.moments(pixels, index, 0)
    some = pixels[index] / 255
    np.testing.assert_allclose(mean, some.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, some.std((0, 2, 3)), rtol=1e-12)


def test_half_precision_and_the_compiled_network(monkeypatch, tmp_path):
    """bfloat16 has 8 bits; torch.compile's tracing alone, without a compiler, changes nothing."""
    half = run.train(settings(precision="bfloat16", steps=6), digits())
    full = run.train(settings(steps=6), digits())
    assert half.probabilities.dtype == torch.float32
    torch.testing.assert_close(half.probabilities, full.probabilities, rtol=0, atol=0.1)
    assert not torch.equal(half.probabilities, full.probabilities)
    traced = []
    real = torch.compile
    monkeypatch.setattr(
        run.torch, "compile", lambda m: (traced.append(m), real(m, backend="eager"))[1]
    )
    compiled = replace(SHUFFLED, compile=True)
    assert same(run.train(compiled, digits(), folder=tmp_path), uninterrupted(SHUFFLED))
    assert len(traced) == 1
    assert set(checkpoint(tmp_path)["model"]) == set(run.build(compiled, digits(), 8).state_dict())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of colour images of 12×12 and some."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, number in (("train", 20), ("test", 5)):
        for label in range(3):
            where = root / part / f"class {label}"
            where.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(40 * label, 120 + 40 * label, (14, 12 + i % 3, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(where / f"{i}.png")
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_do_not_fit_into_memory_give_the_same_curve(folder, workers, tmp_path):
    """Also when resumed; at a size that crops. Catches batches ahead of their labels."""
    chosen = settings(size=8, steps=7)
    chosen = replace(chosen, recipe=replace(chosen.recipe, batch_size=9))
    inside, outside = (data.load(folder, dtype="uint8", size=12, in_memory=m) for m in (2**31, 0))
    assert isinstance(inside.train.images, np.ndarray)
    assert isinstance(outside.train.images, Files)
    whole = run.train(chosen, inside)
    assert same(run.train(chosen, outside, workers=workers), whole)
    there = {"folder": tmp_path, "workers": workers}
    paused = run.train(chosen, outside, **there, stop=lambda step: step == 3)
    assert paused.status == "paused"
    assert same(run.train(chosen, outside, **there, resume=True), whole)


# --- checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", [settings(), SHUFFLED], ids=["small", "plain"])
def test_a_run_that_is_stopped_after_each_step_goes_on_bitwise(chosen, tmp_path):
    """Momentum, BN's buffers, Dropout, crops, order, losses since the last row, the curve."""
    for step in range(1, chosen.steps + 1):
        result = run.train(
            chosen, digits(), folder=tmp_path, resume=True, save_every=1000, stop=lambda step: True
        )
        assert checkpoint(tmp_path)["step"] == step
        assert result.status == ("finished" if step == chosen.steps else "paused")
    assert same(result, uninterrupted(chosen))
    again = run.train(chosen, digits(), folder=tmp_path, resume=True)
    assert same(again, result)
    assert again.seconds >= checkpoint(tmp_path)["seconds"] > 0


@pytest.fixture(scope="module")
def paused(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paused")
    run.train(settings(), digits(), folder=folder, stop=lambda step: step == 7)
    return (folder / "checkpoint.pt").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "seed = 0, not 1"),
        ({"lr": 0.1}, "lr = None, not 0.1"),
        ({"steps": 13}, "steps = 12, not 13"),
        ({"recipe": replace(RECIPES["bn-baseline"], dropout=0.3)}, "dropout = 0.4, not 0.3"),
        ({"recipe": replace(RECIPES["bn-baseline"], init=0.01)}, "init = he, not 0.01"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(changes, message, paused, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(paused)
    with pytest.raises(RunError, match=message):
        run.train(replace(settings(), **changes), digits(), folder=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.pt").read_bytes() == paused


def test_a_checkpoint_of_another_run_is_refused(paused, tmp_path, monkeypatch):
    """Other images, another base rate, other fields in an older or a newer version."""
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(paused)

    def refused(message, **changes):
        with pytest.raises(RunError, match=message):
            run.train(settings(), replace(digits(), **changes), folder=tmp_path, resume=True)

    refused("data = ", sha256="other")
    monkeypatch.setitem(BASE_LR, "small", 2 * BASE_LR["small"])
    refused("learning rate")
    monkeypatch.undo()
    content = checkpoint(tmp_path)
    torch.save(content | {"processes": 2 * content["processes"]}, file)
    refused("processes = 2, not 1")
    torch.save(content | {"settings": content["settings"] | {"mixup": 0.1}}, file)
    refused("mixup = 0.1, not None")
    torch.save(content | {"settings": {**content["settings"], "seed": None}}, file)
    refused("seed = None")


def test_words_may_change(paused, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(paused)
    described = replace(settings(), recipe=replace(RECIPES["bn-baseline"], about="otherwise"))
    result = run.train(described, digits(), folder=tmp_path, resume=True)
    assert same(result, uninterrupted(settings()))


class Evil:
    def __reduce__(self):
        return pytest.fail, ("a checkpoint ran code",)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flip", "code", "other"])
def test_a_damaged_checkpoint_is_refused_in_one_line_and_kept(damage, paused, tmp_path):
    file = tmp_path / "checkpoint.pt"
    weights = torch.load(io.BytesIO(paused), weights_only=True)["model"]["classifier.weight"]
    middle = paused.index(weights.numpy().tobytes()) + 5
    contents = {
        "cut": [paused[:-1], paused[: len(paused) // 2]],
        "empty": [b""],
        "text": [b"weights"],
        "flip": [paused[:middle] + bytes([paused[middle] ^ 1]) + paused[middle + 1 :]],
        "code": [pickle.dumps(Evil())],
        "other": [],
    }[damage]
    if damage in ("code", "other"):  # in torch's own form too
        torch.save({"settings": Evil()} if damage == "code" else {"a": torch.ones(2)}, file)
        contents.append(file.read_bytes())
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(RunError, match=r"checkpoint\.pt is no checkpoint") as caught:
            run.train(settings(), digits(), folder=tmp_path, resume=True)
        assert "\n" not in str(caught.value)
        assert file.read_bytes() == content


def test_without_a_checkpoint_a_resumed_run_starts_anew(tmp_path):
    (tmp_path / "checkpoint.part").write_bytes(b"half of one")
    result = run.train(settings(), digits(), folder=tmp_path, resume=True)
    assert same(result, uninterrupted(settings()))


# --- runs that diverge -----------------------------------------------------------------------


def with_losses(monkeypatch, values):
    """Let the losses of some steps (from 1) be other values."""
    steps = itertools.count(1)
    real = F.cross_entropy

    def loss(*args, **kwargs):
        found = real(*args, **kwargs)
        step = next(steps)
        return found * 0 + values[step] if step in values else found

    monkeypatch.setattr(run.F, "cross_entropy", loss)


@pytest.mark.parametrize(
    ("values", "at", "rows"),
    [
        ({7: torch.nan}, 7, [5]),
        ({10: torch.inf}, 10, [5]),
        ({1: torch.inf, 2: torch.nan}, 1, []),
        ({7: 3e38, 9: 3e38}, 9, [5]),  # each finite, but not their mean
    ],
)
def test_the_first_step_without_a_finite_loss_is_reported(values, at, rows, monkeypatch, tmp_path):
    with_losses(monkeypatch, values)
    result = run.train(settings(), digits(), folder=tmp_path, save_every=2)
    assert (result.status, result.diverged_at) == ("diverged", at)
    assert [step for step, _, _ in result.curve] == rows
    assert (result.test_accuracy, result.probabilities) == (None, None)
    assert result.curve == uninterrupted(settings()).curve[: len(rows)]


def test_weights_that_overflow_in_the_last_step_are_a_divergence():
    """Its loss was that of the weights before."""
    result = run.train(settings("inception-x5", lr=1e30, steps=1, every=1), digits())
    assert (result.status, result.diverged_at, len(result.curve)) == ("diverged", 1, 1)


def test_a_learning_rate_far_too_high_diverges_and_again_when_resumed(tmp_path):
    chosen = settings("inception-x5", lr=1e6, steps=9, every=9)
    whole = run.train(chosen, digits(), folder=tmp_path, save_every=4)
    assert (whole.status, whole.curve) == ("diverged", [])
    assert whole.diverged_at < 4
    assert checkpoint(tmp_path)["step"] == 8
    assert same(run.train(chosen, digits(), folder=tmp_path, resume=True), whole)


# --- what is refused, what is reported -------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps of at least 1, got 0"),
        ({"every": 0}, "every of at least 1"),
        ({"size": 0}, "image size of at least 1"),
        ({"recipe": Recipe("", batch_size=0)}, "batch size of at least 1"),
        ({"lr": 0.0}, "learning rate above 0"),
        ({"lr": float("nan")}, "finite learning rate above 0, got nan"),
        ({"width": float("inf")}, "finite width above 0"),
        ({"seed": -1}, "seed from 0"),
        ({"seed": 2**32}, "seed from 0"),
        ({"precision": "float16"}, "float32 or bfloat16, got 'float16'"),
    ],
)
def test_numbers_that_no_run_can_have_are_refused(changes, message):
    with pytest.raises(RunError, match=message):
        settings(**changes)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"train_on": 31}, {}, "at least 32 training images for a batch, got 31"),
        ({"sync_bn": True}, {}, "several processes"),
        ({"recipe": replace(RECIPES["bn-x5"], model="inception")}, {}, "colour images"),
        ({"size": 9}, {}, "8×8, got 9"),
        ({"size": 3}, {}, "from 4 to .* got 3"),
        ({"recipe": RECIPES["speed"], "size": 7}, {}, "from 8 to .* got 7"),
        ({}, {"save_every": 0}, "at least 1 step between checkpoints"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(changes, options, message):
    with pytest.raises(RunError, match=message):
        run.train(settings(**changes), digits(), **options)


def test_oblong_images_are_refused():
    oblong = data.Split(np.zeros((50, 1, 8, 9), np.uint8), np.zeros(50, np.int64))
    with pytest.raises(RunError, match="square images, got 8×9; give --image-size"):
        run.train(settings(), replace(digits(), train=oblong))


class Progress:
    """What a progress bar is told."""

    def __init__(self):
        self.n = self.initial = 0
        self.rows = []

    def update(self):
        self.n += 1

    def write(self, row):
        self.rows.append(row)


def test_each_evaluation_is_a_row_with_the_loss_and_the_next_rate(tmp_path):
    chosen, bar = settings(), Progress()
    result = run.train(chosen, digits(), folder=tmp_path, progress=bar)
    assert bar.n == 12
    for (step, loss, accuracy), row in zip(result.curve, bar.rows, strict=True):
        words = row.split()
        assert int(words[0]) == step
        assert float(words[1]) == pytest.approx(chosen.lr_at(step), rel=0.05)
        assert float(words[2]) == pytest.approx(loss, rel=1e-4)
        assert float(words[3][:-1]) == pytest.approx(100 * accuracy, abs=0.006)
    again = Progress()
    run.train(chosen, digits(), folder=tmp_path, progress=again, resume=True)
    assert (again.initial, again.n) == (12, 12)
    assert "finished" in again.rows[0]


@pytest.mark.parametrize("width", [2, 3])  # a row is [step, accuracy] or [step, loss, accuracy]
def test_steps_to_an_accuracy_are_those_of_the_first_row_that_has_it(width):
    rows = [[10, 2.0, 0.1], [20, 1.5, 0.5], [30, 1.2, 0.4], [40, 1.1, 0.5]]
    curve = [[row[0], *row[4 - width :]] for row in rows]
    assert run.best_accuracy(curve) == 0.5
    assert [run.steps_to(curve, a) for a in (0.0, 0.1, 0.3, 0.5, 0.6)] == [
        10,
        10,
        20,
        20,
        np.inf,
    ]
    assert (run.best_accuracy([]), run.steps_to([], 0.0)) == (0.0, np.inf)


def test_a_record_keeps_the_run(tmp_path):
    chosen, result = settings(), uninterrupted(settings())
    file = write_record(
        chosen,
        result,
        name="run",
        command="python -m bn_helpers.training",
        dataset=digits(),
        device="cpu",
        where=tmp_path,
    )
    record = records.read("run", tmp_path)
    assert file == tmp_path / "run.json"
    assert record["results"][0]["curve"] == result.curve
    assert record["results"][0]["test_accuracy"] == result.test_accuracy
    assert record["config"]["recipe"]["momentum"] == chosen.recipe.momentum
    assert record["config"]["processes"] == 1
    assert record["data"] == {"digits": digits().sha256}
    assert record["seeds"] == [0]


def test_a_corrupt_image_on_the_way_loses_nothing(folder, tmp_path, monkeypatch):
    """Images that are decoded when they are used: step 4 meets one that is not whole."""
    chosen = settings(size=8, steps=8)
    chosen = replace(chosen, recipe=replace(chosen.recipe, batch_size=9))
    outside = data.load(folder, dtype="uint8", size=12, in_memory=0)
    whole = run.train(chosen, outside)
    real, steps = run.feed, itertools.count(1)

    def feed(pixels, order, *rest):
        for found in real(pixels, order, *rest):
            if next(steps) == 4:
                raise data.DataError("found no image")
            yield found

    monkeypatch.setattr(run, "feed", feed)
    with pytest.raises(data.DataError):
        run.train(chosen, outside, folder=tmp_path, save_every=1)
    monkeypatch.undo()
    assert checkpoint(tmp_path)["step"] == 3
    assert same(run.train(chosen, outside, folder=tmp_path, resume=True), whole)
