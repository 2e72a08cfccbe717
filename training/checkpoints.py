"""A fold's files: its state while it is in training, its results at the end, and its model for later use.

    run = FoldRun(job, trainer, run_config, 60, progress)    # resumes where there is a saved state
    run.end_epoch(losses)                                    # once an epoch
    run.finish()
    model = load_model(folder, "cpu")                        # for predict.py

The caller holds the fold's lock (common/runs.py).
"""

import io
import math
import pickle
import time
import warnings
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch

import features
import protocols
from common import config, methods, runs
from common.cli import format_duration
from training.trainer import default_form, make_model


def to_bytes(content):
    """Bytes of torch.save, by way of memory: straight to a full disk it ends in an error of its own kind."""
    memory = io.BytesIO()
    torch.save(content, memory)
    return memory.getvalue()


def read_checkpoint(path):
    """Content of a file of torch.save, tensors on the CPU; RunError where it holds code or is damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a pickle protocol that torch does not write
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict):
            raise ValueError("no dictionary")
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ):
        raise runs.RunError(
            f"{path}: is missing, damaged, or holds more than weights and settings; {runs.REMEDY}"
        ) from None
    return checkpoint


# ---------------------------------------------------------------------------------- a fold in training


class FoldRun:
    """Log, scores and files of one fold, from its first epoch or its saved state to its results.

    `save_every`: seconds between saved states; `progress`: a cli.Progress. The held-out utterances of the validation
    track are `job.val_utterances`.
    """

    def __init__(self, job, trainer, run_config, save_every, progress):
        self.job, self.trainer, self.config = job, trainer, run_config
        self.save_every, self.progress = save_every, progress
        self.log, self.scores = [], {}  # (epoch, loss, seconds); epoch -> (test scores, held-out scores or None)
        self.chosen = None  # validation track: (epoch, weights) of the best epoch so far
        self.saved_epoch = None  # of the state on disk
        self.started = time.perf_counter()
        runs.remove_leftovers(job.folder, keep=[runs.STATE_FILE])
        (job.folder / runs.DONE_FILE).unlink(missing_ok=True)
        if (job.folder / runs.STATE_FILE).is_file():
            self.resume(job.folder / runs.STATE_FILE)
        runs.write_json(job.folder / "config.json", asdict(run_config))
        # where this process begins: epoch, seconds trained before, and since when it trains
        self.first_epoch, self.earlier_seconds = trainer.epoch, self.log[-1][2] if self.log else 0.0
        self.last_save = self.clock = time.perf_counter()

    @property
    def is_trained(self):
        """True after the last epoch."""
        return self.trainer.epoch >= self.job.settings["epochs"]

    def report_step(self, step):
        """Show the progress within the first epoch; later epochs show their pace."""
        if self.trainer.epoch == 0:
            self.progress.update(f"epoch 1/{self.job.settings['epochs']}  step {step}/{len(self.trainer.step_sizes)}")

    def end_epoch(self, losses):
        """Log an epoch, save the scores and the state that are due; RunError for a loss that is no number."""
        epoch, now = self.trainer.epoch, time.perf_counter()
        epochs, eval_every = self.job.settings["epochs"], self.job.settings["eval_every"]
        for step, loss in enumerate(losses, 1):
            if not math.isfinite(loss):
                raise self.divergence(f"the loss became {loss} in epoch {epoch}, step {step}")
        sizes = self.trainer.step_sizes
        loss = sum(loss * size for loss, size in zip(losses, sizes)) / sum(sizes)
        self.log.append((epoch, loss, self.earlier_seconds + now - self.clock))
        if epoch == epochs or (eval_every and epoch % eval_every == 0):
            self.evaluate()
        if epoch < epochs and now - self.last_save >= self.save_every:
            self.save(self.job.folder / runs.STATE_FILE)
            self.last_save = now
        pace = (now - self.clock) / (epoch - self.first_epoch)  # seconds per epoch
        self.progress.update(
            f"epoch {epoch}/{epochs}, {format_duration(pace * (epochs - epoch))} left, loss {loss:.4f}, "
            f"{sum(sizes) / pace:.0f} segments/s"
        )

    def divergence(self, reason):
        """RunError for a training that diverged."""
        state = f"of epoch {self.saved_epoch}, in {runs.STATE_FILE}" if self.saved_epoch else "the initial state"
        return runs.RunError(
            f"{self.job.folder}: {reason}; the last good state is {state}; remove that folder and try a smaller --lr"
        )

    def evaluate(self):
        """Score the tested utterances, and on the validation track also the held-out ones, which choose the epoch."""
        epoch, held_out = self.trainer.epoch, self.job.val_utterances
        with methods.errors_of(self.job.method.path, torch.OutOfMemoryError):
            test = self.trainer.score(self.job.fold.test)
            self.scores[epoch] = (test, self.trainer.score(held_out) if len(held_out) else None)
        if not np.isfinite(test).all():
            raise self.divergence(f"the scores of epoch {epoch} are not finite")
        if not len(held_out):
            return
        validation = np.stack([scores for _, scores in self.scores.values()])  # (E, m, K)
        best = list(self.scores)[runs.best_epoch(self.trainer.data.database.labels[held_out], validation)]
        if best == epoch:
            self.chosen = (best, self.trainer.copy_weights())

    # ------------------------------------------------------------------------------ save and resume

    def save(self, path):
        """Write the state, sealed; a state whose weights are not finite does not replace a good one."""
        training = self.trainer.state()
        if not all(bool(torch.isfinite(value).all()) for value in training["model"].values()):
            return
        scores = {
            epoch: [None if part is None else torch.from_numpy(part) for part in both]
            for epoch, both in self.scores.items()
        }
        made_by = {name: getattr(self.config, name) for name in ("code", "machine", "earlier_machines")}
        state = dict(settings=self.job.settings, log=self.log, scores=scores, chosen=self.chosen, training=training)
        runs.write_sealed(path, to_bytes(dict(state, made_by=made_by)))
        self.saved_epoch = self.trainer.epoch

    def resume(self, path):
        """Resume from a saved state; a damaged state, or of other settings, code or torch, is passed over."""
        settings = self.job.settings
        try:
            state = read_checkpoint(io.BytesIO(runs.read_sealed(path)))
            made_by, training = state["made_by"], state["training"]
            epoch, eval_every = training["epoch"], settings["eval_every"]
            if state["settings"] != settings:
                return
            if (made_by["code"], made_by["machine"]["torch"]) != (self.config.code, self.config.machine["torch"]):
                self.progress.line(f"{path} is of another version of the code or of torch; the fold starts again")
                return
            due = [number for number in range(1, epoch + 1) if eval_every and not number % eval_every]
            if not (0 < epoch < settings["epochs"] and len(state["log"]) == epoch and list(state["scores"]) == due):
                raise ValueError("of epochs that do not fit")
            scores = {
                number: tuple(None if part is None else part.numpy() for part in both)
                for number, both in state["scores"].items()
            }
            log, chosen, earlier_machines = state["log"], state["chosen"], list(made_by["earlier_machines"])
            self.trainer.restore(training)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            self.progress.line(f"{path} is damaged; the fold starts again")
            return
        self.log, self.scores, self.chosen, self.saved_epoch = log, scores, chosen, epoch
        self.config.earlier_machines = earlier_machines
        self.progress.line(f"resumes after epoch {epoch}")
        if made_by["machine"] != self.config.machine:  # record it: the bits are those of neither machine alone
            self.config.earlier_machines.append(made_by["machine"])

    # --------------------------------------------------------------------------------------- finish

    def finish(self):
        """Write the fold's files; done.json, which marks it as finished, comes last."""
        job, database, folder = self.job, self.trainer.data.database, self.job.folder
        epoch, weights = self.chosen or (self.trainer.epoch, self.trainer.model.state_dict())
        test = self.scores[epoch][0]
        rows = "".join(f"{number},{loss:.9g},{seconds:.3f}\n" for number, loss, seconds in self.log)
        runs.write_text(folder / "log.csv", "epoch,loss,seconds\n" + rows)
        runs.write_predictions(folder / "predictions.csv", database, job.fold.test, test)
        arrays = dict(epochs=np.array(list(self.scores)), scores=np.stack([both[0] for both in self.scores.values()]))
        if len(job.val_utterances):
            arrays["validation"] = np.stack([both[1] for both in self.scores.values()])
            arrays["validation_labels"] = database.labels[job.val_utterances]
        with runs.atomic_write(folder / "epochs.npz") as file:
            np.savez(file, **arrays)
        normalization = self.trainer.normalization
        is_of_fold = job.settings["normalization"] == "fold"
        checkpoint = dict(
            model={name: value.to("cpu", copy=True).contiguous() for name, value in weights.items()},
            normalization=[part.cpu() for part in normalization[:2]] if is_of_fold else None,
            settings=job.settings,
            classes=list(database.classes),
            speakers=len(self.config.train_speakers),
            epoch=epoch,
            code=self.config.code,
        )
        with runs.atomic_write(folder / "checkpoint.pt") as file:
            file.write(to_bytes(checkpoint))
        if job.method.source:  # predict.py builds the network by it
            with runs.atomic_write(folder / runs.METHOD_FILE) as file:
                file.write(job.method.source)
        trained = torch.cat([self.trainer.data.utterance_of[self.trainer.segments], normalization.learned_from])
        speakers = database.speakers[trained.unique().cpu().numpy()]  # trained on, by weights or statistics
        runs.mark_done(folder, epoch=epoch, trained_on=sorted(set(speakers.tolist())))
        runs.remove_leftovers(folder)
        result = "tested on nobody"
        if len(job.fold.test):
            matrix = protocols.confusion(database.labels[job.fold.test], test)
            result = f"WAR {100 * protocols.war(matrix):.2f}, UAR {100 * protocols.uar(matrix):.2f}"
        self.progress.line(
            f"epoch {epoch} of {job.settings['epochs']}, loss {self.log[epoch - 1][1]:.4f}, {result}, "
            f"{format_duration(time.perf_counter() - self.started)}"
        )


