"""Uncertainty of results, from saved predictions: bootstrap intervals and paired tests.

Utterances of one speaker are alike, so a claim about new speakers rests on speakers: `speaker_interval` resamples
speakers, `compare` flips the signs of the speakers' differences. Resampled utterances (`utterance_interval`) and
McNemar's test for each seed only concern other utterances of the same speakers, and are labelled so.
Used by `python evaluate.py --table significance --models tft atfnn`.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEVEL = 0.05  # a smaller p separates two models
FLIPS = 100_000  # all 2^n sign flips up to 16 speakers, so many random flips above


def class_hits(labels, hits, groups, classes):
    """Correct and all utterances of each group and class: two arrays (groups, classes).

    labels (N,), hits (N,) the share of seeds that were right, groups (N,) from 0.
    """
    number = groups.max() + 1
    cells = groups * classes + labels
    correct = np.bincount(cells, hits, number * classes).reshape(number, classes)  # (groups, classes)
    total = np.bincount(cells, minlength=number * classes).reshape(number, classes)
    return correct, total


def rates(correct, total):
    """WAR and UAR of correct and all counts (..., classes); a class without utterances does not count."""
    war = correct.sum(-1) / total.sum(-1)
    recall = np.divide(correct, total, out=np.zeros(np.shape(correct)), where=total > 0)
    return war, recall.sum(-1) / (total > 0).sum(-1)


def _interval(values):
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def speaker_interval(labels, hits, speakers, classes, seed=0):
    """95 % percentile intervals ((low, high) of WAR, of UAR) of a bootstrap over speakers; None of one speaker."""
    correct, total = class_hits(labels, hits, speakers, classes)
    number = len(correct)
    if number < 2:
        return None, None
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), RESAMPLES)
    return tuple(map(_interval, rates(weights @ correct, weights @ total)))


def utterance_interval(labels, hits, classes, seed=0):
    """95 % percentile intervals ((low, high) of WAR, of UAR) of a bootstrap over utterances.

    Utterances that share label and share of right seeds are exchangeable, so a resample is one multinomial draw over
    those kinds.
    """
    kinds, index, size = np.unique(np.stack([labels, hits]), axis=1, return_inverse=True, return_counts=True)
    correct, total = class_hits(kinds[0].astype(int), kinds[1], np.arange(len(size)), classes)
    weights = np.random.default_rng(seed).multinomial(len(labels), size / len(labels), RESAMPLES)
    return tuple(map(_interval, rates(weights @ correct, weights @ total)))


def mcnemar(first, second):
    """Exact two-sided p of McNemar's test for paired hits (N,) of two models: a sign test of the discordant pairs."""
    from scipy.stats import binomtest  # here, as its import takes longer than all other tables

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def sign_flip(differences, seed=0):
    """Two-sided p that paired differences (n,) are as likely to have either sign, by their sum.

    With n speakers p cannot fall below 2 / 2^n: four speakers never separate two models at 0.05. Integers are compared
    exactly.
    """
    from scipy.stats import permutation_test

    test = permutation_test(
        (np.asarray(differences),), np.sum, permutation_type="samples", n_resamples=FLIPS, vectorized=True, rng=seed
    )
    return float(test.pvalue)


class Comparison(NamedTuple):
    """Two models on the same utterances; differences are first minus second, as fractions."""

    war_difference: float
    interval: tuple  # of the difference of WAR, bootstrap over speakers
    speaker_p: float  # sign flips of the speakers' differences
    mcnemar_p: list  # one per seed
    seeds_agree: int  # seeds in which McNemar separates the models in the direction of the mean
    verdict: str  # "first", "second" or "not separable"


def compare(first, second, speakers, seed=0):
    """Compare hits (seeds, N) of two models on the same utterances, seed by seed.

    The verdict rests on the speakers alone: McNemar's test takes the utterances of a speaker for independent.
    """
    won = first.astype(int) - second  # (seeds, N)
    size = np.bincount(speakers)
    by_speaker = np.array([won[:, speakers == i].sum() for i in range(len(size))])  # over all seeds
    weights = np.random.default_rng(seed).multinomial(len(size), np.full(len(size), 1 / len(size)), RESAMPLES)
    mean = float(won.mean(0).mean())
    p = sign_flip(by_speaker, seed)
    tests = [mcnemar(a, b) for a, b in zip(first, second)]
    agree = sum(t < LEVEL and part.sum() * mean > 0 for t, part in zip(tests, won))
    verdict = "not separable" if p >= LEVEL else "first" if mean > 0 else "second"
    interval = _interval((weights @ by_speaker) / (weights @ size) / len(won))
    return Comparison(mean, interval, p, tests, int(agree), verdict)
