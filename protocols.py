"""Databases, cross-validation folds and metrics of both papers; reads names and labels, never audio.

    >>> from protocols import open_database, make_folds
    >>> database = open_database("casia", "data/casia")
    >>> for fold in make_folds(database, "speaker"):
    ...     print(fold.number, fold.name, len(fold.train), len(fold.test))

`open_database` refuses a database whose counts differ from the published ones, unless `partial=True`.
`python train.py --check --db casia` lists what a database holds, and its problems, before training.
To add a corpus without code, write a manifest, such as a CSV file (path,emotion,speaker[,session][,start,end]), and
give its path as `--db`; common/manifests.py has the names of columns. To add it in code, write a reader
(root -> Utterance, ...) and enter it in `DATABASES`.
"""

import hashlib
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import audio, manifests, paths
from common.manifests import DatabaseError

AUDIO_ENDINGS = audio.ENDINGS
PREDICTION_COLUMNS = ("utterance", "speaker", "emotion")  # of predictions.csv; a column for each class follows


class UsageError(ValueError):
    """An option that cannot be used; the message names it and the remedy."""

    exit_code = 2


class Utterance(NamedTuple):
    """A labelled recording or part of one, as the readers below yield it."""

    id: str  # unique in its database
    path: str  # relative to the root
    emotion: str
    speaker: str
    session: str = ""
    start: float = 0.0  # s
    end: float = inf  # s


@dataclass(frozen=True)
class Corpus:
    """A published database: its counts and its reader."""

    language: str
    classes: dict  # emotion -> utterances, in the papers' order
    speakers: int
    read: Callable  # root -> Utterance, ...
    speaker_sizes: tuple = ()  # utterances of each speaker in sorted order, where known
    marker: str = ""  # pattern of a folder or file that only its root has


@dataclass(frozen=True)
class Database:
    """The utterances of a corpus, as columns of equal length N."""

    name: str
    root: Path
    language: str
    classes: tuple  # emotion names; a label is an index into it
    ids: list
    paths: list  # relative to the root
    labels: np.ndarray  # (N,) int64
    speakers: np.ndarray  # (N,) str
    sessions: np.ndarray  # (N,) str, "" where a database has none
    partial: bool  # the counts differ from the published ones
    starts: np.ndarray = None  # (N,) float64 s, of parts of recordings; None where all utterances are whole recordings
    ends: np.ndarray = None  # (N,) float64 s, infinite for the end of the recording

    @property
    def recordings(self):
        """Recordings as `features.load` takes them: paths, or (path, start, end)."""
        return self.paths if self.starts is None else list(zip(self.paths, self.starts.tolist(), self.ends.tolist()))

    @property
    def digest(self):
        """Digest of the utterances: two runs with the same digest used the same corpus."""
        emotions = [self.classes[label] for label in self.labels]
        return digest_of(zip(self.ids, emotions, self.speakers.tolist(), self.sessions.tolist()))

    def counts(self):
        """Number of utterances of each emotion, {emotion: number} in class order."""
        return dict(zip(self.classes, np.bincount(self.labels, minlength=len(self.classes)).tolist()))


def digest_of(rows):
    """SHA-256 over the rows (id, emotion, speaker, session) of all utterances."""
    return hashlib.sha256(repr([tuple(row) for row in rows]).encode()).hexdigest()


# ------------------------------------------------------------------------------------------- readers

IEMOCAP_LABELS = {"ang": "angry", "hap": "happy", "neu": "neutral", "sad": "sad"}  # exc is not merged
IEMOCAP_LINE = re.compile(r"\[\d+\.\d+ - \d+\.\d+\]\t(?P<id>\S+)\t(?P<label>\w+)\t\[.*\]\s*")


