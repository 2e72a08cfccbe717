"""Faster forms of layers of networks in comparisons/, with the same weights and results; registered in fast/modules.py.

All are meant for bfloat16 autocast too. Letters: b segments, f bins, t frames, c channels; m routings at once, of i
capsules of d numbers each to N others.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, max_pool2d, max_unpool2d, pad
from torch.nn.grad import conv2d_weight

from comparisons import cnn_gru_seqcap, cnn_lstm, fcn_attention

PART = 2  # segments at a time in CNN-LSTM's first layer: 15 MB of its output, which a processor's cache holds
LRN_ROWS = 1024  # positions at a time on a CPU


def channels_last(x):
    """x (b, 1, f, t) with the strides of channels last, which torch does not see in a tensor of one channel."""
    return x.reshape(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)


# ------------------------------------------------------------------------------------------- CNN-LSTM


class ConvPool(torch.autograd.Function):
    """max_pool2d(conv2d(x, weight, bias, padding=2), pool) of x (b, 1, f, t) for a processor, by PART segments at a time.

    Memory is what the first layer costs: the positions of the maxima stay for the gradient, not the output of the
    convolution, which has 8 times as many numbers. It gives no gradient by x.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, pool):
        x = channels_last(x)
        parts = (conv2d(part, weight, bias, padding=2) for part in x.split(PART))
        y, index = map(torch.cat, zip(*(max_pool2d(part, pool, return_indices=True) for part in parts)))
        ctx.save_for_backward(x, weight, index)
        ctx.pool = pool
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, index = ctx.saved_tensors
        grad_weight = torch.zeros_like(weight)
        for part, *upstream in zip(*(tensor.split(PART) for tensor in (x, grad, index))):
            spread = max_unpool2d(*upstream, ctx.pool)  # (PART, channels, f, t)
            grad_weight += conv2d_weight(part.to(spread.dtype), weight.shape, spread, padding=2)
        return None, grad_weight, grad.sum((0, 2, 3), dtype=weight.dtype), None


class CpuCNNLSTM(cnn_lstm.CNNLSTM):
    """The first layer by a few segments at a time, unless its gradient by the input is asked for."""

    def convolve(self, x, convolution, pool):
        if x.shape[1] > 1 or x.requires_grad:
            return super().convolve(x, convolution, pool)
        return ConvPool.apply(x, convolution.weight, convolution.bias, pool).relu_()


# -------------------------------------------------------------------------------------- FCN+Attention


class LocalResponse(torch.autograd.Function):
    """torch.nn.LocalResponseNorm(5, alpha, 0.75, k) of x (b, c, f, t).

    y_c = x_c s_c^(-3/4) with s_c = k + alpha/5 sum x_j^2 over the 5 channels j around c. torch's own makes many passes
    over the tensor; here blocks of rows stay in the processor's cache. The sums are in float32, also under autocast.
    """

    @staticmethod
    def forward(ctx, x, alpha, k):
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x)
        ctx.alpha, ctx.k = alpha, k
        y = torch.empty_like(x)
        for source, target in blocks(x, y):
            source = in_float32(source)
            torch.mul(source, inverse_power(response(source, alpha, k)), out=target)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        for source, upstream, target in blocks(x, grad.contiguous(memory_format=torch.channels_last), grad_x):
            source, upstream = in_float32(source), in_float32(upstream)
            s = response(source, ctx.alpha, ctx.k)
            direct = upstream * inverse_power(s)  # through x_c alone
            through = sum_of_neighbours(direct * source / s)  # through s_j, whose change is 2 alpha/5 x_c
            torch.addcmul(direct, source, through, value=-1.5 * ctx.alpha / 5, out=target)
        return grad_x, None, None


def sum_of_neighbours(q):
    """Sum of the 5 channels around each, (n, c) -> (n, c), with zeros next to the first and last."""
    q = pad(q, (2, 2))  # (n, c + 4)
    two = q[:, :-1] + q[:, 1:]
    four = two[:, :-2] + two[:, 2:]
    return four[:, :-1] + q[:, 4:]


def response(x, alpha, k):
    """s of rows x (n, c)."""
    return sum_of_neighbours(x.square()).mul_(alpha / 5).add_(k)


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


