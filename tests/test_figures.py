"""Figures: what they show, where it comes from, and what is said on a mistake.

python -m pytest tests/test_figures.py
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import command
from test_evaluate import ANSWERS, CLASSES, reseal, write_run

import archive
import evaluate
import features
import figures
import predict
import protocols
import results
import train

PROJECT = Path(__file__).resolve().parents[1]
# Three epochs of each speaker, of which the tracks choose different ones: the last is 3, `oracle` the best on the
# tested speaker, and the validation track is told below to choose epoch 2.
EPOCHS = dict(
    A={1: "aa ff", 2: "aa fa", 3: "ah fa"},  # best 1
    B={1: "af af af af ha hf", 2: "aa aa aa aa hh hh", 3: "aa aa aa ah hh hf"},  # best 2
    C={1: "fa fa", 2: "fa ff", 3: "ff ff"},  # best 3
)
BEST = dict(A=1, B=2, C=3)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """The figure that the command draws."""
    pytest.importorskip("matplotlib")
    kept = []
    monkeypatch.setattr(figures, "write", lambda figure, out: kept.append(figure))

    def draw(*arguments):
        assert command(evaluate.main, *arguments, "--out", tmp_path / "f.png") == 0
        return kept[-1]

    return draw


@pytest.fixture
def runs(tmp_path):
    """Two seeds of tft with three folds each, one epoch."""
    for seed, answers in enumerate(ANSWERS):
        write_run(tmp_path / "runs", answers, seed=seed)
    return tmp_path / "runs"


@pytest.fixture
def watched(tmp_path):
    """A run of three evaluated epochs, on the tracks last and validation, with a loss of 4 - epoch."""
    write_run(tmp_path / "watched", EPOCHS)
    write_run(tmp_path / "watched", EPOCHS, track="validation", best=2)
    return log_three_epochs(tmp_path / "watched")


def log_three_epochs(runs):
    for folder in runs.glob("*/*/*/seed*/fold*"):
        results.write_text(folder / "log.csv", "epoch,loss,seconds\n1,3,1\n2,2,2\n3,1,3\n")
        reseal(folder)
    return runs


@pytest.fixture(scope="module")
def trained(corpus, quiet_machine, tmp_path_factory):
    """One epoch of models of both papers: tft on two folds, atfnn and tfnn on one."""
    runs = tmp_path_factory.mktemp("trained")
    how = ["--db", str(corpus / "small.csv"), "--runs", str(runs), "--epochs", "1", "--device", "cpu"]
    for model, fold in (("tft", "1"), ("tft", "2"), ("atfnn", "1"), ("tfnn", "1")):
        train.main([*how, "--model", model, "--fold", fold, "--batch-size", "32"])
    return runs


def fold_of(trained, model, number=1):
    return results.read_fold(results.fold_folder(trained, "small", model, "speaker", 0, number))


# ------------------------------------------------------------------------------------ confusion matrix


def test_rates_are_per_cent_of_the_true_class():
    shown = figures.rates([[3, 1, 0], [2, 2, 4], [0, 0, 0]])
    assert shown[:2].tolist() == [[75, 25, 0], [25, 25, 50]]
    assert np.isnan(shown[2]).all()  # of no utterances there is no rate
    many = np.random.default_rng(0).integers(1, 99, (8, 8))
    assert figures.rates(many).sum(1) == pytest.approx(100)


def test_confusion_shows_what_the_table_counts(runs, drawn):
    found, _ = evaluate.collect(runs, "speaker", None, "last")
    summary = evaluate.summarize(found["casia", "tft"])
    assert np.sum(summary.confusion) == 20  # ten utterances, two seeds
    axes, bar = drawn("--figure", "confusion", "--runs", runs).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CLASSES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted label", "True label")
    image = np.asarray(axes.images[0].get_array())
    assert image == pytest.approx(figures.rates(summary.confusion)) and image.sum(1) == pytest.approx(100)
    told = np.array([text.get_text() for text in axes.texts], object).reshape(3, 3)
    assert told.tolist() == [[f"{rate:.2f}" for rate in row] for row in image]
    assert axes.yaxis_inverted() and bar.get_ylabel()  # the first class on top, as in a table
    axes, _ = drawn("--figure", "confusion", "--runs", runs, "--counts").axes
    counts = np.array([int(text.get_text().split("(")[1][:-1]) for text in axes.texts]).reshape(3, 3)
    assert counts.tolist() == summary.confusion
    one = drawn("--figure", "confusion", "--runs", runs, "--seed", "1", "--counts").axes[0]
    assert sum(int(text.get_text().split("(")[1][:-1]) for text in one.texts) == 10


def test_an_incomplete_run_and_the_oracle_say_so(runs, watched, drawn):
    for seed in (0, 1):
        shutil.rmtree(runs / f"casia/tft/speaker/seed{seed}/fold2")
    assert "incomplete: only 2/3 folds" in drawn("--figure", "confusion", "--runs", runs).get_suptitle()
    oracle = drawn("--figure", "confusion", "--runs", watched, "--track", "oracle").get_suptitle().replace("\n", " ")
    assert "not a result: WAR 100.00, UAR 100.00" in oracle


def test_classes_are_the_papers_in_their_order():
    assert list(protocols.DATABASES["iemocap"].classes) == "angry happy neutral sad".split()  # TFT Fig. 2
    assert list(protocols.DATABASES["casia"].classes) == "angry fear happy neutral sad surprise".split()
    assert list(protocols.DATABASES["abc"].classes) == "aggressive cheerful intoxicated nervous neutral tired".split()


def luminance(colours):
    """Relative luminance (WCAG 2) of colours (..., 3) in 0..1."""
    colours = np.asarray(colours)
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def test_colours_survive_grey_print_and_numbers_stand_out():
    matplotlib = pytest.importorskip("matplotlib")
    grey = luminance(matplotlib.colormaps[figures.COLOURS](np.linspace(0, 1, 1001))[:, :3])
    assert (np.diff(grey[::10]) > 0).all()
    white = np.linspace(0, 100, 1001) < figures.WHITE_BELOW
    contrast = np.where(white, 1.05 / (grey + 0.05), (grey + 0.05) / 0.05)
    assert contrast.min() > 4.5  # what WCAG asks of small text
    dark, light = luminance([matplotlib.colors.to_rgb(colour) for colour in (figures.DARK, figures.LIGHT)])
    assert (light + 0.05) / (dark + 0.05) > 3


# --------------------------------------------------------------------------------------------- curves


def test_each_track_marks_its_epoch(watched):
    found, _ = evaluate.collect(watched, "speaker", None, "last")
    for fold in found["casia", "tft"][0]:
        curve = archive.fold_curve(fold)
        chosen = {track: curve.epochs[index] for track, index in curve.chosen.items()}
        assert chosen == dict(last=3, oracle=BEST[fold.speakers[0]])
        assert curve.loss.tolist() == [3, 2, 1] and curve.held is None
    found, _ = evaluate.collect(watched, "speaker", None, "validation")
    for fold in found["casia", "tft"][0]:
        curve = archive.fold_curve(fold)
        assert curve.epochs[curve.chosen["validation"]] == 2 == results.read_marker(fold.folder)["epoch"]
        assert curve.held[1].trace() == curve.held[1].sum()


def test_curves_end_where_the_tables_do(watched):
    curves = {}
    for track in results.TRACKS:
        folds = evaluate.collect(watched, "speaker", None, track)[0]["casia", "tft"]
        curves[track] = list(map(archive.fold_curve, folds[0])), evaluate.summarize(folds)
    folds, summary = curves["last"]
    epochs, war = figures.pooled_curve(folds, "test", protocols.war)
    assert epochs.tolist() == [1, 2, 3] and war.tolist() == pytest.approx([20, 80, 60])
    assert war[-1] == pytest.approx(summary.war)
    assert figures.pooled_curve(folds, "test", protocols.uar)[1][-1] == pytest.approx(summary.uar)
    folds, summary = curves["validation"]
    assert figures.pooled_curve(folds, "test", protocols.war)[1][1] == pytest.approx(summary.war) == pytest.approx(80)


def test_curves_are_pooled_over_shared_epochs_and_averaged_over_seeds():
    def curve(seed, epochs, right):
        test = np.array([[[hits, 4 - hits], [0, 4]] for hits in right])
        return results.FoldCurve(seed, np.ones(3), np.array(epochs), test, None, {})

    folds = [curve(0, [1, 2, 3], [0, 1, 2]), curve(0, [2, 3], [3, 4]), curve(1, [2, 3], [4, 4])]
    epochs, war = figures.pooled_curve(folds, "test", protocols.war)
    assert epochs.tolist() == [2, 3]
    assert war == pytest.approx([100 * np.mean([12 / 16, 8 / 8]), 100 * np.mean([14 / 16, 8 / 8])])


def test_curves_show_every_seed(runs, drawn):
    _, war, _ = drawn("--figure", "curves", "--runs", log_three_epochs(runs)).axes
    lines = {label: [line for line in war.lines if line.get_marker() == label] for label in ("s", ".")}
    ends = sorted(line.get_ydata()[0] for line in lines["s"])
    assert ends == pytest.approx(sorted([50, 400 / 6, 50, 100, 400 / 6, 100]))  # of both seeds' A, B and C
    assert lines["."][0].get_ydata()[-1] == pytest.approx(70)  # the mean of 60 and 80


def test_the_legend_of_a_single_training_lies_inside_the_figure(runs, drawn):
    figure = drawn("--figure", "curves", "--runs", log_three_epochs(runs))
    figure.canvas.draw()
    (left, _), (right, _) = figure.legends[0].get_window_extent().get_points()
    assert 0 <= left < right <= figure.bbox.width


def test_marks_stand_on_the_lines_of_their_folds(watched, drawn):
    figure = drawn("--figure", "curves", "--runs", watched)
    loss, loss_held, war, war_held, *_ = figure.axes
    assert len(figure.axes) == 6
    marks = {}
    for axes in (loss, war):
        for line in axes.lines:
            if line.get_marker() in ("s", "D"):
                marks.setdefault((axes, line.get_marker()), []).append((*line.get_xdata(), *line.get_ydata()))
    assert sorted(marks[loss, "D"]) == [(1, 3), (2, 2), (3, 1)] and marks[loss, "s"] == [(3, 1)] * 3
    assert sorted(marks[war, "D"]) == [(1, 100), (2, 100), (3, 100)]
    assert sorted(marks[war, "s"]) == [(3, 0), (3, pytest.approx(400 / 6)), (3, 100)]
    triangles = [line for line in war_held.lines if line.get_marker() == "^"]
    assert [line.get_xdata()[0] for line in triangles] == [2, 2, 2]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "last epoch, the result: WAR 60.00, UAR 58.89, seed 0" in told
    assert any("oracle, a diagnostic and not a result: WAR 100.00" in line for line in told)


def test_a_run_without_validation_has_one_column(watched, drawn):
    for folder in watched.glob("*/*/*/seed0/fold*-validation"):
        shutil.rmtree(folder)
    figure = drawn("--figure", "curves", "--runs", watched)
    assert len(figure.axes) == 3 and len(figure.legends[0].get_texts()) == 4


# ------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("model, names", [("tft", "T-Trans F-Trans TF-Trans"), ("atfnn", "F-Attention T-Attention")])
def test_the_model_that_tests_the_utterance_is_heard(model, names, trained, corpus):
    fold = fold_of(trained, model)
    database = protocols.open_database(str(corpus / "small.csv"))
    path = corpus / database.paths[database.ids.index(fold.ids[1])]
    told = figures.explain(fold.folder, path)
    assert told.scores == pytest.approx(fold.scores[1], abs=1e-5)  # as saved by training
    count, front_end = len(told.segments), told.front_end
    frames, bands = front_end.frames, front_end.bands
    assert count == features.count_segments(round(told.seconds * 16000), front_end) > 1
    sizes = {
        "T-Trans": (count, 2, frames, frames), "F-Trans": (count, 2, bands, bands),
        "TF-Trans": (count, 4, bands // 4, bands // 4),
        "F-Attention": (count, 1, bands, frames), "T-Attention": (count, 1, bands, frames),
    }  # fmt: skip
    assert {name: part.shape for name, part in told.maps.items()} == {name: sizes[name] for name in names.split()}
    model, maps = predict.load_model(fold.folder, "cpu"), {}
    offset, scale = model.normalization
    assert not model.network.training and model.classes == fold.config["database"]["classes"]
    with torch.inference_mode():
        model.network((torch.from_numpy(told.segments[-1:])[:, None] - offset) * scale, maps)
    for name, part in maps.items():
        assert told.maps[name][-1:] == pytest.approx(part.numpy(), abs=1e-5)


def test_maps_lie_so_that_what_is_attended_to_meets_the_spectrogram():
    maps = np.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)  # (S, heads, queries, keys)
    mean = maps.mean(1)
    time, frequency = figures.panel("T-Trans", maps), figures.panel("F-Trans", maps)
    assert time.shape == frequency.shape == (4, 8)
    assert time[1, 4 + 2] == mean[1, 1, 2]  # query 1 in rows, key 2 of segment 1 in columns
    assert frequency[2, 4 + 1] == mean[1, 1, 2]  # key 2 in rows
    gate = np.arange(2 * 5 * 3.0).reshape(2, 1, 5, 3)
    assert figures.panel("F-Attention", gate)[4, 3:].tolist() == gate[1, 0, 4].tolist()


def test_a_long_recording_is_heard_in_parts(trained, corpus, monkeypatch):
    fold = fold_of(trained, "tft")
    path = next(corpus.rglob("*.wav"))
    whole = figures.explain(fold.folder, path)
    monkeypatch.setattr(figures, "BATCH", 1)
    parts = figures.explain(fold.folder, path)
    assert parts.scores == pytest.approx(whole.scores, abs=1e-5)
    for name in whole.maps:
        assert parts.maps[name] == pytest.approx(whole.maps[name], abs=1e-5)


def test_band_50_is_2721_hz():
    for front_end in features.FRONT_ENDS.values():
        centres = features.band_edges(front_end)[1:-1]
        assert round(centres[figures.BAND_MARKED]) == 2721
        assert figures.band_of(centres, front_end) == pytest.approx(np.arange(80))
        assert figures.band_of(2721, front_end) == pytest.approx(50, abs=0.02)


def draw_small(drawn, trained, corpus, model, number=1):
    fold = fold_of(trained, model, number)
    figure = drawn(
        "--figure", "attention", "--db", corpus / "small.csv", "--model", model, "--runs", trained,
        "--utterance", fold.ids[1],
    )  # fmt: skip
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    bars = [axes for axes in figure.axes if axes not in panels]
    assert len(bars) == len(panels) and all(axes.get_ylabel() for axes in bars)
    return figure, panels


def test_atfnn_has_the_dashed_line_in_hz_and_seconds(drawn, trained, corpus):
    figure, panels = draw_small(drawn, trained, corpus, "atfnn")
    titles = ["(a) log-Mel spectrogram", "(b) F-Attention", "(c) T-Attention"]
    assert [axes.get_title(loc="left") for axes in panels] == titles
    count = panels[0].images[0].get_array().shape[1] // 128
    for axes in panels:
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [list(line.get_ydata()) for line in dashed] == [[50, 50]]
        assert [text.get_text() for text in axes.texts] == ["Mel band 50: 2721 Hz"]
        assert axes.get_xlim() == pytest.approx((0, count * 1.28)) and axes.get_xlabel() == "time in s"
        assert axes.images[0].get_array().shape == (80, count * 128)
        assert axes.get_ylim() == (-0.5, 79.5) and axes.get_ylabel() == "frequency in Hz"
        ticks = dict(zip((label.get_text() for label in axes.get_yticklabels()), axes.get_yticks()))
        assert ticks["2000"] < 50 < ticks["4000"]
    fold = fold_of(trained, "atfnn")
    title = figure.get_suptitle()
    assert fold.ids[1] in title and f"without speaker {fold.speakers[0]}" in title
    assert "epochs 1 instead of 100" in title


def test_no_model_is_shown_on_a_speaker_that_it_was_trained_on(drawn, trained, corpus):
    for number in (1, 2):
        title = draw_small(drawn, trained, corpus, "tft", number)[0].get_suptitle()
        fold = fold_of(trained, "tft", number)
        assert fold.ids[1] in title and f"without speaker {fold.speakers[0]}, seed 0" in title


def test_tft_has_its_maps_below_the_spectrogram(drawn, trained, corpus):
    figure, panels = draw_small(drawn, trained, corpus, "tft")
    titles = [axes.get_title(loc="left") for axes in panels]
    assert [title.split(",")[0] for title in titles] == [
        "(a) log-Mel spectrogram", "(b) T-Trans attention", "(c) F-Trans attention", "(d) TF-Trans attention",
    ]  # fmt: skip
    count = panels[0].images[0].get_array().shape[1] // 80
    shapes = [axes.images[0].get_array().shape for axes in panels]
    assert shapes == [(80, 80 * count)] * 3 + [(20, 20 * count)]
    for axes in panels:
        assert axes.get_xlim() == pytest.approx((0, 0.8 * count)) and len(axes.lines) == count - 1 and not axes.texts
    time, frequency, joint = (np.asarray(axes.images[0].get_array()) for axes in panels[1:])
    assert time.reshape(80, count, 80).sum(2) == pytest.approx(1, abs=1e-4)  # each query shares out 1 over its keys
    assert frequency.sum(0) == pytest.approx(1, abs=1e-4) and joint.sum(0) == pytest.approx(1, abs=1e-4)


def test_texts_lie_apart(drawn, runs, watched, trained, corpus):
    matplotlib = pytest.importorskip("matplotlib")
    many = protocols.DATABASES["ravdess"].classes
    for figure in (
        drawn("--figure", "confusion", "--runs", runs, "--counts"),
        figures.draw_confusion(np.eye(8, dtype=int) * 1000, many, "title", ["a note " * 30], True),
        drawn("--figure", "curves", "--runs", watched),
        draw_small(drawn, trained, corpus, "tft")[0],
    ):
        figure.draw_without_rendering()
        boxes = [axes.get_tightbbox() for axes in figure.axes]
        boxes += [figure._suptitle.get_window_extent(), *(legend.get_window_extent() for legend in figure.legends)]
        for i, box in enumerate(boxes):
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
            for other in boxes[:i]:
                shared = matplotlib.transforms.Bbox.intersection(box.padded(-1), other)
                assert shared is None or shared.width * shared.height == 0
        for axes in figure.axes:
            for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
                drawn_ones = [label.get_window_extent() for label in labels if not label.get_rotation()]
                for first, second in zip(drawn_ones, drawn_ones[1:]):
                    assert not first.overlaps(second)


# ------------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize("name, start", [("f.png", b"\x89PNG"), ("f.SVG", b"<?xml"), ("a b/ä.pdf", b"%PDF")])
def test_the_ending_chooses_the_format(name, start, runs, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / name
    assert command(evaluate.main, "--figure", "confusion", "--runs", runs, "--out", out) == 0
    assert str(out) in capsys.readouterr().out
    first = out.read_bytes()
    assert first.startswith(start)
    assert command(evaluate.main, "--figure", "confusion", "--runs", runs, "--out", out) == 0
    assert out.read_bytes() == first and [path.name for path in out.parent.glob("*f*")] == [out.name]


def test_a_figure_that_fails_leaves_the_old_one(runs, tmp_path, monkeypatch, capsys):
    figure = pytest.importorskip("matplotlib.figure")
    (tmp_path / "f.png").write_bytes(b"old")

    def full(self, file, **how):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure.Figure, "savefig", full)
    assert (
        command(evaluate.main, "--figure", "confusion", "--runs", runs, "--out", tmp_path / "f.png")
        == results.EXIT_USAGE
    )
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "f.png").read_bytes() == b"old" and not list(tmp_path.glob(".*"))


# ------------------------------------------------------------------------------------------- mistakes


@pytest.fixture
def complains(tmp_path, capsys):
    """The one line that a mistake gives; nothing is written."""
    pytest.importorskip("matplotlib")

    def call(*arguments, out="f.png", code=results.EXIT_USAGE):
        capsys.readouterr()
        assert command(evaluate.main, *arguments, *(("--out", tmp_path / out) if out else ())) == code
        shown = capsys.readouterr()
        assert not shown.out and shown.err.count("\n") == 1
        assert not (tmp_path / "f.png").exists()
        return shown.err

    return call


def test_mistakes_in_the_command_are_told(runs, watched, complains, tmp_path):
    confusion = ["--figure", "confusion", "--runs", runs]
    assert ".png, .svg, .pdf" in complains(*confusion, out="f.jpg")
    assert ".png, .svg, .pdf" in complains(*confusion, out="f")
    (tmp_path / "folder.png").mkdir()
    assert "folder.png" in complains(*confusion, out="folder.png")
    (tmp_path / "file").touch()
    assert str(tmp_path / "file") in complains(*confusion, out="file/f.png")
    assert "needs --out" in complains(*confusion, out=None)
    assert "--model: goes with --figure" in complains("--runs", runs, "--model", "tft", out=None)
    assert "--out: goes with --figure" in complains("--runs", runs)
    assert "--models: goes with --table significance" in complains(*confusion, "--models", "tft", "afnn")
    assert "--models: goes with --table" in complains("--runs", runs, "--models", "tft", "afnn", out=None)
    assert "goes with --figure confusion" in complains("--figure", "curves", "--runs", runs, "--counts")
    assert "goes with --figure attention" in complains(*confusion, "--utterance", "A/0")
    assert "leave out --audit" in complains(*confusion, "--audit")
    assert "leave out --audit" in complains(*confusion, "--format", "json")
    assert "takes last or validation or oracle" in complains(*confusion, "--track", "all")
    assert "takes last or validation" in complains("--figure", "attention", "--utterance", "A/0", "--track", "oracle")
    assert "needs --utterance" in complains("--figure", "attention", "--runs", runs)
    assert "no such folder" in complains("--figure", "curves", "--runs", tmp_path / "nowhere")


def test_missing_and_ambiguous_runs_are_told(runs, complains, tmp_path):
    confusion = ["--figure", "confusion", "--runs", runs]
    assert "no tested fold of casia atfnn" in complains(*confusion, "--db", "casia", "--model", "atfnn")
    assert "no tested fold of emodb" in complains(*confusion, "--db", "emodb")
    assert "no tested fold of session" in complains(*confusion, "--protocol", "session")
    assert "path of a manifest" in complains(*confusion, "--db", "other")
    assert "no finished fold of casia tft" in complains(*confusion, "--seed", "7")
    write_run(runs, ANSWERS[0], name="emodb", model="tft")
    write_run(runs, ANSWERS[0], model="atfnn")
    assert "casia atfnn, casia tft, emodb tft; choose one" in complains(*confusion)
    assert "casia atfnn, casia tft; choose one" in complains(*confusion, "--db", "casia")
    (tmp_path / "empty").mkdir()
    assert "first run train.py" in complains("--figure", "curves", "--runs", tmp_path / "empty")


def test_damaged_runs_are_told(runs, watched, complains):
    for log in watched.glob("*/*/*/seed0/fold*/log.csv"):
        log.write_text("epoch,loss,seconds\n1,3,1\n")
    assert "damaged since it was finished" in complains("--figure", "curves", "--runs", watched)
    for folder in runs.glob("*/*/*/seed*/fold*"):
        (folder / "log.csv").write_text("epoch,loss,seconds\n1,3,1\n")
        reseal(folder)
    assert "log.csv: is missing or damaged (other epochs)" in complains("--figure", "curves", "--runs", runs)


def test_mistakes_in_the_recording_are_told(trained, corpus, complains, tmp_path):
    fold = fold_of(trained, "tft")
    shutil.copy(corpus / "small.csv", tmp_path / "small.CSV")
    other = ["--figure", "attention", "--runs", trained, "--model", "tft", "--db", tmp_path / "small.CSV"]
    assert "no such recording" in complains(*other, "--utterance", fold.ids[0], code=results.EXIT_DATA)
    attention = ["--figure", "attention", "--runs", trained, "--model", "tft"]
    known = [*attention, "--db", corpus / "small.csv", "--utterance", fold.ids[0]]
    untested = fold_of(trained, "tft", 2).speakers[0]
    unknown = complains(*attention, "--db", corpus / "small.csv", "--utterance", "nobody/1")
    assert "--utterance nobody/1" in unknown and f"such as {fold.ids[0]}" in unknown and untested not in unknown
    assert "path of its manifest" in complains(*attention, "--utterance", fold.ids[0])  # where are its recordings?
    assert "no attention" in complains(*known, "--model", "tfnn")
    copy = shutil.copytree(corpus, tmp_path / "copy")
    moved = [*known, "--root", copy]
    soundfile.write(copy / fold.ids[0], np.random.default_rng(0).normal(0, 0.1, 20000), 16000)
    assert "set --root to the recordings of that run" in complains(*moved)
    (copy / fold.ids[0]).unlink()
    assert "no such recording" in complains(*moved, code=results.EXIT_DATA)
    lines = (copy / "small.csv").read_text().splitlines()
    (copy / "small.csv").write_text("\n".join(line for line in lines if fold.ids[0] not in line))
    assert "does not hold" in complains(*known, "--db", copy / "small.csv")


def test_a_damaged_checkpoint_is_told(trained, tmp_path):
    folder = Path(shutil.copytree(fold_of(trained, "tft").folder, tmp_path / "fold1"))
    content = (folder / "checkpoint.pt").read_bytes()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(results.RunError, match="checkpoint.pt: (is missing, damaged|cannot be used)"):
        predict.load_model(folder, "cpu")
    for damage in (content[: len(content) // 2], b"", b"no checkpoint"):
        (folder / "checkpoint.pt").write_bytes(damage)
        with pytest.raises(results.RunError, match="checkpoint.pt: (is missing, damaged|cannot be used)"):
            predict.load_model(folder, "cpu")
    settings = dict(saved["settings"], model="atfnn")
    for other in (dict(saved, settings=settings), dict(model=saved["model"]), [1]):
        torch.save(other, folder / "checkpoint.pt")
        with pytest.raises(results.RunError, match="checkpoint.pt: (is missing, damaged|cannot be used)"):
            predict.load_model(folder, "cpu")


# ------------------------------------------------------------------------------- what is imported when


def python(code):
    return subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)


def test_without_matplotlib_one_line_says_what_to_install(runs, tmp_path):
    out = tmp_path / "f.png"
    done = python(
        "import sys; sys.modules['matplotlib'] = None\n"
        "import evaluate, results\n"
        "with results.plain_errors('evaluate.py'):\n"
        f"    evaluate.main(['--figure', 'confusion', '--runs', {str(runs)!r}, '--out', {str(out)!r}])\n"
    )
    assert done.returncode == results.EXIT_USAGE and not done.stdout and not out.exists()
    assert done.stderr == "evaluate.py: --figure: needs matplotlib; pip install -r requirements-figures.txt\n"
    assert (PROJECT / "requirements-figures.txt").read_text().startswith("matplotlib==")


def test_tables_need_no_matplotlib_and_only_attention_torch(runs, tmp_path):
    done = python(
        "import sys; sys.modules['matplotlib'] = sys.modules['torch'] = None\n"
        f"import evaluate; evaluate.main(['--runs', {str(runs)!r}])"
    )
    assert done.returncode == 0, done.stderr
    pytest.importorskip("matplotlib")
    log_three_epochs(runs)
    out = str(tmp_path / "f.png")
    for figure in ("confusion", "curves"):
        done = python(
            "import sys; sys.modules['torch'] = None\n"
            "import evaluate, results\n"
            "with results.plain_errors('evaluate.py'):\n"
            f"    evaluate.main(['--figure', {figure!r}, '--runs', {str(runs)!r}, '--out', {out!r}])"
        )
        assert done.returncode == 0, done.stderr


def test_only_figures_knows_matplotlib():
    for file in (*PROJECT.glob("*.py"), *PROJECT.glob("benchmarks/*.py")):
        if file.name != "figures.py":
            assert not any(line.split()[:2] == [word, "matplotlib"] or line.strip().startswith(f"{word} matplotlib.")
                           for line in file.read_text().splitlines() for word in ("import", "from"))  # fmt: skip
