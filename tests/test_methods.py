"""The door for methods: a network in a file of the user's own, methods that are fitted at once, and what is refused.

python -m pytest tests/test_methods.py
"""

import json
import shutil
from itertools import product

import numpy as np
import pytest
import torch
from helpers import command, folder_of, outcome, stop_before
from torch.nn.functional import cross_entropy

import evaluate
import features
import predict
import protocols
import train
from common import cli, config, methods, runs
from comparisons.descriptors import DESCRIPTORS
from reporting import published
from training import data, trainer

pytestmark = pytest.mark.usefixtures("tiny", "few_resamples")

NETWORK = """
from torch import nn

SETTINGS = dict(epochs=3, lr=0.05, optimizer="SGD", optimizer_options={"momentum": 0.9}, class_weights=True)
NOTE = "a network of our own"


def build(classes, n_mels, frames):
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 16, classes),
    )
"""  # 12 lines
ATTENTIVE = """
import features
from torch import nn

FRONT_END = features.FrontEnd(frames=20, pre_emphasis=0, sample_rate=8000, n_mels=24, fmax=4000)
SETTINGS = dict(epochs=1, optimizer_options={"betas": (0.9, 0.98)})
PUBLISHED, EXTENT = ("LoHu",), "reading"


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.weight, self.classify = nn.LazyLinear(1), nn.LazyLinear(classes)

    def forward(self, x, return_maps=False):
        weight = self.weight(x.transpose(2, 3)).softmax(2)  # (b, 1, frames, 1)
        logits = self.classify((x @ weight).flatten(1))
        return (logits, {"frames": weight.transpose(2, 3)}) if return_maps else logits


def build(classes, n_mels, frames):
    return Net(classes)
"""
FITTED = """
import numpy as np

DESCRIPTORS = "is09"


def fit(x, labels, classes, seed):
    return np.stack([x[labels == k].mean(0) for k in range(classes)])


def scores(model, x):
    return x @ model.T
"""
PER_SPEAKER = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy

SETTINGS = dict(epochs=2, batch_size=8)
TRACK = "validation"


class Net(nn.Module):
    def __init__(self, size, classes, speakers):
        super().__init__()
        self.emotion, self.speaker = nn.Linear(size, classes), nn.Linear(size, speakers)

    def forward(self, x):
        return self.emotion(x.flatten(1))

    def losses(self, x, labels, speakers):
        of_speaker = cross_entropy(self.speaker(x.flatten(1)), speakers, reduction="none")
        return cross_entropy(self(x), labels, reduction="none") + 2 * of_speaker


def build(classes, n_mels, frames, speakers):
    return Net(n_mels * frames, classes, speakers)
"""
WITH_BACK_END = """
import numpy as np
from torch import nn

SETTINGS = dict(epochs=2, batch_size=8, normalization="none")


class Net(nn.Linear):
    def embed(self, x):
        return x.mean((1, 3))

    def forward(self, x):
        return super().forward(self.embed(x))


def build(classes, n_mels, frames):
    return Net(n_mels, classes)


def fit(x, labels, classes, seed):
    means = np.stack([part.mean(0) for part in x])
    return np.stack([means[labels == k].mean(0) for k in range(classes)])


def scores(model, x):
    means = np.stack([part.mean(0) for part in x])
    return -((means[:, None] - model) ** 2).sum(2)
"""
LINEAR = "from torch import nn\ndef build(classes, n_mels, frames):\n    return nn.Sequential(nn.Flatten(), {})\n"
FORWARD = """from torch import nn
class Net(nn.Linear):
    def forward(self, x):
        {}
def build(classes, n_mels, frames):
    return Net(n_mels * frames, classes)
