"""Kill training and damage its inputs, and see that results stay the same bits or are refused.

    python benchmarks/torture.py kill --count 200       # SIGKILL at random moments, half of them two at once
    python benchmarks/torture.py mutate --count 1000    # recordings, manifests, cache, results, states, arguments
    python benchmarks/torture.py disk                   # a file-size limit in the place of a full disk

Everything happens on a small synthetic corpus in a temporary folder, on one CPU thread, from `--seed`. Each
command prints what it did and what went wrong; the exit code is 1 where anything did. A kill is wrong if, in
the end, a bit differs from a run that was never interrupted, a fold is lost or finished twice, or a temporary
file is left. A mutation is wrong if it ends in a traceback or more than one line, or if a result differs
although it claims the same recordings and labels.
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

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engine
import evaluate
import results
import train
from benchmarks import synthetic

MODEL = "atnn"  # the fastest to train
SETTINGS = ["--model", MODEL, "--batch-size", "16", "--device", "cpu", "--eval-every", "1", "--save-every", "0"]


# ------------------------------------------------------------------------------------- running commands


def run(main, arguments):
    """Exit code and standard error of a command in a forked process; -9 where it was not foreseen."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code, error = -9, io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            try:
                with results.plain_errors("command"):
                    main([str(argument) for argument in arguments])
                code = 0
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException as wrong:
                error.write(f"TRACEBACK {type(wrong).__name__}: {wrong}")
        with os.fdopen(writer, "w") as pipe:
            json.dump([code, error.getvalue()], pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else [-9, "TRACEBACK: the process died"]


def start(arguments):
    """A training command in a process of its own, to be killed."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
            try:
                with results.plain_errors("train.py"):
                    train.main([str(argument) for argument in arguments])
            finally:
                os._exit(0)
    return child


def make_corpus(root):
    """The small default corpus with 2 utterances of each speaker and emotion, as a manifest of our own."""
    synthetic.write_corpus("manifest", root)
    header, *lines = (root / "manifest.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0].endswith(("_01.wav", "_02.wav"))]
    (root / "manifest.csv").unlink()
    (root / "tiny.csv").write_text("\n".join([header, *kept]) + "\n")
    return root / "tiny.csv"


def contents(runs):
    """Everything of a run that must be the same bits: {file: content}."""
    found = {}
    for path in sorted(Path(runs).glob("*/*/*/*/fold*/*")):
        name = str(path.relative_to(runs))
        if path.name == "predictions.csv":
            found[name] = path.read_bytes()
        elif path.name == "log.csv":
            found[name] = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]  # without seconds
        elif path.name == "epochs.npz":
            found[name] = {key: value.tobytes() for key, value in results.read_epochs(path.parent).items()}
        elif path.name == "checkpoint.pt":
            state = torch.load(path, weights_only=True)
            found[name] = {key: value.numpy().tobytes() for key, value in state["model"].items()}
    return found


# ------------------------------------------------------------------------------------------------- kills


def kill(count, seed, folder):
    """Faults of `count` kills."""
    manifest = make_corpus(folder / "corpus")
    base = ["--db", manifest, *SETTINGS, "--epochs", "3", "--track", "all", "--runs"]
    before = time.monotonic()
    assert run(train.main, [*base, folder / "expected"])[0] == 0
    whole = time.monotonic() - before
    expected = contents(folder / "expected")
    draw, faults, kills, rounds = random.Random(seed), [], 0, 0
    while kills < count:
        rounds += 1
        runs, finished = folder / f"round{rounds}", {}
        while kills < count and sum(path.exists() for path in marked(runs)) < 8:
            children = [start([*base, runs]) for _ in range(1 + kills % 2)]
            for child in children:
                time.sleep(draw.uniform(0, 0.4 * whole))
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                kills += 1
            for path in marked(runs):
                stamp = path.stat().st_mtime_ns, path.stat().st_ino
                if finished.setdefault(path, stamp) != stamp:
                    faults.append(f"{path}: finished twice")
        code, error = run(train.main, [*base, runs])
        found = contents(runs)
        if code or found.keys() != expected.keys():
            faults.append(f"round {rounds}: exit {code} {error}, {len(found)} of {len(expected)} files")
        faults += [f"round {rounds}: {name} differs" for name in found if found[name] != expected.get(name)]
        left = [str(path) for path in runs.rglob(".*")] + [str(path) for path in (folder / "cache").glob(".*")]
        faults += [f"round {rounds}: left {path}" for path in left]
        shutil.rmtree(runs, ignore_errors=True)
    print(f"{kills} kills in {rounds} rounds of 8 folds, {len(faults)} faults")
    return faults


def marked(runs):
    return list(Path(runs).glob(f"*/*/*/*/fold*/{results.MARKER}"))


# --------------------------------------------------------------------------------------------- mutations


def damage(path, draw):
    """Change a file in one of the ways that disks, editors and transfers do; tells which."""
    data = bytearray(path.read_bytes())
    how = draw.choice(["flip", "cut", "empty", "insert", "zero", "line", "twice", "text", "remove"])
    place = draw.randrange(len(data)) if data else 0
    if how == "flip" and data:
        data[place] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del data[place:]
    elif how == "empty":
        data.clear()
    elif how == "insert":
        data[place:place] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9)))
    elif how == "zero":
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    elif how == "line":
        lines = data.split(b"\n")
        del lines[draw.randrange(len(lines))]
        data = b"\n".join(lines)
    elif how == "twice":
        lines = bytes(data).split(b"\n")
        lines.insert(draw.randrange(len(lines)), draw.choice(lines))
        data = b"\n".join(lines)
    elif how == "text":
        for old, new in ((b"0", b"7"), (b",", b";"), (b"S1", b"S2"), (b"happy", b"sad"), (b".", b"nan")):
            if old in data and draw.random() < 0.5:
                at = draw.choice([i for i in range(len(data)) if data[i : i + len(old)] == old])
                data[at : at + len(old)] = new
    if how == "remove":
        path.unlink()
    else:
        path.write_bytes(data)
    return f"{how} {path.name}"


FLAGS = """--fold --epochs --batch-size --lr --seed --track --eval-every --save-every --normalization --db --root --runs
--device --protocol --model --overlap --log-floor --dropout --bn-momentum --aggregation --gate --nonsense""".split()
VALUES = ["0", "-1", "1", "2", "99", "1e400", "nan", "", " ", "S1", "all", "0-1", "3-1", "1-", "../x", "/dev/null"]
VALUES += ["ü", "-", "tft", "x" * 300]


def stop_after_an_epoch(arguments):
    begin_epoch = engine.Training.begin_epoch

    def stopping(self):
        if self.epoch:
            raise KeyboardInterrupt
        begin_epoch(self)

    engine.Training.begin_epoch = stopping  # in this forked process alone
    train.main(arguments)


CLAIMS = "utterances recordings epochs seed fold model normalization batch_size".split()


class Target:
    """What the mutations start from: a corpus, a finished run and one in training, restored before each."""

    names = ("corpus", "cache", "runs", "half")

    def __init__(self, folder):
        self.folder = folder
        self.manifest = make_corpus(folder / "corpus")
        self.base = ["--db", self.manifest, "--fold", "1", *SETTINGS, "--epochs", "1"]
        assert run(train.main, [*self.base, "--runs", folder / "runs"])[0] == 0
        self.expected = self.figures()
        self.longer = [*self.base[:-1], "2", "--runs", folder / "half"]  # two epochs, stopped after the first
        assert run(train.main, [*self.longer[:-1], folder / "whole"])[0] == 0
        assert run(stop_after_an_epoch, self.longer)[0] == results.EXIT_INTERRUPTED
        for name in self.names:
            shutil.copytree(folder / name, folder / f"sound-{name}")

    def restore(self):
        for name in self.names:
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.folder / f"sound-{name}", self.folder / name)

    def figures(self):
        """What the tables are made of: {fold folder: (claims, utterances, scores)} of the finished folds."""
        found = {}
        for *_, folder in results.find_folds(self.folder / "runs"):
            if results.is_done(folder):
                fold = results.read_fold(folder)
                claims = [fold.config["settings"][name] for name in CLAIMS]
                found[str(folder)] = (claims, fold.ids, fold.scores.tobytes())
        return found


def mutate(count, seed, folder):
    """Faults of `count` mutated inputs."""
    target, draw, faults, outcomes = Target(folder), random.Random(seed), [], {}
    for number in range(count):
        target.restore()
        what = draw.choice(["recording", "manifest", "cache", "result", "result", "state", "argument"])
        arguments = [*target.base, "--runs", folder / "runs"]
        if what == "argument":
            flag, value = draw.choice(FLAGS), draw.choice(VALUES)
            arguments += [flag, value]
            how = f"{flag} {value[:20]!r}"
        else:
            places = dict(
                recording="corpus/wav/*/*_0[12].wav",
                manifest="corpus/*.csv",
                cache="cache/*/*",
                result="runs/*/*/*/*/fold1/*",
                state=f"half/*/*/*/*/fold1/{results.STATE}",
            )
            how = damage(draw.choice(sorted(folder.glob(places[what]))), draw)
        if what == "state":
            code, error = run(train.main, target.longer)
            outcomes[what, code] = outcomes.get((what, code), 0) + 1
            if code or contents(folder / "half") != contents(folder / "whole"):
                faults.append(f"mutation {number} (state: {how}): exit {code} {error[:300]}, or other bits")
            continue
        told = [run(evaluate.main, ["--runs", folder / "runs", "--format", "json"]), run(train.main, arguments)]
        told.append(run(evaluate.main, ["--runs", folder / "runs", "--audit"]))
        place = f"mutation {number} ({what}: {how})"
        for name, (code, error) in zip(("evaluate", "train", "audit"), told):
            if (
                "TRACEBACK" in error
                or code not in (0, 1, 2, 3)
                or (name == "train" and code and error.count("\n") != 1)
            ):
                faults.append(f"{place}: {name} ended with {code}: {error[:300]}")
        code = told[1][0]
        outcomes[what, code] = outcomes.get((what, code), 0) + 1
        try:
            found = target.figures()
        except results.RunError as error:
            faults.append(f"{place}: {error}")
            continue
        for name, now in found.items():
            before = target.expected.get(name)
            if before and now[0] == before[0] and now != before:
                faults.append(f"{place}: {name} changed without a word")
        if code == 0 and what in ("cache", "result") and found != target.expected:
            faults.append(f"{place}: was not made good")
        for stray in Path.cwd().iterdir():
            if "--runs" not in how:  # which may name a folder here
                faults.append(f"{place}: wrote {stray.name} outside its folders")
            shutil.rmtree(stray)
    table = ", ".join(f"{what} exit {code}: {n}" for (what, code), n in sorted(outcomes.items()))
    print(f"{count} mutations ({table}), {len(faults)} faults")
    return faults


# --------------------------------------------------------------------------------------------------- disk


def disk(folder):
    """Faults of a run that finds no room for its files, and of the same run after room is made."""
    manifest = make_corpus(folder / "corpus")
    base = ["--db", manifest, "--fold", "1", *SETTINGS, "--epochs", "2", "--runs"]
    assert run(train.main, [*base, folder / "expected"])[0] == 0
    faults = []
    for limit in (0, 4_000, 100_000, 3_000_000):  # bytes: no file, some of the small ones, all but checkpoints
        runs = folder / f"runs{limit}"

        def limited(arguments, limit=limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            train.main(arguments)

        code, error = run(limited, [*base, runs])
        if code != results.EXIT_USAGE or error.count("\n") != 1:
            faults.append(f"limit {limit}: exit {code}: {error[:300]}")
        code, error = run(train.main, [*base, runs])
        if code or contents(runs) != contents(folder / "expected") or list(runs.rglob(".*")):
            faults.append(f"limit {limit}: after room was made: exit {code} {error[:300]}, or other bits, or leftovers")
    print(f"4 file-size limits, {len(faults)} faults")
    return faults


# ------------------------------------------------------------------------------------------- the command


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("kill", "mutate", "disk"))
    parser.add_argument("--count", type=int, default=50, help="kills or mutations")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # forked processes cannot use the threads of their parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SER_CACHE"] = str(folder / "cache")
        (folder / "here").mkdir()
        os.chdir(folder / "here")
        if options.what == "disk":
            faults = disk(folder)
        else:
            faults = (kill if options.what == "kill" else mutate)(options.count, options.seed, folder)
    print(*faults, sep="\n")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
