"""Training speed of each engine against a plain PyTorch loop, in one process, and what it grows with.

    python benchmarks/speed.py                         # on the GPU if there is one, else the CPU
    python benchmarks/speed.py --model atfnn --steps 10 --repeats 3 --out /tmp/speed.md

Prints Markdown tables and writes them to benchmarks/results/speed-<device>.md. The plain loop is what a researcher
would write first: contiguous float32 tensors, a DataLoader (on a GPU with two workers), default Adam, `loss.item()` at
each step, one fold at a time, and for ATFNN attention over 8-vectors and Conv1d in place of the exact scalar form. Both
run the same segments from the same weights with the same choice of cuDNN's kernels (the fastest by trial, or with
--deterministic); the runs alternate after a burn-in, and medians are shown. "folds" are trained at once, and a step is
that of one of them: the time of all, divided by their number. "start s" is what the first epoch takes longer;
compiling is in the first row of its precision alone (TFT), or in each (ATFNN).

Shares of ceilings: products and sums that a step needs, over the rate of a large matrix product in its precision
measured here (on a GPU float32 means TF32, as in PyTorch's convolutions); and bytes that it must move at least (each
output of a convolution, linear layer or LSTM written and read, its gradient too, and itself read once more going
back), over the bandwidth of a large copy measured here.
"""

import argparse
import ctypes
import platform
import re
import resource
import shlex
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
from torch.nn.functional import conv1d, cross_entropy
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engine
import features
import models
import recipes
import results
import tables
import train

CLASSES = 6
ENGINES = ("eager", "graph", "compiled")
PRECISIONS = {"float32": 4, "bfloat16": 2}  # -> bytes of a number
BURN_IN = 2  # steps
MEMORY_SEGMENTS = (2_000, 4_000, 8_000)
# segments of a database by front end (as train.py counts them; each is trained on in all folds but one), folds
DATABASES = {"iemocap": (dict(tft=13_547, atfnn=8_942), 10), "casia": (dict(tft=3_381, atfnn=2_512), 4)}


# ---------------------------------------------------------------------------------------- the plain loop


class PlainFrequencyEncoder(models.FrequencyEncoder):
    """F-Encoder with attention over vectors and Conv1d, from the same weights."""

    def forward(self, x):
        b, _, f, t = x.shape
        tokens = self.lift(x.squeeze(1).transpose(1, 2).reshape(b * t, f, 1))  # (b * t, f, c)
        y = self.norm_attention(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])
        first, relu, second = self.convolutions
        z = conv1d(y.transpose(1, 2), first.weight.squeeze(2), first.bias, padding=2)
        z = conv1d(relu(z), second.weight.squeeze(2), second.bias, padding=2).transpose(1, 2)
        return self.norm_convolution(y + z).view(b, t, f, -1)


class PlainConvEncoder(models.ConvEncoder):
    """The layers one after the other."""

    def forward(self, x):
        return self.layers(x).mean(1)


PLAIN = {models.FrequencyEncoder: PlainFrequencyEncoder, models.ConvEncoder: PlainConvEncoder}


def plain_model(name, kinds=PLAIN):
    torch.manual_seed(0)
    model = models.build(name, CLASSES)
    for part in model.modules():
        part.__class__ = kinds.get(part.__class__, part.__class__)
    return model


def plain_loop(name, data, batch_size, lr):
    """Seconds of each step of the plain loop after the burn-in, and all losses."""
    device = data.segments.device
    model = plain_model(name).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    workers = 2 if device.type == "cuda" else 0  # on a CPU they would take time from the step
    loader = DataLoader(TensorDataset(data.segments.cpu()[:, None], data.labels.cpu()), batch_size, num_workers=workers)
    times, losses, start = [], [], time.perf_counter()
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
    return times[BURN_IN:], losses


# ---------------------------------------------------------------------------------------------- our loop


def noise(front_end, number, device):
    """A step takes the same time whatever it hears."""
    generator = torch.Generator().manual_seed(0)
    segments = torch.randn(number, front_end.bands, front_end.frames, generator=generator)
    labels = torch.randint(CLASSES, (number,), generator=generator)
    heard = SimpleNamespace(counts=np.ones(number, int))
    database = SimpleNamespace(classes=range(CLASSES))
    return engine.Data(database, heard, segments.to(device), labels.to(device), torch.arange(number, device=device))


