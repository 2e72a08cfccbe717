"""The study of both papers: its trainings as data, and one report of a database from their predictions.

    python benchmarks/study.py --db casia --root path/to/casia             # the papers' tables: train, export, report
    python benchmarks/study.py --db casia --root path/to/casia --part all --print     # print the commands, run none
    python benchmarks/study.py --db casia --root path/to/casia --part epochs-10-15 settings -- --device cuda
    python benchmarks/study.py --db casia --report                         # the report alone; nothing is trained

A part is a key of STUDIES, `settings` (all studies that change one setting) or `all`. Arguments after `--` go to each
train.py and win over those of a study, but not over the setting that it changes. Predictions are exported next to the
published ones: the part `main` to benchmarks/results/<db>/, others to benchmarks/results/studies/<part>/<db>/;
--results names another folder. Repeat a command that was interrupted: finished folds are skipped.
"""

import os
import shlex
import signal
import subprocess
import sys
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import protocols
from common import cli, config, methods, runs
from reporting import figures, published, summary, tables

# ------------------------------------------------------------------------------------ the study as data

FAMILIES = {  # network -> itself and its ablations
    "tft": ("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"),
    "atfnn": ("atfnn", "afnn", "atnn", "tfnn"),
}
MODELS = tuple(chain(*FAMILIES.values()))
PROTOCOLS = {"iemocap": ("speaker", "session")}  # of the papers' tables; other databases: speaker
SETTINGS = (  # options of train.py that the papers leave open, each changed by itself
    *(f"--normalization {kind}" for kind in ("none", "segment", "utterance", "speaker")),
    "--overlap 0.5",
    *(f"--pre-emphasis {scope}" for scope in ("none", "segment", "utterance")),
    *("--log-floor 1e-10", "--log-floor 1e-3"),
    "--dropout 0.1",
    "--aggregation majority",
    "--double-softmax",
    "--bn-momentum 0.01",
    *("--f-encoder-heads 1", "--f-encoder-heads 4"),
    *("--gate softmax", "--gate none"),
    "--t-attention-input encoded",
    *("--precision bfloat16", "--precision float32"),
)


class Study(NamedTuple):
    """Trainings that belong together."""

    purpose: str
    options: dict  # network -> options of train.py
    ablations: bool = False  # of the networks too
    setting: str = ""  # of SETTINGS, the option that is changed


def setting_name(setting):
    """--overlap 0.5 -> overlap-0.5, the name of its study."""
    return setting.removeprefix("--").replace(" ", "-")


SHORT = dict(tft="--epochs 15 --eval-every 3", atfnn="--epochs 10 --eval-every 2")
LONGER = dict(tft="--epochs 30 --eval-every 3", atfnn="--epochs 30 --eval-every 5")
BASELINE = "epochs-10-15"  # the study that the changed settings are compared with
STUDIES = {
    "main": Study("the papers' tables", dict.fromkeys(FAMILIES, "--track all"), ablations=True),
    "epochs-100": Study("TFT for as long as ATFNN", dict(tft="--epochs 100"), ablations=True),
    "epochs-100-normalization-none": Study("the same, not normalised", dict(tft="--epochs 100 --normalization none")),
    "epochs-30": Study(
        "held-out speakers for longer", {network: f"--track validation {LONGER[network]}" for network in LONGER}
    ),
    BASELINE: Study(
        "short, of all networks", {network: f"--track all {SHORT[network]}" for network in SHORT}, ablations=True
    ),
    **{
        setting_name(setting): Study(
            f"{setting} changed, else as {BASELINE}",
            {network: f"--track validation {SHORT[network]}" for network in SHORT},
            setting=setting,
        )
        for setting in SETTINGS
    },
}
PARTS = {name: [name] for name in STUDIES} | dict(settings=[*map(setting_name, SETTINGS)], all=list(STUDIES))
OWN_OPTIONS = ("--db", "--root", "--model", "--protocol", "--fold", "--seed", "--runs", "--check")


def folder_of(name):
    """Folder of a study below those of the runs and of the results."""
    return Path() if name == "main" else Path("studies") / name


# -------------------------------------------------------------------------------------- its commands


