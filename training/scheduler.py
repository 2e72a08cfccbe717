"""Jobs of a command, and who trains them when: shares of processes, locks, engines, folds at once.

    jobs = make_jobs(options, chosen, database, folds, features_of)
    FoldScheduler(options, database, features_of, len(folds), jobs, shares=1).train(pending)

A job is one method x seed x fold x track. Processes that work on the same --runs share the jobs out by locks: each
begins with its own share, then takes what no other has begun. Engines of a step, chosen by `choose_engine`:

    eager     operation by operation; on a CPU, and the reference
    graph     recorded once as a CUDA graph and replayed (fast/graphs.py)
    compiled  the same of what torch.compile makes of the network: fewer kernels, a later start; folds of ATFNN become
              one network (fast/stacked.py)
"""

import contextlib
import math
import os
import platform
import re
from collections import deque
from itertools import groupby, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import models
import protocols
from common import config, methods, runs
from common.cli import Progress
from training import checkpoints, data, trainer

# --------------------------------------------------------------------------------------------- jobs


ANOTHER = "choose another --runs, or remove that folder"


class Job(NamedTuple):
    """One method x seed x fold x track."""

    method: methods.Method
    folder: Path
    fold: protocols.Fold
    train_utterances: np.ndarray  # that the weights are trained on
    val_utterances: np.ndarray  # that the validation track chooses its epoch on, else none
    settings: dict  # all that the scores depend on
    deviations: list  # settings that are not the paper's

    def title(self, folds_total):
        """Name of the job for people."""
        settings = self.settings
        track = " validation" if settings["track"] == "validation" else ""
        fold = f"fold {self.fold.number}/{folds_total} {self.fold.name}" if self.fold.number else "all speakers"
        return f"{settings['model']} seed {settings['seed']}{track} {fold}"


def check_methods(options, chosen, database):
    """Raise an error, before anything is written, where one of the chosen methods cannot be run on a database."""
    for method in chosen:
        settings = config.settings_of(options, method)
        if settings["normalization"] == "speaker":
            data.refuse_single_recordings(database)
        if method.build:
            settings |= dict(front_end=config.front_end_of(method, settings).as_settings(), model=method.name, seed=0)
            device = data.choose_device(options.device, local_rank())
            trainer.check_network(method, settings, len(database.classes), device)
        if method.path:
            refuse_other_versions(method, Path(options.runs) / database.name / method.name / options.protocol)


def refuse_other_versions(method, folder):
    """Raise RunError where a folder holds folds of another version of a user's file."""
    for path in sorted(folder.glob("seed*/fold*")):
        if not (runs.is_done(path) or (path / runs.STATE_FILE).exists()):
            continue
        try:
            version = runs.read_config(path).settings.get("method_sha256")
        except runs.RunError:  # damaged: trained again
            continue
        if version != method.sha256:
            raise runs.RunError(f"{path}: is of another version of {method.path}; {ANOTHER}")


def make_jobs(options, chosen, database, folds, features_of):
    """Jobs of a command for the chosen methods; features_of: name of a method -> Features of the database."""
    jobs = []
    for method in chosen:
        settings = config.settings_of(options, method)
        deviations = config.deviations_of(dict(settings, model=method.name))
        if method.is_fitted:
            settings["features"] = runs.sha256_of(method.vectors)[:16] if method.vectors else method.module.DESCRIPTORS
        else:
            settings["front_end"] = config.front_end_of(method, settings).as_settings()
            settings["eval_every"] = options.eval_every
        settings["utterances"] = database.digest[:16]
        settings["recordings"] = features_of[method.name].digest[:16]
        tracks = config.tracks_of(options, method)
        for seed, fold, track in product(config.seeds_of(options, method), folds, tracks):
            jobs.append(make_job(options, method, database, fold, seed, track, settings, deviations))
    return jobs


def make_job(options, method, database, fold, seed, track, settings, deviations):
    """Job of one seed, fold and track, with the settings that all jobs of the method share."""
    settings = dict(
        settings, model=method.name, protocol=options.protocol, seed=seed, fold=fold.number, fold_name=fold.name,
        track=track,
    )  # fmt: skip
    train, val = fold.train, fold.train[:0]
    if track == "validation":
        train, val = protocols.split_validation_speakers(database, fold, seed)
        settings["held_out"] = sorted(set(database.speakers[val].tolist()))
    folder = runs.fold_folder(options.runs, database.name, method.name, options.protocol, seed, fold.number, track)
    return Job(method, folder, fold, train, val, settings, deviations)


