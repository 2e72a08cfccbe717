"""Run folders written by hand: what evaluation reads, without any training."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import protocols
from common import config, methods, runs

CLASSES = ("angry", "fear", "happy")
# Three speakers; each pair is an utterance, its emotion and the class predicted: ah is angry, recognised as happy.
#            correct of all        recalls
# seed 0, A: 1/2                   a 1/1  f 0/1           WAR 1/2  UAR 1/2
#         B: 4/6                   a 3/4         h 1/2    WAR 2/3  UAR 5/8
#         C: 1/2                          f 1/2           WAR 1/2  UAR 1/2
#    pooled: 6/10                  a 4/5  f 1/3  h 1/2    WAR 3/5  UAR 49/90;  by fold WAR 5/9  UAR 13/24
# seed 1, A: 2/2                   a 1/1  f 1/1           WAR 1    UAR 1
#         B: 4/6                   a 2/4         h 2/2    WAR 2/3  UAR 3/4
#         C: 2/2                          f 2/2           WAR 1    UAR 1
#    pooled: 8/10                  a 3/5  f 3/3  h 2/2    WAR 4/5  UAR 13/15;  by fold WAR 8/9  UAR 11/12
ANSWERS = [dict(A="aa fa", B="aa aa aa ah hh hf", C="ff fa"), dict(A="aa ff", B="aa aa af ah hh hh", C="ff ff")]
# Three epochs of each speaker; the oracle chooses BEST, the validation track what a test asks for
BY_EPOCH = dict(
    A={1: "aa ff", 2: "aa fa", 3: "ah fa"},
    B={1: "af af af af ha hf", 2: "aa aa aa aa hh hh", 3: "aa aa aa ah hh hf"},
    C={1: "fa fa", 2: "fa ff", 3: "ff ff"},
)
BEST = dict(A=1, B=2, C=3)


def make_database(name="casia", answers=ANSWERS[0], sessions=None):
    """Database of the utterances of some answers; without `sessions` each speaker is a session of that name."""
    pairs = [(speaker, i, pair[0]) for speaker in answers for i, pair in enumerate(answers[speaker].split())]
    ids, speakers = [f"{speaker}/{i}" for speaker, i, _ in pairs], np.array([speaker for speaker, _, _ in pairs])
    corpus = protocols.DATABASES.get(name)
    return protocols.Database(
        name, Path("nowhere"), corpus.language if corpus else "", CLASSES, ids, [f"{name}.wav" for name in ids],
        np.array(["afh".index(label) for _, _, label in pairs]), speakers,
        np.array([(sessions or {}).get(speaker, speaker) for speaker in speakers.tolist()]), bool(corpus),
    )  # fmt: skip


def scores_of(text):
    """Scores (2, 3) of `aa fh`, with the highest at the second letter of each pair."""
    return np.array([[0.75 if letter == pair[1] else 0.125 for letter in "afh"] for pair in text.split()], np.float32)


def write_run(folder, answers=ANSWERS[0], name="casia", protocol="speaker", sessions=None, **details):
    """Write all folds of a seed; `answers`: {speaker: answers of epoch 3, or {epoch: answers}}; see write_fold."""
    by_epoch = {speaker: text if isinstance(text, dict) else {3: text} for speaker, text in answers.items()}
    database = make_database(name, {speaker: max(texts.items())[1] for speaker, texts in by_epoch.items()}, sessions)
    runs.write_index(folder, database)
    folds = protocols.make_folds(database, protocol)
    for fold in folds:
        tested = sorted(set(database.speakers[fold.test].tolist()))
        epochs = {epoch: " ".join(by_epoch[speaker][epoch] for speaker in tested) for epoch in by_epoch[tested[0]]}
        write_fold(folder, database, fold, epochs, len(folds), protocol=protocol, **details)
    return Path(folder)


def write_fold(folder, database, fold, epochs, folds_total, model="tft", protocol="speaker", seed=0, track="last",
               best=None, trained=True):  # fmt: skip
    """Write a finished fold; `epochs`: {epoch: answers}; `best`: the epoch that the validation track is to choose.

    trained=False writes what a method without epochs and weights does: configuration and predictions.
    """
    train, settings, last = fold.train, dict(model=model, protocol=protocol, seed=seed), max(epochs)
    arrays = dict(epochs=np.array(list(epochs)), scores=np.stack([scores_of(text) for text in epochs.values()]))
    if track == "validation":
        train, val = protocols.split_validation_speakers(database, fold, seed)
        settings["held_out"] = sorted(set(database.speakers[val].tolist()))
        arrays["validation"], arrays["validation_labels"] = (
            np.full((len(epochs), len(val), 3), 0.1),
            database.labels[val],
        )
        arrays["validation"][list(epochs).index(best), np.arange(len(val)), database.labels[val]] = 0.8
    settings.update(
        track=track, fold=fold.number, fold_name=fold.name, utterances=database.digest[:16], recordings="5" * 16
    )
    if trained:
        paper = config.PAPER_SETTINGS[model]
        settings.update(
            epochs=last, batch_size=paper.batch_size, lr=paper.lr, normalization="fold", precision="float32"
        )
        settings["front_end"] = config.front_end_of(methods.find(model), {}).as_settings()
        settings["eval_every"] = min(epochs) if len(epochs) > 1 else 0
    speakers = sorted(set(database.speakers.tolist()))
    facts = runs.DatabaseFacts(
        database.name, database.language, list(CLASSES), database.counts(), speakers, len(database.ids), 60.0, 99,
        database.partial,
    )  # fmt: skip
    run_config = runs.RunConfig(
        settings=settings,
        deviations=config.deviations_of(settings) if trained else [],
        folds_total=folds_total,
        database=facts,
        train_speakers=sorted(set(database.speakers[train].tolist())),
        test_speakers=sorted(set(database.speakers[fold.test].tolist())),
        test=[database.ids[i] for i in fold.test],
        code={"models.py": "c" * 16},
        machine=dict(device="cpu", torch="2"),
    )
    fold_folder = runs.fold_folder(folder, database.name, model, protocol, seed, fold.number, track)
    runs.write_json(fold_folder / "config.json", asdict(run_config))
    runs.write_predictions(fold_folder / "predictions.csv", database, fold.test, scores_of(epochs[best or last]))
    if trained:
        losses = "".join(f"{epoch},{4 - epoch},{2 * epoch}\n" for epoch in range(1, last + 1))
        runs.write_text(fold_folder / "log.csv", "epoch,loss,seconds\n" + losses)
        np.savez(fold_folder / "epochs.npz", **arrays)
        torch.save(dict(settings=settings, epoch=best or last), fold_folder / "checkpoint.pt")
    runs.mark_done(fold_folder, epoch=best or last, trained_on=run_config.train_speakers)


def seal(folder, **facts):
    """Seal a fold's files again after a change, with other facts in done.json where they are given."""
    done = json.loads((folder / runs.DONE_FILE).read_text())
    runs.mark_done(folder, **{name: value for name, value in done.items() if name != "files"} | facts)


def change(folder, **values):
    """Change values of a fold's config.json, settings__lr=1 means settings -> lr, in the checkpoint too; seal again."""
    content = json.loads((folder / "config.json").read_text())
    for name, value in values.items():
        *parts, last = name.split("__")
        target = content
        for part in parts:
            target = target[part]
        target[last] = value
    runs.write_json(folder / "config.json", content)
    if (folder / "checkpoint.pt").exists():
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        torch.save(dict(state, settings=content["settings"]), folder / "checkpoint.pt")
    seal(folder)
