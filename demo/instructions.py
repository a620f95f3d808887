"""Sentences that ask for an edit: a grammar over `phrases`, with typos, fillers and other people's words.

`Speaker.say(request)` gives a fresh sentence. REQUESTS are the edits of one picture, the match with a
second one, and a square of every colour in every place. What none of them answers ("add a hat")
counts as "unchanged": an unknown instruction should leave the picture as it was.
"""

# ruff: noqa: E501

from __future__ import annotations

import re
from functools import cache

import numpy as np

from demo.edits import NAMES
from demo.phrases import (
    BORDER,
    COLOUR_WORDS,
    COMPLAINT_FRAMES,
    COMPLAINT_FRAMES_ZH,
    COMPLAINTS,
    CONTEXT,
    CONTEXT_AFTER,
    CONTEXT_AFTER_ZH,
    CONTEXT_ALONE,
    CONTEXT_ALONE_ZH,
    CONTEXT_BEFORE,
    CONTEXT_BEFORE_ZH,
    CONTEXT_ZH,
    OBJECTS,
    OBJECTS_ZH,
    PLACE_WORDS,
    SQUARE,
    TINT,
    WORDS,
    Words,
)
from demo.states import SQUARES

BE_FRAMES = (
    "make {o} {x}", "make {o} {x}", "make {o} {x}", "turn {o} {x}", "{x}", "{x} please", "i want {o} {x}",
    "{o} should be {x}", "{o} should look {x}", "make {o} look {x}", "let {o} look {x}", "render {o} {x}",
    "can you make {o} {x}?", "could you make {o} look {x}?", "i'd like {o} to be {x}", "show {o} {x}",
    "i would like to see {o} {x}", "have {o} look {x}", "an? {x} version of {o}", "get {o} {x}",
    "i need {o} {x}", "make {o} appear {x}", "how would {o} look {x}?", "i wish {o} was {x}",
    "please make {o} {x}", "set {o} to {x}", "{o} but {x}", "{o}, {x}", "edit {o} so that it is {x}",
    "make {o} feel {x}", "{o} must be {x}", "change {o} so it looks {x}", "{x} look", "{x} style",
    "why is {o} not {x}? make it so", "everything {x}", "do it {x}", "i prefer {o} {x}", "{x}, thanks",
    "(my boss|my sister|the client|grandma|my teacher) (wants|would like|needs) {o} to be {x}",
    "any chance of {o} being {x}?", "pls can u make {o} {x}", "i was hoping for {o} to look {x}",
    "{x} is (how i want|what i want) {o} to be", "{x} is how {o} should look",
)  # fmt: skip
DO_FRAMES = (
    "{x}", "{x}", "{x}", "{x}", "please {x}", "{x} please", "can you {x}?", "could you {x}?", "would you {x}?",
    "i want you to {x}", "i'd like you to {x}", "try to {x}", "go ahead and {x}", "just {x}", "now {x}",
    "let's {x}", "help me {x}", "your task is to {x}", "we need to {x}", "edit: {x}", "you should {x}",
    "i would like to {x}", "could you please {x}?", "kindly {x}", "i need you to {x}", "first {x}",
    "is it possible to {x}?", "{x} for me", "{x} now", "how do i {x}? do it", "{x}, thanks", "simply {x}",
    "i asked you to {x}", "the instruction is to {x}", "{x} in this picture", "would you mind: {x}",
    "any chance you could {x}?", "pls can u {x}", "would you be so kind as to {x}?", "kindly to {x}",
    "(my boss|my sister|the client|our teacher) (wants|asked|told) (you|me) to {x}", "i was hoping you could {x}",
    "do you think you could {x}?", "i'd be grateful if you could {x}", "would it be possible to {x}?",
)  # fmt: skip
GET_FRAMES = (
    "add {x}", "apply {x}", "apply {x} to {o}", "give {o} {x}", "i want {x}", "{x}", "{x} please", "use {x}",
    "put {x} on {o}", "with {x}", "how about {x}?", "create {x}", "i need {x}", "can i get {x}?",
    "could you add {x}?", "please add {x}", "i'd like {x}", "i would like {x} for {o}", "{o} with {x}",
    "let's add {x}", "make {x}", "try {x}", "go for {x}", "can you give {o} {x}?", "{o} needs {x}",
    "do {x} on {o}", "{o} could use {x}", "add {x} to {o}", "i'd love {x}", "let me have {x}", "bring {x}",
    "(my boss|my sister|the client|grandma) (wants|would like|asked for) {x}", "any chance of {x}?", "{x} is what i want",
)  # fmt: skip
SAY_FRAMES = ("{x}", "{x}", "{x}", "{x} please", "hi, {x}", "{x}, thanks", "well, {x}", "i think {x}")
ZH_FRAMES = ("{x}", "{x}", "请{x}", "请{x}", "帮我{x}", "麻烦{x}", "{x}吧", "{x}，谢谢", "请帮我{x}", "我想{x}",
             "我要{x}", "我希望{x}", "能不能{x}", "可以{x}吗", "{x}。", "{x}，其他不变", "现在{x}")  # fmt: skip
