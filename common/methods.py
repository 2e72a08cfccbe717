"""Methods: the papers' networks, the comparison methods, and a network in a file of the user's own.

    methods.find("tft")                     # a network of the papers, models.py
    methods.find("lld-svm")                 # a comparison method, comparisons/lld_svm.py
    methods.find("path/to/my_net.py")       # a file with build(classes, n_mels, frames) -> nn.Module

A network's file may also hold

    FRONT_END    "tft" (default), another name of features.FRONT_ENDS, or a features.FrontEnd
    SETTINGS     a dictionary {setting: value}; settings and defaults: NETWORK_DEFAULTS below
    TRACK        the track that its result is of: "last" (default), or "validation", where its epoch has to be chosen
    PUBLISHED    names of the rows of benchmarks/published.csv that it stands for
    EXTENT       the share of it that is its paper's, a key of EXTENTS below
    NOTE         a line for the reader of a table

A method that is fitted at once, without epochs, has two functions on DESCRIPTORS instead of `build`, as the files in
comparisons/ have; a user's file can be such a method too. x: utterance vectors (n, D), or a list of n arrays of frames
(T_i, D), float32 and normalised; labels (n,) from 0. Of SETTINGS it has `normalization`; SEEDED = False spares seeds:

    fit(x, labels, classes, seed) -> model
    scores(model, x) -> (n, classes), the largest is the predicted class

What else a network can have:

    build(classes, n_mels, frames, speakers)    also takes the number of the speakers that it is trained on
    losses(x, labels, speakers) -> (b,)         a method of the network: its own loss of segments, speakers (b,) from 0
    embed(x) -> (b, D)                          a method of a network whose file has `fit` and `scores` as well: these then
                                                classify utterances, lists of n arrays (S_i, D) with a row for each segment

A killed run resumes with the same bits where a network takes its random numbers from torch, whose seed is set in each
epoch, and holds what it needs from step to step in its buffers.
"""

import hashlib
import importlib
import json
import re
import sys
import traceback
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np

import features
import protocols

# ------------------------------------------------------------------------------- settings of the papers


@dataclass(frozen=True)
class PaperSettings:
    """Training settings of a paper, and its front end."""

    front_end: str
    epochs: int
    batch_size: int
    lr: float
    pre_emphasis: str


TFT_SETTINGS = PaperSettings("tft", epochs=1000, batch_size=64, lr=1e-3, pre_emphasis="segment")  # TFT section 3.3
ATFNN_SETTINGS = PaperSettings("atfnn", epochs=100, batch_size=128, lr=5e-4, pre_emphasis="none")  # III-C, epochs ours
PAPER_SETTINGS = {
    **dict.fromkeys(("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"), TFT_SETTINGS),
    **dict.fromkeys(("atfnn", "afnn", "atnn", "tfnn"), ATFNN_SETTINGS),
}
CLASSICAL = ("lld-svm", "lld-gmm", "lda-centroid", "ga-bel", "lohu", "dnn-elm", "rgsr-lpda", "linear")
DEEP = (
    "gmm-hmm", "dnn-hmm", "dnn-bn", "gerda", "cnn-lstm", "cnn-gru-seqcap", "fcn-attention", "stc", "stc-off", "adarl",
    "adarl-off", "dtpm-pooling",
)  # fmt: skip
COMPARISONS = (*CLASSICAL, *DEEP)  # files of comparisons/, by name
UNAVAILABLE = {  # rows of the papers' tables that cannot be run -> the reason
    "msa-al": "needs a speech recogniser or transcripts, and on CASIA all emotions say the same sentences",
}
VECTOR_DESCRIPTORS = ("openear", "is09", "hu", "band_statistics")  # of comparisons/descriptors.py: a vector of each utterance
FRAME_DESCRIPTORS = ("mfcc39", "mfcc_pitch_hnr")  # of comparisons/descriptors.py: a row for each frame
GROUPS = {"all": tuple(PAPER_SETTINGS), "classical": CLASSICAL, "deep": DEEP, "comparisons": COMPARISONS}  # of --model
NETWORK_DEFAULTS = {  # SETTINGS that a network's file may hold -> default
    "epochs": 100,
    "batch_size": 64,
    "lr": 1e-3,
    "optimizer": "Adam",  # a class of torch.optim
    "optimizer_options": {},  # further arguments of it, such as {"momentum": 0.9}
    "class_weights": False,  # weight the loss by N / (K N_k) of the training fold
    "normalization": "fold",
}
CONSTANTS = dict(PUBLISHED=(), EXTENT="", NOTE="", TRACK="last")  # of a method's file -> default
MOST_FRAMES, MOST_POINTS = 10_000, 65_536  # of a segment and an FFT
EXTENTS = dict(full="as its paper states it", most="most of its paper", reading="our reading of an abstract")


