"""Folds of ATFNN in training as one network: each weight of all in one tensor, each step a step of all.

cuDNN's BiLSTM takes a whole GPU for 128 steps, one after the other, which take hardly longer for twenty folds than for
one; ATFNN's other products are as small. `Stack` makes one network of the folds' by `torch.vmap`, compiles it by
`torch.compile` and records its step. Nothing but the kernels is shared: each fold has its weights, its Adam and its
order of segments, and one that has no batch left in an epoch stands still while others go on. TFT, tried so too, was
no faster.

vmap and torch.compile take plain operations apart, so models.py writes its special ones out here. Two of them are
operators of their own below (models.OPERATORS), for any number n of folds: an LSTM, and attention in scalars.
"""

import functools
import sys
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call

import engine
import models


@functools.cache
def compiled(function):
    return torch.compile(function, dynamic=False)


def fused(function, *tensors):
    """function(*tensors), on a GPU by as few kernels as torch.compile makes of it."""
    return (compiled(function) if tensors[0].is_cuda else function)(*tensors)


def of_folds(op, info, in_dims, *args):
    """`op` of n under vmap: folds times n."""
    args = [
        arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
        for arg, dim in zip(args, in_dims)
    ]
    outputs = op(*(arg.flatten(0, 1) for arg in args))
    return tuple(output.unflatten(0, args[0].shape[:2]) for output in outputs), (0,) * len(outputs)


# ------------------------------------------------------------------------------------------------ LSTM


@contextmanager
def tensor_float_32():
    """Products of float32 in TF32, as cuDNN's LSTM has it by default."""
    usual = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = usual


def cell(sums, more, before, i, f, g, o, c, h):
    """An LSTM's step: sums and more (n, b, 4H) add up to the gates; those, c and h, (n * b, H) each, are filled."""
    of_i, of_f, of_g, of_o = (sums + more).flatten(0, 1).chunk(4, 1)
    of_i, of_f, of_g, of_o = of_i.sigmoid(), of_f.sigmoid(), of_g.tanh(), of_o.sigmoid()
    state = of_f * before + of_i * of_g
    for target, value in zip((i, f, g, o, c, h), (of_i, of_f, of_g, of_o, state, of_o * state.tanh())):
        target.copy_(value)


def cell_backward(i, f, g, o, before, c, grad_h, more, grad_c, *by_gates):
    """The step back: the gradients by the gates' sums are filled, and grad_c becomes that of the step before."""
    t, by_h = c.tanh(), (grad_h + more).flatten(0, 1)
    by_c = grad_c + by_h * o * (1 - t * t)
    values = by_c * g * i * (1 - i), by_c * before * f * (1 - f), by_c * i * (1 - g * g), by_h * t * o * (1 - o)
    for target, value in zip((*by_gates, grad_c), (*values, by_c * f)):
        target.copy_(value)


def by_time(like, n, t, b, size):
    """(n, t, b, size) of which that of a time lies together."""
    return like.new_empty(t, n, b, size).transpose(0, 1)


def at(step, *tensors):
    """(n * b, size) each, views; as such torch.compile sees that their parts do not overlap."""
    return [tensor[:, step].flatten(0, 1) for tensor in tensors]


