"""Published results: the tables and curves of the runs again from plain files, and damage in one line.

python -m pytest tests/test_published.py
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import command
from saved_runs import ANSWERS, BY_EPOCH, CLASSES, change, seal, write_run

import evaluate
import protocols
from common import runs
from reporting import published, summary, tables

PROJECT = Path(__file__).resolve().parents[1]
ALL = ("--track", "all")


pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture
def run(capsys):
    """Exit code, output and errors of evaluate.py."""

    def call(*arguments):
        capsys.readouterr()
        return command(evaluate.main, *arguments), *capsys.readouterr()

    return call


@pytest.fixture
def refused(run):
    """The one line that a command ends with."""

    def call(*arguments):
        code, out, error = run(*arguments)
        assert (code, out, error.count("\n")) == (2, "", 1), (out, error)
        return error

    return call


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder with runs/ and public/, their export: casia with tft and atfnn, two seeds, both trainings; and toy."""
    home = tmp_path_factory.mktemp("written")
    for seed in (0, 1):
        epochs = {who: {1: "ah " * len(text.split()), **BY_EPOCH[who]} for who, text in ANSWERS[seed].items()}
        write_run(home / "runs", epochs, seed=seed)
        write_run(home / "runs", epochs, seed=seed, track="validation", best=2)
        write_run(home / "runs", ANSWERS[seed], seed=seed, model="atfnn")
    write_run(home / "runs", name="toy", seed=3)
    write_run(home / "runs", name="toy", seed=3, model="svm", trained=False)
    assert command(evaluate.main, "--runs", home / "runs", "--export", home / "public") == 0
    return home


@pytest.fixture
def copied(written, tmp_path):
    """A copy of `written` to change."""
    return Path(shutil.copytree(written, tmp_path / "copied"))


def fold_of(home, seed=0, number=2, track="last", model="tft"):
    return runs.fold_folder(home / "runs", "casia", model, "speaker", seed, number, track)


