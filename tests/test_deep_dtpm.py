"""DTPM pooling: its network, the temporal pyramid with Lp norm, the choice of p, and the back end."""

import numpy as np
import pytest
import torch
from helpers import shaken
from torch.nn.functional import cross_entropy

import features
from comparisons import dtpm_pooling as dtpm


@pytest.fixture(autouse=True)
def same_seed():
    torch.manual_seed(0)


# --------------------------------------------------------------------------------------------- network


def test_front_end_and_number_of_parameters():
    front_end = dtpm.FRONT_END
    assert front_end.segment_hop == 30 * front_end.hop_length and front_end.overlap_fits()
    assert features.log_mel(np.zeros(16_000, np.float32), front_end).shape == (3, 64, 64)  # 98 frames: 0, 30, 60
    network = dtpm.build(6, *front_end.row_shape)
    assert sum(weight.numel() for weight in network.parameters()) == 563_814


def test_sizes_follow_from_the_input_and_others_are_refused():
    x = torch.randn(3, 1, 16, 48)
    network = dtpm.build(5, 16, 48)
    assert network(x).shape == (3, 5) and network.embed(x).shape == (3, 256) and (network.embed(x) >= 0).all()
    with pytest.raises(ValueError, match="multiples of 16, not 64 and 50"):
        dtpm.build(5, 64, 50)


def test_deltas_are_the_regression_over_two_frames_on_each_side():
    x = torch.randn(1, 1, 3, 20)
    value, delta, double_delta = dtpm.DtpmNetwork(2, 16, 16).with_deltas(x)[0].double()  # (3, 20) each

    def regression(row, t):
        return sum(n * (row[min(t + n, 19)] - row[max(t - n, 0)]) for n in (1, 2)) / (2 * (1 + 4))

    for row in range(3):
        expected = [regression(x[0, 0, row].tolist(), t) for t in range(20)]
        assert delta[row].tolist() == pytest.approx(expected, abs=1e-6)
        expected = [regression(expected, t) for t in range(2, 18)]
        assert double_delta[row, 4:16].tolist() == pytest.approx(expected[2:14], abs=1e-6)
    assert torch.equal(value, x[0, 0].double())