def is_finished(job, database=None):
    """True if the fold is done with these settings; RunError if it would cost work done with others.

    With the database the message can tell another order of the same utterances.
    """
    found = settings_at(job.folder)
    if found is None:
        return False
    names = {"method_sha256": None, **config.OPEN_SETTINGS, **found, **job.settings}  # a changed file comes first
    different = [name for name in names if job.settings.get(name) != found.get(name)]
    done = runs.is_done(job.folder)
    if different and (done or (job.folder / runs.STATE_FILE).exists()):
        raise runs.RunError(
            f"{job.folder}: holds a run with {difference(job, found, different[0], database)}; {ANOTHER}"
        )
    return done


def settings_at(folder):
    """Settings of the run in a fold's folder; None without one, and where its file is damaged: it is trained again."""
    if not (folder / "config.json").exists():
        return None
    try:
        return runs.read_config(folder).settings
    except runs.RunError:
        return None


def difference(job, found, name, database=None):
    """Text for the setting `name`, in that the settings `found` of another run differ from those of a job."""
    descriptions = {
        "recordings": "other recordings",
        "features": "other features",
        "method_sha256": f"another version of {job.method.path}",
    }
    if name in descriptions:
        return descriptions[name]
    if name == "utterances":
        with contextlib.suppress(runs.RunError, AttributeError):
            before = runs.read_index(job.folder.parents[4], database.name, found[name])
            emotions = [database.classes[label] for label in database.labels]
            rows = zip(database.ids, emotions, database.speakers.tolist(), database.sessions.tolist())
            if sorted(map(tuple, rows)) == sorted(
                tuple(row[column] for column in runs.INDEX_COLUMNS) for row in before
            ):
                path = runs.index_path(job.folder.parents[4], database.name, found[name])
                return f"the same utterances in another order (sort the manifest like {path.name} to go on)"
        return "other utterances, labels or speakers"
    default = config.default_of(name, job.method) if name in config.OPEN_SETTINGS else None
    return f"{name} {found.get(name, default)}, not {job.settings.get(name, default)}"


def refuse_mixed_rows(jobs, database=None):
    """Raise RunError if a finished or begun fold next to those of the jobs was trained with other settings.

    A row of a table holds all folds and seeds of a model, so that it would be left out.
    """
    first = {}  # (model, track) -> job; folder 0 is of no table
    for job in jobs:
        if job.fold.number:
            first.setdefault((job.folder.parents[1], job.settings["track"]), job)
    for (protocol_folder, track), job in first.items():
        ending = "-validation" if track == "validation" else ""
        for folder in sorted(protocol_folder.glob(f"seed*/fold*{ending}")):
            is_of_track = folder.name.endswith("-validation") == bool(ending)
            if not is_of_track or not any((folder / name).exists() for name in (runs.DONE_FILE, runs.STATE_FILE)):
                continue
            found = settings_at(folder)
            different = runs.different_settings(found, job.settings) if found else []
            if different:
                raise runs.RunError(
                    f"{folder}: was trained with {difference(job, found, different[0], database)}, and a table "
                    "does not mix them; give the same to all folds and seeds, or choose another --runs"
                )


def clean_up_after_kill(job, database=None):
    """Remove what a process that was killed after it had finished the fold has left."""
    if runs.lock_path(job.folder).exists() or (runs.leftovers(job.folder) and is_finished(job, database)):
        with runs.try_lock_fold(job.folder) as locked:
            if locked and is_finished(job, database):
                runs.remove_leftovers(job.folder)


def make_run_config(job, database, loaded, folds_total, device="cpu", code=runs.CODE_VERSIONS, **machine):
    """RunConfig of a job on a device; `code`: versions of its files, `machine`: engine, folds at once and so on."""
    facts = runs.DatabaseFacts(
        name=database.name,
        language=database.language,
        classes=list(database.classes),
        counts=database.counts(),
        speakers=sorted(set(database.speakers.tolist())),
        utterances=len(database.ids),
        seconds=round(float(loaded.seconds.sum()), 3),
        segments=len(loaded.segments),
        partial=database.partial,
    )
    return runs.RunConfig(
        settings=job.settings,
        deviations=job.deviations,
        method=job.method.facts(),
        folds_total=folds_total,
        database=facts,
        train_speakers=sorted(set(database.speakers[job.train_utterances].tolist())),
        test_speakers=sorted(set(database.speakers[job.fold.test].tolist())),
        test=[database.ids[i] for i in job.fold.test],
        code=code,
        machine=dict(
            device=torch.cuda.get_device_name() if device == "cuda" else processor_name(),
            **machine,
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=str(torch.__version__),
            numpy=np.__version__,
        ),
    )


