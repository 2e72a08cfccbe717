"""Archives: what they hold gives the tables of the runs again, and what is damaged is one line.

python -m pytest tests/test_archive.py
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import ANSWERS, BY_EPOCH, EARLIER, change, fold_of, ours, reseal, write_run

import archive
import audit
import evaluate
import features
import figures
import protocols
import results
import tables

pytestmark = pytest.mark.usefixtures("few_resamples")
ALL = ("--track", "all")
SIGNIFICANCE = ("--table", "significance", "--models", "tft", "atfnn")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Runs of two models, two seeds and both trainings, and their archive; copied, never changed."""
    home = tmp_path_factory.mktemp("written")
    for model in ("tft", "atfnn"):
        for seed, answers in enumerate(ANSWERS):
            epochs = {who: {2: EARLIER[who], 3: text} for who, text in answers.items()}
            write_run(home / "runs", epochs, model=model, seed=seed)
            write_run(home / "runs", epochs, model=model, seed=seed, track="validation", best=2)
    write_run(home / "runs", BY_EPOCH, name="my", seed=3)
    evaluate.main(["--runs", str(home / "runs"), "--export", str(home / "archive")])
    return home


@pytest.fixture
def copied(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "copied"))


@pytest.fixture
def refused(run):
    """The one line that a command ends with."""

    def call(*arguments):
        code, out, error = run(*arguments)
        assert (code, out, error.count("\n")) == (results.EXIT_USAGE, "", 1), (out, error)
        return error

    return call


def tft(home):
    return home / "casia/tft-speaker.json"


def edit(path, function, seal=True):
    """Change the content of an archive's file; seal: so that its SHA-256 does not tell."""
    content = json.loads(path.read_text())
    function(content)
    if seal:
        path.write_text(archive.as_text({name: value for name, value in content.items() if name != "sha256"}))
    else:
        path.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------ the same tables


@pytest.mark.parametrize("style", tables.FORMATS)
@pytest.mark.parametrize("how", [(), ALL, ("--track", "validation"), ("--track", "oracle", "--seed", "1"),
                                 (*SIGNIFICANCE, *ALL), ("--db", "my", "--track", "oracle")], ids=" ".join)  # fmt: skip
def test_the_tables_are_those_of_the_runs(how, style, written, run):
    told = [run("--runs", written / name, *how, "--format", style) for name in ("runs", "archive")]
    assert told[0][0] == 0 and told[0][1].count("\n") > 1 and told[0] == told[1]


def test_folds_are_read_as_they_were(written):
    for track in results.TRACKS:
        (first, _), (second, _) = (
            evaluate.collect(written / name, "speaker", None, track) for name in ("runs", "archive")
        )
        assert list(first) == list(second) and [list(first[key]) for key in first] == [
            list(second[key]) for key in first
        ]
        for key in first:
            for seed in first[key]:
                for fold, again in zip(first[key][seed], second[key][seed], strict=True):
                    assert fold.config == again.config and fold.ids == again.ids
                    assert fold.labels.tolist() == again.labels.tolist()
                    assert fold.speakers.tolist() == again.speakers.tolist()
                    assert fold.scores.argmax(1).tolist() == again.scores.argmax(1).tolist()
                    assert again.archive == written / f"archive/{key[0]}/{key[1]}-speaker.json"


def test_curves_end_and_choose_where_those_of_the_runs_do(written):
    for track in results.TRAINED:
        for home in ("runs", "archive"):
            found, _ = evaluate.collect(written / home, "speaker", None, track, "casia", "tft")
            folds = [fold for seed in found["casia", "tft"].values() for fold in seed]
            if home == "runs":
                curves = list(map(archive.fold_curve, folds))
        for curve, again in zip(curves, map(archive.fold_curve, folds), strict=True):
            assert (curve.seed, curve.chosen) == (again.seed, again.chosen)
            assert curve.epochs.tolist() == again.epochs.tolist() == [2, 3]
            assert again.loss[1:] == pytest.approx(curve.loss[1:], rel=5e-3) and np.isnan(again.loss[0])
            for name in ("test", "held"):
                first, second = getattr(curve, name), getattr(again, name)
                assert (first is None) == (second is None) == (name == "held" and track == "last")
                for metric in figures.METRICS.values() if first is not None else ():
                    assert list(map(metric, first)) == list(map(metric, second))


def test_curves_are_read_once_for_all_folds_until_a_file_changes(copied, monkeypatch):
    folds, read, files = archive.read_folds(tft(copied / "archive"), "last"), results.read_json, []
    monkeypatch.setattr(results, "read_json", lambda path: files.append(path) or read(path))
    assert len(list(map(archive.fold_curve, folds))) == 6 and len(files) == len(set(files)) == 2
    edit(archive.curves_path(tft(copied / "archive")), lambda content: content["rows"][0].update(loss=[7.0, 8.0]))
    assert archive.fold_curve(folds[0]).loss[1:].tolist() == [7, 8]
    archive.curves_path(tft(copied / "archive")).unlink()
    with pytest.raises(results.RunError, match="No such file"):
        archive.fold_curve(folds[0])


