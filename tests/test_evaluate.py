"""Figures, tables and the audit, on results written by hand: nothing is trained here.

python -m pytest tests/test_evaluate.py
"""

import csv
import io
import json
import re
import shutil
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

import audit
import evaluate
import protocols
import results
import significance

CLASSES = ("angry", "fear", "happy")
# Three speakers; each pair is an utterance, its emotion and the answer: aa is angry heard as angry.
#            correct of all        recalls
# seed 0, A: 1/2                   a 1/1  f 0/1           WAR 1/2  UAR 1/2
#         B: 4/6                   a 3/4         h 1/2    WAR 2/3  UAR 5/8
#         C: 1/2                          f 1/2           WAR 1/2  UAR 1/2
#    pooled: 6/10                  a 4/5  f 1/3  h 1/2    WAR 3/5  UAR 49/90;  by fold WAR 5/9  UAR 13/24
# seed 1, A: 2/2                   a 1/1  f 1/1           WAR 1    UAR 1
#         B: 4/6                   a 2/4         h 2/2    WAR 2/3  UAR 3/4
#         C: 2/2                          f 2/2           WAR 1    UAR 1
#    pooled: 8/10                  a 3/5  f 3/3  h 2/2    WAR 4/5  UAR 13/15;  by fold WAR 8/9  UAR 11/12
ANSWERS = [dict(A="aa fa", B="aa aa aa ah hh hf", C="ff fa"), dict(A="aa ff", B="aa aa af ah hh hh", C="ff ff")]
KEYS = "table database method published_war published_uar war uar folds_done folds_total seeds utterances".split()


def make_database(name="casia", answers=ANSWERS[0], sessions=None):
    """The utterances of ANSWERS, or of others, as a database; speakers and sessions are alike unless told."""
    rows = [(speaker, i, pair[0]) for speaker in answers for i, pair in enumerate(answers[speaker].split())]
    ids = [f"{speaker}/{i}" for speaker, i, _ in rows]
    speakers = np.array([speaker for speaker, _, _ in rows])
    return protocols.Database(
        name, Path("nowhere"), "Mandarin", CLASSES, ids, [f"{one}.wav" for one in ids],
        np.array(["afh".index(label) for _, _, label in rows]), speakers,
        np.array([(sessions or {}).get(speaker, speaker) for speaker in speakers.tolist()]), False,
    )  # fmt: skip


def scores_of(text):
    """aa fh -> scores (2, 3) with the highest at the second letter of each pair."""
    return np.array([[0.75 if letter == pair[1] else 0.125 for letter in "afh"] for pair in text.split()], np.float32)


def write_fold(runs, database, fold, epochs, total, model="tft", protocol="speaker", seed=0, track="last", best=None):
    """One finished fold of `total`. `epochs`: epoch -> answers; `best`: what the validation track is to choose."""
    fit, held_out = fold.train, {}
    names, last = sorted(set(database.speakers.tolist())), max(epochs)
    kept = dict(epochs=np.array(list(epochs)), scores=np.stack([scores_of(text) for text in epochs.values()]))
    if track == "validation":
        fit, held = protocols.hold_out(database, fold, seed)
        held_out = dict(held_out=sorted(set(database.speakers[held].tolist())), eval_every=1)
        kept.update(validation=np.full((len(epochs), len(held), 3), 0.1), validation_labels=database.labels[held])
        kept["validation"][list(epochs).index(best), np.arange(len(held)), database.labels[held]] = 0.8
    config = dict(
        settings=dict(
            model=model, protocol=protocol, seed=seed, fold=fold.number, fold_name=fold.name, epochs=last,
            batch_size=64, lr=0.001, normalization="fold", front_end=dict(rate=16000), recordings="5" * 16,
            utterances=database.digest[:16], track=track, **held_out,
        ),
        deviations=[],
        folds_total=total,
        database=dict(
            name=database.name, language="Mandarin", classes=list(CLASSES), counts=database.counts(), partial=False,
            speakers=names, utterances=len(database.ids), seconds=60.0, segments=99,
        ),
        train_speakers=sorted(set(database.speakers[fit].tolist())),
        test_speakers=sorted(set(database.speakers[fold.test].tolist())),
        test=[database.ids[i] for i in fold.test],
        code={"train.py": "c" * 16},
        machine=dict(device="cpu", threads=1, python="3", torch="2", numpy="2"),
    )  # fmt: skip
    folder = results.fold_folder(runs, database.name, model, protocol, seed, fold.number, track)
    results.write_json(folder / "config.json", config)
    results.write_text(folder / "log.csv", "epoch,loss,seconds\n1,1.5,2.000\n")
    results.write_predictions(folder / "predictions.csv", database, fold.test, scores_of(epochs[best or last]))
    np.savez(folder / "epochs.npz", **kept)
    weights = dict(weight=torch.full((2,), float(fold.number)))
    torch.save(
        dict(model=weights, settings=config["settings"], classes=list(CLASSES), epoch=best or last),
        folder / "checkpoint.pt",
    )
    results.mark_done(folder, epoch=best or last, trained_on=config["train_speakers"])


