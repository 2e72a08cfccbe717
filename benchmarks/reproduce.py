"""Every row of both papers' tables, and what their open decisions are worth, by the commands that a user would type.

    python benchmarks/reproduce.py --print                            # the commands, one line for each row of a table
    python benchmarks/reproduce.py --db casia --root path/to/casia    # train what is missing, then write the results
    python benchmarks/reproduce.py --db casia --root path/to/casia --part rows --model tft atfnn -- --device cuda
    python benchmarks/reproduce.py --db casia --root path/to/casia --part sensitivity --setting "overlap 0.5" --seed 0

Parts, in this order: `rows` trains the eight models (five seeds, both tracks); `sensitivity` trains TFT and ATFNN
with one setting changed at a time; `results` writes benchmarks/results/<db>/ (predictions, from which the tables
can be made again without training) and <db>.md (benchmarks/report.py). What follows `--` goes to every train.py;
a study's own setting wins over it, and is passed over where the rows have it anyway.
Interrupted, the same command goes on: finished folds are skipped. A shortened study (`--tft-epochs 15`) says so in
every table. Relative folders are below the one that it is called in.
"""

import os
import shlex
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import archive
import protocols
import recipes
import results

DATABASES = {"iemocap": ("speaker", "session"), "abc": ("speaker",), "casia": ("speaker",)}  # -> protocols
ROWS = {  # model -> tables in which it has a row, in the order in which they are worth having
    "tft": "TFT Tables 4 and 5",
    "atfnn": "ATFNN Tables II and III",
    **dict.fromkeys(("tft-t+f", "tft-t+tf", "tft-f+tf"), "TFT Table 5"),
    **dict.fromkeys(("afnn", "atnn", "tfnn"), "ATFNN Table III"),
}
BOTH = ("tft", "atfnn")
FAMILIES = [  # with their ablations
    [model for model in ROWS if recipes.RECIPES[model] is recipes.RECIPES[full]] for full in BOTH
]
SENSITIVITY = [  # name, options of train.py, models; epochs 100 and 300 are read off longer rows
    *((f"normalization {one}", ("--normalization", one), BOTH) for one in ("none", "segment", "utterance", "speaker")),
    ("overlap 0.5", ("--overlap", "0.5"), BOTH),
    ("pre-emphasis none", ("--pre-emphasis", "none"), ("tft",)),
    ("pre-emphasis segment", ("--pre-emphasis", "segment"), ("atfnn",)),
    ("pre-emphasis utterance", ("--pre-emphasis", "utterance"), BOTH),
    ("log-floor 1e-10", ("--log-floor", "1e-10"), BOTH),
    ("log-floor 1e-3", ("--log-floor", "1e-3"), BOTH),
    ("dropout 0.1", ("--dropout", "0.1"), BOTH),
    ("aggregation majority", ("--aggregation", "majority"), BOTH),
    ("double softmax", ("--double-softmax",), ("tft",)),
    ("bn-momentum 0.01", ("--bn-momentum", "0.01"), ("tft",)),
    ("f-encoder-heads 1", ("--f-encoder-heads", "1"), ("atfnn",)),
    ("f-encoder-heads 4", ("--f-encoder-heads", "4"), ("atfnn",)),
    ("gate softmax", ("--gate", "softmax"), ("atfnn",)),
    ("gate none", ("--gate", "none"), ("atfnn",)),
    ("t-attention-input encoded", ("--t-attention-input", "encoded"), ("atfnn",)),
    ("precision bfloat16", ("--precision", "bfloat16"), BOTH),
    ("precision float32", ("--precision", "float32"), BOTH),  # of rows made in bfloat16
]  # fmt: skip
RESULTS = Path("benchmarks/results")  # of the project
OWN_OPTIONS = ("--db", "--model", "--root", "--protocol", "--fold", "--seed", "--track", "--epochs", "--runs")
PARTS = ("rows", "sensitivity", "results")


def folder_of(setting):
    """Below the folder of the runs, or of the predictions."""
    return Path("sensitivity") / setting.replace(" ", "-")


def trainings(db, options):
    """(what it is for, command) of each training of a database, in the order in which they are run."""
    epochs = {
        model: options.tft_epochs if recipe is recipes.TFT_RECIPE else options.atfnn_epochs
        for model, recipe in recipes.RECIPES.items()
    }
    runs = Path(options.runs)

    def training(model, protocol, folder, *more):
        command = ["train.py", "--db", db, "--model", model, "--seed", options.seed, "--track", options.track]
        command += ["--root", options.root] if options.root else []
        command += ["--protocol", protocol] if protocol != "speaker" else []
        command += ["--epochs", str(epochs[model])] if epochs[model] else []
        command += ["--runs", str(folder)] if folder != Path("runs") else []
        return [*command, *options.train, *more]

    def settings(command, model):
        return recipes.settings_of(recipes.parse_command_line(command[1:]), model)

    if "rows" in options.part:
        for protocol in DATABASES[db]:
            for model, tables in ROWS.items():
                if model in options.model:
                    yield f"{tables}, leaving one {protocol} out", training(model, protocol, runs)
    if "sensitivity" in options.part:
        for setting, flags, models in SENSITIVITY:
            if setting not in (options.setting or [setting]):
                continue
            changed = {model: training(model, "speaker", runs / folder_of(setting), *flags) for model in models}
            studied = [
                model for model in models
                if model in options.model
                and settings(changed[model], model) != settings(training(model, "speaker", runs), model)
            ]  # fmt: skip
            if options.setting and not studied:
                raise protocols.UsageError(f"--setting {setting}: the rows have it already; give them another after --")
            for model in studied:
                yield f"{model}: {setting}", changed[model]


