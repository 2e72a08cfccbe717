"""What benchmarks/speed.py measures: the same training by both loops, and what a step needs at least."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import features
from benchmarks import frontend, speed
from fast import modules


@pytest.fixture
def rows(tmp_path, monkeypatch, tiny):
    """Rows of the tables, as dictionaries, of a run on small batches."""
    settings_of = speed.settings_of
    monkeypatch.setattr(speed, "settings_of", lambda name: settings_of(name) | dict(batch_size=4))
    monkeypatch.setattr(speed, "measure_ceilings", lambda device: ({"float32": 1e12, "bfloat16": 2e12}, 1e9))
    monkeypatch.setattr(modules, "FORMS", dict(modules.FORMS))
    options = ["--device", "cpu", "--steps", "1", "--repeats", "1", "--forms", "--out", str(tmp_path / "speed.md")]
    speed.main(options)
    blocks = [block.splitlines() for block in (tmp_path / "speed.md").read_text().split("\n\n") if block[:2] == "| "]
    cells = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] for lines in blocks]
    return [dict(zip(header, row, strict=True)) for header, _, *rows in cells for row in rows]


def test_the_table_compares_the_same_training_by_all_loops(rows):
    for name, fast in (("tft", "CpuConvEncoder"), ("atfnn", "CpuFrequencyEncoder")):
        plain, *ours = [row for row in rows if row["model"] == name]
        assert plain["loop"] == "plain PyTorch" and plain["ratio"] == "1.00"
        variants = {(row["precision"], row["variant"]) for row in ours}
        assert {(p, v) for p in speed.PRECISIONS for v in ("", "plain", f"without {fast}")} <= variants
        for row in ours:
            ratio = float(plain["ms/step"]) / float(row["ms/step"])
            assert float(row["ratio"]) == pytest.approx(ratio, rel=0.05, abs=0.01)
            assert float(row["segments/s"]) == pytest.approx(4000 / float(row["ms/step"]), rel=0.05, abs=1)
            assert float(row["loss difference"]) < (1e-4 if row["precision"] == "float32" else 0.1)


def test_the_plain_loop_has_the_network_as_its_file_has_it_in_torchs_order_of_axes():
    for name in ("tft", "cnn-lstm", "cnn-gru-seqcap"):
        model = speed.plain_model(name)
        assert all(part.stride() == torch.empty(part.shape).stride() for part in model.parameters())
        assert not modules.FORMS["cpu"].keys().isdisjoint(type(module) for module in model.modules())


def test_a_training_step_needs_three_times_the_products_of_the_forward_pass():
    """By torch's own count, in which an LSTM is missing: each of its weights is in a product for each frame."""
    model, frames = speed.plain_model("atfnn"), speed.front_end_of("atfnn").frames
    x = torch.randn(1, 1, speed.front_end_of("atfnn").n_mels, frames)
    with FlopCounterMode(display=False) as counter:
        model.f_attention(x), model.t_attention(x), model.f_encoder(x), model.classifier(torch.randn(1, 256))
    weights = sum(value.numel() for name, value in model.t_encoder.named_parameters() if "weight" in name)
    operations, numbers = speed.demand("atfnn")
    assert operations == pytest.approx(3 * (counter.get_total_flops() + 2 * frames * weights), rel=0.01)
    assert 0 < numbers < operations


def test_an_engine_that_does_not_run_here_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        speed.parse_command_line(["--device", "cpu", "--engine", "graph"])
    assert stop.value.code == 2 and "--engine graph: does not run here; choose eager" in capsys.readouterr().err


def test_front_ends_compute_the_same(corpus):
    waves = [features.read_audio(corpus / f"wav/S{i}/sad_01.wav") for i in (1, 4)]
    for name in features.PAPER_FRONT_ENDS:
        front_end = replace(features.FRONT_ENDS[name], frames=16, overlap=0.5)
        names, difference, seconds = frontend.compare(waves, front_end, rounds=1)
        assert names[:2] == ["features.log_mel", "torch.stft"] and difference < frontend.TOLERANCE
        assert seconds.shape == (1, len(names))
