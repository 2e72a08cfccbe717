"""The settings that the papers leave open: each has an effect, is told wherever its figures are, and by default none.

python -m pytest tests/test_open_settings.py
"""

import json
import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from conftest import command, outcome, stop_before
from torch.nn.functional import cross_entropy

import engine
import evaluate
import features
import figures
import predict
import protocols
import recipes
import results
import tables
import train

# option and value -> a model that has it, and its line among the deviations
CASES = {
    "--normalization speaker": (
        "atnn", "normalization speaker instead of fold, transductive: a tested speaker's statistics are of all its own "
        "recordings"),
    "--overlap 0.5": ("tft-t+f", "overlap 0.5 instead of 0"),
    "--pre-emphasis none": ("tft-t+f", "pre_emphasis none instead of segment"),
    "--pre-emphasis utterance": ("tft-t+f", "pre_emphasis utterance instead of segment"),
    "--pre-emphasis segment": ("atnn", "pre_emphasis segment instead of none"),
    "--log-floor 1e-3": ("atnn", "log_floor 0.001 instead of 1e-06"),
    "--dropout 0.3": ("atnn", "dropout 0.3 instead of 0"),
    "--aggregation majority": ("atnn", "aggregation majority instead of mean"),
    "--double-softmax": ("tft-t+f", "double_softmax True instead of False"),
    "--bn-momentum 0.3": ("tft-t+f", "bn_momentum 0.3 instead of 0.1"),
    "--f-encoder-heads 4": ("afnn", "f_encoder_heads 4 instead of 2"),
    "--gate none": ("atnn", "gate none instead of sigmoid"),
    "--gate softmax": ("afnn", "gate softmax instead of sigmoid"),
    "--t-attention-input encoded": ("atfnn", "t_attention_input encoded instead of log-mel"),
}  # fmt: skip
OF_TFT = {"tft", "tft-t+f", "tft-t+tf", "tft-f+tf"}
HAVING = {  # option -> its models, where not all; ATFNN Table III
    "--double-softmax": OF_TFT, "--bn-momentum": OF_TFT, "--f-encoder-heads": {"atfnn", "afnn", "tfnn"},
    "--gate": {"atfnn", "afnn", "atnn"}, "--t-attention-input": {"atfnn"},
}  # fmt: skip
BEFORE = {  # what a run told of itself before there were these options
    "model", "protocol", "seed", "fold", "fold_name", "epochs", "batch_size", "lr", "normalization", "precision",
    "front_end", "utterances", "recordings", "eval_every", "track",
}  # fmt: skip


pytestmark = pytest.mark.usefixtures("quiet_machine")


def run_train(corpus, runs, *more):
    quick = ["--fold", "2", "--epochs", "1", "--batch-size", "16", "--device", "cpu"]
    return command(train.main, "--db", corpus / "small.csv", "--runs", runs, *quick, *more)


def folder_of(runs, model, number=2, seed=0):
    return results.fold_folder(runs, "small", model, "speaker", seed, number)


@pytest.fixture(scope="module")
def usual(corpus, tmp_path_factory):
    """One epoch of every model with the default settings."""
    runs = tmp_path_factory.mktemp("usual")
    assert run_train(corpus, runs, "--model", "all") == 0
    return runs


def settings_and_deviations(*arguments):
    """Model -> what its runs tell of the options."""
    config = recipes.parse_command_line([*arguments, "--model", "all"])
    recipes.check_options(config)
    told = {model: recipes.settings_of(config, model) for model in recipes.RECIPES}
    return told, {model: recipes.deviations_of(dict(settings, model=model)) for model, settings in told.items()}


# --------------------------------------------------------------------------------------- what is told


def test_options_left_alone_or_given_as_usual_leave_no_trace(usual):
    for model in recipes.RECIPES:
        config = results.read_config(folder_of(usual, model))
        assert set(config["settings"]) == BEFORE
        assert set(config["settings"]["front_end"]) == {
            "frames", "pre_emphasis", "rate", "window", "shift", "fft", "bands", "low", "high", "floor"
        }  # fmt: skip
        assert [line.split()[0] for line in config["deviations"]] == ["epochs", "batch_size"]
    plain, deviations = settings_and_deviations()
    assert not any(deviations.values()) and set(plain["tft"]) == set(recipes.ALWAYS)
    spelt = ["--overlap", "0.0", "--log-floor", "1e-6", "--dropout", "0", "--aggregation", "mean", "--gate", "sigmoid"]
    spelt += ["--bn-momentum", "0.1", "--f-encoder-heads", "2", "--t-attention-input", "log-mel"]
    assert settings_and_deviations(*spelt) == (plain, deviations)
    assert recipes.front_end_of("tft", {}) == features.FRONT_ENDS["tft"]


