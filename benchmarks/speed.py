"""Training speed of both models against a plain PyTorch loop, in one process, and how memory grows.

    python benchmarks/speed.py                         # TFT and ATFNN on the GPU if there is one, else the CPU
    python benchmarks/speed.py --model atfnn --steps 10 --repeats 3

The plain loop is what a researcher would write first: contiguous float32 tensors, DataLoader, default Adam,
`loss.item()` at each step, and for ATFNN attention over 8-vectors and Conv1d in place of the exact scalar
form. Both run the same segments in the same order from the same weights; the runs alternate after a burn-in.
Prints milliseconds per step (median), the ratio, the largest difference of the losses, what saving the state of a
fold costs at the default of train.py, and the peak memory of a training process at three numbers of segments,
beside what the features take of it. `--deterministic` times our loop as train.py runs it under that option.
"""

import argparse
import ctypes
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engine
import features
import models
import train

CLASSES = 6
BURN_IN = 2  # steps
MEMORY_SEGMENTS = (2_000, 4_000, 8_000)


class PlainFrequencyEncoder(models.FrequencyEncoder):
    """F-Encoder with attention over vectors and Conv1d, from the same weights."""

    def forward(self, x):
        b, _, f, t = x.shape
        tokens = self.lift(x.squeeze(1).transpose(1, 2).reshape(b * t, f, 1))  # (b * t, f, c)
        y = self.norm_attention(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])
        first, relu, second = self.convolutions
        z = nn.functional.conv1d(y.transpose(1, 2), first.weight.squeeze(2), first.bias, padding=2)
        z = nn.functional.conv1d(relu(z), second.weight.squeeze(2), second.bias, padding=2).transpose(1, 2)
        return self.norm_convolution(y + z).view(b, t, f, -1)


class PlainConvEncoder(models.ConvEncoder):
    """The layers one after the other."""

    def forward(self, x):
        return self.layers(x).mean(1)


PLAIN = {models.FrequencyEncoder: PlainFrequencyEncoder, models.ConvEncoder: PlainConvEncoder}


def segments_of_noise(front_end, number, device):
    """A step takes the same time whatever it hears: (number, bands, frames) and labels."""
    generator = torch.Generator().manual_seed(0)
    segments = torch.randn(number, front_end.bands, front_end.frames, generator=generator)
    return segments.to(device), torch.randint(CLASSES, (number,), generator=generator).to(device)


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def plain_loop(name, segments, labels, recipe, device):
    """Milliseconds and loss of each step of the plain loop."""
    torch.manual_seed(0)
    model = models.build(name, CLASSES)
    for part in model.modules():
        part.__class__ = PLAIN.get(part.__class__, part.__class__)
    model = model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    loader = DataLoader(TensorDataset(segments.cpu()[:, None], labels.cpu()), recipe.batch_size)
    times, losses, start = [], [], time.perf_counter()
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        times.append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
    return times, losses


def our_loop(name, segments, labels, recipe, device):
    """Milliseconds and loss of each step of train.py's own step."""
    model = engine.make_model(name, CLASSES, 0, features.FRONT_ENDS[recipe.front_end], device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True)
    times, losses = [], []
    for index in torch.arange(len(segments), device=device).split(recipe.batch_size):
        start = time.perf_counter()
        losses.append(engine.train_step(model, optimizer, segments[index].unsqueeze(1), labels[index]))
        wait(device)
        times.append(1e3 * (time.perf_counter() - start))
    return times, [loss.item() for loss in losses]


def release_memory(keep):
    """glibc as train.py sets it, or as a process starts."""
    if keep:
        features.keep_freed_memory()
    elif platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 65_536)  # M_MMAP_MAX
        libc.mallopt(-1, 128 * 1024)  # M_TRIM_THRESHOLD
        libc.malloc_trim(0)


