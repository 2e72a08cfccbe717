"""What benchmarks/speed.py measures: the same training by both loops, and what a step needs at least."""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import speed

pytestmark = pytest.mark.usefixtures("quiet_machine")


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Rows by the first header cell and the table's number, of a run on small batches."""
    settings_of = speed.settings_of
    monkeypatch.setattr(speed, "settings_of", lambda name: settings_of(name) | dict(batch_size=4))
    monkeypatch.setattr(speed, "MEMORY_SEGMENTS", (200,))
    monkeypatch.setattr(speed, "ceilings", lambda device: ({"float32": 1e12, "bfloat16": 2e12}, 1e9))
    how = ["--device", "cpu", "--steps", "2", "--repeats", "1", "--out", str(tmp_path / "speed.md")]
    monkeypatch.setattr(sys, "argv", ["speed.py", *how])
    speed.main()
    assert [path.name for path in tmp_path.iterdir()] == ["speed.md"]
    blocks = (tmp_path / "speed.md").read_text().split("\n\n")
    blocks = [block.splitlines() for block in blocks if block.startswith("| ")]
    cells = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] for lines in blocks]
    return [[dict(zip(header, row, strict=True)) for row in rows] for header, _, *rows in cells]


def test_the_tables_tell_of_the_same_training_by_both_loops(tables):
    *compared, growth, saving, prices, memory = tables
    for name, rows in zip(("tft", "atfnn"), compared, strict=True):
        plain, *ours = rows
        assert {row["model"] for row in rows} == {name} and plain["engine"] == "plain loop" and plain["ratio"] == "1.00"
        assert [(row["engine"], row["precision"]) for row in ours] == [("eager", "float32"), ("eager", "bfloat16")]
        for row in ours:
            assert float(row["ratio"]) == pytest.approx(
                float(plain["ms/step"]) / float(row["ms/step"]), rel=0.02, abs=0.01
            )
            assert float(row["segments/s"]) == pytest.approx(4000 / float(row["ms/step"]), rel=0.02, abs=1)
        exact, rounded = (float(row["loss difference"]) for row in ours)
        assert exact < 1e-4 and exact < rounded < 0.1  # of losses about 1.8
    at_once = {(row["model"], row["folds"], row["batch"], row["segments"]) for row in growth}
    assert {("tft", "2", "4", "8"), ("atfnn", "1", "1", "8"), ("tft", "1", "8", "8"), ("tft", "1", "4", "32")} < at_once
    assert [row["model"] for row in saving] == ["tft", "atfnn"]
    for row in prices:
        assert float(row["iemocap"]) > float(row["casia"]) > 0
    assert float(memory[0]["MB at the peak"]) > 100


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch counts the products of an LSTM elsewhere")
@pytest.mark.parametrize("name, frames", [("tft", 80), ("atfnn", 128)])
def test_a_training_step_needs_three_times_the_products_of_the_forward_pass(name, frames):
    """By torch's own count, which leaves out an LSTM: each of its weights is in one product a frame."""
    model = speed.plain_model(name)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 1, 80, frames))
    weights = sum(p.numel() for path, p in model.named_parameters() if "weight_ih" in path or "weight_hh" in path)
    operations, values = speed.demand(name)
    assert operations == pytest.approx(3 * (counter.get_total_flops() + 2 * frames * weights), rel=0.02)
    assert 0 < values < operations
