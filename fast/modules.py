"""Faster forms of the modules of models.py: subclasses with another `forward`, the same weights and the same results.

Those of networks in comparisons/ are in fast/layers.py, and in the registry at the end of this file.

    model = modules.accelerate(models.build("tft", classes=4), "cpu")

The forms, and where they differ from the plain modules:

    plain     nothing
    cpu       batch norm folded into the first convolution; attention over bands in scalars; narrow layer norms
    cuda      the same, sized for a GPU; the first convolution is a product of patches; the BiLSTM stays in float32
    stacked   for folds of ATFNN that are trained as one network (fast/stacked.py): operations that torch.vmap and
              torch.compile can transform; the modules of TFT stay plain

All but `plain` are meant for bfloat16 autocast too: attention, norms and batch statistics stay in float32. A form works
on each device; tests run all of them on a CPU. Letters: b segments, f Mel bands, d or t frames, c channels, n networks.
"""

import functools
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm, conv2d, dropout, linear, pad

import models
from comparisons import cnn_gru_seqcap, cnn_lstm, fcn_attention
from fast import layers

# ------------------------------------------------------------------------------------------------ TFT


def patches_of(x, conv):
    """Patches that the kernel of `conv` covers in x (b, 1, f, d), zeros around it: (b, rows, columns, taps).

    torch's own `unfold` launches a kernel for each segment on a GPU.
    """
    (height, width), (top, left) = conv.kernel_size, conv.padding
    padded = pad(x[:, 0], (left, left, top, top))
    return padded.unfold(1, height, conv.stride[0]).unfold(2, width, conv.stride[1]).flatten(3)


def fold_batch_norm(conv, norm, patches):
    """Weight (c, taps) and bias (c,) of the one convolution that equals norm(conv(x)), for x of one channel.

    In evaluation the running statistics give them. In training the batch's do, without a pass over conv's output: a
    linear map of patches with mean m and covariance C has mean W m + b and variance diag(W C W'), and `patches`
    (b, rows, columns, taps) have few taps. Running statistics are updated. conv's own bias cancels.
    """
    weight = conv.weight.flatten(1)  # (c, taps)
    if norm.training:
        n, patch_mean = patches[..., 0].numel(), patches.mean((0, 1, 2))
        centred = (patches - patch_mean).flatten(0, 1)  # (b * rows, columns, taps)
        covariance = (centred.mT @ centred).sum(0) / n  # a product for each row, so that a GPU is busy
        mean, variance = weight @ patch_mean, ((weight @ covariance) * weight).sum(1)
        with torch.no_grad():
            norm.running_mean.lerp_(mean + conv.bias, norm.momentum)
            norm.running_var.lerp_(variance * (n / (n - 1)), norm.momentum)
            norm.num_batches_tracked += 1
    else:
        mean, variance = norm.running_mean - conv.bias, norm.running_var
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return weight * scale[:, None], norm.bias - mean * scale


def normalized_convolution(x, conv, norm):
    """norm(conv(x)); in training without the passes over the output for conv's bias, as batch norm cancels it."""
    if not norm.training:
        return norm(conv(x))
    y, bias = conv2d(x, conv.weight, None, conv.stride, conv.padding), conv.bias.detach()
    running_mean = norm.running_mean - bias
    y = batch_norm(y, running_mean, norm.running_var, norm.weight, norm.bias, True, norm.momentum, norm.eps)
    norm.running_mean.copy_(running_mean + bias)
    norm.num_batches_tracked += 1
    return y


class CpuConvEncoder(models.ConvEncoder):
    """Batch norm folded into the first convolution. As it cancels the biases of both, they get no gradient."""

    def forward(self, x):
        first, first_norm, _, second, second_norm, _ = self.layers
        with torch.autocast(x.device.type, enabled=False):
            patches = patches_of(x, first) if first_norm.training else None
            weight, bias = fold_batch_norm(first, first_norm, patches)
        y = self.convolve(x, patches, weight, bias).relu_()  # (b, c, f', d')
        y = normalized_convolution(y, second, second_norm).relu_()  # (b, c, f'', d'')
        return self.mean_over_channels(y)  # (b, f'', d'')

    def convolve(self, x, patches, weight, bias):
        conv = self.layers[0]
        weight = weight.view(-1, *conv.kernel_size, 1).permute(0, 3, 1, 2)  # (c, 1, height, width), likewise
        return conv2d(layers.channels_last(x), weight, bias, conv.stride, conv.padding)

    def mean_over_channels(self, y):
        """The mean as a product, whose gradient has the memory layout of the channels."""
        return y.permute(0, 2, 3, 1) @ y.new_full((y.shape[1],), 1 / y.shape[1])


