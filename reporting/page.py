"""All saved results as a page to look at and to send: python evaluate.py --report results.html

The page is a single file of HTML. It needs no network, no matplotlib, and no JavaScript but for sorting and quick tips.
Its style and script are reporting/page.html; its elements are made in reporting/drawings.py, its learning curves in
reporting/learning.py.
"""

import shlex
from datetime import date
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from string import Template

import numpy as np

import protocols
from common import runs
from common.methods import EXTENTS
from reporting import drawings, figures, learning, summary, tables
from reporting.drawings import Html, escape, shaded, table, tag
from reporting.figures import METRICS

TEMPLATE = Path(__file__).with_suffix(".html")
GROUPS = (
    "Strict: nothing of the tested speaker is used",
    "Transductive: normalised by all recordings of the tested speaker",
    "Published, not run here",
)
NOT_RUN = 2  # in GROUPS
OTHER_NAME = "called "  # begins the note of a published row that has another name in the other paper
MACHINE = dict(device="", torch="torch ", numpy="numpy ", python="Python ")  # part of a machine -> its name

# ------------------------------------------------------------------------------------- what is shown


class Results:
    """What was run on a database; `names` is empty where nothing was."""

    def __init__(self, folder, database, protocol, seeds, arguments):
        self.database, self.protocol, self.arguments = database, protocol, arguments  # arguments: of evaluate.py
        self.found, self.summaries, self.rows, damaged = {}, {}, {}, []  # by track: as in summary.py, but by model
        for track in (runs.RESULT, *runs.TRACKS):
            found, notes = summary.collect(folder, protocol, seeds, track, database)
            summaries, damaged = summary.summarize_all(found, notes), damaged + notes
            self.found[track], self.summaries[track] = (
                {model: its for (_, model), its in values.items()} for values in (found, summaries)
            )
            if found:
                kinds = ("comparison", "ablation")
                rows = [summary.result_rows(kind, [database], protocol, seeds, track, summaries) for kind in kinds]
                self.rows[track] = sum(rows, [])
        self.damaged = list(dict.fromkeys(damaged))
        self.track = next(iter(self.rows), "last")  # of all but the curves and the table of all tracks
        self.track_arguments = [] if self.track == runs.RESULT else ["--track", self.track]
        rows, self.main = self.rows.get(self.track, []), self.summaries[self.track]
        methods = {row["model"]: row["method"] for row in reversed(rows)}
        models = dict.fromkeys(row["model"] for row in rows if row["model"] in self.main)
        self.names = {model: tables.marked(methods[model], self.main[model].transductive) for model in models}
        begun = {model for name, model, its in summary.all_runs(folder) if (name, its) == (database, protocol)}
        self.without_folds = sorted(begun - set(self.main))
        rates = [(row[f"{of}war"], row[f"{of}uar"]) for row in rows for of in ("", "published_")]
        differ = any(None not in pair and abs(pair[0] - pair[1]) > 0.005 for pair in rates)
        self.track_name = tables.track_name({its.track for its in self.main.values()}, self.track)
        self.chance = 100 / len(next(iter(self.main.values())).classes) if self.main else None  # rate of guessing
        self.metrics = list(METRICS) if differ else ["WAR"]  # UAR where it is another number

    def folds(self, model, track=None):
        """FoldResults that the Summary of a model counts."""
        its = self.summaries[track or self.track].get(model)
        return [fold for seed in its.seeds for fold in self.found[track or self.track][model][seed]] if its else []

    def command(self, *more):
        """The command that shows the same numbers."""
        words = ["python", "evaluate.py", "--db", self.database, *self.arguments, *more]
        return tag("code", shlex.join(words), class_="command")

    def figure_command(self, figure, model, *more):
        """The command that draws a figure of a model, behind a click."""
        command = self.command("--figure", figure, "--model", model, *more, "--out", f"{figure}-{model}.png")
        return tag("details", tag("summary", "command"), command)

    def rates(self, model, metric):
        """Rates in per cent: {seed: {speaker: rate, "": pooled}}."""
        rates = {}
        for seed in self.main[model].seeds:
            counts = {}
            for fold in self.found[self.track][model][seed]:
                for name in ("", *dict.fromkeys(fold.speakers.tolist())):
                    own = fold.speakers == name if name else slice(None)
                    counts[name] = counts.get(name, 0) + protocols.confusion(fold.labels[own], fold.scores[own])
            rates[seed] = {name: 100 * float(METRICS[metric](matrix)) for name, matrix in counts.items()}
        return rates

    def speakers(self):
        """Names of all tested speakers, in natural order."""
        names = {name for model in self.names for fold in self.folds(model) for name in fold.speakers.tolist()}
        return sorted(names, key=protocols.natural_order)


