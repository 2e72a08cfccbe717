"""STC and its ablation: comparisons/stc.py and stc_off.py."""

import copy

import pytest
import torch
from helpers import shaken
from torch import nn
from torch.nn import functional as F

from comparisons import stc, stc_off

NETWORKS = pytest.mark.parametrize("method", [stc, stc_off], ids=["stc", "stc-off"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def separable_batch():
    """Segments (12, 1, 16, 24) and labels (12,) of 3 classes; a class has its bands raised."""
    x, labels = torch.randn(12, 1, 16, 24), torch.arange(12) % 3
    for segment, label in zip(x, labels):
        segment[:, 5 * label : 5 * label + 5] += 2
    return x, labels


@pytest.mark.parametrize("method, six, four", [(stc, 99_752, 99_494), (stc_off, 93_670, 93_412)])
def test_the_number_of_weights(method, six, four):
    counts = [sum(part.numel() for part in method.build(classes, 80, 128).parameters()) for classes in (6, 4)]
    assert counts == [six, four]


@NETWORKS
def test_sizes_that_fit_give_logits_and_others_an_error(method):
    for n_mels, frames in ((16, 24), (40, 16)):
        assert method.build(5, n_mels, frames)(torch.randn(3, 1, n_mels, frames)).shape == (3, 5)
    for n_mels, frames in ((20, 16), (16, 20)):
        with pytest.raises(ValueError, match=f"multiples of 8, not {n_mels} and {frames}"):
            method.build(5, n_mels, frames)


@pytest.mark.parametrize("training", [True, False])
def test_a_block_is_convolution_norm_relu_and_pool(training):
    block, x = shaken(stc.ConvBlock(2, 8)).train(training), torch.randn(3, 2, 6, 10).double()
    norm = copy.deepcopy(block.norm)
    expected = F.max_pool2d(F.relu(norm(F.conv2d(x, block.convolution.weight, padding=1))), 2)
    assert expected.shape == (3, 8, 3, 5) and (expected == 0).any()
    torch.testing.assert_close(block(x), expected)


def test_the_attention_is_its_equations():
    attention, x = shaken(stc.STCAttention(16)), torch.randn(2, 16, 3, 5).double()
    first, _, second = attention.channel
    expected = torch.empty_like(x)
    for sample, target in zip(x, expected):
        m_f = [(attention.frequency.weight[0] @ sample[:, f].mean(1) + attention.frequency.bias) for f in range(3)]
        m_t = [(attention.time.weight[0] @ sample[:, :, t].mean(1) + attention.time.bias) for t in range(5)]
        hidden = (first.weight @ sample.mean((1, 2)) + first.bias).clamp(min=0)
        m_c = second.weight @ hidden + second.bias
        for c in range(16):
            for f in range(3):
                for t in range(5):
                    weights = m_f[f].sigmoid() * m_t[t].sigmoid() * m_c[c].sigmoid()
                    target[c, f, t] = sample[c, f, t] * weights.item()
    torch.testing.assert_close(attention(x), expected)


def test_the_ablation_is_the_network_whose_weights_are_1(monkeypatch):
    attentive, plain = shaken(stc.build(3, 16, 24)), stc_off.build(3, 16, 24).double()
    assert [type(layer) for layer in plain.layers] == [stc.ConvBlock] * 3
    for source, target in zip(attentive.layers[::2], plain.layers):
        target.load_state_dict(source.state_dict())
    plain.classifier.load_state_dict(attentive.classifier.state_dict())
    x = torch.randn(4, 1, 16, 24).double()
    assert (attentive.eval()(x) - plain.eval()(x)).abs().max() > 1e-3
    monkeypatch.setattr(stc.STCAttention, "weights", lambda self, x: torch.ones_like(x))
    torch.testing.assert_close(attentive(x), plain(x))


@NETWORKS
def test_gradients_reach_all_weights(method):
    model, (x, labels) = method.build(3, 16, 24), separable_batch()
    F.cross_entropy(model(x), labels).backward()
    assert [name for name, part in model.named_parameters() if part.grad is None or not part.grad.any()] == []


@NETWORKS
def test_it_learns(method):
    model, (x, labels) = method.build(3, 16, 24), separable_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        losses.append(F.cross_entropy(model(x), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.8 and losses[-1] < 0.2
    assert torch.equal(model(x).argmax(1), labels)


@NETWORKS
def test_bfloat16_is_close_to_float32(method):
    model, x = method.build(3, 16, 24), separable_batch()[0]
    twin = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = twin(x).float()
    expected = model(x)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.02 * expected.abs().max().item())
    assert not torch.equal(logits, expected)
    for name, value in model.named_buffers():  # the statistics of batch norm, used in float32 for scores
        torch.testing.assert_close(dict(twin.named_buffers())[name], value, rtol=5e-3, atol=5e-3, msg=name)


@NETWORKS
def test_weights_lie_in_channels_last(method):
    convolutions = [part.weight for part in method.build(3, 16, 24).modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 3
    assert all(weight.stride(1) == 1 for weight in convolutions)  # of a single channel's too, whose strides are free
