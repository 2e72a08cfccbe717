"""FCN+Attention: AlexNet's convolutions, then attention over the positions in time and frequency; not pretrained.

Zhang, Du, Wang, Zhang, Tu, APSIPA 2018, arXiv 1806.01506. Its abstract states attention over time and frequency, input
of variable length, and weights pretrained on photographs. From public re-implementations: AlexNet's convolutions with
local response normalisation, and the factor 0.3 in the softmax. Ours: a start from scratch, segments of equal length,
optimiser, epochs, batch size, and He's initialisation: with PyTorch's own the loss stays at chance for two epochs.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import max_pool2d, pad

FRONT_END = "spectrum-20"
SETTINGS = dict(epochs=25, batch_size=16, lr=1e-4)
TRACK = "validation"
PUBLISHED = ("FCN+Attention Model",)
EXTENT = "reading"
NOTE = "not pretrained; segments of equal length; spectrogram and training are ours"

LEAST = 67  # bins or frames that all strides reduce to 1
SHARPNESS = 0.3  # lambda, of the scores in the softmax
LRN_SIZE, LRN_ALPHA, LRN_K = 5, 1e-4, 2.0  # AlexNet's; its beta of 3/4 is written out below
LRN_ROWS = 1024  # positions at a time on a CPU


def build(classes, n_mels, frames):
    """Network for that many classes, frequency bins and frames; ValueError for fewer than 67 bins or frames."""
    return FCNAttention(classes, n_mels, frames).to(memory_format=torch.channels_last)


class LocalResponseNorm(torch.autograd.Function):
    """AlexNet's local response normalisation of x (b, c, f, t), as torch.nn.LocalResponseNorm(5, 1e-4, 0.75, 2).

    y_c = x_c s_c^(-3/4) with s_c = 2 + 1e-4/5 sum x_j^2 over the 5 channels j around c. torch's own makes many passes
    over the tensor; here blocks of rows stay in the processor's cache. The sums are in float32, also under autocast.
    """

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)
        y = torch.empty_like(x)
        for source, target in blocks(x, y):
            source = in_float32(source)
            torch.mul(source, inverse_power(response(source)), out=target)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        for source, upstream, target in blocks(x, grad.contiguous(memory_format=torch.channels_last), grad_x):
            source, upstream = in_float32(source), in_float32(upstream)
            s = response(source)
            direct = upstream * inverse_power(s)  # through x_c alone
            through = sum_of_neighbours(direct * source / s)  # through s_j, whose change is 2 alpha/5 x_c
            torch.addcmul(direct, source, through, value=-1.5 * LRN_ALPHA / LRN_SIZE, out=target)
        return grad_x


def sum_of_neighbours(q):
    """Sum of the 5 channels around each, (n, c) -> (n, c), with zeros next to the first and last."""
    q = pad(q, (2, 2))  # (n, c + 4)
    two = q[:, :-1] + q[:, 1:]
    four = two[:, :-2] + two[:, 2:]
    return four[:, :-1] + q[:, 4:]


def response(x):
    """s of rows x (n, c)."""
    return sum_of_neighbours(x.square()).mul_(LRN_ALPHA / LRN_SIZE).add_(LRN_K)


def inverse_power(s):
    """s^(-3/4), by roots, as a power takes several times as long."""
    root = s.rsqrt()
    return root.sqrt().mul_(root)


def in_float32(x):
    """x, in float32 if it is in bfloat16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def blocks(*tensors):
    """Parts (n, c) of tensors (b, c, f, t) in channels last, in step; on a GPU all at once."""
    rows = [tensor.permute(0, 2, 3, 1).flatten(0, 2) for tensor in tensors]  # (b * f * t, c), views
    return zip(*(part.split(LRN_ROWS if part.device.type == "cpu" else len(part)) for part in rows))


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
        self.hidden = nn.Linear(256, 256)  # W and b
        self.score = nn.Linear(256, 1, bias=False)  # u
        self.classifier = nn.Linear(256, classes)
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            nn.init.zeros_(convolution.bias)

    def forward(self, x, return_maps=False):
        first, second, *others, last = self.convolutions
        y = x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)  # (b, 1, f, t), the strides of channels last
        for convolution in (first, second):
            y = max_pool2d(LocalResponseNorm.apply(convolution(y).relu_()), 3, 2)
        for convolution in others:
            y = convolution(y).relu_()
        y = max_pool2d(last(y), 3, 2).relu_()  # (b, 256, f', t'); the pool of a ReLU is the ReLU of the pool
        with torch.autocast(x.device.type, enabled=False):
            a = y.permute(0, 2, 3, 1).flatten(1, 2).to(self.score.weight.dtype)  # (b, f' * t', 256)
            weights = (SHARPNESS * self.score(self.hidden(a).tanh())).softmax(1)  # (b, f' * t', 1)
            logits = self.classifier((weights.mT @ a).squeeze(1))
        return (logits, {"Attention": weights.view(len(y), 1, *y.shape[2:])}) if return_maps else logits
