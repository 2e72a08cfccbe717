"""Training speed of each engine against a plain PyTorch loop, measured in one process.

    python benchmarks/speed.py                         # on the GPU if there is one, else on the CPU
    python benchmarks/speed.py --model atfnn --steps 10 --repeats 3 --out /tmp/speed.md
    python benchmarks/speed.py --forms                 # also plain modules, and ours without each fast class
    python benchmarks/speed.py --turn 8 16 64 --folds-at-once 10          # GPU: recorded steps of a fold in a row

The plain loop is what a researcher would write first: the network as its file has it, a DataLoader (on a GPU with two
workers), default Adam in float32, and `loss.item()` at each step, one fold at a time. Our loops train the same segments
of noise from the same weights in the same order. All loops take turns `--repeats` times, after a burn-in of two steps
(plain) or an epoch (ours); medians are shown. With several folds at once a step is the time of all divided by their
number. It prints a Markdown table and writes it to benchmarks/results/speed-<device>.md:

    ratio             time of a step of the plain loop / time of ours
    loss difference   largest difference from the losses of the plain loop
    % of products     time that the step's matrix products and convolutions would take at the rate of a large product
                      in the same precision, measured here (a GPU's float32 is TF32), as a share of the step
    % of bandwidth    likewise the bytes that it must move at least, at the bandwidth of a large copy: each output of a
                      convolution, linear layer or LSTM and its gradient written and read, and itself read again
    start s           what the first epoch takes longer: recording and compiling, of networks new to the process
"""

import ctypes
import platform
import re
import shlex
import statistics
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import cli, config, methods, runs
from fast import graphs, modules
from reporting import tables
from training import data, scheduler, trainer

CLASSES, SPEAKERS = 6, 3
ENGINES = ("eager", "graph", "compiled")
PRECISIONS = {"float32": 4, "bfloat16": 2}  # -> bytes of a number
BURN_IN = 2  # steps of the plain loop
NETWORKS = [name for name in (*methods.PAPER_SETTINGS, *methods.DEEP) if not methods.find(name).is_fitted]
HEADER = [
    "model", "loop", "precision", "folds", "variant", "ms/step", "segments/s", "ratio", "loss difference",
    "% of products", "% of bandwidth", "start s", "peak MB",
]  # fmt: skip

# ---------------------------------------------------------------------------------------- the plain loop


def front_end_of(name):
    """FrontEnd of a network."""
    return methods.find(name).base_front_end()


def plain_model(name):
    """Network as its file has it, in torch's usual order of axes, with the weights of seed 0."""
    settings = dict(settings_of(name), seed=0)
    network = trainer.make_model(settings, CLASSES, "cpu", build=methods.find(name).build, speakers=SPEAKERS)
    return network.to(memory_format=torch.contiguous_format)


def plain_loop(name, dataset, batch_size, lr):
    """Seconds of each step after the burn-in, and all losses, of the loop that anyone would write."""
    device = dataset.segments.device
    model = plain_model(name).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    x, labels = dataset.segments.cpu()[:, None], dataset.labels.cpu()  # (n, 1, n_mels, frames), (n,)
    tensors = TensorDataset(x, labels, torch.from_numpy(dataset.database.speakers))
    loader = DataLoader(tensors, batch_size, num_workers=2 if device.type == "cuda" else 0)
    seconds, losses, start = [], [], time.perf_counter()
    for batch in loader:
        x, y, speakers = (part.to(device) for part in batch)
        optimizer.zero_grad()
        loss = model.losses(x, y, speakers).mean() if hasattr(model, "losses") else cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return seconds[BURN_IN:], losses


# ------------------------------------------------------------------------------------------- our loops


class Loop(NamedTuple):
    """One of our ways to train."""

    engine: str
    precision: str
    folds: int
    form: str  # key of modules.FORMS
    turn: int  # recorded steps of a fold in a row

    def variant(self, device):
        """What of it is not the default."""
        parts = [] if self.form == device else [self.form]
        return ", ".join(parts + ([] if self.turn == graphs.TURN else [f"turn {self.turn}"]))


def loops_of(options, name):
    """Loops to measure for a model: engines x precisions x folds at once x turns, and with --forms x forms."""
    changed = add_forms(name, options.device) if options.forms else []
    return [
        Loop(engine, precision, folds, form, turn)
        for engine in options.engine
        for precision in options.precision
        for folds in (options.folds_at_once if engine != "eager" else [1])
        for form in [options.device, *(changed if not scheduler.is_stacked(name, engine) else [])]
        for turn in (options.turn if engine != "eager" else [graphs.TURN])
    ]


