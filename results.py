"""The results folder: where a run lies, how it is written and read again; and how commands report mistakes.

    runs/<database>/<model>/<protocol>/seed<k>/fold<n>/
        config.json        what was run: settings, database, code, machine
        log.csv            epoch, mean training loss, seconds
        predictions.csv    utterance, speaker, true emotion, one column of scores per class
        epochs.npz         test scores at every `eval_every` epochs, for the learning curve only
        checkpoint.pt      weights, normalisation, classes
        done.json          the marker of completion, written last: SHA-256 of the files above

`train.py` writes it; `evaluate.py` reads it. This file does not import torch.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from features import AudioError
from protocols import DatabaseError, UsageError

EXIT_USAGE, EXIT_DATA, EXIT_INTERRUPTED = 2, 3, 130  # the command must change; the data must; Ctrl-C
MARKER = "done.json"


class RunError(ValueError):
    """A run that cannot be read or continued; the message names the folder or file and the remedy."""


@contextmanager
def plain_errors(program):
    """Turn every foreseeable mistake into one line on standard error and an exit code."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe went away: `python evaluate.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        _fail(program, "interrupted; finished folds are kept, repeat the command to go on", EXIT_INTERRUPTED)
    except (AudioError, DatabaseError) as error:
        _fail(program, error, EXIT_DATA)
    except (UsageError, RunError) as error:
        _fail(program, error, EXIT_USAGE)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(program, f"{place}{error.strerror or error}; check that the folder can be written and has room", EXIT_USAGE)


def _fail(program, message, code):
    sys.stdout.flush()
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(code)


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line instead of the whole usage."""

    def __init__(self, doc):
        summary, _, rest = doc.partition("\n")
        super().__init__(
            description=summary, epilog=rest, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message):
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


def parse_seeds(text):
    """`3` or `0-4` as a list of seeds."""
    found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise UsageError(f"--seed {text}: give a number such as 0, or a range such as 0-4")
    return list(range(first, last + 1))


# ------------------------------------------------------------------------------------------- writing


@contextmanager
def replacing(path):
    """Open `path` for binary writing, beside its place; it appears whole, or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path, text):
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_predictions(path, database, utterances, scores):
    """Scores (n, K) of the utterances (n,) as CSV; nine digits give each float32 back exactly."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["utterance", "speaker", "emotion", *database.classes])
    for i, row in zip(utterances, scores):
        emotion = database.classes[database.labels[i]]
        rows.writerow([database.ids[i], database.speakers[i], emotion, *(f"{score:.9g}" for score in row)])
    write_text(path, text.getvalue())


def mark_done(folder):
    """Write the marker of completion over all files of a fold."""
    files = sorted(path for path in folder.iterdir() if path.name != MARKER and not path.name.startswith("."))
    write_json(folder / MARKER, {path.name: _sha256(path) for path in files})


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ------------------------------------------------------------------------------------------- reading


class FoldResult(NamedTuple):
    """A finished fold as it lies on disk."""

    folder: Path
    config: dict
    ids: list  # (n,) utterances
    labels: np.ndarray  # (n,)
    scores: np.ndarray  # (n, K) float32


def fold_folder(runs, database, model, protocol, seed, number):
    return Path(runs) / database / model / protocol / f"seed{seed}" / f"fold{number}"


def is_done(folder):
    """A fold is done when its marker is there and each file is what the marker says."""
    try:
        files = json.loads((folder / MARKER).read_text())
        return bool(files) and all(_sha256(folder / name) == digest for name, digest in files.items())
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError, OSError):
        return False


def read_config(folder):
    path = folder / "config.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise RunError(f"{path}: is missing or damaged; remove the folder and repeat the training command") from None


def read_fold(folder):
    """Configuration and predictions of a finished fold."""
    config = read_config(folder)
    path = folder / "predictions.csv"
    try:
        classes = config["database"]["classes"]
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if header[3:] != classes:
            raise ValueError("other classes")
        ids = [row[0] for row in rows]
        labels = np.array([classes.index(row[2]) for row in rows])
        scores = np.array([row[3:] for row in rows], dtype=np.float32)
        if scores.shape != (len(config["test"]), len(classes)) or ids != config["test"]:
            raise ValueError("other utterances")
        if not np.isfinite(scores).all():
            raise ValueError("scores that are not finite")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(f"{path}: is missing or damaged ({error}); remove its folder and repeat the training command") from None
    return FoldResult(folder, config, ids, labels, scores)


def find_folds(runs):
    """Folders of folds below `runs`, as (database, model, protocol, seed, number, folder), in sorted order."""
    found = []
    for path in Path(runs).glob("*/*/*/seed*/fold*"):
        database, model, protocol, seed, fold = path.parts[-5:]
        if re.fullmatch(r"seed\d+", seed) and re.fullmatch(r"fold\d+", fold):
            found.append((database, model, protocol, int(seed[4:]), int(fold[4:]), path))
    return sorted(found)
