"""FCN+Attention: AlexNet's convolutions, then attention over the positions in time and frequency; not pretrained.

Zhang, Du, Wang, Zhang, Tu, APSIPA 2018, arXiv 1806.01506. Its abstract states attention over time and frequency, input
of variable length, and weights pretrained on photographs. From public re-implementations: AlexNet's convolutions with
local response normalisation, and the factor 0.3 in the softmax. Ours: a start from scratch, segments of equal length,
optimiser, epochs, batch size, and He's initialisation: with PyTorch's own the loss stays at chance for two epochs.
"""

import torch
from torch import nn
from torch.nn.functional import max_pool2d

FRONT_END = "spectrum-20"
SETTINGS = dict(epochs=25, batch_size=16, lr=1e-4)
TRACK = "validation"
PUBLISHED = ("FCN+Attention Model",)
EXTENT = "reading"
NOTE = "not pretrained; segments of equal length; spectrogram and training are ours"

LEAST = 67  # bins or frames that all strides reduce to 1
SHARPNESS = 0.3  # lambda, of the scores in the softmax


def build(classes, n_mels, frames):
    """Network for that many classes, frequency bins and frames; ValueError for fewer than 67 bins or frames."""
    return FCNAttention(classes, n_mels, frames).to(memory_format=torch.channels_last)


class FCNAttention(nn.Module):
    """(b, 1, f, t) -> (b, classes) logits.

    With `return_maps` also the attention (b, 1, f', t') of the positions after the last pool: 5 x 8 for 200 x 300.
    Raises ValueError for f or t below 67.
    """

    def __init__(self, classes, n_mels=200, frames=300):
        super().__init__()
        if min(n_mels, frames) < LEAST:
            raise ValueError(f"FCN+Attention: n_mels and frames must be at least {LEAST}, not {n_mels} and {frames}")
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(1, 96, 11, stride=4),
                nn.Conv2d(96, 256, 5, padding=2),
                nn.Conv2d(256, 384, 3, padding=1),
                nn.Conv2d(384, 384, 3, padding=1),
                nn.Conv2d(384, 256, 3, padding=1),
            ]
        )
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)  # AlexNet's
        self.hidden = nn.Linear(256, 256)  # W and b
        self.score = nn.Linear(256, 1, bias=False)  # u
        self.classifier = nn.Linear(256, classes)
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)

    def forward(self, x, return_maps=False):
        first, second, *others, last = self.convolutions
        for convolution in (first, second):
            x = max_pool2d(self.norm(convolution(x).relu_()), 3, 2)
        for convolution in others:
            x = convolution(x).relu_()
        x = max_pool2d(last(x), 3, 2).relu_()  # (b, 256, f', t'); the pool of a ReLU is the ReLU of the pool
        with torch.autocast(x.device.type, enabled=False):
            a = x.permute(0, 2, 3, 1).flatten(1, 2).to(self.score.weight.dtype)  # (b, f' * t', 256)
            weights = (SHARPNESS * self.score(self.hidden(a).tanh())).softmax(1)  # (b, f' * t', 1)
            logits = self.classifier((weights.mT @ a).squeeze(1))
        return (logits, {"Attention": weights.view(len(x), 1, *x.shape[2:])}) if return_maps else logits
