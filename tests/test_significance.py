"""Intervals and paired tests against slow loops, hand-worked cases and scipy.

python -m pytest tests/test_significance.py
"""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest

import protocols
import significance
from significance import class_hits, compare, mcnemar, rates, sign_flip, speaker_interval, utterance_interval


def paired(both, first, second, neither):
    """Hits of two models from the cells of McNemar's table."""
    cells = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    return np.array(cells, bool).reshape(-1, 2).T


def corpus(speakers=10, size=12, classes=3, seed=0):
    """Labels, hits and speakers; speakers differ in size, in what they say and in how well they are heard."""
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
    assert mcnemar(*paired(4, first, second, 2)) == pytest.approx(p)


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs():
    generator = np.random.default_rng(0)
    for _ in range(150):
        both, first, second, neither = generator.integers(0, 40, 4)
        hits = paired(both, first, second, neither)
        expected = binomtest(first, first + second).pvalue if first + second else 1
        assert mcnemar(*hits) == pytest.approx(expected, rel=1e-9)
        assert mcnemar(*hits[::-1]) == mcnemar(*hits)
        assert mcnemar(*hits[:, generator.permutation(hits.shape[1])]) == mcnemar(*hits)
        assert mcnemar(*paired(0, first, second, 0)) == mcnemar(*hits)  # the concordant pairs tell nothing


def test_mcnemar_of_many_pairs():
    assert mcnemar(*paired(0, 1100, 1200, 0)) == pytest.approx(binomtest(1100, 2300).pvalue, rel=1e-9)
    assert 0 <= mcnemar(*paired(0, 3000, 0, 0)) < 1e-300


# ---------------------------------------------------------------------------------------- sign flips


@pytest.mark.parametrize(
    "differences, p",
    [
        ([1, 1, 1, 1], 2 / 16),
        ([1, 2, 4, 8], 2 / 16),  # every sum of signs is another: only all and none are as far off
        ([1, 2, 4, -8], 1),  # |-1| is the least
        ([1, 1, 1, -1], 10 / 16),  # sums 4, 2 as far off as 2: 1 + 4 of 16, both ways
        ([3, -1], 1),
        ([3, 1], 2 / 4),
        ([0, 0, 0], 1),
        ([1] * 10, 2 / 1024),
        ([1] * 16, 2 / 65536),
    ],
)
def test_sign_flips_by_hand(differences, p):
    assert sign_flip(np.array(differences, float)) == pytest.approx(p, abs=1e-12)


def test_sign_flips_are_all_counted_and_know_no_direction():
    generator = np.random.default_rng(0)
    for n in (2, 4, 7, 8):
        for scale in (1, 1 / 3):
            given = generator.integers(-5, 9, n) * scale
            sums = [abs(sum(s * d for s, d in zip(signs, given))) for signs in product((1, -1), repeat=n)]
            expected = sum(one >= abs(sum(given)) - 1e-9 for one in sums) / 2**n
            assert sign_flip(given) == sign_flip(-given) == pytest.approx(expected)
            assert sign_flip(generator.permutation(given)) == pytest.approx(expected)
            assert sign_flip(given) >= 2 / 2**n - 1e-12


def test_the_flips_of_many_speakers_are_drawn():
    generator = np.random.default_rng(1)
    few = generator.normal(0.25, 1, 16)
    exact = sign_flip(few)
    drawn = sign_flip(np.append(few, 0.0))  # a speaker without a difference changes nothing
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact / 100_000)) and 0.01 < exact < 0.9
    assert 0 < sign_flip(np.ones(24)) < 1e-4
    assert sign_flip(np.append(few, 0.0), seed=3) == sign_flip(np.append(few, 0.0), seed=3)


# ----------------------------------------------------------------------------------------- intervals


def slow(labels, hits, units, classes, draws=3000):
    """Percentiles of WAR and UAR over resampled units, one utterance at a time."""
    generator = np.random.default_rng(7)
    members = [np.flatnonzero(units == unit) for unit in range(units.max() + 1)]
    told = []
    for _ in range(draws):
        chosen = np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        label, hit = labels[chosen], hits[chosen]
        told.append((hit.mean(), np.mean([hit[label == k].mean() for k in range(classes) if (label == k).any()])))
    return np.percentile(told, [2.5, 97.5], axis=0).T


@pytest.mark.parametrize("unit", ["speakers", "utterances"])
@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_are_those_of_a_slow_bootstrap(unit, seeds):
    labels, hits, owner = corpus()
    hits = np.mean([hits, *(corpus(seed=0)[1][::-1] for _ in range(seeds - 1))], axis=0)
    if unit == "speakers":
        got, expected = speaker_interval(labels, hits, owner, 3), slow(labels, hits, owner, 3)
    else:
        got, expected = utterance_interval(labels, hits, 3), slow(labels, hits, np.arange(len(labels)), 3)
    assert np.allclose(got, expected, atol=0.015), (got, expected)
    for (low, high), figure in zip(got, rates(*(part.sum(0) for part in class_hits(labels, hits, owner, 3)))):
        assert 0 <= low < figure < high <= 1


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
    hits = (owner == 0).astype(float)
    right, every = class_hits(labels, hits, owner, 1)
    assert (right.tolist(), every.tolist()) == ([[1], [0]], [[1], [9]])
    assert rates(right.sum(0), every.sum(0)) == (0.1, 0.1)
    (low, high), _ = speaker_interval(labels, hits, owner, 1)
    assert (low, high) == (0, 1)  # one in four resamples holds one speaker alone


