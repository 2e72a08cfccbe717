"""What a user sees of every command: errors in one line with an exit code, progress on a terminal and elsewhere."""

import errno
import io
import re
import subprocess
import sys
import time

import pytest
from helpers import PROJECT, command

import features
import protocols
from common import cli, runs


class Terminal(io.StringIO):
    def isatty(self):
        return True

    def screen(self):
        """Lines that the terminal shows."""
        lines = self.getvalue().split("\n")
        return [re.sub(r".*\r\x1b\[K", "", line) for line in lines]


@pytest.fixture
def clock(monkeypatch):
    """A clock that is 30 s later at each look."""
    seconds = iter(range(1000, 9000, 30))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(cli.Progress, "last_drawn", 0.0)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_a_terminal_shows_one_line_that_moves_below_those_that_stay(clock):
    out = Terminal()
    first, second = cli.Progress("first", out), cli.Progress("second", out)
    first.update("1 %"), second.update("2 %"), first.update("3 %")
    assert out.screen() == ["first: 3 %"]
    first.line("done")
    assert out.screen() == ["first: done", ""]
    second.update("4 %")
    assert out.screen() == ["first: done", "second: 4 %"]


def test_a_line_is_no_wider_than_the_terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    cli.Progress("task", out).update("x" * 100)
    assert len(out.screen()[0]) == 19


def test_the_terminal_is_not_redrawn_at_each_step(monkeypatch):
    seconds = iter([0.0, 10.0, 10.01, 10.1, 10.3])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(cli.Progress, "last_drawn", 0.0)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    out = Terminal()
    progress = cli.Progress("task", out)
    for status in "abcd":
        progress.update(status)
    assert re.findall("task: .", out.getvalue()) == ["task: a", "task: d"]


@pytest.mark.parametrize("is_torchrun", [False, True])
def test_elsewhere_progress_is_a_plain_line_a_minute(is_torchrun, clock, monkeypatch):
    out = io.StringIO()
    if is_torchrun:  # its processes share the terminal
        out = Terminal()
        monkeypatch.setenv("LOCAL_RANK", "0")
    progress = cli.Progress("task", out)
    for percent in range(4):
        progress.update(f"{percent} %")
    progress.line("done")
    assert out.getvalue() == "task: 1 %\ntask: 3 %\ntask: done\n"


@pytest.mark.parametrize("text, cells", [
    ("angry", 5), ("", 0), ("\u751f\u6c14", 4), ("\ud654\ub0a8", 4), ("\u3042", 2), ("\uff21", 2), ("\xfc", 1),
    ("u\u0308", 1), ("\u0e01\u0e34", 1),
])  # fmt: skip
def test_texts_fill_cells_of_a_terminal(text, cells):
    assert cli.width(text) == cells
    assert cli.ljust(text, 6) == text + (6 - cells) * " " and cli.rjust(text, 6) == (6 - cells) * " " + text


def test_durations_are_written_as_clocks_do():
    assert [cli.format_duration(seconds) for seconds in (0, 59.6, 75, 3675)] == ["0:00", "1:00", "1:15", "1:01:15"]


# -------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "error, code, message",
    [
        (protocols.UsageError("--x: no; use --y"), 2, "--x: no; use --y"),
        (runs.RunError("folder: damaged"), 2, "folder: damaged"),
        (protocols.DatabaseError("file: bad"), 3, "file: bad"),
        (features.AudioError("a.wav: empty"), 3, "a.wav: empty"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 2, "runs/x: Permission denied; check that"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "No space left on device; check that"),
        (KeyboardInterrupt(), 130, "interrupted; finished folds are saved, repeat the command"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_foreseeable_error_is_one_line_and_an_exit_code(error, code, message, capsys):
    def main(_):
        print("some output")
        raise error

    assert command(main) == code
    out, text = capsys.readouterr()
    assert out == "some output\n" and text.count("\n") == 1 and message in text


def test_an_error_that_nobody_foresaw_is_not_hidden():
    def main(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command(main)


def test_a_reader_that_goes_away_is_no_traceback():
    script = "from common import cli\nwith cli.exit_on_error('x'):\n for i in range(100000): print(i)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(timeout=60) == cli.EXIT_USAGE
    process.stderr.close()


def test_any_name_can_be_printed():
    """Half a character, and letters that the terminal's encoding lacks."""
    script = "from common import cli\nwith cli.exit_on_error('x'):\n print('\\udc80 ü')\n raise OSError(2, 'no', 'ä')"
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (
        process.returncode == 2 and process.stdout == b"\\udc80 \\xfc\n" and process.stderr.startswith(b"x: \\xe4: no")
    )


def test_sigterm_ends_in_the_line_of_ctrl_c(tmp_path):
    """SLURM and timeout send it; the process says what is saved and ends with 143."""
    code = "import time\nfrom common import cli\nwith cli.exit_on_error('x.py'):\n    print('go', flush=True)\n    time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "go\n"
    process.terminate()
    _, error = process.communicate(timeout=30)
    assert process.returncode == cli.EXIT_TERMINATED
    assert error == "x.py: interrupted; finished folds are saved, repeat the command to go on\n"
