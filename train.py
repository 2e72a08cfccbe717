"""Train the models of both papers under leave-one-speaker-out and save what the tables are made of.

    python train.py                                        # TFT on the small synthetic corpus, 1000 epochs
    python train.py --db iemocap --model tft --fold 3
    python train.py --db casia --root data/casia --model all --seed 0-4
    python train.py --db my/corpus.csv --epochs 100        # columns path,emotion,speaker
    python train.py --db casia --fold none                 # on all speakers, for predict.py; tests nobody

For every model, seed and fold it trains on the other speakers, scores the fold's utterances with the
model of the last epoch and saves both below `--runs` (see results.py). A finished fold is skipped when the
command is repeated. Prints one line per fold; on a terminal also the running epoch, loss, rate and time left.
The test speaker is read for the scores alone: nothing in training depends on them.
"""

import argparse
import io
import math
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

import features
import protocols
import results

# torch takes a second to import, so the functions that use it import it: --help answers at once

EVAL_BATCH = 256  # segments scored at once
VARIANCE_FLOOR = 1e-8  # of a band's log energy, for recordings with digital silence

# ------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class Recipe:
    """A paper's training settings, and the front end that it feeds."""

    front_end: str
    epochs: int
    batch_size: int
    lr: float


TFT = Recipe("tft", epochs=1000, batch_size=64, lr=1e-3)  # TFT section 3.3
ATFNN = Recipe("atfnn", epochs=100, batch_size=128, lr=5e-4)  # ATFNN section III-C; it states no epochs
RECIPES = {
    **dict.fromkeys(("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"), TFT),
    **dict.fromkeys(("atfnn", "afnn", "atnn", "tfnn"), ATFNN),
}
NORMALIZATIONS = ("fold", "none", "segment", "utterance")


def option(default, help, **how):
    return field(default=default, metadata=dict(help=help, **how))


