"""benchmarks/branches.py: a branch that is cut off decides nothing, one that is not does; and the command."""

import numpy as np
import pytest
import torch
from conftest import command

import engine
import features
import predict
import protocols
import results
import train
from benchmarks import branches


@pytest.fixture
def network():
    return engine.make_model("tft", 4, 0, features.FRONT_ENDS["tft"], "cpu").eval()


def parts(network, segments=24):
    random = torch.Generator().manual_seed(1)
    q, k, v = (3 * torch.randn(segments, 20, 20, generator=random) for _ in range(3))
    return q, k, v, branches.decide(network, q, k, v).argmax(1)


def test_without_queries_only_the_values_decide(network):
    attention = network.joint_encoder.attention
    with torch.inference_mode():
        attention.in_proj_weight[:20] = 0  # of the queries
        attention.in_proj_bias[:20] = 0
        accuracies, shifts, entropy = branches.exchanged(network, *parts(network))
    assert accuracies[:2] == [1, 1] and accuracies[2] < 1
    assert shifts[:2] == pytest.approx([0, 0], abs=1e-5) and shifts[2] > 0.5
    assert entropy == pytest.approx(1, abs=1e-5)


def test_with_sharp_attention_queries_and_keys_decide(network):
    with torch.inference_mode():
        network.joint_encoder.attention.in_proj_weight[:40] *= 10
        accuracies, shifts, entropy = branches.exchanged(network, *parts(network))
    assert accuracies[0] == 1 and accuracies[1] < 1
    assert min(shifts) > 0.1 and entropy < 0.5


@pytest.mark.parametrize("alike, other", [(0, 1), (1, 0)])  # q, or k, is that of one segment everywhere
def test_what_is_alike_for_all_segments_costs_nothing_to_exchange(alike, other, network):
    with torch.inference_mode():
        network.joint_encoder.attention.in_proj_weight[:40] *= 10
        given = list(parts(network)[:3])
        given[alike] = given[alike][:1].expand_as(given[alike])
        labels = branches.decide(network, *given).argmax(1)
        accuracies, shifts, _ = branches.exchanged(network, *given, labels)
    assert shifts[alike] < 1e-5 < 0.1 < shifts[other] and accuracies[1] < 1


def test_the_command_hears_each_finished_fold(corpus, quiet_machine, tmp_path, capsys):
    manifest = corpus / "small.csv"
    runs = ["--db", str(manifest), "--runs", str(tmp_path / "runs")]
    assert command(branches.main, *runs) == results.EXIT_USAGE
    assert "has no finished fold of small, tft" in capsys.readouterr().err
    for fold in ("1", "2"):
        train.main([*runs, "--fold", fold, "--epochs", "1", "--device", "cpu", "--batch-size", "8"])
    capsys.readouterr()
    branches.main(runs)
    rows = [line.replace(", ", ",").split() for line in capsys.readouterr().out.splitlines()]
    told = {row[0]: row[1:] for row in rows if row and row[0] in ("untrained", "0,1", "0,2", "mean")}
    assert [(name, row[0]) for name, row in told.items()][:3] == [("untrained", "0"), ("0,1", "1"), ("0,2", "1")]
    first, second, mean = (np.array(told[name][-10:], float) for name in ("0,1", "0,2", "mean"))
    np.testing.assert_allclose(mean, (first + second) / 2, atol=0.11)
    folder = results.fold_folder(tmp_path / "runs", "small", "tft", "speaker", 0, 2)
    model, database = predict.load_model(folder, "cpu"), protocols.open_database(str(manifest))
    data = engine.to_device(database, train.load_features(database, model.front_end), "cpu")
    with torch.inference_mode():  # the whole network, instead of its parts
        said = model.network(engine.gather(data, model.normalization, torch.arange(len(data.segments)))).argmax(1)
    tested = database.speakers[data.utterance_of] == "S2"
    right = (said == data.labels).numpy()
    assert [second[0], second[3]] == [float(f"{100 * right[group].mean():.1f}") for group in (~tested, tested)]
    seed = ["--seed", "1", "--overlap", "0.5"]
    train.main([*runs, *seed, "--fold", "1", "--epochs", "1", "--device", "cpu", "--batch-size", "8"])
    assert command(branches.main, *runs) == results.EXIT_USAGE
    assert "differs from" in (error := capsys.readouterr().err) and "in overlap" in error
