"""Check results from their saved files alone; `python evaluate.py --audit` prints what this finds.

It proves that saved results agree with themselves, with the index of utterances and with the tables. It cannot prove
that the saved scores are those of the recordings; only repeating the training can. Checked are

    of a fold   its files are those that done.json seals, and lie in the folder that its settings name; it tests
                exactly the utterances of its speaker or session in the index; tested, trained and held-out speakers are
                disjoint and complete, and who is held out follows the rule; the facts of the database are what the
                index gives, the deviations and a user's method what the settings give
    trained in  all evaluated epochs are there, with a finite loss; predictions.csv holds the scores of the epoch that
    epochs      its track chooses; checkpoint.pt is of that epoch and these settings
    of a seed   all folds are there; WAR and UAR, counted again, are those of the tables
    of a row    its seeds are no copies of each other; WAR, UAR and their standard deviations are those of the tables,
                and the tables do not refuse it, as they do for seeds of different settings

Published results (reporting/published.py) hold classes instead of scores, and no weights: they are checked as far as
that goes. The readers of saved files, the rule for the best epoch and the published counts of a corpus are shared with
the evaluator; folds, held-out speakers and all rates are made again here, in plain Python.
"""

from collections import Counter
from itertools import zip_longest
from statistics import fmean, stdev

import numpy as np

import features
from common import config, methods
from common.methods import PAPER_SETTINGS
from common.runs import (
    DONE_FILE, METHOD_FILE, REMEDY, REQUIRED_FILES, TRACKS, FoldResult, RunError, best_epoch, find_folds, read_curve,
    read_epochs, read_fold, read_json, reading, sha256_of,
)  # fmt: skip
from protocols import DATABASES, count_differences, natural_order
from reporting import published

TOLERANCE = 1e-9  # per cent, between two ways to count the same
ROUNDING = 0.005  # per cent, of a figure printed with two decimals
SPEAKERS_PER_HELD_OUT = 5  # a fifth of the training speakers is held out, at least one
FILES_OF_TRAINING = {"log.csv", "epochs.npz", "checkpoint.pt"}


def check_runs(folder, summary_of, db=None, protocol=None):
    """Yield (line, is_fault) for each seed and each row below a folder; of one database or protocol if given.

    `summary_of(database, model, protocol, track, seeds)` gives the Summary that a table shows, for None of all seeds.
    """
    rows, faults = find_rows(folder, db, protocol)
    if not rows and not faults:
        faults = [f"{folder}: holds no runs{f' of {db}' if db else ''}"]
    yield from ((f"FAULT {fault}", True) for fault in faults)
    for key, seeds in sorted(rows.items()):
        row = {}  # seed -> its folds, of the seeds without fault
        for seed, sources in sorted(seeds.items()):
            folds, faults = check_seed(key, seed, sources)
            if not faults:
                row[seed] = folds
                faults = list(check_results(summary_of, key, [seed], row))
            name = f"{' '.join(key)} seed {seed}"
            yield from ((f"FAULT {name}: {fault}", True) for fault in faults)
            if not faults:
                yield f"ok    {name}: {len(folds)} folds{', published' if folds[0].is_published else ''}", False
        for fault in (*find_copies(row), *check_results(summary_of, key, None, row)):
            yield f"FAULT {' '.join(key)}: {fault}", True
    if any(
        isinstance(fold, FoldResult) for seeds in rows.values() for folds in seeds.values() for fold in folds.values()
    ):
        yield "note  of published results, epochs, scores and checkpoints can only be checked in the run folders", False


