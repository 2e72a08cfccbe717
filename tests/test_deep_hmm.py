"""Hidden Markov models: the chains of comparisons/hmm.py, and the methods GMM-HMM and DNN-HMM."""

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from comparisons import dnn_hmm, gmm_hmm, hmm, lld_gmm

METHODS = (gmm_hmm, dnn_hmm)


def best_of_all_paths(emissions, log_stay, log_move):
    """Largest log-likelihood of all paths through a left-to-right chain, and its path: emissions (T, S)."""
    length, states = emissions.shape
    candidates = []
    for steps in combinations(range(1, length), states - 1):
        path = np.searchsorted(steps, np.arange(length), side="right")
        value = emissions[range(length), path].sum() + log_move[-1]
        value += sum(log_move[i] if i != j else log_stay[i] for i, j in pairwise(path))
        candidates.append((value, path))
    return max(candidates, key=lambda candidate: candidate[0])


def transitions(rng, states):
    """Random log probabilities of self-loops and of steps, (states,) each."""
    self_loops = rng.uniform(0.2, 0.9, states)
    return np.log(self_loops), np.log(1 - self_loops)


def clips_in_order(rng, n, order, lengths=(4, 9), size=3):
    """n clips (T_i, size) of noise around a corner for each state, in this order, each of a random length."""
    runs = rng.integers(*lengths, (n, len(order)))
    corners = 3 * np.eye(size)[list(order)]
    clips = [np.repeat(corners, run, axis=0) for run in runs]
    return [(clip + rng.normal(0, 1, clip.shape)).astype(np.float32) for clip in clips]


def two_orders(seed, n=30):
    """Clips and labels of two emotions that pass the same states in opposite order."""
    rng = np.random.default_rng(seed)
    x = [clips_in_order(rng, 1, (order[k], 1, order[not k]))[0] for order in [(0, 2)] * n for k in (0, 1)]
    return x, np.arange(2 * n) % 2


# ---------------------------------------------------------------------------------------------- chains


def test_the_best_path_is_that_of_all_paths():
    rng, states = np.random.default_rng(0), 3
    lengths = np.array([5, 3, 8, 4, 8, 3, 6])
    log_stay, log_move = transitions(rng, states)
    emissions = rng.normal(0, 2, (lengths.sum(), states))
    totals, paths = hmm.viterbi(emissions, lengths, log_stay, log_move)
    parts = np.split(np.arange(lengths.sum()), lengths.cumsum()[:-1])
    for total, rows in zip(totals, parts):
        best, path = best_of_all_paths(emissions[rows], log_stay, log_move)
        assert total == pytest.approx(best) and np.array_equal(paths[rows], path)


def test_an_emission_is_the_likelihood_of_its_state():
    rng = np.random.default_rng(1)
    chain = hmm.fit_chain(clips_in_order(rng, 6, range(5), size=5), gaussians=(1, 2), iterations=2)
    frames = rng.normal(0, 1, (7, 5)).astype(np.float32)
    densities = hmm.log_sum(chain.log_densities(frames))  # (7, states)
    weights, means, variances = (x.reshape(5, 2, -1).astype(np.float64) for x in chain.mixture)
    assert np.exp(weights).sum(1) == pytest.approx(1)
    for t, state in ((0, 0), (3, 4), (6, 2)):
        exponents = -np.square(frames[t] - means[state]) / (2 * variances[state])  # (2, 5)
        parts = np.exp(exponents) / np.sqrt(2 * np.pi * variances[state])
        expected = np.log((np.exp(weights[state, :, 0]) * parts.prod(1)).sum())
        assert densities[t, state] == pytest.approx(expected, rel=1e-4)


def test_the_likelihood_never_falls_within_a_round_and_more_gaussians_raise_it():
    rng = np.random.default_rng(2)
    clips = [clip.astype(np.float64) for clip in clips_in_order(rng, 12, (0, 2, 1, 0), lengths=(5, 30))]
    clips = [clip + np.sign(rng.normal(size=(len(clip), 1))) for clip in clips]  # two bumps in a state

    def likelihood(gaussians, iterations):
        return hmm.fit_chain(clips, gaussians, iterations).best_paths(*hmm.join(clips))[0].sum()

    for number in hmm.GAUSSIANS:
        steps = np.diff([likelihood((number,), iterations) for iterations in range(1 + hmm.ITERATIONS)])
        assert (steps > -1e-7).all() and (steps > 0).any()
    rounds = [likelihood(hmm.GAUSSIANS[:n], hmm.ITERATIONS) for n in range(1, 1 + len(hmm.GAUSSIANS))]
    assert (np.diff(rounds) > 0).all()


def test_training_finds_the_states_and_their_durations():
    clips = clips_in_order(np.random.default_rng(3), 40, range(5), lengths=(4, 25), size=5)
    chain = hmm.fit_chain(clips, gaussians=(1,))
    assert chain.mixture.means == pytest.approx(3 * np.eye(5), abs=0.2)
    assert chain.mixture.variances == pytest.approx(1, abs=0.2)
    assert 1 / (1 - np.exp(chain.log_stay)) == pytest.approx(14, rel=0.2)  # mean of 4 to 24 frames
    assert np.exp(chain.log_stay) + np.exp(chain.log_move) == pytest.approx(1)


