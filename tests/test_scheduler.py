"""Folds that are interrupted, shared out, trained at once or damaged end with the same bits, or with one clear line."""

import io
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from helpers import folder_of, log_of, outcome, run_train, start_train, stop_before
from stress import stress

import protocols
from common import cli, config, methods, runs
from fast import stacked
from training import checkpoints, data, scheduler, trainer

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def manifest(corpus):
    return corpus / "small.csv"


@pytest.fixture(scope="module")
def all_folds(manifest, tmp_path_factory):
    """Results of all folds on both tracks, trained one after the other without an interruption."""
    results = tmp_path_factory.mktemp("all")
    assert run_train(manifest, results, "--fold", "all", "--track", "all") == 0
    return results


def assert_same_folds(results, others, numbers=(1, 2, 3, 4), track="last"):
    for number in numbers:
        assert outcome(folder_of(results, number=number, track=track)) == outcome(
            folder_of(others, number=number, track=track)
        )


# ---------------------------------------------------------------------------------- validation track


def test_the_validation_track_chooses_on_speakers_that_it_neither_trains_on_nor_tests(manifest, tmp_path):
    more = ["--epochs", 4, "--track", "validation", "--fold", "all", "--seed", 1]
    assert run_train(manifest, tmp_path, *more) == 0
    speakers = protocols.open_database(str(manifest)).speakers
    for number in range(1, 5):
        folder = folder_of(tmp_path, number=number, seed=1, track="validation")
        fold, done, evaluated = runs.read_fold(folder), runs.read_done(folder), runs.read_epochs(folder)
        held_out, tested = set(fold.config.settings["held_out"]), set(fold.config.test_speakers)
        assert held_out == {f"S{(number + 1) % 4 + 1}"}  # seed 0 would hold out the speaker before
        assert sorted([*held_out, *tested, *done["trained_on"]]) == ["S1", "S2", "S3", "S4"]
        assert evaluated["validation"].shape[:2] == (4, int(np.isin(speakers, list(held_out)).sum()))
        uars = [
            protocols.uar(protocols.confusion(evaluated["validation_labels"], scores))
            for scores in evaluated["validation"]
        ]
        best = evaluated["epochs"].tolist().index(done["epoch"])
        assert uars[best] == max(uars) and np.array_equal(evaluated["scores"][best], fold.scores)
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["epoch"] == done["epoch"]
        assert not folder_of(tmp_path, number=number, seed=1).exists()  # the result of the last epoch is another run


def test_the_oracle_is_the_epoch_that_tests_best(all_folds):
    fold = runs.read_fold(folder_of(all_folds))
    curve = runs.read_curve(fold)
    uars = [protocols.uar(matrix) for matrix in curve.test]
    assert curve.chosen["last"] == len(uars) - 1 and uars[curve.chosen["oracle"]] == max(uars)


def test_fold_none_trains_on_all_speakers_and_tests_nobody(manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path, "--fold", "none") == 0
    folder = folder_of(tmp_path, number=0)
    out = capsys.readouterr().out
    assert "tested on nobody" in out and f"predict.py --run {folder} recording.wav" in out
    assert folder.name == "all" and runs.read_done(folder)["trained_on"] == ["S1", "S2", "S3", "S4"]
    assert runs.read_config(folder).test == [] and runs.find_folds(tmp_path) == []  # no table counts it


# --------------------------------------------------------------------------------- resumed trainings


