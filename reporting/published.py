"""Results to publish: predictions, curves and settings as plain files, and the figures of the papers themselves.

    python evaluate.py --export FOLDER --runs RUNS      # write the files, of all finished folds below RUNS
    python evaluate.py --runs FOLDER                    # the same tables, from the files alone

    FOLDER/<database>/
        predictions.csv     utterance, speaker, session, emotion, and a column for each training result, such as
                            tft/speaker/seed0/last: the class predicted, empty where none was
        curves.csv          model, protocol, seed, track, fold, epoch, training loss, and the correct utterances of each
                            class: of the tested speakers (test_<class>) and of the held-out speakers (held_<class>)
        runs.json           for each model and protocol what config.json holds, and a line for each fold: the epoch that
                            its track chose, and the correct utterances of each class

A fold that is read again is a FoldResult whose scores are 1 for the predicted class and 0 for the others. All that
rests on classes comes out the same; scores, weights and logs stay in the run folder.

A changed file is noticed: the digest in the settings is that of the first four columns of predictions.csv, and the
correct utterances in runs.json are counted again in the others.
"""

import csv
import io
import json
import os
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import runs
from common.runs import FOLD_SETTINGS, INDEX_COLUMNS, TRACKS, FoldCurve, FoldResult, RunError, reading
from protocols import PROTOCOLS, UsageError, digest_of

BENCHMARKS = runs.PROJECT / "benchmarks"
RESULTS = BENCHMARKS / "results"  # our own published results
RUNS_FILE, PREDICTIONS_FILE, CURVES_FILE = "runs.json", "predictions.csv", "curves.csv"
UTTERANCE_COLUMNS = ("utterance", "speaker", "session", "emotion")  # of predictions.csv, before the results
CURVE_COLUMNS = ("model", "protocol", "seed", "track", "fold", "epoch", "loss")  # of curves.csv, before the counts
REMEDY = "restore it, or remove its folder and export again"
FORMAT = 2  # of runs.json
RUN_IGNORES = (*FOLD_SETTINGS, "track")  # settings in which the folds of a run differ
OTHER_PARTS = (  # of config.json
    "deviations", "folds_total", "database", "code", "machine", "method", "earlier_machines",
)  # fmt: skip

# ----------------------------------------------------------------------------- the papers' own figures


def read_published():
    """Rows of benchmarks/published.csv, the result tables of both papers: WAR and UAR as floats or None."""
    rows = _read_csv(BENCHMARKS / "published.csv")
    return [row | {name: float(row[name]) if row[name] else None for name in ("war", "uar")} for row in rows]


def _read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


# ---------------------------------------------------------------------------------------- the content


@dataclass
class PublishedFold:
    """A line of runs.json: a fold of one track."""

    seed: int
    track: str
    fold: int
    fold_name: str
    epoch: int  # that the track chose; 0 of a method without epochs
    correct: list[int]  # utterances of each class
    held_out: list[str] = field(default_factory=list)  # speakers, of the validation track
    differs: dict = field(default_factory=dict)  # values of its config.json that are not those of the run


class Content(NamedTuple):
    """What the files of one database hold, but for the curves."""

    index: list  # N dictionaries of INDEX_COLUMNS
    columns: dict  # tft/speaker/seed0/last -> N names of classes
    runs: dict  # (model, protocol) -> (what its config.json files share, [PublishedFold])


def column_of(settings, seed, track):
    """Name of a column of predictions.csv."""
    return f"{settings['model']}/{settings['protocol']}/seed{seed}/{track}"


def training_of(track):
    """Track whose training a track uses: the oracle chooses among the epochs of `last`."""
    return "validation" if track == "validation" else "last"


# ------------------------------------------------------------------------------------------- reading


def find(folder):
    """Published results below a folder, as (database, model, protocol, path of runs.json), in sorted order.

    Of a damaged file model and protocol are empty; `read_folds` reports the damage.
    """
    found = []
    for path in Path(folder).glob(f"*/{RUNS_FILE}"):
        try:
            found += [(path.parent.name, *key, path) for key in read(path).runs]
        except RunError:
            found.append((path.parent.name, "", "", path))
    return sorted(found)


def read(path):
    """Content of published results, by the path of their runs.json; RunError where a file is damaged."""
    return _read(path, _stamp(path), _stamp(path.with_name(PREDICTIONS_FILE)))


