"""Figures: what they show, that their files open, and what is reported on a mistake.

python -m pytest tests/test_figures.py
"""

import shutil
import subprocess
import sys
from pathlib import Path

import evaluate
import helpers
import numpy as np
import pytest
import soundfile
import torch
from saved_runs import ANSWERS, BY_EPOCH, CLASSES, change, seal, write_run

import features
import protocols
from common import cli, runs
from reporting import figures, published, summary
from training import checkpoints

matplotlib = pytest.importorskip("matplotlib")
PROJECT = Path(__file__).resolve().parents[1]


pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Two seeds of tft and one of atfnn, three folds each; never changed."""
    folder = tmp_path_factory.mktemp("two") / "runs"
    for seed, answers in enumerate(ANSWERS):
        write_run(folder, answers, seed=seed)
    return write_run(folder, ANSWERS[1], model="atfnn")


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory):
    """A seed of three evaluated epochs, on the tracks last and validation, with a loss of 4 - epoch; never changed."""
    folder = write_run(tmp_path_factory.mktemp("three") / "runs", BY_EPOCH)
    return write_run(folder, BY_EPOCH, track="validation", best=2)


@pytest.fixture(scope="module")
def trained(corpus, tiny, tmp_path_factory):
    """Models of both papers, trained for two epochs: tft on two folds, atfnn and tfnn on one."""
    folder = tmp_path_factory.mktemp("trained")
    for model, fold in (("tft", "1"), ("tft", "2"), ("atfnn", "1"), ("tfnn", "1")):
        quiet = ["--model", model, "--fold", fold, "--quiet"]
        assert helpers.run_train(corpus / "small.csv", folder, *quiet) == 0
    return folder


def fold_of(trained, model, number=1):
    return runs.read_fold(helpers.folder_of(trained, model, number))


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Figure that evaluate.py draws."""
    figure = []
    monkeypatch.setattr(figures, "write", lambda *arguments: figure.append(arguments[0]))

    def draw(*arguments):
        assert helpers.command(evaluate.main, *arguments, "--out", tmp_path / "f.png") == 0
        return figure[-1]

    return draw


def folds_of(folder, track="last", model="tft"):
    """Folds of seed 0 and the Summary of them."""
    found, _ = summary.collect(folder, "speaker", [0], track)
    return found["casia", model][0], summary.summarize({0: found["casia", model][0]})


# ------------------------------------------------------------------------------------ confusion matrix


def test_rates_are_per_cent_of_the_true_class():
    shown = figures.rates([[3, 1, 0], [2, 2, 4], [0, 0, 0]])
    assert shown[:2].tolist() == [[75, 25, 0], [25, 25, 50]]
    assert np.isnan(shown[2]).all()  # of no utterances there is no rate
    many = np.random.default_rng(0).integers(1, 99, (8, 8))
    assert figures.rates(many).sum(1) == pytest.approx(100)


