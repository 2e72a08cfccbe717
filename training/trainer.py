"""One fold in training: its network, its optimiser, its order of segments, and the plain loop over an epoch.

    trainer = FoldTrainer(data, settings, train_utterances)
    EagerRunner().run_epoch([trainer])            # {trainer: losses of the steps}
    trainer.score(test_utterances)                # (n, K)

A runner trains several folds for an epoch: `run_epoch(trainers) -> {trainer: losses}`. EagerRunner, below, runs a
step operation by operation, on any device. fast/graphs.py and fast/stacked.py have faster runners for a GPU; the step
itself, `train_step`, is the same for all. Without the folder fast/ networks are trained in their plain form, slower.
"""

import inspect
import os
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import features
import models
import protocols
from common import methods
from training.data import embed, fit_normalization, gather, score

SEED_STRIDE = 1_000_003  # between the streams of random numbers of two seeds: more than there are epochs

# ------------------------------------------------------------------------------------------- one step


def in_precision(device, precision):
    """Context in which products and convolutions run in `precision`, float32 or bfloat16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def cross_entropies(logits, labels, double_softmax=False):
    """Cross-entropy of the logits, or of their softmax, as TFT eq. 13 reads: (n, K), (n,) -> (n,)."""
    logits = logits.float()
    return cross_entropy(logits.softmax(1) if double_softmax else logits, labels, reduction="none")


def train_step(
    model, optimizer, x, labels, precision="float32", double_softmax=False, forward=None, weights=None, speakers=None
):
    """Take one step of the optimiser on the mean loss of segments x (b, 1, n_mels, frames); gives the loss.

    `forward(model, x)` replaces `model(x)`, for instance by what torch.compile makes of it. `weights` (K,) are those of
    the classes in the loss. A network with a loss of its own gets the segments' `speakers` (b,) too.
    """
    optimizer.zero_grad(set_to_none=True)
    with in_precision(x.device, precision):
        if hasattr(model, "losses"):
            losses = model.losses(x, labels, speakers)
        else:
            logits = forward(model, x) if forward else model(x)
            losses = cross_entropies(logits, labels, double_softmax)
    loss = (losses if weights is None else losses * weights[labels]).mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


# ------------------------------------------------------------------------------------------- networks


def make_model(settings, classes, device, form="plain", seed=None, build=None, speakers=2):
    """Network of a run's settings, its weights by the seed alone, on a device, in a form of fast/modules.py.

    `build(classes, n_mels, frames)` makes a network that is not of models.py; TypeError where it gives something else.
    `speakers` is the number of those that it is trained on, for a `build` that takes it.
    """
    front_end = features.FrontEnd(**settings["front_end"])
    sizes = dict(n_mels=front_end.n_mels, frames=front_end.frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"] if seed is None else seed)
        if build:
            if "speakers" in inspect.signature(build).parameters:
                sizes["speakers"] = speakers
            model = build(classes, **sizes)
            if not isinstance(model, torch.nn.Module):
                raise TypeError(f"build gives {type(model).__name__}, no torch.nn.Module")
            if any(map(torch.nn.parameter.is_lazy, model.parameters())):  # a first input gives them their shapes
                with torch.no_grad():
                    model.eval()(torch.zeros(1, 1, *front_end.row_shape))
            model = model.train().to(device)
            return model if "method_sha256" in settings else accelerated(model, form)
        options = {name: settings[name] for name in models.OPTIONS if name in settings}
        model = models.build(settings["model"], classes, **sizes, **options)
    return accelerated(model.to(device, memory_format=torch.channels_last), form)


def accelerated(model, form):
    """A new network with its modules in a form of fast/modules.py; `plain` needs no such folder."""
    if form == "plain":
        return model
    from fast import modules

    return modules.accelerate(model, form)


def make_optimizer(parameters, settings, device):
    """Adam as in both papers, or the optimiser of torch.optim that the settings name."""
    name = settings.get("optimizer", "Adam")
    options = dict(fused=True, capturable=device.type == "cuda") if name == "Adam" else {}
    return getattr(torch.optim, name)(parameters, lr=settings["lr"], **options | settings.get("optimizer_options", {}))


def check_network(method, settings, classes, device):
    """Build a user's network and take a step with it; MethodError where it does not give finite logits (b, K)."""
    front_end = features.FrontEnd(**settings["front_end"])
    x = torch.randn(2, 1, *front_end.row_shape, generator=torch.Generator().manual_seed(0)).to(device)
    with methods.errors_of(method.path, torch.OutOfMemoryError), torch.random.fork_rng():
        model = make_model(settings, classes, device, build=method.build)
        if not any(part.requires_grad for part in model.parameters()):
            raise methods.MethodError(f"{method.path}: build gives a network without weights to train; add some")
        if not all(map(torch.is_tensor, model.state_dict().values())):
            raise methods.MethodError(f"{method.path}: its state_dict holds more than tensors; keep those alone in it")
        with torch.no_grad():
            check_logits(method.path, model(x), 2, classes)
            check_logits(method.path, model.eval()(x[:1]), 1, classes)
            if takes_maps(model):
                logits, maps = model(x, return_maps=True)
                check_logits(method.path, logits, 2, classes)
                if not all(part.ndim == 4 and len(part) == 2 for part in maps.values()):
                    raise ValueError("maps for 2 segments are not all (2, heads, rows, columns)")
        optimizer, two = make_optimizer(model.parameters(), settings, x.device), torch.arange(2, device=device)
        if hasattr(model.train(), "losses") and getattr(losses := model.losses(x, two, two), "shape", None) != (2,):
            shape = tuple(losses.shape) if torch.is_tensor(losses) else type(losses).__name__
            raise ValueError(f"losses gives {shape} for 2 segments, not (2,)")
        loss = train_step(model, optimizer, x, two, settings["precision"], speakers=two)
        if not torch.isfinite(loss):
            raise ValueError(f"a loss of {loss}")
        if method.has_back_end:
            y = model.embed(x)
            if not torch.is_tensor(y) or y.ndim != 2 or len(y) != 2 or not torch.isfinite(y).all():
                raise ValueError("embed(x) gives no finite tensor (2, D) for 2 segments")


