"""What several test files share."""

import json

import pytest
import torch

import evaluate
import results
from benchmarks import synthetic


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
    """A cache of our own, and one thread: small steps gain nothing from more."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SER_CACHE", str(tmp_path_factory.mktemp("cache")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    patch.undo()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Generated speech, 4 speakers x 4 emotions x 2 utterances, with its manifest small.csv; never changed."""
    root = tmp_path_factory.mktemp("corpus") / "small"
    synthetic.write_corpus("manifest", root)
    header, *lines = (root / "manifest.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0].endswith(("_01.wav", "_02.wav"))]
    assert len(kept) == 32
    (root / "manifest.csv").unlink()
    (root / "small.csv").write_text("\n".join([header, *kept]) + "\n")
    return root


@pytest.fixture
def run(capsys):
    """Exit code, output and errors of evaluate.py."""

    def call(*arguments):
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
