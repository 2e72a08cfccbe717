"""The two networks and their ablations: the Time-Frequency Transformer and the ATFNN.

    >>> from models import MODELS, build
    >>> model = build("tft", classes=4)                    # 239 464 parameters
    >>> logits = model(torch.randn(2, 1, 80, 80))          # (b, 1, bands, frames) -> (b, classes)
    >>> maps = {}
    >>> logits = model(x, maps)                            # the same, and fills `maps` with attention maps

Letters as in the papers: b segments, f Mel bands, d or t frames, c channels. Section, equation and table
numbers refer to "Time-Frequency Transformer" (TFT) and "Attentive Time-Frequency Neural Network" (ATFNN).
"""

from contextlib import nullcontext

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm, conv2d, linear, pad

POOL_EPSILON = 1e-5  # inside the root of TFT's pooled standard deviation, whose gradient at 0 is infinite


def on_gpu(x):
    """The same is computed in another form there where that is faster; tests run both forms on a CPU."""
    return x.device.type == "cuda"


OPERATORS = None  # stack.py's while it runs ATFNN: these and plain operations, not cuDNN's LSTM and convolutions


# ------------------------------------------------------------------------------------------------ TFT


def patches(x, conv):
    """What conv's kernel sees of x (b, 1, f, d), zeros around it: (b, rows, columns, taps).

    torch's own `unfold` launches a kernel for each segment on a GPU.
    """
    (high, wide), (up, left) = conv.kernel_size, conv.padding
    seen = pad(x[:, 0], (left, left, up, up)).unfold(1, high, conv.stride[0]).unfold(2, wide, conv.stride[1])
    return seen.flatten(3)


def folded_convolution(x, conv, norm):
    """relu(norm(conv(x))) of x (b, 1, f, d) with one channel, without batch norm's passes over conv's output.

    A linear map of patches with mean m and covariance C has mean W m + b and variance diag(W C W'), so the batch's
    statistics come from its few taps, exactly, and scale and shift go into weight and bias. conv's own bias cancels.
    x, the input of the network, gets no gradient.
    """
    weight = conv.weight.flatten(1)  # (c, taps)
    with torch.autocast(x.device.type, enabled=False):
        if norm.training:
            with torch.no_grad():
                seen = patches(x, conv)
                n, tap_mean = seen[..., 0].numel(), seen.mean((0, 1, 2))
                centred = (seen - tap_mean).flatten(0, 1)
                covariance = (centred.mT @ centred).sum(0) / n  # row by row, which keeps a GPU busy
            mean, variance = weight @ tap_mean, ((weight @ covariance) * weight).sum(1)
            with torch.no_grad():
                norm.running_mean.lerp_(mean + conv.bias, norm.momentum)
                norm.running_var.lerp_(variance * (n / (n - 1)), norm.momentum)
                norm.num_batches_tracked += 1
        else:
            mean, variance = norm.running_mean - conv.bias, norm.running_var
        scale = norm.weight * (variance + norm.eps).rsqrt()
        kernel, bias = weight * scale[:, None], norm.bias - mean * scale
    if on_gpu(x) and norm.training:
        return product_of_patches(seen, kernel, bias).relu_()
    x = x.view(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)  # the same, seen as channels last
    kernel = kernel.view(-1, *conv.kernel_size, 1).permute(0, 3, 1, 2)
    return conv2d(x, kernel, bias, conv.stride, conv.padding).relu_()


def product_of_patches(seen, kernel, bias):
    """A convolution of one channel from seen (b, h, w, taps), kernel (c, taps), bias (c,): (b, c, h, w), channels last.

    A GPU takes it, and above all its gradient, in a fraction of the time of a convolution. The bias is one more tap,
    which sees a 1; zeros fill the taps up to whole eights.
    """
    spare = -(kernel.shape[1] + 1) % 8
    kernel = pad(torch.cat([kernel, bias[:, None]], 1), (0, spare))
    return linear(pad(pad(seen, (0, 1), value=1.0), (0, spare)), kernel).permute(0, 3, 1, 2)


def normalized_convolution(x, conv, norm):
    """norm(conv(x)); in training without conv's bias, which batch norm cancels, and its passes over the output."""
    if not norm.training:
        return norm(conv(x))
    y, bias = conv2d(x, conv.weight, None, conv.stride, conv.padding), conv.bias.detach()
    running_mean = norm.running_mean - bias
    y = batch_norm(y, running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps)
    norm.running_mean.copy_(running_mean + bias)
    norm.num_batches_tracked += 1
    return y


