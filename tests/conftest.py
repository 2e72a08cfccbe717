"""Fixtures of all test files. Nothing here imports torch or the project, so that OMP_NUM_THREADS comes first."""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # tiny steps gain nothing from more threads, and lose much on a busy machine


@pytest.fixture(scope="session", autouse=True)
def machine(tmp_path_factory):
    """A cache of the tests' own; nothing waits for the disk, as nothing here survives a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Folder of the tiny corpus with its manifest small.csv (tests/helpers.py); never changed."""
    import helpers

    return helpers.write_corpus(tmp_path_factory.mktemp("corpus")).parent


@pytest.fixture(scope="module")
def tiny():
    """The tiny front ends, for all tests of a module."""
    import helpers

    with pytest.MonkeyPatch.context() as patch:
        helpers.tiny_front_ends(patch)
        yield


@pytest.fixture(scope="module")
def few_resamples():
    """Few resamples of the intervals, which have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reporting.significance.RESAMPLES", 20)
        yield
