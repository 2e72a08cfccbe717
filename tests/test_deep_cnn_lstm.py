"""CNN-LSTM: comparisons/cnn_lstm.py."""

import pytest
import torch
from helpers import shaken
from torch.nn import functional as F

import features
from comparisons import cnn_lstm


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def separable_batch():
    """Segments (12, 1, 80, 20) and labels (12,) of 3 classes; a class has its bins raised."""
    x, labels = torch.randn(12, 1, 80, 20), torch.arange(12) % 3
    for segment, label in zip(x, labels):
        segment[:, 25 * label : 25 * label + 25] += 1
    return x, labels


@pytest.mark.parametrize("classes, weights", [(6, 327_774), (4, 327_260)])
def test_the_number_of_weights(classes, weights):
    sizes = features.FRONT_ENDS[cnn_lstm.FRONT_END].row_shape
    assert sum(part.numel() for part in cnn_lstm.build(classes, *sizes).parameters()) == weights


def test_sizes_that_fit_give_logits_and_others_an_error():
    for n_mels, frames in ((80, 20), (160, 4)):
        assert cnn_lstm.build(5, n_mels, frames)(torch.randn(3, 1, n_mels, frames)).shape == (3, 5)
    for n_mels, frames in ((100, 20), (80, 22)):
        with pytest.raises(ValueError, match=f"of 80 and frames of 4, not {n_mels} and {frames}"):
            cnn_lstm.build(5, n_mels, frames)


def slow_lstm(x, lstm, suffix):
    """Last state of an LSTM that reads x (t, inputs) step by step."""
    weights = [getattr(lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    h = c = torch.zeros(lstm.hidden_size).double()
    for row in x:
        i, f, g, o = (weights[0] @ row + weights[1] @ h + weights[2] + weights[3]).chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    return h


def test_the_network_is_convolutions_with_pools_and_an_lstm_over_the_frames():
    model, x = shaken(cnn_lstm.build(3, 160, 12)), torch.randn(2, 1, 160, 12).double()
    y, expected = x, []
    for convolution, pool in zip(model.convolutions, ((4, 2), (4, 2), (5, 1))):
        y = F.max_pool2d(F.relu(F.conv2d(y, convolution.weight, convolution.bias, padding=2)), pool)
    assert y.shape == (2, 32, 2, 3)  # (b, channels, f/80, t/4)
    for segment in y:
        steps = [segment[:, :, t].flatten() for t in range(3)]
        states = (
            slow_lstm(steps, model.time_encoder.lstm, ""),
            slow_lstm(steps[::-1], model.time_encoder.lstm, "_reverse"),
        )
        expected.append(model.classifier.weight @ torch.cat(states) + model.classifier.bias)
    torch.testing.assert_close(model(x), torch.stack(expected))


def test_many_segments_are_scored_as_few_are():
    model, x = cnn_lstm.build(3, 80, 20).eval(), separable_batch()[0].repeat(3, 1, 1, 1)  # 36 segments
    with torch.inference_mode():
        logits = model(x)
    assert logits.shape == (36, 3) and cnn_lstm.BATCH < 36
    torch.testing.assert_close(logits, model(x))


def test_it_learns():
    model, (x, labels) = cnn_lstm.build(3, 80, 20), separable_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        losses.append(F.cross_entropy(model(x), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(part.grad.any() for part in model.parameters())
        optimizer.step()
    assert losses[0] > 0.8 and losses[-1] < 0.2
    assert torch.equal(model(x).argmax(1), labels)


def test_weights_lie_in_channels_last():
    for convolution in cnn_lstm.build(3, 80, 20).convolutions:
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