@pytest.mark.parametrize("option", CASES)
def test_an_option_is_told_by_the_models_that_have_it_and_by_no_other(option):
    plain, _ = settings_and_deviations()
    told, deviations = settings_and_deviations(*option.split())
    model, line = CASES[option]
    having = HAVING.get(option.split()[0], set(recipes.RECIPES))
    if option.startswith("--pre-emphasis"):  # one paper's is the other's deviation
        having = {name for name in having if recipes.RECIPES[name].pre_emphasis != option.split()[1]}
    assert deviations[model] == [line]
    assert {name for name, lines in deviations.items() if lines} == having
    assert {name for name in told if told[name] != plain[name]} == having


@pytest.mark.parametrize("option", CASES)
def test_an_option_has_an_effect_and_goes_all_the_way(option, corpus, usual, tmp_path, capsys):
    model, line = CASES[option]
    assert run_train(corpus, tmp_path / "runs", "--model", model, *option.split()) == 0
    assert line in " ".join(capsys.readouterr().out.split())  # of the table that training prints, wrapped
    folder = folder_of(tmp_path / "runs", model)
    before, fold = results.read_fold(folder_of(usual, model)), results.read_fold(folder)
    assert abs(before.scores - fold.scores).max() > 1e-5
    losses = [(one.folder / "log.csv").read_text().splitlines()[1].split(",")[1] for one in (before, fold)]
    if option == "--aggregation majority":  # training knows nothing of it
        assert losses[0] == losses[1]
    elif not option.startswith("--bn-momentum"):  # which is felt in evaluation alone
        assert losses[0] != losses[1]
    assert fold.config["deviations"][2 if "normal" not in option else -1 :] == [line]
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--audit") == 1  # one fold of four
    told = capsys.readouterr().out
    assert told.count("FAULT") == 1 and "1/4 folds, fold 1 is missing" in told
    for style in ("text", "markdown", "latex", "json"):
        assert command(evaluate.main, "--runs", tmp_path / "runs", "--db", "small", "--format", style) == 0
        shown = " ".join(capsys.readouterr().out.replace("\\_", "_").split())
        assert line in shown
    if option == "--normalization speaker":
        return
    files = [corpus / name for name in fold.ids]
    assert command(predict.main, "--run", folder, "--format", "json", "--device", "cpu", *files) == 0
    again = [list(row["probabilities"].values()) for row in json.loads(capsys.readouterr().out)]
    assert again == pytest.approx(fold.scores, abs=5e-6)
    shown = figures.explain(folder, files[0])
    assert shown.scores == pytest.approx(fold.scores[0], abs=1e-5)


@pytest.mark.parametrize(
    "arguments, names",
    [
        ("--overlap 0.8", "--overlap 0.8: must be at most 0.75"),
        ("--overlap -0.1", "--overlap"),
        ("--overlap 0.51", "whole number of the 80 frames"),
        ("--overlap 0.1 --model atfnn", "whole number of the 128 frames"),
        ("--overlap 0.1 --model all", "whole number of the 128 frames"),
        ("--dropout 1", "--dropout"),
        ("--dropout -0.1", "--dropout"),
        ("--dropout nan", "--dropout"),
        ("--dropout 0.1 --engine graph", "--dropout"),
        ("--dropout 0.1 --engine compiled", "--dropout"),
        ("--log-floor 0", "--log-floor"),
        ("--log-floor 1", "--log-floor"),
        ("--bn-momentum 0", "--bn-momentum"),
        ("--bn-momentum 0.2 --model atfnn", "--bn-momentum: only tft"),
        ("--double-softmax --model afnn", "--double-softmax: only tft"),
        ("--f-encoder-heads 4", "--f-encoder-heads: only atfnn, afnn, tfnn have it, not tft"),
        ("--f-encoder-heads 4 --model atnn", "--f-encoder-heads"),
        ("--f-encoder-heads 3 --model atfnn", "--f-encoder-heads"),
        ("--f-encoder-heads x --model atfnn", "--f-encoder-heads"),
        ("--gate none --model tfnn", "--gate"),
        ("--gate tanh --model atfnn", "--gate"),
        ("--t-attention-input encoded --model atnn", "--t-attention-input: only atfnn"),
        ("--aggregation median", "--aggregation"),
        ("--pre-emphasis 0.97", "--pre-emphasis"),
        ("--normalization speaker --fold none", "--normalization speaker"),
    ],
)
def test_a_wrong_value_ends_with_one_line_and_code_2(arguments, names, corpus, tmp_path, capsys):
    assert run_train(corpus, tmp_path / "runs", *arguments.split()) == results.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and names in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_the_options_stand_together_in_the_help(capsys):
    assert command(train.main, "--help") == 0
    _, told = capsys.readouterr().out.split("settings that the papers leave open:")
    for option in CASES:
        assert f"  {option.split()[0]} " in told