class FastLocalResponseNorm(nn.LocalResponseNorm):
    """In blocks of rows, for AlexNet's 5 channels and power of 3/4."""

    def forward(self, x):
        is_alexnets = (self.size, self.beta) == (5, 0.75)
        return LocalResponse.apply(x, self.alpha, self.k) if is_alexnets else super().forward(x)


class FastFCNAttention(fcn_attention.FCNAttention):
    """All convolutions in channels last."""

    def forward(self, x, return_maps=False):
        return super().forward(channels_last(x), return_maps)


# ------------------------------------------------------------------------------------- CNN-GRU-SeqCap


class Agreement(torch.autograd.Function):
    """cnn_gru_seqcap.Routing of votes (m, N, i, d).

    autograd would write a gradient of all votes for each product with them. All these gradients are outer products of
    (i,) and (d,), whose sum the backward pass computes at once.
    """

    @staticmethod
    def forward(ctx, votes):
        votes, shares, sums = votes.contiguous(), [], []
        b = votes.new_zeros(votes.shape[:3])
        for step in range(cnn_gru_seqcap.ROUTING_STEPS):
            if step:
                b = b + (votes @ cnn_gru_seqcap.squash(sums[-1]).unsqueeze(3)).squeeze(3)
            shares.append(b.softmax(1))  # c (m, N, i)
            sums.append((shares[-1].unsqueeze(2) @ votes).squeeze(2))  # s (m, N, d)
        ctx.save_for_backward(votes, *shares, *sums)
        return cnn_gru_seqcap.squash(sums[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        votes, *saved = ctx.saved_tensors
        steps = len(saved) // 2
        shares, sums = saved[:steps], saved[steps:]
        left, right, grad_b = [], [], 0  # factors of the outer products
        for step in reversed(range(steps)):
            c, grad_s = shares[step], squash_gradient(sums[step], grad)  # grad is that of this step's v
            left, right = [*left, c], [*right, grad_s]
            if step:
                grad_c = (votes @ grad_s.unsqueeze(3)).squeeze(3)
                grad_b = grad_b + c * (grad_c - (c * grad_c).sum(1, keepdim=True))
                left, right = [*left, grad_b], [*right, cnn_gru_seqcap.squash(sums[step - 1])]
                grad = (grad_b.unsqueeze(2) @ votes).squeeze(2)
        return torch.stack(left, 3) @ torch.stack(right, 2)


def squash_gradient(s, grad):
    """Gradient by s of squash(s), from the gradient by its output, both (..., d)."""
    square = s.square().sum(-1, keepdim=True)
    root = (square + cnn_gru_seqcap.EPSILON).sqrt()
    factor = square / (1 + square) / root
    slope = 1 / ((1 + square) ** 2 * root) - factor / (2 * root**2)  # of the factor by the square
    return factor * grad + 2 * slope * (grad * s).sum(-1, keepdim=True) * s


class FastRouting(cnn_gru_seqcap.Routing):
    """With a gradient of its own."""

    def forward(self, votes):
        return Agreement.apply(votes)


class LargerOrZero(torch.autograd.Function):
    """max(a, b, 0) of tensors of the same shape; a has the gradient where both are equal and positive."""

    @staticmethod
    def forward(ctx, a, b):
        y = torch.maximum(a, b).clamp_min_(0)
        ctx.save_for_backward(b - a, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        difference, y = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad, y, 0)  # 0 unless y > 0
        grad_b = torch.ops.aten.threshold_backward(grad, difference, 0)
        return grad.sub_(grad_b), grad_b


class FastSeqCap(cnn_gru_seqcap.SeqCap):
    """The first convolutions as a single one, of 8 x 8 with zeros around their weights.

    It runs twice, on the even and the odd rows, so that the pool of 2 x 1 is the larger of two tensors.
    """

    def convolve_first(self, x):
        weight = torch.cat([pad(self.wide.weight, (0, 0, 3, 3)), pad(self.high.weight, (3, 3, 0, 0))])  # (16, 1, 8, 8)
        bias = torch.cat([self.wide.bias, self.high.bias])
        x = pad(channels_last(x), (3, 4, 3, 4))
        return LargerOrZero.apply(*(conv2d(rows, weight, bias, (2, 1)) for rows in (x, x[:, :, 1:])))
