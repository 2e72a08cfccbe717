"""What training computes, epoch by epoch; and that it goes on, shares folds and stops as it should."""

import copy
import hashlib
import io
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import first_two, log_of, outcome, stop_before, write_part

import engine
import features
import protocols
import recipes
import results
import stack
import train

PROJECT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("quiet_machine")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """5 speakers of unequal size: 4 of the default corpus and a part of the first one under another name."""

    def choose(lines):
        third = [line for line in lines if "S1/" in line and "_03.wav" in line]
        return first_two(lines) + [line.replace("S1", "S5").replace("wav/S5", "wav/S1") for line in third]

    path = tmp_path_factory.mktemp("corpus") / "five" / "five.csv"
    write_part(path, choose)
    return path


def base(manifest, runs, *more):
    told = ["--db", manifest, "--model", "atnn", "--fold", "2", "--device", "cpu", "--batch-size", "16", "--runs", runs]
    return [str(one) for one in (*told, *more)]


def folder_of(runs, model="atnn", seed=0, number=2, track="last"):
    return results.fold_folder(runs, "five", model, "speaker", seed, number, track)


@pytest.fixture(scope="module")
def uninterrupted(manifest, tmp_path_factory):
    """Outcome of a training that nothing stops; each is made once."""
    made = {}

    def outcome_of(*arguments, model="atnn", track="last"):
        told = (*arguments, "--model", model, "--track", track)
        if told not in made:
            runs = tmp_path_factory.mktemp("whole")
            train.main(base(manifest, runs, *told))
            made[told] = outcome(folder_of(runs, model, track=track))
        return made[told]

    return outcome_of


# ------------------------------------------------------------------------------------------ arithmetic