@pytest.mark.parametrize(
    "model, more",
    [("atnn", []), ("tft-t+f", ["--track", "validation"]), ("atnn", ["--dropout", 0.3]), ("tft", ["--dropout", 0.3])],
    ids=str,
)
def test_a_training_that_was_stopped_gives_the_same_bits(model, more, manifest, tmp_path, monkeypatch, capsys):
    more = ["--model", model, "--epochs", 4, "--eval-every", 2, "--save-every", 0, *more]
    assert run_train(manifest, tmp_path / "whole", *more) == 0
    track = "validation" if "validation" in more else "last"
    trained, next_order = [], trainer.FoldTrainer.next_order
    for stop in (2, 3):  # after an epoch that is evaluated, and one that is not
        results = tmp_path / f"stopped{stop}"
        with monkeypatch.context() as patch:
            stop_before(stop, patch)
            assert run_train(manifest, results, *more) == cli.EXIT_INTERRUPTED
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "repeat the command" in error
        folder = folder_of(results, model, track=track)
        assert (folder / runs.STATE_FILE).exists() and not runs.is_done(folder)
        torch.rand(7)  # random numbers that others draw do not matter
        with monkeypatch.context() as patch:
            trained.clear()
            patch.setattr(
                trainer.FoldTrainer, "next_order", lambda self: trained.append(self.epoch) or next_order(self)
            )
            assert run_train(manifest, results, *more) == 0
        assert trained == list(range(stop, 4))  # nothing was trained twice
        assert outcome(folder) == outcome(folder_of(tmp_path / "whole", model, track=track))
        assert not list(results.rglob(".*"))


def test_finished_folds_are_skipped(manifest, tmp_path, monkeypatch, capsys):
    assert run_train(manifest, tmp_path) == 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with monkeypatch.context() as patch:
        stop_before(0, patch)
        assert run_train(manifest, tmp_path) == 0
    assert "1 of 1 folds are already done" in capsys.readouterr().out
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.fixture(scope="module")
def stopped(manifest, tmp_path_factory):
    """Results with a fold that was stopped after two of three epochs, to be copied."""
    results = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_before(2, patch)
        assert run_train(manifest, results, "--epochs", 3, "--save-every", 0) == cli.EXIT_INTERRUPTED
    return results


