"""What a linear classifier reaches, under the same folds: how far apart speakers are, before any network.

    python benchmarks/linear.py --db casia --root path/to/casia
    python benchmarks/linear.py --db takes.csv --root path/to/casia    # a manifest with groups of takes as its "speakers"

Each utterance becomes 3 numbers a band: mean and standard deviation of its log-Mel energies, and the standard
deviation of their differences from frame to frame. Ridge regression on the classes' indicators, with a penalty that
is fixed and tuned on nothing. Prints WAR of each fold, and WAR and UAR pooled over all, with the numbers z-scored by
the training fold, and by each speaker's own statistics (transductive). It takes seconds and has no seed.
"""

import platform
import sys
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import evaluate
import features
import protocols
import results

PENALTY = 30.0  # on the squared weights of z-scored numbers
SCALE_FLOOR = 1e-6  # of a number's standard deviation


def describe(heard, front_end):
    """Numbers of each utterance, (N, 3 bands), from the frames that its recording fills."""
    ends, rows = np.cumsum(heard.counts), []
    for end, count, seconds in zip(ends, heard.counts, heard.seconds):
        frames = heard.segments[end - count : end].transpose(0, 2, 1).reshape(-1, front_end.bands)
        whole = 1 + (round(seconds * front_end.rate) - front_end.window) // front_end.shift
        frames = frames[: max(2, whole)].astype(np.float64)
        rows.append(np.concatenate([frames.mean(0), frames.std(0), np.diff(frames, axis=0).std(0)]))
    return np.array(rows)


def z_score(x, of):
    """x (n, D) by mean and standard deviation of `of` (m, D)."""
    return (x - of.mean(0)) / (of.std(0) + SCALE_FLOOR)


def ridge(x, labels, classes, penalty=PENALTY):
    """Weights (D + 1, classes) of least squares on the classes' indicators; the last row is the constant."""
    x = np.column_stack([x, np.ones(len(x))])
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ np.eye(classes)[labels])


def confusions(database, x, folds):
    """Confusion counts (K, K) of each fold, trained on all other utterances."""
    classes, matrices = len(database.classes), []
    for fold in folds:
        train = np.setdiff1d(np.arange(len(x)), fold.test)
        weights = ridge(z_score(x[train], x[train]), database.labels[train], classes)
        scores = z_score(x[fold.test], x[train]) @ weights[:-1] + weights[-1]
        matrices.append(protocols.confusion(database.labels[fold.test], scores))
    return matrices


def main(arguments=None):
    parser = results.OneLineParser(__doc__)
    parser.add_argument("--db", required=True, help="database, or the path of a manifest .csv")
    parser.add_argument("--root", help="folder of the recordings (default: as train.py's)")
    parser.add_argument("--protocol", default="speaker", choices=protocols.PROTOCOLS, help="what a fold leaves out")
    parser.add_argument("--partial", action="store_true", help="accept a database of other counts")
    options = parser.parse_args(arguments)
    database = protocols.open_database(options.db, options.root, options.partial)
    folds = protocols.make_folds(database, options.protocol)
    front_end = features.FRONT_ENDS["tft"]
    heard = features.load(database.root, database.paths, front_end)
    protocols.refuse_shared_recordings(database, heard.recordings)
    x = describe(heard, front_end)
    by_speaker = x.copy()
    for speaker in set(database.speakers.tolist()):
        own = database.speakers == speaker
        by_speaker[own] = z_score(x[own], x[own])
    cells = []
    for name, numbers in {"training fold": x, "speaker (transductive)": by_speaker}.items():
        matrices = confusions(database, numbers, folds)
        wars = [evaluate.percent(100 * protocols.war(matrix)) for matrix in matrices]
        total = sum(matrices)
        cells.append(
            [name, evaluate.percent(100 * protocols.war(total)), evaluate.percent(100 * protocols.uar(total)), *wars]
        )
    title = f"{database.name}: a linear classifier, leaving one {options.protocol} out"
    notes = [f"WAR and UAR in per cent, pooled over the folds, then the WAR of each fold; ridge penalty {PENALTY:g}"]
    notes += ["partial database"] if database.partial else []
    notes.append(f"{results.processor()}, Python {platform.python_version()}, NumPy {np.__version__}")
    print(evaluate.as_text(title, ["z-score", "WAR", "UAR", *(fold.name for fold in folds)], cells, notes))


if __name__ == "__main__":
    with results.plain_errors("linear.py", "nothing is left behind"):
        main()
