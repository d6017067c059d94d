"""The evaluation report of many strategies: what it says of significance, searches and attention."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_report_samples import some_outputs, some_results, write
from search_report_samples import searched_outputs, searched_results
from unrolled.reports.attention_plots import attention_charts
from unrolled.reports.decoding_plots import beam_search_curse, search_charts, setting_sweeps
from unrolled.reports.examples import page_rows
from unrolled.reports.text import differ_significantly, headline, significance_tables, strategy_title, summary


def with_p(results: dict[str, Any], p: float, **pairs: float) -> dict[str, Any]:
    """Gives every two strategies the p-value `p`, and the first and another the one named."""
    names = list(results["strategies"])
    matrix = [[1.0 if one == other else p for other in names] for one in names]
    best = max(names, key=lambda name: results["strategies"][name]["bleu"])
    for name, value in pairs.items():
        i, j = names.index(best), names.index(name)
        matrix[i][j] = matrix[j][i] = value
    results["comparisons"] = {"bleu": {"systems": names, "p": matrix, "corrected": matrix}}
    return results


# ---- Words


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("beam:size=10", "Beam search 10"),
        ("beam:size=10,length_penalty=0.6", "Beam search 10 (length penalty 0.6)"),
        ("sample:temperature=0.7,samples=5", "Sampling (T = 0.7, ×5)"),
        ("mbr:samples=20", "MBR of 20 samples"),
        ("mbr:samples=20,utility=bleu", "MBR of 20 samples (by bleu)"),
        ("mbr", "MBR"),
        ("beam of 10", "beam of 10"),
    ],
)
def test_titles_of_spelled_strategies(spelling: str, name: str) -> None:
    assert strategy_title(spelling) == name


def test_headline_of_few_names_those_that_do_not_differ() -> None:
    results = with_p(some_results(), 0.001, greedy=0.3)
    assert headline(results) == (
        "Beam search scores 36.2 BLEU, 7.4 above sampling and not significantly different from greedy."
    )
    assert "The lead over sampling is significant." in summary(results)


def test_significance_is_claimed_only_where_tested() -> None:
    assert "significant" not in headline(some_results()) + summary(some_results())
    assert "The lead over all others is significant." in summary(with_p(some_results(), 0.001))
    untested = searched_results()
    del untested["comparisons"]
    for row in untested["strategies"].values():
        del row["letters"]
    assert headline(untested) == "Beam search 10 scores 38.4 BLEU, 0.2 above beam search 5, the next best of 12."
    assert "significant" not in summary(untested)


def test_headline_of_many() -> None:
    results = searched_results()
    assert headline(results) == "Beam search 10 scores 38.4 BLEU; 4 others do not differ significantly from it."
    assert "7 others are significantly worse; the nearest, greedy, by 3.3." in summary(results)
    assert "beam search 2 is fastest: 5.0 times as fast as beam search 10." in summary(results)
    assert headline(with_p(results, 0.001)).endswith(", significantly above all 11 others.")
    few = with_p(results, 0.001, **{"mbr:samples=20": 0.4})
    assert headline(few).endswith("38.4 BLEU; MBR of 20 samples does not differ significantly from it.")


def test_letters_stand_in_for_p_values() -> None:
    results, only_letters = searched_results(), searched_results()
    del only_letters["comparisons"]
    names = list(results["strategies"])
    for one in names:
        for other in names:
            assert differ_significantly(results, "chrf", one, other) == differ_significantly(
                only_letters, "chrf", one, other
            )


@given(st.integers(0, 4), st.sampled_from([0.001, 0.4]), st.booleans())
def test_the_curse_is_stated_only_as_far_as_seen(peak: int, p: float, rises: bool) -> None:
    results = with_p(searched_results(), p)
    sweep = setting_sweeps(results, "bleu", "size", ("beam",))[0]
    for place, (_, name) in enumerate(sweep):
        results["strategies"][name]["bleu"] = 38.0 - 0.5 * abs(place - peak)
        results["strategies"][name]["model_score"] = -0.5 + (0.02 if rises else -0.02) * place
    said = beam_search_curse(results, "bleu", sweep)
    assert ("rises from −0.50 to −0.42" in said) == rises
    assert said.endswith("the beam-search curse.") == (peak < 4 and p < 0.05 and rises)
    assert ("not significant" in said) == (peak < 4 and p > 0.05)
    assert ("as good as at any" in said) == (peak == 4)


# ---- Charts


def test_a_sweep_holds_strategies_alike_in_all_else() -> None:
    results = searched_results()
    results["strategies"]["beam:size=20"]["settings"]["length_penalty"] = 0.0
    results["strategies"]["beam:size=10"]["settings"]["best"] = 5  # changes no output
    assert [[size for size, _ in sweep] for sweep in setting_sweeps(results, "bleu", "size", ("beam",))] == [
        [1, 2, 5, 10]
    ]
    assert setting_sweeps(some_results(), "bleu", "size", ("beam",)) == []


def test_search_charts_draw_the_figures() -> None:
    results = searched_results()
    size, likelier, temperature = (chart.figure.to_dict()["data"][0] for chart in search_charts(results))
    assert size["x"] == [1, 2, 5, 10, 20] and size["y"] == [35.1, 37.4, 38.2, 38.4, 37.9]
    assert likelier["x"] == [-0.552, -0.519, -0.497, -0.486, -0.478] and likelier["y"] == size["y"]
    assert temperature["x"] == [0.3, 0.5, 0.7, 1.0]
    assert temperature["y"] == pytest.approx([34.1, 32.7, 30.4, 24.6])  # means of five samples
    assert temperature["error_y"]["array"] == pytest.approx([0.25, 0.35, 0.45, 0.6])


def test_searches_that_change_nothing_are_called_equal() -> None:
    results = searched_results()
    for _, name in setting_sweeps(results, "bleu", "size", ("beam",))[0]:
        results["strategies"][name] |= {"bleu": 38.0, "model_score": -0.5}
    charts = {chart.id: chart for chart in search_charts(results)}
    assert "Beam search scores the same at every beam size." in charts["by-size"].note
    assert "curse" not in charts


def test_a_heatmap_keeps_equal_and_strange_tokens_apart() -> None:
    attention = {"strategy": "greedy", "input": ["the", "the", "<b>"], "output": ["&"] * 2 + ["x" * 99]}
    row = {"index": 3, "attention": attention | {"weights": [[0.1, 0.2, 0.7], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]}}
    (chart,) = attention_charts([{"index": 2}, row])
    figure = chart.figure.to_dict()
    assert figure["data"][0]["z"] == row["attention"]["weights"]
    assert figure["layout"]["xaxis"]["ticktext"] == ["the", "the", "&lt;b&gt;"]
    assert len(figure["layout"]["yaxis"]["ticktext"][2]) < 30


# ---- The file


def test_the_table_marks_what_does_not_differ_from_the_best(tmp_path: Path) -> None:
    results = searched_results()
    table = write(tmp_path, results).split("</table>")[0].split("<tbody>")[1]
    lines = {re.search(r"</i>([^<]+)", line)[1]: line for line in table.split("<tr>")[1:]}  # type: ignore[index]
    for name, row in results["strategies"].items():
        cell = re.search(r'<td class="number( best)?" data-value', lines[strategy_title(name)])
        assert cell is not None and bool(cell[1]) == ("a" in row["letters"]["bleu"])
        assert f">{row['letters']['bleu']}</sup>" in lines[strategy_title(name)]
    assert "24.6 ± 0.6" in lines["Sampling (T = 1.0, ×5)"]
    assert not re.search("max length|length penalty|temperature", table)  # what all share is said once, below
    results["strategies"]["beam:size=5"]["settings"]["length_penalty"] = 0.6
    page = write(tmp_path, results)
    assert "length penalty 0.6" in page.split("</table>")[0] and "max length 100" in page.split("Settings</summary>")[1]


def test_p_values_of_all_pairs(tmp_path: Path) -> None:
    results = searched_results()
    (bleu, *_) = significance_tables(results)
    assert [row["title"] for row in bleu["rows"][:2]] == ["Beam search 10", "Beam search 5"]
    for i, row in enumerate(bleu["rows"]):
        assert row["cells"][i] is None
        for j, cell in enumerate(row["cells"]):
            assert cell == bleu["rows"][j]["cells"][i]
    assert sum(not cell["differ"] for cell in bleu["rows"][0]["cells"] if cell) == 4
    assert "&lt; 0.001" in write(tmp_path, results)


@pytest.mark.parametrize("missing", ["letters", "samples", "model_score", "intervals", "by_length", "distinct_1"])
def test_a_missing_measurement_leaves_no_trace(tmp_path: Path, missing: str) -> None:
    results = searched_results()
    del results["comparisons"], results["by_frequency"]
    for row in results["strategies"].values():
        row.pop(missing, None)
    page = write(tmp_path, results, searched_outputs(20))
    body = page[: page.index('<script type="application/json"')]
    assert not re.search(r"\b(None|nan|inf)\b", body)
    assert ("Letters:" in body) == (missing != "letters")
    assert "p-values" not in body and "F1 of words" not in body
    assert ("Likelier, but better?" in body) == (missing != "model_score")
    assert (">Distinct-1<" in body) == (missing != "distinct_1")


def test_a_thousand_sentences_of_twelve_strategies_stay_small(tmp_path: Path) -> None:
    outputs = searched_outputs(1000)
    for row in outputs:
        row["outputs"] = {name: f"{text} {name} {'wort ' * 12}" for name, text in row["outputs"].items()}
    page = write(tmp_path, searched_results(), outputs)
    assert (tmp_path / "evaluation" / "report.html").stat().st_size < 6_000_000
    rows = json.loads(page.split('id="examples-data">')[1].split("</script>")[0])["rows"]
    steps = {later["index"] - earlier["index"] for earlier, later in itertools.pairwise(rows)}
    assert 200 < len(rows) < 1000 and rows[-1]["index"] > 990 and max(steps) - min(steps) <= 1  # an even selection


def test_equal_outputs_share_a_line_and_one_strategy_lists_its_best() -> None:
    names = ["greedy", "beam:size=5", "beam:size=10"]
    row = some_outputs(1)[0] | {
        "outputs": {"greedy": "Ein Hund.", "beam:size=5": "Ein Hund.", "beam:size=10": "Der Hund."},
        "sentence_scores": dict.fromkeys(names, 50.0),
        "nbest": {name: [{"text": f"{name} {i}", "score": -i} for i in range(9)] for name in names[1:]},
    }
    rows = page_rows([row], names, ["beam:size=10", "beam:size=5", "greedy"])
    assert [answer["by"] for answer in rows["rows"][0]["answers"]] == [[0, 1], [2]]
    assert rows["listing"] == 2
    assert rows["rows"][0]["nbest"] == [[f"beam:size=10 {i}", -i] for i in range(5)]
