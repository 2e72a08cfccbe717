"""The results folder: where a run lies, how it is written and read again; and how commands report mistakes and progress.

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
import math
import os
import platform
import re
import shutil
import socket
import sys
import time
import warnings
import zipfile
import zlib
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from features import AudioError
from protocols import COLUMNS, DatabaseError, UsageError, confusion, digest_of, uar, war

EXIT_USAGE, EXIT_DATA, EXIT_INTERRUPTED = 2, 3, 130  # the command must change; the data must; Ctrl-C
MARKER, STATE = "done.json", ".state.pt"
SEALED = {"config.json", "log.csv", "predictions.csv", "epochs.npz", "checkpoint.pt"}  # by the marker
INDEX_COLUMNS = ("utterance", "emotion", "speaker", "session")
MOST_SEEDS = 1_000  # of one command


class RunError(ValueError):
    """A run that cannot be read or continued; the message names the folder or file and the remedy."""


DAMAGED = (RuntimeError, ValueError, KeyError, TypeError, AttributeError)  # what contents of the wrong kind end in
UNREADABLE = (
    *DAMAGED, OSError, EOFError, LookupError, MemoryError, OverflowError, SyntaxError,
    csv.Error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def processor():
    """Its name as Linux tells it, elsewhere its architecture."""
    with suppress(OSError):
        if name := re.search(r"^model name\s*: *(.+)", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE):
            return name[1]
    return platform.processor() or platform.machine()


# ------------------------------------------------------------------------------ what commands share


@contextmanager
def plain_errors(program, interrupted="finished folds are kept, repeat the command to go on"):
    """Turn every foreseeable mistake into one line on standard error and an exit code; `interrupted` tells what
    Ctrl-C leaves."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files, speakers and classes may hold anything
            stream.reconfigure(errors="backslashreplace")
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
        place = error.filename or "the output, or a folder that is written"
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


def parse_seeds(text):
    """`3`, `0-4` or `0-2,5`, as the tables print them, as a list of seeds, each once and in order."""
    seeds = set()
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + MOST_SEEDS:
            raise UsageError(f"--seed {text}: give a number such as 0, a range such as 0-4, or several: 0-2,5")
        seeds.update(range(first, last + 1))
        if len(seeds) > MOST_SEEDS:
            raise UsageError(f"--seed {text}: more than {MOST_SEEDS} seeds; give them to several commands")
    return sorted(seeds)


# ------------------------------------------------------------------------------------------- writing


@contextmanager
def replacing(path):
    """Open `path` for binary writing, beside its place; it appears whole, or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
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


def write_texts(texts):
    """Write {path: text}, all of them beside their places before any appears; they appear in the order given."""
    with ExitStack() as stack:
        for path, text in reversed(texts.items()):  # the last one opened is renamed first
            file = stack.enter_context(replacing(path))
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())  # a full disk must tell now


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
    rows.writerow([*COLUMNS, *database.classes])
    for i, row in zip(utterances, scores):
        emotion = database.classes[database.labels[i]]
        rows.writerow([database.ids[i], database.speakers[i], emotion, *(f"{score:.9g}" for score in row)])
    write_text(path, text.getvalue())


def write_index(runs, database):
    """The utterances of a database, once for all its runs; its digest is part of every run's settings."""
    path = index_path(runs, database.name, database.digest[:16])
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(INDEX_COLUMNS)
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

    folder: Path  # None where it is archived
    config: dict
    ids: list  # (n,) utterances
    speakers: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    scores: np.ndarray  # (n, K) float32
    archive: Path = None  # the file that holds it instead of a folder (archive.py)


class FoldCurve(NamedTuple):
    """What was measured of one fold while it was trained."""

    seed: int
    loss: np.ndarray  # (L,) mean training loss of epochs 1..L
    epochs: np.ndarray  # (E,) evaluated epochs
    test: np.ndarray  # (E, K, K) confusion counts of the tested speakers
    held: np.ndarray  # (E, K, K) of the held-out speakers, None where none were held out
    chosen: dict  # track -> index into epochs


FOLD_SETTINGS = ("seed", "fold", "fold_name", "held_out")  # in these alone the folds of a row may differ