class CudaConvEncoder(CpuConvEncoder):
    """In training the first convolution is a product of patches."""

    def convolve(self, x, patches, weight, bias):
        """(b, c, rows, columns), channels last: a GPU takes it, and above all its gradient, in a fraction of the time.

        The bias is one more tap, whose input is 1; zeros fill the taps up to a multiple of 8.
        """
        if patches is None:
            return super().convolve(x, patches, weight, bias)
        spare = -(weight.shape[1] + 1) % 8
        weight = pad(torch.cat([weight, bias[:, None]], 1), (0, spare))  # (c, taps + 1 + spare)
        return linear(pad(pad(patches, (0, 1), value=1.0), (0, spare)), weight).permute(0, 3, 1, 2)

    def mean_over_channels(self, y):
        return y.mean(1, dtype=self.layers[4].weight.dtype)


class FastTransformerEncoder(models.TransformerEncoder):
    """Attention in float32 under autocast: with heads of 5 or 10 numbers bfloat16 is slower."""

    def forward(self, q, k, v, return_map=False):
        with torch.autocast(q.device.type, enabled=False):
            q, k, v = (tokens.to(self.norm_attention.weight.dtype) for tokens in (q, k, v))
            attended, weights = self.attention(q, k, v, need_weights=return_map, average_attn_weights=False)
        p = self.norm_attention(self.dropout(attended) + v)
        return self.norm_mlp(self.dropout(self.mlp(p)) + p), weights


# ---------------------------------------------------------------------------------------------- ATFNN


class ScalarAttention(torch.autograd.Function):
    """m_i = sum_j x_j softmax_j(s_i x_j) with s_i = slope x_i + offset, exactly, without any vectors.

    This is self-attention over tokens that are affine in one number x_i each. Of a head's scores all terms
    constant in j cancel in the softmax, so (slope x_i + offset) x_j remains. The values are affine in x_j, so its
    mean m_i is all that is needed of them. x (rows, f), slope and offset (heads,) -> m (rows, heads, f).

    `size` rows are computed at a time; on a CPU so few that their weights stay in its cache. The backward pass
    computes the weights again: stored, they would be 0.8 GB for 128 segments.
    """

    @staticmethod
    def forward(ctx, x, slope, offset, size):
        s = slope[:, None] * x[:, None] + offset[:, None]  # (rows, heads, f)
        low, high = (bound[:, None, None] for bound in x.aminmax(dim=1))
        largest = torch.maximum(s * low, s * high)  # of s_i x_j over j
        moments = torch.stack([torch.ones_like(x), x, x.square()], 1)  # (rows, 3, f)
        sums = x.new_empty(len(x), 3, s[0].numel())  # (rows, 3, heads * f)
        for rows in ScalarAttention.blocks(x, size):
            weights = ScalarAttention.weights(x[rows], s[rows], largest[rows])
            torch.bmm(moments[rows], weights.transpose(1, 2), out=sums[rows])
        total, mean, square = sums.view(len(x), 3, *s.shape[1:]).unbind(1)  # (rows, heads, f) each
        mean = mean / total
        largest = largest + total.log()  # now s_i x_j - largest is the logarithm of p_ij
        ctx.save_for_backward(x, slope, s, largest, mean, square / total - mean.square())
        ctx.size = size
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, slope, s, largest, mean, variance = ctx.saved_tensors
        grad_s = grad * variance  # d m_i / d s_i is the variance of x under the weights
        # d m_i / d x_j = p_ij (1 - s_i m_i) + x_j p_ij s_i
        sides = torch.stack([grad - grad * s * mean, grad * s], 1).flatten(2)  # (rows, 2, heads * f)
        grad_x = (slope[:, None] * grad_s).sum(1)
        for rows in ScalarAttention.blocks(x, ctx.size):
            weights = ScalarAttention.weights(x[rows], s[rows], largest[rows])
            constant, by_x = torch.bmm(sides[rows], weights).unbind(1)
            grad_x[rows] += constant + x[rows] * by_x
        return grad_x, (grad_s * x[:, None]).sum((0, 2)), grad_s.sum((0, 2)), None

    @staticmethod
    def blocks(x, size):
        """Slices of `size` rows of x each."""
        return [slice(start, start + size) for start in range(0, len(x), size)]

    @staticmethod
    def weights(x, s, largest):
        """exp(s_i x_j - largest_i) of x (r, f), s and largest (r, heads, f): (r, heads * f, f).

        A product and a pass: a third of the time of a softmax.
        """
        sides = torch.stack([s.flatten(1), -largest.flatten(1)], 2)  # (r, heads * f, 2)
        return torch.bmm(sides, torch.stack([x, torch.ones_like(x)], 1)).exp_()


