"""Sentences that ask for an edit: a grammar over the files of `data/`, with typos, fillers and small talk.

`SentenceSampler.sample(request)` gives a fresh sentence for one of `states.REQUESTS`. What no edit answers
("add a hat") counts as "unchanged": an unknown instruction should leave the image as it was. The notation of the
patterns is explained in `data/edits.toml`.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from demo.edits import NAMES
from demo.states import SQUARES

Slots = dict[str, str]  # the pattern behind each name in braces


def _resolved(value: Any, names: dict[str, Any]) -> Any:
    """Tables with lists as choices, and with `<name>` replaced by that entry of the table or of [fragments]."""
    if isinstance(value, dict):
        own = {key: entry for key, entry in value.items() if not isinstance(entry, dict)}
        return {key: _resolved(entry, names | own) for key, entry in value.items()}
    pattern = value if isinstance(value, str) else f"({'|'.join(value)})"
    return re.sub(r"<(\w+)>", lambda found: _resolved(names[found[1]], names), pattern)


def _load(name: str) -> dict[str, Any]:
    tables = tomllib.loads((Path(__file__).parent / "data" / f"{name}.toml").read_text())
    return {key: _resolved(table, tables.get("fragments", {})) for key, table in tables.items() if key != "fragments"}


EDITS, FRAMES, CONTEXT, UNKNOWN = (_load(name) for name in ("edits", "frames", "context", "unknown"))
COMPLAINTS: dict[str, Slots] = FRAMES["complaints"]
LANGUAGES = ("english", "chinese")
ANYTHING = {
    language: {
        "image": EDITS["objects"][language],
        "thing": UNKNOWN["unknown"]["nouns"],
        "colour": f"({'|'.join(words[language] for words in EDITS['colours'].values())})",
        "place": f"({'|'.join(words[language] for words in EDITS['places'].values())})",
    }
    for language in LANGUAGES
}
FORMS = ("be", "do", "get", "say")
FORM_SHARES = (0.25, 0.57, 0.70, 1.0)  # how often each form is taken, cumulated
_SENTENCE_ZH = re.compile(
    r"太|很|不够|有点|发灰|曝光不足|欠曝|过曝|曝光过度|[倒反]了|应该|需要|想要|不用|不要|：|^(图片|照片|这|图像|画面|整|它|我|像|不|别|什么|没有|你好|谢谢|和原图|更|看)"
)
_NOUN_ZH = re.compile(r"^[^变做加转改打用来把将让成给对]*(效果|滤镜|风格|氛围|感觉|色调|倒影)$")


@cache
def words_of(request: str) -> tuple[dict[str, str], Slots, Slots]:
    """The patterns of a request, and what fills their slots in English and in Chinese."""
    prefix, _, rest = request.partition("_")
    if prefix not in ("border", "tint", "square"):
        return EDITS[request], {"image": EDITS["objects"]["english"]}, {"image": EDITS["objects"]["chinese"]}
    colour, _, place = rest.partition("_")
    english, chinese = (
        {"image": EDITS["objects"][language], "colour": EDITS["colours"][colour][language]}
        | ({"place": EDITS["places"][place][language]} if place else {})
        for language in LANGUAGES
    )
    return EDITS[prefix], english, chinese


@cache
def _parsed(pattern: str) -> tuple[str | tuple[str, ...], ...]:
    """Literal pieces and choices of a pattern, in order. The options of a choice are patterns themselves."""
    pieces: list[str | tuple[str, ...]] = []
    options: list[str] = []
    depth = start = 0
    for at, letter in enumerate(pattern):
        depth += letter == "("
        if depth == 1 and letter in "(|)":
            if letter == "(":
                pieces.append(pattern[start:at])
                options = []
            else:
                options.append(pattern[start:at])
            start = at + 1
        depth -= letter == ")"
        if depth == 0 and letter == ")":
            if pattern[start : start + 1] == "?":
                start += 1
                options.append("")
            pieces.append(tuple(options))
    return (*pieces, pattern[start:])


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r" +(?=[,:])", "", text)).strip()
    return re.sub(r"\b([a-z]{2,})( \1)+\b", r"\1", text)  # "please please"


def _is_chinese(text: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in text)


class SentenceSampler:
    """Draws sentences at random, from a seed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def _choose(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.random() * len(options))]

    def _expand(self, pattern: str) -> str:
        return "".join(p if isinstance(p, str) else self._expand(self._choose(p)) for p in _parsed(pattern))

    def _fill(self, pattern: str, slots: Slots) -> str:
        text = self._expand(pattern)
        while "{" in text:
            text = re.sub(r"\{(\w+)\}", lambda found: self._expand(slots[found[1]]), text)
        return re.sub(r"\b([Aa])n\? +(?=(.))", lambda found: found[1] + ("n " if found[2] in "aeiou" else " "), text)

    def _chinese(self, words: str) -> str:
        """Words in a frame that suits them: whole sentences and bare names of an effect have frames of their own."""
        words = re.sub(r"(色|通道|一点|一些|一下|颜色|色彩)\1+", r"\1", words).rstrip("，")
        form = "say" if _SENTENCE_ZH.search(words) else "get" if _NOUN_ZH.match(words) else "do"
        return self._fill(FRAMES["frames_zh"][form], {"words": words})

    def _english(self, request: str) -> str:
        words, slots, _ = words_of(request)
        form = FORMS[np.searchsorted(FORM_SHARES, self.rng.uniform(0 if "be" in words else FORM_SHARES[0], 1))]
        core = self._fill(words[form], slots).strip()
        return self._fill(FRAMES["frames"][form], slots | {"words": core})

    def _contrast(self, request: str) -> str:
        """A sentence that also holds another edit's words, and denies them."""
        other = self._choose(NAMES[1:])
        (words, slots, _), (other_words, other_slots, _) = words_of(request), words_of(other)
        if other == request or "be" not in words:
            return self._english(request)
        wanted, denied = self._fill(words["be"], slots), self._fill(other_words["be"], other_slots)
        return self._fill(FRAMES["around"]["contrast"], {"wanted": wanted, "denied": denied})

    def _unknown(self) -> str:
        chance = self.rng.random()
        patterns = UNKNOWN["unknown"]
        if chance < 0.15:
            pattern = patterns["shape_zh" if self.rng.random() < 0.3 else "chinese"]
            return self._chinese(self._fill(pattern, ANYTHING["chinese"]))
        if chance < 0.22:
            letters = list("abcdefghijklmnopqrstuvwxyz      0123456789")
            return "".join(self.rng.choice(letters, int(self.rng.integers(1, 30))))
        pattern, frames = patterns["english"], FRAMES["frames"]["do"]
        if chance < 0.36:
            pattern, frames = patterns["shape"], patterns["shape_frames"]
        return self._fill(frames, {"words": self._fill(pattern, ANYTHING["english"]).strip(), "image": "it"})

    def _in_context(self, text: str) -> str:
        """The circumstances of a command: what it is for, why, where the image came from, small talk."""
        chinese = _is_chinese(text)
        if self.rng.random() > (0.35 if chinese else 0.45):
            return text
        context = CONTEXT[LANGUAGES[chinese]]
        where = self.rng.random()
        if where < 0.55:
            text = _tidy(self._fill(context["before"], context["slots"])) + ("" if chinese else " ") + text
        if where > 0.45:
            after = self._fill(context["after"], context["slots"])
            text = text.rstrip("?!. 。！") + " " * after.startswith(" ") + _tidy(after)
        return text

    def _decorated(self, text: str) -> str:
        text = self._in_context(text)
        if _is_chinese(text):
            return text
        if self.rng.random() < 0.12:
            text = self._expand(FRAMES["around"]["opening"]) + text
        if self.rng.random() < 0.15:
            text = text.rstrip("?!. ") + self._expand(FRAMES["around"]["ending"])
        return text

    def _roughened(self, text: str) -> str:
        """Typos, lost words, and the many ways people use capitals and full stops."""
        if self.rng.random() < 0.06 and text.count(" ") > 3:
            words = text.split(" ")
            small = [i for i, w in enumerate(words) if w in ("the", "a", "an", "it", "to", "of", "in", "this")]
            if small:
                del words[small[self.rng.integers(len(small))]]
            text = " ".join(words)
        if self.rng.random() < 0.12 and len(text) > 4:
            i = int(self.rng.integers(1, len(text) - 1))
            head, letter, rest = text[:i], text[i], text[i + 1 :]
            text = head + (rest, rest[0] + letter + rest[1:], 2 * letter + rest)[self.rng.integers(3)]
        style = self.rng.random()
        if style < 0.55:
            text = text[:1].upper() + text[1:]
        elif style < 0.58:
            text = text.upper()
        if text[-1:] not in "?!.。" and self.rng.random() < 0.45:
            text += self._expand(FRAMES["around"]["full_stop"])
        return text

    def _nothing(self) -> str:
        """A sentence that asks for no edit: strange requests, refusals, small talk alone, an empty prompt."""
        chance = self.rng.random()
        if chance < 0.07:
            return " "
        if chance < 0.2:
            other = self._choose(tuple(SQUARES) if self.rng.random() < 0.15 else (*NAMES[1:], "match_colors"))
            words, slots, _ = words_of(other)
            text = self._in_context(self._expand(FRAMES["around"]["refusal"]) + self._fill(words["do"], slots))
        elif chance < 0.335:
            context = CONTEXT[LANGUAGES[self.rng.random() < 0.2]]
            text = self._fill(context["alone"], context["slots"])
        else:
            text = self._decorated(self._unknown())
        return self._roughened(_tidy(text) or text)

    def sample(self, request: str) -> str:
        """A fresh sentence that asks for one of `states.REQUESTS`."""
        if request == "unchanged" and self.rng.random() < 0.6:
            return self._nothing()
        complain = request in COMPLAINTS and self.rng.random() < (0.07 if request == "grayscale" else 0.16)
        words, slots, slots_zh = words_of(request)
        if self.rng.random() < 0.18:
            if complain:
                what = COMPLAINTS[request]
                filled = {"bad": what["bad_zh"], "mend": what["mend_zh"]}
                return self._in_context(self._fill(FRAMES["complaint"]["chinese"], filled))
            return self._in_context(self._chinese(self._fill(words["chinese"], slots_zh)))
        if complain:
            text = self._fill(FRAMES["complaint"]["english"], slots | COMPLAINTS[request])
        else:
            text = self._contrast(request) if self.rng.random() < 0.05 else self._english(request)
        return self._roughened(self._decorated(_tidy(text)))
