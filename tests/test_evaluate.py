"""Figures and tables, on results written by hand: nothing is trained here.

python -m pytest tests/test_evaluate.py
"""

import csv
import io
import json
import re
import shutil
from dataclasses import asdict
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import features
import protocols
import recipes
import results
import tables

pytestmark = pytest.mark.usefixtures("few_resamples")
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
EARLIER = dict(A="ah fh", B="ah aa aa aa hh hh", C="fh fh")  # better than the last epoch on B alone
KEYS = "table database method published_war published_uar war uar folds_done folds_total seeds utterances".split()


def make_database(name="casia", answers=ANSWERS[0], sessions=None):
    """The utterances of ANSWERS, or of others, as a database; speakers and sessions are alike unless told."""
    rows = [(speaker, i, pair[0]) for speaker in answers for i, pair in enumerate(answers[speaker].split())]
    ids = [f"{speaker}/{i}" for speaker, i, _ in rows]
    speakers = np.array([speaker for speaker, _, _ in rows])
    corpus = protocols.DATABASES.get(name)  # of which these are a part
    return protocols.Database(
        name, Path("nowhere"), corpus.language if corpus else "", CLASSES, ids, [f"{one}.wav" for one in ids],
        np.array(["afh".index(label) for _, _, label in rows]), speakers,
        np.array([(sessions or {}).get(speaker, speaker) for speaker in speakers.tolist()]), bool(corpus),
    )  # fmt: skip


def scores_of(text):
    """aa fh -> scores (2, 3) with the highest at the second letter of each pair."""
    return np.array([[0.75 if letter == pair[1] else 0.125 for letter in "afh"] for pair in text.split()], np.float32)


def write_fold(
    runs, database, fold, epochs, total, model="tft", protocol="speaker", seed=0, track="last", best=None, weights=None
):
    """One finished fold of `total`. `epochs`: epoch -> answers; `best`: what the validation track is to choose."""
    fit, held_out, recipe = fold.train, {}, recipes.RECIPES[model]
    names, last = sorted(set(database.speakers.tolist())), max(epochs)
    kept = dict(epochs=np.array(list(epochs)), scores=np.stack([scores_of(text) for text in epochs.values()]))
    if track == "validation":
        fit, held = protocols.hold_out(database, fold, seed)
        held_out = dict(held_out=sorted(set(database.speakers[held].tolist())))
        kept.update(validation=np.full((len(epochs), len(held), 3), 0.1), validation_labels=database.labels[held])
        kept["validation"][list(epochs).index(best), np.arange(len(held)), database.labels[held]] = 0.8
    config = dict(
        settings=dict(
            model=model, protocol=protocol, seed=seed, fold=fold.number, fold_name=fold.name, epochs=last,
            batch_size=recipe.batch_size, lr=recipe.lr, normalization="fold", precision="float32",
            front_end=asdict(features.FRONT_ENDS[recipe.front_end]), recordings="5" * 16,
            utterances=database.digest[:16], eval_every=min(epochs) if len(epochs) > 1 else 0, track=track, **held_out,
        ),
        deviations=[f"epochs {last} instead of {recipe.epochs}"],
        folds_total=total,
        database=dict(
            name=database.name, language=database.language, classes=list(CLASSES), counts=database.counts(),
            partial=database.partial, speakers=names, utterances=len(database.ids), seconds=60.0, segments=99,
        ),
        train_speakers=sorted(set(database.speakers[fit].tolist())),
        test_speakers=sorted(set(database.speakers[fold.test].tolist())),
        test=[database.ids[i] for i in fold.test],
        code=dict.fromkeys(("features.py", "protocols.py", "models.py", "engine.py", "train.py", "results.py"), "c" * 16),
        machine=dict(device="cpu", threads=1, python="3", torch="2", numpy="2"),
    )  # fmt: skip
    folder = results.fold_folder(runs, database.name, model, protocol, seed, fold.number, track)
    results.write_json(folder / "config.json", config)
    losses = "".join(f"{epoch},{1.5 / epoch},{2 * epoch}\n" for epoch in range(1, last + 1))
    results.write_text(folder / "log.csv", "epoch,loss,seconds\n" + losses)
    results.write_predictions(folder / "predictions.csv", database, fold.test, scores_of(epochs[best or last]))
    np.savez(folder / "epochs.npz", **kept)
    told = dict(settings=config["settings"], classes=list(CLASSES), epoch=best or last, code=config["code"])
    told.update(model=weights or {}, normalization=[torch.zeros(1, 80, 1), torch.ones(1, 80, 1)])
    torch.save(told, folder / "checkpoint.pt")
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