def settings_of(arguments, model):
    """Settings of a run that arguments of train.py give."""
    return config.settings_of(config.parse_command_line(["--model", model, *arguments]), methods.find(model))


def train_commands(options, name):
    """Commands of the trainings of a study."""
    study = STUDIES[name]
    for protocol in PROTOCOLS.get(options.db, ("speaker",)) if name == "main" else ("speaker",):
        for network, arguments in study.options.items():
            given = [*arguments.split(), *options.train]
            changed = [*given, *study.setting.split()]
            for model in FAMILIES[network] if study.ablations else (network,):
                if study.setting and settings_of(changed, model) == settings_of(given, model):
                    continue  # the model lacks the setting, or has it anyway
                if model in options.model:
                    command = ["train.py", "--db", options.db, "--model", model, "--seed", options.seed, *changed]
                    command += ["--root", options.root] if options.root else []
                    command += ["--protocol", protocol] if protocol != "speaker" else []
                    yield [*command, "--runs", str(options.runs / folder_of(name))]


def check_results(options, name, command):
    """Raise UsageError for a command that cannot run, or whose results could not be exported next to others."""
    wanted = config.parse_command_line(command[1:])
    config.check_options(wanted)
    path = options.results / folder_of(name) / protocols.database_name(options.db) / published.RUNS_FILE
    if not path.exists() or (wanted.model, wanted.protocol) not in (found := published.read(path).runs):
        return
    settings = dict(config.settings_of(wanted, methods.find(wanted.model)), eval_every=wanted.eval_every)
    found = found[wanted.model, wanted.protocol][0]["settings"]
    for setting in ("eval_every", *config.CORE_SETTINGS, *config.OPEN_SETTINGS):
        if settings.get(setting) != found.get(setting):
            old, new = (values.get(setting, "the default") for values in (found, settings))
            raise protocols.UsageError(
                f"{path}: holds {wanted.model} with {setting} {old}, not {new}; name another --results"
            )


def run_study(options):
    """Train, export and report what the options name, or print the commands."""
    planned = [(name, command) for name in options.part for command in train_commands(options, name)]
    if not planned:
        raise protocols.UsageError(f"--part {' '.join(options.part)}: trains none of --model {' '.join(options.model)}")
    if not options.print:
        for name, command in planned:
            check_results(options, name, command)
    for name in dict.fromkeys(name for name, _ in planned):
        for part, command in planned:
            if part == name:
                run(command, f"{name}: {STUDIES[name].purpose}", options)
        folders = [str(folder / folder_of(name)) for folder in (options.runs, options.results)]
        run(["evaluate.py", "--db", options.db, "--runs", folders[0], "--export", folders[1]], "to publish", options)
    report = ["benchmarks/study.py", "--db", options.db, "--report", "--results", str(options.results)]
    run(report, "the report", options)


def run(command, purpose, options):
    """Print a command of this project and run it; exit with its code where it fails."""
    command = [os.path.relpath(PROJECT / command[0]), *command[1:]]
    print(f"python {shlex.join(command)}  # {purpose}", flush=True)
    if not options.print and (code := subprocess.run([sys.executable, *command]).returncode):
        sys.exit(code)  # the command has printed why


# ------------------------------------------------------------------------------------ published results

COLUMNS = (  # WAR of what: {seed: WAR in per cent} each
    "held-out speakers", "tested speakers", "tested speakers, chosen epoch", "tested speakers, nobody held out",
)  # fmt: skip
HELD_OUT, _, CHOSEN, _ = COLUMNS
FEWEST_SEEDS = 3  # whose differences have a standard error
SEEDS_TO_DECIDE = 5  # the first three put normalization none ahead for TFT by 2.4 standard errors, all five by 0.7
STANDARD_ERRORS = 2  # a setting must beat the default by more, on held-out speakers
IGNORED = (*runs.FOLD_SETTINGS, "track", "eval_every", "front_end")  # settings that may differ between trainings


