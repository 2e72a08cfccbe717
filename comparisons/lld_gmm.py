"""LLDs+HMM/GMM: a Gaussian mixture of each class on MFCC frames, normalised by utterance.

Schuller, Vlasenko, Eyben, Rigoll, Wendemuth, ASRU 2009, doi 10.1109/ASRU.2009.5372886: 12 MFCC, log energy and their
differences, cepstral mean and variance normalisation, a hidden Markov model of a single state (a mixture) and
argmax P(X|class) P(class) are the paper's. Ours: 64 diagonal Gaussians, k-means start, 15 steps, statistics of the
utterance.
"""

import numpy as np
from scipy.special import softmax

from comparisons import classifiers

DESCRIPTORS = "mfcc39"
SETTINGS = dict(normalization="utterance")
SEEDED = True
PUBLISHED = ("LLDs+HMM/GMM",)
EXTENT = "most"
NOTE = "number of Gaussians and their training are ours"


def fit(x, labels, classes, seed):
    """Train on frames, a list of n arrays (T_i, 39)."""
    of_class = [np.concatenate([x[i] for i in np.flatnonzero(labels == k)]) for k in range(classes)]
    mixtures = [classifiers.fit_mixture(frames, seed)[0] for frames in of_class]
    return mixtures, np.log(np.bincount(labels, minlength=classes) / len(labels))


def scores(model, x):
    """Scores (n, classes) of frames: softmax of the joint log-likelihood, divided by the number of frames."""
    mixtures, log_priors = model
    lengths = np.array([len(frames) for frames in x])
    frames, starts = np.concatenate(x), lengths.cumsum() - lengths
    by_frame = np.stack([mixture.log_likelihood(frames) for mixture in mixtures], 1)  # (frames, classes)
    joint = np.add.reduceat(by_frame.astype(np.float64), starts) + log_priors
    return softmax(joint / lengths[:, None], axis=1)
