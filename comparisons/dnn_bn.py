"""DNN-BN: a frame network's bottleneck features, their statistics of an utterance, and a second network.

The tables give no details. Kim, Shin, ICASSP 2019, is the only paper that we found on bottleneck features of acoustic
frames for emotions, so it is a guess. Its abstract states a network that makes high-level features of frames,
statistics of these over the utterance, and another network that classifies, with features of words as well; there are
none here. Ours: frames and windows of DNN+ELM, all sizes, the four statistics, and the training.
"""

from typing import NamedTuple

import numpy as np

from comparisons import frame_networks

DESCRIPTORS = "mfcc_pitch_hnr"
SETTINGS = dict(normalization="fold")
SEEDED = True
PUBLISHED = ("DNN-BN",)
EXTENT = "reading"
NOTE = "the row's paper is guessed; sizes, statistics and training are ours, and no words are used"

HIDDEN, BOTTLENECK = 512, 64
EPOCHS, BATCH = 5, 256  # of the frame network, whose windows are many and much alike
SECOND_HIDDEN = 128
SECOND_EPOCHS, SECOND_BATCH = 30, 32


class DnnBn(NamedTuple):
    """A trained method; both networks are nn.Modules."""

    front: object  # the frame network up to its bottleneck: windows (S, 750) -> (S, 64)
    mean: np.ndarray  # (256,) of the training utterances' statistics
    deviation: np.ndarray
    second: object  # (n, 256) -> (n, classes) logits


def fit(x, labels, classes, seed):
    """Train on frames, a list of n arrays (T_i, 30)."""
    windows, rows, counts = frame_networks.windows_of(x)
    sizes = [windows[0].numel(), HIDDEN, HIDDEN, BOTTLENECK, HIDDEN, classes]
    network = frame_networks.train(
        lambda: frame_networks.dense(sizes, linear=3), windows, rows, np.repeat(labels, counts), seed, EPOCHS, BATCH
    )
    front = network[:5]  # three layers, with ReLU after the first two
    numbers = bottleneck_statistics(front, windows, rows, counts)
    mean, deviation = numbers.mean(0), numbers.std(0) + 1e-6
    second = frame_networks.train(
        lambda: frame_networks.dense([len(mean), SECOND_HIDDEN, classes]),
        *as_inputs((numbers - mean) / deviation), labels, seed, SECOND_EPOCHS, SECOND_BATCH,
    )  # fmt: skip
    return DnnBn(front, mean, deviation, second)


def scores(model, x):
    """Scores (n, classes) of frames: posteriors of the second network."""
    numbers = bottleneck_statistics(model.front, *frame_networks.windows_of(x))
    logits = frame_networks.outputs(model.second, *as_inputs((numbers - model.mean) / model.deviation))
    return logits.double().softmax(1).numpy()


def bottleneck_statistics(front, windows, rows, counts):
    """Mean, standard deviation, minimum and maximum of the bottleneck's outputs of each utterance: (n, 256)."""
    outputs = frame_networks.outputs(front, windows, rows).double().numpy()  # (S, 64)
    starts = np.cumsum(counts) - counts
    mean, square = (np.add.reduceat(values, starts) / counts[:, None] for values in (outputs, outputs**2))
    lowest, highest = (extreme.reduceat(outputs, starts) for extreme in (np.minimum, np.maximum))
    return np.concatenate([mean, np.sqrt((square - mean**2).clip(0)), lowest, highest], 1)


def as_inputs(numbers):
    """Vectors (n, D) and all their rows, as the networks take them."""
    import torch

    return torch.from_numpy(numbers.astype(np.float32)), torch.arange(len(numbers))
