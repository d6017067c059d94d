"""Unknown words: copied from where attention looked, spelled as they stand in the input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unrolled.config.common import Vocabulary as VocabularyConfig
from unrolled.config.load import load_config
from unrolled.data.parallel_corpus import Vocabularies
from unrolled.data.tokenizer import BEGIN, END, UNKNOWN, Vocabulary, learn_vocabulary
from unrolled.decoding import Beam, Greedy, Sample
from unrolled.errors import UserError
from unrolled.tasks import Translation

TRAINING = ["a dog runs , fast .", "two dogs sleep .", "the cat (black) sleeps"]
INPUTS = ["a Zebra runs, fast.", "two quokkas", "Ωmega! sleeps (in Łódź)"]


def vocabulary(kind: str = "word", **settings: object) -> Vocabulary:
    return learn_vocabulary(TRAINING, VocabularyConfig.model_validate({"kind": kind, "size": 40, **settings}))


WORDS = st.lists(st.sampled_from(["a", "dog", "Zebra", "quokka", "naïve", "x1"]), min_size=1, max_size=6)


@given(words=WORDS, ending=st.sampled_from(["", ".", "!", ", (dog)"]))
def test_the_units_of_a_text_join_to_the_text(words: list[str], ending: str) -> None:
    text = " ".join(words) + ending
    known = vocabulary()
    (units,), (tokens,) = known.surface_tokens([text]), known.encode([text])
    assert len(units) == len(tokens)
    assert known.detokenize(units) == text


def test_unknown_units_keep_their_case_where_the_vocabulary_folds_it() -> None:
    known = vocabulary(lowercase=True)
    assert known.detokenize(known.surface_tokens(["A Zebra runs"])[0]) == "a Zebra runs"
    assert vocabulary("character").surface_tokens(["a%b"]) == [["a", "%", "b"]]


def task(folder: Path, *overrides: str) -> Translation:
    """A translator that writes nothing but unknown words."""
    words = vocabulary()
    Vocabularies(words, words).save(folder)
    (folder / "config.yaml").write_text("task: translation\ndata: {source: dates}\n", encoding="utf-8")
    sizes = [f"model.{side}.{what}=8" for side in ("encoder", "decoder") for what in ("hidden", "embedding")]
    config = load_config(folder / "config.yaml", [*sizes, "decoding.max_length=5", *overrides])
    return Translation(config, folder)  # type: ignore[arg-type]


def model_of(task: Translation) -> torch.nn.Module:
    torch.manual_seed(5)
    model = task.build_model().eval()
    with torch.no_grad():
        model.get_parameter("head.bias")[UNKNOWN] = 100.0
        for name, parameter in model.named_parameters():
            if "attention" in name:
                parameter.mul_(20)  # sharp enough that no position is a tie
    return model


@pytest.mark.parametrize("strategy", [Greedy(max_length=5), Beam(3, max_length=5), Sample(max_length=5, samples=2)])
def test_an_unknown_word_is_the_one_that_attention_looked_at(tmp_path: Path, strategy: Greedy | Beam | Sample) -> None:
    translation = task(tmp_path, "decoding.replace_unknown=true")
    model = model_of(translation)
    found = translation.decode(model, INPUTS, strategy)  # type: ignore[arg-type]
    known = translation.vocabularies.input
    for text, answer in zip(INPUTS, found, strict=True):
        (tokens,), (units,) = known.encode([text]), known.surface_tokens([text])
        with torch.no_grad():
            given = torch.tensor([[*tokens, END]])
            memory = model.encode(given, given >= 0)  # type: ignore[operator]
            state, copied = model.start(memory), []  # type: ignore[operator]
            for last in [BEGIN, *[UNKNOWN] * 4]:
                _, state, weights = model.step_with_attention(torch.tensor([last]), state, memory)  # type: ignore[operator]
                copied.append(units[int(weights[0, : len(units)].argmax())])
        assert answer.text == known.detokenize(copied)
        assert "<unk>" not in answer.text


def test_by_default_none_is_written(tmp_path: Path) -> None:
    translation = task(tmp_path)
    outputs = translation.predict(model_of(translation), INPUTS, Greedy(max_length=5))  # type: ignore[arg-type]
    assert not any("<unk>" in output for output in outputs)


def test_an_empty_input_has_nothing_to_copy(tmp_path: Path) -> None:
    translation = task(tmp_path, "decoding.replace_unknown=true")
    (output,) = translation.predict(model_of(translation), [""], Greedy(max_length=2))  # type: ignore[arg-type]
    assert output == "<unk><unk>"


def test_a_model_without_attention_is_refused(tmp_path: Path) -> None:
    translation = task(tmp_path, "decoding.replace_unknown=true", "model.decoder.conditioning=state")
    with pytest.raises(UserError, match=r"decoding.replace_unknown wants attention"):
        translation.check_strategy(Greedy())
