"""Folds on a GPU by CUDA graphs: a step is recorded once and replayed, which spares the time between small kernels.

    runner = GraphRunner(compiled=True)             # records what torch.compile makes of the network
    runner.run_epoch(trainers)                      # {trainer: losses of its steps}

Each fold has its own graphs, stream and buffers; folds take turns, a few steps at a time, so that several work on the
GPU at once. The host waits for the device once an epoch.
"""

import functools
import warnings
from contextlib import contextmanager

import torch

TURN = 64  # recorded steps of a fold that are queued before the next fold's turn
WARM_UP = 3  # steps before a graph is recorded, undone afterwards


@functools.cache
def can_compile():
    """True if torch.compile works here: it needs triton, a C compiler, Python's headers and a recent GPU."""
    try:
        return bool(torch.compile(lambda x: x + 1)(torch.zeros(2, device="cuda")).sum() == 2)
    except Exception:  # of as many kinds as there are reasons
        return False


def prepare_compiler():
    """Set torch.compile up for many networks in one process."""
    torch._dynamo.config.recompile_limit = 64  # networks, precisions and settings that one process trains
    warnings.filterwarnings("ignore", r"\s*(Online softmax|TensorFloat32|RNN module weights)")  # advice


@functools.cache
def compiled_forward():
    """model(x) by torch.compile: the same function for all folds, as their weights are its arguments."""
    prepare_compiler()
    return torch.compile(lambda model, x: model(x), dynamic=False)


@contextmanager
def state_restored_afterwards(trainers):
    """Undo what the steps inside do to weights, statistics and moments of the folds."""
    torch.cuda.synchronize()
    saved = [
        (trainer.copy_weights(), {p: {k: v.clone() for k, v in s.items()} for p, s in trainer.optimizer.state.items()})
        for trainer in trainers
    ]
    torch.cuda.synchronize()
    yield
    torch.cuda.synchronize()
    for trainer, (weights, moments) in zip(trainers, saved):
        trainer.model.load_state_dict(weights)
        for p, state in trainer.optimizer.state.items():
            for name, value in state.items():
                value.copy_(moments[p][name]) if p in moments else value.zero_()
        trainer.optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()


class RecordedFold:
    """Graphs of a fold's steps, and the buffers on the device that a step reads and advances by itself."""

    def __init__(self, trainer, compiled):
        self.trainer, self.compiled, self.stream = trainer, compiled, torch.cuda.Stream()
        device = trainer.segments.device
        self.order = trainer.segments.clone()  # (n,) of the epoch
        self.cursor, self.step_index = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.within = torch.arange(trainer.step_sizes[0], device=device)  # (b,)
        self.losses = torch.zeros(len(trainer.step_sizes), device=device)
        self.graphs = {}  # size of a step -> its graph
        self.queued = 0  # steps of this epoch

    def step(self, size):
        """Train on the next `size` segments of the order."""
        is_whole = size == self.trainer.settings["batch_size"]  # the odd last step is not worth compiling
        forward = compiled_forward() if self.compiled and is_whole else None
        loss = self.trainer.step(self.order[self.cursor + self.within[:size]], forward)
        self.losses.index_copy_(0, self.step_index, loss.view(1))
        self.cursor += size
        self.step_index += 1

    def capture_step(self, size):
        """CUDA graph of a step, on the fold's stream; a fold's graphs share their memory, as one runs at a time."""
        with state_restored_afterwards([self.trainer]), torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self.cursor.zero_(), self.step_index.zero_()
                self.step(size)
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool, stream=self.stream):
            self.step(size)
        return graph

    def begin_epoch(self, first_step=0):
        """Fill the buffers for an epoch from `first_step` on, and record what is missing."""
        sizes = self.trainer.step_sizes
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            self.order.copy_(self.trainer.next_order())
        for size in sorted(set(sizes[first_step:]) - set(self.graphs), reverse=True):
            self.graphs[size] = self.capture_step(size)
        with torch.cuda.stream(self.stream):
            self.cursor.fill_(sum(sizes[:first_step])), self.step_index.fill_(first_step)
        self.queued = first_step

    def queue_steps(self):
        """Queue the next TURN steps of the epoch; False if none is left."""
        sizes = self.trainer.step_sizes[self.queued :][:TURN]
        with torch.cuda.stream(self.stream):
            for size in sizes:
                self.graphs[size].replay()
        self.queued += len(sizes)
        return bool(sizes)

    def end_epoch(self):
        """Wait for the device; gives the losses of the epoch."""
        self.stream.synchronize()
        self.trainer.epoch += 1
        return self.losses.tolist()


class GraphRunner:
    """Replays recorded steps of each fold, also of several networks; `compiled` records what torch.compile makes."""

    def __init__(self, compiled=False):
        self.compiled, self.folds = compiled, {}

    def run_epoch(self, trainers, report=None):
        """Train each fold for an epoch; gives {trainer: losses of its steps}; `report` is not called."""
        torch.cuda.synchronize()
        # a finished fold's memory is free before the next fold records
        self.folds = {trainer: fold for trainer, fold in self.folds.items() if trainer in trainers}
        for trainer in trainers:
            if trainer not in self.folds:
                self.folds[trainer] = RecordedFold(trainer, self.compiled)
            self.folds[trainer].begin_epoch()
        take_turns(self.folds.values())
        return {trainer: fold.end_epoch() for trainer, fold in self.folds.items()}


def take_turns(folds):
    """Queue the steps that are left of an epoch, some of each fold at a time: the queue of a device is not endless."""
    while any([fold.queue_steps() for fold in folds]):
        pass
