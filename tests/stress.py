"""Kill training and damage its inputs, and see that results stay the same bits or are refused in one line.

    python tests/stress.py kill --count 200       # SIGKILL at random moments, half of them two processes at once
    python tests/stress.py mutate --count 1000    # recordings, manifests, cache, results, states, arguments
    python tests/stress.py disk                   # a limit of file sizes instead of a full disk
    python -m pytest -m stress                    # all three

All happens on the tiny corpus in a temporary folder, from `--seed`; tests/test_scheduler.py does a little of it. The
exit code is 1 where anything went wrong. A kill is wrong if in the end a bit differs from a run that was not
interrupted, a fold is lost or finished twice, or a temporary file stays. A mutation is wrong if it ends in a traceback
or more than one line, or if a result differs although it claims the same recordings and labels.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # forked processes cannot use the threads of their parent
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import QUICK, outcome, stop_before, tiny_front_ends, write_corpus

import evaluate
import train
from common import cli, runs

SETTINGS = [*QUICK, "--save-every", "0"]

# ------------------------------------------------------------------------------------- running commands


def run(main, arguments):
    """Exit code and standard error of a command in a forked process; -9 for an error that nobody foresaw."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code, error = -9, io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            try:
                with cli.exit_on_error("command"):
                    main([str(argument) for argument in arguments])
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException as unforeseen:
                error.write(f"TRACEBACK {type(unforeseen).__name__}: {unforeseen}")
        with os.fdopen(writer, "w") as pipe:
            json.dump([code, error.getvalue()], pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else [-9, "TRACEBACK: the process died"]


def start(arguments):
    """Process number of a training command that is to be killed."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            try:
                train.main([str(argument) for argument in arguments])
            finally:
                os._exit(0)
    return child


def contents(results):
    """All of finished folds that must be the same bits: {folder: outcome}."""
    return {path.parent.relative_to(results): outcome(path.parent) for path in done_files(results)}


def done_files(results):
    return sorted(Path(results).glob(f"*/*/*/*/fold*/{runs.DONE_FILE}"))


# ------------------------------------------------------------------------------------------------- kills


def kill(count, seed, folder):
    """Faults of `count` kills."""
    manifest = write_corpus(folder / "corpus")
    base = ["--db", manifest, *SETTINGS, "--epochs", "3", "--fold", "all", "--track", "all", "--runs"]
    before = time.monotonic()
    assert run(train.main, [*base, folder / "expected"])[0] == 0
    duration = time.monotonic() - before
    expected = contents(folder / "expected")
    draw, faults, kills, rounds = random.Random(seed), [], 0, 0
    while kills < count:
        rounds += 1
        results, finished = folder / f"round{rounds}", {}
        while kills < count and len(done_files(results)) < len(expected):
            for child in [start([*base, results]) for _ in range(1 + kills % 2)]:
                time.sleep(draw.uniform(0, 0.4 * duration))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
            for path in done_files(results):
                stamp = path.stat().st_mtime_ns, path.stat().st_ino
                if finished.setdefault(path, stamp) != stamp:
                    faults.append(f"{path}: finished twice")
        code, error = run(train.main, [*base, results])
        found = contents(results)
        if code or found.keys() != expected.keys():
            faults.append(f"round {rounds}: exit {code} {error}, {len(found)} of {len(expected)} folds")
        faults += [f"round {rounds}: {name} differs" for name in found if found[name] != expected.get(name)]
        faults += [f"round {rounds}: {path} is left over" for path in results.rglob(".*")]
        shutil.rmtree(results)
    print(f"{kills} kills in {rounds} rounds of {len(expected)} folds, {len(faults)} faults")
    return faults


# --------------------------------------------------------------------------------------------- mutations


def damage(path, draw):
    """Change a file in one of the ways that disks, editors and transfers do; gives a description."""
    content = bytearray(path.read_bytes())
    kind = draw.choice(["flip", "cut", "empty", "insert", "zero", "line", "twice", "text", "remove"])
    position = draw.randrange(len(content)) if content else 0
    lines = bytes(content).split(b"\n")
    if kind == "flip" and content:
        content[position] ^= 1 << draw.randrange(8)
    elif kind == "cut":
        del content[position:]
    elif kind == "empty":
        content.clear()
    elif kind == "insert":
        content[position:position] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
    elif kind == "zero":
        content[position : position + 64] = bytes(len(content[position : position + 64]))
    elif kind == "line":
        del lines[draw.randrange(len(lines))]
        content = b"\n".join(lines)
    elif kind == "twice":
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
        content = b"\n".join(lines)
    elif kind == "text":
        for old, new in ((b"0", b"7"), (b",", b";"), (b"S1", b"S2"), (b"happy", b"sad"), (b".", b"nan")):
            if old in content and draw.random() < 0.5:
                at = draw.choice([i for i in range(len(content)) if content[i : i + len(old)] == old])
                content[at : at + len(old)] = new
    if kind == "remove":
        path.unlink()
    else:
        path.write_bytes(content)
    return f"{kind} {path.name}"


FLAGS = """--fold --epochs --batch-size --lr --seed --track --eval-every --save-every --normalization --db --root --runs
--device --protocol --model --overlap --log-floor --dropout --bn-momentum --aggregation --gate --nonsense""".split()
VALUES = ["0", "-1", "1", "2", "99", "1e400", "nan", "", " ", "S1", "all", "0-1", "3-1", "1-", "../x", "/dev/null"]
VALUES += ["ü", "-", "tft", "x" * 300]
FILES = dict(  # what can be damaged
    recording="corpus/wav/*/*.wav", manifest="corpus/*.csv", cache="cache/*", result="runs/*/*/*/*/fold2/*",
    state=f"half/*/*/*/*/fold2/{runs.STATE_FILE}",
)  # fmt: skip
CLAIMS = "utterances recordings epochs seed fold model normalization batch_size".split()


def stop_after_an_epoch(arguments):
    with pytest.MonkeyPatch.context() as patch:
        stop_before(1, patch)
        train.main(arguments)


class Target:
    """What the mutations start from: a corpus, a finished run and another in training, restored before each."""

    folders = ("corpus", "cache", "runs", "half")

    def __init__(self, folder):
        self.folder, manifest = folder, write_corpus(folder / "corpus")
        self.base = ["--db", manifest, *SETTINGS, "--epochs", "1", "--runs", folder / "runs"]
        assert run(train.main, self.base)[0] == 0
        self.expected = self.results()
        longer = ["--db", manifest, *SETTINGS, "--epochs", "2", "--runs"]
        assert run(train.main, [*longer, folder / "whole"])[0] == 0
        self.whole, self.longer = contents(folder / "whole"), [*longer, folder / "half"]
        assert run(stop_after_an_epoch, self.longer)[0] == cli.EXIT_INTERRUPTED
        for name in self.folders:
            shutil.copytree(folder / name, folder / f"sound-{name}")

    def restore(self):
        for name in self.folders:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.folder / f"sound-{name}", self.folder / name)

    def results(self):
        """What the tables are made of: {fold folder: (claims, utterances, scores)} of the finished folds."""
        found = {}
        for *_, folder in runs.find_folds(self.folder / "runs"):
            if runs.is_done(folder):
                fold = runs.read_fold(folder)
                claims = [fold.config.settings[name] for name in CLAIMS]
                found[str(folder)] = (claims, fold.ids, fold.scores.tobytes())
        return found


def mutate(count, seed, folder):
    """Faults of `count` mutated inputs."""
    target, draw, faults, outcomes = Target(folder), random.Random(seed), [], {}
    for number in range(count):
        target.restore()
        kind = draw.choice(["recording", "manifest", "cache", "result", "result", "state", "argument"])
        arguments = list(target.base)
        if kind == "argument":
            arguments += [draw.choice(FLAGS), draw.choice(VALUES)]
            change = f"{arguments[-2]} {arguments[-1][:20]!r}"
        else:
            change = damage(draw.choice(sorted(folder.glob(FILES[kind]))), draw)
        name = f"mutation {number} ({kind}: {change})"
        if kind == "state":
            code, error = run(train.main, target.longer)
            if code or contents(folder / "half") != target.whole:
                faults.append(f"{name}: exit {code} {error[:300]}, or other bits")
        else:
            for command, main, more in (
                ("evaluate", evaluate.main, ["--runs", folder / "runs", "--format", "json"]),
                ("audit", evaluate.main, ["--runs", folder / "runs", "--audit"]),
                ("train", train.main, arguments),
            ):
                code, error = run(main, more)
                is_one_line = command != "train" or not code or error.count("\n") == 1
                if "TRACEBACK" in error or code not in (0, 1, 2, 3) or not is_one_line:
                    faults.append(f"{name}: {command} ended with {code}: {error[:300]}")
            faults += [f"{name}: {fault}" for fault in compare(target, code == 0 and kind in ("cache", "result"))]
            for stray in Path.cwd().iterdir():
                if "--runs" not in change:  # which may name a folder here
                    faults.append(f"{name}: wrote {stray.name} outside its folders")
                shutil.rmtree(stray)
        outcomes[kind, code] = outcomes.get((kind, code), 0) + 1
    table = ", ".join(f"{kind} exit {code}: {times}" for (kind, code), times in sorted(outcomes.items()))
    print(f"{count} mutations ({table}), {len(faults)} faults")
    return faults


def compare(target, must_be_restored):
    """Faults in the results after a mutation."""
    try:
        found = target.results()
    except runs.RunError as error:
        yield str(error)
        return
    for name, now in found.items():
        before = target.expected.get(name)
        if before and now[0] == before[0] and now != before:
            yield f"{name} changed, and nothing was reported"
    if must_be_restored and found != target.expected:
        yield "was not trained again"


# --------------------------------------------------------------------------------------------------- disk


LIMITS = (100_000, 0, 3_000_000, 500)  # bytes: the small files; none; all but checkpoint and state; some small ones


def disk(count, seed, folder):
    """Faults of a run that finds no room for its files, and of the same run with room again, for `count` LIMITS."""
    manifest = write_corpus(folder / "corpus")
    base = ["--db", manifest, *SETTINGS, "--runs"]
    assert run(train.main, [*base, folder / "expected"])[0] == 0
    faults = []
    for limit in LIMITS[:count]:
        results = folder / f"runs{limit}"

        def limited(arguments, limit=limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            train.main(arguments)

        code, error = run(limited, [*base, results])
        if code != cli.EXIT_USAGE or error.count("\n") != 1:
            faults.append(f"limit {limit}: exit {code}: {error[:300]}")
        code, error = run(train.main, [*base, results])
        if code or contents(results) != contents(folder / "expected") or list(results.rglob(".*")):
            faults.append(f"limit {limit}: with room again: exit {code} {error[:300]}, or other bits, or leftovers")
    print(f"{len(LIMITS[:count])} file-size limits, {len(faults)} faults")
    return faults


# ------------------------------------------------------------------------------------------- the command

KINDS = dict(kill=kill, mutate=mutate, disk=disk)


def stress(kind, count, seed, folder):
    """Faults of a kind of stress, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_front_ends(patch)
        patch.setenv("SER_CACHE", str(folder / "cache"))
        (folder / "here").mkdir()
        patch.chdir(folder / "here")
        return KINDS[kind](count, seed, folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--count", type=int, default=50, help="kills, mutations, or limits")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        faults = stress(options.kind, options.count, options.seed, Path(name))
    print(*faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