def test_all_models_take_an_option_where_it_applies(corpus, usual, tmp_path):
    assert run_train(corpus, tmp_path, "--model", "all", "--gate", "none") == 0
    for model in recipes.RECIPES:
        one, other = (results.read_fold(folder_of(runs, model)) for runs in (usual, tmp_path))
        has = model in HAVING["--gate"]
        assert np.array_equal(one.scores, other.scores) != has
        assert one.config["settings"] == {k: v for k, v in other.config["settings"].items() if k != "gate"}
        assert ("gate" in other.config["settings"]) == has


def test_a_run_from_before_the_options_is_finished_and_does_not_mix_with_others(corpus, usual, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(usual / "small" / "atnn", runs / "small" / "atnn")  # tells none of them, as before
    assert run_train(corpus, runs, "--model", "atnn") == 0
    assert "1 of 1 folds are already done" in capsys.readouterr().out
    for option, told in (("--overlap 0.5", "overlap 0, not 0.5"), ("--gate none", "gate sigmoid, not none"),
                         ("--pre-emphasis segment", "pre_emphasis none, not segment")):  # fmt: skip
        assert run_train(corpus, runs, "--model", "atnn", *option.split()) == results.EXIT_USAGE
        assert told in capsys.readouterr().err
    for number in (1, 3):  # before and after the fold that tells nothing
        assert run_train(corpus, runs, "--model", "atnn", "--fold", number, "--dropout", "0.2") == 0
        capsys.readouterr()
        assert command(evaluate.main, "--runs", runs) == results.EXIT_USAGE
        assert "in dropout;" in capsys.readouterr().err
        shutil.rmtree(folder_of(runs, "atnn", number))


# -------------------------------------------------------------------------------- statistics of a speaker


def speaker_normalization(corpus):
    database = protocols.open_database(str(corpus / "small.csv"))
    heard = features.load(database.root, database.paths, features.FRONT_ENDS["tft"])
    data = engine.to_device(database, heard, "cpu")
    normalization = engine.fit_normalization(data, "speaker", None)
    return data, data.database.speakers[data.utterance_of.numpy()], normalization


def test_each_speaker_has_mean_0_and_deviation_1(corpus):
    data, speaker_of, normalization = speaker_normalization(corpus)
    x = engine.gather(data, normalization, torch.arange(len(data.segments)))[:, 0].double().numpy()
    assert len(set(speaker_of)) == 4
    for speaker in set(speaker_of):
        its = x[speaker_of == speaker].transpose(1, 0, 2).reshape(80, -1)
        np.testing.assert_allclose(its.mean(1), 0, atol=1e-4)
        np.testing.assert_allclose(its.std(1), 1, atol=1e-3)


def test_a_speakers_statistics_are_of_its_own_recordings_and_of_no_label(corpus, tmp_path):
    copy = shutil.copytree(corpus, tmp_path / "copy")
    _, speaker_of, before = speaker_normalization(copy)
    soundfile.write(copy / "wav/S1/sad_01.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    _, speaker_of_now, after = speaker_normalization(copy)
    for one, other in zip(before[:2], after[:2]):  # offset and scale
        for speaker in ("S1", "S2", "S3", "S4"):
            was, now = one[speaker_of == speaker], other[speaker_of_now == speaker]
            assert torch.equal(was[0], now[0]) == (speaker != "S1")
            assert all(torch.equal(now[0], row) for row in now)
    manifest = copy / "small.csv"
    text = manifest.read_text()
    manifest.write_text(text.replace(",sad,", ",x,").replace(",happy,", ",sad,").replace(",x,", ",happy,"))
    assert manifest.read_text() != text
    for one, other in zip(after, speaker_normalization(copy)[2]):
        assert torch.equal(one, other)


def test_every_table_of_a_speakers_statistics_says_transductive(corpus, tmp_path, run, capsys):
    for model in ("atnn", "tft-t+f"):
        arguments = ["--model", model, "--normalization", "speaker" if model == "atnn" else "fold", "--fold", "all"]
        assert run_train(corpus, tmp_path, *arguments) == 0
        assert ("transductive" in capsys.readouterr().out) == (model == "atnn")
    assert run("--runs", tmp_path, "--audit")[0] == 0
    compared = ["--table", "significance", "--models", "atnn", "tft-t+f"]
    for how in (["--table", "ablation"], ["--table", "ablation", "--track", "all"], [], compared):
        for style in tables.FORMATS:
            code, out, _ = run("--runs", tmp_path, "--db", "small", *how, "--format", style)
            assert code == 0 and "transductive" in out
    saved = tmp_path / "table.json"
    saved.write_text(run("--runs", tmp_path, "--db", "small", *compared, "--format", "json")[1])
    assert run("--runs", tmp_path, "--audit", saved)[0] == 0


def test_new_recordings_have_no_statistics_of_a_speaker(corpus, tmp_path, capsys):
    assert run_train(corpus, tmp_path, "--model", "atnn", "--normalization", "speaker") == 0
    capsys.readouterr()
    folder, path = folder_of(tmp_path, "atnn"), corpus / "wav" / "S2" / "sad_01.wav"
    assert command(predict.main, "--run", folder, path) == results.EXIT_USAGE
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and "--normalization speaker" in told.err
    with pytest.raises(results.RunError, match="--normalization speaker"):
        figures.explain(folder, path)


# ------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("model", ["tft-t+f", "atnn", "afnn"])
def test_with_dropout_a_stopped_fold_goes_on_to_the_same_bits(model, corpus, tmp_path, monkeypatch):
    arguments = ["--model", model, "--dropout", "0.3", "--epochs", "4", "--eval-every", "1", "--save-every", "0"]
    assert run_train(corpus, tmp_path / "whole", *arguments) == 0
    with monkeypatch.context() as patch:
        stop_before(2, patch)
        assert run_train(corpus, tmp_path / "runs", *arguments) == results.EXIT_INTERRUPTED
    assert (folder_of(tmp_path / "runs", model) / results.STATE).exists()
    torch.rand(7)  # what else was drawn does not matter
    assert run_train(corpus, tmp_path / "runs", *arguments, "--eval-every", "1") == 0
    assert outcome(folder_of(tmp_path / "runs", model)) == outcome(folder_of(tmp_path / "whole", model))


def test_with_dropout_folds_trained_at_once_give_the_bits_of_folds_in_turn(corpus, tmp_path, monkeypatch):
    for together in (1, 3):
        how = ["--model", "atnn", "--dropout", "0.3", "--epochs", "2", "--fold", "all", "--together", together]
        assert run_train(corpus, tmp_path / str(together), *how) == 0
        monkeypatch.setattr(engine, "TURN", 1)  # the masks of an epoch are drawn in one go all the same
    for number in range(1, 5):
        one, other = (outcome(folder_of(tmp_path / runs, "atnn", number)) for runs in "13")
        assert one == other


def test_masks_differ_between_seeds_folds_and_epochs_and_leave_the_generator_alone(corpus):
    def drawn(seed, fold, epoch, dropout=0.5):
        training = engine.Training.__new__(engine.Training)
        training.settings, training.epoch, training.stream = dict(seed=seed, fold=fold, dropout=dropout), epoch, None
        with training.own_masks():
            return torch.rand(4).tolist()

    torch.manual_seed(5)
    state = torch.get_rng_state()
    places = [(0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1)]
    told = [drawn(*place) for place in places]
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(numbers) for numbers in told}) == 4
    assert told == [drawn(*place) for place in places]