def write_run(runs, answers=ANSWERS[0], name="casia", protocol="speaker", sessions=None, **other):
    """All folds of one seed. `answers`: speaker -> answers of epoch 3, or -> {epoch: answers}."""
    by_epoch = {who: told if isinstance(told, dict) else {3: told} for who, told in answers.items()}
    database = make_database(name, {who: max(told.items())[1] for who, told in by_epoch.items()}, sessions)
    results.write_index(runs, database)
    folds = protocols.make_folds(database, protocol)
    for fold in folds:
        tested = sorted(set(database.speakers[fold.test].tolist()))
        epochs = {epoch: " ".join(by_epoch[who][epoch] for who in tested) for epoch in by_epoch[tested[0]]}
        write_fold(runs, database, fold, epochs, len(folds), protocol=protocol, **other)


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Nothing here survives a power cut, and the intervals are measured in their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        patch.setattr(significance, "RESAMPLES", 200)
        yield


@pytest.fixture
def runs(tmp_path):
    """Two seeds of tft, each with three folds."""
    for seed, answers in enumerate(ANSWERS):
        write_run(tmp_path / "runs", answers, seed=seed)
    return tmp_path / "runs"


@pytest.fixture
def run(capsys):
    """Exit code, output and errors of evaluate.py."""

    def call(*arguments):
        code = 0
        try:
            with results.plain_errors("evaluate.py"):
                evaluate.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def rows(run):
    """Rows of evaluate.py as JSON, which must go well."""

    def call(*arguments):
        code, out, error = run(*arguments, "--format", "json")
        assert code == 0, error
        return json.loads(out)

    return call


def fold_of(runs, seed, number, track="last"):
    return results.fold_folder(runs, "casia", "tft", "speaker", seed, number, track)


def ours(rows):
    return next(row for row in rows if row.get("model") == "tft" and row["database"] == "casia" and row["war"])


# ------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    "seeds, expected",
    [
        ("0", dict(war=3 / 5, uar=49 / 90, war_std=None, uar_std=None, fold_war=5 / 9, fold_uar=13 / 24)),
        ("1", dict(war=4 / 5, uar=13 / 15, war_std=None, uar_std=None, fold_war=8 / 9, fold_uar=11 / 12)),
        ("0-1", dict(war=7 / 10, uar=127 / 180, war_std=1 / 5 / sqrt(2), uar_std=29 / 90 / sqrt(2),
                     fold_war=13 / 18, fold_uar=35 / 48)),
    ],
)  # fmt: skip
def test_figures_are_pooled_over_folds_and_averaged_over_seeds(seeds, expected, runs, rows):
    row = ours(rows("--runs", runs, "--seed", seeds, "--table", "ablation"))
    for name, value in expected.items():
        assert row[name] == (None if value is None else pytest.approx(100 * value, abs=1e-9)), name
    assert abs(row["war"] - row["fold_war"]) > 1 and abs(row["uar"] - row["fold_uar"]) > 0.2
    assert row["utterances"] == 10 and row["folds_done"] == row["folds_total"] == 3 and row["notes"] == []
    assert row["seeds"] == results.parse_seeds(seeds) and row["classes"] == list(CLASSES)
    matrices = {"0": [[4, 0, 1], [2, 1, 0], [0, 1, 1]], "1": [[3, 1, 1], [0, 3, 0], [0, 0, 2]]}
    assert row["confusion"] == matrices.get(seeds, [[7, 1, 2], [2, 4, 0], [0, 1, 3]])
    for name in ("war", "uar"):
        for unit in ("speakers", "utterances"):
            low, high = row[f"{name}_{unit}"]
            assert 0 <= low <= row[name] <= high <= 100 and low < high, (name, unit)


