"""CNN-GRU-SeqCap: capsules of windows, routed to capsules of the utterance, next to a GRU over the same convolutions.

Wu et al., ICASSP 2019. From public notes and re-implementations: the convolutions, windows of 40 frames at each 20,
capsules of 16 numbers for each class, a window's vector of capsules and lengths, three routing steps, the GRU, the
weights 0.6 and 0.4 of both branches, Xavier's initialisation, Adam, batch size and epochs. Ours: that windows count
frames of the spectrogram, what their first capsules are, the deviations of the initial weights, a constant learning
rate, a GRU branch without its dropout of 0.5, and the training of both branches through their mixture.
"""

from math import log, sqrt

import torch
from torch import nn
from torch.nn.functional import max_pool2d, pad

FRONT_END = "spectrum-20"
SETTINGS = dict(epochs=20, batch_size=16, lr=1e-3)
TRACK = "validation"
PUBLISHED = ("GRU-CNN-SeqCap", "CNN GRU-SeqCap")
EXTENT = "most"
NOTE = "after public notes; the first capsules and a constant learning rate are ours, and no dropout is used"

WINDOW, HOP = 40, 20  # frames of a window, and between the starts of two
KINDS, PRIMARY, CAPSULE = 4, 8, 16  # kinds of first capsules at a position, their numbers, those of the others
ROUTING_STEPS = 3
CAPSULE_WEIGHT = 0.6  # of the capsules' probabilities; the rest is the GRU's
EPSILON = 1e-8  # under roots


def build(classes, n_mels, frames):
    """Network for that many classes, frequency bins and frames; ValueError for sizes that its windows do not fill."""
    return SeqCap(classes, n_mels, frames).to(memory_format=torch.channels_last)


def length(s):
    """Lengths (...) of capsules (..., d); the epsilon gives a root at 0 a gradient."""
    return (s.square().sum(-1) + EPSILON).sqrt()


def squash(s):
    """Capsules (..., d) of the same direction, whose length n becomes n^2 / (1 + n^2)."""
    square = s.square().sum(-1, keepdim=True)
    return square / (1 + square) / (square + EPSILON).sqrt() * s


class Routing(nn.Module):
    """Capsules v (m, N, d) from the votes (m, N, i, d) of i capsules for N others, by agreement.

    b = 0; three times: c = softmax of b over N, s = sum_i c votes, v = squash(s), b += votes . v
    """

    def forward(self, votes):
        b = votes.new_zeros(votes.shape[:3])
        for _ in range(ROUTING_STEPS):
            c = b.softmax(1)  # (m, N, i)
            v = squash(torch.einsum("mni,mnid->mnd", c, votes))
            b = b + torch.einsum("mnid,mnd->mni", votes, v)
        return v