def test_confusion_shows_what_the_table_counts(two_seeds, drawn):
    found, _ = summary.collect(two_seeds, "speaker", None, "last")
    result = summary.summarize(found["casia", "tft"])
    assert np.sum(result.confusion) == 20  # ten utterances, two seeds
    chosen = ["--figure", "confusion", "--runs", two_seeds, "--model", "tft"]
    axes, bar = drawn(*chosen, "--root", "nowhere", "--counts").axes  # --root is ignored
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == list(CLASSES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Predicted label", "True label")
    image = np.asarray(axes.images[0].get_array())
    assert image == pytest.approx(figures.rates(result.confusion))
    rates, counts = zip(*(text.get_text().split("\n") for text in axes.texts))
    assert list(rates) == [f"{rate:.2f}" for rate in image.ravel()]
    assert [int(count[1:-1]) for count in counts] == np.ravel(result.confusion).tolist()
    assert axes.yaxis_inverted() and bar.get_ylabel()  # the first class on top, as in a table
    single = drawn(*chosen, "--seed", "1", "--counts").axes[0]
    assert sum(int(text.get_text().split("(")[1][:-1]) for text in single.texts) == 10


def test_incomplete_runs_and_the_oracle_are_labelled(two_seeds, three_epochs, drawn, tmp_path):
    copy = shutil.copytree(two_seeds, tmp_path / "copy", ignore=shutil.ignore_patterns("fold2", "atfnn"))
    assert "incomplete: only 2/3 folds" in drawn("--figure", "confusion", "--runs", copy).get_suptitle()
    oracle = drawn("--figure", "confusion", "--runs", three_epochs, "--track", "oracle").get_suptitle()
    assert "not a result: WAR 100.00" in oracle.replace("\n", " ")


def test_the_published_matrix_stands_next_to_ours(complains, two_seeds):
    classes = list(protocols.DATABASES["casia"].classes)
    source, rates = figures.published_rates("casia", "tft", classes)
    assert source == "TFT Fig. 2(b)" and rates.sum(1) == pytest.approx(100, abs=2)  # as far as it is rounded
    assert rates[classes.index("angry"), classes.index("angry")] == 70
    assert figures.published_rates("casia", "tft", CLASSES) is None
    options = ["--figure", "confusion", "--runs", two_seeds, "--published"]
    assert "--published: no paper shows" in complains(*options, "--model", "atfnn")
    shown = {"published": rates, "ours": figures.rates(np.eye(6) * 3)}
    paper, ours, _ = figures.draw_confusion(shown, classes, "title", counts=np.eye(6, dtype=int) * 3).axes
    assert (paper.get_title(loc="left"), ours.get_title(loc="left")) == ("published", "ours")
    assert paper.texts[0].get_text() == "70.00" and ours.texts[0].get_text() == "100.00\n(3)"


# ------------------------------------------------------------------------------------------- speakers


def test_war_of_each_speaker_by_seed(two_seeds):
    found, _ = summary.collect(two_seeds, "speaker", None, "last")
    folds = [fold for by_seed in found["casia", "tft"].values() for fold in by_seed]
    wars = figures.speaker_war(folds[::-1])
    assert list(wars) == ["A", "B", "C"]
    assert [war.tolist() for war in wars.values()] == [[50, 100], [pytest.approx(200 / 3)] * 2, [50, 100]]


def test_cells_are_means_over_seeds_of_all_models(two_seeds, drawn):
    axes = drawn("--figure", "speakers", "--runs", two_seeds).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["A", "B", "C", "all", "published"]
    models = [label.get_text() for label in axes.get_yticklabels()]
    assert models == ["atfnn", "tft"]  # by WAR
    cells = np.array([text.get_text() for text in axes.texts]).reshape(2, 5)
    assert cells[1].tolist() == ["75.0±35.4", "66.7±0.0", "75.0±35.4", "70.0±14.1", "53.2"]
    assert cells[0, 3:].tolist() == ["80.0", "48.8"]
    colours = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_allclose(colours[1], [75, 200 / 3, 75, 70, np.nan])
    assert "guessing reaches 33.33" in drawn("--figure", "speakers", "--runs", two_seeds).axes[1].get_ylabel()
    alone = drawn("--figure", "speakers", "--runs", two_seeds, "--model", "atfnn").axes[0]
    assert [label.get_text() for label in alone.get_yticklabels()] == ["atfnn"]


def test_many_methods_have_cells_of_their_own(drawn):
    """No note or name lies on the cells, however many methods there are."""
    figure = drawn("--figure", "speakers", "--db", "casia", "--runs", published.RESULTS)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) > 80 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert figure._suptitle.get_window_extent().y0 > figure.axes[0].get_window_extent().y1


# --------------------------------------------------------------------------------------------- curves


def test_curves_end_where_the_tables_do(three_epochs):
    folds, result = folds_of(three_epochs)
    curves = list(map(published.fold_curve, folds))
    epochs, war = figures.pooled_curve(curves, "test", protocols.war)
    assert epochs.tolist() == [1, 2, 3] and war.tolist() == pytest.approx([20, 80, 60])
    assert war[-1] == pytest.approx(result.war)
    assert figures.pooled_curve(curves, "test", protocols.uar)[1][-1] == pytest.approx(result.uar)
    folds, result = folds_of(three_epochs, "validation")
    curves = list(map(published.fold_curve, folds))
    assert figures.pooled_curve(curves, "test", protocols.war)[1][1] == pytest.approx(result.war) == pytest.approx(80)


