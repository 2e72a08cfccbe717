"""Intervals and paired tests against slow loops and cases worked by hand.

python -m pytest tests/test_significance.py
"""

from itertools import product

import numpy as np
import pytest

import protocols
from reporting import significance
from reporting.significance import class_hits, compare, mcnemar, rates, sign_flip, speaker_interval, utterance_interval


def paired(both, first, second, neither):
    """Hits of two models from the cells of McNemar's table."""
    cells = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return np.array(cells, bool).reshape(-1, 2).T


def corpus(speakers=10, size=12, classes=3, seed=0):
    """Labels, hits and speakers; speakers differ in size, in their classes and in how well they are recognised."""
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(speakers), size + np.arange(speakers) % 4)
    labels = generator.integers(0, classes, len(owner))
    hits = generator.random(len(owner)) < np.linspace(0.3, 0.9, speakers)[owner]
    return labels, hits.astype(float), owner


# ------------------------------------------------------------------------------------------- McNemar


@pytest.mark.parametrize(
    "first, second, p",
    [(0, 0, 1), (1, 0, 1), (1, 1, 1), (3, 3, 1), (2, 0, 1 / 2), (5, 0, 1 / 16), (0, 6, 1 / 32), (1, 7, 18 / 256),
     (2, 8, 112 / 1024)],
)  # fmt: skip
def test_mcnemar_by_hand(first, second, p):
    hits = paired(4, first, second, 2)
    assert mcnemar(*hits) == mcnemar(*hits[::-1]) == mcnemar(*paired(0, first, second, 9)) == pytest.approx(p)


# ---------------------------------------------------------------------------------------- sign flips


@pytest.mark.parametrize(
    "differences, p",
    [
        ([1, 1, 1, 1], 2 / 16),
        ([1, 2, 4, 8], 2 / 16),  # each choice of signs has another sum: only all and none are as far from 0
        ([1, 2, 4, -8], 1),  # |-1| is the least
        ([1, 1, 1, -1], 10 / 16),  # sums 4, 2 as far from 0 as 2: 1 + 4 of 16, both ways
        ([3, -1], 1),
        ([3, 1], 2 / 4),
        ([0, 0, 0], 1),
        ([1] * 10, 2 / 1024),
        ([1] * 16, 2 / 65536),
    ],
)
def test_sign_flips_by_hand(differences, p):
    assert sign_flip(differences) == pytest.approx(p, abs=1e-12)


def test_all_sign_flips_are_counted_and_have_no_direction():
    generator = np.random.default_rng(0)
    for n in (2, 4, 7, 8):
        given = generator.integers(-5, 9, n)
        sums = [abs(np.dot(signs, given)) for signs in product((1, -1), repeat=n)]
        expected = np.mean([total >= abs(sum(given)) for total in sums])
        assert sign_flip(given) == sign_flip(-given) == sign_flip(given[::-1]) == pytest.approx(expected)


def test_sign_flips_of_many_speakers_are_random_and_repeatable():
    few = np.random.default_rng(1).integers(-20, 30, 16)
    exact, drawn = sign_flip(few), sign_flip(np.append(few, 0))  # a speaker without a difference changes nothing
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / 100_000)) and 0.01 < exact < 0.9
    assert drawn == sign_flip(np.append(few, 0)) and 0 < sign_flip([1] * 24) < 1e-4


# ----------------------------------------------------------------------------------------- intervals


def slow(labels, hits, units, classes, draws=3000):
    """Percentiles of WAR and UAR over resampled units, one utterance at a time."""
    generator = np.random.default_rng(7)
    members = [np.flatnonzero(units == unit) for unit in range(units.max() + 1)]
    values = []
    for _ in range(draws):
        chosen = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        label, hit = labels[chosen], hits[chosen]
        values.append((hit.mean(), np.mean([hit[label == k].mean() for k in range(classes) if (label == k).any()])))
    return np.percentile(values, [2.5, 97.5], axis=0).T