class Fold:
    """Fold 2 of three epochs of the tiny corpus below a results folder, outside a scheduler."""

    def __init__(self, manifest, results):
        arguments = "--model atnn --epochs 3 --batch-size 16 --eval-every 1 --save-every 0 --device cpu".split()
        options = config.parse_command_line(["--db", str(manifest), "--runs", str(results), *arguments])
        database = protocols.open_database(str(manifest))
        method = methods.find("atnn")
        front_end = config.front_end_of(method, config.settings_of(options, method))
        loaded = data.load_features(database, front_end)
        folds = protocols.make_folds(database)
        (self.job,) = scheduler.make_jobs(options, [method], database, folds[1:2], {"atnn": loaded})
        self.data = data.to_device(database, loaded, "cpu")
        self.job.folder.mkdir(parents=True, exist_ok=True)
        self.machine = dict(engine="eager", folds_at_once=1, deterministic=True)

    def resume(self):
        """FoldRun from whatever is in the fold's folder, and the lines that it printed."""
        fold_trainer = trainer.FoldTrainer(self.data, self.job.settings, self.job.train_utterances, "cpu")
        out = io.StringIO()
        run_config = scheduler.make_run_config(self.job, self.data.database, self.data.features, 4, **self.machine)
        run = checkpoints.FoldRun(self.job, fold_trainer, run_config, 0, cli.Progress("fold 2", out))
        return run, out.getvalue()


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def seal(path, content):
    runs.write_sealed(path, content if isinstance(content, bytes) else checkpoints.to_bytes(content))


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"garbage" * 99, pickle.dumps(Trap()), checkpoints.to_bytes({})], ids=range(5),
)  # fmt: skip
def test_a_state_without_its_seal_is_not_used(content, manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fold = Fold(manifest, tmp_path / "results")
    (fold.job.folder / runs.STATE_FILE).write_bytes(content)
    run, out = fold.resume()
    assert "damaged; the fold starts again" in out and (run.trainer.epoch, run.log, run.scores) == (0, [], {})


@pytest.mark.parametrize("content", [pickle.dumps(Trap()), dict(settings=Trap()), [1], {}, b""], ids=range(5))
def test_a_hostile_state_runs_no_code(content, manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fold = Fold(manifest, tmp_path / "results")
    seal(fold.job.folder / runs.STATE_FILE, content)
    run, out = fold.resume()
    assert "damaged; the fold starts again" in out and run.trainer.epoch == 0
    assert not (tmp_path / "trapped").exists()


def test_a_state_with_a_changed_bit_is_not_used(manifest, stopped, tmp_path):
    fold = Fold(manifest, shutil.copytree(stopped, tmp_path / "results"))
    path = fold.job.folder / runs.STATE_FILE
    content = bytearray(path.read_bytes())
    for position in (0, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        run, out = fold.resume()
        assert "damaged" in out and run.trainer.epoch == 0
    path.write_bytes(content)
    run, out = fold.resume()
    assert "resumes after epoch 2" in out and run.trainer.epoch == run.saved_epoch == 2 and list(run.scores) == [1, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda state: state["training"]["optimizer"][0].update(exp_avg=torch.zeros(1)), "damaged"),
        (lambda state: state["training"]["optimizer"].update({99: state["training"]["optimizer"][0]}), "damaged"),
        (lambda state: state["training"].pop("optimizer"), "damaged"),
        (lambda state: state.pop("chosen"), "damaged"),
        (lambda state: state["training"].update(epoch=9), "damaged"),
        (lambda state: state["training"].update(epoch="2"), "damaged"),
        (lambda state: state["training"].update(epoch=float("nan")), "damaged"),
        (lambda state: state["training"]["model"].popitem(), "damaged"),
        (lambda state: state["scores"].clear(), "damaged"),
        (lambda state: state["log"].pop(), "damaged"),
        (lambda state: state["made_by"]["code"].update({"models.py": "0" * 16}), "another version"),
        (lambda state: state["made_by"]["machine"].update(torch="1.0"), "another version"),
    ],
)
def test_a_state_that_does_not_fit_starts_the_fold_again(change, message, manifest, stopped, tmp_path):
    fold = Fold(manifest, shutil.copytree(stopped, tmp_path / "results"))
    path = fold.job.folder / runs.STATE_FILE
    state = checkpoints.read_checkpoint(io.BytesIO(runs.read_sealed(path)))
    change(state)
    seal(path, state)
    run, out = fold.resume()
    assert message in out and "starts again" in out
    fresh = trainer.FoldTrainer(fold.data, fold.job.settings, fold.job.train_utterances, "cpu")
    assert (run.trainer.epoch, run.log, run.scores, run.saved_epoch) == (0, [], {}, None)
    assert all(torch.equal(a, b) for a, b in zip(run.trainer.copy_weights().values(), fresh.copy_weights().values()))
    assert not run.trainer.optimizer.state


def test_a_fold_that_was_resumed_on_another_machine_records_both(manifest, stopped, tmp_path):
    fold = Fold(manifest, shutil.copytree(stopped, tmp_path / "results"))
    fold.machine["engine"] = "graph"
    run, _ = fold.resume()
    recorded = runs.read_config(fold.job.folder)
    assert recorded.machine["engine"] == "graph" and [m["engine"] for m in recorded.earlier_machines] == ["eager"]


# ------------------------------------------------------------------------------- folders of other runs


def test_a_run_of_other_settings_is_not_overwritten(manifest, stopped, tmp_path, capsys):
    results = shutil.copytree(stopped, tmp_path / "results")
    folder = folder_of(results)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_train(manifest, results, "--epochs", 2) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(folder) in error and "epochs 3, not 2" in error
    assert run_train(manifest, results, "--epochs", 3, "--overlap", "0.5") == cli.EXIT_USAGE
    assert "overlap 0, not 0.5" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / runs.STATE_FILE).unlink()  # nothing that took time
    assert run_train(manifest, results, "--epochs", 2) == 0


def test_a_run_on_other_labels_or_recordings_is_not_overwritten(corpus, tmp_path, capsys):
    copy = shutil.copytree(corpus, tmp_path / "corpus")
    manifest, results = copy / "small.csv", tmp_path / "results"
    assert run_train(manifest, results) == 0
    before = outcome(folder_of(results))
    text = manifest.read_text()
    manifest.write_text(text.replace("happy_01.wav,happy", "happy_01.wav,angry", 1))
    assert run_train(manifest, results) == cli.EXIT_USAGE
    assert "utterances, labels or speakers" in capsys.readouterr().err
    manifest.write_text(text)
    (copy / "wav/S3/sad_01.wav").write_bytes((copy / "wav/S3/happy_02.wav").read_bytes())
    assert run_train(manifest, results) == cli.EXIT_USAGE
    assert "other recordings" in capsys.readouterr().err
    assert outcome(folder_of(results)) == before


