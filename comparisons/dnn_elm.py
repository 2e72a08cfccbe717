"""DNN+ELM: a network's posteriors of the loudest segments, their statistics, and an extreme learning machine.

Han, Yu, Tashev, Interspeech 2014, pp. 223-227, with details from its public imitation,
github.com/aheba/Speech_Emotion_Recognition_DNN-ELM: 25 frames a segment, the loudest tenth of the segments, three
layers of 256 ReLU, maximum, minimum, mean and share above 0.2 of each class's posteriors, 120 hidden units. Ours:
learning rate, epochs, batch size, and statistics of the training fold; the imitation's are those of each session, the
tested one too.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.special import softmax

from comparisons import classifiers

DESCRIPTORS = "mfcc_pitch_hnr"
SETTINGS = dict(normalization="fold")
SEEDED = True
PUBLISHED = ("DNN+ELM", "ELM-DNN")
EXTENT = "most"
NOTE = "learning rate and normalization are ours; its paper has no figure of CASIA"

SEGMENT_FRAMES = 25
LOUDEST = 0.1  # share of an utterance's segments that is used
LOG_ENERGY = 12  # its column
HIDDEN = 256
EPOCHS, BATCH, LEARNING_RATE = 12, 128, 1e-3
POSTERIOR_THRESHOLD = 0.2


class DnnElm(NamedTuple):
    """A trained method."""

    network: object  # an nn.Module: (s, 750) -> (s, classes) logits
    mean: np.ndarray  # (4 classes,) of the training utterances' statistics
    deviation: np.ndarray
    elm: classifiers.ExtremeLearningMachine


def fit(x, labels, classes, seed):
    """Train on frames, a list of n arrays (T_i, 30)."""
    segments, counts = loudest_segments(x)
    network = train_network(segments, np.repeat(labels, counts), classes, seed)
    numbers = posterior_statistics(network, segments, counts)
    mean, deviation = numbers.mean(0), numbers.std(0) + 1e-6
    return DnnElm(network, mean, deviation, classifiers.fit_elm((numbers - mean) / deviation, labels, classes, seed))


def scores(model, x):
    """Scores (n, classes) of frames: softmax of the outputs."""
    numbers = posterior_statistics(model.network, *loudest_segments(x))
    return softmax(model.elm((numbers - model.mean) / model.deviation), axis=1)


def loudest_segments(x):
    """The segments of the most log energy of each utterance, (s, 750) float32, and their number in each (n,)."""
    segments = []
    for frames in x:
        frames = np.pad(frames, ((0, max(0, SEGMENT_FRAMES - len(frames))), (0, 0)), "edge")
        windows = sliding_window_view(frames, SEGMENT_FRAMES, axis=0)  # (S, 30, 25), a segment at each frame
        energy = windows[:, LOG_ENERGY].mean(1)
        loudest = np.sort(np.argsort(-energy)[: max(1, round(LOUDEST * len(energy)))])
        segments.append(windows[loudest].reshape(len(loudest), -1))  # (s, 750)
    return np.concatenate(segments), np.array([len(block) for block in segments])


def train_network(segments, labels, classes, seed):
    """Network of three hidden layers, trained with Adam and cross-entropy on segments (s, 750) and labels (s,)."""
    import torch  # takes a second, which tables and the audit do without
    from torch import nn

    sizes = [segments.shape[1], HIDDEN, HIDDEN, HIDDEN]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [layer for i in range(3) for layer in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())]
        network = nn.Sequential(*layers, nn.Linear(HIDDEN, classes))
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        x, y = torch.from_numpy(segments), torch.from_numpy(labels)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x)).split(BATCH):
                loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network


def posterior_statistics(network, segments, counts):
    """Maximum, minimum, mean and share above 0.2 of the posteriors of each utterance: (n, 4 classes)."""
    import torch

    with torch.no_grad():
        posteriors = network(torch.from_numpy(segments)).softmax(1).double().numpy()  # (s, classes)
    starts = np.cumsum(counts) - counts
    above = (posteriors > POSTERIOR_THRESHOLD).astype(np.float64)
    mean, share = (np.add.reduceat(values, starts) / counts[:, None] for values in (posteriors, above))
    highest, lowest = (extreme.reduceat(posteriors, starts) for extreme in (np.maximum, np.minimum))
    return np.concatenate([highest, lowest, mean, share], 1)