def add_forms(name, device):
    """Add forms to modules.FORMS that lack a fast class of the model each; gives their names, and `plain`."""
    fast, classes = modules.FORMS[device], {type(module) for module in plain_model(name).modules()}
    lacking = {
        f"without {fast[plain].__name__}": {key: value for key, value in fast.items() if key is not plain}
        for plain in fast
        if plain in classes
    }
    modules.FORMS.update(lacking)
    return ["plain", *lacking]


def noise(front_end, number, device):
    """Data of random segments: a step takes as long on them as on speech."""
    generator = torch.Generator().manual_seed(0)
    segments = torch.randn(number, front_end.n_mels, front_end.frames, generator=generator)
    labels = torch.randint(CLASSES, (number,), generator=generator)
    speakers, counts = np.arange(number) % SPEAKERS, np.ones(number, int)
    database, loaded = SimpleNamespace(classes=range(CLASSES), speakers=speakers), SimpleNamespace(counts=counts)
    return data.Data(database, loaded, segments.to(device), labels.to(device), torch.arange(number, device=device))


def settings_of(name):
    """Settings of a run with a method's own settings, without normalisation."""
    front_end = front_end_of(name).as_settings()
    chosen = {setting: methods.find(name).defaults[setting] for setting in ("batch_size", "lr")}
    return dict(model=name, seed=0, front_end=front_end, normalization="none", **chosen)


def our_loop(dataset, settings, loop):
    """Seconds of a step, what the first epoch took longer, and the losses of its first fold, in order of the data."""
    graphs.TURN, seconds, losses = loop.turn, [], []
    settings = dict(settings, precision=loop.precision)
    number, stacked = len(dataset.labels), scheduler.is_stacked(settings["model"], loop.engine)
    method = methods.find(settings["model"])
    folds = [trainer.FoldTrainer(dataset, settings, range(number), loop.form, method) for _ in range(loop.folds)]
    runner = scheduler.make_runner(loop.engine, stacked)
    for fold in folds:
        fold.next_order = lambda fold=fold: fold.segments  # as the plain loop reads them
    for _ in range(2):
        start = time.perf_counter()
        losses.append(runner.run_epoch(folds)[folds[0]])
        seconds.append(time.perf_counter() - start)
    return seconds[1] / len(losses[1]) / loop.folds, max(0.0, seconds[0] - seconds[1]), losses[0]


def return_freed_memory():
    """Undo trainer.prepare on a CPU: the plain loop runs with the memory allocator of a new process."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 65_536)  # M_MMAP_MAX
        libc.mallopt(-1, 128 * 1024)  # M_TRIM_THRESHOLD
        libc.malloc_trim(0)


# ------------------------------------------------------------------------------------------- ceilings


def median_seconds(work, device, repeats=7):
    """Median seconds of a piece of work, after a first that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure_ceilings(device):
    """Floating-point operations per second of a large product by precision, and bytes per second of a large copy."""
    size, rates = 8192 if device == "cuda" else 2048, {}
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    for precision in PRECISIONS:
        a, b = torch.randn(2, size, size, device=device).to(getattr(torch, precision))
        rates[precision] = 2 * size**3 / median_seconds(lambda: a @ b, device)
    torch.backends.cuda.matmul.allow_tf32 = before
    source = torch.randn((1 << 29) if device == "cuda" else (1 << 26), device=device)
    target = torch.empty_like(source)
    return rates, 2 * source.nbytes / median_seconds(lambda: target.copy_(source), device)


def demand(name):
    """Floating-point operations of a training step, and numbers that it must move at least, for each segment."""
    model, front_end, outputs = plain_model(name), front_end_of(name), []
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output.numel()))
        if isinstance(module, nn.LSTM):
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output[0].numel()))
    # of an LSTM torch counts the products where it computes them by itself
    with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
        with FlopCounterMode(display=False) as counter:
            model(torch.randn(1, 1, front_end.n_mels, front_end.frames))
    return 3 * counter.get_total_flops(), 5 * sum(outputs)


# --------------------------------------------------------------------------------------------- report


