"""Predict the emotion of recordings with a finished run; nothing is trained or tuned.

    python predict.py --run runs/casia/tft/speaker/seed0 a.wav recordings/     # mean of all folds' models
    python predict.py --run runs/casia/tft/speaker/seed0/fold3 a.wav           # one fold's model
    python predict.py --run runs/casia/tft/speaker/seed0/all a.wav --segments  # the model of train.py --fold none

Prints the class and the probabilities of each recording, and with --segments its course, segment by segment
(--format json always holds it). Folders are searched for .wav and .flac files. Classes, normalisation and front
end come from the checkpoint. A recording that cannot be used is passed over with one line on standard error.
"""

import csv
import json
import os
import sys
import threading
from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

import features
import protocols
import recipes
import results

# engine.py imports torch, which takes a second, so the functions that use them import them: --help answers at once

BATCH = 64  # segments scored at once; more gain nothing on a CPU
GROUP = 16  # recordings that a thread takes at once
USED_CODE = ("features.py", "models.py", "engine.py", "protocols.py")  # what a prediction depends on
MOST_FRAMES, MOST_POINTS = 10_000, 65_536  # of a segment and an FFT: a checkpoint that says more is damaged
WARNING = (
    "warning: a corpus trained on, above all of acted speech, transfers poorly to other voices, rooms and languages"
)

# ------------------------------------------------------------------------------------------- the models


class Model(NamedTuple):
    """What a checkpoint holds, on the device."""

    network: object
    front_end: features.FrontEnd
    classes: list
    settings: dict
    normalization: tuple  # offset and scale (1, bands, 1) of the training fold; None where the recording gives them
    code: dict  # file -> version it was trained with


def find_checkpoints(run):
    """Folders of the finished folds that --run names: a fold's own folder, or all folds of a seed's folder."""
    run = Path(run)
    if (run / "config.json").exists() or (run / results.MARKER).exists():
        folds = [run]
    else:
        folds = [path for path in run.glob("fold*") if path.name[4:].isdecimal()]
    done = [fold for fold in sorted(folds, key=lambda fold: (len(fold.name), fold.name)) if results.is_done(fold)]
    if not done:
        what = "has no finished fold, or files that were changed since" if run.is_dir() else "no such folder"
        if results.is_done(run / "all"):
            what = f"has no finished fold, but a model of all speakers in {run / 'all'}"
        raise results.RunError(f"{run}: {what}; name a folder such as runs/casia/tft/speaker/seed0, or one in it")
    return done


def load_models(folders, device):
    """The models of some folds, which must be of one experiment."""
    loaded = [load_model(folder, device) for folder in folders]
    first, *others = (dict(model.settings, classes=model.classes) for model in loaded)
    if first["normalization"] == "speaker":
        raise results.RunError(
            f"{folders[0]}: trained with --normalization speaker, which {recipes.FOR_KNOWN_SPEAKERS}; name another run"
        )
    for folder, told in zip(folders[1:], others):
        for name in results.differing(first, told):
            raise results.RunError(f"{folder}: differs from {folders[0]} in {name}; name one of them")
    return loaded


def load_model(folder, device):
    """The model of a fold; RunError where its checkpoint is not what train.py writes. No code in it is run."""
    path = folder / "checkpoint.pt"
    checkpoint = results.read_checkpoint(path)
    try:
        return check_model(checkpoint, device)
    except KeyError as error:
        reason = f"it lacks {error}"
    except results.DAMAGED as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
    raise results.RunError(f"{path}: cannot be used ({reason}); train it again, or name another --run")


def check_model(state, device):
    """The model of a checkpoint's content; KeyError, ValueError and others if it is odd."""
    import torch

    import engine

    settings, classes, normalization = state["settings"], state["classes"], state["normalization"]
    front_end = check_front_end(settings["front_end"])
    if len(set(classes)) < max(2, len(classes)) or not all(isinstance(name, str) and name for name in classes):
        raise ValueError("its classes are not two names or more")
    if settings["model"] not in recipes.RECIPES or settings["normalization"] not in recipes.NORMALIZATIONS:
        raise ValueError("its model or normalisation is unknown")
    for name in set(recipes.OPEN) & set(settings):
        if not recipes.is_possible(name, settings[name], settings["model"]):
            raise ValueError(f"its {name} is impossible")
    if (normalization is None) == (settings["normalization"] == "fold"):
        raise ValueError("its normalisation does not match its settings")
    if normalization is not None:
        offset, scale = normalization
        if not offset.shape == scale.shape == (1, front_end.bands, 1) or not (scale > 0).all():
            raise ValueError("its normalisation does not fit the front end")
        normalization = (offset.float().to(device), scale.float().to(device))
    options = engine.model_options(settings)
    network = engine.make_model(settings["model"], len(classes), 0, front_end, device, **options)
    network.load_state_dict(state["model"])
    numbers = [*network.state_dict().values(), *(normalization or ())]
    if not all(bool(torch.isfinite(value).all()) for value in numbers):
        raise ValueError("some of its numbers are not finite")
    network.eval()
    if front_end not in features.FRONT_ENDS.values():  # does it fit the network? A try costs a fifth of a second
        with torch.inference_mode():
            network(torch.zeros(1, 1, front_end.bands, front_end.frames, device=device))
    return Model(network, front_end, list(classes), settings, normalization, dict(state.get("code") or {}))


