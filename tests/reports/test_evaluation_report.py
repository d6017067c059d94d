"""The evaluation report: its words and numbers."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation_report_samples import partial, some_history, some_outputs, some_results, write
from unrolled.reports.examples import differences, page_rows
from unrolled.reports.text import headline

# ---- Words


def test_headline_names_winner_and_leads() -> None:
    assert headline(some_results()) == "Beam search scores 36.2 BLEU, 1.1 above greedy and 7.4 above sampling."


def test_headline_leads_are_differences_of_printed_numbers() -> None:
    results = some_results()
    del results["strategies"]["sample"]
    results["strategies"]["beam"]["bleu"] = 36.249  # printed 36.2
    results["strategies"]["greedy"]["bleu"] = 36.151  # printed 36.2
    assert headline(results) == "Beam search scores 36.2 BLEU, level with greedy."


@pytest.mark.parametrize("name", ["greedy", "sample", "beam"])
def test_headline_of_a_single_strategy_compares_nothing(name: str) -> None:
    results = some_results()
    results["strategies"] = {name: results["strategies"][name]}
    assert "above" not in headline(results) and headline(results).endswith(" BLEU.")


def test_headline_in_exact_match() -> None:
    results = some_results() | {"headline": "exact_match"}
    assert headline(results) == (
        "Beam search gets 4.6\N{NO-BREAK SPACE}% of the outputs exactly right, "
        "0.5 points above greedy and 2.4 points above sampling."
    )


def test_lower_perplexity_wins() -> None:
    results = some_results() | {"headline": "perplexity"}
    results["strategies"] = {"greedy": {"perplexity": 9.5}, "beam": {"perplexity": 11.0}}
    assert headline(results) == "Greedy decoding reaches perplexity 9.5, 1.5 below beam search."


# ---- Differences

texts = st.text(alphabet=st.sampled_from("ab .,-'ü中文नि\n<&"), max_size=40)


@given(texts, texts)
def test_differences_keep_the_output_whole(output: str, reference: str) -> None:
    pieces = differences(output, reference)
    assert "".join(text for kind, text in pieces if kind >= 0) == output.rstrip()


@given(texts)
def test_equal_texts_do_not_differ(text: str) -> None:
    assert all(kind == 0 for kind, _ in differences(text, text))


def test_differences_mark_words_and_not_their_punctuation() -> None:
    assert differences("Ein Hund läuft.", "Ein Hund rennt.") == [
        (0, "Ein Hund"),
        (-1, " rennt"),
        (1, " läuft"),
        (0, "."),
    ]
    assert differences("2015-03-04", "2015-03-05") == [(0, "2015-03-"), (-1, "05"), (1, "04")]


# ---- The file


def test_extremes_do_not_share_examples() -> None:
    rows = page_rows(some_outputs(5), ["beam"], ["beam"])
    assert len(rows["best"]) == len(rows["worst"]) == 2
    assert not {row["index"] for row in rows["best"]} & {row["index"] for row in rows["worst"]}
    assert min(row["scores"][0] for row in rows["best"]) >= max(row["scores"][0] for row in rows["worst"])


@pytest.mark.parametrize(("count", "repeat"), [(5000, 1), (1000, 60), (3, 200_000)])
def test_large_evaluations_stay_small(tmp_path: Path, count: int, repeat: int) -> None:
    outputs = some_outputs(20) * (count // 20) or some_outputs(count)
    outputs = [row | {"index": i, "input": "中" * 5 + "long text " * repeat} for i, row in enumerate(outputs)]
    write(tmp_path, some_results(), outputs, some_history(200_000))
    assert (tmp_path / "evaluation" / "report.html").stat().st_size < 6_000_000


def bare(results: dict[str, Any]) -> None:
    """Leaves of each strategy one score only."""
    results["strategies"] = {name: {"bleu": row["bleu"]} for name, row in results["strategies"].items()}


def unscored(results: dict[str, Any]) -> None:
    results["strategies"] = {"greedy": {"seconds": 3.0}}


@pytest.mark.parametrize("change", [bare, partial, unscored])
def test_missing_parts_leave_no_trace(tmp_path: Path, change: Any) -> None:
    results = some_results()
    change(results)
    page = write(tmp_path, results, outputs=[])
    body = page[: page.index('<script type="application/json"')]
    assert not re.search(r"\b(None|nan|inf)\b", body)
    assert "How it learned" not in body
    assert 'id="examples"' not in body


def test_a_diverged_loss_leaves_valid_json(tmp_path: Path) -> None:
    history = some_history()
    history[4]["loss"] = float("nan")
    page = write(tmp_path, some_results(), history=history)
    data = page.split('id="figures-data">')[1].split("</script>")[0]
    figures = json.loads(data, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert None in next(t for t in figures["learning"]["data"] if t["name"] == "Training loss")["y"]


def test_settings_that_are_off_are_not_shown(tmp_path: Path) -> None:
    page = write(tmp_path, some_results()).split('<script type="application/json"')[0]
    assert "temperature 1.0" in page and "top k" not in page


def test_arguments_are_left_as_they_were(tmp_path: Path) -> None:
    given_to = some_results(), some_outputs(8), some_history()
    before = copy.deepcopy(given_to)
    write(tmp_path, *given_to)
    assert given_to == before
