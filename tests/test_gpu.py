"""Runners against the plain loop. What needs a GPU is skipped without one; recording and stacking run on a CPU too.

Tolerances. Runners of float32 compute the same sums, on a GPU in an order that may change; Adam divides each gradient
by its own size, so a rounding difference in a weight that hardly matters moves it by up to the learning rate: losses
may differ by 1 % of the first, weights by 0.5 % of their norm. bfloat16 rounds a product's factors to 8 bits, 0.4 %:
losses may differ by 5 %, weights by 1 %.
"""

import contextlib
import copy
import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import TINY

import features
from common import config
from fast import graphs, stacked
from training import checkpoints, data, trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
UTTERANCES = np.arange(38)  # of a segment each: 9 steps of 4 and one of 2


def random_data(front_end, device):
    """Segments of three classes that differ in a band of their own."""
    generator, number = torch.Generator().manual_seed(0), len(UTTERANCES)
    labels = torch.arange(number) % 3
    segments = torch.randn(number, front_end.n_mels, front_end.frames, generator=generator)
    segments[torch.arange(number), front_end.n_mels // 8 + front_end.n_mels // 4 * labels] += 1
    counts, database = SimpleNamespace(counts=np.ones(number, int)), SimpleNamespace(classes=range(3), speakers=np.full(number, "a"))
    return data.Data(database, counts, segments.to(device), labels.to(device), torch.arange(number, device=device))


def make_trainers(model, device, folds, is_tiny=True, **settings):
    """FoldTrainer on each of `folds`, lists of utterances."""
    front_end = features.FRONT_ENDS[config.PAPER_SETTINGS[model].front_end]
    front_end = replace(front_end, **TINY) if is_tiny else front_end
    loaded = random_data(front_end, device)
    defaults = dict(model=model, seed=0, lr=2e-4, batch_size=4, normalization="fold", precision="float32")
    settings = dict(defaults, front_end=front_end.as_settings(), **settings)
    form = trainer.default_form(device, settings["precision"])
    return [trainer.FoldTrainer(loaded, settings, fold, form) for fold in folds]


def train_epochs(runner, trainers, epochs=1):
    """Losses of each step of each trainer, and its weights."""
    losses = {fold: [] for fold in trainers}
    for _ in range(epochs):
        for fold, part in runner.run_epoch(trainers).items():
            losses[fold] += part
    return [np.array(losses[fold]) for fold in trainers], [fold.copy_weights() for fold in trainers]


def distance(weights, others):
    """Of all weights and running statistics together, relative to their norm."""
    flat = [
        torch.cat([value.double().cpu().flatten() for value in part.values() if value.is_floating_point()])
        for part in (weights, others)
    ]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


def make_runner(engine, model):
    if engine == "compiled":
        return stacked.StackedRunner() if model == "atfnn" else graphs.GraphRunner(compiled=True)
    return graphs.GraphRunner() if engine == "graph" else trainer.EagerRunner()


# ------------------------------------------------------------------------------- engines and precisions


@pytest.mark.parametrize("model", ["tft", "atfnn"])
@pytest.mark.parametrize(
    "device, engine, precision",
    [
        ("cpu", "eager", "bfloat16"),
        pytest.param("cuda", "graph", "float32", marks=needs_gpu),
        pytest.param("cuda", "eager", "bfloat16", marks=needs_gpu),
        pytest.param("cuda", "graph", "bfloat16", marks=needs_gpu),
        pytest.param("cuda", "compiled", "float32", marks=needs_gpu),
        pytest.param("cuda", "compiled", "bfloat16", marks=needs_gpu),
    ],
)
def test_engines_and_precisions_agree_with_the_plain_loop(model, device, engine, precision):
    is_tiny = device == "cpu"
    (expected,), (weights,) = train_epochs(
        trainer.EagerRunner(), make_trainers(model, device, [UTTERANCES], is_tiny), epochs=5
    )
    (losses,), (others,) = train_epochs(
        make_runner(engine, model), make_trainers(model, device, [UTTERANCES], is_tiny, precision=precision), epochs=5
    )
    assert expected[-10:].mean() < 0.95 * expected[:10].mean()  # it has learnt something
    assert abs(losses - expected).max() <= (0.01 if precision == "float32" else 0.05) * expected[:10].mean()
    assert distance(others, weights) <= (0.005 if precision == "float32" else 0.01)
    if precision != "float32":
        assert not np.array_equal(losses, expected)  # it was another precision


@needs_gpu
@pytest.mark.parametrize(
    "model, engine",
    [("tft", "eager"), ("tft", "graph"), ("tft", "compiled"), ("atfnn", "graph"), ("atfnn", "compiled")],
)
def test_folds_at_once_on_a_gpu_are_the_folds_one_at_a_time(model, engine, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(graphs, "TURN", 3)  # of an epoch's 10 steps
    folds = [np.roll(UTTERANCES, 9 * number) for number in range(4)]
    losses, weights = train_epochs(make_runner(engine, model), make_trainers(model, "cuda", folds, False), 5)
    for number in range(4):
        single = make_trainers(model, "cuda", folds[number : number + 1], False)
        (alone,), (others,) = train_epochs(make_runner(engine, model), single, 5)
        assert abs(alone - losses[number]).max() <= 0.01 * alone[:10].mean()
        assert distance(weights[number], others) <= 0.005
    assert not np.array_equal(losses[0], losses[1])  # folds differ


@needs_gpu
@pytest.mark.parametrize("model", ["tft", "atfnn"])
def test_a_gpu_scores_as_a_cpu_does(model):
    """Convolutions and the BiLSTM run in TF32 there, whose factors have 11 bits: 0.05 %, some layers deep."""
    data.choose_device("cuda")
    scores = [make_trainers(model, device, [UTTERANCES], False)[0].score(UTTERANCES) for device in ("cpu", "cuda")]
    assert abs(scores[0] - scores[1]).max() <= 0.01


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_nothing_compiles():
    assert graphs.can_compile() is False


def test_a_deterministic_gpu_is_asked_for_before_work_begins(monkeypatch):
    asked = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    trainer.prepare("cuda", deterministic=True)
    assert asked == [True] and trainer.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.backends.cudnn.benchmark is False
    trainer.prepare("cuda", deterministic=False)
    assert torch.backends.cudnn.benchmark is True and asked == [True]


# -------------------------------------------------------------------------------------- recorded steps


@pytest.fixture
def replayed(monkeypatch):
    """CUDA graphs on a CPU: recording a step computes nothing, replaying it runs the step.

    Gives the list of (trainer, epoch) of the steps that are replayed, in order.
    """
    step, recording, steps = graphs.RecordedFold.step, [], []

    class Graph:
        def replay(self):
            fold, size = self.recorded
            steps.append((fold.trainer, fold.trainer.epoch))
            step(fold, size)

        def pool(self):
            return self.recorded[0]

    @contextlib.contextmanager
    def record(graph, pool, stream):
        recording.append(graph)
        yield
        recording.clear()
        fold, _ = graph.recorded
        assert pool is (fold if fold.graphs else None)  # a fold's graphs share the memory of its first

    def spied(fold, size):
        if recording:
            recording[0].recorded = fold, size
        else:
            step(fold, size)

    stream = SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
    monkeypatch.setattr(graphs.RecordedFold, "step", spied)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    return steps


FOLDS = [np.arange(18), np.arange(3, 14), np.arange(6, 14)]  # 4, 2 and 2 whole batches; the last without a shorter one


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("turn", [1, 3])  # several turns in an epoch; and some folds need a turn more than others
def test_recorded_steps_are_the_steps_of_the_plain_loop(turn, is_compiled, replayed, monkeypatch):
    compiled = []
    monkeypatch.setattr(graphs, "TURN", turn)
    monkeypatch.setattr(
        graphs, "compiled_forward", lambda: lambda model, x: compiled.append(len(x)) or model(x)
    )  # what torch.compile would make
    trainers, plain = (make_trainers("tft-t+f", "cpu", FOLDS) for _ in range(2))
    eager = trainer.EagerRunner()
    eager.run_epoch(plain[:1]), trainers[0].restore(copy.deepcopy(plain[0].state()))  # resumed, an epoch ahead
    losses, weights = train_epochs(graphs.GraphRunner(is_compiled), trainers, 2)
    expected, others = train_epochs(eager, plain, 2)
    assert [list(part) for part in losses] == [list(part) for part in expected]
    assert all(distance(part, other) == 0 for part, other in zip(weights, others))
    assert [fold.epoch for fold in trainers] == [3, 2, 2]
    assert set(compiled) == ({4} if is_compiled else set())  # an epoch's shorter last step is not worth it
    steps = [len(fold.step_sizes) for fold in trainers]
    assert replayed == [  # the folds take turns
        (fold, epoch + (fold is trainers[0]))
        for epoch in range(2)
        for done in range(0, max(steps), turn)
        for fold, number in zip(trainers, steps)
        for _ in range(done, min(done + turn, number))
    ]


def test_a_fold_that_ends_is_forgotten_and_another_can_begin(replayed):
    runner, (first, second, third) = graphs.GraphRunner(), make_trainers("atnn", "cpu", FOLDS)
    train_epochs(runner, [first, second])
    ended, gone = first.copy_weights(), weakref.ref(runner.folds[first])
    train_epochs(runner, [second, third])
    gc.collect()
    assert gone() is None and distance(first.copy_weights(), ended) == 0
    plain = make_trainers("atnn", "cpu", FOLDS)
    _, weights = train_epochs(trainer.EagerRunner(), plain[1:2], 2)
    assert distance(second.copy_weights(), weights[0]) == 0


def test_steps_that_warm_up_a_recording_leave_nothing_behind(replayed):
    for steps_before in (0, 2):
        (fold,) = make_trainers("tft-t+f", "cpu", FOLDS[:1])
        index = fold.segments[:4]
        for _ in range(steps_before):
            fold.step(index)

        def state(fold=fold):
            moments = [value.clone() for part in fold.optimizer.state.values() for value in part.values()]
            return [*fold.copy_weights().values(), *moments]

        before = state()
        with graphs.state_restored_afterwards([fold]):
            fold.step(index)
            assert not all(torch.equal(value, other) for value, other in zip(before, state()))
        after = state()
        assert all(torch.equal(value, other) for value, other in zip(before, after))
        assert not any(value.any() for value in after[len(before) :])  # moments that began inside


def counted(compilations):
    """A backend of torch.compile without its last part, which writes kernels for the device and takes a minute."""
    backend = torch._dynamo.lookup_backend("aot_eager_decomp_partition")

    def compile_and_count(graph, inputs):
        compilations.append(graph)
        return backend(graph, inputs)

    return compile_and_count


@pytest.fixture
def compilations(monkeypatch):
    """Networks that torch.compile compiles."""
    made, compile_network = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **more: compile_network(*a, backend=counted(made), **more))
    yield made
    torch.compiler.reset()


def test_torch_compile_makes_one_network_for_all_folds(compilations):
    forward = graphs.compiled_forward.__wrapped__()
    for seed in range(2):
        ours, plain = (make_trainers("tft-t+f", "cpu", FOLDS[:1], seed=seed)[0] for _ in range(2))
        index = ours.segments[:4]
        loss, expected = ours.step(index, forward), plain.step(index)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert distance(ours.copy_weights(), plain.copy_weights()) <= 1e-3  # of Adam's first step: see above
        assert len(compilations) == 1


# -------------------------------------------------------------------------------------- stacked folds


def make_stack(model="atfnn", **settings):
    return stacked.StackedRunner(transform=lambda network: network), make_trainers(model, "cpu", FOLDS, **settings)


def assert_as_alone(losses, weights, folds=range(3), model="atfnn", epochs=2, **settings):
    """The losses and weights of folds are those of the plain loop."""
    plain = make_trainers(model, "cpu", FOLDS, **settings)
    for number in folds:
        (expected,), (others,) = train_epochs(trainer.EagerRunner(), plain[number : number + 1], epochs)
        np.testing.assert_allclose(losses[number], expected, atol=1e-4)
        assert distance(weights[number], others) <= 1e-4


@pytest.mark.parametrize(
    "model, settings",
    [
        ("atfnn", {}),
        ("afnn", {}),
        ("atnn", {}),
        ("tfnn", {}),
        ("atfnn", dict(normalization="segment")),
        ("atfnn", dict(gate="softmax", f_encoder_heads=4)),
        ("atfnn", dict(t_attention_input="encoded", double_softmax=True)),
    ],
    ids=str,
)
def test_stacked_folds_are_the_folds_of_the_plain_loop(model, settings):
    runner, trainers = make_stack(model, **settings)
    losses, weights = train_epochs(runner, trainers, 2)
    assert [len(part) for part in losses] == [10, 6, 4] and [fold.epoch for fold in trainers] == [2, 2, 2]
    assert_as_alone(losses, weights, model=model, **settings)
    assert distance(weights[0], weights[1]) > 1e-3  # folds differ


def test_the_state_of_a_stacked_fold_is_as_large_as_that_of_a_single_fold():
    runner, trainers = make_stack()
    single = make_trainers("atfnn", "cpu", FOLDS[:1])
    runner.run_epoch(trainers), trainer.EagerRunner().run_epoch(single)
    sizes = [len(checkpoints.to_bytes(fold.state())) for fold in (trainers[0], single[0])]
    assert sizes[0] <= 1.01 * sizes[1]


def test_a_stack_is_free_when_the_next_begins():
    runner, trainers = make_stack()
    runner.run_epoch(trainers)
    gone = [weakref.ref(part) for part in (runner.stack, *trainers)]
    del trainers
    runner.run_epoch(make_trainers("atfnn", "cpu", FOLDS[:1]))
    gc.collect()
    assert not any(part() for part in gone)


def test_a_fold_that_ends_stands_still_and_the_others_go_on():
    runner, trainers = make_stack()
    losses, _ = train_epochs(runner, trainers)
    ended, stack = trainers[1].copy_weights(), runner.stack
    more, weights = train_epochs(runner, [trainers[0], trainers[2]])
    assert runner.stack is stack  # nothing is compiled again
    assert distance(trainers[1].copy_weights(), ended) == 0 and trainers[1].epoch == 1
    losses = [np.append(losses[0], more[0]), None, np.append(losses[2], more[1])]
    assert_as_alone(losses, [weights[0], None, weights[1]], folds=(0, 2))


def test_a_fold_whose_weights_are_no_numbers_does_not_change_the_others():
    runner, trainers = make_stack()
    trainers[1].model.classifier.weight.data.fill_(float("nan"))
    losses, weights = train_epochs(runner, trainers, 2)
    assert np.isnan(losses[1]).all()
    assert_as_alone(losses, weights, folds=(0, 2))


def test_a_stacked_fold_resumes_from_a_saved_state_at_an_epoch_of_its_own():
    (single,) = make_trainers("atfnn", "cpu", FOLDS[:1])
    train_epochs(trainer.EagerRunner(), [single])
    runner, trainers = make_stack()
    trainers[0].restore(copy.deepcopy(single.state()))
    _, weights = train_epochs(runner, trainers)
    _, (expected,) = train_epochs(trainer.EagerRunner(), [single])
    assert trainers[0].state()["epoch"] == 2 and distance(weights[0], expected) <= 1e-4
    _, (expected,) = train_epochs(trainer.EagerRunner(), make_trainers("atfnn", "cpu", FOLDS[1:2]))
    assert distance(weights[1], expected) <= 1e-4


def test_a_compilation_serves_all_stacks_of_a_network_and_changes_nothing(compilations):
    for _ in range(2):
        runner, trainers = stacked.StackedRunner(), make_trainers("atfnn", "cpu", FOLDS)
        losses, weights = train_epochs(runner, trainers)
        assert_as_alone(losses, weights, epochs=1)
    assert len(compilations) == 1
    stacked.network_of_folds.cache_clear()
