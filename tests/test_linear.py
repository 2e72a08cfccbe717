"""The linear reference of benchmarks/linear.py: what it counts, and that a tested speaker teaches it nothing."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import features
import protocols
from benchmarks import linear, synthetic

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


def test_a_recording_of_one_frame_has_numbers():
    heard = SimpleNamespace(
        segments=np.zeros((1, FRONT_END.bands, FRONT_END.frames), np.float32), counts=np.array([1]), seconds=[0.02]
    )
    assert np.isfinite(linear.describe(heard, FRONT_END)).all()


def reference(x, labels, groups, penalty=30):
    """WAR of each group and pooled, then UAR, by least squares with a row for each penalised weight."""
    said, classes = np.empty(len(x), int), labels.max() + 1
    for name in set(groups):
        own = groups == name
        z = (x - x[~own].mean(0)) / x[~own].std(0)
        rows = np.column_stack([z, np.ones(len(z))])
        extra = np.sqrt(penalty) * np.eye(x.shape[1], x.shape[1] + 1)
        wanted = np.vstack([np.eye(classes)[labels[~own]], np.zeros((len(extra), classes))])
        weights = np.linalg.lstsq(np.vstack([rows[~own], extra]), wanted, rcond=None)[0]
        said[own] = (rows[own] @ weights).argmax(1)
    hit = said == labels
    by_group = [hit[groups == name].mean() for name in sorted(set(groups))]
    return [100 * one for one in (*by_group, hit.mean(), np.mean([hit[labels == k].mean() for k in set(labels)]))]


def by_segment(heard, labels, groups):
    """The same of the segments' numbers, with the mean of the segments' scores."""
    hits, ends = np.zeros(len(labels), bool), np.cumsum(heard.counts)
    own = [heard.segments[end - count : end] for end, count in zip(ends, heard.counts)]
    x = [np.hstack([one.mean(2), one.std(2), (one[:, :, 1:] - one[:, :, :-1]).std(2)]).astype(float) for one in own]
    for name in set(groups):
        known, tested = np.flatnonzero(groups != name), np.flatnonzero(groups == name)
        rows = np.vstack([x[i] for i in known])
        weights = linear.ridge(
            (rows - rows.mean(0)) / rows.std(0), np.repeat(labels[known], heard.counts[known]), labels.max() + 1
        )
        for i in tested:
            scores = (x[i] - rows.mean(0)) / rows.std(0) @ weights[:-1] + weights[-1]
            hits[i] = scores.mean(0).argmax() == labels[i]
    told = [hits[groups == name].mean() for name in sorted(set(groups))]
    return [100 * one for one in (*told, hits.mean(), np.mean([hits[labels == k].mean() for k in set(labels)]))]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A synthetic corpus of a layout, its root."""
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))

    def write(layout):
        synthetic.write_corpus(layout, tmp_path / layout)
        return tmp_path / layout

    return write


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_the_printed_figures_are_those_of_the_slow_way(corpus, capsys, protocol):
    root = corpus("iemocap")  # classes of unequal size, sessions
    linear.main(["--db", "iemocap", "--root", str(root), "--partial", "--protocol", protocol])
    told = capsys.readouterr().out
    database = protocols.open_database("iemocap", root, partial=True)
    x = linear.describe(features.load(root, database.paths, FRONT_END), FRONT_END)
    own = np.empty_like(x)
    for speaker in set(database.speakers):
        rows = database.speakers == speaker
        own[rows] = (x[rows] - x[rows].mean(0)) / x[rows].std(0)
    groups = database.speakers if protocol == "speaker" else database.sessions
    columns = [reference(numbers, database.labels, groups) for numbers in (x, own)]
    for place, front_end in enumerate(features.FRONT_ENDS.values(), 1):
        columns.insert(place, by_segment(features.load(root, database.paths, front_end), database.labels, groups))
    lines = [line.split() for line in told.splitlines()]
    printed = [line[-4:] for line in lines if line and line[0] in {*groups, "all,"}]
    np.testing.assert_allclose(np.array(printed, float).T, columns, atol=0.006)
    assert [line[0] for line in lines if line and line[0] in set(groups)] == sorted(set(groups))
    assert (
        columns[0] != columns[1] != columns[2]
        and columns[0][-1] != pytest.approx(columns[0][-2])
        and "partial database" in told
    )


def test_a_single_utterance_has_no_statistics_of_its_own():
    database = SimpleNamespace(speakers=np.array(["a", "a", "b"]))
    assert linear.by_speaker(database, np.ones((3, 2))) is None


def test_a_tested_speaker_teaches_nothing():
    random = np.random.default_rng(2)
    speakers, labels = np.repeat(["a", "b", "c"], 30), np.tile([0, 1, 2], 30)
    x = random.standard_normal((90, 4)) + 2 * np.eye(4)[labels]
    folds = [
        SimpleNamespace(train=np.flatnonzero(speakers != name), test=np.flatnonzero(speakers == name)) for name in "abc"
    ]
    usual = linear.confusions(SimpleNamespace(labels=labels, classes="xyz"), x, folds)
    assert [matrix.sum() for matrix in usual] == [30] * 3 and protocols.war(sum(usual)) > 0.8
    changed = labels.copy()
    changed[:30] = (labels[:30] + 1) % 3  # of the first speaker
    other = linear.confusions(SimpleNamespace(labels=changed, classes="xyz"), x, folds)
    np.testing.assert_array_equal(other[0].sum(0), usual[0].sum(0))  # the same answers
    assert (other[1] != usual[1]).any()  # of which the others learn


def test_the_same_recording_under_two_speakers_is_refused(corpus):
    root = corpus("casia")
    here, there = (sorted((root / name).rglob("*.wav"))[0] for name in ("wangzhe", "liuchanhg"))
    shutil.copy(here, there)
    with pytest.raises(protocols.DatabaseError, match="same recording"):
        linear.main(["--db", "casia", "--root", str(root), "--partial"])


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(protocols.UsageError, match="nowhere"):
        linear.main(["--db", "casia", "--root", str(tmp_path / "nowhere")])