def test_the_heaviest_gaussian_is_split():
    chain = hmm.Chain(
        hmm.classifiers.Mixture(np.log([0.9, 0.1, 0.4, 0.6]), np.arange(4.0)[:, None], np.full((4, 1), 4.0)),
        np.log([0.5, 0.5]), np.log([0.5, 0.5]),
    )  # fmt: skip
    log_weights, means, variances = hmm.split(chain, 3).mixture
    assert np.exp(log_weights) == pytest.approx([0.45, 0.1, 0.45, 0.4, 0.3, 0.3])
    assert means[:, 0] == pytest.approx([-0.4, 1, 0.4, 2, 2.6, 3.4]) and (variances == 4).all()
    assert np.exp(hmm.split(chain, 4).mixture[0]) == pytest.approx([0.225, 0.1, 0.45, 0.225, 0.2, 0.3, 0.3, 0.2])


# --------------------------------------------------------------------------------------------- methods


def test_the_network_has_its_parameters():
    x = list(np.random.default_rng(0).normal(size=(6, 20, 39)).astype(np.float32))
    network = dnn_hmm.fit(x, np.arange(6), 6, 0).network
    assert sum(weights.numel() for weights in network.parameters()) == 760_862


def test_windows_are_the_frames_around_each_frame():
    clips = [np.random.default_rng(i).normal(size=(length, 2)).astype(np.float32) for i, length in enumerate((7, 12))]
    windows, rows = dnn_hmm.context_windows(clips)
    expected = [
        np.concatenate([clip[np.clip(t + offset, 0, len(clip) - 1)] for offset in range(-5, 6)])
        for clip in clips
        for t in range(len(clip))
    ]
    assert np.array_equal(windows[rows], expected)


@pytest.mark.parametrize("method", METHODS)
def test_emotions_that_differ_in_the_order_of_their_states_are_separated(method):
    (x, labels), (unseen, true) = two_orders(0), two_orders(1)
    assert (method.scores(method.fit(x, labels, 2, seed=0), unseen).argmax(1) == true).mean() > 0.95
    without_order = lld_gmm.scores(lld_gmm.fit(x, labels, 2, seed=0), unseen)
    assert (without_order.argmax(1) == true).mean() < 0.75


def test_the_seed_decides_the_network_and_nothing_else():
    (x, labels), (unseen, _) = two_orders(0, n=8), two_orders(1, n=4)
    torch.manual_seed(3)
    first, again, other = (dnn_hmm.scores(dnn_hmm.fit(x, labels, 2, seed), unseen) for seed in (1, 1, 2))
    after = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(3))  # the caller's random numbers are untouched
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    first, other = (gmm_hmm.scores(gmm_hmm.fit(x, labels, 2, seed), unseen) for seed in (1, 2))
    assert np.array_equal(first, other)


def test_a_score_of_the_mixtures_is_the_likelihood_of_a_frame():
    (x, labels), (unseen, _) = two_orders(0, n=8), two_orders(1, n=2)
    chains, frames = gmm_hmm.fit(x, labels, 2, seed=0), unseen[0][:9]
    totals = [
        best_of_all_paths(hmm.log_sum(chain.log_densities(frames)), chain.log_stay, chain.log_move)[0]
        for chain in chains
    ]
    expected = np.exp(np.array(totals) / len(frames))
    assert gmm_hmm.scores(chains, [unseen[1], frames])[1] == pytest.approx(expected / expected.sum(), rel=1e-3)


def test_a_score_of_the_network_is_its_posterior_over_the_prior():
    (x, labels), (unseen, _) = two_orders(0, n=8), two_orders(1, n=2)
    model = dnn_hmm.fit(x, labels, 2, seed=0)
    paths = [chain.best_paths(*hmm.join(x[k::2]))[1] for k, chain in enumerate(model.chains)]
    shares = np.concatenate([np.bincount(path, minlength=5) for path in paths]) / sum(map(len, paths))
    assert np.exp(model.log_priors) == pytest.approx(shares)
    frames = unseen[0][:9]
    padded = np.pad(frames, ((5, 5), (0, 0)), "edge")
    inputs = torch.from_numpy(np.stack([padded[t : t + 11].ravel() for t in range(len(frames))]))
    with torch.no_grad():
        likelihoods = model.network(inputs).softmax(1).double().log().numpy() - np.log(shares)
    own = np.split(likelihoods, 2, axis=1)
    totals = [best_of_all_paths(own[k], chain.log_stay, chain.log_move)[0] for k, chain in enumerate(model.chains)]
    expected = np.exp(np.array(totals) / len(frames))
    assert dnn_hmm.scores(model, [unseen[1], frames])[1] == pytest.approx(expected / expected.sum(), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_short_clips_repeat_their_last_frame(method):
    x, labels = two_orders(0, n=8)
    x[:2] = x[0][:1], x[1][:4]
    model = method.fit(x, labels, 2, seed=0)
    short = x[2][:3]
    found = method.scores(model, [short, short[[0, 1, 2, 2, 2]], short[:1], x[4]])
    assert np.isfinite(found).all() and found[0] == pytest.approx(found[1])
    assert found[3] == pytest.approx(method.scores(model, [x[4]])[0], rel=1e-4)  # short neighbours change nothing


@pytest.mark.parametrize("method", METHODS)
def test_silence_and_a_class_of_a_single_clip_give_finite_scores(method):
    x, labels = two_orders(0, n=6)
    x += [np.zeros((40, 3), np.float32), np.zeros((5, 3), np.float32), x[0][:9]]  # classes 2, 2 and 3
    labels = np.append(labels, [2, 2, 3])
    with np.errstate(invalid="raise", divide="raise", over="raise"):
        found = method.scores(method.fit(x, labels, 4, seed=0), [*x, 10 * np.ones((70, 3), np.float32)])
    assert np.isfinite(found).all() and found.sum(1) == pytest.approx(1)
    if method is gmm_hmm:  # the few steps of a network on so few frames learn little
        assert (found.argmax(1) == 2).tolist() == [False] * 12 + [True] * 2 + [False] * 2