def make(folder, databases, protocol, seeds=None, arguments=()):
    """The page of the databases that were run, as text; {database: models} on it, and notes on damaged folds.

    arguments: those of evaluate.py that choose the results, for the commands on the page.
    """
    tried = [Results(folder, database, protocol, seeds, arguments) for database in databases]
    shown = [results for results in tried if results.names]
    links = [tag("a", results.database, href=f"#db{i}") for i, results in enumerate(shown)]
    content = [
        tag("h1", "Speech emotion recognition: results"),
        tag("p", f"Written on {date.today().isoformat()} from saved predictions.", class_="muted"),
        tag("nav", *links, aria_label="databases") if len(shown) > 1 else "",
        *(tag("section", *section(results), id=f"db{i}") for i, results in enumerate(shown)),
    ]
    title, content = f"Results: {', '.join(results.database for results in shown)}", "\n".join(map(escape, content))
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), content=content)
    damaged = [note for results in tried for note in results.damaged]
    return text, {results.database: list(results.names) for results in shown}, damaged


def section(results):
    """Yield all of a database."""
    yield from (tag("h2", results.database), overview(results), run_table(results), tag("h3", "All methods"))
    yield from (chart_key(results.chance), *(dot_chart(results, metric) for metric in results.metrics))
    yield from (tag("h3", "Tables"), *result_tables(results), tag("h3", "Confusion"), confusions(results))
    yield from learning.curves(results)
    yield tag("h3", "Each speaker and each seed")
    yield from (speaker_table(results, metric) for metric in results.metrics)


# ---------------------------------------------------------------------------------------- what was run


def overview(results):
    """What was run, on what, when, by what versions, and what is incomplete."""
    folds, missing = [fold for model in results.names for fold in results.folds(model)], incomplete(results)
    facts = folds[0].config.database
    language = f" ({facts.language})" if facts.language else ""
    pairs = {
        "Methods": ", ".join(results.names.values()),
        "Database": f"{results.database}{language}: {facts.utterances} utterances of {len(facts.speakers)} speakers, "
        f"{facts.seconds / 60:.1f} minutes; {len(facts.classes)} classes: {', '.join(facts.classes)}",
        "Test": f"leaving one {results.protocol} out; {results.track_name}",
        "Finished": finished(folds),
        "Trained by": "; ".join(name + its for part, name in MACHINE.items() if (its := versions(folds, part))),
        "Incomplete": tag("ul", *(tag("li", text) for text in missing), class_="missing") if missing else "nothing",
    }
    return tag("dl", *(Html(tag("dt", name) + tag("dd", value)) for name, value in pairs.items()))


def finished(folds):
    """First and last day that folds were finished, by the dates of their files."""
    times = [(fold.source / runs.DONE_FILE).stat().st_mtime for fold in folds if not fold.is_published]
    days = {date.fromtimestamp(time).isoformat() for time in times}
    return " to ".join(sorted({min(days), max(days)})) if days else "no date in published results"


def versions(folds, part):
    """Values that a part of the folds' machines has."""
    machines = [machine for fold in folds for machine in (fold.config.machine, *fold.config.earlier_machines)]
    return ", ".join(sorted({str(machine[part]) for machine in machines if part in machine}))


def incomplete(results):
    """Lines on what is missing of a database."""
    missing, most = {}, max(len(its.seeds) for its in results.main.values())  # text -> methods
    for model, name in results.names.items():
        its, settings = results.main[model], results.folds(model)[0].config.settings
        left_out = [seed for seed in results.found[results.track][model] if seed not in its.seeds]
        has_all_tracks = "epochs" in settings and its.method.get("track", "last") == "last"  # others choose their epoch
        reasons = {
            f"only {its.folds_done} of {its.folds_total} folds": its.folds_done < its.folds_total,
            f"seeds {tables.ranges(left_out)} are not counted, with fewer or other folds": left_out,
            f"{len(its.seeds)} of {most} seeds": "epochs" in settings and len(its.seeds) < most,  # others may need one
            "partial database": its.partial,
            **{f"track {track} not run": has_all_tracks and model not in results.summaries[track]
               for track in runs.TRACKS},
        }  # fmt: skip
        for text in filter(reasons.get, reasons):
            missing.setdefault(text, []).append(name)
    missing["no finished fold"] = results.without_folds
    missing["not run"] = [row["method"] for row in chart_rows(results, "war") if group_of(row) == NOT_RUN]
    everything = list(results.names.values())
    names = {text: "all methods" if its == everything else ", ".join(its) for text, its in missing.items() if its}
    return [*results.damaged, *(f"{its}: {text}" for text, its in names.items())]