@lru_cache(maxsize=16)
def _read(path, *stamps):
    """Content of published results; the stamps of its files only tell the cache of a change."""
    predictions = path.with_name(PREDICTIONS_FILE)
    with reading(path, REMEDY):
        found = _parse_runs(runs.read_json(path))
    with reading(predictions, REMEDY):
        with open(predictions, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file, strict=True)
        if tuple(header[: len(UTTERANCE_COLUMNS)]) != UTTERANCE_COLUMNS or {len(row) for row in rows} != {len(header)}:
            raise ValueError("other columns, or a line that is cut")
        columns = dict(zip(header, zip(*rows)))
        index = [{name: columns[name][i] for name in INDEX_COLUMNS} for i in range(len(rows))]
        digest = digest_of(row.values() for row in index)[:16]
        if any(config["settings"]["utterances"] != digest for config, _ in found.values()):
            raise ValueError("its utterances are not those that were trained on")
    return Content(index, {name: columns[name] for name in header[len(UTTERANCE_COLUMNS) :]}, found)


def _stamp(path):
    """Value that changes when a file is written again; None where it is missing."""
    with suppress(OSError):
        status = path.stat()
        return status.st_ino, status.st_mtime_ns, status.st_size


def _parse_runs(content):
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r:.20}, not {FORMAT}")
    found = {}
    for config in runs.from_json(list[dict], content["runs"], "runs"):
        folds = [runs.from_json(PublishedFold, fold, "a fold") for fold in config.pop("folds")]
        numbers = {(fold.seed, fold.track, fold.fold) for fold in folds}
        if len(numbers) < len(folds) or not {fold.track for fold in folds} <= set(TRACKS):
            raise ValueError("a fold is there twice, or of an unknown track")
        settings = runs.from_json(dict, config["settings"], "settings")
        found[settings["model"], settings["protocol"]] = (config, folds)
    return found


def read_folds(path, track, model=None, protocol=None):
    """[FoldResult] of one track of published results, by the path of their runs.json; model, protocol: those alone."""
    path, results = Path(path), []
    content = read(path)
    for (its_model, its_protocol), (config, folds) in content.runs.items():
        if model not in (None, its_model) or protocol not in (None, its_protocol):
            continue
        tested = {}  # column -> number of utterances
        for fold in folds:
            if fold.track == track:
                results.append(_fold_result(content, path, config, fold))
                column = column_of(config["settings"], fold.seed, track)
                tested[column] = tested.get(column, 0) + len(results[-1].ids)
        with reading(path.with_name(PREDICTIONS_FILE), REMEDY):
            for column, number in tested.items():
                if sum(map(bool, content.columns[column])) != number:
                    raise ValueError(f"{column} has predictions of no fold")
    if results and results[0].config.database.name != path.parent.name:
        raise RunError(f"{path}: holds {results[0].config.database.name}; rename its folder back")
    return results


def _fold_result(content, path, config, fold):
    """FoldResult of a line of runs.json."""
    with reading(path, REMEDY):
        settings = dict(config["settings"], seed=fold.seed, fold=fold.fold, fold_name=fold.fold_name)
        settings["track"] = training_of(fold.track)
        if settings["track"] == "validation":
            settings["held_out"] = fold.held_out
        if settings["protocol"] not in PROTOCOLS:
            raise ValueError("protocol is unknown")
        tested = [i for i, row in enumerate(content.index) if row[settings["protocol"]] == fold.fold_name]
        if not tested:
            raise ValueError(f"no utterance is of {settings['protocol']} {fold.fold_name}")
        ids, emotions, speakers = ([content.index[i][name] for i in tested] for name in INDEX_COLUMNS[:3])
        trained_on, tested_on = _split_speakers(config["database"]["speakers"], speakers, fold.held_out)
        config = runs.check_config(dict(
            config, settings=settings, test=ids, train_speakers=trained_on, test_speakers=tested_on, **fold.differs
        ))  # fmt: skip
        epochs = settings.get("epochs", 0)
        if not min(1, epochs) <= fold.epoch <= epochs or (fold.track == "last" and fold.epoch != epochs):
            raise ValueError(f"seed {fold.seed} fold {fold.fold} is of epoch {fold.epoch} of {epochs}")
    classes, column = config.database.classes, column_of(settings, fold.seed, fold.track)
    with reading(path.with_name(PREDICTIONS_FILE), REMEDY):
        names = [content.columns[column][i] for i in tested]
        if unknown := set(names) - set(classes):
            raise ValueError(f"{column} holds {min(unknown)!r:.40}, not a class")
        predicted = np.array([classes.index(name) for name in names])
        labels = np.array([classes.index(emotion) for emotion in emotions])
        if fold.correct != _correct(labels, predicted, len(classes)):
            raise ValueError(f"{column} of fold {fold.fold} has other correct utterances than {RUNS_FILE}")
    scores = np.eye(len(classes), dtype=np.float32)[predicted]  # (n, K)
    return FoldResult(path, config, ids, np.array(speakers), labels, scores, is_published=True)


