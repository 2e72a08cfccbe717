"""CNN-LSTM: three convolutions on a log-spectrogram, then a bidirectional LSTM over its frames.

Satt, Rozenberg, Hoory, Interspeech 2017. Its abstract states convolutions and an LSTM on raw spectrograms of up to 3 s
without overlap; ATFNN adds three convolutions and a grid of 10 Hz. Ours: windows and range of the spectrogram, segments
of equal length, all sizes of layers, and the training. The paper's variant with repeated rare classes is left out.
"""

import torch
from torch import nn
from torch.nn.functional import max_pool2d

import models

FRONT_END = "spectrum-10"
BATCH = 16
SETTINGS = dict(epochs=50, batch_size=BATCH, lr=1e-3)
TRACK = "validation"
PUBLISHED = ("CNN-LSTM", "CNN+LSTM Model")
EXTENT = "reading"
NOTE = "layers and training are ours"

CHANNELS = (16, 24, 32)
POOLS = ((4, 2), (4, 2), (5, 1))  # (frequency, time)


def build(classes, n_mels, frames):
    """The network for that many classes, frequency bins and frames; ValueError for sizes that the pools do not divide."""
    return CNNLSTM(classes, n_mels, frames).to(memory_format=torch.channels_last)


class CNNLSTM(nn.Module):
    """(b, 1, f, t) -> (b, classes) logits.

    Three 5 x 5 convolutions, each with ReLU and a max pool, then the last state of each direction of an LSTM that reads
    32 f/80 numbers at each of t/4 steps. Raises ValueError unless n_mels is a multiple of 80 and frames of 4.
    """

    def __init__(self, classes, n_mels=400, frames=300):
        super().__init__()
        if n_mels % 80 or frames % 4:
            raise ValueError(f"CNN-LSTM: n_mels must be a multiple of 80 and frames of 4, not {n_mels} and {frames}")
        sizes = zip((1, *CHANNELS), CHANNELS)
        self.convolutions = nn.ModuleList(nn.Conv2d(inputs, outputs, 5, padding=2) for inputs, outputs in sizes)
        self.time_encoder = models.TimeEncoder(CHANNELS[-1] * n_mels // 80, hidden=128, layers=1)
        self.classifier = nn.Linear(256, classes)

    def forward(self, x):
        if not torch.is_grad_enabled() and len(x) > BATCH:  # scoring has 256 segments, which would take 2 GB at once
            return torch.cat([self(part) for part in x.split(BATCH)])
        for convolution, pool in zip(self.convolutions, POOLS):
            x = self.convolve(x, convolution, pool)
        with torch.autocast(x.device.type, enabled=False):  # it would run the LSTM in float16 on a GPU
            x = x.permute(0, 3, 1, 2).flatten(2).to(self.classifier.weight.dtype)  # (b, t/4, 32 * f/80)
            return self.classifier(self.time_encoder(x))

    def convolve(self, x, convolution, pool):
        """A layer; ReLU comes after the pool, where it gives the same on a fraction of the numbers."""
        return max_pool2d(convolution(x), pool).relu_()
