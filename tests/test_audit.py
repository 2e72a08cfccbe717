"""The audit, on results written by hand in which a fault is planted, and on doctored tables.

python -m pytest tests/test_audit.py
"""

import json
import re
import shutil
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluate import ANSWERS, BY_EPOCH, EARLIER, change, change_checkpoint, fold_of, reseal, write_run

import audit
import audit_table
import engine
import evaluate
import features
import protocols
import results

pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Both seeds and a validation run; copied, never changed."""
    runs = tmp_path_factory.mktemp("clean") / "runs"
    weights = engine.make_model("tft", 3, 0, features.FRONT_ENDS["tft"], "cpu").state_dict()
    for seed, answers in enumerate(ANSWERS):
        told = {who: {2: EARLIER[who], 3: text} for who, text in answers.items()}
        write_run(runs, told, seed=seed, weights=weights)
    write_run(runs, BY_EPOCH, track="validation", best=2, weights=weights)
    return runs


@pytest.fixture
def planted(clean, tmp_path):
    return Path(shutil.copytree(clean, tmp_path / "runs"))


def edit(path, old, new, count=1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def edit_epochs(folder, function):
    with np.load(folder / "epochs.npz") as file:
        kept = dict(file)
    function(kept)
    np.savez(folder / "epochs.npz", **kept)


def repeat_last(fold, times, everywhere):
    """The last row of predictions.csv lacks or is there twice; everywhere: nothing else in the fold tells of it."""
    header, *lines = (fold / "predictions.csv").read_text().splitlines()
    order = [*range(len(lines) - 1), *[len(lines) - 1] * times]
    (fold / "predictions.csv").write_text("\n".join([header, *(lines[i] for i in order)]) + "\n")
    if everywhere:
        edit_epochs(fold, lambda kept: kept.update(scores=kept["scores"][:, order]))
        change(fold, test=[lines[i].split(",")[0] for i in order])
    reseal(fold)


def swap(name, fold, seal):
    other = fold.with_name("fold1")
    a, b = (fold / name).read_bytes(), (other / name).read_bytes()
    assert a != b
    (fold / name).write_bytes(b), (other / name).write_bytes(a)
    if seal:
        reseal(fold), reseal(other)


def predictions(fold, old, new):
    edit(fold / "predictions.csv", old, new)
    reseal(fold)


def doctor_index(fold, old, new):
    edit(next(fold.parents[3].glob("utterances-*.csv")), old, new)


def place_of(fold, name):
    """Where another fold of the run lies, so that its settings are in the wrong folder."""
    shutil.rmtree(fold)
    shutil.copytree(fold.parents[1] / name, fold)


def spoil_weight(fold):
    state = results.read_checkpoint(fold / "checkpoint.pt")["model"]
    next(iter(state.values())).view(-1)[0] = np.nan
    change_checkpoint(fold, model=state)


def drop_weight(fold, added=None):
    state = results.read_checkpoint(fold / "checkpoint.pt")["model"]
    del state[next(iter(state))]
    change_checkpoint(fold, model=dict(state, **(added or {})))


def only_epoch(fold, epoch):
    """Of all evaluated epochs one is left, whose scores become the predictions; nothing else tells of it."""

    def cut(kept):
        at = kept["epochs"].tolist().index(epoch)
        kept.update((name, kept[name][[at]]) for name in set(kept) - {"validation_labels"})
        lines = (fold / "predictions.csv").read_text().splitlines()
        rows = [
            line.split(",")[:3] + [f"{score:.9g}" for score in row] for line, row in zip(lines[1:], kept["scores"][0])
        ]
        (fold / "predictions.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")

    edit_epochs(fold, cut)
    change_checkpoint(fold, epoch=epoch)
    reseal(fold, epoch=epoch)


def seal_epochs(fold, function):
    edit_epochs(fold, function)
    reseal(fold)


def seal_text(fold, name, function):
    (fold / name).write_text(function((fold / name).read_text()))
    reseal(fold)


def unseal_log(fold):
    marker = json.loads((fold / "done.json").read_text())
    del marker["files"]["log.csv"]
    (fold / "done.json").write_text(json.dumps(marker))


def rename_fold(fold):
    number = int(fold.name.removeprefix("fold").removesuffix("-validation"))
    change(fold, settings__fold_name="ABC"[number % 3])


def forge_labels(kept):
    kept.update(validation_labels=(kept["validation_labels"] + 1) % 3)


def other_held(fold):
    """Another training speaker is held out, and everything tells it."""
    config = json.loads((fold / "config.json").read_text())
    change(fold, settings__held_out=config["train_speakers"], train_speakers=config["settings"]["held_out"])
    with np.load(fold / "epochs.npz") as file:
        number = {"A": 2, "B": 6, "C": 2}[config["train_speakers"][0]]
        validation = np.full((len(file["epochs"]), number, 3), 0.1)
    seal_epochs(fold, lambda kept: kept.update(validation=validation, validation_labels=np.zeros(number, int)))
    reseal(fold, trained_on=config["settings"]["held_out"])


def copy_seed(fold):
    """Seed 1 is a copy of seed 0, settings and all."""
    for number in (1, 2, 3):
        own, other = fold.with_name(f"fold{number}"), fold.parents[1] / f"seed1/fold{number}"
        shutil.rmtree(other)
        shutil.copytree(own, other)
        change(other, settings__seed=1)


DEEP, LONG = "[" * 200_000, "x" * 200_000
ONLY_ONE = {  # in fold 2 of seed 0 of the last epoch: (what is planted, what the report names)
    "test speaker in trained_on": (lambda fold: reseal(fold, trained_on=["A", "B", "C"]), "config.json"),
    "test speaker trained on, and told": (
        lambda fold: (change(fold, train_speakers=["A", "B", "C"]), reseal(fold, trained_on=["A", "B", "C"])),
        "speaker B is on both sides"),
    "a training speaker nowhere": (
        lambda fold: (change(fold, train_speakers=["A"]), reseal(fold, trained_on=["A"])), "a speaker of the database"),
    "row deleted": (partial(repeat_last, times=0, everywhere=False), "predictions.csv"),
    "utterance missing everywhere": (partial(repeat_last, times=0, everywhere=True), "predictions.csv: lacks B/5"),
    "row twice": (partial(repeat_last, times=2, everywhere=False), "predictions.csv"),
    "utterance twice everywhere": (
        partial(repeat_last, times=2, everywhere=True), "predictions.csv: predicts B/5 twice"),
    "checkpoints swapped": (partial(swap, "checkpoint.pt", seal=False), "checkpoint.pt"),
    "checkpoints swapped and sealed": (
        partial(swap, "checkpoint.pt", seal=True), "checkpoint.pt: is of other settings than its fold"),
    "predictions swapped": (partial(swap, "predictions.csv", seal=True), "predictions.csv"),
    "scores of another epoch": (
        lambda fold: predictions(fold, "0.75,0.125,0.125", "0.125,0.125,0.75"), "predictions.csv: is not the scores"),
    "label changed": (lambda fold: predictions(fold, "B/0,B,angry", "B/0,B,fear"), "emotion or speaker of B/0"),
    "speaker changed": (lambda fold: predictions(fold, "B/0,B,", "B/0,A,"), "emotion or speaker of B/0"),
    "utterance renamed": (lambda fold: predictions(fold, "B/0,", "B/9,"), "other utterances"),
    "index doctored": (partial(doctor_index, old="B/0,angry", new="B/0,fear"), "utterances-"),
    "session in the index doctored": (partial(doctor_index, old="B/0,angry,B,B", new="B/0,angry,B,C"), "utterances-"),
    "index gone": (lambda fold: next(fold.parents[3].glob("utterances-*.csv")).unlink(), "which writes it again"),
    "index of a long field": (partial(doctor_index, old="B/0", new=LONG), "which writes it again"),
    "fold gone": (shutil.rmtree, "fold 2 is missing"),
    "last fold gone": (lambda fold: shutil.rmtree(fold.with_name("fold3")), "fold 3 is missing"),
    "fold not finished": (lambda fold: (fold / "done.json").unlink(), "done.json"),
    "fold of another seed": (partial(place_of, name="seed1/fold2"), "its place says"),
    "another fold": (partial(place_of, name="seed0/fold1"), "its place says"),
    "another model's name": (
        lambda fold: shutil.copytree(fold.parents[2], fold.parents[3] / "atfnn"), "atfnn/speaker/seed0/fold2: holds"),
    "a fold too many": (lambda fold: shutil.copytree(fold, fold.with_name("fold4")), "its place says"),
    "a seed that is a copy": (copy_seed, "seed1: has the very scores of seed 0"),
}  # fmt: skip
EVERYWHERE = {  # in all folds of the run alike
    "checkpoint of another epoch": (partial(change_checkpoint, epoch=2), "checkpoint.pt: is of other epoch"),
    "checkpoint of other classes": (partial(change_checkpoint, classes=["a", "b", "c"]), "is of other classes"),
    "checkpoint of other code": (partial(change_checkpoint, code={}), "is of other code"),
    "checkpoint with code": (partial(change_checkpoint, model=Path("x")), "holds more than weights"),
    "checkpoint that is none": (
        lambda fold: ((fold / "checkpoint.pt").write_bytes(b"PK"), reseal(fold)), "holds more than weights"),
    "checkpoint with tensors for settings": (
        lambda fold: change_checkpoint(fold, epoch=torch.ones(2)), "checkpoint.pt: is of other epoch"),
    "no weights": (partial(change_checkpoint, model={}), "checkpoint.pt: cannot be used"),
    "a weight missing": (drop_weight, "checkpoint.pt: cannot be used"),
    "another weight": (partial(drop_weight, added=dict(other=torch.ones(1))), "checkpoint.pt: cannot be used"),
    "a weight that is no number": (
        spoil_weight, "checkpoint.pt: cannot be used"),
    "no normalisation": (partial(change_checkpoint, normalization=None), "checkpoint.pt: cannot be used"),
    "a scale of 0": (
        partial(change_checkpoint, normalization=[torch.zeros(1, 80, 1)] * 2), "checkpoint.pt: cannot be used"),
    "another epoch told": (lambda fold: reseal(fold, epoch=2), "its scores are of epoch 2, not 3"),
    "other learning rate": (partial(change, settings__lr=0.002), "tells the deviations"),
    "no deviations": (partial(change, deviations=[]), "tells the deviations []"),
    "another front end": (partial(change, settings__front_end__low=50.0), "front_end is not that of tft"),
    "code not told": (partial(change, code={}), "does not tell the code"),
    "one file of the code": (partial(change, code={"train.py": "c" * 16}), "does not tell the code"),
    "code of another kind": (
        partial(change, code=dict.fromkeys(audit.CODE, "new")), "does not tell the code"),
    "torch not told": (partial(change, machine__torch=""), "does not tell the version of torch"),
    "other counts": (partial(change, database__counts=dict(angry=6, fear=2, happy=2)), "counts is {'angry': 6"),
    "other number of utterances": (partial(change, database__utterances=12), "utterances is 12, the index gives 10"),
    "other speakers": (partial(change, database__speakers=["A", "B", "C", "D"]), "speakers is ['A', 'B', 'C', 'D']"),
    "not partial": (partial(change, database__partial=False), "partial is False, the index gives True"),
    "another language": (partial(change, database__language="German"), "language is German"),
    "another speaker's name": (rename_fold, "is not speaker"),
    "fewer folds": (partial(change, folds_total=2), "of 2 is not speaker"),
    "more folds": (partial(change, folds_total=4), "of 4 is not speaker"),
    "epochs deleted": (lambda fold: only_epoch(fold, 3), "epochs.npz: holds 1 epochs"),
    "another spacing of epochs": (partial(change, settings__eval_every=1), "epochs.npz: holds 2 epochs"),
    "epochs renamed": (
        lambda fold: seal_epochs(fold, lambda kept: kept.update(epochs=np.array([1, 3]))),
        "epochs.npz: holds 2 epochs"),
    "an epoch of the log gone": (
        lambda fold: seal_text(fold, "log.csv", lambda text: text[: text.rindex("\n3,") + 1]),
        "log.csv: does not tell"),
    "an epoch of the log twice": (
        lambda fold: seal_text(fold, "log.csv", lambda text: text.replace("\n2,", "\n3,")), "log.csv: does not tell"),
    "a loss that is no number": (
        lambda fold: seal_text(fold, "log.csv", lambda text: text.replace(",1.5,", ",nan,")), "log.csv: does not tell"),
    "log of a long field": (
        lambda fold: seal_text(fold, "log.csv", lambda text: text + LONG), "log.csv: does not tell"),
    "held out in the track last": (partial(change, settings__held_out=["C"]), "the rule says []"),
    "marker cut short": (lambda fold: (fold / "done.json").write_text("{"), "done.json: is damaged"),
    "marker too deep": (lambda fold: (fold / "done.json").write_text(DEEP), "done.json: is damaged"),
    "marker without a file": (unseal_log, "log.csv: is not among the files"),
}  # fmt: skip
DIFFERENCES = {  # from the other folds and seeds of the row
    "other recordings": (partial(change, settings__recordings="6" * 16), "recordings is not that of"),
    "other code": (partial(change, code=dict.fromkeys(audit.CODE, "d" * 16)), "code is not that of"),
    "other batches": (partial(change, settings__batch_size=32, deviations=[
        "epochs 3 instead of 1000", "batch_size 32 instead of 64"]), "batch_size is not that of"),
    "other length": (partial(change, database__seconds=70.0), "database is not that of"),
}  # fmt: skip
VALIDATION = {  # in all folds alike
    "epochs deleted": (lambda fold: only_epoch(fold, 3), "epochs.npz: holds 1 epochs"),
    "labels forged": (lambda fold: seal_epochs(fold, forge_labels), "epochs.npz: validation_labels are not those"),
    "others held out": (other_held, "the rule says ["),
}  # fmt: skip
VALIDATION_ONE = {
    "not the best on the held-out": (
        lambda fold: seal_epochs(fold, lambda kept: kept.update(validation=kept["validation"][[1, 0, 2, 3]])),
        "its scores are of epoch 2, not 1"),
    "held-out speaker tested": (partial(change, settings__held_out=["B", "C"]), "speaker B is on both sides"),
    "held-out speaker trained on": (
        lambda fold: (change(fold, train_speakers=["A", "C"]), reseal(fold, trained_on=["A", "C"])),
        "speaker C is on both sides"),
    "held-out speaker not told": (partial(change, settings__held_out=[]), "a speaker of the database"),
}  # fmt: skip
PLANTED = [  # (track, folds of seed 0, name of the fault, (what is planted, what the report names))
    *(("last", (2,), *item) for item in {**ONLY_ONE, **DIFFERENCES}.items()),
    *(("last", (1, 2, 3), *item) for item in {**EVERYWHERE, **DIFFERENCES}.items()),
    *(("validation", (2,), *item) for item in VALIDATION_ONE.items()),
    *(("validation", (1, 2, 3), *item) for item in VALIDATION.items()),
]


def test_a_clean_run_passes_the_audit(clean, run):
    code, out, error = run("--runs", clean, "--audit")
    assert (code, error) == (0, "") and out.splitlines()[-1] == f"no faults in {clean}"
    ok = [line for line in out.splitlines() if line.startswith("ok ")]
    assert len(ok) == 3 and all(line.endswith(": 3 folds") for line in ok)


@pytest.mark.parametrize("track, folds, fault", [one[:3] for one in PLANTED], ids=str)
def test_a_planted_fault_is_found(track, folds, fault, planted, run, monkeypatch):
    plant, named = next(one[3] for one in PLANTED if one[:3] == (track, folds, fault))
    if "checkpoint" not in fault + named:  # reading them takes most of the time
        monkeypatch.setattr(audit, "compare_checkpoint", lambda fold, epoch: ())
    for number in folds:
        plant(fold_of(planted, 0, number, track))
    code, out, error = run("--runs", planted, "--audit")
    faults = [line for line in out.splitlines() if line.startswith("FAULT ")]
    assert (code, error) == (1, "")
    assert any(named in line and str(planted) in line for line in faults), faults
    assert re.search(r"^(1 fault|([2-9]|[1-9]\d+) faults) in ", out.splitlines()[-1])
    alone = track == "last" and "index" not in fault and "copy" not in fault
    assert ("ok    casia tft speaker last seed 1: 3 folds" in out) or not alone  # the rest stays sound


def test_a_figure_that_the_evaluator_counts_otherwise_is_found(clean, run, monkeypatch):
    monkeypatch.setattr(protocols, "war", lambda matrix: matrix.trace() / matrix.sum() + 1e-6)
    code, out, _ = run("--runs", clean, "--audit")
    assert code == 1 and out.count("are not the table's") == 3


def test_no_runs_do_not_pass_the_audit(tmp_path, run):
    code, out, _ = run("--runs", tmp_path, "--audit")
    assert code == 1 and "holds no runs" in out


@pytest.fixture(scope="module")
def ablation(clean):
    """The same runs, and those of another model: a table of methods that are all run, and one that compares two."""
    runs = Path(shutil.copytree(clean, clean.with_name("two")))
    for model in ("tft-t+f", "tft-t+tf", "tft-f+tf"):
        for seed in (0, 1):
            write_run(runs, ANSWERS[1 - seed], seed=seed, model=model)
    return runs


SIGNIFICANCE = ("--table", "significance", "--models", "tft", "tft-t+f")


@pytest.fixture(scope="module")
def saved(clean, ablation):
    """Rows of every track, as the evaluator gives them, and of the tables that need two models."""
    told = {}
    for name, runs, *how in (("all", clean, "--track", "all"), ("ablation", ablation, "--table", "ablation"),
                             ("significance", ablation, *SIGNIFICANCE)):  # fmt: skip
        told[name] = json.dumps(evaluate.make_rows(evaluate.parse_command_line(["--runs", str(runs), *how]))[0])
    return told


@pytest.fixture
def check(clean, ablation, tmp_path):
    """Lines of faults that the audit finds in a table, given as rows or as text."""

    def call(rows, name="all"):
        (tmp_path / "table.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
        options = evaluate.parse_command_line(["--runs", str(clean if name == "all" else ablation)])
        lines = list(audit_table.check_table(tmp_path / "table.json", evaluate.rows_again(options.runs)))
        assert all(line.startswith(f"FAULT {tmp_path / 'table.json'}: ") for line in lines)
        return lines

    return call


@pytest.mark.parametrize(
    "name, value",
    [
        *((name, lambda figure: figure + 0.01) for name in
          ("war", "uar", "war_std", "uar_std", "fold_war", "fold_uar", "published_war", "published_uar")),
        *((name, lambda figure: figure + 1) for name in ("folds_done", "folds_total", "utterances")),
        *(("seeds", seeds) for seeds in ([0], [1], [0, 1, 2], [2], [], None, "0-1", 1)),
        ("track", "oracle"), ("track", None), ("confusion", [[6, 2, 2], [2, 4, 0], [0, 1, 3]]),
        ("protocol", "session"), ("model", "atfnn"), ("method", "TFTT"), ("war", "70.00"),
        ("published_war", None), ("war_speakers", [69, 71]), ("war", None), ("track", "first"), ("method", None),
    ],
)  # fmt: skip
def test_a_doctored_table_is_found(name, value, saved, check):
    rows = json.loads(saved["all"])
    assert check(rows) == []
    row = next(row for row in rows if row.get("track") == "last" and row["published_war"] and row["war"])
    row[name] = value(row[name]) if callable(value) else value
    assert check(rows)


@pytest.mark.parametrize(
    "table, name, value",
    [("significance", *item) for item in (
        ("war_first", lambda old: old + 0.01), ("difference", lambda old: old + 1), ("verdict", "tft is better"),
        ("speaker_p", 0.01), ("mcnemar_p", [0.01, 0.01]), ("seeds_agree", 2), ("speakers", 4), ("track", "validation"),
        ("seeds", [0]), ("seeds", None), ("first", "tft-t+tf"), ("second", "tft"), ("difference_speakers", [1, 2]))]
    + [("databases", *item) for item in (
        ("found", lambda old: old + 1), ("published", lambda old: old + 1), ("partial", False), ("language", "German"),
        ("count", "words"), ("source", None), ("database", "iemocap"), ("war", 70))]
    + [("ablation", *item) for item in (
        ("notes", []), ("model", "tft-t+tf"), ("published_protocol", None), ("published_note", "new"),
        ("table", "best"),
        ("seeds", [0]), ("classes", ["angry"]), ("new", 1), ("database", "emodb"))],
)  # fmt: skip
def test_any_doctored_column_is_found(table, name, value, saved, check):
    of = "significance" if table == "significance" else "all"
    rows = json.loads(saved[of])
    row = next(
        row for row in rows if row["table"] == table and row["database"] == "casia"
        and row.get("model") in (None, "tft") and row.get("track") in (None, "last")
    )  # fmt: skip
    row[name] = value(row[name]) if callable(value) else value
    assert check(rows, of)


@pytest.mark.parametrize("of, table", [("all", table) for table in evaluate.TABLES] + [("ablation", "ablation")])
def test_a_row_left_out_or_there_twice_is_found(of, table, saved, check):
    rows = json.loads(saved[of])
    assert check(rows, of) == []
    at = next(i for i, row in enumerate(rows) if row["table"] == table and row["database"] == "casia")
    name = rows[at].get("method") or rows[at].get("count")
    assert any(f": lacks {rows[at]['source']}, {name}" in line for line in check(rows[:at] + rows[at + 1 :], of))
    assert any("is there twice" in line for line in check([*rows, rows[at]], of))


def test_a_column_left_out_is_found(saved, check):
    for name in ("notes", "published_protocol", "war_speakers", "seeds", "source"):
        rows = json.loads(saved["all"])
        del next(row for row in rows if row.get("model") == "tft" and row["database"] == "casia")[name]
        assert check(rows), name


def test_figures_of_one_seed_do_not_pass_for_those_of_all(ablation, saved, check):
    """Of a table of all seeds one row is replaced by that of the better seed."""
    options = evaluate.parse_command_line(["--runs", str(ablation), "--table", "ablation", "--seed", "1"])
    rows, one = json.loads(saved["ablation"]), evaluate.make_rows(options)[0]
    assert check(one, "ablation") == check(rows, "ablation") == []
    for at in [i for i, row in enumerate(rows) if row["database"] == "casia" and row["war"]]:
        assert check([*rows[:at], one[at], *rows[at + 1 :]], "ablation")


def test_a_table_of_some_seeds_passes_where_others_are_run(ablation, run, check):
    for seed in ("0", "1", "0-1", "7"):
        for how in ([], ["--table", "ablation", "--db", "casia"], ["--table", "databases"],
                    ["--table", "significance", "--models", "tft-t+f", "tft", "tft-t+tf"]):  # fmt: skip
            told = run("--runs", ablation, "--seed", seed, "--format", "json", *how)[1]
            assert ("significance" in how and seed == "7") or check(told, "ablation") == [], (seed, how)


def test_a_table_of_a_row_with_seeds_left_out_passes(ablation, tmp_path, run):
    runs = Path(shutil.copytree(ablation, tmp_path / "runs"))
    shutil.rmtree(fold_of(runs, 0, 2))
    (tmp_path / "table.json").write_text(run("--runs", runs, "--format", "json", "--db", "casia")[1])
    _, out, _ = run("--runs", runs, "--audit", tmp_path / "table.json")
    assert "seeds 0 left out" in (tmp_path / "table.json").read_text()
    assert "fold 2 is missing" in out and "FAULT " + str(tmp_path / "table.json") not in out


@pytest.mark.parametrize("text", ["", "[", "[]", "{}", "method,war\nTFT,70\n", "7", "null", "[7]",
                                  '{"table": "ablation"}',
                                  '[{"table": "ablation", "war": 70}]', "[" * 200_000, '["\\ud800"]',
                                  '[{"table": "best", "war": 70}]', '[{"table": ["ablation"]}]',
                                  '[{"table": "ablation", "database": 7, "protocol": "speaker", "track": "last"}]',
                                  '[{"table": "ablation", "war": 70, "model": "tft"}]'])  # fmt: skip
def test_what_is_no_table_is_found(text, clean, tmp_path, run):
    (tmp_path / "table.json").write_text(text)
    code, out, error = run("--runs", clean, "--audit", tmp_path / "table.json")
    assert (code, error) == (1, "") and f"FAULT {tmp_path / 'table.json'}" in out
    assert len(max(out.splitlines(), key=len)) < 400


@pytest.mark.parametrize("option", ["--db casia", "--seed 0", "--track all", "--table ablation", "--format json",
                                    "--models tft tfnn", "--protocol session"])  # fmt: skip
def test_options_that_the_audit_would_pass_over_are_refused(option, clean, run):
    code, out, error = run("--runs", clean, "--audit", *option.split())
    assert (code, out) == (results.EXIT_USAGE, "") and error.count("\n") == 1 and f"{option.split()[0]}: " in error


def test_published_figures_are_told_as_fractions():
    lines = {line.split(", ", 1)[1]: line for line in audit.fractions(evaluate.read_published(), protocols.DATABASES)}
    for told in ("iemocap, TFT: WAR 74.43 is 1697/2280", "casia, TFT: WAR 53.17 is 638/1200",
                 "abc, ATFNN: WAR 68.84 is 296/430"):  # fmt: skip
        assert told in lines
    none = [told for told in lines if "is no k/" in told]
    assert {told.split("WAR ")[1].split(" is no k/1200")[0] for told in none if "casia" in told} >= {"40.32", "49.26"}
    assert not any("TFT: " in told and told.startswith(("iemocap", "casia")) for told in none)
    assert len(lines) == 20  # each of our models on each database, once


# ------------------------------------------------------------------------------- files of another kind


def write_config(fold, path, value=None):
    """config.json with a value set, or taken out, at the path of names."""
    config = part = json.loads((fold / "config.json").read_text())
    for key in path[:-1]:
        part = part[key]
    part.pop(path[-1]) if value is None else part.update({path[-1]: value})
    (fold / "config.json").write_text(json.dumps(config))


def write_header(fold, shape):
    """epochs.npz whose scores are said to be of a shape that no memory holds."""
    with zipfile.ZipFile(fold / "epochs.npz", "w") as file, file.open("scores.npy", "w") as part:
        np.lib.format.write_array_header_1_0(part, dict(descr="<f4", fortran_order=False, shape=shape))


def put(name, content):
    return lambda fold: (fold / name).write_text(content)


def npz(**changes):
    return lambda fold: edit_epochs(
        fold, lambda kept: [kept.update({name: how(kept[name])}) for name, how in changes.items()]
    )


def save_array(fold):
    with open(fold / "epochs.npz", "wb") as file:
        np.save(file, np.zeros(3))


CONFIGS = {
    "config too deep": put("config.json", DEEP),
    "config is a list": put("config.json", "[]"),
    "config is no JSON": put("config.json", "{"),
    **{f"config without {' '.join(path)}": partial(write_config, path=path) for path in (
        *(("settings", name) for name in results.CONFIG["settings"]), *((name,) for name in results.CONFIG),
        *(("database", name) for name in results.CONFIG["database"]))},
    **{f"config with {' '.join(path)} {value}": partial(write_config, path=path, value=value) for *path, value in (
        ("deviations", 5), ("deviations", [5]), ("deviations", ["\ud800"]), ("database", "counts", 5), ("code", []),
        ("database", "counts", dict(angry="5")), ("database", "seconds", "x"), ("database", "seconds", float("inf")),
        ("folds_total", 4.5), ("folds_total", 1), ("database", "classes", ["angry", "angry", "happy"]), ("test", 7),
        ("settings", 7), ("database", "partial", 1), ("settings", "seed", True))},
}  # fmt: skip
PREDICTIONS = {
    "a long field": lambda fold: edit(fold / "predictions.csv", "B,", f"{LONG},"),
    "nothing": put("predictions.csv", ""),
    "a short row": lambda fold: edit(fold / "predictions.csv", ",0.125\n", "\n"),
    "other columns": lambda fold: edit(fold / "predictions.csv", "speaker", "who"),
    "a score that is none": lambda fold: edit(fold / "predictions.csv", "0.75", "nan"),
}
EPOCHS = {
    "an array": save_array,
    "no archive": put("epochs.npz", "PK"),
    "no scores": lambda fold: edit_epochs(fold, lambda kept: kept.pop("scores")),
    "no epochs told": lambda fold: edit_epochs(fold, lambda kept: kept.pop("epochs")),
    "an utterance less": npz(scores=lambda old: old[:, 1:]),
    "a class less": npz(scores=lambda old: old[:, :, 1:]),
    "a class more": npz(scores=lambda old: np.concatenate([old, old], 2)),
    "an epoch less": npz(scores=lambda old: old[1:]),
    "no epochs": npz(scores=lambda old: old[:0], epochs=lambda old: old[:0]),
    "epochs of halves": npz(epochs=lambda old: old / 2),
    "a score that is none": npz(scores=lambda old: old + np.nan),
    "scores of text": npz(scores=lambda old: old.astype(str)),
    "a shape too large": partial(write_header, shape=(2, 10**9, 10**6)),
}
HELD = {
    "no labels": lambda fold: edit_epochs(fold, lambda kept: kept.pop("validation_labels")),
    "no scores": lambda fold: edit_epochs(fold, lambda kept: kept.pop("validation")),
    "labels of no class": npz(validation_labels=lambda old: old - 9),
    "a label less": npz(validation_labels=lambda old: old[1:]),
    "a class less": npz(validation=lambda old: old[:, :, 1:]),
}
BROKEN = [
    *(("config.json", "last", one) for one in CONFIGS.items()),
    *(("predictions.csv", "last", one) for one in PREDICTIONS.items()),
    *(("epochs.npz", "oracle", one) for one in EPOCHS.items()),
    *(("epochs.npz", None, one) for one in HELD.items()),
]


@pytest.mark.parametrize(
    "name, track, plant", BROKEN, ids=lambda value: value[0] if isinstance(value, tuple) else str(value)
)
def test_a_file_of_another_kind_is_told_in_one_line(name, track, plant, planted, run):
    fold = fold_of(planted, 0, 2, track or "validation")
    plant[1](fold)
    reseal(fold)
    told = f"{fold / name}: is missing or damaged ("
    if track:
        code, out, error = run("--runs", planted, "--track", track)
        assert (code, out, error.count("\n")) == (results.EXIT_USAGE, "", 1)
        assert told in error and "remove its folder and repeat the training command" in error
    assert told in "".join(audit.check_fold(planted, key_of(fold), fold))
    with pytest.raises(results.RunError, match=re.escape(told)):
        (results.read_epochs if name == "epochs.npz" else results.read_fold)(fold)


def key_of(fold):
    track = "validation" if fold.name.endswith("-validation") else "last"
    return ("casia", "tft", "speaker", track, 0, 2)


def test_a_marker_too_deep_is_no_marker(planted, run):
    (fold_of(planted, 0, 2) / "done.json").write_text(DEEP)
    code, _, error = run("--runs", planted)
    assert code == 0 and "damaged since it was finished, not counted" in error


def test_a_run_without_kept_epochs_passes(clean, tmp_path, run):
    weights = results.read_checkpoint(fold_of(clean, 0, 1) / "checkpoint.pt")["model"]
    write_run(tmp_path, ANSWERS[0], weights=weights)
    write_run(tmp_path, ANSWERS[1], weights=weights, name="my", protocol="session", sessions=dict(A="1", B="1", C="2"))
    code, out, _ = run("--runs", tmp_path, "--audit")
    assert code == 0 and out.count("ok    ") == 2, out


@pytest.mark.parametrize("names", [["10", "9", "1", "2b", "2a", "x", "y", "z", "01", "8", "7", "6"], list("ABC")])
def test_the_rule_of_holding_out_is_that_of_training(names):
    ids = [f"{name}/0" for name in names]
    sessions = [str(i // 2) for i in range(len(names))]
    database = protocols.Database("my", Path("nowhere"), "", ("a", "b"), ids, ids, np.zeros(len(ids), int),
                                  np.array(names), np.array(sessions), False)  # fmt: skip
    for protocol in protocols.PROTOCOLS[: 1 + (len(names) > 3)]:
        for fold in protocols.make_folds(database, protocol):
            tested = set(database.speakers[fold.test].tolist())
            for seed in range(7):
                _, held = protocols.hold_out(database, fold, seed)
                assert audit.held_by_rule(set(names), tested, seed) == set(database.speakers[held].tolist())


def test_seeds_of_other_utterances_and_models_of_other_recordings_are_refused(ablation, tmp_path, run):
    runs = Path(shutil.copytree(ablation, tmp_path / "runs"))
    repeat_last(fold_of(runs, 0, 2), times=0, everywhere=True)
    code, _, error = run("--runs", runs)
    assert code == results.EXIT_USAGE and error.count("\n") == 1 and "tests other utterances than seed 0" in error
    for fold in (runs / "casia/tft-t+f").glob("*/seed*/fold*"):
        change(fold, settings__recordings="6" * 16)
    how = ["--runs", runs, "--table", "significance", "--models", "tft", "tft-t+f", "--seed", "1"]
    code, _, error = run(*how)
    assert code == results.EXIT_USAGE and error.count("\n") == 1
    assert "tft and tft-t+f were run on other recordings" in error


def test_what_the_evaluator_refuses_is_a_fault(planted, run):
    change(fold_of(planted, 1, 3), settings__batch_size=32, deviations=["epochs 3 instead of 1000"])
    _, out, _ = run("--runs", planted, "--audit")
    assert "FAULT casia tft speaker last: the evaluator refuses it: " in out and "differs from" in out