def _split_speakers(speakers, tested, held_out):
    """Speakers that a fold trains on, all that are neither tested nor held out, and those that it tests."""
    test = set(tested)
    return [name for name in speakers if name not in test | set(held_out)], [name for name in speakers if name in test]


def _correct(labels, predicted, classes):
    return np.bincount(labels[labels == predicted], minlength=classes).tolist()


def index_of(fold):
    """Utterances of a FoldResult's database, in a run folder or published, as dictionaries of INDEX_COLUMNS."""
    if fold.is_published:
        return read(fold.source).index
    return runs.read_index(fold.source.parents[4], fold.config.database.name, fold.config.settings["utterances"])


# -------------------------------------------------------------------------------------------- curves


def fold_curve(fold):
    """FoldCurve of a FoldResult, in a run folder or published; RunError where it is missing or damaged.

    Of published results the diagonals and the row sums of the confusions are right, WAR and UAR rest on no more. Their
    loss between two evaluated epochs is a straight line.
    """
    if "epochs" not in fold.config.settings:
        raise RunError(f"{fold.name()}: is of a method without epochs, which has no curve; choose another --model")
    if not fold.is_published:
        return runs.read_curve(fold)
    content, path, settings = read(fold.source), fold.source.with_name(CURVES_FILE), fold.config.settings
    key = tuple(str(settings[name]) for name in CURVE_COLUMNS[:5])
    with reading(path, REMEDY):
        rows, held_out = _read_curves(path, _stamp(path)).get(key), None
        if rows is None:
            raise ValueError(f"lacks {' '.join(key)}")
        epochs = np.array([int(row["epoch"]) for row in rows])
        loss = np.interp(np.arange(settings["epochs"]) + 1, epochs, [float(row["loss"]) for row in rows], left=np.nan)
        test = _confusions(rows, "test", fold.labels, fold.config.database.classes)
        if settings["track"] == "validation":
            labels = [row["emotion"] for row in content.index if row["speaker"] in settings["held_out"]]
            labels = np.array([fold.config.database.classes.index(label) for label in labels], int)
            held_out = _confusions(rows, "held", labels, fold.config.database.classes)
        chosen = {
            other.track: epochs.tolist().index(other.epoch)
            for other in content.runs[settings["model"], settings["protocol"]][1]
            if (other.seed, other.fold) == (settings["seed"], settings["fold"])
            and training_of(other.track) == settings["track"]
        }
    return FoldCurve(settings["seed"], loss, epochs, test, held_out, chosen)


@lru_cache(maxsize=2)
def _read_curves(path, stamp):
    """{(model, protocol, seed, track, fold): rows of curves.csv}, all of them text; `stamp` as in `_read`."""
    curves = {}
    for row in _read_csv(path):
        curves.setdefault(tuple(row[name] for name in CURVE_COLUMNS[:5]), []).append(row)
    return curves


def _confusions(rows, prefix, labels, classes):
    """Confusion counts (E, K, K) with all errors in one column, from the correct utterances in rows of curves.csv."""
    correct = np.array([[int(row[f"{prefix}_{name}"]) for name in classes] for row in rows])  # (E, K)
    total, number = np.bincount(labels, minlength=len(classes)), np.arange(len(classes))
    if (correct > total).any() or (correct < 0).any():
        raise ValueError("more correct utterances than there are, or less than none")
    matrices = np.zeros((*correct.shape, len(classes)), int)
    matrices[:, number, number] = correct
    matrices[:, number, (number + 1) % len(classes)] = total - correct
    return matrices


# ------------------------------------------------------------------------------------------- writing


def export(folder, found):
    """Write published results, {(database, model, protocol): {track: [FoldResult]}}, next to others in the folder.

    All files are written, or none. Raises RunError for folds that could not be read again as they are, and UsageError
    where a file would lose folds, or get other settings.
    """
    files = {}
    for database in sorted({key[0] for key in found}):
        its_runs = {key[1:]: by_track for key, by_track in found.items() if key[0] == database}
        files |= _files_of(Path(folder) / database, its_runs)
    with ExitStack() as stack:
        for path, text in reversed(files.items()):  # the last opened is renamed first: runs.json comes last
            file = stack.enter_context(runs.atomic_write(path))
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())  # a full disk shows before any file is renamed


