"""Folds of ATFNN on a GPU as one network: each weight of all folds in one tensor, each step a step of all.

    StackedRunner().run_epoch(trainers)             # {trainer: losses of its steps}

cuDNN's BiLSTM occupies a whole GPU for 128 steps, one after the other, no longer for twenty folds than for one;
ATFNN's other products are as small. The network of all folds is made by `torch.vmap` of the form `stacked` of
fast/modules.py, compiled by `torch.compile`, and its step is recorded. Nothing but the kernels is shared: each fold has
its weights, its Adam and its order of segments, and a fold that has no whole batch left in an epoch stands still while
others go on. TFT, tried so too, was no faster.
"""

import functools
from contextlib import contextmanager

import torch
from torch.func import functional_call

import features
import models
from fast import graphs, modules
from training.trainer import cross_entropies, in_precision


@functools.cache
def network_of_folds(name, classes, options, transform):
    """network(weights, x): logits (folds, b, K) of the networks called `name` of all folds.

    weights holds tensors (folds, ...) by their names in one network, x is (folds, b, 1, f, t). `options` are items of
    the arguments of models.build; `transform` is what becomes of the function, such as its compilation.
    """
    with torch.device("meta"):
        model = modules.accelerate(models.build(name, classes, **dict(options)), "stacked")
    return transform(torch.vmap(lambda weights, x: functional_call(model, weights, (x,))))


def compile_network(network):
    """What torch.compile makes of a network of folds."""
    graphs.prepare_compiler()
    torch._dynamo.config.allow_rnn = True  # the form `stacked` reads its weights
    return torch.compile(network, dynamic=False, fullgraph=True)


def stack_weights(tensors):
    """One tensor (folds, ...) of many, which become parts of it; each keeps its layout in memory."""
    first = tensors[0]
    strides = (max(1, first.numel()), *first.stride())
    whole = torch.empty_strided((len(tensors), *first.shape), strides, dtype=first.dtype, device=first.device)
    for part, tensor in zip(whole.unbind(), tensors):
        part.copy_(tensor.detach())
        tensor.data = part
    return whole.requires_grad_()


@contextmanager
def on_stream(stream, after):
    """Context whose work is queued on `stream`, after the work of the stream `after`; without streams on a CPU."""
    if not stream:
        yield
        return
    stream.wait_stream(after)
    with torch.cuda.stream(stream):
        yield


