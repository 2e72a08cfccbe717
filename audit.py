"""Check results from their saved files alone; `python evaluate.py --audit` prints what this finds.

It proves that what the runs recorded of themselves is whole and agrees: with the index of utterances, with the
rules that README.md states, and with the figures of the tables. It cannot prove that the recorded scores are those
of the recordings; only repeating the training can. For each fold it checks that

- every file is the one that the marker of completion sealed, and lies in the folder that its settings name;
- the index of utterances has the digest that the settings tell, and the fold tests one speaker (or session) of it;
- no tested speaker was trained on, held out or part of the statistics that training used (`--normalization speaker`
  gives it statistics of its own, and its deviations say so), and who is held out follows the rule;
- what is told of the database, and the deviations from the paper, are what the index and the settings give;
- the evaluated epochs are all that were due, and the scores are those of one of them: the last, or for the
  validation track the best on the held-out speakers;
- the log tells a finite loss of every epoch, and the checkpoint is a model of that epoch, fold and settings;

for each run that all folds are there, and that WAR and UAR, counted again, are the evaluator's; and for the seeds
of a row that they share settings, recordings, database and code, and are not copies of each other.

Of an archive (archive.py) it proves that it is whole, and of the above what needs no checkpoint, log or score. Folds
of a row are audited together, whether they lie in folders or in an archive.

Shared with the evaluator are the readers of `results.py` and `archive.py`, which refuse a damaged file, the choice
of the best epoch, and for checkpoints the reader of `predict.py`. Folds, the rule of holding out, the counts of a
database and the figures are made here anew, in plain Python, so that a mistake in either shows as a difference. Saved
tables are checked in `audit_table.py`.
"""

import csv
import hashlib
import math
import re
from collections import Counter
from contextlib import suppress

import numpy as np

import archive
import features
import predict
import protocols
import recipes
import results

PER_CENT = 1e-9  # agreement of two ways to count the same
ROUNDING = 0.005  # of a figure printed with two decimals
CODE = {"features.py", "protocols.py", "models.py", "engine.py", "train.py", "results.py"}  # that every run tells
HELD_OUT = 5  # README: one training speaker of five is held out
ODD = (results.RunError, *results.UNREADABLE)


def check_runs(runs, figures):
    """Yield (line, is a fault) for every run below `runs`.

    `figures(database, model, protocol, track, seeds)` gives the evaluator's summary of a run, or of all with None.
    """
    rows, archives = folders_of(runs), archive.find(runs)
    if not rows and not archives:
        yield f"{runs}: holds no runs", True
    for *place, path in archives:
        try:
            add_archive(rows, place, path)
        except results.RunError as error:
            yield f"FAULT {error}", True
        else:
            if not any(key[:3] == tuple(place) for key in rows):
                yield f"FAULT {path}: holds no fold", True
    for key, seeds in sorted(rows.items()):
        sound = {}  # seed -> [FoldResult]
        for seed, folds in sorted(seeds.items()):
            name = "{} {} {} {} seed {}".format(*key, seed)
            sound[seed], faults = check_run(runs, (*key, seed), folds, figures)
            yield from ((f"FAULT {name}: {fault}", True) for fault in faults)
            if not faults:
                archived = sum(map(is_archived, folds.values()))
                how = ", archived" if archived == len(folds) else f", {archived} of them archived" if archived else ""
                yield f"ok    {name}: {len(folds)} folds{how}", False
        for fault in check_row(key, sound, figures):
            yield f"FAULT {' '.join(key)}: {fault}", True
    for *_, path in archives:
        yield f"note  {path}: checkpoints, logs, and who was trained on, can only be audited in the run folders", False


def folders_of(runs):
    """(database, model, protocol, track) -> seed -> fold number -> folder."""
    rows = {}
    for track in results.TRAINED:
        for database, model, protocol, seed, number, folder in results.find_folds(runs, track):
            rows.setdefault((database, model, protocol, track), {}).setdefault(seed, {})[number] = folder
    return rows


def add_archive(rows, place, path):
    """Add the folds of an archive as FoldResult to those in folders: a row, and a seed, may lie in both.

    The oracle of a folder is audited as `last`; its folder is added, so that the others' oracle is not missing it.
    """
    for track in results.TRACKS:
        for fold in archive.read_folds(path, track):
            settings = fold.config["settings"]
            folds = rows.setdefault((*place, track), {}).setdefault(settings["seed"], {})
            folds.setdefault(settings["fold"], fold)  # one that is in a folder too is told by the evaluator
    for seed, folds in rows.get((*place, "oracle"), {}).items():
        for number, fold in rows.get((*place, "last"), {}).get(seed, {}).items():
            if not is_archived(fold):
                folds[number] = fold