@pytest.mark.parametrize("name", ["predictions.csv", "config.json", "done.json", "checkpoint.pt", "epochs.npz"])
def test_a_fold_whose_file_was_damaged_is_trained_again(name, manifest, all_folds, tmp_path):
    folder = folder_of(tmp_path)
    shutil.copytree(folder_of(all_folds), folder)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-30])
    assert not runs.is_done(folder)
    assert run_train(manifest, tmp_path) == 0
    assert_same_folds(tmp_path, all_folds, [2])


def test_a_killed_process_leaves_nothing_behind(manifest, all_folds, tmp_path):
    """Temporary files, and a state and a lock of a fold that was finished."""
    folder = folder_of(tmp_path)
    shutil.copytree(folder_of(all_folds), folder)
    (folder / ".log.csv.host.1.tmp").write_text("x")
    (folder / runs.STATE_FILE).write_text("x")
    runs.lock_path(folder).write_text("host 1\n")
    assert run_train(manifest, tmp_path) == 0
    assert not list(tmp_path.rglob(".*"))
    assert_same_folds(tmp_path, all_folds, [2])


def test_the_loss_of_power_between_two_files_is_noticed(manifest, all_folds, tmp_path, monkeypatch):
    """Whatever file could not be written, the fold is not counted, and the repeated command completes it."""
    names = ["log.csv", "predictions.csv", "epochs.npz", "checkpoint.pt", "done.json"]
    atomic_write = runs.atomic_write
    for name in names:
        results = tmp_path / name

        def failing(path, name=name):
            if path.name == name:
                raise OSError(28, "No space left on device", str(path))
            return atomic_write(path)

        with monkeypatch.context() as patch:
            patch.setattr(runs, "atomic_write", failing)
            assert run_train(manifest, results) == cli.EXIT_USAGE
        assert not runs.is_done(folder_of(results))
        assert run_train(manifest, results) == 0
        assert_same_folds(results, all_folds, [2])


# ----------------------------------------------------------------------------------- many processes


