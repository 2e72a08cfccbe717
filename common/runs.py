"""The run folder: where a fold's results lie, how they are written, locked and read again.

    runs/<database>/utterances-<digest>.csv              utterance, emotion, speaker, session
    runs/<database>/<model>/<protocol>/seed<k>/fold<n>/  (of the validation track: fold<n>-validation/)
        config.json        what was run: settings, database, code, machine
        log.csv            epoch, mean training loss, seconds
        predictions.csv    utterance, speaker, true emotion, one column of scores per class
        epochs.npz         scores after every `eval_every` epochs, for the tracks validation and oracle
        checkpoint.pt      weights, normalisation, classes, settings, code
        method.py          of a method of the user's own: its file
        done.json          written last: epoch, speakers trained on, SHA-256 of the files above
        .state.pt          while a fold is in training: what it needs to resume
    runs/<database>/<model>/<protocol>/seed<k>/all/      of --fold none: the same files; no table counts it

A method that is fitted at once, without epochs, has no log.csv, epochs.npz and checkpoint.pt. Names that begin with a
dot are temporary: the process that holds a fold's lock removes what a killed process left.
"""

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import re
import socket
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import NamedTuple, get_args, get_origin

import numpy as np

from protocols import PREDICTION_COLUMNS, confusion, digest_of, uar, war

DONE_FILE, STATE_FILE = "done.json", ".state.pt"
METHOD_FILE = "method.py"
REQUIRED_FILES = {"config.json", "predictions.csv"}  # done.json seals these and whatever else a method writes
INDEX_COLUMNS = ("utterance", "emotion", "speaker", "session")
FOLD_SETTINGS = ("seed", "fold", "fold_name", "held_out")  # in these alone the folds of a table row may differ
TRACKS = ("last", "validation", "oracle")  # last epoch; chosen on held-out speakers; best on the test speakers
TRAINED_TRACKS = dict(  # tracks with a training of their own; the oracle chooses among the epochs of `last`
    last="trained on all other speakers", validation="trained without the held-out speakers"
)
RESULT = "result"  # in place of a track: of each method that which its result is of, `last` or as its file says
REMEDY = "remove its folder and repeat the training command"

PROJECT = Path(__file__).resolve().parents[1]
CODE_FILES = (  # what the scores of a network depend on
    "features.py", "protocols.py", "models.py",
    "common/audio.py", "common/config.py", "common/containers.py", "common/manifests.py", "common/methods.py",
    "training/data.py", "training/trainer.py", "training/checkpoints.py", "training/scheduler.py",
    "fast/modules.py", "fast/layers.py", "fast/graphs.py", "fast/stacked.py",
)  # fmt: skip


class RunError(ValueError):
    """A run that cannot be read or continued; the message names the folder or file and the remedy."""

    exit_code = 2


@contextmanager
def reading(path, remedy=REMEDY):
    """Turn whatever goes wrong while a file is read into one RunError that names it and the remedy."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:  # damaged files end in errors of many kinds
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:100] or type(error).__name__
        raise RunError(f"{path}: is missing or damaged ({reason}); {remedy}") from None


def sha256_of(path):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_versions(names):
    """First 16 digits of the SHA-256 of files of the project, without those that are not there."""
    return {name: sha256_of(PROJECT / name)[:16] for name in names if (PROJECT / name).is_file()}


CODE_VERSIONS = code_versions(CODE_FILES)  # of what is imported: a long training may outlive it on disk

# ------------------------------------------------------------------------------------------- writing


@contextmanager
def atomic_write(path):
    """Open a temporary file next to `path` for binary writing; it is renamed to `path` whole, or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is reported without it
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    """Write a text file as UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path, value):
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_sealed(path, content):
    """Write bytes behind their SHA-256, for a file that done.json does not seal."""
    with atomic_write(path) as file:
        file.write(hashlib.sha256(content).digest() + content)


def read_sealed(path):
    """Bytes that write_sealed wrote; ValueError if they changed since."""
    with open(path, "rb") as file:
        seal, content = file.read(32), file.read()
    if hashlib.sha256(content).digest() != seal:
        raise ValueError("is damaged")
    return content


def write_predictions(path, database, utterances, scores):
    """Write scores (n, K) of the utterances (n,) as CSV; nine digits give each float32 back exactly."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*PREDICTION_COLUMNS, *database.classes])
    for i, row in zip(utterances, scores):
        emotion = database.classes[database.labels[i]]
        rows.writerow([database.ids[i], database.speakers[i], emotion, *(f"{score:.9g}" for score in row)])
    write_text(path, text.getvalue())


def write_index(runs, database):
    """Write the utterances of a database, once for all its runs; its digest is part of each run's settings."""
    path = index_path(runs, database.name, database.digest[:16])
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(INDEX_COLUMNS)
    for name, label, speaker, session in zip(database.ids, database.labels, database.speakers, database.sessions):
        rows.writerow([name, database.classes[label], speaker, session])
    if not path.is_file() or path.read_bytes() != text.getvalue().encode():  # missing, or damaged
        write_text(path, text.getvalue())


