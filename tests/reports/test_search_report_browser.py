"""The evaluation report of many strategies in a real browser."""

from __future__ import annotations

from typing import Any

import pytest
from test_evaluation_report_browser import (
    click,
    column,
    emulate_width,
    header_scopes,
    indices,
    poor_contrasts,
    set_value,
    wait_until,
)

from evaluation_report_samples import CONFIG, HOSTILE, some_history
from search_report_samples import searched_outputs, searched_results
from unrolled.reports.evaluation_report import write_report

STRATEGIES = ".strategies tbody tr"


@pytest.fixture(scope="module")
def outputs() -> list[dict[str, Any]]:
    """Example 4 holds hostile text as token and in its n-best list."""
    rows = searched_outputs(60)
    rows[4]["attention"]["input"][0] = rows[4]["nbest"]["beam:size=10"][1]["text"] = HOSTILE
    return rows


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory, outputs: list[dict[str, Any]]) -> Any:
    path = tmp_path_factory.mktemp("searches") / "report.html"
    write_report(searched_results(), outputs, some_history(), CONFIG, path)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


def test_all_charts_are_drawn_without_errors(page: Any) -> None:
    count = (
        "return [...document.querySelectorAll('[data-chart]')].map(n => n.querySelectorAll('svg .trace, .hm').length)"
    )
    wait_until(page, lambda: all(page.execute_script(count)))
    assert len(page.execute_script(count)) == 12
    assert page.get_log("browser") == []


def test_columns_sort_both_ways(page: Any) -> None:
    buttons = page.find_elements("css selector", ".strategies [data-sort]")
    for place in (2, 7):
        for turn in (True, False):
            page.execute_script("arguments[0].click()", buttons[place])
            values = [float(value) for value in column(page, STRATEGIES, place)]
            assert values == sorted(values, reverse=turn) and len(set(values)) > 5
    page.execute_script("arguments[0].click()", buttons[0])
    names = column(page, STRATEGIES, 0)
    assert names[0].startswith("Beam search 1") and names[4].startswith("Beam search 20")  # numbers count as such
    sorted_by = page.find_elements("css selector", ".strategies [aria-sort]")
    assert [node.text.split()[0] for node in sorted_by] == ["Strategy"]


def test_the_chosen_attention_is_shown(page: Any) -> None:
    place = page.find_element("id", "attention-0")
    select = page.find_element("css selector", "[data-chooses]")
    assert len(select.find_elements("tag name", "option")) == 6
    labels = "return [...arguments[0].querySelectorAll('.xtick text')].map(n => n.textContent)"
    before = page.execute_script(labels, place)
    page.execute_script("arguments[0].value = 'attention-4'; arguments[0].dispatchEvent(new Event('input'))", select)
    wait_until(page, lambda: page.execute_script(labels, place) != before)
    first = page.execute_script(labels, place)[0]
    assert first.endswith("…") and HOSTILE.startswith(first[:-1])
    assert (
        page.title != "owned" and page.execute_script("return document.querySelectorAll('#attention img').length") == 0
    )


def test_sorting_by_the_difference_of_two(page: Any, outputs: list[dict[str, Any]]) -> None:
    assert not page.find_element("id", "against-box").is_displayed()
    set_value(page, "sort", "lead")
    set_value(page, "score-of", "4")
    set_value(page, "against", "9")
    leads = {
        row["index"]: row["sentence_scores"]["beam:size=10"]
        - row["sentence_scores"]["sample:temperature=1.0,samples=5"]
        for row in outputs
    }
    assert page.find_element("id", "against-box").is_displayed()
    assert [leads[i] for i in indices(page)] == sorted(leads.values(), reverse=True)[:10]
    set_value(page, "sort", "disagreement")
    different = {row["index"]: len(set(row["outputs"].values())) for row in outputs}
    assert [different[i] for i in indices(page)] == sorted(different.values(), reverse=True)[:10]
    set_value(page, "sort", "index")


def test_n_best_lists_open(page: Any, outputs: list[dict[str, Any]]) -> None:
    box = page.find_elements("css selector", ".nbest")[4]
    entries = box.find_elements("css selector", "li span")
    assert not entries[0].is_displayed()
    page.execute_script("arguments[0].open = true", box)
    assert [entry.text for entry in entries] == [one["text"] for one in outputs[4]["nbest"]["beam:size=10"]]


@pytest.mark.parametrize("width", [320, 400, 1280])
def test_nothing_is_wider_than_the_page(page: Any, width: int) -> None:
    emulate_width(page, width)
    page.execute_script("for (const box of document.querySelectorAll('details')) box.open = true")
    wait_until(page, lambda: page.execute_script("return document.documentElement.scrollWidth") <= width)
    scrolls = "const box = document.querySelector('.scroll'); return box.scrollWidth > box.clientWidth"
    assert page.execute_script(scrolls) == (width < 640)  # the table moves inside its box; a desk shows it whole


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opened_text_has_contrast(page: Any, scheme: str) -> None:
    page.execute_script("for (const box of document.querySelectorAll('details')) box.open = true")
    assert poor_contrasts(page, scheme) == []
    assert page.get_log("browser") == []


def test_every_header_has_a_scope(page: Any) -> None:
    assert header_scopes(page) == {"col", "row"}
    click(page, "next")
    assert indices(page)[0] == 10