def test_intervals_over_speakers_and_over_utterances_are_not_mixed_up(tmp_path, rows):
    write_run(tmp_path, dict(A="aa af", B="aa ah", C="aa ah"))  # each speaker is right on one of two
    row = ours(rows("--runs", tmp_path))
    assert row["war_speakers"] == row["uar_speakers"] == [50, 50]
    assert row["war_utterances"][0] < 50 < row["war_utterances"][1]


def test_the_text_row_of_a_method_is_exact(runs, run):
    _, out, _ = run("--runs", runs, "--db", "casia", "--table", "ablation")
    lines = [re.sub(" +", " ", line) for line in out.splitlines()]
    assert "T+F+TF 53.17 53.17 70.00±14.14 70.56±22.78 72.22 72.92 3/3 0-1" in lines
    assert "T+F 40.32 40.32 - - - - - -" in lines
    assert "casia: ablation, TFT Table 5, ours leaving one speaker out, last epoch" in lines


def test_what_was_published_otherwise_is_starred_or_left_empty(run, rows, tmp_path):
    _, out, _ = run("--runs", tmp_path, "--table", "comparison", "--db", "iemocap")
    assert re.search(r"^CNN-LSTM\* +68\.80 59\.40 ", out, re.M) and re.search(r"^DNN-BN +59\.70 61\.40 ", out, re.M)
    assert out.count("* published under leave-one-session-out") == 2  # once for each paper's table
    abc = rows("--runs", tmp_path, "--table", "comparison", "--db", "abc")
    row = next(row for row in abc if row["method"] == "RGSR-LPDA")
    assert (row["published_war"], row["published_uar"], row["war"]) == (None, 49.4, None)
    _, out, _ = run("--runs", tmp_path, "--table", "comparison", "--db", "abc")
    assert re.search(r"^RGSR-LPDA +- 49\.40 ", out, re.M) and "*" not in out


def test_sessions_and_speakers_are_never_counted_together(tmp_path, rows):
    write_run(tmp_path, ANSWERS[0])
    write_run(tmp_path, ANSWERS[1], protocol="session", sessions=dict(A="1", B="1", C="2"))
    speaker = ours(rows("--runs", tmp_path))
    session = ours(rows("--runs", tmp_path, "--protocol", "session"))
    told = [(row["protocol"], row["folds_total"], round(row["war"], 6)) for row in (speaker, session)]
    assert told == [("speaker", 3, 60), ("session", 2, 80)]
    for protocol, other in (("speaker", "session"), ("session", "speaker")):
        shutil.rmtree(tmp_path / "casia/tft" / protocol)
        assert all(row["war"] is None for row in rows("--runs", tmp_path, "--protocol", protocol))
        if protocol == "speaker":
            assert ours(rows("--runs", tmp_path, "--protocol", other))["war"] == session["war"]


def test_an_incomplete_seed_is_left_out_and_told(runs, run, rows):
    shutil.rmtree(fold_of(runs, 0, 2))
    row = ours(rows("--runs", runs))
    assert row["seeds"] == [1] and row["war"] == pytest.approx(80) and row["war_std"] is None
    _, out, _ = run("--runs", runs, "--table", "ablation", "--db", "casia")
    assert "T+F+TF: seeds 0 left out, with fewer or other folds" in out and "incomplete" not in out
    shutil.rmtree(fold_of(runs, 1, 2))
    row = ours(rows("--runs", runs))
    assert (row["seeds"], row["folds_done"], row["folds_total"], row["utterances"]) == ([0, 1], 2, 3, 4)
    assert row["war"] == pytest.approx(100 * (2 / 4 + 4 / 4) / 2)
    _, out, _ = run("--runs", runs, "--table", "ablation", "--db", "casia")
    assert re.search(r"^T\+F\+TF .* 2/3 +0-1$", out, re.M) and "T+F+TF: incomplete: only 2/3 folds" in out


