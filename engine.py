"""What runs on the device: a database's segments, their normalisation, and a fold in training.

`train.py` decides what is trained and saves it; here it is computed. A `Training` begins an epoch (`begin_epoch`),
queues its steps (`queue`, some at a time) and collects their losses (`end_epoch`), so that several folds can work on
one GPU at once, each on its own stream. The host waits for the device once an epoch. Engines, chosen by
`choose_engine`:

    eager     runs a step operation by operation; on a CPU, and the reference
    graph     records a step once as a CUDA graph and replays it, which spares the time between small kernels
    compiled  the same of what torch.compile makes of the network: fewer kernels and passes over memory, later start;
              folds of ATFNN become one network (stack.py)
"""

import functools
import math
import os
import warnings
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import features
import models
import protocols

EVAL_BATCH = 256  # segments scored at once
VARIANCE_FLOOR = 1e-8  # of a band's log energy, for recordings with digital silence
TURN = 64  # recorded steps of a fold that are queued before it is another's turn
WARM_UP = 3  # steps before a graph is recorded, taken back afterwards

# ----------------------------------------------------------------------------------------------- data


class Data(NamedTuple):
    """One database through one front end, on the device."""

    database: protocols.Database
    heard: features.Features
    segments: torch.Tensor  # (S, bands, frames) float32
    labels: torch.Tensor  # (S,) int64
    utterance_of: torch.Tensor  # (S,) int64, the utterance of each segment

    def segments_of(self, utterances):
        """Indices of the segments of some utterances, in their order."""
        ends = np.cumsum(self.heard.counts)
        ranges = [np.arange(ends[i] - self.heard.counts[i], ends[i]) for i in utterances]
        return torch.from_numpy(np.concatenate(ranges)).to(self.segments.device)


def to_device(database, heard, device):
    utterance_of = np.repeat(np.arange(len(heard.counts)), heard.counts)
    labels = torch.from_numpy(database.labels[utterance_of]).to(device)
    return Data(
        database, heard, torch.from_numpy(heard.segments).to(device), labels, torch.from_numpy(utterance_of).to(device)
    )


class Normalization(NamedTuple):
    """The z-score per band: x -> (x - offset) * scale."""

    offset: torch.Tensor  # (1 or S, bands, 1)
    scale: torch.Tensor  # (1 or S, bands, 1)
    learned_from: torch.Tensor  # utterances whose statistics others are normalised by


def fit_normalization(data, kind, train):
    """The Normalization of all segments of a database.

    `fold` takes mean and standard deviation over the segments `train` alone; `segment`, `utterance` and `speaker`
    take each segment's, utterance's or speaker's own, of a tested speaker too, without labels; `none` changes nothing.
    Sums run in float64, over (S, bands) numbers.
    """
    if kind == "none":
        zero = data.segments.new_zeros(1, data.segments.shape[1], 1)
        return Normalization(zero, zero + 1, data.utterance_of[:0])
    variance, mean = (part.double() for part in torch.var_mean(data.segments, 2, correction=0))  # (S, bands)
    group = torch.zeros_like(data.utterance_of) if kind == "fold" else data.utterance_of
    group = torch.arange(len(group), device=group.device) if kind == "segment" else group
    if kind == "speaker":
        speaker_of = np.unique(data.database.speakers, return_inverse=True)[1]  # (utterances,)
        group = torch.from_numpy(speaker_of).to(group.device)[group]
    used = train if kind == "fold" else slice(None)
    group_used, groups = group[used], int(group.max()) + 1
    size = torch.bincount(group_used, minlength=groups)[:, None]
    sums = torch.zeros(2, groups, mean.shape[1], dtype=mean.dtype, device=mean.device)
    sums[0].index_add_(0, group_used, mean[used])
    sums[1].index_add_(0, group_used, (variance + mean.square())[used])
    first, second = sums / size
    scale = (second - first.square()).clamp_min(0).add(VARIANCE_FLOOR).rsqrt()
    if kind == "fold":
        return Normalization(first.float()[:, :, None], scale.float()[:, :, None], data.utterance_of[used].unique())
    return Normalization(first.float()[group, :, None], scale.float()[group, :, None], data.utterance_of[:0])