class NarrowLayerNorm(torch.autograd.Function):
    """Layer norm of x (..., c) over few channels as products with (c, c) matrices, `size` rows at a time, or all.

    torch's own takes a block of threads for each row of 8 numbers on a GPU, and as much time as a long row on a CPU.

    With centred d = x - mean and r = (mean(d^2) + epsilon)^-1/2 the output is weight * d r + bias. For the gradient
    g by d r, that by x is r (g - mean(g) - d r mean(g d r)). The backward pass computes d and r again.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, epsilon, size):
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.epsilon, ctx.size = epsilon, size
        y, (centre, average) = torch.empty_like(x), NarrowLayerNorm.matrices(weight)
        for source, target in NarrowLayerNorm.blocks(size, x, y):
            normal, _ = NarrowLayerNorm.normal(source, centre, average, epsilon)
            torch.addcmul(bias, normal, weight, out=target)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x, (centre, average) = torch.empty_like(x), NarrowLayerNorm.matrices(weight)
        weighted, grad_weight, grad_bias = weight[:, None], torch.zeros_like(weight), torch.zeros_like(weight)
        for source, upstream, target in NarrowLayerNorm.blocks(ctx.size, x, grad.contiguous(), grad_x):
            normal, scale = NarrowLayerNorm.normal(source, centre, average, ctx.epsilon)
            product, ones = upstream * normal, source.new_ones(len(source))
            grad_weight += ones @ product
            grad_bias += ones @ upstream
            torch.mm(upstream, weighted * centre, out=target)
            target.addcmul_(normal, product @ (weighted * average), value=-1).mul_(scale)
        return grad_x, grad_weight, grad_bias, None, None

    @staticmethod
    def matrices(like):
        """The (c, c) matrices that subtract the mean of c numbers, and that replace each of them by it."""
        average = like.new_full((len(like), len(like)), 1 / len(like))
        return torch.eye(len(like), dtype=like.dtype, device=like.device) - average, average

    @staticmethod
    def normal(x, centre, average, epsilon):
        """d r and r of x (n, c): both (n, c)."""
        normal = x @ centre
        scale = (normal.square() @ average).add_(epsilon).rsqrt_()
        return normal.mul_(scale), scale

    @staticmethod
    def blocks(size, *tensors):
        """Parts (size, c) of each tensor (..., c), in step."""
        rows = [tensor.flatten(0, -2) for tensor in tensors]  # (n, c) each
        return zip(*(tensor.split(size or len(tensor)) for tensor in rows))


class CpuFrequencyEncoder(models.FrequencyEncoder):
    """Attention in scalars: a linear layer lifts each bin from 1 to c numbers, so its token is affine in 1 number."""

    attention_rows = 64  # at a time
    norm_rows = 16384

    def forward(self, x):
        float32 = torch.autocast(x.device.type, enabled=False)  # exponentials of products, and norms
        with float32:
            x = x.squeeze(1).transpose(1, 2).contiguous()  # (b, t, f)
            y = self.normalize(self.norm_attention, self.lift_and_attend(x))  # (b, t, f, c)
        z = self.convolve(y)
        with float32:
            return self.normalize(self.norm_convolution, y + z)

    def lift_and_attend(self, x):
        """lift(x) + attention(lift(x)) over the bands: (b, t, f) -> (b, t, f, c).

        The values are affine in the heads' means of x and the output in the values, so all is one product.
        """
        b, t, f = x.shape
        heads, size = self.attention.num_heads, self.attention.head_dim
        weight, bias, out = self.attention.in_proj_weight, self.attention.in_proj_bias, self.attention.out_proj
        # query, key and value of x are slope * x + constant; each (heads, size)
        slope_q, slope_k, slope_v = (weight @ self.lift.weight).view(3, heads, size)
        constant_q, _, constant_v = (weight @ self.lift.bias + bias).view(3, heads, size)
        scale = size**-0.5
        x = x.view(b * t, f)
        mean = self.attend(x, scale * (slope_q * slope_k).sum(1), scale * (constant_q * slope_k).sum(1))
        slope = torch.einsum("chs,hs->ch", out.weight.unflatten(1, (heads, size)), slope_v)  # of the output by a mean
        constant = out.weight @ constant_v.flatten() + out.bias
        terms = torch.cat([x[:, None], mean], 1).transpose(1, 2)  # (b * t, f, 1 + heads)
        slope = torch.cat([self.lift.weight, slope], 1)  # (c, 1 + heads)
        return linear(terms.contiguous(), slope, constant + self.lift.bias).view(b, t, f, -1)

    def attend(self, x, slope, offset):
        return ScalarAttention.apply(x, slope, offset, self.attention_rows)

    def convolve(self, y):
        """(b, t, f, c) -> (b, t, f, c)."""
        return self.convolutions(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def normalize(self, norm, x):
        if torch.is_grad_enabled():
            return NarrowLayerNorm.apply(x, norm.weight, norm.bias, norm.eps, self.norm_rows)
        return norm(x)


class CudaFrequencyEncoder(CpuFrequencyEncoder):
    """Attention in scalars, as many rows at a time as a GPU can use."""

    attention_rows = 8192
    norm_rows = None  # all


class CudaTimeEncoder(models.TimeEncoder):
    """The BiLSTM in float32: autocast would run it in float16 on a GPU, where small gradients become 0."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.lstm.weight_hh_l0.dtype))


