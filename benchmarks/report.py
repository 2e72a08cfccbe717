"""Report of a database, from published predictions alone: tables, confusions, speakers, curves, sensitivity, findings.

    python benchmarks/report.py --db casia      # from benchmarks/results/casia/ to benchmarks/results/casia.md

Reads what `evaluate.py --export` wrote (benchmarks/reproduce.py does both) and a page of findings,
benchmarks/results/<db>-findings.md, where there is one. Trains nothing and needs no recordings.
"""

import contextlib
import csv
import io
import sys
from pathlib import Path

import numpy as np

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "benchmarks")]

import archive
import evaluate
import figures
import protocols
import reproduce
import results

EPOCHS_SHOWN = 12  # rows of a table of learning curves, at most
STANDARD_ERRORS = 2  # by which a setting must beat the default on held-out speakers, for both models


# ---------------------------------------------------------------------------------------------- reading


class Runs:
    """Finished folds of a database, as published."""

    def __init__(self, folder, db):
        self.folder, self.db, self.kept = folder, db, {}

    def folds(self, model, track="last"):
        """{seed: [FoldResult]} of the seeds with all folds."""
        if (model, track) not in self.kept:
            found, damaged = evaluate.collect(self.folder, "speaker", None, track, self.db, model)
            if damaged:
                raise results.RunError("; ".join(damaged))
            by_seed = found.get((self.db, model), {})
            self.kept[model, track] = {seed: by_seed[seed] for seed in by_seed if evaluate.is_complete(by_seed[seed])}
        return self.kept[model, track]

    def summary(self, model, track="last"):
        return evaluate.summarize(self.folds(model, track))

    def curves(self, model, track):
        return {seed: [curve_of(fold) for fold in folds] for seed, folds in self.folds(model, track).items()}

    def ran(self):
        return [model for model in reproduce.ROWS if self.folds(model)]


def curve_of(fold):
    return archive.fold_curve(fold) if fold.archive else figures.fold_curve(fold)


def pooled(curves, name, at=-1):
    """WAR in per cent of each seed over its folds, (seeds,), at an evaluated epoch: `test` or `held` speakers."""
    return np.array([
        100 * protocols.war(sum(getattr(curve, name)[at] for curve in folds)) for folds in curves.values()
    ])  # fmt: skip


# -------------------------------------------------------------------------------------------- sections


def table(header, rows):
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def spread(values):
    """Mean, and standard deviation over seeds where there are several."""
    return evaluate.percent(np.mean(values), np.std(values, ddof=1) if len(values) > 1 else None)


def how_it_was_made(runs):
    """Device, versions, seeds and settings of each row."""
    rows = []
    for model in runs.ran():
        folds = [fold for track in ("last", "validation") for one in runs.folds(model, track).values() for fold in one]
        config = folds[0].config
        machines = {tuple(fold.config.get("machine", {}).get(name) for name in MACHINE) for fold in folds}
        for machine in sorted(machines, key=str):
            rows.append([
                model, evaluate.ranges(sorted(runs.folds(model))), config["settings"]["epochs"],
                "; ".join(config["deviations"]) or "none", *machine, config["code"]["models.py"][:8],
            ])  # fmt: skip
    header = ["model", "seeds", "epochs", "not as in the paper", *MACHINE, "models.py"]
    return table(header, rows)


MACHINE = ("device", "threads", "engine", "together", "python", "torch", "numpy")


