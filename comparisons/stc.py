"""STC-Attention: a convolutional network whose features are weighted along time, frequency and channel.

Guo, Wang, Xu, Dang, Chng, Li, ICASSP 2021. Its abstract states that a module infers an attention map along time,
frequency and channel of the features of a CNN, and that F1 is then 3.13 points above that of the CNN alone, here
stc_off.py. Ours: the front end of ATFNN, all layers, the form of the module, and the training.
"""

import torch
from torch import nn
from torch.nn.functional import max_pool2d

FRONT_END = "atfnn"
SETTINGS = dict(epochs=50, batch_size=128, lr=5e-4)
TRACK = "validation"
PUBLISHED = ("STC-Attention",)
EXTENT = "reading"
NOTE = "after the abstract; front end, layers and training are ours"

CHANNELS = (32, 64, 128)
REDUCTION = 8  # of the hidden layer of the channels' weights


class ConvBlock(nn.Module):
    """A 3 x 3 convolution, batch norm, ReLU and a 2 x 2 max pool: (b, inputs, f, t) -> (b, channels, f/2, t/2).

    ReLU comes after the pool, where it gives the same on a quarter of the numbers. Batch norm cancels a bias.
    """

    def __init__(self, inputs, channels):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x):
        return max_pool2d(self.norm(self.convolution(x)), 2).relu_()


def mean_over_points(y):
    """Mean over bands and frames: (b, c, f, t) -> (b, c). The gradient of a sum is a view, that of a mean a copy."""
    return y.sum((2, 3)) / y[0, 0].numel()


class STCAttention(nn.Module):
    """Features x (b, c, f, t) times m_F m_T m_C: a weight in (0, 1) for each band, each frame and each channel.

        m_F = sigmoid(w_F . mean_T x + b_F)                   (f,), w_F (c,)
        m_T = sigmoid(w_T . mean_F x + b_T)                   (t,), w_T (c,)
        m_C = sigmoid(W_2 ReLU(W_1 mean_FT x + b_1) + b_2)    (c,), W_1 (c/8, c), W_2 (c, c/8)

    The shape stays.
    """

    def __init__(self, channels):
        super().__init__()
        self.frequency = nn.Linear(channels, 1)
        self.time = nn.Linear(channels, 1)
        self.channel = nn.Sequential(
            nn.Linear(channels, channels // REDUCTION),
            nn.ReLU(inplace=True),
            nn.Linear(channels // REDUCTION, channels),
        )

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)  # (b, f, t, c), as channels last lie in memory
        return (x * self.weights(x)).permute(0, 3, 1, 2)

    def weights(self, x):
        """The product of the weights of x (b, f, t, c), in its shape: two outer products make a single large tensor.

        Means are divided sums, as in mean_over_points.
        """
        mean_t, mean_f = x.sum(2) / x.shape[2], x.sum(1) / x.shape[1]  # (b, f, c), (b, t, c)
        bands, frames = self.frequency(mean_t).sigmoid(), self.time(mean_f).sigmoid()  # (b, f, 1), (b, t, 1)
        channels = self.channel(mean_f.mean(1)).sigmoid()  # (b, c)
        points = torch.bmm(bands, frames.mT).flatten(1)  # (b, f * t)
        return torch.bmm(points[:, :, None], channels[:, None]).view_as(x)


class STCNetwork(nn.Module):
    """Three blocks, each followed by an STCAttention, the mean over bands and frames, and a linear layer.

    (b, 1, f, t) -> (b, classes) logits. `attention` switches the three modules.
    Raises ValueError unless n_mels and frames are multiples of 8.
    """

    def __init__(self, classes, n_mels, frames, attention=True):
        super().__init__()
        if n_mels % 8 or frames % 8:
            raise ValueError(f"STC: n_mels and frames must be multiples of 8, not {n_mels} and {frames}")
        layers = []
        for inputs, channels in zip((1, *CHANNELS), CHANNELS):
            layers += [ConvBlock(inputs, channels), *([STCAttention(channels)] if attention else [])]
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(CHANNELS[-1], classes)

    def forward(self, x):
        return self.classifier(mean_over_points(self.layers(x)))  # (b, 128, f/8, t/8) -> (b, classes)


def build(classes, n_mels, frames):
    """The network for that many classes and segments (b, 1, n_mels, frames)."""
    return STCNetwork(classes, n_mels, frames).to(memory_format=torch.channels_last)