# ------------------------------------------------------------------------ operators of n networks at once


@functools.cache
def compiled(function):
    """What torch.compile makes of a function, once for all calls."""
    return torch.compile(function, dynamic=False)


def fused(function, *tensors):
    """function(*tensors), on a GPU by as few kernels as torch.compile can make of it."""
    return (compiled(function) if tensors[0].is_cuda else function)(*tensors)


def merge_networks(op, info, in_dims, *args):
    """The rule of torch.vmap for `op` of n networks: vmap's m times n are as many networks, (m * n, ...)."""
    args = [
        arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
        for arg, dim in zip(args, in_dims)
    ]  # (m, n, ...) each
    outputs = op(*(arg.flatten(0, 1) for arg in args))
    return tuple(output.unflatten(0, args[0].shape[:2]) for output in outputs), (0,) * len(outputs)


def register_gradient(op, backward, saved):
    """Make `op` differentiable by its first output, and both work under torch.vmap.

    `backward` takes that gradient, the first `saved` inputs of `op` and all of its outputs.
    """

    def save(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:saved], *output)

    op.register_autograd(lambda ctx, grad, *others: backward(grad.contiguous(), *ctx.saved_tensors), setup_context=save)
    for function in (op, backward):
        function.register_vmap(functools.partial(merge_networks, function))


@contextmanager
def tensor_float_32():
    """Products of float32 in TF32, cuDNN's default for an LSTM."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def lstm_cell(from_input, from_state, before, i, f, g, o, c, h):
    """An LSTM's step: the sum of (n, b, 4H) twice gives the gates; they, c and h, (n * b, H) each, are filled."""
    sum_i, sum_f, sum_g, sum_o = (from_input + from_state).flatten(0, 1).chunk(4, 1)
    new_i, new_f, new_g, new_o = sum_i.sigmoid(), sum_f.sigmoid(), sum_g.tanh(), sum_o.sigmoid()
    state = new_f * before + new_i * new_g
    for target, value in zip((i, f, g, o, c, h), (new_i, new_f, new_g, new_o, state, new_o * state.tanh())):
        target.copy_(value)