def _files_of(folder, found):
    """{path: text} of one database, with what the folder holds of other models; found: {(model, protocol): tracks}."""
    path, curves_path = folder / RUNS_FILE, folder / CURVES_FILE
    first = next(fold for by_track in found.values() for folds in by_track.values() for fold in folds)
    content, curves = Content(index_of(first), {}, {}), {}
    if path.exists():
        old, content = content, read(path)
        if content.index != old.index:
            raise UsageError(f"{path}: is of other utterances than {first.name()}; export to another folder")
        with reading(curves_path, REMEDY):
            curves = _read_curves(curves_path, _stamp(curves_path))
    merged, columns = dict(content.runs), {}
    for config, folds in content.runs.values():
        for name in (column_of(config["settings"], fold.seed, fold.track) for fold in folds):
            columns[name] = content.columns[name]
    for key, by_track in found.items():
        _check_target(folder, *key, by_track, content.runs.get(key))
        columns = {name: column for name, column in columns.items() if not name.startswith(f"{'/'.join(key)}/")}
        curves = {training: rows for training, rows in curves.items() if training[:2] != key}
        merged[key] = _add_run(by_track, first, content.index, columns, curves)
    return {
        folder / PREDICTIONS_FILE: _predictions_text(content.index, columns),
        curves_path: _curves_text(curves, first.config.database.classes),
        path: _runs_text(dict(sorted(merged.items()))),
    }


def _check_target(folder, model, protocol, by_track, old):
    """Raise UsageError where the folder holds run folders of the model, other settings, or folds that would be lost."""
    elsewhere = "export to another folder"
    for track in runs.TRAINED_TRACKS:
        if any(key[:3] == (folder.name, model, protocol) for key in runs.find_folds(folder.parent, track)):
            raise UsageError(
                f"--export {folder.parent}: holds run folders of {folder.name} {model} {protocol}; {elsewhere}"
            )
    if not old:
        return
    config, folds = old
    settings = next(iter(by_track.values()))[0].config.settings
    for name in runs.different_settings(settings, config["settings"], RUN_IGNORES):
        before, now = (values.get(name, "the default") for values in (config["settings"], settings))
        raise UsageError(f"{folder / RUNS_FILE}: holds {model} with {name} {before}, not {now}; {elsewhere}")
    exported = {(*fold.key()[3:], track) for track in by_track for fold in by_track[track]}
    for fold in folds:
        if (fold.seed, fold.fold, fold.track) not in exported:
            raise UsageError(
                f"{folder / RUNS_FILE}: holds {model} seed {fold.seed} fold {fold.fold} of track {fold.track}, "
                f"but the runs do not; {elsewhere}"
            )


def _add_run(by_track, first, index, columns, curves):
    """Add the columns and curves of a model; gives what its configurations share, and [PublishedFold]."""
    folds = [(track, fold) for track in TRACKS for fold in by_track.get(track, ())]
    config = _shared_config([fold for _, fold in folds], first)
    row_of, lines = {row["utterance"]: i for i, row in enumerate(index)}, []
    for track, fold in folds:
        _check_fold(fold, index)
        settings, classes, predicted = fold.config.settings, fold.config.database.classes, fold.scores.argmax(1)
        column = columns.setdefault(column_of(settings, settings["seed"], track), [""] * len(index))
        for utterance, k in zip(fold.ids, predicted.tolist()):
            column[row_of[utterance]] = classes[k]
        epoch, correct = 0, _correct(fold.labels, predicted, len(classes))
        if "epochs" in settings:
            curve = fold_curve(fold)
            epoch = int(curve.epochs[curve.chosen[track]])
            if curve.test[curve.chosen[track]].diagonal().tolist() != correct:
                raise RunError(f"{fold.name()}: predicts otherwise than at epoch {epoch} in epochs.npz; {runs.REMEDY}")
            training = tuple(str(settings[name]) for name in CURVE_COLUMNS[:5])
            curves[training] = _curve_rows(training, curve, classes)
        parts = _other_parts(fold)
        differs = {name: value for name, value in parts.items() if value != config.get(name, type(value)())}
        lines.append(PublishedFold(
            settings["seed"], track, settings["fold"], settings["fold_name"], epoch, correct,
            settings.get("held_out", []), differs,
        ))  # fmt: skip
    return config, sorted(lines, key=lambda line: (line.seed, TRACKS.index(line.track), line.fold))