def change(folder, **values):
    """Change config.json where `a__b` is b in a, and the checkpoint with it; seal the fold again."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in values.items():
        *path, last = name.split("__")
        part = config
        for key in path:
            part = part[key]
        part[last] = value
    results.write_json(folder / "config.json", config)
    change_checkpoint(folder, settings=config["settings"])


def change_checkpoint(folder, **values):
    torch.save(dict(results.read_checkpoint(folder / "checkpoint.pt"), **values), folder / "checkpoint.pt")
    reseal(folder)


def reseal(folder, **told):
    marker = json.loads((folder / results.MARKER).read_text())
    del marker["files"]
    results.mark_done(folder, **dict(marker, **told))


def test_an_utterance_tested_twice_is_refused(runs, run):
    folder = fold_of(runs, 1, 3)
    lines = (folder / "predictions.csv").read_text().splitlines()
    (folder / "predictions.csv").write_text("\n".join([*lines, "A/0,A,angry,0.75,0.125,0.125"]) + "\n")
    change(folder, test=["C/0", "C/1", "A/0"])
    with pytest.raises(results.RunError, match="tests A/0, which .*fold1 tests too"):
        evaluate.main(["--runs", str(runs)])
    code, out, error = run("--runs", runs)
    assert (code, out) == (results.EXIT_USAGE, "") and error.count("\n") == 1 and str(folder) in error


@pytest.mark.parametrize(
    "before, after",
    [
        ("casia", "toy"),
        ("casia/tft", "casia/atfnn"),
        ("casia/tft/speaker/seed0", "casia/tft/speaker/seed2"),
        ("casia/tft/speaker/seed0/fold3", "casia/tft/speaker/seed0/fold4"),
        ("casia/tft/speaker", "casia/tft/session"),
    ],
)
def test_a_renamed_folder_is_refused(before, after, runs, run):
    (runs / before).rename(runs / after)
    code, out, error = run("--runs", runs, "--protocol", "session" if after.endswith("session") else "speaker")
    assert (code, out) == (results.EXIT_USAGE, "") and error.count("\n") == 1
    assert str(runs / after) in error and "rename it back" in error


@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr", "normalization", "front_end", "utterances",
                                  "recordings"])  # fmt: skip
def test_folds_of_other_settings_do_not_share_a_row(name, runs, run):
    change(fold_of(runs, 1, 2), **{f"settings__{name}": "other"})
    code, out, error = run("--runs", runs)
    assert (code, out) == (results.EXIT_USAGE, "") and f"in {name};" in error and "seed1/fold2" in error


def test_folds_of_another_version_of_the_code_are_told(runs, run):
    change(fold_of(runs, 1, 2), code={"train.py": "d" * 16})
    _, out, _ = run("--runs", runs, "--db", "casia", "--table", "ablation")
    assert "T+F+TF: folds of different versions of the code" in out
    _, out, _ = run("--runs", runs, "--db", "casia", "--table", "ablation", "--seed", "0")
    assert "versions of the code" not in out


def test_one_database_is_not_harmed_by_another(runs, run, rows):
    write_run(runs, name="toy")
    (runs / "toy/tft").rename(runs / "toy/atfnn")
    assert run("--runs", runs)[0] == results.EXIT_USAGE
    assert ours(rows("--runs", runs, "--db", "casia"))["war"] == pytest.approx(70)


# -------------------------------------------------------------------------------------------- tracks

BY_EPOCH = dict(  # the oracle takes, by UAR, then WAR, then the earliest:
    A={1: "af ff", 2: "aa ff", 3: "aa fa", 4: "aa ff"},  # 2 of 2 and 4
    B={1: "aa aa aa aa hf hf", 2: "aa ah ah ah hh hh", 3: "aa aa aa ah hh hf", 4: "aa aa aa aa hf hf"},
    C={1: "fa fa", 2: "ff fa", 3: "fa ff", 4: "fa fa"},  # 2: ties with 3
)
# B: UAR 1/2 with WAR 4/6, then 5/8 with WAR 3/6, 5/8 with WAR 4/6, 1/2: the oracle takes 3
# last: A 2/2 B 4/6 C 0/2 = 6/10; oracle: A 2/2 B 4/6 C 1/2 = 7/10, a 4/5 f 2/3 h 1/2


@pytest.fixture
def tracks(tmp_path):
    write_run(tmp_path / "runs", BY_EPOCH)
    write_run(tmp_path / "runs", BY_EPOCH, track="validation", best=1)  # A 1/2 B 4/6 C 0/2, a 4/5 f 1/3 h 0/2
    return tmp_path / "runs"


@pytest.mark.parametrize(
    "track, war, uar",
    [
        ("last", 6 / 10, (5 / 5 + 1 / 3 + 0 / 2) / 3),
        ("validation", 5 / 10, (4 / 5 + 1 / 3 + 0 / 2) / 3),
        ("oracle", 7 / 10, (4 / 5 + 2 / 3 + 1 / 2) / 3),
    ],
)
def test_each_track_has_its_own_epoch(track, war, uar, tracks, run, rows):
    row = ours(rows("--runs", tracks, "--track", track))
    assert row["track"] == track
    assert (row["war"], row["uar"]) == (pytest.approx(100 * war), pytest.approx(100 * uar))
    beside = [row for row in rows("--runs", tracks, "--track", "all") if row["war"] and row["track"] == track]
    assert {(one["war"], one["uar"]) for one in beside} == {(row["war"], row["uar"])}


def test_the_best_epoch_is_by_uar_then_war_then_the_earliest():
    def best(*answers):
        labels = np.array(["afh".index(pair[0]) for pair in answers[0].split()])
        return results.best_epoch(labels, np.stack([scores_of(text) for text in answers]))

    assert best("aa aa aa aa hf hf", "aa ah ah ah hh hh") == 1  # UAR 1/2, 5/8 although WAR 4/6, 3/6
    assert best("aa ah ah ah hh hh", "aa aa aa ah hh hf") == 1  # UAR 5/8, 5/8 and WAR 3/6, 4/6
    assert best("ff fa", "fa ff") == 0 and best("fa fa", "ff fa", "fa ff") == 1


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
@pytest.mark.parametrize("track", ["last", "oracle", "all"])
def test_the_oracle_is_labelled_as_a_diagnostic_wherever_it_appears(track, style, tracks, run):
    write_run(tracks, BY_EPOCH, model="atfnn")
    _, out, _ = run("--runs", tracks, "--db", "casia", "--table", "ablation", "--track", track, "--format", style)
    papers = out.split("casia: ablation, ")[1:]
    assert len(papers) == 2
    for one in papers:
        assert ("a diagnostic and not a result" in one) == ("oracle" in one) == (track != "last")


def test_the_tracks_stand_side_by_side(tracks, run):
    _, out, _ = run("--runs", tracks, "--db", "casia", "--table", "ablation", "--track", "all")
    lines = [re.sub(" +", " ", line) for line in out.splitlines()]
    assert "method paper UAR last UAR valid. UAR oracle+ UAR" in lines
    assert "T+F+TF 53.17 53.17 60.00 44.44 50.00 37.78 70.00 65.56" in lines


# -------------------------------------------------------------------------------------------- formats


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Five seeds that differ much, ten folds, long names."""
    runs = tmp_path_factory.mktemp("wide")
    answers = {f"{n}{letter}": text for n in "12345" for letter, text in (("F", "aa fh hh"), ("M", "aa ff"))}
    for model, seeds in (("atfnn", 5), ("tft-t+tf", 2), ("tft-f+tf", 2)):
        for seed in range(seeds):
            told = {who: text.replace("hh", "ha") if seed % 2 else text for who, text in answers.items()}
            write_run(runs, told, name="iemocap", model=model, seed=seed)
    return runs