def read_iemocap(root):
    """`Session1/dialog/EmoEvaluation/Ses01F_impro01.txt`, `Session1/sentences/wav/Ses01F_impro01/*.wav`.

    Improvised dialogues, four emotions.
    The selection is that of TFT section 3.1 and ATFNN section III-A.
    The speaker is the session and the letter of the utterance's last field: `Ses01F_impro01_M003` is
    speaker 1M. The letter in `Ses01F` is the person with the motion-capture markers.
    """
    for labels in sorted(root.glob("Session[1-5]/dialog/EmoEvaluation/Ses*impro*.txt")):
        session = labels.parts[-4].removeprefix("Session")
        for number, line in enumerate(manifests.read_text(labels).splitlines(), 1):
            if not line.startswith("["):
                continue  # rater lines, the header, blank lines
            found = IEMOCAP_LINE.fullmatch(line)
            if not found:
                raise DatabaseError(f"{labels}, line {number}: not a label line of IEMOCAP; restore the file")
            name, label = found["id"], found["label"]
            if label not in IEMOCAP_LABELS:
                continue
            dialogue, _, turn = name.rpartition("_")
            if dialogue != labels.stem or dialogue[3:5] != f"0{session}" or turn[:1] not in ("F", "M"):
                raise DatabaseError(
                    f"{labels}, line {number}: {name} is no utterance of this dialogue and session; restore the file"
                )
            path = f"Session{session}/sentences/wav/{dialogue}/{name}.wav"
            yield Utterance(name, path, IEMOCAP_LABELS[label], session + turn[0], session)


def read_casia(root):
    """`<speaker>/<emotion>/<201..250>.wav`, as CASIA is distributed."""
    for path in audio_files(root, "*/*/*"):
        speaker, emotion, sentence = path.parts
        yield Utterance(f"{speaker}/{emotion}/{Path(sentence).stem}", path.as_posix(), emotion, speaker)


EMODB_LABELS = dict(W="anger", L="boredom", E="disgust", A="fear", F="happiness", T="sadness", N="neutral")
EMODB_NAME = re.compile(r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[WLEAFTN])[a-z]?")


def read_emodb(root):
    """`wav/03a01Fa.wav`: speaker, text, emotion (German initials), version."""
    for path in audio_files(root, "wav/*"):
        found = EMODB_NAME.fullmatch(path.stem)
        if not found:
            raise DatabaseError(f"{root / path}: not an EmoDB name such as 03a01Fa.wav; take the file out")
        yield Utterance(path.stem, path.as_posix(), EMODB_LABELS[found["emotion"]], found["speaker"])


RAVDESS_LABELS = dict(
    zip(
        ("01", "02", "03", "04", "05", "06", "07", "08"),
        ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"),
    )
)
RAVDESS_NAME = re.compile(r"(?P<modality>\d\d)-(?P<channel>\d\d)-(?P<emotion>0[1-8])(-\d\d){3}-(?P<actor>\d\d)")


def read_ravdess(root):
    """`Actor_01/03-01-05-01-01-01-01.wav`: audio-only speech, without song and video."""
    for path in audio_files(root, "Actor_*/*"):
        found = RAVDESS_NAME.fullmatch(path.stem)
        if not found or path.parts[0] != f"Actor_{found['actor']}":
            raise DatabaseError(f"{root / path}: not a RAVDESS name of its actor; take the file out")
        if (found["modality"], found["channel"]) == ("03", "01"):
            yield Utterance(path.stem, path.as_posix(), RAVDESS_LABELS[found["emotion"]], path.parts[0])


def read_manifest(root, manifest):
    """A table with the columns path, emotion, speaker and optionally session, start, end (see common/manifests.py).

    Paths are relative to `root`, or absolute and within it. A part of a recording is named after its times.
    """
    for row in manifests.read_rows(manifest):
        path = paths.below(root, row.path)
        if path is None:
            raise DatabaseError(
                f"{row.line}: {row.path} is not in the folder {root}; give a --root that holds all recordings"
            )
        name, is_part = path if os.path.isabs(row.path) else row.path, row.start > 0 or row.end < inf
        if is_part:
            name += f"#{in_seconds(row.start)}-{in_seconds(row.end) if row.end < inf else 'end'}"
        path = paths.on_disk(root, path)
        yield Utterance(name, path, row.emotion, row.speaker, row.session, row.start, row.end)


def in_seconds(time):
    """Text of a time with two decimals, or more where it has more: 1.50, 0.125."""
    return f"{time:.2f}" if time == round(time, 2) else repr(round(time, 6))


ABC_SPELLINGS = {"aggressiv": "aggressive", "intoxicate": "intoxicated"}


def read_abc(root):
    """`abc.csv`, a manifest that you write: ABC is distributed on request, with no public layout."""
    for utterance in read_manifest(root, root / "abc.csv"):
        emotion = utterance.emotion.lower()
        yield utterance._replace(emotion=ABC_SPELLINGS.get(emotion, emotion))


