"""Report of a database, from published predictions alone: findings, tables, confusions, speakers, curves, comparisons.

    python benchmarks/report.py --db casia      # from benchmarks/results/casia/ to benchmarks/results/casia.md

Reads what `evaluate.py --export` wrote (benchmarks/reproduce.py does both) and a page of findings,
benchmarks/results/<db>-findings.md, where there is one. Trains nothing and needs no recordings.
"""

import contextlib
import csv
import io
import shlex
import sys
from itertools import chain, combinations
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import archive
import evaluate
import protocols
import recipes
import results
import tables
from benchmarks import reproduce

DECIDES = "held-out WAR"  # what a setting is chosen by
QUANTITIES = {DECIDES: ("validation", "held"), "test WAR, trained without them": ("validation", "test"),
              "test WAR": ("last", "test")}  # fmt: skip
CHOSEN = "validation"  # a further column: the track's result
EPOCHS_SHOWN = 20  # rows of a table of learning curves, at most
FEWEST_SEEDS = 3  # whose differences have a standard error
SEEDS_TO_DECIDE = 5  # the first three put normalization none ahead for TFT by 2.4 standard errors, all five by 0.7
STANDARD_ERRORS = 2  # by which a setting must beat the default on held-out speakers, for all models that have it
MACHINE = ("device", "threads", "engine", "together", "python", "torch", "numpy")
ASIDE = (*results.FOLD_SETTINGS, "track", "eval_every", "front_end")  # in which compared settings may differ


# ---------------------------------------------------------------------------------------------- reading


class Runs:
    """Finished folds of a database under one protocol, as published."""

    def __init__(self, folder, db, protocol="speaker"):
        self.folder, self.db, self.protocol, self.kept = folder, db, protocol, {}

    def found(self, model, track="last"):
        """{seed: [FoldResult]}"""
        if (model, track) not in self.kept:
            found, damaged = evaluate.collect(self.folder, self.protocol, None, track, self.db, model)
            if damaged:
                raise results.RunError("; ".join(damaged))
            self.kept[model, track] = found.get((self.db, model), {})
        return self.kept[model, track]

    def folds(self, model, track="last"):
        """The same, of the seeds with all folds."""
        return {seed: folds for seed, folds in self.found(model, track).items() if evaluate.is_complete(folds)}

    def counted(self, model, track="last"):
        """The same, or where no seed has all folds, those that evaluate.py counts."""
        found = self.found(model, track)
        return {seed: found[seed] for seed in evaluate.seeds_that_count(found)} if found else {}

    def summary(self, model, track="last"):
        return evaluate.summarize(self.found(model, track))

    def curves(self, model, track, counted=False):
        by_seed = (self.counted if counted else self.folds)(model, track)
        return {seed: list(map(archive.fold_curve, folds)) for seed, folds in by_seed.items()}

    def begun(self):
        """Models with a finished fold."""
        return [model for model in reproduce.ROWS if any(self.found(model, track) for track in results.TRAINED)]

    def ran(self):
        """Models with all folds of a seed."""
        return [model for model in reproduce.ROWS if self.folds(model)]


def pooled(curves, name, at=-1):
    """WAR in per cent of each seed over its folds, {seed: WAR}, at an evaluated epoch: `test` or `held` speakers."""
    return {
        seed: 100 * protocols.war(sum(getattr(curve, name)[at] for curve in folds)) for seed, folds in curves.items()
    }


def whole_folds(runs, model):
    """The folds of the seeds that have all of them, of both trained tracks."""
    return [fold for track in results.TRAINED for folds in runs.folds(model, track).values() for fold in folds]


# -------------------------------------------------------------------------------------------- sections


def spread(values):
    """Mean, and standard deviation over seeds where there are several."""
    values = list(values)
    return tables.percent(np.mean(values), np.std(values, ddof=1) if len(values) > 1 else None) if values else "-"


def cells(runs):
    """Every published cell of the rows that were run, beside ours, and which were not."""
    published = {row["model"]: row for row in evaluate.read_published() if row["database"] == runs.db}
    header = ["model", "paper WAR", "paper UAR", "our WAR", "our UAR", "WAR - paper's", "95 % over speakers, paper inside?",
              "WAR, validation", "WAR, oracle", "folds", "to know"]  # fmt: skip
    run = runs.begun()
    told = tables.markdown_rows(header, [cell_row(runs, model, published.get(model, {})) for model in run])
    missing = ", ".join(model for model in reproduce.ROWS if model not in run)
    return told + (f"\n\nNot run here: {missing}." if missing else "")