class ConvEncoder(nn.Module):
    """Two convolutions with batch norm and ReLU (TFT eqs. 1, 4, 7), then the mean over the 64 channels."""

    def __init__(self, kernel, stride, padding, channels=64, momentum=0.1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, kernel, stride, padding),
            nn.BatchNorm2d(channels, momentum=momentum),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel, stride, padding),
            nn.BatchNorm2d(channels, momentum=momentum),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        first, first_norm, _, second, second_norm, _ = self.layers
        y = folded_convolution(x, first, first_norm)  # (b, 1, f, d) -> (b, c, ...)
        y = normalized_convolution(y, second, second_norm).relu_()
        if on_gpu(y):
            return y.mean(1, dtype=second_norm.weight.dtype)
        # the mean over the channels as a product, whose gradient lies in memory as the channels do
        return y.permute(0, 2, 3, 1) @ y.new_full((y.shape[1],), 1 / y.shape[1])  # -> (b, ...)


class TransformerEncoder(nn.Module):
    """Post-norm encoder layer; with q = k = v TFT eqs. 2-3 and 5-6, else the CO-Transformer, eqs. 8-9.

    The residual is the value: LN(MA(q, k, v) + v), which for self-attention is the token itself. `dropout` acts
    where nn.TransformerEncoderLayer has it: on the attention weights, after the attention, inside and after the MLP.
    """

    def __init__(self, embedding, heads, feed_forward, dropout=0.0):
        super().__init__()
        self.attention = nn.MultiheadAttention(embedding, heads, dropout, batch_first=True)
        self.norm_attention = nn.LayerNorm(embedding)
        self.mlp = nn.Sequential(
            nn.Linear(embedding, feed_forward),
            nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(dropout)),  # one, for the names of the weights
            nn.Linear(feed_forward, embedding),
        )
        self.norm_mlp = nn.LayerNorm(embedding)
        self.dropout = nn.Dropout(dropout)

    def forward(self, q, k, v, maps=None, name=None):
        # all (b, tokens, embedding); a map is (b, heads, tokens, tokens), rows the queries
        with torch.autocast(q.device.type, enabled=False):  # in bfloat16 it is slower: heads of 5 or 10 numbers
            q, k, v = (part.to(self.norm_attention.weight.dtype) for part in (q, k, v))
            attended, weights = self.attention(q, k, v, need_weights=maps is not None, average_attn_weights=False)
        if maps is not None:
            maps[name] = weights
        x = self.norm_attention(self.dropout(attended) + v)
        return self.norm_mlp(self.dropout(self.mlp(x)) + x)


def pool_rows(y):
    """Mean and standard deviation over the frequency rows: (b, f/4, d/4) -> (b, d/2), TFT eq. 10."""
    return torch.cat([y.mean(1), (y.var(1) + POOL_EPSILON).sqrt()], 1)