def differing(settings, others, aside=FOLD_SETTINGS):
    """Names of the settings in which two runs differ, but for those `aside`."""
    return [name for name in settings | others if name not in aside and settings.get(name) != others.get(name)]


TRACKS = ("last", "validation", "oracle")  # last epoch; chosen on held-out speakers; best on the test speakers
TRAINED = dict(  # tracks with a training of their own; the oracle chooses among the epochs of `last`
    last="trained on all other speakers", validation="trained without the held-out speakers"
)


def fold_folder(runs, database, model, protocol, seed, number, track="last"):
    name = f"fold{number}-validation" if track == "validation" else f"fold{number}" if number else "all"
    return Path(runs) / database / model / protocol / f"seed{seed}" / name


def name_of(fold, file=""):
    """What a message calls a fold, or a file of its folder: of an archive that file, which is there, with the fold."""
    if fold.archive:
        return f"{fold.archive}, seed {fold.config['settings']['seed']} fold {fold.config['settings']['fold']}"
    return str(fold.folder / file)


def place_of(fold):
    """[database, model, protocol, seed, fold] as its configuration tells them."""
    settings = fold.config["settings"]
    return [fold.config["database"]["name"], *(settings[name] for name in ("model", "protocol", "seed", "fold"))]


def index_path(runs, database, digest):
    return Path(runs) / database / f"utterances-{digest}.csv"


def damaged(path, error, remedy="remove its folder and repeat the training command"):
    """The RunError of a file that cannot be read, in one line whatever the error says."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:100] or type(error).__name__
    return RunError(f"{path}: is missing or damaged ({reason}); {remedy}")


def read_json(path):
    """What write_json wrote; an error of UNREADABLE where it is something else."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_marker(folder):
    """The marker of completion, or None where there is none or the files are not what it says."""
    try:
        marker = read_json(folder / MARKER)
        sound = all(_sha256(folder / name) == digest for name, digest in marker["files"].items())
        return marker if sound and SEALED <= set(marker["files"]) else None
    except UNREADABLE:
        return None


def is_done(folder):
    """A fold is done when its marker is there and each file is what the marker says."""
    return read_marker(folder) is not None


def read_config(folder):
    """A fold's config.json; that it is a dictionary is all that is known."""
    path = folder / "config.json"
    try:
        config = read_json(path)
        check_kind(config, {}, "it")
    except UNREADABLE as error:
        raise damaged(path, error) from None
    return config


CONFIG = dict(  # what tables, figures and the audit rely on, by kind; see check_kind
    settings=dict(
        model=str, protocol=str, track=str, seed=int, fold=int, fold_name=str, epochs=int,
        utterances=str, recordings=str,
    ),
    deviations=[str],
    folds_total=int,
    database=dict(
        name=str, classes=[str], counts={str: int}, speakers=[str], utterances=int, seconds=float, partial=bool
    ),
    train_speakers=[str],
    test_speakers=[str],
    test=[str],
    code={str: str},
)  # fmt: skip


def check_kind(value, kind, name):
    """ValueError where a value of JSON is of another kind: a type, [kind], {name: kind}, {str: kind} for any names."""
    wanted = kind if isinstance(kind, type) else type(kind)
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        raise ValueError(f"{name} is {value!r:.40}")
    if wanted is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    if wanted is str:
        value.encode()  # half a character, which JSON can hold, cannot be printed
    if wanted is list:
        for one in value:
            check_kind(one, kind[0], f"one of {name}")
    if wanted is dict:
        for key, part in (dict.fromkeys(value, kind[str]) if str in kind else kind).items():
            if key not in value:
                raise ValueError(f"{name} lacks {key}")
            check_kind(value[key], part, key)


def check_config(config):
    """ValueError where a configuration lacks any of CONFIG."""
    check_kind(config, CONFIG, "it")
    classes = config["database"]["classes"]
    if len(set(classes)) < max(2, len(classes)):
        raise ValueError("classes are not two names or more")
    if config["folds_total"] < 2:
        raise ValueError("folds_total is less than 2")


def read_checked_config(folder):
    """config.json with all of CONFIG in it."""
    config = read_config(folder)
    try:
        check_config(config)
    except UNREADABLE as error:
        raise damaged(folder / "config.json", error) from None
    return config