# Adam turns rounding into whole steps where a gradient is nothing but rounding: TFT's biases before batch norm
@pytest.mark.parametrize("model, lr, tolerance", [("atnn", 0.003, 1e-4), ("tft-t+f", 0.002, 2e-3)])
def test_training_follows_a_plain_loop(model, lr, tolerance, manifest, tmp_path):
    arguments = base(manifest, tmp_path, "--epochs", 3, "--lr", lr, "--eval-every", 2, "--seed", 7)
    train.main([*arguments, "--model", model])
    folder = folder_of(tmp_path, model, seed=7)

    database = protocols.open_database(str(manifest))
    fold = protocols.make_folds(database)[1]
    front_end = features.FRONT_ENDS[recipes.RECIPES[model].front_end]
    clips = [features.extract(database.root / path, front_end)[0] for path in database.paths]
    x = torch.from_numpy(np.concatenate([clips[i] for i in fold.train]))[:, None]
    y = torch.tensor([database.labels[i] for i in fold.train for _ in clips[i]])
    mean, deviation = x.mean((0, 1, 3))[:, None], x.var((0, 1, 3), correction=0)[:, None].sqrt()
    network = engine.make_model(model, 4, 7, front_end, "cpu").to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    losses = []
    for epoch in (1, 2, 3):
        network.train()
        parts = []
        for index in engine.epoch_order(len(x), 7, epoch).split(16):
            loss = torch.nn.functional.cross_entropy(network((x[index] - mean) / deviation), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            parts.append(loss.item() * len(index))
        losses.append(sum(parts) / len(x))
    network.eval()
    with torch.no_grad():
        scores = [
            network((torch.from_numpy(clips[i])[:, None] - mean) / deviation).softmax(1).mean(0).numpy()
            for i in fold.test
        ]
    log, got = log_of(folder), results.read_fold(folder)
    assert log[:, 0].tolist() == [1, 2, 3] and losses[2] < losses[0]
    np.testing.assert_allclose(log[:, 1], losses, atol=tolerance)
    np.testing.assert_allclose(got.scores, scores, atol=10 * tolerance)
    np.testing.assert_allclose(got.scores.sum(1), 1, atol=1e-5)
    kept = results.read_epochs(folder)
    assert kept["epochs"].tolist() == [2, 3]
    assert np.array_equal(kept["scores"][-1], got.scores) and not np.array_equal(kept["scores"][0], got.scores)


@pytest.mark.parametrize("model", ["tft", "atnn"])
def test_looking_at_the_test_scores_changes_nothing(model, manifest, tmp_path):
    told = []
    for every in (0, 1):
        runs = tmp_path / str(every)
        train.main([*base(manifest, runs, "--epochs", 2, "--eval-every", every), "--model", model])
        told.append(outcome(folder_of(runs, model)))
    assert told[0][0] == told[1][0] and told[0][3] == told[1][3]


def test_seeds_give_other_weights_and_other_scores(manifest, tmp_path):
    train.main(base(manifest, tmp_path, "--epochs", 1, "--seed", "0-1"))
    scores = [results.read_fold(folder_of(tmp_path, seed=seed)).scores for seed in (0, 1)]
    assert not np.array_equal(*scores)
    first, second, again = (
        next(engine.make_model("tft", 4, seed, features.FRONT_ENDS["tft"], "cpu").parameters()) for seed in (0, 1, 0)
    )
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_the_recipes_are_the_papers():
    papers = dict.fromkeys(("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"), ("tft", 1000, 64, 1e-3))
    papers |= dict.fromkeys(("atfnn", "afnn", "atnn", "tfnn"), ("atfnn", 100, 128, 5e-4))
    assert {name: (r.front_end, r.epochs, r.batch_size, r.lr) for name, r in recipes.RECIPES.items()} == papers


# ----------------------------------------------------------------------------------- validation track


def test_the_validation_track_chooses_on_speakers_that_it_neither_trains_on_nor_tests(manifest, tmp_path):
    every = ["--epochs", 4, "--eval-every", 1, "--track", "validation", "--fold", "all", "--seed", 1]
    train.main(base(manifest, tmp_path, *every))
    database = protocols.open_database(str(manifest))
    speakers = sorted(set(database.speakers.tolist()))
    for number in range(1, 6):
        folder = folder_of(tmp_path, number=number, track="validation", seed=1)
        fold, marker, kept = results.read_fold(folder), results.read_marker(folder), results.read_epochs(folder)
        held = set(fold.config["settings"]["held_out"])
        tested = set(fold.config["test_speakers"])
        assert held == {speakers[(number + 1) % 5]}  # seed 0 would hold out the one before
        assert held | tested | set(marker["trained_on"]) == set(speakers)
        assert not held & tested and not (held | tested) & set(marker["trained_on"])
        assert kept["validation"].shape[:2] == (4, int(np.isin(database.speakers, list(held)).sum()))
        rates = [protocols.uar(protocols.confusion(kept["validation_labels"], one)) for one in kept["validation"]]
        place = kept["epochs"].tolist().index(marker["epoch"])
        assert rates[place] == max(rates) and np.array_equal(kept["scores"][place], fold.scores)
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"] == marker["epoch"]
    assert not folder_of(tmp_path, number=1, seed=1).exists()  # nothing of it is mixed with the result


def test_held_out_speakers_follow_the_tested_one_and_move_on_with_the_seed():
    speakers = np.array([f"s{i:02}" for i in range(11) for _ in range(2)])
    database = protocols.Database(
        "x", Path(), "", ("a", "b"), [str(i) for i in range(22)], [], np.arange(22) % 2, speakers, speakers, False
    )
    fold = protocols.make_folds(database)[9]  # s09
    told = []
    for seed in range(3):
        fit, held = protocols.hold_out(database, fold, seed)
        assert sorted([*fit, *held, *fold.test]) == list(range(22))
        told.append(sorted(set(speakers[held].tolist())))
    assert told == [["s00", "s10"], ["s01", "s02"], ["s03", "s04"]]  # two of ten


@pytest.mark.parametrize("speakers, held_out", [(3, 1), (4, 1), (8, 1), (10, 2), (24, 5)])  # of IEMOCAP 2, RAVDESS 5
def test_one_training_speaker_of_five_is_held_out(speakers, held_out):
    names = np.array([f"s{i:02}" for i in range(speakers)])
    database = protocols.Database(
        "x", Path(), "", ("a", "b"), list(names), [], np.arange(speakers) % 2, names, names, False
    )
    for fold in protocols.make_folds(database):
        fit, held = protocols.hold_out(database, fold, 0)
        assert (len(fit), len(held)) == (speakers - 1 - held_out, held_out)


def test_one_training_speaker_is_not_split(tmp_path):
    speakers = np.array(["a", "a", "b", "b"])
    database = protocols.Database(
        "x", Path(), "", ("u", "v"), list("1234"), [], np.arange(4) % 2, speakers, speakers, False
    )
    with pytest.raises(protocols.UsageError, match="track last"):
        protocols.hold_out(database, protocols.make_folds(database)[0], 0)


# ------------------------------------------------------------------------------------------- going on


@pytest.mark.parametrize("track", ["last", "validation"])
@pytest.mark.parametrize("model", ["atnn", "tft-t+f"])
def test_a_run_that_was_stopped_in_any_epoch_gives_the_same_bits(
    model, track, manifest, uninterrupted, tmp_path, monkeypatch
):
    arguments = ["--epochs", 4, "--eval-every", 2, "--save-every", 0]
    whole = uninterrupted(*arguments, model=model, track=track)
    arguments += ["--track", track, "--model", model]
    begin_epoch = engine.Training.begin_epoch
    for stop in (2, 3):  # after an epoch that is evaluated, and one that is not
        calls, runs = [], tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            stop_before(stop, patch)
            train.main(base(manifest, runs, *arguments))
        folder = folder_of(runs, model, track=track)
        assert (folder / results.STATE).exists() and not results.is_done(folder)
        with monkeypatch.context() as patch:
            patch.setattr(
                engine.Training,
                "begin_epoch",
                lambda self, calls=calls: calls.append(self.epoch) or begin_epoch(self),
            )
            train.main(base(manifest, runs, *arguments))
        assert calls == list(range(stop, 4))  # nothing was trained twice
        assert outcome(folder) == whole
        assert not list(folder.parent.rglob(".*"))


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def sealed(content):
    return hashlib.sha256(content).digest() + content


def saved(content):
    memory = io.BytesIO()
    torch.save(content, memory)
    return memory.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"garbage" * 99, pickle.dumps(Trap()), sealed(pickle.dumps(Trap())),
     sealed(saved(dict(settings=Trap()))), sealed(saved([1])), sealed(saved({})), saved(dict(settings={}))],
)  # fmt: skip
def test_a_damaged_or_hostile_state_starts_the_fold_again(
    content, manifest, uninterrupted, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    whole = uninterrupted("--epochs", 2)
    arguments = base(manifest, tmp_path / "runs", "--epochs", 2)
    folder = folder_of(tmp_path / "runs")
    folder.mkdir(parents=True)
    (folder / results.STATE).write_bytes(content)
    train.main(arguments)
    assert not (tmp_path / "trapped").exists()
    assert "damaged" in capsys.readouterr().out
    assert outcome(folder) == whole


OF_THREE = "--epochs", 3, "--eval-every", 1, "--save-every", 0


@pytest.fixture(scope="module")
def stopped(manifest, tmp_path_factory):
    """Runs with a fold that was stopped after two of three epochs, to be copied."""
    runs = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_before(2, patch)
        train.main(base(manifest, runs, *OF_THREE))
    return runs


def change_state(change):
    def changed(path):
        state = results.read_checkpoint(io.BytesIO(results.read_sealed(path)))
        change(state)
        results.write_sealed(path, saved(state))

    return changed


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shrink_moments(state):
    state["training"]["optimizer"][0]["exp_avg"] = torch.zeros(1)


@pytest.mark.parametrize(
    "damage, told",
    [
        (flip, "damaged"),
        (change_state(shrink_moments), "damaged"),
        (change_state(lambda state: state["training"].update(epoch=9)), "damaged"),
        (change_state(lambda state: state["training"].update(epoch="2")), "damaged"),
        (change_state(lambda state: state["training"].update(epoch=float("nan"))), "damaged"),
        (change_state(lambda state: state["kept"].clear()), "damaged"),
        (change_state(lambda state: state["log"].pop()), "damaged"),
        (change_state(lambda state: state["made_by"]["code"].update({"train.py": "0" * 16})), "another version"),
        (change_state(lambda state: state["made_by"]["machine"].update(torch="1.0")), "another version"),
    ],
)
def test_a_state_that_does_not_fit_starts_the_fold_again(
    damage, told, manifest, stopped, uninterrupted, tmp_path, capsys
):
    whole = uninterrupted(*OF_THREE)
    folder = folder_of(shutil.copytree(stopped, tmp_path, dirs_exist_ok=True))
    damage(folder / results.STATE)
    capsys.readouterr()
    train.main(base(manifest, tmp_path, *OF_THREE))
    assert told in capsys.readouterr().out
    assert outcome(folder) == whole


without_room = pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("so many MiB"), torch.AcceleratorError("CUDA error: out of memory"), MemoryError(),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
     RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
     RuntimeError("GET was unable to find an engine to execute this computation")],
    ids=["torch", "device", "python", "cpu", "cublas", "cudnn"],
)  # fmt: skip


