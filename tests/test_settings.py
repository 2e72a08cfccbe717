"""Settings of the papers, and those they leave open: each has an effect and is recorded; a default is not recorded."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
from helpers import command, folder_of, log_of, outcome, run_train, stop_before

import evaluate
import features
import predict
from common import cli, config, methods, runs
from reporting import figures, tables

pytestmark = pytest.mark.usefixtures("tiny")

# option and value -> a model that has it, and its line among the deviations
CASES = {
    "--normalization speaker": (
        "atnn", "normalization speaker instead of fold, transductive: a tested speaker's statistics are of all its own "
        "recordings"),
    "--normalization segment": ("tft-t+f", "normalization segment instead of fold"),
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
MODELS_WITH = {  # option -> its models, where not all; ATFNN Table III
    "--double-softmax": OF_TFT, "--bn-momentum": OF_TFT, "--f-encoder-heads": {"atfnn", "afnn", "tfnn"},
    "--gate": {"atfnn", "afnn", "atnn"}, "--t-attention-input": {"atfnn"},
}  # fmt: skip
RECORDED = {  # of a run with all open settings at their defaults
    "model", "protocol", "seed", "fold", "fold_name", "epochs", "batch_size", "lr", "normalization", "precision",
    "front_end", "utterances", "recordings", "eval_every", "track",
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest(corpus):
    return corpus / "small.csv"


@pytest.fixture(scope="module")
def default_runs(manifest, tmp_path_factory):
    """Fold 2 of each model with the default settings."""
    results = tmp_path_factory.mktemp("default")
    assert run_train(manifest, results, "--model", "all") == 0
    return results


def settings_and_deviations(*arguments):
    """Model -> settings, model -> deviations."""
    options = config.parse_command_line([*arguments, "--model", "all"])
    config.check_options(options, config.methods_of(options))
    settings = {model: config.settings_of(options, methods.find(model)) for model in config.PAPER_SETTINGS}
    return settings, {model: config.deviations_of(dict(part, model=model)) for model, part in settings.items()}


# ------------------------------------------------------------------------------------------ recorded


def test_the_settings_are_the_papers():
    papers = dict.fromkeys(("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"), ("tft", 1000, 64, 1e-3))
    papers |= dict.fromkeys(("atfnn", "afnn", "atnn", "tfnn"), ("atfnn", 100, 128, 5e-4))
    found = {name: (s.front_end, s.epochs, s.batch_size, s.lr) for name, s in config.PAPER_SETTINGS.items()}
    assert found == papers


def test_defaults_leave_no_trace_given_or_not(default_runs):
    for model in config.PAPER_SETTINGS:
        recorded = runs.read_config(folder_of(default_runs, model))
        assert set(recorded.settings) == RECORDED
        assert not set(features.OMITTED_IF_DEFAULT) & set(recorded.settings["front_end"])
        assert [line.split()[0] for line in recorded.deviations] == ["epochs", "batch_size"]
    plain, deviations = settings_and_deviations("--db", "casia")
    assert not any(deviations.values()) and set(plain["tft"]) == set(config.CORE_SETTINGS)
    given = ["--overlap", "0.0", "--log-floor", "1e-6", "--dropout", "0", "--aggregation", "mean", "--gate", "sigmoid"]
    given += ["--bn-momentum", "0.1", "--f-encoder-heads", "2", "--t-attention-input", "log-mel"]
    assert settings_and_deviations("--db", "casia", *given) == (plain, deviations)
    assert config.front_end_of(methods.find("tft"), {}) == features.FRONT_ENDS["tft"]


@pytest.mark.parametrize(
    "model, option, line",
    [
        ("dtpm-pooling", "--overlap 0", "overlap 0.0 instead of 0.53125"),
        ("stc", "--pre-emphasis segment", "pre_emphasis segment instead of none"),
        ("stc", "--pre-emphasis none", None),
    ],
)
def test_the_front_end_of_a_method_has_the_defaults(model, option, line):
    plain, given = (config.parse_command_line(["--db", "casia", "--model", model, *o.split()]) for o in ("", option))
    method = methods.find(model)
    plain, given = (config.settings_of(options, method) for options in (plain, given))
    assert config.deviations_of(dict(plain, model=model)) == [] and (plain == given) == (line is None)
    assert config.deviations_of(dict(given, model=model)) == ([line] if line else [])
    changed = config.front_end_of(method, given) != config.front_end_of(method, plain)
    assert changed == (line is not None)


@pytest.mark.parametrize("option", CASES)
def test_a_setting_is_recorded_by_the_models_that_have_it_and_by_no_other(option):
    plain, _ = settings_and_deviations("--db", "casia")
    settings, deviations = settings_and_deviations("--db", "casia", *option.split())
    model, line = CASES[option]
    expected = MODELS_WITH.get(option.split()[0], set(config.PAPER_SETTINGS))
    if option.startswith("--pre-emphasis"):  # the default of one paper deviates from the other
        expected = {name for name in expected if config.PAPER_SETTINGS[name].pre_emphasis != option.split()[1]}
    assert deviations[model] == [line]
    assert {name for name, lines in deviations.items() if lines} == expected
    assert {name for name in settings if settings[name] != plain[name]} == expected


# -------------------------------------------------------------------------------------------- effect


@pytest.mark.parametrize("option", CASES)
def test_a_setting_has_an_effect_reaches_table_and_prediction_and_is_resumed(
    option, corpus, manifest, default_runs, tmp_path, monkeypatch, capsys
):
    model, line = CASES[option]
    more = ["--model", model, "--save-every", 0, *option.split()]
    assert run_train(manifest, tmp_path / "runs", *more) == 0
    assert line in " ".join(capsys.readouterr().out.split())  # of the table that training prints, wrapped
    folder, plain = folder_of(tmp_path / "runs", model), folder_of(default_runs, model)
    fold, default_fold = runs.read_fold(folder), runs.read_fold(plain)
    assert abs(default_fold.scores - fold.scores).max() > 1e-5
    assert line in fold.config.deviations and len(fold.config.deviations) == 3
    losses = [log_of(path)[0, 1] for path in (plain, folder)]
    if option == "--aggregation majority":  # training does not depend on it
        assert losses[0] == losses[1]
    elif not option.startswith("--bn-momentum"):  # which acts in evaluation alone
        assert losses[0] != losses[1]

    with monkeypatch.context() as patch:
        stop_before(1, patch)
        assert run_train(manifest, tmp_path / "resumed", *more) == cli.EXIT_INTERRUPTED
    assert run_train(manifest, tmp_path / "resumed", *more) == 0
    assert outcome(folder_of(tmp_path / "resumed", model)) == outcome(folder)

    capsys.readouterr()
    files = [corpus / name for name in fold.ids]
    code = command(predict.main, "--run", folder, "--format", "json", "--device", "cpu", *files)
    out, error = capsys.readouterr()
    if option == "--normalization speaker":  # new recordings have no statistics of a speaker
        assert code == cli.EXIT_USAGE and error.count("\n") == 1 and option in error
        figure = ["--figure", "attention", "--utterance", fold.ids[0], "--model", model, "--out", tmp_path / "x.pdf"]
        if find_spec("matplotlib"):
            assert command(evaluate.main, "--runs", tmp_path / "runs", "--db", manifest, *figure) == cli.EXIT_USAGE
            assert option in capsys.readouterr().err
    else:
        assert figures.explain(folder, files[0]).scores == pytest.approx(fold.scores[0], abs=1e-5)
        again = [list(row["probabilities"].values()) for row in json.loads(out)]
        assert code == 0 and again == pytest.approx(fold.scores, abs=5e-6)


def test_all_models_take_a_setting_where_it_applies(manifest, default_runs, tmp_path):
    assert run_train(manifest, tmp_path, "--model", "all", "--gate", "none") == 0
    for model in config.PAPER_SETTINGS:
        plain, changed = (runs.read_fold(folder_of(results, model)) for results in (default_runs, tmp_path))
        has_gate = model in MODELS_WITH["--gate"]
        assert np.array_equal(plain.scores, changed.scores) != has_gate
        assert changed.config.settings == dict(plain.config.settings, **(dict(gate="none") if has_gate else {}))


def test_folds_of_other_settings_are_not_overwritten_and_not_mixed(manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path) == 0
    for option, message in (
        ("--overlap 0.5", "overlap 0, not 0.5"),
        ("--gate none", "gate sigmoid, not none"),
        ("--pre-emphasis segment", "pre_emphasis none, not segment"),
        ("--fold 1 --dropout 0.2", "fold2: was trained with dropout 0, not 0.2"),
        ("--seed 1 --eval-every 0", "fold2: was trained with eval_every 1, not 0"),
    ):
        assert run_train(manifest, tmp_path, *option.split()) == cli.EXIT_USAGE
        assert message in capsys.readouterr().err


def test_each_table_of_a_speakers_statistics_says_transductive(manifest, tmp_path, capsys):
    for model, normalization in (("atnn", "speaker"), ("tft-t+f", "fold")):
        more = ["--model", model, "--normalization", normalization, "--fold", "all"]
        assert run_train(manifest, tmp_path, *more) == 0
        assert ("transductive" in capsys.readouterr().out) == (model == "atnn")
    compared = ["--table", "significance", "--models", "atnn", "tft-t+f"]
    for more in (["--table", "ablation"], ["--table", "ablation", "--track", "all"], [], compared):
        for style in tables.FORMATS:
            arguments = ["--runs", tmp_path, "--db", "small", *more, "--format", style]
            assert command(evaluate.main, *arguments) == 0
            assert "transductive" in capsys.readouterr().out


def test_segments_that_overlap_begin_and_end_where_they_were_cut():
    front_end = features.FrontEnd(frames=80, pre_emphasis=0.97, overlap=0.5)
    assert predict.segment_times(3, 1.5, front_end) == pytest.approx(np.array([[0, 0.8], [0.4, 1.2], [0.8, 1.5]]))
    assert predict.segment_times(1, 0.2, front_end).tolist() == [[0, 0.2]]
    front_end = features.FrontEnd(frames=128, pre_emphasis=0.0)
    assert predict.segment_times(2, 2.0, front_end) == pytest.approx(np.array([[0, 1.28], [1.28, 2.0]]))
    equal = features.FrontEnd(frames=300, pre_emphasis=0.0, win_length=640, cut="equal")  # 497 frames in parts of 249
    assert predict.segment_times(2, 5.0, equal) == pytest.approx(np.array([[0, 2.49], [2.49, 5.0]]))


def test_segments_that_overlap_stand_side_by_side_in_a_figure():
    pytest.importorskip("matplotlib").use("Agg")
    front_end = features.FrontEnd(frames=80, pre_emphasis=0.97, overlap=0.5)
    wave = np.random.default_rng(0).standard_normal(24_000).astype(np.float32)  # 1.5 s
    segments = features.log_mel(wave, front_end)
    assert len(segments) == 3
    shown = figures.Explanation(segments, 1.5, np.ones(2), {"F-Attention": np.ones((3, 1, 80, 80))}, front_end)
    figure = figures.draw_attention(shown, "title")
    panels = [axes for axes in figure.axes if axes.get_ylabel() == "frequency in Hz"]
    assert [axes.get_xlim() for axes in panels] == [pytest.approx((0, 2.4))] * 2
    texts = [figure.get_suptitle(), *(text.get_text() for text in figure.texts)]
    text = " ".join(" ".join(texts).split())
    assert "segments of 0.80 s, a new one after 0.40 s, side by side" in text and "zeros fill" in text


# ------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--overlap 0.8", "--overlap 0.8: must be at most 0.75"),
        ("--overlap -0.1", "--overlap"),
        ("--overlap 0.51", "whole number of the 16 frames"),
        ("--overlap 0.1 --model all", "whole number of the 16 frames"),
        ("--dropout 1", "--dropout"),
        ("--dropout -0.1", "--dropout"),
        ("--dropout nan", "--dropout"),
        ("--dropout 0.1 --engine graph", "--dropout"),
        ("--dropout 0.1 --engine compiled", "--dropout"),
        ("--log-floor 0", "--log-floor"),
        ("--log-floor 1", "--log-floor"),
        ("--bn-momentum 0 --model tft", "--bn-momentum"),
        ("--bn-momentum 0.2", "--bn-momentum: only tft"),
        ("--double-softmax --model afnn", "--double-softmax: only tft"),
        ("--f-encoder-heads 4 --model tft", "--f-encoder-heads: only atfnn, afnn, tfnn have it, not tft"),
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
def test_a_wrong_value_ends_with_one_line_and_code_2(arguments, message, manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path / "runs", *arguments.split()) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "runs").exists()