def test_figures_are_drawn_from_an_archive(written, tmp_path, run):
    pytest.importorskip("matplotlib")
    for figure in ("confusion", "curves"):
        for home in ("runs", "archive"):
            how = ("--figure", figure, "--db", "casia", "--model", "tft", "--runs", written / home)
            assert run(*how, "--out", tmp_path / f"{home}-{figure}.svg")[::2] == (0, "")
    assert (tmp_path / "runs-confusion.svg").read_bytes() == (tmp_path / "archive-confusion.svg").read_bytes()


def test_archives_below_another_share_its_index(written, tmp_path, run):
    home = tmp_path / "published"
    for below in ("", "study/one", "study/two"):
        assert run("--runs", written / "runs", "--export", home / below, "--db", "casia")[0] == 0
    assert [path.parent for path in home.rglob("utterances-*.csv")] == [home / "casia"]
    for how in ((), ALL, ("--audit",)):
        told = [run("--runs", place, *how) for place in (written / "archive", home / "study/two")]
        assert told[0][0] == told[1][0] == 0
    assert run("--runs", home / "study/one", "--db", "casia") == run("--runs", home, "--db", "casia")
    shutil.move(home / "study/one", tmp_path / "one")
    code, _, error = run("--runs", tmp_path / "one")
    assert code == results.EXIT_USAGE and "utterances-" in error and "export it again" in error


def test_an_archive_below_another_is_read_from_within(written, tmp_path, run, monkeypatch):
    for below in ("published", "published/study/one"):
        assert run("--runs", written / "runs", "--export", tmp_path / below, "--db", "casia")[0] == 0
    told = run("--runs", tmp_path / "published")
    for place, name in (("published/study/one", "."), ("published/study", "one"), ("published", "study/one")):
        monkeypatch.chdir(tmp_path / place)
        assert run("--runs", name) == told


def test_an_index_among_runs_is_no_archives(written, tmp_path, run):
    runs = Path(shutil.copytree(written / "runs", tmp_path / "runs"))
    assert run("--runs", runs, "--export", runs / "published", "--db", "casia")[0] == 0
    assert list((runs / "published/casia").glob("utterances-*.csv"))


def test_sessions_lie_apart_from_speakers(tmp_path, run, rows):
    write_run(tmp_path / "runs", ANSWERS[0])
    write_run(tmp_path / "runs", ANSWERS[1], protocol="session", sessions=dict(A="1", B="1", C="2"))
    assert run("--runs", tmp_path / "runs", "--export", tmp_path / "archive")[0] == 0
    assert [place[2] for place in archive.find(tmp_path / "archive")] == ["session", "speaker"]
    for protocol in protocols.PROTOCOLS:
        how = ("--protocol", protocol)
        assert rows("--runs", tmp_path / "runs", *how) == rows("--runs", tmp_path / "archive", *how)
        assert run("--runs", tmp_path / "runs", "--export", tmp_path / protocol, *how)[0] == 0
        assert [place[2] for place in archive.find(tmp_path / protocol)] == [protocol]


def test_incomplete_runs_are_shown_as_incomplete(copied, run):
    shutil.rmtree(copied / "archive")
    for seed, number in ((0, 2), (1, 1), (1, 3)):
        shutil.rmtree(fold_of(copied / "runs", seed, number))
    shutil.rmtree(fold_of(copied / "runs", 0, 1, "validation"))
    assert run("--runs", copied / "runs", "--export", copied / "archive")[0] == 0
    for how in ((), ALL, (*ALL, "--format", "json"), (*SIGNIFICANCE, "--track", "validation", "--format", "json")):
        told = [run("--runs", copied / name, *how) for name in ("runs", "archive")]
        assert told[0][0] == 0 and told[0] == told[1]
    assert "incomplete: only 2/3 folds" in run("--runs", copied / "archive")[1]
    content = json.loads(tft(copied / "archive").read_text())
    assert [row["folds"] for row in content["rows"]] == [[1, 3], [2, 3], [1, 3], [2], [1, 2, 3], [2]]


def test_a_fold_of_another_machine_or_code_keeps_what_it_tells(copied, run):
    code = dict.fromkeys(audit.CODE, "c" * 16) | {"train.py": "d" * 16}
    change(fold_of(copied / "runs", 1, 2), code=code, machine=dict(device="gpu", torch="3"))
    change(fold_of(copied / "runs", 0, 1), earlier_machines=[dict(device="gpu")])
    assert run("--runs", copied / "runs", "--export", copied / "archive")[0] == 0
    told = [run("--runs", copied / name, *ALL) for name in ("runs", "archive")]
    assert told[0] == told[1] and "different versions of the code" in told[0][1]
    configs = [fold.config for fold in archive.read_folds(tft(copied / "archive"), "oracle")]
    folds = {(config["settings"]["seed"], config["settings"]["fold"]): config for config in configs}
    assert folds[1, 2]["machine"] == dict(device="gpu", torch="3") and folds[1, 2]["code"] == code
    assert folds[0, 1]["earlier_machines"] == [dict(device="gpu")]
    assert "earlier_machines" not in folds[1, 2]
    assert sum("differs" in row for row in json.loads(tft(copied / "archive").read_text())["rows"]) == 4