def _check_fold(fold, index):
    """Raise RunError for a fold whose parts are not what the index gives, so that it would be read otherwise."""
    config, settings = fold.config, fold.config.settings
    rows = [row for row in index if row.get(settings["protocol"]) == settings["fold_name"]]
    ids, emotions, speakers = ([row[name] for row in rows] for name in INDEX_COLUMNS[:3])
    train, test = _split_speakers(config.database.speakers, speakers, settings.get("held_out", []))
    given = dict(
        utterances=(fold.ids, ids), emotions=([config.database.classes[k] for k in fold.labels], emotions),
        speakers=(fold.speakers.tolist(), speakers), train_speakers=(config.train_speakers, train),
        test_speakers=(config.test_speakers, test),
    )  # fmt: skip
    for name, (recorded, expected) in given.items():
        if recorded != expected:
            raise RunError(
                f"{fold.name()}: its {name} are not what the index of utterances gives; see evaluate.py --audit"
            )


def _other_parts(fold):
    """Parts of a configuration that may differ between the folds of a run."""
    parts = asdict(fold.config)
    return {name: parts[name] for name in OTHER_PARTS}


def _shared_config(folds, first):
    """Settings of a run, and the most frequent value of the other parts of its configurations."""
    for fold in folds:
        if names := runs.different_settings(fold.config.settings, folds[0].config.settings, RUN_IGNORES):
            raise RunError(f"{fold.name()}: differs from {folds[0].name()} in {names[0]}; keep them in separate --runs")
        if fold.config.settings["utterances"] != first.config.settings["utterances"]:
            raise RunError(f"{fold.name()}: has other utterances than {first.name()}; keep them in separate --runs")
    settings = {name: value for name, value in folds[0].config.settings.items() if name not in RUN_IGNORES}
    parts = list(map(_other_parts, folds))
    values = {name: [part[name] for part in parts] for name in OTHER_PARTS}
    shared = {name: max(values[name], key=values[name].count) for name in OTHER_PARTS}
    return dict(settings=settings, **{name: value for name, value in shared.items() if value or name == "deviations"})


def _curve_rows(training, curve, classes):
    """Rows of curves.csv."""
    rows = []
    for i, epoch in enumerate(curve.epochs.tolist()):
        row = dict(zip(CURVE_COLUMNS, (*training, epoch, f"{curve.loss[epoch - 1]:.4g}")))
        for prefix, matrices in (("test", curve.test), ("held", curve.held_out)):
            if matrices is not None:
                row |= {f"{prefix}_{name}": matrices[i, k, k] for k, name in enumerate(classes)}
        rows.append(row)
    return rows


def _predictions_text(index, columns):
    text, order = io.StringIO(), sorted(columns, key=_column_order)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*UTTERANCE_COLUMNS, *order])
    for row, *predicted in zip(index, *(columns[name] for name in order)):
        writer.writerow([*(row[name] for name in UTTERANCE_COLUMNS), *predicted])
    return text.getvalue()


def _column_order(name):
    *run, seed, track = name.split("/")
    return run, int(seed.removeprefix("seed")), TRACKS.index(track)


def _curves_text(curves, classes):
    text = io.StringIO()
    counts = [f"{prefix}_{name}" for prefix in ("test", "held") for name in classes]
    writer = csv.DictWriter(text, [*CURVE_COLUMNS, *counts], lineterminator="\n")
    writer.writeheader()
    for key in sorted(curves, key=lambda key: (key[:2], int(key[2]), TRACKS.index(key[3]), int(key[4]))):
        writer.writerows(curves[key])
    return text.getvalue()


def _runs_text(found):
    """JSON of all runs, with a line for each part of a configuration and for each fold."""
    blocks = []
    for config, folds in found.values():
        parts = [f'   "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in config.items()]
        lines = [{name: value for name, value in vars(fold).items() if value not in ([], {})} for fold in folds]
        lines = ",\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in lines)
        blocks.append("  {\n" + ",\n".join([*parts, f'   "folds": [\n{lines}\n   ]']) + "\n  }")
    return f'{{\n "format": {FORMAT},\n "runs": [\n' + ",\n".join(blocks) + "\n ]\n}\n"