def gather(data, normalization, index):
    """Normalised input of the segments `index`: (b, 1, bands, frames). `normalization`: offset and scale come first."""
    offset, scale = (part if len(part) == 1 else part[index] for part in normalization[:2])
    return ((data.segments[index] - offset) * scale).unsqueeze(1)


# ------------------------------------------------------------------------------------- device and engine


def choose_device(wish, number=0):
    """`auto` takes a GPU if there is one; `number` shares several GPUs out among the processes of a machine."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise protocols.UsageError("--device cuda: there is no GPU that torch can use; say --device cpu")
    if wish == "cpu" or not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(number % torch.cuda.device_count())
    torch.backends.mha.set_fastpath_enabled(False)  # scoring: not known to be right for heads of few numbers on GPUs
    return "cuda"


def repaid_from(model, precision, folds):
    """Steps of a network's folds, so many at once, from which on compiling it is repaid: it takes half a minute.

    On an H200 (benchmarks/results/speed-nvidia-h200.md) that makes a step of TFT 1 ms shorter and one of ATFNN 3 to
    8 ms; with few folds at once ATFNN's one network gains little or nothing, hence inf.
    """
    if not is_stacked(model, "compiled"):
        return 30_000
    return 10_000 if folds >= (4 if precision == "bfloat16" else 8) else math.inf


def choose_engine(wish, device, worth_compiling=False, dropout=0.0):
    """`auto` records steps on a GPU, and compiles them where that is possible and worth it."""
    if wish in ("graph", "compiled") and device == "cpu":
        raise protocols.UsageError(f"--engine {wish}: needs a GPU; say --engine eager, or leave it out")
    if wish == "compiled" and not can_compile():
        raise protocols.UsageError(
            "--engine compiled: torch.compile does not work here, it needs triton, a C compiler and Python's headers; "
            "say --engine graph"
        )
    if wish != "auto":
        return wish
    if device == "cpu" or dropout:
        return "eager"
    return "compiled" if worth_compiling and can_compile() else "graph"


@functools.cache
def can_compile():
    """Does torch.compile work here? It needs triton, a C compiler, Python's headers and a GPU that is not too old."""
    try:
        return bool(torch.compile(lambda x: x + 1)(torch.zeros(2, device="cuda")).sum() == 2)
    except Exception:  # of as many kinds
        return False


def prepare(device, deterministic):
    """Set torch up; before the first work on the data."""
    if device == "cpu":
        features.keep_freed_memory()
    elif deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it torch refuses cuBLAS here
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid, at a pass over each tensor
    else:
        torch.backends.cudnn.benchmark = True  # every step has the same shapes


# ------------------------------------------------------------------------------------------- training