def printed(*arguments):
    """What evaluate.py prints, with its command line above."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        evaluate.main(list(arguments))
    return f"```\n$ python evaluate.py {' '.join(arguments)}\n\n{out.getvalue().rstrip()}\n```"


def cells(runs):
    """Every published cell of the rows that this suite trains, beside ours."""
    published = {row["model"]: row["war"] for row in evaluate.read_published() if row["database"] == runs.db}
    rows = []
    for model in reproduce.ROWS:
        ours, paper = runs.summary(model), published.get(model)
        if ours is None:
            rows.append([model, evaluate.percent(paper), "not run", "", "", "", ""])
            continue
        low, high = ours.war_speakers or (None, None)
        inside = "-" if None in (low, paper) else "yes" if low <= paper <= high else "no"
        others = [runs.summary(model, track) for track in ("validation", "oracle")]
        rows.append([
            model, evaluate.percent(paper), evaluate.percent(ours.war, ours.war_std),
            f"{ours.war - paper:+.2f}" if paper else "-", f"{low:.2f} to {high:.2f}, {inside}" if low else "-",
            *(evaluate.percent(one.war, one.war_std) if one else "-" for one in others),
        ])  # fmt: skip
    header = ["model", "paper", "ours", "difference", "95 % over speakers, paper inside?", "validation", "oracle"]
    return table(header, rows)


def confusions(runs, model):
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
    return table(
        [f"{model}: true, down; recognised, across", *summary.classes],
        [[summary.classes[true], *(cell(true, said) for said in numbers)] for true in numbers],
    )


def by_speaker(runs):
    """WAR of each tested speaker, mean and deviation over seeds."""
    models = runs.ran()
    speakers = {
        fold.config["settings"]["fold_name"]: None
        for model in models
        for fold in next(iter(runs.folds(model).values()))
    }
    rows = []
    for speaker in speakers:
        values = []
        for model in models:
            hits = [
                100 * float((fold.scores.argmax(1) == fold.labels).mean())
                for folds in runs.folds(model).values()
                for fold in folds
                if fold.config["settings"]["fold_name"] == speaker
            ]
            values.append(spread(hits))
        rows.append([speaker, *values])
    return table(["tested speaker", *models], rows)


def learning(runs, model):
    """Loss and WAR over the epochs, mean over seeds; of the validation track, whose trainings know a speaker less."""
    last, held = runs.curves(model, "last"), runs.curves(model, "validation")
    epochs = next(iter(last.values()))[0].epochs
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(EPOCHS_SHOWN, len(epochs))).round().astype(int))
    rows = []
    for at in shown:
        loss = np.mean([curve.loss[epochs[at] - 1] for folds in last.values() for curve in folds])
        both = [spread(pooled(held, name, at)) if held else "-" for name in ("held", "test")]
        rows.append([epochs[at], f"{loss:.3f}", spread(pooled(last, "test", at)), *both])
    header = [f"{model}: epoch", "training loss", "test WAR"]
    return table([*header, "held-out WAR, a speaker less", "test WAR, a speaker less"], rows)


def difference(ours, usual):
    """Mean and standard error over the seeds that both have, in points: {seed: value} of each."""
    both = sorted(ours.keys() & usual.keys())
    apart = np.array([ours[seed] - usual[seed] for seed in both])
    error = np.std(apart, ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.nan
    return float(np.mean(apart)), float(error)


def at_end(runs, model, track, name, epoch=None):
    """{seed: WAR} at the last evaluated epoch, or at `epoch`."""
    curves = runs.curves(model, track)
    at = -1 if epoch is None or not curves else next(iter(curves.values()))[0].epochs.tolist().index(epoch)
    return dict(zip(curves, pooled(curves, name, at)))


def sensitivity(runs):
    """One line for each setting and model: held-out speakers decide, tested speakers are shown."""
    compared, rows = {}, []
    for model in reproduce.BOTH:
        if not runs.folds(model):
            continue
        usual = {name: at_end(runs, model, *name) for name in (("validation", "held"), ("last", "test"))}
        studied = [
            (setting, Runs(runs.folder / reproduce.folder_of(setting), runs.db), None)
            for setting, *_ in reproduce.SENSITIVITY
        ]
        epochs = next(iter(runs.curves(model, "last").values()))[0].epochs.tolist()
        studied += [(f"epochs {epoch}", runs, epoch) for epoch in (100, 300) if epoch in epochs[:-1]]
        rows.append(
            [model, "as in the tables", *(spread(list(one.values())) if one else "-" for one in usual.values()), "", ""]
        )
        for setting, other, epoch in studied:
            ours = {name: at_end(other, model, *name, epoch) for name in usual}
            if not ours["last", "test"]:
                continue
            changes = [difference(ours[name], usual[name]) if ours[name] else (np.nan, np.nan) for name in usual]
            compared.setdefault(setting, {})[model] = changes[0]
            mark = " (transductive)" if "speaker" in setting else ""
            rows.append([
                model, setting + mark, *(spread(list(one.values())) if one else "-" for one in ours.values()),
                *(f"{mean:+.2f} ± {error:.2f}" for mean, error in changes),
            ])  # fmt: skip
    header = ["model", "setting", "held-out WAR", "test WAR", "held-out, difference ± s.e.", "test, difference ± s.e."]
    better = [
        setting
        for setting, models in compared.items()
        if set(models) == set(reproduce.BOTH) and all(mean > STANDARD_ERRORS * error for mean, error in models.values())
    ]
    verdict = (
        f"Better than the default on held-out speakers by more than {STANDARD_ERRORS} standard errors for both models: "
    )
    return table(header, rows) + f"\n\n{verdict}{', '.join(better) or 'none of them'}.", bool(compared)


def report(runs):
    folder, models = runs.folder.as_posix(), runs.ran()
    yield f"# {runs.db.upper()}: published figures beside ours"
    yield (
        f"Made by `python benchmarks/report.py --db {runs.db}` from the predictions in `{folder}/{runs.db}`, which\n"
        f"`python benchmarks/reproduce.py --db {runs.db}` makes. WAR and UAR in per cent, pooled over the folds; with several\n"
        "seeds mean ± standard deviation. On CASIA, whose classes are of equal size, both are the same number."
    )
    findings = runs.folder / f"{runs.db}-findings.md"
    if findings.exists():
        yield findings.read_text(encoding="utf-8").strip()
    yield "## Every published cell"
    yield cells(runs)
    yield "## How it was made"
    yield how_it_was_made(runs)
    yield "## Tables"
    for more in ((), ("--track", "all")):
        yield printed("--db", runs.db, "--table", "ablation", "--runs", folder, *more)
    yield printed("--db", runs.db, "--table", "comparison", "--runs", folder)
    if len(both := [model for model in reproduce.BOTH if model in models]) > 1:
        yield printed("--db", runs.db, "--table", "significance", "--models", *both, "--runs", folder)
    yield "## Confusion"
    yield (
        "Per cent of each true class, over all folds and seeds; in brackets the published rates, where a paper prints them\n"
        "(TFT Fig. 2(b))."
    )
    yield from (confusions(runs, model) for model in models if model in reproduce.BOTH)
    yield "## By speaker"
    yield by_speaker(runs)
    yield "## Learning curves"
    yield from (learning(runs, model) for model in models)
    told, any_run = sensitivity(runs)
    yield "## What the open decisions are worth"
    yield (
        "One setting changed at a time; held-out WAR is that of the training speakers held out by the validation track, test\n"
        "WAR that of the result; both after the last epoch. Choices are made by the former alone."
    )
    yield told if any_run else "Not run yet: `python benchmarks/reproduce.py --part sensitivity --db " + runs.db + "`."


def main(arguments=None):
    parser = results.OneLineParser(__doc__)
    parser.add_argument("--db", required=True, choices=reproduce.DATABASES, help="the database")
    parser.add_argument("--results", default=str(reproduce.RESULTS), help="folder of predictions and report")
    options = parser.parse_args(arguments)
    runs = Runs(Path(options.results), options.db)
    with contextlib.chdir(PROJECT):  # so that the commands in the report can be typed as they stand there
        if not runs.ran():
            raise protocols.UsageError(
                f"{runs.folder / options.db}: holds no predictions; first run benchmarks/reproduce.py"
            )
        text = "\n\n".join(report(runs)) + "\n"
        out = runs.folder / f"{options.db}.md"
        results.write_text(out, text)
    print(f"{out}: {len(runs.ran())} models")


if __name__ == "__main__":
    with results.plain_errors("report.py"):
        main()
