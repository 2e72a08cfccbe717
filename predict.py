"""Predict the emotion of recordings with a finished run; nothing is trained or tuned.

    python predict.py --run runs/casia/tft/speaker/seed0 a.wav recordings/     # mean of all folds' models
    python predict.py --run runs/casia/tft/speaker/seed0/fold3 a.wav           # one fold's model
    python predict.py --run runs/casia/tft/speaker/seed0/all a.wav --segments  # the model of train.py --fold none

Prints the class and the probabilities of each recording, with --segments also those of its segments (--format json
always holds them). Folders are searched for WAV and FLAC files. Classes, normalisation and front end come from the
checkpoint. A recording that cannot be used is skipped, with one line on standard error; what folders hold besides,
linked folders and recordings of other formats, is counted at the end.
"""

import csv
import json
import os
import re
import sys
import threading
from collections import Counter, deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

import features
import protocols
from common import audio, cli, config, methods, runs

# functions import training/, because torch takes a second and --help should answer at once

BATCH = 64  # segments scored at once; more gain nothing on a CPU
GROUP = 16  # recordings that a thread takes at once
USED_CODE = ("common/audio.py", "features.py", "protocols.py", "training/data.py")  # of a prediction
NETWORK_CODE = ("models.py", "fast/modules.py", "fast/layers.py")  # of a prediction by a network of the suite
WARNING = "warning: a model of acted speech transfers poorly to other voices, rooms and languages"

# ------------------------------------------------------------------------------------------- the models


def find_checkpoints(run):
    """Folders of the finished folds that --run names: a fold's own folder, or all folds of a seed's folder.

    Of two tracks in a seed's folder it is the one that the method's result is of. Raises RunError where there is none.
    """
    run = Path(run)
    if (run / "config.json").exists() or (run / runs.DONE_FILE).exists():
        folds = [run]
    else:
        folds = [path for path in run.glob("fold*") if re.fullmatch(r"fold\d+(-validation)?", path.name)]
    done = [fold for fold in sorted(folds, key=lambda fold: protocols.natural_order(fold.name)) if runs.is_done(fold)]
    if not done:
        problem = "has no finished fold, or files that were changed since" if run.is_dir() else "no such folder"
        if runs.is_done(run / "all"):
            problem = f"has no finished fold, but a model of all speakers in {run / 'all'}"
        raise runs.RunError(f"{run}: {problem}; name a folder such as runs/casia/tft/speaker/seed0, or a fold in it")
    if len({fold.name.endswith("-validation") for fold in done}) > 1:
        track = runs.read_config(done[0]).method.get("track", "last")
        done = [fold for fold in done if fold.name.endswith("-validation") == (track == "validation")]
    for fold in done:
        if not (fold / "checkpoint.pt").is_file():
            raise runs.RunError(f"{fold}: holds predictions and no model; name the run of another --model")
    return done


def load_models(folders, device):
    """Models of some folds; RunError unless they are of one experiment."""
    from training import checkpoints

    loaded = [checkpoints.load_model(folder, device) for folder in folders]
    first, *others = (dict(model.settings, classes=model.classes) for model in loaded)
    if first["normalization"] == "speaker":
        raise runs.RunError(f"{folders[0]}: --normalization speaker {config.SPEAKER_STATISTICS_NEED}; name another run")
    for folder, settings in zip(folders[1:], others):
        for name in runs.different_settings(first, settings):
            raise runs.RunError(f"{folder}: differs from {folders[0]} in {name}; name one of them")
    return loaded


def notes(folders, loaded):
    """Lines that a reader of the predictions should know about the models."""
    yield WARNING
    settings = loaded[0].settings
    used, files = USED_CODE, []
    if "method_sha256" not in settings:  # not of a user's network
        used, files = (*USED_CODE, *NETWORK_CODE), methods.find(settings["model"]).code_files()
    now, used = runs.CODE_VERSIONS | runs.code_versions(files), (*used, *files)
    other = [name for name in used if any(model.code.get(name) != now.get(name) for model in loaded)]
    if other:
        yield f"{folders[0]}: was trained with another version of {' and '.join(other)}; predictions may differ"
    total = runs.read_config(folders[0]).folds_total
    if len(folders) > 1 and len(folders) != total:
        yield f"{folders[0].parent}: mean of {len(folders)} of {total} folds, the others are not finished"


# ------------------------------------------------------------------------------------------- recordings


class Prediction(NamedTuple):
    """Scores of a recording."""

    file: str
    scores: np.ndarray  # (K,) of the recording, from its segments' posteriors
    posteriors: np.ndarray  # (S, K) of its segments
    times: np.ndarray  # (S, 2) start and end of each segment in seconds; the last ends with the recording