def test_settings_are_carried_whatever_their_names(copied, run):
    for *_, folder in [*results.find_folds(copied / "runs"), *results.find_folds(copied / "runs", "validation")]:
        change(folder, settings__new=dict(a=[1, 2.5, None]), other="b")
    assert run("--runs", copied / "runs", "--export", copied / "again")[0] == 0
    for fold in archive.read_folds(tft(copied / "again"), "validation"):
        assert fold.config["settings"]["new"] == dict(a=[1, 2.5, None]) and fold.config["other"] == "b"


def test_seeds_in_archives_and_in_run_folders_are_counted_together(copied, run, rows):
    expected = rows("--runs", copied / "runs", *ALL)
    shutil.copytree(copied / "archive", copied / "mixed")
    shutil.copytree(copied / "runs/casia/tft/speaker/seed1", copied / "mixed/casia/tft/speaker/seed1")
    edit(tft(copied / "mixed"), lambda content: content.update(rows=content["rows"][:3]))
    assert rows("--runs", copied / "mixed", *ALL) == expected


def test_an_archive_of_one_database_leaves_out_the_others(written, tmp_path, run):
    assert run("--runs", written / "runs", "--export", tmp_path, "--db", "my")[0] == 0
    assert [place[:3] for place in archive.find(tmp_path)] == [("my", "tft", "speaker")]


# ------------------------------------------------------------------------------------------- the size


def made_up(model, seeds=5, epochs=1000, every=10):
    """Folds by track, curves and index of a model on a database like CASIA, with answers at random."""
    names, random = ["ZhaoZuoxiang", "liuchanhg", "wangzhe", "zhaoquanyin"], np.random.default_rng(0)
    classes = list(protocols.DATABASES["casia"].classes)
    index = [
        dict(utterance=f"{who}/{emotion}/{number}", emotion=emotion, speaker=who, session="")
        for who in names for emotion in classes for number in range(201, 251)
    ]  # fmt: skip
    folds, curves = {track: [] for track in results.TRACKS}, {}
    evaluated = np.arange(every, epochs + 1, every)
    for track in results.TRAINED:
        for seed in range(seeds):
            for number, who in enumerate(names, 1):
                own = [row for row in index if row["speaker"] == who]
                held = dict(held_out=[names[(number + seed % 3) % 4]]) if track == "validation" else {}
                settings = dict(
                    model=model, protocol="speaker", seed=seed, fold=number, fold_name=who, epochs=epochs,
                    batch_size=64, lr=0.001, normalization="fold", precision="float32",
                    front_end=asdict(features.FRONT_ENDS["tft"]),
                    recordings="5" * 16, utterances="6" * 16, eval_every=every, track=track, **held,
                )  # fmt: skip
                config = dict(
                    settings=settings, deviations=[], folds_total=4,
                    database=dict(name="casia", language="Mandarin", classes=classes,
                                  counts=dict.fromkeys(classes, 200), speakers=names,
                                  utterances=1200, seconds=2287.0, segments=3000, partial=False),
                    train_speakers=[name for name in names if name != who and name not in held.get("held_out", ())],
                    test_speakers=[who], test=[row["utterance"] for row in own],
                    code=dict.fromkeys(audit.CODE, "c" * 16),
                    machine=dict(device="NVIDIA H200", engine="graph", together=4, threads=16, python="3.11.7",
                                 torch="2.13.0", numpy="2.4.6"),
                )  # fmt: skip
                labels = np.array([classes.index(row["emotion"]) for row in own])
                scores = random.random((len(evaluated), len(own), 6), np.float32)
                test = np.stack([protocols.confusion(labels, one) for one in scores])
                folder = results.fold_folder("runs", "casia", model, "speaker", seed, number, track)
                chosen = {one: int(random.integers(len(test))) for one in results.TRACKS}
                chosen["last"], loss = len(test) - 1, 1.8 * random.random(epochs)
                held = test if track == "validation" else None
                curves[folder] = results.FoldCurve(seed, loss, evaluated, test, held, chosen)
                for one in ("last", "oracle") if track == "last" else ("validation",):
                    folds[one].append(results.FoldResult(
                        folder, config, config["test"], np.array([who] * len(own)), labels, scores[chosen[one]]
                    ))  # fmt: skip
    return folds, curves, index


def test_all_of_casia_takes_about_200_kilobytes():
    """Eight models, five seeds, three tracks."""
    folds, curves, index = made_up("tft")
    content = archive.pack(folds, curves, index)
    for track in results.TRACKS:
        for fold, again in zip(folds[track], archive.unpack(content, index, Path("x/casia/tft-speaker.json"), track)):
            archive.compare(fold, again, fold)
    lines = ["utterance,emotion,speaker,session", *(",".join(row.values()) for row in index)]
    assert 8 * len(archive.as_text(content)) + len("\n".join(lines)) < 240_000
    trained = folds["last"] + folds["validation"]
    told = archive.as_text(archive.pack_curves(trained, curves, "0" * 64))
    few = made_up("atfnn", epochs=100)
    shorter = archive.as_text(archive.pack_curves(few[0]["last"] + few[0]["validation"], few[1], "0" * 64))
    assert 4 * len(told) + 4 * len(shorter) < 300_000


