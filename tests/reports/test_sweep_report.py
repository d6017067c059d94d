"""The findings of sweeps whose truth is known, and the files of their report."""

from __future__ import annotations

import copy
import json
import math
import random
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep_samples import CELLS, RUNGS, all_diverged, bare, one_trial, some_sweep, two_objectives
from unrolled.errors import RunFailed
from unrolled.reports.sweep_analysis import findings
from unrolled.reports.sweep_ranking import Parameter, parameters_of
from unrolled.reports.sweep_report import write_report
from unrolled.reports.sweep_statistics import importance, interval_of_difference, interval_of_mean, p_of_difference


@pytest.fixture(scope="module")
def pruned() -> dict[str, Any]:
    return some_sweep(40)


@pytest.fixture(scope="module")
def found(pruned: dict[str, Any]) -> dict[str, Any]:
    return findings(pruned)


def by_key(found: dict[str, Any], key: str) -> dict[str, Any]:
    return next(one for one in found["comparisons"] if one["key"] == key)


# ---- Ranking


def test_points_that_finished_stand_first_and_by_score(found):
    rows = found["ranking"]
    order = {"finished": 0, "stopped": 1, "diverged": 2}
    assert [order[row["state"]] for row in rows] == sorted(order[row["state"]] for row in rows)
    ends = [row["scores"]["loss"]["mean"] for row in rows if row["state"] == "finished"]
    assert ends == sorted(ends) and len(ends) > 3
    stopped = [row["steps"] for row in rows if row["state"] == "stopped"]
    assert stopped == sorted(stopped, reverse=True)
    assert [row["rank"] for row in rows] == list(range(1, 41))


def test_the_winner_and_its_lead(pruned, found):
    ends = sorted(one["scores"]["loss"] for one in pruned["trials"] if one["state"] == "finished")
    assert found["lead"]["score"] == ends[0] and found["lead"]["lead"] == pytest.approx(ends[1] - ends[0])
    assert found["lead"]["lead_interval"] is None and "one seed" in found["summary"]
    assert found["headline"].startswith(f"Trial {pruned['best']} wins with ")
    assert f"loss {ends[0]:.3f}, " in found["headline"] and "below the next of 40 points" in found["headline"]


def test_seeds_give_means_deviations_and_an_interval_of_the_lead():
    sweep = some_sweep(10, seeds=3, asha=False)
    found = findings(sweep)
    for row in found["ranking"]:
        values = [one["scores"].get("loss") for one in sweep["trials"] if one["point"] == row["point"]]
        known = [value for value in values if value is not None]
        if row["state"] == "finished":
            assert len(known) == 3
            assert row["scores"]["loss"]["mean"] == pytest.approx(statistics.fmean(known))
            assert row["scores"]["loss"]["deviation"] == pytest.approx(statistics.stdev(known))
        else:
            assert None in values  # one seed that diverged is enough: the others would flatter the point
    low, high = found["lead"]["lead_interval"]
    assert low < found["lead"]["lead"] < high and "95 % confidence" in found["summary"]
    assert found["headline"].startswith("Point ")


def test_larger_is_better_where_the_mode_says_so():
    found = findings(two_objectives())
    ends = [row["scores"]["bleu"]["mean"] for row in found["ranking"] if row["state"] == "finished"]
    assert ends == sorted(ends, reverse=True) and "above the next" in found["headline"]
    assert found["step"] is None


# ---- Comparisons


