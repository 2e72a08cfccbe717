"""Methods: the papers' networks, the comparison methods, and a network in a file of the user's own.

    methods.find("tft")                     # a network of the papers, models.py
    methods.find("lld-svm")                 # a comparison method, comparisons/lld_svm.py
    methods.find("path/to/my_net.py")       # a file with build(classes, n_mels, frames) -> nn.Module

A network's file may also hold FRONT_END ("tft", "atfnn" or a features.FrontEnd), SETTINGS (a dictionary of SETTINGS
below), and PUBLISHED, EXTENT and NOTE: rows of benchmarks/published.csv that it stands for, how much of it is its
paper's, and a line for the reader of a table. A method that is fitted at once, without epochs, has `fit` and `scores`
on DESCRIPTORS instead of `build`; the files in comparisons/ are examples.
"""

import hashlib
import importlib
import importlib.util
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

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


TFT = PaperSettings("tft", epochs=1000, batch_size=64, lr=1e-3, pre_emphasis="segment")  # TFT section 3.3
ATFNN = PaperSettings("atfnn", epochs=100, batch_size=128, lr=5e-4, pre_emphasis="none")  # ATFNN III-C, epochs ours
PAPER_SETTINGS = {
    **dict.fromkeys(("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"), TFT),
    **dict.fromkeys(("atfnn", "afnn", "atnn", "tfnn"), ATFNN),
}
CLASSICAL = ("lld-svm", "lld-gmm", "lda-centroid", "ga-bel", "lohu", "dnn-elm", "rgsr-lpda")
COMPARISONS = CLASSICAL  # files of comparisons/, by name
VECTOR_DESCRIPTORS = ("openear", "is09", "hu")  # of comparisons/descriptors.py: a vector for each utterance
GROUPS = {"all": tuple(PAPER_SETTINGS), "classical": CLASSICAL, "comparisons": COMPARISONS}  # of --model
SETTINGS = {  # of a network's file -> default
    "epochs": 100,
    "batch_size": 64,
    "lr": 1e-3,
    "optimizer": "Adam",  # a class of torch.optim
    "optimizer_options": {},  # further arguments of it, such as {"momentum": 0.9}
    "class_weights": False,  # weight the loss by N / (K N_k) of the training fold
    "normalization": "fold",
}
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
        """SHA-256 of a user's file, of which a run is part; empty for the suite's own methods."""
        return hashlib.sha256(self.source).hexdigest() if self.source else ""

    @property
    def uses_vectors(self):
        """True of a fitted method that works on a vector of each utterance."""
        return self.is_fitted and getattr(self.module, "DESCRIPTORS", None) in VECTOR_DESCRIPTORS

    @property
    def build(self):
        """Function build(classes, n_mels, frames) of a network's file; None of the papers' networks."""
        return getattr(self.module, "build", None)

    def base_front_end(self):
        """FrontEnd before settings change it."""
        return features.FRONT_ENDS[self.front_end] if isinstance(self.front_end, str) else self.front_end

    def facts(self):
        """What config.json holds of the method beside its settings."""
        if self.is_of_papers:
            return {}
        facts = dict(file=Path(self.path).name) if self.path else {}
        return facts | dict(
            fitted=self.is_fitted,
            published=list(getattr(self.module, "PUBLISHED", ())),
            extent=getattr(self.module, "EXTENT", ""),
            note=getattr(self.module, "NOTE", ""),
        )


# --------------------------------------------------------------------------------------------- finding


def find(model):
    """Method of a name, or of the path of a Python file; UsageError or MethodError where there is none."""
    if model in PAPER_SETTINGS:
        defaults = asdict(PAPER_SETTINGS[model])
        return Method(model, defaults, front_end=defaults.pop("front_end"))
    if model in COMPARISONS:
        return of_module(model, importlib.import_module(f"comparisons.{model.replace('-', '_')}"))
    if not str(model).endswith(".py"):
        names = ", ".join((*PAPER_SETTINGS, *COMPARISONS, *GROUPS))
        raise protocols.UsageError(f"--model {model}: choose {names}, or the path of a file such as my_net.py")
    return load_file(model)


def load_file(path):
    """Method of a user's file; MethodError where it cannot be used."""
    path = Path(path)
    name = path.stem
    if name in (*PAPER_SETTINGS, *COMPARISONS, *GROUPS) or not re.fullmatch(r"\w[\w.+-]*", name):
        raise MethodError(f"--model {path}: rename the file; a name of its own, of letters, digits, '.', '_', '-'")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise MethodError(f"--model {path}: cannot be read ({error.strerror}); name a Python file") from None
    spec = importlib.util.spec_from_file_location(f"method_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that classes in it can be found, as dataclasses do
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # the very bytes of the SHA-256
    except ModuleNotFoundError as error:
        raise MethodError(f"--model {path}: needs the package {error.name}; pip install {error.name}") from None
    except Exception as error:
        raise MethodError(f"--model {path}: ends in an error ({describe(error)}); fix the file") from None
    return of_module(name, module, str(path), source)


def of_module(name, module, path="", source=b""):
    """Method of a module with `build`, or with `fit` and `scores`; MethodError where its parts do not fit."""
    where = path or f"comparisons/{name.replace('-', '_')}.py"
    settings = dict(getattr(module, "SETTINGS", {}))
    if callable(getattr(module, "fit", None)) and callable(getattr(module, "scores", None)):
        if not hasattr(module, "DESCRIPTORS"):
            raise MethodError(f"--model {where}: has fit and scores but no DESCRIPTORS; name its descriptors")
        return Method(name, settings, None, module, path, source)
    if not callable(getattr(module, "build", None)):
        raise MethodError(f"--model {where}: has no function build; add build(classes, n_mels, frames)")
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise MethodError(f"--model {where}: SETTINGS has {unknown[0]}; choose among {', '.join(SETTINGS)}")
    for setting, value in settings.items():
        if not is_of_kind(value, SETTINGS[setting]):
            raise MethodError(f"--model {where}: SETTINGS has {setting} {value!r}; give such as {SETTINGS[setting]!r}")
    front_end = getattr(module, "FRONT_END", "tft")
    if not isinstance(front_end, features.FrontEnd) and front_end not in features.FRONT_ENDS:
        names = ", ".join(features.FRONT_ENDS)
        raise MethodError(f"--model {where}: FRONT_END is {front_end!r}; choose {names}, or give a features.FrontEnd")
    return Method(name, SETTINGS | settings, front_end, module, path, source)


def is_of_kind(value, example):
    """True if a value is of the type of an example, positive where it is a number."""
    if isinstance(example, bool) or not isinstance(example, (int, float)):
        return type(value) is type(example)
    return type(value) in (type(example), int) and value > 0


def describe(error):
    """An exception in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}".rstrip(": ")