def cell_row(runs, model, published):
    ours, paper = runs.summary(model), published.get("war")
    others = {track: runs.summary(model, track) for track in ("validation", "oracle")}
    row = [model, tables.percent(paper), tables.percent(published.get("uar"))]
    if ours is None:
        only = others["validation"]
        return row + ["not run", *[""] * 3, tables.percent(only.war, only.war_std), "", "", "; ".join(notes_of(only))]
    bounds, verdict = ours.war_speakers, "-"
    if bounds:
        verdict = f"{bounds[0]:.2f} to {bounds[1]:.2f}"
        verdict += "" if paper is None else ", yes" if bounds[0] <= paper <= bounds[1] else ", no"
    notes = notes_of(ours)
    for track, one in others.items():
        notes += [f"{track}: {note}" for note in notes_of(one) if note not in notes]
    return row + [
        tables.percent(ours.war, ours.war_std), tables.percent(ours.uar, ours.uar_std),
        "-" if paper is None else f"{ours.war - paper:+.2f}", verdict,
        *(tables.percent(one.war, one.war_std) if one else "-" for one in others.values()),
        f"{ours.folds_done}/{ours.folds_total}", "; ".join(notes) or "-",
    ]  # fmt: skip


def notes_of(summary):
    """What a reader must know about a Summary, or of None."""
    if not summary:
        return []
    done = (
        [f"only {summary.folds_done}/{summary.folds_total} folds"] if summary.folds_done < summary.folds_total else []
    )
    return done + summary.notes


def how_it_was_made(studies):
    """Seeds of each row by device, versions and settings. studies: what a line says after the model -> Runs."""
    rows = []
    for what, runs in studies.items():
        for model in reproduce.ROWS:
            groups = {}  # (epochs, deviations, machine, code) -> seeds
            every = chain(*(runs.counted(model, track).values() for track in results.TRAINED))
            for config in (fold.config for fold in chain(*every)):
                told = (config["settings"]["epochs"], "; ".join(config["deviations"]) or "none")
                machines = [*config.get("earlier_machines", ()), config["machine"]]
                told += tuple(
                    ", then ".join(dict.fromkeys(str(m.get(name, "-")) for m in machines)) for name in MACHINE
                )
                groups.setdefault((*told, config["code"]["models.py"][:8]), set()).add(config["settings"]["seed"])
            rows += [[model + what, tables.ranges(sorted(groups[told])), *told] for told in sorted(groups, key=str)]
    return tables.markdown_rows(["model", "seeds", "epochs", "not the default", *MACHINE, "models.py"], rows)