def check_front_end(told):
    """The FrontEnd of a checkpoint's settings; ValueError where its values are no front end's."""
    one = features.FrontEnd(**told)
    if not (
        all(type(getattr(one, part.name)) is part.type for part in fields(one))
        and 0 < one.frames <= MOST_FRAMES
        and 0 < one.shift <= one.window <= one.fft <= MOST_POINTS
        and 0 < one.bands <= one.fft // 2
        and features.RATES[0] <= one.rate <= features.RATES[1]
        and 0 <= one.low < one.high <= one.rate / 2
        and 0 <= one.pre_emphasis <= 1
        and 0 < one.floor < 1
        and one.overlap_fits()
        and one.emphasized in ("segment", "utterance")
    ):
        raise ValueError("its front end is impossible")
    return one


# ---------------------------------------------------------------------------------------- recordings


class Prediction(NamedTuple):
    file: str
    scores: np.ndarray  # (K,) of the recording, from its segments' posteriors
    course: np.ndarray  # (S, K) posterior of each segment
    times: np.ndarray  # (S, 2) seconds where each segment begins and ends, the last one with the recording


def find_files(places, complain):
    """Recordings that the command line names: files as they are, folders with all below them, in sorted order."""
    files = []
    for place in places:
        if os.path.isdir(place):
            found = [str(Path(place) / path) for path in protocols.audio_files(Path(place), "**/*")]
            files += found
            if not found:
                complain(f"{place}: holds no {' or '.join(protocols.AUDIO_ENDINGS)} file")
        else:
            files.append(place)
    return files


def predict(loaded, files, device, complain):
    """Yield a Prediction of each recording that can be used, in order; `complain(line)` is told of the others.

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
            for told in ahead.popleft().result():
                if isinstance(told, str):
                    complain(told)
                else:
                    yield told
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def predict_group(loaded, files, device, stop):
    """A Prediction of each recording, or the line that tells why there is none."""
    done, batch = [], []  # batch: (file, segments, seconds) of about BATCH segments
    front_end = loaded[0].front_end
    for file in files:
        try:
            with features.enough_memory(file):
                wave = features.read_audio(file, front_end.rate)
                batch.append((file, features.log_mel(wave, front_end), len(wave) / front_end.rate))
        except features.AudioError as error:
            done.append(str(error))
        if sum(len(segments) for _, segments, _ in batch) >= BATCH:
            done += predict_batch(loaded, batch, device, stop)
            batch = []
    return done + predict_batch(loaded, batch, device, stop) if batch else done


def predict_batch(loaded, batch, device, stop):
    counts = np.array([len(segments) for _, segments, _ in batch])
    course = posteriors(loaded, np.concatenate([segments for _, segments, _ in batch]), counts, device, stop)
    front_end = loaded[0].front_end
    scores = protocols.utterance_scores(course, counts, loaded[0].settings.get("aggregation", "mean"))
    return [
        Prediction(file, its_scores, its_course, segment_times(len(segments), seconds, front_end))
        for (file, segments, seconds), its_scores, its_course in zip(
            batch, scores, np.split(course, np.cumsum(counts)[:-1])
        )
    ]


def segment_times(count, seconds, front_end):
    """Begin and end (count, 2) in seconds of the segments of a recording, whose end is the last one's."""
    hop, length = front_end.hop / front_end.rate, front_end.frames * front_end.shift / front_end.rate
    begins = np.arange(count) * hop
    return np.stack([begins, np.append(begins[:-1] + length, seconds)], 1)


def as_data(segments, counts, normalization, device):
    """Data for engine.gather, and the normalisation that the recordings give themselves, None for `fold`."""
    import torch

    import engine

    utterance_of = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)
    data = engine.Data(None, None, torch.from_numpy(segments).to(device), None, utterance_of)
    return data, None if normalization == "fold" else engine.fit_normalization(data, normalization, None)