def read_synthetic(root):
    """`manifest.csv`, as common/synthetic.py writes it."""
    return read_manifest(root, root / "manifest.csv")


def audio_files(root, pattern):
    """Audio files below the root that match, as sorted relative paths, without hidden files (`._name.wav`)."""
    found = (path.relative_to(root) for path in root.glob(pattern) if path.suffix.lower() in AUDIO_ENDINGS)
    return sorted(path for path in found if not any(part.startswith(".") for part in path.parts))


# ----------------------------------------------------------------------------------------- databases

# Counts: TFT Table 1 and ATFNN Table I (IEMOCAP, ABC, CASIA); the databases' own papers (EmoDB, RAVDESS).
DATABASES = {
    "iemocap": Corpus(
        "English",
        dict(angry=289, happy=284, neutral=1099, sad=608),
        10,
        read_iemocap,
        speaker_sizes=(217, 205, 185, 208, 264, 274, 149, 221, 298, 259),
        marker="Session[1-5]",
    ),
    "abc": Corpus(
        "German",
        dict(aggressive=95, cheerful=105, intoxicated=33, nervous=93, neutral=79, tired=25),
        8,
        read_abc,
    ),
    "casia": Corpus(
        "Mandarin",
        dict(angry=200, fear=200, happy=200, neutral=200, sad=200, surprise=200),
        4,
        read_casia,
        speaker_sizes=(300,) * 4,
        marker="*/angry",
    ),
    "emodb": Corpus(
        "German",
        dict(anger=127, boredom=81, disgust=46, fear=69, happiness=71, sadness=62, neutral=79),
        10,
        read_emodb,
        marker="wav/[01][0-9][ab][01][0-9]*",
    ),
    "ravdess": Corpus(
        "English",
        dict(neutral=96, calm=192, happy=192, sad=192, angry=192, fearful=192, disgust=192, surprised=192),
        24,
        read_ravdess,
        speaker_sizes=(60,) * 24,
        marker="Actor_[0-2][0-9]",
    ),
    "synthetic": Corpus("none", dict(angry=24, happy=24, neutral=24, sad=24), 4, read_synthetic),
}


def database_name(db):
    """Name of the database `db`: a key of DATABASES, or a manifest's file name without its ending.

    Raises UsageError.
    """
    if db in DATABASES:
        return db
    name, ending = os.path.splitext(os.path.basename(db))
    if ending.lower() not in manifests.ENDINGS:
        endings = " or ".join(manifests.ENDINGS)
        raise UsageError(f"--db {db}: choose {', '.join(DATABASES)} or the path of a manifest {endings}")
    if name.lower() in DATABASES or not re.fullmatch(r"\w[\w.+-]*", name):
        raise UsageError(f"--db {db}: give the manifest a name of its own, of letters, digits, '.', '_', '-'")
    return name


def default_root(db):
    """Folder of the recordings without --root: `$SER_DATA/<db>`, `data/<db>` or the manifest's folder."""
    if db not in DATABASES:
        return Path(db).parent
    return Path(os.environ.get("SER_DATA", "data")) / db


def open_database(db, root=None, partial=False):
    """List the utterances of a database: `db` is a name of DATABASES or the path of a manifest.

    `root` is the folder of the recordings (default: `default_root`). `partial` accepts counts that differ
    from the published ones. Raises DatabaseError or UsageError.
    """
    name = database_name(db)
    root = Path(root) if root else default_root(db)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the folder of the {name} recordings as --root")
    corpus = DATABASES.get(name)
    if not corpus and not os.path.isfile(db):
        remedy = f"use --db {shlex.quote(str(root / db))}" if (root / db).is_file() else "give its path as --db"
        raise DatabaseError(f"{db}: no such file; {remedy}")
    utterances = [_as_text(utterance) for utterance in (corpus.read(root) if corpus else read_manifest(root, Path(db)))]
    if not utterances:
        raise DatabaseError(f"{root}: holds no utterance of {name}; {_expected(root, corpus)}")
    _check_names(utterances, name)
    found = Counter(utterance.emotion for utterance in utterances)
    differs = bool(corpus) and _check_counts(name, corpus, utterances, found, partial)
    classes = tuple(label for label in corpus.classes if found[label]) if corpus else tuple(sorted(found))
    if len(classes) < 2:
        raise DatabaseError(f"{root}: holds only the class {classes[0]}; add recordings of another")
    has_parts = any(utterance.start > 0 or utterance.end < inf for utterance in utterances)
    return Database(
        name=name,
        root=root,
        language=corpus.language if corpus else "",
        classes=classes,
        ids=[utterance.id for utterance in utterances],
        paths=[utterance.path for utterance in utterances],
        labels=np.array([classes.index(utterance.emotion) for utterance in utterances]),
        speakers=np.array([utterance.speaker for utterance in utterances]),
        sessions=np.array([utterance.session for utterance in utterances]),
        partial=differs,
        starts=np.array([utterance.start for utterance in utterances]) if has_parts else None,
        ends=np.array([utterance.end for utterance in utterances]) if has_parts else None,
    )


