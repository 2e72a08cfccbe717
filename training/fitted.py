"""Methods that are fitted at once, without epochs: features of the utterances -> normalise, fit, score, save.

They write the same run folder as networks do, without log.csv, epochs.npz and checkpoint.pt, and only once a fold is
fitted.
"""

import time
from dataclasses import asdict

import numpy as np

import protocols
from common import methods, runs
from common.cli import Progress, format_duration
from comparisons.normalize import normalize
from training import scheduler

CODE_FILES = (  # what the scores of a fitted method depend on, and its own file
    "features.py", "protocols.py", "common/audio.py", "common/config.py", "common/containers.py", "common/manifests.py",
    "common/vectors.py", "training/fitted.py",
    "comparisons/classifiers.py", "comparisons/descriptors.py", "comparisons/normalize.py",
)  # fmt: skip


def train_fitted(pending, database, features_of, folds_total):
    """Fit the pending jobs that no other process has finished or is fitting, one after the other."""
    for number, job in enumerate(pending, 1):
        with runs.try_lock_fold(job.folder) as locked:
            if locked and not scheduler.is_finished(job, database):
                progress = Progress(f"[{number}/{len(pending)}] {job.title(folds_total)}")
                fit_fold(job, database, features_of[job.method.name], folds_total, progress)


def fit_fold(job, database, loaded, folds_total, progress):
    """Fit a fold, then write its files."""
    start, test, folder = time.perf_counter(), job.fold.test, job.folder
    code = runs.code_versions([*CODE_FILES, *job.method.code_files()])
    run_config = scheduler.make_run_config(
        job, database, loaded, folds_total, "cpu", code, engine="numpy", deterministic=True
    )
    x = normalize(inputs_of(job.method, loaded), job.settings["normalization"], job.train_utterances, database.speakers)
    train, labels = select(x, job.train_utterances), database.labels[job.train_utterances]
    fitted = methods.fit(job.method, train, labels, job.settings["seed"])
    scores = methods.score(job.method, fitted, select(x, test), len(database.classes))
    (folder / runs.DONE_FILE).unlink(missing_ok=True)
    runs.write_json(folder / "config.json", asdict(run_config))
    runs.write_predictions(folder / "predictions.csv", database, test, scores)
    if job.method.source:
        with runs.atomic_write(folder / runs.METHOD_FILE) as file:
            file.write(job.method.source)
    runs.mark_done(folder, epoch=0, trained_on=run_config.train_speakers)
    runs.remove_leftovers(folder)
    matrix = protocols.confusion(database.labels[test], scores)
    result = f"WAR {100 * protocols.war(matrix):.2f}, UAR {100 * protocols.uar(matrix):.2f}"
    progress.line(f"{result}, {format_duration(time.perf_counter() - start)}")


def inputs_of(method, loaded):
    """Vectors (n, D) of the utterances, or of a method on frames a list of their rows (T_i, D)."""
    if method.uses_vectors:
        return np.asarray(loaded.segments)
    return np.split(np.asarray(loaded.segments), np.cumsum(loaded.counts)[:-1])


def select(x, utterances):
    """Vectors or lists of rows of some utterances."""
    return x[utterances] if isinstance(x, np.ndarray) else [x[i] for i in utterances]