def find_rows(folder, db, protocol):
    """Results, {(database, model, protocol, track): {seed: {fold: its folder or FoldResult}}}, and damaged files."""
    rows, faults = {}, []

    def is_wanted(database, its_protocol):
        return db in (None, database) and protocol in (None, its_protocol or protocol)

    def add(key, seed, number, source):
        rows.setdefault(key, {}).setdefault(seed, {}).setdefault(number, source)

    for track in TRACKS:  # the oracle is chosen among the epochs of `last`
        for database, model, its_protocol, seed, number, path in find_folds(folder, track):
            if is_wanted(database, its_protocol) and (track != "oracle" or (path / "epochs.npz").is_file()):
                add((database, model, its_protocol, track), seed, number, path)
    for database, model, its_protocol, path in published.find(folder):
        for track in TRACKS if is_wanted(database, its_protocol) else ():
            try:
                for fold in published.read_folds(path, track, model, its_protocol):
                    add((database, model, its_protocol, track), *fold.key()[3:], fold)
            except RunError as error:
                faults += [str(error)] if str(error) not in faults else []
    return rows, faults


# ------------------------------------------------------------------------------------- a seed and a row


def check_seed(key, seed, sources):
    """FoldResults of a seed without fault, and faults of the others; sources: {fold: its folder or FoldResult}."""
    folds, faults = [], []
    for number, source in sorted(sources.items()):
        try:
            fold, done = (source, None) if isinstance(source, FoldResult) else open_fold(source)
            if key[3] == "oracle" and done:  # its folder is checked as `last`
                scores = read_epochs(source)["scores"]
                found = []
                fold = fold._replace(scores=scores[best_epoch(fold.labels, scores)])
            else:
                with reading(fold.name("config.json")):  # settings of an unexpected kind
                    found = list(check_fold(fold, done, (*key[:3], seed, number), key[3]))
        except RunError as error:
            found = [str(error)]
        faults += found
        folds += [] if found else [fold]
    if not faults and len(folds) < (total := folds[0].config.folds_total):
        missing = min(set(range(1, total + 1)) - set(sources))
        faults.append(f"{len(folds)}/{total} folds, fold {missing} is missing")
    return folds, faults


def find_copies(row):
    """Yield seeds that are copies of another; row: {seed: [FoldResult]}."""
    seed_of = {}
    for seed, folds in row.items():
        scored = [fold for fold in folds if not fold.is_published and "epochs" in fold.config.settings]
        content = tuple((fold.config.settings["fold"], fold.scores.tobytes()) for fold in scored)
        if content and seed_of.setdefault(content, seed) != seed:
            yield f"{scored[0].source.parent}: has the very scores of seed {seed_of[content]}"


def check_results(summary_of, key, seeds, row):
    """Yield a fault where a table shows other rates than are counted here, or refuses them."""
    try:
        shown = summary_of(*key, seeds)
    except RunError as error:
        yield f"the tables refuse it: {error}"
        return
    if seeds and shown is None:
        yield "is in no table"
    if shown is None or not set(shown.seeds) <= set(row):
        return  # the seed that is missing here has faults of its own
    for name in ("war", "uar"):
        pooled = [recount(row[seed])[name] for seed in shown.seeds]
        by_fold = [fmean(recount([fold])[name] for fold in row[seed]) for seed in shown.seeds]
        counted = {name: fmean(pooled), f"fold_{name}": fmean(by_fold)}
        if len(pooled) > 1:
            counted[f"{name}_std"] = stdev(pooled)
        for part, value in counted.items():
            if not abs(getattr(shown, part) - value) <= TOLERANCE:
                yield f"{part} is {value:.4f}, the table has {getattr(shown, part):.4f}"


def recount(folds):
    """WAR and UAR in per cent of some folds, counted an utterance at a time."""
    correct, total = Counter(), Counter()
    for fold in folds:
        for label, scores in zip(fold.labels.tolist(), fold.scores.tolist()):
            total[label] += 1
            correct[label] += scores.index(max(scores)) == label  # the first of equals, as argmax
    recalls = [correct[label] / total[label] for label in total]
    return dict(war=100 * sum(correct.values()) / sum(total.values()), uar=100 * sum(recalls) / len(recalls))


# ------------------------------------------------------------------------------------------- one fold