def test_two_processes_share_the_folds_and_end_as_a_single_one(manifest, all_folds, tmp_path):
    more = ["--fold", "all", "--track", "all"]
    processes = [start_train(manifest, tmp_path, *more, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    trained = [line.split("] ")[1].split(":")[0] for out, _ in outputs for line in out.splitlines() if "] atnn" in line]
    assert len(trained) == len(set(trained)) == 8  # each fold of each track once
    for track in runs.TRAINED_TRACKS:
        assert_same_folds(tmp_path, all_folds, track=track)
    assert not list(tmp_path.rglob(".*"))


def test_a_fold_that_another_process_trains_is_left_out(manifest, all_folds, tmp_path, capsys):
    with runs.try_lock_fold(folder_of(tmp_path)) as locked:
        assert locked
        assert run_train(manifest, tmp_path, "--fold", "all") == 0
        out = capsys.readouterr().out
        assert "1 of 4 folds are in training by other processes" in out and "tables, when they are done" in out
        assert not folder_of(tmp_path).exists()
    assert run_train(manifest, tmp_path, "--fold", "all") == 0
    assert_same_folds(tmp_path, all_folds)


@pytest.mark.parametrize(
    "environment, expected",
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
)
def test_torchrun_and_slurm_number_the_processes(environment, expected):
    assert scheduler.rank_and_world_size({name: str(value) for name, value in environment.items()}) == expected


def test_a_rank_that_is_no_number_is_one_line(manifest, tmp_path, monkeypatch, capsys):
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "x")
            assert run_train(manifest, tmp_path) == cli.EXIT_USAGE
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and f"{name}=x: is no number" in error


def test_shares_begin_at_different_jobs_and_cover_all():
    orders = [scheduler.own_share_first(list(range(10)), rank, 4) for rank in range(4)]
    assert [order[:3] for order in orders[:2]] == [[0, 4, 8], [1, 5, 9]]
    assert all(sorted(order) == list(range(10)) for order in orders)


# ------------------------------------------------------------------------------------- folds at once


@pytest.mark.parametrize("more", [["--folds-at-once", 3], ["--together", 4, "--dropout", 0.3]], ids=str)
def test_folds_trained_at_once_give_the_bits_of_folds_trained_in_turn(more, manifest, all_folds, tmp_path):
    """Also with dropout, and by the option's old name."""
    expected = all_folds
    if "--dropout" in more:
        expected = tmp_path / "in turn"
        assert run_train(manifest, expected, "--fold", "all", *more[2:]) == 0
    assert run_train(manifest, tmp_path, "--fold", "all", *more) == 0
    assert_same_folds(tmp_path, expected)
    assert runs.read_config(folder_of(tmp_path)).machine["folds_at_once"] == more[1]


def test_a_process_trains_no_more_folds_at_once_than_its_share(manifest, tmp_path, monkeypatch):
    at_once, run_epoch = [], trainer.EagerRunner.run_epoch

    def counting(self, trainers, report):
        at_once.append(len(trainers))
        return run_epoch(self, trainers, report)

    monkeypatch.setattr(trainer.EagerRunner, "run_epoch", counting)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0"), monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert run_train(manifest, tmp_path, "--fold", "all", "--folds-at-once", 10) == 0
    assert at_once == [2, 2, 2, 2]  # of 4 folds, 2 epochs each


def test_a_fold_that_diverges_is_one_line_and_the_others_go_on(manifest, all_folds, tmp_path, monkeypatch, capsys):
    train_step, steps = trainer.FoldTrainer.step, []

    def failing(self, index, forward=None):
        steps.append(self.settings["fold"])
        is_sixth = steps.count(2) == 6 and self.settings["fold"] == 2
        return train_step(self, index, forward) * (float("nan") if is_sixth else 1)

    monkeypatch.setattr(trainer.FoldTrainer, "step", failing)
    more = ["--fold", "all", "--folds-at-once", 2, "--save-every", 0]
    assert run_train(manifest, tmp_path, *more) == cli.EXIT_USAGE
    out, error = capsys.readouterr()
    assert error.count("\n") == 1 and f"{folder_of(tmp_path)}: the loss became nan in epoch 2, step 2" in error
    assert "the last good state is of epoch 1, in .state.pt" in error and "try a smaller --lr" in error
    assert "stopped: " in out
    assert not runs.is_done(folder_of(tmp_path)) and not list(tmp_path.rglob("*.lock"))
    assert_same_folds(tmp_path, all_folds, [1, 3, 4])


def test_scores_that_are_not_finite_are_not_saved(manifest, tmp_path, monkeypatch, capsys):
    score = trainer.FoldTrainer.score
    monkeypatch.setattr(trainer.FoldTrainer, "score", lambda self, test: score(self, test) * np.nan)
    assert run_train(manifest, tmp_path) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert "scores of epoch 1 are not finite; the last good state is the initial state" in error
    assert not (folder_of(tmp_path) / "predictions.csv").exists()


def test_a_state_that_is_not_finite_does_not_replace_a_good_one(manifest, tmp_path, monkeypatch, capsys):
    run_epoch = trainer.EagerRunner.run_epoch

    def spoiling(self, trainers, report):
        losses = run_epoch(self, trainers, report)
        if trainers[0].epoch == 2:
            next(trainers[0].model.parameters()).data.fill_(float("inf"))
        return losses

    monkeypatch.setattr(trainer.EagerRunner, "run_epoch", spoiling)
    more = ["--epochs", 4, "--save-every", 0, "--eval-every", 0]
    assert run_train(manifest, tmp_path, *more) == cli.EXIT_USAGE
    assert "in epoch 3, step 1; the last good state is of epoch 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, at_once, remedy",
    [(torch.OutOfMemoryError("so many MiB"), 1, "--batch-size"), (MemoryError(), 2, "--folds-at-once (now 2)")],
)
def test_too_little_memory_is_one_line(error, at_once, remedy, manifest, tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise error

    monkeypatch.setattr(trainer, "train_step", full)
    assert run_train(manifest, tmp_path, "--fold", "all", "--folds-at-once", at_once) == cli.EXIT_USAGE
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and f"not enough memory; use a smaller {remedy}" in message


def test_a_state_is_not_blamed_for_too_little_memory(manifest, stopped, tmp_path, monkeypatch, capsys):
    results = shutil.copytree(stopped, tmp_path / "results")
    state = (folder_of(results) / runs.STATE_FILE).read_bytes()

    def full(*arguments):
        raise torch.OutOfMemoryError("so many MiB")

    monkeypatch.setattr(trainer.FoldTrainer, "restore", full)
    assert run_train(manifest, results, "--epochs", 3) == cli.EXIT_USAGE
    assert "not enough memory" in capsys.readouterr().err
    assert (folder_of(results) / runs.STATE_FILE).read_bytes() == state


def test_a_state_is_saved_once_in_the_period(manifest, tmp_path, monkeypatch):
    saved, clock = [], iter(range(10**6))
    monkeypatch.setattr(trainer.FoldTrainer, "step", lambda self, index: torch.tensor(1.0))  # nothing is learned
    monkeypatch.setattr(checkpoints.FoldRun, "save", lambda self, path: saved.append(self.trainer.epoch))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))  # each look at the clock is a second
    assert run_train(manifest, tmp_path, "--epochs", 200, "--eval-every", 0, "--save-every", 60) == 0
    assert len(saved) in (2, 3) and saved[0] in range(55, 65)
    assert len(log_of(folder_of(tmp_path))) == 200