def split_windows(y):
    """Windows of 40 frames at each 20: (b, 16, f/8, t/4) -> (b, w, 16, f/8, 10), a view."""
    return y.unfold(3, WINDOW // 4, HOP // 4).permute(0, 3, 1, 2, 4)


class SeqCap(nn.Module):
    """(b, 1, f, t) -> (b, classes): logarithms of the mixture of both branches' probabilities.

    Raises ValueError unless f is a multiple of 8 and t of 20, both at least 40.
    """

    def __init__(self, classes, n_mels=200, frames=300):
        super().__init__()
        if min(n_mels, frames) < WINDOW or n_mels % 8 or frames % HOP:
            raise ValueError(
                "CNN-GRU-SeqCap: n_mels must be a multiple of 8 and frames of 20, both at least 40, "
                f"not {n_mels} and {frames}"
            )
        rows, columns = n_mels // 8, WINDOW // 4  # of a window after the convolutions
        self.wide = nn.Conv2d(1, 8, (2, 8))  # bins, frames
        self.high = nn.Conv2d(1, 8, (8, 2))
        self.second = nn.Conv2d(16, 16, 5, padding=2)
        self.third = nn.Conv2d(16, 16, 5, padding=2)
        self.primary = nn.Conv2d(16, KINDS * PRIMARY, 5, stride=2)
        capsules = KINDS * ((rows - 3) // 2) * ((columns - 3) // 2)
        self.window_weight = nn.Parameter(torch.empty(capsules, PRIMARY, classes * CAPSULE))  # W
        self.routing = Routing()
        self.utterance_vote = nn.Linear((CAPSULE + 1) * classes, classes * CAPSULE)  # U and d
        self.capsule_classifier = nn.Linear(classes * CAPSULE, classes)
        self.gru = nn.GRU(16 * rows, 64, batch_first=True, bidirectional=True)
        self.hidden = nn.Linear(128, 64)
        self.gru_classifier = nn.Linear(64, classes)
        self.classes = classes
        self.initialize()

    def initialize(self):
        """Xavier's weights; the gain of the convolutions keeps capsules from vanishing in two squashes."""
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                nn.init.zeros_(weight)
            elif weight.ndim == 4:
                nn.init.xavier_uniform_(weight, gain=sqrt(2))
            elif weight.ndim == 2:
                nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.window_weight, std=sqrt(2 / (PRIMARY + CAPSULE)))

    def forward(self, x):
        y = self.convolve(x)  # (b, 16, f/8, t/4)
        with torch.autocast(x.device.type, enabled=False):
            y = y.to(self.window_weight.dtype)
            a, g = self.capsule_logits(split_windows(y)), self.gru_logits(y)  # (b, classes)
            a, g = a.log_softmax(1) + log(CAPSULE_WEIGHT), g.log_softmax(1) + log(1 - CAPSULE_WEIGHT)
            return torch.logaddexp(a, g)

    def convolve(self, x):
        """(b, 1, f, t) -> (b, 16, f/8, t/4). A pool before the ReLU gives what it gives after it."""
        y = self.convolve_first(x)  # (b, 16, f/2, t)
        y = max_pool2d(self.second(y), 2).relu_()  # (b, 16, f/4, t/2)
        return max_pool2d(self.third(y), 2).relu_()

    def convolve_first(self, x):
        """The convolutions of 2 x 8 and 8 x 2, concatenated, and the pool of 2 x 1: (b, 1, f, t) -> (b, 16, f/2, t)."""
        wide = max_pool2d(self.wide(pad(x, (3, 4, 0, 1))), (2, 1))  # (b, 8, f/2, t)
        high = max_pool2d(self.high(pad(x, (0, 1, 3, 4))), (2, 1))
        return torch.cat([wide, high], 1).relu_()

    def capsule_logits(self, windows):
        """Sequential capsules: (b, w, 16, f/8, 10) -> (b, classes), in whatever order the w windows are."""
        (b, w), n = windows.shape[:2], self.classes
        capsules = self.window_capsules(windows.flatten(0, 1))  # (b w, n, 16)
        o = torch.cat([capsules.flatten(1), length(capsules)], 1)  # (b w, 17 n)
        votes = self.utterance_vote(o).view(b, w, n, CAPSULE).transpose(1, 2)  # (b, n, w, 16)
        return self.capsule_classifier(self.routing(votes).flatten(1))

    def window_capsules(self, windows):
        """Capsules of the classes in each window: (m, 16, f/8, 10) -> (m, classes, 16)."""
        u = self.primary(windows).relu_().permute(0, 2, 3, 1)  # (m, f'', 3, kinds * 8)
        u = squash(u.reshape(len(u), -1, PRIMARY))  # (m, i, 8)
        votes = torch.bmm(u.transpose(0, 1), self.window_weight)  # (i, m, classes * 16)
        votes = votes.unflatten(2, (self.classes, CAPSULE)).permute(1, 2, 0, 3)
        return self.routing(votes)  # votes (m, classes, i, 16)

    def gru_logits(self, y):
        """The GRU over the columns: (b, 16, f/8, t/4) -> (b, classes)."""
        _, states = self.gru(y.permute(0, 3, 1, 2).flatten(2))  # (2, b, 64), the last of each direction
        return self.gru_classifier(self.hidden(torch.cat([states[0], states[1]], 1)).relu())