# ------------------------------------------------------------------------------------ a model for use


class Model(NamedTuple):
    """What a checkpoint holds, on the device."""

    network: torch.nn.Module  # in evaluation mode
    front_end: features.FrontEnd
    classes: list
    settings: dict
    normalization: tuple  # offset and scale (1, n_mels, 1) of the training fold; None where the recording gives them
    code: dict  # file -> version it was trained with


def load_model(folder, device):
    """Model of a finished fold; RunError where its checkpoint is not what train.py writes.

    No code in the checkpoint is run. A network of the user's own is built by the copy of its file in the folder.
    """
    path = folder / "checkpoint.pt"
    checkpoint = read_checkpoint(path)
    try:
        method = read_method(folder, checkpoint["settings"])
        if method and method.has_back_end:
            reason = "its classifier is fitted on training recordings and not saved"
            raise runs.RunError(f"{folder}: {reason}; name the run of another --model")
        return model_of(checkpoint, device, method)
    except (runs.RunError, methods.MethodError):
        raise
    except KeyError as error:
        reason = f"it lacks {error}"
    except Exception as error:  # a user's network can raise anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
    raise runs.RunError(f"{path}: cannot be used ({reason}); train it again, or name another --run")


def read_method(folder, settings):
    """Method of a run that is none of the papers' networks, a user's from the copy of its file; None of the papers'."""
    if settings["model"] in methods.COMPARISONS:
        return methods.find(settings["model"])
    if "method_sha256" not in settings:
        return None
    path = folder / runs.METHOD_FILE
    with runs.reading(path):
        if runs.sha256_of(path) != settings["method_sha256"]:
            raise ValueError("it is not the file that was trained")
    return methods.load_file(path)