def test_values_are_compared_at_the_last_step_that_all_reached(pruned, found):
    assert found["step"] == RUNGS[0]
    early, end = by_key(found, "model.cell")["bases"]
    assert (early["step"], end["step"]) == (RUNGS[0], None)
    for row in early["values"]:
        mine = [one for one in pruned["trials"] if one["parameters"]["model.cell"] == row["value"]]
        scores = [one["history"][0]["scores"]["loss"] for one in mine if one["state"] != "diverged"]
        assert row["points"] == len(scores) and row["mean"] == pytest.approx(statistics.fmean(scores))
        assert row["best"] == min(scores) and row["interval"][0] < row["mean"] < row["interval"][1]
    assert sum(row["points"] for row in end["values"]) == found["counts"]["finished"]


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not():
    found = findings(some_sweep(150, seed=5))
    rows = {row["value"]: row for row in by_key(found, "model.cell")["bases"][0]["values"]}
    low, high = rows["rnn"]["behind_interval"]
    assert low < CELLS["rnn"] - CELLS["lstm"] < high and rows["rnn"]["p"] < 0.01
    tied = by_key(found, "model.tied")["bases"][0]
    assert {row["letters"] for row in tied["values"]} == {"a"} and "do" in tied["statement"]
    answers = {one["question"]: one for one in found["answers"]}
    assert answers["Does gating beat the vanilla RNN?"]["answer"].startswith("Yes.")
    k = answers["From which k on does truncation stop hurting?"]
    assert k["from"] == 20 or k["from"] == 50  # 20 costs 0.08, which so many points may or may not show
    saved = answers["Which clipping saves which cell from divergence?"]["answer"]
    assert re.match(r"Over all cells, \d+ of \d+ \(.*\) trials diverged without clipping, but with .*norm", saved)
    assert re.search(r"Cell by cell: .*rnn diverged without clipping in \d+ of \d+ .*norm", saved)


def test_values_keep_their_types():
    sweep = some_sweep(24, asha=False)
    values = [None, True, 1, "1", 0.5, "null"]
    sweep["space"] = {"model.thing": {"kind": "choice", "values": values}}
    for place, one in enumerate(sweep["trials"]):
        one |= {"parameters": {"model.thing": values[place % 6]}, "state": "finished", "scores": {"loss": place % 6}}
    (thing,) = parameters_of(sweep)
    assert len({thing.text(value) for value in values}) == 6
    rows = by_key(findings(sweep), "model.thing")["bases"][0]["values"]
    assert [(row["value"], type(row["value"])) for row in rows] == [(value, type(value)) for value in values]
    assert [row["mean"] for row in rows] == [0, 1, 2, 3, 4, 5] and all(row["points"] == 4 for row in rows)


def test_too_few_points_are_said_to_be_too_few():
    sweep = some_sweep(40)
    kept = [one for one in sweep["trials"] if one["parameters"]["training.truncate"] is not None]
    longest = [one for one in sweep["trials"] if one["parameters"]["training.truncate"] is None][:2]
    answers = {one["question"]: one for one in findings(sweep | {"trials": kept + longest})["answers"]}
    k = answers["From which k on does truncation stop hurting?"]
    assert k["from"] is None and "too few points of k = full" in k["answer"]


def test_labels_are_short_and_unambiguous():
    keys = ("model.cell", "model.encoder.cell", "model.decoder.cell", "training.clipping.kind", "seed")
    sweep = {"trials": [], "space": {key: {"kind": "choice", "values": [1, 2]} for key in keys}}
    labels = [one.label for one in parameters_of(sweep)]
    assert labels == ["cell", "encoder.cell", "decoder.cell", "clipping.kind", "seed"]


# ---- Importance


def synthetic(count: int) -> tuple[list[Parameter], list[tuple[dict[str, Any], float]]]:
    """y = 3 a + log10(b) + noise over uniform a in 0 to 1 and b in 0.01 to 1, c nothing, d only where a < ½."""
    rng = random.Random(3)
    parameters = [
        Parameter("a", "a", (0, 1, 2, 3)),
        Parameter("b", "b", low=0.01, high=1.0, logarithmic=True),
        Parameter("c", "c", low=0.0, high=1.0),
        Parameter("d", "d", low=0.0, high=1.0),
    ]
    scored = []
    for _ in range(count):
        point: dict[str, Any] = {"a": rng.randrange(4), "b": 10 ** rng.uniform(-2, 0), "c": rng.random()}
        score = point["a"] + math.log10(point["b"]) + rng.gauss(0, 0.05)
        if point["a"] < 2:
            point["d"] = rng.random()
            score += point["d"]
        scored.append((point, score))
    return parameters, scored


