"""The linear reference of benchmarks/linear.py: what it counts, and that a tested speaker teaches it nothing."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "benchmarks"))

import features
import linear
import protocols
from benchmarks import synthetic

FRONT_END = features.FRONT_ENDS["tft"]


def test_an_utterance_is_described_by_the_frames_of_its_recording_alone():
    random, frames = np.random.default_rng(0), 100  # in two segments of 80
    heard = SimpleNamespace(
        segments=random.standard_normal((3, FRONT_END.bands, FRONT_END.frames)).astype(np.float32),
        counts=np.array([2, 1]),
        seconds=np.array([(FRONT_END.window + (frames - 1) * FRONT_END.shift + 7) / FRONT_END.rate, 0.5]),
    )
    first, _ = linear.describe(heard, FRONT_END)
    own = np.concatenate([heard.segments[0], heard.segments[1]], 1)[:, :frames]  # (bands, frames)
    np.testing.assert_allclose(first, np.concatenate([own.mean(1), own.std(1), np.diff(own).std(1)]), rtol=1e-5)
    heard.segments[1, :, frames - FRONT_END.frames :] = 99  # padding
    np.testing.assert_array_equal(linear.describe(heard, FRONT_END)[0], first)


def test_ridge_is_least_squares_with_a_row_for_each_weight():
    random = np.random.default_rng(1)
    x, labels = random.standard_normal((40, 5)), random.integers(0, 3, 40)
    rows = np.vstack([np.column_stack([x, np.ones(40)]), np.sqrt(2.5) * np.eye(6)])
    wanted = np.linalg.lstsq(rows, np.vstack([np.eye(3)[labels], np.zeros((6, 3))]), rcond=None)[0]
    np.testing.assert_allclose(linear.ridge(x, labels, 3, penalty=2.5), wanted, atol=1e-10)


def test_a_tested_speaker_teaches_nothing():
    random = np.random.default_rng(2)
    speakers, labels = np.repeat(["a", "b", "c"], 30), np.tile([0, 1, 2], 30)
    x = random.standard_normal((90, 4)) + 2 * np.eye(4)[labels]
    folds = [SimpleNamespace(test=np.flatnonzero(speakers == name)) for name in "abc"]
    usual = linear.confusions(SimpleNamespace(labels=labels, classes="xyz"), x, folds)
    assert [matrix.sum() for matrix in usual] == [30] * 3 and protocols.war(sum(usual)) > 0.8
    changed = labels.copy()
    changed[:30] = (labels[:30] + 1) % 3  # of the first speaker
    other = linear.confusions(SimpleNamespace(labels=changed, classes="xyz"), x, folds)
    np.testing.assert_array_equal(other[0].sum(0), usual[0].sum(0))  # the same answers
    assert (other[1] != usual[1]).any()  # of which the others learn


def test_the_command_prints_the_folds_and_their_pooled_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    synthetic.write_corpus("casia", tmp_path / "casia")
    linear.main(["--db", "casia", "--root", str(tmp_path / "casia"), "--partial"])
    told = capsys.readouterr().out
    database = protocols.open_database("casia", tmp_path / "casia", partial=True)
    sizes = [len(fold.test) for fold in protocols.make_folds(database)]
    for name in ("training fold", "speaker (transductive)"):
        (line,) = (line for line in told.splitlines() if line.startswith(name))
        war, _, *wars = map(float, line.removeprefix(name).split())
        assert war == pytest.approx(np.average(wars, weights=sizes), abs=0.01)
    assert "partial database" in told


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(protocols.UsageError, match="nowhere"):
        linear.main(["--db", "casia", "--root", str(tmp_path / "nowhere")])
