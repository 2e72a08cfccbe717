"""FCN+Attention: its layers, local response normalisation and attention against loops; and that it learns."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d, pad, relu

from comparisons import fcn_attention

SMALL = (67, 75)  # bins and frames, the fewest bins: 1 x 1 positions


def small(classes=3, n_mels=67, frames=99):
    """Network and input, float64, with biases that are not 0; 1 x 2 positions."""
    torch.manual_seed(0)
    model = fcn_attention.build(classes, n_mels, frames).double()
    for convolution in model.convolutions:
        nn.init.normal_(convolution.bias, std=0.1)
    return model, torch.randn(4, 1, n_mels, frames, dtype=torch.float64)


def slow_forward(model, x):
    """The network with AlexNet's normalisation as its equation has it, position by position where it attends."""
    for number, convolution in enumerate(model.convolutions):
        x = relu(convolution(x.contiguous()))
        if number < 2:
            channels, around = x.shape[1], pad(x.square(), (0, 0, 0, 0, 2, 2))
            x = x / (2 + 1e-4 / 5 * sum(around[:, k : k + channels] for k in range(5))) ** 0.75
        x = max_pool2d(x, 3, 2) if number in (0, 1, 4) else x
    logits = []
    for segment in x:  # (256, f', t')
        positions = [segment[:, i, j] for i in range(segment.shape[1]) for j in range(segment.shape[2])]
        scores = [(model.score.weight @ torch.tanh(model.hidden(a))).squeeze() for a in positions]
        weights = torch.stack([(0.3 * score).exp() for score in scores])
        context = sum(weight / weights.sum() * a for weight, a in zip(weights, positions))
        logits.append(model.classifier.weight @ context + model.classifier.bias)
    return torch.stack(logits)


def test_sizes_are_those_of_the_table():
    assert sum(part.numel() for part in fcn_attention.build(6, 200, 300).parameters()) == 3_791_558
    model, x = fcn_attention.build(4, 200, 300), torch.randn(2, 1, 200, 300)
    assert sum(part.numel() for part in model.parameters()) == 3_791_044
    logits, maps = model(x, return_maps=True)
    assert logits.shape == (2, 4) and maps["Attention"].shape == (2, 1, 5, 8)
    torch.testing.assert_close(maps["Attention"].sum((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("sizes", [(67, 67), (67, 99), (130, 67)])
def test_input_of_other_sizes(sizes):
    assert fcn_attention.build(3, *sizes)(torch.randn(2, 1, *sizes)).shape == (2, 3)


@pytest.mark.parametrize("sizes", [(66, 300), (200, 66)])
def test_input_that_is_too_small_is_refused(sizes):
    with pytest.raises(ValueError, match=f"at least 67, not {sizes[0]} and {sizes[1]}"):
        fcn_attention.build(3, *sizes)


def test_network_is_that_of_the_loop_and_gradients_reach_all_weights():
    model, x = small()
    logits = model(x)
    torch.testing.assert_close(logits, slow_forward(model, x))
    cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(part.grad.any() for part in model.parameters())


def test_it_learns():
    torch.manual_seed(0)
    model, labels = fcn_attention.build(2, *SMALL), torch.arange(8) % 2
    x = torch.randn(8, 1, *SMALL)
    x[labels == 1, :, :30] += 1
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=fcn_attention.SETTINGS["lr"]), []
    for _ in range(12):
        loss = cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
