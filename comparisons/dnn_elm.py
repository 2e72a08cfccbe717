"""DNN+ELM: a network's posteriors of the loudest segments, their statistics, and an extreme learning machine.

Han, Yu, Tashev, Interspeech 2014, pp. 223-227, with details from its public imitation,
github.com/aheba/Speech_Emotion_Recognition_DNN-ELM: 25 frames a segment, the loudest tenth of the segments, three
layers of 256 ReLU, maximum, minimum, mean and share above 0.2 of each class's posteriors, 120 hidden units. Ours:
learning rate, epochs, batch size, and statistics of the training fold; the imitation's are those of each session, the
tested one too.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from comparisons import classifiers, frame_networks

DESCRIPTORS = "mfcc_pitch_hnr"
SETTINGS = dict(normalization="fold")
SEEDED = True
PUBLISHED = ("DNN+ELM", "ELM-DNN")
EXTENT = "most"
NOTE = "learning rate and normalization are ours; its paper has no figure of CASIA"

LOUDEST = 0.1  # share of an utterance's segments that is used
LOG_ENERGY = 12  # its column
HIDDEN = 256
EPOCHS = 12
POSTERIOR_THRESHOLD = 0.2


class DnnElm(NamedTuple):
    """A trained method."""

    network: object  # an nn.Module: (s, 750) -> (s, classes) logits
    mean: np.ndarray  # (4 classes,) of the training utterances' statistics
    deviation: np.ndarray
    elm: classifiers.ExtremeLearningMachine


def fit(x, labels, classes, seed):
    """Train on frames, a list of n arrays (T_i, 30)."""
    windows, rows, counts = loudest_windows(x)
    sizes = [windows[0].numel(), HIDDEN, HIDDEN, HIDDEN, classes]
    network = frame_networks.train(
        lambda: frame_networks.dense(sizes), windows, rows, np.repeat(labels, counts), seed, EPOCHS
    )
    numbers = posterior_statistics(network, windows, rows, counts)
    mean, deviation = numbers.mean(0), numbers.std(0) + 1e-6
    return DnnElm(network, mean, deviation, classifiers.fit_elm((numbers - mean) / deviation, labels, classes, seed))


def scores(model, x):
    """Scores (n, classes) of frames: softmax of the outputs."""
    numbers = posterior_statistics(model.network, *loudest_windows(x))
    return softmax(model.elm((numbers - model.mean) / model.deviation), axis=1)


def loudest_windows(x):
    """Windows of frames (W, 30, 25), the rows (s,) of the loudest of each utterance, and their number in each (n,)."""
    windows, rows, counts = frame_networks.windows_of(x)
    energy = np.split(windows[rows, LOG_ENERGY].numpy().mean(1), np.cumsum(counts)[:-1])  # n of (S,), a mean log
    chosen = [np.sort(np.argsort(-part)[: max(1, round(LOUDEST * len(part)))]) for part in energy]
    starts = np.cumsum(counts) - counts
    loudest = np.concatenate([start + part for start, part in zip(starts, chosen)])
    return windows, rows[loudest], np.array([len(part) for part in chosen])


def posterior_statistics(network, windows, rows, counts):
    """Maximum, minimum, mean and share above 0.2 of the posteriors of each utterance: (n, 4 classes)."""
    posteriors = frame_networks.outputs(network, windows, rows).softmax(1).double().numpy()  # (s, classes)
    starts = np.cumsum(counts) - counts
    above = (posteriors > POSTERIOR_THRESHOLD).astype(np.float64)
    mean, share = (np.add.reduceat(values, starts) / counts[:, None] for values in (posteriors, above))
    highest, lowest = (extreme.reduceat(posteriors, starts) for extreme in (np.maximum, np.minimum))
    return np.concatenate([highest, lowest, mean, share], 1)
