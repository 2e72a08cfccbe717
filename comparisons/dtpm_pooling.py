"""DTPM pooling: a convolutional network's features of segments, pooled by a temporal pyramid, and a linear SVM.

Zhang, Zhang, Huang, Gao, IEEE Trans. Multimedia 20(6), 2018. Its abstract states three channels of log-Mel, deltas and
delta-deltas, an AlexNet pretrained on photographs, discriminant temporal pyramid matching with Lp norm pooling, and a
linear SVM. From a public re-implementation: 64 Mel bands, segments of 64 frames at a hop of 30, levels of 1, 2 and 4
parts with weights 1/4, 1/4, 1/2, and 20 neighbours. Ours: a network of a quarter of AlexNet's channels, without its
local response normalisation and dropout, trained from scratch on 64 x 64 without resizing, from He's initialisation; p
chosen from seven values, not by gradient; vectors of unit length; the training; the SVM of classifiers.py, by pairs
with hinge loss, at C = 1.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d, pad

import features
from comparisons import classifiers

FRONT_END = features.FrontEnd(
    frames=64, pre_emphasis=0.0, win_length=400, n_mels=64, fmin=20.0, overlap=34 / 64  # a hop of 30 frames
)  # fmt: skip
SETTINGS = dict(epochs=30, batch_size=64, lr=5e-4)
TRACK = "validation"
PUBLISHED = ("DCNN-DTPM", "DTPM")
EXTENT = "reading"
NOTE = "pyramid and Lp pooling after the abstract; the network is ours, narrow and not pretrained"

EMBEDDING = 256
CHANNELS = (24, 64, 96, 96, 64)  # a quarter of AlexNet's
LEVELS, LEVEL_WEIGHTS = (1, 2, 4), (1 / 4, 1 / 4, 1 / 2)
NORMS = (1, 1.5, 2, 3, 5, 10, np.inf)  # candidates for p
NEIGHBOURS = 20
SVM_C = 1.0  # of vectors of unit length


# --------------------------------------------------------------------------------------------- network


def build(classes, n_mels, frames):
    """Network for that many classes, Mel bands and frames; ValueError unless both are multiples of 16."""
    return DtpmNetwork(classes, n_mels, frames).to(memory_format=torch.channels_last)


def delta_filters():
    """Filters (3, 9) along the frames: the value, its regression over +-2 frames, and that of the regression."""
    slope = np.array([-2, -1, 0, 1, 2]) / 10  # sum of n (x[t+n] - x[t-n]) over 2 sum of n^2; in the order of the frames
    return np.stack([np.eye(9)[4], np.pad(slope, 2), np.convolve(slope, slope)]).astype(np.float32)


class DtpmNetwork(nn.Module):
    """(b, 1, f, t) -> (b, classes) logits; `embed` gives the features of segments (b, 256) after the last ReLU.

    The layers are in AlexNet's order. Raises ValueError unless f = n_mels and t = frames are multiples of 16.
    """

    def __init__(self, classes, n_mels=64, frames=64):
        super().__init__()
        if n_mels % 16 or frames % 16:
            raise ValueError(f"DTPM: n_mels and frames must be multiples of 16, not {n_mels} and {frames}")
        first, second, third, fourth, fifth = CHANNELS
        self.register_buffer("deltas", torch.from_numpy(delta_filters()).view(3, 1, 1, 9))
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, first, 5, stride=2, padding=2),
                nn.Conv2d(first, second, 5, padding=2),
                nn.Conv2d(second, third, 3, padding=1),
                nn.Conv2d(third, fourth, 3, padding=1),
                nn.Conv2d(fourth, fifth, 3, padding=1),
            ]
        )
        self.hidden = nn.Linear(fifth * (n_mels // 16) * (frames // 16), EMBEDDING)
        self.embedding = nn.Linear(EMBEDDING, EMBEDDING)
        self.classifier = nn.Linear(EMBEDDING, classes)
        for layer in (*self.convolutions, self.hidden, self.embedding):  # torch's start would fade in seven ReLUs
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        return self.classifier(self.embed(x))

    def embed(self, x):
        """Features of segments, not negative: (b, 1, f, t) -> (b, 256)."""
        y = self.with_deltas(x)  # (b, 3, f, t)
        for number, convolution in enumerate(self.convolutions):
            y = convolution(y)
            if number in (0, 1, 4):  # pool, then ReLU: the same as AlexNet's order, on a quarter of the numbers
                y = max_pool2d(y, 2)
            y = y.relu_()
        y = self.hidden(y.flatten(1)).relu_()  # (b, 64, f/16, t/16) -> (b, 256)
        return self.embedding(y).relu_()

    def with_deltas(self, x):
        """Channels value, delta, delta-delta of x (b, 1, f, t); the first and last frames are repeated."""
        with torch.autocast(x.device.type, enabled=False):  # differences of rounded numbers would be noise
            y = conv2d(pad(x, (4, 4, 0, 0), "replicate"), self.deltas)
        return y.contiguous(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------------------- pooling


class Dtpm(NamedTuple):
    """A trained back end."""

    p: float  # of the norm
    weights: np.ndarray  # (pairs, 7 D + 1) of the SVM
    classes: int


def fit(x, labels, classes, seed):
    """Choose p and train the SVM on features of segments, a list of n arrays (S_i, D) >= 0; the seed is not used."""
    pooled = {p: pool(x, p) for p in NORMS}
    p = max(NORMS, key=lambda norm: separation(pooled[norm], labels))  # the first of equal ones
    return Dtpm(p, classifiers.fit_svm(pooled[p], labels, classes, SVM_C), classes)


def scores(model, x):
    """Scores (n, classes) of the features of segments."""
    return classifiers.svm_scores(model.weights, pool(x, model.p), model.classes)


def pool(x, p):
    """Vectors (n, 7 D) of unit length: Lp pools of the pyramid's parts, times the weight of their level.

    x: n arrays (S_i, D), not negative. A part's pool is (mean of x^p)^(1/p), its maximum for infinite p. An utterance
    without any feature above 0 has a vector of zeros.
    """
    x = [np.pad(segments, ((0, max(0, max(LEVELS) - len(segments))), (0, 0)), "edge") for segments in x]
    lengths = np.array([len(segments) for segments in x])
    starts, segments = np.cumsum(lengths) - lengths, np.concatenate(x).astype(np.float64)
    powers = segments if np.isinf(p) else segments**p  # (S, D)
    parts = []
    for level, weight in zip(LEVELS, LEVEL_WEIGHTS):
        bounds = lengths[:, None] * np.arange(level + 1) // level  # (n, level + 1): runs of nearly equal lengths
        first = (starts[:, None] + bounds[:, :-1]).ravel()
        if np.isinf(p):
            pools = np.maximum.reduceat(powers, first)
        else:
            pools = (np.add.reduceat(powers, first) / np.diff(bounds).reshape(-1, 1)) ** (1 / p)
        parts.append(weight * pools.reshape(len(x), -1))  # (n, level D)
    vectors = np.concatenate(parts, 1)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def separation(vectors, labels, neighbours=NEIGHBOURS):
    """Ratio J of the squared distances to the nearest vectors of other classes and to the nearest of the own class.

    vectors (n, D), labels (n,); all of a class where it has fewer than `neighbours` others.
    """
    distances = classifiers.square_distances(vectors, vectors)
    np.fill_diagonal(distances, np.inf)  # a vector is no neighbour of itself
    same = labels[:, None] == labels
    between, within = (np.sort(np.where(mask, distances, np.inf))[:, :neighbours] for mask in (~same, same))
    between, within = (part[np.isfinite(part)].sum() for part in (between, within))
    return between / max(within, 1e-12)