class Results:
    """Published results of a study under one protocol."""

    def __init__(self, name, folder, database, protocol="speaker"):
        self.name, self.folder, self.database, self.protocol = name, folder / folder_of(name), database, protocol
        self.models = [model for model in MODELS if any(self.found(track).get(model) for track in runs.TRAINED_TRACKS)]

    @cache
    def found(self, track):
        """{model: {seed: [FoldResult]}}, incomplete seeds too."""
        found, notes = summary.collect(self.folder, self.protocol, None, track, self.database)
        if notes:
            raise runs.RunError("; ".join(notes))
        return {model: by_seed for (_, model), by_seed in found.items()}

    def folds(self, model, track):
        """{seed: [FoldResult]} of the seeds with all folds."""
        by_seed = self.found(track).get(model, {})
        return {seed: folds for seed, folds in by_seed.items() if summary.is_complete(folds)}

    @cache
    def summary(self, model, track):
        """Summary of a model, or None."""
        return summary.summarize(self.found(track).get(model, {}))

    @cache
    def curves(self, model, track):
        """{seed: [FoldCurve]} of the seeds with all folds."""
        return {seed: [*map(published.fold_curve, folds)] for seed, folds in self.folds(model, track).items()}

    def wars(self, model):
        """{column of COLUMNS: {seed: WAR}}, see the introduction of the report."""
        validation, last = self.curves(model, "validation"), self.curves(model, "last")
        chosen = {
            seed: 100 * protocols.war(sum(protocols.confusion(fold.labels, fold.scores) for fold in folds))
            for seed, folds in self.folds(model, "validation").items()
        }
        wars = pooled_war(validation, "held_out"), pooled_war(validation, "test"), chosen, pooled_war(last, "test")
        return dict(zip(COLUMNS, wars))

    def settings(self, model):
        """Settings of the seeds with all folds, or None where there is none."""
        folds = chain(*(chain(*self.folds(model, track).values()) for track in runs.TRAINED_TRACKS))
        return next((fold.config.settings for fold in folds), None)


def pooled_war(curves, name, at=-1):
    """{seed: WAR} over all folds, of the speakers `test` or `held_out`, at an evaluated epoch."""
    return {
        seed: 100 * protocols.war(sum(getattr(curve, name)[at] for curve in folds)) for seed, folds in curves.items()
    }


def gain(ours, base):
    """Mean difference over the seeds that both have, and its standard error; None where there are too few seeds."""
    differences = [ours[seed] - base[seed] for seed in sorted(ours.keys() & base.keys())]
    if not differences:
        return None, None
    error = float(np.std(differences, ddof=1) / len(differences) ** 0.5) if len(differences) >= FEWEST_SEEDS else None
    return float(np.mean(differences)), error


def is_better(gains):
    """True if all gains (mean, standard error) are clear, False if one is not, None if there are too few seeds."""
    clear = [mean > STANDARD_ERRORS * error if error else None for mean, error in gains]  # error 0: all seeds alike
    return False if False in clear else None if None in clear else True


# ------------------------------------------------------------------------------- tables of the report


def mean_std(mean, std):
    """28.53 (std 3.85); without the standard deviation for one seed."""
    return tables.percent(mean) + ("" if std is None else f" (std {std:.2f})")


def over_seeds(values):
    """Cell of one value for each seed."""
    values = list(values)
    return mean_std(np.mean(values), np.std(values, ddof=1) if len(values) > 1 else None) if values else "-"


def gain_cell(ours, base):
    """34.38, +4.97 (SE 1.49): mean over the seeds that both have, and its difference."""
    difference, error = gain(ours, base)
    if difference is None:
        return "-"
    mean = np.mean([ours[seed] for seed in ours.keys() & base.keys()])
    return f"{mean:.2f}, {difference:+.2f}" + ("" if error is None else f" (SE {error:.2f})")


def comparison_row(labels, ours, base=None, differing=()):
    """Cells for Results.wars, and for those that they are compared with, where no other setting differs."""
    if differing:
        return [*labels, f"differs in {', '.join(differing)} too: not compared", *["-"] * len(COLUMNS)]
    seeds = [sorted(ours[column].keys() & (base or ours)[column].keys()) for column in COLUMNS]
    cells = [gain_cell(ours[c], base[c]) if base else over_seeds(ours[c].values()) for c in COLUMNS]
    return [*labels, " / ".join(dict.fromkeys(tables.ranges(part) for part in seeds if part)) or "-", *cells]