def is_archived(fold):
    return isinstance(fold, results.FoldResult)


def check_run(runs, key, folds, figures):
    """One run, {fold number: its folder, or FoldResult of an archive}: [FoldResult] without fault, and the faults."""
    sound, faults = [], []
    for number, fold in sorted(folds.items()):
        if key[3] == "oracle" and not is_archived(fold):
            continue  # audited as `last`
        found = list(check_archived(fold) if is_archived(fold) else check_fold(runs, (*key, number), fold))
        faults += found
        if not found:
            sound.append(fold if is_archived(fold) else results.read_fold(fold))
    if not faults and sound:
        config, place = sound[0].config, sound[0].archive or sound[0].folder.parent
        if missing := sorted(set(range(1, config["folds_total"] + 1)) - folds.keys()):
            faults.append(f"{place}: {len(folds)}/{config['folds_total']} folds, fold {missing[0]} is missing")
        elif len(sound) == len(folds):
            war, uar = count([row for fold in sound for row in read_rows(fold)], config["database"]["classes"])
            ours = None
            with suppress(results.RunError):  # told by check_row, of all seeds
                ours = figures(*key[:4], [key[4]])
            if ours is None or abs(ours.war - war) > PER_CENT or abs(ours.uar - uar) > PER_CENT:
                faults.append(f"{place}: WAR {war:.4f} and UAR {uar:.4f} are not the table's")
    return sound, faults


def check_row(key, sound, figures):
    """Faults of the seeds of a row beside each other: {seed: [FoldResult]}, without the folds that are faulty."""
    folds = [fold for seed in sound for fold in sound[seed]]
    for fold in folds[1:]:
        first, told = shared(folds[0].config), shared(fold.config)
        for name in first | told:
            if first.get(name) != told.get(name):
                yield f"{results.name_of(fold)}: {name} is not that of {results.name_of(folds[0])}"
    copies = {}  # of an archive the classes alone are known, which may well be alike
    for seed, its_folds in sound.items():
        scored = [fold for fold in its_folds if not fold.archive]
        content = tuple((fold.config["settings"]["fold"], fold.scores.tobytes()) for fold in scored)
        if content and (other := copies.setdefault(content, seed)) != seed:
            yield f"{scored[0].folder.parent}: has the very scores of seed {other}"
    try:
        figures(*key, None)
    except results.RunError as error:
        yield f"the evaluator refuses it: {error}"


def shared(config):
    """What all folds of a row have in common."""
    settings = {name: value for name, value in config["settings"].items() if name not in results.FOLD_SETTINGS}
    return dict(settings, **{name: config[name] for name in ("code", "database", "folds_total")})


def check_archived(fold):
    """Faults of one fold of an archive, as far as it tells."""
    try:
        index = archive.read_index(fold.archive, fold.config["settings"]["utterances"])
        yield from compare_database(fold, index)
        yield from compare_speakers(fold, index, set(fold.config["train_speakers"]))
        yield from compare_settings(fold)
    except ODD as error:
        yield f"{results.name_of(fold)}: lacks what the audit needs ({error!r:.200})"


# ------------------------------------------------------------------------------------------- one fold


def check_fold(runs, place, folder):
    """Faults of one fold; one that makes others meaningless ends the list.

    `place`: database, model, protocol, track, seed and number, as the folder's path tells them.
    """
    try:
        marker = results.read_json(folder / results.MARKER)
        files, epoch, trained_on = marker["files"], marker["epoch"], set(marker["trained_on"])
        for name, digest in files.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                yield f"{folder / name}: is not the file that was finished"
                return
    except FileNotFoundError as error:
        yield f"{error.filename}: is missing, the fold is not finished"
        return
    except ODD:
        yield f"{folder / results.MARKER}: is damaged"
        return
    if missing := sorted(results.SEALED - set(files)):
        yield f"{folder / missing[0]}: is not among the files that were finished"
        return
    try:
        fold = results.read_fold(folder)
        settings = fold.config["settings"]
        told = (
            fold.config["database"]["name"],
            *(settings[name] for name in ("model", "protocol", "track", "seed", "fold")),
        )
        if told != place:
            yield f"{folder}: holds {told}, its place says {place}"
            return
        index = results.read_index(runs, place[0], settings["utterances"])
        yield from compare_database(fold, index)
        yield from compare_speakers(fold, index, trained_on)
        yield from compare_settings(fold)
        yield from compare_log(fold)
        yield from compare_scores(fold, index, epoch)
        yield from compare_checkpoint(fold, epoch)
    except results.RunError as error:
        yield str(error)
    except results.UNREADABLE as error:
        yield f"{folder / 'config.json'}: lacks what the audit needs ({error!r:.200})"