@pytest.mark.parametrize("arguments, shown", [
    ([], r"\d±\d\d\.\d\d .* 10/10 +0-4$"), (["--track", "all"], r"^T\+TF .*\d$"), (["--track", "oracle"], r" 0-4$"),
    (["--table", "significance", "--models", "tft-t+tf", "tft-f+tf"], r"^tft-t\+tf - tft-f\+tf .*0/2$"),
])  # fmt: skip
def test_text_tables_fit_a_terminal(arguments, shown, wide, run):
    code, out, _ = run("--runs", wide, *arguments)
    assert code == 0 and re.search(shown, out, re.M)
    assert [line for line in out.splitlines() if len(line) > 80] == []


def test_a_class_may_have_any_printable_name():
    out = evaluate.as_markdown("title", ["", "found"], [["glad|merry", "3"], ["CNN*", "1"]], [])
    assert r"| glad\|merry | 3 |" in out and r"| CNN\* | 1 |" in out


@pytest.mark.parametrize("character, escaped", [
    *((character, "\\" + character) for character in "_%&#${}"), ("~", r"\textasciitilde{}"),
    ("^", r"\textasciicircum{}"), ("\\", r"\textbackslash{}"),
])  # fmt: skip
def test_latex_escapes(character, escaped):
    given = f"x{character}y"
    out = evaluate.as_latex(given, ["head", given], [[given, "1"]], [given])
    expected = f"x{escaped}y"
    assert rf"\caption{{{expected}. {expected}}}" in out
    assert rf"head & {expected} \\" in out and rf"{expected} & 1 \\" in out