@dataclass(frozen=True)
class Config:
    """The options of the command line, one line each; None means the paper's value for the model."""

    db: str = option("synthetic", f"database: {', '.join(protocols.DATABASES)}, or the path of a manifest .csv")
    root: str = option(None, "folder of the recordings (default: $SER_DATA/<db>, else data/<db>, or a manifest's own)")
    model: str = option("tft", "model to train", choices=(*RECIPES, "all"))
    fold: str = option("all", "fold: 1..K, a speaker or session by name, all, or none: train on everyone, test nobody")
    protocol: str = option("speaker", "what a fold leaves out", choices=protocols.PROTOCOLS)
    seed: str = option("0", "seed, or a range such as 0-4")
    epochs: int = option(None, "epochs (TFT 1000; ATFNN 100, where its paper states none)", least=1)
    batch_size: int = option(None, "segments per step (TFT 64, ATFNN 128)", least=1)
    lr: float = option(None, "learning rate of Adam (TFT 0.001, ATFNN 0.0005)", least=1e-12)
    normalization: str = option("fold", "z-score per band, from what", choices=NORMALIZATIONS)
    track: str = option(
        "last", "last epoch, epoch chosen on held-out training speakers, or both", choices=("last", "validation", "all")
    )
    eval_every: int = option(
        10, "keep scores every so many epochs, for the tracks validation and oracle; 0: never", least=0
    )
    save_every: float = option(60.0, "seconds between saved states, from which a killed run goes on", least=0)
    deterministic: bool = option(False, "the same bits on every run on a GPU too, at a cost; a CPU gives them anyway")
    partial: bool = option(False, "accept a database whose counts differ from the published ones")
    device: str = option("auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    runs: str = option("runs", "folder of the results")


def number(kind, least):
    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < 2**31 or "_" in text:
            bound = f"at least {least}" if least in (0, 1) else "more than 0"
            raise argparse.ArgumentTypeError(f"{text} is not a number of {bound}")
        return value

    return convert


def parse_command_line(arguments=None):
    """argparse built from the fields of Config."""
    parser = results.OneLineParser(__doc__)
    for one in fields(Config):
        how = dict(one.metadata, default=one.default)
        if one.default is not None and one.default is not False:
            how["help"] += f" (default: {one.default})"
        if one.type is bool:
            how["action"] = "store_true"
        elif "least" in how:
            how["type"] = number(one.type, how.pop("least"))
        parser.add_argument("--" + one.name.replace("_", "-"), **how)
    return Config(**vars(parser.parse_args(arguments)))


# ----------------------------------------------------------------------------------------------- data


class Data(NamedTuple):
    """One database through one front end, on the device."""

    database: protocols.Database
    heard: features.Features
    segments: object  # (S, bands, frames) float32 tensor
    labels: object  # (S,) int64 tensor
    utterance_of: object  # (S,) int64 tensor, the utterance of each segment

    def segments_of(self, utterances):
        """Indices of the segments of some utterances, in their order."""
        import torch

        ends = np.cumsum(self.heard.counts)
        ranges = [np.arange(ends[i] - self.heard.counts[i], ends[i]) for i in utterances]
        return torch.from_numpy(np.concatenate(ranges)).to(self.segments.device)


def hear(database, front_end):
    """Features of a database through the front end of that name."""
    show = Progress(f"{database.name}: reading {len(database.ids)} recordings")
    heard = features.load(
        database.root, database.paths, features.FRONT_ENDS[front_end],
        report=lambda done, total: show.running(f"{100 * done // total} %"),
    )  # fmt: skip
    frames = heard.segments.shape[2]
    how = "from the cache" if heard.cached else "from the recordings"
    show.line(f"{len(heard.segments)} segments of {frames} frames {how} in {heard.seconds_spent:.1f} s")
    return heard


def to_device(database, heard, device):
    import torch

    utterance_of = np.repeat(np.arange(len(heard.counts)), heard.counts)
    labels = torch.from_numpy(database.labels[utterance_of]).to(device)
    return Data(
        database, heard, torch.from_numpy(heard.segments).to(device), labels, torch.from_numpy(utterance_of).to(device)
    )


def standardization(data, kind, train):
    """Offset and scale (1 or S, bands, 1) of the z-score per band: x -> (x - offset) * scale.

    `fold` takes mean and standard deviation over the segments `train` alone; `segment` and `utterance` take
    each segment's or utterance's own; `none` changes nothing. Sums run in float64, over (S, bands) numbers.
    """
    import torch

    if kind == "none":
        zero = data.segments.new_zeros(1, data.segments.shape[1], 1)
        return zero, zero + 1
    variance, mean = (part.double() for part in torch.var_mean(data.segments, 2, correction=0))  # (S, bands)
    group = torch.zeros_like(data.utterance_of) if kind == "fold" else data.utterance_of
    group = torch.arange(len(group), device=group.device) if kind == "segment" else group
    used = train if kind == "fold" else slice(None)
    group_used, groups = group[used], int(group.max()) + 1
    size = torch.bincount(group_used, minlength=groups)[:, None]
    sums = torch.zeros(2, groups, mean.shape[1], dtype=mean.dtype, device=mean.device)
    sums[0].index_add_(0, group_used, mean[used])
    sums[1].index_add_(0, group_used, (variance + mean.square())[used])
    first, second = sums / size
    scale = (second - first.square()).clamp_min(0).add(VARIANCE_FLOOR).rsqrt()
    if kind == "fold":
        return first.float()[:, :, None], scale.float()[:, :, None]
    return first.float()[group, :, None], scale.float()[group, :, None]


def gather(data, standard, index):
    """Standardised input of the segments `index`: (b, 1, bands, frames)."""
    offset, scale = (part if len(part) == 1 else part[index] for part in standard)
    return ((data.segments[index] - offset) * scale).unsqueeze(1)


# ------------------------------------------------------------------------------------------- training


def epoch_order(segments, seed, epoch):
    """The order of an epoch's segments: a permutation that depends on (seed, epoch) only."""
    import torch

    return torch.randperm(segments, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def make_model(name, classes, seed, front_end, device):
    """The model with weights that depend on the seed only, in the layout that its convolutions read faster."""
    import torch

    import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.build(name, classes, bands=front_end.bands, frames=front_end.frames)
    return model.to(device, memory_format=torch.channels_last)


def train_step(model, optimizer, x, y):
    """One step of Adam on the cross-entropy of the logits (TFT eq. 13, its double softmax left out)."""
    from torch.nn.functional import cross_entropy

    optimizer.zero_grad(set_to_none=True)
    loss = cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def score(model, data, standard, utterances):
    """Mean posterior of the segments of each utterance, float32 (n, classes), in evaluation mode."""
    import torch

    if not len(utterances):  # --fold none tests nobody
        return np.empty((0, len(data.database.classes)), np.float32)
    model.eval()
    with torch.inference_mode():
        index = data.segments_of(utterances)
        parts = [model(gather(data, standard, some)).softmax(1) for some in index.split(EVAL_BATCH)]
    model.train()
    return protocols.utterance_scores(torch.cat(parts).cpu().numpy(), data.heard.counts[utterances])


class Training:
    """One fold in training: everything that changes from epoch to epoch, and how it is saved and taken up again."""

    def __init__(self, job, data):
        import torch

        self.job, self.data, settings = job, data, job.settings
        front_end = features.FrontEnd(**settings["front_end"])
        device, classes = data.segments.device, len(data.database.classes)
        self.model = make_model(settings["model"], classes, settings["seed"], front_end, device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings["lr"], fused=True)
        self.segments = data.segments_of(job.fit)
        self.standard = standardization(data, settings["normalization"], self.segments)
        self.epoch, self.log, self.kept = 0, [], {}  # kept: epoch -> (test scores, validation scores or None)
        self.chosen = None  # validation track: (epoch, weights) of the best epoch so far

    def run_epoch(self, show):
        """Train one epoch and return its mean loss; the device is waited for once, at its end."""
        import torch

        settings, device = self.job.settings, self.segments.device
        order = self.segments[epoch_order(len(self.segments), settings["seed"], self.epoch + 1).to(device)]
        batches = order.split(settings["batch_size"])
        losses = []
        for step, index in enumerate(batches, 1):
            x, y = gather(self.data, self.standard, index), self.data.labels[index]
            losses.append(train_step(self.model, self.optimizer, x, y))
            if not self.epoch:  # later epochs tell their pace
                show.running(f"epoch 1/{settings['epochs']}  step {step}/{len(batches)}")
        losses = torch.stack(losses).tolist()
        for step, loss in enumerate(losses, 1):
            if not math.isfinite(loss):
                raise results.RunError(
                    f"{self.job.folder}: the loss became {loss} in epoch {self.epoch + 1}, step {step}; the last good "
                    f"state is of epoch {self.epoch}; remove that folder and try a smaller --lr"
                )
        self.epoch += 1
        return sum(loss * len(index) for loss, index in zip(losses, batches)) / len(order)

    def keep_scores(self):
        """Score the test utterances, and on the validation track also the held-out ones, by which it chooses."""
        test = score(self.model, self.data, self.standard, self.job.fold.test)
        if not np.isfinite(test).all():
            raise results.RunError(
                f"{self.job.folder}: the scores of epoch {self.epoch} are not finite; remove it and try a smaller --lr"
            )
        if not self.job.held:
            self.kept[self.epoch] = (test, None)
            return
        held = np.array(self.job.held)
        self.kept[self.epoch] = (test, score(self.model, self.data, self.standard, held))
        scores = np.stack([validation for _, validation in self.kept.values()])
        best = list(self.kept)[results.best_epoch(self.data.database.labels[held], scores)]
        if best == self.epoch:
            self.chosen = (best, {name: value.clone() for name, value in self.model.state_dict().items()})

    def save(self, path):
        import torch

        kept = {
            epoch: [None if part is None else torch.from_numpy(part) for part in both]
            for epoch, both in self.kept.items()
        }
        state = dict(
            settings=self.job.settings, epoch=self.epoch, log=self.log, kept=kept, chosen=self.chosen,
            model=self.model.state_dict(), optimizer=self.optimizer.state_dict(),
        )  # fmt: skip
        write_state(path, state)

    def take_up(self, path):
        """Go on from a saved state; a missing, damaged or foreign one is passed over."""
        import pickle

        import torch

        try:
            state = torch.load(path, map_location=self.segments.device, weights_only=True)
            if state["settings"] != self.job.settings:
                return
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.kept = {
                epoch: tuple(None if part is None else part.cpu().numpy() for part in both)
                for epoch, both in state["kept"].items()
            }
            self.epoch, self.log, self.chosen = state["epoch"], state["log"], state["chosen"]
        except FileNotFoundError:
            pass
        except (
            OSError,
            RuntimeError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            pickle.UnpicklingError,
        ):
            print(f"{path}: is damaged; the fold starts again", flush=True)
            self.__init__(self.job, self.data)

    def finish(self, show):
        """Train the epochs that are left, saving the state and the due scores on the way."""
        job, epochs = self.job, self.job.settings["epochs"]
        state = job.folder / results.STATE
        start = saved = time.perf_counter()
        first, before = self.epoch, self.log[-1][2] if self.log else 0.0
        while self.epoch < epochs:
            loss = self.run_epoch(show)
            now = time.perf_counter()
            self.log.append((self.epoch, loss, before + now - start))
            if self.epoch == epochs or (job.eval_every and self.epoch % job.eval_every == 0):
                self.keep_scores()
            if self.epoch < epochs and now - saved >= job.save_every:
                self.save(state)
                saved = now
            pace = (now - start) / (self.epoch - first)  # seconds per epoch
            show.running(
                f"epoch {self.epoch}/{epochs}  loss {loss:.4f}  {len(self.segments) / pace:.0f} segments/s  "
                f"{duration(pace * (epochs - self.epoch))} left"
            )


# ------------------------------------------------------------------------------------- jobs and files


class Job(NamedTuple):
    """One model x seed x fold."""

    folder: Path
    fold: protocols.Fold
    fit: np.ndarray  # utterances that the weights are trained on
    held: list  # utterances that the validation track chooses its epoch on, else none
    settings: dict  # all that the scores depend on
    deviations: list  # settings that are not the paper's
    eval_every: int  # epochs
    save_every: float  # seconds


def chosen_models(config):
    return list(RECIPES) if config.model == "all" else [config.model]


def make_jobs(config, database, folds, heard):
    """One job for each model, seed and fold of the command line; `heard` holds the features by front end."""
    jobs = []
    for model in chosen_models(config):
        recipe = RECIPES[model]
        settings = {
            name: getattr(recipe, name) if getattr(config, name) is None else getattr(config, name)
            for name in ("epochs", "batch_size", "lr")
        }
        deviations = [
            f"{name} {value} instead of {getattr(recipe, name)}"
            for name, value in settings.items()
            if value != getattr(recipe, name)
        ]
        if config.normalization != "fold":
            deviations.append(f"normalization {config.normalization} instead of fold")
        for seed in results.parse_seeds(config.seed):
            for fold in folds:
                told = dict(
                    model=model, protocol=config.protocol, seed=seed, fold=fold.number, fold_name=fold.name, **settings,
                    normalization=config.normalization, front_end=asdict(features.FRONT_ENDS[recipe.front_end]),
                    utterances=database.digest[:16], recordings=heard[recipe.front_end].digest[:16],
                )  # fmt: skip
                for track in ("last", "validation") if config.track == "all" else (config.track,):
                    fit, held, chosen_by = fold.train, [], {}
                    if track == "validation":
                        fit, held = protocols.hold_out(database, fold, seed)
                        chosen_by = dict(
                            held_out=sorted(set(database.speakers[held].tolist())), eval_every=config.eval_every
                        )
                    folder = results.fold_folder(
                        config.runs, database.name, model, config.protocol, seed, fold.number, track
                    )
                    jobs.append(
                        Job(folder, fold, fit, list(held), dict(told, track=track, **chosen_by), deviations,
                            config.eval_every, config.save_every)
                    )  # fmt: skip
    return jobs


def is_finished(job):
    """True if the fold is done with these settings; RunError if it would cost work done with other ones."""
    if not (job.folder / "config.json").exists():
        return False
    try:
        found = results.read_config(job.folder)["settings"]
        other = [name for name in {**found, **job.settings} if job.settings.get(name) != found.get(name)]
    except (results.RunError, KeyError, AttributeError, TypeError):
        return False  # cut short or damaged: trained again
    done = results.is_done(job.folder)
    if other and not done and not (job.folder / results.STATE).exists():
        return False
    if other:
        name = other[0]
        what = {"utterances": "other utterances, labels or speakers", "recordings": "other recordings"}.get(
            name, f"{name} {found.get(name)}, not {job.settings.get(name)}"
        )
        raise results.RunError(f"{job.folder}: holds a run with {what}; choose another --runs, or remove that folder")
    return done


def clean(job):
    """Remove what a process left that was killed after it had finished the fold."""
    lock = job.folder.with_name(f".{job.folder.name}.lock")
    if lock.exists() or (any(job.folder.glob(".*")) and is_finished(job)):
        with results.claim(job.folder) as mine:
            if mine and is_finished(job):
                results.remove_leftovers(job.folder)


def describe(job, data, folds_total, device):
    """What config.json holds: enough to check the fold without the recordings."""
    import torch

    database = data.database
    return dict(
        settings=job.settings,
        deviations=job.deviations,
        folds_total=folds_total,
        database=dict(
            name=database.name,
            language=database.language,
            classes=list(database.classes),
            counts=database.counts(),
            speakers=sorted(set(database.speakers.tolist())),
            utterances=len(database.ids),
            seconds=round(float(data.heard.seconds.sum()), 3),
            segments=len(data.segments),
            partial=database.partial,
        ),
        train_speakers=sorted(set(database.speakers[job.fit].tolist())),
        test_speakers=sorted(set(database.speakers[job.fold.test].tolist())),
        test=[database.ids[i] for i in job.fold.test],
        code=results.code_versions("features.py", "protocols.py", "models.py", "train.py"),
        machine=dict(
            device=torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
        ),
    )


def write_state(path, state):
    """torch.save by way of memory: straight to a full disk it ends in an error of its own kind."""
    import torch

    content = io.BytesIO()
    torch.save(state, content)
    with results.replacing(path) as file:
        file.write(content.getbuffer())


def run_job(job, data, folds_total, device, show):
    """Train a fold and save it; the marker of completion comes last."""
    start = time.perf_counter()
    database, folder, test = data.database, job.folder, job.fold.test
    results.remove_leftovers(folder, keep=[results.STATE])
    (folder / results.MARKER).unlink(missing_ok=True)
    config = describe(job, data, folds_total, device)
    results.write_json(folder / "config.json", config)
    training = Training(job, data)
    training.take_up(folder / results.STATE)
    training.finish(show)
    epoch, weights = training.chosen or (training.epoch, training.model.state_dict())
    scores = training.kept[epoch][0]
    rows = "".join(f"{number},{loss:.9g},{seconds:.3f}\n" for number, loss, seconds in training.log)
    results.write_text(folder / "log.csv", "epoch,loss,seconds\n" + rows)
    results.write_predictions(folder / "predictions.csv", database, test, scores)
    kept = dict(epochs=np.array(list(training.kept)), scores=np.stack([both[0] for both in training.kept.values()]))
    if job.held:
        kept["validation"] = np.stack([both[1] for both in training.kept.values()])
        kept["validation_labels"] = database.labels[job.held]
    with results.replacing(folder / "epochs.npz") as file:
        np.savez(file, **kept)
    state = dict(
        model={name: value.cpu().contiguous() for name, value in weights.items()},
        standardization=[part.cpu() for part in training.standard] if job.settings["normalization"] == "fold" else None,
        settings=job.settings,
        classes=list(database.classes),
        epoch=epoch,
        code=config["code"],
    )
    write_state(folder / "checkpoint.pt", state)
    heard = data.utterance_of[training.segments].unique().cpu().numpy()  # by the weights, and by the fold's statistics
    results.mark_done(folder, epoch=epoch, trained_on=sorted(set(database.speakers[heard].tolist())))
    results.remove_leftovers(folder)
    tested = "tested on nobody"
    if len(test):
        matrix = protocols.confusion(database.labels[test], scores)
        tested = f"WAR {100 * protocols.war(matrix):.2f}, UAR {100 * protocols.uar(matrix):.2f}"
    show.line(
        f"epoch {epoch} of {job.settings['epochs']}, loss {training.log[-1][1]:.4f}, {tested}, "
        f"{duration(time.perf_counter() - start)}"
    )


# ----------------------------------------------------------------------------------------- progress


def duration(seconds):
    """75 -> 1:15, 3675 -> 1:01:15."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """One piece of work: a line that moves on a terminal, a plain line now and then elsewhere."""

    plain_every = 60  # seconds

    def __init__(self, what, stream=None):
        self.what, self.stream = what, stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.shown = time.monotonic()

    def running(self, how):
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else self.plain_every):
            return
        self.shown = now
        print(
            f"\r\x1b[K{self.what}: {how}" if self.terminal else f"{self.what}: {how}",
            end="" if self.terminal else "\n",
            file=self.stream,
            flush=True,
        )

    def line(self, how):
        print(("\r\x1b[K" if self.terminal else "") + f"{self.what}: {how}", file=self.stream, flush=True)


# ----------------------------------------------------------------------------------------- the command


def make_deterministic():
    """Only algorithms that give the same bits on every run; before the first work on the GPU."""
    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def choose_device(wish):
    import torch

    if wish == "cuda" and not torch.cuda.is_available():
        raise protocols.UsageError("--device cuda: there is no GPU that torch can use; say --device cpu")
    return "cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu"


def open_for_training(config):
    """The database of the command line; the synthetic one is made where it is missing."""
    root = config.root or protocols.default_root(config.db)
    if config.db == "synthetic" and not os.path.isdir(root):
        from benchmarks import synthetic

        print(f"synthetic: writing a small corpus of generated speech to {root}", flush=True)
        synthetic.write_corpus("manifest", Path(root))
    return protocols.open_database(config.db, root, config.partial)


def title(job, done, pending, folds):
    settings = job.settings
    track = " validation" if settings["track"] == "validation" else ""
    fold = f"fold {job.fold.number}/{folds} {job.fold.name}" if job.fold.number else "all speakers"
    return f"[{done}/{pending}] {settings['model']} seed {settings['seed']}{track} {fold}"


def train_all(pending, database, heard, folds, config):
    """Train the folds that no other process has finished or is training."""
    device = choose_device(config.device)
    if config.deterministic and device == "cuda":
        make_deterministic()
    if device == "cpu":
        features.keep_freed_memory()
    loaded = {}  # front end -> data, one at a time on the device
    busy = 0
    for done, job in enumerate(pending, 1):
        front_end = RECIPES[job.settings["model"]].front_end
        with results.claim(job.folder) as mine:
            if not mine:
                busy += 1
                continue
            if is_finished(job):  # by another process, meanwhile
                continue
            if front_end not in loaded:
                loaded = {front_end: to_device(database, heard[front_end], device)}
            show = Progress(title(job, done, len(pending), folds))
            run_job(job, loaded[front_end], folds, device, show)
    if busy:
        print(f"{busy} folds are being trained by other processes")


def main(arguments=None):
    config = parse_command_line(arguments)
    if not config.runs or (os.path.exists(config.runs) and not os.path.isdir(config.runs)):
        raise protocols.UsageError(f"--runs {config.runs}: is no folder; name one that is, or that can be made")
    if config.device == "cuda":
        choose_device(config.device)  # a mistake in it is told before anything is read
    database = open_for_training(config)
    folds = protocols.make_folds(database, config.protocol)
    chosen = protocols.select_folds(folds, config.fold)
    results.parse_seeds(config.seed)  # a mistake in it is told before anything is read
    if config.track != "last" and config.fold == protocols.NO_FOLD:
        raise protocols.UsageError(f"--track {config.track}: --fold none holds nobody out; leave --track away")
    if config.track != "last" and not config.eval_every:
        raise protocols.UsageError(
            "--eval-every 0: the validation track chooses among evaluated epochs; give 1 or more"
        )
    counts = ", ".join(f"{label} {count}" for label, count in database.counts().items())
    speakers = len(set(database.speakers.tolist()))
    print(f"{database.name}: {len(database.ids)} utterances, {speakers} speakers: {counts}")
    front_ends = dict.fromkeys(RECIPES[model].front_end for model in chosen_models(config))
    heard = {front_end: hear(database, front_end) for front_end in front_ends}
    jobs = make_jobs(config, database, chosen, heard)
    for job in jobs:
        clean(job)
    pending = [job for job in jobs if not is_finished(job)]
    if len(pending) < len(jobs):
        print(f"{database.name}: {len(jobs) - len(pending)} of {len(jobs)} folds are already done")
    if pending:
        print(f"{database.name}: {len(pending)} folds to train", flush=True)
        results.write_index(config.runs, database)
        train_all(pending, database, heard, len(folds), config)
    if config.fold == protocols.NO_FOLD:
        print(f"predict: python predict.py --run {shlex.quote(str(jobs[0].folder))} recording.wav")
        return
    runs = shlex.quote(config.runs)
    print(f"tables: python evaluate.py --db {database.name} --protocol {config.protocol} --runs {runs}")


if __name__ == "__main__":
    with results.plain_errors("train.py"):
        main()
