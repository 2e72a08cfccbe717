"""Hidden Markov models of utterances: left-to-right chains whose states are mixtures of Gaussians, with numpy.

A chain starts in its first state, ends in its last and skips none. It is trained by Viterbi re-estimation: the best
path of each training clip, then self-loops and mixtures from the frames of each state, in rounds of 1, 2, 4 and 8
Gaussians a state. All settings are constants of ours: none was chosen on results.
"""

from typing import NamedTuple

import numpy as np

from comparisons import classifiers

STATES = 5
GAUSSIANS = (1, 2, 4, 8)  # of a state, in each round
ITERATIONS = 5  # of a round
SPLIT = 0.2  # standard deviations between a Gaussian and each of its two halves
SELF_LOOPS = (0.1, 0.999)  # lowest and highest probability; 0 would shut out clips of other lengths


class Chain(NamedTuple):
    """A left-to-right hidden Markov model of S states with G Gaussians each."""

    mixture: classifiers.Mixture  # of S * G Gaussians, state after state; the weights of each state sum to 1
    log_stay: np.ndarray  # (S,) log probability of the self-loop
    log_move: np.ndarray  # (S,) of the step to the next state, or from the last state to the end

    def log_densities(self, frames):
        """Log of weight times density of each Gaussian: (T, D) -> (T, S, G)."""
        return self.mixture.log_densities(frames).reshape(len(frames), len(self.log_stay), -1)

    def best_paths(self, frames, lengths):
        """Log-likelihood (n,) and states (T,) of the best paths of joined clips: frames (T, D), lengths (n,)."""
        return viterbi(log_sum(self.log_densities(frames)), lengths, self.log_stay, self.log_move)


def fill_up(clips):
    """The clips (T_i, D), those of fewer frames than STATES with their last frame repeated."""
    return [np.pad(clip, ((0, max(0, STATES - len(clip))), (0, 0)), "edge") for clip in clips]


def clips_of_classes(x, labels, classes):
    """Lists of the clips of each class, filled up: x is a list of n arrays (T_i, D), labels (n,)."""
    return [fill_up([x[i] for i in np.flatnonzero(labels == k)]) for k in range(classes)]


def join(clips):
    """Frames of n clips (T_i, D), clip after clip as (T, D), and the clips' lengths (n,)."""
    return np.concatenate(clips), np.array([len(clip) for clip in clips])


def log_sum(joint):
    """Log of the sum of exponentials over the Gaussians: (..., G) -> (...); faster than scipy's for few of them."""
    highest = joint.max(-1, keepdims=True)
    return highest[..., 0] + np.log(np.exp(joint - highest).sum(-1))


def viterbi(log_likelihoods, lengths, log_stay, log_move):
    """Best path of each of n clips through a left-to-right chain of S states.

    log_likelihoods (T, S) are those of the clips' frames, clip after clip; lengths (n,), each S or more; log_stay and
    log_move (S,) as in Chain. Returns the log-likelihood of each clip's path (n,), the step to the end included, and
    the state of each frame (T,).
    """
    longest_first = np.argsort(-lengths, kind="stable")
    starts = (lengths.cumsum() - lengths)[longest_first]
    running = len(lengths) - np.searchsorted(np.sort(lengths), np.arange(lengths.max()), side="right")
    best = np.full((len(lengths), len(log_stay)), -np.inf)  # of the paths up to a frame that end in each state
    best[:, 0] = log_likelihoods[starts, 0]
    has_moved = np.zeros(log_likelihoods.shape, bool)  # into the state at this frame, in the best path
    for t in range(1, len(running)):
        n = running[t]  # the first n clips have a frame t
        rows = starts[:n] + t
        reached = best[:n] + log_stay  # (n, S)
        moved = best[:n, :-1] + log_move[:-1]  # (n, S - 1)
        has_moved[rows, 1:] = moved > reached[:, 1:]
        np.maximum(reached[:, 1:], moved, out=reached[:, 1:])
        best[:n] = reached + log_likelihoods[rows]
    path = np.empty(len(log_likelihoods), np.int64)
    state = np.full(len(lengths), len(log_stay) - 1)
    for t in reversed(range(len(running))):
        n = running[t]
        rows = starts[:n] + t
        path[rows] = state[:n]
        state[:n] -= has_moved[rows, state[:n]]
    totals = np.empty(len(lengths))
    totals[longest_first] = best[:, -1] + log_move[-1]
    return totals, path


def fit_chain(clips, gaussians=GAUSSIANS, iterations=ITERATIONS):
    """Chain of clips, a list of arrays (T_i, D) of STATES or more frames, by Viterbi re-estimation.

    It starts from clips cut into equal runs. The likelihood of the best paths never falls within a round.
    """
    frames, lengths = join(clips)
    path = np.concatenate([np.arange(length) * STATES // length for length in lengths])
    joint = np.zeros((len(frames), STATES, 1), frames.dtype)
    chain = estimate(frames, path, joint, np.zeros((STATES, 1, frames.shape[1]), frames.dtype), len(clips))
    for number in gaussians:
        chain = split(chain, number)
        for _ in range(iterations):
            joint = chain.log_densities(frames)
            _, path = viterbi(log_sum(joint), lengths, chain.log_stay, chain.log_move)
            means = chain.mixture.means.reshape(STATES, number, -1)
            chain = estimate(frames, path, joint, means, len(clips))
    return chain


def estimate(frames, path, joint, means, clips):
    """Chain of frames (T, D) in the states (T,) of their paths, by a step of expectation maximisation in each state.

    joint (T, S, G) and means (S, G, D) are those of the chain before.
    """
    mixtures = []
    for state, state_means in enumerate(means):
        rows = np.flatnonzero(path == state)  # not empty: a path passes all states
        own = joint[rows, state]  # (T_s, G)
        shares = np.exp(own - log_sum(own)[:, None])
        mixtures.append(classifiers.mixture_of(frames[rows], shares, state_means))
    mixture = classifiers.Mixture(*(np.concatenate(parts) for parts in zip(*mixtures)))
    self_loops = np.clip(1 - clips / np.bincount(path), *SELF_LOOPS)
    return Chain(mixture, np.log(self_loops), np.log1p(-self_loops))


def split(chain, number):
    """The chain with `number` Gaussians in each state: the heaviest is halved until there are as many."""
    states = np.arange(len(chain.log_stay))
    log_weights, means, variances = (part.reshape(len(states), -1, *part.shape[1:]) for part in chain.mixture)
    while log_weights.shape[1] < number:
        heaviest = states, log_weights.argmax(1)
        offset = np.zeros_like(means)
        offset[heaviest] = SPLIT * np.sqrt(variances[heaviest])
        halved = log_weights[heaviest][:, None] - np.log(2)  # (S, 1)
        log_weights = np.concatenate([log_weights, halved], 1)
        log_weights[heaviest] = halved[:, 0]
        means = np.concatenate([means - offset, (means + offset)[heaviest][:, None]], 1)
        variances = np.concatenate([variances, variances[heaviest][:, None]], 1)
    mixture = classifiers.Mixture(log_weights.ravel(), *(x.reshape(-1, x.shape[2]) for x in (means, variances)))
    return chain._replace(mixture=mixture)