def settings_of(name):
    recipe = recipes.RECIPES[name]
    front_end = asdict(features.FRONT_ENDS[recipe.front_end])
    told = dict(model=name, seed=0, front_end=front_end, normalization="none", precision="float32")
    return dict(told, batch_size=recipe.batch_size, lr=recipe.lr)


def trainings(data, settings, kind, folds):
    runs = [engine.Training(data, settings, range(len(data.labels)), kind) for _ in range(folds)]
    engine.train_as_one(runs)
    return runs


def our_loop(data, settings, kind, folds=1):
    """Seconds per step of one fold with `folds` at once, and the seconds of the first epoch."""
    runs, spent = trainings(data, settings, kind, folds), []
    for _ in range(2):
        start = time.perf_counter()
        for run in runs:
            run.begin_epoch()
        engine.take_turns(runs)
        for run in runs:
            run.end_epoch()
        spent.append(time.perf_counter() - start)
    for run in runs:
        run.leave()  # so that its stack is free
    return spent[1] / len(runs[0].sizes), spent[0]


def in_order(segments, seed, epoch):
    return torch.arange(segments)


def first_losses(data, settings, kind):
    """Losses in the order in which the plain loop reads the segments."""
    usual, engine.epoch_order = engine.epoch_order, in_order
    try:
        (run,) = trainings(data, settings, kind, 1)
        run.begin_epoch()
        losses = run.end_epoch()
        run.leave()
        return losses
    finally:
        engine.epoch_order = usual


def release_memory(keep):
    """glibc as train.py sets it, or as a process starts."""
    if keep:
        features.keep_freed_memory()
    elif platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 65_536)  # M_MMAP_MAX
        libc.mallopt(-1, 128 * 1024)  # M_TRIM_THRESHOLD
        libc.malloc_trim(0)


# ------------------------------------------------------------------------------------------- the ceilings


