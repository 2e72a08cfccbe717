"""ADARL and its ablation: comparisons/adarl.py and adarl_off.py."""

import copy

import pytest
import torch
from helpers import shaken
from torch import nn
from torch.nn import functional as F

from comparisons import adarl, adarl_off

SPEAKERS = 4


def build(domains=True, classes=3, n_mels=16, frames=24):
    """The network, or its ablation without domains."""
    return adarl.build(classes, n_mels, frames, SPEAKERS) if domains else adarl_off.build(classes, n_mels, frames)


BOTH = pytest.mark.parametrize("domains", [True, False], ids=["adarl", "adarl-off"])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def separable_batch():
    """Segments (24, 1, 16, 24), labels and speakers (24,); a class has bands raised, a speaker the level of all."""
    x, number = torch.randn(24, 1, 16, 24), torch.arange(24)
    labels, speakers = number % 3, number // 3 % SPEAKERS
    for segment, label, speaker in zip(x, labels, speakers):
        segment[:, 5 * label : 5 * label + 5] += 2
        segment *= 1 + speaker
    return x, labels, speakers


def losses_of(model, x, labels, speakers):
    """Losses (b,) as the training takes them."""
    if hasattr(model, "losses"):
        return model.losses(x, labels, speakers)
    return F.cross_entropy(model(x), labels, reduction="none")


def test_the_number_of_weights():
    counts = [
        sum(part.numel() for part in network.parameters())
        for network in (adarl.build(6, 80, 128, 3), adarl.build(4, 80, 128, 9), adarl_off.build(6, 80, 128))
    ]
    assert counts == [119_873, 119_873 - 2 * 129 + 6 * 65, 119_873 - 3 * 65]


@BOTH
def test_sizes_that_fit_give_logits_and_others_an_error(domains):
    for n_mels, frames in ((16, 24), (40, 16)):
        assert build(domains, 5, n_mels, frames)(torch.randn(3, 1, n_mels, frames)).shape == (3, 5)
    for n_mels, frames in ((20, 16), (16, 20)):
        with pytest.raises(ValueError, match=f"multiples of 8, not {n_mels} and {frames}"):
            build(domains, 5, n_mels, frames)


@BOTH
@pytest.mark.parametrize("training", [True, False])
def test_logits_and_losses_are_their_equations(domains, training):
    model = shaken(build(domains)).train(training)
    x, labels, speakers = torch.randn(6, 1, 16, 24).double(), torch.tensor([0, 1, 2, 2, 1, 0]), torch.arange(6) % 4

    def block(y, layer):
        norm = copy.deepcopy(layer.norm)  # statistics change in training
        return F.max_pool2d(F.relu(norm(F.conv2d(y, layer.convolution.weight, padding=1))), 2)

    z, y = x, block(x, model.first_block)
    for layer in model.domain_blocks:
        z = block(z, layer)
    z = z.flatten(2).mean(2)
    assert z.shape == (6, 64) and y.shape == (6, 32, 8, 12)
    weighted = torch.empty_like(y)
    for i in range(6):
        for band in range(8):
            weight = (model.band_weights.weight[band] @ z[i] + model.band_weights.bias[band]).sigmoid()
            weighted[i, :, band] = weight.item() * y[i, :, band]
    for layer in model.later_blocks:
        weighted = block(weighted, layer)
    logits = weighted.flatten(2).mean(2) @ model.classifier.weight.mT + model.classifier.bias
    expected = -logits.log_softmax(1)[range(6), labels]
    torch.testing.assert_close(copy.deepcopy(model)(x), logits)
    if domains:
        domain = z @ model.domain_classifier.weight.mT + model.domain_classifier.bias
        expected = expected - domain.log_softmax(1)[range(6), speakers]
    losses = losses_of(model, x, labels, speakers)
    torch.testing.assert_close(losses, expected.to(losses.dtype))


@BOTH
def test_gradients_reach_all_weights(domains):
    model = build(domains)
    losses_of(model, *separable_batch()).mean().backward()
    assert [name for name, part in model.named_parameters() if part.grad is None or not part.grad.any()] == []


def test_without_the_domains_loss_both_networks_train_alike(monkeypatch):
    monkeypatch.setattr(adarl, "DOMAIN_WEIGHT", 0.0)
    known, unknown = build(True), build(False)
    assert known.load_state_dict(unknown.state_dict(), strict=False).missing_keys == [
        "domain_classifier.weight", "domain_classifier.bias"
    ]  # fmt: skip
    batch = separable_batch()
    for model in (known, unknown):
        losses_of(model, *batch).mean().backward()
    assert not known.domain_classifier.weight.grad.any()
    for name, part in unknown.named_parameters():
        torch.testing.assert_close(known.get_parameter(name).grad, part.grad, msg=name)


def test_the_domains_loss_reaches_the_domain_branch_alone():
    model, (x, labels, speakers) = build(True), separable_batch()
    other = (speakers + 1) % SPEAKERS
    difference = model.losses(x, labels, speakers).mean() - model.losses(x, labels, other).mean()
    difference.backward()
    gradients = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    changed = {name.split(".")[0] for name, gradient in gradients.items() if gradient.abs().max() > 1e-6}
    assert changed == {"domain_blocks", "domain_classifier"}


@BOTH
def test_it_learns(domains):
    model, (x, labels, speakers) = build(domains), separable_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        losses.append(losses_of(model, x, labels, speakers).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.9 and losses[-1] < 0.3
    assert torch.equal(model(x).argmax(1), labels)
    if domains:
        assert torch.equal(model.domain_classifier(model.embed_domain(x)).argmax(1), speakers)


@BOTH
def test_bfloat16_is_close_to_float32(domains):
    model, (x, labels, speakers) = build(domains), separable_batch()
    twin = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = twin(x).float()
    expected = model(x)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.02 * expected.abs().max().item())
    assert not torch.equal(logits, expected)
    for name, value in model.named_buffers():  # the statistics of batch norm, used in float32 for scores
        torch.testing.assert_close(dict(twin.named_buffers())[name], value, rtol=5e-3, atol=5e-3, msg=name)
    if domains:
        with torch.autocast("cpu", torch.bfloat16):
            losses = twin.losses(x, labels, speakers)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses, model.losses(x, labels, speakers), rtol=0.02, atol=0)


@BOTH
def test_weights_lie_in_channels_last(domains):
    convolutions = [part.weight for part in build(domains).modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 6
    assert all(weight.stride(1) == 1 for weight in convolutions)  # of a single channel's too, whose strides are free