class MethodError(ValueError):
    """A method's file that cannot be used; the message names the file and the remedy."""

    exit_code = 2


@dataclass(frozen=True)
class Method:
    """A way from recordings to scores, under a name."""

    name: str  # in folders and tables
    defaults: dict  # setting -> default value
    front_end: object = None  # name in features.FRONT_ENDS or a FrontEnd; None of a fitted method
    module: ModuleType = None  # its file; None of the papers' networks
    path: str = ""  # of a user's file
    source: bytes = b""  # of a user's file
    vectors: str = ""  # path of the file of --features, used instead of its descriptors

    @property
    def is_fitted(self):
        """True of a method that is fitted at once, without epochs."""
        return self.front_end is None

    @property
    def is_of_papers(self):
        """True of the eight networks of the two papers."""
        return self.module is None

    @property
    def sha256(self):
        """SHA-256 of a user's file, part of a run's settings; empty for the suite's own methods."""
        return hashlib.sha256(self.source).hexdigest() if self.source else ""

    @property
    def is_seeded(self):
        """True if results depend on the seed."""
        return not self.is_fitted or getattr(self.module, "SEEDED", True)

    @property
    def uses_vectors(self):
        """True of a fitted method that works on a vector of each utterance."""
        return self.is_fitted and self.module.DESCRIPTORS in VECTOR_DESCRIPTORS

    @property
    def build(self):
        """Function build(classes, n_mels, frames) of a network's file; None of the papers' networks."""
        return getattr(self.module, "build", None)

    @property
    def has_back_end(self):
        """True of a network whose segments' embeddings are classified by the `fit` and `scores` of its file."""
        return not self.is_fitted and has_fit(self.module)

    @property
    def track(self):
        """Track that its result is of: "last" or "validation"."""
        return getattr(self.module, "TRACK", CONSTANTS["TRACK"])

    def code_files(self):
        """Files of comparisons/ that its scores depend on, as paths below the project: its own and what it imports."""
        found, waiting = set(), [] if self.path or self.is_of_papers else [self.module]
        while waiting:
            module = waiting.pop()
            if module.__name__.startswith("comparisons.") and module.__name__ not in found:
                found.add(module.__name__)
                waiting += [part for part in vars(module).values() if isinstance(part, ModuleType)]
        return sorted(f"{name.replace('.', '/')}.py" for name in found)

    def base_front_end(self):
        """FrontEnd before settings change it."""
        return features.FRONT_ENDS[self.front_end] if isinstance(self.front_end, str) else self.front_end

    def facts(self):
        """What config.json holds of the method, without its settings."""
        if self.is_of_papers:
            return {}
        facts = dict(file=Path(self.path).name) if self.path else {}
        published, extent, note, track = constants_of(self.module)
        if self.vectors:  # with other features it stands for no published row
            published, extent, note = (), "", f"on vectors of {Path(self.vectors).name}"
        return facts | dict(fitted=self.is_fitted, published=list(published), extent=extent, note=note, track=track)


# --------------------------------------------------------------------------------------------- finding


def find(model):
    """Method of a name, or of the path of a Python file; UsageError or MethodError where there is none."""
    if model in PAPER_SETTINGS:
        defaults = asdict(PAPER_SETTINGS[model])
        return Method(model, defaults, front_end=defaults.pop("front_end"))
    if model in COMPARISONS:
        return of_module(model, importlib.import_module(f"comparisons.{model.replace('-', '_')}"))
    if model in UNAVAILABLE:
        raise protocols.UsageError(f"--model {model}: {UNAVAILABLE[model]}; its published figures are in the tables")
    if not str(model).endswith(".py"):
        names = ", ".join((*PAPER_SETTINGS, *COMPARISONS, *GROUPS))
        raise protocols.UsageError(f"--model {model}: choose {names}, or the path of a file such as my_net.py")
    return load_file(model)


def name_of(model):
    """Name of a method in folders and tables: that of its file, without folder and ending, else as it is."""
    return Path(model).stem if str(model).endswith(".py") else model


