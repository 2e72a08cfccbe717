"""GerDA: contrastive divergence, the trace criterion, and the method on problems with a known answer."""

import numpy as np
import pytest
import torch

from comparisons import gerda


def three_rings(rng, n, size):
    """Vectors (n, size) whose class is the distance of their first two numbers from 0, and labels (n,)."""
    labels, angles = np.arange(n) % 3, rng.uniform(0, 2 * np.pi, n)
    x = rng.normal(0, 0.3, (n, size))
    x[:, :2] += (1 + 3 * labels)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return x.astype(np.float32), labels


@pytest.fixture
def small(monkeypatch):
    """Small layers."""
    monkeypatch.setattr(gerda, "HIDDEN", (32, 16))


# ----------------------------------------------------------------------------- contrastive divergence


@pytest.mark.parametrize("is_gaussian", [True, False])
def test_contrastive_divergence_is_that_of_its_formula(is_gaussian):
    rng = np.random.default_rng(0)
    v, w, b, c = (rng.normal(size=size) for size in ((3, 4), (4, 2), 4, 2))
    v, noise = (v if is_gaussian else (v > 0).astype(float)), rng.random((3, 2))

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    expected = [np.zeros((4, 2)), np.zeros(4), np.zeros(2)]
    for row, threshold in zip(v, noise):
        h = [sigmoid(c[j] + sum(w[i, j] * row[i] for i in range(4))) for j in range(2)]
        states = [float(threshold[j] < h[j]) for j in range(2)]
        again = [b[i] + sum(w[i, j] * states[j] for j in range(2)) for i in range(4)]
        again = again if is_gaussian else [sigmoid(value) for value in again]
        h_again = [sigmoid(c[j] + sum(w[i, j] * again[i] for i in range(4))) for j in range(2)]
        for i in range(4):
            expected[1][i] += (row[i] - again[i]) / 3
            for j in range(2):
                expected[0][i, j] += (row[i] * h[j] - again[i] * h_again[j]) / 3
        expected[2] += (np.array(h) - h_again) / 3
    found = gerda.cd_gradients(*map(torch.from_numpy, (v, w, b, c, noise)), is_gaussian)
    for ours, reference in zip(found, expected):
        assert ours.numpy() == pytest.approx(reference, abs=1e-12)


@pytest.mark.parametrize("is_gaussian", [True, False])
def test_a_machine_learns_what_its_inputs_have_in_common(is_gaussian):
    torch.manual_seed(0)
    source = torch.randint(2, (300, 1)).float()  # two numbers follow it, two oppose it, eight are noise
    v = torch.cat([source, source, 1 - source, 1 - source, torch.randint(2, (300, 8))], 1)
    v = 6 * (v - 0.5) if is_gaussian else v
    weights, bias = gerda.train_rbm(v, 16, is_gaussian)
    assert weights.shape == (12, 16) and bias.shape == (16,)
    common = (weights[:2].mean(0) - weights[2:4].mean(0)).abs().mean() / 2
    assert common > 3 * weights[4:].abs().mean()
    h = (v @ weights + bias).sigmoid()
    assert torch.corrcoef(torch.cat([source, h], 1).T)[0, 1:].abs().max() > 0.9


# ------------------------------------------------------------------------------------ trace criterion


def test_the_criterion_is_that_of_a_loop_over_pairs_of_classes():
    rng = np.random.default_rng(0)
    z, labels = rng.normal(size=(12, 2)), np.array([0] * 6 + [1] * 4 + [2] * 2)
    z[:, 0] += labels
    total, between = np.zeros((2, 2)), np.zeros((2, 2))
    for row in z:
        total += np.outer(row - z.mean(0), row - z.mean(0)) / 12
    for k in range(3):
        for m in range(3):
            difference = z[labels == k].mean(0) - z[labels == m].mean(0)
            between += np.mean(labels == k) * np.mean(labels == m) * np.outer(difference, difference) / 2
    expected = np.trace(np.linalg.inv(total + gerda.RIDGE * np.eye(2)) @ between)
    found = gerda.criterion(torch.from_numpy(z), torch.from_numpy(labels), 3)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_the_criterion_is_all_outputs_for_classes_that_are_points():
    labels = torch.arange(60) % 3
    points = 100 * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[labels]
    assert gerda.criterion(points, labels, 3).item() == pytest.approx(2, abs=1e-4)
    assert gerda.criterion(torch.zeros(60, 2), labels, 3).item() == 0