@pytest.mark.parametrize("width", [1, 2, 3])
def test_numbers_in_letters_are_read_again(width):
    numbers = np.random.default_rng(0).integers(0, 62**width, (5, 3))
    text = archive.as_digits(numbers, width)
    assert len(text) == 15 * width and archive.from_digits(text, width, (5, 3)).tolist() == numbers.tolist()


# --------------------------------------------------------------------------------- what is damaged


def put(**values):
    return lambda content: content["rows"][0].update(values)


def take(*names):
    def function(content):
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return function


DAMAGES = {  # what is done to an archive, whose SHA-256 then is right again; what the line tells
    "a letter more": (put(predictions="00000221100"), "11 predictions for 10 utterances"),
    "a letter less": (put(predictions="000002211"), "9 predictions for 10 utterances"),
    "a class too many": (put(predictions="0000022113"), "a prediction that is no class"),
    "a letter of another kind": (put(predictions="000002211é"), "a prediction that is no class"),
    "nothing predicted": (put(predictions="-" * 10), "a prediction that is no class, or none"),
    "a fold not told": (
        put(folds=[1, 2], epochs=[3, 3], speakers=["xtt", "txt"]), "predicts what none of its folds tests"),
    "a fold not predicted": (put(predictions="00000221--"), "fold 3 has a prediction that is no class, or none"),
    "a fold twice": (put(folds=[1, 2, 2]), "a fold is there twice"),
    "a fold too many": (put(folds=[1, 2, 4]), "fold 4 has no name"),
    "fewer epochs": (put(epochs=[3, 3]), "lacks its epoch"),
    "another epoch": (put(epochs=[3, 3, 2]), "epoch 2 of 3"),
    "an epoch beyond": (lambda content: content["rows"][2].update(epochs=[4, 3, 3]), None),
    "a speaker less": (put(speakers=["xt", "txt", "ttx"]), "2 letters for 3 speakers"),
    "another track": (put(track="best"), "no such track"),
    "a seed twice": (put(seed=1), "is there twice"),
    "a seed that is no number": (put(seed="0"), "seed is '0'"),
    "another utterance": (
        lambda content: content["fold_names"].update({"1": "B"}), "predicts what none of its folds tests"),
    "a name of a speaker that is none": (lambda content: content["fold_names"].update({"1": "D"}), "no class, or none"),
    "differences of another kind": (put(differs=[7]), "has no attribute"),
    "settings among the differences": (put(differs={"1": dict(settings={})}), "multiple values"),
    "another kind of code": (lambda content: content["shared"].update(code=[]), "code is []"),
    "another kind of machine": (lambda content: content["shared"].update(machine="cpu"), "machine is 'cpu'"),
    "another kind of a fold's machine": (put(differs={"2": dict(machine=7)}), "machine is 7"),
    "another format": (lambda content: content.update(format=2), "format 2, not 1"),
    "one class": (lambda content: content["shared"]["database"].update(classes=["angry"] * 3), "classes are not"),
    "another class": (
        lambda content: content["shared"]["database"].update(classes=["sad", "fear", "happy"]), "not in list"),
    **{f"no {' '.join(map(str, names))}": (take(*names), names[-1]) for names in (
        ("format",), ("shared",), ("fold_names",), ("rows",), ("rows", 0, "folds"), ("rows", 0, "predictions"),
        ("shared", "settings"), ("shared", "settings", "utterances"), ("shared", "settings", "epochs"),
        ("shared", "settings", "model"), ("shared", "database"), ("shared", "database", "speakers"),
        ("shared", "code"), ("shared", "code", "models.py"), ("shared", "machine"), ("shared", "folds_total"),
        ("shared", "deviations"))},
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_archive_is_one_line(damage, copied, run, refused):
    function, told = DAMAGES[damage]
    edit(tft(copied / "archive"), function)
    error = refused("--runs", copied / "archive", *ALL)
    assert f"{tft(copied / 'archive')}: is missing or damaged (" in error and archive.REMEDY in error
    assert told is None or told in error, error
    code, out, _ = run("--runs", copied / "archive", "--audit")
    assert code == 1 and f"FAULT {tft(copied / 'archive')}: is missing or damaged" in out


@pytest.mark.parametrize("damage", ["digit", "setting", "cut", "empty", "list", "deep", "half a character"])
def test_what_the_digest_does_not_fit_is_one_line(damage, copied, refused):
    path = tft(copied / "archive")
    text = path.read_text()
    after = dict(
        digit=text.replace('"0000022110"', '"0000022111"'), setting=text.replace('"lr": 0.001', '"lr": 0.002'),
        cut=text[: len(text) // 2], empty="", list="[]", deep="[" * 200_000, **{"half a character": '"\\ud800"'},
    )[damage]  # fmt: skip
    assert after != text
    path.write_text(after)
    error = refused("--runs", copied / "archive")
    assert f"{path}: is missing or damaged (" in error and ("SHA-256" in error) == (damage in ("digit", "setting"))
    assert len(error) < 400


def test_a_fault_in_one_archive_does_no_harm_to_another_database(copied, run, rows):
    tft(copied / "archive").write_text("")
    assert rows("--runs", copied / "archive", "--db", "my") == rows("--runs", copied / "runs", "--db", "my")


@pytest.mark.parametrize("damage", ["gone", "emotion", "cut"])
def test_an_index_that_is_missing_or_another_is_one_line(damage, copied, refused):
    path = next((copied / "archive/casia").glob("utterances-*.csv"))
    text = path.read_text()
    path.unlink() if damage == "gone" else path.write_text(
        text[:-9] if damage == "cut" else text.replace("B/0,angry", "B/0,fear")
    )
    error = refused("--runs", copied / "archive")
    assert f"{path}: is missing, or is not the database that was trained on; {archive.REMEDY}" in error


@pytest.mark.parametrize("before, after", [("casia", "my2"), ("casia/tft-speaker.json", "casia/tft-t+f-speaker.json"),
                                           ("casia/tft-speaker.json", "casia/tft-session.json")])  # fmt: skip
def test_a_renamed_archive_is_refused(before, after, copied, refused):
    (copied / "archive" / before).rename(copied / "archive" / after)
    error = refused("--runs", copied / "archive", "--protocol", "session" if "session" in after else "speaker")
    assert str(copied / "archive" / after) in error and "speaker; rename it back" in error


def test_a_fold_in_an_archive_and_in_a_folder_is_refused(copied, refused):
    shutil.copytree(copied / "archive", copied / "runs", dirs_exist_ok=True)
    for track in results.TRACKS:
        error = refused("--runs", copied / "runs", "--db", "casia", "--track", track)
        assert "is there as " in error and "remove one of them" in error


CURVES = {
    "no file": (None, "No such file"),
    "another archive's": (lambda content: content.update(predictions="0" * 64), "goes with another tft-speaker.json"),
    "a fold less": (take("rows", 0), "lacks seed 0, fold 1"),
    "a letter less": (lambda content: content["rows"][0].update(hits="00010"), "reshape"),
    "a letter of another kind": (lambda content: content["rows"][0].update(hits="00010é"), "none of DIGITS"),
    "more hits than utterances": (lambda content: content["rows"][0].update(hits="000900"), "more hits"),
    "a loss less": (lambda content: content["rows"][0].update(loss=[1.0]), "same length"),
    "an epoch less": (lambda content: content.update(epochs=[2]), "same length"),
    "no width": (take("width"), "lacks width"),
}


@pytest.mark.parametrize("damage", CURVES)
def test_curves_that_are_missing_or_damaged_are_one_line_and_harm_no_table(damage, copied, refused, run, monkeypatch):
    path, (function, told) = archive.curves_path(tft(copied / "archive")), CURVES[damage]
    path.unlink() if function is None else edit(path, function)
    monkeypatch.setattr(figures, "check_out", lambda out: None)  # it wants matplotlib
    how = ("--db", "casia", "--model", "tft", "--figure", "curves", "--out", copied / "curves.png")
    error = refused("--runs", copied / "archive", *how)
    assert f"{path}: is missing or damaged (" in error and told in error
    assert run("--runs", copied / "archive", *ALL) == run("--runs", copied / "runs", *ALL)


def test_no_attention_is_shown_of_an_archive(copied, refused, monkeypatch):
    monkeypatch.setattr(figures, "check_out", lambda out: None)
    how = ("--db", "casia", "--model", "tft", "--figure", "attention", "--utterance", "A/0", "--out", "x.png")
    assert "holds predictions and no model" in refused("--runs", copied / "archive", *how)


# ------------------------------------------------------------------------------------------- export


def test_an_export_is_the_same_bytes_again_and_leaves_nothing_else(copied, run):
    before = {path: path.read_bytes() for path in (copied / "archive").rglob("*") if path.is_file()}
    assert run("--runs", copied / "runs", "--export", copied / "archive")[::2] == (0, "")
    assert before == {path: path.read_bytes() for path in (copied / "archive").rglob("*") if path.is_file()}
    assert sorted(path.name.partition("-")[0] for path in before) == [
        "atfnn",
        "atfnn",
        *["tft"] * 4,
        *["utterances"] * 2,
    ]
    assert all(path.read_text().isascii() for path in before)


def remove(home, *folders):
    for folder in folders:
        shutil.rmtree(home / "runs/casia/tft/speaker" / folder)


LESS = {  # of the runs of an archive that is there: what is done; what the line tells
    "a seed": (lambda home: remove(home, "seed0"), "holds seed 0 fold 1 of track last, which the runs lack"),
    "a track": (
        lambda home: remove(home, *(f"seed{seed}/fold{number}-validation" for seed in (0, 1) for number in (1, 2, 3))),
        "holds seed 0 fold 1 of track validation, which the runs lack"),
    "a fold": (lambda home: remove(home, "seed1/fold2"), "holds seed 1 fold 2 of track last, which the runs lack"),
    "other settings": (
        lambda home: [change(folder, settings__lr=0.5) for folder in home.glob("runs/casia/tft/*/*/fold*")],
        "is of lr 0.001, not 0.5"),
    "a setting less": (
        lambda home: edit(tft(home / "archive"), lambda content: content["shared"]["settings"].update(dropout=0.1)),
        "is of dropout 0.1, not as usual"),
}  # fmt: skip


@pytest.mark.parametrize("less", LESS)
def test_a_fuller_or_another_archive_is_not_replaced(less, copied, refused):
    function, told = LESS[less]
    function(copied)
    before = {path: path.read_bytes() for path in (copied / "archive").rglob("*.*")}
    error = refused("--runs", copied / "runs", "--export", copied / "archive")
    assert f"{tft(copied / 'archive')}: {told}; remove it, or export elsewhere" in error
    assert before == {path: path.read_bytes() for path in (copied / "archive").rglob("*.*")}


@pytest.mark.parametrize("there", ["a seed less", "damaged"])
def test_an_archive_of_less_or_a_damaged_one_is_replaced(there, copied, run):
    path = tft(copied / "archive")
    whole = path.read_bytes()
    edit(path, lambda content: content.update(rows=content["rows"][3:]), seal=there != "damaged")
    assert run("--runs", copied / "runs", "--export", copied / "archive")[0] == 0 and path.read_bytes() == whole


@pytest.mark.parametrize("track", results.TRAINED)
def test_no_archive_is_put_beside_its_runs(track, copied, tmp_path, refused, run):
    here = fold_of(copied / "runs", 0, 1, track)
    shutil.copytree(here, tmp_path / "out" / here.relative_to(copied / "runs"))
    error = refused("--runs", copied / "runs", "--export", tmp_path / "out")
    assert f"--export {tmp_path / 'out'}: holds the runs of casia tft speaker; export elsewhere" in error
    assert not archive.find(tmp_path / "out")
    assert run("--runs", copied / "runs", "--export", tmp_path / "out", "--db", "my")[0] == 0
    other = tmp_path / "sessions"  # beside speakers there is room for them
    write_run(other, ANSWERS[0], protocol="session")
    assert run("--runs", other, "--export", tmp_path / "out")[0] == 0


def test_a_full_disk_leaves_the_archives_as_they_were(copied, run, monkeypatch):
    """A seed more of two models: each failure while the five files are written, and none of them appears."""
    for path in (copied / "archive/casia").glob("*-speaker.json"):
        edit(path, lambda content: content.update(rows=content["rows"][3:]))
    before = {path: path.read_bytes() for path in (copied / "archive").rglob("*.*")}
    how, written = ("--runs", copied / "runs", "--export", copied / "archive", "--db", "casia"), []

    def fsync(file):
        written.append(file)
        if len(written) == room:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fsync)
    for room in range(1, 6):
        written.clear()
        code, out, error = run(*how)
        assert (code, out, error.count("\n")) == (results.EXIT_USAGE, "", 1) and "No space left" in error
        assert before == {path: path.read_bytes() for path in (copied / "archive").rglob("*.*")}
    room, renamed, replace = 0, [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: renamed.append(Path(to).name) or replace(path, to))
    assert run(*how)[0] == 0
    assert len(renamed) == 5 and set(renamed[-2:]) == {"tft-speaker.json", "atfnn-speaker.json"}


def test_trainings_evaluated_at_other_epochs_do_not_share_an_archive(copied, refused):
    fold = fold_of(copied / "runs", 1, 2)
    with np.load(fold / "epochs.npz") as file:
        kept = dict(file)
    np.savez(fold / "epochs.npz", epochs=kept["epochs"][1:], scores=kept["scores"][1:])
    reseal(fold)
    shutil.rmtree(copied / "archive")
    error = refused("--runs", copied / "runs", "--export", copied / "archive", "--db", "casia")
    assert f"{fold}: was evaluated at other epochs than {fold_of(copied / 'runs', 0, 1)}" in error
    assert not (copied / "archive").exists()


def test_an_archive_is_not_exported_again(copied, refused):
    assert "is an archive; copy it" in refused("--runs", copied / "archive", "--export", copied / "again")
    assert "other than --runs" in refused("--runs", copied / "runs", "--export", copied / "runs/../runs")
    assert not (copied / "again").exists()


@pytest.mark.parametrize("how", ["--table ablation", "--models tft tfnn", "--track all", "--seed 0", "--format json",
                                 "--audit", "--figure confusion --out x.png"])  # fmt: skip
def test_options_that_the_export_would_pass_over_are_refused(how, copied, refused):
    error = refused("--runs", copied / "runs", "--export", copied / "again", *how.split())
    assert how.split()[0] in error and not (copied / "again").exists()


def test_nothing_to_export_is_one_line(copied, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no finished fold" in refused("--runs", tmp_path / "empty", "--export", tmp_path / "out")
    error = refused("--runs", copied / "runs", "--export", tmp_path / "out", "--protocol", "session")
    assert "has no finished fold" in error and not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    assert "file" in refused("--runs", copied / "runs", "--export", tmp_path / "file")


def test_a_damaged_fold_is_told_and_left_out(copied, run):
    (fold_of(copied / "runs", 0, 2) / "log.csv").write_text("")
    code, _, error = run("--runs", copied / "runs", "--export", copied / "again")
    assert code == 0 and error.count("\n") == 1 and "damaged since it was finished, not counted" in error
    assert json.loads(tft(copied / "again").read_text())["rows"][0]["folds"] == [1, 3]
    code, _, error = run("--runs", copied / "runs", "--export", copied / "archive")
    assert code == results.EXIT_USAGE and [line.split(": ")[1] for line in error.splitlines()] == [
        str(fold_of(copied / "runs", 0, 2)),
        str(tft(copied / "archive")),
    ]


def doctor(fold, old, new):
    path = fold / "predictions.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    reseal(fold)


EXPORTS = {  # of fold 2 of seed 0: what is wrong; what the line tells
    "other settings": (lambda fold: change(fold, settings__lr=0.5), "in lr; keep them in separate --runs"),
    "a setting more": (lambda fold: change(fold, settings__new=1), "in new; keep them in separate --runs"),
    "another emotion": (lambda fold: doctor(fold, "B/5,B,happy", "B/5,B,fear"), "its emotions are not what the index"),
    "another speaker": (lambda fold: doctor(fold, "B/0,B,", "B/0,A,"), "its speakers are not what the index"),
    "other answers": (lambda fold: doctor(fold, "0.75,0.125,0.125", "0.125,0.125,0.75"), "at epoch 3 in epochs.npz"),
    "trained on the tested": (lambda fold: change(fold, train_speakers=["A", "B", "C"]), "its train_speakers are not"),
    "no version of models.py": (lambda fold: change(fold, code={"train.py": "d" * 16}), "code lacks models.py"),
    "a fold's name of nobody": (lambda fold: change(fold, settings__fold_name="D"), "see evaluate.py --audit"),
    "another fold's name": (lambda fold: change(fold, settings__fold_name="C"), "are not what the index"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", EXPORTS)
def test_what_could_not_be_read_again_is_refused(wrong, copied, refused):
    function, told = EXPORTS[wrong]
    function(fold_of(copied / "runs", 0, 2))
    shutil.rmtree(copied / "archive")
    error = refused("--runs", copied / "runs", "--export", copied / "archive", "--db", "casia")
    assert told in error and "casia/tft/speaker" in error
    assert not tft(copied / "archive").exists()


def test_trainings_of_other_settings_do_not_share_an_archive(copied, refused):
    for seed in (0, 1):
        for number in (1, 2, 3):
            change(fold_of(copied / "runs", seed, number, "validation"), settings__batch_size=7)
    error = refused("--runs", copied / "runs", "--export", copied / "again", "--db", "casia")
    assert "fold1-validation: differs from" in error and "in batch_size" in error


def test_an_export_without_an_index_is_one_line(copied, refused):
    next((copied / "runs/casia").glob("utterances-*.csv")).unlink()
    assert "is missing, or is not the database" in refused("--runs", copied / "runs", "--export", copied / "again")


# ------------------------------------------------------------------------------------------- the audit


def test_the_audit_of_an_archive_passes_and_tells_its_limits(written, run, tmp_path):
    table = tmp_path / "table.json"
    table.write_text(run("--runs", written / "runs", *ALL, "--format", "json")[1])
    code, out, error = run("--runs", written / "archive", "--audit", table)
    assert (code, error) == (0, "") and out.splitlines()[-1] == f"no faults in {written / 'archive'}"
    assert sum(line.startswith("ok ") and line.endswith("3 folds, archived") for line in out.splitlines()) == 14
    assert out.count("checkpoints, logs, and who was trained on, can only be audited in the run folders") == 3
    doctored = json.loads(table.read_text())
    ours(doctored)["war"] += 1
    table.write_text(json.dumps(doctored))
    assert run("--runs", written / "archive", "--audit", table)[0] == 1


def lack_a_fold(content):
    row = content["rows"][0]
    for name in ("folds", "epochs", "speakers"):
        row[name].pop()
    row["predictions"] = row["predictions"][:-2] + "--"


AUDITED = {
    "a fold missing": (lack_a_fold, "tft-speaker.json: 2/3 folds, fold 3 is missing"),
    "trained on nobody": (put(speakers=["x-t", "txt", "ttx"]), "neither trained on nor tested"),
    "tested another": (put(speakers=["txt", "txt", "ttx"]), "names other speakers than were tested"),
    "held out others": (lambda content: content["rows"][1].update(speakers=["xth", "txh", "htx"]), "the rule says"),
    "other counts": (lambda content: content["shared"]["database"].update(utterances=9), "utterances is 9, the index"),
    "other deviations": (lambda content: content["shared"].update(deviations=[]), "tells the deviations []"),
    "more folds": (lambda content: content["shared"].update(folds_total=4), "of 4 is not speaker"),
    "no torch": (lambda content: content["shared"]["machine"].update(torch=""), "does not tell the version of torch"),
    "another code": (put(differs={"2": dict(code=dict.fromkeys(audit.CODE, "d" * 16))}), "code is not that of"),
}  # fmt: skip


@pytest.mark.parametrize("fault", AUDITED)
def test_the_audit_finds_what_an_archive_can_show(fault, copied, run):
    function, told = AUDITED[fault]
    edit(tft(copied / "archive"), function)
    code, out, error = run("--runs", copied / "archive", "--audit")
    assert (code, error) == (1, "") and told in out, out
    faults = [line for line in out.splitlines() if line.startswith("FAULT")]
    assert all("casia tft speaker" in line and "tft-speaker.json/" not in line for line in faults)


def test_an_oracle_that_lacks_a_fold_of_an_archive_is_a_fault(copied, run, no_checkpoints):
    mixed = mix(copied, (1, 2))

    def shorten(content):
        row = next(row for row in content["rows"] if row["track"] == "oracle")
        row.update((name, row[name][:1]) for name in ("folds", "epochs", "speakers"))
        row["predictions"] = row["predictions"][:2] + "-" * 8

    edit(tft(mixed), shorten)
    code, out, _ = run("--runs", mixed, "--audit")
    assert code == 1 and f"oracle seed 0: {tft(mixed)}: 2/3 folds, fold 2 is missing" in out


def test_an_archive_without_folds_is_a_fault(copied, run):
    for path in (copied / "archive").glob("*/*-speaker.json"):
        edit(path, lambda content: content.update(rows=[]))
    code, out, _ = run("--runs", copied / "archive", "--audit")
    assert code == 1 and f"FAULT {tft(copied / 'archive')}: holds no fold\n" in out


def test_an_oracle_without_its_result_is_audited(copied, run):
    edit(tft(copied / "archive"), lambda content: content.update(rows=content["rows"][2:3]))
    code, out, _ = run("--runs", copied / "archive", "--audit")
    assert code == 0 and "ok    casia tft speaker oracle seed 0: 3 folds, archived" in out


def mix(copied, archived):
    """Folder of the archive's rows of seed 0, and seed 1 from the runs; archived: the folds of seed 0 that it keeps."""

    def keep(content):
        content.update(rows=content["rows"][:3])
        for row in content["rows"]:
            at = [row["folds"].index(number) for number in archived]
            row.update((name, [row[name][i] for i in at]) for name in ("folds", "epochs", "speakers"))
            row["predictions"] = "".join(
                letter if fold in archived else "-" for letter, fold in zip(row["predictions"], [1, 1, *[2] * 6, 3, 3])
            )

    shutil.copytree(copied / "archive/casia", copied / "mixed/casia")
    edit(tft(copied / "mixed"), keep)
    shutil.copytree(copied / "runs/casia/tft/speaker/seed1", copied / "mixed/casia/tft/speaker/seed1")
    for track in results.TRAINED:
        for number in {1, 2, 3} - set(archived):
            shutil.copytree(fold_of(copied / "runs", 0, number, track), fold_of(copied / "mixed", 0, number, track))
    return copied / "mixed"


@pytest.fixture
def no_checkpoints(monkeypatch):
    """Those written by hand hold no weights."""
    monkeypatch.setattr(audit, "compare_checkpoint", lambda fold, epoch: ())


@pytest.mark.parametrize("archived", [(1, 2, 3), (1, 2), (3,)], ids=str)
def test_a_row_in_an_archive_and_in_folders_passes_the_audit(archived, copied, run, rows, no_checkpoints):
    expected = rows("--runs", copied / "runs", *ALL, "--db", "casia", "--table", "ablation")
    mixed = mix(copied, archived)
    assert rows("--runs", mixed, *ALL, "--db", "casia", "--table", "ablation") == expected
    code, out, error = run("--runs", mixed, "--audit")
    assert (code, error) == (0, ""), out
    how = ", archived" if len(archived) == 3 else f", {len(archived)} of them archived"
    for track in results.TRACKS:
        assert f"ok    casia tft speaker {track} seed 0: 3 folds{how}\n" in out
    assert "ok    casia tft speaker last seed 1: 3 folds\n" in out


def test_seeds_of_other_code_in_an_archive_and_in_folders_are_a_fault(copied, run, no_checkpoints):
    mixed = mix(copied, (1, 2, 3))
    for number in (1, 2, 3):
        change(fold_of(mixed, 1, number), code=dict.fromkeys(audit.CODE, "d" * 16))
    code, out, _ = run("--runs", mixed, "--audit")
    assert code == 1
    assert f"{fold_of(mixed, 1, 3)}: code is not that of {tft(mixed)}, seed 0 fold 1\n" in out


@pytest.mark.parametrize("track", results.TRAINED)
def test_a_fold_missing_in_both_and_one_that_is_in_both_are_faults(track, copied, run, no_checkpoints):
    mixed = mix(copied, (1, 2))
    shutil.rmtree(fold_of(mixed, 0, 3, track))
    code, out, _ = run("--runs", mixed, "--audit")
    assert code == 1 and f"{track} seed 0: {tft(mixed)}: 2/3 folds, fold 3 is missing" in out
    shutil.copytree(fold_of(copied / "runs", 0, 2, track), fold_of(mixed, 0, 2, track))
    code, out, _ = run("--runs", mixed, "--audit")
    assert code == 1 and f"{tft(mixed)}, seed 0 fold 2: is there as {fold_of(mixed, 0, 2, track)} too" in out