def mark_done(folder, **facts):
    """Write done.json, which seals all files of a finished fold, with further facts about it."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    files = {name: sha256_of(folder / name) for name in names if name != DONE_FILE}
    write_json(folder / DONE_FILE, dict(facts, files=files))


# ---------------------------------------------------------------------------------- many processes


@contextmanager
def try_lock_fold(folder):
    """Lock a fold for this process: gives True, or False where another process holds the lock.

    The kernel releases the lock when its process ends, however it ends, so a lock is never stale.
    """
    path = lock_path(folder)
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
        file.close()  # its former holder removed it in between: open a new file
    try:
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}\n")  # for people
        file.flush()
        yield True
    finally:
        path.unlink(missing_ok=True)
        file.close()


def lock_path(folder):
    """Path of a fold's lock file, next to its folder."""
    return folder.with_name(f".{folder.name}.lock")


def leftovers(folder):
    """Temporary files of a killed process, and the saved state, which is not needed once the fold is done."""
    return [path for path in (folder / STATE_FILE, *folder.glob(".*.tmp")) if path.is_file()]


def remove_leftovers(folder, keep=()):
    """Remove the leftovers of a fold but for the names `keep`; call it with the fold locked."""
    for path in leftovers(folder):
        if path.name not in keep:
            path.unlink()


# --------------------------------------------------------------------------------------------- paths


def fold_folder(runs, database, model, protocol, seed, number, track="last"):
    """Folder of a fold below `runs`; number 0 is the training on all speakers."""
    name = f"fold{number}-validation" if track == "validation" else f"fold{number}" if number else "all"
    return Path(runs) / database / model / protocol / f"seed{seed}" / name


def index_path(runs, database, digest):
    """Path of the index of utterances."""
    return Path(runs) / database / f"utterances-{digest}.csv"


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


# ------------------------------------------------------------------------------------- configuration


@dataclass
class DatabaseFacts:
    """What a run records of its database."""

    name: str
    language: str
    classes: list[str]
    counts: dict[str, int]  # emotion -> utterances
    speakers: list[str]
    utterances: int
    seconds: float
    segments: int
    partial: bool


@dataclass
class RunConfig:
    """What config.json holds: enough to check a fold without the recordings."""

    settings: dict  # all that the scores depend on
    deviations: list[str]  # settings that are not the paper's, in words
    folds_total: int
    database: DatabaseFacts
    train_speakers: list[str]
    test_speakers: list[str]
    test: list[str]  # utterances that are tested
    code: dict[str, str]  # file -> version
    machine: dict
    method: dict = field(default_factory=dict)  # facts about a method that is none of the papers' networks
    earlier_machines: list = field(default_factory=list)  # that trained the first epochs


REQUIRED_SETTINGS = dict(  # of every run -> type
    model=str, protocol=str, track=str, seed=int, fold=int, fold_name=str, utterances=str, recordings=str
)  # fmt: skip


def from_json(kind, value, name="the file"):
    """A value of JSON as `kind`: a type, list[type], dict[str, type] or dataclass; ValueError where it is another."""
    if is_dataclass(kind):
        value = from_json(dict, value, name)
        parts = {}
        for part in fields(kind):
            if part.name in value:
                parts[part.name] = from_json(part.type, value[part.name], part.name)
            elif part.default_factory is MISSING:
                raise ValueError(f"{name} lacks {part.name}")
        return kind(**parts)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not (get_origin(kind) or kind) or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{name} is {value!r:.40}")
    if kind is str:
        value.encode()  # half a character, which JSON can hold, cannot be printed
    if get_args(kind):
        inner = get_args(kind)[-1]
        for part in value.values() if isinstance(value, dict) else value:
            from_json(inner, part, f"a part of {name}")
    return value


def check_config(content):
    """RunConfig of the content of a config.json; ValueError where something is missing or of another kind."""
    config = from_json(RunConfig, content)
    for name, kind in REQUIRED_SETTINGS.items():
        if name not in config.settings:
            raise ValueError(f"settings lack {name}")
        from_json(kind, config.settings[name], name)
    if "epochs" in config.settings:
        from_json(int, config.settings["epochs"], "epochs")
    if len(set(config.database.classes)) < max(2, len(config.database.classes)):
        raise ValueError("classes are not two names or more")
    if config.folds_total < 2:
        raise ValueError("folds_total is less than 2")
    return config


def read_json(path):
    """Value of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_config(folder):
    """RunConfig of a fold's config.json; RunError where it is damaged."""
    path = folder / "config.json"
    with reading(path):
        return check_config(read_json(path))


def different_settings(settings, others, ignored=FOLD_SETTINGS):
    """Names of the settings in which two runs differ, but for those `ignored`."""
    return [name for name in settings | others if name not in ignored and settings.get(name) != others.get(name)]


# ------------------------------------------------------------------------------------------- results