def open_fold(folder):
    """FoldResult of a folder and the content of its done.json; RunError where a file is not the one that was sealed."""
    if not (folder / DONE_FILE).exists():
        raise RunError(f"{folder}: is not finished; repeat the training command, it resumes")
    with reading(folder / DONE_FILE):
        done = read_json(folder / DONE_FILE)
        for name, digest in done["files"].items():
            with reading(folder / name):
                if sha256_of(folder / name) != digest:
                    raise RunError(f"{folder / name}: is not the file that was finished; {REMEDY}")
    fold = read_fold(folder)
    required = REQUIRED_FILES | (FILES_OF_TRAINING if "epochs" in fold.config.settings else set())
    for name in sorted(required - set(done["files"])):
        raise RunError(f"{folder / DONE_FILE}: does not seal {name}; {REMEDY}")
    return fold, done


def check_fold(fold, done, key, track):
    """Yield faults of a fold; done: content of its done.json, None of published results; key, track: of its path."""
    if done and (fold.key(), fold.config.settings["track"]) != (key, track):
        yield f"{fold.source}: holds {' '.join(map(str, fold.key()))} {fold.config.settings['track']}; move it there"
        return
    index = published.index_of(fold)
    yield from check_database(fold, index)
    yield from check_speakers(fold, index, done)
    yield from check_settings(fold)
    if done and "epochs" in fold.config.settings:
        yield from check_training(fold, index, done)


def check_database(fold, index):
    """Yield facts of the database that are not what the index gives."""
    corpus = DATABASES.get(fold.config.database.name)
    counts, sizes = (Counter(row[name] for row in index) for name in ("emotion", "speaker"))
    expected = dict(
        language=corpus.language if corpus else "", counts=dict(counts), speakers=sorted(sizes), utterances=len(index),
        classes=[label for label in corpus.classes if label in counts] if corpus else sorted(counts),
        partial=bool(corpus and count_differences(corpus, counts, sizes)),
    )  # fmt: skip
    for name, value in expected.items():
        if (saved := getattr(fold.config.database, name)) != value:
            yield f"{fold.name('config.json')}: {name} is {saved}, the index gives {value}"


def check_speakers(fold, index, done):
    """Yield faults in what the fold tests and in who is tested, trained on and held out."""
    settings, database, path = fold.config.settings, fold.config.database, fold.name("config.json")
    protocol, name = settings["protocol"], settings["fold_name"]
    groups = dict(enumerate(sorted({row[protocol] for row in index}, key=natural_order), 1))
    if groups.get(settings["fold"]) != name or fold.config.folds_total != len(groups):
        yield f"{path}: fold {settings['fold']} of {fold.config.folds_total} is not {protocol} {name} of the index"
        return
    due = [(row["utterance"], row["speaker"], row["emotion"]) for row in index if row[protocol] == name]
    tested = list(zip(fold.ids, fold.speakers.tolist(), (database.classes[label] for label in fold.labels)))
    if different := [a or b for a, b in zip_longest(due, tested) if a != b]:
        yield f"{fold.name('predictions.csv')}: {different[0][0]} is not as in the index, or not there exactly once"
        return
    test, train = {speaker for _, speaker, _ in due}, set(fold.config.train_speakers)
    held_out, everyone = set(settings.get("held_out", ())), {row["speaker"] for row in index}
    if test != set(fold.config.test_speakers) or (done and set(done["trained_on"]) != train):
        yield f"{path}: names other speakers than were tested or trained on"
    if shared := test & train | test & held_out | train & held_out:
        yield f"{fold.name()}: speaker {min(shared)} is on both sides of the fold"
    if test | train | held_out != everyone:
        yield f"{fold.name()}: a speaker of the database is neither trained on nor tested"
    expected = held_out_by_rule(everyone, test, settings["seed"]) if settings["track"] == "validation" else set()
    if held_out != expected:
        yield f"{path}: holds out {sorted(held_out)}, the rule gives {sorted(expected)}"


