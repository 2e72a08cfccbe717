"""Speed of predict.py as its user meets it: whole processes, imports included, against real time.

    python benchmarks/prediction.py --run runs/casia/tft/speaker/seed0/fold1
    python benchmarks/prediction.py --run runs/casia/tft/speaker/seed0 --root recordings/

Prints the median time for a recording of 3 s, and the seconds of audio that are predicted in a second over 1000
recordings of 2 s (noise; a step takes as long on it as on speech), or over those below --root.
"""

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
from common import cli, config, runs
from training.scheduler import processor_name

SAMPLE_RATE = 16_000  # Hz


def write_noise(folder, number, seconds):
    """Write recordings of noise to a new folder; gives the folder."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(number):
        wave = 0.1 * random.standard_normal(round(seconds * SAMPLE_RATE))
        soundfile.write(folder / f"{i:04d}.wav", wave, SAMPLE_RATE)
    return folder


def time_predict(run, path):
    """Run predict.py on a recording or folder; gives its seconds by the clock, and of the processor."""
    start, before = time.perf_counter(), os.times()
    command = [sys.executable, PROJECT / "predict.py", "--run", run, path]
    process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if process.returncode:
        raise runs.RunError(process.stderr.strip())
    clock, now = time.perf_counter() - start, os.times()
    return clock, now.children_user + now.children_system - before.children_user - before.children_system


def main(arguments=None):
    parser = cli.CommandParser(__doc__)
    parser.add_argument("--run", required=True, help="as for predict.py")
    parser.add_argument("--root", type=Path, help="folder of recordings (default: 1000 of noise)")
    parser.add_argument("--repeats", type=config.bounded(int, 1), default=5, help="of the single recording (default 5)")
    options = parser.parse_args(arguments)
    print(f"{processor_name()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        single = write_noise(Path(folder) / "single", 1, 3.0)
        time_predict(options.run, single)  # burn-in: files into memory
        times = [time_predict(options.run, single) for _ in range(options.repeats)]
        clock, processor = (statistics.median(part) for part in zip(*times))
        print(f"a recording of 3 s: {clock:.2f} s, processor {processor:.2f} s (median of {options.repeats})")
        root = options.root or write_noise(Path(folder) / "many", 1000, 2.0)
        files = protocols.audio_files(root, "**/*")  # those that predict.py takes
        seconds = sum(soundfile.info(root / file).duration for file in files)
        clock, processor = time_predict(options.run, root)
        print(f"{len(files)} recordings, {seconds:.0f} s of audio: {clock:.1f} s, processor {processor:.1f} s")
        print(f"{seconds / clock:.0f} times real time")


if __name__ == "__main__":
    with cli.exit_on_error("prediction.py", interrupted="it writes nothing"):
        main()