def check_logits(path, logits, size, classes):
    """Raise MethodError unless a user's network gave finite logits (size, classes)."""
    if not torch.is_tensor(logits) or logits.shape != (size, classes):
        shape = tuple(logits.shape) if torch.is_tensor(logits) else type(logits).__name__
        raise methods.MethodError(f"{path}: gives {shape} for {size} segments; return logits ({size}, {classes})")
    if not torch.isfinite(logits).all():
        raise methods.MethodError(f"{path}: gives logits that are not finite; fix the network")


def takes_maps(network):
    """True if a network can return its attention with its logits: (logits, {name: (b, heads, rows, columns)})."""
    return "return_maps" in inspect.signature(network.forward).parameters


def default_form(device, precision="float32"):
    """Form of a network's modules that is fastest on a device, `plain` where there is no folder fast/."""
    try:
        from fast import modules  # noqa: F401
    except ImportError:
        if precision != "float32":  # attention and norms would run in it too
            raise protocols.UsageError(f"--precision {precision}: needs the folder fast/; use float32") from None
        return "plain"
    return torch.device(device).type


def prepare(device, deterministic):
    """Set torch up for a device; call it before the first work on the data."""
    if device == "cpu":
        try:
            from fast import memory
        except ImportError:
            return
        memory.keep_freed_memory()
    elif deterministic:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # without it torch refuses cuBLAS here
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid, at a pass over each tensor
    else:
        torch.backends.cudnn.benchmark = True  # all steps have the same shapes


# ------------------------------------------------------------------------------------------- one fold