def published_table(results):
    """All published figures of a database, next to ours."""
    papers = {row["model"]: row for row in published.read_published() if row["database"] == results.database}
    header = ["model", "paper WAR", "paper UAR", "our WAR", "our UAR", "difference", "95 % over speakers",
              "paper inside", "WAR, validation", "WAR, oracle", "seeds", "folds", "notes"]  # fmt: skip
    rows = []
    for model in MODELS:
        paper = papers.get(model, dict(war=None, uar=None))
        last, *others = (results.summary(model, track) for track in runs.TRACKS)
        row = [model, tables.percent(paper["war"]), tables.percent(paper["uar"]), *["-"] * (len(header) - 3)]
        row[8:10] = [mean_std(other.war, other.war_std) if other else "-" for other in others]
        if last:
            row[3:5] = mean_std(last.war, last.war_std), mean_std(last.uar, last.uar_std)
            row[10:] = tables.ranges(last.seeds), f"{last.folds_done}/{last.folds_total}", "; ".join(last.notes) or "-"
            low, high = last.war_speakers or (None, None)
            row[6] = "-" if low is None else f"{low:.2f} to {high:.2f}"
            if paper["war"] is not None:
                row[5] = f"{last.war - paper['war']:+.2f}"
                row[7] = "-" if low is None else "yes" if low <= paper["war"] <= high else "no"
        rows.append(row)
    return tables.markdown_rows(header, rows)


def ablation_table(studies):
    """Each ablation against its full network, in each study that has both; "" where none has."""
    rows = []
    for results in studies:
        for network, (_, *ablations) in FAMILIES.items():
            full, ablations = results.settings(network), [model for model in ablations if results.settings(model)]
            if full and ablations:
                base = results.wars(network)
                rows.append(comparison_row([results.name, network], base))
                for model in ablations:
                    shared = {k: v for k, v in full.items() if model in config.OPEN_SETTINGS.get(k, (model,))}
                    shared["model"] = model
                    differing = runs.different_settings(shared, results.settings(model), IGNORED)
                    rows.append(comparison_row([results.name, model], results.wars(model), base, differing))
    return tables.markdown_rows(["study", "model", "seeds", *COLUMNS], rows) if rows else ""


def settings_section(studies):
    """Table of the changed settings against BASELINE, and a sentence with the verdicts; "" where there is none."""
    by_name = {results.name: results for results in studies}
    baseline, rows, verdicts = by_name.get(BASELINE), [], {True: [], False: [], None: []}
    bases = {network: baseline.wars(network) for network in FAMILIES if baseline and baseline.settings(network)}
    for setting in SETTINGS:
        results, flags = by_name.get(setting_name(setting)), setting.split()
        label = setting_name(setting) + (" (transductive)" if flags[-1] == "speaker" else "")
        having = [network for network in FAMILIES if settings_of(flags, network) != settings_of([], network)]
        gains = dict.fromkeys(having, (None, None))
        for network, base in bases.items():
            found = results and results.settings(network)
            if not found:
                continue
            name, before = flags[0][2:].replace("-", "_"), baseline.settings(network)
            expected = before | {k: v for k, v in settings_of(flags, network).items() if k == name}
            differing = runs.different_settings(expected, found, IGNORED)
            ours = results.wars(network)
            if found["eval_every"] != before["eval_every"]:
                ours[CHOSEN] = {}  # chosen among other epochs
            rows.append(comparison_row([label, network], ours, base, differing))
            is_enough = len(ours[HELD_OUT].keys() & base[HELD_OUT].keys()) >= SEEDS_TO_DECIDE and not differing
            gains[network] = gain(ours[HELD_OUT], base[HELD_OUT]) if is_enough else (None, None)
        if results:
            verdicts[is_better(gains.values())].append(label)
    if not rows:
        return ""
    rows = [*(comparison_row([BASELINE, network], base) for network, base in bases.items()), *rows]
    verdict = (
        f"Better than {BASELINE} on held-out speakers, by more than {STANDARD_ERRORS} standard errors on at least "
    )
    verdict += f"{SEEDS_TO_DECIDE} seeds, for TFT and ATFNN where both have the setting: "
    verdict += f"{', '.join(verdicts[True]) or 'none'}."
    for text, labels in ("Not so", verdicts[False]), ("Too few trainings to decide", verdicts[None]):
        verdict += f" {text}: {', '.join(labels)}." if labels else ""
    return tables.markdown_rows(["setting", "model", "seeds", *COLUMNS], rows) + "\n\n" + verdict


