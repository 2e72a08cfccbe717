"""Train the models of both papers under leave-one-speaker-out and save what the tables are made of.

    python train.py                                        # TFT on the small synthetic corpus, 1000 epochs
    python train.py --db iemocap --model tft --fold 3
    python train.py --db casia --root data/casia --model all --seed 0-4
    python train.py --db my/corpus.csv --epochs 100        # columns path,emotion,speaker

For every model, seed and fold it trains on the other speakers, scores the fold's utterances with the
model of the last epoch and saves both below `--runs` (see results.py). A finished fold is skipped when the
command is repeated. Prints one line per fold; on a terminal also the running epoch, loss, rate and time left.
The test speaker is read for the scores alone: nothing in training depends on them.
"""

import argparse
import ctypes
import hashlib
import math
import os
import platform
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
    fold: str = option("all", "fold: 1..K, the name of a speaker or session, or all")
    protocol: str = option("speaker", "what a fold leaves out", choices=protocols.PROTOCOLS)
    seed: str = option("0", "seed, or a range such as 0-4")
    epochs: int = option(None, "epochs (TFT 1000; ATFNN 100, where its paper states none)", least=1)
    batch_size: int = option(None, "segments per step (TFT 64, ATFNN 128)", least=1)
    lr: float = option(None, "learning rate of Adam (TFT 0.001, ATFNN 0.0005)", least=0)
    normalization: str = option("fold", "z-score per band, from what", choices=NORMALIZATIONS)
    eval_every: int = option(10, "keep test scores every so many epochs, for the learning curve only; 0: never", least=0)
    partial: bool = option(False, "accept a database whose counts differ from the published ones")
    device: str = option("auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    runs: str = option("runs", "folder of the results")


def number(kind, least):
    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (least <= value < math.inf) or (kind is float and value == 0):
            bound = "more than 0" if kind is float else f"at least {least}"
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
    owner: object  # (S,) int64 tensor, the utterance of each segment

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

    owner = np.repeat(np.arange(len(heard.counts)), heard.counts)
    labels = torch.from_numpy(database.labels[owner]).to(device)
    return Data(database, heard, torch.from_numpy(heard.segments).to(device), labels, torch.from_numpy(owner).to(device))


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
    group = torch.zeros_like(data.owner) if kind == "fold" else data.owner
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
    """The model with weights that depend on the seed only, and its optimizer's due layout in memory."""
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

    model.eval()
    with torch.inference_mode():
        index = data.segments_of(utterances)
        parts = [model(gather(data, standard, some)).softmax(1) for some in index.split(EVAL_BATCH)]
    model.train()
    return protocols.utterance_scores(torch.cat(parts).cpu().numpy(), data.heard.counts[utterances])


def train_fold(job, data, show):
    """Train one fold; returns the model, its standardisation, the log's rows and the kept test scores."""
    import torch

    settings, fold = job.settings, job.fold
    front_end = features.FrontEnd(**settings["front_end"])
    model = make_model(settings["model"], len(data.database.classes), settings["seed"], front_end, data.segments.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["lr"], fused=True)
    train = data.segments_of(fold.train)
    standard = standardization(data, settings["normalization"], train)
    epochs, batch = settings["epochs"], settings["batch_size"]
    log, kept = [], {}
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        order = train[epoch_order(len(train), settings["seed"], epoch).to(train.device)]
        total = torch.zeros((), device=train.device)
        for index in order.split(batch):
            total += train_step(model, optimizer, gather(data, standard, index), data.labels[index]) * len(index)
        loss = total.item() / len(train)  # the only wait for the device in an epoch
        seconds = time.perf_counter() - start
        if not math.isfinite(loss):
            raise results.RunError(f"{job.folder}: the loss became {loss} in epoch {epoch}; try a smaller --lr")
        log.append((epoch, f"{loss:.9g}", f"{seconds:.3f}"))
        if job.eval_every and epoch % job.eval_every == 0:
            kept[epoch] = score(model, data, standard, fold.test)
        rate, left = epoch * len(train) / seconds, seconds / epoch * (epochs - epoch)
        show.running(f"epoch {epoch}/{epochs}  loss {loss:.4f}  {rate:.0f} segments/s  {duration(left)} left")
    kept[epochs] = score(model, data, standard, fold.test)
    return model, standard, log, kept


# ------------------------------------------------------------------------------------- jobs and files


class Job(NamedTuple):
    """One model x seed x fold."""

    folder: Path
    fold: protocols.Fold
    settings: dict  # all that the scores depend on
    deviations: list  # settings that are not the paper's
    eval_every: int


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
                folder = results.fold_folder(config.runs, database.name, model, config.protocol, seed, fold.number)
                told = dict(
                    model=model, protocol=config.protocol, seed=seed, fold=fold.number, fold_name=fold.name, **settings,
                    normalization=config.normalization, front_end=asdict(features.FRONT_ENDS[recipe.front_end]),
                    utterances=database.digest[:16], recordings=heard[recipe.front_end].digest[:16],
                )  # fmt: skip
                jobs.append(Job(folder, fold, told, deviations, config.eval_every))
    return jobs


def is_finished(job):
    """True if the fold is done with these settings; RunError if it was begun with other ones."""
    if not (job.folder / "config.json").exists():
        return False
    try:
        found = results.read_config(job.folder)["settings"]
        other = [name for name, value in found.items() if job.settings.get(name) != value]
    except (results.RunError, KeyError, AttributeError, TypeError):
        return False  # cut short or damaged: trained again
    if other:
        name = min(other, key=list(found).index)
        what = {"utterances": "other utterances, labels or speakers", "recordings": "other recordings"}.get(
            name, f"{name} {found[name]}, not {job.settings.get(name)}"
        )
        raise results.RunError(f"{job.folder}: holds a run with {what}; choose another --runs, or remove that folder")
    return results.is_done(job.folder)


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
        train_speakers=sorted(set(database.speakers[job.fold.train].tolist())),
        test_speakers=sorted(set(database.speakers[job.fold.test].tolist())),
        test=[database.ids[i] for i in job.fold.test],
        code={
            name: hashlib.sha256(Path(__file__).with_name(name).read_bytes()).hexdigest()[:16]
            for name in ("features.py", "protocols.py", "models.py", "train.py")
        },
        machine=dict(
            device=torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=torch.__version__,
            numpy=np.__version__,
        ),
    )


