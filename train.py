"""Train the models of both papers under leave-one-speaker-out and save what the tables are made of.

    python train.py                                        # TFT on the small synthetic corpus, 1000 epochs
    python train.py --db iemocap --model tft --fold 3
    python train.py --db casia --root data/casia --model all --seed 0-4
    python train.py --db my/corpus.csv --epochs 100        # columns path,emotion,speaker
    python train.py --db casia --fold none                 # on all speakers, for predict.py; tests nobody
    python train.py --db casia --overlap 0.5 --runs runs-overlap     # one setting that the papers leave open

For every model, seed and fold it trains on the other speakers, scores the fold's utterances with the
model of the last epoch and saves both below `--runs` (see results.py). A finished fold is skipped when the
command is repeated. Prints a line for each fold that ends and a table of all; meanwhile epoch, loss, rate and time
left, on a terminal as they change, elsewhere once a minute.
The test speaker is read for the scores alone: nothing in training depends on them.

The folds are shared out among processes that work on the same `--runs`: started by hand, by torchrun, or as a SLURM
job array. Each begins with its own share, then takes what no other has begun, and waits for nobody.
"""

import argparse
import contextlib
import io
import math
import os
import platform
import shlex
import shutil
import sys
import time
from collections import deque
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

import evaluate
import features
import protocols
import results
import tables

# engine.py imports torch, which takes a second, so the functions that use them import them: --help answers at once

# ------------------------------------------------------------------------------------- configuration


@dataclass(frozen=True)
class Recipe:
    """A paper's training settings, and the front end that it feeds."""

    front_end: str
    epochs: int
    batch_size: int
    lr: float
    pre_emphasis: str


TFT_RECIPE = Recipe("tft", epochs=1000, batch_size=64, lr=1e-3, pre_emphasis="segment")  # TFT section 3.3
ATFNN_RECIPE = Recipe("atfnn", epochs=100, batch_size=128, lr=5e-4, pre_emphasis="none")  # ATFNN III-C, epochs ours
RECIPES = {
    **dict.fromkeys(("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"), TFT_RECIPE),
    **dict.fromkeys(("atfnn", "afnn", "atnn", "tfnn"), ATFNN_RECIPE),
}
# what scores depend on
CODE = ("features.py", "protocols.py", "models.py", "engine.py", "stack.py", "train.py", "results.py")
VERSIONS = results.code_versions(*CODE)  # of what is imported: a long training may outlive it on disk
NORMALIZATIONS = ("fold", "none", "segment", "utterance", "speaker")
FOR_KNOWN_SPEAKERS = "needs all recordings of each speaker, by name"  # --normalization speaker
EVERY, OF_TFT = tuple(RECIPES), tuple(name for name, recipe in RECIPES.items() if recipe is TFT_RECIPE)


def option(default, help, **how):
    return field(default=default, metadata=dict(help=help, **how))


def open_option(models, default, help, **how):
    """A setting that the papers leave open, of those models."""
    return option(default, help, models=models, **how)