@without_room
def test_a_state_is_not_blamed_for_a_device_without_room(error, manifest, stopped, tmp_path, monkeypatch):
    folder = folder_of(shutil.copytree(stopped, tmp_path, dirs_exist_ok=True))
    state = (folder / results.STATE).read_bytes()

    def full(*arguments):
        raise error

    monkeypatch.setattr(engine.Training, "restore", full)
    with pytest.raises(results.RunError, match="not enough memory; use a smaller --batch-size"):
        train.main(base(manifest, tmp_path, *OF_THREE))
    assert (folder / results.STATE).read_bytes() == state


def test_a_fold_that_went_on_on_another_machine_says_so(manifest, stopped, tmp_path):
    folder = folder_of(shutil.copytree(stopped, tmp_path, dirs_exist_ok=True))
    change_state(lambda state: state["made_by"]["machine"].update(threads=7))(folder / results.STATE)
    train.main(base(manifest, tmp_path, *OF_THREE))
    config = results.read_config(folder)
    assert [one["threads"] for one in config["earlier_machines"]] == [7] and config["machine"]["threads"] == 1


def test_a_state_of_other_settings_is_not_thrown_away_unasked(manifest, stopped, tmp_path):
    folder = folder_of(shutil.copytree(stopped, tmp_path, dirs_exist_ok=True))
    with pytest.raises(results.RunError, match="epochs 3, not 2"):
        train.main(base(manifest, tmp_path, "--epochs", 2))
    (folder / results.STATE).unlink()  # nothing to lose
    train.main(base(manifest, tmp_path, "--epochs", 2))


