"""Networks of dense layers on windows of frames, for the methods that train them within `fit`.

    windows, rows, counts = windows_of(x)            # x: a list of n arrays of frames (T_i, D)
    network = train(lambda: dense([25 * D, 256, classes]), windows, rows, np.repeat(labels, counts), seed, epochs=5)
    logits = outputs(network, windows, rows)         # (S, classes)

The functions import torch: that takes a second, and tables and the audit do without it.
"""

import numpy as np

WINDOW_FRAMES = 25
BATCH, LEARNING_RATE = 128, 1e-3
SCORED_AT_ONCE = 32_768  # windows


def windows_of(x):
    """Windows of 25 frames of n utterances, arrays (T_i, D); short ones are filled up with their last frame.

    Returns a view (W, D, 25) without a copy of the frames, the rows (S,) of those windows that lie within an utterance,
    in the order of the utterances, and their number in each utterance (n,).
    """
    import torch

    x = [np.pad(frames, ((0, max(0, WINDOW_FRAMES - len(frames))), (0, 0)), "edge") for frames in x]
    lengths = np.array([len(frames) for frames in x])
    counts = lengths - WINDOW_FRAMES + 1
    skipped = (WINDOW_FRAMES - 1) * np.arange(len(x))  # windows across two utterances, before each
    rows = np.arange(counts.sum()) + np.repeat(skipped, counts)
    return torch.from_numpy(np.concatenate(x)).unfold(0, WINDOW_FRAMES, 1), torch.from_numpy(rows), counts


def dense(sizes, linear=None):
    """Dense layers of those sizes, with ReLU after each hidden layer but that of number `linear`."""
    from torch import nn

    layers = []
    for number, (inputs, size) in enumerate(zip(sizes, sizes[1:]), 1):
        layers += [nn.Linear(inputs, size)] + [nn.ReLU()] * (number not in (linear, len(sizes) - 1))
    return nn.Sequential(*layers)


def train(build, inputs, rows, labels, seed, epochs, batch=BATCH, fused=False):
    """The network that `build()` makes, trained with Adam and cross-entropy on some rows of inputs (W, ...).

    rows (s,) are indices of inputs, labels (s,) their classes; each batch is gathered, so that windows are not copied.
    `fused` takes torch's fused Adam, which is faster for large networks and rounds differently.
    """
    import torch
    from torch.nn.functional import cross_entropy

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build()
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE, fused=fused)
        labels = torch.from_numpy(labels)
        for _ in range(epochs):
            for chosen in torch.randperm(len(rows)).split(batch):
                loss = cross_entropy(network(inputs[rows[chosen]].flatten(1)), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network


def outputs(network, inputs, rows):
    """Outputs of a network for some rows of inputs (W, ...): a tensor (s, outputs)."""
    import torch

    with torch.no_grad():
        return torch.cat([network(inputs[part].flatten(1)) for part in rows.split(SCORED_AT_ONCE)])