def test_csv_holds_what_json_holds(runs, run, rows):
    for arguments in ([], ["--track", "all"]):
        expected = rows("--runs", runs, *arguments)
        _, out, _ = run("--runs", runs, *arguments, "--format", "csv")
        got = list(csv.DictReader(io.StringIO(out)))
        assert len(got) == len(expected) > 40
        for told, row in zip(got, expected):
            assert set(row) <= set(told) and all(told[name] == "" for name in set(told) - set(row))
            for name, value in row.items():
                text = told[name]
                again = {list: json.loads, bool: "True".__eq__, int: int, float: float, str: str}
                assert (text == "") if value is None else again[type(value)](text) == value, name


def test_every_row_has_the_promised_keys(runs, rows):
    found = rows("--runs", runs, "--track", "all")
    assert {row["table"] for row in found} == set(evaluate.TABLES)
    for row in found:
        assert set(KEYS) <= set(row)
        assert ("folds_done" in row and row["war"] is None) or row["table"] != "databases"
    casia = {row["count"]: (row["published"], row["found"]) for row in found if row["database"] == "casia"
             and row["table"] == "databases"}  # fmt: skip
    assert casia == dict(utterances=(1200, 10), speakers=(4, 3), angry=(200, 5), fear=(200, 3), happy=(200, 2),
                         neutral=(200, 0), sad=(200, 0), surprise=(200, 0), minutes=(None, 1.0))  # fmt: skip


# ---------------------------------------------------------------------------------------------- audit