def test_importance_knows_the_order_of_an_additive_score():
    rows = {row["key"]: row for row in importance(*synthetic(120))}
    assert rows["a"]["share"] > rows["b"]["share"] > rows["c"]["share"]
    # Variances: a 1.25 and d on half of the points, b 1/3: a explains about three quarters of all.
    assert 0.5 < rows["a"]["share"] < 0.85 and 0.1 < rows["b"]["share"] < 0.4
    assert rows["a"]["share"] > rows["a"]["chance"] and rows["c"]["share"] < rows["c"]["chance"]
    assert all(0 <= row["share"] <= 1 for row in rows.values())
    assert rows["d"]["among"] and not rows["a"]["among"] and rows["d"]["points"] < rows["a"]["points"] == 120


def test_importance_of_too_little_is_none():
    parameters, scored = synthetic(7)
    assert importance(parameters, scored) == []
    parameters, scored = synthetic(20)
    assert importance(parameters, [(point, 1.0) for point, _ in scored]) == []


def test_importance_of_the_sweep(found):
    rows = found["importance"]
    assert [row["key"] for row in rows[:2]] == ["model.cell", "training.truncate"]
    threshold = next(row for row in rows if row["key"] == "training.clipping.threshold")
    assert threshold["among"] and threshold["share"] < threshold["chance"]


# ---- Certainty


@pytest.mark.parametrize("count", [3, 5, 9, 12, 30])
def test_intervals_hold_the_mean_about_as_often_as_they_say(count):
    generator = np.random.default_rng(4)
    held = []
    for values in generator.normal(size=(300, count)):
        low, high = interval_of_mean(values.tolist())
        held.append(low <= 0 <= high)
    assert 0.89 <= np.mean(held) <= 0.985


def test_intervals_of_few():
    assert interval_of_mean([1.0]) is None and interval_of_difference([1.0], [2.0, 3.0]) is None
    assert interval_of_mean([1.0, 1.0]) == (1.0, 1.0)
    low, high = interval_of_difference([2.0, 2.1, 1.9], [1.0, 1.1, 0.9])
    assert low < 1.0 < high and low > 0.7
    low, high = interval_of_difference([2.0 + i / 100 for i in range(12)], [1.0 + i / 100 for i in range(12)])
    assert 0.9 < low < 1.0 < high < 1.1


def test_the_permutation_test_counts_what_is_as_far_apart():
    # Of the 20 ways to part six values in three and three, 2 are as far apart as this one.
    assert p_of_difference([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]) == pytest.approx(0.1, abs=0.015)
    assert p_of_difference([1.0, 1.0, 1.0], [1.0, 1.0]) == 1.0


# ---- Pairs, divergence, fronts


def test_pairs_are_cell_and_truncation(pruned, found):
    assert (found["pairs"]["rows"], found["pairs"]["columns"]) == ("model.cell", "training.truncate")
    for cell in found["pairs"]["bases"][0]["cells"]:
        wanted = {"model.cell": cell["row"], "training.truncate": cell["column"]}
        mine = [one for one in pruned["trials"] if wanted.items() <= one["parameters"].items()]
        scores = [one["history"][0]["scores"]["loss"] for one in mine if one["state"] != "diverged"]
        assert cell["points"] == len(scores) and cell["mean"] == pytest.approx(statistics.fmean(scores))


def test_without_them_pairs_are_the_two_most_important():
    sweep = some_sweep(60, asha=False)
    del sweep["space"]["training.truncate"], sweep["space"]["training.clipping.threshold"]
    for one in sweep["trials"]:
        for key in ("training.truncate", "training.clipping.threshold"):
            one["parameters"].pop(key, None)
    pairs = findings(sweep)["pairs"]
    assert pairs["rows"] == "model.cell" and pairs["columns"] in ("training.clipping.kind", "model.tied")