def lstm_cell_backward(i, f, g, o, before, c, grad_h, grad_h_next, grad_c, *grad_gates):
    """The step back: the gradients by the gates' sums are filled, and grad_c becomes that of the step before."""
    t, by_h = c.tanh(), (grad_h + grad_h_next).flatten(0, 1)
    by_c = grad_c + by_h * o * (1 - t * t)
    values = by_c * g * i * (1 - i), by_c * before * f * (1 - f), by_c * i * (1 - g * g), by_h * t * o * (1 - o)
    for target, value in zip((*grad_gates, grad_c), (*values, by_c * f)):
        target.copy_(value)


def empty_by_time(like, n, t, b, size):
    """An empty (n, t, b, size) in whose memory each time step is contiguous."""
    return like.new_empty(t, n, b, size).transpose(0, 1)


def at_step(step, *tensors):
    """That time step of each: (n * b, size), views; as such torch.compile knows that their parts do not overlap."""
    return [tensor[:, step].flatten(0, 1) for tensor in tensors]


@torch.library.custom_op("ser::lstm", mutates_args=())
def lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n LSTMs of one layer and direction, whose states are 0 before the first time step.

    x (n, t, b, inputs), weight_ih (n, 4H, inputs), weight_hh (n, 4H, H), bias (n, 4H)
    -> states h (n, t, b, H); gates i, f, g, o (n, t, b, 4H); cells and states c, h (n, t, b, 2H).
    """
    (n, t, b, inputs), size = x.shape, weight_hh.shape[2]
    # c and h in rows of one tensor, as the gates are: torch.compile makes one kernel if all targets are alike
    gates, states = empty_by_time(x, n, t, b, 4 * size), empty_by_time(x, n, t, b, 2 * size)
    state = x.new_zeros(n, b, size)
    before = state.flatten(0, 1)
    with tensor_float_32():
        sums = torch.baddbmm(bias[:, None], x.reshape(n, t * b, inputs), weight_ih.mT).view(n, t, b, 4 * size)
        for step in range(t):
            from_state = torch.bmm(state, weight_hh.mT)
            step_gates, step_states = at_step(step, gates, states)
            fused(lstm_cell, sums[:, step], from_state, before, *step_gates.chunk(4, 1), *step_states.chunk(2, 1))
            state, before = states[:, step, :, size:], step_states[:, :size]
    return states[..., size:].clone(), gates, states


@torch.library.custom_op("ser::lstm_backward", mutates_args=())
def lstm_backward(
    grad: Tensor, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, h: Tensor, gates: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, weight_ih, weight_hh and bias, in their shapes, from the gradient by h (n, t, b, H)."""
    (n, t, b, inputs), size = x.shape, weight_hh.shape[2]
    grad_gates, c = empty_by_time(x, n, t, b, 4 * size), states[..., :size]
    grad_h_next = x.new_zeros(n, b, size)
    start, grad_c = grad_h_next.flatten(0, 1), x.new_zeros(n * b, size)
    with tensor_float_32():
        for step in reversed(range(t)):
            step_gates, step_c, target = at_step(step, gates, c, grad_gates)
            before = at_step(step - 1, c)[0] if step else start
            gradients = grad[:, step], grad_h_next, grad_c, *target.chunk(4, 1)
            fused(lstm_cell_backward, *step_gates.chunk(4, 1), before, step_c, *gradients)
            if step:
                grad_h_next = torch.bmm(grad_gates[:, step], weight_hh)
        grad_gates = grad_gates.contiguous()
        rows = grad_gates.view(n, t * b, 4 * size)
        previous = torch.cat([x.new_zeros(n, 1, b, size), h[:, :-1]], 1).view(n, t * b, size)
        grad_ih, grad_hh = torch.bmm(rows.mT, x.reshape(n, t * b, inputs)), torch.bmm(rows.mT, previous)
        return torch.bmm(rows, weight_ih).view_as(x), grad_ih, grad_hh, rows.sum(1)


