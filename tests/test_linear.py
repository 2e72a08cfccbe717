"""The linear reference of benchmarks/linear.py: what it counts, and that it learns nothing from a tested speaker."""

from types import SimpleNamespace

import numpy as np
import pytest

import features
import protocols
from benchmarks import linear

FRONT_END = features.FRONT_ENDS["tft"]


def test_an_utterance_is_described_by_the_frames_of_its_recording_alone():
    random, frames = np.random.default_rng(0), 100  # in two segments of 80
    seconds = (FRONT_END.win_length + (frames - 1) * FRONT_END.hop_length + 7) / FRONT_END.sample_rate
    loaded = SimpleNamespace(
        segments=random.standard_normal((3, FRONT_END.n_mels, FRONT_END.frames)).astype(np.float32),
        counts=np.array([2, 1]),
        seconds=np.array([seconds, 0.02]),  # the second has a single frame
    )
    first, second = linear.describe(loaded, FRONT_END)
    own = np.concatenate([loaded.segments[0], loaded.segments[1]], 1)[:, :frames]  # (n_mels, frames)
    np.testing.assert_allclose(first, np.concatenate([own.mean(1), own.std(1), np.diff(own).std(1)]), rtol=1e-5)
    assert np.isfinite(second).all()
    loaded.segments[1, :, frames - FRONT_END.frames :] = 99  # padding
    np.testing.assert_array_equal(linear.describe(loaded, FRONT_END)[0], first)


def slow_war(x, labels, speakers, counts):
    """WAR in per cent of each speaker and of all, by least squares with a row for each penalised weight."""
    hits, ends = np.zeros(len(labels), bool), np.cumsum(counts)
    for name in set(speakers):
        known = np.repeat(speakers != name, counts)
        mean, std = x[known].mean(0), x[known].std(0)
        rows = np.column_stack([(x[known] - mean) / std, np.ones(known.sum())])
        penalties = np.sqrt(linear.PENALTY) * np.eye(x.shape[1], x.shape[1] + 1)
        targets = np.eye(labels.max() + 1)[np.repeat(labels, counts)[known]]
        targets = np.vstack([targets, np.zeros((len(penalties), targets.shape[1]))])
        weights = np.linalg.lstsq(np.vstack([rows, penalties]), targets, rcond=None)[0]
        for i in np.flatnonzero(speakers == name):
            scores = (x[ends[i] - counts[i] : ends[i]] - mean) / std @ weights[:-1] + weights[-1]
            hits[i] = scores.mean(0).argmax() == labels[i]
    return [100 * hits[speakers == name].mean() for name in sorted(set(speakers))] + [100 * hits.mean()]


def test_the_printed_figures_are_those_of_the_slow_way(corpus, tiny, capsys):
    linear.main(["--db", str(corpus / "small.csv")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    database = protocols.open_database(str(corpus / "small.csv"))
    loaded = {name: features.load(corpus, database.paths, part) for name, part in features.FRONT_ENDS.items()}
    x, alone = linear.describe(loaded["tft"], features.FRONT_ENDS["tft"]), np.ones(len(database.ids), int)
    own = np.empty_like(x)
    for speaker in set(database.speakers):
        rows = database.speakers == speaker
        own[rows] = (x[rows] - x[rows].mean(0)) / x[rows].std(0)
    columns = [slow_war(x, database.labels, database.speakers, alone)]
    for part in loaded.values():
        numbers = linear.describe_segments(part.segments)
        columns.append(slow_war(numbers, database.labels, database.speakers, part.counts))
    columns.append(slow_war(own, database.labels, database.speakers, alone))
    printed = [line[-4:] for line in lines if line and (line[0] in database.speakers or line[:2] == ["all,", "WAR"])]
    np.testing.assert_allclose(np.array(printed, float).T, columns, atol=0.006)


def test_a_tested_speaker_teaches_nothing():
    random = np.random.default_rng(2)
    speakers, labels = np.repeat(["a", "b", "c"], 30), np.tile([0, 1, 2], 30)
    x = random.standard_normal((90, 4)) + 2 * np.eye(4)[labels]
    folds = [
        SimpleNamespace(train=np.flatnonzero(speakers != name), test=np.flatnonzero(speakers == name)) for name in "abc"
    ]
    before = linear.confusions(SimpleNamespace(labels=labels, classes="xyz"), x, folds)
    assert [matrix.sum() for matrix in before] == [30] * 3 and protocols.war(sum(before)) > 0.8
    changed = labels.copy()
    changed[:30] = (labels[:30] + 1) % 3  # of the first speaker
    after = linear.confusions(SimpleNamespace(labels=changed, classes="xyz"), x, folds)
    np.testing.assert_array_equal(after[0].sum(0), before[0].sum(0))  # the same answers
    assert (after[1] != before[1]).any()  # others learn from it


def test_a_speaker_with_a_single_utterance_has_no_statistics_of_its_own():
    database = SimpleNamespace(speakers=np.array(["a", "a", "b"]))
    assert linear.z_score_by_speaker(database, np.ones((3, 2))) is None


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(protocols.UsageError, match="nowhere"):
        linear.main(["--db", "casia", "--root", str(tmp_path / "nowhere")])