def timed(work, device, repeats=7):
    """Median seconds of a piece of work."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def ceilings(device):
    """Floating-point operations per second of a large product by precision, and bytes per second of a large copy."""
    size = 8192 if device == "cuda" else 2048
    rates, usual = {}, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    for precision in PRECISIONS:
        a, b = torch.randn(2, size, size, device=device).to(getattr(torch, precision))
        rates[precision] = 2 * size**3 / timed(lambda: a @ b, device)
    torch.backends.cuda.matmul.allow_tf32 = usual
    source = torch.randn((1 << 29) if device == "cuda" else (1 << 26), device=device)
    target = torch.empty_like(source)
    return rates, 2 * source.nbytes / timed(lambda: target.copy_(source), device)


def demand(name):
    """Operations, and values to be moved, that training needs for one segment, at least."""
    model, told = plain_model(name, {models.ConvEncoder: PlainConvEncoder}), []  # calls its layers, which tell

    def count(module, inputs, output):
        if isinstance(module, nn.LSTM):
            x = inputs[0]
            gates, layers, ways = 4 * module.hidden_size, module.num_layers, 2
            sizes = [x.shape[2]] + [ways * module.hidden_size] * (layers - 1)
            frames = x.shape[0] * x.shape[1]
            told.append((2 * frames * ways * gates * sum(n + module.hidden_size for n in sizes),
                         frames * ways * layers * (gates + module.hidden_size)))  # fmt: skip
        else:
            weight = module.weight
            told.append((2 * output.numel() * weight[0].numel(), output.numel()))

    for part in model.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear, nn.LSTM)):
            part.register_forward_hook(count)
    front_end = features.FRONT_ENDS[recipes.RECIPES[name].front_end]
    model(torch.randn(1, 1, front_end.bands, front_end.frames))
    operations, values = map(sum, zip(*told))
    return 3 * operations, 5 * values


# ---------------------------------------------------------------------------------------------- the tables


def table(header, rows):
    return tables.markdown_rows(header, rows) + "\n"


def loops_of(options):
    """(engine, precision, folds at once) of our loops."""
    engines = [("eager", (1,))]
    if options.device == "cuda":
        engines += [("graph", (1, 4)), ("compiled", (1, 4, 10, 20))]
    engines = [(kind, folds) for kind, folds in engines if kind in options.engine]
    return [(kind, precision, n) for kind, folds in engines for precision in options.precision for n in folds]


def compare(options, name, rates, bandwidth):
    """Rows of the main table for one model, and its seconds per segment by engine."""
    settings, device, steps = settings_of(name), options.device, options.steps + BURN_IN
    size = settings["batch_size"]
    data = noise(features.FrontEnd(**settings["front_end"]), size * steps, device)
    operations, values = demand(name)
    plain, ours, begun, peaks = [], {how: [] for how in loops_of(options)}, {}, {}
    for _ in range(options.repeats):
        release_memory(keep=False)
        times, expected = plain_loop(name, data, size, settings["lr"])
        plain += times
        release_memory(keep=device == "cpu")
        for how in ours:
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            kind, precision, folds = how
            spent, first = our_loop(data, settings | dict(precision=precision), kind, folds)
            ours[how].append(spent / folds)
            begun.setdefault(how, max(0.0, first - spent * steps))
            peaks[how] = torch.cuda.max_memory_reserved() / 2**20 if device == "cuda" else None
    usual, rows, differences = statistics.median(plain), [], {}
    rows.append(
        [name, "plain loop", "float32", 1, f"{1e3 * usual:.2f}", f"{size / usual:.0f}", "1.00", "", "", "", "", ""]
    )
    for how, spent in ours.items():
        spent = statistics.median(spent)
        if how[:2] not in differences:
            losses = first_losses(data, settings | dict(precision=how[1]), how[0])
            differences[how[:2]] = max(abs(a - b) for a, b in zip(losses, expected))
        rows.append([
            name, *how, f"{1e3 * spent:.2f}", f"{size / spent:.0f}", f"{usual / spent:.2f}", f"{differences[how[:2]]:.1e}",
            f"{100 * size * operations / spent / rates[how[1]]:.0f}",
            f"{100 * size * values * PRECISIONS[how[1]] / spent / bandwidth:.0f}",
            f"{begun[how]:.1f}", "" if peaks[how] is None else f"{peaks[how]:.0f}",
        ])  # fmt: skip
    return rows, {how: statistics.median(spent) / size for how, spent in ours.items()}


HEADER = ["model", "engine", "precision", "folds", "ms/step", "segments/s", "ratio", "loss difference",
          "% of product rate", "% of bandwidth", "start s", "peak MB"]  # fmt: skip


def growth(options, name, kind):
    """Seconds per epoch against folds at once, batch size and segments."""
    settings, device = settings_of(name), options.device
    front_end, size = features.FrontEnd(**settings["front_end"]), settings["batch_size"]
    steps, rows = max(2, options.steps // 2), []
    for folds, batch, count in (
        *((folds, size, steps * size) for folds in ((1, 2, 4, 10) if device == "cuda" else (1, 2))),
        *((1, part, steps * size) for part in (size // 4, size * 2)),
        *((1, size, times * steps * size) for times in (2, 4)),
    ):
        spent, _ = our_loop(noise(front_end, count, device), settings | dict(batch_size=batch), kind, folds)
        epoch = spent * -(-count // batch)
        rows.append([name, folds, batch, count, f"{epoch:.2f}", f"{1e6 * epoch / folds / count:.0f}"])
    return rows


def saving(name, device):
    """Seconds (median) in which train.py saves the state of a fold in training, and the state's MB."""
    settings = settings_of(name)
    run = train.FoldRun.__new__(train.FoldRun)  # without a folder
    run.data = noise(features.FrontEnd(**settings["front_end"]), settings["batch_size"], device)
    run.job, run.config = train.Job(Path(), None, range(len(run.data.labels)), [], settings, []), {}
    run.start("eager")
    run.training.begin_epoch(), run.training.end_epoch()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / results.STATE
        return timed(lambda: run.save(path), device), path.stat().st_size / 2**20


def price(name, at_once, seconds):
    """Hours of all folds of a database at the paper's settings, one seed; "" where it has no so many folds at once."""
    recipe = recipes.RECIPES[name]
    cells = []
    for counts, folds in DATABASES.values():
        seen = counts[recipe.front_end] * (folds - 1) * recipe.epochs
        cells.append(f"{seen * seconds / 3600:.2f}" if at_once <= folds else "")
    return cells