class StackedTrainer:
    """Trains folds of the same network and settings, all at once; `transform`: see network_of_folds."""

    def __init__(self, trainers, transform=compile_network):
        first = trainers[0]
        self.trainers, self.data, self.settings, self.graph = trainers, first.data, first.settings, None
        self.batch_size, device = first.settings["batch_size"], first.segments.device
        self.is_recorded = device.type == "cuda"
        front_end = features.FrontEnd(**first.settings["front_end"])
        options = dict(n_mels=front_end.n_mels, frames=front_end.frames)
        options |= {name: first.settings[name] for name in models.OPTIONS if name in first.settings}
        self.network = network_of_folds(
            first.settings["model"], len(first.data.database.classes), tuple(sorted(options.items())), transform
        )
        parameters = [dict(trainer.model.named_parameters()) for trainer in trainers]
        self.weights = {name: stack_weights([of_fold[name] for of_fold in parameters]) for name in parameters[0]}
        folds, steps = len(trainers), max(len(trainer.step_sizes) for trainer in trainers)
        longest = max(len(trainer.segments) for trainer in trainers)
        self.order = torch.zeros(folds, longest, dtype=torch.int64, device=device)  # (folds, n) of the epoch
        self.losses = torch.zeros(folds, steps, device=device)
        # offset and scale, (folds, 1 or S, n_mels, 1)
        self.normalization = [torch.stack(parts) for parts in zip(*(t.normalization[:2] for t in trainers))]
        self.fold_index = torch.arange(folds, device=device)[:, None]
        self.within = torch.arange(self.batch_size, device=device)
        self.step_index = torch.zeros(1, dtype=torch.int64, device=device)
        self.whole_batches = torch.zeros(folds, dtype=torch.int64, device=device)  # of each fold in the epoch
        self.stream = torch.cuda.Stream() if self.is_recorded else None
        self.streams = [torch.cuda.Stream() if self.is_recorded else None for _ in trainers]  # of the folds' Adam

    def step(self):
        """Train each fold that has a whole batch left on the next batch."""
        index = self.order[:, self.step_index * self.batch_size + self.within]  # (folds, b)
        offset, scale = (
            part if part.shape[1] == 1 else part[self.fold_index, index] for part in self.normalization
        )  # (folds, 1 or b, n_mels, 1)
        x, labels = ((self.data.segments[index] - offset) * scale).unsqueeze(2), self.data.labels[index]
        with in_precision(x.device, self.settings["precision"]):
            logits = self.network(self.weights, x)  # (folds, b, K)
        double_softmax = self.settings.get("double_softmax", False)
        losses = cross_entropies(logits.flatten(0, 1), labels.flatten(), double_softmax).view(labels.shape).mean(1)
        grads = torch.autograd.grad(losses.sum(), list(self.weights.values()))
        grads = [
            grad if grad.stride()[1:] == weight.stride()[1:] else torch.empty_like(weight).copy_(grad)
            for grad, weight in zip(grads, self.weights.values())
        ]
        is_over = (self.step_index >= self.whole_batches).float()
        for number, (trainer, stream) in enumerate(zip(self.trainers, self.streams)):
            for weight, grad in zip(trainer.model.parameters(), grads):
                weight.grad = grad[number]
            with on_stream(stream, after=self.stream):  # in parallel: each is too small for a GPU
                trainer.optimizer.found_inf = is_over[number]  # where it is 1 Adam changes nothing
                trainer.optimizer.step()
                del trainer.optimizer.found_inf
        for stream in self.streams if self.stream else ():
            self.stream.wait_stream(stream)
        self.losses.index_copy_(1, self.step_index, losses.detach()[:, None])
        self.step_index += 1

    def capture_step(self):
        """CUDA graph of a step, on the stack's stream."""
        with graphs.state_restored_afterwards(self.trainers), torch.cuda.stream(self.stream):
            for _ in range(graphs.WARM_UP):
                self.step_index.zero_()
                self.step()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream):
            self.step()
        return graph

    def run_whole_batches(self, active):
        """Train the folds that are active on the whole batches of their next epoch; gives {trainer: steps done}."""
        steps = [len(t.segments) // self.batch_size if t in active else 0 for t in self.trainers]
        with on_stream(self.stream, after=self.stream and torch.cuda.current_stream()):
            for trainer, order in zip(self.trainers, self.order):
                if trainer in active:
                    order[: len(trainer.segments)] = trainer.next_order()
            self.whole_batches.copy_(torch.tensor(steps))
        if self.is_recorded and not self.graph and max(steps):
            self.graph = self.capture_step()
        with on_stream(self.stream, after=self.stream and torch.cuda.current_stream()):
            self.step_index.zero_()
            for _ in range(max(steps)):
                self.graph.replay() if self.graph else self.step()
        if self.stream:
            self.stream.synchronize()
        return dict(zip(self.trainers, steps))


class StackedRunner:
    """Trains the folds of its first epoch as one network; the last, shorter batch of an epoch by each fold alone."""

    def __init__(self, transform=compile_network):
        self.transform, self.stack, self.recorded = transform, None, {}

    def run_epoch(self, trainers, report=None):
        """Train each fold for an epoch; gives {trainer: losses of its steps}; `report` is not called."""
        if self.stack is None or not set(trainers) <= set(self.stack.trainers):
            self.stack, self.recorded = None, {}  # their memory is free before the next stack is made
            self.stack = StackedTrainer(list(trainers), self.transform)
            if self.stack.is_recorded:
                self.recorded = {trainer: graphs.RecordedFold(trainer, compiled=False) for trainer in trainers}
        done = self.stack.run_whole_batches(trainers)
        losses = dict(zip(self.stack.trainers, self.stack.losses.tolist()))
        rest = self.run_rest(trainers, done)
        return {trainer: losses[trainer][: done[trainer]] + rest[trainer] for trainer in trainers}

    def run_rest(self, trainers, done):
        """Train each fold on what `done` steps left of its epoch; gives {trainer: losses of those steps}."""
        if not self.recorded:
            losses = {}
            for trainer in trainers:
                index = trainer.next_order()[done[trainer] * self.stack.batch_size :]
                losses[trainer] = [trainer.step(index).item()] if len(index) else []
                trainer.epoch += 1
            return losses
        folds = [self.recorded[trainer] for trainer in trainers]
        for fold in folds:
            fold.begin_epoch(done[fold.trainer])
        graphs.take_turns(folds)
        return {fold.trainer: fold.end_epoch()[done[fold.trainer] :] for fold in folds}
