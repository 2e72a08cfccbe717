"""What a user sees of every command: errors as one line with an exit code, the parser, progress.

    with cli.exit_on_error("train.py"):
        main()

An exception tells its own exit code (`exit_code`, a number), so that this file knows no other of the project.
"""

import argparse
import io
import os
import shutil
import signal
import sys
import threading
import time
import unicodedata
from contextlib import contextmanager, suppress

EXIT_USAGE, EXIT_DATA = 2, 3  # change the command; change the recordings
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # Ctrl-C; SIGTERM

# -------------------------------------------------------------------------------------------- errors


@contextmanager
def exit_on_error(program, interrupted="finished folds are saved, repeat the command to go on"):
    """Turn each foreseeable error into one line on standard error and an exit code.

    Foreseeable are exceptions with an `exit_code`, OSError, Ctrl-C and SIGTERM, which SLURM sends; `interrupted`
    describes what the latter two keep.
    """
    terminated = []

    def terminate(number, frame):
        terminated.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files, speakers and classes may hold anything
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        _flush()
    except BrokenPipeError:  # the reader of a pipe went away: `python evaluate.py | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        _fail(program, f"interrupted; {interrupted}", EXIT_TERMINATED if terminated else EXIT_INTERRUPTED)
    except OSError as error:
        path = error.filename or "the output, or a folder that is written"
        _fail(program, f"{path}: {error.strerror or error}; check that it can be written and has room", EXIT_USAGE)
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        _fail(program, error, code)


def _fail(program, message, code):
    with suppress(OSError):  # a full disk is named by the message below
        _flush()
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(code)


def _flush():
    if sys.stdout:  # None where the command was started without one
        sys.stdout.flush()


# -------------------------------------------------------------------------------------------- parser


class CommandParser(argparse.ArgumentParser):
    """Parser that reports an error in one line; first line of `doc` is the summary of --help, the rest its end."""

    def __init__(self, doc):
        summary, _, rest = doc.partition("\n")
        super().__init__(
            description=summary, epilog=rest, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    def error(self, message):
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see {self.prog} --help\n")


# ------------------------------------------------------------------------------------------- columns


def width(text):
    """Cells that a text takes on a terminal: Chinese, Japanese and Korean characters two, combining accents none."""
    if text.isascii():
        return len(text)
    combined = sum(unicodedata.category(character) in ("Mn", "Me", "Cf") for character in text)
    return len(text) - combined + sum(unicodedata.east_asian_width(character) in "WF" for character in text)


def ljust(text, cells):
    """Fill a text up to a number of cells, on the right."""
    return text + " " * (cells - width(text))


def rjust(text, cells):
    """Fill a text up to a number of cells, on the left."""
    return " " * (cells - width(text)) + text


# ------------------------------------------------------------------------------------------ progress


def format_duration(seconds):
    """75 -> 1:15, 3675 -> 1:01:15."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Progress:
    """Progress of one task: on a terminal one line that moves, elsewhere a plain line a minute."""

    terminal_period, plain_period = 0.2, 60.0  # seconds between two lines
    last_drawn = 0.0  # of the terminal's line, which all tasks of a process share

    def __init__(self, task, stream=None):
        self.task, self.stream = task, stream or sys.stdout
        # processes of torchrun share a terminal and would write over each other
        self.is_terminal = bool(self.stream) and self.stream.isatty() and "LOCAL_RANK" not in os.environ
        self.last_printed = time.monotonic()

    def update(self, status):
        """Show the status of the task in progress, if it is time to."""
        now = time.monotonic()
        if self.is_terminal and now - Progress.last_drawn >= self.terminal_period:
            Progress.last_drawn = now
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{f'{self.task}: {status}'[:width]}", end="", file=self.stream, flush=True)
        elif not self.is_terminal and now - self.last_printed >= self.plain_period:
            self.last_printed = now
            print(f"{self.task}: {status}", file=self.stream, flush=True)

    def line(self, status):
        """Print a line that stays."""
        clear = "\r\x1b[K" if self.is_terminal else ""
        print(f"{clear}{self.task}: {status}", file=self.stream, flush=True)