class TFT(nn.Module):
    """Time-Frequency Transformer, (b, 1, f, d) -> (b, classes) logits; f a multiple of 8, d of 16.

    `time`, `frequency` and `joint` switch T-Trans, F-Trans and TF-Trans (Table 5). Without T-Trans or
    F-Trans its query or key is v; without TF-Trans q and k are pooled and concatenated.
    Maps: T-Trans (b, 2, d, d), F-Trans (b, 2, f, f), TF-Trans (b, 4, f/4, f/4).
    """

    def __init__(
        self, classes, bands=80, frames=80, time=True, frequency=True, joint=True, dropout=0.0, bn_momentum=0.1
    ):
        super().__init__()
        rows, columns = bands // 4, frames // 4
        if time:
            self.conv_time = ConvEncoder((5, 1), (2, 1), (2, 0), momentum=bn_momentum)
            self.time_encoder = TransformerEncoder(rows, heads=2, feed_forward=512, dropout=dropout)
            self.map_time = nn.Linear(frames, columns)
        if frequency:
            self.conv_frequency = ConvEncoder((1, 5), (1, 2), (0, 2), momentum=bn_momentum)
            self.frequency_encoder = TransformerEncoder(columns, heads=2, feed_forward=512, dropout=dropout)
            self.map_frequency = nn.Linear(bands, rows)
        if joint:
            self.conv_joint = ConvEncoder((5, 5), (2, 2), (2, 2), momentum=bn_momentum)
            self.joint_encoder = TransformerEncoder(columns, heads=4, feed_forward=1024, dropout=dropout)
        self.time, self.frequency, self.joint = time, frequency, joint
        self.classifier = nn.Linear(2 * columns if joint else 4 * columns, classes)

    def forward(self, x, maps=None):
        q = self.encode_time(x, maps) if self.time else None  # (b, f/4, d/4)
        k = self.encode_frequency(x, maps) if self.frequency else None  # (b, f/4, d/4)
        if not self.joint:
            return self.classifier(torch.cat([pool_rows(q), pool_rows(k)], 1))
        v = self.conv_joint(x)  # (b, f/4, d/4)
        y = self.joint_encoder(v if q is None else q, v if k is None else k, v, maps, "TF-Trans")
        return self.classifier(pool_rows(y))

    def encode_time(self, x, maps):
        """Tokens are the frames; the linear map then shrinks d frames to d/4: -> (b, f/4, d/4)."""
        s = self.conv_time(x).transpose(1, 2)  # (b, d, f/4)
        return self.map_time(self.time_encoder(s, s, s, maps, "T-Trans").transpose(1, 2))

    def encode_frequency(self, x, maps):
        """Tokens are the bands; the linear map then shrinks f bands to f/4: -> (b, f/4, d/4)."""
        s = self.conv_frequency(x)  # (b, f, d/4)
        n = self.frequency_encoder(s, s, s, maps, "F-Trans").transpose(1, 2)  # (b, d/4, f)
        return self.map_frequency(n).transpose(1, 2)


# ---------------------------------------------------------------------------------------------- ATFNN


GATES = ("sigmoid", "softmax", "none")  # what the convolution's output goes through; the paper names nothing


class Gate(nn.Module):
    """F-Attention or T-Attention: a weight for each group of 5 bands or 8 frames (Figs. 3, 4).

    (b, inputs, f, t) -> (b, 1, f, t): the mean over the channels of activation(conv), each group's weight repeated
    over its bands or frames. The caller adds weight * features to the features (eqs. 1 and 2). The activation is a
    sigmoid, a softmax over the groups of a frame or band, whose weights sum to 1, or none.
    """

    def __init__(self, group, channels=8, inputs=1, activation="sigmoid"):
        super().__init__()
        self.group = group  # (5, 1) bands or (1, 8) frames
        self.axis = 2 if group[0] > 1 else 3
        self.conv = nn.Conv2d(inputs, channels, group, stride=group)
        self.activation = activation

    def forward(self, x, maps=None, name=None):
        weight = self.convolve(x)  # (b, c, f/5, t) or (b, c, f, t/8)
        if self.activation == "sigmoid":
            weight = weight.sigmoid()
        elif self.activation == "softmax":
            weight = weight.softmax(self.axis)
        weight = weight.mean(1, keepdim=True).repeat_interleave(max(self.group), self.axis)
        if maps is not None:
            maps[name] = weight
        return weight

    def convolve(self, x):
        """conv(x), written out as a product of its patches, which do not overlap."""
        if OPERATORS is None:
            return self.conv(x)
        high, wide = self.group
        seen = x.unflatten(2, (-1, high)).unflatten(4, (-1, wide)).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return linear(seen, self.conv.weight.flatten(1), self.conv.bias).permute(0, 3, 1, 2)


def scalar_attention(x, slope, offset):
    """m_i = sum_j x_j softmax_j(s_i x_j) with s_i = slope x_i + offset, exactly, without any vectors.

    This is self-attention over tokens that are affine in one number x_i each: in a head's scores all terms
    constant in j cancel in the softmax, which leaves (slope x_i + offset) x_j, and the values are affine in
    x_j, which leaves its mean m_i. x: (rows, f), slope and offset: (heads,) -> m: (rows, heads, f).
    """
    if OPERATORS is not None:
        return OPERATORS.scalar_attention(x[None], slope[None], offset[None])[0][0]
    return ScalarAttention.apply(x, slope, offset)