@lstm.register_fake
def _(x, weight_ih, weight_hh, bias):
    (n, t, b, _), size = x.shape, weight_hh.shape[2]
    return tuple(empty_by_time(x, n, t, b, width) for width in (size, 4 * size, 2 * size))


@lstm_backward.register_fake
def _(grad, x, weight_ih, weight_hh, h, gates, states):
    return tuple(part.new_empty(part.shape) for part in (x, weight_ih, weight_hh, weight_ih[..., 0]))


def attention_means(x, slope, offset):
    """The forward pass of ScalarAttention for n networks; shapes and results: scalar_attention."""
    s = slope[:, None, :, None] * x[:, :, None] + offset[:, None, :, None]  # (n, rows, heads, f)
    x_j, low, high = (part[:, :, None, None] for part in (x, x.amin(2), x.amax(2)))
    largest = torch.maximum(s * low, s * high)
    weights = (s[..., None] * x_j - largest[..., None]).exp()
    total, mean, square = (part.sum(-1) for part in (weights, weights * x_j, weights * x_j * x_j))
    mean = mean / total
    return mean, s, largest + total.log(), square / total - mean.square()


def attention_gradients(grad, x, slope, s, mean, variance):
    """First part of the backward pass of ScalarAttention for n networks; grad, s, mean, variance (n, rows, heads, f).

    -> the part through s of the gradient by x (n, rows, f); the gradients by slope and offset (n, heads); for the rest
    of the gradient by x the factors of p_ij and of x_j p_ij (n, rows, heads, f).
    """
    grad_s, by_x = grad * variance, grad * s
    grads = (slope[:, None, :, None] * grad_s).sum(2), (grad_s * x[:, :, None]).sum((1, 3)), grad_s.sum((1, 3))
    return *grads, grad - by_x * mean, by_x


def attention_gradient_by_tokens(grad_x, x, s, largest, constant, by_x):
    """The gradient by x (n, rows, f): its part through s, `grad_x`, and for each token j a sum over the queries i."""
    x_j = x[:, :, None, None]
    weights = (s[..., None] * x_j - largest[..., None]).exp()
    return grad_x + (weights * (constant[..., None] + by_x[..., None] * x_j)).sum((2, 3))