@pytest.fixture
def runs(tmp_path):
    """Two seeds of tft, each with three folds."""
    for seed, answers in enumerate(ANSWERS):
        write_run(tmp_path / "runs", answers, seed=seed)
    return tmp_path / "runs"


def fold_of(runs, seed, number, track="last"):
    return results.fold_folder(runs, "casia", "tft", "speaker", seed, number, track)


def ours(rows):
    return next(row for row in rows if row.get("model") == "tft" and row["database"] == "casia" and row["war"])


# --------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2], [0, 1, 2, 5], [7, 9], list(range(1000))])
def test_seeds_can_be_typed_as_the_tables_print_them(seeds):
    assert results.parse_seeds(tables.ranges(seeds)) == seeds


def test_each_seed_counts_once_and_in_order():
    assert results.parse_seeds("5,0-2,1,5") == [0, 1, 2, 5]


@pytest.mark.parametrize(
    "text", ["", ",", "0,", "0,,2", "3-1", "0,3-1", "-1", "0-1000", "0-999,1000", "1.5", "0 2", "0;2", "all"]
)
def test_other_seeds_are_refused(text):
    with pytest.raises(
        protocols.UsageError, match=f"^--seed {re.escape(text)}: (give a number such as 0, a range|more than 1000)"
    ):
        results.parse_seeds(text)


# ----------------------------------------------------------------------------------------- published


@pytest.mark.parametrize(
    "source, count, war, uar",  # added up in the papers
    [("TFT Table 4", 13, 743.11, 691.68), ("TFT Table 5", 8, 478.64, 434.26),
     ("ATFNN Table II", 17, 961.16, 915.39), ("ATFNN Table III", 12, 723.85, 640.21)],
)  # fmt: skip
def test_the_published_figures_add_up(source, count, war, uar):
    rows = [row for row in evaluate.read_published() if row["source"] == source]
    sums = [round(sum(row[name] or 0 for row in rows), 2) for name in ("war", "uar")]
    assert (len(rows), *sums) == (count, war, uar)


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
    assert row["utterances"] == 10 and row["folds_done"] == row["folds_total"] == 3
    assert row["notes"] == ["epochs 3 instead of 1000", "partial database"]
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


def test_of_incomplete_seeds_those_with_the_same_folds_are_shown(tmp_path, run):
    for seed, missing in enumerate((2, 1, 2)):  # equally many, and of two seeds the same
        write_run(tmp_path, seed=seed)
        shutil.rmtree(fold_of(tmp_path, seed, missing))
    _, out, _ = run("--runs", tmp_path, "--table", "ablation", "--db", "casia")
    assert re.search(r"^T\+F\+TF .* 2/3 +0,2$", out, re.M) and "T+F+TF: seeds 1 left out" in out


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
    change_checkpoint(folder, settings=config["settings"], code=config["code"])


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
    change(fold_of(runs, 1, 2), **{f"settings__{name}": 7 if name == "epochs" else "other"})
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
    assert lines[2:4] == [" paper last valid. oracle+", "method WAR UAR WAR UAR WAR UAR WAR UAR"]
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
    out = tables.as_markdown("title", ["", "found"], [["glad|merry", "3"], ["CNN*", "1"]], [])
    assert r"| glad\|merry | 3 |" in out and r"| CNN\* | 1 |" in out


@pytest.mark.parametrize("character, escaped", [
    *((character, "\\" + character) for character in "_%&#${}"), ("~", r"\textasciitilde{}"),
    ("^", r"\textasciicircum{}"), ("\\", r"\textbackslash{}"),
])  # fmt: skip
def test_latex_escapes(character, escaped):
    given = f"x{character}y"
    out = tables.as_latex(given, ["head", given], [[given, "1"]], [given])
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


def test_significance_tells_what_the_other_tables_tell_of_a_row(tmp_path, run):
    for model, seed in (("tft", 0), ("tft", 1), ("atfnn", 0), ("atfnn", 1), ("atfnn", 2)):
        write_run(tmp_path, ANSWERS[seed % 2], model=model, seed=seed)
    change(fold_of(tmp_path, 1, 2), code={"train.py": "d" * 16})
    out = run("--runs", tmp_path, "--db", "casia", "--table", "significance")[1]
    for note in ("epochs 3 instead of 1000", "folds of different versions of the code", "partial database"):
        assert f"\ntft: {note}\n" in out
    assert "\natfnn: partial database\n" in out and "atfnn: folds of different" not in out and "left out" not in out


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
