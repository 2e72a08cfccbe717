"""Predictions small enough to publish, and the tables from them.

    python evaluate.py --export FOLDER --runs RUNS      # writes an archive of all finished folds below RUNS
    python evaluate.py --runs FOLDER                    # every table again, also by seed and track

A runs folder holds megabytes of weights and scores for each fold; an archive keeps the class that each utterance was
given, is replaced only by one of the same settings that holds all its folds, and lies like a runs folder:

    FOLDER/<database>/utterances-<digest>.csv          utterance, emotion, speaker, session; not repeated in an archive
                                                       one or two folders below, such as FOLDER/study/overlap
    FOLDER/<database>/<model>-<protocol>.json          settings and predictions of all seeds, folds and tracks
    FOLDER/<database>/<model>-<protocol>-curves.json   loss and hits by epoch, for curves; no table of evaluate.py needs it

<model>-<protocol>.json holds

    format      1
    shared      of config.json: what all folds have in common
    fold_names  fold number -> the speaker or session that is tested
    rows        one for each seed and track (last, validation, oracle):
        folds, epochs   numbers of the finished folds, and the epoch that the track chose in each
        speakers        for each of them a letter for each speaker of the database, in the order told there:
                        x tested, t trained on, h held out for choosing an epoch, - none of these
        predictions     a letter of DIGITS for each line of the index: the number of the class, - where not predicted
        differs         fold number -> what else of its config.json is not as in `shared`; only where there is any
    sha256      of all the above, against damage, not against forgery

<model>-<protocol>-curves.json holds the evaluated epochs and for each training, in `rows`, mean training loss (three
digits) and `hits`, correct utterances by epoch and class (`held`: of the held-out speakers), as numbers of `width`
letters of DIGITS to the base 62. `predictions` there is the sha256 of the file that it goes with.

What is read again is a FoldResult whose scores are 1 for the class predicted and 0 for the others, so that all that
rests on classes comes out the same: WAR, UAR, intervals, tests, confusion. Scores themselves, weights and logs stay
in the runs folder.
"""

import hashlib
import json
import re
import string
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np

import protocols
import results

FORMAT = 1
DIGITS = string.digits + string.ascii_lowercase + string.ascii_uppercase
NOT_PREDICTED = "-"
ABOVE = 3  # folders above an archive in which its index may lie
NAME = re.compile(rf"(.+)-({'|'.join(protocols.PROTOCOLS)})\.json")
OWN_SETTINGS = (*results.FOLD_SETTINGS, "track")  # told by the row and the fold
OWN = ("train_speakers", "test_speakers", "test")  # told by `speakers` and the index
REMEDY = "restore it, or export it again"
ARCHIVE = dict(
    shared=dict(settings=dict(utterances=str), database=dict(speakers=[str])),
    fold_names={str: str},
    rows=[dict(seed=int, track=str, folds=[int], epochs=[int], speakers=[str], predictions=str)],
)  # by kind, see results.check_kind; what the folds need besides is checked when they are put together
MORE_CONFIG = dict(code={"models.py": str}, machine={})  # what a fold's config.json tells beside results.CONFIG
CURVES = dict(
    predictions=str,
    width=int,
    epochs=[int],
    rows=[dict(seed=int, track=str, fold=int, loss=[float], hits=str)],
)


def find(runs):
    """Archives below `runs`, as (database, model, protocol, path), in sorted order."""
    found = []
    for path in Path(runs).glob("*/*.json"):
        if name := NAME.fullmatch(path.name):
            found.append((path.parent.name, name[1], name[2], path))
    return sorted(found)


def read_index(path, digest):
    """Rows of the index that the archive `path` goes with."""
    folder, database = path.parent.parent, path.parent.name
    return results.read_index(home_of_index(folder, database, digest), database, digest, REMEDY)


def home_of_index(folder, database, digest):
    """The folder with the index of an archive in `folder`: another archive above that has it, else itself."""
    for place in (folder, *list(folder.absolute().parents)[:ABOVE]):
        if results.index_path(place, database, digest).is_file():
            if place == folder or any(name == database for name, *_ in find(place)):
                return place
    return folder


def curves_path(path):
    return path.with_name(f"{path.stem}-curves.json")


# ------------------------------------------------------------------------------------------- writing