def read_index(runs, database, digest, remedy="remove it and repeat the training command, which writes it again"):
    """Rows of the index of utterances, by column; RunError where it is missing or its digest is another."""
    path = index_path(runs, database, digest)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        if digest_of([row[name] for name in INDEX_COLUMNS] for row in rows)[:16] == digest:
            return rows
    except UNREADABLE:
        pass
    raise RunError(f"{path}: is missing, or is not the database that was trained on; {remedy}")


def read_fold(folder):
    """Configuration and predictions of a finished fold."""
    config = read_checked_config(folder)
    path, classes = folder / "predictions.csv", config["database"]["classes"]
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if header != [*COLUMNS, *classes]:
            raise ValueError("other columns or classes")
        ids = [row[0] for row in rows]
        speakers = np.array([row[1] for row in rows])
        labels = np.array([classes.index(row[2]) for row in rows])
        scores = np.array([row[3:] for row in rows], dtype=np.float32)
        if scores.shape != (len(config["test"]), len(classes)) or ids != config["test"]:
            raise ValueError("other utterances")
        if not np.isfinite(scores).all():
            raise ValueError("scores that are not finite")
    except UNREADABLE as error:
        raise damaged(path, error) from None
    return FoldResult(folder, config, ids, speakers, labels, scores)


def read_epochs(folder):
    """Scores by epoch as saved in epochs.npz: epochs (E,), scores (E, n, K), and for the validation track
    validation (E, m, K) and validation_labels (m,). n, K: utterances and classes that config.json tells."""
    config = read_checked_config(folder)
    classes, path = len(config["database"]["classes"]), folder / "epochs.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            kept = dict(file)
        epochs, labels = kept["epochs"], kept.get("validation_labels", np.array([0]))
        shapes = dict(epochs=(len(epochs),), scores=(len(epochs), len(config["test"]), classes))
        if config["settings"]["track"] == "validation" or "validation" in kept:
            shapes.update(validation=(len(epochs), len(labels), classes), validation_labels=(len(labels),))
        for name, shape in shapes.items():
            if kept[name].shape != shape or not np.isfinite(kept[name]).all():
                raise ValueError(f"{name} of shape {kept[name].shape}, not {shape}, or not finite")
        if not len(epochs) or epochs.dtype.kind not in "iu":
            raise ValueError("no epochs")
        if labels.dtype.kind not in "iu" or not set(labels.tolist()) <= set(range(classes)) or not len(labels):
            raise ValueError("validation_labels of no classes")
    except UNREADABLE as error:
        raise damaged(path, error) from None
    return kept


def read_curve(fold):
    """Curves of a FoldResult, from its log.csv and epochs.npz."""
    kept, log = read_epochs(fold.folder), fold.folder / "log.csv"
    try:
        loss = np.loadtxt(log, delimiter=",", skiprows=1, ndmin=2)[:, 1]
        if len(loss) != fold.config["settings"]["epochs"]:
            raise ValueError("other epochs")
    except (OSError, ValueError, IndexError) as error:
        raise damaged(log, error) from None
    test = np.stack([confusion(fold.labels, one) for one in kept["scores"]])
    seed = fold.config["settings"]["seed"]
    if "validation" not in kept:
        chosen = dict(last=len(test) - 1, oracle=best_epoch(fold.labels, kept["scores"]))
        return FoldCurve(seed, loss, kept["epochs"], test, None, chosen)
    held = np.stack([confusion(kept["validation_labels"], one) for one in kept["validation"]])
    chosen = dict(validation=best_epoch(kept["validation_labels"], kept["validation"]))
    return FoldCurve(seed, loss, kept["epochs"], test, held, chosen)


def read_checkpoint(path):
    """A checkpoint as train.py saved it, tensors on the CPU; a file that is anything else is refused unread."""
    import pickle

    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle protocol that torch does not write
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise ValueError("no dictionary")
    except (*UNREADABLE, pickle.UnpicklingError):
        raise RunError(
            f"{path}: is missing, damaged, or holds more than weights and settings; "
            "remove its folder and repeat the training command"
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
