"""Unknown words of outputs, replaced by the word of the input that attention looked at most when they were written
(Luong et al. 2015, "Addressing the rare word problem in neural machine translation"; with attention in the place of
their alignments Jean et al. 2015, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unrolled.data.corpus import Vocabularies
from unrolled.data.vocabulary import BEGIN, END, UNKNOWN
from unrolled.decoding import Decoded
from unrolled.models import EncoderDecoder, Memory


def copying(
    model: EncoderDecoder, memory: Memory, inputs: Sequence[str], decoded: Decoded, vocabularies: Vocabularies
) -> Callable[[Sequence[Sequence[int]]], list[str]]:
    """Returns what turns the tokens of all that was decoded, in order, into texts without unknown words.

    Args:
        memory: of the inputs.
    """
    owners = [number for number, found in enumerate(decoded.hypotheses) for _ in found]
    target, units = vocabularies.target, vocabularies.input.units(inputs)

    def write(rows: Sequence[Sequence[int]]) -> list[str]:
        texts = target.decode(rows)
        places = [place for place, row in enumerate(rows) if UNKNOWN in row and units[owners[place]]]
        if not places:
            return texts
        sentences = [owners[place] for place in places]
        lengths = [len(units[sentence]) for sentence in sentences]
        looked = _looked(model, memory, sentences, lengths, [rows[place] for place in places])
        for place, sentence, positions in zip(places, sentences, looked.tolist(), strict=True):
            names = target.tokens(rows[place])
            copied = [units[sentence][position] for position in positions[: len(names)]]
            pairs = zip(rows[place], names, copied, strict=True)
            texts[place] = target.join([unit if token == UNKNOWN else name for token, name, unit in pairs])
        return texts

    return write


def _looked(
    model: EncoderDecoder,
    memory: Memory,
    sentences: Sequence[int],
    lengths: Sequence[int],
    rows: Sequence[Sequence[int]],
) -> Tensor:
    """Returns where in the input, its end left out, attention has most weight when each token of the rows is written,
    `(rows, longest)`."""
    device = memory.mask.device
    own = memory.select(torch.tensor(sentences, device=device))
    longest = max(map(len, rows))
    before = torch.tensor([[BEGIN, *row, *[END] * (longest - len(row))] for row in rows], device=device)
    outside = torch.arange(own.mask.shape[1], device=device) >= torch.tensor(lengths, device=device)[:, None]
    state, found = model.start(own), []
    for step in range(longest):
        _, state, weights = model.outputs(before[:, step], state, own)
        assert weights is not None
        found.append(weights.masked_fill(outside, -1).argmax(1))
    return torch.stack(found, dim=1)