class ScalarAttention(torch.autograd.Function):
    """`scalar_attention` in products, some rows at a time, on a CPU so few that the weights stay in its cache.

    The weights are made again in the backward pass: kept, they would be 0.8 GB for 128 segments.
    """

    @staticmethod
    def forward(ctx, x, slope, offset):
        s = slope[:, None] * x[:, None] + offset[:, None]  # (rows, heads, f)
        low, high = (bound[:, None, None] for bound in x.aminmax(dim=1))
        largest = torch.maximum(s * low, s * high)  # of s_i x_j over j
        moments = torch.stack([torch.ones_like(x), x, x.square()], 1)  # (rows, 3, f)
        sums = x.new_empty(len(x), 3, s[0].numel())
        for rows in ScalarAttention.blocks(x):
            weights = ScalarAttention.weights(x[rows], s[rows], largest[rows])
            torch.bmm(moments[rows], weights.transpose(1, 2), out=sums[rows])
        total, mean, square = sums.view(len(x), 3, *s.shape[1:]).unbind(1)  # (rows, heads, f) each
        mean = mean / total
        largest = largest + total.log()  # now s_i x_j - largest is the logarithm of p_ij
        ctx.save_for_backward(x, slope, s, largest, mean, square / total - mean.square())
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, slope, s, largest, mean, variance = ctx.saved_tensors
        grad_s = grad * variance  # d m_i / d s_i is the variance of x under the weights
        # d m_i / d x_j = p_ij (1 - s_i m_i) + x_j p_ij s_i
        sides = torch.stack([grad - grad * s * mean, grad * s], 1).flatten(2)  # (rows, 2, heads * f)
        grad_x = (slope[:, None] * grad_s).sum(1)
        for rows in ScalarAttention.blocks(x):
            weights = ScalarAttention.weights(x[rows], s[rows], largest[rows])
            constant, by_x = torch.bmm(sides[rows], weights).unbind(1)
            grad_x[rows] += constant + x[rows] * by_x
        return grad_x, (grad_s * x[:, None]).sum((0, 2)), grad_s.sum((0, 2))

    @staticmethod
    def blocks(x):
        size = 8192 if on_gpu(x) else 64  # rows
        return [slice(start, start + size) for start in range(0, len(x), size)]

    @staticmethod
    def weights(x, s, largest):
        """exp(s_i x_j - largest_i) of x (r, f), s and largest (r, heads, f): (r, heads * f, f).

        One product and one pass: a third of the time of a softmax.
        """
        sides = torch.stack([s.flatten(1), -largest.flatten(1)], 2)  # (r, heads * f, 2)
        return torch.bmm(sides, torch.stack([x, torch.ones_like(x)], 1)).exp_()