# ------------------------------------------------------------------------------------------- engines


@pytest.mark.parametrize(
    "requested, device, is_long, dropout, can_compile, expected",
    [
        ("auto", "cpu", True, 0, True, "eager"),
        ("auto", "cuda", True, 0, True, "compiled"),
        ("auto", "cuda", True, 0, False, "graph"),  # torch.compile does not work
        ("auto", "cuda", False, 0, True, "graph"),
        ("auto", "cuda", True, 0.1, True, "eager"),  # masks are not recorded
        ("graph", "cuda", True, 0, True, "graph"),
        ("compiled", "cuda", False, 0, True, "compiled"),
    ],
)
def test_the_engine_is_the_fastest_that_works(requested, device, is_long, dropout, can_compile, expected, monkeypatch):
    monkeypatch.setattr("fast.graphs.can_compile", lambda: can_compile)
    assert scheduler.choose_engine(requested, device, is_long, dropout) == expected


@pytest.mark.parametrize("requested, device", [("graph", "cpu"), ("compiled", "cpu"), ("compiled", "cuda")])
def test_an_engine_that_cannot_work_is_refused(requested, device, monkeypatch):
    monkeypatch.setattr("fast.graphs.can_compile", lambda: False)
    with pytest.raises(protocols.UsageError, match=f"--engine {requested}: .*; use --engine"):
        scheduler.choose_engine(requested, device)


@pytest.mark.parametrize(
    "model, precision, folds, saved",  # ms that an H200 saves of a step of a fold, graph minus compiled
    [
        ("tft", "float32", 1, 3.54 - 2.17),
        ("tft", "bfloat16", 4, 1.90 - 0.98),
        ("atfnn", "float32", 4, 12.46 - 17.06),
        ("afnn", "float32", 10, 12.46 - 9.28),
        ("atfnn", "bfloat16", 1, 11.94 - 10.50),
        ("atfnn", "bfloat16", 4, 11.87 - 5.89),
        ("tfnn", "bfloat16", 20, 11.87 - 3.74),
    ],
)
def test_compiling_is_chosen_where_it_saves_more_than_it_takes(model, precision, folds, saved):
    steps = scheduler.min_steps_to_compile(model, precision, folds)
    if model == "tft" or saved > 2:
        assert 25_000 < steps * saved < 90_000  # half a minute and more
    else:
        assert steps == float("inf")