def posteriors(loaded, segments, counts, device, stop):
    """Mean over the models of each segment's posterior: (S, bands, frames), segments of each file (n,) -> (S, K)."""
    import torch

    import engine

    data, own = as_data(segments, counts, loaded[0].settings["normalization"], device)
    parts = []
    with torch.inference_mode():
        for some in torch.arange(len(segments), device=device).split(BATCH):
            if stop.is_set():
                raise CancelledError
            parts.append(
                sum(model.network(engine.gather(data, own or model.normalization, some)).softmax(1) for model in loaded)
            )
    mean = (torch.cat(parts) / len(loaded)).cpu().numpy()
    if not np.isfinite(mean).all():
        raise results.RunError("--run: its models give probabilities that are not finite; train them again")
    return mean


# ------------------------------------------------------------------------------------------- printing


def spans(prediction):
    """(from, to, posterior) of each segment, in seconds."""
    return zip(*prediction.times.T.tolist(), prediction.course)


def print_text(predictions, classes, segments):
    widths = [max(len(name), 5) for name in classes]
    first = max(len(name) for name in ("class", *classes))

    def line(chosen, cells, what):
        print(chosen.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths)), what)

    line("class", classes, " file")
    for one in predictions:
        line(classes[one.scores.argmax()], [f"{value:.3f}" for value in one.scores], f" {one.file}")
        for start, end, part in spans(one) if segments else ():
            line(classes[part.argmax()], [f"{value:.3f}" for value in part], f" {start:8.2f} to {end:.2f} s")


def print_csv(predictions, classes, segments):
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["file", *(("from", "to") if segments else ()), "class", *classes])
    for one in predictions:
        if not segments:
            rows.writerow([one.file, classes[one.scores.argmax()], *map(digits, one.scores)])
        for start, end, part in spans(one) if segments else ():
            rows.writerow([one.file, f"{start:.3f}", f"{end:.3f}", classes[part.argmax()], *map(digits, part)])


def print_json(predictions, classes, segments):
    def told(scores):
        probabilities = {name: float(digits(value)) for name, value in zip(classes, scores)}
        return {"class": classes[scores.argmax()], "probabilities": probabilities}

    before = "["
    try:
        for one in predictions:
            course = [{"from": round(a, 3), "to": round(b, 3), **told(part)} for a, b, part in spans(one)]
            row = dict(file=one.file, seconds=round(float(one.times[-1, 1]), 3), **told(one.scores), segments=course)
            print(before, json.dumps(row, ensure_ascii=False), sep="\n", end="")
            before = ","
    finally:  # whole also when it is interrupted
        print("\n]" if before == "," else "[]")


def digits(value):
    return f"{value:.9g}"  # gives the float32 back exactly


FORMATS = dict(text=print_text, csv=print_csv, json=print_json)

# ---------------------------------------------------------------------------------------- the command


def parse_command_line(arguments=None):
    parser = results.OneLineParser(__doc__)
    add = parser.add_argument
    add("places", nargs="+", metavar="FILE", help="recordings, and folders of recordings")
    add("--run", required=True, help="folder of a fold, of a seed (mean of its folds), or of train.py --fold none")
    add("--segments", action="store_true", help="also the course of each recording, segment by segment")
    add("--format", default="text", choices=FORMATS, help="how to print (default: text)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default: auto)")
    return parser.parse_args(arguments)


def notes(folders, loaded):
    """What a reader must know about the models, one line each."""
    yield WARNING
    now = results.code_versions(*USED_CODE)
    other = [name for name in USED_CODE if any(model.code.get(name) != now[name] for model in loaded)]
    if other:
        yield f"{folders[0]}: was not trained with this version of {' and '.join(other)}; predictions may differ"
    total = results.read_config(folders[0]).get("folds_total")
    if len(folders) > 1 and len(folders) != total:
        yield f"{folders[0].parent}: mean of {len(folders)} of {total} folds, the others are not finished"


def main(arguments=None):
    options = parse_command_line(arguments)
    folders = find_checkpoints(options.run)
    import engine

    device = engine.choose_device(options.device)
    if device == "cpu":
        features.keep_freed_memory()
    show = results.Progress("predict.py", sys.stderr)
    loaded = load_models(folders, device)
    for note in notes(folders, loaded):
        show.line(note)
    skipped = []

    def complain(line):
        skipped.append(line)
        show.line(line)

    files = find_files(options.places, complain)
    done = 0

    def counted(predictions):
        nonlocal done
        for done, one in enumerate(predictions, 1):
            yield one
            if not sys.stdout.isatty():  # on a terminal the predictions themselves show it
                show.running(f"{done} of {len(files)} recordings")

    with closing(predict(loaded, files, device, complain)) as predictions:  # stops its threads when interrupted
        FORMATS[options.format](counted(predictions), loaded[0].classes, options.segments)
    if skipped or show.terminal:
        show.line(f"{done} of {len(files)} recordings predicted")
    if not done:
        raise features.AudioError(f"none of the {len(files)} recordings could be predicted")


if __name__ == "__main__":
    with results.plain_errors("predict.py", interrupted="what is printed is complete"):
        main()