# -------------------------------------------------------------------------------------- many processes


def test_a_fold_that_another_process_holds_is_left_to_it(manifest, tmp_path, capsys):
    script = f"import results, time\nwith results.claim(results.Path({str(folder_of(tmp_path))!r})) as mine:\n"
    script += " print(mine, flush=True)\n time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "True\n"
        train.main(base(manifest, tmp_path, "--epochs", 1, "--fold", "all"))
        assert "1 of 5 folds were left to other processes" in capsys.readouterr().out
        assert [results.is_done(folder_of(tmp_path, number=n)) for n in range(1, 6)] == [True, False, True, True, True]
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    train.main(base(manifest, tmp_path, "--epochs", 1, "--fold", "all"))  # a dead process holds nothing
    assert results.is_done(folder_of(tmp_path, number=2)) and not list(tmp_path.rglob(".*"))


def test_quiet_says_nothing_but_mistakes(manifest, tmp_path, capsys):
    train.main([*base(manifest, tmp_path, "--epochs", 1), "--quiet"])
    assert capsys.readouterr() == ("", "") and results.is_done(folder_of(tmp_path))


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        lines = []
        for up, rest in re.findall(r"(?:\x1b\[(\d+)A)?\r\x1b\[J([^\x1b\r]*)", self.getvalue()):
            lines[len(lines) - int(up or 0) :] = rest.splitlines()
        return lines


def test_a_terminal_shows_a_line_for_each_fold_in_progress_below_those_that_ended(monkeypatch):
    clock = iter(range(0, 600, 30))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    out, file = Terminal(), io.StringIO()
    one, two = results.Progress("one", out), results.Progress("two", out)
    one.running("1 %"), two.running("2 %"), one.running("3 %")
    assert out.screen() == ["one: 3 %", "two: 2 %"]
    one.line("done")
    assert out.screen() == ["one: done", "two: 2 %"]
    two.line("done")
    assert out.screen() == ["one: done", "two: done"] and not results.Progress.board
    plain = results.Progress("plain", file)
    for percent in range(4):  # 30 s apart
        plain.running(f"{percent} %")
    assert file.getvalue() == "plain: 1 %\nplain: 3 %\n"
    assert [results.duration(seconds) for seconds in (59.6, 75, 3675)] == ["1:00", "1:15", "1:01:15"]


def test_processes_on_one_folder_share_the_folds(manifest, tmp_path):
    arguments = base(manifest, tmp_path / "shared", "--epochs", 1, "--fold", "all", "--seed", "0-1")
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = [sys.executable, "train.py", *arguments]
    several = [
        subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    told = [one.communicate(timeout=120)[0] for one in several]
    assert [one.returncode for one in several] == [0, 0]
    trained = [line.split("] ")[1].split(":")[0] for out in told for line in out.splitlines() if "epoch 1 of 1" in line]
    assert len(trained) == len(set(trained)) == 10  # each fold of each seed once


@pytest.fixture
def replayed(monkeypatch):
    """(training, epochs behind it) of the steps that are replayed, in order.

    Without a GPU, a recording that computes nothing and a replay that runs the step stand in for CUDA's.
    """
    step, recording, told, pools = engine.Training.step, [], [], set()

    class Graph:
        def replay(self):
            told.append((self.training, self.training.epoch))
            step(self.training, self.size)

        def pool(self):
            return self.training

    class Record:
        def __init__(self, graph, pool, stream):
            self.graph, self.pool = graph, pool

        def __enter__(self):
            recording.append(self.graph)

        def __exit__(self, kind, *error):
            recording.clear()
            if kind is None:
                training = self.graph.training
                assert self.pool is (training if training in pools else None)  # a fold's graphs share that of its first
                pools.add(training)

    def spied(self, size):
        if recording:
            recording[0].training, recording[0].size = self, size
        else:
            step(self, size)

    monkeypatch.setattr(engine.Training, "step", spied)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Record)
    monkeypatch.setattr(engine, "TURN", 2)
    return told


