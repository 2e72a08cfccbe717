"""The results folder: where a run lies, how it is written and read again; and how commands report mistakes.

    runs/<database>/utterances-<digest>.csv              utterance, emotion, speaker, session
    runs/<database>/<model>/<protocol>/seed<k>/fold<n>/  (of the validation track: fold<n>-validation/)
        config.json        what was run: settings, database, code, machine
        log.csv            epoch, mean training loss, seconds
        predictions.csv    utterance, speaker, true emotion, one column of scores per class
        epochs.npz         scores at every `eval_every` epochs, for the tracks validation and oracle
        checkpoint.pt      weights, normalisation, classes, settings, code
        done.json          the marker of completion, written last: epoch, SHA-256 of the files above
        .state.pt          while a fold is in training: what it needs to go on
    runs/<database>/<model>/<protocol>/seed<k>/all/      of --fold none: the same files, with no predictions; no table
                                                         or audit counts it, predict.py uses it

`train.py` writes it; `evaluate.py` reads it. Names that begin with a dot are temporary: the process that holds a
fold's lock removes what a killed one left. torch is imported only where a checkpoint is read.
"""

import argparse
import csv
import fcntl
import hashlib
import io
import json
import os
import re
import socket
import sys
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from features import AudioError
from protocols import DatabaseError, UsageError, confusion, uar, war

EXIT_USAGE, EXIT_DATA, EXIT_INTERRUPTED = 2, 3, 130  # the command must change; the data must; Ctrl-C
MARKER, STATE = "done.json", ".state.pt"
SEALED = {"config.json", "log.csv", "predictions.csv", "epochs.npz", "checkpoint.pt"}  # by the marker


MOST_SEEDS = 1_000  # of one command


class RunError(ValueError):
    """A run that cannot be read or continued; the message names the folder or file and the remedy."""


DAMAGED = (RuntimeError, ValueError, KeyError, TypeError, AttributeError)  # what contents of the wrong kind end in


@contextmanager
def plain_errors(program, interrupted="finished folds are kept, repeat the command to go on"):
    """Turn every foreseeable mistake into one line on standard error and an exit code; `interrupted` tells what
    Ctrl-C leaves."""
    try:
        yield
        _flush()
    except BrokenPipeError:  # the reader of a pipe went away: `python evaluate.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        _fail(program, f"interrupted; {interrupted}", EXIT_INTERRUPTED)
    except (AudioError, DatabaseError) as error:
        _fail(program, error, EXIT_DATA)
    except (UsageError, RunError) as error:
        _fail(program, error, EXIT_USAGE)
    except OSError as error:
        place = error.filename or "--runs, the cache or the output"
        _fail(program, f"{place}: {error.strerror or error}; check that it can be written and has room", EXIT_USAGE)


def _fail(program, message, code):
    with suppress(OSError):  # of a full disk, that is told below
        _flush()
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(code)


def _flush():
    if sys.stdout:  # None where the command was started without one
        sys.stdout.flush()


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
    found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if not first <= last < first + MOST_SEEDS:
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


def write_sealed(path, content):
    """Bytes behind their SHA-256, for a file that stands under no marker."""
    with replacing(path) as file:
        file.write(hashlib.sha256(content).digest() + content)


def read_sealed(path):
    """The bytes; ValueError if they are not what was written."""
    with open(path, "rb") as file:
        seal, content = file.read(32), file.read()
    if hashlib.sha256(content).digest() != seal:
        raise ValueError(f"{path}: is damaged")
    return content


def write_predictions(path, database, utterances, scores):
    """Scores (n, K) of the utterances (n,) as CSV; nine digits give each float32 back exactly."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["utterance", "speaker", "emotion", *database.classes])
    for i, row in zip(utterances, scores):
        emotion = database.classes[database.labels[i]]
        rows.writerow([database.ids[i], database.speakers[i], emotion, *(f"{score:.9g}" for score in row)])
    write_text(path, text.getvalue())


def write_index(runs, database):
    """The utterances of a database, once for all its runs; its digest is part of every run's settings."""
    path = index_path(runs, database.name, database.digest[:16])
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["utterance", "emotion", "speaker", "session"])
    for name, label, speaker, session in zip(database.ids, database.labels, database.speakers, database.sessions):
        rows.writerow([name, database.classes[label], speaker, session])
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():  # missing, or damaged
        write_text(path, text.getvalue())


def mark_done(folder, **told):
    """Write the marker of completion over all files of a fold, with what else it tells."""
    files = {name: _sha256(folder / name) for name in sorted(SEALED)}
    write_json(folder / MARKER, dict(told, files=files))