def _as_text(utterance):
    """The utterance with names that can be written, where its path holds bytes that are no UTF-8."""
    if paths.is_utf8(utterance.id + utterance.emotion + utterance.speaker + utterance.session):
        return utterance
    names = ("id", "emotion", "speaker", "session")
    return utterance._replace(**{name: paths.printable(getattr(utterance, name)) for name in names})


def _expected(root, corpus):
    """What a root without utterances should hold, or the folder near it that looks like the root."""
    if not corpus:
        return "write a line for each recording below the names of the columns"
    if corpus.marker and not any(root.glob(corpus.marker)):
        near = [*root.resolve().parents[:4], *sorted(root.glob("*/")), *sorted(root.glob("*/*/"))]
        for folder in near:
            if any(folder.glob(corpus.marker)):
                return f"{folder} looks like its folder; use --root {shlex.quote(str(folder))}"
    return f"expected: {corpus.read.__doc__.splitlines()[0].rstrip('.')}"


def refuse_shared_recordings(database, digests, same=()):
    """Raise DatabaseError for the first of `shared_recordings`: it would be trained on and tested."""
    for line in shared_recordings(database, digests, same):
        raise DatabaseError(line)


def shared_recordings(database, digests, same=()):
    """Yield a line for each two utterances of different speakers that are the same recording, or share most of a part.

    `digests` are those of the utterances' files, in the order of the database; `same` is the index (N,) of the first
    utterance with the same samples as each, where files were compared by their samples too.
    """
    pairs = {}
    for i, j, seconds in shared_parts(database, digests):
        if database.starts is None:
            pairs[i, j] = "are the same recording"
        elif is_most(database, i, j, seconds):
            pairs[i, j] = f"share {f'{seconds:.2f} s' if seconds < inf else 'the end'} of a recording"
    for j, i in enumerate(same):
        if database.speakers[i] != database.speakers[j]:
            pairs.setdefault((min(i, j), max(i, j)), "are the same recording")
    for (i, j), what in pairs.items():
        names = " and ".join(f"{database.ids[k]} of {database.speakers[k]}" for k in (i, j))
        yield f"{database.name}: {names} {what}; keep the one whose speaker is right"


def overlapping_parts(database, digests):
    """Yield a line for each two parts of different speakers that share some of a recording, but not most of one."""
    for i, j, seconds in shared_parts(database, digests):
        if not is_most(database, i, j, seconds):
            names = " and ".join(f"{database.ids[k]} of {database.speakers[k]}" for k in (i, j))
            yield f"{names} share {seconds:.2f} s, trained on and tested; cut them shorter if that matters"


def is_most(database, i, j, seconds):
    """True where two utterances share more than half of the shorter of them."""
    if database.starts is None:
        return True
    shorter = min(database.ends[k] - database.starts[k] for k in (i, j))
    return seconds > shorter / 2 or shorter == inf


def shared_parts(database, digests):
    """Yield (i, j, seconds) of utterances of different speakers that hold the same part of a file, by its digest.

    Seconds are infinite where both run to the end of the recording.
    """
    by_file = {}
    for i, digest in enumerate(digests):
        by_file.setdefault(digest, []).append(i)
    starts = np.zeros(len(database.ids)) if database.starts is None else database.starts
    ends = np.full(len(database.ids), inf) if database.ends is None else database.ends
    for alike in by_file.values():
        if len(set(database.speakers[alike].tolist())) > 1:
            alike.sort(key=lambda i: starts[i])  # stable
            for position, i in enumerate(alike):
                for j in alike[position + 1 :]:
                    if starts[j] >= ends[i]:
                        break
                    if database.speakers[i] != database.speakers[j]:
                        yield i, j, min(ends[i], ends[j]) - starts[j]