def test_training_raises_the_criterion(small, monkeypatch):
    x, labels = three_rings(np.random.default_rng(0), 300, 6)

    def criterion_after(steps):
        monkeypatch.setattr(gerda, "LBFGS_STEPS", steps)
        layers = gerda.train_layers(x, labels, 3, seed=0)
        assert [w.shape for w, _ in layers] == [(6, 32), (32, 16), (16, 2)]
        return gerda.criterion(torch.from_numpy(gerda.outputs(layers, x)), torch.from_numpy(labels), 3).item()

    start, end = criterion_after(1), criterion_after(200)
    assert start < 1 and 1.8 < end < 2


# --------------------------------------------------------------------------------------------- method


def test_it_separates_what_no_line_separates_and_repeats(small):
    rng = np.random.default_rng(0)
    x, labels = three_rings(rng, 300, 6)
    unseen, true = three_rings(rng, 90, 6)
    state = torch.get_rng_state()
    first, again, other = (gerda.scores(gerda.fit(x, labels, 3, seed), unseen) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (90, 3) and first.sum(1) == pytest.approx(1)
    assert (first.argmax(1) == true).mean() > 0.9


def test_a_rotation_of_the_vectors_changes_nothing_but_rounding(small, monkeypatch):
    monkeypatch.setattr(gerda, "LBFGS_STEPS", 3)  # later steps magnify rounding
    rng = np.random.default_rng(0)
    x, labels = three_rings(rng, 15, 40)  # fewer vectors than numbers
    basis = np.linalg.qr(x.T)[0]
    layers = gerda.train_layers(x @ basis, labels, 3, seed=0)
    model = gerda.fit(x, labels, 3, seed=0)
    assert model.layers[0][0].shape == (40, 32)
    assert gerda.outputs(model.layers, x) == pytest.approx(gerda.outputs(layers, x @ basis), rel=1e-3, abs=1e-3)
    outside = rng.normal(size=40)
    outside -= basis @ (basis.T @ outside)
    moved = (x + 10 * outside).astype(np.float32)
    assert gerda.outputs(model.layers, moved) == pytest.approx(gerda.outputs(model.layers, x), rel=1e-3, abs=1e-3)


def test_posteriors_are_of_gaussians_with_the_covariance_of_all_classes(small):
    x, labels = three_rings(np.random.default_rng(0), 60, 6)
    model = gerda.fit(x + 0.5 * np.random.default_rng(1).normal(size=x.shape).astype(np.float32), labels, 3, seed=0)
    z = model.whitening(gerda.outputs(model.layers, x))
    nearness = [[-np.square(row - mean).sum() / 2 for mean in model.means] for row in z]
    expected = np.exp(nearness - np.max(nearness, 1, keepdims=True))
    assert gerda.scores(model, x) == pytest.approx(expected / expected.sum(1, keepdims=True), abs=1e-9)


def test_numbers_without_variation_do_no_harm(small):
    rng = np.random.default_rng(0)
    x, labels = three_rings(rng, 300, 6)
    unseen, true = three_rings(rng, 90, 6)
    x[:, 4:], unseen[:, 4:] = 0, 0
    assert (gerda.scores(gerda.fit(x, labels, 3, 0), unseen).argmax(1) == true).mean() > 0.9
    assert np.isfinite(gerda.scores(gerda.fit(np.zeros_like(x), labels, 3, 0), unseen)).all()
