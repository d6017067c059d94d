"""Tests of compiled logits and largest entries of a vocabulary, against torch in float64."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_oracles import DEVICES, EVERY_STRATEGY, IDS
from unrolled import native
from unrolled.config.common import Decoding
from unrolled.config.translation import TranslationDecoder, TranslationEncoder, TranslationModel
from unrolled.decoding import Beam, Greedy, Strategy, decode, parse_strategies, resolve_auto
from unrolled.errors import RunFailed, UserError
from unrolled.models import EncoderDecoder, Precision, Scorer, build_translator

PRECISIONS: list[Precision] = ["float32", "bfloat16"]
ROUNDING = {"float32": 1e-6, "bfloat16": 8e-3}
"""Of a single operand, relative."""
NEVER = -float("inf")


def head(rows: int, features: int, vocabulary: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((rows, features), (vocabulary, features), (vocabulary,))
    outputs, weight, bias = (torch.randn(shape, generator=draw) for shape in shapes)
    return outputs.tanh(), weight, bias


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    features=st.integers(1, 80),
    vocabulary=st.integers(2, 1300),
    count=st.integers(1, 12),
    precision=st.sampled_from(PRECISIONS),
    seed=st.integers(0, 99),
)
def test_scores_are_those_of_float64(
    *, rows: int, features: int, vocabulary: int, count: int, precision: Precision, seed: int
) -> None:
    outputs, weight, bias = head(rows, features, vocabulary, seed)
    excluded = torch.rand(vocabulary, generator=torch.Generator().manual_seed(seed)) < 0.1
    scorer, count = Scorer(weight, bias, precision), min(count, vocabulary)
    sums, logits = scorer.logits(outputs)
    # The most that rounding both sides of every product can come to.
    sizes = outputs.abs().double() @ weight.abs().double().T
    wanted = outputs.double() @ weight.double().T + bias
    assert bool(((logits - wanted).abs() <= 2.1 * ROUNDING[precision] * (sizes + wanted.abs()) + 1e-5).all())

    torch.testing.assert_close(sums, logits.logsumexp(1), rtol=1e-5, atol=1e-5)
    again, values, tokens = scorer.topk(outputs, count, excluded)
    assert torch.equal(again, sums)
    allowed = logits.masked_fill(excluded, NEVER)
    order = allowed.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, order.values[:, :count])
    possible = values > NEVER
    assert torch.equal(tokens[possible], order.indices[:, :count][possible])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_does_not_depend_on_those_beside_it_nor_on_threads(precision: Precision) -> None:
    if not native.ranking_supported(precision):
        pytest.skip(f"no instructions for {precision} here")
    outputs, weight, bias = head(45, 72, 1111)
    excluded = torch.zeros(1111, dtype=torch.bool)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = Scorer(weight, bias, precision).topk(outputs, 4, excluded)
        torch.set_num_threads(3)
        scorer = Scorer(weight, bias, precision)
        shared = scorer.topk(outputs, 4, excluded)
        alone = [scorer.topk(row[None], 4, excluded) for row in outputs]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(together, shared, strict=True))
    assert all(
        torch.equal(torch.cat(parts), whole) for parts, whole in zip(zip(*alone, strict=True), shared, strict=True)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_compiled_code_the_same_is_found(monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    outputs, weight, bias = head(20, 64, 500)
    excluded = torch.zeros(500, dtype=torch.bool)
    fast = Scorer(weight, bias, precision)
    monkeypatch.setattr(native, "ranking_supported", lambda _: False)
    plain = Scorer(weight, bias, precision)
    torch.testing.assert_close(fast.logits(outputs)[1], plain.logits(outputs)[1], rtol=0, atol=0.3)
    first, second = fast.topk(outputs, 1, excluded), plain.topk(outputs, 1, excluded)
    assert (first[2] == second[2]).float().mean() >= 0.8
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=0.3)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_sums_show_what_is_not_finite(precision: Precision, value: float) -> None:
    outputs, weight, bias = head(6, 40, 700)
    outputs[2, 3] = value
    sums, _, _ = Scorer(weight, bias, precision).topk(outputs, 2, torch.zeros(700, dtype=torch.bool))
    assert not sums[2].isfinite() and sums[[0, 1, 3, 4, 5]].isfinite().all()
    bias[650] = value
    assert not Scorer(weight, bias, precision).logits(outputs[:1])[0].isfinite().any()


def test_impossible_tokens_are_never_found() -> None:
    outputs, weight, bias = head(3, 8, 300)
    bias[:] = NEVER
    sums, values, _ = Scorer(weight, bias, "float32").topk(outputs, 2, torch.zeros(300, dtype=torch.bool))
    assert (sums == NEVER).all() and (values == NEVER).all()
    bias[[7, 290]] = 0.0
    _, values, tokens = Scorer(weight, bias, "float32").topk(outputs, 3, torch.arange(300) == 7)
    assert (tokens[:, 0] == 290).all() and (values[:, 1:] == NEVER).all()


# In a search ----------------------------------------------------------------------------------------------


def translator(device: str = "cpu", kind: torch.dtype = torch.float32) -> EncoderDecoder:
    torch.manual_seed(3)
    encoder, decoder = TranslationEncoder(hidden=16, embedding=12), TranslationDecoder(hidden=16, embedding=12)
    model = build_translator(TranslationModel(encoder=encoder, decoder=decoder, tie_embeddings=False), 40, 150)
    with torch.no_grad():
        model.head.weight.mul_(4)  # a distribution with some shape
    return model.to(device, kind).eval()


class Plain:
    """The same model without a scorer."""

    def __init__(self, model: EncoderDecoder) -> None:
        self.start, self.step, self.step_with_attention, self.attends = (
            model.start,
            model.step,
            model.step_with_attention,
            model.attends,
        )


def search(model: EncoderDecoder, strategy: Strategy, *, plain: bool = False, **settings: Any) -> Any:
    tokens = torch.randint(4, 40, (7, 9), generator=torch.Generator().manual_seed(1)).to(model.head.bias.device)
    with torch.no_grad():
        memory = model.encode(tokens, tokens > 5)
    strategy = dataclasses.replace(strategy, max_length=12)
    searched: Any = Plain(model) if plain else model
    return decode(searched, memory, strategy, begin=2, end=3, forbidden=(0, 1, 2), **settings)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", [*EVERY_STRATEGY, Beam(3, coverage_penalty=0.2)], ids=[*IDS, "beam-coverage"])
@pytest.mark.parametrize("rules", ["none", "no_repeat", "min_length", "prefix"])
def test_a_search_finds_what_it_finds_from_logits(strategy: Strategy, rules: str, device: str) -> None:
    model, given = translator(device, torch.float64), {"prefixes": [[9, 8]] * 7} if rules == "prefix" else {}
    if rules in ("no_repeat", "min_length"):
        strategy = dataclasses.replace(strategy, **{rules: 2 if rules == "no_repeat" else 5})
    fast, plain = (search(model, strategy, plain=plain, **given) for plain in (False, True))
    assert fast.tokens == plain.tokens
    assert fast.scores == pytest.approx(plain.scores)


@pytest.mark.parametrize("device", DEVICES)
def test_a_lower_precision_changes_scores_a_little(device: str) -> None:
    model = translator(device)
    full, low = (search(model, Greedy(precision=kind), prefixes=[[5, 6, 7]] * 7) for kind in PRECISIONS)
    same = [a == b for a, b in zip(full.tokens, low.tokens, strict=True)]
    assert any(same) and full.scores != low.scores
    for a, b, equal in zip(full.scores, low.scores, same, strict=True):
        assert not equal or a == pytest.approx(b, rel=0.05)


def test_a_model_that_gives_nan_is_refused_by_name() -> None:
    model = translator()
    with torch.no_grad():
        model.head.bias[77] = float("nan")
    with pytest.raises(RunFailed, match="NaN as a logit at step 1 of sentence 0"):
        search(model, Greedy())


# Settings -------------------------------------------------------------------------------------------------


def test_precision_is_spelled_and_follows_the_training() -> None:
    config = Decoding.model_validate({"precision": "bfloat16"})
    chosen = parse_strategies(["greedy", "beam:precision=float32"], config)
    assert [one.precision for one in chosen.values()] == ["bfloat16", "float32"]
    for trained, expected in (("bfloat16", "bfloat16"), ("float32", "float32"), ("float64", "float32")):
        assert parse_strategies(["beam"], resolve_auto(Decoding(), trained))["beam"].precision == expected
    assert parse_strategies(["beam"], resolve_auto(config, "float32"))["beam"].precision == "bfloat16"
    with pytest.raises(UserError, match=r"greedy\.precision is 'int4'; accepted is float32 or bfloat16"):
        parse_strategies(["greedy:precision=int4"], config)