class NarrowLayerNorm(torch.autograd.Function):
    """Layer norm of x (..., c) over few channels: products with (c, c) matrices, on a CPU in blocks for its cache.

    torch's own takes a block of threads for each row of 8 numbers on a GPU, and as much time as a long row on a CPU.

    With centred d = x - mean and r = (mean(d^2) + epsilon)^-1/2 the output is weight * d r + bias. For the gradient
    g by d r, that by x is r (g - mean(g) - d r mean(g d r)). d and r are made again in the backward pass.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        y, (centre, average) = torch.empty_like(x), NarrowLayerNorm.matrices(weight)
        for source, target in NarrowLayerNorm.blocks(x, y):
            normal, _ = NarrowLayerNorm.normal(source, centre, average, epsilon)
            torch.addcmul(bias, normal, weight, out=target)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x, (centre, average) = torch.empty_like(x), NarrowLayerNorm.matrices(weight)
        weighted, grad_weight, grad_bias = weight[:, None], torch.zeros_like(weight), torch.zeros_like(weight)
        for source, upstream, target in NarrowLayerNorm.blocks(x, grad.contiguous(), grad_x):
            normal, scale = NarrowLayerNorm.normal(source, centre, average, ctx.epsilon)
            product, ones = upstream * normal, source.new_ones(len(source))
            grad_weight += ones @ product
            grad_bias += ones @ upstream
            torch.mm(upstream, weighted * centre, out=target)
            target.addcmul_(normal, product @ (weighted * average), value=-1).mul_(scale)
        return grad_x, grad_weight, grad_bias, None

    @staticmethod
    def matrices(like):
        """The (c, c) matrices that take the mean away and that put it everywhere."""
        average = like.new_full((len(like), len(like)), 1 / len(like))
        return torch.eye(len(like), dtype=like.dtype, device=like.device) - average, average

    @staticmethod
    def normal(x, centre, average, epsilon):
        """d r and r of x (n, c): both (n, c)."""
        normal = x @ centre
        scale = (normal.square() @ average).add_(epsilon).rsqrt_()
        return normal.mul_(scale), scale

    @staticmethod
    def blocks(*tensors):
        rows = [tensor.flatten(0, -2) for tensor in tensors]
        return zip(*(one.split(len(one) if on_gpu(one) else 16384) for one in rows))


def layer_norm(norm, x):
    """norm(x) for nn.LayerNorm over the few channels of x (..., c)."""
    if torch.is_grad_enabled() and OPERATORS is None:
        return NarrowLayerNorm.apply(x, norm.weight, norm.bias, norm.eps)
    return norm(x)


class FrequencyEncoder(nn.Module):
    """F-Encoder (ATFNN section II-A1, Fig. 2): self-attention over the bands of each frame, then convolutions.

    (b, 1, f, t) -> (b, t, f, c). A bin is lifted from 1 to c numbers by a linear layer, so its token is
    affine in one number and `scalar_attention` gives the same result as attention over c-vectors.
    """

    def __init__(self, channels=8, hidden=32, heads=2, kernel=5):
        super().__init__()
        self.lift = nn.Linear(1, channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)  # holds the weights
        self.norm_attention = nn.LayerNorm(channels)
        self.convolutions = nn.Sequential(  # along the bands: Conv1d of each frame, written as (1, 5) over (t, f)
            nn.Conv2d(channels, hidden, (1, kernel), padding=(0, kernel // 2)),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, (1, kernel), padding=(0, kernel // 2)),
        )
        self.norm_convolution = nn.LayerNorm(channels)

    def forward(self, x):
        in_float32 = torch.autocast(x.device.type, enabled=False)  # exponentials of products, and norms
        with in_float32:
            x = x.squeeze(1).transpose(1, 2).contiguous()  # (b, t, f)
            y = layer_norm(self.norm_attention, self.attend(x, residual=True))  # (b, t, f, c)
        if OPERATORS is None:
            z = self.convolutions(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            z = self.convolve(y)
        with in_float32:
            return layer_norm(self.norm_convolution, y + z)

    def convolve(self, y):
        """The convolutions as products: (b, t, f, c) -> (b, t, f, c).

        The first is one of what each tap sees, the second gives what each tap adds. A product for each segment, as the
        gradient by a weight from all frames at once would leave a GPU idle.
        """
        first, _, second = self.convolutions
        taps, (b, t, f, _) = first.kernel_size[1], y.shape
        around = (0, 0, first.padding[1], first.padding[1])
        padded = pad(y, around)
        seen = torch.stack([padded[:, :, tap : tap + f] for tap in range(taps)], -1).view(b, t * f, -1)  # c * taps
        z = torch.bmm(seen, first.weight.flatten(1).mT.expand(b, -1, -1))
        z = (z + first.bias.to(z.dtype)).relu()  # (b, t * f, hidden)
        parts = torch.bmm(z, second.weight.transpose(0, 1).flatten(1).expand(b, -1, -1)).view(b, t, f, -1, taps)
        parts = pad(parts, (0, 0, *around))
        return sum(parts[:, :, tap : tap + f, :, tap].to(second.bias.dtype) for tap in range(taps)) + second.bias

    def attend(self, x, residual=False):
        """Multi-head self-attention of `lift(x)` over the bands: (b, t, f) -> (b, t, f, c). `residual` adds `lift(x)`.

        As the values are affine in the heads' means of x and the output in the values, all is one product.
        """
        b, t, f = x.shape
        heads, size = self.attention.num_heads, self.attention.head_dim
        weight, bias, out = self.attention.in_proj_weight, self.attention.in_proj_bias, self.attention.out_proj
        # query, key and value of x are slope * x + constant; each (heads, size)
        slope_q, slope_k, slope_v = (weight @ self.lift.weight).view(3, heads, size)
        constant_q, _, constant_v = (weight @ self.lift.bias + bias).view(3, heads, size)
        scale = size**-0.5
        x = x.view(b * t, f)
        mean = scalar_attention(x, scale * (slope_q * slope_k).sum(1), scale * (constant_q * slope_k).sum(1))
        slope = torch.einsum("chs,hs->ch", out.weight.unflatten(1, (heads, size)), slope_v)  # of the output by a mean
        constant = out.weight @ constant_v.flatten() + out.bias
        if residual:
            mean, slope = torch.cat([x[:, None], mean], 1), torch.cat([self.lift.weight, slope], 1)
            constant = constant + self.lift.bias
        return linear(mean.transpose(1, 2).contiguous(), slope, constant).view(b, t, f, -1)


class TimeEncoder(nn.Module):
    """T-Encoder: three-layer BiLSTM, (b, t, features) -> (b, 256), the last hidden state of each direction.

    The backward direction ends at the first frame: its last state is not the output at the last frame
    (ATFNN section II-A2). `dropout` acts between the layers. On a GPU it stays in float32 under bfloat16: autocast
    would run an LSTM in float16 there, whose small gradients become 0.
    """

    def __init__(self, features, hidden=128, layers=3, dropout=0.0):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True, dropout=dropout, bidirectional=True)

    def forward(self, x):
        if OPERATORS is not None:
            return OPERATORS.last_states(self.lstm, x)
        in_float32 = torch.autocast("cuda", enabled=False) if on_gpu(x) else nullcontext()
        with in_float32:
            _, (states, _) = self.lstm(x.float() if on_gpu(x) else x)  # (2 * layers, b, hidden)
        return torch.cat([states[-2], states[-1]], 1)


class ATFNN(nn.Module):
    """Attentive Time-Frequency Neural Network, (b, 1, f, t) -> (b, classes) logits; f multiple of 5, t of 8.

    `f_attention`, `f_encoder`, `t_attention` and `t_encoder` switch the parts (Table III). Without
    F-Encoder the BiLSTM reads the f bands of a frame; without T-Encoder the mean over the frames is classified.
    `t_attention_input` is what T-Attention computes its weight from: the log-Mel x (eq. 2, Fig. 4), or the c channels
    of the encoded x-hat' (eq. 4). `dropout` acts between the BiLSTM's layers and before the classifier.
    Maps: F-Attention and T-Attention, both (b, 1, f, t).
    """

    def __init__(
        self, classes, bands=80, frames=128, channels=8,
        f_attention=True, f_encoder=True, t_attention=True, t_encoder=True,
        dropout=0.0, f_encoder_heads=2, gate="sigmoid", t_attention_input="log-mel",
    ):  # fmt: skip
        super().__init__()
        features = bands * channels if f_encoder else bands
        self.encoded_gate = t_attention_input == "encoded"
        inputs = channels if self.encoded_gate else 1
        self.f_attention = Gate((5, 1), channels, activation=gate) if f_attention else None
        self.f_encoder = FrequencyEncoder(channels, heads=f_encoder_heads) if f_encoder else None
        self.t_attention = Gate((1, 8), channels, inputs, gate) if t_attention else None
        self.t_encoder = TimeEncoder(features, dropout=dropout) if t_encoder else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(256 if t_encoder else features, classes)

    def forward(self, x, maps=None):
        y = x  # (b, 1, f, t)
        if self.f_attention:
            y = y + self.f_attention(x, maps, "F-Attention") * y
        y = self.f_encoder(y) if self.f_encoder else y.permute(0, 3, 2, 1)  # (b, t, f, c or 1)
        if self.t_attention:
            source = y.permute(0, 3, 2, 1) if self.encoded_gate else x  # (b, c or 1, f, t)
            y = y + self.t_attention(source, maps, "T-Attention").permute(0, 3, 2, 1) * y
        y = y.flatten(2)  # (b, t, f * c)
        return self.classifier(self.dropout(self.t_encoder(y) if self.t_encoder else y.mean(1)))


# ------------------------------------------------------------------------------------------- registry

MODELS = {  # name -> class and switches: TFT Table 5, ATFNN Table III
    "tft": (TFT, {}),
    "tft-t+f": (TFT, dict(joint=False)),
    "tft-t+tf": (TFT, dict(frequency=False)),
    "tft-f+tf": (TFT, dict(time=False)),
    "atfnn": (ATFNN, {}),
    "afnn": (ATFNN, dict(t_attention=False, t_encoder=False)),
    "atnn": (ATFNN, dict(f_attention=False, f_encoder=False)),
    "tfnn": (ATFNN, dict(f_attention=False, t_attention=False)),
}


OPTIONS = ("dropout", "bn_momentum", "f_encoder_heads", "gate", "t_attention_input")  # of one network or both


def build(name, classes, **sizes):
    """The network called `name` for `classes` classes; `sizes` may set `bands`, `frames` and its OPTIONS."""
    network, switches = MODELS[name]
    return network(classes, **sizes, **switches)