@pytest.mark.parametrize("processes, share, folds", [(2, 2, 2), (99, 4, 1)])
def test_the_engine_depends_on_the_steps_of_a_share(processes, share, folds, manifest, tmp_path, monkeypatch):
    """It is the same when the command is repeated with few folds left."""
    database = protocols.open_database(str(manifest))
    options = config.parse_command_line(
        ["--model", "all", "--epochs", "2", "--batch-size", "16", "--folds-at-once", "99", "--runs", str(tmp_path)]
    )
    chosen = config.methods_of(options)
    features_of = data.load_all(options, database, chosen)
    fold_list = protocols.make_folds(database)
    jobs = scheduler.make_jobs(options, chosen, database, fold_list, features_of)
    counts = features_of["tft"].counts
    steps = sum(2 * (counts[fold.train].sum() // 16) for fold in fold_list) / share
    asked = []

    def least(model, precision, at_once):
        asked.append(at_once)
        return steps + (model == "atnn")

    monkeypatch.setattr(scheduler, "min_steps_to_compile", least)
    monkeypatch.setattr(scheduler, "choose_engine", lambda *arguments: "compiled" if arguments[2] else "graph")
    made = scheduler.FoldScheduler(options, database, features_of, 4, jobs, processes)
    assert made.engines == {model: "graph" if model == "atnn" else "compiled" for model in config.PAPER_SETTINGS}
    assert set(asked) == {folds}


def test_stacks_are_about_equally_large():
    assert [scheduler.even_share(waiting, 4) for waiting in (1, 4, 5, 9, 12)] == [1, 4, 3, 3, 4]


# ------------------------------------------------------------------------------------ folds as one network


@pytest.fixture
def stacks(monkeypatch):
    """--engine compiled on a CPU, but for recording and compiling; gives the folds of each stack that is made."""
    made, init = [], stacked.StackedTrainer.__init__

    def recorded(self, trainers, transform):
        made.append([part.settings["fold"] for part in trainers])
        init(self, trainers, transform)

    monkeypatch.setattr(stacked.StackedTrainer, "__init__", recorded)
    monkeypatch.setattr(stacked, "StackedRunner", lambda: StackedRunner(transform=lambda network: network))
    monkeypatch.setattr(scheduler, "choose_engine", lambda *arguments: "compiled")
    return made


StackedRunner = stacked.StackedRunner


def assert_close_folds(results, others, numbers, track="last"):
    for number in numbers:
        ours, plain = (folder_of(path, number=number, track=track) for path in (results, others))
        assert runs.is_done(ours) and runs.read_config(ours).machine["engine"] == "compiled"
        np.testing.assert_allclose(log_of(ours)[:, :2], log_of(plain)[:, :2], atol=1e-3)
        scores = [runs.read_epochs(folder)["scores"] for folder in (ours, plain)]
        np.testing.assert_allclose(*scores, atol=5e-3)


def test_stacked_folds_end_as_folds_trained_in_turn(stacks, manifest, all_folds, tmp_path):
    assert run_train(manifest, tmp_path, "--fold", "all", "--track", "all", "--folds-at-once", 3) == 0
    assert [len(folds) for folds in stacks] == [3, 3, 2]  # shared out evenly
    for track in runs.TRAINED_TRACKS:
        assert_close_folds(tmp_path, all_folds, (1, 2, 3, 4), track)


def test_stacked_folds_go_on_without_those_of_other_processes_and_those_that_diverge(
    stacks, manifest, all_folds, tmp_path, monkeypatch, capsys
):
    def run_epoch(self, trainers, report):
        losses = run_epoch_of(self, trainers, report)
        return {part: [float("nan")] if part.settings["fold"] == 4 else losses[part] for part in trainers}

    run_epoch_of = StackedRunner.run_epoch
    monkeypatch.setattr(StackedRunner, "run_epoch", run_epoch)
    with runs.try_lock_fold(folder_of(tmp_path, number=1)):
        assert run_train(manifest, tmp_path, "--fold", "all", "--folds-at-once", 4) == cli.EXIT_USAGE
    assert "fold4: the loss became nan in epoch 1, step 1" in capsys.readouterr().err
    assert stacks == [[2, 3, 4]] and not folder_of(tmp_path, number=1).exists()
    assert_close_folds(tmp_path, all_folds, (2, 3))


# ------------------------------------------------------------------------------------------- stress


@pytest.mark.parametrize("kind, count", [("kill", 2), ("mutate", 4), ("disk", 2)])
def test_a_little_stress(kind, count, tmp_path):
    assert stress(kind, count, 0, tmp_path) == []


@pytest.mark.stress
@pytest.mark.parametrize("kind, count", [("kill", 100), ("mutate", 500), ("disk", 4)])
def test_stress(kind, count, tmp_path):
    assert stress(kind, count, 1, tmp_path) == []
