"""Sentences that ask for an edit: a grammar over `phrases`, with typos, fillers and other people's words.

`Speaker.say(edit)` gives a fresh sentence. Requests that no edit answers ("add a hat") count as
"unchanged": an unknown instruction should leave the picture as it was.
"""

# ruff: noqa: E501

from __future__ import annotations

import re
from functools import cache

import numpy as np

from demo.edits import NAMES
from demo.phrases import BORDER, COLOUR_WORDS, OBJECTS, OBJECTS_ZH, TINT, WORDS, Words

BE_FRAMES = (
    "make {o} {x}", "make {o} {x}", "make {o} {x}", "turn {o} {x}", "{x}", "{x} please", "i want {o} {x}",
    "{o} should be {x}", "{o} should look {x}", "make {o} look {x}", "let {o} look {x}", "render {o} {x}",
    "can you make {o} {x}?", "could you make {o} look {x}?", "i'd like {o} to be {x}", "show {o} {x}",
    "i would like to see {o} {x}", "have {o} look {x}", "a {x} version of {o}", "get {o} {x}",
    "i need {o} {x}", "make {o} appear {x}", "how would {o} look {x}?", "i wish {o} was {x}",
    "please make {o} {x}", "set {o} to {x}", "{o} but {x}", "{o}, {x}", "edit {o} so that it is {x}",
    "make {o} feel {x}", "{o} must be {x}", "change {o} so it looks {x}", "{x} look", "{x} style",
    "why is {o} not {x}? make it so", "everything {x}", "do it {x}", "i prefer {o} {x}", "{x}, thanks",
)  # fmt: skip
DO_FRAMES = (
    "{x}", "{x}", "{x}", "{x}", "please {x}", "{x} please", "can you {x}?", "could you {x}?", "would you {x}?",
    "i want you to {x}", "i'd like you to {x}", "try to {x}", "go ahead and {x}", "just {x}", "now {x}",
    "let's {x}", "help me {x}", "your task is to {x}", "we need to {x}", "edit: {x}", "you should {x}",
    "i would like to {x}", "could you please {x}?", "kindly {x}", "i need you to {x}", "first {x}",
    "is it possible to {x}?", "{x} for me", "{x} now", "how do i {x}? do it", "{x}, thanks", "simply {x}",
    "i asked you to {x}", "the instruction is to {x}", "{x} in this picture", "would you mind: {x}",
)  # fmt: skip
GET_FRAMES = (
    "add {x}", "apply {x}", "apply {x} to {o}", "give {o} {x}", "i want {x}", "{x}", "{x} please", "use {x}",
    "put {x} on {o}", "with {x}", "how about {x}?", "create {x}", "i need {x}", "can i get {x}?",
    "could you add {x}?", "please add {x}", "i'd like {x}", "i would like {x} for {o}", "{o} with {x}",
    "let's add {x}", "make {x}", "try {x}", "go for {x}", "can you give {o} {x}?", "{o} needs {x}",
    "do {x} on {o}", "{o} could use {x}", "add {x} to {o}", "i'd love {x}", "let me have {x}", "bring {x}",
)  # fmt: skip
SAY_FRAMES = ("{x}", "{x}", "{x}", "{x} please", "hi, {x}", "{x}, thanks", "well, {x}", "i think {x}")
ZH_FRAMES = ("{x}", "{x}", "请{x}", "请{x}", "帮我{x}", "麻烦{x}", "{x}吧", "{x}，谢谢", "请帮我{x}", "我想{x}",
             "我要{x}", "我希望{x}", "能不能{x}", "可以{x}吗", "{x}。", "{x}，其他不变", "现在{x}", "{x}一下")  # fmt: skip