def find_files(paths, report):
    """Recordings that the command line names: files as they are, folders with all recordings in them, sorted.

    `report(line)` gets a line for a folder without any. Gives the recordings, and a line for each kind of what was
    passed over.
    """
    files, links, closed, others = [], [], [], Counter()
    for path in paths:
        if not os.path.isdir(path):
            files.append(path)
            continue
        found = []
        for folder, folders, names in os.walk(path, onerror=lambda error: closed.append(error.filename)):
            folders[:] = [name for name in folders if not name.startswith(".")]
            links += [os.path.join(folder, name) for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in names:
                ending = os.path.splitext(name)[1].lower()
                if ending in protocols.AUDIO_ENDINGS and not name.startswith("."):
                    found.append(Path(folder) / name)
                elif ending in audio.OTHER_ENDINGS and not name.startswith("."):
                    others[ending] += 1
        files += map(str, sorted(found))
        if not found:
            report(f"{path}: holds no {', '.join(protocols.AUDIO_ENDINGS)} file")
    passed_over = []
    if others:
        kinds = ", ".join(f"{ending} {number}" for ending, number in sorted(others.items()))
        passed_over.append(f"recordings of other formats not read: {kinds}; convert them to WAV or FLAC")
    if links:
        passed_over.append(f"linked folders not searched: {', '.join(sorted(links)[:5])}"
                           f"{f' and {len(links) - 5} more' if len(links) > 5 else ''}; name them too")  # fmt: skip
    if closed:
        passed_over.append(
            f"folders that may not be opened: {len(closed)}, such as {closed[0]}; change their permissions"
        )
    return files, passed_over


def predict(loaded, files, device, report):
    """Yield a Prediction of each recording that can be used, in order; `report(line)` gets a line for the others.

    Threads take groups of recordings, each with one torch thread of its own: several torch threads in one
    operation would wait for each other, long where other programs run.
    """
    import torch

    groups = [files[i : i + GROUP] for i in range(0, len(files), GROUP)]
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(groups)))
    stop, ahead = threading.Event(), deque()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(max(1, threads // workers),))
    try:
        while groups or ahead:
            while groups and len(ahead) <= 2 * workers:
                ahead.append(pool.submit(predict_group, loaded, groups.pop(0), device, stop))
            for result in ahead.popleft().result():
                if isinstance(result, str):
                    report(result)
                else:
                    yield result
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def predict_group(loaded, files, device, stop):
    """A Prediction of each recording, or the line that explains why there is none."""
    done, batch = [], []  # batch: (file, segments, seconds) of about BATCH segments
    front_end = loaded[0].front_end
    for file in files:
        try:
            with features.enough_memory(file):
                wave = features.read_audio(file, front_end.sample_rate)
                batch.append((file, features.log_mel(wave, front_end), len(wave) / front_end.sample_rate))
        except features.AudioError as error:
            done.append(str(error))
        if sum(len(segments) for _, segments, _ in batch) >= BATCH:
            done += predict_batch(loaded, batch, device, stop)
            batch = []
    return done + predict_batch(loaded, batch, device, stop) if batch else done


def predict_batch(loaded, batch, device, stop):
    """Predictions of (file, segments, seconds) of some recordings."""
    counts = np.array([len(segments) for _, segments, _ in batch])
    posteriors = segment_posteriors(
        loaded, np.concatenate([segments for _, segments, _ in batch]), counts, device, stop
    )
    front_end = loaded[0].front_end
    scores = protocols.utterance_scores(posteriors, counts, loaded[0].settings.get("aggregation", "mean"))
    return [
        Prediction(file, scores[i], part, segment_times(len(segments), seconds, front_end))
        for i, ((file, segments, seconds), part) in enumerate(zip(batch, np.split(posteriors, np.cumsum(counts)[:-1])))
    ]


def segment_times(count, seconds, front_end):
    """Start and end (count, 2) in seconds of the segments of a recording; the last ends with it."""
    hop = features.hop_of(round(seconds * front_end.sample_rate), front_end) / front_end.sample_rate
    length = front_end.frames * front_end.hop_length / front_end.sample_rate if front_end.cut == "fixed" else hop
    starts = np.arange(count) * hop
    return np.stack([starts, np.append(starts[:-1] + length, seconds)], 1)  # (count, 2)


def segment_posteriors(loaded, segments, counts, device, stop):
    """Mean over the models of each segment's posterior: (S, n_mels, frames), segments of each file (n,) -> (S, K).

    Raises CancelledError once `stop` is set, and RunError for probabilities that are not finite.
    """
    import torch

    from training import data

    utterance_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)
    recordings = data.Data(None, None, torch.from_numpy(segments).to(device), None, utterance_of)
    kind, own = loaded[0].settings["normalization"], None
    if kind != "fold":  # the recordings' own statistics, or none
        own = data.fit_normalization(recordings, kind, None)
    parts = []
    with torch.inference_mode():
        for index in torch.arange(len(segments), device=device).split(BATCH):
            if stop.is_set():
                raise CancelledError
            inputs = (data.gather(recordings, own or model.normalization, index) for model in loaded)  # (b, 1, f, d)
            parts.append(sum(model.network(x).softmax(1) for model, x in zip(loaded, inputs)))
    mean = (torch.cat(parts) / len(loaded)).cpu().numpy()
    if not np.isfinite(mean).all():
        raise runs.RunError("--run: its models give probabilities that are not finite; train them again")
    return mean


# ------------------------------------------------------------------------------------------- printing


def spans(prediction):
    """(start, end, posterior) of each segment, in seconds."""
    return zip(*prediction.times.T.tolist(), prediction.posteriors)


def print_text(predictions, classes, segments):
    """Print a line for each recording, in columns, and with `segments` for each segment."""
    widths = [max(cli.width(name), 5) for name in classes]
    first = max(cli.width(name) for name in ("class", *classes))

    def line(chosen, cells, last):
        print(cli.ljust(chosen, first), *map(cli.rjust, cells, widths), last)

    line("class", classes, " file")
    for item in predictions:
        line(classes[item.scores.argmax()], [f"{value:.3f}" for value in item.scores], f" {item.file}")
        for start, end, part in spans(item) if segments else ():
            line(classes[part.argmax()], [f"{value:.3f}" for value in part], f" {start:8.2f} to {end:.2f} s")


def print_csv(predictions, classes, segments):
    """Print a row for each recording, or with `segments` for each segment."""
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["file", *(("from", "to") if segments else ()), "class", *classes])
    for item in predictions:
        if not segments:
            rows.writerow([item.file, classes[item.scores.argmax()], *map(digits, item.scores)])
        for start, end, part in spans(item) if segments else ():
            rows.writerow([item.file, f"{start:.3f}", f"{end:.3f}", classes[part.argmax()], *map(digits, part)])