class FoldTrainer:
    """Weights of one fold, trained on the segments of `train_utterances`."""

    def __init__(self, data, settings, train_utterances, form="plain", method=None):
        self.data, self.settings, self.method = data, settings, method
        self.train_utterances, self.fitted = train_utterances, (None, None)  # fitted: epoch, its back end
        device, classes = data.segments.device, len(data.database.classes)
        speakers = data.speakers_of(train_utterances)  # (S,)
        number, build = int(speakers.max()) + 1, method.build if method else None
        self.model = make_model(settings, classes, device, form, build=build, speakers=number)
        self.speakers = speakers if hasattr(self.model, "losses") else None
        self.optimizer = make_optimizer(self.model.parameters(), settings, device)
        self.class_weights = None
        if settings.get("class_weights"):  # N / (K N_k), 0 for a class that is not there
            counts = np.bincount(data.database.labels[train_utterances], minlength=classes)
            weights = np.where(counts, counts.sum() / (classes * np.maximum(counts, 1)), 0)
            self.class_weights = torch.from_numpy(weights.astype(np.float32)).to(device)
        self.segments = data.segments_of(train_utterances)  # (n,) that are trained on
        self.normalization = fit_normalization(data, settings["normalization"], self.segments)
        self.epoch = 0  # epochs done
        self.step_sizes = [len(part) for part in torch.arange(len(self.segments)).split(settings["batch_size"])]

    def next_order(self):
        """Segments (n,) in the order of the next epoch, which depends on seed and epoch only, on every device."""
        generator = torch.Generator().manual_seed(self.settings["seed"] * SEED_STRIDE + self.epoch + 1)
        return self.segments[torch.randperm(len(self.segments), generator=generator).to(self.segments.device)]

    def step(self, index, forward=None):
        """Train on the segments `index` (b,); gives the loss, on the device."""
        x, labels = gather(self.data, self.normalization, index), self.data.labels[index]
        speakers = self.speakers[index] if self.speakers is not None else None
        double_softmax = self.settings.get("double_softmax", False)
        return train_step(
            self.model, self.optimizer, x, labels, self.settings["precision"], double_softmax, forward,
            self.class_weights, speakers,
        )  # fmt: skip

    def score(self, utterances):
        """Scores of utterances from their segments' posteriors, or by the method's back end, float32 (n, K)."""
        if self.method and self.method.has_back_end and len(utterances):
            return self.score_by_back_end(utterances)
        aggregation = self.settings.get("aggregation", "mean")
        return score(self.model, self.data, self.normalization, utterances, aggregation)

    def score_by_back_end(self, utterances):
        """Scores (n, K) of utterances from their segments' embeddings, by what is fitted on those of the training."""
        if self.fitted[0] != self.epoch:
            train = embed(self.model, self.data, self.normalization, self.train_utterances)
            labels = self.data.database.labels[self.train_utterances]
            self.fitted = self.epoch, methods.fit(self.method, train, labels, self.settings["seed"])
        tested = embed(self.model, self.data, self.normalization, utterances)
        return methods.score(self.method, self.fitted[1], tested, len(self.data.database.classes))

    def copy_weights(self):
        """Copy of the weights and buffers, by name."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}

    def state(self):
        """What `restore` needs to resume, between two epochs."""
        return dict(model=self.copy_weights(), optimizer=self.optimizer.state_dict()["state"], epoch=self.epoch)

    def restore(self, state):
        """Resume from what `state` gave, on whatever device and engine; before the first epoch.

        Raises ValueError or IndexError, and changes nothing, where the state is not of this network.
        """
        parameters, groups = list(self.model.parameters()), self.optimizer.state_dict()["param_groups"]
        shapes, saved = ({k: v.shape for k, v in part.items()} for part in (self.model.state_dict(), state["model"]))
        if shapes != saved:
            raise ValueError("weights of another network")
        for number, moments in state["optimizer"].items():
            shapes = {value.shape for value in moments.values() if torch.is_tensor(value)}
            if self.settings.get("optimizer", "Adam") == "Adam" and not shapes <= {parameters[number].shape, ()}:
                raise ValueError("moments of another shape than their weights")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(dict(state=state["optimizer"], param_groups=groups))
        self.epoch = state["epoch"]

    @contextmanager
    def seeded_epoch(self):
        """Context with random numbers that depend on seed, fold and epoch only, also after the fold was resumed."""
        if not self.settings.get("dropout") and (not self.method or self.method.is_of_papers):  # draws none
            yield
            return
        device = self.data.segments.device
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device.type == "cuda" else []):
            torch.manual_seed((self.settings["seed"] * SEED_STRIDE + self.epoch + 1) * 1009 + self.settings["fold"])
            yield


# ----------------------------------------------------------------------------------------- the loop


class EagerRunner:
    """Runs each step operation by operation: the reference, on any device."""

    def run_epoch(self, trainers, report=lambda trainer, step: None):
        """Train each fold for an epoch; gives {trainer: losses of its steps}.

        `report(trainer, step)` is called after each step, from 1. Runners whose steps are queued do not call it.
        """
        losses = {}
        for trainer in trainers:
            losses[trainer] = []
            with trainer.seeded_epoch():
                for step, index in enumerate(trainer.next_order().split(trainer.settings["batch_size"]), 1):
                    losses[trainer].append(trainer.step(index))
                    report(trainer, step)
            trainer.epoch += 1
        return {trainer: torch.stack(parts).tolist() for trainer, parts in losses.items()}