@pytest.mark.parametrize("unit", ["speakers", "utterances"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_are_those_of_a_slow_bootstrap(unit, seeds):
    labels, hits, owner = corpus()
    hits = np.mean([hits, *(hits[::-1] for _ in range(seeds - 1))], axis=0)
    if unit == "speakers":
        got, expected = speaker_interval(labels, hits, owner, 3), slow(labels, hits, owner, 3)
    else:
        got, expected = utterance_interval(labels, hits, 3), slow(labels, hits, np.arange(len(labels)), 3)
    assert np.allclose(got, expected, atol=0.015), (got, expected)
    for (low, high), value in zip(got, rates(*(part.sum(0) for part in class_hits(labels, hits, owner, 3)))):
        assert 0 <= low < value < high <= 1


def test_the_interval_over_utterances_is_normal_when_there_are_many():
    n, p = 4000, 0.7
    labels, hits = np.arange(n) % 2, (np.arange(n) < p * n).astype(float)
    (low, high), _ = utterance_interval(labels, hits, 2)
    half = 1.96 * np.sqrt(p * (1 - p) / n)
    assert (low, high) == (pytest.approx(p - half, abs=half / 20), pytest.approx(p + half, abs=half / 20))


def test_the_interval_over_speakers_is_as_wide_as_speakers_differ():
    labels, owner = np.tile([0, 1], 50), np.repeat(np.arange(10), 10)

    def width(right):  # of each speaker's ten utterances
        hits = np.concatenate([np.arange(10) < number for number in right]).astype(float)
        return [high - low for low, high in speaker_interval(labels, hits, owner, 2)]

    alike, some, much = width([6] * 10), width([5, 7] * 5), width([2, 10] * 5)
    assert alike == [0, 0]
    assert 0 < some[0] < much[0] and 0 < some[1] < much[1]
    spread = 0.4 / np.sqrt(10)  # of the mean of ten speakers at 0.2 and 1.0
    assert much[0] == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_speakers_count_by_their_utterances():
    """Two speakers of 1 and 9 utterances, one right and one wrong: pooled, not the mean of their rates."""
    labels, owner = np.zeros(10, int), np.array([0] + [1] * 9)
    correct, total = class_hits(labels, (owner == 0).astype(float), owner, 1)
    assert (correct.tolist(), total.tolist()) == ([[1], [0]], [[1], [9]])
    assert rates(correct.sum(0), total.sum(0)) == (0.1, 0.1)


def test_a_single_speaker_gives_no_interval_over_speakers():
    assert speaker_interval(np.array([0, 1]), np.array([1.0, 0.0]), np.zeros(2, int), 2) == (None, None)


def test_rates_are_those_of_the_tables():
    generator = np.random.default_rng(0)
    for classes in (2, 4, 7):
        labels = generator.integers(0, classes - 1, 60)  # the last class does not occur, and does not count
        scores = generator.random((60, classes))
        hits = (scores.argmax(1) == labels).astype(float)
        correct, total = class_hits(labels, hits, generator.permutation(np.arange(60) % 5), classes)
        matrix = protocols.confusion(labels, scores)
        expected = pytest.approx(protocols.war(matrix)), pytest.approx(protocols.uar(matrix))
        assert rates(correct.sum(0), total.sum(0)) == expected and total.sum() == 60


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    labels, hits, owner = corpus()
    for function, given in ((speaker_interval, (labels, hits, owner, 3)), (utterance_interval, (labels, hits, 3))):
        assert function(*given) == function(*given, seed=0) != function(*given, seed=1)


# ---------------------------------------------------------------------------------------- comparisons


def models(speakers, first, second, seeds=1, size=20):
    """Hits (seeds, N) of two models that are right on `first` and `second` of each speaker's utterances."""

    def hits(right):
        right = np.broadcast_to(right, speakers)
        return np.array([np.concatenate([np.arange(size) < number for number in right])] * seeds)

    return hits(first), hits(second), np.repeat(np.arange(speakers), size)


def test_identical_models_are_not_separable():
    hits, _, owner = models(10, 14, 0, seeds=3)
    assert compare(hits, hits, owner) == (0, (0, 0), 1, [1, 1, 1], 0, "not separable")


def test_ten_speakers_that_agree_separate_two_models():
    first, second, owner = models(10, 15, 12, seeds=2)
    result = compare(first, second, owner)
    assert result.war_difference == pytest.approx(3 / 20) and result.speaker_p == 2 / 1024
    assert result.interval == (pytest.approx(3 / 20), pytest.approx(3 / 20))
    assert result.mcnemar_p == [pytest.approx(2 / 2**30)] * 2
    assert result.seeds_agree == 2 and result.verdict == "first"


def test_four_speakers_never_separate_two_models():
    first, second, owner = models(4, 20, 0)
    result = compare(first, second, owner)
    assert result.war_difference == 1 and result.mcnemar_p[0] < 1e-20
    assert result.speaker_p == 2 / 16 and result.verdict == "not separable"


def test_swapping_the_models_swaps_the_outcome():
    generator = np.random.default_rng(0)
    owner = corpus()[2]
    first, second = generator.random((3, len(owner))) < 0.8, generator.random((3, len(owner))) < 0.4
    there, back = compare(first, second, owner), compare(second, first, owner)
    assert back.war_difference == pytest.approx(-there.war_difference) and there.war_difference > 0.2
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert there.interval[0] < there.war_difference < there.interval[1]
    assert (back.speaker_p, back.mcnemar_p, back.seeds_agree) == there[2:5]
    assert (there.verdict, back.verdict) == ("first", "second")


def test_a_single_loud_speaker_does_not_separate_two_models():
    first, second, owner = models(10, [20, 12] + [11] * 8, [0, 12] + [11] * 8)
    result = compare(first, second, owner)
    assert result.mcnemar_p[0] < 1e-5 and result.seeds_agree == 1  # utterances alone would separate them
    assert result.speaker_p == 1 and result.verdict == "not separable" and result.interval[0] == 0


def test_a_seed_agrees_only_if_it_separates_in_the_direction_of_the_mean():
    better, worse, owner = models(10, 18, 10)
    little, _, _ = models(10, [11] + [10] * 9, 0)
    first = np.concatenate([better, better, better, little, worse])
    second = np.concatenate([worse, worse, worse, worse, better])
    result = compare(first, second, owner)
    assert result.war_difference == pytest.approx((3 * 0.4 + 1 / 200 - 0.4) / 5)
    assert [p < 0.05 for p in result.mcnemar_p] == [True, True, True, False, True]
    assert result.seeds_agree == 3


def test_the_interval_of_a_difference_is_that_of_a_slow_bootstrap():
    generator = np.random.default_rng(3)
    owner = np.repeat(np.arange(10), [4, 60] * 5)  # the many utterances of some weigh more
    first = generator.random((2, len(owner))) < np.where(owner % 2, 0.9, 0.3)
    second = generator.random((2, len(owner))) < np.linspace(0.2, 0.7, 10)[owner]
    expected = slow(np.zeros(len(owner), int), first.mean(0) - second.mean(0), owner, 1)[0]
    assert compare(first, second, owner).interval == pytest.approx(expected, abs=0.015)


def test_the_documented_level():
    assert (significance.LEVEL, significance.CONFIDENCE, significance.RESAMPLES) == (0.05, 0.95, 10_000)