# Whole sentences and bare names of an effect stand in frames of their own.
SAY_FRAMES_ZH = ("{x}", "{x}", "{x}", "{x}。", "{x}，谢谢", "你好，{x}", "{x}！", "你看，{x}")
GET_FRAMES_ZH = (
    "{x}",
    "{x}",
    "来点{x}",
    "我想要{x}",
    "请加{x}",
    "要{x}",
    "{x}，谢谢",
    "帮我加上{x}",
    "能不能加{x}",
    "试试{x}",
)
_SAYING_ZH = re.compile(
    r"太|很|不够|有点|发灰|曝光不足|欠曝|过曝|曝光过度|[倒反]了|应该|需要|想要|不用|不要|：|^(图片|照片|这|图像|画面|整|它|我|像|不|别|什么|没有|你好|谢谢|和原图|更|看)"
)
_THING_ZH = re.compile(r"^[^变做加转改打用来把将让成给对]*(效果|滤镜|风格|氛围|感觉|色调|倒影)$")
KINDS = (0.25, 0.57, 0.70, 1.0)  # how often `be`, `do`, `get` and `say` are taken, cumulated
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
    "bicycle|train|child|baby|astronaut|helmet|flag|heart|circle|triangle|coffee|plate|bottle|painting"
)
_PLACES = "(on the left|on the right|in the corner|at the top|at the bottom|in the middle|in the background|next to the {n}|behind the {n}|on the {n}|in the sky|)"
UNKNOWN = (
    f"((add|put|draw|insert|place|paint|show|include|generate) (an? |an? |one |another |a small |a big |a funny |the ){{n}} {_PLACES}|(add|put|draw|insert|place|paint|show) (two|three|some|many) {{n}}s {_PLACES}|"
    "(remove|delete|erase|take away|get rid of|hide|cut out) the {n}|(replace|swap|exchange|substitute) the {n} (with|by|for) (an? |the |some ){n}|"
    "(change|turn|transform|convert|make) the {n} (into|to) an? {n}|(change|make|paint|colour|recolor) the {n} (to |)(red|blue|green|yellow|black|white|purple|pink|orange|brown|gray)|"
    "make the {n} (bigger|smaller|larger|taller|thinner|older|younger|happy|sad|smile|run|jump|wink|disappear|fly|move|a bit bigger)|make (him|her|them) (smile|look up|wave|laugh|look older|look younger|wear an? {n})|"
    "(write|type|print|add the text) (hello|happy birthday|sale|welcome|'love'|the word {n}|my name) (on the {n}|at the top|in big letters|)|(rotate|turn|tilt|spin) {o} (by |)(90|45|30|270|60|15|ninety|thirty|forty-five|a few) degrees( clockwise| counterclockwise| to the left| to the right||)|"
    "(rotate|turn|spin) {o} (by a quarter turn|a quarter turn|one quarter turn|by one quarter turn|by a single quarter turn|a quarter of the way round|once by 90 degrees|by half a right angle|by π/2|by three quarters of a turn|clockwise|counterclockwise|anticlockwise|to the left|to the right|sideways|by 90°|by -90°|by 270°|onto its side|into portrait orientation)|(tilt|lean|skew|straighten|slant|rotate) {o}( a bit| slightly| to one side| to the left| to the right|)|(a |one |)(quarter turn|90 degree rotation|45° rotation|90° turn|rotation by 90 degrees)( clockwise| to the left||)|"
    "(put|draw|add|place|paint|insert|make|create) (an? |one |two )(solid |filled |small |big ||)({c}|{c}|) (circle|triangle|star|heart|disc|dot|ring|line|arrow|cross|ball|oval|pentagon|moon|smiley|cat|ball|{n}) {p}|(put|draw|add|paint) (some |)({c}) (stripes|dots|lines|hearts|stars|circles|arrows|letters) ({p}|all over {o}|across {o})|an? {c} (circle|triangle|star|heart|disc|dot|ring|line|arrow|cross|oval) {p}|"
    "(put|draw|add) an? (brown|gray|cyan|beige|turquoise|golden|silver|transparent|striped) square {p}|(change|make|paint|colour|recolor|turn) the ({c} |)(square|circle|box|shape|block) (to |into |)({c}|a circle|a triangle|bigger|smaller|transparent|rounder|disappear|a bit bigger)|(remove|delete|erase|take away|get rid of|hide|cut out|move|enlarge|shrink|rotate|duplicate) the ({c} |)(square|circle|box|shape|block|triangle)( {p}||)|(replace|swap) the ({c} |)(square|circle|box) (with|by|for) an? ({n}|{c} circle|{c} one)|"
    "(crop|zoom|resize|enlarge|shrink|stretch|move|shift|cut) {o} (to the {n}|in half|a bit|to the left|to a square|)|"
    "(what|who|where) is (the {n}|in this picture|this|that)(?|)|how many {n}s are there(?|)|describe {o}|(change|replace) the background (to|with) (a|the) {n}|(put|place) the {n} (on|in|under|behind) (a|the) {n}|"
    "(turn|make) {o} into an? (cartoon|oil painting|watercolor|sketch|anime|comic|3d render|drawing|sculpture|lego set|van gogh painting|meme)|(in the style of|like) (van gogh|picasso|monet|anime|a cartoon|studio ghibli)|"
    "(open|close) the (eyes|door|window|mouth|book)|give (him|her|the {n}) an? {n}|dress (him|her|the {n}) (in|as) an? {n}|(combine|merge|blend|mix|join|stitch|overlay|fuse) (both|the two|these two|all the|the) (images|pictures|photos)( into one| side by side| together|)|"
    "(combine|merge|blend|mix|join|overlay|stitch) (picture|image) (1|one) (with|and) (picture|image) (2|two)|(put|place|show|arrange|lay) (both|the two|these two) (images|pictures|photos) (side by side|next to each other|in a collage|above each other|in one frame)|(put|place|insert|paste|move|copy|add) the {n} (from|of|in) (picture|image|photo) (2|two) (into|in|on|to) (picture|image|photo) (1|one)|(put|place|insert|paste|move|copy|add) the {n} (from|of|in) the (second|other) (picture|image|photo) (into|in|to) (the first|this)( one|)|"
    "(inset|insert|paste|put|show|place) (picture 2|image 2|the second picture|the other photo) {p}|use (picture 2|image 2|the second picture|the other photo) as (the |a )(background|texture|frame|sky)|(give|let) the {n} in (picture|image) 1 (wear|have|hold) the {n} (of|from|in) (picture|image) 2|(swap|exchange) the (faces|heads|backgrounds|people|skies) (of|in) (the two|both) (pictures|images)|(make|create) a collage( of both pictures|)|(use|take|copy) the (pose|face|background|layout|composition|text|hairstyle|clothes) (of|from|in) (picture|image) 2|"
    "make it (rain|snow|look like an? {n})|(the|a|my) {n} (is|looks) (nice|funny|sad|big|small)|"
    "(solarize|emboss|stylize|animate|vectorize|upscale|denoise|colorize) {o}|{n}|{n} {n}|i like {n}s|(tell|sing|read) me (a|the) (story|song|joke|news)|remove the (noise|wrinkles|people|text|background|watermark|shadow))"
)
_THE_SHAPE = "(the|that|this|the|that|my) ({c} |solid |small |big ||||)(square|square|box|box|block|shape|patch|tile|rectangle|circle|triangle|{n})"
# A shape that is already there, with its place: nothing here takes it away, recolours or moves it.
UNKNOWN_SHAPES = (
    f"((remove|delete|erase|take away|get rid of|hide|cut out|wipe out|clear|clear away|drop|eliminate|discard|rub out|take out|clean up|retouch|undo|lose|scrap) {_THE_SHAPE} {{p}}|"
    f"(remove|delete|erase|take away|get rid of|take out|hide) {_THE_SHAPE} (that is|which is|sitting|you put|i see) {{p}}|make {_THE_SHAPE} {{p}} (disappear|go away|vanish|invisible|transparent|bigger|smaller|larger|rounder|wider|a circle|{{c}}|{{c}})|"
    f"(recolour|recolor|repaint|paint|change|turn|dye|colour|color|switch|make) {_THE_SHAPE} {{p}} (to |into |in |){{c}}|(change|swap|alter|modify) the (color|colour) of {_THE_SHAPE} {{p}}( to {{c}}| into {{c}}|)|"
    f"(move|shift|drag|slide|push|bring|carry|relocate|pull|shove) {_THE_SHAPE} ({{p}}|from {{p}} to the other side|{{p}} (a bit |)(to the left|to the right|up|down|further out|somewhere else|away))|"
    f"(enlarge|shrink|scale up|scale down|rotate|tilt|duplicate|copy|resize|outline|stretch|spin|round off|select|crop) {_THE_SHAPE} {{p}}|(replace|swap|exchange|substitute) {_THE_SHAPE} {{p}} (with|by|for) an? ({{n}}|{{c}} one|circle|triangle|{{c}} circle)|"
    f"(i don't want|i no longer want|i don't like|i hate|what is|why is there|who put) {_THE_SHAPE} {{p}}|there (should be no|shouldn't be any) ({{c}} |)(square|box|block|shape) {{p}}|(no|without the|minus the) ({{c}} |)(square|box|block|shape|patch) {{p}}|"
    f"{_THE_SHAPE} {{p}} (should|must|has to|needs to) (go|go away|disappear|be gone|be removed|be deleted|be {{c}}|move|be bigger|be smaller|be moved)|{_THE_SHAPE} {{p}} (is too big|is ugly|is in the way|bothers me|is distracting)(, remove it|, take it out|, delete it|)|{{p}} there is an? ({{c}} |)(square|box|block|shape), (remove it|delete it|take it away|move it|recolor it|make it {{c}}))"
)
UNKNOWN_SHAPES_ZH = (
    "((删除|去掉|移除|擦掉|抹掉|清除|移动|放大|缩小|旋转|隐藏|复制)({o}|){p}的(那个|这个|)({c}的|)(方块|正方形|圆圈|色块|形状|盒子)|(把|将)({o}|){p}的(那个|)({c}的|)(方块|正方形|圆圈|色块|形状)(删掉|去掉|擦掉|移走|拿走|变成{c}|改成{c}|涂成{c}|换成{c}|移到{p}|变大|变小|换个颜色|变成圆形|放大|缩小)|"
    "{p}的(那个|)({c}的|)(方块|正方形|色块|圆圈)(不要了|应该消失|太大了|很难看|应该是{c}|应该去掉)|(不要|别要){p}的(那个|)(方块|正方形|色块)|改变{p}的(方块|正方形|色块)的颜色)"
)
UNKNOWN_ZH = (
    "((在|给)(左边|右边|天空|桌子上|背景里|它|上面)(加|添加|画|放)(一个|一只|一棵|一朵|两个)(猫|狗|帽子|树|花|月亮|太阳|人|汽车|房子|气球|眼镜)|(删除|去掉|移除|抹掉|擦掉)(背景|路人|水印|文字|人|猫|汽车|杂物|那个人)|"
    "(把|将)(天空|背景|衣服|头发|猫|狗|汽车)(换成|变成|改成)(夜晚|海滩|机器人|红色|蓝色|老虎|森林|雪山)|(裁剪|放大|缩小|拉伸|倾斜)({o}|)|(把|将|){o}(顺时针|逆时针|向左|向右|)(旋转|转)(90度|45度|九十度|四十五度|270度|30度|四分之一圈)|(写上|加上)(文字|你好|生日快乐)|让(他|她|猫)(笑|跑|睁开眼睛|戴上帽子)|这是什么|图里有什么|(变成|画成)(卡通|油画|动漫|素描|水彩)(风格|)|"
    "(在|)({o}的|){p}(画|加|放)(一个|个)({c})(的|)(圆|圆圈|圆形|三角形|星星|爱心|箭头|圆点)|(画|加上)(一些|几条){c}(条纹|线条|圆点)|(去掉|删除|移动|放大)(那个|)({c}的|{c}|)(方块|正方形|圆圈)|(把|将)({c}|)(方块|正方形)(变大|变成{c}|变成圆形|缩小|改成{c})|(合并|拼接|融合|叠加)(两张图|这两张照片|图1和图2)|(把|将)(图2|第二张图)(里|中)?的(人|猫|狗|衣服|背景)(放到|放进|移到|换到)(图1|第一张图)(里|中|)|(把|将|)(两张图|这两张照片)(并排|左右)(放|摆放|拼在一起)|用(图2|第二张图)(做|当)(背景|天空))"
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


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r" +(?=[,:])", "", text)).strip()
    return re.sub(r"\b([a-z]{2,})( \1)+\b", r"\1", text)  # "please please"