def epoch_order(segments, seed, epoch):
    """The order of an epoch's segments: a permutation that depends on (seed, epoch) only, on every device."""
    return torch.randperm(segments, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def make_model(name, classes, seed, front_end, device, **options):
    """The model with weights that depend on the seed only, in the layout that its convolutions read faster."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.build(name, classes, bands=front_end.bands, frames=front_end.frames, **options)
    return model.to(device, memory_format=torch.channels_last)


def model_options(settings):
    """What a run's settings tell of the network beyond its name."""
    return {name: settings[name] for name in models.OPTIONS if name in settings}


def prepare_compiler():
    torch._dynamo.config.recompile_limit = 64  # networks, precisions and settings that one process trains
    warnings.filterwarnings("ignore", r"\s*(Online softmax|TensorFloat32|RNN module weights)")  # advice


@functools.cache
def compiled_network():
    """model(x) by torch.compile: one for all folds, as the weights are arguments of what it makes."""
    prepare_compiler()
    return torch.compile(lambda model, x: model(x), dynamic=False)


def is_stacked(model, engine):
    """Is that network trained with other folds' as one (stack.py)?"""
    return engine == "compiled" and models.MODELS[model][0] is models.ATFNN


def train_as_one(trainings):
    """Train them as one network from now on, where that is their engine's way."""
    if is_stacked(trainings[0].settings["model"], trainings[0].engine):
        from stack import Stack

        Stack(trainings)


def in_precision(device, precision):
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def losses_of(logits, y, double_softmax=False):
    """Cross-entropy of the logits, or of their softmax, as TFT eq. 13 reads: (n, classes), (n,) -> (n,)."""
    logits = logits.float()
    return cross_entropy(logits.softmax(1) if double_softmax else logits, y, reduction="none")


def train_step(model, optimizer, x, y, precision="float32", double_softmax=False, compiled=False):
    """One step of Adam on the mean loss of the segments x."""
    optimizer.zero_grad(set_to_none=True)
    with in_precision(x.device, precision):
        logits = compiled_network()(model, x) if compiled else model(x)
    loss = losses_of(logits, y, double_softmax).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def wait_for_all(device):
    """Until the device has done what is queued on any stream."""
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def beside(trunk, stream):
    """What is queued inside comes on `stream`, after what `trunk` has been given."""
    if not stream:
        yield
        return
    stream.wait_stream(trunk)
    with torch.cuda.stream(stream):
        yield


@contextmanager
def taken_back(trainings):
    """The steps that are taken inside leave nothing behind: weights, statistics, moments and losses are put back."""
    device = trainings[0].segments.device
    wait_for_all(device)
    kept = [
        (run.copy_weights(), {p: {k: v.clone() for k, v in state.items()} for p, state in run.optimizer.state.items()})
        for run in trainings
    ]
    losses = [run.losses.clone() for run in trainings]
    wait_for_all(device)  # each was copied on a stream of its own
    yield
    wait_for_all(device)
    for run, (weights, moments), told in zip(trainings, kept, losses):
        run.model.load_state_dict(weights)
        for p, state in run.optimizer.state.items():
            for name, value in state.items():
                value.copy_(moments[p][name]) if p in moments else value.zero_()
        run.optimizer.zero_grad(set_to_none=True)
        run.losses.copy_(told)
    wait_for_all(device)


def score(model, data, normalization, utterances, aggregation="mean"):
    """Scores of each utterance from its segments' posteriors, float32 (n, classes), in evaluation mode and float32."""
    if not len(utterances):  # --fold none tests nobody
        return np.empty((0, len(data.database.classes)), np.float32)
    model.eval()
    with torch.inference_mode():
        index = data.segments_of(utterances)
        parts = [model(gather(data, normalization, some)).softmax(1) for some in index.split(EVAL_BATCH)]
    model.train()
    return protocols.utterance_scores(torch.cat(parts).cpu().numpy(), data.heard.counts[utterances], aggregation)


def take_turns(runs):
    """Queue what is left of an epoch of each, some steps at a time: the queue of a device is not endless."""
    while any([run.queue() for run in runs]):
        pass


class Training:
    """The weights of one fold on their way: `fit` are the utterances that they are trained on."""

    def __init__(self, data, settings, fit, engine="eager"):
        self.data, self.settings, self.engine = data, settings, engine
        device, classes = data.segments.device, len(data.database.classes)
        front_end = features.FrontEnd(**settings["front_end"])
        self.model = make_model(
            settings["model"], classes, settings["seed"], front_end, device, **model_options(settings)
        )
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings["lr"], fused=True, capturable=on_gpu)
        self.segments = data.segments_of(fit)
        self.normalization = fit_normalization(data, settings["normalization"], self.segments)
        self.epoch = 0
        sizes = torch.arange(len(self.segments)).split(settings["batch_size"])
        self.sizes = [len(size) for size in sizes]  # segments of each step
        self.queued = len(self.sizes)  # of the steps of this epoch
        # what a step reads and moves on by itself, on the device, so that a recorded step can be repeated
        self.order = self.segments.clone()
        self.place, self.number = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.within = torch.arange(self.sizes[0], device=device)
        self.losses = torch.zeros(len(self.sizes), device=device)
        self.recorded = engine != "eager"
        self.compiled = engine == "compiled" and not is_stacked(settings["model"], engine)
        self.graphs = {}  # size of a step -> its recording
        self.stack = None  # of folds that are trained as one network
        wait_for_all(device)  # the data were queued on another stream
        self.stream = torch.cuda.Stream() if on_gpu else None

    def step(self, size):
        """Train on the next `size` segments of the order."""
        index = self.order[self.place + self.within[:size]]
        x, y = gather(self.data, self.normalization, index), self.data.labels[index]
        settings = self.settings
        compiled = self.compiled and size == settings["batch_size"]  # not worth it for the odd last step
        loss = train_step(
            self.model, self.optimizer, x, y, settings["precision"], settings.get("double_softmax", False), compiled
        )
        self.losses.index_copy_(0, self.number, loss.view(1))
        self.place += size
        self.number += 1

    def begin_epoch(self):
        """Choose the order of the next epoch; a stack, once all its folds have, queues their whole batches."""
        with torch.cuda.stream(self.stream):
            permutation = epoch_order(len(self.segments), self.settings["seed"], self.epoch + 1)
            self.order.copy_(self.segments[permutation.to(self.segments.device)])
        if self.stack:
            self.stack.arrive(self)
        else:
            self.start_from(0)

    def start_from(self, step):
        """Leave the epoch's steps from that one on to `queue`, recorded if need be."""
        with torch.cuda.stream(self.stream):
            if self.recorded:
                for size in sorted(set(self.sizes[step:]) - set(self.graphs), reverse=True):
                    self.graphs[size] = self.record(size)
            self.place.fill_(sum(self.sizes[:step])), self.number.fill_(step)
        self.queued = step

    def queue(self, report=lambda step, steps: None):
        """Queue steps of the epoch that are left, recorded ones TURN at a time; False if there are none.

        Others all at once, as dropout draws the masks of an epoch in one go.
        """
        sizes = self.sizes[self.queued :][: TURN if self.recorded else None]
        with torch.cuda.stream(self.stream), self.own_masks():
            for size in sizes:
                self.graphs[size].replay() if self.recorded else self.step(size)
                self.queued += 1
                report(self.queued, len(self.sizes))
        return bool(sizes)

    @contextmanager
    def own_masks(self):
        """Dropout masks that depend on seed, fold and epoch only: of the fold itself, also after it was stopped."""
        settings = self.settings
        if not settings.get("dropout"):
            yield
            return
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self.stream else []):
            torch.manual_seed((settings["seed"] * 1_000_003 + self.epoch + 1) * 1009 + settings["fold"])
            yield

    def end_epoch(self):
        """Wait for the epoch and return the loss of each step."""
        take_turns([self])
        with torch.cuda.stream(self.stream):
            losses = self.losses.tolist()
        self.epoch += 1
        return losses

    def leave(self):
        """There is no epoch after this one."""
        stack, self.stack = self.stack, None
        self.graphs.clear()
        if stack:
            stack.leave(self)

    def copy_weights(self):
        """The weights as they are between epochs, copied when this returns: whoever reads them is on another stream."""
        with torch.cuda.stream(self.stream):
            weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        if self.stream:
            self.stream.synchronize()
        return weights

    def record(self, size):
        """A CUDA graph of one step, on the fold's stream; the steps that it takes to warm up leave nothing behind.

        The graphs of a fold share their memory, as only one of them runs at a time.
        """
        with taken_back([self]):
            self.place.zero_()
            for _ in range(WARM_UP):
                self.number.zero_()
                self.step(size)
                self.place.zero_()
        self.number.zero_()
        graph = torch.cuda.CUDAGraph()
        pool = next(iter(self.graphs.values())).pool() if self.graphs else None
        with torch.cuda.graph(graph, pool=pool, stream=self.stream):
            self.step(size)
        return graph

    def score(self, utterances):
        """Scores of each utterance from its segments' posteriors, float32 (n, classes)."""
        with torch.cuda.stream(self.stream):
            return score(
                self.model, self.data, self.normalization, utterances, self.settings.get("aggregation", "mean")
            )

    def state(self):
        """Between epochs. Weights are copied: a stack's are parts of tensors that would be saved whole."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        return dict(model=weights, optimizer=self.optimizer.state_dict()["state"], epoch=self.epoch)

    def restore(self, state):
        """Go on from what `state` gave, on whatever device and engine; before the first epoch."""
        parameters, groups = list(self.model.parameters()), self.optimizer.state_dict()["param_groups"]
        for number, moments in state["optimizer"].items():
            if any(value.shape not in (parameters[number].shape, ()) for value in moments.values()):
                raise ValueError("moments of another shape than their weights")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(dict(state=state["optimizer"], param_groups=groups))
        self.epoch = state["epoch"]
