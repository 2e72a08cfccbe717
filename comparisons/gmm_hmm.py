"""GMM-HMM: a left-to-right hidden Markov model of each emotion on MFCC frames; the most likely of them is the class.

Mao, Tao, Zhang, Ching, Lee, ICASSP 2019, compare such models with others (their first page). 39 MFCC with differences
and an emotion as a word are recalled, not read. Ours: log energy in place of the MFCC of order 0, and states, topology,
mixtures and training, comparisons/hmm.py. No row of a table; the alignments of dnn_hmm.py come from these chains.
"""

import numpy as np
from scipy.special import softmax

from comparisons import hmm

DESCRIPTORS = "mfcc39"
SETTINGS = dict(normalization="fold")
SEEDED = False
PUBLISHED = ()
EXTENT = "reading"
NOTE = "5 states with 8 Gaussians each, topology and training are ours"


def fit(x, labels, classes, seed):
    """A chain of each class, of frames, a list of n arrays (T_i, 39). No seed is used."""
    return [hmm.fit_chain(clips) for clips in hmm.clips_of_classes(x, labels, classes)]


def scores(model, x):
    """Scores (n, classes) of frames: softmax of the best paths' log-likelihood, divided by the number of frames."""
    frames, lengths = hmm.join(hmm.fill_up(x))
    totals = np.stack([chain.best_paths(frames, lengths)[0] for chain in model], 1)  # (n, classes)
    return softmax(totals / lengths[:, None], axis=1)