"""


@pytest.fixture
def method(tmp_path):
    """Path of a method's file with the text that is given."""

    def write(text=NETWORK, name="my_net.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def run(corpus, tmp_path, capsys):
    """Exit code, output and errors of train.py on the tiny corpus, into tmp_path/runs."""

    def call(model, *more):
        options = ["--db", corpus / "small.csv", "--runs", tmp_path / "runs", "--device", "cpu"]
        return command(train.main, *options, "--model", model, *more), *capsys.readouterr()

    return call


@pytest.fixture
def refused(run):
    """The one line that train.py ends with."""

    def call(model, *more):
        code, _, error = run(model, *more)
        assert code == cli.EXIT_USAGE and error.count("\n") == 1 and error.startswith("train.py: "), error
        return error

    return call


@pytest.fixture(scope="module")
def results(corpus, tmp_path_factory):
    """All folds, both tracks, two seeds of a network in a file that is gone since; two seeds of ATNN and LDA."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "my_net.py").write_text(NETWORK)
    common = ["--db", corpus / "small.csv", "--runs", folder / "runs", "--device", "cpu", "--seed", "0-1", "--quiet"]
    for more in (["--track", "all", "--eval-every", 1], ["--fold", "none"]):
        assert command(train.main, *common, "--model", folder / "my_net.py", *more) == 0
    assert command(train.main, *common, "--model", "atnn", "--epochs", 1) == 0
    assert command(train.main, *common, "--model", "lda-centroid") == 0
    (folder / "my_net.py").unlink()
    return folder / "runs"


@pytest.fixture
def rows(capsys):
    """Rows of a table of evaluate.py."""

    def call(folder, *more):
        capsys.readouterr()
        options = ["--runs", folder, "--table", "comparison", "--db", "small", "--format", "json", *more]
        assert command(evaluate.main, *options) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return call


# ------------------------------------------------------------------------------ a network in a file


def test_a_network_in_a_file_has_all_folds_seeds_and_tracks(results):
    for number, seed, track in product(range(1, 5), range(2), runs.TRAINED_TRACKS):
        folder = folder_of(results, "my_net", number, seed, track)
        settings = runs.read_fold(folder).config.settings
        assert runs.is_done(folder) and (folder / "method.py").read_text() == NETWORK
        assert settings["method_sha256"] == runs.sha256_of(folder / "method.py") and settings["epochs"] == 3


def test_the_settings_of_a_file_take_effect_and_the_command_line_precedes_them(corpus, method, run, tmp_path):
    database = protocols.open_database(str(corpus / "small.csv"))
    loaded = features.load(database.root, database.paths, features.FRONT_ENDS["tft"])
    settings = config.settings_of(config.parse_command_line([]), mine := methods.find(method()))
    assert settings["epochs"] == 3  # on the synthetic corpus too
    settings |= dict(front_end=features.FRONT_ENDS["tft"].as_settings(), seed=0, fold=1)
    train_on = np.arange(11)  # 4 angry, 4 happy, 3 sad
    fold = trainer.FoldTrainer(data.to_device(database, loaded, "cpu"), settings, train_on, method=mine)
    assert type(fold.optimizer) is torch.optim.SGD and fold.optimizer.defaults["momentum"] == 0.9
    x, labels = data.gather(fold.data, fold.normalization, fold.segments), fold.data.labels[fold.segments]
    losses = []
    for loss in (lambda: fold.model(x), lambda: fold.step(fold.segments)):
        with torch.random.fork_rng():
            torch.manual_seed(1)  # of the dropout
            losses.append(loss().detach())
    weights = torch.tensor([11 / 12, 11 / 12, 11 / 9])[labels]
    torch.testing.assert_close(losses[1], (cross_entropy(losses[0], labels, reduction="none") * weights).mean())
    text = "print('hello')\n" + NETWORK
    assert run(method(text), *"--fold 2 --epochs 1 --batch-size 8 --lr 0.1 --quiet".split()) == (0, "", "")
    settings = runs.read_config(folder_of(tmp_path / "runs", "my_net")).settings
    assert [settings[name] for name in ("epochs", "batch_size", "lr", "optimizer")] == [1, 8, 0.1, "SGD"]


def test_a_killed_run_resumes_with_the_same_bits_and_skips_finished_folds(method, run, refused, tmp_path):
    assert run(method(), "--fold", 2)[0] == 0
    expected = outcome(folder_of(tmp_path / "runs", "my_net"))
    shutil.rmtree(tmp_path / "runs")
    with pytest.MonkeyPatch.context() as patch:
        stop_before(2, patch)
        assert run(method(), "--fold", 2, "--save-every", 0)[0] == cli.EXIT_INTERRUPTED
    assert (folder_of(tmp_path / "runs", "my_net") / runs.STATE_FILE).exists()
    assert "another version of" in refused(method(NETWORK + "# changed"), "--fold", 2)
    assert "starts again" not in run(method(), "--fold", 2)[1]
    assert outcome(folder_of(tmp_path / "runs", "my_net")) == expected
    assert "1 of 1 folds are already done" in run(method(), "--fold", 2)[1]


def test_two_versions_of_a_file_are_two_runs(method, run, refused, tmp_path):
    assert run(method(), "--fold", 1, "--epochs", 1)[0] == 0
    before = sorted(tmp_path.rglob("*"))
    for fold in (1, 2, "all"):
        error = refused(method(NETWORK.replace("epochs=3", "epochs=2")), "--fold", fold)
        assert f"another version of {tmp_path}/my_net.py; choose another --runs, or remove that folder" in error
    assert sorted(tmp_path.rglob("*")) == before
    assert run(method(), "--fold", 1, "--runs", tmp_path / "others")[0] == 0


def test_predictions_need_the_run_folder_alone(results, corpus, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(runs.CODE_VERSIONS, "models.py", "another")  # a network of the user's does not use it

    def run_predict(folder):
        code = command(predict.main, "--run", folder, corpus / "wav/S1/sad_01.wav")
        return code, *capsys.readouterr()

    for folder in (folder_of(results, "my_net", 0), folder_of(results, "my_net").parent):
        code, out, error = run_predict(folder)
        assert code == 0 and "sad_01.wav" in out and error.count("\n") == 1 and "transfers poorly" in error
    copy = shutil.copytree(folder_of(results, "my_net", 0), tmp_path / "all")
    for change in (lambda path: path.write_text("raise SystemExit"), lambda path: path.unlink()):
        change(copy / "method.py")
        runs.mark_done(copy)
        code, _, error = run_predict(copy)
        assert code == cli.EXIT_USAGE and f"{copy / 'method.py'}: is missing or damaged" in error
    assert "holds predictions and no model" in run_predict(folder_of(results, "lda-centroid"))[2]


def test_audit_export_and_tables_of_all_methods(results, rows, tmp_path, capsys):
    assert command(evaluate.main, "--runs", results, "--export", tmp_path / "published") == 0
    for folder in (results, tmp_path / "published"):
        assert command(evaluate.main, "--runs", folder, "--audit") == 0, capsys.readouterr()
    tables = [rows(folder, "--track", track) for folder in (results, tmp_path / "published") for track in runs.TRACKS]
    assert tables[:3] == tables[3:]
    found = {row["method"]: row for row in tables[0]}
    assert found["my_net"]["notes"] == ["a network of our own"] and found["my_net"]["source"] is None
    assert found["my_net"]["extent"] == "" and found["lda-centroid"]["extent"] == "reading"
    (row,) = rows(results, "--table", "significance", "--models", "some/my_net.py", "atnn")
    assert (row["first"], row["second"], row["seeds"]) == ("my_net", "atnn", [0, 1])
    fold = shutil.copytree(results, tmp_path / "runs") / "small/my_net/speaker/seed0/fold1"
    (fold / "method.py").write_text(NETWORK + "# changed")
    runs.mark_done(fold, epoch=3, trained_on=["S2", "S3", "S4"])
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--audit") == 1
    assert "fold1/method.py: is not the file that was trained" in capsys.readouterr().out


def test_figures_of_a_network_and_of_a_fitted_method(results, corpus, method, run, tmp_path, capsys):
    pytest.importorskip("matplotlib")

    def draw(figure, model, folder=results):
        options = ["--db", corpus / "small.csv", "--utterance", "wav/S2/sad_01.wav", "--out", tmp_path / "figure.svg"]
        code = command(evaluate.main, "--runs", folder, "--figure", figure, "--model", model, *options)
        return code, capsys.readouterr().err

    assert draw("confusion", "my_net.py") == draw("curves", "my_net") == draw("confusion", "lda-centroid") == (0, "")
    assert run(method(ATTENTIVE), "--fold", 2)[0] == 0
    assert draw("attention", "my_net", tmp_path / "runs") == (0, "")
    assert ">(b) frames<" in (tmp_path / "figure.svg").read_text()
    none = "evaluate.py: --model {}: has no attention to show; choose another\n"
    for model in ("my_net", "lda-centroid"):
        assert draw("attention", model) == (cli.EXIT_USAGE, none.format(model))
    assert "without epochs, which has no curve" in draw("curves", "lda-centroid")[1]


def test_a_file_names_its_front_end_and_the_rows_that_it_stands_for(method, run, rows, corpus, tmp_path):
    assert run(method(ATTENTIVE), "--fold", "none")[0] == 0
    for _ in range(2):
        code, out, error = run(method(ATTENTIVE))
    assert code == 0 and "4 of 4 folds are already done" in out, error  # a tuple in SETTINGS is no other setting
    folder = folder_of(tmp_path / "runs", "my_net", 0)
    settings = runs.read_config(folder).settings
    assert settings["front_end"]["n_mels"] == 24
    assert trainer.make_model(settings, 3, "cpu", build=methods.find(method()).build).training
    assert command(predict.main, "--run", folder, corpus / "wav/S1/sad_01.wav") == 0
    (row,) = rows(tmp_path / "runs")
    assert (row["source"], row["method"], row["extent"]) == ("TFT Table 4", "LoHu, my_net", "reading")
    assert "our reading of an abstract" in row["notes"]
    named = methods.find(method("FRONT_END = 'atfnn'\n" + NETWORK))
    assert config.front_end_of(named, {}) == features.FRONT_ENDS["atfnn"]


def test_a_network_with_a_loss_of_its_own_gets_the_speakers_that_train_it(corpus, method):
    database = protocols.open_database(str(corpus / "small.csv"))
    loaded = features.load(database.root, database.paths, features.FRONT_ENDS["tft"])
    settings = config.settings_of(config.parse_command_line([]), mine := methods.find(method(PER_SPEAKER)))
    settings |= dict(front_end=features.FRONT_ENDS["tft"].as_settings(), seed=0, fold=1)
    train_on = np.flatnonzero(database.speakers != "S1")
    fold = trainer.FoldTrainer(data.to_device(database, loaded, "cpu"), settings, train_on, method=mine)
    assert fold.model.speaker.out_features == 3
    x, index = data.gather(fold.data, fold.normalization, fold.segments), fold.segments
    names = database.speakers[fold.data.utterance_of[index].numpy()]
    numbers = torch.tensor([["S2", "S3", "S4"].index(name) for name in names])
    logits = [fold.model.emotion(x.flatten(1)), fold.model.speaker(x.flatten(1))]
    parts = [cross_entropy(*pair) for pair in zip(logits, (fold.data.labels[index], numbers))]
    torch.testing.assert_close(fold.step(index), (parts[0] + 2 * parts[1]).detach())


def test_a_file_names_the_track_that_its_result_is_of(method, run, rows, corpus, tmp_path, capsys):
    assert "validation" in run(method(PER_SPEAKER), "--eval-every", 1)[1]
    folder = folder_of(tmp_path / "runs", "my_net", 1, 0, "validation")
    assert runs.is_done(folder) and not folder_of(tmp_path / "runs", "my_net").exists()
    assert len(runs.read_config(folder).train_speakers) == 2
    for run_folder in (folder, folder.parent):  # its speakers are counted; the mean of all folds
        assert command(predict.main, "--run", run_folder, corpus / "wav/S1/sad_01.wav") == 0
    assert run("lda-centroid", "--seed", 0)[0] == 0
    found = {row["method"]: (row["track"], row["folds_done"]) for row in rows(tmp_path / "runs")}
    assert found == {"my_net": ("validation", 4), "lda-centroid": ("last", 4)}
    assert [row["method"] for row in rows(tmp_path / "runs", "--track", "last")] == ["lda-centroid"]
    capsys.readouterr()
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--table", "comparison") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "each method's own epoch" in out and "my_net: epoch chosen on held-out training speakers" in out
    assert run(method(PER_SPEAKER), "--track", "last")[0] == 0
    assert [row["track"] for row in rows(tmp_path / "runs") if row["method"] == "my_net"] == ["validation"]
    assert run(method(PER_SPEAKER), "--fold", "none")[0] == 0  # holds nobody out
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--audit") == 0


def test_a_network_with_a_back_end_is_scored_by_what_is_fitted_on_its_embeddings(method, run, refused, corpus, tmp_path):
    code, _, error = run(method(WITH_BACK_END), "--track", "all", "--eval-every", 1)
    assert code == 0, error
    database = protocols.open_database(str(corpus / "small.csv"))
    loaded = features.load(database.root, database.paths, features.FRONT_ENDS["tft"])
    ends = np.cumsum(loaded.counts)[:-1]
    means = np.stack([part.mean((0, 2)) for part in np.split(loaded.segments, ends)])
    fold = runs.read_fold(folder_of(tmp_path / "runs", "my_net"))
    test = np.isin(database.ids, fold.ids)
    for track in ("last", "validation"):  # on whose training speakers alone
        config = runs.read_config(folder := folder_of(tmp_path / "runs", "my_net", track=track))
        train_speakers = np.isin(database.speakers, config.train_speakers)
        assert len(config.train_speakers) == dict(last=3, validation=2)[track]
        centres = np.stack([means[train_speakers & (database.labels == k)].mean(0) for k in range(3)])
        expected = -((means[test][:, None] - centres) ** 2).sum(2)
        np.testing.assert_allclose(runs.read_fold(folder).scores, expected, rtol=1e-3)
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--audit") == 0
    assert "has a classifier that predict.py lacks" in refused(method(WITH_BACK_END), "--fold", "none")


def test_predict_refuses_a_network_whose_back_end_is_not_saved(method, run, corpus, tmp_path, capsys):
    assert run(method(WITH_BACK_END), "--fold", 2)[0] == 0
    options = ["--run", folder_of(tmp_path / "runs", "my_net"), corpus / "wav/S1/sad_01.wav"]
    assert command(predict.main, *options) == cli.EXIT_USAGE
    assert "its classifier is fitted on training recordings and not saved" in capsys.readouterr().err


# ------------------------------------------------------------------------------ what is refused


def test_each_row_of_the_papers_tables_has_a_method_or_a_reason(refused):
    rows = {row["method"] for row in published.read_published() if row["kind"] == "comparison" and not row["model"]}
    covered = {row for name in methods.COMPARISONS for row in methods.find(name).module.PUBLISHED}
    assert rows - covered == {"MSA-AL", "Model-3 Fusion"} and covered <= rows
    assert "needs a speech recogniser" in refused("msa-al")


ON_SEGMENTS = {  # network of comparisons/ -> front end, epochs, batch size, learning rate, rows that it stands for
    "cnn-lstm": ("spectrum-10", 50, 16, 1e-3, ["CNN-LSTM", "CNN+LSTM Model"]),
    "cnn-gru-seqcap": ("spectrum-20", 20, 16, 1e-3, ["GRU-CNN-SeqCap", "CNN GRU-SeqCap"]),
    "fcn-attention": ("spectrum-20", 25, 16, 1e-4, ["FCN+Attention Model"]),
    "stc": ("atfnn", 50, 128, 5e-4, ["STC-Attention"]),
    "stc-off": ("atfnn", 50, 128, 5e-4, []),
    "adarl": ("atfnn", 50, 128, 5e-4, ["ADARL"]),
    "adarl-off": ("atfnn", 50, 128, 5e-4, []),
}


@pytest.mark.parametrize("name", ON_SEGMENTS)
def test_a_network_of_the_comparisons_has_its_settings_and_a_held_out_epoch(name):
    found = methods.find(name)
    settings = [found.defaults[setting] for setting in ("epochs", "batch_size", "lr")]
    assert (found.front_end, *settings, found.facts()["published"]) == ON_SEGMENTS[name]
    assert found.track == "validation"
    assert found.facts()["extent"] == ("most" if name == "cnn-gru-seqcap" else "reading") and found.facts()["note"]


BAD = {  # text of a file -> part of the line
    PER_SPEAKER.replace("validation", "oracle"): "TRACK is 'oracle'; choose last or validation",
    PER_SPEAKER.replace("+ 2 * of_speaker", "/ 0"): "a loss of",
    PER_SPEAKER.replace("+ 2 * of_speaker", "[:, None]"): "losses gives (2, 1) for 2 segments, not (2,)",
    PER_SPEAKER.replace("2 * of_speaker", "3").replace("cross_entropy(self(x), labels, reduction=\"none\") + 3", "0.5"):
        "losses gives float for 2 segments, not (2,)",
    WITH_BACK_END.replace("def scores", "def score"): "has fit; give it both functions, fit and scores, or neither",
    WITH_BACK_END.replace("embed", "embedding"): "has no attribute 'embed'",
    WITH_BACK_END.replace("self.embed(x)", "x.mean((1, 3))").replace("return x.mean((1, 3))", "return x.mean()"):
        "embed(x) gives no finite tensor (2, D)",
    WITH_BACK_END.replace("self.embed(x)", "x.mean((1, 3))").replace("return x.mean((1, 3))", "return x.numpy()"):
        "embed(x) gives no finite tensor (2, D)",
    "": "has no function build; add build(classes, n_mels, frames)",
    "build=3": "has no function build",
    "def build(:": "ends in an error (SyntaxError",
    "raise RuntimeError('two\\nlines')": ", line 1: ends in an error (RuntimeError: two lines); fix the file",
    "import sys\nsys.exit()": ", line 2: ends in an error (SystemExit",
    "import not_installed.part": ", line 1: needs the package not_installed; pip install not_installed",
    "import torch.not_there": "No module named 'torch.not_there'",
    "import next_to_it": "imports next_to_it.py next to it; put all in one file",
    "def build(classes):\n    pass": "unexpected keyword argument",
    "def build(classes, n_mels, frames):\n    pass": "build gives NoneType, no torch.nn.Module",
    "def build(classes, n_mels, frames):\n    open('/not/there')": ", line 2: ends in an error (FileNotFoundError",
    LINEAR.format("nn.Linear(n_mels, classes)"): "ends in an error (RuntimeError: mat1 and mat2",
    LINEAR.format("nn.Linear(n_mels * frames, 4)"): "gives (2, 4) for 2 segments; return logits (2, 3)",
    LINEAR.format("nn.AdaptiveAvgPool1d(classes)"): "a network without weights to train",
    FORWARD.format("return super().forward(x.flatten(1)) / 0"): "gives logits that are not finite",
    FORWARD.format("return super().forward(x.flatten(1)), {}"): "gives tuple for 2 segments",
    FORWARD.format("return self.missing"): ", line 4: ends in an error (AttributeError",
    FORWARD.format("return super().forward(x.flatten(1)).detach()"): "ends in an error (RuntimeError: element 0 of",
    FORWARD.replace("(self, x)", "(self, x, return_maps=False)").format(
        "return (super().forward(x.flatten(1)), {'a': x[0]}) if return_maps else super().forward(x.flatten(1))"
    ): "maps for 2 segments are not all (2, heads, rows, columns)",
    "SETTINGS = [1]": "SETTINGS is [1]; give a dictionary",
    "SETTINGS = {'epoch': 3}": "SETTINGS has epoch; choose among epochs, batch_size",
    "SETTINGS = {'epochs': '3'}": "SETTINGS has epochs '3'; give such as 100",
    "SETTINGS = {'lr': float('inf')}": "SETTINGS has lr inf",
    "SETTINGS = {'optimizer_options': {'momentum': {1}}}": "SETTINGS holds more than numbers",
    "SETTINGS = {'optimizer': 'Nope'}": "has no attribute 'Nope'",
    "SETTINGS = {'optimizer': 'LBFGS'}": "ends in an error (TypeError: LBFGS.step()",
    "SETTINGS = {'normalization': 'none of these'}": "--normalization none of these: choose fold, none, segment",
    "FRONT_END = ['tft']": "FRONT_END is ['tft']; choose tft, atfnn, spectrum-10, spectrum-20, or give a features.FrontEnd",
    "import features\nFRONT_END = features.FrontEnd(0, 0)": "FRONT_END has impossible values",
    "PUBLISHED = 'LoHu'": "PUBLISHED is 'LoHu'; give names of rows",
    "EXTENT = 'all'": "EXTENT is 'all'; choose full, most, reading",
    "NOTE = 5": "NOTE is 5; give a line of text",
    "def scores(model, x):\n    pass\nfit = scores": "DESCRIPTORS is None; choose openear",
    FITTED.replace("return x @", "return undefined @"): ", line 12: ends in an error (NameError",
    FITTED.replace("@ model.T", "[:, :2]"): "gives scores of shape (6, 2), or not finite; return finite scores (6, 3)",
    FITTED.replace("@ model.T", "@ model.T / 0"): "or not finite",
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("text, expected", BAD.items())
def test_a_bad_file_ends_in_a_line_that_names_it(text, expected, method, refused, tmp_path):
    method("", "next_to_it.py")
    if "def " not in text and " = " in text:  # a constant of a network that is sound without it
        text += "\n" + NETWORK.replace("SETTINGS", "UNUSED").replace("NOTE", "UNUSED")
    assert expected in (error := refused(method(text))) and "my_net" in error
    assert not list((tmp_path / "runs").glob("*/*/*/*/*"))  # no file of a fold


def test_a_file_needs_a_name_of_its_own(method, refused, tmp_path):
    for name in ("tft.py", "TFT.py", "lld-svm.py", "classical.py", "my net.py"):
        assert f"{tmp_path / name}: rename the file" in refused(method(name=name))
    assert "no_file.py: cannot be read (No such file or directory); name a Python file" in refused("no_file.py")
    assert "lda-centroid, " in refused("my_net") and "or the path of a file such as my_net.py" in refused("my_net")


LATE = {  # error in a step or in scoring -> part of the line
    LINEAR.format("nn.Linear(n_mels * frames, 4), nn.BatchNorm1d(4), nn.Linear(4, classes)"):
        "my_net.py: ends in an error (ValueError: Expected more than 1 value",
    FORWARD.format("return super().forward(x.flatten(1)[:40])"): "my_net.py: ends in an error",
    FORWARD.format("assert self.training or len(x) < 3; return super().forward(x.flatten(1))"):
        "my_net.py, line 4: ends in an error (AssertionError); fix the file",
}  # fmt: skip


@pytest.mark.parametrize("text, expected", LATE.items())
def test_an_error_in_training_is_a_line(text, expected, method, refused):
    error = refused(method(text), "--fold", 2, "--batch-size", 59)  # 60 segments: the last step has one
    assert expected in error and ("--batch-size" in error or "line 4" in error)


@pytest.mark.parametrize("model", ["atnn", "lda-centroid", "my_net.py"])
def test_a_recording_a_speaker_gives_no_statistics_of_a_speaker(model, method, refused, corpus, tmp_path):
    lines = [f"wav/S{i}/{emotion}_01.wav,{emotion},S{i}" for i, emotion in ((1, "sad"), (2, "sad"), (3, "happy"))]
    (tmp_path / "single.csv").write_text("\n".join(["path,emotion,speaker", *lines]))
    model = method() if model == "my_net.py" else model
    error = refused(model, "--db", tmp_path / "single.csv", "--root", corpus, "--normalization", "speaker")
    assert "--normalization speaker: S1 has one recording" in error and "use --normalization fold" in error
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------ methods that are fitted at once


def test_groups_and_descriptors_are_what_they_claim():
    for group, names in methods.GROUPS.items():
        found = config.methods_of(config.parse_command_line(["--model", group]))
        assert tuple(method.name for method in found) == names
        assert group != "classical" or all(method.is_fitted for method in found)
    wave = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    are_vectors = {name: len(descriptor.rows_of(wave)) == 1 for name, descriptor in DESCRIPTORS.items()}
    assert are_vectors == dict.fromkeys(methods.VECTOR_DESCRIPTORS, True) | dict.fromkeys(
        methods.FRAME_DESCRIPTORS, False
    )


@pytest.mark.parametrize("model", ["lda-centroid", "my_net.py"])
def test_a_fitted_method_has_no_epochs_and_refuses_their_options(model, results, refused, method, tmp_path):
    files = {path.name for path in folder_of(results, "lda-centroid").iterdir()}
    assert files == {"config.json", "predictions.csv", "done.json"}
    model = method(FITTED) if model == "my_net.py" else model
    for more in ("--epochs 3", "--batch-size 4", "--lr 0.1", "--track validation", "--fold none", "--dropout 0.1",
                 "--precision bfloat16", "--normalization utterance", "--normalization segment"):  # fmt: skip
        assert more.split()[0] in refused(model, *more.split())
    assert not (tmp_path / "runs").exists()


def test_the_code_of_a_run_is_that_of_its_method_and_of_what_that_imports():
    files = methods.find("adarl-off").code_files()
    assert files == ["comparisons/adarl.py", "comparisons/adarl_off.py", "comparisons/stc.py"]
    assert {"comparisons/classifiers.py", "comparisons/hmm.py"} < set(methods.find("gmm-hmm").code_files())
    assert methods.find("tft").code_files() == []


def test_a_fitted_method_in_a_file(method, run, rows, refused, tmp_path):
    out = run(method(FITTED))[1]
    assert (folder_of(tmp_path / "runs", "my_net") / "method.py").read_text() == FITTED
    (row,) = rows(tmp_path / "runs")
    assert row["method"] == "my_net" and row["war"] > 50 and f"{row['war']:.2f}" in out
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--audit") == 0
    assert "another version" in refused(method(FITTED + "# changed"))


@pytest.mark.parametrize("model", ["lda-centroid", "lld-gmm"])
def test_a_class_without_training_utterances_has_no_score(model, run, corpus, tmp_path):
    lines = (corpus / "small.csv").read_text().splitlines()
    (tmp_path / "rare.csv").write_text("\n".join(line for line in lines if "sad" not in line or "S4" in line))
    assert run(model, "--db", tmp_path / "rare.csv", "--root", corpus, "--fold", 4)[0] == 0
    scores = runs.read_fold(runs.fold_folder(tmp_path / "runs", "rare", model, "speaker", 0, 4)).scores
    np.testing.assert_array_equal(scores[:, 2], 0)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)


def test_transductive_results_are_marked_in_all_tables(run, results, method, rows, tmp_path, capsys):
    shutil.copytree(results / "small/atnn", tmp_path / "runs/small/atnn")
    assert "lda-centroid†" in run("lda-centroid", "--normalization", "speaker", "--seed", "0-1")[1]
    assert "my_net†" in run(method(), "--normalization", "speaker", "--epochs", 1)[1]
    found = {row["method"]: row["transductive"] for row in rows(tmp_path / "runs")}
    assert found == {"lda-centroid": True, "my_net": True}
    for style, mark in [("text", "†"), ("markdown", "†"), ("latex", r"$\dagger$")]:
        for more in (["--table", "comparison"], ["--table", "significance", "--models", "atnn", "lda-centroid"]):
            assert command(evaluate.main, "--runs", tmp_path / "runs", "--format", style, *more) == 0
            out = capsys.readouterr().out
            assert f"lda-centroid{mark}" in out and "transductive" in out and f"atnn{mark}" not in out