def _check_names(utterances, name):
    for utterance in utterances:
        if utterance.emotion in PREDICTION_COLUMNS:
            raise DatabaseError(f"{name}: a class cannot be called {utterance.emotion}; rename it")
    for what, values in (
        ("utterance", [utterance.id for utterance in utterances]),
        ("recording", [(os.path.normpath(utterance.path), *utterance[-2:]) for utterance in utterances]),
    ):
        value, times = Counter(values).most_common(1)[0]
        if times > 1:
            value = value if what == "utterance" else value[0]
            raise DatabaseError(f"{name}: {what} {value} is listed {times} times; keep one of them")
    for what in ("speaker", "emotion", "session"):
        by_spelling = {}
        for value in sorted({getattr(utterance, what) for utterance in utterances}):
            other = by_spelling.setdefault(_spelling(value), value)
            if other != value:
                raise DatabaseError(
                    f"{name}: {what} {other} and {value} differ only in zeros, case, spaces or accent code; "
                    "spell them alike"
                )


def _spelling(value):
    """A name without what people and spreadsheets change in it: 3, 03 and 3.0 are the same."""
    value = " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    value = re.sub(r"^(\d+)\.0+$", r"\1", value)
    return re.sub(r"(?<!\d)(?<!\d\.)0+(?=\d)", "", value)


def _check_counts(name, corpus, utterances, found, partial):
    """Compare with the published counts; return True if they differ and `partial` allows it."""
    for utterance in utterances:
        if utterance.emotion not in corpus.classes:
            raise DatabaseError(
                f"{utterance.path}: {utterance.emotion} is no class of {name}; it has {', '.join(corpus.classes)}"
            )
    differences = count_differences(corpus, found, Counter(utterance.speaker for utterance in utterances))
    if differences and not partial:
        raise DatabaseError(
            f"{name}: found {'; '.join(differences)}; restore what is missing, or use --partial to go on without it"
        )
    return bool(differences)


def count_differences(corpus, found, sizes):
    """Differences from the published counts, each as text such as "sad 199 of 200".

    `found` are the utterances of each emotion, `sizes` those of each speaker, both as {name: number}.
    """
    differences = [
        f"{label} {found.get(label, 0)} of {count}"
        for label, count in corpus.classes.items()
        if found.get(label, 0) != count
    ]
    if len(sizes) != corpus.speakers:
        differences.append(f"speakers {len(sizes)} of {corpus.speakers}")
    elif corpus.speaker_sizes:
        differences += [
            f"speaker {speaker} {sizes[speaker]} of {size}"
            for speaker, size in zip(sorted(sizes), corpus.speaker_sizes)
            if sizes[speaker] != size
        ]
    return differences


# --------------------------------------------------------------------------------------------- folds


class Fold(NamedTuple):
    """A split into training and test utterances, as indices into the database."""

    number: int  # from 1, names in natural order; 0: no test utterances
    name: str  # of the tested speaker or session
    train: np.ndarray
    test: np.ndarray


PROTOCOLS = ("speaker", "session")
NO_FOLD = "none"  # --fold none: train on all utterances, to predict new recordings


def make_folds(database, protocol="speaker"):
    """Leave-one-speaker-out folds: every utterance is tested in exactly one fold, by a model that was not
    trained on its speaker. With `protocol` "session", leave-one-session-out folds.

    TFT section 3.2, ATFNN section III-B. Raises UsageError if the database cannot be split that way.
    """
    groups = database.speakers if protocol == "speaker" else database.sessions
    if protocol == "session" and not groups.astype(bool).all():
        raise UsageError(f"{database.name} names no sessions; use --protocol speaker, or fill the session column")
    names = sorted(set(groups.tolist()), key=natural_order)
    if len(names) < 2:
        raise UsageError(f"{database.name} has only one {protocol}; add recordings of another to train on")
    folds = []
    for number, name in enumerate(names, 1):
        tested = groups == name
        fold = Fold(number, name, np.flatnonzero(~tested), np.flatnonzero(tested))
        shared = set(database.speakers[fold.train].tolist()) & set(database.speakers[fold.test].tolist())
        if shared:
            raise UsageError(
                f"{database.name}: speaker {sorted(shared)[0]} is in session {name} and another; use --protocol speaker"
            )
        folds.append(fold)
    return folds