def processor_name():
    """Name of the processor as Linux has it, elsewhere its architecture."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(errors="replace")
        if name := re.search(r"^model name\s*: *(.+)", text, re.MULTILINE):
            return name[1]
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------- shares of processes


def number_in(environment, name, default):
    """Whole number of an environment variable; UsageError where it is none."""
    try:
        return int(environment.get(name, default))
    except ValueError:
        raise protocols.UsageError(f"{name}={environment[name]}: is no number; unset it") from None


def rank_and_world_size(environment=os.environ):
    """(rank, processes) of this process among those that torchrun or a SLURM job array started; (0, 1) alone."""
    rank, ranks = number_in(environment, "RANK", 0), number_in(environment, "WORLD_SIZE", 1)
    task, tasks = number_in(environment, "SLURM_ARRAY_TASK_ID", 0), number_in(environment, "SLURM_ARRAY_TASK_COUNT", 1)
    step = max(1, number_in(environment, "SLURM_ARRAY_TASK_STEP", 1))
    task = (task - number_in(environment, "SLURM_ARRAY_TASK_MIN", 0)) // step
    count = max(1, ranks) * max(1, tasks)
    return (task * max(1, ranks) + rank) % count, count


def local_rank():
    """Number of this process on its machine, by torchrun."""
    return number_in(os.environ, "LOCAL_RANK", 0)


def own_share_first(jobs, rank, count):
    """Every count-th job from `rank`, then the share of the next process, and so on."""
    return [job for turn in range(count) for job in jobs[(rank + turn) % count :: count]]


# ------------------------------------------------------------------------------------------- engines


def min_steps_to_compile(model, precision, folds):
    """Number of training steps from which half a minute of compiling pays, with `folds` folds at once.

    On an H200 (docs/performance.md) compiling makes a step of TFT 1 ms shorter, and a step of ATFNN 3 to 8 ms. With few
    folds at once ATFNN gains little or nothing: infinity.
    """
    if not is_stacked(model, "compiled"):
        return 30_000
    return 10_000 if folds >= (4 if precision == "bfloat16" else 8) else math.inf


def is_stacked(model, engine):
    """True if folds of a model are trained as one network by an engine."""
    return engine == "compiled" and model in models.MODELS and models.MODELS[model][0] is models.ATFNN


def choose_engine(requested, device, is_long=False, dropout=0.0):
    """Engine of a step; `auto` records steps on a GPU, and compiles them where that is possible and training is long.

    Raises UsageError where the engine that is requested cannot run here.
    """
    if requested in ("graph", "compiled") and device == "cpu":
        raise protocols.UsageError(f"--engine {requested}: needs a GPU; use --engine eager, or drop the option")
    if requested == "eager" or device == "cpu" or (requested == "auto" and dropout):
        return "eager"
    try:
        from fast import graphs
    except ImportError:
        if requested == "auto":
            return "eager"
        raise protocols.UsageError(f"--engine {requested}: needs the folder fast/; use --engine eager") from None
    if requested == "compiled" and not graphs.can_compile():
        raise protocols.UsageError(
            "--engine compiled: torch.compile does not work here, it needs triton, a C compiler and Python's headers; "
            "use --engine graph"
        )
    if requested != "auto":
        return requested
    return "compiled" if is_long and graphs.can_compile() else "graph"


def make_runner(engine, stacked):
    """Runner of an engine (see training/trainer.py)."""
    if engine == "eager":
        return trainer.EagerRunner()
    if stacked:
        from fast.stacked import StackedRunner

        return StackedRunner()
    from fast.graphs import GraphRunner

    return GraphRunner(compiled=engine == "compiled")


def even_share(waiting, at_once):
    """Folds of the next stack: all stacks about equally large, none above `at_once`."""
    return math.ceil(waiting / math.ceil(waiting / at_once))


# ----------------------------------------------------------------------------------------- scheduler


class FoldScheduler:
    """Trains the jobs of a command that no other process has finished or is training, some at once.

    What it chooses depends on this process's share of all jobs, so that it is the same where a command is repeated.
    """

    def __init__(self, options, database, features_of, folds_total, jobs, shares):
        self.options, self.database, self.features_of, self.folds_total = options, database, features_of, folds_total
        self.device = data.choose_device(options.device, local_rank())
        self.form = trainer.default_form(self.device, options.precision)
        share = math.ceil(len(jobs) / shares)
        self.folds_at_once = min(options.folds_at_once or (1 if self.device == "cpu" else 10), share)
        self.engines = {
            model: self.engine_of([job for job in jobs if job.settings["model"] == model], shares)
            for model in dict.fromkeys(job.settings["model"] for job in jobs)
        }
        self.loaded = {}  # number of a Features -> its Data on the device
        self.active = {}  # FoldRun in training -> its lock
        self.failures = []  # messages of the folds that diverged

    def engine_of(self, jobs, shares):
        """Engine of the jobs of one model."""
        settings = jobs[0].settings
        counts = self.features_of[settings["model"]].counts
        steps = sum(
            settings["epochs"] * (int(counts[job.train_utterances].sum()) // settings["batch_size"]) for job in jobs
        )
        folds = even_share(math.ceil(len(jobs) / shares), self.folds_at_once)
        least = min_steps_to_compile(settings["model"], settings["precision"], folds)
        is_long = steps / min(shares, len(jobs)) >= least
        requested = self.options.engine
        if requested == "auto" and not jobs[0].method.is_of_papers:
            requested = "eager"  # whether a step of a user's network can be recorded is for the user to find out
        return choose_engine(requested, self.device, is_long, self.options.dropout)

    def train(self, pending):
        """Train the pending jobs; RunError at the end if the memory was short or a fold diverged."""
        trainer.prepare(self.device, self.options.deterministic)
        if "compiled" in self.engines.values():
            print(f"{self.database.name}: compiling takes half a minute a network", flush=True)

        def runner_key(numbered):
            model = numbered[1].settings["model"]
            engine = self.engines[model]
            return engine, model if is_stacked(model, engine) else None

        try:
            for (engine, stacked), part in groupby(enumerate(pending, 1), runner_key):
                self.train_part(deque(part), make_runner(engine, stacked), stacked, len(pending))
        except (torch.OutOfMemoryError, MemoryError):
            remedy = f"--folds-at-once (now {self.folds_at_once})" if self.folds_at_once > 1 else "--batch-size"
            raise runs.RunError(
                f"{self.options.runs}: the device has not enough memory; use a smaller {remedy}"
            ) from None
        finally:
            for lock in self.active.values():  # other processes can have the folds that were not finished
                lock.close()
        if self.failures:
            raise runs.RunError("; ".join(self.failures))

    def train_part(self, waiting, runner, stacked, total):
        """Train (number, job) that wait by one runner; stacked folds end before the next stack begins."""
        while waiting or self.active:
            room = self.folds_at_once
            if stacked:
                room = 0 if self.active else even_share(len(waiting), room)
            while waiting and len(self.active) < room:
                self.start(*waiting.popleft(), total)
            if not self.active:
                continue
            run_of = {run.trainer: run for run in self.active}
            path = next(iter(self.active)).job.method.path  # a user's network is the only model of its command
            with methods.errors_of(path, torch.OutOfMemoryError, remedy="fix the file, or try another --batch-size"):
                losses = runner.run_epoch(list(run_of), lambda trainer, step: run_of[trainer].report_step(step))
            for trained, run in run_of.items():
                self.end_epoch(run, losses[trained])
            del run_of, run, trained  # a finished fold's memory is free before the next fold starts

    def start(self, number, job, total):
        """Begin or resume a fold, if no other process has it."""
        with contextlib.ExitStack() as lock:
            locked = lock.enter_context(runs.try_lock_fold(job.folder))
            if not locked or is_finished(job, self.database):  # by another process, meanwhile
                return
            data_of_job, engine = self.data_of(job), self.engines[job.settings["model"]]
            machine = dict(
                engine=engine, folds_at_once=self.folds_at_once,
                deterministic=self.device == "cpu" or self.options.deterministic,
            )  # fmt: skip
            code = runs.CODE_VERSIONS | runs.code_versions(job.method.code_files())
            run_config = make_run_config(
                job, self.database, data_of_job.features, self.folds_total, self.device, code, **machine
            )
            fold_trainer = trainer.FoldTrainer(
                data_of_job, job.settings, job.train_utterances, self.form, job.method
            )
            progress = Progress(f"[{number}/{total}] {job.title(self.folds_total)}")
            run = checkpoints.FoldRun(job, fold_trainer, run_config, self.options.save_every, progress)
            self.active[run] = lock.pop_all()

    def data_of(self, job):
        """Data of a job on the device, loaded once for each front end."""
        loaded = self.features_of[job.settings["model"]]
        if id(loaded) not in self.loaded:  # methods with the same front end share it
            self.loaded[id(loaded)] = data.to_device(self.database, loaded, self.device)
        return self.loaded[id(loaded)]

    def end_epoch(self, run, losses):
        """Record an epoch of a fold; a fold that is trained or has diverged ends."""
        try:
            run.end_epoch(losses)
        except runs.RunError as error:  # the other folds go on
            self.failures.append(str(error))
            run.progress.line(f"stopped: {error}")  # now, as the others may take long
            self.active.pop(run).close()
            return
        if run.is_trained:
            run.finish()
            self.active.pop(run).close()