def pack_and_check(out, runs, folds):
    """The files of an archive below the folder `out`, of one model and protocol: {path: text}, the main one last.

    folds: track -> [FoldResult] from the folder `runs`. RunError where they are not parts of one experiment, or are
    not what the index of utterances and the kept epochs say, so that they could not be read again as they are;
    UsageError where what lies in their place is not to be replaced, see `check_target`.
    """
    trained = [fold for track in results.TRAINED for fold in folds.get(track, ())]
    settings, database = (trained[0].config[name] for name in ("settings", "database"))
    name, digest = database["name"], settings["utterances"]
    if len(database["classes"]) > len(DIGITS):
        raise protocols.UsageError(f"--export: {name} has more than {len(DIGITS)} classes, one letter for each")
    index, home = results.read_index(runs, name, digest), home_of_index(Path(out), name, digest)
    path = Path(out) / name / f"{settings['model']}-{settings['protocol']}.json"
    curves = {fold.folder: results.read_curve(fold) for fold in trained}
    content = pack(folds, curves, index)
    for track in folds:
        try:
            again = unpack(content, index, path, track)
        except results.UNREADABLE as error:
            raise results.damaged(trained[0].folder.parents[1], error, "see evaluate.py --audit") from None
        for one, other in zip(folds[track], again, strict=True):
            compare(one, other, trained[0])
    check_target(path, content)
    its_index = {results.index_path(out, name, digest): results.index_path(runs, name, digest).read_bytes().decode()}
    return {
        **(its_index if home == Path(out) else {}),
        curves_path(path): as_text(pack_curves(trained, curves, digest_of(content))),
        path: as_text(content),
    }


def pack(folds, curves, index):
    """Content of an archive; see `pack_and_check`. curves: folder -> FoldCurve; index: rows of the utterances' CSV."""
    every = [fold for track in folds for fold in folds[track]]
    place = {row["utterance"]: i for i, row in enumerate(index)}
    shared, rows = share([fold.config for fold in every]), {}
    for track in folds:
        for fold in folds[track]:
            settings, curve = fold.config["settings"], curves[fold.folder]
            row = rows.setdefault((settings["seed"], results.TRACKS.index(track)), dict(
                seed=settings["seed"], track=track, folds=[], epochs=[], speakers=[],
                predictions=[NOT_PREDICTED] * len(index), differs={},
            ))  # fmt: skip
            chosen = curve.chosen[track]
            if not np.array_equal(curve.test[chosen], protocols.confusion(fold.labels, fold.scores)):
                raise results.RunError(
                    f"{fold.folder}: predicts otherwise than at epoch {curve.epochs[chosen]} in epochs.npz; "
                    "remove it and repeat the training command"
                )
            row["folds"].append(settings["fold"])
            row["epochs"].append(int(curve.epochs[chosen]))
            row["speakers"].append(roles(fold.config))
            for utterance, answer in zip(fold.ids, fold.scores.argmax(1).tolist()):
                if utterance in place:  # one that is not is noticed when the fold is put together again
                    row["predictions"][place[utterance]] = DIGITS[answer]
            if differs := {key: value for key, value in without(fold.config, OWN).items()
                           if key != "settings" and (key not in shared or shared[key] != value)}:  # fmt: skip
                row["differs"][str(settings["fold"])] = differs
    for row in rows.values():
        row["predictions"] = "".join(row["predictions"])
        if not row["differs"]:
            del row["differs"]
    names = {fold.config["settings"]["fold"]: fold.config["settings"]["fold_name"] for fold in every}
    names = {str(number): names[number] for number in sorted(names)}
    return dict(format=FORMAT, shared=shared, fold_names=names, rows=[rows[key] for key in sorted(rows)])


