"""From saved predictions to numbers: what was run, WAR and UAR of it, and the rows of the papers' tables.

    found, notes = collect("runs", "speaker", None, "last")         # {(database, model): {seed: [FoldResult]}}
    summarize(found["casia", "tft"]).war                            # per cent, pooled over folds, mean over seeds

Reads run folders (common/runs.py) and published results (reporting/published.py) alike, and trains nothing.
"""

import json
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

import protocols
from common import runs
from common.methods import EXTENTS, PAPER_SETTINGS
from common.runs import DONE_FILE, RESULT, TRAINED_TRACKS, RunError
from reporting import published, significance, tables

TEMPLATE = "casia"  # the database that each table of both papers holds: its rows serve unpublished databases
DATABASE_SOURCES = dict(iemocap="TFT Table 1, ATFNN Table I", abc="ATFNN Table I", casia="TFT Table 1, ATFNN Table I")


@dataclass
class Summary:
    """Results of one model on one database, from its saved predictions; rates in per cent."""

    war: float
    uar: float
    war_std: float  # over seeds; None with one seed
    uar_std: float
    war_speakers: tuple  # 95 % interval, bootstrap over speakers
    uar_speakers: tuple
    war_utterances: tuple  # 95 % interval, bootstrap over utterances
    uar_utterances: tuple
    fold_war: float  # mean over folds instead of pooled
    fold_uar: float
    folds_done: int
    folds_total: int
    seeds: list
    utterances: int  # predicted, per seed
    confusion: list  # counts, rows the true class, summed over seeds
    classes: list
    partial: bool
    track: str  # of its folds, a key of runs.TRAINED_TRACKS
    transductive: bool  # normalised by statistics of the tested speakers' own recordings
    method: dict  # facts about a method that is none of the papers' networks, see common/methods.py
    notes: list


# --------------------------------------------------------------------------------------- what was run


def collect(folder, protocol, seeds, track, only_database=None, only_model=None):
    """Finished folds below a folder: {(database, model): {seed: [FoldResult]}}, and notes on damaged folds.

    seeds: those to count, or None for all. Faults in what `only_database` and `only_model` leave out do no harm.
    With RESULT as the track each method has its own. RunError where a fold is in another folder than its settings
    name, is there twice, or cannot be read.
    """
    if track == RESULT:
        found, notes = {}, {}
        for trained in TRAINED_TRACKS:
            its, more = collect(folder, protocol, seeds, trained, only_database, only_model)
            found |= {key: by_seed for key, by_seed in its.items() if track_of(by_seed) == trained}
            notes |= dict.fromkeys(more)
        return found, list(notes)

    def is_wanted(database, model, its_protocol, seed=None):
        wanted = its_protocol == protocol and only_database in (None, database) and only_model in (None, model)
        return wanted and (not seeds or seed is None or seed in seeds)

    folds, notes = [], []
    for *key, path in runs.find_folds(folder, track):
        if not is_wanted(*key[:4]):
            continue
        if runs.is_done(path):
            fold = runs.read_fold(path)
            if fold.key() != tuple(key):
                right = runs.fold_folder(folder, *fold.key(), fold.config.settings["track"])
                notes.append(f"{path}: holds the fold of {right}, not counted; rename it to that")
                continue
            if track != "oracle":
                folds.append(fold)
            elif "epochs" in fold.config.settings:
                folds.append(best_on_test(fold))
        elif (path / DONE_FILE).exists():
            notes.append(f"{path}: damaged since it was finished, not counted; repeat the training command")
    for database, model, its_protocol, path in find_published(folder, only_database):
        if is_wanted(database, model, its_protocol):
            its_folds = published.read_folds(path, track, model, its_protocol)
            folds += [fold for fold in its_folds if is_wanted(*fold.key()[:4])]
    found, previous = {}, None
    for fold in sorted(folds, key=lambda fold: fold.key()):  # a run folder comes before published results
        if previous and previous.key() == fold.key():
            raise RunError(f"{fold.name()}: is there as {previous.name()} too; remove one of them")
        database, model, _, seed, _ = fold.key()
        found.setdefault((database, model), {}).setdefault(seed, []).append(fold)
        previous = fold
    return found, notes


def track_of(by_seed):
    """Track that the result of a method is of, by its folds {seed: [FoldResult]}."""
    return next(iter(by_seed.values()))[0].config.method.get("track", "last")


def find_published(folder, only_database=None):
    """Published results below a folder, as (database, model, protocol, path); RunError where a file is damaged."""
    found = [entry for entry in published.find(folder) if only_database in (None, entry[0])]
    for _, model, _, path in found:
        if not model:
            published.read(path)  # reports the damage
    return found