def test_curves_are_pooled_over_shared_epochs_and_averaged_over_seeds():
    def curve(seed, epochs, right):
        test = np.array([[[hits, 4 - hits], [0, 4]] for hits in right])
        return runs.FoldCurve(seed, np.ones(3), np.array(epochs), test, None, {})

    curves = [curve(0, [1, 2, 3], [0, 1, 2]), curve(0, [2, 3], [3, 4]), curve(1, [2, 3], [4, 4])]
    epochs, war = figures.pooled_curve(curves, "test", protocols.war)
    assert epochs.tolist() == [2, 3]
    assert war == pytest.approx([100 * np.mean([12 / 16, 8 / 8]), 100 * np.mean([14 / 16, 8 / 8])])


def test_marks_stand_on_the_lines_of_their_folds(three_epochs, drawn, tmp_path):
    figure = drawn("--figure", "curves", "--runs", three_epochs)
    loss, _, war, war_held_out, *_ = figure.axes

    def marks(axes, marker):
        return sorted((*line.get_xdata(), *line.get_ydata()) for line in axes.lines if line.get_marker() == marker)

    assert marks(loss, "D") == [(1, 3), (2, 2), (3, 1)] and marks(loss, "s") == [(3, 1)] * 3
    assert marks(war, "D") == [(1, 100), (2, 100), (3, 100)]
    assert marks(war, "s") == [(3, 0), (3, pytest.approx(400 / 6)), (3, 100)]
    assert [epoch for epoch, _ in marks(war_held_out, "^")] == [2, 2, 2]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "last epoch, the result: WAR 60.00, UAR 58.89, seed 0" in legend
    assert any("oracle, a diagnostic and not a result: WAR 100.00" in line for line in legend)
    copy = shutil.copytree(three_epochs, tmp_path / "copy", ignore=shutil.ignore_patterns("*-validation"))
    assert len(drawn("--figure", "curves", "--runs", copy).axes) == 3


# ------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("model, names", [("tft", "T-Trans F-Trans TF-Trans"), ("atfnn", "F-Attention T-Attention")])
def test_maps_are_those_of_the_model_that_tests_the_utterance(model, names, trained, corpus, monkeypatch):
    fold = fold_of(trained, model)
    monkeypatch.setattr(figures, "BATCH", 1)  # a long recording is computed in parts
    shown = figures.explain(fold.source, corpus / fold.ids[1])
    assert shown.scores == pytest.approx(fold.scores[1], abs=1e-5)  # as saved by training
    count = features.count_segments(round(shown.seconds * 16000), shown.front_end)
    assert count > 1 and [shown.maps[name].shape[0] for name in names.split()] == [count] * len(shown.maps)
    loaded = checkpoints.load_model(fold.source, "cpu")
    offset, scale = loaded.normalization
    with torch.inference_mode():
        _, maps = loaded.network((torch.from_numpy(shown.segments)[:, None] - offset) * scale, return_maps=True)
    for name, part in maps.items():
        assert shown.maps[name] == pytest.approx(part.numpy(), abs=1e-5)


def test_a_part_of_a_recording_is_explained_by_itself(trained, corpus):
    fold = fold_of(trained, "atfnn")
    shown = figures.explain(fold.source, corpus / fold.ids[1], 0.1, 0.25)
    wave = features.read_audio(corpus / fold.ids[1], start=0.1, end=0.25)
    np.testing.assert_array_equal(shown.segments, features.log_mel(wave, shown.front_end))
    assert shown.seconds == pytest.approx(0.15)


def test_maps_lie_so_that_what_is_attended_to_meets_the_spectrogram():
    maps = np.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)  # (S, heads, queries, keys)
    mean = maps.mean(1)
    time, frequency = figures.side_by_side("T-Trans", maps), figures.side_by_side("F-Trans", maps)
    assert time.shape == frequency.shape == (4, 8)
    assert time[1, 4 + 2] == mean[1, 1, 2]  # query 1 in rows, key 2 of segment 1 in columns
    assert frequency[2, 4 + 1] == mean[1, 1, 2]  # key 2 in rows
    gate = np.arange(2 * 5 * 3.0).reshape(2, 1, 5, 3)
    assert figures.side_by_side("F-Attention", gate)[4, 3:].tolist() == gate[1, 0, 4].tolist()


