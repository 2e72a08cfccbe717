"""What several test files share: a tiny corpus, tiny front ends, and commands that run in this process.

    python tests/helpers.py --db small.csv ...    # train.py with the tiny front ends, in a process of its own

Trainings take about 0.1 s, so that a test can afford several.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

import features
import train
from common import cli, runs
from training.trainer import FoldTrainer

PROJECT = Path(__file__).resolve().parents[1]
TINY = dict(n_mels=40, frames=16)  # TFT takes multiples of 8 and 16, ATFNN of 5 and 8
TINY_FRONT_ENDS = {name: replace(features.FRONT_ENDS[name], **TINY) for name in features.PAPER_FRONT_ENDS}
TINY_FRONT_ENDS["spectrum-20"] = replace(features.FRONT_ENDS["spectrum-20"], n_mels=40, frames=40)
QUICK = "--model atnn --fold 2 --epochs 2 --batch-size 16 --eval-every 1 --device cpu".split()
SPEAKERS, EMOTIONS = ("S1", "S2", "S3", "S4"), ("angry", "happy", "sad")

# --------------------------------------------------------------------------------- tiny inputs


def tiny_front_ends(patch):
    """Replace front ends by ones of 40 bands and 16 or 40 frames (0.17 or 0.43 s), until `patch` is undone."""
    for name, front_end in TINY_FRONT_ENDS.items():
        patch.setitem(features.FRONT_ENDS, name, front_end)


def write_corpus(root):
    """Write tones: wav/<speaker>/<emotion>_<n>.wav, 24 files, and their manifest small.csv, whose path it gives.

    An emotion is a tone's pitch; speakers differ in noise and length: 2, 3, 3 and 4 tiny segments an utterance.
    """
    generator, lines = np.random.default_rng(0), ["path,emotion,speaker"]
    for i, speaker in enumerate(SPEAKERS):
        (root / "wav" / speaker).mkdir(parents=True)
        time = np.arange(int(16_000 * (0.3 + 0.1 * i))) / 16_000  # s
        for j, emotion in enumerate(EMOTIONS):
            for number in (1, 2):
                tone = np.sin(2 * np.pi * (400 * 3**j + 20 * i) * time)
                noise = generator.normal(0, 0.05 * (i + 1), len(time))
                path = f"wav/{speaker}/{emotion}_0{number}.wav"
                soundfile.write(root / path, 0.3 * tone + 0.3 * noise, 16_000)
                lines.append(f"{path},{emotion},{speaker}")
    (root / "small.csv").write_text("\n".join(lines) + "\n")
    return root / "small.csv"


def shaken(module):
    """The module in float64 with all weights and running statistics moved, so that none is 0 or 1 by default."""
    with torch.no_grad():
        for name, value in module.double().state_dict().items():
            if value.is_floating_point():
                value += 0.3 * torch.rand_like(value) if "running" in name else 0.2 * torch.randn_like(value)
    return module


# ----------------------------------------------------------------------------------- commands


def command(main, *arguments):
    """Exit code of a command that runs in this process."""
    try:
        with cli.exit_on_error(f"{main.__module__}.py"):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


def run_train(manifest, results, *more):
    """Exit code of train.py: ATNN, fold 2, 2 epochs of 4 steps, both evaluated; `more` arguments take precedence."""
    return command(train.main, "--db", manifest, "--runs", results, *QUICK, *more)


def start_train(manifest, results, *more, **environment):
    """Start run_train in a process of its own; gives the process."""
    arguments = [Path(__file__), "--db", manifest, "--runs", results, *QUICK, *more]
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=dict(os.environ, PYTHONPATH=str(PROJECT), **environment),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def folder_of(results, model="atnn", number=2, seed=0, track="last"):
    """Folder of a fold that run_train trained on the tiny corpus."""
    return runs.fold_folder(results, "small", model, "speaker", seed, number, track)


def stop_before(epoch, patch):
    """Press Ctrl-C when a fold has trained `epoch` epochs and begins the next, until `patch` is undone."""
    next_order = FoldTrainer.next_order

    def stopping(self):
        if self.epoch == epoch:
            raise KeyboardInterrupt
        return next_order(self)

    patch.setattr(FoldTrainer, "next_order", stopping)


# ------------------------------------------------------------------------------------ results


def log_of(folder):
    """Training log of a fold, (epochs, 3): epoch, loss, seconds."""
    return np.loadtxt(folder / "log.csv", delimiter=",", skiprows=1, ndmin=2)


def outcome(folder):
    """What of a fold must be the same bits, whatever interrupted it and whoever trained it."""
    assert runs.is_done(folder)
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return (
        (folder / "predictions.csv").read_bytes(),
        log_of(folder)[:, :2].tobytes(),
        {name: value.tobytes() for name, value in runs.read_epochs(folder).items()},
        {name: value.numpy().tobytes() for name, value in checkpoint["model"].items()},
    )


if __name__ == "__main__":
    features.FRONT_ENDS.update(TINY_FRONT_ENDS)
    os.fsync = lambda file: None
    with cli.exit_on_error("train.py"):
        train.main(sys.argv[1:])