def peak_memory(segments):
    """Peak resident MB of a fresh process that trains TFT for three steps on so many segments."""
    told = subprocess.run(
        [sys.executable, __file__, "--peak-of", str(segments)], check=True, capture_output=True, text=True
    )
    return float(told.stdout)


def train_and_tell_peak(number):
    features.keep_freed_memory()
    settings = settings_of("tft")
    data = noise(features.FRONT_ENDS["tft"], number, "cpu")
    run = engine.Training(data, settings, range(number))
    for _ in range(3):
        run.step(settings["batch_size"])
    status = Path("/proc/self/status")  # on Linux: of this process alone, getrusage remembers its parent's too
    peak = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    print(int(peak[1] if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)


def report(options):
    """Yield the parts of the report, as they are measured."""
    device = options.device
    chip = torch.cuda.get_device_name() if device == "cuda" else f"{options.chip}, {torch.get_num_threads()} threads"
    yield f"# Training speed on {chip}\n"
    told = f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}"
    command = shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]])
    yield f"{told}, models.py {train.VERSIONS['models.py'][:8]}, {time.strftime('%Y-%m-%d')}; `{command}`"
    rates, bandwidth = ceilings(device)
    told = ", ".join(f"{rate / 1e12:.2f} TFLOP/s in {precision}" for precision, rate in rates.items())
    yield f"Large product: {told}; large copy: {bandwidth / 1e9:.0f} GB/s.\n"
    best = {}
    for name in options.model:
        rows, best[name] = compare(options, name, rates, bandwidth)
        yield table(HEADER, rows)
    kind = "graph" if device == "cuda" else "eager"
    yield f"What an epoch costs against folds at once, batch size and segments, by the engine {kind} in float32:\n"
    rows = [row for name in options.model for row in growth(options, name, kind)]
    yield table(["model", "folds", "batch", "segments", "s per epoch", "µs per fold and segment"], rows)
    every = recipes.Config().save_every
    yield f"Saving the state of a fold, once in {every:.0f} s:\n"
    costs = {name: saving(name, device) for name in options.model}
    rows = [[name, f"{size:.1f}", f"{1e3 * s:.0f}", f"{100 * s / every:.2f}"] for name, (s, size) in costs.items()]
    yield table(["model", "MB", "ms", "% of the time"], rows)
    yield "Hours of all folds at the paper's settings, one seed (ATFNN: 100 epochs):\n"
    rows = [[name, *how, *price(name, how[2], s)] for name in options.model for how, s in best[name].items()]
    yield table(["model", "engine", "precision", "folds", *DATABASES], rows)
    if device == "cpu":
        yield "Peak memory of a process that trains TFT:\n"
        rows = [[n, f"{n * 80 * 80 * 4 / 2**20:.0f}", f"{peak_memory(n):.0f}"] for n in MEMORY_SEGMENTS]
        yield table(["segments", "MB of features", "MB at the peak"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", nargs="+", default=["tft", "atfnn"], choices=list(recipes.RECIPES))
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a run")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each loop, in turn")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--engine", nargs="+", default=list(ENGINES), choices=ENGINES, help="of our loops")
    parser.add_argument("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS, help="of our loops")
    parser.add_argument("--deterministic", action="store_true", help="as that option of train.py, for both loops")
    parser.add_argument("--chip", default=results.processor(), help="name of the processor")
    parser.add_argument("--out", type=Path, help="file to write (default: benchmarks/results/speed-<device>.md)")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        return train_and_tell_peak(options.peak_of)
    options.device = engine.choose_device(options.device)
    engine.prepare(options.device, options.deterministic)
    if options.device == "cuda" and "compiled" in options.engine and not engine.can_compile():
        print("speed.py: torch.compile does not work here; the engine compiled is left out", file=sys.stderr)
        options.engine = [kind for kind in options.engine if kind != "compiled"]
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.chip
    name = re.sub(r"\W+", "-", name.lower()).strip("-") + ("-deterministic" if options.deterministic else "")
    out, parts = options.out or Path(__file__).with_name("results") / f"speed-{name}.md", []
    begun = out.with_name(out.name + ".part")  # what it has measured when it is cut off
    for part in report(options):
        print(part, flush=True)
        parts.append(part + "\n")
        results.write_text(begun, "".join(parts))
    begun.replace(out)
    print(f"written to {out}")


if __name__ == "__main__":
    with results.plain_errors("speed.py"):
        main()