def compare_database(fold, index):
    """Is what is told of the database, its counts and whether it is whole, what the index gives?"""
    told = fold.config["database"]
    corpus, found = protocols.DATABASES.get(told["name"]), Counter(row["emotion"] for row in index)
    sizes = Counter(row["speaker"] for row in index)
    classes, partial = sorted(found), False
    if corpus:
        classes = [label for label in corpus.classes if label in found]
        published = corpus.speaker_sizes or [sizes[name] for name in sorted(sizes)]
        partial = found != Counter(corpus.classes) or len(sizes) != corpus.speakers
        partial = partial or [sizes[name] for name in sorted(sizes)] != list(published)
    given = dict(
        language=corpus.language if corpus else "", classes=classes, counts={label: found[label] for label in classes},
        speakers=sorted(sizes), utterances=len(index), partial=partial,
    )  # fmt: skip
    for name, value in given.items():
        if told[name] != value:
            yield f"{results.name_of(fold, 'config.json')}: {name} is {told[name]}, the index gives {value}"


def compare_speakers(fold, index, trained_on):
    """Does the fold test one speaker or session, and keep it apart from those trained on and held out?"""
    config, settings = fold.config, fold.config["settings"]
    folder, path, predicted = (results.name_of(fold, file) for file in ("", "config.json", "predictions.csv"))
    protocol, speakers = settings["protocol"], {row["speaker"] for row in index}
    if protocol not in protocols.PROTOCOLS:
        yield f"{folder}: {protocol} is no protocol"
        return
    groups = sorted({row[protocol] for row in index}, key=natural)
    number, name, total = settings["fold"], settings["fold_name"], config["folds_total"]
    if total != len(groups) or name != dict(enumerate(groups, 1)).get(number):
        yield f"{path}: fold {number} of {total} is not {protocol} {name} of the index"
        return
    due = [row for row in index if row[protocol] == name]
    if odd := sorted((Counter(fold.ids) - Counter(row["utterance"] for row in due)).elements()):
        yield f"{predicted}: predicts {odd[0]} twice, or it is not of {protocol} {name}"
        return
    if fold.ids != [row["utterance"] for row in due]:
        odd = [row["utterance"] for row in due if row["utterance"] not in fold.ids]
        yield f"{predicted}: " + (f"lacks {odd[0]}" if odd else "is not in the order of the index")
        return
    for row, emotion, speaker in zip(due, fold.labels, fold.speakers):
        if (row["emotion"], row["speaker"]) != (config["database"]["classes"][emotion], speaker):
            yield f"{predicted}: emotion or speaker of {row['utterance']} is not the database's"
            return
    tested, held = {row["speaker"] for row in due}, set(settings.get("held_out", ()))
    if tested != set(config["test_speakers"]) or trained_on != set(config["train_speakers"]):
        yield f"{path}: names other speakers than were tested or trained on"
    if both := sorted(tested & trained_on | tested & held | trained_on & held):
        yield f"{folder}: speaker {both[0]} is on both sides of the fold"
    if speakers != tested | trained_on | held:
        yield f"{folder}: a speaker of the database is neither trained on nor tested"
    rule = held_by_rule(speakers, tested, settings["seed"]) if settings["track"] == "validation" else set()
    if held != rule:
        yield f"{path}: holds out {sorted(held)}, the rule says {sorted(rule)}"


def held_by_rule(speakers, tested, seed):
    """Of the speakers in a circle, those after the tested one: one in five, moved on by as many for each seed."""
    circle = sorted(speakers, key=natural)
    after = circle.index(max(tested, key=natural)) + 1
    others = [name for name in circle[after:] + circle[:after] if name not in tested]
    number = max(1, round(len(others) / HELD_OUT))
    return {others[(seed * number + i) % len(others)] for i in range(number)}


def compare_settings(fold):
    """Are the deviations from the paper those of the settings, and is it told what code was run?"""
    config, settings, path = fold.config, fold.config["settings"], results.name_of(fold, "config.json")
    if missing := sorted(set(recipes.ALWAYS) - set(settings)):
        yield f"{path}: does not tell {missing[0]}"
        return
    due = recipes.deviations_of(settings)
    if config["deviations"] != due:
        yield f"{path}: tells the deviations {config['deviations']}, its settings give {due}"
    if features.FrontEnd(**settings["front_end"]) != recipes.front_end_of(settings["model"], settings):
        yield f"{path}: front_end is not that of {settings['model']}"
    versions = config["code"]
    if not CODE <= set(versions) or not all(re.fullmatch("[0-9a-f]{16}", version) for version in versions.values()):
        yield f"{path}: does not tell the code, 16 digits of each of {', '.join(sorted(CODE))}"
    if not config["machine"]["torch"]:
        yield f"{path}: does not tell the version of torch"