def exports(db, options):
    """The same of predictions and report, of what is trained by then; UsageError where --db names one without."""
    runs, published = Path(options.runs), Path(options.results or os.path.relpath(PROJECT / RESULTS))
    if "results" in options.part:
        folders = [Path(), *(folder_of(setting) for setting, *_ in SENSITIVITY)]
        made = folders if options.print else [folder for folder in folders if has_finished(runs / folder, db)]
        if not made and options.db:
            raise protocols.UsageError(f"{runs}: has no finished fold of {db}; train some, or set --runs")
        for folder in made:
            yield (
                f"predictions of {folder if folder.parts else 'the rows'}",
                ["evaluate.py", "--db", db, "--runs", str(runs / folder), "--export", str(published / folder)],
            )
        more = ["--results", options.results] if options.results else []
        if made:
            yield "the report", ["benchmarks/report.py", "--db", db, *more]


def has_finished(runs, db):
    folds = (place for track in results.TRAINED for place in results.find_folds(runs, track))
    return any(database == db and results.is_done(folder) for database, *_, folder in folds)


def check_results(db, planned, options):
    """UsageError where predictions of other settings lie where those of a training to come are to be exported."""
    for _, command in planned:
        config = recipes.parse_command_line(command[1:])
        folder = Path(options.results or PROJECT / RESULTS) / Path(config.runs).relative_to(options.runs)
        path = folder / db / f"{config.model}-{config.protocol}.json"
        if not path.exists():
            continue
        told = archive.read(path, archive.ARCHIVE)["shared"]["settings"]
        there = {name: value for name, value in told.items() if name in (*recipes.ALWAYS, *recipes.OPEN, "eval_every")}
        wanted = dict(recipes.settings_of(config, config.model), eval_every=config.eval_every)
        if differs := results.differing(wanted, there, aside=()):
            was, now = (one.get(differs[0], "as usual") for one in (there, wanted))
            raise protocols.UsageError(
                f"{path}: is of {differs[0]} {was}, not {now}; name another --results, or remove it"
            )


def parse_command_line(arguments=None):
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = results.OneLineParser(__doc__)
    add = parser.add_argument
    add("--db", choices=DATABASES, help="one database only (default: all)")
    add("--root", help="folder of the recordings, for --db (default: as train.py's)")
    add("--part", nargs="+", choices=PARTS, default=PARTS, help="what to do (default: all of it)")
    add("--model", nargs="+", choices=ROWS, default=tuple(ROWS), help="models to train (default: all)")
    add("--setting", nargs="+", choices=[one[0] for one in SENSITIVITY], help="of the sensitivity study (default: all)")
    add("--seed", default="0-4", help="seeds (default: 0-4)")
    add("--track", default="all", choices=("last", "validation", "all"), help="as train.py's (default: all)")
    add("--tft-epochs", type=recipes.bounded(int, 1), help="epochs of TFT and its ablations (default: the paper's)")
    add("--atfnn-epochs", type=recipes.bounded(int, 1), help="epochs of ATFNN and its ablations (default: train.py's)")
    add("--runs", default="runs", help="folder of the runs (default: runs)")
    add("--results", help="folder of predictions and report (default: the project's benchmarks/results)")
    add("--print", action="store_true", help="print the commands and run none")
    options = parser.parse_args(arguments[:split])
    options.train = arguments[split + 1 :]
    if options.root and not options.db:
        parser.error("--root: belongs to one database; name it with --db")
    if taken := [one for one in options.train if one.partition("=")[0] in OWN_OPTIONS]:
        parser.error(f"{taken[0]}: is an option of reproduce.py itself; give it before --")
    studied = {setting: models for setting, _, models in SENSITIVITY if set(models) & set(options.model)}
    if idle := [setting for setting in options.setting or () if setting not in studied]:
        parser.error(f"--setting {idle[0]}: none of --model has it")
    if options.setting and "sensitivity" not in options.part:
        parser.error("--setting: belongs to --part sensitivity")
    return options


def main(arguments=None):
    options = parse_command_line(arguments)
    chosen = [options.db] if options.db else DATABASES
    planned = {db: list(trainings(db, options)) for db in chosen}
    for purpose, command in chain(*planned.values()):  # a mistake is told before anything is trained
        try:
            recipes.check_options(recipes.parse_command_line(command[1:]))
        except protocols.UsageError as error:
            raise protocols.UsageError(f"{purpose}: {error}") from None
    if "results" in options.part and not options.print:
        for db in chosen:
            check_results(db, planned[db], options)
    found = False
    for db in chosen:
        for purpose, command in chain(planned[db], exports(db, options)):
            found = True
            command[0] = os.path.relpath(PROJECT / command[0])
            print(f"python {shlex.join(command)}  # {purpose}", flush=True)
            if not options.print:
                done = subprocess.run([sys.executable, *command])
                if done.returncode:  # it has said why
                    sys.exit(done.returncode)
    if not found and "results" not in options.part:
        raise protocols.UsageError("--part sensitivity: changes nothing that --model has; name tft or atfnn")
    if not found:
        raise protocols.UsageError(f"{options.runs}: has no finished fold of any database; train some, or set --runs")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which ends the training too
    with results.plain_errors("reproduce.py"):
        main()