# ------------------------------------------------------------------------------- loss, segments, pictures


def test_the_double_softmax_by_hand():
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    first, second = math.exp(2) / (math.exp(2) + 1), 1 / (1 + math.e)  # softmax of the true class
    by_hand = -sum(math.log(math.exp(p) / (math.exp(p) + math.exp(1 - p))) for p in (first, second)) / 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    assert engine.train_step(model, optimizer, x, y, "float32", True).item() == pytest.approx(by_hand, rel=1e-6)
    assert engine.train_step(model, optimizer, x, y) == cross_entropy(x, y)


def test_the_course_of_overlapping_segments_tells_when_they_begin_and_end():
    front_end = recipes.front_end_of("tft", dict(overlap=0.5))
    assert predict.segment_times(3, 1.5, front_end) == pytest.approx(np.array([[0, 0.8], [0.4, 1.2], [0.8, 1.5]]))
    assert predict.segment_times(1, 0.2, front_end).tolist() == [[0, 0.2]]
    apart = features.FRONT_ENDS["atfnn"]
    assert predict.segment_times(2, 2.0, apart) == pytest.approx(np.array([[0, 1.28], [1.28, 2.0]]))


def test_overlapping_segments_stand_side_by_side(tmp_path):
    pytest.importorskip("matplotlib")
    figures.check_out(tmp_path / "figure.png")  # sets matplotlib up
    front_end = recipes.front_end_of("tft", dict(overlap=0.5))
    wave = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)  # 1.5 s
    segments = features.log_mel(wave, front_end)
    assert len(segments) == 3
    told = figures.Explained(segments, 1.5, np.ones(2), {"F-Attention": np.ones((3, 1, 80, 80))}, front_end)
    figure = figures.draw_attention(told, "title")
    axes = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [one.get_xlim() for one in axes] == [pytest.approx((0, 2.4))] * 2
    title = " ".join(figure.get_suptitle().split())
    assert "segments of 0.80 s, one every 0.40 s, side by side" in title and "zeros fill" in title