OPENINGS = (
    "hi, ", "hello! ", "ok, ", "here is my photo. ", "this is a picture of my cat. ", "nice shot. ", "hey, ",
    "for my website: ", "quick edit: ", "this was taken yesterday. ", "picture 1: ", "in this image, ",
    "thanks! next, ", "i took this on holiday. ", "one more thing: ", "as a professional editor, ",
)  # fmt: skip
ENDINGS = (
    ", keep everything else the same", " without changing anything else", " and keep the composition",
    ", but keep the details", ", nothing else", " for my blog", " if you can", ", that's all", " a little bit",
    " a lot", " slightly", " and nothing more", ". don't crop it", ", keep the subject", ", as much as possible",
    " while keeping the faces", ". the rest stays", " for a poster", " as soon as possible", ", i beg you",
    " in a natural way", ", would you", ", dear", ". thank you so much", " overall", " everywhere", ", honestly",
)  # fmt: skip
NOUNS = (
    "cat|dog|hat|car|tree|person|man|woman|sky|house|background|flower|cup|table|bird|moon|sun|cloud|river|"
    "mountain|horse|robot|spoon|book|chair|shirt|dress|hair|face|eye|hand|text|logo|watermark|sign|window|door|"
    "street|boat|plane|rocket|balloon|cake|apple|banana|sunglasses|beard|smile|crown|sword|dragon|castle|beach|"
    "forest|city|road|bridge|lamp|phone|laptop|guitar|ball|fish|butterfly|rainbow|star|fire|rose|snowman|umbrella|"
    "bicycle|train|child|baby|astronaut|helmet|flag|heart|circle|square|triangle|coffee|plate|bottle|painting"
)
_PLACES = "(on the left|on the right|in the corner|at the top|at the bottom|in the middle|in the background|next to the {n}|behind the {n}|on the {n}|in the sky|)"
UNKNOWN = (
    f"((add|put|draw|insert|place|paint|show|include|generate) (a|an|one|two|three|some|another|a small|a big|a funny) {{n}}s? {_PLACES}|"
    "(remove|delete|erase|take away|get rid of|hide|cut out) the {n}|(replace|swap|exchange|substitute) the {n} (with|by|for) (a|an|the|some) {n}|"
    "(change|turn|transform|convert|make) the {n} (into|to) (a|an) {n}|(change|make|paint|colour|recolor) the {n} (to |)(red|blue|green|yellow|black|white|purple|pink|orange|brown|gray)|"
    "make the {n} (bigger|smaller|larger|taller|thinner|older|younger|happy|sad|smile|run|jump|wink|disappear|fly|move|a bit bigger)|make (him|her|them) (smile|look up|wave|laugh|older|younger|wear a {n})|"
    "(write|type|print|add the text) (hello|happy birthday|sale|welcome|'love'|the word {n}|my name) (on the {n}|at the top|in big letters|)|(rotate|turn|tilt|spin) {o} (by |)(90|180|45|ninety|thirty|) degrees|"
    "(flip|mirror|reverse) {o} (horizontally|vertically|upside down|left to right|)|(crop|zoom|resize|enlarge|shrink|stretch|move|shift|cut) {o} (to the {n}|in half|a bit|to the left|to a square|)|"
    "(what|who|where) is (the {n}|in this picture|this|that)\\??|how many {n}s are there\\??|describe {o}|(change|replace) the background (to|with) (a|the) {n}|(put|place) the {n} (on|in|under|behind) (a|the) {n}|"
    "(turn|make) {o} into (a|an) (cartoon|oil painting|watercolor|sketch|anime|comic|3d render|drawing|poster|sculpture|lego set|van gogh painting|meme)|(in the style of|like) (van gogh|picasso|monet|anime|a cartoon|studio ghibli)|"
    "(open|close) the (eyes|door|window|mouth|book)|(give|dress) (him|her|the {n}) (in |)(a|an) {n}|(combine|merge|blend) (both|the two) (images|pictures)|make it (rain|snow|look like a {n})|(the|a|my) {n} (is|looks) (nice|funny|sad|big|small)|"
    "(posterize|solarize|emboss|stylize|animate|vectorize|upscale|denoise|colorize) {o}|{n}|{n} {n}|i like {n}s|(tell|sing|read) me (a|the) (story|song|joke|news)|remove the (noise|wrinkles|people|text|background|watermark|shadow))"
)
UNKNOWN_ZH = (
    "((在|给)(左边|右边|天空|桌子上|背景里|它|上面)(加|添加|画|放)(一个|一只|一棵|一朵|两个)(猫|狗|帽子|树|花|月亮|太阳|人|汽车|房子|气球|眼镜)|(删除|去掉|移除|抹掉|擦掉)(背景|路人|水印|文字|人|猫|汽车|杂物|那个人)|"
    "(把|将)(天空|背景|衣服|头发|猫|狗|汽车)(换成|变成|改成)(夜晚|海滩|机器人|红色|蓝色|老虎|森林|雪山)|(旋转|翻转|镜像|裁剪|放大|缩小)({o}|)|(写上|加上)(文字|你好|生日快乐)|让(他|她|猫)(笑|跑|睁开眼睛|戴上帽子)|这是什么|图里有什么|(变成|画成)(卡通|油画|动漫|素描|水彩)(风格|))"
)


