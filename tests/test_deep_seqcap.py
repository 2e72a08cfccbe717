"""CNN-GRU-SeqCap: capsules, routing and mixture against plain loops, its start, and that its capsules learn."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, cross_entropy, max_pool2d, pad, relu

from comparisons import cnn_gru_seqcap
from comparisons.cnn_gru_seqcap import Routing, length, split_windows, squash
from fast import modules

SMALL = (48, 80)  # bins and frames: windows of 1 x 3 positions, 3 of them


def small(classes=3, dtype=torch.float64):
    """Network and input of small size; no bias is 0."""
    torch.manual_seed(0)
    model = cnn_gru_seqcap.build(classes, *SMALL).to(dtype)
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, std=0.1)
    return model, spectrograms(4, *SMALL).to(dtype)


def spectrograms(number, n_mels=200, frames=300):
    """Noise smoothed over about 10 bins and frames (0.1 s), with z-scores as those of normalised log-spectrograms."""
    x = avg_pool2d(torch.randn(number, 1, n_mels + 10, frames + 10), 11, 1)
    return (x - x.mean()) / x.std()


def plain_squash(s):
    square = (s * s).sum()
    return square / (1 + square) * s / torch.sqrt(square + 1e-8)


def plain_route(votes):
    """Routing as its equations have it, for votes[i][j] (d,): list of the capsules v_j."""
    capsules, others = len(votes), len(votes[0])
    b = [[votes[0][0].new_zeros(()) for _ in range(others)] for _ in range(capsules)]
    for step in range(3):
        c = [
            [b[i][j].exp() / sum(b[i][k].exp() for k in range(others)) for j in range(others)] for i in range(capsules)
        ]
        v = [plain_squash(sum(c[i][j] * votes[i][j] for i in range(capsules))) for j in range(others)]
        if step < 2:
            b = [[b[i][j] + votes[i][j] @ v[j] for j in range(others)] for i in range(capsules)]
    return v


def plain_branches(model, x):
    """Logits of both branches of a network for x (b, 1, f, t), capsule by capsule."""
    y = torch.cat([relu(model.wide(pad(x, (3, 4, 0, 1)))), relu(model.high(pad(x, (0, 1, 3, 4))))], 1)
    y = max_pool2d(relu(model.second(max_pool2d(y, (2, 1)))), 2)
    y = max_pool2d(relu(model.third(y)), 2)
    a, g, n = [], [], model.classes
    for segment in y:  # (16, f/8, t/4)
        outputs = []
        for start in range(0, segment.shape[2] - 9, 5):
            maps = relu(model.primary(segment[None, :, :, start : start + 10])[0])  # (32, f'', 3)
            u = [
                plain_squash(maps[8 * kind : 8 * kind + 8, row, column])
                for row in range(maps.shape[1]) for column in range(maps.shape[2]) for kind in range(4)
            ]  # fmt: skip
            w = model.window_weight.unflatten(2, (n, 16))  # (i, 8, n, 16)
            v = plain_route([[u[i] @ w[i, :, j] for j in range(n)] for i in range(len(u))])
            outputs.append(torch.cat([*v, *(torch.sqrt((part * part).sum() + 1e-8)[None] for part in v)]))
        votes = [(model.utterance_vote.weight @ o + model.utterance_vote.bias).view(n, 16) for o in outputs]
        a.append(model.capsule_classifier(torch.cat(plain_route(votes))))
        output, _ = model.gru(segment.permute(2, 0, 1).flatten(1))  # (t/4, 128)
        g.append(model.gru_classifier(relu(model.hidden(torch.cat([output[-1, :64], output[0, 64:]])))))
    return torch.stack(a), torch.stack(g)


def capsule_logits(model, x):
    """Logits of the capsule branch alone."""
    return model.capsule_logits(split_windows(model.convolve(x)))


# --------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("classes, parameters", [(4, 285_656), (6, 325_372)])
def test_sizes_are_those_of_the_table(classes, parameters):
    model = cnn_gru_seqcap.build(classes, 200, 300)
    assert sum(part.numel() for part in model.parameters()) == parameters
    y = model.convolve(torch.randn(1, 1, 200, 300))
    assert y.shape == (1, 16, 25, 75) and split_windows(y).shape == (1, 14, 16, 25, 10)


@pytest.mark.parametrize("sizes", [(40, 40), (40, 100), (96, 60)])
def test_input_of_other_sizes(sizes):
    assert cnn_gru_seqcap.build(3, *sizes)(torch.randn(2, 1, *sizes)).shape == (2, 3)


@pytest.mark.parametrize("sizes", [(44, 100), (40, 50), (32, 100), (40, 20)])
def test_input_that_windows_do_not_fill_is_refused(sizes):
    with pytest.raises(ValueError, match=f"multiple of 8 and frames of 20.*not {sizes[0]} and {sizes[1]}"):
        cnn_gru_seqcap.build(3, *sizes)


def test_windows_have_40_frames_at_each_20():
    y = torch.arange(25.0).expand(1, 2, 3, 25)  # 100 frames
    windows = split_windows(y)
    assert windows.shape == (1, 4, 2, 3, 10)
    assert [window[0, 0].tolist() for window in windows[0]] == [[*range(k, k + 10)] for k in (0, 5, 10, 15)]


def test_squash_turns_lengths_to_less_than_1_and_changes_no_direction():
    torch.manual_seed(0)
    s = torch.randn(50, 8, dtype=torch.float64) * torch.logspace(-2, 3, 50, dtype=torch.float64)[:, None]
    v, n = squash(s), s.norm(dim=1)
    torch.testing.assert_close(v.norm(dim=1), n**2 / (1 + n**2), rtol=1e-3, atol=0)
    assert (v.norm(dim=1) < 1).all() and v.norm(dim=1).max() > 0.99
    torch.testing.assert_close(v / v.norm(dim=1, keepdim=True), s / n[:, None])
    zero = torch.zeros(1, 8, requires_grad=True)
    (squash(zero).sum() + length(zero).sum()).backward()
    assert not squash(zero).any() and zero.grad.isfinite().all()


def test_routing_and_its_gradient_are_those_of_a_loop():
    torch.manual_seed(0)
    votes = torch.randn(3, 3, 5, 4, dtype=torch.float64)  # (m, N, i, d)
    votes = (votes * torch.tensor([1.0, 1e-4, 0.0])[:, None, None, None]).requires_grad_()
    upstream = torch.randn(3, 3, 4, dtype=torch.float64)
    expected = torch.stack([torch.stack(plain_route(part.transpose(0, 1))) for part in votes])
    (gradient,) = torch.autograd.grad(expected, votes, upstream, retain_graph=True)
    for routing in (Routing(), modules.accelerate(Routing(), "cpu")):
        capsules = routing(votes)
        torch.testing.assert_close(capsules, expected)
        torch.testing.assert_close(torch.autograd.grad(capsules, votes, upstream)[0], gradient)
    assert (expected - squash(votes.mean(2)))[0].abs().max() > 0.05  # equal shares would be something else


def test_network_is_that_of_the_loops_and_gradients_reach_all_weights():
    model, x = small()
    a, g = plain_branches(model, x)
    torch.testing.assert_close(capsule_logits(model, x), a)
    torch.testing.assert_close(model.gru_logits(model.convolve(x)), g)
    logits, expected = model(x), torch.log(0.6 * a.softmax(1) + 0.4 * g.softmax(1))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(4, dtype=torch.float64))
    cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    assert all(part.grad.any() for part in model.parameters())


def test_the_order_of_the_windows_changes_nothing_in_the_capsules():
    model, x = small()
    windows = split_windows(model.convolve(x))
    logits, reverse = model.capsule_logits(windows), model.capsule_logits(windows.flip(1))
    torch.testing.assert_close(logits, reverse)
    assert (model.capsule_logits(windows[:, :2]) - logits).abs().max() > 1e-4  # the windows differ
    assert (model.gru_logits(model.convolve(x).flip(3)) - model.gru_logits(model.convolve(x))).abs().max() > 1e-2


# ------------------------------------------------------------------------------------ start, training


def test_capsules_of_different_spectrograms_differ_at_the_start():
    torch.manual_seed(0)
    x = spectrograms(16)
    for seed in range(3):
        torch.manual_seed(seed)
        model = cnn_gru_seqcap.build(6, 200, 300)
        with torch.no_grad():
            assert model(x).std(0).min() > 0.005
            assert capsule_logits(model, x).std(0).min() > 0.005  # 0.0002 with PyTorch's own initial weights


def test_the_capsules_alone_learn():
    torch.manual_seed(0)
    model, labels = cnn_gru_seqcap.build(2, *SMALL), torch.arange(8) % 2
    x = torch.randn(8, 1, *SMALL)
    x[labels == 1, :, :24] += 1
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=cnn_gru_seqcap.SETTINGS["lr"]), []
    for _ in range(25):
        loss = cross_entropy(capsule_logits(model, x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