def select_folds(folds, requested):
    """List the folds that `--fold` selects: `all`, a number from 1, or a speaker's or session's name.

    A number takes precedence over a name. `none` gives a single fold that trains on all utterances and tests
    none. Raises UsageError.
    """
    if requested == "all":
        return folds
    if requested == NO_FOLD:
        everyone = np.sort(np.concatenate([fold.test for fold in folds]))
        return [Fold(0, NO_FOLD, everyone, everyone[:0])]
    by_number = [fold for fold in folds if str(fold.number) == requested]
    selected = by_number or [fold for fold in folds if fold.name == requested]
    if not selected:
        names = ", ".join(fold.name for fold in folds)
        raise UsageError(f"--fold {requested}: no such fold; choose 1 to {len(folds)}, all, none, or one of {names}")
    return selected


VALIDATION_FRACTION = 1 / 5  # of the training speakers, at least one: they choose the epoch


def split_validation_speakers(database, fold, seed):
    """Split a fold's training utterances by speaker: (train, val), indices into the database.

    The validation speakers are those that follow the tested speaker in natural order; each further seed takes
    the next ones. They are VALIDATION_FRACTION of the training speakers, at least one. Raises UsageError with
    fewer than two training speakers.
    """
    names = sorted(set(database.speakers.tolist()), key=natural_order)
    tested = set(database.speakers[fold.test].tolist())
    last = max(names.index(name) for name in tested)
    following = [name for name in names[last + 1 :] + names[:last] if name not in tested]
    if len(following) < 2:
        raise UsageError(
            f"{database.name}, fold {fold.number}: the track validation needs two training speakers; give --track last"
        )
    number = max(1, round(len(following) * VALIDATION_FRACTION))
    chosen = {following[(seed * number + i) % len(following)] for i in range(number)}
    is_validation = np.isin(database.speakers[fold.train], sorted(chosen))
    return fold.train[~is_validation], fold.train[is_validation]


def natural_order(name):
    """Sort key that puts speaker 2 before speaker 10, and 01 before 1."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


# ------------------------------------------------------------------------------------------- metrics


AGGREGATIONS = ("mean", "majority")


def utterance_scores(posteriors, counts, aggregation="mean"):
    """Scores of each utterance from those of its segments, (N, K), rows sum to 1.

    `posteriors` of the segments (S, K), in the order of the utterances; `counts` of segments (N,). `mean` is the
    mean posterior. `majority` is the share of segments that vote for a class; the mean posterior is added as
    half a vote, to break ties: it is too small to overturn a vote.
    """
    if counts.min() < 1 or counts.sum() != len(posteriors):
        raise ValueError(
            f"{len(posteriors)} segments, but {len(counts)} utterances of {counts.sum()} segments, at least 1 each"
        )
    starts, number = np.cumsum(counts) - counts, counts[:, None].astype(posteriors.dtype)
    mean = np.add.reduceat(posteriors, starts, axis=0) / number
    if aggregation == "mean":
        return mean
    votes = np.eye(posteriors.shape[1], dtype=posteriors.dtype)[posteriors.argmax(1)]
    return (np.add.reduceat(votes, starts, axis=0) + mean / 2) / (number + posteriors.dtype.type(0.5))


def confusion(labels, scores):
    """Confusion matrix (K, K) of labels (N,) and scores (N, K): rows the true class, columns the predicted class."""
    classes = scores.shape[1]
    cells = labels * classes + scores.argmax(axis=1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def war(matrix):
    """Weighted average recall of a confusion matrix (K, K): correct / all utterances."""
    return matrix.trace() / matrix.sum()


def uar(matrix):
    """Unweighted average recall of a confusion matrix (K, K): the mean recall of the classes that occur."""
    rows = matrix.sum(axis=1)
    return (matrix.diagonal()[rows > 0] / rows[rows > 0]).mean()
