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

import contextlib
import io
import math
import os
import platform
import shlex
import sys
import time
from collections import deque
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

import evaluate
import features
import protocols
import recipes
import results
import tables

# engine.py imports torch, which takes a second, so the functions that use them import them: --help answers at once

# what scores depend on
CODE = ("features.py", "protocols.py", "models.py", "engine.py", "stack.py", "recipes.py", "train.py", "results.py")
VERSIONS = results.code_versions(*CODE)  # of what is imported: a long training may outlive it on disk

# ----------------------------------------------------------------------------------------------- data


def load_features(database, front_end):
    """Features of a database through a FrontEnd, with word of the progress."""
    show = results.Progress(f"{database.name}: reading {len(database.ids)} recordings")
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


def chosen_tracks(config):
    return list(results.TRAINED) if config.track == "all" else [config.track]


def make_jobs(config, database, folds, heard):
    """One job for each model, seed and fold of the command line; `heard` holds the features by front end."""
    jobs, digest = [], database.digest[:16]
    for model in recipes.chosen_models(config):
        settings = recipes.settings_of(config, model)
        deviations = recipes.deviations_of(dict(settings, model=model))
        for seed in results.parse_seeds(config.seed):
            for fold in folds:
                told = dict(
                    model=model, protocol=config.protocol, seed=seed, fold=fold.number, fold_name=fold.name, **settings,
                    front_end=recipes.front_end_of(model, settings).as_settings(), utterances=digest,
                    recordings=heard[recipes.RECIPES[model].front_end].digest[:16], eval_every=config.eval_every,
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
        other = [
            name for name in {**recipes.OPEN, **found, **job.settings} if job.settings.get(name) != found.get(name)
        ]
    except (results.RunError, KeyError, AttributeError, TypeError):
        return False  # cut short or damaged: trained again
    done = results.is_done(job.folder)
    if other and (done or (job.folder / results.STATE).exists()):
        name = other[0]
        absent = recipes.default_of(name, job.settings["model"]) if name in recipes.OPEN else None
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
    """What config.json holds: enough to check the fold without the recordings. `how`: engine, folds at once, ..."""
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

    Epochs come in parts, so that other folds can compute in between: `begin_epoch` and `queue`, then `end_epoch`.
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
        self.training.begin_epoch()
        self.queue()

    def queue(self):
        """Queue steps of the epoch that are left; False if there are none."""

        def report(step, steps):
            if self.training.epoch == 0:  # later epochs tell their pace
                self.show.running(f"epoch 1/{self.job.settings['epochs']}  step {step}/{steps}")

        return self.training.queue(report)

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
            f"epoch {epoch}/{epochs}, {results.duration(pace * (epochs - epoch))} left, loss {loss:.4f}, "
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
        except results.DAMAGED as error:
            if isinstance(error, torch.AcceleratorError) or is_out_of_memory(error):  # the device's fault
                raise
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
            f"{results.duration(time.perf_counter() - self.begun)}"
        )


# ----------------------------------------------------------------------------------------- the command


def told_number(environment, name, default):
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise protocols.UsageError(f"{name}={environment[name]}: is no number; unset it") from None


def share(environment=os.environ):
    """(number, count) of this process among those that torchrun or a SLURM job array started; (0, 1) alone."""
    told = partial(told_number, environment)
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
    return told_number(os.environ, "LOCAL_RANK", 0)