EARLIER = dict(A="ah fh", B="ah aa aa aa hh hh", C="fh fh")  # better than the last epoch on B alone


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Both seeds and a validation run; copied, never changed."""
    runs = tmp_path_factory.mktemp("clean") / "runs"
    for seed, answers in enumerate(ANSWERS):
        write_run(runs, {who: {2: EARLIER[who], 3: text} for who, text in answers.items()}, seed=seed)
    write_run(runs, BY_EPOCH, track="validation", best=2)
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


# of fold 2 of seed 0 of the last epoch: (what is planted, what the report names)
FAULTS = {
    "test speaker in trained_on": (lambda fold: reseal(fold, trained_on=["A", "B", "C"]), "config.json"),
    "test speaker trained on, and told": (
        lambda fold: (change(fold, train_speakers=["A", "B", "C"]), reseal(fold, trained_on=["A", "B", "C"])),
        "speaker B is on both sides"),
    "a training speaker nowhere": (
        lambda fold: (change(fold, train_speakers=["A"]), reseal(fold, trained_on=["A"])), "a speaker of the database"),
    "row deleted": (partial(repeat_last, times=0, everywhere=False), "predictions.csv"),
    "utterance missing everywhere": (partial(repeat_last, times=0, everywhere=True), "B/5"),
    "row twice": (partial(repeat_last, times=2, everywhere=False), "predictions.csv"),
    "utterance twice everywhere": (
        partial(repeat_last, times=2, everywhere=True), "predictions.csv: predicts an utterance twice"),
    "checkpoints swapped": (partial(swap, "checkpoint.pt", seal=False), "checkpoint.pt"),
    "checkpoints swapped and sealed": (
        partial(swap, "checkpoint.pt", seal=True), "checkpoint.pt: is of other settings than its fold"),
    "checkpoint of another epoch": (partial(change_checkpoint, epoch=2), "checkpoint.pt: is of other epoch"),
    "checkpoint of other classes": (partial(change_checkpoint, classes=["a", "b", "c"]), "is of other classes"),
    "checkpoint with code": (partial(change_checkpoint, model=Path("x")), "holds more than weights"),
    "checkpoint that is none": (
        lambda fold: ((fold / "checkpoint.pt").write_bytes(b"PK"), reseal(fold)), "holds more than weights"),
    "predictions swapped": (partial(swap, "predictions.csv", seal=True), "predictions.csv"),
    "scores of another epoch": (
        lambda fold: predictions(fold, "0.75,0.125,0.125", "0.125,0.125,0.75"), "predictions.csv: is not the scores"),
    "another epoch told": (lambda fold: reseal(fold, epoch=2), "its scores are of epoch 2, not 3"),
    "label changed": (lambda fold: predictions(fold, "B/0,B,angry", "B/0,B,fear"), "emotion or speaker of B/0"),
    "speaker changed": (lambda fold: predictions(fold, "B/0,B,", "B/0,A,"), "emotion or speaker of B/0"),
    "utterance renamed": (lambda fold: predictions(fold, "B/0,", "B/9,"), "other utterances"),
    "index doctored": (partial(doctor_index, old="B/0,angry", new="B/0,fear"), "utterances-"),
    "session in the index doctored": (partial(doctor_index, old="B/0,angry,B,B", new="B/0,angry,B,C"), "utterances-"),
    "index gone": (lambda fold: next(fold.parents[3].glob("utterances-*.csv")).unlink(), "utterances-"),
    "fold gone": (shutil.rmtree, "fold 2 is missing"),
    "last fold gone": (lambda fold: shutil.rmtree(fold.with_name("fold3")), "fold 3 is missing"),
    "fold not finished": (lambda fold: (fold / "done.json").unlink(), "done.json"),
    "marker cut short": (lambda fold: (fold / "done.json").write_text("{"), "done.json"),
    "fold of another seed": (partial(place_of, name="seed1/fold2"), "its place says"),
    "another fold": (partial(place_of, name="seed0/fold1"), "its place says"),
    "other recordings": (partial(change, settings__recordings="6" * 16), "recordings is not that of"),
    "other learning rate": (partial(change, settings__lr=0.002), "lr is not that of"),
    "other code": (partial(change, code={"train.py": "d" * 16}), "another version of the code"),
    "code not told": (partial(change, code={}), "does not tell the code"),
    "torch not told": (partial(change, machine__torch=""), "does not tell the code"),
    "another model's name": (
        lambda fold: shutil.copytree(fold.parents[2], fold.parents[3] / "atfnn"), "atfnn/speaker/seed0/fold2: holds"),
    "a fold too many": (lambda fold: shutil.copytree(fold, fold.with_name("fold4")), "its place says"),
}  # fmt: skip
VALIDATION_FAULTS = {
    "not the best on the held-out": (
        lambda fold: (edit_epochs(fold, lambda kept: kept.update(validation=kept["validation"][[1, 0, 2, 3]])),
                      reseal(fold)), "its scores are of epoch 2, not 1"),
    "held-out speaker tested": (partial(change, settings__held_out=["B", "C"]), "speaker B is on both sides"),
    "held-out speaker trained on": (
        lambda fold: (change(fold, train_speakers=["A", "C"]), reseal(fold, trained_on=["A", "C"])),
        "speaker C is on both sides"),
    "held-out speaker not told": (partial(change, settings__held_out=[]), "a speaker of the database"),
}  # fmt: skip


def test_a_clean_run_passes_the_audit(clean, run):
    code, out, error = run("--runs", clean, "--audit")
    assert (code, error) == (0, "") and out.splitlines()[-1] == f"no faults in {clean}"
    ok = [line for line in out.splitlines() if line.startswith("ok ")]
    assert len(ok) == 3 and all(line.endswith(": 3 folds") for line in ok)


@pytest.mark.parametrize("track, fault", [*(("last", name) for name in FAULTS),
                                          *(("validation", name) for name in VALIDATION_FAULTS)])  # fmt: skip
def test_a_planted_fault_is_found(track, fault, planted, run):
    plant, named = (FAULTS if track == "last" else VALIDATION_FAULTS)[fault]
    plant(fold_of(planted, 0, 2, track))
    code, out, error = run("--runs", planted, "--audit")
    faults = [line for line in out.splitlines() if line.startswith("FAULT ")]
    assert (code, error) == (1, "")
    assert any(named in line and str(planted) in line for line in faults), faults
    assert re.search(r"^[1-9]\d* faults in ", out.splitlines()[-1])
    alone = track == "last" and "index" not in fault
    assert ("ok    casia tft speaker last seed 1: 3 folds" in out) or not alone  # the rest stays sound


def test_a_figure_that_the_evaluator_counts_otherwise_is_found(clean, run, monkeypatch):
    monkeypatch.setattr(protocols, "war", lambda matrix: matrix.trace() / matrix.sum() + 1e-6)
    code, out, _ = run("--runs", clean, "--audit")
    assert code == 1 and out.count("are not the table's") == 3


def test_no_runs_do_not_pass_the_audit(tmp_path, run):
    code, out, _ = run("--runs", tmp_path, "--audit")
    assert code == 1 and "holds no runs" in out


@pytest.fixture(scope="module")
def saved(clean):
    """Rows of every track, as the evaluator gives them."""
    options = evaluate.parse_command_line(["--runs", str(clean), "--track", "all"])
    return json.dumps(evaluate.make_rows(options)[0])


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
def test_a_doctored_table_is_found(name, value, clean, saved, tmp_path, run):
    rows, path = json.loads(saved), tmp_path / "table.json"
    path.write_text(saved)
    assert run("--runs", clean, "--audit", path)[0] == 0
    row = next(row for row in rows if row.get("track") == "last" and row["published_war"] and row["war"])
    row[name] = value(row[name]) if callable(value) else value
    path.write_text(json.dumps(rows))
    code, out, error = run("--runs", clean, "--audit", path)
    assert (code, error) == (1, "") and f"FAULT {path}: " in out


def test_a_row_left_out_of_a_table_is_found(clean, saved, tmp_path, run):
    rows, path = json.loads(saved), tmp_path / "table.json"
    gone = next(row for row in rows if row.get("track") == "last" and row["database"] == "casia")
    path.write_text(json.dumps([row for row in rows if row != gone]))
    code, out, _ = run("--runs", clean, "--audit", path)
    assert code == 1 and f"FAULT {path}: {gone['source']}, casia, track last: lacks {gone['method']}" in out


def test_a_table_of_some_seeds_passes_where_others_are_run(clean, tmp_path, run):
    for seed in ("0", "7"):
        told = run("--runs", clean, "--seed", seed, "--format", "json", "--table", "ablation")[1]
        (tmp_path / "table.json").write_text(told)
        assert run("--runs", clean, "--audit", tmp_path / "table.json")[0] == 0


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
def test_a_track_that_was_not_run_leaves_its_column_empty(style, tmp_path, run):
    """A database of nobody's table has rows for what was run alone."""
    write_run(tmp_path, {who: {2: EARLIER[who], 3: text} for who, text in ANSWERS[0].items()}, name="mine")
    code, out, error = run(
        "--runs", tmp_path, "--db", "mine", "--table", "ablation", "--track", "all", "--format", style
    )
    row = next(line for line in out.splitlines() if line.lstrip("| ").startswith("T+F+TF"))
    cells = row.strip("| \\").replace("|", " ").replace("&", " ").split()
    assert (code, error) == (0, "") and cells == "T+F+TF - - 60.00 54.44 - - 70.00 71.11".split()