def load_file(path):
    """Method of a user's file; MethodError where it cannot be used."""
    path, name = Path(path), name_of(path)
    if name.lower() in (*PAPER_SETTINGS, *COMPARISONS, *GROUPS) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise MethodError(f"{path}: rename the file; give it a name of its own, of letters, digits, '.', '_', '-'")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise MethodError(f"{path}: cannot be read ({error.strerror}); name a Python file") from None
    module = ModuleType(f"method_{name}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # so that classes in it can be found, as dataclasses do
    with errors_of(path):
        exec(compile(source, str(path), "exec"), module.__dict__)  # the very bytes of the SHA-256
    return of_module(name, module, str(path), source)


@contextmanager
def errors_of(path, *passed, remedy="fix the file"):
    """Turn what a user's file raises into one MethodError, but for the types `passed`; without a path nothing changes.

    An OSError that is not raised in the file passes too: it is of a run's own files.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        is_outside = isinstance(error, OSError) and not lines
        if not path or is_outside or isinstance(error, (MemoryError, *passed)) or hasattr(error, "exit_code"):
            raise
        where = f"{path}, line {lines[-1]}" if lines else path
        if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
            if Path(path).with_name(f"{error.name}.py").exists():
                raise MethodError(f"{where}: imports {error.name}.py next to it; put all in one file") from None
            raise MethodError(f"{where}: needs the package {error.name}; pip install {error.name}") from None
        raise MethodError(f"{where}: ends in an error ({describe(error)}); {remedy}") from None


def of_module(name, module, path="", source=b""):
    """Method of a module with `build`, or with `fit` and `scores`; MethodError where its parts do not fit."""
    where = path or f"comparisons/{name.replace('-', '_')}.py"
    has_build = callable(getattr(module, "build", None))
    is_fitted = has_fit(module) and not has_build
    if not is_fitted and not has_build:
        raise MethodError(f"{where}: has no function build; add build(classes, n_mels, frames)")
    if not has_fit(module) and (parts := [part for part in ("fit", "scores") if hasattr(module, part)]):
        raise MethodError(f"{where}: has {' and '.join(parts)}; give it both functions, fit and scores, or neither")
    check_constants(where, module)
    defaults = dict(normalization=NETWORK_DEFAULTS["normalization"]) if is_fitted else NETWORK_DEFAULTS
    defaults = defaults | settings_in(where, module, defaults)
    if is_fitted:
        descriptors = getattr(module, "DESCRIPTORS", None)
        if descriptors not in (*VECTOR_DESCRIPTORS, *FRAME_DESCRIPTORS):
            names = ", ".join((*VECTOR_DESCRIPTORS, *FRAME_DESCRIPTORS))
            raise MethodError(f"{where}: has fit and scores, and DESCRIPTORS is {descriptors!r}; choose {names}")
        return Method(name, defaults, None, module, path, source)
    front_end = getattr(module, "FRONT_END", "tft")
    if isinstance(front_end, features.FrontEnd):
        front_end = with_floats(front_end)
        if not is_possible_front_end(front_end):
            raise MethodError(f"{where}: FRONT_END has impossible values; see features.FrontEnd")
    elif not isinstance(front_end, str) or front_end not in features.FRONT_ENDS:
        names = ", ".join(features.FRONT_ENDS)
        raise MethodError(f"{where}: FRONT_END is {front_end!r}; choose {names}, or give a features.FrontEnd")
    return Method(name, defaults, front_end, module, path, source)


def has_fit(module):
    """True of a module with `fit` and `scores`."""
    return all(callable(getattr(module, part, None)) for part in ("fit", "scores"))


def constants_of(module):
    """Values of CONSTANTS in a module, in their order."""
    return [getattr(module, name, default) for name, default in CONSTANTS.items()]


def check_constants(where, module):
    """Raise MethodError unless CONSTANTS of a module are what the tables need."""
    published, extent, note, track = constants_of(module)
    if not isinstance(published, (tuple, list)) or not all(isinstance(row, str) for row in published):
        raise MethodError(f"{where}: PUBLISHED is {published!r}; give names of rows, such as ('LLDs+SVM',)")
    if not isinstance(extent, str) or extent not in ("", *EXTENTS):
        raise MethodError(f"{where}: EXTENT is {extent!r}; choose {', '.join(EXTENTS)}, or drop it")
    if not isinstance(note, str):
        raise MethodError(f"{where}: NOTE is {note!r}; give a line of text")
    if track not in ("last", "validation"):
        raise MethodError(f"{where}: TRACK is {track!r}; choose last or validation")


def fit(method, x, labels, seed):
    """What a method's `fit` gives for vectors or a list of arrays x and labels (n,), and the classes (k,) in labels.

    Raises MethodError where it cannot be fitted.
    """
    present, labels = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise MethodError(f"{method.path or method.name}: trains on one class only; add recordings of other speakers")
    with fitting(method):
        return method.module.fit(x, labels, len(present), seed), present


def score(method, fitted, x, classes):
    """Scores float32 (n, classes) of x by what `fit` gave, 0 for a class that it did not have.

    Raises MethodError for other or not-finite scores.
    """
    model, present = fitted
    with fitting(method):
        found = np.asarray(method.module.scores(model, x), np.float32)
    if found.shape != (len(x), len(present)) or not np.isfinite(found).all():
        raise MethodError(
            f"{method.path or method.name}: gives scores of shape {found.shape}, or not finite; "
            f"return finite scores {(len(x), len(present))}"
        )
    scores = np.zeros((len(x), classes), np.float32)
    scores[:, present] = found
    return scores


@contextmanager
def fitting(method):
    """Turn what goes wrong in `fit` or `scores` into a MethodError."""
    try:
        with errors_of(method.path):
            yield
    except (FloatingPointError, ValueError, np.linalg.LinAlgError) as error:
        if hasattr(error, "exit_code"):
            raise
        raise MethodError(f"{method.name}: cannot be fitted ({describe(error)}); drop that --model") from None


def settings_in(where, module, defaults):
    """SETTINGS of a module, as JSON gives them back; MethodError for a setting or value unlike those of `defaults`."""
    settings = getattr(module, "SETTINGS", {})
    if not isinstance(settings, dict):
        raise MethodError(f"{where}: SETTINGS is {settings!r}; give a dictionary")
    for setting, value in settings.items():
        if setting not in defaults:
            raise MethodError(f"{where}: SETTINGS has {setting}; choose among {', '.join(defaults)}")
        if not is_of_kind(value, defaults[setting]):
            raise MethodError(f"{where}: SETTINGS has {setting} {value!r}; give such as {defaults[setting]!r}")
    try:
        return json.loads(json.dumps(settings))  # a tuple becomes a list, as in config.json
    except (TypeError, ValueError):
        raise MethodError(f"{where}: SETTINGS holds more than numbers, texts, lists and dictionaries; fix it") from None


def is_of_kind(value, example):
    """True if a value is of the type of an example, and within bounds where it is a number."""
    if isinstance(example, bool) or not isinstance(example, (int, float)):
        return type(value) is type(example)
    return type(value) in (type(example), int) and 0 < value < 2**31


def with_floats(front_end):
    """The FrontEnd with floats where its fields are floats and whole numbers were given."""
    values = {part.name: getattr(front_end, part.name) for part in fields(front_end) if part.type is float}
    return replace(front_end, **{name: float(value) for name, value in values.items() if type(value) is int})


def is_possible_front_end(front_end):
    """True if recordings can pass through a FrontEnd: its values are of their types and fit each other."""
    return (
        all(type(getattr(front_end, part.name)) is part.type for part in fields(front_end))
        and 0 < front_end.frames <= MOST_FRAMES
        and 0 < front_end.hop_length <= front_end.win_length <= front_end.n_fft <= MOST_POINTS
        and front_end.scale in features.SCALES
        and 0 < front_end.n_mels <= front_end.n_fft // 2 + (front_end.scale == "linear")  # the Nyquist bin
        and features.SAMPLE_RATES[0] <= front_end.sample_rate <= features.SAMPLE_RATES[1]
        and 0 <= front_end.fmin < front_end.fmax <= front_end.sample_rate / 2
        and 0 <= front_end.pre_emphasis <= 1
        and 0 < front_end.log_floor < 1
        and (front_end.scale == "mel" or front_end.fmin == 0 and features.band_edges(front_end)[-2] <= front_end.fmax)
        and front_end.cut in features.CUTS
        and (front_end.cut == "fixed" or front_end.overlap == 0)
        and front_end.overlap_fits()
        and front_end.pre_emphasis_scope in ("segment", "utterance")
    )


def describe(error):
    """An exception in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}".rstrip(": ")