def all_runs(folder):
    """(database, model, protocol) of all that lies below a folder, finished or not, in sorted order."""
    folds = [fold for track in TRAINED_TRACKS for fold in runs.find_folds(folder, track)]
    return sorted({tuple(key[:3]) for key in (*folds, *published.find(folder))})


def best_on_test(fold):
    """The fold with its scores of the epoch that is best on the test speaker: a diagnostic, not a result."""
    saved = runs.read_epochs(fold.source)
    return fold._replace(scores=saved["scores"][runs.best_epoch(fold.labels, saved["scores"])])


def check_comparable(folds):
    """Raise RunError for the first fold that is not part of the same experiment as the others of its row."""
    tested = {}
    for fold in folds:
        settings, first = fold.config.settings, folds[0]
        for name in runs.different_settings(settings, first.config.settings):
            raise RunError(f"{fold.name()}: differs from {first.name()} in {name}; keep them in separate --runs")
        for utterance in fold.ids:
            key = (settings["seed"], utterance)
            if key in tested:
                raise RunError(f"{fold.name()}: tests {utterance}, as {tested[key]} does too; remove one of them")
            tested[key] = fold.name()


# ------------------------------------------------------------------------------ from folds to a Summary


def summarize(by_seed):
    """Summary of {seed: [FoldResult]}, of its `comparable_seeds`, or None where no fold is done."""
    if not by_seed:
        return None
    check_comparable([fold for folds in by_seed.values() for fold in folds])
    seeds = comparable_seeds(by_seed)
    config = by_seed[seeds[0]][0].config
    classes = config.database.classes
    per_fold = [[protocols.confusion(fold.labels, fold.scores) for fold in by_seed[seed]] for seed in seeds]
    pooled = [sum(matrices) for matrices in per_fold]  # for each seed (K, K)
    war, war_std = over_seeds([protocols.war(matrix) for matrix in pooled])
    uar, uar_std = over_seeds([protocols.uar(matrix) for matrix in pooled])
    fold_war, fold_uar = (
        over_seeds([np.mean([metric(matrix) for matrix in matrices]) for matrices in per_fold])[0]
        for metric in (protocols.war, protocols.uar)
    )
    hits, labels, speakers = paired_hits(by_seed, seeds)
    over_speakers = significance.speaker_interval(labels, hits.mean(0), speakers, len(classes))
    over_utterances = significance.utterance_interval(labels, hits.mean(0), len(classes))
    war_speakers, uar_speakers, war_utterances, uar_utterances = (
        interval and [100 * end for end in interval] for interval in (*over_speakers, *over_utterances)
    )
    return Summary(
        war=war,
        uar=uar,
        war_std=war_std,
        uar_std=uar_std,
        war_speakers=war_speakers,
        uar_speakers=uar_speakers,
        war_utterances=war_utterances,
        uar_utterances=uar_utterances,
        fold_war=fold_war,
        fold_uar=fold_uar,
        folds_done=len(by_seed[seeds[0]]),
        folds_total=config.folds_total,
        seeds=seeds,
        utterances=int(pooled[0].sum()),
        confusion=sum(pooled).tolist(),
        classes=classes,
        partial=config.database.partial,
        track=config.settings["track"],
        transductive=is_transductive(config),
        method=config.method,
        notes=row_notes(by_seed, seeds, config),
    )


def summarize_all(found, problems=None):
    """(database, model) -> Summary, of the folds that `collect` found.

    The list `problems` gets a line for each model that is left out, because its folds do not fit together; without
    the list, and where no model is left, that is a RunError.
    """
    summaries = {}
    for key, by_seed in found.items():
        try:
            summaries[key] = summarize(by_seed)
        except RunError as error:
            if problems is None:
                raise
            problems.append(f"{' '.join(key)} left out: {error}")
    if found and not summaries:
        raise RunError("; ".join(problems))
    return summaries


def comparable_seeds(by_seed):
    """Seeds with all their folds; where no seed has all, those with the most and same folds, shown as done/total."""
    alike = {}  # folds done -> seeds
    for seed, folds in by_seed.items():
        alike.setdefault(frozenset(fold.config.settings["fold"] for fold in folds), []).append(seed)
    return alike[max(alike, key=lambda done: (len(done), len(alike[done]), sorted(done)))]


def is_complete(folds):
    """True where the folds of a seed are all there."""
    return len(folds) == folds[0].config.folds_total


