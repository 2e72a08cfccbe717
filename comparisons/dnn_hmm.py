"""DNN-HMM: a network's posteriors of the states that hidden Markov models of the emotions give to the frames.

Mao, Tao, Zhang, Ching, Lee, ICASSP 2019, of whose text we know the first page: subspace Gaussian mixtures label the
frames, a network learns the labels. 39 MFCC with differences and an emotion as a word are recalled, not read. Ours:
inputs and labels of plain Gaussian mixtures (gmm_hmm.py), states, topology, the network of 11 frames and its training.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from comparisons import frame_networks, hmm

DESCRIPTORS = "mfcc39"
SETTINGS = dict(normalization="fold")
SEEDED = True
PUBLISHED = ("DNN-SALi", "DNN-HMM SGMM-Ali.")
EXTENT = "reading"
NOTE = "alignments are of a GMM, not of a subspace GMM; states, topology and network are ours"

CONTEXT = 5  # frames to each side
HIDDEN = 512
EPOCHS, BATCH = 10, 256


class DnnHmm(NamedTuple):
    """A trained method."""

    chains: list  # of each class; their transitions are used, not their mixtures
    network: object  # an nn.Module: (s, 11 * 39) -> (s, 5 classes) logits of the states, class after class
    log_priors: np.ndarray  # (5 classes,) of the states in the training frames


def fit(x, labels, classes, seed):
    """Train on frames, a list of n arrays (T_i, 39)."""
    of_class = hmm.clips_of_classes(x, labels, classes)
    chains = [hmm.fit_chain(clips) for clips in of_class]
    paths = [chain.best_paths(*hmm.join(clips))[1] for chain, clips in zip(chains, of_class)]
    states = np.concatenate([path + k * hmm.STATES for k, path in enumerate(paths)])  # (T,), class after class
    counts = np.bincount(states, minlength=classes * hmm.STATES)  # none is 0: a path passes all states
    windows, rows = context_windows([clip for clips in of_class for clip in clips])
    sizes = [windows.shape[1], HIDDEN, HIDDEN, HIDDEN, classes * hmm.STATES]
    network = frame_networks.train(
        lambda: frame_networks.dense(sizes), windows, rows, states, seed, EPOCHS, BATCH, fused=True
    )
    return DnnHmm(chains, network, np.log(counts / len(states)))


def scores(model, x):
    """Scores (n, classes) of frames: softmax of the best paths' log-likelihood, divided by the number of frames.

    A state's likelihood of a frame is its posterior over its prior, up to a factor that all states share.
    """
    clips = hmm.fill_up(x)
    lengths = np.array([len(clip) for clip in clips])
    logits = frame_networks.outputs(model.network, *context_windows(clips))
    likelihoods = logits.log_softmax(1).double().numpy() - model.log_priors  # (T, 5 classes)
    totals = [
        hmm.viterbi(own, lengths, chain.log_stay, chain.log_move)[0]
        for own, chain in zip(np.split(likelihoods, len(model.chains), axis=1), model.chains)
    ]
    return softmax(np.stack(totals, 1) / lengths[:, None], axis=1)


def context_windows(clips):
    """Windows of 11 frames, a tensor (W, 11 D), and the row of each frame's window (T,), with a clip's edges repeated.

    The tensor is a view: neighbouring windows share their frames in memory. Windows across two clips are not used.
    """
    import torch  # takes a second; tables and the audit do without it

    padded = np.concatenate([np.pad(clip, ((CONTEXT, CONTEXT), (0, 0)), "edge") for clip in clips])
    length, size = 2 * CONTEXT + 1, padded.shape[1]
    windows = torch.from_numpy(padded).as_strided((len(padded) - length + 1, length * size), (size, 1))
    frames, lengths = np.arange(sum(map(len, clips))), [len(clip) for clip in clips]
    return windows, torch.from_numpy(frames + np.repeat(2 * CONTEXT * np.arange(len(clips)), lengths))
