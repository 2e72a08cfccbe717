"""Speed of predict.py as its user meets it: whole processes, imports included, against real time.

    python benchmarks/prediction.py --run runs/casia/tft/speaker/seed0/fold1
    python benchmarks/prediction.py --run runs/casia/tft/speaker/seed0 --root recordings/

Prints the median time of predicting one recording of 3 s, and how many seconds of audio are predicted in one over
1000 recordings of 2 s (noise; a step takes the same time whatever it hears), or over those below --root.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import protocols
import results

RATE = 16_000  # Hz


def write_noise(folder, number, seconds):
    generator = np.random.default_rng(0)
    folder.mkdir()
    for i in range(number):
        noise = 0.1 * generator.standard_normal(round(seconds * RATE))
        soundfile.write(folder / f"{i:04}.wav", noise, RATE)
    return folder


def time_predict(run, place):
    """Wall time and processor time of one process, in seconds."""
    start, used = time.perf_counter(), os.times()
    command = [sys.executable, PROJECT / "predict.py", "--run", run, place]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise results.RunError(done.stderr.strip())
    wall, now = time.perf_counter() - start, os.times()
    return wall, now.children_user + now.children_system - used.children_user - used.children_system


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="as for predict.py")
    parser.add_argument("--root", type=Path, help="folder of recordings (default: 1000 of noise)")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{results.processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        one = write_noise(Path(folder) / "one", 1, 3.0)
        time_predict(options.run, one)  # burn-in: files into memory
        times = [time_predict(options.run, one) for _ in range(options.repeats)]
        wall, used = (statistics.median(part) for part in zip(*times))
        print(f"one recording of 3 s, cold start: {wall:.2f} s, processor {used:.2f} s (median of {options.repeats})")
        root = options.root or write_noise(Path(folder) / "many", 1000, 2.0)
        files = protocols.audio_files(root, "**/*")  # those that predict.py takes
        seconds = sum(soundfile.info(root / file).duration for file in files)
        wall, used = time_predict(options.run, root)
        print(f"{len(files)} recordings, {seconds:.0f} s of audio: {wall:.1f} s, processor {used:.1f} s")
        print(f"{seconds / wall:.0f} times real time")


if __name__ == "__main__":
    with results.plain_errors("prediction.py"):
        main()
