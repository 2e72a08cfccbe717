"""The audit finds each fault that is planted in results written by hand, and none in clean ones.

python -m pytest tests/test_audit.py
"""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_runs import ANSWERS, BY_EPOCH, change, seal, write_run

import protocols
from common import runs
from reporting import audit, published, summary


pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Both seeds of three epochs, and a validation run that chooses epoch 2; copied, never changed."""
    folder = tmp_path_factory.mktemp("clean") / "runs"
    write_run(folder, BY_EPOCH)
    write_run(folder, {speaker: dict.fromkeys((1, 2, 3), text) for speaker, text in ANSWERS[1].items()}, seed=1)
    write_run(folder, BY_EPOCH, track="validation", best=2)
    return folder


@pytest.fixture
def planted(clean, tmp_path):
    return Path(shutil.copytree(clean, tmp_path / "runs"))


def shown_by_tables(folder, change=None):
    """What check_runs asks for: the Summary that a table shows of a row."""

    def figures(database, model, protocol, track, seeds):
        found, _ = summary.collect(folder, protocol, seeds, track, database, model)
        result = summary.summarize(found.get((database, model), {}))
        return replace(result, **change) if change else result

    return figures


def faults_in(folder, **options):
    lines = list(audit.check_runs(folder, shown_by_tables(folder), **options))
    assert all(
        "\n" not in line and line.startswith("FAULT" if is_fault else ("ok ", "note")) for line, is_fault in lines
    )
    return "\n".join(line for line, is_fault in lines if is_fault)


# --------------------------------------------------------------------------------------- what is planted


def edit(name, old, new, sealed=True):
    def plant(fold):
        path = fold / name if name else next(fold.parents[3].glob("utterances-*.csv"))
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))
        if sealed and name:
            seal(fold)

    return plant


def edit_epochs(fold, function):
    with np.load(fold / "epochs.npz") as file:
        arrays = dict(file)
    arrays.update(function(arrays))
    np.savez(fold / "epochs.npz", **arrays)
    seal(fold)


def repeat_last_row(fold, times):
    """The last utterance is predicted `times` times, and nothing in the fold contradicts it."""
    header, *lines = (fold / "predictions.csv").read_text().splitlines()
    order = [*range(len(lines) - 1), *[len(lines) - 1] * times]
    (fold / "predictions.csv").write_text("\n".join([header, *(lines[i] for i in order)]) + "\n")
    change(fold, test=[lines[i].split(",")[0] for i in order])
    edit_epochs(fold, lambda arrays: dict(scores=arrays["scores"][:, order]))


def swap(name, fold):
    other = fold.with_name("fold1")
    own, its = (fold / name).read_bytes(), (other / name).read_bytes()
    (fold / name).write_bytes(its), (other / name).write_bytes(own)
    seal(fold), seal(other)


def replace_by(name, fold):
    shutil.rmtree(fold)
    shutil.copytree(fold.parents[1] / name, fold)


def copy_seed(fold):
    """Seed 1 is a copy of seed 0, settings and all."""
    for number in (1, 2, 3):
        other = fold.parents[1] / f"seed1/fold{number}"
        shutil.rmtree(other)
        shutil.copytree(fold.with_name(f"fold{number}"), other)
        change(other, settings__seed=1)


def hold_out_others(fold):
    """Another speaker is held out than by the rule, and everything agrees with it."""
    saved = runs.read_config(fold)
    held_out, train = saved.train_speakers, saved.settings["held_out"]
    change(fold, settings__held_out=held_out, train_speakers=train)
    number = dict(A=2, B=6, C=2)[held_out[0]]
    labels = np.zeros(number, int)
    edit_epochs(fold, lambda arrays: dict(validation=np.full((3, number, 3), 0.1), validation_labels=labels))
    seal(fold, trained_on=train)


def forget_file(fold):
    done = json.loads((fold / "done.json").read_text())
    del done["files"]["log.csv"]
    (fold / "done.json").write_text(json.dumps(done))


def change_checkpoint(fold, **values):
    torch.save(dict(torch.load(fold / "checkpoint.pt", weights_only=True), **values), fold / "checkpoint.pt")
    seal(fold)


def train_on(names, fold):
    change(fold, train_speakers=names)
    seal(fold, trained_on=names)


LAST = {  # in fold 2 of seed 0: (what is planted, what the report names)
    "test speaker in done.json": (partial(seal, trained_on=["A", "B", "C"]), "names other speakers"),
    "test speaker trained on": (partial(train_on, ["A", "B", "C"]), "speaker B is on both sides"),
    "a training speaker nowhere": (partial(train_on, ["A"]), "a speaker of the database"),
    "row deleted": (edit("predictions.csv", "B/5,B,happy,0.125,0.75,0.125\n", ""), "predictions.csv"),
    "utterance missing everywhere": (partial(repeat_last_row, times=0), "B/5 is not as in the index"),
    "utterance twice everywhere": (partial(repeat_last_row, times=2), "B/5 is not as in the index"),
    "predictions swapped": (partial(swap, "predictions.csv"), "predictions.csv"),
    "checkpoints swapped": (partial(swap, "checkpoint.pt"), "checkpoint.pt: is of another epoch or other settings"),
    "file changed": (edit("log.csv", "1,3", "1,2", sealed=False), "log.csv: is not the file that was finished"),
    "scores of another epoch": (edit("predictions.csv", "0.75,0.125", "0.125,0.75"), "is not the scores of epoch 3"),
    "label changed": (edit("predictions.csv", "B/0,B,angry", "B/0,B,fear"), "B/0 is not as in the index"),
    "index changed": (edit("", "B/0,angry", "B/0,fear"), "utterances-"),
    "index gone": (lambda fold: next(fold.parents[3].glob("utterances-*.csv")).unlink(), "utterances-"),
    "fold gone": (shutil.rmtree, "2/3 folds, fold 2 is missing"),
    "last fold gone": (lambda fold: shutil.rmtree(fold.with_name("fold3")), "2/3 folds, fold 3 is missing"),
    "fold not finished": (lambda fold: (fold / "done.json").unlink(), "is not finished; repeat the training command"),
    "done.json cut short": (lambda fold: (fold / "done.json").write_text("{"), "done.json: is missing or damaged"),
    "file not sealed": (forget_file, "does not seal log.csv"),
    "fold of another seed": (partial(replace_by, "seed1/fold2"), "holds casia tft speaker 1 2"),
    "a seed that is a copy": (copy_seed, "has the very scores of seed 0"),
    "other batches": (
        partial(change, settings__batch_size=2, deviations=["epochs 3 instead of 1000", "batch_size 2 instead of 64"]),
        "the tables refuse it"),
    "checkpoint of another epoch": (partial(change_checkpoint, epoch=2), "checkpoint.pt: is of another epoch"),
    "another epoch in done.json": (partial(seal, epoch=2), "its scores are of epoch 2, the track chooses 3"),
    "other learning rate": (partial(change, settings__lr=0.002), "its settings give"),
    "another front end": (partial(change, settings__front_end__fmin=50.0), "front_end is not that of tft"),
    "other counts": (partial(change, database__counts=dict(angry=6, fear=2, happy=2)), "counts is {'angry': 6"),
    "not partial": (partial(change, database__partial=False), "partial is False, the index gives True"),
    "another speaker's name": (partial(change, settings__fold_name="C"), "is not speaker C"),
    "another spacing of epochs": (partial(change, settings__eval_every=2), "epochs.npz: holds the epochs [1, 2, 3]"),
    "a loss that is no number": (edit("log.csv", "1,3", "1,nan"), "log.csv: has a loss that is not finite"),
    "held out in the track last": (partial(change, settings__held_out=["C"]), "the rule gives []"),
    "held out is no list": (partial(change, settings__held_out=7), "config.json: is missing or damaged"),
}  # fmt: skip
VALIDATION = {
    "labels forged": (partial(edit_epochs, function=lambda a: dict(validation_labels=(a["validation_labels"] + 1) % 3)),
                      "validation_labels are not those"),
    "others held out": (hold_out_others, "the rule gives ["),
    "not the best epoch": (partial(edit_epochs, function=lambda a: dict(validation=a["validation"][[1, 0, 2]])),
                           "its scores are of epoch 2, the track chooses 1"),
    "held-out speaker tested": (partial(change, settings__held_out=["B", "C"]), "speaker B is on both sides"),
    "held-out speaker trained on": (partial(train_on, ["A", "C"]), "speaker C is on both sides"),
    "nobody held out": (partial(change, settings__held_out=[]), "a speaker of the database"),
}  # fmt: skip
PLANTED = [("last", *item) for item in LAST.items()] + [("validation", *item) for item in VALIDATION.items()]


@pytest.mark.parametrize("track, name, fault", PLANTED, ids=[f"{track} {name}" for track, name, _ in PLANTED])
def test_a_planted_fault_is_found(track, name, fault, planted):
    fault[0](runs.fold_folder(planted, "casia", "tft", "speaker", 0, 2, track))
    assert fault[1] in faults_in(planted)


# --------------------------------------------------------------------------------------- what passes


def test_clean_runs_pass_on_all_tracks(clean):
    lines = list(audit.check_runs(clean, shown_by_tables(clean)))
    names = ("last seed 0", "last seed 1", "oracle seed 0", "oracle seed 1", "validation seed 0")
    assert lines == [(f"ok    casia tft speaker {name}: 3 folds", False) for name in names]


def test_sessions_and_methods_without_epochs_pass(tmp_path):
    write_run(tmp_path, ANSWERS[0], protocol="session", name="my", sessions=dict(A="1", B="1", C="2"))
    for seed in (0, 1):  # the same scores: such a method may have no random numbers
        write_run(tmp_path, ANSWERS[0], model="lda", seed=seed, trained=False)
    assert faults_in(tmp_path) == ""
    fold = runs.fold_folder(tmp_path, "casia", "lda", "speaker", 0, 1)
    change(fold, settings__epochs=3)
    assert "does not seal checkpoint.pt" in faults_in(tmp_path)


def test_only_the_database_and_protocol_that_are_asked_for_are_checked(planted):
    shutil.rmtree(runs.fold_folder(planted, "casia", "tft", "speaker", 0, 2))
    write_run(planted, name="my")
    assert "casia" in faults_in(planted, db="casia") and "casia" in faults_in(planted, protocol="speaker")
    assert faults_in(planted, db="my") == ""
    assert faults_in(planted, db="abc") == f"FAULT {planted}: holds no runs of abc"
    assert "holds no runs" in faults_in(planted, protocol="session")


@pytest.mark.parametrize("name", ["war", "uar", "war_std", "uar_std", "fold_war", "fold_uar"])
def test_a_table_of_other_figures_is_a_fault(name, clean):
    lines = [line for line, is_fault in audit.check_runs(clean, shown_by_tables(clean, {name: 50.0})) if is_fault]
    assert lines and all(f": {name} is " in line and "the table has 50.0000" in line for line in lines)


def test_published_results_pass_until_a_prediction_is_changed(clean, tmp_path):
    tracks = {}
    for track in runs.TRACKS:
        found, _ = summary.collect(clean, "speaker", None, track)
        tracks[track] = [fold for folds in found["casia", "tft"].values() for fold in folds]
    published.export(tmp_path, {("casia", "tft", "speaker"): tracks})
    lines = list(audit.check_runs(tmp_path, shown_by_tables(tmp_path)))
    assert len(lines) == 6 and all(line.endswith("3 folds, published") for line, _ in lines[:-1])
    assert lines[-1][0].startswith("note") and not any(is_fault for _, is_fault in lines)
    path = tmp_path / "casia/predictions.csv"
    path.write_text(path.read_text().replace("angry,", "fear,", 1))
    assert faults_in(tmp_path).count(str(path)) == 1


@pytest.mark.parametrize("names", [["10", "9", "1", "2b", "2a", "x", "y", "z", "01", "8", "7", "6"], list("ABC")])
def test_the_rule_of_holding_out_is_that_of_training(names):
    ids = [f"{name}/0" for name in names]
    sessions = np.array([str(i // 2) for i in range(len(names))])
    database = protocols.Database("my", Path("nowhere"), "", ("a", "b"), ids, ids, np.zeros(len(ids), int),
                                  np.array(names), sessions, False)  # fmt: skip
    for protocol in protocols.PROTOCOLS[: 1 + (len(names) > 3)]:
        for fold in protocols.make_folds(database, protocol):
            tested = set(database.speakers[fold.test].tolist())
            for seed in range(7):
                _, held_out = protocols.split_validation_speakers(database, fold, seed)
                assert audit.held_out_by_rule(set(names), tested, seed) == set(database.speakers[held_out].tolist())


def test_published_figures_as_fractions():
    lines = [line.split(", ", 1)[1] for line in audit.fractions(published.read_published(), protocols.DATABASES)]
    assert {"iemocap, TFT: WAR 74.43 is 1697/2280", "casia, TFT: WAR 53.17 is 638/1200",
            "abc, ATFNN: WAR 68.84 is 296/430"} <= set(lines)  # fmt: skip
    others = {line.split("WAR ")[1].split(" is no k/1200")[0] for line in lines if "casia" in line and "no k/" in line}
    assert others >= {"40.32", "49.26"} and len(lines) == 20  # each of our models on each database, once