def edit(path, change_it):
    """Change runs.json as JSON, or a CSV file as a list of dictionaries."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        change_it(content)
        path.write_text(json.dumps(content))
        return
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    change_it(rows)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def public(home, file="runs.json"):
    return home / "public/casia" / file


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model_of(content, model="tft"):
    return next(run for run in content["runs"] if run["settings"]["model"] == model)


# ------------------------------------------------------------------------------------ the same results


@pytest.mark.parametrize("options", [
    (), ALL, ("--track", "validation", "--db", "casia"), ("--track", "oracle", "--seed", "1"),
    ("--table", "significance", *ALL), ("--db", "toy"),
], ids=" ".join)  # fmt: skip
def test_the_tables_are_those_of_the_runs(options, written, run):
    for style in tables.FORMATS:
        code, out, error = run("--runs", written / "runs", *options, "--format", style)
        assert code == 0 and out.count("\n") > 1
        assert run("--runs", written / "public", *options, "--format", style) == (code, out, error)


def test_folds_are_read_as_they_were(written):
    for track in runs.TRACKS:
        both = [summary.collect(written / name, "speaker", None, track)[0] for name in ("runs", "public")]
        assert [(key, seed) for key in both[0] for seed in both[0][key]] == [
            (key, seed) for key in both[1] for seed in both[1][key]
        ]
        for key, by_seed in both[0].items():
            for seed, folds in by_seed.items():
                for fold, again in zip(folds, both[1][key][seed], strict=True):
                    assert fold.config == again.config and fold.ids == again.ids and again.is_published
                    assert fold.labels.tolist() == again.labels.tolist()
                    assert fold.speakers.tolist() == again.speakers.tolist()
                    assert fold.scores.argmax(1).tolist() == again.scores.argmax(1).tolist()
                    assert published.index_of(fold) == published.index_of(again)


def test_curves_have_the_rates_and_the_chosen_epochs_of_the_runs(written):
    for track in runs.TRAINED_TRACKS:
        both = []
        for name in ("runs", "public"):
            found, _ = summary.collect(written / name, "speaker", None, track, "casia", "tft")
            both.append([published.fold_curve(fold) for folds in found["casia", "tft"].values() for fold in folds])
        for curve, again in zip(*both, strict=True):
            assert (curve.seed, curve.chosen) == (again.seed, again.chosen)
            assert curve.epochs.tolist() == again.epochs.tolist() == [1, 2, 3]
            assert again.loss == pytest.approx(curve.loss)
            for name in ("test", "held_out"):
                first, second = getattr(curve, name), getattr(again, name)
                assert (first is None) == (second is None) == (name == "held_out" and track == "last")
                for metric in (protocols.war, protocols.uar) if first is not None else ():
                    assert list(map(metric, first)) == list(map(metric, second))


def test_the_loss_between_two_evaluated_epochs_is_a_line(tmp_path):
    write_run(tmp_path / "runs", {who: {2: epochs[2], 4: epochs[3]} for who, epochs in BY_EPOCH.items()})
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--export", tmp_path / "public") == 0
    edit(tmp_path / "public/casia/curves.csv", lambda rows: [row.update(loss=row["epoch"]) for row in rows])
    fold = published.read_folds(tmp_path / "public/casia/runs.json", "last")[0]
    assert np.array_equal(published.fold_curve(fold).loss, [np.nan, 2, 3, 4], equal_nan=True)


def test_a_spreadsheet_or_pandas_opens_the_predictions(written):
    with open(public(written, "predictions.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["utterance", "speaker", "session", "emotion", "atfnn/speaker/seed0/last"]
    assert {row["emotion"] for row in rows} == {row["tft/speaker/seed1/oracle"] for row in rows} == set(CLASSES)
    right = [row["emotion"] == row["atfnn/speaker/seed1/last"] for row in rows]
    assert sum(right) / len(right) == 0.8
    with open(public(written, "curves.csv"), newline="") as file:
        curve = [row for row in csv.DictReader(file) if (row["model"], row["seed"], row["fold"]) == ("tft", "0", "2")]
    assert [row["epoch"] for row in curve if row["track"] == "last"] == ["1", "2", "3"]
    assert [row["held_angry"] == "" for row in curve] == [row["track"] == "last" for row in curve]


def test_a_method_without_epochs_is_published_too(written):
    (fold, *_) = published.read_folds(written / "public/toy/runs.json", "last", "svm")
    assert "epochs" not in fold.config.settings
    with pytest.raises(runs.RunError, match="without epochs"):
        published.fold_curve(fold)
    assert not published.read_folds(written / "public/toy/runs.json", "oracle", "svm")


def test_sessions_and_speakers_share_a_file_and_are_not_mixed(tmp_path, run):
    sessions = dict(A="1", B="1", C="2")
    write_run(tmp_path / "runs", ANSWERS[0], sessions=sessions)
    write_run(tmp_path / "runs", ANSWERS[1], protocol="session", sessions=sessions)
    assert run("--runs", tmp_path / "runs", "--export", tmp_path / "public")[0] == 0
    assert [entry[2] for entry in published.find(tmp_path / "public")] == ["session", "speaker"]
    for protocol in protocols.PROTOCOLS:
        both = [run("--runs", tmp_path / name, "--protocol", protocol) for name in ("runs", "public")]
        assert both[0] == both[1] and both[0][0] == 0


def test_folds_that_are_missing_or_of_another_machine_stay_so(copied, run):
    shutil.rmtree(copied / "public")
    code = {"models.py": "d" * 16}
    change(fold_of(copied, 1, 2), code=code, machine=dict(device="gpu", torch="3"), earlier_machines=[dict(torch="1")])
    shutil.rmtree(fold_of(copied, 0, 2)), shutil.rmtree(fold_of(copied, 0, 1, "validation"))
    assert run("--runs", copied / "runs", "--export", copied / "public")[0] == 0
    both = [run("--runs", copied / name, *ALL) for name in ("runs", "public")]
    assert both[0] == both[1] and "different versions of the code" in both[0][1]
    for fold in published.read_folds(public(copied), "oracle", "tft"):
        changed = fold.key()[3:] == (1, 2)
        assert (fold.config.code == code) == (fold.config.machine["torch"] == "3") == changed
        assert fold.config.earlier_machines == [dict(torch="1")] * changed
    lines = [line for line in public(copied).read_text().splitlines() if '"differs"' in line]
    assert len(lines) == 2  # of last and oracle


def test_published_seeds_and_run_folders_are_counted_together(copied, run):
    expected = run("--runs", copied / "runs", "--db", "casia", *ALL)
    shutil.copytree(copied / "runs/casia/tft/speaker/seed1", copied / "public/casia/tft/speaker/seed1")
    edit(public(copied), lambda content: model_of(content).update(
        folds=[fold for fold in model_of(content)["folds"] if fold["seed"] == 0]))  # fmt: skip
    assert run("--runs", copied / "public", "--db", "casia", *ALL) == expected


def test_a_fold_that_is_published_and_in_a_folder_is_refused(copied, refused):
    shutil.copytree(copied / "runs/casia/tft", copied / "public/casia/tft")
    for track in runs.TRACKS:
        error = refused("--runs", copied / "public", "--db", "casia", "--track", track)
        assert "runs.json, tft seed 0 fold 1: is there as " in error and "remove one of them" in error


def test_a_file_that_is_written_again_is_read_again(copied):
    (fold, *_) = published.read_folds(public(copied), "last", "atfnn")
    edit(public(copied), lambda content: model_of(content, "atfnn").update(deviations=["none"]))
    assert published.read_folds(public(copied), "last", "atfnn")[0].config.deviations == ["none"]
    edit(public(copied, "curves.csv"), lambda rows: [row.update(loss=7) for row in rows])
    assert published.fold_curve(fold).loss[-1] == 7
    edit(public(copied, "predictions.csv"), lambda rows: rows.pop())
    with pytest.raises(runs.RunError):
        published.read_folds(public(copied), "last")


# --------------------------------------------------------------------------------- what is damaged


def fold_line(**values):
    """Change of the first fold of tft in runs.json."""
    return "runs.json", lambda content: model_of(content)["folds"][0].update(values)


def drop(*names):
    def function(content):
        target = model_of(content)
        for name in names[:-1]:
            target = target[name]
        del target[names[-1]]

    return "runs.json", function


def cell(row, value, column="tft/speaker/seed0/last"):
    return "predictions.csv", lambda rows: rows[row].update({column: value})


DAMAGE = {  # what is changed in the files of casia -> part of the line
    "another prediction": (cell(0, "angry"), "seed0/last of fold 1 has other correct utterances than runs.json"),
    "no class": (cell(0, "sad"), "holds 'sad', not a class"),
    "a prediction less": (cell(0, ""), "holds '', not a class"),
    "an utterance renamed": (cell(0, "X/0", "utterance"), "its utterances are not those that were trained on"),
    "another emotion": (cell(0, "fear", "emotion"), "its utterances are not those"),
    "a line less": (("predictions.csv", lambda rows: rows.pop()), "its utterances are not those"),
    "a column less": (("predictions.csv", lambda rows: [row.pop("tft/speaker/seed1/last") for row in rows]), "seed1"),
    "other correct": (fold_line(correct=[9, 9, 9]), "has other correct utterances"),
    "another epoch": (fold_line(epoch=2), "seed 0 fold 1 is of epoch 2 of 3"),
    "another speaker": (fold_line(fold_name="X"), "no utterance is of speaker X"),
    "another track": (fold_line(track="best"), "unknown track"),
    "a fold twice": (fold_line(fold=2), "a fold is there twice"),
    "a fold less": (("runs.json", lambda content: model_of(content)["folds"].pop(0)), "has predictions of no fold"),
    "a seed as text": (fold_line(seed="0"), "seed is '0'"),
    "settings of a kind": (("runs.json", lambda content: model_of(content).update(settings=[])), "settings is []"),
    "machine of a kind": (("runs.json", lambda content: model_of(content).update(machine="cpu")), "machine is 'cpu'"),
    "differences of a kind": (fold_line(differs=dict(machine=7)), "machine is 7"),
    "a class thrice": (
        ("runs.json", lambda content: model_of(content)["database"].update(classes=["angry"] * 3)), "classes are not"),
    "another format": (("runs.json", lambda content: content.update(format=1)), "format 1, not 2"),
    **{f"no {' '.join(map(str, names))}": (drop(*names), names[-1]) for names in (
        ("folds",), ("folds", 0, "correct"), ("settings",), ("settings", "utterances"), ("settings", "model"),
        ("database",), ("database", "speakers"), ("code",), ("machine",), ("folds_total",), ("deviations",))},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_line_that_names_the_file(damage, copied, refused, run):
    (file, function), part = DAMAGE[damage]
    edit(public(copied, file), function)
    error = refused("--runs", copied / "public")
    assert "public/casia/" in error and ": is missing or damaged (" in error and part in error, error
    assert published.REMEDY in error and len(error) < 400
    expected = run("--runs", copied / "runs", "--db", "toy")
    assert run("--runs", copied / "public", "--db", "toy") == expected  # it does no harm to another database
    code, out, _ = run("--runs", copied / "public", "--audit", "--db", "casia")
    assert code == 1 and part in out


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 200_000, '"\\ud800"', "utterance,speaker,session,emotion\na\n"])
@pytest.mark.parametrize("file", ["runs.json", "predictions.csv"])
def test_a_file_of_anything_else_is_one_line(file, text, copied, refused):
    public(copied, file).write_text(text)
    assert f"{public(copied, file)}: is missing or damaged (" in refused("--runs", copied / "public")
    public(copied, file).unlink()
    if file == "predictions.csv":
        assert f"{public(copied, file)}: is missing or damaged (" in refused("--runs", copied / "public")


def test_a_renamed_database_folder_is_refused(copied, refused):
    (copied / "public/casia").rename(copied / "public/casia2")
    assert "casia2/runs.json: holds casia; rename its folder back" in refused("--runs", copied / "public")


CURVES = {
    "no file": (None, "No such file"),
    "a fold less": (lambda rows: rows.__delitem__(slice(0, 9)), "lacks"),
    "more than there are": (lambda rows: [row.update(test_angry=99) for row in rows], "more correct utterances"),
    "no number": (lambda rows: [row.update(loss="x") for row in rows], "could not convert"),
    "an epoch less": (lambda rows: [row.update(epoch=row["epoch"].replace("3", "2")) for row in rows], "not in list"),
    "a class less": (lambda rows: [row.pop("test_fear") for row in rows], "test_fear"),
}


@pytest.mark.parametrize("damage", CURVES)
def test_damaged_curves_are_one_line_and_do_no_harm_to_tables(damage, copied, run):
    path, (function, part) = public(copied, "curves.csv"), CURVES[damage]
    path.unlink() if function is None else edit(path, function)
    fold = published.read_folds(public(copied), "last", "atfnn")[0]
    with pytest.raises(runs.RunError) as error:
        published.fold_curve(fold)
    assert str(error.value).startswith(f"{path}: is missing or damaged (") and part in str(error.value)
    assert run("--runs", copied / "public") == run("--runs", copied / "runs")


# ------------------------------------------------------------------------------------------- export


def test_an_export_is_the_same_bytes_again(copied, run):
    before = contents(copied / "public")
    code, out, error = run("--runs", copied / "runs", "--export", copied / "public")
    assert (code, error) == (0, "") and "casia: tft speaker, last 6 folds, validation 6 folds, oracle 6 folds" in out
    assert contents(copied / "public") == before and len(before) == 6


def test_models_are_exported_next_to_others(copied, run, written):
    for model in ("svm", "tft", "atfnn"):  # of two databases, in any order
        assert run("--runs", copied / "runs", "--export", copied / "again", "--model", model)[0] == 0
    assert [path.read_bytes() for path in sorted((copied / "again").rglob("*.*"))] == [
        path.read_bytes() for path in sorted((written / "public").rglob("*.*"))
    ]


def test_published_results_can_be_exported_again(copied, run):
    for model in ("tft", "atfnn"):
        arguments = ("--export", copied / "again", "--db", "casia", "--model", model)
        assert run("--runs", copied / "public", *arguments)[0] == 0
    assert [path.read_bytes() for path in sorted((copied / "again/casia").iterdir())] == [
        path.read_bytes() for path in sorted((copied / "public/casia").iterdir())
    ]


def test_a_database_a_protocol_or_a_seed_is_exported_alone(written, tmp_path, run):
    assert run("--runs", written / "runs", "--export", tmp_path, "--db", "casia", "--seed", "1")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["casia"]
    assert {fold.key()[3] for fold in published.read_folds(tmp_path / "casia/runs.json", "last")} == {1}


def remove(home, *folders):
    for folder in folders:
        shutil.rmtree(home / "runs/casia/tft/speaker" / folder)


def set_all(home, **values):
    for track in runs.TRAINED_TRACKS:
        for seed in (0, 1):
            for number in (1, 2, 3):
                change(fold_of(home, seed, number, track), **values)


TARGETS = {  # what is done to the runs or to the folder exported to -> part of the line
    "a seed less": (lambda home: remove(home, "seed0"), "holds tft seed 0 fold 1 of track last, but the runs do not"),
    "a track less": (
        lambda home: remove(home, *(f"seed{seed}/fold{i}-validation" for seed in (0, 1) for i in (1, 2, 3))),
        "holds tft seed 0 fold 1 of track validation"),
    "a fold less": (lambda home: remove(home, "seed1/fold2"), "holds tft seed 1 fold 2 of track last"),
    "other settings": (lambda home: set_all(home, settings__lr=0.5), "holds tft with lr 0.001, not 0.5"),
    "a setting more": (lambda home: set_all(home, settings__dropout=0.1), "with dropout the default, not 0.1"),
    "other utterances": (
        lambda home: (shutil.rmtree(home / "runs"), write_run(home / "runs", dict(A="aa ff", B="aa hh", C="aa"))),
        "is of other utterances than"),
    "damaged": (lambda home: public(home).write_text("{"), "is missing or damaged"),
    "damaged curves": (lambda home: public(home, "curves.csv").unlink(), "is missing or damaged"),
    "run folders": (
        lambda home: shutil.copytree(home / "runs/casia/tft/speaker/seed0", home / "public/casia/tft/speaker/seed0"),
        "holds run folders of casia tft speaker"),
}  # fmt: skip


@pytest.mark.parametrize("case", TARGETS)
def test_an_export_replaces_nothing_that_would_be_lost(case, copied, refused):
    function, part = TARGETS[case]
    function(copied)
    before = contents(copied / "public")
    error = refused("--runs", copied / "runs", "--export", copied / "public", "--db", "casia")
    assert part in error and str(copied / "public") in error
    assert contents(copied / "public") == before


def test_an_export_of_more_replaces_what_is_there(copied, run):
    before = contents(copied / "public")
    edit(public(copied), lambda content: model_of(content).update(folds=model_of(content)["folds"][:3]))
    assert run("--runs", copied / "runs", "--export", copied / "public", "--db", "casia")[0] == 0
    assert contents(copied / "public") == before


FAULTS = {  # of fold 2 of seed 0: what is wrong -> part of the line
    "other settings": (lambda fold: change(fold, settings__lr=0.5), "in lr; keep them in separate --runs"),
    "another emotion": (lambda fold: doctor(fold, "B/5,B,happy", "B/5,B,fear"), "its emotions are not what the index"),
    "another speaker": (lambda fold: doctor(fold, "B/0,B,", "B/0,A,"), "its speakers are not what the index"),
    "other answers": (lambda fold: doctor(fold, "0.75,0.125,0.125", "0.125,0.125,0.75"), "at epoch 3 in epochs.npz"),
    "trained on the tested": (lambda fold: change(fold, train_speakers=["A", "B", "C"]), "its train_speakers are not"),
    "an utterance twice": (lambda fold: copy_as_third(fold), "tests B/0, as "),
    "the name of nobody": (lambda fold: change(fold, settings__fold_name="D"), "its utterances are not what the index"),
}


def copy_as_third(fold):
    shutil.rmtree(fold.with_name("fold3"))
    change(Path(shutil.copytree(fold, fold.with_name("fold3"))), settings__fold=3)


def doctor(fold, old, new):
    path = fold / "predictions.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    seal(fold)


@pytest.mark.parametrize("fault", FAULTS)
def test_folds_that_could_not_be_read_again_are_refused(fault, copied, refused):
    function, part = FAULTS[fault]
    function(fold_of(copied))
    error = refused("--runs", copied / "runs", "--export", copied / "again", "--db", "casia")
    assert part in error and "casia/tft/speaker/seed0" in error
    assert not (copied / "again").exists()


def test_both_trainings_of_a_model_share_their_settings(copied, refused):
    for seed in (0, 1):
        for number in (1, 2, 3):
            change(fold_of(copied, seed, number, "validation"), settings__batch_size=7)
    error = refused("--runs", copied / "runs", "--export", copied / "again", "--db", "casia")
    assert "fold1-validation: differs from" in error and "in batch_size" in error


def test_a_full_disk_changes_no_published_file(copied, run, monkeypatch):
    out = copied / "again"
    assert run("--runs", copied / "runs", "--export", out, "--db", "casia", "--seed", "0")[0] == 0
    before, synced, renamed, replace = contents(out), [], [], Path.replace

    def fsync(file):
        synced.append(file)
        if len(synced) == room:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    monkeypatch.setattr(Path, "replace", lambda path, to: renamed.append(Path(to).name) or replace(path, to))
    for room in (1, 2, 3):
        synced.clear()
        code, text, error = run("--runs", copied / "runs", "--export", out, "--db", "casia")
        assert (code, text, error.count("\n")) == (2, "", 1) and "No space left" in error
        assert contents(out) == before and not renamed
    room = 0
    assert run("--runs", copied / "runs", "--export", out, "--db", "casia")[0] == 0
    assert renamed == ["predictions.csv", "curves.csv", "runs.json"]
    assert all(contents(out)[path] != before[path] for path in before)


@pytest.mark.parametrize("out", ["", ".", "../runs"])
def test_an_export_needs_a_folder_of_its_own(out, copied, refused, monkeypatch):
    monkeypatch.chdir(copied / "runs")
    assert "name a folder other than --runs" in refused("--runs", ".", "--export", out)


def test_nothing_to_export_is_one_line(written, refused, tmp_path):
    (tmp_path / "empty").mkdir(), (tmp_path / "file").write_text("")
    for runs_folder, more in ((tmp_path / "empty", ()), (written / "runs", ("--protocol", "session"))):
        error = refused("--runs", runs_folder, "--export", tmp_path / "out", *more)
        assert "has no finished fold" in error and not (tmp_path / "out").exists()
    assert "file" in refused("--runs", written / "runs", "--export", tmp_path / "file")


def test_a_damaged_fold_is_reported_and_left_out(copied, run):
    (fold_of(copied) / "log.csv").write_text("")
    code, _, error = run("--runs", copied / "runs", "--export", copied / "again")
    assert code == 0 and error.count("\n") == 1 and "damaged since it was finished, not counted" in error
    folds = published.read_folds(copied / "again/casia/runs.json", "last", "tft")
    assert [fold.key()[3:] for fold in folds] == [(0, 1), (0, 3), (1, 1), (1, 2), (1, 3)]


def test_an_export_without_an_index_of_utterances_is_one_line(copied, refused):
    next((copied / "runs/casia").glob("utterances-*.csv")).unlink()
    assert "utterances-" in refused("--runs", copied / "runs", "--export", copied / "again")


# --------------------------------------------------------------------------- results of this suite


def test_all_published_results_of_this_suite_can_be_read_and_are_small():
    folders = [path.parents[1] for path in published.RESULTS.rglob("runs.json")]
    assert published.RESULTS in folders and len(folders) > 25
    for folder in folders:
        for database in {entry[0] for entry in published.find(folder)}:
            for track in runs.TRACKS:
                for fold in published.read_folds(folder / database / "runs.json", track):
                    if "epochs" in fold.config.settings:
                        assert published.fold_curve(fold).chosen.keys() >= {track}
            assert all(path.stat().st_size < 1_000_000 for path in (folder / database).iterdir())


@pytest.mark.parametrize("folder, model, war, std", [
    (".", "tft", 29.33, None), (".", "atfnn", 34.03, 1.86), ("studies/epochs-100", "tft-t+f", 33.43, 1.43),
])  # fmt: skip
def test_published_results_keep_their_numbers(folder, model, war, std):
    found, _ = summary.collect(published.RESULTS / folder, "speaker", None, "last", "casia", model)
    ours = summary.summarize(found["casia", model])
    assert round(ours.war, 2) == war and (ours.war_std and round(ours.war_std, 2)) == std