def test_significance_of_each_track_stands_apart(tmp_path, run):
    for model in ("tft", "atfnn"):
        epochs = {who: {2: EARLIER[who], 3: text} for who, text in ANSWERS[0].items()}
        write_run(tmp_path, epochs, model=model), write_run(tmp_path, epochs, model=model, track="validation", best=2)
    told = run("--runs", tmp_path, "--db", "casia", "--table", "significance", "--track", "all")[1].split("\n\n")
    assert [part.splitlines()[0].rsplit(", ", 1)[1] for part in told] == [
        "last epoch",
        "epoch chosen on held-out speakers",
        "a diagnostic",
    ]
    assert ["not a result" in part for part in told] == [False, False, True]


@pytest.mark.parametrize("text", ["", "[", "method,war\nTFT,70\n", "7", "null", "[7]", '{"table": "ablation"}',
                                  '[{"table": "ablation", "war": 70}]',
                                  '[{"table": "ablation", "war": 70, "model": "tft"}]'])  # fmt: skip
def test_what_is_no_table_is_found(text, clean, tmp_path, run):
    (tmp_path / "table.json").write_text(text)
    code, out, error = run("--runs", clean, "--audit", tmp_path / "table.json")
    assert (code, error) == (1, "") and f"FAULT {tmp_path / 'table.json'}" in out


def test_published_figures_are_told_as_fractions():
    lines = {line.split(", ", 1)[1]: line for line in audit.fractions(evaluate.read_published(), protocols.DATABASES)}
    for told in ("iemocap, TFT: WAR 74.43 is 1697/2280", "casia, TFT: WAR 53.17 is 638/1200",
                 "abc, ATFNN: WAR 68.84 is 296/430"):  # fmt: skip
        assert told in lines
    none = [told for told in lines if "is no k/" in told]
    assert {told.split("WAR ")[1].split(" is no k/1200")[0] for told in none if "casia" in told} >= {"40.32", "49.26"}
    assert not any("TFT: " in told and told.startswith(("iemocap", "casia")) for told in none)
    assert len(lines) == 20  # each of our models on each database, once