@dataclass(frozen=True)
class Config:
    """The options of the command line, one line each; None means the paper's value for the model."""

    db: str = option("synthetic", f"database: {', '.join(protocols.DATABASES)}, or the path of a manifest .csv")
    root: str = option(None, "folder of the recordings (default: $SER_DATA/<db>, else data/<db>, or a manifest's own)")
    model: str = option("tft", "model to train", choices=(*RECIPES, "all"))
    fold: str = option("all", "fold: 1..K, a speaker or session by name, all, or none: train on everyone, test nobody")
    protocol: str = option("speaker", "what a fold leaves out", choices=protocols.PROTOCOLS)
    seed: str = option("0", "seed, a range such as 0-4, or several: 0-2,5")
    epochs: int = option(None, "epochs (TFT 1000; ATFNN 100, where its paper states none)", least=1)
    batch_size: int = option(None, "segments per step (TFT 64, ATFNN 128)", least=1)
    lr: float = option(None, "learning rate of Adam (TFT 0.001, ATFNN 0.0005)", least=1e-12)
    track: str = option(
        "last", "last epoch, epoch chosen on held-out training speakers, or both", choices=("last", "validation", "all")
    )
    eval_every: int = option(
        10, "keep scores every so many epochs, for the tracks validation and oracle; 0: never", least=0
    )
    save_every: float = option(60.0, "seconds between saved states, from which a killed run goes on", least=0)
    together: int = option(None, "folds trained at once (10 on a GPU, 1 on a CPU)", least=1)
    engine: str = option(
        "auto", "how steps run; graph and compiled need a GPU, auto is the fastest that works",
        choices=("auto", "eager", "graph", "compiled"),
    )  # fmt: skip
    precision: str = option("float32", "of products and convolutions in training", choices=("float32", "bfloat16"))
    deterministic: bool = option(False, "ask torch for the same bits on each GPU run, at a cost; a CPU gives them")
    partial: bool = option(False, "accept a database whose counts differ from the published ones")
    device: str = option("auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    runs: str = option("runs", "folder of the results")
    quiet: bool = option(False, "print nothing but errors")
    normalization: str = open_option(
        EVERY, "fold", "z-score per band, from what; speaker: each one's own, transductive", choices=NORMALIZATIONS
    )
    overlap: float = open_option(EVERY, 0, "share of a segment that the next one holds too, up to 0.75", least=0)
    pre_emphasis: str = open_option(
        EVERY, None, "0.97 within each segment, or of the utterance before it is cut (TFT segment, ATFNN none)",
        choices=("none", "segment", "utterance"),
    )  # fmt: skip
    log_floor: float = open_option(EVERY, 1e-6, "added to a band's energy before the logarithm", least=1e-30, below=1)
    dropout: float = open_option(
        EVERY, 0, "TFT: in its encoders; ATFNN: between the BiLSTM's layers, before the classifier", least=0, below=1
    )
    aggregation: str = open_option(
        EVERY, "mean", "an utterance's class from its segments' posteriors", choices=protocols.AGGREGATIONS
    )
    double_softmax: bool = open_option(OF_TFT, False, "cross-entropy of the softmax, as TFT eq. 13 reads")
    bn_momentum: float = open_option(OF_TFT, 0.1, "of batch norm", least=1e-12, below=1)
    f_encoder_heads: int = open_option(
        ("atfnn", "afnn", "tfnn"), 2, "heads of the F-Encoder", choices=(1, 2, 4, 8), least=1
    )
    gate: str = open_option(
        ("atfnn", "afnn", "atnn"), "sigmoid",
        "F- and T-Attention: what their convolution goes through; softmax: over groups",
        choices=("sigmoid", "softmax", "none"),
    )  # fmt: skip
    t_attention_input: str = open_option(
        ("atfnn",), "log-mel", "T-Attention from x (eq. 2, Fig. 4) or the F-Encoder's output (eq. 4)",
        choices=("log-mel", "encoded"),
    )  # fmt: skip


ALWAYS = ("epochs", "batch_size", "lr", "normalization", "precision")  # in every run's settings
OPEN = {  # the other open settings, which a run tells where they are not as usual -> the models that have them
    one.name: one.metadata["models"] for one in fields(Config) if "models" in one.metadata and one.name not in ALWAYS
}


def bounded(kind, least, below=2**31):
    """A type of argparse: a number of that kind from `least`, and below `below`."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < below or "_" in text:
            bound = f"at least {least}" if least in (0, 1) else "more than 0"
            bound += f" and less than {below}" if below < 2**31 else ""
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r}: give a {noun} of {bound}")
        return value

    return convert


def parse_command_line(arguments=None):
    """argparse built from the fields of Config."""
    parser = results.OneLineParser(__doc__)
    left_open = parser.add_argument_group("settings that the papers leave open")
    for one in fields(Config):
        how = dict(one.metadata, default=one.default)
        group = left_open if how.pop("models", None) else parser
        if one.default is not None and one.default is not False:
            how["help"] += f" (default: {one.default})"
        if one.type is bool:
            how["action"] = "store_true"
        elif "least" in how:
            how["type"] = bounded(one.type, how.pop("least"), how.pop("below", 2**31))
        group.add_argument(flag(one.name), **how)
    return Config(**vars(parser.parse_args(arguments)))


def flag(name):
    return "--" + name.replace("_", "-")


# ------------------------------------------------------------------------------------ settings of a run


def default_of(name, model):
    """The paper's value of a setting, else our default."""
    return getattr(RECIPES[model], name, getattr(Config, name))


def settings_of(config, model):
    """ALWAYS, and what of OPEN the model has and is not as usual."""
    given = {name: getattr(config, name) for name in (*ALWAYS, *OPEN)}
    given = {name: default_of(name, model) if value is None else value for name, value in given.items()}
    return {
        name: value
        for name, value in given.items()
        if name in ALWAYS or (model in OPEN[name] and value != default_of(name, model))
    }


def deviations_of(settings):
    """A line for each setting that is not the paper's, or where it is silent not our default."""
    model, lines = settings["model"], []
    for name in (*ALWAYS, *OPEN):
        value, expected = settings.get(name, default_of(name, model)), default_of(name, model)
        if value != expected:
            lines.append(f"{name} {value} instead of {expected}")
            if value == "speaker":
                lines[-1] += ", transductive: a tested speaker's statistics are of all its own recordings"
    return lines


def is_possible(name, value, model):
    """Could the command line have given the model this value of OPEN?"""
    one = Config.__dataclass_fields__[name]
    if model not in OPEN[name] or type(value) is not one.type or value not in one.metadata.get("choices", (value,)):
        return False
    return "least" not in one.metadata or one.metadata["least"] <= value < one.metadata.get("below", math.inf)


def front_end_of(model, settings):
    """The front end of a model's paper, changed as the settings tell."""
    front_end = features.FRONT_ENDS[RECIPES[model].front_end]
    changes = dict(overlap=float(settings.get("overlap", 0)), floor=settings.get("log_floor", front_end.floor))
    if how := settings.get("pre_emphasis"):
        changes["pre_emphasis"] = 0.0 if how == "none" else features.FRONT_ENDS["tft"].pre_emphasis
        changes["emphasized"] = "utterance" if how == "utterance" else "segment"
    return replace(front_end, **changes)


def check_options(config):
    """UsageError for an option that none of the chosen models has, and for what does not go together."""
    if not config.runs or (os.path.exists(config.runs) and not os.path.isdir(config.runs)):
        raise protocols.UsageError(f"--runs {config.runs}: is no folder; name one that is, or that can be made")
    results.parse_seeds(config.seed)
    if config.track != "last" and config.fold == protocols.NO_FOLD:
        raise protocols.UsageError(f"--track {config.track}: --fold none holds nobody out; leave --track out")
    if config.track != "last" and not config.eval_every:
        raise protocols.UsageError(
            "--eval-every 0: the validation track chooses among evaluated epochs; give 1 or more"
        )
    models = chosen_models(config)
    for name, having in OPEN.items():
        if getattr(config, name) != getattr(Config, name) and not set(models) & set(having):
            raise protocols.UsageError(
                f"{flag(name)}: only {', '.join(having)} have it, not {config.model}; leave it out"
            )
    for model in models:
        front_end = front_end_of(model, settings_of(config, model))
        if not front_end.overlap_fits():
            raise protocols.UsageError(
                f"--overlap {config.overlap}: must be at most {features.MOST_OVERLAP} and a whole number of the "
                f"{front_end.frames} frames of a segment, such as 0.5"
            )
    if config.dropout and config.engine in ("graph", "compiled"):
        raise protocols.UsageError("--dropout: has not been tried with recorded steps; say --engine eager")
    if config.normalization == "speaker" and config.fold == protocols.NO_FOLD:
        raise protocols.UsageError(f"--normalization speaker: {FOR_KNOWN_SPEAKERS}; choose another for --fold none")


# ----------------------------------------------------------------------------------------------- data


def load_features(database, front_end):
    """Features of a database through a FrontEnd, with word of the progress."""
    show = Progress(f"{database.name}: reading {len(database.ids)} recordings")
    heard = features.load(
        database.root, database.paths, front_end,
        report=lambda done, total: show.running(f"{100 * done // total} %"),
    )  # fmt: skip
    protocols.refuse_shared_recordings(database, heard.file_digests)
    frames = heard.segments.shape[2]
    how = "from the cache" if heard.cached else "from the recordings"
    show.line(f"{len(heard.segments)} segments of {frames} frames {how} in {heard.load_time:.1f} s")
    return heard


# ------------------------------------------------------------------------------------- jobs and files


class Job(NamedTuple):
    """One model x seed x fold."""

    folder: Path
    fold: protocols.Fold
    fit: np.ndarray  # utterances that the weights are trained on
    held: np.ndarray  # utterances that the validation track chooses its epoch on, else none
    settings: dict  # all that the scores depend on
    deviations: list  # settings that are not the paper's


def chosen_models(config):
    return list(RECIPES) if config.model == "all" else [config.model]


def chosen_tracks(config):
    return list(results.TRAINED) if config.track == "all" else [config.track]


def make_jobs(config, database, folds, heard):
    """One job for each model, seed and fold of the command line; `heard` holds the features by front end."""
    jobs, digest = [], database.digest[:16]
    for model in chosen_models(config):
        settings = settings_of(config, model)
        deviations = deviations_of(dict(settings, model=model))
        for seed in results.parse_seeds(config.seed):
            for fold in folds:
                told = dict(
                    model=model, protocol=config.protocol, seed=seed, fold=fold.number, fold_name=fold.name, **settings,
                    front_end=front_end_of(model, settings).as_settings(), utterances=digest,
                    recordings=heard[RECIPES[model].front_end].digest[:16], eval_every=config.eval_every,
                )  # fmt: skip
                for track in chosen_tracks(config):
                    fit, held, held_out = fold.train, fold.train[:0], {}
                    if track == "validation":
                        fit, held = protocols.hold_out(database, fold, seed)
                        held_out = dict(held_out=sorted(set(database.speakers[held].tolist())))
                    folder = results.fold_folder(
                        config.runs, database.name, model, config.protocol, seed, fold.number, track
                    )
                    jobs.append(Job(folder, fold, fit, held, dict(told, track=track, **held_out), deviations))
    return jobs


def is_finished(job):
    """True if the fold is done with these settings; RunError if it would cost work done with other ones."""
    if not (job.folder / "config.json").exists():
        return False
    try:
        found = results.read_config(job.folder)["settings"]
        other = [name for name in {**OPEN, **found, **job.settings} if job.settings.get(name) != found.get(name)]
    except (results.RunError, KeyError, AttributeError, TypeError):
        return False  # cut short or damaged: trained again
    done = results.is_done(job.folder)
    if other and (done or (job.folder / results.STATE).exists()):
        name = other[0]
        absent = default_of(name, job.settings["model"]) if name in OPEN else None
        what = {"utterances": "other utterances, labels or speakers", "recordings": "other recordings"}.get(
            name, f"{name} {found.get(name, absent)}, not {job.settings.get(name, absent)}"
        )
        raise results.RunError(f"{job.folder}: holds a run with {what}; choose another --runs, or remove that folder")
    return done


def clean(job):
    """Remove what a process left that was killed after it had finished the fold."""
    lock = job.folder.with_name(f".{job.folder.name}.lock")
    if lock.exists() or (results.leftovers(job.folder) and is_finished(job)):
        with results.claim(job.folder) as mine:
            if mine and is_finished(job):
                results.remove_leftovers(job.folder)


def describe(job, data, folds_total, how):
    """What config.json holds: enough to check the fold without the recordings. `how`: engine, folds at once."""
    import torch

    database, device = data.database, data.segments.device.type
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
        code=VERSIONS,
        machine=dict(
            device=torch.cuda.get_device_name() if device == "cuda" else results.processor(),
            **how,
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=str(torch.__version__),
            numpy=np.__version__,
        ),
    )


