"""Methods that are fitted at once, without epochs: features of the utterances -> normalise, fit, score, save.

They write the same run folder as networks do, without log.csv, epochs.npz and checkpoint.pt.
"""

import time
from dataclasses import asdict

import numpy as np

import protocols
from common import runs
from common.cli import Progress, format_duration
from comparisons.normalize import normalize
from training import scheduler

CODE_FILES = (  # what the scores of a fitted method depend on, beside its own file
    "features.py", "protocols.py", "common/config.py", "common/vectors.py", "training/fitted.py",
    "comparisons/classifiers.py", "comparisons/descriptors.py", "comparisons/normalize.py",
)  # fmt: skip


def train_fitted(pending, database, features_of, folds_total):
    """Fit the pending jobs that no other process has finished or is fitting, one after the other."""
    for number, job in enumerate(pending, 1):
        with runs.try_lock_fold(job.folder) as locked:
            if locked and not scheduler.is_finished(job):
                progress = Progress(f"[{number}/{len(pending)}] {job.title(folds_total)}")
                fit_fold(job, database, features_of[job.method.name], folds_total, progress)


def fit_fold(job, database, loaded, folds_total, progress):
    """Fit a fold and write its files; RunError where the scores are no distribution over the classes."""
    start, classes, test = time.perf_counter(), len(database.classes), job.fold.test
    (job.folder / runs.DONE_FILE).unlink(missing_ok=True)
    code = runs.code_versions([*CODE_FILES, f"comparisons/{job.method.name.replace('-', '_')}.py"])
    run_config = scheduler.describe(job, database, loaded, folds_total, code=code, engine="numpy", deterministic=True)
    runs.write_json(job.folder / "config.json", asdict(run_config))
    x = inputs_of(loaded)
    try:
        x = normalize(x, job.settings["normalization"], job.train_utterances, database.speakers)
    except ValueError as error:
        raise protocols.UsageError(f"--{error}") from None
    labels = database.labels[job.train_utterances]
    model = job.method.module.fit(select(x, job.train_utterances), labels, classes, job.settings["seed"])
    scores = np.asarray(job.method.module.scores(model, select(x, test)), np.float32)
    if scores.shape != (len(test), classes) or not np.isfinite(scores).all():
        raise runs.RunError(f"{job.folder}: {job.method.name} gives scores of shape {scores.shape}, or not finite")
    runs.write_predictions(job.folder / "predictions.csv", database, test, scores)
    runs.mark_done(job.folder, epoch=0, trained_on=run_config.train_speakers)
    runs.remove_leftovers(job.folder)
    matrix = protocols.confusion(database.labels[test], scores)
    result = f"WAR {100 * protocols.war(matrix):.2f}, UAR {100 * protocols.uar(matrix):.2f}"
    progress.line(f"{result}, {format_duration(time.perf_counter() - start)}")


def inputs_of(loaded):
    """Vectors (n, D) of the utterances where each has one row, else a list of their rows (T_i, D)."""
    if (loaded.counts == 1).all():
        return np.asarray(loaded.segments)
    return np.split(np.asarray(loaded.segments), np.cumsum(loaded.counts)[:-1])


def select(x, utterances):
    """Vectors or lists of rows of some utterances."""
    return x[utterances] if isinstance(x, np.ndarray) else [x[i] for i in utterances]