def model_of(checkpoint, device, method=None):
    """Model of a checkpoint's content; KeyError, ValueError and others where the content is odd."""
    build = method.build if method else None
    settings, classes, normalization = checkpoint["settings"], checkpoint["classes"], checkpoint["normalization"]
    front_end = check_front_end(settings["front_end"])
    if len(set(classes)) < max(2, len(classes)) or not all(isinstance(name, str) and name for name in classes):
        raise ValueError("its classes are not two names or more")
    is_known = build or settings["model"] in methods.PAPER_SETTINGS
    if not is_known or settings["normalization"] not in config.NORMALIZATIONS:
        raise ValueError("its model or normalisation is unknown")
    for name in set(config.OPEN_SETTINGS) & set(settings):
        if not build and not config.is_possible_setting(name, settings[name], settings["model"]):
            raise ValueError(f"its {name} is impossible")
    if (normalization is None) == (settings["normalization"] == "fold"):
        raise ValueError("its normalisation does not match its settings")
    if normalization is not None:
        offset, scale = normalization
        if not offset.shape == scale.shape == (1, front_end.n_mels, 1) or not (scale > 0).all():
            raise ValueError("its normalisation does not fit the front end")
        normalization = (offset.float().to(device), scale.float().to(device))
    speakers, form = checkpoint.get("speakers", 2), default_form(device)
    network = make_model(settings, len(classes), device, form, seed=0, build=build, speakers=speakers)
    network.load_state_dict(checkpoint["model"])
    numbers = [*network.state_dict().values(), *(normalization or ())]
    if not all(bool(torch.isfinite(value).all()) for value in numbers):
        raise ValueError("some of its numbers are not finite")
    network.eval()
    if method or front_end not in features.FRONT_ENDS.values():  # a trial shows if it fits the network
        with torch.inference_mode():
            network(torch.zeros(1, 1, *front_end.row_shape, device=device))
    return Model(network, front_end, list(classes), settings, normalization, dict(checkpoint.get("code") or {}))


def check_front_end(settings):
    """FrontEnd of a checkpoint's settings; ValueError where its values are no front end's."""
    front_end = features.FrontEnd(**settings)
    if not methods.is_possible_front_end(front_end):
        raise ValueError("its front end has impossible values")
    return front_end
