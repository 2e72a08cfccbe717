"""How sure a figure is, from saved predictions: bootstrap intervals and paired tests.

Utterances of one speaker are alike, so the speaker is the unit that a claim about new speakers rests on:
`speaker_interval` resamples speakers, `compare` flips the signs of the speakers' differences. Resampling
utterances (`utterance_interval`) and McNemar's test per seed tell only how the same speakers would have fared
on other utterances, and are named so. Used by `python evaluate.py --table significance --models tft atfnn`.
"""

from itertools import product
from math import comb
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
LEVEL = 0.05  # a smaller p separates two models
EXACT_SPEAKERS = 16  # up to here all 2^n sign flips are counted, above that many are drawn


def class_hits(labels, hits, groups, classes):
    """Correct and all utterances of each group and class: two arrays (groups, classes).

    labels (N,), hits (N,) the share of seeds that were right, groups (N,) from 0.
    """
    number = groups.max() + 1
    cells = groups * classes + labels
    right = np.bincount(cells, hits, number * classes).reshape(number, classes)
    every = np.bincount(cells, minlength=number * classes).reshape(number, classes)
    return right, every


def rates(right, every):
    """WAR and UAR of correct and all counts (..., classes); a class without utterances does not count."""
    war = right.sum(-1) / every.sum(-1)
    recall = np.divide(right, every, out=np.zeros(np.shape(right)), where=every > 0)
    return war, recall.sum(-1) / (every > 0).sum(-1)


def _interval(values):
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def speaker_interval(labels, hits, speakers, classes, seed=0):
    """95 % percentile intervals ((low, high) of WAR, of UAR) of a bootstrap over speakers."""
    right, every = class_hits(labels, hits, speakers, classes)
    number = len(right)
    if number < 2:
        return None, None  # one speaker tells nothing of others
    weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), RESAMPLES)
    return tuple(map(_interval, rates(weights @ right, weights @ every)))


def utterance_interval(labels, hits, classes, seed=0):
    """95 % percentile intervals ((low, high) of WAR, of UAR) of a bootstrap over utterances.

    Utterances that share label and share of right seeds are exchangeable, so a resample is one multinomial
    draw over those kinds.
    """
    kinds, index, size = np.unique(np.stack([labels, hits]), axis=1, return_inverse=True, return_counts=True)
    right, every = class_hits(kinds[0].astype(int), kinds[1], np.arange(len(size)), classes)
    weights = np.random.default_rng(seed).multinomial(len(labels), size / len(labels), RESAMPLES)
    return tuple(map(_interval, rates(weights @ right, weights @ every)))


def mcnemar(first, second):
    """Exact two-sided p of McNemar's test for paired hits (N,) of two models: the discordant pairs, half and half."""
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant = only_first + only_second
    tail = sum(comb(discordant, i) for i in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def sign_flip(differences, seed=0):
    """Two-sided p that paired differences (n,) are as likely to have either sign: all 2^n flips, or many drawn.

    With n speakers p cannot fall below 2 / 2^n: four speakers never separate two models at 0.05.
    """
    n = len(differences)
    if n <= EXACT_SPEAKERS:
        signs = np.array(list(product((1, -1), repeat=n)))
    else:
        signs = np.vstack([np.ones(n), np.random.default_rng(seed).choice((1, -1), (100_000, n))])
    flipped = np.abs(signs @ differences)
    return float((flipped >= abs(differences.sum()) - 1e-12).mean())


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
    difference = (first.astype(float) - second).mean(0)  # (N,)
    size = np.bincount(speakers)
    summed = np.bincount(speakers, difference)  # utterances won minus lost, per speaker
    weights = np.random.default_rng(seed).multinomial(len(size), np.full(len(size), 1 / len(size)), RESAMPLES)
    mean = float(difference.mean())
    p = sign_flip(summed, seed)
    tests = [mcnemar(a, b) for a, b in zip(first, second)]
    agree = sum(
        t < LEVEL and (a.sum() - b.sum()) * mean > 0 for t, a, b in zip(tests, first.astype(int), second.astype(int))
    )
    verdict = "not separable" if p >= LEVEL else "first" if mean > 0 else "second"
    return Comparison(mean, _interval((weights @ summed) / (weights @ size)), p, tests, int(agree), verdict)