@torch.library.custom_op("ser::lstm", mutates_args=())
def lstm(x: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n LSTMs of one layer and direction, from zeros: states h, gates i f g o, and cells and states c h.

    x (n, t, b, inputs), weight_ih (n, 4H, inputs), weight_hh (n, 4H, H), bias (n, 4H) -> (n, t, b, H or 4H or 2H).
    """
    (n, t, b, inputs), size = x.shape, weight_hh.shape[2]
    # c and h in rows of one tensor, as the gates are: for torch.compile's one kernel all targets have to be alike
    gates, states = by_time(x, n, t, b, 4 * size), by_time(x, n, t, b, 2 * size)
    state = x.new_zeros(n, b, size)
    before = state.flatten(0, 1)
    with tensor_float_32():
        sums = torch.baddbmm(bias[:, None], x.reshape(n, t * b, inputs), weight_ih.mT).view(n, t, b, 4 * size)
        for step in range(t):
            more = torch.bmm(state, weight_hh.mT)
            at_gates, at_states = at(step, gates, states)
            fused(cell, sums[:, step], more, before, *at_gates.chunk(4, 1), *at_states.chunk(2, 1))
            state, before = states[:, step, :, size:], at_states[:, :size]
    return states[..., size:].clone(), gates, states


@torch.library.custom_op("ser::lstm_backward", mutates_args=())
def lstm_backward(
    grad: Tensor, x: Tensor, weight_ih: Tensor, weight_hh: Tensor, h: Tensor, gates: Tensor, states: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients by x, weight_ih, weight_hh and bias, from that by h (n, t, b, H)."""
    (n, t, b, inputs), size = x.shape, weight_hh.shape[2]
    grad_gates, c = by_time(x, n, t, b, 4 * size), states[..., :size]
    more = x.new_zeros(n, b, size)
    start, grad_c = more.flatten(0, 1), x.new_zeros(n * b, size)
    with tensor_float_32():
        for step in reversed(range(t)):
            at_gates, at_c, target = at(step, gates, c, grad_gates)
            before = at(step - 1, c)[0] if step else start
            parts = at_gates.chunk(4, 1), target.chunk(4, 1)
            fused(cell_backward, *parts[0], before, at_c, grad[:, step], more, grad_c, *parts[1])
            if step:
                more = torch.bmm(grad_gates[:, step], weight_hh)
        grad_gates = grad_gates.contiguous()
        rows = grad_gates.view(n, t * b, 4 * size)
        until = torch.cat([x.new_zeros(n, 1, b, size), h[:, :-1]], 1).view(n, t * b, size)
        grad_ih, grad_hh = torch.bmm(rows.mT, x.reshape(n, t * b, inputs)), torch.bmm(rows.mT, until)
        return torch.bmm(rows, weight_ih).view_as(x), grad_ih, grad_hh, rows.sum(1)


@lstm.register_fake
def _(x, weight_ih, weight_hh, bias):
    (n, t, b, _), size = x.shape, weight_hh.shape[2]
    return tuple(by_time(x, n, t, b, width) for width in (size, 4 * size, 2 * size))


@lstm_backward.register_fake
def _(grad, x, weight_ih, weight_hh, h, gates, states):
    return tuple(part.new_empty(part.shape) for part in (x, weight_ih, weight_hh, weight_ih[..., 0]))


def last_states(module, x):
    """The last hidden state of each direction of a bidirectional nn.LSTM: x (b, t, features) -> (b, 2H)."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(module.weight_hh_l0.dtype).transpose(0, 1)
        for layer in range(module.num_layers):
            weight_ih, weight_hh, bias_ih, bias_hh = (
                torch.stack([getattr(module, f"{name}_l{layer}{way}") for way in ("", "_reverse")])
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h, _, _ = lstm(torch.stack([x, x.flip(0)]), weight_ih, weight_hh, bias_ih + bias_hh)
            x = torch.cat([h[0], h[1].flip(0)], 2)
    return torch.cat([h[0, -1], h[1, -1]], 1)


# ------------------------------------------------------------------------------------------- attention


def attend(x, slope, offset):
    s = slope[:, None, :, None] * x[:, :, None] + offset[:, None, :, None]  # (n, rows, heads, f)
    x_j, low, high = (part[:, :, None, None] for part in (x, x.amin(2), x.amax(2)))
    largest = torch.maximum(s * low, s * high)
    weights = (s[..., None] * x_j - largest[..., None]).exp()
    total, mean, square = (part.sum(-1) for part in (weights, weights * x_j, weights * x_j * x_j))
    mean = mean / total
    return mean, s, largest + total.log(), square / total - mean.square()


def by_parts(grad, x, slope, s, mean, variance):
    grad_s, by_x = grad * variance, grad * s
    grads = (slope[:, None, :, None] * grad_s).sum(2), (grad_s * x[:, :, None]).sum((1, 3)), grad_s.sum((1, 3))
    return *grads, grad - by_x * mean, by_x


def by_tokens(grad_x, x, s, largest, constant, by_x):
    x_j = x[:, :, None, None]
    weights = (s[..., None] * x_j - largest[..., None]).exp()
    return grad_x + (weights * (constant[..., None] + by_x[..., None] * x_j)).sum((2, 3))


@torch.library.custom_op("ser::scalar_attention", mutates_args=())
def scalar_attention(x: Tensor, slope: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """models.scalar_attention of n networks, and what its gradient needs, without any weights in memory.

    x (n, rows, f), slope and offset (n, heads) -> means m_i, s_i, log sum_j exp(s_i x_j), variances of x_j under the
    weights: (n, rows, heads, f) each.
    """
    return fused(attend, x, slope, offset)


@torch.library.custom_op("ser::scalar_attention_backward", mutates_args=())
def scalar_attention_backward(
    grad: Tensor, x: Tensor, slope: Tensor, mean: Tensor, s: Tensor, largest: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients by x, slope and offset, from that by the means; formulas: models.ScalarAttention."""
    grad_x, grad_slope, grad_offset, constant, by_x = fused(by_parts, grad, x, slope, s, mean, variance)
    return fused(by_tokens, grad_x, x, s, largest, constant, by_x), grad_slope, grad_offset


@scalar_attention.register_fake
def _(x, slope, offset):
    n, rows, f = x.shape
    return tuple(x.new_empty(n, rows, slope.shape[1], f) for _ in range(4))


@scalar_attention_backward.register_fake
def _(grad, x, slope, mean, s, largest, variance):
    return tuple(part.new_empty(part.shape) for part in (x, slope, slope))


def differentiable(op, backward, kept):
    """Register vmap for both and the gradient, from that by the first output, the first `kept` inputs, all outputs."""

    def keep(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:kept], *output)

    op.register_autograd(lambda ctx, grad, *others: backward(grad.contiguous(), *ctx.saved_tensors), setup_context=keep)
    for one in (op, backward):
        one.register_vmap(functools.partial(of_folds, one))