@pytest.mark.parametrize("saved_after", [0, 1])
def test_recorded_steps_are_the_steps_of_eager(saved_after, manifest, replayed, monkeypatch):
    compiled = []

    def network(model, x):
        compiled.append(len(x))
        return model(x)

    monkeypatch.setattr(engine, "compiled_network", lambda: network)
    database = protocols.open_database(str(manifest))
    data = engine.to_device(database, train.load_features(database, features.FRONT_ENDS["tft"]), "cpu")
    settings = dict(
        model="tft-t+f", seed=0, lr=0.001, batch_size=24, normalization="fold", precision="float32",
        front_end=asdict(features.FRONT_ENDS["tft"]),
    )  # fmt: skip
    told = []
    for kind in ("eager", "graph", "compiled"):
        training = engine.Training(data, settings, range(20))
        for _ in range(saved_after):
            training.begin_epoch(), training.end_epoch()
        state = copy.deepcopy(training.state())
        training = engine.Training(data, settings, range(20), kind)
        training.restore(state)
        losses = []
        for _ in range(2):
            training.begin_epoch()
            losses.append(training.end_epoch())
        assert len(set(training.sizes)) == 2 and len(training.graphs) == (0 if kind == "eager" else 2)
        assert set(compiled) == ({24} if kind == "compiled" else set())  # an epoch's odd last step is not
        told.append((losses, [value.numpy().tobytes() for value in training.model.state_dict().values()]))
    assert told[0] == told[1] == told[2]
    assert len(replayed) == 2 * 2 * len(training.sizes)  # two engines, two epochs


@pytest.mark.parametrize("turn", [2, 6])  # within an epoch; and where some folds need one turn more than others
def test_recorded_folds_take_turns(turn, manifest, uninterrupted, replayed, tmp_path, monkeypatch):
    how = ("--epochs", 2, "--batch-size", 8)
    whole = uninterrupted(*how)
    monkeypatch.setattr(engine, "TURN", turn)
    monkeypatch.setattr(engine, "choose_engine", lambda *told: "graph")
    train.main(base(manifest, tmp_path, *how, "--fold", "all", "--together", 5))
    assert outcome(folder_of(tmp_path)) == whole
    folds = list(dict.fromkeys(training for training, _ in replayed))
    steps = [len(training.sizes) for training in folds]
    assert len(folds) == 5 and min(steps) == 6 < max(steps)
    assert replayed == [
        (training, epoch)
        for epoch in range(2)
        for done in range(0, max(steps), turn)
        for training, number in zip(folds, steps)
        for _ in range(done, min(done + turn, number))
    ]