def _tidy_zh(text: str) -> str:
    return re.sub(r"(色|通道|一点|一些|一下|颜色|色彩)\1+", r"\1", text).rstrip("，")


Slots = dict[str, str]  # the pattern behind each letter in braces

_ANY_COLOUR, _ANY_PLACE = (
    tuple(f"({'|'.join(pair[language] for pair in words.values())})" for language in (0, 1))
    for words in (COLOUR_WORDS, PLACE_WORDS)
)
ANYTHING: Slots = {"o": OBJECTS, "n": f"({NOUNS})", "c": _ANY_COLOUR[0], "p": _ANY_PLACE[0]}
ANYTHING_ZH: Slots = {"o": OBJECTS_ZH, "c": _ANY_COLOUR[1], "p": _ANY_PLACE[1]}


@cache
def words_of(request: str) -> tuple[Words, Slots, Slots]:
    """The building blocks of a request, and what fills their slots in English and in Chinese."""
    kind, _, rest = request.partition("_")
    english, chinese = {"o": OBJECTS}, {"o": OBJECTS_ZH}
    if kind not in ("border", "tint", "square"):
        return WORDS[request], english, chinese
    colour, _, place = rest.partition("_")
    english["c"], chinese["c"] = COLOUR_WORDS[colour]
    if place:
        english["p"], chinese["p"] = PLACE_WORDS[place]
    return {"border": BORDER, "tint": TINT, "square": SQUARE}[kind], english, chinese