def confusion_table(results, model):
    """Per cent of each true class, all folds and seeds, and in brackets the paper's; "" where there is no result."""
    ours = results.summary(model, "last")
    if not ours:
        return ""
    _, paper = figures.published_rates(results.database, model, ours.classes) or ("", None)
    rows = [[name, *(f"{rate:.0f}" for rate in row)] for name, row in zip(ours.classes, figures.rates(ours.confusion))]
    if paper is not None:
        rows = [[name, *(f"{a} ({b:.0f})" for a, b in zip(row, rates))] for (name, *row), rates in zip(rows, paper)]
    return tables.markdown_rows([f"{model}: true class", *ours.classes], rows)


def speaker_table(results):
    """WAR of each tested speaker, mean over seeds."""
    models = [model for model in results.models if results.folds(model, "last")]
    wars = {model: figures.speaker_war(chain(*results.folds(model, "last").values())) for model in models}
    speakers = list(dict.fromkeys(chain(*wars.values())))
    rows = [[name, *(over_seeds(wars[model].get(name, ())) for model in models)] for name in speakers]
    return tables.markdown_rows(["tested speaker", *models], rows) if rows else ""


def curve_tables(results, most_rows=20):
    """Learning curves of a study, a table for the models of a track that were evaluated after the same epochs."""
    groups = {}  # (track, epochs) -> {model: {seed: [FoldCurve]}}
    for track in runs.TRAINED_TRACKS:
        for model in results.models:
            if curves := results.curves(model, track):
                epochs = tuple(next(iter(curves.values()))[0].epochs.tolist())
                groups.setdefault((track, epochs), {})[model] = curves
    for (track, epochs), by_model in groups.items():
        speakers = {"held-out": "held_out", "tested": "test"} if track == "validation" else {"tested": "test"}
        rows = []
        for i in np.unique(np.linspace(0, len(epochs) - 1, min(most_rows, len(epochs))).round().astype(int)):
            rows.append([epochs[i]])
            for curves in by_model.values():
                loss = np.mean([curve.loss[epochs[i] - 1] for curve in chain(*curves.values())])
                wars = (over_seeds(pooled_war(curves, name, i).values()) for name in speakers.values())
                rows[-1] += [f"{loss:.3f}", *wars]
        header = [f"{model} {title}" for model in by_model for title in ("loss", *speakers)]
        yield tables.markdown_rows([f"{results.name}, {track}: epoch", *header], rows)


def training_table(studies):
    """Seeds, settings, machine and code of all trainings; models that share them are in one row."""
    names, rows = ("device", "threads", "engine", "folds_at_once", "torch"), {}
    for results in studies:
        for model in results.models:
            seeds = {}  # facts of a training -> its seeds
            for track in runs.TRAINED_TRACKS:
                for fold in chain(*results.found(track).get(model, {}).values()):
                    machines = [*fold.config.earlier_machines, fold.config.machine]
                    machine = (", then ".join(dict.fromkeys(str(m.get(name, "-")) for m in machines)) for name in names)
                    settings, code = fold.config.settings, fold.config.code.get("models.py", "-")[:8]
                    deviations = "; ".join(fold.config.deviations) or "none"
                    facts = (track, settings.get("epochs", "-"), deviations, *machine, code)
                    seeds.setdefault(facts, set()).add(settings["seed"])
            for facts, its_seeds in seeds.items():
                rows.setdefault((results.name, tables.ranges(sorted(its_seeds)), *facts), []).append(model)
    header = ["study", "models", "seeds", "track", "epochs", "not the default", *names, "models.py"]
    return tables.markdown_rows(header, [[key[0], ", ".join(models), *key[1:]] for key, models in rows.items()])