def print_json(predictions, classes, segments):
    """Print a list of objects, a line each, that hold their segments; it is complete also when it is interrupted."""

    def as_object(scores):
        probabilities = {name: float(digits(value)) for name, value in zip(classes, scores)}
        return {"class": classes[scores.argmax()], "probabilities": probabilities}

    before = "["
    try:
        for item in predictions:
            parts = [
                {"from": round(start, 3), "to": round(end, 3), **as_object(part)} for start, end, part in spans(item)
            ]
            seconds = round(float(item.times[-1, 1]), 3)
            row = dict(file=item.file, seconds=seconds, **as_object(item.scores), segments=parts)
            print(before, json.dumps(row, ensure_ascii=False), sep="\n", end="")
            before = ","
    finally:
        print("\n]" if before == "," else "[]")


def digits(value):
    """Digits that give a float32 back exactly."""
    return f"{value:.9g}"


FORMATS = dict(text=print_text, csv=print_csv, json=print_json)

# ---------------------------------------------------------------------------------------- the command


def parse_command_line(arguments=None):
    """Options of a command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("paths", nargs="+", metavar="FILE", help="recordings, and folders of recordings")
    add("--run", required=True, help="folder of a fold, of a seed (mean of its folds), or of train.py --fold none")
    add("--segments", action="store_true", help="also the probabilities of each segment")
    add("--format", default="text", choices=FORMATS, help="format of the output (default: text)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Run the command line."""
    options = parse_command_line(arguments)
    folders = find_checkpoints(options.run)
    from training import data, trainer

    device = data.choose_device(options.device)
    if device == "cpu":
        trainer.prepare(device, deterministic=False)
    progress = cli.Progress("predict.py", sys.stderr)
    loaded = load_models(folders, device)
    for note in notes(folders, loaded):
        progress.line(note)
    skipped, done = [], 0

    def report(line):
        skipped.append(line)
        progress.line(line)

    files, passed_over = find_files(options.paths, report)

    def counted(predictions):
        nonlocal done
        for done, item in enumerate(predictions, 1):
            yield item
            if not sys.stdout.isatty():  # on a terminal the predictions themselves show it
                progress.update(f"{done} of {len(files)} recordings")

    with closing(predict(loaded, files, device, report)) as predictions:  # stops its threads when interrupted
        FORMATS[options.format](counted(predictions), loaded[0].classes, options.segments)
    for line in passed_over:
        progress.line(line)
    if skipped or progress.is_terminal:
        progress.line(f"{done} of {len(files)} recordings predicted")
    if not done:
        raise features.AudioError(f"none of the {len(files)} recordings could be predicted")


if __name__ == "__main__":
    with cli.exit_on_error("predict.py", interrupted="what is printed is complete"):
        main()