def printed(*arguments):
    """What evaluate.py prints, with its command line above."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        evaluate.main(list(arguments))
    return f"```\n$ python evaluate.py {shlex.join(arguments)}\n\n{out.getvalue().rstrip()}\n```"


def confusion_rates(runs, model):
    """Row rates of all seeds and folds, in per cent, the published ones in brackets where they are."""
    summary = runs.summary(model)
    with open(PROJECT / "benchmarks" / "published-confusion.csv", newline="", encoding="utf-8") as file:
        published = {
            row["emotion"]: row for row in csv.DictReader(file) if (row["database"], row["model"]) == (runs.db, model)
        }
    counts = np.array(summary.confusion)
    rates = 100 * counts / counts.sum(1, keepdims=True)

    def cell(true, said):
        paper = published.get(summary.classes[true], {}).get(summary.classes[said])
        return f"{rates[true, said]:.0f}" + (f" ({100 * float(paper):.0f})" if paper else "")

    numbers = range(len(summary.classes))
    return tables.markdown_rows(
        [f"{model}: true, down; recognised, across", *summary.classes],
        [[summary.classes[true], *(cell(true, said) for said in numbers)] for true in numbers],
    )


def by_fold(runs):
    """WAR of each tested speaker or session, mean and deviation over seeds."""
    models, hits = runs.ran(), {}  # speaker or session -> model -> WAR of each seed
    for model in models:
        for folds in runs.folds(model).values():
            for fold in folds:
                of_fold = hits.setdefault(fold.config["settings"]["fold_name"], {}).setdefault(model, [])
                of_fold.append(100 * float((fold.scores.argmax(1) == fold.labels).mean()))
    rows = [[name, *(spread(of_fold.get(model, ())) for model in models)] for name, of_fold in hits.items()]
    return tables.markdown_rows([f"tested {runs.protocol}", *models], rows)


def learning(runs, model):
    """Loss and WAR over the epochs, mean over seeds, of both tracks; the loss of `last` where it was trained.

    Where no seed of either has all folds, those that evaluate.py counts, and how many.
    """
    counted = not whole_folds(runs, model)
    last, held = (runs.curves(model, track, counted) for track in ("last", "validation"))
    done = [(track, runs.summary(model, track)) for track in results.TRAINED if counted]
    which = "".join(f", {track} {one.folds_done}/{one.folds_total} folds" for track, one in done if one)
    trained = list(chain(*(last or held).values()))
    epochs = trained[0].epochs
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(EPOCHS_SHOWN, len(epochs))).round().astype(int))
    rows = []
    for at in shown:
        loss = np.mean([curve.loss[epochs[at] - 1] for curve in trained])
        both = [spread(pooled(held, name, at).values()) for name in ("held", "test")]
        rows.append([epochs[at], f"{loss:.3f}", spread(pooled(last, "test", at).values()), *both])
    header = [f"{model}{which}: epoch", "training loss" if last else "training loss, trained without them", "test WAR"]
    return tables.markdown_rows([*header, "held-out WAR, trained without them", "test WAR, trained without them"], rows)


# ----------------------------------------------------------------------------------------- comparisons


def at_end(runs, model, epoch=None):
    """{column of QUANTITIES: {seed: WAR}} at the last evaluated epoch, or at an earlier one, {} where it is none.

    And of CHOSEN, which knows no earlier epoch.
    """
    told = {}
    for column, (track, name) in QUANTITIES.items():
        curves = runs.curves(model, track)
        epochs = next(iter(curves.values()))[0].epochs.tolist() if curves else []
        at = -1 if epoch is None else epochs.index(epoch) if epoch in epochs[:-1] else None
        told[column] = {} if at is None else pooled(curves, name, at)
    return {**told, CHOSEN: at_chosen(runs, model) if epoch is None else {}}


def at_chosen(runs, model):
    """{seed: WAR} of the validation track: each fold at the epoch that its held-out speakers chose."""
    return {
        seed: 100 * protocols.war(sum(protocols.confusion(fold.labels, fold.scores) for fold in folds))
        for seed, folds in runs.folds(model, "validation").items()
    }


def difference(ours, usual):
    """Mean of ours - usual over the seeds that both have, and its standard error; None where seeds are too few."""
    apart = [ours[seed] - usual[seed] for seed in sorted(ours.keys() & usual.keys())]
    error = float(np.std(apart, ddof=1) / np.sqrt(len(apart))) if len(apart) >= FEWEST_SEEDS else None
    return float(np.mean(apart)) if apart else None, error


def beside(ours, usual):
    """The seeds that both have, and a cell of them: ours, and the difference."""
    seeds, (mean, error) = sorted(ours.keys() & usual.keys()), difference(ours, usual)
    if not seeds:
        return "-", "-"
    apart = f"{mean:+.2f}" + ("" if error is None else f" ± {error:.2f}")
    return tables.ranges(seeds), f"{spread(ours[seed] for seed in seeds)} ({apart})"


def made_by(runs, model):
    """Settings of the seeds that have all folds."""
    return whole_folds(runs, model)[0].config["settings"]


def with_flags(settings, model, flags):
    """The settings of a model, those of `flags` as these set them."""
    names = {flag[2:].replace("-", "_") for flag in flags if flag.startswith("--")}
    set_by = recipes.settings_of(recipes.parse_command_line(["--model", model, *flags]), model)
    return settings | {name: told for name, told in set_by.items() if name in names}


def is_better(by_model, models):
    """Does a setting beat the default on held-out speakers for all `models`? None: too few runs to say.

    by_model: model -> mean and standard error of the difference, None where seeds are too few.
    """
    told = [by_model.get(model, (None, None)) for model in models]
    beats = [mean > STANDARD_ERRORS * error if error else None for mean, error in told]  # 0: all seeds alike
    return False if False in beats else None if None in beats else True


def columns_beside(ours, usual, settings):
    """(seeds, cell) of each column; CHOSEN only where the choice was among the same epochs, by the two `settings`."""
    alike = len({one.get("eval_every") for one in settings}) == 1
    return [beside(told if alike or column != CHOSEN else {}, usual[column]) for column, told in ours.items()]


def line_of(name, model, columns):
    """A line of a table from (seeds, cell) of each column; seeds once where all columns have the same."""
    seeds, cells = zip(*columns)
    same = set(seeds) - {"-"} or {"-"}
    return [name, model, same.pop() if len(same) == 1 else " / ".join(seeds), *cells]


def usual_line(name, model, told):
    """The same of what the other lines are compared with. told: column -> {seed: WAR}."""
    return line_of(name, model, [(tables.ranges(sorted(one)) or "-", spread(one.values())) for one in told.values()])


def ablations(runs):
    """Table of each ablation beside its full network, over the seeds that both have; "" where there is none."""
    lines = []
    for full, *others in reproduce.FAMILIES:
        told = {model: at_end(runs, model) for model in (full, *others) if whole_folds(runs, model)}
        if full not in told or len(told) < 2:
            continue
        lines.append(usual_line(full, "-", usual := told.pop(full)))
        for model, ours in told.items():
            both = made_by(runs, full), made_by(runs, model)
            has = {name: value for name, value in both[0].items() if model in recipes.OPEN.get(name, (model,))}
            if names := results.differing(has | dict(model=model), both[1], ASIDE):
                lines.append([model, full, f"differs in {', '.join(names)}: not compared", *[""] * 4])
            else:
                lines.append(line_of(model, full, columns_beside(ours, usual, both)))
    return tables.markdown_rows(["model", "beside", "seeds", *QUANTITIES, CHOSEN], lines) if lines else ""


def studies(runs):
    """(setting, its Runs, the flags that set it, the models that have it, or an epoch of the rows themselves)."""
    for setting, flags, models in reproduce.SENSITIVITY:
        yield setting, Runs(runs.folder / reproduce.folder_of(setting), runs.db), flags, models, None
    for epoch in (100, 300):
        longer = [model for model in reproduce.BOTH if any(at_end(runs, model, epoch).values())]
        yield f"epochs {epoch}", runs, (), longer, epoch


def sensitivity(runs):
    """Table with a line for each setting and model, and the verdict: held-out speakers decide, tested are shown."""
    usual = {model: at_end(runs, model) for model in reproduce.BOTH if whole_folds(runs, model)}
    studied = list(studies(runs))
    rows, verdicts = [], {True: [], False: [], None: []}
    for setting, other, flags, models, epoch in studied:
        name, by_model = setting + (" (transductive)" if "speaker" in flags else ""), {}
        for model in models:
            if model not in usual or not whole_folds(other, model):
                continue
            both = with_flags(made_by(runs, model), model, flags), made_by(other, model)
            if names := results.differing(*both, ASIDE):
                rows.append([name, model, f"differs in {', '.join(names)} too: not compared", *[""] * 4])
                continue
            ours = at_end(other, model, epoch)
            rows.append(line_of(name, model, columns_beside(ours, usual[model], both)))
            decides = ours[DECIDES], usual[model][DECIDES]
            enough = len(decides[0].keys() & decides[1].keys()) >= SEEDS_TO_DECIDE
            by_model[model] = difference(*decides) if enough else (None, None)
        if by_model:
            verdicts[is_better(by_model, models)].append(name)
    if not rows:
        return ""
    defaults = [usual_line("default", model, told) for model, told in usual.items()]
    verdict = f"Better than the default on held-out speakers, by more than {STANDARD_ERRORS} standard errors on at"
    verdict += f" least {SEEDS_TO_DECIDE} seeds, for TFT and ATFNN both where both have the setting: "
    verdict += f"{', '.join(verdicts[True]) or 'none'}."
    for what, names in ("Not so", verdicts[False]), ("Too few runs to say", verdicts[None]):
        verdict += f" {what}: {', '.join(names)}." if names else ""
    made = how_it_was_made({f": {setting}": other for setting, other, *_, epoch in studied if not epoch})
    return "\n\n".join(
        [tables.markdown_rows(["setting", "model", "seeds", *QUANTITIES, CHOSEN], defaults + rows), verdict, made]
    )


# ------------------------------------------------------------------------------------------- the report


def title_page(db, folder, options):
    yield f"# {db.upper()}: published figures beside ours"
    more = f" --results {shlex.quote(folder.as_posix())}" if options.results else ""
    sizes = set(protocols.DATABASES[db].classes.values())
    yield (
        f"Made by `python benchmarks/report.py --db {db}{more}` from the predictions in\n"
        f"`{folder.as_posix()}/{db}`, which `python evaluate.py --export` wrote.\n"
        "WAR and UAR in per cent, pooled over the folds; with several seeds mean ± standard deviation."
        + (" As its classes are\nof equal size, both are the same number." if len(sizes) == 1 else "")
    )  # fmt: skip
    findings = folder / f"{db}-findings.md"
    if findings.exists():
        yield findings.read_text(encoding="utf-8").strip()


def sections(runs):
    """The parts of the report under one protocol."""
    db, models, how = runs.db, runs.ran(), ["--runs", runs.folder.as_posix()]
    how += ["--protocol", runs.protocol] if runs.protocol != "speaker" else []
    yield "## Every published cell" + (f", leaving one {runs.protocol} out" if "--protocol" in how else "")
    yield cells(runs)
    yield "## How it was made"
    yield how_it_was_made({"": runs})
    yield "## Tables"
    if models:
        yield printed("--db", db, "--table", "ablation", *how)
    yield printed("--db", db, "--table", "ablation", *how, "--track", "all")
    if models:
        yield printed("--db", db, "--table", "comparison", *how)
    for group in (reproduce.BOTH, *reproduce.FAMILIES):
        compared = [model for model in group if model in models]
        if any(runs.folds(one).keys() & runs.folds(other).keys() for one, other in combinations(compared, 2)):
            yield printed("--db", db, "--table", "significance", "--models", *compared, *how)
    both = [model for model in reproduce.BOTH if model in models]
    if both:
        yield "## Confusion"
        yield (
            "Per cent of each true class, over all folds and seeds; in brackets the published rates, where a paper\n"
            "prints them (TFT Fig. 2)."
        )
        yield from (confusion_rates(runs, model) for model in both)
    if models:
        yield f"## By {runs.protocol}"
        yield by_fold(runs)
    if compared := ablations(runs):
        yield "## Ablations beside the full network"
        yield (
            "After the last epoch, on the tracks `validation` (held-out and tested speakers, trained without the former)\n"
            "and `last`; in the last column at the epochs that the validation track chose. In brackets the mean difference\n"
            "from the full network over the seeds that both have, ± its standard error."
        )
        yield compared
        for setting, other, *_ in studies(runs):
            if other is not runs and (compared := ablations(other)):
                yield f"The same, all of them with {setting}:"
                yield compared
    yield "## Learning curves"
    yield from (learning(runs, model) for model in runs.begun())


def report(folder, db, options):
    yield from title_page(db, folder, options)
    of_protocols = [runs for protocol in reproduce.DATABASES[db] if (runs := Runs(folder, db, protocol)).begun()]
    if not of_protocols:
        raise protocols.UsageError(f"{folder / db}: holds no predictions; first run benchmarks/reproduce.py")
    for runs in of_protocols:
        yield from sections(runs)
    yield "## What the open decisions are worth"
    yield (
        "One setting changed at a time. Held-out WAR is that of the training speakers held out by the validation\n"
        "track, by which alone choices are made; test WAR that of the tested speakers; both after the last epoch. In the\n"
        "last column tested speakers at the epochs that the validation track chose. In brackets the mean difference\n"
        "from the default over the seeds that both have, ± its standard error."
    )
    yield sensitivity(Runs(folder, db)) or (
        f"Not run here (`python benchmarks/reproduce.py --db {db} --part sensitivity`)."
    )


def main(arguments=None):
    parser = results.OneLineParser(__doc__)
    parser.add_argument("--db", required=True, choices=reproduce.DATABASES, help="the database")
    parser.add_argument("--results", help="folder of predictions and report (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    folder = Path(options.results).resolve() if options.results else PROJECT / reproduce.RESULTS
    inside = folder.relative_to(PROJECT) if folder.is_relative_to(PROJECT) else folder
    with contextlib.chdir(PROJECT):  # so that the commands in the report can be typed as they stand there
        text = "\n\n".join(report(inside, options.db, options)) + "\n"
        results.write_text(inside / f"{options.db}.md", text)
    print(f"{folder / options.db}.md: written")


if __name__ == "__main__":
    with results.plain_errors("report.py"):
        main()