def compare_log(fold):
    """Does the log hold a finite loss of every epoch?"""
    path, epochs = fold.folder / "log.csv", fold.config["settings"]["epochs"]
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        sound = header == ["epoch", "loss", "seconds"] and all(len(row) == 3 for row in rows)
        sound = sound and all(math.isfinite(float(value)) for row in rows for value in row)
        sound = sound and len(rows) == epochs and [int(row[0]) for row in rows] == list(range(1, epochs + 1))
    except results.UNREADABLE:
        sound = False
    if not sound:
        yield f"{path}: does not tell a finite loss of each of {epochs} epochs"


def compare_scores(fold, index, epoch):
    """Are all epochs kept that were due, and are the predictions the scores of the right one?"""
    folder, settings, kept = fold.folder, fold.config["settings"], results.read_epochs(fold.folder)
    path, epochs, last = folder / "epochs.npz", kept["epochs"].tolist(), settings["epochs"]
    every = settings["eval_every"]
    before = range(every, last, every) if every else ()  # the last one
    if len(epochs) != len(before) + 1 or epochs != [*before, last]:
        yield f"{path}: holds {len(epochs)} epochs, not every {every}th up to {last} and the last"
        return
    due = last
    if settings["track"] == "validation":
        held, classes = set(settings["held_out"]), fold.config["database"]["classes"]
        labels = [classes.index(row["emotion"]) for row in index if row["speaker"] in held]
        if kept["validation_labels"].tolist() != labels:
            yield f"{path}: validation_labels are not those of the held-out speakers' utterances"
            return
        due = epochs[results.best_epoch(kept["validation_labels"], kept["validation"])]
    if epoch != due:
        yield f"{folder}: its scores are of epoch {epoch}, not {due}"
    elif not np.array_equal(kept["scores"][epochs.index(epoch)], fold.scores):
        yield f"{folder / 'predictions.csv'}: is not the scores of epoch {epoch} in epochs.npz"


def compare_checkpoint(fold, epoch):
    """Is the checkpoint a model that can be used, of this fold and epoch?"""
    path, config = fold.folder / "checkpoint.pt", fold.config
    predict.load_model(fold.folder, "cpu")
    checkpoint = results.read_checkpoint(path)
    told = dict(settings=config["settings"], classes=config["database"]["classes"], epoch=epoch, code=config["code"])
    for name, value in told.items():
        try:
            same = bool(checkpoint.get(name) == value)
        except results.DAMAGED:  # tensors in place of numbers
            same = False
        if not same:
            yield f"{path}: is of other {name} than its fold"


# --------------------------------------------------------------------------------------- plain reading


def natural(name):
    """Sort key: speaker 2 before speaker 10, and among equals as they are spelt."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def read_rows(fold):
    """(emotion, scores, in predictions.csv as text) of each utterance of a fold."""
    if fold.archive:
        classes = fold.config["database"]["classes"]
        return [(classes[label], scores) for label, scores in zip(fold.labels, fold.scores)]
    with open(fold.folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return [(row[2], row[3:]) for row in csv.reader(file)][1:]


def count(rows, classes):
    """WAR and UAR in per cent, one utterance at a time."""
    right, every = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for emotion, scores in rows:
        guess = max(zip(classes, map(float, scores)), key=lambda one: one[1])[0]  # the first of equals, as argmax
        every[emotion] += 1
        right[emotion] += guess == emotion
    recalls = [right[label] / every[label] for label in classes if every[label]]
    return 100 * sum(right.values()) / sum(every.values()), 100 * sum(recalls) / len(recalls)


# ------------------------------------------------------------------------------------- published figures


def fractions(published, databases):
    """Yield a line for each published WAR of the papers' own models: is it k/N of its database?"""
    seen = set()
    for row in published:
        key = (row["database"], row["model"], row["war"])
        if not row["model"] or key in seen:
            continue
        seen.add(key)
        number = sum(databases[row["database"]].classes.values())
        k = round(row["war"] * number / 100)
        fits = abs(100 * k / number - row["war"]) <= ROUNDING + 1e-9
        how = f"is {k}/{number}" if fits else f"is no k/{number}: {k}/{number} is {100 * k / number:.3f}"
        yield f"published {row['source']}, {row['database']}, {row['method']}: WAR {row['war']:.2f} {how}"
