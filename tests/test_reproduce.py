"""The commands of benchmarks/reproduce.py are ones that train.py takes, and the published report is what they give."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "benchmarks"))

import evaluate
import report
import reproduce
import train
from benchmarks import synthetic


def printed(capsys, *arguments):
    """[(command without python, its purpose)] of reproduce.py --print."""
    reproduce.main([*arguments, "--print"] if "--" not in arguments else ["--print", *arguments])
    lines = [line.split("  # ") for line in capsys.readouterr().out.splitlines()]
    return [(shlex.split(command)[1:], purpose) for command, purpose in lines]


def test_every_row_of_every_table_has_its_command(capsys):
    told = printed(capsys)
    trained = {(c[c.index("--db") + 1], c[c.index("--model") + 1]) for c, _ in told if c[0] == "train.py"}
    needed = {(row["database"], row["model"]) for row in evaluate.read_published() if row["model"]}
    assert needed <= trained
    assert {purpose for c, purpose in told if "session" in c and c[0] == "train.py"} == {
        f"{tables}, leaving one session out" for tables in reproduce.ROWS.values()
    }


def test_every_training_command_is_one_that_train_takes(capsys):
    for command, purpose in printed(capsys, "--db", "casia", "--root", "/somewhere", "--tft-epochs", "15"):
        if command[0] == "train.py":
            config = train.parse_command_line(command[1:])
            train.check_open_settings(config)
            assert (config.seed, config.track, config.root) == ("0-4", "all", "/somewhere")
            assert config.epochs == (15 if train.RECIPES[config.model] is train.TFT else None)
            changed = train.settings_of(config, config.model) != train.settings_of(
                train.Config(model=config.model, epochs=config.epochs), config.model
            )
            assert changed == ("sensitivity" in config.runs), purpose


def test_what_follows_the_dashes_goes_to_every_training(capsys):
    told = printed(capsys, "--db", "abc", "--", "--device", "cuda")
    assert all(("cuda" in command) == (command[0] == "train.py") for command, _ in told)


def test_every_gpu_figure_has_a_command_that_train_takes(tmp_path):
    script = [shutil.which("bash"), str(PROJECT / "benchmarks/gpu.sh"), str(tmp_path), str(tmp_path / "out")]
    subprocess.run(script, env=dict(os.environ, PYTHON="echo"), check=True, capture_output=True)
    logs = list((tmp_path / "out").glob("*.log"))
    for log in logs:
        command = shlex.split(log.read_text())
        config = train.parse_command_line(command[1:])
        train.check_open_settings(config)
        assert (command[0], config.device, Path(config.runs).name) == ("train.py", "cuda", log.stem)
    assert len((tmp_path / "out/wall.txt").read_text().splitlines()) == len(logs) > 6


@pytest.mark.parametrize("arguments", [["--root", "/x"], ["--db", "emodb"], ["--part", "all"], ["--setting", "x"]])
def test_mistakes_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(arguments)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_the_published_report_is_what_the_published_predictions_give(tmp_path, monkeypatch):
    shutil.copytree(PROJECT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    shutil.copy(PROJECT / "benchmarks" / "published-confusion.csv", tmp_path / "benchmarks")
    monkeypatch.setattr(report, "PROJECT", tmp_path)
    report.main(["--db", "casia"])
    again = (tmp_path / "benchmarks/results/casia.md").read_text()
    assert again == (PROJECT / "benchmarks/results/casia.md").read_text()


def test_a_study_from_its_recordings_to_its_report(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    synthetic.write_corpus("casia", tmp_path / "casia")
    arguments = [
        "--db", "casia", "--root", str(tmp_path / "casia"), "--runs", str(tmp_path / "runs"),
        "--results", str(tmp_path / "results"), "--model", "atfnn", "--seed", "0", "--atfnn-epochs", "1",
        "--setting", "gate none", "--", "--partial", "--device", "cpu",
    ]  # fmt: skip
    reproduce.main(arguments)
    told = (tmp_path / "results" / "casia.md").read_text()
    assert "| atfnn | 48.75 |" in told and "| tft | 53.17 | not run |" in told
    assert "| atfnn | gate none |" in told and "softmax" not in told
    capfd.readouterr()
    reproduce.main(arguments)  # nothing is left to train
    assert "folds to train" not in capfd.readouterr().out
    assert (tmp_path / "results" / "casia.md").read_text() == told