def run_table(results):
    """Settings, machine and version of each method."""
    rows = []
    for model, name in results.names.items():
        its, folds = results.main[model], results.folds(model)
        settings = folds[0].config.settings
        code = {sha256(repr(sorted(fold.config.code.items())).encode()).hexdigest()[:8] for fold in folds}
        rows.append([
            name, model, settings.get("epochs", "-"), settings.get("batch_size", "-"), tables.ranges(its.seeds),
            f"{its.folds_done}/{its.folds_total}", versions(folds, "device"), versions(folds, "torch"),
            ", ".join(sorted(code)), finished(folds), tag("td", "; ".join(its.notes) or "-", class_="text"),
        ])  # fmt: skip
    header = "method model epochs batch seeds folds device torch code finished notes".split()
    notes = ["code: digest of the versions of the files that a result depends on"]
    title = "Settings, machine and version of each method"
    return tag("details", tag("summary", title), table("Runs", header, rows, notes))


# ------------------------------------------------------------------------------- chart of all methods


def chart_rows(results, rate):
    """Rows of the tables, each method once, by group and falling rate."""
    rows, shown = [], set()
    for row in results.rows[results.track]:
        name, note = row["model"] or row["method"], row["published_note"] or ""
        other = note.removeprefix(OTHER_NAME).partition(" in ")[0] if note.startswith(OTHER_NAME) else None
        if not shown & {name, other} and (row[rate], row[f"published_{rate}"]) != (None, None):
            rows.append(row)
        shown.add(name)
    return sorted(rows, key=lambda row: (group_of(row), -(row[rate] or row[f"published_{rate}"])))


def group_of(row):
    """Index in GROUPS of a row of a table."""
    return NOT_RUN if row["war"] is None else int(row["transductive"])


def chart_key(chance):
    """What the marks of the chart mean; chance: rate of guessing."""
    return drawings.key(
        mean=("our mean over seeds", drawings.MEAN), interval="95 % interval over speakers",
        speaker=("a speaker", drawings.SPEAKER), published=("published", drawings.PUBLISHED),
        chance=(f"guessing, {chance:.2f}", tag("line", y1=-7, y2=7, class_="chance")),
    )  # fmt: skip


def dot_chart(results, metric):
    """Our mean, its interval over speakers, each speaker and the published figure of all methods, as a table."""
    rate, chance = metric.lower(), results.chance
    rows, lines, values = chart_rows(results, rate), [], [chance]
    for row in rows:
        line = [(drawings.MEAN, 12, "ours", row[rate]), (drawings.PUBLISHED, 12, "published", row[f"published_{rate}"])]
        rates = results.rates(row["model"], metric).values() if group_of(row) != NOT_RUN else ()
        for name in results.speakers() if rates else ():
            if its := [by_name[name] for by_name in rates if name in by_name]:
                line.append((drawings.SPEAKER, 26, name, float(np.mean(its))))
        lines.append([mark for mark in line if mark[-1] is not None])
        values += [*(mark[-1] for mark in lines[-1]), *(row[f"{rate}_speakers"] or ())]
    ticks, bodies = drawings.scale(values, 8), []
    for group, pairs in groupby(zip(rows, lines), lambda pair: group_of(pair[0])):
        body = [tag("tr", tag("th", GROUPS[group], colspan=4, scope="rowgroup"))]
        for row, marks in pairs:
            name, interval = tables.marked(row["method"], row["transductive"]), row[f"{rate}_speakers"]
            head = tag("th", name, " ", tag("small", extent(results, row)), scope="row")
            drawn = tag("td", drawings.dots(name, marks, interval, ticks, chance), class_="plot")
            between = tag("small", f"{interval[0]:.2f} to {interval[1]:.2f}") if interval else ""
            cells = [
                tag("td", tag("span", tables.percent(row[of + rate]), class_=kind if row[of + rate] else "muted"), more)
                for of, kind, more in (("", "ours", between), ("published_", "paper", ""))
            ]
            body.append(tag("tr", head, drawn, *cells))
        bodies.append(tag("tbody", *body))
    axis = drawings.dots_axis(f"{metric} in per cent", ticks)
    heads = (("method", None), (axis, "plot"), ("ours", "ours"), ("paper", "paper"))
    heads = tag("tr", *(tag("th", text, scope="col", class_=kind) for text, kind in heads))
    title = f"{metric} of all methods, leaving one {results.protocol} out, {results.track_name}"
    whole = tag("table", tag("caption", title), tag("thead", heads), *bodies, class_="chart")
    return Html(whole + results.command(*results.track_arguments))