def _split(body: str) -> list[str]:
    """Split at the top-level bars of `a|(b|c)|d`."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(body):
        depth += (letter == "(") - (letter == ")")
        if letter == "|" and depth == 0:
            parts.append(body[start:i])
            start = i + 1
    return [*parts, body[start:]]


@cache
def _parse(pattern: str) -> tuple[str | tuple[str, ...], ...]:
    """Literal pieces and choices of a pattern, in order."""
    pieces: list[str | tuple[str, ...]] = []
    i = 0
    while i < len(pattern):
        if pattern[i] != "(":
            end = pattern.find("(", i)
            end = len(pattern) if end < 0 else end
            pieces.append(pattern[i:end])
        else:
            depth, end = 1, i + 1
            while depth:
                depth += (pattern[end] == "(") - (pattern[end] == ")")
                end += 1
            options = _split(pattern[i + 1 : end - 1])
            if pattern[end : end + 1] == "?":
                options, end = [*options, ""], end + 1
            pieces.append(tuple(options))
        i = end
    return tuple(pieces)


def words_of(edit: str) -> tuple[Words, tuple[str, str]]:
    """The building blocks of an edit and its colour words, English and Chinese."""
    kind, _, colour = edit.partition("_")
    if kind in ("border", "tint"):
        return (BORDER if kind == "border" else TINT), COLOUR_WORDS[colour]
    return WORDS[edit], ("", "")


class Speaker:
    """Says things at random, from a seed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def _choose(self, options: tuple[str, ...]) -> str:
        return options[self.rng.integers(len(options))]

    def expand(self, pattern: str) -> str:
        pieces = _parse(pattern)
        return "".join(p if isinstance(p, str) else self.expand(self._choose(p)) for p in pieces)

    def _fill(self, pattern: str, colour: str, objects: str = OBJECTS) -> str:
        text = self.expand(pattern)
        while "{" in text:
            name, words = ("{o}", objects) if "{o}" in text else ("{c}", colour)
            if "{n}" in text:
                name, words = "{n}", f"({NOUNS})"
            text = text.replace(name, self.expand(words), 1)
        return text.replace("an? ", self._choose(("a ", "an ")))

    def _chinese(self, edit: str) -> str:
        words, (_, colour) = words_of(edit)
        core = self._fill(words.chinese, colour, OBJECTS_ZH)
        return self._choose(ZH_FRAMES).replace("{x}", core)

    def _english(self, edit: str) -> str:
        words, (colour, _) = words_of(edit)
        kind = self.rng.choice(4, p=[0.25, 0.32, 0.13, 0.30])
        pattern = (words.be, words.do, words.get, words.say)[kind]
        frames = (BE_FRAMES, DO_FRAMES, GET_FRAMES, SAY_FRAMES)[kind]
        core = self._fill(pattern, colour).strip()
        return self._fill(self._choose(frames).replace("{x}", core), colour)

    def _contrast_clause(self, edit: str) -> str:
        """A sentence that also holds another edit's words, and denies them."""
        other = self._choose(NAMES[1:])
        if other == edit:
            return self._english(edit)
        (mine, (my_colour, _)), (theirs, (their_colour, _)) = words_of(edit), words_of(other)
        want, deny = self._fill(mine.be, my_colour), self._fill(theirs.be, their_colour)
        shape = self._choose(
            (
                "make it {w}, not {d}",
                "not {d} but {w}",
                "i don't want it {d}, i want it {w}",
                "don't make it {d}, make it {w}",
                "{w} instead of {d}",
                "it should be {w} rather than {d}",
                "it is {d} but should be {w}",
            )
        )
        return shape.replace("{w}", want).replace("{d}", deny)

    def _refusal(self) -> str:
        other = self._choose(NAMES[1:])
        words, (colour, _) = words_of(other)
        start = self._choose(("do not ", "don't ", "please don't ", "never ", "you must not "))
        return start + self._fill(words.do, colour)

    def _unknown(self) -> str:
        chance = self.rng.random()
        if chance < 0.15:
            return self._choose(ZH_FRAMES).replace("{x}", self._fill(UNKNOWN_ZH, "", OBJECTS_ZH))
        if chance < 0.22:
            letters = list("abcdefghijklmnopqrstuvwxyz      0123456789")
            return "".join(self.rng.choice(letters, int(self.rng.integers(1, 30))))
        return self._choose(DO_FRAMES).replace("{x}", self._fill(UNKNOWN, "").strip())

    def _decorate(self, text: str) -> str:
        if self.rng.random() < 0.12:
            text = self._choose(OPENINGS) + text
        if self.rng.random() < 0.15:
            text = text.rstrip("?!. ") + self._choose(ENDINGS)
        return text

    def _roughen(self, text: str) -> str:
        """Typos, lost words, and the many ways people use capitals and full stops."""
        if self.rng.random() < 0.06 and text.count(" ") > 3:
            words = text.split(" ")
            small = [i for i, w in enumerate(words) if w in ("the", "a", "an", "it", "to", "of", "in", "this")]
            if small:
                del words[self._pick(small)]
            text = " ".join(words)
        if self.rng.random() < 0.12 and len(text) > 4:
            i = int(self.rng.integers(1, len(text) - 1))
            kind = self.rng.integers(3)
            text = (
                text[:i] + text[i + 1 :],
                text[:i] + text[i + 1] + text[i] + text[i + 2 :],
                text[:i] + text[i] + text[i:],
            )[kind]
        style = self.rng.random()
        if style < 0.55:
            text = text[:1].upper() + text[1:]
        elif style < 0.58:
            text = text.upper()
        if text[-1:] not in "?!.。" and self.rng.random() < 0.45:
            text += self._choose((".", ".", ".", "!", "!!", " .", "..."))
        return text

    def _pick(self, items: list[int]) -> int:
        return items[self.rng.integers(len(items))]

    def _nothing(self) -> str:
        """A sentence that asks for nothing we know: strange requests, refusals, an empty prompt."""
        kind = self.rng.random()
        if kind < 0.07:
            return " "
        text = self._refusal() if kind < 0.2 else self._decorate(self._unknown())
        return self._roughen(text)

    def say(self, edit: str) -> str:
        """A fresh sentence that asks for the edit."""
        if edit == "unchanged" and self.rng.random() < 0.6:
            return self._nothing()
        if self.rng.random() < 0.18:
            return self._chinese(edit)
        text = self._contrast_clause(edit) if self.rng.random() < 0.05 else self._english(edit)
        text = re.sub(r"\s+", " ", text.replace(" ,", ",")).strip()
        return self._roughen(self._decorate(text))