differentiable(lstm, lstm_backward, kept=3)
differentiable(scalar_attention, scalar_attention_backward, kept=2)


# ------------------------------------------------------------------------------------------- networks


@functools.cache
def network_of_folds(name, classes, sizes, build):
    """network(weights, x): the answers of the networks called `name` of all folds, (folds, b, classes).

    weights holds tensors (folds, ...) by their names in one network, x is (folds, b, 1, f, t). `sizes` are items of
    what models.build takes; `build` makes what runs of the function.
    """
    with torch.device("meta"):
        model = models.build(name, classes, **dict(sizes))
    return build(torch.vmap(lambda weights, x: functional_call(model, weights, (x,))))


def compile_network(network):
    engine.prepare_compiler()
    torch._dynamo.config.allow_rnn = True  # whose weights `last_states` reads
    return torch.compile(network, dynamic=False, fullgraph=True)


@contextmanager
def written_out():
    """ATFNN consists of what torch.vmap and torch.compile can take apart."""
    models.OPERATORS = sys.modules[__name__]
    try:
        yield
    finally:
        models.OPERATORS = None


def stacked(tensors):
    """One tensor (folds, ...) of many, which become parts of it; each keeps its layout in memory."""
    first = tensors[0]
    strides = (max(1, first.numel()), *first.stride())
    whole = torch.empty_strided((len(tensors), *first.shape), strides, dtype=first.dtype, device=first.device)
    for part, tensor in zip(whole.unbind(), tensors):
        part.copy_(tensor.detach())
        tensor.data = part
    return whole.requires_grad_()