def test_atfnn_has_the_dashed_line_at_2721_hz():
    front_end = features.FrontEnd(frames=128, pre_emphasis=0.0)
    centres = features.band_edges(front_end)[1:-1]
    assert figures.band_of(centres, front_end) == pytest.approx(np.arange(80))
    assert figures.band_of(2721, front_end) == pytest.approx(figures.BAND_MARKED, abs=0.02)
    maps = {name: np.random.default_rng(0).random((2, 1, 80, 128)) for name in ("F-Attention", "T-Attention")}
    shown = figures.Explanation(np.zeros((2, 80, 128)), 2.0, np.ones(4) / 4, maps, front_end)
    panels = figures.draw_attention(shown, "title").axes[:3]
    assert [axes.get_title(loc="left")[4:] for axes in panels] == ["log-Mel spectrogram", "F-Attention", "T-Attention"]
    for axes in panels:
        assert [list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "--"] == [[50, 50]]
        assert [text.get_text() for text in axes.texts] == ["Mel band 50: 2721 Hz"]
        assert axes.get_xlim() == pytest.approx((0, 2.56)) and axes.get_ylim() == (-0.5, 79.5)


@pytest.mark.parametrize("number", [1, 2])
def test_tft_is_shown_on_a_speaker_that_it_was_not_trained_on(number, drawn, trained, corpus):
    fold = fold_of(trained, "tft", number)
    options = ["--db", corpus / "small.csv", "--runs", trained, "--model", "tft", "--utterance", fold.ids[1]]
    figure = drawn("--figure", "attention", *options)
    title = figure.get_suptitle()
    assert fold.ids[1] in title and f"without speaker {fold.speakers[0]}, seed 0" in title
    assert "epochs 2 instead of 1000" in title
    panels = {axes.get_title(loc="left")[4:].split()[0]: axes for axes in figure.axes if axes.get_title(loc="left")}
    assert list(panels) == ["log-Mel", "T-Trans", "F-Trans", "TF-Trans"]
    log_mel, time, frequency, joint = (np.asarray(axes.images[0].get_array()) for axes in panels.values())
    count = log_mel.shape[1] // 16
    assert time.reshape(16, count, 16).sum(2) == pytest.approx(1, abs=1e-4)  # each query divides 1 among its keys
    assert frequency.sum(0) == pytest.approx(1, abs=1e-4) and joint.sum(0) == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------------------------------------ the file


@pytest.mark.parametrize("name, start", [("f.png", b"\x89PNG"), ("f.SVG", b"<?xml"), ("a b/ä.pdf", b"%PDF")])
def test_the_ending_chooses_the_format(name, start, two_seeds, tmp_path, capsys):
    out = tmp_path / name
    options = ["--figure", "confusion", "--runs", two_seeds, "--model", "atfnn", "--out", out]
    assert helpers.command(evaluate.main, *options) == 0
    content = out.read_bytes()
    assert str(out) in capsys.readouterr().out and content.startswith(start)
    assert helpers.command(evaluate.main, *options) == 0
    assert out.read_bytes() == content and [path.name for path in out.parent.glob("*f*")] == [out.name]


