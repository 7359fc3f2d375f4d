"""Long jobs: what is done once, what goes on, what a kill leaves."""

import json
import os
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import runner  # noqa: E402

_greeting = None


def prepare(greeting):
    global _greeting
    _greeting = greeting


def work(name, orders, folder, progress):
    """Five steps, each of them noted in the folder; ``orders``: step → what befalls it, once."""
    file = folder / "checkpoint.pt"
    step = int(file.read_text()) if file.is_file() else 0
    while step < 5:
        befalls, once = orders.get(str(step)), folder / f"befell {step}"
        if befalls and not once.exists():
            once.touch()
            if befalls == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"stop": runner.Stopped, "error": KeyError}[befalls](name)
        step += 1
        with (folder / "steps").open("a") as noted:
            noted.write(f"{step} ")
        runner.store(file, lambda path, step=step: path.write_text(str(step)))
        if progress(step):
            raise runner.Stopped
    return {"name": name, "greeting": _greeting}


def jobs(**orders):
    return [runner.Job({"name": name}, 5, (name, what)) for name, what in orders.items()]


def run_all(found, where, **options):
    return runner.run_all(work, found, where, prepare=prepare, arguments=("hello",), **options)


def steps(job, where):
    return (runner.folder_of(job, where) / "steps").read_text().split()


def test_each_job_is_done_once_and_results_come_in_order(tmp_path, capfd):
    found = jobs(a={}, b={}, c={})
    wanted = [{"name": name, "greeting": "hello"} for name in "abc"]
    assert run_all([*found, found[0]], tmp_path, workers=2) == [*wanted, wanted[0]]
    assert "15.0/15.0" in capfd.readouterr().err
    assert run_all(found[::-1], tmp_path) == wanted[::-1]
    for job in found:
        assert steps(job, tmp_path) == list("12345")
        assert not (runner.folder_of(job, tmp_path) / "checkpoint.pt").exists()


def test_when_the_time_is_up_a_job_stops_and_goes_on_later(tmp_path):
    found = jobs(a={"3": "stop"}, b={})
    assert run_all(found, tmp_path, minutes=1e-9) == [None, None]
    assert list(tmp_path.iterdir()) == []
    assert [bool(result) for result in run_all(found, tmp_path)] == [False, True]
    assert all(run_all(found, tmp_path))
    assert [steps(job, tmp_path) for job in found] == [list("12345")] * 2


@pytest.mark.parametrize(("befalls", "error"), [("kill", BrokenProcessPool), ("error", KeyError)])
def test_what_befalls_one_job_is_told_and_loses_nothing(befalls, error, tmp_path):
    found = jobs(a={}, b={"2": befalls}, c={})
    with pytest.raises(error):
        run_all(found, tmp_path)
    assert runner.result_of(found[0], tmp_path)
    assert runner.result_of(found[1], tmp_path) is None
    assert all(run_all(found, tmp_path))
    assert [steps(job, tmp_path) for job in found] == [list("12345")] * 3


def test_the_key_alone_tells_jobs_apart(tmp_path):
    one, same = runner.Job({"a": 1, "b": [2]}, 5, (1,)), runner.Job({"b": [2], "a": 1}, 6)
    assert runner.folder_of(one, tmp_path) == runner.folder_of(same, tmp_path)
    other = runner.Job({"a": 1, "b": [3]}, 5, (1,))
    assert runner.folder_of(one, tmp_path) != runner.folder_of(other, tmp_path)


def test_a_file_is_there_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "result.json"
    runner.store(file, lambda path: path.write_text(json.dumps([1])))

    def half(path):
        path.write_text("[1")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        runner.store(file, half)
    assert json.loads(file.read_text()) == [1]