def as_bytes(content):
    """torch.save by way of memory: straight to a full disk it ends in an error of its own kind."""
    import torch

    memory = io.BytesIO()
    torch.save(content, memory)
    return memory.getvalue()


class FoldRun:
    """One fold from its first epoch, or its saved state, to its files; the caller holds its lock.

    Epochs come in two halves, so that other folds can compute in between: `begin_epoch` queues, `end_epoch` keeps.
    """

    def __init__(self, job, data, folds_total, how, save_every, show):
        self.job, self.data, self.save_every, self.show = job, data, save_every, show
        self.begun = time.perf_counter()
        results.remove_leftovers(job.folder, keep=[results.STATE])
        (job.folder / results.MARKER).unlink(missing_ok=True)
        self.config = describe(job, data, folds_total, how)
        self.start(how["engine"])
        self.take_up(job.folder / results.STATE, how["engine"])
        results.write_json(job.folder / "config.json", self.config)
        # where this process takes up: epoch, seconds trained before, and since when it trains
        self.first, self.before = self.training.epoch, self.log[-1][2] if self.log else 0.0
        self.last_save = self.clock = time.perf_counter()

    def start(self, kind):
        import engine

        self.training = engine.Training(self.data, self.job.settings, self.job.fit, kind)
        self.log, self.kept = [], {}  # (epoch, loss, seconds); epoch -> (test scores, validation scores or None)
        self.chosen = None  # validation track: (epoch, weights) of the best epoch so far
        self.saved = None  # epoch of the state on disk

    @property
    def is_trained(self):
        return self.training.epoch >= self.job.settings["epochs"]

    def begin_epoch(self):
        epoch, epochs = self.training.epoch + 1, self.job.settings["epochs"]

        def report(step, steps):
            if epoch == 1:  # later epochs tell their pace
                self.show.running(f"epoch 1/{epochs}  step {step}/{steps}")

        self.training.begin_epoch(report)

    def end_epoch(self):
        """Log the epoch, keep the scores that are due, and save the state now and then."""
        losses = self.training.end_epoch()
        job, epoch, now = self.job, self.training.epoch, time.perf_counter()
        epochs, every = job.settings["epochs"], job.settings["eval_every"]
        for step, loss in enumerate(losses, 1):
            if not math.isfinite(loss):
                raise self.alarm(f"the loss became {loss} in epoch {epoch}, step {step}")
        sizes = self.training.sizes
        loss = sum(loss * size for loss, size in zip(losses, sizes)) / sum(sizes)
        self.log.append((epoch, loss, self.before + now - self.clock))
        if epoch == epochs or (every and epoch % every == 0):
            self.keep_scores()
        if epoch < epochs and now - self.last_save >= self.save_every:
            self.save(job.folder / results.STATE)
            self.last_save = now
        pace = (now - self.clock) / (epoch - self.first)  # seconds per epoch
        self.show.running(
            f"epoch {epoch}/{epochs}, {duration(pace * (epochs - epoch))} left, loss {loss:.4f}, "
            f"{sum(sizes) / pace:.0f} segments/s"
        )

    def alarm(self, what):
        state = f"of epoch {self.saved}, in {results.STATE}" if self.saved else "the initial one"
        return results.RunError(
            f"{self.job.folder}: {what}; the last good state is {state}; remove that folder and try a smaller --lr"
        )

    def keep_scores(self):
        """Score the test utterances, and on the validation track also the held-out ones, by which it chooses."""
        epoch, test = self.training.epoch, self.training.score(self.job.fold.test)
        if not np.isfinite(test).all():
            raise self.alarm(f"the scores of epoch {epoch} are not finite")
        held = self.job.held
        if not len(held):
            self.kept[epoch] = (test, None)
            return
        self.kept[epoch] = (test, self.training.score(held))
        scores = np.stack([validation for _, validation in self.kept.values()])
        best = list(self.kept)[results.best_epoch(self.data.database.labels[held], scores)]
        if best == epoch:
            self.chosen = (best, self.training.copy_weights())

    def save(self, path):
        """Write the state, sealed; one whose weights are not finite does not replace a good one."""
        import torch

        training = self.training.state()
        if not all(bool(torch.isfinite(value).all()) for value in training["model"].values()):
            return
        kept = {
            epoch: [None if part is None else torch.from_numpy(part) for part in both]
            for epoch, both in self.kept.items()
        }
        made_by = {name: self.config.get(name) for name in ("code", "machine", "earlier_machines")}
        state = dict(settings=self.job.settings, log=self.log, kept=kept, chosen=self.chosen, training=training)
        results.write_sealed(path, as_bytes(dict(state, made_by=made_by)))
        self.saved = self.training.epoch

    def take_up(self, path, kind):
        """Go on from a saved state; a missing, damaged or foreign one is passed over."""
        import torch

        if not path.is_file():
            return
        settings, config = self.job.settings, self.config
        try:
            state = results.read_checkpoint(io.BytesIO(results.read_sealed(path)))
            if state["settings"] != settings:
                return
            made_by, epoch = state["made_by"], state["training"]["epoch"]
            if made_by["code"] != config["code"] or made_by["machine"]["torch"] != config["machine"]["torch"]:
                self.show.line(f"{path} is of another version of the code or of torch; the fold starts again")
                return
            due = [done for done in range(1, epoch + 1) if settings["eval_every"] and not done % settings["eval_every"]]
            if not (0 < epoch < settings["epochs"] and len(state["log"]) == epoch and list(state["kept"]) == due):
                raise ValueError("of epochs that do not fit")
            self.training.restore(state["training"])
            self.kept = {
                epoch: tuple(None if part is None else part.numpy() for part in both)
                for epoch, both in state["kept"].items()
            }
            self.log, self.chosen, self.saved = state["log"], state["chosen"], epoch
            earlier = made_by["earlier_machines"] or []
            if made_by["machine"] != config["machine"]:  # say so: the bits are those of neither alone
                earlier = [*earlier, made_by["machine"]]
            if earlier:
                config["earlier_machines"] = earlier
        except (torch.OutOfMemoryError, torch.AcceleratorError):  # the device's fault, not the state's
            raise
        except results.DAMAGED:
            self.show.line(f"{path} is damaged; the fold starts again")
            self.start(kind)

    def finish(self):
        """Write the fold's files; the marker of completion comes last."""
        import torch

        job, database, folder, test = self.job, self.data.database, self.job.folder, self.job.fold.test
        epoch, weights = self.chosen or (self.training.epoch, self.training.model.state_dict())
        scores = self.kept[epoch][0]
        rows = "".join(f"{number},{loss:.9g},{seconds:.3f}\n" for number, loss, seconds in self.log)
        results.write_text(folder / "log.csv", "epoch,loss,seconds\n" + rows)
        results.write_predictions(folder / "predictions.csv", database, test, scores)
        kept = dict(epochs=np.array(list(self.kept)), scores=np.stack([both[0] for both in self.kept.values()]))
        if len(job.held):
            kept["validation"] = np.stack([both[1] for both in self.kept.values()])
            kept["validation_labels"] = database.labels[job.held]
        with results.replacing(folder / "epochs.npz") as file:
            np.savez(file, **kept)
        by_fold = job.settings["normalization"] == "fold"
        checkpoint = dict(
            model={name: value.to("cpu", copy=True).contiguous() for name, value in weights.items()},
            normalization=[part.cpu() for part in self.training.normalization[:2]] if by_fold else None,
            settings=job.settings,
            classes=list(database.classes),
            epoch=epoch,
            code=self.config["code"],
        )
        with results.replacing(folder / "checkpoint.pt") as file:
            file.write(as_bytes(checkpoint))
        parts = self.data.utterance_of[self.training.segments], self.training.normalization.learned_from
        trained = torch.cat(parts).unique().cpu().numpy()  # by weights or statistics
        results.mark_done(folder, epoch=epoch, trained_on=sorted(set(database.speakers[trained].tolist())))
        results.remove_leftovers(folder)
        tested = "tested on nobody"
        if len(test):
            matrix = protocols.confusion(database.labels[test], scores)
            tested = f"WAR {100 * protocols.war(matrix):.2f}, UAR {100 * protocols.uar(matrix):.2f}"
        self.show.line(
            f"epoch {epoch} of {job.settings['epochs']}, loss {self.log[epoch - 1][1]:.4f}, {tested}, "
            f"{duration(time.perf_counter() - self.begun)}"
        )


