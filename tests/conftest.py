"""What several test files share."""

import json

import numpy as np
import pytest
import torch

import engine
import evaluate
import results
import significance
from benchmarks import synthetic


@pytest.fixture(scope="session", autouse=True)
def no_fsync():
    """Nothing here survives a power cut, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="module")
def few_resamples():
    """Intervals are measured in their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(significance, "RESAMPLES", 200)
        yield


def command(main, *arguments):
    """Exit code of a command, run in this process."""
    try:
        with results.plain_errors(f"{main.__module__}.py"):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def quiet_machine(tmp_path_factory):
    """A cache of our own, and one thread: small steps gain nothing from more, and lose much beside other work."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SER_CACHE", str(tmp_path_factory.mktemp("cache")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    patch.undo()


def stop_before(epoch, patch):
    """Ctrl-C once that many epochs of a fold are done, until the patch is undone."""
    begin_epoch = engine.Training.begin_epoch

    def stopping(self):
        if self.epoch == epoch:
            raise KeyboardInterrupt
        begin_epoch(self)

    patch.setattr(engine.Training, "begin_epoch", stopping)


def log_of(folder):
    """(epochs, columns) of the training log."""
    return np.loadtxt(folder / "log.csv", delimiter=",", skiprows=1, ndmin=2)


def outcome(folder):
    """All of a fold that must be the same bits, however it came about."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return (
        (folder / "predictions.csv").read_bytes(),
        log_of(folder)[:, :2].tobytes(),
        {name: value.tobytes() for name, value in results.read_epochs(folder).items()},
        {name: value.numpy().tobytes() for name, value in state["model"].items()},
    )


def first_two(lines):
    """Of a manifest's lines those of the first two recordings of each speaker and emotion."""
    return [line for line in lines if line.split(",")[0].endswith(("_01.wav", "_02.wav"))]


def write_part(path, choose):
    """Generated speech in the folder of `path`, a manifest with what `choose` makes of the lines of all."""
    synthetic.write_corpus("manifest", path.parent)
    header, *lines = (path.parent / "manifest.csv").read_text().splitlines()
    (path.parent / "manifest.csv").unlink()
    path.write_text("\n".join([header, *choose(lines)]) + "\n")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Generated speech, 4 speakers x 4 emotions x 2 utterances, with its manifest small.csv; never changed."""
    root = tmp_path_factory.mktemp("corpus") / "small"
    write_part(root / "small.csv", first_two)
    assert len((root / "small.csv").read_text().splitlines()) == 1 + 32
    return root


@pytest.fixture
def run(capsys):
    """Exit code, output and errors of evaluate.py."""

    def call(*arguments):
        capsys.readouterr()
        return command(evaluate.main, *arguments), *capsys.readouterr()

    return call


@pytest.fixture
def rows(run):
    """Rows of evaluate.py as JSON, which must go well."""

    def call(*arguments):
        code, out, error = run(*arguments, "--format", "json")
        assert code == 0, error
        return json.loads(out)

    return call