# ------------------------------------------------------------------------------------------ the report

INTRODUCTION = """\
WAR and UAR are in per cent, pooled over all folds. `std` is the standard deviation over seeds, `SE` the standard error
of a mean difference over the seeds that both trainings have. `main` is the longest training of each network, in the
folder `{db}`; the other studies are in `studies/<study>/{db}`. In the tables of differences are

- *{0}*: those that the track `validation` holds out, after the last epoch. They alone choose between settings.
- *{1}*: the same trainings, without the held-out speakers.
- *{2}*: the same trainings, each fold at the epoch that its held-out speakers chose.
- *{3}*: the track `last`, trained on all other speakers, after the last epoch."""


def report(folder, database):
    """Parts of the report of a database, from the published results below a folder."""
    found = [path.parts[-3] for path in sorted(folder.glob(f"studies/*/{database}/{published.RUNS_FILE}"))]
    names = [name for name in STUDIES if name in ["main", *found]] + [name for name in found if name not in STUDIES]
    studies = [results for name in names if (results := Results(name, folder, database)).models]
    mains = [Results("main", folder, database, protocol) for protocol in PROTOCOLS.get(database, ("speaker",))]
    if not studies and not any(main.models for main in mains):
        raise protocols.UsageError(f"{folder}: has no published results of {database}; export some, or set --results")
    yield f"# {database}: results in detail"
    command = f"python benchmarks/study.py --db {database} --report"
    yield f"Made by `{command}` from the predictions in `{folder.as_posix()}`."
    yield INTRODUCTION.format(*COLUMNS, db=database)
    for main in mains:
        if main.models:
            yield f"## Published figures and ours, leaving one {main.protocol} out"
            yield published_table(main)
            yield speaker_table(main)
            yield "Confusions in per cent of each true class, over all folds and seeds; in brackets the paper's."
            yield from (confusion_table(main, network) for network in FAMILIES)
    yield "## Ablations"
    yield ablation_table(studies) or "Not run."
    yield "## Settings that the papers leave open"
    yield settings_section(studies) or f"Not run: `python benchmarks/study.py --db {database} --part settings`."
    yield "## Learning curves"
    yield from chain(*(curve_tables(results) for results in studies if results.name not in PARTS["settings"]))
    yield "## Trainings"
    yield training_table(studies)


def write_report(options):
    """Write the report of a database next to its published results."""
    database = protocols.database_name(options.db)
    path = options.results / f"{database}.md"
    runs.write_text(path, "\n\n".join(part for part in report(options.results, database) if part) + "\n")
    print(f"{path}: written")


def parse_command_line(arguments=None):
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--db", required=True, help="database, or the path of a manifest .csv")
    add("--root", help="folder of the recordings (default: as of train.py)")
    add("--part", nargs="+", choices=PARTS, default=["main"], metavar="PART", help="studies to run (default main)")
    add("--model", nargs="+", choices=MODELS, default=MODELS, help="models to train (default: all of a study)")
    add("--seed", default="0-4", help="seeds (default 0-4)")
    add("--runs", type=Path, default=Path("runs"), help="folder of the runs (default runs)")
    add("--results", type=Path, help="folder of predictions and report (default: benchmarks/results)")
    add("--print", action="store_true", help="print the commands and run none")
    add("--report", action="store_true", help="write the report alone; train nothing")
    options = parser.parse_args(arguments[:end])
    options.train = arguments[end + 1 :]
    options.results = options.results or Path(os.path.relpath(published.RESULTS))
    options.part = list(dict.fromkeys(chain(*(PARTS[part] for part in options.part))))
    if own := [argument for argument in options.train if argument.partition("=")[0] in OWN_OPTIONS]:
        parser.error(f"{own[0]}: is an option of study.py itself; give it before --")
    return options


def main(arguments=None):
    options = parse_command_line(arguments)
    write_report(options) if options.report else run_study(options)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, which ends the training too
    with cli.exit_on_error("study.py"):
        main()