def check_target(path, content):
    """UsageError where the archive `path` holds what a new one would lack, or other settings, and where its runs lie.

    One that is damaged may be replaced, as nobody can say what it holds.
    """
    out, key = path.parents[1], (path.parent.name, *NAME.fullmatch(path.name).groups())
    if any(place[:3] == key for track in results.TRAINED for place in results.find_folds(out, track)):
        raise protocols.UsageError(f"--export {out}: holds the runs of {' '.join(key)}; export elsewhere")
    try:
        there = read(path, ARCHIVE)
    except results.RunError:  # or there is none
        return
    settings, others = content["shared"]["settings"], there["shared"]["settings"]
    if differs := results.differing(settings, others, aside=()):
        was, now = (one.get(differs[0], "as usual") for one in (others, settings))
        raise protocols.UsageError(f"{path}: is of {differs[0]} {was}, not {now}; remove it, or export elsewhere")
    if more := sorted(folds_in(there) - folds_in(content)):
        raise protocols.UsageError(
            f"{path}: holds seed {more[0][0]} fold {more[0][2]} of track {more[0][1]}, which the runs lack; "
            "remove it, or export elsewhere"
        )


def folds_in(content):
    return {(row["seed"], row["track"], number) for row in content["rows"] for number in row["folds"]}


def share(configs):
    """What all configurations hold, as most of them tell it: a machine or a version of the code may be another."""
    shared = dict(settings=without(configs[0]["settings"], OWN_SETTINGS))
    for name in configs[0]:
        told = [config[name] for config in configs if name in config]
        if name not in ("settings", *OWN) and len(told) == len(configs):
            shared[name] = max(told, key=told.count)
    return shared


def without(values, names):
    return {name: value for name, value in values.items() if name not in names}


def roles(config):
    """A letter for each speaker of the database: x tested, t trained on, h held out, - none of these."""
    letters = dict.fromkeys(config["database"]["speakers"], "-")
    letters.update(dict.fromkeys(config["settings"].get("held_out", ()), "h"))
    letters.update(dict.fromkeys(config["train_speakers"], "t"), **dict.fromkeys(config["test_speakers"], "x"))
    return "".join(letters.values())


def compare(fold, again, first):
    """RunError where a fold is not what would be read again."""
    settings, others = fold.config["settings"], again.config["settings"]
    for name in results.differing(settings, others, aside=OWN_SETTINGS):
        raise results.RunError(f"{fold.folder}: differs from {first.folder} in {name}; keep them in separate --runs")
    same = dict(
        predictions=fold.ids == again.ids and np.array_equal(fold.scores.argmax(1), again.scores.argmax(1)),
        emotions=np.array_equal(fold.labels, again.labels), speakers=fold.speakers.tolist() == again.speakers.tolist(),
    )  # fmt: skip
    same.update((name, value == again.config.get(name)) for name, value in fold.config.items())
    if other := [name for name in same if not same[name]]:
        raise results.RunError(
            f"{fold.folder}: its {other[0]} are not what the index of utterances gives; see evaluate.py --audit"
        )


def pack_curves(trained, curves, predictions):
    """Content of the curves' file, of trainings whose FoldCurve is in `curves`."""
    every = [curves[fold.folder] for fold in trained]
    epochs = every[0].epochs.tolist()
    for fold in trained:
        if curves[fold.folder].epochs.tolist() != epochs:
            raise results.RunError(f"{fold.folder}: was evaluated at other epochs than {trained[0].folder}")
    largest = max(int(counts.max()) for curve in every for counts in (curve.test, curve.held) if counts is not None)
    width = next(width for width in range(1, 99) if largest < len(DIGITS) ** width)
    rows = []
    for fold, curve in zip(trained, every):
        settings = fold.config["settings"]
        row = dict(seed=settings["seed"], track=settings["track"], fold=settings["fold"])
        row["loss"] = [float(f"{curve.loss[epoch - 1]:.3g}") for epoch in epochs]
        row["hits"] = as_digits(curve.test.diagonal(axis1=1, axis2=2), width)
        if curve.held is not None:
            row["held"] = as_digits(curve.held.diagonal(axis1=1, axis2=2), width)
        rows.append(row)
    return dict(format=FORMAT, predictions=predictions, width=width, epochs=epochs, rows=rows)


