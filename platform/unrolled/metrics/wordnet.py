"""The nouns of WordNet, read from its own files (`index.noun`, `data.noun`, `noun.exc`), and how near two are.

Debian's package `wordnet-base` puts them where they are looked for; elsewhere the variable WNSEARCHDIR, WordNet's own,
names their folder. Fellbaum, WordNet: An Electronic Lexical Database, 1998.
"""

from __future__ import annotations

import mmap
import os
from functools import lru_cache
from pathlib import Path

from unrolled.errors import UserError

VARIABLE = "WNSEARCHDIR"
FILES = ("index.noun", "data.noun", "noun.exc")
FOLDERS = ("/usr/share/wordnet", "/usr/local/WordNet-3.0/dict", "~/nltk_data/corpora/wordnet")
ENDINGS = (
    *(("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z")),
    *(("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")),
)
"""How plurals end, and their singulars (WordNet's morphology of nouns)."""
HYPERNYMS = ("@", "@i")


def wordnet_folder() -> Path | None:
    """Returns the folder that has WordNet's nouns, `None` where there is none."""
    named = os.environ.get(VARIABLE)
    folders = [Path(folder).expanduser() for folder in ((named,) if named else FOLDERS)]
    return next((folder for folder in folders if all((folder / name).is_file() for name in FILES)), None)


def nouns() -> Nouns:
    """Returns WordNet's nouns, read once a process; raises `UserError` where there is no WordNet."""
    folder = wordnet_folder()
    if folder is None:
        raise UserError(
            f"WUPS needs WordNet, which is not here: `apt-get install wordnet-base`, or name the folder of its files "
            f"in {VARIABLE}."
        )
    return _nouns(folder)


class Nouns:
    """Synsets are told by the place of their line in `data.noun`."""

    def __init__(self, folder: Path) -> None:
        self._synsets: dict[str, tuple[int, ...]] = {}
        for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
            if not line.startswith(" "):
                lemma, _, count, *rest = line.split()
                self._synsets[lemma] = tuple(int(place) for place in rest[-int(count) :])
        lines = (folder / "noun.exc").read_text(encoding="utf-8").splitlines()
        self._exceptions = {plural: singulars for plural, *singulars in map(str.split, lines) if singulars}
        with (folder / "data.noun").open("rb") as data:
            self._data = mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ)
        self._known: dict[int, tuple[int, ...]] = {}
        self._above: dict[int, dict[int, int]] = {}
        self._depth: dict[int, tuple[int, int]] = {}

    def synsets(self, noun: str) -> tuple[int, ...]:
        """Returns the synsets of a noun, singular or plural, words joined by spaces or `_`; () for what is none."""
        form = "_".join(noun.lower().split())
        base = self._exceptions.get(form) or [form[: -len(old)] + new for old, new in ENDINGS if form.endswith(old)]
        return tuple(dict.fromkeys(place for each in (form, *base) for place in self._synsets.get(each, ())))

    def wup(self, one: int, other: int) -> float:
        """Returns how near two synsets are, 0 to 1: 2 d / (l₁ + l₂), with the depth d of what both are kinds of, and
        the lengths l of the ways from each over it to the root (Wu and Palmer 1994; details as in NLTK)."""
        shared = self._ancestors(one).keys() & self._ancestors(other).keys()
        if not shared:
            return 0.0
        deepest = max(self._depths(each)[0] for each in shared)
        lowest = [each for each in shared if self._depths(each)[0] == deepest]
        common = one if one in lowest else min(lowest)
        depth = self._depths(common)[1] + 1
        return 2 * depth / (self._distance(one, common) + self._distance(other, common) + 2 * depth)

    def _distance(self, one: int, other: int) -> int:
        ours, theirs = self._ancestors(one), self._ancestors(other)
        return min(ours[each] + theirs[each] for each in ours.keys() & theirs.keys())

    def _ancestors(self, place: int) -> dict[int, int]:
        """Returns how far up each synset is that this one is a kind of, itself at 0."""
        if place not in self._above:
            found = {place: 0}
            for parent in self._hypernyms(place):
                for each, distance in self._ancestors(parent).items():
                    found[each] = min(distance + 1, found.get(each, distance + 1))
            self._above[place] = found
        return self._above[place]

    def _depths(self, place: int) -> tuple[int, int]:
        """Returns the lengths of the shortest and the longest way to the root."""
        if place not in self._depth:
            above = [self._depths(parent) for parent in self._hypernyms(place)]
            least, most = (1 + min(low for low, _ in above), 1 + max(high for _, high in above)) if above else (0, 0)
            self._depth[place] = least, most
        return self._depth[place]

    def _hypernyms(self, place: int) -> tuple[int, ...]:
        if place not in self._known:
            fields = self._data[place : self._data.find(b" | ", place)].decode().split()
            first = 5 + 2 * int(fields[3], 16)  # after the synset's words, each with a number, and the pointers' count
            pointers = zip(fields[first::4], fields[first + 1 :: 4], strict=False)
            self._known[place] = tuple(int(to) for symbol, to in pointers if symbol in HYPERNYMS)
        return self._known[place]


_nouns = lru_cache(maxsize=2)(Nouns)


@lru_cache(maxsize=100_000)
def nearness(one: str, other: str) -> float:
    """Returns the `wup` of the nearest two senses of two words, 0 where either is no noun, 1 for equal words."""
    if one == other:
        return 1.0
    known = nouns()
    pairs = [(a, b) for a in known.synsets(one) for b in known.synsets(other)]
    return max((known.wup(a, b) for a, b in pairs), default=0.0)