def measure(options, name, rates, bandwidth):
    """Rows of the table for one model."""
    settings, steps = settings_of(name), options.steps + BURN_IN
    size, (operations, numbers) = settings["batch_size"], demand(name)
    dataset = noise(front_end_of(name), size * steps, options.device)
    plain, ours, starts, peaks, differences = [], {loop: [] for loop in loops_of(options, name)}, {}, {}, {}
    for _ in range(options.repeats):
        return_freed_memory()
        seconds, expected = plain_loop(name, dataset, size, settings["lr"])
        plain += seconds
        trainer.prepare(options.device, deterministic=False)
        for loop in ours:
            if options.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            seconds, start, losses = our_loop(dataset, settings, loop)
            ours[loop].append(seconds)
            starts.setdefault(loop, start)
            differences[loop] = max(abs(a - b) for a, b in zip(losses, expected, strict=True))
            peaks[loop] = f"{torch.cuda.max_memory_reserved() / 2**20:.0f}" if options.device == "cuda" else ""
    plain = statistics.median(plain)
    row = [name, "plain PyTorch", "float32", 1, "", f"{1e3 * plain:.2f}", f"{size / plain:.0f}", "1.00"]
    rows = [row + [""] * (len(HEADER) - len(row))]
    for loop, seconds in ours.items():
        seconds = statistics.median(seconds)
        products = size * operations / seconds / rates[loop.precision]
        moved = size * numbers * PRECISIONS[loop.precision] / seconds / bandwidth
        rows.append([
            name, loop.engine, loop.precision, loop.folds, loop.variant(options.device), f"{1e3 * seconds:.2f}",
            f"{size / seconds:.0f}", f"{plain / seconds:.2f}", f"{differences[loop]:.1e}", f"{100 * products:.0f}",
            f"{100 * moved:.0f}", f"{starts[loop]:.1f}", peaks[loop],
        ])  # fmt: skip
    return rows


def report(options, device_name):
    """Parts of the report, as they are measured."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}"
    threads = "" if options.device == "cuda" else f", threads: {torch.get_num_threads()}"
    command = shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]])
    yield f"# Training speed on {device_name}{threads}\n"
    yield f"{versions}, models.py {runs.CODE_VERSIONS['models.py'][:8]}, {time.strftime('%Y-%m-%d')}; `{command}`\n"
    rates, bandwidth = measure_ceilings(options.device)
    rates_text = ", ".join(f"{rate / 1e12:.2f} TFLOP/s in {precision}" for precision, rate in rates.items())
    yield f"Large matrix product: {rates_text}; large copy: {bandwidth / 1e9:.0f} GB/s.\n"
    for name in options.model:
        yield tables.markdown_rows(HEADER, measure(options, name, rates, bandwidth)) + "\n"


def parse_command_line(arguments=None):
    parser = cli.CommandParser(__doc__)
    add, whole = parser.add_argument, config.bounded(int, 1)
    add("--model", nargs="+", default=["tft", "atfnn"], choices=NETWORKS, help="networks")
    add("--steps", type=whole, default=6, help="measured steps of a loop (default 6)")
    add("--repeats", type=whole, default=2, help="runs of each loop, in turn (default 2)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default auto)")
    add("--engine", nargs="+", choices=ENGINES, help="of our loops (default: all that run here)")
    add("--precision", nargs="+", default=list(PRECISIONS), choices=PRECISIONS, help="of our loops (default both)")
    add("--folds-at-once", type=whole, nargs="+", default=[1, 4, 10, 20], help="recorded or compiled (1 4 10 20)")
    add("--turn", type=whole, nargs="+", default=[graphs.TURN], help=f"recorded steps in a row ({graphs.TURN})")
    add("--forms", action="store_true", help="also plain modules, and ours without each of the fast classes")
    add("--out", type=Path, help="file to write (default: benchmarks/results/speed-<device>.md)")
    options = parser.parse_args(arguments)
    options.device = data.choose_device(options.device)
    works = [engine for engine in ENGINES if engine == "eager" or options.device == "cuda"]
    if "compiled" in works and not graphs.can_compile():
        works.remove("compiled")
    options.engine = options.engine or works
    if impossible := set(options.engine) - set(works):
        parser.error(f"--engine {min(impossible)}: does not run here; choose {' or '.join(works)}")
    return options


def main(arguments=None):
    options = parse_command_line(arguments)
    trainer.prepare(options.device, deterministic=False)  # both loops take the fastest of cuDNN's kernels
    name = torch.cuda.get_device_name() if options.device == "cuda" else scheduler.processor_name()
    short = re.sub(r"\W+", "-", name.lower()).strip("-")
    path, text = options.out or Path(__file__).with_name("results") / f"speed-{short}.md", ""
    for part in report(options, name):
        print(part, flush=True)
        text += part + "\n"
    runs.write_text(path, text.rstrip() + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    with cli.exit_on_error("speed.py", interrupted="no file was written"):
        main()