def code_versions(*names):
    """File of this project -> what its content is known by in config.json and checkpoint.pt."""
    return {name: _sha256(Path(__file__).with_name(name))[:16] for name in names}


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------- many processes


@contextmanager
def claim(folder):
    """Hold a fold for this process: gives True, or False where another process holds it.

    The kernel gives the lock up when its process ends, however it ends, so a lock is never stale.
    """
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = open(path, "a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            yield False
            return
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        file.close()  # its former holder removed it in between: take a new one
    try:
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")  # for people
        file.flush()
        yield True
    finally:
        path.unlink(missing_ok=True)
        file.close()


def leftovers(folder):
    """Temporary files of a killed process, and the saved state, which is one once the fold is done."""
    return [path for path in (folder / STATE, *folder.glob(".*.tmp")) if path.is_file()]


def remove_leftovers(folder, keep=()):
    """For the holder of the fold's lock."""
    for path in leftovers(folder):
        if path.name not in keep:
            path.unlink()


# ------------------------------------------------------------------------------------------- reading


class FoldResult(NamedTuple):
    """A finished fold as it lies on disk."""

    folder: Path
    config: dict
    ids: list  # (n,) utterances
    speakers: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    scores: np.ndarray  # (n, K) float32


FOLD_SETTINGS = ("seed", "fold", "fold_name", "held_out")  # in these alone the folds of a row may differ
TRACKS = ("last", "validation", "oracle")  # last epoch; chosen on held-out speakers; best on the test speakers


def fold_folder(runs, database, model, protocol, seed, number, track="last"):
    name = f"fold{number}-validation" if track == "validation" else f"fold{number}" if number else "all"
    return Path(runs) / database / model / protocol / f"seed{seed}" / name


def index_path(runs, database, digest):
    return Path(runs) / database / f"utterances-{digest}.csv"


def read_marker(folder):
    """The marker of completion, or None where there is none or the files are not what it says."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        sound = all(_sha256(folder / name) == digest for name, digest in marker["files"].items())
        return marker if sound and SEALED <= set(marker["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_done(folder):
    """A fold is done when its marker is there and each file is what the marker says."""
    return read_marker(folder) is not None


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
        if config["folds_total"] < 2 or not {"deviations", "code"} <= set(config):
            raise ValueError("a configuration that lacks something")
        ids = [row[0] for row in rows]
        speakers = np.array([row[1] for row in rows])
        labels = np.array([classes.index(row[2]) for row in rows])
        scores = np.array([row[3:] for row in rows], dtype=np.float32)
        if scores.shape != (len(config["test"]), len(classes)) or ids != config["test"]:
            raise ValueError("other utterances")
        if not np.isfinite(scores).all():
            raise ValueError("scores that are not finite")
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(
            f"{path}: is missing or damaged ({error}); remove its folder and repeat the training command"
        ) from None
    return FoldResult(folder, config, ids, speakers, labels, scores)


def read_epochs(folder):
    """Scores by epoch as saved in epochs.npz: epochs (E,), scores (E, n, K), and for the validation track
    validation (E, m, K) and validation_labels (m,)."""
    path = folder / "epochs.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path}: is missing or damaged ({error}); remove its folder and repeat the training command"
        ) from None


def read_checkpoint(path):
    """A checkpoint as train.py saved it, tensors on the CPU; a file that is anything else is refused unread."""
    import pickle

    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle protocol that torch does not write
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise ValueError("no dictionary")
    except (*DAMAGED, OSError, EOFError, pickle.UnpicklingError):
        raise RunError(
            f"{path}: is missing, damaged, or holds more than weights and settings; remove its folder and repeat the training command"
        ) from None
    return checkpoint


def best_epoch(labels, scores):
    """Index of the epoch with the highest UAR, then WAR, then the earliest: scores (E, n, K) -> int."""
    matrices = [confusion(labels, one) for one in scores]
    return max(range(len(scores)), key=lambda i: (uar(matrices[i]), war(matrices[i]), -i))


def find_folds(runs, track="last"):
    """Folders of folds below `runs`, as (database, model, protocol, seed, number, folder), in sorted order."""
    ending = "-validation" if track == "validation" else ""
    found = []
    for path in Path(runs).glob(f"*/*/*/seed*/fold*{ending}"):
        database, model, protocol, seed, fold = path.parts[-5:]
        if re.fullmatch(r"seed\d+", seed) and re.fullmatch(rf"fold\d+{ending}", fold):
            number = int(fold.removesuffix(ending)[4:])
            found.append((database, model, protocol, int(seed[4:]), number, path))
    return sorted(found)