@torch.library.custom_op("ser::scalar_attention", mutates_args=())
def scalar_attention(x: Tensor, slope: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ScalarAttention of n networks, and what its gradient needs, on a GPU without any weights in memory.

    x (n, rows, f), slope and offset (n, heads) -> means m_i, s_i, log sum_j exp(s_i x_j), variances of x_j under the
    weights: (n, rows, heads, f) each.
    """
    return fused(attention_means, x, slope, offset)


@torch.library.custom_op("ser::scalar_attention_backward", mutates_args=())
def scalar_attention_backward(
    grad: Tensor, x: Tensor, slope: Tensor, mean: Tensor, s: Tensor, largest: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x, slope and offset, from that by the means; formulas: ScalarAttention.backward."""
    grad_x, grad_slope, grad_offset, constant, by_x = fused(attention_gradients, grad, x, slope, s, mean, variance)
    return fused(attention_gradient_by_tokens, grad_x, x, s, largest, constant, by_x), grad_slope, grad_offset


@scalar_attention.register_fake
def _(x, slope, offset):
    n, rows, f = x.shape
    return tuple(x.new_empty(n, rows, slope.shape[1], f) for _ in range(4))


@scalar_attention_backward.register_fake
def _(grad, x, slope, mean, s, largest, variance):
    return tuple(part.new_empty(part.shape) for part in (x, slope, slope))


register_gradient(lstm, lstm_backward, saved=3)
register_gradient(scalar_attention, scalar_attention_backward, saved=2)


# ---------------------------------------------------------------------- ATFNN for n networks at once


class StackedGroupAttention(models.GroupAttention):
    """The convolution as a product of its patches; they do not overlap."""

    def forward(self, x):
        height, width = self.group
        patches = x.unflatten(2, (-1, height)).unflatten(4, (-1, width))  # (b, inputs, rows, height, columns, width)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)  # (b, rows, columns, inputs * height * width)
        weight = linear(patches, self.conv.weight.flatten(1), self.conv.bias).permute(0, 3, 1, 2)  # (b, c, ...)
        weight = models.GATES[self.activation](weight, self.axis).mean(1, keepdim=True)
        return weight.repeat_interleave(max(self.group), self.axis)


class StackedFrequencyEncoder(CpuFrequencyEncoder):
    """Attention in scalars by the operator above, convolutions as products, torch's layer norm."""

    def attend(self, x, slope, offset):
        return scalar_attention(x[None], slope[None], offset[None])[0][0]

    def convolve(self, y):
        """(b, t, f, c) -> (b, t, f, c).

        The first product takes what each tap covers, the second gives what each tap adds. Each segment has a product
        of its own, as the gradient by a weight from all frames in one would not fill a GPU.
        """
        first, _, second = self.convolutions
        taps, (b, t, f, _) = first.kernel_size[1], y.shape
        around = (0, 0, first.padding[1], first.padding[1])
        padded = pad(y, around)  # (b, t, f + taps - 1, c)
        patches = torch.stack([padded[:, :, tap : tap + f] for tap in range(taps)], -1)  # (b, t, f, c, taps)
        z = torch.bmm(patches.view(b, t * f, -1), first.weight.flatten(1).mT.expand(b, -1, -1))
        z = (z + first.bias.to(z.dtype)).relu()  # (b, t * f, hidden)
        parts = torch.bmm(z, second.weight.transpose(0, 1).flatten(1).expand(b, -1, -1))  # (b, t * f, c * taps)
        parts = pad(parts.view(b, t, f, -1, taps), (0, 0, *around))
        return sum(parts[:, :, tap : tap + f, :, tap].to(second.bias.dtype) for tap in range(taps)) + second.bias

    def normalize(self, norm, x):
        return norm(x)


class StackedTimeEncoder(models.TimeEncoder):
    """Each layer of the BiLSTM by the operator above, both directions at once, in float32."""

    def forward(self, x):
        module = self.lstm
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(module.weight_hh_l0.dtype).transpose(0, 1)  # (t, b, features)
            for layer in range(module.num_layers):
                weight_ih, weight_hh, bias_ih, bias_hh = (
                    torch.stack([getattr(module, f"{name}_l{layer}{direction}") for direction in ("", "_reverse")])
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                x = dropout(x, module.dropout, self.training) if layer else x
                h, _, _ = lstm(torch.stack([x, x.flip(0)]), weight_ih, weight_hh, bias_ih + bias_hh)  # (2, t, b, H)
                x = torch.cat([h[0], h[1].flip(0)], 2)  # (t, b, 2H)
        return torch.cat([h[0, -1], h[1, -1]], 1)  # (b, 2H)


# ------------------------------------------------------------------------------------------- registry


LAYERS = {  # of networks in comparisons/
    torch.nn.LocalResponseNorm: layers.FastLocalResponseNorm,
    fcn_attention.FCNAttention: layers.FastFCNAttention,
    cnn_gru_seqcap.Routing: layers.FastRouting,
    cnn_gru_seqcap.SeqCap: layers.FastSeqCap,
}
FORMS = {  # form -> plain class -> the class that takes its part
    "plain": {},
    "cpu": LAYERS
    | {
        cnn_lstm.CNNLSTM: layers.CpuCNNLSTM,
        models.ConvEncoder: CpuConvEncoder,
        models.TransformerEncoder: FastTransformerEncoder,
        models.FrequencyEncoder: CpuFrequencyEncoder,
    },
    "cuda": LAYERS
    | {
        models.ConvEncoder: CudaConvEncoder,
        models.TransformerEncoder: FastTransformerEncoder,
        models.FrequencyEncoder: CudaFrequencyEncoder,
        models.TimeEncoder: CudaTimeEncoder,
    },
    "stacked": {
        models.GroupAttention: StackedGroupAttention,
        models.FrequencyEncoder: StackedFrequencyEncoder,
        models.TimeEncoder: StackedTimeEncoder,
    },
}


def accelerate(model, form):
    """Give each plain module of a new model its form, a key of FORMS; return the model.

    Weights, names of weights and results stay. Modules that have no such form, as those of other networks, stay plain.
    """
    for module in model.modules():
        module.__class__ = FORMS[form].get(type(module), type(module))
    return model
