import itertools
import json
import os
import re
import resource
import shlex
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same, checkpoint, command, row

from bn_helpers import records
from bn_helpers.training import command_line, run
from bn_helpers.training.recipes import RECIPES


def one_line(stderr):
    """The single line of an error, below the progress bar if there was one."""
    lines = re.split("[\\r\\n]", stderr)
    bar = re.compile("step/s|s/step")  # the latter where a step takes longer than a second
    (line,) = [line for line in lines if line.strip() and not bar.search(line)]
    assert line.startswith("error: ")
    return line


def test_a_run_from_the_first_line_to_the_record(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = command(tmp_path, "--every", 5, steps=12)
    assert command_line.main(arguments) == 0
    out, err = capfd.readouterr()
    *head, titles, first, second, third, last = out.splitlines()
    assert RECIPES["bn-baseline"].about in head[0]
    assert "digits" in head[1]
    assert "12 steps of 32" in head[1]
    assert titles.split() == ["step", "lr", "loss", "held-out"]
    curve = row(tmp_path)["curve"]
    assert [int(line.split()[0]) for line in (first, second, third)] == [5, 10, 12]
    assert [step for step, _, _ in curve] == [5, 10, 12]
    assert f"test accuracy {row(tmp_path)['test_accuracy']:.2%}" in last
    assert "12/12" in err
    assert "step/s" not in out
    record = records.read("bn-baseline-digits-seed0", tmp_path)
    assert record["command"] == f"python -m bn_helpers.training {shlex.join(arguments)}"
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.width > 700
    before = (tmp_path / "checkpoint.pt").read_bytes()

    assert command_line.main(arguments) == 2  # without --resume nothing is overwritten
    assert "--resume" in one_line(capfd.readouterr().err)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before

    (file,) = tmp_path.glob("*.json")
    again = file.rename(tmp_path / "before")
    assert command_line.main([*arguments, "--resume"]) == 0
    assert "the run is finished" in capfd.readouterr().out
    told, repeated = json.loads(again.read_text()), json.loads(file.read_text())
    assert repeated["command"] == told["command"]
    assert repeated["results"][0]["curve"] == curve

    other = [*command("here", "--quiet")[:-3], "--quiet"]
    assert command_line.main(other) == 0  # without --out
    assert capfd.readouterr() == ("", "")
    assert (Path("_build") / "runs" / "bn-baseline-digits-seed0" / "curve.png").exists()


@pytest.mark.parametrize("steps", [1, 39, 40, 41, 79, 119, 8000])
def test_a_table_has_some_forty_rows(steps):
    options = command_line._parser().parse_args(["bn-x5", "--steps", str(steps)])
    every = command_line._settings(options, torch.device("cpu")).every
    assert min(steps, 20) <= -(-steps // every) <= 40


@pytest.mark.parametrize(("data", "flip"), [("digits", False), ("mnist", False), ("cifar10", True)])
def test_a_digit_has_no_mirror_image(data, flip):
    options = command_line._parser().parse_args(["bn-x5", "--data", data])
    assert command_line._settings(options, torch.device("cpu")).flip == flip


def test_help_explains_each_option_and_recipe(capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.main(["--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0
    lines = out.splitlines()
    for name, recipe in RECIPES.items():
        assert f"  {name} " in out
        assert any(line.split() == [name, *recipe.about.split()] for line in lines), name
    for action in command_line._parser()._actions:
        assert action.help, action.dest
        if action.option_strings and action.nargs != 0 and action.dest != "recipe":
            assert "default" in action.help, action.dest


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small image folders, most of them with one fault each."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for kind in ("fine", "empty", "mislabelled", "corrupt"):
        for part, number in (("train", 12), ("test", 2)):
            for name in ("cat", "dog"):
                where = root / kind / part / name
                where.mkdir(parents=True)
                for i in range(number):
                    pixels = rng.integers(0, 256, (12, 12, 3)).astype(np.uint8)
                    Image.fromarray(pixels).save(where / f"{i}.png")
    for file in (root / "empty" / "train" / "cat").iterdir():
        file.unlink()
    (root / "mislabelled" / "test" / "cat").rename(root / "mislabelled" / "test" / "cta")
    file = root / "corrupt" / "train" / "dog" / "3.png"
    file.write_bytes(file.read_bytes()[:60])
    return root


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--data", "nowhere"], "nowhere: found nothing there"),
        (["--data", "{folders}/empty"], "cat: found no image"),
        (["--data", "{folders}/mislabelled"], "only here: cta"),
        (["--data", "{folders}/corrupt"], "3.png: found no image that can be decoded"),
        (["--steps", "0"], "steps of at least 1, got 0"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--every", "0"], "every of at least 1"),
        (["--save-every", "0"], "at least 1 step between checkpoints"),
        (["--lr", "-1"], "learning rate above 0, got -1.0"),
        (["--batch-size", "2000"], "at least 2000 training images for a batch, got 1294"),
        (["--device", "tpu"], "a device of this machine, cpu"),
        (["--device", "cuda:99"], "a device of this machine, cpu"),
        (["--model", "resnet"], "invalid choice: 'resnet'"),
        (["--model", "inception"], "colour images"),
        (["--sync-bn"], "torchrun"),
        (["--bogus"], "unrecognized arguments: --bogus"),
        (["--out", "{folders}/fine/train/cat/0.png"], "exists"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(changes, words, folders, tmp_path, capsys):
    changes = [change.format(folders=folders) for change in changes]
    assert command_line.main(command(tmp_path, *changes)) == 2
    assert words in one_line(capsys.readouterr().err)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_an_unknown_recipe_is_refused_with_a_list(tmp_path, capsys):
    assert command_line.main(command(tmp_path, recipe="bn-x6")) == 2
    assert "unknown recipe 'bn-x6'; choose one of inception, " in one_line(capsys.readouterr().err)
    assert command_line.main([]) == 2
    assert "RECIPE" in one_line(capsys.readouterr().err)


def test_the_papers_network_trains_on_a_folder(folders, tmp_path, capsys):
    arguments = ["--model", "inception", "--image-size", 66, "--batch-size", 4, "--quiet"]
    arguments += ["--data", folders / "fine", "--precision", "bfloat16"]
    assert command_line.main(command(tmp_path, *arguments, steps=2)) == 0
    record = records.read("bn-baseline-fine-seed0", tmp_path)
    assert record["config"]["recipe"]["model"] == "inception"
    assert record["config"]["flip"]
    assert "a tenth" not in str(record["data"])
    assert capsys.readouterr() == ("", "")


def test_a_run_that_diverges_says_where_and_keeps_its_curve(tmp_path, capsys):
    arguments = command(tmp_path, "--lr", 1000, "--every", 1, recipe="inception-x5")
    assert command_line.main(arguments) == command_line.DIVERGED == 3
    line = one_line(capsys.readouterr().err)
    found = row(tmp_path)
    assert f"not finite at step {found['diverged_at']}:" in line
    assert "smaller --lr" in line
    assert found["curve"]
    assert found["test_accuracy"] is None
    assert (tmp_path / "curve.png").exists()


@pytest.mark.parametrize("moment", ["build", "step"])
def test_too_little_memory_is_one_line_and_loses_nothing(moment, tmp_path, capsys, monkeypatch):
    """A petabyte is refused everywhere."""
    if moment == "build":
        monkeypatch.setattr(run, "build", lambda *_: torch.empty(1 << 50))
    else:
        steps, real = itertools.count(1), run.F.cross_entropy

        def loss(*args, **kwargs):
            return real(*args, **kwargs) if next(steps) < 4 else torch.empty(1 << 50)

        monkeypatch.setattr(run.F, "cross_entropy", loss)
    assert (
        command_line.main(command(tmp_path, "--save-every", 1)) == command_line.OUT_OF_MEMORY == 4
    )
    line = one_line(capsys.readouterr().err)
    assert "not enough memory" in line
    assert "--batch-size" in line
    if moment == "step":
        assert checkpoint(tmp_path)["step"] == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"), 4),
        (MemoryError(), 4),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:547] Connection closed by peer"), 5),
        (torch.distributed.DistNetworkError("The server socket has failed to listen"), 5),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device"), 2),
        (RuntimeError("shapes cannot be multiplied"), None),
        (KeyError("memory"), None),
    ],
)
def test_errors_that_nobody_foresaw_keep_their_traceback(
    error, code, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise error

    monkeypatch.setattr(command_line, "_train", fail)
    if code is None:
        with pytest.raises(type(error)):
            command_line.main(command(tmp_path))
    else:
        assert command_line.main(command(tmp_path)) == code
        assert one_line(capsys.readouterr().err)


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path, capsys):
    """A limit on a file's size stands for it here: the checkpoint at the end is too large."""
    assert command_line.main(command(tmp_path / "whole", "--quiet")) == 0
    largest = (tmp_path / "whole" / "checkpoint.pt").stat().st_size - 1000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, limits[1]))
        found = command_line.main(command(tmp_path / "full", "--quiet"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert found == command_line.REFUSED
    assert "too large" in one_line(capsys.readouterr().err)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["checkpoint.part"]
    assert command_line.main(command(tmp_path / "full", "--quiet", "--resume")) == 0
    assert_same(tmp_path / "full", tmp_path / "whole")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_ctrl_c_saves_at_the_end_of_the_step(sent, tmp_path, capsys, monkeypatch):
    """A second one stops at once. Afterwards the signals do what they did before."""
    before = signal.getsignal(sent)
    steps, real = itertools.count(1), run.F.cross_entropy

    def loss(*args, **kwargs):
        step = next(steps)
        if step in (7, 11):
            os.kill(os.getpid(), sent)
        if step == 11 and sent == signal.SIGINT:
            while signal.getsignal(sent) != before:  # two at once would count as one
                time.sleep(0.01)
            os.kill(os.getpid(), sent)
            time.sleep(5)  # the second one interrupts it
        return real(*args, **kwargs)

    monkeypatch.setattr(run.F, "cross_entropy", loss)
    arguments = command(tmp_path / "stopped", "--every", 6, "--resume", steps=14)
    saved = [7, 7] if sent == signal.SIGINT else [7, 11]
    for step in saved:
        assert command_line.main(arguments) == command_line.INTERRUPTED == 130
        assert "--resume goes on" in one_line(capsys.readouterr().err)
        assert checkpoint(tmp_path / "stopped")["step"] == step
        assert signal.getsignal(sent) == before
    assert command_line.main(arguments) == 0
    assert command_line.main(command(tmp_path / "whole", "--every", 6, steps=14)) == 0
    assert_same(tmp_path / "stopped", tmp_path / "whole")
