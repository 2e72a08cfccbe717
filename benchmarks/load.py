"""Time and memory of the commands on a large corpus, which it generates: check, training and tables.

    python benchmarks/load.py --out /tmp/load20k --utterances 20000 --speakers 40

Prints a Markdown table. Each command is a process of its own; its peak memory includes the features, which it maps from
the cache. The corpus, the cache and the runs stay below --out; a corpus that is there is used again.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import soundfile

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from common import cli, config, runs

SAMPLE_RATE = 16_000  # Hz
EMOTIONS = ("angry", "happy", "neutral", "sad")


def write_corpus(folder, utterances, speakers):
    """Write recordings of 1 to 2 s, a tone by speaker and emotion in noise by emotion, then their manifest."""
    random, lines = np.random.default_rng(0), ["path,emotion,speaker"]
    for i in range(utterances):
        speaker, emotion = i % speakers, i // speakers % len(EMOTIONS)
        number = random.integers(SAMPLE_RATE, 2 * SAMPLE_RATE)  # samples
        tone = np.sin(2 * np.pi * (100 + 5 * speaker) * (1 + emotion) / SAMPLE_RATE * np.arange(number))
        wave = 0.3 * tone + 0.02 * (1 + emotion) * random.standard_normal(number)
        name = f"speaker{speaker:02d}/{i:05d}.wav"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, wave, SAMPLE_RATE, "PCM_16")
        lines.append(f"{name},{EMOTIONS[emotion]},speaker{speaker:02d}")
    runs.write_text(folder / "corpus.csv", "\n".join(lines) + "\n")


def measure(arguments, cache):
    """Run a command; gives its seconds by the clock, those in user mode, and its peak memory in GB."""
    start, command = time.perf_counter(), [sys.executable, PROJECT / arguments[0], *arguments[1:]]
    process = subprocess.Popen(command, env=os.environ | {"SER_CACHE": str(cache)}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait again
    if process.returncode:
        raise runs.RunError(f"{arguments[0]} ended with {process.returncode}, its message stands above")
    return time.perf_counter() - start, used.ru_utime, used.ru_maxrss * 1024 / 1e9  # Linux gives KiB


def main(arguments=None):
    parser = cli.CommandParser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus, the cache and the runs")
    parser.add_argument("--utterances", type=config.bounded(int, 1), default=20_000, help="(default 20000)")
    parser.add_argument("--speakers", type=config.bounded(int, 2), default=40, help="(default 40)")
    options = parser.parse_args(arguments)
    manifest, cache, results = (options.out / name for name in ("corpus/corpus.csv", "cache", "runs"))
    if not manifest.is_file():
        write_corpus(manifest.parent, options.utterances, options.speakers)
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(results, ignore_errors=True)
    fold = "--model afnn --epochs 1 --fold 1 --eval-every 0 --device cpu".split()
    training = ["train.py", "--db", manifest, *fold, "--runs", results]
    commands = {
        "check": ["train.py", "--check", "--db", manifest],
        "features, an epoch of a fold of AFNN": training,
        "repeated: features from the cache, the fold is done": training,
        "tables": ["evaluate.py", "--db", "corpus", "--runs", results],
    }
    print("| what | seconds | in user mode | peak memory, GB |\n|---|---:|---:|---:|")
    for name, command in commands.items():
        seconds, user, memory = measure(command, cache)
        print(f"| {name} | {seconds:.1f} | {user:.1f} | {memory:.2f} |", flush=True)
    size = sum(path.stat().st_size for path in cache.iterdir()) / 1e9
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "torch"))
    from training.scheduler import processor_name  # imports torch; the memory of this process counts for its children

    print(f"\nfeatures: {size:.2f} GB; {len(manifest.read_text().splitlines()) - 1} utterances")
    print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {versions}")


if __name__ == "__main__":
    with cli.exit_on_error("load.py", interrupted="repeat the command"):
        main()