def is_transductive(config):
    """True where the statistics of a tested speaker's own recordings normalise them."""
    return config.settings.get("normalization") == "speaker"


def row_notes(by_seed, seeds, config):
    """Notes that a reader needs below a row: deviations, what is left out, mixed code, a partial database."""
    notes = list(config.deviations)
    if extent := EXTENTS.get(config.method.get("extent")):
        notes.append(extent)
    if note := config.method.get("note"):
        notes.append(note)
    if left_out := [seed for seed in by_seed if seed not in seeds]:
        notes.append(f"seeds {tables.ranges(left_out)} left out, with fewer or other folds")
    if len({json.dumps(fold.config.code) for seed in seeds for fold in by_seed[seed]}) > 1:
        notes.append("folds of different versions of the code")
    if config.database.partial:
        notes.append("partial database")
    return notes


def over_seeds(values):
    """Mean and standard deviation in per cent; no deviation with one seed."""
    std = 100 * float(np.std(values, ddof=1)) if len(values) > 1 else None
    return 100 * float(np.mean(values)), std


def paired_hits(by_seed, seeds):
    """Hits (seeds, N), labels (N,) and speaker numbers (N,), utterances in sorted order."""
    rows, first = [], None
    for seed in seeds:
        ids = np.concatenate([fold.ids for fold in by_seed[seed]])
        labels, speakers, scores = (
            np.concatenate([getattr(fold, name) for fold in by_seed[seed]]) for name in ("labels", "speakers", "scores")
        )
        order = np.argsort(ids)
        tested = (ids[order].tolist(), labels[order].tolist(), speakers[order].tolist())
        if tested != (first := first or tested):
            raise RunError(
                f"{by_seed[seed][0].name()}: seed {seed} tests other utterances than seed {seeds[0]}; "
                "remove one of them and repeat its training command"
            )
        rows.append((scores.argmax(1) == labels)[order])
    return np.array(rows), labels[order], np.unique(speakers[order], return_inverse=True)[1]


# ------------------------------------------------------------------------------------- rows of a table


def result_rows(kind, databases, protocol, seeds, track, summaries):
    """Rows of the comparison or the ablation: all published ones, with our results.

    A published row has a row for each of our models that stands for it, or one without our result. A database that a
    paper's table leaves out has the methods of that table that were run on it. Our models that stand for no row of a
    database's comparison, such as a user's own network, end it.
    """
    papers = [row for row in published.read_published() if row["kind"] == kind]
    rows = []
    for database in databases:
        sources = dict.fromkeys(row["source"] for row in papers)
        chosen = [row for source in sources for row in papers_of(papers, source, database, summaries)]
        rows += [
            result_row(row, protocol, track, seeds, model, summaries.get((database, model)))
            for row in chosen
            for model in models_for(row, summaries)
        ]
        if kind == "comparison":
            shown = {model for row in chosen for model in models_for(row, summaries)}
            own = own_models(database, shown, chosen, summaries)
            rows += [
                result_row(row, protocol, track, seeds, row["model"], summaries[database, row["model"]]) for row in own
            ]
    return sorted(
        rows, key=lambda row: list(sources).index(row["source"]) if row["source"] in sources else len(sources)
    )


def papers_of(papers, source, database, summaries):
    """Rows of published.csv of a source for a database, or for an unpublished one those of TEMPLATE that were run."""
    chosen = [row for row in papers if (row["source"], row["database"]) == (source, database)]
    if chosen:
        return chosen
    template = [
        dict(row, database=database, war=None, uar=None, note="")
        for row in papers
        if (row["source"], row["database"]) == (source, TEMPLATE)
    ]
    return [row for row in template if any((database, model) in summaries for model in models_for(row, summaries))]


def models_for(row, summaries):
    """Our models that stand for a published row: the network of its name, or methods that name it; else [None]."""
    if row["model"]:
        return [row["model"]]
    standing = [
        model
        for (database, model), ours in summaries.items()
        if database == row["database"] and row["method"] in ours.method.get("published", ())
    ]
    return standing or [None]


def own_models(database, shown, chosen, summaries):
    """Rows, as in published.csv, of the models that were run on a database and that none of its rows shows."""
    of_papers = {row["model"] for row in published.read_published() if row["model"]}
    sources = list(dict.fromkeys(row["source"] for row in chosen))[:1] or [None]  # in the first of its tables
    return [
        dict(kind="comparison", source=source, database=database, protocol="", method=model, model=model,
             war=None, uar=None, note="")
        for source in sources
        for its_database, model in summaries
        if its_database == database and model not in shown and model not in of_papers
    ]  # fmt: skip


