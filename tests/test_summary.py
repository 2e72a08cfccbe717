"""WAR, UAR and the rows of the tables, from run folders written by hand (tests/saved_runs.py).

python -m pytest tests/test_summary.py
"""

import json
import shutil
from math import sqrt

import numpy as np
import pytest
from saved_runs import ANSWERS, BY_EPOCH, CLASSES, change, scores_of, write_run

from common import config, runs
from reporting import published, significance, summary, tables


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals are measured in their own tests."""
    monkeypatch.setattr(significance, "RESAMPLES", 200)


@pytest.fixture
def folder(tmp_path):
    """Two seeds of tft, each with three folds."""
    for seed, answers in enumerate(ANSWERS):
        write_run(tmp_path / "runs", answers, seed=seed)
    return tmp_path / "runs"


def fold_of(folder, seed, number, track="last"):
    return runs.fold_folder(folder, "casia", "tft", "speaker", seed, number, track)


def result(folder, seeds=None, protocol="speaker", track="last", database="casia", model="tft"):
    """Summary of a model, or None."""
    found, _ = summary.collect(folder, protocol, seeds, track)
    return summary.summarize(found.get((database, model), {}))


# ----------------------------------------------------------------------------------------- published


@pytest.mark.parametrize(
    "source, count, war, uar",  # added up in the papers
    [("TFT Table 4", 13, 743.11, 691.68), ("TFT Table 5", 8, 478.64, 434.26),
     ("ATFNN Table II", 17, 961.16, 915.39), ("ATFNN Table III", 12, 723.85, 640.21)],
)  # fmt: skip
def test_the_published_results_add_up(source, count, war, uar):
    rows = [row for row in published.read_published() if row["source"] == source]
    sums = [round(sum(row[name] or 0 for row in rows), 2) for name in ("war", "uar")]
    assert (len(rows), *sums) == (count, war, uar)


# ------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(
    "seeds, expected",
    [
        ([0], dict(war=3 / 5, uar=49 / 90, war_std=None, uar_std=None, fold_war=5 / 9, fold_uar=13 / 24)),
        ([1], dict(war=4 / 5, uar=13 / 15, war_std=None, uar_std=None, fold_war=8 / 9, fold_uar=11 / 12)),
        ([0, 1], dict(war=7 / 10, uar=127 / 180, war_std=1 / 5 / sqrt(2), uar_std=29 / 90 / sqrt(2),
                      fold_war=13 / 18, fold_uar=35 / 48)),
    ],
)  # fmt: skip
def test_results_are_pooled_over_folds_and_averaged_over_seeds(seeds, expected, folder):
    ours = result(folder, seeds)
    for name, value in expected.items():
        assert getattr(ours, name) == (None if value is None else pytest.approx(100 * value, abs=1e-9)), name
    assert abs(ours.war - ours.fold_war) > 1 and abs(ours.uar - ours.fold_uar) > 0.2
    assert ours.utterances == 10 and ours.folds_done == ours.folds_total == 3
    assert ours.notes == ["epochs 3 instead of 1000", "partial database"]
    assert ours.seeds == seeds and ours.classes == list(CLASSES)
    matrices = [[[4, 0, 1], [2, 1, 0], [0, 1, 1]], [[3, 1, 1], [0, 3, 0], [0, 0, 2]]]
    assert ours.confusion == sum(np.array(matrices[seed]) for seed in seeds).tolist()
    for name in ("war", "uar"):
        for unit in ("speakers", "utterances"):
            low, high = getattr(ours, f"{name}_{unit}")
            assert 0 <= low <= getattr(ours, name) <= high <= 100 and low < high, (name, unit)


def test_intervals_over_speakers_and_over_utterances_are_not_mixed_up(tmp_path):
    ours = result(write_run(tmp_path, dict(A="aa af", B="aa ah", C="aa ah")))  # each speaker: one of two is right
    assert ours.war_speakers == ours.uar_speakers == [50, 50]
    assert ours.war_utterances[0] < 50 < ours.war_utterances[1]


def test_sessions_and_speakers_are_never_counted_together(tmp_path):
    write_run(tmp_path, ANSWERS[0])
    write_run(tmp_path, ANSWERS[1], protocol="session", sessions=dict(A="1", B="1", C="2"))
    both = [result(tmp_path, protocol=protocol) for protocol in ("speaker", "session")]
    assert [(ours.folds_total, round(ours.war, 6)) for ours in both] == [(3, 60), (2, 80)]
    shutil.rmtree(tmp_path / "casia/tft/speaker")
    assert result(tmp_path) is None and result(tmp_path, protocol="session").war == both[1].war


def test_an_incomplete_seed_is_left_out_and_noted(folder):
    shutil.rmtree(fold_of(folder, 0, 2))
    ours = result(folder)
    assert ours.seeds == [1] and ours.war == pytest.approx(80) and ours.war_std is None
    assert "seeds 0 left out, with fewer or other folds" in ours.notes
    shutil.rmtree(fold_of(folder, 1, 2))
    ours = result(folder)
    assert (ours.seeds, ours.folds_done, ours.folds_total, ours.utterances) == ([0, 1], 2, 3, 4)
    assert ours.war == pytest.approx(100 * (2 / 4 + 4 / 4) / 2)


def test_of_incomplete_seeds_those_with_the_same_folds_count(tmp_path):
    for seed, missing in enumerate((2, 1, 2)):  # equally many folds, and of two seeds the same
        write_run(tmp_path, seed=seed)
        shutil.rmtree(fold_of(tmp_path, seed, missing))
    ours = result(tmp_path)
    assert ours.seeds == [0, 2] and "seeds 1 left out, with fewer or other folds" in ours.notes
    write_run(tmp_path, seed=1)  # all folds come before more seeds
    assert result(tmp_path).seeds == [1]


def test_folds_of_another_version_of_the_code_are_noted(folder):
    change(fold_of(folder, 1, 2), code={"train.py": "d" * 16})
    assert "folds of different versions of the code" in result(folder).notes
    assert "folds of different versions of the code" not in result(folder, [0]).notes


# ---------------------------------------------------------------------------------- what is refused


def test_an_utterance_tested_twice_is_refused(folder):
    path = fold_of(folder, 1, 3)
    lines = (path / "predictions.csv").read_text().splitlines()
    (path / "predictions.csv").write_text("\n".join([*lines, "A/0,A,angry,0.75,0.125,0.125"]) + "\n")
    change(path, test=["C/0", "C/1", "A/0"])
    with pytest.raises(runs.RunError, match="seed1/fold3: tests A/0, as .*fold1 does too; remove one of them"):
        result(folder)


@pytest.mark.parametrize(
    "before, after",
    [
        ("casia", "toy"),
        ("casia/tft", "casia/atfnn"),
        ("casia/tft/speaker/seed0", "casia/tft/speaker/seed2"),
        ("casia/tft/speaker/seed0/fold3", "casia/tft/speaker/seed0/fold4"),
        ("casia/tft/speaker", "casia/tft/session"),
    ],
)
def test_a_renamed_folder_is_not_counted_and_the_note_has_its_right_name(before, after, folder):
    (folder / before).rename(folder / after)
    _, notes = summary.collect(folder, "session" if after.endswith("session") else "speaker", None, "last")
    assert notes and all(note.startswith(f"{folder / after}") for note in notes)
    assert all(f"holds the fold of {folder / before}" in note and "rename it to that" in note for note in notes)
    if after == "toy":  # a fault of another database does no harm
        assert summary.collect(folder, "speaker", None, "last", "casia") == ({}, [])


@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr", "normalization", "front_end", "utterances",
                                  "recordings"])  # fmt: skip
def test_folds_of_other_settings_do_not_share_a_row(name, folder):
    change(fold_of(folder, 1, 2), **{f"settings__{name}": 7 if name == "epochs" else "other"})
    with pytest.raises(runs.RunError, match=f"seed1/fold2: differs from .* in {name}; keep them in separate --runs"):
        result(folder)


def test_seeds_of_other_utterances_do_not_share_a_row(folder):
    for number in (1, 2, 3):
        path = fold_of(folder, 1, number)
        text = (path / "predictions.csv").read_text()
        (path / "predictions.csv").write_text(text.replace("B/", "D/"))
        test = json.loads((path / "config.json").read_text())["test"]
        change(path, test=[name.replace("B/", "D/") for name in test])
    with pytest.raises(runs.RunError, match="seed 1 tests other utterances than seed 0"):
        result(folder)


def test_a_fold_that_was_damaged_is_noted_and_not_counted(folder):
    (fold_of(folder, 0, 2) / "log.csv").write_text("")
    found, notes = summary.collect(folder, "speaker", None, "last")
    assert notes == [
        f"{fold_of(folder, 0, 2)}: damaged since it was finished, not counted; repeat the training command"
    ]
    assert [len(folds) for folds in found["casia", "tft"].values()] == [2, 3]


# -------------------------------------------------------------------------------------------- tracks
# BY_EPOCH: last A 0/2 B 4/6 C 2/2 = 6/10; oracle A 2/2 B 6/6 C 2/2; epoch 2 A 1/2 B 6/6 C 1/2 = 8/10


@pytest.mark.parametrize("track, war, recalls", [
    ("last", 6 / 10, (3 / 5, 2 / 3, 1 / 2)), ("validation", 8 / 10, (1, 1 / 3, 1)), ("oracle", 1, (1, 1, 1)),
])  # fmt: skip
def test_each_track_has_its_own_epoch(track, war, recalls, tmp_path):
    write_run(tmp_path, BY_EPOCH)
    write_run(tmp_path, BY_EPOCH, track="validation", best=2)
    ours = result(tmp_path, track=track)
    assert (ours.war, ours.uar) == (pytest.approx(100 * war), pytest.approx(100 * sum(recalls) / 3))


def test_the_best_epoch_is_by_uar_then_war_then_the_earliest():
    def best(*answers):
        labels = np.array(["afh".index(pair[0]) for pair in answers[0].split()])
        return runs.best_epoch(labels, np.stack([scores_of(text) for text in answers]))

    assert best("aa aa aa aa hf hf", "aa ah ah ah hh hh") == 1  # UAR 1/2, 5/8 although WAR 4/6, 3/6
    assert best("aa ah ah ah hh hh", "aa aa aa ah hh hf") == 1  # UAR 5/8, 5/8 and WAR 3/6, 4/6
    assert best("ff fa", "fa ff") == 0 and best("fa fa", "ff fa", "fa ff") == 1


def test_a_method_without_epochs_has_results_and_no_oracle(tmp_path):
    write_run(tmp_path, model="svm", trained=False)
    assert result(tmp_path, model="svm").war == pytest.approx(60)
    assert result(tmp_path, model="svm", track="oracle") is None


# ---------------------------------------------------------------------------------------------- rows


def rows_of(folder, kind, databases=("casia",), track="last"):
    found, _ = summary.collect(folder, "speaker", None, track)
    return summary.result_rows(kind, list(databases), "speaker", None, track, summary.summarize_all(found, []))


def test_rows_hold_the_published_results_next_to_ours(folder):
    rows = {row["method"]: row for row in rows_of(folder, "ablation")}
    assert list(rows)[:4] == ["T+F", "T+TF", "F+TF", "T+F+TF"]
    assert (rows["T+F+TF"]["published_war"], round(rows["T+F+TF"]["war"], 6)) == (53.17, 70)
    assert rows["T+F"]["published_war"] == 40.32 and rows["T+F"]["war"] is rows["T+F"]["seeds"] is None
    abc = {row["method"]: row for row in rows_of(folder, "comparison", ["abc"])}
    assert (abc["RGSR-LPDA"]["published_war"], abc["RGSR-LPDA"]["published_uar"]) == (None, 49.4)


def test_all_rows_have_the_documented_keys(folder):
    found, _ = summary.collect(folder, "speaker", None, "last")
    rows = rows_of(folder, "comparison") + rows_of(folder, "ablation") + summary.database_rows(["casia"], found)
    assert all(set(tables.RESULT_KEYS) <= set(row) for row in rows)


def test_the_counts_of_a_database_are_next_to_the_published_ones(folder):
    found, _ = summary.collect(folder, "speaker", None, "last")
    rows = {row["count"]: (row["published"], row["found"]) for row in summary.database_rows(["casia"], found)}
    assert rows == dict(utterances=(1200, 10), speakers=(4, 3), angry=(200, 5), fear=(200, 3), happy=(200, 2),
                        neutral=(200, 0), sad=(200, 0), surprise=(200, 0), minutes=(None, 1.0))  # fmt: skip


def test_a_network_of_the_user_ends_the_comparison_of_its_database(folder):
    write_run(folder, model="mine", trained=False)
    rows = rows_of(folder, "comparison", ["casia", "abc"])
    last = [row for row in rows if (row["database"], row["source"]) == ("casia", "TFT Table 4")][-1]
    assert (last["method"], last["published_war"], round(last["war"], 6)) == ("mine", None, 60)
    assert len([row for row in rows if row["method"] == "mine"]) == 1
    assert not [row for row in rows_of(folder, "ablation") if row["method"] == "mine"]
    write_run(folder, name="toy", model="mine", trained=False)  # of a database that no paper has
    (row,) = rows_of(folder, "comparison", ["toy"])
    assert (row["method"], row["source"], row["published_uar"]) == ("mine", None, None)


def test_a_database_of_no_paper_has_rows_of_what_was_run_on_it(tmp_path):
    write_run(tmp_path, name="toy", model="tft")
    write_run(tmp_path, name="toy", model="tft-t+f")
    assert [row["method"] for row in rows_of(tmp_path, "comparison", ["toy"])] == ["TFT"]
    assert [row["method"] for row in rows_of(tmp_path, "ablation", ["toy"])] == ["T+F", "T+F+TF"]


def test_significance_needs_the_same_utterances_and_recordings(folder):
    write_run(folder, model="atfnn")
    for number in (1, 2, 3):
        change(runs.fold_folder(folder, "casia", "atfnn", "speaker", 0, number), settings__recordings="6" * 16)
    found, _ = summary.collect(folder, "speaker", None, "last")
    with pytest.raises(runs.RunError, match="casia: tft and atfnn were run on other recordings"):
        summary.significance_rows(["tft", "atfnn"], ["casia"], found, "speaker", "last")


def test_significance_compares_complete_seeds_that_both_models_have(folder):
    for seed in (0, 1, 2):
        write_run(folder, ANSWERS[seed % 2], model="atfnn", seed=seed)
    shutil.rmtree(fold_of(folder, 0, 1))
    change(fold_of(folder, 1, 2), code={"train.py": "d" * 16})
    found, _ = summary.collect(folder, "speaker", None, "last")
    (row,) = summary.significance_rows(["tft", "atfnn"], ["casia", "abc"], found, "speaker", "last")
    assert (row["seeds"], row["difference"], row["speaker_p"], row["speakers"]) == ([1], 0, 1, 3)
    assert row["notes"] == [
        "tft: epochs 3 instead of 1000",
        "tft: folds of different versions of the code",
        "tft: partial database",
        "atfnn: epochs 3 instead of 100",
        "atfnn: partial database",
    ]


def test_seeds_are_typed_as_the_tables_print_them():
    for seeds in ([0], [0, 1, 2], [0, 1, 2, 5], [7, 9], list(range(1000))):
        assert config.parse_seeds(tables.ranges(seeds)) == seeds


def test_transductive_results_are_marked(folder):
    for seed in (0, 1):
        for number in (1, 2, 3):
            settings = json.loads((fold_of(folder, seed, number) / "config.json").read_text())["settings"]
            settings["normalization"] = "speaker"
            change(fold_of(folder, seed, number), settings=settings, deviations=config.deviations_of(settings))
    write_run(folder, model="atfnn")
    found, _ = summary.collect(folder, "speaker", None, "last")
    rows = rows_of(folder, "ablation") + rows_of(folder, "comparison")
    pairs = summary.significance_rows(["tft", "atfnn"], ["casia"], found, "speaker", "last")
    for style in ("text", "markdown", "latex"):
        text, mark = tables.render(rows, style), "$\\dagger$" if style == "latex" else "†"
        assert text.count(f"TFT{mark} ") == text.count(f"T+F+TF{mark} ") == 1 and f"ATFNN{mark}" not in text
        assert text.count("transductive: normalised by all recordings of the tested speaker") == 2
        assert f"tft{mark} - atfnn " in tables.render(pairs, style)