class FoldResult(NamedTuple):
    """Predictions of a finished fold."""

    source: Path  # its folder, or the runs.json of published results that holds it
    config: RunConfig
    ids: list  # (n,) utterances
    speakers: np.ndarray  # (n,)
    labels: np.ndarray  # (n,)
    scores: np.ndarray  # (n, K) float32; of published results 1 for the predicted class and 0 for the others
    is_published: bool = False

    def name(self, file=""):
        """Text that names the fold, or a file of its folder, in a message."""
        settings = self.config.settings
        if self.is_published:
            return f"{self.source}, {settings['model']} seed {settings['seed']} fold {settings['fold']}"
        return str(self.source / file)

    def key(self):
        """(database, model, protocol, seed, fold) as its configuration has them."""
        return (self.config.database.name, *(self.config.settings[n] for n in ("model", "protocol", "seed", "fold")))


class FoldCurve(NamedTuple):
    """Loss and results of one fold during its training."""

    seed: int
    loss: np.ndarray  # (L,) mean training loss of epochs 1..L
    epochs: np.ndarray  # (E,) evaluated epochs
    test: np.ndarray  # (E, K, K) confusion counts of the tested speakers
    held_out: np.ndarray  # (E, K, K) of the held-out speakers, None where none were held out
    chosen: dict  # track -> index into epochs


def read_done(folder):
    """Content of done.json, or None where there is none or a file that it seals changed."""
    try:
        done = read_json(folder / DONE_FILE)
        is_sound = all(sha256_of(folder / name) == digest for name, digest in done["files"].items())
        return done if is_sound and REQUIRED_FILES <= set(done["files"]) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def is_done(folder):
    """True if a fold is finished and each of its files is as it was then."""
    return read_done(folder) is not None


def read_index(runs, database, digest, remedy="remove it and repeat the training command, it is written again"):
    """Rows of the index of utterances as dictionaries; RunError where it is missing or its digest is another."""
    path = index_path(runs, database, digest)
    with reading(path, remedy):
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file, strict=True))
        if digest_of([row[name] for name in INDEX_COLUMNS] for row in rows)[:16] != digest:
            raise ValueError("it is not the database that was trained on")
    return rows


def read_fold(folder):
    """FoldResult of a finished fold; RunError where its files are damaged."""
    config = read_config(folder)
    path, classes = folder / "predictions.csv", config.database.classes
    with reading(path):
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        if header != [*PREDICTION_COLUMNS, *classes]:
            raise ValueError("other columns or classes")
        ids = [row[0] for row in rows]
        speakers = np.array([row[1] for row in rows])
        labels = np.array([classes.index(row[2]) for row in rows])
        scores = np.array([row[3:] for row in rows], dtype=np.float32)
        if scores.shape != (len(config.test), len(classes)) or ids != config.test:
            raise ValueError("other utterances")
        if not np.isfinite(scores).all():
            raise ValueError("scores that are not finite")
    return FoldResult(folder, config, ids, speakers, labels, scores)


def read_epochs(folder):
    """Scores by epoch as saved in epochs.npz: epochs (E,), scores (E, n, K), and for the validation track
    validation (E, m, K) and validation_labels (m,). n, K: utterances and classes of config.json."""
    config, path = read_config(folder), folder / "epochs.npz"
    classes = len(config.database.classes)
    with reading(path):
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        epochs, labels = arrays["epochs"], arrays.get("validation_labels", np.array([0]))
        shapes = dict(epochs=(len(epochs),), scores=(len(epochs), len(config.test), classes))
        if config.settings["track"] == "validation" or "validation" in arrays:
            shapes.update(validation=(len(epochs), len(labels), classes), validation_labels=(len(labels),))
        for name, shape in shapes.items():
            if arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
                raise ValueError(f"{name} of shape {arrays[name].shape}, not {shape}, or not finite")
        if not len(epochs) or epochs.dtype.kind not in "iu":
            raise ValueError("no epochs")
        if labels.dtype.kind not in "iu" or not set(labels.tolist()) <= set(range(classes)) or not len(labels):
            raise ValueError("validation_labels of no classes")
    return arrays


def read_curve(fold):
    """FoldCurve of a FoldResult that lies in a folder, from its log.csv and epochs.npz."""
    arrays, path = read_epochs(fold.source), fold.source / "log.csv"
    with reading(path):
        loss = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)[:, 1]
        if len(loss) != fold.config.settings["epochs"]:
            raise ValueError("other epochs")
    test = np.stack([confusion(fold.labels, scores) for scores in arrays["scores"]])
    seed = fold.config.settings["seed"]
    if "validation" not in arrays:
        chosen = dict(last=len(test) - 1, oracle=best_epoch(fold.labels, arrays["scores"]))
        return FoldCurve(seed, loss, arrays["epochs"], test, None, chosen)
    labels = arrays["validation_labels"]
    held_out = np.stack([confusion(labels, scores) for scores in arrays["validation"]])
    return FoldCurve(
        seed, loss, arrays["epochs"], test, held_out, dict(validation=best_epoch(labels, arrays["validation"]))
    )


def best_epoch(labels, scores):
    """Index of the epoch with the highest UAR, then WAR, then the earliest: scores (E, n, K) -> int."""
    matrices = [confusion(labels, scores_of_epoch) for scores_of_epoch in scores]
    return max(range(len(scores)), key=lambda i: (uar(matrices[i]), war(matrices[i]), -i))