def as_digits(numbers, width):
    """Numbers (any shape) to the base 62, each of `width` letters, in one string."""
    base = len(DIGITS)
    return "".join(DIGITS[n // base**i % base] for n in numbers.ravel().tolist() for i in range(width - 1, -1, -1))


def from_digits(text, width, shape):
    """The numbers again; ValueError where there are other letters, or not so many."""
    if not set(text) <= set(DIGITS):
        raise ValueError("numbers with letters that are none of DIGITS")
    letters = np.array([DIGITS.index(letter) for letter in text], int)
    return (letters.reshape(*shape, width) * len(DIGITS) ** np.arange(width - 1, -1, -1)).sum(-1)


def digest_of(content):
    return hashlib.sha256(json.dumps(without(content, ["sha256"])).encode()).hexdigest()


def as_text(content):
    """JSON, sealed, with one line for each row: what one seed changes is one line."""
    content = dict(content, sha256=digest_of(content))
    parts = []
    for name, value in content.items():
        shown = json.dumps(value, indent=1 if isinstance(value, dict) else None)
        if name == "rows":
            shown = "[\n" + ",\n".join(json.dumps(row, separators=(",", ":")) for row in value) + "\n]"
        parts.append(f'"{name}": {shown}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


# ------------------------------------------------------------------------------------------- reading


def read_folds(path, track):
    """[FoldResult] of one track of an archive, by seed and fold; RunError for one that is not whole."""
    content = read(path, ARCHIVE)
    try:
        settings, database = content["shared"]["settings"], path.parent.name
        index = read_index(path, settings["utterances"])
        folds = unpack(content, index, path, track)
    except results.RunError:  # of the index
        raise
    except results.UNREADABLE as error:
        raise results.damaged(path, error, REMEDY) from None
    for fold in folds:
        if (told := results.place_of(fold)[:3]) != [database, *NAME.fullmatch(path.name).groups()]:
            raise results.RunError(f"{path}: holds {' '.join(told)}; rename it back")
    return folds


def read(path, kinds):
    """Content of a file that `as_text` made, with all of `kinds` in it."""
    try:
        content = results.read_json(path)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r:.20}, not {FORMAT}")
        if content["sha256"] != digest_of(content):
            raise ValueError("its content is not what the SHA-256 in it was made of")
        results.check_kind(content, kinds, "it")
    except results.UNREADABLE as error:
        raise results.damaged(path, error, REMEDY) from None
    return content


def unpack(content, index, path, track):
    """[FoldResult] of a track; an error of results.UNREADABLE where the content is not what `pack` makes."""
    folds, seen = [], set()
    for row in content["rows"]:
        if row["track"] not in results.TRACKS or (key := (row["seed"], row["track"])) in seen:
            raise ValueError(
                f"seed {row['seed']} of track {row['track']:.20} is there twice, or there is no such track"
            )
        seen.add(key)
        if row["track"] == track:
            folds += unpack_row(content, row, index, path)
    return folds


def unpack_row(content, row, index, path):
    """[FoldResult] of one seed and track."""
    name, letters = f"seed {row['seed']}, track {row['track']}", row["predictions"]
    if len(letters) != len(index):
        raise ValueError(f"{name}: {len(letters)} predictions for {len(index)} utterances")
    if not len(set(row["folds"])) == len(row["folds"]) == len(row["epochs"]) == len(row["speakers"]):
        raise ValueError(f"{name}: a fold is there twice, or lacks its epoch or speakers")
    if unnamed := [number for number in row["folds"] if str(number) not in content["fold_names"]]:
        raise ValueError(f"{name}: fold {unnamed[0]} has no name")
    folds, predicted = [], set()
    for number, epoch, letter_of in zip(row["folds"], row["epochs"], row["speakers"]):
        config = unpack_config(content, row, number, letter_of)
        settings, classes = config["settings"], config["database"]["classes"]
        tested = [i for i, one in enumerate(index) if one[settings["protocol"]] == settings["fold_name"]]
        config["test"] = [index[i]["utterance"] for i in tested]
        results.check_config(config)
        results.check_kind(config, MORE_CONFIG, "it")
        if not 1 <= epoch <= settings["epochs"] or (row["track"] == "last" and epoch != settings["epochs"]):
            raise ValueError(f"{name}: epoch {epoch} of {settings['epochs']}")
        answers = np.array([DIGITS.find(letters[i]) for i in tested], int)
        if not tested or answers.min() < 0 or answers.max() >= len(classes):
            raise ValueError(f"{name}: fold {number} has a prediction that is no class, or none")
        labels = np.array([classes.index(index[i]["emotion"]) for i in tested])
        names = np.array([index[i]["speaker"] for i in tested])
        scores = np.eye(len(classes), dtype=np.float32)[answers]
        folds.append(results.FoldResult(None, config, config["test"], names, labels, scores, path))
        predicted.update(tested)
    if any((letter == NOT_PREDICTED) == (i in predicted) for i, letter in enumerate(letters)):
        raise ValueError(f"{name}: predicts what none of its folds tests")
    return folds


def unpack_config(content, row, number, letter_of):
    """What config.json of one fold held, but for `test`."""
    settings = dict(
        content["shared"]["settings"], seed=row["seed"], fold=number, fold_name=content["fold_names"][str(number)],
        track="validation" if row["track"] == "validation" else "last",
    )  # fmt: skip
    config = dict(content["shared"], settings=settings, **row.get("differs", {}).get(str(number), {}))
    names = config["database"]["speakers"]
    if len(letter_of) != len(names):
        raise ValueError(
            f"seed {row['seed']}, track {row['track']}: {len(letter_of)} letters for {len(names)} speakers"
        )
    of = {letter: [name for name, one in zip(names, letter_of) if one == letter] for letter in "hxt"}
    if settings["track"] == "validation":
        settings["held_out"] = of["h"]
    return dict(config, train_speakers=of["t"], test_speakers=of["x"])


def fold_curve(fold):
    """FoldCurve of a FoldResult, in its folder or archived; RunError where its curves are missing or damaged.

    Of an archive the confusions have the right diagonal and rows, which WAR and UAR rest on; where the misses went is
    not kept. Between the evaluated epochs the loss is a straight line.
    """
    if not fold.archive:
        return results.read_curve(fold)
    path, settings = curves_path(fold.archive), fold.config["settings"]
    content, curves, index = read_with_curves(fold.archive, stamp(fold.archive), stamp(path))
    seed, number, track = settings["seed"], settings["fold"], settings["track"]
    try:
        told = dict(seed=seed, track=track, fold=number)
        row = next((row for row in curves["rows"] if row.items() >= told.items()), None)
        if row is None:
            raise ValueError(f"lacks seed {seed}, fold {number}")
        epochs, classes = curves["epochs"], fold.config["database"]["classes"]
        loss = np.interp(np.arange(settings["epochs"]) + 1, epochs, row["loss"], left=np.nan)
        how = (curves["width"], len(epochs))
        test, held = confusions_up_to_misses(row["hits"], *how, fold.labels, len(classes)), None
        if track == "validation":
            labels = [classes.index(one["emotion"]) for one in index if one["speaker"] in settings["held_out"]]
            held = confusions_up_to_misses(row["held"], *how, np.array(labels, int), len(classes))
        chosen = {
            one["track"]: epochs.index(one["epochs"][one["folds"].index(number)])
            for one in content["rows"]
            if one["seed"] == seed and (one["track"] == "validation") == (track == "validation")
        }
    except results.UNREADABLE as error:
        raise results.damaged(path, error, REMEDY) from None
    return results.FoldCurve(seed, loss, np.array(epochs), test, held, chosen)


@lru_cache(maxsize=1)  # of the archive whose folds are being read
def read_with_curves(path, *stamps):
    """Content of both files of an archive, and its index; read again where another of their `stamps` is given."""
    content, curves = read(path, ARCHIVE), read(curves_path(path), CURVES)
    if curves["predictions"] != content["sha256"]:
        raise results.damaged(curves_path(path), f"goes with another {path.name}", REMEDY)
    return content, curves, read_index(path, content["shared"]["settings"]["utterances"])


def stamp(path):
    """What is another once a file is written anew; None where it is missing."""
    with suppress(OSError):
        told = path.stat()
        return told.st_ino, told.st_mtime_ns, told.st_size


def confusions_up_to_misses(text, width, epochs, labels, classes):
    """Confusion counts (E, K, K) whose misses all stand in one column, from hits as `as_digits` writes them."""
    hits, every = from_digits(text, width, (epochs, classes)), np.bincount(labels, minlength=classes)
    if (hits > every).any():
        raise ValueError("more hits than utterances")
    number, matrices = np.arange(classes), np.zeros((epochs, classes, classes), int)
    matrices[:, number, number] = hits
    matrices[:, number, (number + 1) % classes] = every - hits
    return matrices