class Speaker:
    """Says things at random, from a seed."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def _choose(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.random() * len(options))]

    def expand(self, pattern: str) -> str:
        pieces = _parse(pattern)
        return "".join(p if isinstance(p, str) else self.expand(self._choose(p)) for p in pieces)

    def _fill(self, pattern: str, slots: Slots) -> str:
        text = self.expand(pattern)
        while "{" in text:
            text = re.sub(r"\{(\w)\}", lambda found: self.expand(slots[found[1]]), text)
        return re.sub(r"\b([Aa])n\? +(?=(.))", lambda found: found[1] + ("n " if found[2] in "aeiou" else " "), text)

    def _chinese(self, request: str) -> str:
        words, _, slots = words_of(request)
        return self._framed_zh(self._fill(words.chinese, slots))

    def _framed_zh(self, core: str) -> str:
        core = _tidy_zh(core)
        saying, thing = _SAYING_ZH.search(core), _THING_ZH.match(core)
        frames = SAY_FRAMES_ZH if saying else GET_FRAMES_ZH if thing else ZH_FRAMES
        return self._choose(frames).replace("{x}", core)

    def _english(self, request: str) -> str:
        words, slots, _ = words_of(request)
        kind = np.searchsorted(KINDS, self.rng.uniform(0 if words.be else KINDS[0], 1))
        pattern = (words.be, words.do, words.get, words.say)[kind]
        frames = (BE_FRAMES, DO_FRAMES, GET_FRAMES, SAY_FRAMES)[kind]
        core = self._fill(pattern, slots).strip()
        return self._fill(self._choose(frames).replace("{x}", core), slots)

    def _complaint(self, request: str, chinese: bool) -> str:
        """What is wrong, in the words of the opposite edit: "it is far too dark, do something"."""
        what = COMPLAINTS[request]
        if chinese:
            return self._fill(self._choose(COMPLAINT_FRAMES_ZH), {"b": what.bad_zh, "m": what.mend_zh})
        slots = {"o": OBJECTS, "b": what.bad, "g": what.good, "m": what.mend}
        return self._fill(self._choose(COMPLAINT_FRAMES), slots)

    def _contrast_clause(self, request: str) -> str:
        """A sentence that also holds another edit's words, and denies them."""
        other = self._choose(NAMES[1:])
        (mine, slots, _), (theirs, their_slots, _) = words_of(request), words_of(other)
        if other == request or not mine.be:
            return self._english(request)
        want, deny = self._fill(mine.be, slots), self._fill(theirs.be, their_slots)
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
        other = self._choose(tuple(SQUARES) if self.rng.random() < 0.15 else (*NAMES[1:], "match_colors"))
        words, slots, _ = words_of(other)
        start = self._choose(("do not ", "don't ", "please don't ", "never ", "you must not "))
        return start + self._fill(words.do, slots)

    def _unknown(self) -> str:
        chance = self.rng.random()
        if chance < 0.15:
            pattern = UNKNOWN_SHAPES_ZH if self.rng.random() < 0.3 else UNKNOWN_ZH
            return self._framed_zh(self._fill(pattern, ANYTHING_ZH))
        if chance < 0.22:
            letters = list("abcdefghijklmnopqrstuvwxyz      0123456789")
            return "".join(self.rng.choice(letters, int(self.rng.integers(1, 30))))
        shape = chance < 0.36
        frames = (*DO_FRAMES[:8], *SAY_FRAMES) if shape else DO_FRAMES
        core = self._fill(UNKNOWN_SHAPES if shape else UNKNOWN, ANYTHING).strip()
        return self.expand(self._choose(frames)).replace("{x}", core).replace("{o}", "it")

    def _around(self, text: str) -> str:
        """The circumstances of a command: what it is for, why, where the picture came from, small talk."""
        chinese = any("\u4e00" <= letter <= "\u9fff" for letter in text)
        if self.rng.random() > (0.35 if chinese else 0.45):
            return text
        before, after, slots = (
            (CONTEXT_BEFORE_ZH, CONTEXT_AFTER_ZH, CONTEXT_ZH) if chinese else (CONTEXT_BEFORE, CONTEXT_AFTER, CONTEXT)
        )
        where = self.rng.random()
        if where < 0.55:
            text = _tidy(self._fill(before, slots)) + ("" if chinese else " ") + text
        if where > 0.45:
            text = text.rstrip("?!. 。！") + self._spaced(self._fill(after, slots))
        return text

    def _spaced(self, text: str) -> str:
        return " " * text.startswith(" ") + _tidy(text)

    def _alone(self) -> str:
        """Circumstances without any command."""
        if self.rng.random() < 0.2:
            return self._fill(CONTEXT_ALONE_ZH, CONTEXT_ZH)
        return self._fill(CONTEXT_ALONE, CONTEXT)

    def _decorate(self, text: str) -> str:
        text = self._around(text)
        if any("\u4e00" <= letter <= "\u9fff" for letter in text):
            return text
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
        if kind < 0.2:
            text = self._around(self._refusal())
        else:
            text = self._alone() if kind < 0.335 else self._decorate(self._unknown())
        return self._roughen(_tidy(text) or text)

    def say(self, request: str) -> str:
        """A fresh sentence that asks for one of `states.REQUESTS`."""
        if request == "unchanged" and self.rng.random() < 0.6:
            return self._nothing()
        complain = request in COMPLAINTS and self.rng.random() < (0.07 if request == "grayscale" else 0.16)
        if self.rng.random() < 0.18:
            return self._around(self._complaint(request, chinese=True) if complain else self._chinese(request))
        if complain:
            text = self._complaint(request, chinese=False)
        else:
            text = self._contrast_clause(request) if self.rng.random() < 0.05 else self._english(request)
        return self._roughen(self._decorate(_tidy(text)))