def extent(results, row):
    """How much of a row is its paper's, in words."""
    if group_of(row) == NOT_RUN:
        star = "leaving one session out" if row["published_protocol"] == "session" else None
        return "; ".join(filter(None, (row["published_note"], star)))
    number = len(results.folds(row["model"])[0].config.deviations)
    differ = f", {number} setting{'s differ' if number > 1 else ' differs'}" if number else ""
    return EXTENTS.get(row["extent"], "of no paper") + differ


# ----------------------------------------------------------------------------- tables and confusion


def result_tables(results):
    """Yield the papers' tables, the tracks side by side, and the counts of the database, each with its command."""
    shown = [(results.track_arguments, results.rows[results.track])]
    by_track = [rows for track, rows in results.rows.items() if track != runs.RESULT]
    if len(by_track) > 1:
        shown.append((["--track", "all"], sum(by_track, [])))
    for arguments, rows in shown:
        groups = {}
        for row in rows:
            groups.setdefault((row["table"], row["source"]), []).append(row)
        for (kind, source), group in groups.items():
            yield table(*tables.readable(kind, source, results.database, group))
            yield results.command("--table", kind, *arguments)
    counts = summary.database_rows(
        [results.database], {(results.database, model): its for model, its in results.found[results.track].items()}
    )
    title, header, *more = tables.database_table(results.database, counts)
    yield from (table(title, ["count", *header[1:]], *more), results.command("--table", "databases"))


def confusions(results):
    """Confusion of each method, first those with a published one next to them."""
    parts = []
    for model, name in results.names.items():
        its = results.main[model]
        rates = ", ".join(f"{metric} {tables.percent(getattr(its, metric.lower()))}" for metric in results.metrics)
        title = f"{name}: {rates}, seed {tables.ranges(its.seeds)}"
        shown, options = [matrix(title, its.classes, figures.rates(its.confusion), its.confusion)], []
        if paper := figures.published_rates(results.database, model, its.classes):
            shown, options = (
                [matrix(f"{name}, published in {paper[0]}", its.classes, paper[1]), *shown],
                ["--published"],
            )
        command = results.figure_command("confusion", model, *results.track_arguments, *options)
        figure = tag("figure", tag("div", *shown, class_="grid"), command, class_="pair" if paper else None)
        parts.append((paper is None, figure))
    return tag("div", *(figure for _, figure in sorted(parts, key=lambda part: part[0])), class_="grid")


def matrix(caption, classes, rates, counts=None):
    """A confusion matrix as a table with shaded cells, in whole per cent of the true class."""
    rows = []
    for i, true in enumerate(classes):
        cells = [tag("th", true, scope="row")]
        for j, name in enumerate(classes):
            title = f"{true} recognised as {name}: {rates[i][j]:.2f} %"
            title += f", {counts[i][j]} of {sum(counts[i])}" if counts else ""
            kind = "right" if i == j else None
            cells.append(shaded(f"{rates[i][j]:.0f}", rates[i][j] / 100, title=title, class_=kind))
        rows.append(cells)
    header = ["true class", *(f"recognised as, in per cent\n{name}" for name in classes)]
    return tag("div", table(caption, header, rows, kind="confusion shaded"))


def speaker_table(results, metric):
    """Rate of each speaker and each seed."""
    names, lines, rows = [*results.speakers(), ""], [], []
    for model, method in results.names.items():
        rates = results.rates(model, metric)
        values = {seed: [by_name.get(name, np.nan) for name in names] for seed, by_name in rates.items()}
        means = {"mean": np.mean([*values.values()], 0)} if len(values) > 1 else {}
        lines += [(method, seed, line) for seed, line in (means | values).items()]
    low, high = (extreme([line for *_, line in lines]) for extreme in (np.nanmin, np.nanmax))
    for method, seed, line in lines:
        weight = "b" if seed == "mean" else "span"
        cells = [shaded(tag(weight, tables.percent(rate)), 0.7 * (rate - low) / (high - low + 1)) for rate in line]
        rows.append([method, seed, *cells])
    header = ["method", "seed", *names[:-1], "all"]
    command = results.command("--figure", "speakers", *results.track_arguments, "--out", "speakers.png")
    return Html(table(f"{metric} of each speaker and each seed", header, rows, kind="sortable shaded") + command)
