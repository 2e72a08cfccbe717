"""A linear classifier on the same folds, as a reference for the networks.

    python benchmarks/linear.py --db casia --root path/to/casia
    python benchmarks/linear.py --db takes.csv --root path/to/casia    # a manifest whose "speakers" are groups of takes

Three numbers for each band: mean and standard deviation of the log-Mel energies, and the standard deviation of
their differences from frame to frame. Ridge regression on the classes' indicators, with a penalty that is fixed and
tuned on nothing. Prints the WAR of each fold, and WAR and UAR pooled over all, in columns:

    utterance    the numbers of an utterance, without its padding, of TFT's front end
    tft, atfnn   those of each segment that these networks get, padding included; an utterance has the mean of their
                 scores
    speaker      as utterance, z-scored by each speaker's own statistics instead of the training fold's: needs all
                 recordings of the speaker that it tests (transductive)

It has no seed.
"""

import platform
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import features
import protocols
from common import cli
from reporting import tables

PENALTY = 30.0  # on the squared weights of z-scored numbers
SCALE_FLOOR = 1e-6  # of a number's standard deviation


def describe(loaded, front_end):
    """Numbers of each utterance, (N, 3 x n_mels), without the frames that padding fills."""
    ends, rows = np.cumsum(loaded.counts), []
    for end, count, seconds in zip(ends, loaded.counts, loaded.seconds):
        segments = loaded.segments[end - count : end]  # (S, n_mels, frames)
        frames = segments.transpose(0, 2, 1).reshape(-1, front_end.n_mels)  # (S * frames, n_mels)
        whole = 1 + (round(seconds * front_end.sample_rate) - front_end.win_length) // front_end.hop_length
        frames = frames[: max(2, whole)].astype(np.float64)  # a difference needs two
        rows.append(np.concatenate([frames.mean(0), frames.std(0), np.diff(frames, axis=0).std(0)]))
    return np.array(rows)


def describe_segments(segments):
    """Numbers of each segment (S, n_mels, frames) as it is, (S, 3 x n_mels)."""
    return np.concatenate([segments.mean(2), segments.std(2), np.diff(segments).std(2)], 1).astype(np.float64)


def z_score(x, reference):
    """Z-score of x (n, D) by mean and standard deviation of `reference` (m, D)."""
    return (x - reference.mean(0)) / (reference.std(0) + SCALE_FLOOR)


def ridge(x, labels, classes):
    """Weights (D + 1, classes): least squares on the classes' indicators; the last row is the unpenalised constant."""
    x = np.column_stack([x, np.ones(len(x))])
    penalties = np.diag([*[PENALTY] * (x.shape[1] - 1), 0.0])
    return np.linalg.solve(x.T @ x + penalties, x.T @ np.eye(classes)[labels])


def confusions(database, x, folds, counts=None):
    """Confusion counts (K, K) of each fold, trained on all other utterances.

    x: numbers of the utterances (N, D), or of their segments (S, D) in the order of the utterances, `counts` (N,).
    """
    counts = np.ones(len(x), int) if counts is None else counts
    utterance_of, matrices = np.repeat(np.arange(len(counts)), counts), []  # (S,)
    for fold in folds:
        train, test = (np.isin(utterance_of, part) for part in (fold.train, fold.test))
        known = x[train]
        weights = ridge(z_score(known, known), database.labels[utterance_of[train]], len(database.classes))
        scores = z_score(x[test], known) @ weights[:-1] + weights[-1]  # of each segment
        scores = protocols.utterance_scores(scores, counts[fold.test])
        matrices.append(protocols.confusion(database.labels[fold.test], scores))
    return matrices


def z_score_by_speaker(database, x):
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
    parser = cli.CommandParser(__doc__)
    parser.add_argument("--db", required=True, help="database, or the path of a manifest")
    parser.add_argument("--root", help="folder of the recordings (default: $SER_DATA/<db>, else data/<db>)")
    parser.add_argument("--protocol", default="speaker", choices=protocols.PROTOCOLS, help="what a fold tests")
    parser.add_argument("--partial", action="store_true", help="accept a database of other counts")
    options = parser.parse_args(arguments)
    from training import data, scheduler  # they import torch

    database = protocols.open_database(options.db, options.root, options.partial)
    folds = protocols.make_folds(database, options.protocol)
    loaded = {name: data.load_features(database, front_end) for name, front_end in features.FRONT_ENDS.items()}
    x = describe(loaded["tft"], features.FRONT_ENDS["tft"])
    columns = {"utterance": confusions(database, x, folds)}
    for name, part in loaded.items():
        columns[name] = confusions(database, describe_segments(part.segments), folds, part.counts)
    notes = [f"WAR of each {options.protocol}, then pooled, in per cent; penalty {PENALTY:g}"]
    if (own := z_score_by_speaker(database, x)) is None:
        notes.append("a speaker has a single utterance: no statistics of the speaker's own")
    else:
        columns["speaker"] = confusions(database, own, folds)
        notes.append("speaker: z-scored by each speaker's own statistics, transductive")
    notes += ["partial database"] if database.partial else []
    notes.append(f"{scheduler.processor_name()}, Python {platform.python_version()}, NumPy {np.__version__}")
    rows = [(fold.name, [protocols.war(parts[i]) for parts in columns.values()]) for i, fold in enumerate(folds)]
    for name, metric in ("all, WAR", protocols.war), ("all, UAR", protocols.uar):
        rows.append((name, [metric(sum(parts)) for parts in columns.values()]))
    cells = [[name, *(tables.percent(100 * value) for value in values)] for name, values in rows]
    title = f"{database.name}: a linear classifier, leaving one {options.protocol} out"
    print(tables.as_text(title, ["fold", *columns], cells, notes))


if __name__ == "__main__":
    with cli.exit_on_error("linear.py", interrupted="it writes nothing"):
        main()