def make_font(path, family, characters):
    """Write a font whose characters are squares."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = {ord(character): f"u{ord(character):x}" for character in characters}
    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 700), (800, 700), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    order = [".notdef", *names.values()]
    font = FontBuilder(1000)
    font.setupGlyphOrder(order)
    font.setupCharacterMap(names)
    font.setupGlyf(dict.fromkeys(order, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(order, (900, 100)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable(dict(familyName=family, styleName="Regular"))
    font.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
    font.setupPost()
    font.save(path)
    return str(path)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.filterwarnings("error")
def test_installed_fonts_are_found_for_names_in_any_script_else_a_line_tells(ending, tmp_path, monkeypatch, capsys):
    folder = write_run(tmp_path / "runs", ANSWERS[0], name="zh")
    for path in folder.rglob("fold?"):
        for name in ("config.json", "predictions.csv"):
            text = (path / name).read_text().replace("angry", "\u751f\u6c14").replace("fear", "\u60b2\u4f24")
            (path / name).write_text(text)
        seal(path)
    fonts = [
        make_font(tmp_path / f"{i}.ttf", f"Font {i}", text)
        for i, text in enumerate(("\u751f\u6c14\u60b2", "\u4f24", "\u60b2"))
    ]
    (tmp_path / "damaged.ttf").write_text("no font")
    from matplotlib import font_manager

    arguments = [
        "--figure",
        "confusion",
        "--db",
        "zh",
        "--model",
        "tft",
        "--runs",
        folder,
        "--out",
        tmp_path / f"f.{ending}",
    ]
    for number, missing in ((0, "\u4f24 \u60b2 \u6c14 \u751f"), (1, "\u4f24"), (3, "")):
        found = [*fonts[:number], str(tmp_path / "damaged.ttf")]
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda found=found: found)
        assert helpers.command(evaluate.main, *arguments) == 0
        error = capsys.readouterr().err
        assert error.count("\n") == bool(missing) and (
            f"no installed font has {missing}, drawn as boxes" in error or not missing
        )
    if ending == "svg":
        assert "Font 0" in (tmp_path / "f.svg").read_text() and "Font 2" not in (tmp_path / "f.svg").read_text()


def test_png_is_small_and_of_the_size_of_the_figure(tmp_path):
    figure = figures.draw_confusion({"ours": np.full((8, 8), 12.5)}, "abcdefgh", "title")
    figures.write(figure, tmp_path / "f.png", figures.PNG_DPI["confusion"])
    image = matplotlib.image.imread(tmp_path / "f.png")  # (height, width, 4)
    inches = figure.get_size_inches() * figures.PNG_DPI["confusion"]
    assert image.shape[:2] == tuple(inches.astype(int)[::-1]) and (tmp_path / "f.png").stat().st_size < 100_000


# ------------------------------------------------------------------------------------------- mistakes


@pytest.fixture
def complains(tmp_path, capsys):
    """The line that a mistake gives; nothing is written."""

    def call(*arguments, out="f.png", code=cli.EXIT_USAGE):
        capsys.readouterr()
        assert helpers.command(evaluate.main, *arguments, *(("--out", tmp_path / out) if out else ())) == code
        printed = capsys.readouterr()
        assert not printed.out and printed.err.count("\n") == 1 and not (tmp_path / "f.png").exists()
        return printed.err

    return call


def test_a_model_of_mixed_folds_has_no_row_and_the_others_have(two_seeds, tmp_path, capsys):
    copy = shutil.copytree(two_seeds, tmp_path / "copy")
    change(runs.fold_folder(copy, "casia", "atfnn", "speaker", 0, 2), settings__epochs=7)
    arguments = ["--figure", "speakers", "--db", "casia", "--runs", copy, "--out", tmp_path / "f.png"]
    assert helpers.command(evaluate.main, *arguments) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "atfnn left out: " in error and "in epochs" in error


def test_mistakes_in_the_command_are_reported(two_seeds, complains, tmp_path):
    confusion = ["--figure", "confusion", "--runs", two_seeds]
    (tmp_path / "folder.png").mkdir()
    assert all(".png, .svg, .pdf" in complains(*confusion, out=out) for out in ("f.jpg", "f", "folder.png", None))
    assert "takes last or validation or oracle" in complains(*confusion, "--track", "all")
    assert "takes last or validation" in complains("--figure", "attention", "--utterance", "A/0", "--track", "oracle")
    assert "needs --utterance" in complains("--figure", "attention", "--runs", two_seeds)
    assert "no such folder" in complains("--figure", "curves", "--runs", tmp_path / "nowhere")
    assert "no tested fold of casia tfnn" in complains(*confusion, "--db", "casia", "--model", "tfnn")
    assert "no tested fold of emodb" in complains(*confusion, "--db", "emodb")
    assert "no tested fold of session" in complains(*confusion, "--protocol", "session")
    assert "no finished fold of casia tft" in complains(*confusion, "--model", "tft", "--seed", "7")
    assert "no finished fold of casia" in complains("--figure", "speakers", "--runs", two_seeds, "--seed", "7")
    assert "casia atfnn, casia tft; choose with --db and --model" in complains(*confusion)


def test_damaged_and_unsuitable_runs_are_reported(three_epochs, complains, tmp_path):
    copy = Path(shutil.copytree(three_epochs, tmp_path / "copy"))
    for log in copy.glob("*/*/*/seed0/fold*/log.csv"):
        log.write_text("epoch,loss,seconds\n1,3,1\n")
    assert "damaged since it was finished" in complains("--figure", "curves", "--runs", copy)
    for folder in copy.glob("*/*/*/seed0/fold*"):
        seal(folder)
    assert "log.csv: is missing or damaged (other epochs)" in complains("--figure", "curves", "--runs", copy)
    write_run(tmp_path / "lda", model="lda", trained=False)
    assert "has no curve" in complains("--figure", "curves", "--runs", tmp_path / "lda")


def test_mistakes_in_the_recording_are_reported(trained, corpus, complains, tmp_path):
    fold = fold_of(trained, "tft")
    attention = ["--figure", "attention", "--runs", trained, "--utterance", fold.ids[0], "--model"]
    known = [*attention, "tft", "--db", corpus / "small.csv"]
    unknown = complains(*known, "--utterance", "nobody/1")
    assert "--utterance nobody/1" in unknown and f"such as {fold.ids[0]}" in unknown
    assert "path of the manifest" in complains(*attention, "tft")  # where are its recordings?
    assert "no attention" in complains(*attention, "tfnn", "--db", corpus / "small.csv")
    copy = shutil.copytree(corpus, tmp_path / "copy")
    soundfile.write(copy / fold.ids[0], np.random.default_rng(0).normal(0, 0.1, 20000), 16000)
    assert "set --root to the recordings of that run" in complains(*known, "--root", copy)
    (copy / fold.ids[0]).unlink()
    assert "no such recording" in complains(*known, "--root", copy, code=cli.EXIT_DATA)
    lines = (copy / "small.csv").read_text().splitlines()
    (copy / "small.csv").write_text("\n".join(line for line in lines if fold.ids[0] not in line))
    assert "does not hold" in complains(*known, "--db", copy / "small.csv")


# ------------------------------------------------------------------------------- what is imported when


def test_tables_need_no_matplotlib_and_most_figures_no_torch(three_epochs, tmp_path):
    def python(code):
        blocked = "import sys; sys.modules['torch'] = None\nimport evaluate\nfrom common import cli\n"
        command = [sys.executable, "-c", blocked + "with cli.exit_on_error('evaluate.py'):\n    " + code]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60)

    options = ["--figure", "curves", "--runs", str(three_epochs), "--out", str(tmp_path / "f.svg")]
    done = python(f"evaluate.main({options})")
    assert done.returncode == 0 and (tmp_path / "f.svg").exists(), done.stderr
    done = python(f"sys.modules['matplotlib'] = None; evaluate.main({options[2:4]}); evaluate.main({options})")
    assert done.returncode == cli.EXIT_USAGE and "60.00" in done.stdout
    assert done.stderr == "evaluate.py: --figure: needs matplotlib; pip install -r requirements-figures.txt\n"


def test_methods_need_strict_and_transductive_runs_apart(two_seeds, tmp_path, capsys):
    """Strict results lie below --runs, those with each speaker's statistics below --transductive."""
    speaker = write_run(tmp_path / "speaker", ANSWERS[0])
    for folder in speaker.glob("*/*/*/*/fold*"):
        change(folder, settings__normalization="speaker")
    options = ["--figure", "methods", "--out", tmp_path / "methods.png", "--runs", two_seeds, "--transductive"]
    assert helpers.command(evaluate.main, *options, speaker) == 0
    assert (tmp_path / "methods.png").stat().st_size > 1000
    assert helpers.command(evaluate.main, *options, two_seeds) == cli.EXIT_USAGE
    assert "has no statistics of a speaker" in capsys.readouterr().err


def test_a_method_has_the_published_figure_of_the_row_it_stands_for(two_seeds):
    found, _ = summary.collect(two_seeds, "speaker", None, "last")
    result = next(iter(summary.summarize_all(found, []).values()))
    assert figures.paper_war("casia", "tft", result) == 53.17
    assert figures.paper_war("casia", "mine", result) is None
    result.method.update(published=["LLD+DR"])
    assert figures.paper_war("casia", "mine", result) == 39.5