class Stack:
    """Trains `members`, engine.Training of folds of the same network and settings, all at once.

    An epoch begins when every member that is still there has asked for it. Whole batches are trained on by all
    together, the last, shorter one by each alone. One that has left costs as much as before, but stands still. `build`
    makes what runs of the network of folds, in tests something simpler.
    """

    def __init__(self, members, build=compile_network):
        first = members[0]
        self.members, self.present, self.waiting = members, set(members), set()
        self.data, self.settings, self.recorded, self.graph = first.data, first.settings, first.recorded, None
        self.size, device = first.settings["batch_size"], first.segments.device
        front_end = first.settings["front_end"]
        sizes = dict(bands=front_end["bands"], frames=front_end["frames"], **engine.model_options(first.settings))
        self.network = network_of_folds(
            first.settings["model"], len(first.data.database.classes), tuple(sorted(sizes.items())), build
        )
        self.stream = torch.cuda.Stream() if first.stream else None
        engine.wait_for_all(device)
        parameters = [dict(member.model.named_parameters()) for member in members]
        self.weights = {name: stacked([one[name] for one in parameters]) for name in parameters[0]}
        self.order = torch.zeros(len(members), max(len(m.segments) for m in members), dtype=torch.int64, device=device)
        self.losses = torch.zeros(len(members), max(len(m.sizes) for m in members), device=device)
        for member, order, losses in zip(members, self.order, self.losses):
            member.stack = self
            member.order, member.losses = order[: len(member.segments)], losses[: len(member.sizes)]
        # offset and scale, (folds, 1 or S, bands, 1)
        self.normalization = [torch.stack(parts) for parts in zip(*(member.normalization[:2] for member in members))]
        self.folds = torch.arange(len(members), device=device)[:, None]
        self.within = torch.arange(self.size, device=device)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)  # of the step in the epoch
        self.whole = torch.zeros(len(members), dtype=torch.int64, device=device)  # batches of each member
        engine.wait_for_all(device)

    def step(self):
        """Train every member that has a whole batch left on the next one."""
        index = self.order[:, self.number * self.size + self.within]  # (folds, b)
        offset, scale = (
            part if part.shape[1] == 1 else part[self.folds, index] for part in self.normalization
        )  # (folds, 1 or b, bands, 1)
        x, y = ((self.data.segments[index] - offset) * scale).unsqueeze(2), self.data.labels[index]
        with engine.in_precision(x.device, self.settings["precision"]), written_out():
            logits = self.network(self.weights, x)
        double_softmax = self.settings.get("double_softmax", False)
        losses = engine.losses_of(logits.flatten(0, 1), y.flatten(), double_softmax).view(y.shape).mean(1)
        grads = torch.autograd.grad(losses.sum(), list(self.weights.values()))
        grads = [
            grad if grad.stride()[1:] == weight.stride()[1:] else torch.empty_like(weight).copy_(grad)
            for grad, weight in zip(grads, self.weights.values())
        ]
        done = (self.number >= self.whole).float()
        for number, member in enumerate(self.members):
            for weight, grad in zip(member.model.parameters(), grads):
                weight.grad = grad[number]
            with engine.beside(self.stream, member.stream):  # the others', each too small for a GPU
                member.optimizer.found_inf = done[number]  # where it is 1 Adam changes nothing
                member.optimizer.step()
                del member.optimizer.found_inf
        for member in self.members if self.stream else ():
            self.stream.wait_stream(member.stream)
        self.losses.index_copy_(1, self.number, losses.detach()[:, None])
        self.number += 1

    def arrive(self, member):
        """A member is ready for its next epoch, its order of segments is queued on its stream."""
        self.waiting.add(member)
        self.run_if_complete()

    def leave(self, member):
        """A member has ended; the others go on."""
        self.present.discard(member)
        self.run_if_complete()

    def run_if_complete(self):
        if not self.present or self.waiting != self.present:
            return
        self.waiting = set()
        batches = [len(m.segments) // self.size if m in self.present else 0 for m in self.members]
        with torch.cuda.stream(self.stream):
            for member in self.present if self.stream else ():
                self.stream.wait_stream(member.stream)
            self.whole.copy_(torch.tensor(batches))
            if self.recorded and not self.graph and max(batches):
                self.graph = self.record()
            self.number.zero_()
            for _ in range(max(batches)):
                self.graph.replay() if self.recorded else self.step()
        for member, done in zip(self.members, batches):
            if member in self.present:
                if self.stream:
                    member.stream.wait_stream(self.stream)
                member.start_from(done)

    def record(self):
        """A CUDA graph of one step, on the stack's stream."""
        with engine.taken_back(self.members):
            for _ in range(engine.WARM_UP):
                self.number.zero_()
                self.step()
        self.number.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.step()
        return graph