def held_out_by_rule(speakers, tested, seed):
    """Of all speakers in a circle those after the tested one: a fifth, and for each further seed the next fifth."""
    circle = sorted(speakers, key=natural_order)
    start = circle.index(max(tested, key=natural_order)) + 1
    others = [name for name in circle[start:] + circle[:start] if name not in tested]
    number = max(1, round(len(others) / SPEAKERS_PER_HELD_OUT))
    return {others[(seed * number + i) % len(others)] for i in range(number)}


def check_settings(fold):
    """Yield deviations, a front end and a user's file that are not what the settings give."""
    settings, path = fold.config.settings, fold.name("config.json")
    expected = config.deviations_of(settings)
    if fold.config.deviations != expected:
        yield f"{path}: has the deviations {fold.config.deviations}, its settings give {expected}"
    if settings["model"] in PAPER_SETTINGS:
        front_end = config.front_end_of(methods.find(settings["model"]), settings)
        if features.FrontEnd(**settings["front_end"]) != front_end:
            yield f"{path}: front_end is not that of {settings['model']}"
    if "method_sha256" in settings and not fold.is_published:
        with reading(fold.name(METHOD_FILE)):
            if sha256_of(fold.source / METHOD_FILE) != settings["method_sha256"]:
                yield f"{fold.name(METHOD_FILE)}: is not the file that was trained"


def check_training(fold, index, done):
    """Yield faults in epochs, loss, chosen epoch and checkpoint of a fold in a run folder."""
    from training.checkpoints import read_checkpoint  # needs torch

    folder, settings = fold.source, fold.config.settings
    curve, arrays, last = read_curve(fold), read_epochs(folder), settings["epochs"]
    due = [*range(settings["eval_every"], last, settings["eval_every"]), last] if settings["eval_every"] else [last]
    if curve.epochs.tolist() != due:
        yield f"{folder / 'epochs.npz'}: holds the epochs {curve.epochs.tolist()}, due are {due}"
        return
    if not np.isfinite(curve.loss).all():
        yield f"{folder / 'log.csv'}: has a loss that is not finite"
    if settings["track"] == "validation":
        emotions = [row["emotion"] for row in index if row["speaker"] in settings["held_out"]]
        if [fold.config.database.classes[label] for label in arrays["validation_labels"]] != emotions:
            yield f"{folder / 'epochs.npz'}: validation_labels are not those of the held-out speakers"
    chosen = curve.chosen[settings["track"]]
    if done["epoch"] != due[chosen]:
        yield f"{folder}: its scores are of epoch {done['epoch']}, the track chooses {due[chosen]}"
    elif not np.array_equal(arrays["scores"][chosen], fold.scores):
        yield f"{folder / 'predictions.csv'}: is not the scores of epoch {due[chosen]} in epochs.npz"
    checkpoint = read_checkpoint(folder / "checkpoint.pt")
    if (checkpoint.get("epoch"), checkpoint.get("settings")) != (done["epoch"], settings):
        yield f"{folder / 'checkpoint.pt'}: is of another epoch or other settings than its fold"


# ------------------------------------------------------------------------------------- published results


def fractions(rows, databases):
    """Yield a line for each published WAR of the papers' own models: is it k/N of its database?

    `rows` of published.read_published, `databases` as protocols.DATABASES.
    """
    seen = set()
    for row in rows:
        key = (row["database"], row["model"], row["war"])
        if not row["model"] or key in seen:
            continue
        seen.add(key)
        number = sum(databases[row["database"]].classes.values())
        k = round(row["war"] * number / 100)
        fits = abs(100 * k / number - row["war"]) <= ROUNDING + TOLERANCE
        text = f"is {k}/{number}" if fits else f"is no k/{number}: {k}/{number} is {100 * k / number:.3f}"
        yield f"published {row['source']}, {row['database']}, {row['method']}: WAR {row['war']:.2f} {text}"