def run_job(job, data, folds_total, device, show):
    """Train a fold and save it; the marker of completion comes last."""
    import torch

    start = time.perf_counter()
    database, test = data.database, job.fold.test
    (job.folder / results.MARKER).unlink(missing_ok=True)
    results.write_json(job.folder / "config.json", describe(job, data, folds_total, device))
    model, standard, log, kept = train_fold(job, data, show)
    scores = kept[job.settings["epochs"]]
    rows = "".join(",".join(map(str, row)) + "\n" for row in log)
    results.write_text(job.folder / "log.csv", "epoch,loss,seconds\n" + rows)
    results.write_predictions(job.folder / "predictions.csv", database, test, scores)
    with results.replacing(job.folder / "epochs.npz") as file:
        np.savez(file, epochs=np.array(list(kept)), scores=np.stack(list(kept.values())))
    state = dict(
        model={name: value.cpu().contiguous() for name, value in model.state_dict().items()},
        standardization=[part.cpu() for part in standard] if job.settings["normalization"] == "fold" else None,
        settings=job.settings,
        classes=list(database.classes),
    )
    with results.replacing(job.folder / "checkpoint.pt") as file:
        torch.save(state, file)
    results.mark_done(job.folder)
    matrix = protocols.confusion(database.labels[test], scores)
    show.line(
        f"{log[-1][0]} epochs, loss {float(log[-1][1]):.4f}, WAR {100 * protocols.war(matrix):.2f}, "
        f"UAR {100 * protocols.uar(matrix):.2f}, {duration(time.perf_counter() - start)}"
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

    def __init__(self, what):
        self.what, self.terminal = what, sys.stdout.isatty()
        self.shown = time.monotonic()

    def running(self, how):
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else self.plain_every):
            return
        self.shown = now
        print(f"\r\x1b[K{self.what}: {how}" if self.terminal else f"{self.what}: {how}", end="" if self.terminal else "\n", flush=True)

    def line(self, how):
        print(("\r\x1b[K" if self.terminal else "") + f"{self.what}: {how}", flush=True)


# ----------------------------------------------------------------------------------------- the command


def keep_freed_memory():
    """Let glibc keep what is freed: handed back and fetched anew, the pages of each step's activations cost
    about as much as the arithmetic (a TFT step takes half the time with this; see benchmarks/speed.py)."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own mapping
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep up to 2 GiB


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


def main(arguments=None):
    config = parse_command_line(arguments)
    database = open_for_training(config)
    folds = protocols.make_folds(database, config.protocol)
    chosen = protocols.select_folds(folds, config.fold)
    results.parse_seeds(config.seed)  # a mistake in it is told before anything is read
    counts = ", ".join(f"{label} {count}" for label, count in database.counts().items())
    speakers = len(set(database.speakers.tolist()))
    print(f"{database.name}: {len(database.ids)} utterances, {speakers} speakers: {counts}")
    front_ends = dict.fromkeys(RECIPES[model].front_end for model in chosen_models(config))
    heard = {front_end: hear(database, front_end) for front_end in front_ends}
    jobs = make_jobs(config, database, chosen, heard)
    pending = [job for job in jobs if not is_finished(job)]
    if len(pending) < len(jobs):
        print(f"{database.name}: {len(jobs) - len(pending)} of {len(jobs)} folds are already done")
    if pending:
        device = choose_device(config.device)
        if device == "cpu":
            keep_freed_memory()
        loaded = {}  # front end -> data, one at a time on the device
        for done, job in enumerate(pending, 1):
            front_end = RECIPES[job.settings["model"]].front_end
            if front_end not in loaded:
                loaded = {front_end: to_device(database, heard[front_end], device)}
            fold = f"fold {job.fold.number}/{len(folds)} {job.fold.name}"
            model, seed = job.settings["model"], job.settings["seed"]
            show = Progress(f"[{done}/{len(pending)}] {model} seed {seed} {fold}")
            run_job(job, loaded[front_end], len(folds), device, show)
    print(f"tables: python evaluate.py --db {database.name} --table all --runs {config.runs}")


if __name__ == "__main__":
    with results.plain_errors("train.py"):
        main()