def test_divergence_counts_all_trials(pruned, found):
    cells = found["divergence"]["cells"]
    diverged = [one for one in pruned["trials"] if one["state"] == "diverged"]
    assert sum(cell["diverged"] for cell in cells) == len(diverged)
    assert sum(cell["trials"] for cell in cells) == len(pruned["trials"])
    for cell in cells:
        wanted = {"model.cell": cell["row"], "training.clipping.kind": cell["column"]}
        assert cell["diverged"] == sum(wanted.items() <= one["parameters"].items() for one in diverged)


def test_nothing_beats_a_point_of_the_front():
    found = findings(two_objectives())
    (front,) = found["fronts"]  # speed is an objective already
    ends = [(one["x"], one["y"]) for one in front["points"] if one["front"]]
    everything = [(one["x"], one["y"]) for one in front["points"]]
    beaten = [one for one in everything if any(a >= one[0] and b >= one[1] and (a, b) != one for a, b in everything)]
    assert sorted(ends) == sorted(set(everything) - set(beaten)) and beaten
    assert "on the Pareto front of bleu and tokens per second" in found["summary"]


# ---- Sweeps with little in them


def test_when_all_diverged_the_headline_says_so():
    found = findings(all_diverged())
    assert found["headline"] == "All 8 points diverged." and found["lead"] is None
    assert found["comparisons"] == [] and found["importance"] == [] and found["fronts"] == []
    assert sum(cell["diverged"] for cell in found["divergence"]["cells"]) == 8


def test_one_trial_is_compared_with_nothing():
    found = findings(one_trial())
    assert "no other point" in found["headline"] and found["comparisons"] == [] and found["answers"] == []


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_sweep_without_any_score(state):
    sweep = some_sweep(4, asha=False)
    for one in sweep["trials"]:
        one |= {"state": state, "scores": {}, "history": []}
    assert state in findings(sweep)["headline"]


def test_a_sweep_without_its_space_is_read_from_its_trials():
    sweep = some_sweep(30, asha=False)
    del sweep["space"]
    kinds = {one.key: one.categorical for one in parameters_of(sweep)}
    assert kinds["model.cell"] and kinds["training.truncate"] and not kinds["model.dropout"]


# ---- Files


@pytest.mark.parametrize(
    "make", [some_sweep, two_objectives, all_diverged, one_trial, bare, lambda: some_sweep(6, seeds=3, asha=False)]
)
def test_pages_are_whole_and_leave_out_what_is_missing(tmp_path: Path, make: Any):
    sweep = make()
    before = copy.deepcopy(sweep)
    page = tmp_path / "made" / "report.html"
    write_report(sweep, page)
    assert repr(sweep) == repr(before)
    html = page.read_text(encoding="utf-8")
    body = html[: html.index('<script type="application/json"')]
    assert not re.search(r"\b(None|nan|inf|Undefined)\b", body)
    assert 'class="charts wide"></div>' not in body and body.count("<section") == body.count("</section>")
    assert ("winner-title" in body) == bool(sweep.get("best_config"))
    assert page.stat().st_size < 6_000_000
    data = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert data["headline"] in html.replace("&#39;", "'") and len(data["ranking"]) > 0
    figures = json.loads(html.split('id="figures-data">')[1].split("</script>")[0], parse_constant=pytest.fail)
    for key in re.findall(r'data-chart="([^"]+)"', body):
        assert key in figures


@pytest.mark.parametrize(("sampler", "warned"), [("random", False), ("grid", False), ("tpe", True)])
def test_an_adaptive_sampler_is_warned_of(tmp_path: Path, sampler: str, warned: bool):
    write_report(some_sweep(6, asha=False) | {"sampler": sampler}, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ("chose points by the scores of earlier ones" in html) == warned


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunFailed, match="is not a folder"):
        write_report(one_trial(), tmp_path / "file" / "report.html")
