"""Prove results from their saved files alone; `python evaluate.py --audit` prints what this finds.

It is written apart from the evaluator and shares as little as it can with it: scores are read and counted in
plain Python here, so that a mistake in either shows as a difference. For each run (database, model, protocol,
track, seed) it checks that

- every file is the one that the marker of completion sealed, and lies in the folder that its settings name;
- the index of utterances has the digest that the settings tell, and the predictions its labels and speakers;
- every utterance is predicted exactly once over the folds, and all folds are there;
- no tested speaker was trained on, held out or part of the statistics;
- the scores are those of one epoch: the last, or for the validation track the best on the held-out speakers;
- the checkpoint tells the settings, classes and epoch of its fold, and holds weights alone;
- the folds share settings, recordings and database, and record their code;
- WAR and UAR, counted again, are the evaluator's.
"""

import csv
import hashlib
import json
import math

import numpy as np

import results
from protocols import digest_of

PER_CENT = 1e-9  # agreement of two ways to count the same
FIGURES = (
    "war", "uar", "war_std", "uar_std", "war_speakers", "uar_speakers", "war_utterances", "uar_utterances",
    "fold_war", "fold_uar", "folds_done", "folds_total", "seeds", "utterances", "confusion", "classes", "partial",
)  # fmt: skip
ROUNDING = 0.005  # of a figure printed with two decimals


def check_runs(runs, figures):
    """Yield (line, is a fault) for every run below `runs`.

    `figures(database, model, protocol, track, seeds)` gives the evaluator's summary of a run.
    """
    rows = {}
    for track in ("last", "validation"):
        for database, model, protocol, seed, number, folder in results.find_folds(runs, track):
            rows.setdefault((database, model, protocol, track, seed), {})[number] = folder
    if not rows:
        yield f"{runs}: holds no runs", True
    for key, folders in sorted(rows.items()):
        name = "{} {} {} {} seed {}".format(*key)
        faults = list(check_row(runs, key, folders, figures))
        for fault in faults:
            yield f"FAULT {name}: {fault}", True
        if not faults:
            yield f"ok    {name}: {len(folders)} folds", False


def check_row(runs, key, folders, figures):
    """Faults of one run: {fold number: folder}."""
    database, model, protocol, track, seed = key
    predicted, first, sound = {}, None, True
    for number, folder in sorted(folders.items()):
        faults = list(check_fold(runs, key, number, folder))
        yield from faults
        if faults:
            sound = False
            continue
        fold = results.read_fold(folder)
        first = first or fold
        for name, value in fold.config["settings"].items():
            if (name not in results.FOLD_SETTINGS or name == "seed") and value != first.config["settings"][name]:
                yield f"{folder}: {name} is not that of {first.folder}"
                sound = False
        if fold.config["code"] != first.config["code"]:
            yield f"{folder}: was trained by another version of the code than {first.folder}"
            sound = False
        for utterance, row in read_rows(folder).items():
            if utterance in predicted:
                yield f"{folder}: predicts {utterance}, as another fold does"
                sound = False
            predicted[utterance] = row
    if not sound or first is None:
        return
    total = first.config["folds_total"]
    missing = sorted(set(range(1, total + 1)) ^ set(folders))
    if missing:
        yield f"{folders[min(folders)].parent}: {len(folders)}/{total} folds, fold {missing[0]} is missing or too many"
        return
    index = read_index(runs, database, first.config["settings"]["utterances"])
    if set(index) != set(predicted):
        odd = sorted(set(index) ^ set(predicted))[0]
        yield f"{folders[1].parent}: {odd} is in the predictions or the database alone"
        return
    war, uar = count(predicted.values(), first.config["database"]["classes"])
    ours = figures(database, model, protocol, track, [seed])
    if ours is None or abs(ours.war - war) > PER_CENT or abs(ours.uar - uar) > PER_CENT:
        yield f"{folders[1].parent}: WAR {war:.4f} and UAR {uar:.4f} are not the table's"


def check_fold(runs, key, number, folder):
    """Faults of one fold; the first that makes others meaningless ends the list."""
    try:
        marker = json.loads((folder / results.MARKER).read_text())
        for name, digest in marker["files"].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                yield f"{folder / name}: is not the file that was finished"
                return
        epoch, trained_on = marker["epoch"], set(marker["trained_on"])
        if missing := sorted(results.SEALED - set(marker["files"])):
            yield f"{folder / missing[0]}: is not among the files that were finished"
            return
    except FileNotFoundError as error:
        yield f"{error.filename}: is missing, the fold is not finished"
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        yield f"{folder / results.MARKER}: is damaged"
        return
    try:
        fold = results.read_fold(folder)
        settings, kept = fold.config["settings"], results.read_epochs(folder)
        index = read_index(runs, key[0], settings["utterances"])
        rows = read_rows(folder)
        yield from compare_fold(key, number, fold, epoch, trained_on, kept, index, rows)
        yield from compare_checkpoint(fold, epoch)
    except results.RunError as error:
        yield str(error)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        yield f"{folder / 'config.json'}: lacks what the audit needs ({error!r})"


