"""Networks on windows of frames, and the bottleneck features of DNN-BN."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from comparisons import dnn_bn, frame_networks


def utterances(rng, n=30, size=30):
    """Frames, arrays (T_i, size) of 5 to 60 frames, and labels (n,) of three classes."""
    labels = np.arange(n) % 3
    x = [rng.normal(0, 1, (rng.integers(5, 60), size)) + 2 * np.eye(3, size)[k] for k in labels]
    return [frames.astype(np.float32) for frames in x], labels


def test_windows_are_the_25_frames_of_an_utterance_from_each_start():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 4)).astype(np.float32) for n in (30, 25, 3, 26)]
    windows, rows, counts = frame_networks.windows_of(x)
    assert counts.tolist() == [6, 1, 1, 2]
    expected = []
    for frames in x:
        frames = [*frames] + [frames[-1]] * (25 - len(frames))
        expected += [np.stack(frames[start : start + 25], 1) for start in range(len(frames) - 24)]
    assert np.array_equal(windows[rows].numpy(), expected)
    assert windows.untyped_storage().nbytes() == (30 + 25 + 25 + 26) * 4 * 4  # the frames alone


def test_layers_have_a_relu_between_them_but_after_the_bottleneck():
    network = frame_networks.dense([6, 5, 4, 3, 2], linear=3)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear", "Linear"]
    assert [network[i].out_features for i in (0, 2, 4, 5)] == [5, 4, 3, 2]
    assert [type(layer).__name__ for layer in frame_networks.dense([6, 5, 2])] == ["Linear", "ReLU", "Linear"]


def test_a_step_is_adam_on_the_chosen_rows_and_leaves_the_callers_random_numbers_alone():
    inputs, rows, labels = torch.randn(20, 3, 4), torch.tensor([2, 5, 7, 19]), np.array([0, 1, 1, 0])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    trained = frame_networks.train(
        lambda: frame_networks.dense([12, 2]), inputs, rows, labels, seed=3, epochs=2, batch=9
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    network = frame_networks.dense([12, 2])
    optimizer = torch.optim.Adam(network.parameters(), lr=frame_networks.LEARNING_RATE)
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(network(inputs[rows].flatten(1)), torch.from_numpy(labels)).backward()
        optimizer.step()
    torch.testing.assert_close(trained.state_dict(), network.state_dict())


def test_outputs_of_blocks_are_those_of_all_rows_at_once(monkeypatch):
    network, inputs, rows = frame_networks.dense([12, 5, 2]), torch.randn(20, 3, 4), torch.arange(1, 20, 2)
    monkeypatch.setattr(frame_networks, "SCORED_AT_ONCE", 3)
    torch.testing.assert_close(frame_networks.outputs(network, inputs, rows), network(inputs[1::2].flatten(1)).detach())


def test_statistics_are_those_of_each_utterance():
    x, _ = utterances(np.random.default_rng(0), n=5)
    windows, rows, counts = frame_networks.windows_of(x)
    front = frame_networks.dense([750, 8, 3])
    parts = np.split(front(windows[rows].flatten(1)).detach().double().numpy(), np.cumsum(counts)[:-1])
    expected = [np.concatenate([part.mean(0), part.std(0), part.min(0), part.max(0)]) for part in parts]
    assert dnn_bn.bottleneck_statistics(front, windows, rows, counts) == pytest.approx(np.stack(expected), abs=1e-6)


def test_the_networks_have_their_sizes_and_the_second_sees_z_scores(monkeypatch):
    x, labels = utterances(np.random.default_rng(0), n=6)
    built, seen, train = [], [], frame_networks.train

    def recording(build, inputs, *more):
        seen.append(inputs)
        built.append(train(build, inputs, *more))
        return built[-1]

    monkeypatch.setattr(frame_networks, "train", recording)
    model = dnn_bn.fit(x, labels, 3, seed=0)
    shapes = [[tuple(layer.weight.shape)[::-1] for layer in network if hasattr(layer, "weight")] for network in built]
    assert shapes == [[(750, 512), (512, 512), (512, 64), (64, 512), (512, 3)], [(256, 128), (128, 3)]]
    assert model.front[-1].out_features == 64 and type(built[0][5]).__name__ == "Linear"  # a linear bottleneck
    assert seen[1].mean(0).abs().max() < 1e-5 and (seen[1].std(0, correction=0) - 1).abs().max() < 1e-2
    numbers = dnn_bn.bottleneck_statistics(model.front, *frame_networks.windows_of(x[:1]))
    logits = model.second(torch.from_numpy((numbers - model.mean) / model.deviation).float())
    assert dnn_bn.scores(model, x[:1]) == pytest.approx(logits.softmax(1).detach().numpy(), abs=1e-6)


def test_it_learns_repeats_and_gives_distributions():
    rng = np.random.default_rng(0)
    x, labels = utterances(rng)
    unseen, true = utterances(rng)
    first, again, other = (dnn_bn.scores(dnn_bn.fit(x, labels, 3, seed), unseen) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (30, 3) and first.dtype == np.float64 and first.sum(1) == pytest.approx(1)
    assert (first.argmax(1) == true).mean() > 0.8
