"""What a linear classifier reaches on the same folds, as a reference for the networks.

    python benchmarks/linear.py --db casia --root path/to/casia
    python benchmarks/linear.py --db takes.csv --root path/to/casia    # a manifest whose "speakers" are groups of takes

Three numbers for each band: mean and standard deviation of the log-Mel energies, and the standard deviation of
their differences from frame to frame. Ridge regression on the classes' indicators, with a penalty that is fixed and
tuned on nothing. Prints the WAR of each fold, and WAR and UAR pooled over all, in columns:

    utterance    the numbers of an utterance, without its padding, of TFT's front end
    tft, atfnn   those of each of the segments that these networks are given, padding included; an utterance has the
                 mean of their scores
    speaker      as utterance, z-scored by each speaker's own statistics instead of the training fold's: needs all
                 recordings of the speaker that it tests (transductive)

It has no seed.
"""

import platform
import sys
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import features
import protocols
import results
import tables
import train

PENALTY = 30.0  # on the squared weights of z-scored numbers
SCALE_FLOOR = 1e-6  # of a number's standard deviation


def describe(heard, front_end):
    """Numbers of each utterance, (N, 3 x bands), without the frames that padding fills."""
    ends, rows = np.cumsum(heard.counts), []
    for end, count, seconds in zip(ends, heard.counts, heard.seconds):
        frames = heard.segments[end - count : end].transpose(0, 2, 1).reshape(-1, front_end.bands)
        whole = 1 + (round(seconds * front_end.rate) - front_end.window) // front_end.shift
        frames = frames[: max(2, whole)].astype(np.float64)  # a difference needs two
        rows.append(np.concatenate([frames.mean(0), frames.std(0), np.diff(frames, axis=0).std(0)]))
    return np.array(rows)


def describe_segments(segments):
    """Numbers of each segment (S, bands, frames) as it is, (S, 3 x bands)."""
    return np.concatenate([segments.mean(2), segments.std(2), np.diff(segments).std(2)], 1).astype(np.float64)


def z_score(x, of):
    """x (n, D) by mean and standard deviation of `of` (m, D)."""
    return (x - of.mean(0)) / (of.std(0) + SCALE_FLOOR)


def ridge(x, labels, classes):
    """Weights (D + 1, classes): least squares on the classes' indicators; the last row is the unpenalised constant."""
    x = np.column_stack([x, np.ones(len(x))])
    penalties = np.diag([*[PENALTY] * (x.shape[1] - 1), 0.0])
    return np.linalg.solve(x.T @ x + penalties, x.T @ np.eye(classes)[labels])


def confusions(database, x, folds, counts=None):
    """Confusion counts (K, K) of each fold, trained on all other utterances.

    x: numbers of the utterances (N, D), or of their segments (S, D), one utterance after the other, `counts` (N,).
    """
    counts = np.ones(len(x), int) if counts is None else counts
    utterance_of, matrices = np.repeat(np.arange(len(counts)), counts), []
    for fold in folds:
        trained, tested = (np.isin(utterance_of, part) for part in (fold.train, fold.test))
        known = x[trained]
        weights = ridge(z_score(known, known), database.labels[utterance_of[trained]], len(database.classes))
        scores = protocols.utterance_scores(z_score(x[tested], known) @ weights[:-1] + weights[-1], counts[fold.test])
        matrices.append(protocols.confusion(database.labels[fold.test], scores))
    return matrices


def by_speaker(database, x):
    """x, z-scored by each speaker's own statistics; None where a speaker has a single utterance."""
    speakers, sizes = np.unique(database.speakers, return_counts=True)
    if sizes.min() < 2:
        return None
    x = x.copy()
    for speaker in speakers:
        own = database.speakers == speaker
        x[own] = z_score(x[own], x[own])
    return x


def main(arguments=None):
    parser = results.OneLineParser(__doc__)
    parser.add_argument("--db", required=True, help="database, or the path of a manifest .csv")
    parser.add_argument("--root", help="folder of the recordings (default: $SER_DATA/<db>, else data/<db>)")
    parser.add_argument("--protocol", default="speaker", choices=protocols.PROTOCOLS, help="what a fold leaves out")
    parser.add_argument("--partial", action="store_true", help="accept a database of other counts")
    options = parser.parse_args(arguments)
    database = protocols.open_database(options.db, options.root, options.partial)
    folds = protocols.make_folds(database, options.protocol)
    heard = {name: train.load_features(database, front_end) for name, front_end in features.FRONT_ENDS.items()}
    x = describe(heard["tft"], features.FRONT_ENDS["tft"])
    columns = {"utterance": confusions(database, x, folds)}
    for name, its in heard.items():
        columns[name] = confusions(database, describe_segments(its.segments), folds, its.counts)
    own = by_speaker(database, x)
    if own is not None:
        columns["speaker"] = confusions(database, own, folds)
    told = [(fold.name, [protocols.war(one[i]) for one in columns.values()]) for i, fold in enumerate(folds)]
    for name, figure in ("all, WAR", protocols.war), ("all, UAR", protocols.uar):
        told.append((name, [figure(sum(matrices)) for matrices in columns.values()]))
    cells = [[name, *(tables.percent(100 * value) for value in values)] for name, values in told]
    notes = [f"WAR of each {options.protocol}, then pooled, in per cent; penalty {PENALTY:g}"]
    notes += [] if own is None else ["speaker: z-scored by each speaker's own statistics, transductive"]
    notes += ["partial database"] if database.partial else []
    notes += ["a speaker has one utterance: no statistics of the speaker's own"] if own is None else []
    notes.append(f"{results.processor()}, Python {platform.python_version()}, NumPy {np.__version__}")
    title = f"{database.name}: a linear classifier, leaving one {options.protocol} out"
    print(tables.as_text(title, ["fold", *columns], cells, notes))


if __name__ == "__main__":
    with results.plain_errors("linear.py", "nothing is lost"):
        main()