@pytest.mark.parametrize("processes, shares, together, folds", [(2, 2, 5, 3), (99, 5, 1, 1)])  # of five folds
def test_the_engine_is_chosen_by_a_networks_steps_in_one_share(
    processes, shares, together, folds, manifest, tmp_path, monkeypatch
):
    """The same of those that are left, where the command is repeated."""
    database = protocols.open_database(str(manifest))
    steps = {}
    for model, front_end in (("atnn", "atfnn"), ("tft-t+f", "tft")):
        counts = train.load_features(database, features.FRONT_ENDS[front_end]).counts
        every = protocols.make_folds(database, "speaker")
        steps[model] = sum(2 * (counts[fold.train].sum() // 16) for fold in every) / shares  # of two epochs
    asked, trained, start = [], {}, train.FoldRun.start

    def repaid_from(model, *how):
        asked.append((model, *how))
        return steps[model] + (model == "atnn")

    def started(self, kind):
        trained.setdefault(self.job.settings["model"], []).append(kind)
        start(self, "eager")

    monkeypatch.setattr(engine, "repaid_from", repaid_from)
    monkeypatch.setattr(engine, "choose_engine", lambda *told: asked.append(told) or ["eager", "graph"][int(told[2])])
    monkeypatch.setattr(engine, "train_step", lambda *told: torch.tensor(1.0))  # nothing is learned
    monkeypatch.setattr(train.FoldRun, "start", started)
    monkeypatch.setattr(recipes, "chosen_models", lambda config: list(steps))
    monkeypatch.setenv("RANK", "1"), monkeypatch.setenv("WORLD_SIZE", str(processes))
    arguments = base(manifest, tmp_path, "--model", "all", "--epochs", 2, "--fold", "all", "--dropout", 0.1)
    for left in (5, 1):
        asked.clear(), trained.clear()
        train.main([*arguments, "--together", "99"])
        assert sorted(asked, key=str) == sorted([
            ("atnn", "float32", folds), ("auto", "cpu", False, 0.1),
            ("tft-t+f", "float32", folds), ("auto", "cpu", True, 0.1),
        ], key=str)  # fmt: skip
        assert trained == {"atnn": left * ["eager"], "tft-t+f": left * ["graph"]}
        for model, kind in (("atnn", "eager"), ("tft-t+f", "graph")):
            machine = results.read_config(folder_of(tmp_path, model))["machine"]
            assert machine["together"] == together and machine["engine"] == kind and machine["deterministic"] is True
            (folder_of(tmp_path, model) / results.MARKER).unlink()


def test_a_process_takes_no_more_at_once_than_its_share(manifest, tmp_path, monkeypatch):
    at_once, queue = [], train.FoldQueue.begin

    def begin(self, *told):
        at_once.append(len(self.running) + 1)
        return queue(self, *told)

    monkeypatch.setattr(train.FoldQueue, "begin", begin)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0"), monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    train.main(base(manifest, tmp_path, "--epochs", 1, "--fold", "all", "--together", 10))
    assert len(at_once) == 5 and max(at_once) == 2


@pytest.mark.parametrize(
    "told, expected",
    [
        ({}, (0, 1)),
        (dict(RANK=2, WORLD_SIZE=4), (2, 4)),
        (dict(SLURM_ARRAY_TASK_ID=3, SLURM_ARRAY_TASK_COUNT=8), (3, 8)),
        (dict(SLURM_ARRAY_TASK_ID=5, SLURM_ARRAY_TASK_COUNT=4, SLURM_ARRAY_TASK_MIN=5), (0, 4)),
        (
            dict(SLURM_ARRAY_TASK_ID=7, SLURM_ARRAY_TASK_COUNT=3, SLURM_ARRAY_TASK_MIN=1, SLURM_ARRAY_TASK_STEP=3),
            (2, 3),
        ),
        (dict(SLURM_ARRAY_TASK_ID=1, SLURM_ARRAY_TASK_COUNT=2, RANK=3, WORLD_SIZE=4), (7, 8)),  # torchrun in each task
    ],
)  # fmt: skip
def test_the_share_of_a_process_is_what_its_starter_says(told, expected):
    assert train.share({name: str(value) for name, value in told.items()}) == expected


def test_a_deterministic_gpu_is_asked_for_before_work_begins(monkeypatch):
    asked = []
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    engine.prepare("cuda", deterministic=True)
    assert asked == [True] and os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    assert torch.backends.cudnn.benchmark is False


def test_a_share_that_is_no_number_is_told(monkeypatch):
    with pytest.raises(protocols.UsageError, match="WORLD_SIZE=x: is no number"):
        train.share(dict(WORLD_SIZE="x"))
    monkeypatch.setenv("LOCAL_RANK", "x")
    with pytest.raises(protocols.UsageError, match="LOCAL_RANK=x: is no number"):
        train.local_rank()


def test_shares_begin_apart_and_cover_everything():
    orders = [train.own_share_first(list(range(10)), number, 4) for number in range(4)]
    assert [order[:3] for order in orders[:2]] == [[0, 4, 8], [1, 5, 9]]
    assert all(sorted(order) == list(range(10)) for order in orders)


def test_torchrun_and_slurm_give_the_tables_of_one_process(manifest, tmp_path):
    def start(runs, *before, **more):
        arguments = base(manifest, tmp_path / runs, "--epochs", 1, "--fold", "all", "--seed", "0-1")
        environment = dict(os.environ, OMP_NUM_THREADS="1", **more)
        return subprocess.Popen([sys.executable, *before, "train.py", *arguments], cwd=PROJECT, env=environment)

    started = [start("torchrun", "-m", "torch.distributed.run", "--nproc-per-node", "4")]
    started += [
        start("slurm", SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_COUNT="2", SLURM_ARRAY_TASK_MIN="0")
        for task in (0, 1)
    ]
    started.append(start("alone", "-W", "ignore"))
    assert [one.wait(timeout=200) for one in started] == [0] * 4
    for seed in (0, 1):
        for number in range(1, 6):
            one, two, three = (
                outcome(folder_of(tmp_path / runs, seed=seed, number=number)) for runs in ("alone", "torchrun", "slurm")
            )
            assert one == two == three
    tables = [
        subprocess.check_output(
            [sys.executable, "evaluate.py", "--runs", tmp_path / runs, "--format", "json"], cwd=PROJECT
        )
        for runs in ("alone", "torchrun", "slurm")
    ]
    assert tables[0] == tables[1] == tables[2] and b'"war": ' in tables[0]


def test_folds_trained_at_once_give_the_bits_of_folds_trained_in_turn(manifest, tmp_path):
    """Folds of unequal length: one ends earlier, and its place goes to the next."""
    for together in (1, 3):
        more = ("--epochs", 2, "--fold", "all", "--track", "all", "--eval-every", 1, "--together", together)
        train.main(base(manifest, tmp_path / str(together), *more))
    for track in ("last", "validation"):
        for number in range(1, 6):
            assert outcome(folder_of(tmp_path / "1", number=number, track=track)) == outcome(
                folder_of(tmp_path / "3", number=number, track=track)
            )


def test_a_fold_that_fails_does_not_take_the_others_with_it(manifest, tmp_path, monkeypatch, capsys):
    score = engine.Training.score
    monkeypatch.setattr(
        engine.Training, "score",
        lambda self, test: score(self, test) * (np.nan if self.settings["fold"] == 2 else 1),
    )  # fmt: skip
    with pytest.raises(results.RunError, match="fold2: the scores of epoch 1 are not finite"):
        train.main([*base(manifest, tmp_path, "--epochs", 1, "--fold", "all"), "--together", "2"])
    assert "stopped" in capsys.readouterr().out
    assert [results.is_done(folder_of(tmp_path, number=n)) for n in range(1, 6)] == [True, False, True, True, True]
    assert not list(tmp_path.rglob("*.lock"))


@without_room
@pytest.mark.parametrize("together, while_recording, remedy", [(1, False, "--batch-size"), (2, True, "--together")])
def test_a_device_without_room_is_one_line(error, together, while_recording, remedy, manifest, tmp_path, monkeypatch):
    def full(*arguments):
        try:
            raise error
        finally:
            if while_recording:  # as leaving a recording does
                try:
                    raise RuntimeError("of the recording")
                finally:
                    raise RuntimeError("of its end")

    monkeypatch.setattr(engine, "train_step", full)
    with pytest.raises(results.RunError, match=f"not enough memory; use a smaller {remedy}"):
        train.main(base(manifest, tmp_path, "--fold", "all", "--together", together))


def test_other_errors_of_the_device_are_not_taken_for_one(manifest, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("something else")

    monkeypatch.setattr(engine, "train_step", broken)
    with pytest.raises(RuntimeError, match="something else"):
        train.main(base(manifest, tmp_path))


# --------------------------------------------------------------------------------------------- stacks


@pytest.fixture
def stacks(monkeypatch):
    """--engine compiled on a CPU, but for recording and compiling; and the folds of each stack that is made."""
    made, usual, begin = [], stack.Stack.__init__, engine.Training.__init__

    def spied(self, members, build=None):
        made.append([(member.settings["seed"], member.settings["fold"]) for member in members])
        usual(self, members, lambda network: network)

    def unrecorded(self, data, settings, fit, kind):
        begin(self, data, settings, fit, "eager")
        self.engine = kind

    monkeypatch.setattr(stack.Stack, "__init__", spied)
    monkeypatch.setattr(engine.Training, "__init__", unrecorded)
    monkeypatch.setattr(engine, "choose_engine", lambda *told: "compiled")
    return made


def test_folds_that_are_stacked_end_as_single_ones(stacks, manifest, tmp_path, monkeypatch):
    stacked, alone = tmp_path / "stacked", tmp_path / "alone"
    for runs, together in ((stacked, 4), (alone, 1)):
        train.main(base(manifest, runs, "--fold", "all", "--epochs", 1, "--track", "all", "--together", together))
    assert [len(members) for members in stacks] == [4, 3, 3] + 10 * [1]  # shared out evenly
    for number in range(1, 6):
        for track in ("last", "validation"):
            ours, theirs = (folder_of(runs, number=number, track=track) for runs in (stacked, alone))
            assert results.is_done(ours) and results.read_config(ours)["machine"]["engine"] == "compiled"
            np.testing.assert_allclose(log_of(ours)[:, :2], log_of(theirs)[:, :2], atol=1e-4)
            scores, wanted = (results.read_epochs(folder)["scores"] for folder in (ours, theirs))
            np.testing.assert_allclose(scores, wanted, atol=1e-3)


def test_a_fold_of_another_process_leaves_room_in_a_stack(stacks, manifest, tmp_path):
    folder = folder_of(tmp_path, number=2)
    folder.parent.mkdir(parents=True)
    with results.claim(folder) as mine:
        assert mine
        train.main(base(manifest, tmp_path, "--fold", "all", "--epochs", 1, "--together", 2))
    assert stacks == [[(0, 1), (0, 3)], [(0, 4), (0, 5)]]


def test_a_stacked_fold_that_fails_stops_alone(stacks, manifest, tmp_path, monkeypatch):
    end_epoch = engine.Training.end_epoch

    def failing(self):
        losses = end_epoch(self)
        return [float("nan"), *losses[1:]] if self.settings["fold"] == 2 and self.epoch == 2 else losses

    monkeypatch.setattr(engine.Training, "end_epoch", failing)
    with pytest.raises(results.RunError, match="fold2: the loss became nan in epoch 2, step 1"):
        train.main(base(manifest, tmp_path, "--fold", "all", "--epochs", 2, "--together", 5))
    assert [results.is_done(folder_of(tmp_path, number=n)) for n in range(1, 6)] == [True, False, True, True, True]


def test_a_stack_goes_on_when_the_last_of_its_folds_fails(stacks, manifest, tmp_path, monkeypatch):
    """The others wait for it to begin the next epoch."""
    how = ("--fold", "all", "--epochs", 3)
    train.main(base(manifest, tmp_path / "alone", *how, "--together", 1))
    end_epoch = engine.Training.end_epoch

    def failing(self):
        losses = end_epoch(self)
        return [float("nan"), *losses[1:]] if self.settings["fold"] == 5 else losses

    monkeypatch.setattr(engine.Training, "end_epoch", failing)
    with pytest.raises(results.RunError, match="fold5: the loss became nan in epoch 1, step 1"):
        train.main(base(manifest, tmp_path / "stacked", *how, "--together", 5))
    for number in range(1, 5):
        ours, theirs = (log_of(folder_of(tmp_path / runs, number=number)) for runs in ("stacked", "alone"))
        np.testing.assert_allclose(ours[:, :2], theirs[:, :2], atol=1e-4)


# ---------------------------------------------------------------------------------------------- alarms


@pytest.mark.parametrize("every, state", [(0, "of epoch 1, in .state.pt"), (60, "the initial one")])
def test_a_loss_that_is_not_finite_names_epoch_step_and_last_good_state(every, state, manifest, tmp_path, monkeypatch):
    step, calls = engine.train_step, []

    def failing(*arguments):
        calls.append(1)
        return step(*arguments) * (float("nan") if len(calls) == 6 else 1)

    monkeypatch.setattr(engine, "train_step", failing)
    with pytest.raises(results.RunError, match=f"nan in epoch 2, step [1-4]; the last good state is {state}"):
        train.main(base(manifest, tmp_path, "--epochs", 3, "--save-every", every))
    assert not results.is_done(folder_of(tmp_path))


def test_scores_that_are_not_finite_are_not_saved(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "score", lambda *arguments: np.full((8, 4), np.nan, np.float32))
    with pytest.raises(results.RunError, match="scores of epoch 1 are not finite; the last good state is the initial"):
        train.main(base(manifest, tmp_path, "--epochs", 1))
    assert not (folder_of(tmp_path) / "predictions.csv").exists()


def test_a_state_that_is_not_finite_does_not_replace_a_good_one(manifest, tmp_path, monkeypatch):
    end_epoch = engine.Training.end_epoch

    def spoiling(self):
        losses = end_epoch(self)
        if self.epoch == 2:
            next(self.model.parameters()).data.fill_(float("inf"))
        return losses

    monkeypatch.setattr(engine.Training, "end_epoch", spoiling)
    with pytest.raises(results.RunError, match="in epoch 3, step 1; the last good state is of epoch 1"):
        train.main(base(manifest, tmp_path, "--epochs", 4, "--save-every", 0, "--eval-every", 0))


def test_saving_the_state_at_its_default_is_rare(manifest, tmp_path, monkeypatch):
    saved = []

    def end_epoch(self):
        self.epoch += 1
        return [1.0] * len(self.sizes)

    monkeypatch.setattr(engine.Training, "begin_epoch", lambda self: None)
    monkeypatch.setattr(engine.Training, "end_epoch", end_epoch)
    monkeypatch.setattr(train.FoldRun, "save", lambda self, path: saved.append(self.training.epoch))
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))  # each look at the clock is a second
    train.main(base(manifest, tmp_path, "--epochs", 300, "--eval-every", 0))
    assert saved == [60, 120, 180, 240]


# --------------------------------------------------------------------------------------------- torture


COUNTS = dict(kill="5", mutate="50", disk="1")


@pytest.fixture(scope="module", autouse=True)
def tortures(request):
    """All three at once, each on one thread, beside the other tests of this file."""
    chosen = any(item.name.startswith("test_torture") for item in request.session.items)
    how = dict(cwd=PROJECT, env=dict(os.environ, OMP_NUM_THREADS="1"), text=True)
    started = {
        what: subprocess.Popen(
            [sys.executable, "benchmarks/torture.py", what, "--count", count],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how,
        )
        for what, count in (COUNTS if chosen else {}).items()
    }  # fmt: skip
    yield started
    for one in started.values():
        one.kill()


@pytest.mark.parametrize("what", COUNTS)
def test_torture(what, tortures):
    told = tortures[what].communicate(timeout=600)[0]
    assert tortures[what].returncode == 0 and ", 0 faults" in told, told