def steps_of(job, heard):
    """Steps of a job on whole batches, which alone are compiled."""
    return job.settings["epochs"] * (int(heard.counts[job.fit].sum()) // job.settings["batch_size"])


def even_share(waiting, together):
    """Folds of the next stack: all stacks about equally large, none above `together`."""
    return math.ceil(waiting / math.ceil(waiting / together))


class FoldQueue:
    """The folds of one command that wait and that are in training."""

    def __init__(self, database, heard, folds_total, how, together, save_every, device, jobs_total):
        self.database, self.heard, self.folds_total = database, heard, folds_total
        self.how, self.together = how, together  # model -> what `describe` tells; folds at once
        self.save_every, self.device, self.jobs_total = save_every, device, jobs_total
        self.loaded = {}  # front end -> data on the device
        self.running = {}  # fold in training -> its lock
        self.failed = []  # messages of the folds that ended in an error

    def begin(self, number, job):
        """The fold in training, or None where another process has it."""
        with contextlib.ExitStack() as lock:
            mine = lock.enter_context(results.claim(job.folder))
            if not mine or is_finished(job):  # by another process, meanwhile
                return None
            show = results.Progress(f"[{number}/{self.jobs_total}] {title(job, self.folds_total)}")
            how = self.how[job.settings["model"]]
            run = FoldRun(job, self.data_of(job), self.folds_total, how, self.save_every, show)
            self.running[run] = lock.pop_all()
            return run

    def data_of(self, job):
        import engine

        front_end = recipes.RECIPES[job.settings["model"]].front_end
        if front_end not in self.loaded:
            self.loaded[front_end] = engine.to_device(self.database, self.heard[front_end], self.device)
        return self.loaded[front_end]

    def advance(self, run):
        """Collect the epoch that was queued, and begin the next."""
        try:
            run.end_epoch()
        except results.RunError as error:  # the other folds go on
            self.failed.append(str(error))
            run.show.line(f"stopped: {error}")  # now, as nobody knows how the others end
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
        """Train (number, job) that wait, some at a time; stacked ones as one network, the next when all have ended."""
        import engine

        waiting = deque(waiting)
        while waiting or self.running:
            room, new = self.together, []
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
            engine.take_turns(self.running)
            for run in list(self.running):
                self.advance(run)
            run = None  # what a finished fold held is free before the next begins

    def close(self):
        """Let other processes have the folds that were not finished."""
        for lock in self.running.values():
            lock.close()


def is_out_of_memory(error):
    """Is that torch's, also where it comes as another kind of error, or other errors followed, as in a recording?

    A convolution that finds no room for its workspace says that it found no engine.
    """
    import torch

    told = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "unable to find an engine")
    while error:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in told):
            return True
        error = error.__context__
    return False


def train_all(jobs, pending, shares, database, heard, folds_total, config):
    """Train the `pending` ones of all jobs that no other process has finished or is training, some at once.

    What is chosen here goes by this process's share of all, so that it is the same where a command is repeated.
    """
    import engine

    device = engine.choose_device(config.device, local_rank())
    together = min(config.together or (1 if device == "cpu" else 10), math.ceil(len(jobs) / shares))
    how = {}
    for model in dict.fromkeys(job.settings["model"] for job in pending):
        own = [job for job in jobs if job.settings["model"] == model]
        steps = sum(steps_of(job, heard[recipes.RECIPES[model].front_end]) for job in own) / min(shares, len(own))
        folds = even_share(math.ceil(len(own) / shares), together)
        worth = steps >= engine.repaid_from(model, config.precision, folds)
        kind = engine.choose_engine(config.engine, device, worth, config.dropout)
        how[model] = dict(engine=kind, together=together, deterministic=device == "cpu" or config.deterministic)
    if any(told["engine"] == "compiled" for told in how.values()):
        print(f"{database.name}: compiling takes half a minute a network (ATFNN: and number of folds)", flush=True)
    engine.prepare(device, config.deterministic)

    def network_of_many(waiting):
        """The model of a fold that is trained as one network with others, else None."""
        model = waiting[1].settings["model"]
        return model if engine.is_stacked(model, how[model]["engine"]) else None

    queue = FoldQueue(database, heard, folds_total, how, together, config.save_every, device, len(pending))
    with contextlib.closing(queue):
        try:
            for model, part in groupby(enumerate(pending, 1), network_of_many):
                queue.train(part, stacked=model is not None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            remedy = f"--together (now {together})" if together > 1 else "--batch-size"
            raise results.RunError(f"{config.runs}: the device has not enough memory; use a smaller {remedy}") from None
    if queue.failed:
        raise results.RunError("; ".join(queue.failed))


def print_summary(config, database):
    """Table of what the command was to train, as far as it is there."""
    cells, notes = [], []
    for model in recipes.chosen_models(config):
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
    config = recipes.parse_command_line(arguments, __doc__)
    with contextlib.redirect_stdout(None if config.quiet else sys.stdout):
        train(config)


def train(config):
    # mistakes in the command are told before anything is read
    recipes.check_options(config)
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
    front_ends = {}
    for model in recipes.chosen_models(config):
        front_end = recipes.front_end_of(model, recipes.settings_of(config, model))
        front_ends[recipes.RECIPES[model].front_end] = front_end
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
        train_all(jobs, pending, count, database, heard, len(folds), config)
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