# ----------------------------------------------------------------------------------------- progress


def duration(seconds):
    """75 -> 1:15, 3675 -> 1:01:15."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """One piece of work: on a terminal a line that moves, below those of the others in progress; elsewhere a plain
    line now and then."""

    plain_every = 60  # seconds
    board = {}  # of the terminal: piece of work -> its line
    drawn = 0.0

    def __init__(self, what, stream=None):
        self.what, self.stream = what, stream or sys.stdout
        # processes of torchrun share a terminal, and would draw over each other
        self.terminal = bool(self.stream) and self.stream.isatty() and "LOCAL_RANK" not in os.environ
        self.shown = time.monotonic()

    def running(self, how):
        now = time.monotonic()
        if not self.terminal:
            if now - self.shown >= self.plain_every:
                self.shown = now
                print(f"{self.what}: {how}", file=self.stream, flush=True)
            return
        room = shutil.get_terminal_size().columns - len(how) - 3
        what = self.what if len(self.what) <= room else self.what[: max(0, room - 2)] + ".."
        before, Progress.board[self] = len(Progress.board), f"{what}: {how}"
        if now - Progress.drawn >= 0.2 or before < len(Progress.board):
            Progress.drawn = now
            self.draw(before)

    def line(self, how):
        """The last word on this piece of work; it stays."""
        if not self.terminal:
            print(f"{self.what}: {how}", file=self.stream, flush=True)
            return
        before = len(Progress.board)
        Progress.board.pop(self, None)
        self.draw(before, f"{self.what}: {how}")

    def draw(self, before, stays=None):
        """Draw the board anew over its `before` lines, below a line that stays."""
        width = shutil.get_terminal_size().columns - 1
        lines = ([stays] if stays else []) + [line[:width] for line in Progress.board.values()]
        up = f"\x1b[{before}A" if before else ""
        print(up + "\r\x1b[J" + "".join(line + "\n" for line in lines), end="", file=self.stream, flush=True)


# ----------------------------------------------------------------------------------------- the command


def share(environment=os.environ):
    """(number, count) of this process among those that torchrun or a SLURM job array started; (0, 1) alone."""

    def told(name, default):
        try:
            return int(environment.get(name, default))
        except ValueError:
            raise protocols.UsageError(f"{name}={environment[name]}: is no number; unset it") from None

    rank, ranks = told("RANK", 0), told("WORLD_SIZE", 1)
    task, tasks = told("SLURM_ARRAY_TASK_ID", 0), told("SLURM_ARRAY_TASK_COUNT", 1)
    task = (task - told("SLURM_ARRAY_TASK_MIN", 0)) // max(1, told("SLURM_ARRAY_TASK_STEP", 1))
    count = max(1, ranks) * max(1, tasks)
    return (task * max(1, ranks) + rank) % count, count


def own_share_first(jobs, number, count):
    """Every count-th job from `number`, then the share of the next process, and so on."""
    return [job for turn in range(count) for job in jobs[(number + turn) % count :: count]]


def open_for_training(config):
    """The database of the command line; the synthetic one is made where it is missing."""
    root = config.root or protocols.default_root(config.db)
    if config.db == "synthetic" and not os.path.isdir(root):
        from benchmarks import synthetic

        print(f"synthetic: writing a small corpus of generated speech to {root}", flush=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            synthetic.write_corpus("manifest", Path(root))
    return protocols.open_database(config.db, root, config.partial)


def title(job, folds):
    settings = job.settings
    track = " validation" if settings["track"] == "validation" else ""
    fold = f"fold {job.fold.number}/{folds} {job.fold.name}" if job.fold.number else "all speakers"
    return f"{settings['model']} seed {settings['seed']}{track} {fold}"


def local_rank():
    """Number of this process on its machine, by torchrun."""
    return int(os.environ.get("LOCAL_RANK", 0))


def steps_of(job, heard):
    """Steps of a job on whole batches, which alone are compiled."""
    return job.settings["epochs"] * (int(heard.counts[job.fit].sum()) // job.settings["batch_size"])


def even_share(waiting, together):
    """Folds of the next stack: all stacks about equally large, none above `together`."""
    return math.ceil(waiting / math.ceil(waiting / together))


class FoldQueue:
    """The folds of one command that wait and that are in training."""

    def __init__(self, database, heard, folds_total, how, save_every, device, jobs_total):
        self.database, self.heard, self.folds_total = database, heard, folds_total
        self.how, self.save_every, self.device, self.jobs_total = how, save_every, device, jobs_total
        self.loaded = {}  # front end -> data on the device
        self.running = {}  # fold in training -> its lock
        self.failed = []  # messages of the folds that ended in an error

    def begin(self, number, job):
        """The fold in training, or None where another process has it."""
        with contextlib.ExitStack() as lock:
            mine = lock.enter_context(results.claim(job.folder))
            if not mine or is_finished(job):  # by another process, meanwhile
                return None
            show = Progress(f"[{number}/{self.jobs_total}] {title(job, self.folds_total)}")
            run = FoldRun(job, self.data_of(job), self.folds_total, self.how, self.save_every, show)
            self.running[run] = lock.pop_all()
            return run

    def data_of(self, job):
        import engine

        front_end = RECIPES[job.settings["model"]].front_end
        if front_end not in self.loaded:
            self.loaded[front_end] = engine.to_device(self.database, self.heard[front_end], self.device)
        return self.loaded[front_end]

    def advance(self, run):
        """Collect the epoch that was queued, and queue the next: only a stack waits for all its folds."""
        try:
            run.end_epoch()
        except results.RunError as error:  # the other folds go on
            self.failed.append(str(error))
            run.show.line("stopped, see below")
            self.end(run)
            return
        if run.is_trained:
            run.finish()
            self.end(run)
        else:
            run.begin_epoch()

    def end(self, run):
        run.training.leave()
        self.running.pop(run).close()

    def train(self, waiting, stacked):
        """Train (number, job) that wait, some at a time; stacked ones as one network, then as many as before."""
        import engine

        waiting = deque(waiting)
        while waiting or self.running:
            room, new = self.how["together"], []
            if stacked:
                room = 0 if self.running else even_share(len(waiting), room)
            while waiting and len(self.running) < room:
                if run := self.begin(*waiting.popleft()):
                    new.append(run)
            if new:
                engine.train_as_one([run.training for run in new])
            for run in new:
                run.begin_epoch()
            del new
            for run in list(self.running):
                self.advance(run)
            run = None  # what a finished fold held is free before the next begins

    def close(self):
        """Let other processes have the folds that were not finished."""
        for lock in self.running.values():
            lock.close()


def train_all(jobs, database, heard, folds_total, config):
    """Train the folds that no other process has finished or is training, some at once."""
    import torch

    import engine

    device = engine.choose_device(config.device, local_rank())
    together = min(config.together or (1 if device == "cpu" else 10), len(jobs))
    steps = sum(steps_of(job, heard[RECIPES[job.settings["model"]].front_end]) for job in jobs)
    how = dict(engine=engine.choose_engine(config.engine, device, steps, config.dropout), together=together)
    if how["engine"] == "compiled":
        print(f"{database.name}: compiling takes half a minute a network (ATFNN: and number of folds)", flush=True)
    engine.prepare(device, config.deterministic)

    def network_of_many(waiting):
        """The model of a fold that is trained as one network with others, else None."""
        model = waiting[1].settings["model"]
        return model if engine.is_stacked(model, how["engine"]) else None

    queue = FoldQueue(database, heard, folds_total, how, config.save_every, device, len(jobs))
    with contextlib.closing(queue):
        try:
            for model, part in groupby(enumerate(jobs, 1), network_of_many):
                queue.train(part, stacked=model is not None)
        except RuntimeError as error:
            if torch.OutOfMemoryError not in (type(error), type(error.__context__)):  # the latter while recording
                raise
            raise results.RunError(
                f"{config.runs}: the device has not enough memory; use a smaller --together (now {together})"
            ) from None
    if queue.failed:
        raise results.RunError("; ".join(queue.failed))


def print_summary(config, database):
    """Table of what the command was to train, as far as it is there."""
    cells, notes = [], []
    for model in chosen_models(config):
        for track in chosen_tracks(config):
            seeds = results.parse_seeds(config.seed)
            try:
                found, _ = evaluate.collect(config.runs, config.protocol, seeds, track, database.name, model)
                summary = evaluate.summarize(found.get((database.name, model), {}))
            except results.RunError as error:  # of earlier runs beside these
                notes.append(str(error))
                continue
            if summary:
                cells.append([
                    model, track, tables.ranges(summary.seeds), f"{summary.folds_done}/{summary.folds_total}",
                    tables.percent(summary.war, summary.war_std), tables.percent(summary.uar, summary.uar_std),
                ])  # fmt: skip
                notes += [note for note in summary.notes if note not in notes]
    header = ["model", "track", "seeds", "folds", "WAR", "UAR"]
    print("\n" + tables.as_text(f"{database.name}, leaving one {config.protocol} out", header, cells, notes))
    print(f"tables: {tables_command(config, database)}")


def tables_command(config, database):
    runs = shlex.quote(config.runs)
    return f"python evaluate.py --db {database.name} --protocol {config.protocol} --runs {runs}"


def main(arguments=None):
    config = parse_command_line(arguments)
    with contextlib.redirect_stdout(None if config.quiet else sys.stdout):
        train(config)


def train(config):
    # mistakes in the command are told before anything is read
    check_options(config)
    number, count = share()
    if config.device == "cuda" or config.engine not in ("auto", "eager"):
        import engine

        engine.choose_engine(config.engine, engine.choose_device(config.device, local_rank()))
    database = open_for_training(config)
    folds = protocols.make_folds(database, config.protocol)
    chosen = protocols.select_folds(folds, config.fold)
    counts = ", ".join(f"{label} {amount}" for label, amount in database.counts().items())
    speakers = len(set(database.speakers.tolist()))
    print(f"{database.name}: {len(database.ids)} utterances, {speakers} speakers: {counts}")
    front_ends = {
        RECIPES[model].front_end: front_end_of(model, settings_of(config, model)) for model in chosen_models(config)
    }
    heard = {name: load_features(database, front_end) for name, front_end in front_ends.items()}
    jobs = own_share_first(make_jobs(config, database, chosen, heard), number, count)
    for job in jobs:
        clean(job)
    pending = [job for job in jobs if not is_finished(job)]
    if len(pending) < len(jobs):
        print(f"{database.name}: {len(jobs) - len(pending)} of {len(jobs)} folds are already done")
    results.write_index(config.runs, database)
    if pending:
        shared = f", share {number + 1} of {count} first" if count > 1 else ""
        print(f"{database.name}: {len(pending)} folds to train{shared}", flush=True)
        train_all(pending, database, heard, len(folds), config)
        if left := sum(not is_finished(job) for job in pending):
            print(f"{left} of {len(jobs)} folds were left to other processes")
    if config.fold == protocols.NO_FOLD:
        for job in jobs:
            print(f"predict: python predict.py --run {shlex.quote(str(job.folder))} recording.wav")
    elif pending and left:
        print(f"tables, when they are done: {tables_command(config, database)}")
    else:
        print_summary(config, database)


if __name__ == "__main__":
    with results.plain_errors("train.py"):
        main()