def test_the_network_has_alexnets_order_of_layers():
    network, x = shaken(dtpm.build(3, 16, 32)), torch.randn(2, 1, 16, 32).double()
    y = network.with_deltas(x)
    for number, layer in enumerate(network.convolutions):
        y = torch.conv2d(y, layer.weight, layer.bias, layer.stride, layer.padding).clamp(min=0)
        if number in (0, 1, 4):
            y = y.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    for layer in (network.hidden, network.embedding):
        y = (y.flatten(1) @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(network.embed(x), y)
    torch.testing.assert_close(network(x), y @ network.classifier.weight.T + network.classifier.bias)


def test_gradients_reach_all_weights_and_the_loss_falls():
    network, labels = dtpm.build(2, 16, 32), torch.arange(8) % 2
    x = torch.randn(8, 1, 16, 32) + labels.view(8, 1, 1, 1)
    optimizer, losses = torch.optim.Adam(network.parameters(), dtpm.SETTINGS["lr"]), []
    for _ in range(8):
        loss = cross_entropy(network(x), labels)
        optimizer.zero_grad()
        loss.backward()
        assert all(weight.grad.any() for weight in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert not network.deltas.requires_grad


def test_bfloat16_is_close_to_float32():
    network, x = dtpm.build(4, 32, 16).eval(), torch.randn(4, 1, 32, 16)
    with torch.no_grad():
        exact = network(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded, deltas = network(x).float(), network.with_deltas(x)
    assert (rounded - exact).abs().max() < 0.03 * exact.abs().max()
    assert deltas.dtype == torch.float32


# --------------------------------------------------------------------------------------------- pooling


def direct(segments, p):
    """Vector of an utterance (S, D) by the formula, part by part."""
    segments = [*segments.astype(np.float64)] + [segments[-1].astype(np.float64)] * max(0, 4 - len(segments))
    n, pools = len(segments), []
    for level, weight in ((1, 1 / 4), (2, 1 / 4), (4, 1 / 2)):
        for number in range(level):
            part = [
                segment for i, segment in enumerate(segments) if number * n // level <= i < (number + 1) * n // level
            ]
            mean = sum(segment**p for segment in part) / len(part) if p < np.inf else None
            pools.append(weight * (np.max(part, 0) if p == np.inf else mean ** (1 / p)))
    return np.concatenate(pools) / np.linalg.norm(np.concatenate(pools))


@pytest.mark.parametrize("p", dtpm.NORMS)
def test_pools_are_those_of_the_formula(p):
    rng = np.random.default_rng(0)
    x = [rng.normal(0, 2, (n, 3)).clip(0).astype(np.float32) for n in range(1, 10)]
    x = [segments + (n == 0) for n, segments in enumerate(x)]  # the first has numbers above 0
    assert dtpm.pool(x, p) == pytest.approx(np.stack([direct(segments, p) for segments in x]), abs=1e-12)


@pytest.mark.parametrize("n", range(1, 10))
def test_the_parts_of_a_level_are_runs_that_share_all_segments(n):
    x = np.eye(n, dtype=np.float32)  # feature i is 1 in segment i
    levels = np.split(dtpm.pool([x], 1)[0].reshape(7, n), [1, 3])
    length = max(n, 4)
    owners = [segment if segment < n else n - 1 for segment in range(length)]  # the last is repeated
    for level in levels:
        members = [np.flatnonzero(part) for part in level]
        assert all(len(part) and (np.diff(part) == 1).all() for part in members)
        assert np.unique(np.concatenate(members)).tolist() == list(range(n))
        sizes = [round(1 / part[part > 0].min() * part.sum()) for part in level]  # a segment counts 1 / size
        if n >= 4:
            assert sum(sizes) == n and max(sizes) - min(sizes) <= 1
            assert [segment for part in members for segment in part] == owners
    halves, quarters = (level > 0 for level in levels[1:])
    assert np.array_equal(halves, quarters.reshape(2, 2, n).any(1))  # a half is two quarters


@pytest.mark.parametrize("p", [1, 10, np.inf])
def test_features_without_any_activity_give_zeros(p):
    x = [np.zeros((5, 3), np.float32), np.ones((5, 3), np.float32)]
    vectors = dtpm.pool(x, p)
    assert not vectors[0].any() and np.linalg.norm(vectors[1]) == pytest.approx(1)


def test_separation_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    vectors, labels = rng.normal(size=(20, 3)), np.repeat([0, 1, 2], [12, 6, 2])
    within = between = 0.0
    for i in range(20):
        distances = [np.square(vectors[i] - vectors[j]).sum() for j in range(20)]
        own = sorted(distances[j] for j in range(20) if labels[j] == labels[i] and j != i)
        others = sorted(distances[j] for j in range(20) if labels[j] != labels[i])
        within, between = within + sum(own[:4]), between + sum(others[:4])
    assert dtpm.separation(vectors, labels, neighbours=4) == pytest.approx(between / within)
    assert np.isfinite(dtpm.separation(np.ones((4, 2)), np.array([0, 0, 1, 1])))


def with_peaks(rng, level, peak, n=90):
    """Utterances of 4 to 64 segments and labels (n,) of two classes.

    Feature 1 is always 1. Feature 0 is at the level of the class, but for a peak in each quarter of the utterance.
    """
    labels, x = np.arange(n) % 2, []
    for label in labels:
        segments = np.ones((4, rng.integers(1, 17), 2))  # (quarters, segments, features)
        segments[..., 0] = level[label]
        segments[:, 0, 0] = peak[label] if peak else rng.uniform(1, 5)
        x.append(segments.reshape(-1, 2).astype(np.float32))
    return x, labels


def test_p_is_the_maximum_where_it_alone_separates():
    rng = np.random.default_rng(0)
    x, labels = with_peaks(rng, level=(0.1, 0.1), peak=(1.0, 1.1))  # a share of peaks that varies hides them
    model = dtpm.fit(x, labels, 2, seed=0)
    assert model.p == np.inf
    ratios = [dtpm.separation(dtpm.pool(x, p), labels) for p in dtpm.NORMS]
    assert ratios[-1] > 2 * max(ratios[:-1])
    unseen, true = with_peaks(rng, level=(0.1, 0.1), peak=(1.0, 1.1))
    assert (dtpm.scores(model, unseen).argmax(1) == true).mean() == 1


def test_p_is_small_where_peaks_are_noise():
    x, labels = with_peaks(np.random.default_rng(0), level=(0.1, 0.9), peak=None)
    assert dtpm.fit(x, labels, 2, seed=0).p <= 2


def test_the_back_end_learns_and_gives_distributions():
    rng = np.random.default_rng(0)

    def three_classes(n):
        labels = np.arange(n) % 3
        x = [(rng.normal(0, 1, (rng.integers(1, 10), 12)) + 3 * np.eye(3, 12)[k]).clip(0) for k in labels]
        return [segments.astype(np.float32) for segments in x], labels

    x, labels = three_classes(60)
    unseen, true = three_classes(30)
    scores = dtpm.scores(dtpm.fit(x, labels, 3, seed=0), unseen)
    assert scores.shape == (30, 3) and (scores >= 0).all() and scores.sum(1) == pytest.approx(1)
    assert (scores.argmax(1) == true).mean() > 0.9
    assert np.array_equal(scores, dtpm.scores(dtpm.fit(x, labels, 3, seed=1), unseen))