def compare_fold(key, number, fold, epoch, trained_on, kept, index, rows):
    folder, config, settings = fold.folder, fold.config, fold.config["settings"]
    database, model, protocol, track, seed = key
    told = (
        config["database"]["name"],
        settings["model"],
        settings["protocol"],
        settings["track"],
        settings["seed"],
        settings["fold"],
    )
    if told != (*key, number):
        yield f"{folder}: holds {told}, its place says {(*key, number)}"
    if index is None:
        path = results.index_path(folder.parents[4], database, settings["utterances"])
        yield f"{path}: is missing, or is not the database that was trained on"
        return
    for utterance, row in rows.items():
        if index.get(utterance) != (row["emotion"], row["speaker"]):
            yield f"{folder / 'predictions.csv'}: emotion or speaker of {utterance} is not the database's"
            return
    if len(rows) < len(fold.ids):
        yield f"{folder / 'predictions.csv'}: predicts an utterance twice"
    tested = {row["speaker"] for row in rows.values()}
    held = set(settings.get("held_out", ()))
    if tested != set(config["test_speakers"]) or trained_on != set(config["train_speakers"]):
        yield f"{folder / 'config.json'}: names other speakers than were tested or trained on"
    if both := sorted(tested & trained_on | tested & held | trained_on & held):
        yield f"{folder}: speaker {both[0]} is on both sides of the fold"
    if {speaker for _, speaker in index.values()} != tested | trained_on | held:
        yield f"{folder}: a speaker of the database is neither trained on nor tested"
    due = settings["epochs"]
    if track == "validation":
        due = int(kept["epochs"][results.best_epoch(kept["validation_labels"], kept["validation"])])
    if epoch != due:
        yield f"{folder}: its scores are of epoch {epoch}, not {due}"
    elif not np.array_equal(kept["scores"][kept["epochs"].tolist().index(epoch)], fold.scores):
        yield f"{folder / 'predictions.csv'}: is not the scores of epoch {epoch} in epochs.npz"
    if not config["code"] or not config["machine"]["torch"]:
        yield f"{folder / 'config.json'}: does not tell the code and versions"


def compare_checkpoint(fold, epoch):
    path = fold.folder / "checkpoint.pt"
    checkpoint = results.read_checkpoint(path)
    for name, told in (
        ("settings", fold.config["settings"]),
        ("classes", fold.config["database"]["classes"]),
        ("epoch", epoch),
    ):
        if checkpoint.get(name) != told:
            yield f"{path}: is of other {name} than its fold"


# --------------------------------------------------------------------------------------- plain reading


def read_rows(folder):
    """utterance -> row of predictions.csv."""
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return {row["utterance"]: row for row in csv.DictReader(file)}


def read_index(runs, database, digest):
    """utterance -> (emotion, speaker), or None if the index is missing or its digest is another."""
    try:
        with open(results.index_path(runs, database, digest), newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if digest_of((row["utterance"], row["emotion"], row["speaker"], row["session"]) for row in rows)[:16] != digest:
            return None
        return {row["utterance"]: (row["emotion"], row["speaker"]) for row in rows}
    except (OSError, ValueError, KeyError):
        return None


def count(rows, classes):
    """WAR and UAR in per cent, one utterance at a time."""
    right, every = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for row in rows:
        guess = max(classes, key=lambda label: float(row[label]))  # the first of equals, as argmax
        every[row["emotion"]] += 1
        right[row["emotion"]] += guess == row["emotion"]
    recalls = [right[label] / every[label] for label in classes if every[label]]
    return 100 * sum(right.values()) / sum(every.values()), 100 * sum(recalls) / len(recalls)


# ------------------------------------------------------------------------------- tables and published figures


def check_table(path, figures, published):
    """Yield a line for each figure of a table, saved with --format json, that the saved predictions do not give."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
        rows = [row for row in rows if row["table"] in ("comparison", "ablation")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield f"FAULT {path}: is no table saved with --format json ({error})"
        return
    known = {(row["source"], row["database"], row["method"]): (row["war"], row["uar"]) for row in published}
    yield from (f"FAULT {path}: {line}" for line in missing_rows(rows, published))
    for row in rows:
        place = f"FAULT {path}: {row.get('source')}, {row.get('database')}, {row.get('method')}"
        told = (row.get("published_war"), row.get("published_uar"))
        if told != known.get((row.get("source"), row.get("database"), row.get("method")), (None, None)):
            yield f"{place}: published figures are not the paper's"
        shown = row.get("war") is not None
        if not (shown or row.get("model")):  # a method of others
            continue
        place_of_run = [row.get(name) for name in ("database", "model", "protocol", "track", "seeds")]
        seeds, names = place_of_run[-1], place_of_run[:-1]
        named = all(isinstance(name, str) for name in names) and names[-1] in results.TRACKS
        if not named or not (seeds and isinstance(seeds, list) if shown else seeds is None or isinstance(seeds, list)):
            yield f"{place}: does not say which runs its figures are of"
            continue
        ours = figures(*place_of_run)
        if ours is None and not shown:
            continue
        again = {} if ours is None else vars(ours)
        for name in FIGURES:
            if not agree(row.get(name), again.get(name)):
                yield f"{place}: {name} is {row.get(name)}, the saved predictions give {again.get(name)}"


def missing_rows(rows, published):
    """Yield a line for each method that a table of the papers holds and the saved one leaves out."""
    columns = {}  # of one track: (table, source, database, protocol, track) -> methods
    for row in rows:
        key = tuple(str(row.get(name)) for name in ("table", "source", "database", "protocol", "track"))
        columns.setdefault(key, set()).add(row.get("method"))
    for (kind, source, database, _, track), methods in columns.items():
        for row in published:
            if (row["kind"], row["source"], row["database"]) == (kind, source, database):
                if row["method"] not in methods:
                    yield f"{source}, {database}, track {track}: lacks {row['method']}"


def agree(told, again):
    """Are two figures the same, or lists of figures?"""
    if isinstance(told, list) and isinstance(again, list):
        return len(told) == len(again) and all(map(agree, told, again))
    if isinstance(told, (int, float)) and isinstance(again, (int, float)):
        return math.isclose(told, again, abs_tol=PER_CENT)
    return told == again


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