def test_rates_are_those_of_the_tables():
    generator = np.random.default_rng(0)
    for classes in (2, 4, 7):
        labels = generator.integers(0, classes - 1, 60)  # the last class does not occur
        scores = generator.random((60, classes))
        hits = (scores.argmax(1) == labels).astype(float)
        right, every = class_hits(labels, hits, generator.permutation(np.arange(60) % 5), classes)
        assert right.shape == every.shape == (5, classes) and every.sum() == 60
        matrix = protocols.confusion(labels, scores)
        told = rates(right.sum(0), every.sum(0))
        assert told == (pytest.approx(protocols.war(matrix)), pytest.approx(protocols.uar(matrix)))


def test_a_class_without_utterances_does_not_count():
    right, every = np.array([[3.0, 0, 1], [2, 0, 0]]), np.array([[4, 0, 2], [2, 0, 0]])
    war, uar = rates(right, every)
    assert war.tolist() == [4 / 6, 1] and uar.tolist() == [(3 / 4 + 1 / 2) / 2, 1]


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    labels, hits, owner = corpus()
    for function, given in ((speaker_interval, (labels, hits, owner, 3)), (utterance_interval, (labels, hits, 3))):
        assert function(*given) == function(*given) == function(*given, seed=0) != function(*given, seed=1)


# ---------------------------------------------------------------------------------------- comparisons


def models(speakers, first, second, seeds=1, size=20):
    """Hits (seeds, N) of two models that are right on `first` and `second` of each speaker's utterances."""

    def hits(right):
        right = np.broadcast_to(right, speakers)
        return np.array([np.concatenate([np.arange(size) < number for number in right])] * seeds)

    return hits(first), hits(second), np.repeat(np.arange(speakers), size)


def test_identical_models_are_not_separable():
    hits, _, owner = models(10, 14, 0, seeds=3)
    told = compare(hits, hits, owner)
    assert told == (0, (0, 0), 1, [1, 1, 1], 0, "not separable")


def test_ten_speakers_that_agree_separate_two_models():
    first, second, owner = models(10, 15, 12, seeds=2)
    told = compare(first, second, owner)
    assert told.war_difference == pytest.approx(3 / 20) and told.speaker_p == 2 / 1024
    assert told.interval == (pytest.approx(3 / 20), pytest.approx(3 / 20))
    assert told.mcnemar_p == [pytest.approx(2 / 2**30)] * 2 and told.seeds_agree == 2 and told.verdict == "first"


def test_four_speakers_never_separate_two_models():
    first, second, owner = models(4, 20, 0)
    told = compare(first, second, owner)
    assert told.war_difference == 1 and told.mcnemar_p[0] < 1e-20
    assert told.speaker_p == 2 / 16 and told.verdict == "not separable"


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
    assert compare(first, second, owner) == there


def test_one_loud_speaker_does_not_separate_two_models():
    first, second, owner = models(10, [20, 12] + [11] * 8, [0, 12] + [11] * 8)
    told = compare(first, second, owner)
    assert told.mcnemar_p[0] < 1e-5 and told.seeds_agree == 1  # utterances alone would separate them
    assert told.speaker_p == 1 and told.verdict == "not separable" and told.interval[0] == 0


def test_a_seed_agrees_only_if_it_separates_in_the_direction_of_the_mean():
    better, worse, owner = models(10, 18, 10)
    little, _, _ = models(10, [11] + [10] * 9, 0)
    first = np.concatenate([better, better, better, little, worse])
    second = np.concatenate([worse, worse, worse, worse, better])
    told = compare(first, second, owner)
    assert told.war_difference == pytest.approx((3 * 0.4 + 1 / 200 - 0.4) / 5)
    assert [p < 0.05 for p in told.mcnemar_p] == [True, True, True, False, True]
    assert told.seeds_agree == 3


def test_the_interval_of_a_difference_is_that_of_a_slow_bootstrap():
    generator = np.random.default_rng(3)
    owner = np.repeat(np.arange(10), [4, 60] * 5)  # the many utterances of some weigh more
    first = generator.random((2, len(owner))) < np.where(owner % 2, 0.9, 0.3)
    second = generator.random((2, len(owner))) < np.linspace(0.2, 0.7, 10)[owner]
    difference = first.mean(0) - second.mean(0)
    expected = slow(np.zeros(len(owner), int), difference, owner, 1)[0]
    assert compare(first, second, owner).interval == pytest.approx(expected, abs=0.015)


def test_the_promised_level():
    assert (significance.LEVEL, significance.CONFIDENCE, significance.RESAMPLES) == (0.05, 0.95, 10_000)


def test_one_speaker_gives_no_interval_over_speakers():
    labels, hits = np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0])
    assert significance.speaker_interval(labels, hits, np.zeros(3, int), 2) == (None, None)