def result_row(paper, protocol, track, seeds, model, ours):
    """A row of the comparison or the ablation, from a row of published.csv, our model for it and its Summary or None.

    seeds: those that were asked for, or None for all; a method that was run has its own instead.
    """
    empty = dict(dict.fromkeys(Summary.__dataclass_fields__), seeds=seeds)
    values = vars(ours) if ours else empty
    named = paper["model"] or model is None
    row = dict(
        table=paper["kind"],
        source=paper["source"],
        database=paper["database"],
        method=paper["method"] if named else f"{paper['method']}, {model}",
        model=model,
        published_protocol=paper["protocol"] or None,
        published_war=paper["war"],
        published_uar=paper["uar"],
        published_note=paper["note"] or None,
        protocol=protocol,
        **{name: value for name, value in values.items() if name not in ("method", "track")},
        track=values["track"] if track == RESULT else track,
        extent=extent_of(model, ours),
    )
    if ours and track == "oracle":
        row["notes"] = [*ours.notes, tables.ORACLE_NOTE]
    return row


def extent_of(model, ours):
    """Share of a paper in our row, a key of methods.EXTENTS; "" of a method of the user's own, None if not run."""
    if not ours:
        return None
    return "full" if model in PAPER_SETTINGS else ours.method.get("extent", "")


def database_rows(databases, found):
    """Table 1 / Table I: what was published of a database, and what the runs found."""
    rows = []
    for name in databases:
        corpus = protocols.DATABASES.get(name)
        seen = next((next(iter(run.values()))[0].config.database for key, run in found.items() if key[0] == name), None)
        if not (corpus or seen):
            continue
        classes = list(corpus.classes) if corpus else seen.classes
        papers = corpus.classes if corpus and name != "synthetic" else {}
        counts = [("utterances", sum(papers.values()) or None, seen and seen.utterances)]
        counts.append(("speakers", corpus.speakers if papers else None, seen and len(seen.speakers)))
        counts += [(label, papers.get(label), seen and seen.counts.get(label, 0)) for label in classes]
        counts.append(("minutes", None, seen and round(seen.seconds / 60, 1)))
        rows += [
            dict(
                dict.fromkeys(tables.RESULT_KEYS), table="databases", source=DATABASE_SOURCES.get(name), database=name,
                language=corpus.language if corpus else None, count=count, published=number, found=ours,
                partial=seen and seen.partial,
            )
            for count, number, ours in counts
        ]  # fmt: skip
    return rows


def significance_rows(models, databases, found, protocol, track):
    """Rows for each pair of `models` on each database where both have all folds of a seed in common."""
    rows = []
    for database, (first, second) in product(databases, combinations(models, 2)):
        pair = [found.get((database, model), {}) for model in (first, second)]
        seeds = sorted(set.intersection(*({seed for seed, folds in run.items() if is_complete(folds)} for run in pair)))
        if not seeds:
            continue
        for run in pair:
            check_comparable([fold for seed in seeds for fold in run[seed]])
        configs = [run[seeds[0]][0].config for run in pair]
        for name in ("utterances", "recordings"):
            if configs[0].settings[name] != configs[1].settings[name]:
                raise RunError(
                    f"{database}: {first} and {second} were run on other {name}; keep them in separate --runs"
                )
        (ours, _, speakers), (theirs, _, _) = (paired_hits(run, seeds) for run in pair)
        test = significance.compare(ours, theirs, speakers)
        tracks = {config.settings["track"] for config in configs} if track == RESULT else {track}
        winner = {"first": first, "second": second}.get(test.verdict)
        rows.append(dict(
            dict.fromkeys(tables.RESULT_KEYS), table=tables.SIGNIFICANCE, database=database, protocol=protocol,
            track=tracks.pop() if len(tracks) == 1 else track, first=first, second=second,
            war_first=100 * float(ours.mean()), war_second=100 * float(theirs.mean()),
            difference=100 * test.war_difference, difference_speakers=[100 * end for end in test.interval],
            speakers=int(speakers.max()) + 1, speaker_p=test.speaker_p, mcnemar_p=test.mcnemar_p,
            notes=[
                f"{model}: {note}"
                for model, run, config in zip((first, second), pair, configs)
                for note in row_notes({seed: run[seed] for seed in seeds}, seeds, config)
            ],
            transductive=[model for model, config in zip((first, second), configs) if is_transductive(config)],
            seeds=seeds, seeds_agree=test.seeds_agree, verdict=f"{winner} is better" if winner else test.verdict,
        ))  # fmt: skip
    return rows