def compare(name, steps, repeats, device):
    """Median milliseconds per step of both loops, and the largest difference of their losses."""
    recipe = train.RECIPES[name]
    segments, labels = segments_of_noise(
        features.FRONT_ENDS[recipe.front_end], recipe.batch_size * (steps + BURN_IN), device
    )
    plain, ours, difference = [], [], 0.0
    for _ in range(repeats):
        release_memory(keep=False)
        times, expected = plain_loop(name, segments, labels, recipe, device)
        plain += times[BURN_IN:]
        release_memory(keep=device == "cpu")
        times, losses = our_loop(name, segments, labels, recipe, device)
        ours += times[BURN_IN:]
        difference = max(difference, *(abs(a - b) for a, b in zip(losses, expected)))
    return statistics.median(plain), statistics.median(ours), difference


def saving(name, device):
    """Milliseconds (median) in which train.py saves the state of a fold in training, and the state's MB."""
    recipe = train.RECIPES[name]
    segments, labels = segments_of_noise(features.FRONT_ENDS[recipe.front_end], recipe.batch_size, device)
    each = np.arange(len(segments))
    data = engine.Data(
        SimpleNamespace(classes=range(CLASSES)), SimpleNamespace(counts=np.ones_like(each)), segments, labels,
        torch.from_numpy(each).to(device),
    )  # fmt: skip
    settings = dict(
        model=name, seed=0, front_end=asdict(features.FRONT_ENDS[recipe.front_end]), normalization="none",
        epochs=1, batch_size=recipe.batch_size, lr=recipe.lr, precision="float32",
    )  # fmt: skip
    run = train.FoldRun.__new__(train.FoldRun)  # without a folder
    run.job, run.data = train.Job(Path(), None, each, [], settings, []), data
    run.start(engine.choose_engine("auto", device))
    run.training.begin_epoch(), run.training.end_epoch()
    times = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        for _ in range(7):
            start = time.perf_counter()
            run.save(path)
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times), path.stat().st_size / 2**20


def peak_memory(segments):
    """Peak resident MB of a fresh process that trains TFT for three steps on so many segments."""
    told = subprocess.run(
        [sys.executable, __file__, "--peak-of", str(segments)], check=True, capture_output=True, text=True
    )
    return float(told.stdout)


def train_and_tell_peak(number):
    features.keep_freed_memory()
    recipe = train.RECIPES["tft"]
    segments, labels = segments_of_noise(features.FRONT_ENDS["tft"], number, "cpu")
    our_loop("tft", segments[: 3 * recipe.batch_size], labels, recipe, "cpu")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", nargs="+", default=["tft", "atfnn"], choices=list(train.RECIPES))
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a run")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each loop, in turn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--deterministic", action="store_true", help="as the option of train.py")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        return train_and_tell_peak(options.peak_of)
    if options.deterministic:
        engine.prepare(options.device, deterministic=True)
    chip = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{chip}, torch {torch.__version__}, float32, medians of {options.steps * options.repeats} steps")
    print(f"{'model':8} {'batch':>5} {'plain ms':>9} {'ours ms':>9} {'ratio':>6} {'loss difference':>16}")
    for name in options.model:
        plain, ours, difference = compare(name, options.steps, options.repeats, options.device)
        print(
            f"{name:8} {train.RECIPES[name].batch_size:5} {plain:9.0f} {ours:9.0f} {plain / ours:6.2f}"
            f" {difference:16.1e}",
            flush=True,
        )
    every = train.Config().save_every
    print(f"\n{'model':8} {'state MB':>8} {'saving ms':>9} {f'% of {every:.0f} s':>9}")
    for name in options.model:
        spent, size = saving(name, options.device)
        print(f"{name:8} {size:8.1f} {spent:9.0f} {spent / every / 10:9.2f}", flush=True)
    if options.device == "cpu":
        print(f"\n{'segments':>8} {'features MB':>12} {'peak MB':>8} {'rest MB':>8}")
        for number in MEMORY_SEGMENTS:
            held, peak = number * 80 * 80 * 4 / 2**20, peak_memory(number)
            print(f"{number:8} {held:12.0f} {peak:8.0f} {peak - held:8.0f}", flush=True)


if __name__ == "__main__":
    main()
