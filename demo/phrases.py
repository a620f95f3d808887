"""What the grammar is made of: the words for each edit, in English and Chinese.

`(a|b)` is a choice, `{o}` a name for the picture, `{c}` the colour of a border, tint or square, `{p}`
the place of a square, and `an? ` the article that the next word needs. This module is data only;
`instructions` builds sentences from it.
"""

# ruff: noqa: E501

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """Building blocks for one edit. A `be` may be missing, where no adjective fits."""

    be: str  # "make it ...": adjectives and looks
    do: str  # "...": verb phrases
    get: str  # "add ...": noun phrases
    say: str  # whole sentences, complaints among them
    chinese: str  # whole sentences


OBJECTS = (
    "(it|this|it|the (image|picture|photo|photograph|shot|pic|scene)|"
    "this (image|picture|photo|photograph|shot|pic)|my (photo|picture|image)|"
    "the (whole|entire) (image|picture|photo|thing)|everything)"
)
OBJECTS_ZH = "(图片|照片|这张图|这张照片|图像|画面|整张图|它|这个)"

_BE_COLOUR_LOSS = (
    "(black and white|black & white|b&w|bw|grayscale|greyscale|gray scale|monochrome|monochromatic|"
    "colorless|colourless|gray|grey|desaturated completely|completely gray|without (color|colour|colors)|"
    "noir|like an old (black and white|monochrome) (movie|film|photo|TV show|newspaper)|free of color|"
    "in shades of (gray|grey)|in (black and white|grayscale|monochrome))"
)

# Colour temperature goes to warmer and cooler, whatever colour it is moved towards; a tint lies over the picture.
_TEMPERATURE = (
    "(shift|move|push|pull|slide|nudge|change|set|adjust|tilt|drag|steer|drift|swing|turn|bring) (the |the |the |)(white balance|white balance|color temperature|colour temperature|temperature|"
    "tones|tone|hues|colors|colours|palette|balance|color balance|kelvin value|temperature slider)( of {o}| in {o}| a bit| slightly|||) (to|towards|toward|into|in the direction of|over to|closer to) "
)
_TO_WARM = "(the |a |)(warm|warmer|golden|amber|orange|yellow-orange|yellow and orange|orange and yellow|yellow|red and yellow|sunset|candlelight|reddish|honey)( side| tones| end| setting| hues| region|||)"
_TO_COLD = "(the |a |)(cold|cool|cooler|colder|icy|blue|bluish|blue and cold|cold blue|cool blue|bluer|cyan|blue and cyan|blue-cyan|steel blue|winter|arctic)( side| tones| end| setting| hues| region|||)"

_SECOND = (
    "(the (second|second|other|2nd|reference|last) (image|picture|photo|one|shot)|(picture|image|photo|pic) (2|2|2|two)|"
    "the (picture|image|photo) (number 2|i added|next to it))"
)
_FIRST = "({o}|(picture|image|photo|pic) (1|1|one)|the first (image|picture|photo|one))"
_PALETTE = (
    "(colors|colours|colors|colours|palette|color palette|colour palette|tones|tone|mood|color mood|color scheme|colour scheme|color grading|"
    "colour grading|hues|color tone|colour tone|atmosphere|average color|color balance|colour balance|overall color)"
)
_SECOND_ZH = "(图2|图2|图二|第二张图|第二张图片|第二张照片|另一张图|另一张照片|参考图|后一张图)"
_FIRST_ZH = "(图1|图一|第一张图|第一张照片|这张图|它|原图|这张照片)"
_PALETTE_ZH = "(色调|颜色|色彩|配色|色调|调色|色系|整体色调|氛围|色彩风格)"

WORDS: dict[str, Words] = {
    "unchanged": Words(
        be="(unchanged|the same|untouched|exactly as it is|as is|just like before|identical|unedited|unmodified)",
        do="(leave {o} (alone|as is|as it is|unchanged|untouched|like that|the way it is)|"
        "keep {o} (as is|as it is|the same|unchanged|untouched|exactly like this|the way it is)|"
        "do nothing|do nothing (at all|to {o})|change nothing|make no (changes|edits|change|modification)|"
        "return {o} (unchanged|as is|untouched|without changes)|"
        "(give|hand|send) (me )?back (the (original|same|input)|{o})( image| picture)?|"
        "(copy|reproduce|repeat|output) (the (input|original)|{o})( exactly| as is)?|preserve {o}|"
        "skip (this|the edit|editing)|ignore this)",
        get="(no (change|changes|edit|edits|modification|effect|filter)|nothing|the (original|same|input) (image|picture|photo)|"
        "an exact copy|the unedited version)",
        say="(do not (change|edit|touch|modify|alter) (anything|{o}|a thing)|don't (change|edit|touch|modify|alter|do) (anything|{o}|a thing)|"
        "nothing (needs to be|should be|has to be) (changed|done|edited)|{o} (is|looks) (fine|good|perfect|great) (as it is|already|like this|the way it is)|"
        "(no|without) (changes|edits|editing|modifications)( needed| required| please)?|i (like|love) {o} (as it is|already|the way it is)|"
        "nothing( at all)?|nope|same|as is|identity|original|no thanks|never mind|ok|hello|hi there|thank you|test|.|no op|noop)",
        chinese="(保持{o}(原样|不变|原状)|不要(改|改变|修改|编辑|动)({o}|任何东西|)|不(改|变|用改|需要修改)|什么(都|也)(别|不)(做|改|动)|"
        "(原样|直接)(输出|返回)({o}|)|{o}不用(改|动|处理)|维持原样|没有(修改|变化)|别动{o}|返回原图|和原图一样|你好|谢谢)",
    ),
    "grayscale": Words(
        be=_BE_COLOUR_LOSS,
        do="((convert|change|turn|switch|transform|render|print|redo) {o} (to|into|in) (black and white|black & white|b&w|grayscale|greyscale|"
        "gray|grey|monochrome|shades of (gray|grey)|gray (tones|scale|levels))|"
        "(remove|strip|drop|discard|delete|drain|take away|take out|eliminate|get rid of|kill|suck out|lose|bleach out|erase) "
        "(all |all of |every bit of )?(the |its )?(color|colour|colors|colours|hue|hues|chroma|color information)( from {o}| out of {o}| in {o}|)|"
        "desaturate {o}( completely| fully| entirely| totally)?|(decolorize|decolourise|grayscale|greyscale|monochrome|gray out|grey out) {o}|"
        "(keep|use|leave|show) only (the )?(gray|grey|luminance|brightness|black and white) (tones|values|levels|information|shades)?|"
        "set (the )?saturation to (zero|0|none|nothing|minus 100)|(remove|eliminate|strip|take away|take out|delete|kill|get rid of) all (the |of the |)saturation( from {o}| in {o}|)|(zero|zero out|null) (the |)saturation( of {o}|)|(take|bring) (the )?(saturation|color) (down |all the way )?to (zero|0|nothing))",
        get="(an? |)(black and white|black & white|b&w|grayscale|greyscale|monochrome|gray|grey|noir)( filter| effect| look| conversion| version| style| treatment| tone| tones)",
        say="({o} should (have|contain) no (color|colour|colors)|no (color|colour|colors)( please| at all)?|(no|zero|minus all) saturation( please| at all|)|saturation (zero|0|at zero|none)|i (only )?want (gray|grey) (tones|shades)( only)?|"
        "only (black|gray) and white (tones|shades|please)|{o} has too many colors, (remove them|i want none)|(show|imagine) {o} on a black and white (tv|television|screen)|"
        "like a (newspaper|charlie chaplin|silent|1930s|noir) (photo|movie|film|picture)|what would {o} look like without (color|colour|colors))",
        chinese="((把|将){o}(变成|转成|转换成|转为|变为|改成|做成|调成|弄成)(黑白|灰度|单色|灰色|黑白的|灰度图|黑白照片|黑白色|灰阶)|(去掉|去除|移除|删除|抽掉)(所有|全部|)(颜色|色彩|彩色)|"
        "(黑白|灰度|单色)(效果|化|滤镜|照片|风格|)|({o}|)(去色|黑白化|灰度化|变灰)|(我要|我想要|来一张)(黑白|灰度)(照片|图|的)|饱和度(降到|调到)(零|0|最低)|不要颜色|只保留(灰度|黑白))",
    ),
    "invert": Words(
        be="(inverted|negative|a negative|color inverted|colour inverted|like a (film |photo |photographic )?negative|like an x-ray|reversed in color|"
        "in (inverted|negative|opposite|complementary|reversed) (colors|colours|tones)|like the negative of (a|the) (photo|film))",
        do="(invert( the| all the| all|) (colors|colours|color|colour|tones|image|picture|photo|pixels|palette|rgb values|color values)( of {o}| in {o}|)|invert {o}|negate {o}|"
        "(reverse|flip|swap|switch|replace) (all |all the |the |the |)(colors|colours|tones|brightness values|pixel values)( of {o}|)( to (their|its|the) (opposite|opposites|complement|negative|inverse)| with (their|its) (opposite|opposites|complements)|)|"
        "(turn|convert|make|change|transform) {o} (into|to) (a|its|the) (film |photo |photographic |color )?(negative|inverse|inverted version)|"
        "(turn|make|change) (black|dark|dark areas|shadows|the darks|every dark spot) (to |into )?(white|light|bright) and (white|light|light areas|highlights|bright areas|the lights) (to |into )?(black|dark)|"
        "(exchange|swap|switch|interchange) (light|bright|white|the lights|bright areas) (and|with|for) (dark|black|the darks|dark areas)|"
        "give (each|every) (pixel|color|colour) its (opposite|complement|inverse|negative)|use the (complementary|opposite|inverse) (color|colour|colors|colours)( everywhere| of everything| for everything|))",
        get="(an? )?(negative|inverted|color inversion|colour inversion|inverse|inversion|photo negative|film negative|x-ray|complementary color|inverted color)( effect| filter| look| version| image)",
        say="(i want (the|a) (film |photo )?negative( of {o}|)|(black|dark) (becomes|should become|turns|to) (white|light) and (white|light) (becomes|should become|turns|to) (black|dark)|"
        "every (color|colour) (becomes|should become|turned into|to) its (opposite|complement)|opposite (colors|colours)( please|)|colors (inverted|reversed)|white to black, black to white|"
        "all the (colors|colours) (the other way round|reversed|swapped for their opposites))",
        chinese="(((把|将){o}(的|)|{o}(的|)|)(颜色|色彩)(反转|反相|反色|取反|颠倒|反过来)(一下|)|(把|将){o}(反相|反色|颜色取反)(一下|)|(反转|颠倒|反相|翻转)({o}|)(颜色|色彩|所有颜色|全部颜色)|(做成|变成|转成)(底片|负片|胶片底片|反色|反相)(效果|的样子|)|"
        "(负片|反色|底片|反相|颜色反转)(效果|滤镜|处理|)|(黑变白白变黑|黑白颠倒|明暗颠倒|亮的变暗暗的变亮)|(用|换成|变成)(互补色|相反的颜色|补色))",
    ),
    "brighter": Words(
        be="((much |a bit |a little |slightly |way |somewhat |noticeably |)(brighter|lighter|more (luminous|bright|light|lit|radiant|exposed|illuminated))|bright|better lit|well lit|less dark|less dim|less gloomy|not so dark)",
        do="((increase|raise|boost|up|turn up|crank up|push up|lift|bump up|improve|enhance|pump up|bring up|step up|add to) (the )?(brightness|exposure|lightness|luminance|light level|lighting|illumination|light|luminosity)( of {o}| in {o}| a bit| a little| level|)|"
        "(brighten|lighten|light up|illuminate|brighten up|lighten up|light) {o}( up| a bit| a little| some more|)|"
        "(add|shine|throw|pour|bring|let in|put in|use) (some |a bit |a little |much |)(more |extra |additional )(light|brightness|exposure|illumination|luminance|lighting)( on {o}| into {o}| to {o}|)|(add|shine|bring) (some |a bit of |a little |)(light|brightness|exposure)( on {o}| into {o}| to {o}|)|"
        "give {o} (some |a bit |a little |much |)(more |extra |additional |)(light|brightness|exposure|illumination|lighting)|"
        "(increase|raise|lift|bump|bump up|push up|pull up|boost|turn up|bring up|crank up|heighten|nudge up) (the |its |the |)(exposure|brightness|light|light level|overall exposure|overall brightness)( of {o}| in {o}| a bit| a little| by one stop| a stop| level|||)|"
        "(push|pull|bring|turn|lift|crank|move|dial|bump|slide) (the |)(exposure|brightness|light|brightness slider|light level)( of {o}|) (up|higher|upwards)( a bit| a notch| a stop||)|"
        "(overexpose|increase the gain of|expose) {o}( more| longer|)|(turn|switch) the (lights|light|lamp) on|turn on the (lights|light|lamps)|(lift|raise|open up|brighten|fill) the (shadows|dark areas|dark parts|midtones)|"
        "make {o} glow|let there be (more )?light|get rid of the (darkness|gloom))",
        get="(an? |)(brightness boost|more light|more brightness|more exposure|extra light|higher exposure|higher brightness|brighter (look|version|exposure|mood|lighting|tone|image|picture)|lighter (look|version|tone|image)|lightening|brightening|brightness increase)",
        say="({o} (is|looks|seems|came out|turned out|appears) (too|way too|a bit too|very|so|rather|pretty|quite) (dark|dim|gloomy|underexposed|murky|black|shadowy|dull and dark)( , (fix that|fix it|help|can you fix it|brighten it|give it more light|add light|make it lighter|lighten it)|)|"
        "{o} is underexposed|underexposed|i can (hardly|barely) see anything|(it|this) (needs|could use|lacks|wants|deserves) (more |some |additional |a bit more |)(light|brightness|exposure)|"
        "there is not enough (light|brightness)|not enough light|too dark|too dim|more (light|brightness|exposure|luminance)( please|)|brightness up|exposure up|plus brightness|as if (the sun came out|it was noon|it were midday|in bright daylight|someone turned on the light))",
        chinese="(((把|将){o}|{o}|)(调|变|弄|提|增|搞|变得)(亮|更亮|明亮)(一点|一些|点|些|)|(增加|提高|提升|加强|调高|加大|增强)({o}的|{o}|)(亮度|曝光|曝光度|光线|光亮|明度)|(让|使){o}(更|)(亮|明亮|亮堂)(一点|一些|些|)|"
        "{o}(太|有点|太过|过于|比较)(暗|黑|昏暗)了，(调亮|提亮|加点光|亮一点|亮一些|帮我调亮|弄亮一点|弄亮)|({o}|)(太暗|太黑|曝光不足|欠曝)了|提亮({o}|)|(加|多)(一点|点|一些|些)光|更亮|亮一点|变亮|调亮)",
    ),
    "darker": Words(
        be="((much |a bit |a little |slightly |way |somewhat |noticeably |)(darker|dimmer|less (bright|luminous|light|exposed|lit|glaring))|dark|dim|gloomy|not so bright|gloomier|moodier and darker)",
        do="((decrease|reduce|lower|cut|turn down|bring down|drop|diminish|tone down|dial down|take down|pull down|lessen|step down|halve|limit) (the )?(brightness|exposure|lightness|luminance|light level|lighting|illumination|light|luminosity|lights)( of {o}| in {o}| a bit| a little| level|)|"
        "(darken|dim|underexpose|black out a bit|shade) {o}( down| a bit| a little| some more|)|"
        "(remove|take away|take out|take off) (some |a bit of |a little |much |some of the |)(light|brightness|exposure|illumination)( from {o}|)|take (some |a bit of |a little |some of the |the |)(light|brightness|exposure) (from|out of|away from) {o}|(use|give {o}) (much |a bit |a little |)less (light|exposure|brightness|illumination)|"
        "(lower|reduce|cut|drop|pull down|decrease|bring down|turn down|push down|shrink|dial back|cut down|nudge down) (the |its |the |)(exposure|brightness|light|light level|overall exposure|overall brightness)( of {o}| in {o}| a bit| a little| by one stop| a stop| level|||)|"
        "(push|pull|bring|turn|drag|crank|move|dial|slide) (the |)(exposure|brightness|light|brightness slider|light level)( of {o}|) (down|lower|downwards)( a bit| a notch| a stop||)|"
        "(turn|switch) the (lights|light|lamp) (off|down|low)|turn (off|down) the (lights|light|lamps)|(darken|deepen|lower) the (whole|overall|entire) (image|tone|picture|exposure)|(bring|tone|dial) {o} down (in brightness|a stop|two stops)|"
        "(stop|close) down the (aperture|exposure|lens)|expose {o} less|get rid of the (glare|overexposure))",
        get="(an? |)(less light|less brightness|lower exposure|lower brightness|less exposure|darker (look|version|exposure|mood|lighting|tone|image|picture)|dimmer (look|version|light|tone)|darkening|dimming|brightness (cut|reduction|decrease)|night-like darkness)",
        say="({o} (is|looks|seems|came out|turned out|appears) (too|way too|a bit too|very|so|rather|pretty|quite) (bright|light|overexposed|blown out|glaring|dazzling|white|luminous)( , (fix that|fix it|help|can you fix it|darken it|dim it|take some light away|make it darker|tone it down)|)|"
        "{o} is overexposed|overexposed|the (light|brightness|glare|sun) (hurts|blinds me|hurts my eyes|is too (strong|much))|(it|this) (needs|could use|wants) (less|lower|a lower) (light|brightness|exposure)|"
        "there is too much (light|brightness|exposure)|too much light|too bright|too light|less (light|brightness|exposure|luminance)( please|)|brightness down|exposure down|minus brightness|as if (the sun went down|it was dusk|it were evening|at night|in the shade|someone turned off the light))",
        chinese="(((把|将){o}|{o}|)(调|变|弄|压|降|搞|变得)(暗|更暗|黑暗|昏暗)(一点|一些|点|些|)|(降低|减少|减小|调低|减弱|压低)({o}的|{o}|)(亮度|曝光|曝光度|光线|光亮|明度)|(让|使){o}(更|)(暗|昏暗|黑)(一点|一些|些|)|"
        "{o}(太|有点|太过|过于|比较)(亮|刺眼|白)了，(调暗|压暗|减点光|暗一点|暗一些|帮我调暗|弄暗一点|弄暗)|({o}|)(太亮|曝光过度|过曝)了|压暗({o}|)|(减|少)(一点|点|一些|些)光|更暗|暗一点|变暗|调暗)",
    ),
    "contrast": Words(
        be="((much |a bit |a little |slightly |way |)(more (contrasty|contrasted|punchy|dramatic|striking|bold)|punchier|contrastier|higher in contrast|bolder)|high contrast|high-contrast|less flat|less washed out|less faded|dramatic|contrasty|punchy|not so flat)",
        do="((increase|raise|boost|up|turn up|crank up|push|strengthen|add|bump up|enhance|improve|intensify|amplify|pump up|heighten|maximize|bring up) (the |some |more |extra |a bit of |)(contrast|tonal contrast|tonal range|dynamic range|difference between (light|bright|dark|the lights) and (dark|light|bright|the darks))( of {o}| in {o}| to {o}| a bit| a little|)|"
        "(deepen|darken) the (shadows|darks|blacks|dark parts|dark areas) and (brighten|lift|boost|lighten|strengthen) the (highlights|lights|whites|bright parts|light areas)|"
        "make the (darks|blacks|shadows|dark parts|dark areas) (darker|deeper|blacker|stronger) and the (lights|whites|highlights|bright parts|light areas) (lighter|brighter|whiter|stronger)|"
        "give {o} (more |some |extra |a bit of |)(punch|contrast|pop and contrast|drama|bite)|(add|inject) (more |some |extra |)(punch|drama|bite|contrast)( to {o}|)|(apply|use) an? s-curve( to {o}|)|(spread|stretch|widen) the (tones|histogram|tonal range|levels)( of {o}|))",
        get="(an? |)(more contrast|higher contrast|stronger contrast|extra contrast|contrast boost|contrast enhancement|more punch|more drama|s-curve|high contrast (look|version|effect|style)|increased contrast|deeper blacks and brighter whites|stronger darks and lights)",
        say="({o} (is|looks|seems|appears|feels|came out) (too |very |so |a bit |rather |a little |)(flat|washed out|low contrast|hazy|milky|foggy|lifeless and flat|faded)( , (fix that|fix it|help|add punch|add contrast|give it punch|more contrast please|give it more contrast)|)|"
        "(it|this|{o}) (needs|could use|lacks|wants|has too little|deserves) (more |some |a bit more |)(contrast|punch|drama)|not enough contrast|too (flat|little contrast)|more (contrast|punch|drama)( please|)|contrast up|plus contrast|too washed out|blacker blacks and whiter whites)",
        chinese="((增加|提高|增强|加强|加大|提升|调高|拉高)({o}的|{o}|)(对比度|反差|明暗对比|对比)(一点|一些|)|(让|使|把){o}(的|)(对比度|对比|反差)(更|变得更|)(强|高|大|强烈|鲜明)(一点|一些|些|)|({o}|)(太平|太灰|发灰|灰蒙蒙|太平淡)了，(加强对比|增加对比度|加点对比)|({o}|)(太平|太灰|灰蒙蒙的|太平淡了)|"
        "(高|强|更强的|更高的)(对比度|对比|反差)|(暗部更暗亮部更亮|暗的更暗亮的更亮|黑的更黑白的更白)|对比度(调高|加大|拉高|高一点|强一点|增加))",
    ),
    "fade": Words(
        be="((much |a bit |a little |slightly |way |)(less (contrasty|harsh|contrasted|punchy|dramatic|hard)|flatter|paler|more (faded|washed out|washed-out|muted|flat|pale|hazy|milky)|lower in contrast|hazier|milkier)|faded|washed out|washed-out|pale|flat|hazy|milky|foggy|low contrast|low-contrast|matte|bleached)",
        do="((decrease|reduce|lower|cut|turn down|weaken|soften|drop|diminish|tone down|dial down|lessen|flatten|bring down|take down|minimize|ease) (the |some |some of the |)(contrast|tonal contrast|tonal range|dynamic range|difference between (light|bright|dark|the lights) and (dark|light|bright|the darks))( of {o}| in {o}| a bit| a little|)|"
        "(fade|wash out|flatten|bleach|fade out) {o}( a bit| a little| out|)|(lift|raise|brighten) the (blacks|darks|shadows) and (lower|darken|dull|mute) the (whites|highlights|lights)|"
        "make the (blacks|darks|shadows) (lighter|grayer|weaker) and the (whites|highlights|lights) (darker|grayer|duller|weaker)|(take|remove|pull) (the |some |some of the |)(contrast|punch|harshness)( out| away|)( of {o}| from {o}|)|"
        "(add|lay|put) (a |some |)(haze|fog|mist|milky veil|matte finish)( over {o}| to {o}|)|(compress|squeeze|narrow) the (tones|histogram|tonal range)( of {o}|)|give {o} less contrast)",
        get="(an? |)(less contrast|lower contrast|weaker contrast|softer contrast|contrast reduction|faded (look|effect|style|film look|version)|washed out (look|effect|style)|washed-out (look|effect|style)|matte (look|effect|finish)|hazy (look|effect)|pale (look|version)|flat (look|tone|profile)|low contrast (look|version|effect))",
        say="({o} (is|looks|seems|appears|feels|came out) (too |very |so |a bit too |rather |a little too |)(harsh|contrasty|hard|punchy|high contrast|dramatic|stark|strong in contrast)( , (fix that|fix it|help|soften it|lower the contrast|less contrast please|flatten it|fade it)|)|"
        "(it|this|{o}) (needs|could use|wants|should have|deserves) (less|lower|a lower|softer|weaker) contrast|(it|this|{o}) has (far |way |a bit |)too much contrast|too much contrast|too (harsh|contrasty|stark)|less (contrast|punch|harsh|drama)( please|)|contrast down|minus contrast|grayer blacks and duller whites|like an? (faded|sun-bleached|washed out) (photo|print|poster))",
        chinese="((降低|减少|减小|减弱|调低|拉低|压低)({o}的|{o}|)(对比度|反差|明暗对比|对比)(一点|一些|)|(让|使|把){o}(的|)(对比度|对比|反差)(更|变得更|)(弱|低|小|柔和)(一点|一些|些|)|({o}|)(太硬|对比太强|反差太大|太强烈)了，(柔和一点|降低对比度|减点对比)|"
        "(低|弱|更低的|更弱的)(对比度|对比|反差)|(褪色|发白|泛白|灰蒙蒙|朦胧|哑光|淡淡)(的|)(效果|感觉|风格|)|(让|使|把){o}(褪色|淡一点|变淡|平一点|灰一点)|对比度(调低|减小|拉低|低一点|弱一点|降低))",
    ),
    "warmer": Words(
        be="((much |a bit |a little |slightly |)(warmer|cozier|cosier|more (golden|sunny|warm|amber|summery|cozy|cosy)|sunnier|less (cold|cool|blue|bluish|chilly|icy))|warm|golden|warm and (golden|cozy|cosy|sunny)|cozy|cosy|sunny|like (sunset|golden hour|a summer evening|candlelight|firelight|late afternoon sun)|not so cold)",
        do="((warm|warm up|heat up) {o}( up| a bit| a little|)|(warm|warm up|heat up) the (tones|colors|colours|white balance|color temperature|tone|mood|palette|light)( of {o}| a bit| a little|)|"
        "(increase|raise|turn up|boost|push up) the (warmth|color warmth)( of {o}|)|"
        + _TEMPERATURE
        + _TO_WARM
        + "|"
        + _TEMPERATURE
        + _TO_WARM
        + "|"
        "(add|bring|put in) (some |more |a bit of |a little |)(warmth|warm tones|golden light|sunshine|sunset light|golden tones|warm light|golden hour light|sunset glow|summer feeling|amber warmth)( to {o}|)|give {o} (some |more |a bit of |a little |)(warmth|warm tones|golden light|sunshine|sunset light|golden tones|warm light|golden hour light|sunset glow|summer feeling|amber warmth)|"
        "(apply|use|put) a (warming|warm) (filter|tone|white balance|look)( on {o}| to {o}|)|(fix|correct) the (cold|cool|bluish|too cold|icy) (white balance|look|tones|light|cast))",
        get="(an? |)(warmer (tones|look|mood|white balance|colors|colours|color temperature|feel|light|version|atmosphere|temperature)|warm (tones|look|mood|glow|filter|white balance|colors|light|atmosphere|feeling)|more warmth|warming filter|golden (glow|light|tones|hour look|hour|warmth)|sunset (look|light|mood|tones|glow)|cozy (feel|mood|look|warmth)|summer (mood|feel|warmth))",
        say="({o} (is|looks|seems|feels|appears|came out) (too |very |so |a bit |rather |)(cold|cool|blue|bluish|chilly|icy|wintry|frosty)( , (fix that|fix it|help|warm it up|make it warmer|warm it|add warmth|more warmth please)|)|"
        "(it|this|{o}) (needs|could use|lacks|wants|deserves) (more |some |a bit of |)(warmth|warm tones|warmer tones|sunshine)|too cold|too bluish|the (white balance|color temperature|light) is (off , |)(too |way too |)(cold|cool|blue)( , (fix|correct|warm) it|)|more (warmth|warm|golden light)( please|)|warmth up|higher color temperature|as if (at sunset|at golden hour|lit by candles|lit by a fireplace|in the evening sun))",
        chinese="(((把|将|让|使){o}(的|)|{o}(的|)|)(色调|颜色|色温|白平衡|色彩|氛围|)(调|变|弄|变得|更|偏)(暖|暖和|更暖|温暖|暖色)(一点|一些|点|些|)|(增加|加入|加点|添加|来点|多点)(暖色|暖意|暖色调|温暖的感觉|暖光|温度|暖调)|(暖色调|暖色|暖调|金色阳光|日落|黄昏|温暖|暖阳)(效果|滤镜|氛围|感觉|风格|)|"
        "{o}(太|有点|偏)(冷|蓝|冷色)了，(调暖一点|暖一点|加点暖色|调暖一些|暖一些)|(提高|调高)色温|色温(调高|高一点|暖一点)|更暖|暖一点|调暖|像(夕阳|日落|黄昏)(一样|下|))",
    ),
    "cooler": Words(
        be="((much |a bit |a little |slightly |)(cooler|colder|chillier|more (wintry|icy|cold|cool|frosty|arctic)|icier|frostier|less (warm|yellow|orange|golden|hot|yellowish))|cool|cold|icy|wintry|frosty|chilly|arctic|freezing|like (winter|a winter morning|moonlight|an icy day|the arctic|a cold morning|ice)|not so warm|cool and (blue|crisp|icy))",
        do="((cool|cool down|cool off|chill) {o}( down| a bit| a little| off|)|(cool|cool down|cool off) the (tones|colors|colours|white balance|color temperature|colour temperature|tone|mood|palette|light)( of {o}| a bit| a little| down|)|"
        "(decrease|reduce|lower|turn down|drop|cut) the (warmth|color temperature|colour temperature|heat|yellow|yellow tones)( of {o}|)|"
        + _TEMPERATURE
        + _TO_COLD
        + "|"
        + _TEMPERATURE
        + _TO_COLD
        + "|"
        "(add|bring|put in) (some |more |a bit of |a little |)(coldness|cool tones|cold light|winter light|cold tones|frost|icy tones|chill|coolness|winter feeling|moonlight)( to {o}|)|give {o} (some |more |a bit of |a little |)(coldness|cool tones|cold light|winter light|cold tones|frost|icy tones|chill|coolness|winter feeling|moonlight)|"
        "(apply|use|put) a (cooling|cool|cold) (filter|tone|white balance|look)( on {o}| to {o}|)|(fix|correct|remove) the (warm|yellow|yellowish|orange|too warm) (white balance|look|tones|light|cast)|make {o} feel (cold|colder|icy|wintry|cooler|chilly|like winter))",
        get="(an? |)(cooler (tones|look|mood|white balance|colors|colours|color temperature|feel|light|version|atmosphere|temperature)|cold (tones|look|mood|filter|white balance|colors|light|atmosphere|feeling)|colder (tones|look|mood|white balance|colors|light|feel|version)|cool (tones|look|mood|filter|white balance|light|blue tones)|icy (look|tones|mood|light|feel)|wintry (look|mood|tones|light|feel)|winter (look|mood|tones|light|feel)|cooling filter|less warmth|frosty (look|mood))",
        say="({o} (is|looks|seems|feels|appears|came out) (too |very |so |a bit |rather |)(warm|yellow|orange|yellowish|hot|golden|reddish and warm)( , (fix that|fix it|help|cool it down|make it cooler|make it colder|cool it|less warmth please|give it a colder look)|)|"
        "(it|this|{o}) (needs|could use|wants|deserves) (less warmth|cooler tones|colder tones|a cooler look|a colder look)|too warm|too yellow|too orange|the (white balance|color temperature|light) is (off , |)(too |way too |)(warm|yellow|orange|hot)( , (fix|correct|cool) it|)|less (warmth|warm|yellow)( please|)|warmth down|lower color temperature|as if (in winter|at the north pole|it was freezing|lit by the moon|on an icy day|on a cold morning))",
        chinese="(((把|将|让|使){o}(的|)|{o}(的|)|)(色调|颜色|色温|白平衡|色彩|氛围|)(调|变|弄|变得|更|偏)(冷|冷淡|更冷|寒冷|冷色)(一点|一些|点|些|)|(增加|加入|加点|添加|来点|多点)(冷色|冷意|冷色调|寒冷的感觉|冷光|凉意|冷调)|(冷色调|冷色|冷调|冬天|冬日|冰冷|寒冷|清冷)(效果|滤镜|氛围|感觉|风格|)|"
        "{o}(太|有点|偏)(暖|黄|橙|暖色)了，(调冷一点|冷一点|加点冷色|调冷一些|冷一些)|(降低|调低)色温|色温(调低|低一点|冷一点)|更冷|冷一点|调冷|像(冬天|月光下|冰雪)(一样|))",
    ),
    "sepia": Words(
        be="(sepia|sepia toned|sepia-toned|brown and (white|vintage|old|aged)|antique|vintage( and| |) brown|brownish and old|old-fashioned|old fashioned|aged|like an? (old|antique|vintage|century-old|victorian|very old|faded brown|19th century|historic|grandmother's) (photo|photograph|print|picture|postcard)|"
        "like (a photo|a picture|a photograph|something|it was taken|it is) from (the |)(1800s|1900|1910|1890|19th century|wild west|the old days|1850|grandma's album|old west|early 1900s|twenties|last century)|in sepia|old and brown|brown-toned|western style|old-timey)",
        do="((convert|change|turn|switch|transform|render|print) {o} (to|into|in) (sepia|a sepia (photo|print|photograph|image)|an (old|antique|aged) (photo|print|photograph|brown photo)|a vintage (photo|print|brown photo)|brown tones|sepia tones|something antique)|"
        "(tone|colour|color|sepia|sepia-tone|age|antique) {o}( in sepia| with sepia| brown and old|)|(give|lend) {o} (an?|that|the) (sepia|antique|vintage|old brown|old-time|nostalgic|aged|western|brownish vintage|victorian) (look|tone|feel|touch|tint|charm|effect)|make {o} look (100|a hundred|very|really) (years |)old|"
        "(add|apply|use|put) (an? |some |)(sepia|antique|vintage brown|old photo|aged photo|nostalgic brown|wild west|old west)( tone| filter| effect| look| toning| style|)( on {o}| to {o}|))",
        get="(an? |)(sepia (tone|filter|effect|look|toning|version|style|photo|print)|sepia|antique (look|effect|filter|photo look|brown tone)|vintage (brown |sepia |photo |)(tone|look|filter|effect|style)|old (photo|photograph|brown|western|time|timey) (look|effect|filter|style|feel|tone)|aged (look|photo effect|paper tone)|nostalgic (brown |)(tone|look|feel)|brown vintage (tone|look)|brownish (tone|look|old look))",
        say="((let|have) {o} look (old|antique|vintage|like an old photograph|like a hundred years ago)|as if (taken|shot|photographed) (a hundred years ago|in (1900|1890|1910|the 1800s|the wild west|victorian times|the 19th century))|like in my (grandmother's|great-grandfather's|grandpa's|grandma's) (album|photo album|old photos)|"
        "i want (the|an?|that) (old|antique|vintage|old-timey|nostalgic|aged|brown) (photo |brown |brownish |western |)(look|feel|tone|charm)|(nostalgic|vintage|antique|retro) (brown|sepia|old photo)( please|)|old photograph|wild west (poster|photo|look)|brown like old paper)",
        chinese="(((把|将|让|使){o}|{o}|)(变成|转成|做成|改成|调成|弄成|变得)(棕褐色|怀旧|复古|老照片|褐色|泛黄|旧照片|复古棕色|古老|深褐色)(的|)(效果|风格|照片|色调|样子|)|(加|添加|应用|使用|来一个)(棕褐色|怀旧|复古|老照片|褐色|旧照片)(效果|滤镜|色调|风格)|(怀旧|复古|老照片|棕褐色|旧时光|泛黄|民国)(效果|风格|滤镜|色调|感觉|照片|)|"
        "像(老照片|旧照片|一百年前|上个世纪的照片|古董照片)(一样|那样|)|(看起来|显得)(像老照片|很古老|很旧|复古))",
    ),
    "blur": Words(
        be="((very |a bit |a little |much |)(blurry|blurred|blurrier|out of focus|unfocused|fuzzy|unsharp|hazy and blurred|soft and blurry|softer and blurry|indistinct|less sharp|less crisp|less clear|smooth and blurry|defocused|smudged|smeared)|like (seen )?without (my )?glasses|like through frosted glass)",
        do="((blur|defocus|unfocus|smear|smudge|blur out|fuzz|gaussian blur|soft-focus) {o}( out| a bit| a little| completely| heavily|)|(apply|add|use|put) (a |some |strong |a strong |a soft |)(gaussian |lens |soft |heavy |)(blur|blurring|smoothing|soft focus|bokeh)( effect| filter|)?( on {o}| to {o}| over {o}|)|"
        "(throw|put|bring|take|push) {o} out of focus|(make|let) (the |all |all the |)(details|edges|fine detail|outlines) (vanish|disappear|soft|blurry|unclear|fuzzy|melt away)|(soften|smooth|smooth out|wash away|hide|obscure|dissolve|smear|smudge) (the |all |all the |)(details|edges|fine details|texture|outlines|sharp edges|image)( of {o}| with a blur|)|"
        "(reduce|lower|decrease|remove|kill|take away) (the |all |)(sharpness|focus|clarity|crispness|sharp details)( of {o}|)|soften {o}( with a (blur|gaussian blur)|)|(lose|drop) (the )?focus|smooth {o}( out|))",
        get="(an? |some |)(blur|gaussian blur|blur effect|blur filter|strong blur|soft focus|soft-focus effect|blurry (look|version|effect)|blurred (look|version)|out of focus (look|effect)|lens blur|bokeh|fuzzy (look|effect)|defocus|less sharpness|smoothing)",
        say="({o} (is|looks) (too |way too |)(sharp|crisp|detailed)( , (blur it|soften it|make it blurry|smooth it)|)|too sharp|too crisp|nothing should be (sharp|crisp|in focus|clear)|i want (everything|it all) (out of focus|blurry|fuzzy|blurred)|out of focus( please|)|as if (the camera was out of focus|the lens was foggy|i lost my glasses|seen through frosted glass|the focus was wrong)|no sharp (edges|details)|less (sharp|sharpness|focus|detail))",
        chinese="(((把|将|让|使){o}|{o}|)(变|弄|变得|做|调)(模糊|虚化|朦胧|不清晰|糊)(一点|一些|点|些|)|(模糊|虚化|糊化|柔焦|失焦)(一下|)({o}|整张图|)|(添加|加|应用|加上)(高斯模糊|模糊|虚化|柔焦|失焦)(效果|滤镜|)|(高斯模糊|模糊|虚化|柔焦|失焦)(效果|滤镜|处理|)|(降低|减少)(清晰度|锐度)|({o}|)(太清晰|太锐利)了|(看不清|失去)(细节|焦点)|(把|将){o}模糊(掉|处理|化|))",
    ),
    "sharpen": Words(
        be="((much |a bit |a little |slightly |)(sharper|crisper|clearer|more (crisp|sharp|defined|detailed|in focus|focused|clear)|better focused|better defined|less (blurry|soft|fuzzy|blurred|hazy and soft|smooth))|sharp|crisp|razor sharp|tack sharp|in focus|crystal clear|well defined|not so blurry|not so soft)",
        do="((sharpen|sharpen up|crispen|refocus|deblur|unblur|focus) {o}( up| a bit| a little|)|(sharpen|sharpen up|enhance|strengthen|emphasize|emphasise|accentuate|bring out|improve|boost|reveal|crisp up|define|highlight|increase|recover) (the |all |all the |)(details|edges|fine details|detail|texture|textures|outlines|contours|lines|fine edges|small details|edge definition)( of {o}| in {o}|)|"
        "(bring out|emphasise|emphasize|enhance|accentuate|define|reveal|strengthen|pick out|highlight|crisp up|recover|underline|work out) (the |all the |even the |)(fine|tiny|small|subtle|little|finest|smallest|minute|delicate) (details|edges|lines|textures|texture|structures|contours)( of {o}| in {o}| better| more clearly||)|"
        "make the (fine|tiny|small|subtle|finest|little) (details|edges|lines|textures|structures) (stand out|pop|crisp|clearer|sharper|more visible|more defined|clear)|bring the (fine |tiny |small |subtle |)(details|edges|lines|textures) out( more| better|)|"
        "(increase|raise|boost|improve|enhance|turn up|add|bump up|crank up|up) (the |some |more |)(sharpness|clarity|crispness|definition|focus|acutance|edge sharpness)( of {o}| in {o}| to {o}|)|(apply|use|add|run) (an? |some |)(sharpening|unsharp mask|sharpen|sharpness|clarity)( filter| effect| pass|)?( on {o}| to {o}|)|"
        "(bring|get|put) {o} (back |)(into|in) focus|(remove|reduce|fix|undo|get rid of|eliminate) (the |some |all |)(blur|blurriness|softness|fuzziness|motion blur)( of {o}| in {o}| from {o}|)|give {o} (more |crisper |sharper |)(sharpness|definition|edges|detail|crispness|details))",
        get="(an? |some |)(sharpening|sharpening filter|sharpness|more sharpness|more clarity|more definition|more detail|crisper (edges|details|look|version)|sharper (edges|details|look|version|image)|unsharp mask|clarity boost|sharpness boost|sharpen effect|more crispness|edge enhancement|better focus|finer details)",
        say="({o} (is|looks|seems|appears|came out|turned out) (too |very |so |a bit |rather |a little |slightly |)(blurry|soft|fuzzy|out of focus|blurred|unsharp|smooth|unclear)( , (fix that|fix it|help|sharpen it|make it sharper|make it crisper|make it clear|get it in focus)|)|"
        "(it|this|{o}) (needs|could use|lacks|wants|deserves) (more |some |a bit more |)(sharpness|clarity|definition|crispness|detail)|too (blurry|soft|fuzzy)|not (sharp|crisp|clear) enough|more (sharpness|clarity|definition|detail|crispness|sharp|crisp)( please|)|sharpness up|i want to see (every|each|all the) (detail|hair|details|edge)|as if (shot|taken) with a (better|sharp|sharper) lens)",
        chinese="(((把|将|让|使){o}|{o}|)(变|弄|变得|调|更|更加)(清晰|锐利|清楚|锐)(一点|一些|点|些|)|(锐化|清晰化)(一下|)({o}|)|(增加|提高|提升|增强|加强|调高)({o}的|{o}|)(锐度|清晰度|细节|边缘|清晰)|(添加|加|应用)(锐化|清晰)(效果|滤镜|)|(锐化|清晰)(效果|滤镜|处理|)|({o}|)(太模糊|有点模糊|不够清晰|太虚|有点糊|太糊)了，(锐化一下|弄清晰|清晰一点)|(去除|消除|去掉)模糊|(突出|强化|增强)(细节|边缘|轮廓))",
    ),
    "pixelate": Words(
        be="(pixelated|pixely|pixelised|pixelized|blocky|a mosaic|mosaic-like|8-bit|8 bit|16-bit|made of (big |large |visible |coarse |square |small |little |)(pixels|blocks|squares|tiles)|low-res|low resolution|low res and blocky|lower resolution|retro game style|pixel art|pixel-art|like (pixel art|minecraft|an? (old|retro|8-bit|nintendo|arcade|gameboy|classic) (video |computer |)game|a mosaic|lego|censored footage)|censored|coarse and blocky)",
        do="((pixelate|pixelize|pixelise|pixellate|mosaic|censor|blockify) {o}( out| completely| heavily| a bit|)|(turn|convert|change|transform|break|split|divide|cut) {o} (to|into|in|up into) (pixel art|pixels|big pixels|large pixels|blocks|squares|a mosaic|coarse blocks|a pixel mosaic|little squares|8-bit( art| style|)|tiles|big square pixels|pixelated art|lego blocks|a retro (video |)game( picture| screen|))|"
        "(apply|add|use|put) (an? |some |)(pixelation|pixelate|pixelated|mosaic|pixel|censor|8-bit|blocky|pixel art|censorship)( filter| effect| look| mosaic| blocks|)?( on {o}| to {o}| over {o}|)|(reduce|lower|decrease|drop|destroy|cut) the (resolution|pixel count|number of pixels)( of {o}|)( drastically| until it is blocky| a lot|)|"
        "(show|draw|render|display|recreate) {o} (as|with|in|using) (big |large |coarse |visible |chunky |)(pixels|blocks|squares|square blocks|a mosaic|mosaic tiles|pixel art|8-bit style|square tiles)|make the pixels (big|bigger|visible|large|huge|chunky)|(hide|cover|anonymize|obscure) {o} (with|behind|under) (a |)(mosaic|pixels|blocks|big pixels|censor pixels))",
        get="(an? |some |)(pixelation|pixelate effect|pixelated (look|version|effect|style)|pixel (effect|filter|art|art style|mosaic|look|blocks|art look)|mosaic (effect|filter|look|of squares|tiles)|mosaic|8-bit (look|style|effect|version)|8 bit (look|style|version)|blocky (look|effect|pixels)|big pixels|chunky pixels|low resolution (look|effect)|retro game (look|style)|censor (effect|mosaic|pixels|blocks)|minecraft (look|style))",
        say="((i want|let me see|show) (big|large|chunky|visible|huge) (pixels|square blocks|blocks)|like (in )?(an? |)(old|retro|8-bit|80s|nintendo|arcade|classic) (video |computer |console |)(game|games)( graphics|)|bigger pixels( please|)|blocks instead of details|8-bit( please| style|)|pixel art( please| style|)|mosaic( please|)|as if (the resolution was tiny|made of lego|it was censored|drawn with huge pixels|in minecraft)|too much detail , (pixelate it|make it blocky))",
        chinese="(((把|将|让|使){o}|{o}|)(变成|做成|转成|变得|弄成|改成)(像素|像素化|像素风|马赛克|像素画|方块|像素艺术|8位游戏|像素风格)(的|)(效果|风格|样子|)|(像素化|马赛克化)({o}|)|(给|对){o}(打|加|打上|加上|添加)(马赛克|像素化|像素效果|码)|(添加|加|打|打上|应用|加上)(马赛克|像素|像素化)(效果|滤镜|)|(马赛克|像素|像素风|8位|像素艺术|我的世界)(效果|滤镜|风格|处理|)|(降低|减小)分辨率|像(老|复古|红白机|像素)(游戏|游戏画面)(一样|)|用(大|)(方块|像素块|像素)(表示|显示|画))",
    ),
    "saturate": Words(
        be="((much |a bit |a little |slightly |way |)(more (colorful|colourful|saturated|vivid|vibrant|intense in color|lively)|livelier|less (dull|pale in color|gray and dull|drab)|richer in color)|colorful|colourful|vivid|vibrant|saturated|highly saturated|lively|rich in color|not so dull|technicolor)",
        do="((increase|raise|boost|up|turn up|crank up|enhance|intensify|push|pump up|bump up|strengthen|amplify|max out|bring up|crank) (the |)(saturation|color saturation|colour saturation|vibrance|vibrancy|color intensity|colour intensity|colors|colours|colorfulness|vividness)( of {o}| in {o}| up| a bit| a little|)|"
        "(increase|raise|boost|turn up|bump up|lift|push up|enhance|crank up|dial up|step up) (the |its |the |)(saturation|vibrance|vibrancy|vividness|color saturation)( of {o}| in {o}| a bit| a little| a lot| further|||)|"
        "(turn|crank|push|bring|pull|dial|move|bump) (the |)(saturation|vibrance|vividness|saturation slider)( of {o}|) (up|higher)( a bit| a notch||)|"
        "(saturate|oversaturate|colorize more|vivify|liven up|enliven) {o}( more| a bit| strongly|)|make the (colors|colours|hues) (pop|more (vivid|vibrant|intense|saturated|lively|brilliant|colorful)|richer|stronger|bolder|stand out|brilliant|deeper|livelier|vivid|vibrant|shine|intense|louder)|"
        "(add|bring|use|put in) (some |more |much more |a bit more |extra |stronger |richer |bolder |)(color|colour|saturation|vibrance|vibrancy|vivid colors|life to the colors|colorfulness|rich colors|vivid hues|colors)( to {o}| into {o}|)|give {o} (some |more |much more |a bit more |extra |stronger |richer |bolder |)(color|colour|saturation|vibrance|vibrancy|vivid colors|life to the colors|colorfulness|rich colors|vivid hues|colors)|let the (colors|colours) (pop|shine|glow|stand out)|(strengthen|deepen|enrich|revive|refresh|liven up|bring out|intensify|boost) (the |all |all the |)(colors|colours|hues|tints))",
        get="(an? |)(more saturation|more color|more colour|saturation boost|higher saturation|stronger colors|richer (colors|colours|hues)|more (vivid|vibrant|intense|brilliant) (colors|colours|hues|look)|vivid (colors|colours|look|filter|version)|vibrant (colors|colours|look|version)|color boost|colour boost|more vibrance|vibrance boost|colorful (look|version)|bolder (colors|colours)|extra saturation)",
        say="((the |its |)(colors|colours) (are|look|seem|appear|feel) (too |very |so |a bit |rather |a little |)(dull|pale|weak|lifeless|drab|muted|desaturated|boring|faint|washed)( , (fix that|fix it|help|boost them|make them pop|make them richer|more saturation|make them stronger|saturate them)|)|"
        "{o} (looks|is|seems) (too |very |so |a bit |)(dull|drab|colorless|lifeless|desaturated|boring)( , (add color|more color please|boost the colors|make it colorful)|)|(it|this|{o}) (needs|could use|lacks|wants|deserves) (more |some more |stronger |a bit more |)(color|colour|saturation|vibrance|colors)|not colorful enough|dull colors|more (color|colour|colors|saturation|vibrance|vivid|vibrant|colorful)( please|)|saturation up|as (colorful|vivid|vibrant) as (possible|a parrot|you can|candy))",
        chinese="(((把|将|让|使){o}(的|)|{o}(的|)|)(颜色|色彩|)(变|变得|更|更加|弄)(鲜艳|艳丽|饱和|鲜明|丰富|浓郁|生动)(一点|一些|点|些|)|(增加|提高|提升|增强|加强|调高|加大)({o}的|{o}|)(饱和度|色彩|鲜艳度|颜色饱和度|色彩饱和度|颜色)|(鲜艳|艳丽|高饱和|饱和)(的|)(效果|颜色|滤镜|色彩|)|{o}(的颜色|颜色|色彩|)(太淡|太暗淡|不够鲜艳|太单调|太平淡)了，(鲜艳一点|增加饱和度)|饱和度(调高|加大|拉高|高一点|增加)|更鲜艳|鲜艳一点)",
    ),
    "swap_red_blue": Words(
        be="(with (red and blue|blue and red|the red and blue channels) (swapped|exchanged|switched|interchanged)|red-blue swapped|bgr|in bgr order|bgr instead of rgb|channel swapped)",
        do="((swap|exchange|switch|interchange|trade|flip|permute|reverse) (the |)(red (and|with|for|against) (the |)blue|blue (and|with|for|against) (the |)red|r (and|with|for) b|b (and|with|for) r)( channels| channel| colors| colours| components| values| tones|)( of {o}| in {o}|)|(swap|exchange|switch|interchange|flip|reverse) (the |)(r and b|b and r|rb|rgb to bgr|red/blue|red-blue|r/b)( channels| channel| order|)( of {o}|)|"
        "(convert|change|turn|reorder) (rgb|{o}|the channels) (to|into|from rgb to) bgr|(turn|change|convert) (red|all red|everything red|all red things|the red areas|the red parts|whatever is red) (to|into) blue and (blue|all blue|everything blue|all blue things|the blue areas|the blue parts|whatever is blue) (to|into) red|(turn|change|convert) (blue|all blue|everything blue|all blue things|the blue areas|whatever is blue) (to|into) red and (red|all red|everything red|all red things|the red areas|whatever is red) (to|into) blue|"
        "(make|paint) (all red|everything red|all red things|the red areas|the red parts|whatever is red) blue and (all blue|everything blue|all blue things|the blue areas|the blue parts|whatever is blue) red|(make|paint) (all blue|everything blue|all blue things|the blue areas|whatever is blue) red and (all red|everything red|all red things|the red areas|whatever is red) blue|replace red (with|by) blue and blue (with|by) red|replace blue (with|by) red and red (with|by) blue|(mix up|shuffle) (the )?red and blue( channels|))",
        get="(an? |)(red-blue swap|red blue swap|red/blue swap|channel swap|swap of (red and blue|blue and red|the red and blue channels)|bgr (version|order|channel order)|red and blue (swap|exchange|channel swap)|exchange of (red and blue|blue and red))",
        say="(red (becomes|should be|should become|turns|to|into|goes to) blue and blue (becomes|should be|should become|turns|to|into|goes to) red|blue (becomes|should be|should become|turns|to|into|goes to) red and red (becomes|should be|should become|turns|to|into|goes to) blue|(red and blue|the red and blue channels|r and b) (are|should be|must be) (swapped|exchanged|switched|the other way round|interchanged)|the channels are in the wrong order , (it should be rgb|swap red and blue|exchange blue and red)|red for blue and blue for red|what if red was blue and blue was red|bgr)",
        chinese="((交换|对调|互换|调换|对换|切换)({o}的|{o}|)(红色和蓝色|红蓝|红和蓝|蓝色和红色|红蓝通道|红色和蓝色通道|红通道和蓝通道|R和B|R通道和B通道|RB通道|蓝红通道)|(把|将)(红色|红)(变成|换成|变)(蓝色|蓝)(，|)(把|)(蓝色|蓝)(变成|换成|变)(红色|红)|(红变蓝蓝变红|红蓝互换|红蓝对调|红蓝交换|红色和蓝色互换)|(把|将){o}(的|)(红蓝|红色和蓝色)(通道|)(交换|对调|互换))",
    ),
    "vignette": Words(
        be="(vignetted|dark(er|) (at|around|towards|in) the (edges|corners|borders|sides|rim)|darkened at the (edges|corners)|shadowed (at|around) the (edges|corners)|like (shot|taken) (through|with) an? (old|vintage|toy|cheap) lens|spotlit in the (middle|center|centre))",
        do="((vignette|add vignetting to) {o}|(darken|shade|dim|burn|shadow|black out|fade out) (the |all |)(corners|edges|borders|sides|margins|rim|outer parts|outside|periphery|edges and corners|corners and edges|four corners)( of {o}| gradually| softly|)|(add|apply|put|use|create|draw) (an? |some |)(soft |dark |subtle |strong |gentle |round |lens |)(vignette|vignetting|lens falloff|dark fade|shadow|darkness|falloff|dark halo|shade)( effect| filter|)?( to {o}| on {o}| around (the (edges|corners|outside|borders|rim|sides)|{o})| at the (edges|corners)|)|"
        "(make|let) the (corners|edges|sides|borders|rim|outer parts) (darker|dark|fade to black|fall off|fade into (darkness|black|shadow)|dim|shadowy)|(draw|lead|pull|focus|direct) (the )?(eye|attention|focus|viewer) to the (middle|center|centre)( by darkening the (edges|corners|rest)| with (a vignette|dark edges|shadow)|)|(fade|shade|dim) {o} (to black |to dark |)(towards|toward|at) the (edges|corners|borders|sides)|(put|place) {o} in a (spotlight|soft spotlight)|(frame|surround) {o} (with|by|in) (a |)(soft |dark |)(shadow|shadows|darkness|dark fade|fading shadow|vignette))",
        get="(an? |some |)(vignette|vignetting|vignette effect|vignette filter|dark vignette|soft vignette|dark (corners|edges)|darker (corners|edges)|shadowed (corners|edges|frame)|shaded (corners|edges)|old lens (look|effect|falloff)|lens (falloff|vignette|shading)|edge darkening|corner shading|spotlight effect|dark fade at the edges|fading edges|shadowy (frame|edges|corners))",
        say="(the (corners|edges|sides|borders) (should be|must be|are too bright , make them) (darker|dark|shadowed|dim|in shadow)|(dark|darker|shadowy|shaded|dim) (corners|edges)( please| around {o}|)|only the (middle|center|centre) should (stay|be|remain) (bright|lit|light)|(bright|light) (middle|center|centre) and dark (edges|corners|rim)|the (middle|center|centre) should stand out|let {o} fade (to black|into darkness) (around|at|towards) the (edges|corners|outside)|as if (lit by a spotlight|seen through a tunnel|shot with an old lens|in a spotlight))",
        chinese="((添加|加|加上|加个|增加|做|应用|打|来点|来一个)({o}|)(暗角|晕影|四角压暗|边缘暗角|渐晕|暗边)(效果|滤镜|)|(暗角|晕影|渐晕|暗边)(效果|滤镜|处理|)|(把|将|让|使){o}(的|)(四周|四角|边缘|角落|周围|边角)(变|调|压|弄|变得)(暗|黑|更暗)(一点|一些|)|(压暗|调暗|加深)(四周|四角|边缘|角落|周围|边角)|(突出|聚焦)(中间|中心|中央)|(四周|四角|边缘|角落)(暗|黑|更暗)(一点|一些))",
    ),
    "posterize": Words(
        be="(posterized|posterised|poster-like|posterized|banded|in flat (tones|areas|areas of tone|areas of color|steps|patches|bands)|in (few|only a few|just a few|four|a handful of|only four) (tones|colors|colours|shades|steps|brightness levels|levels)|"
        "reduced to (a few|few|four|a handful of|only a few|three or four) (tones|colors|colours|shades|levels|steps|tonal values|flat tones)|made (up |)of (flat|a few flat|four flat|large flat) (areas|patches|tones|bands|steps|surfaces|shapes)( of (color|colour|tone)|)|"
        "like an? (poster|screen print|screenprint|silkscreen|silkscreen print|linocut|paper cut-out|cut-out|cutout|stencil|pop art print|pop art poster|old travel poster|print with few inks|paint by numbers picture|campaign poster|concert poster|woodblock print|serigraph)|stepped in tone|flat and graphic|with (visible |hard |clear |)(banding|tonal steps|steps of tone|few tones)|without (smooth |soft |)gradients)",
        do="((posterize|posterise|posterize) {o}( completely| strongly| a bit|)|(reduce|limit|cut|lower|restrict|decrease|bring down) (the |)(number of (tones|colors|colours|shades|levels|brightness levels|tonal values|brightness steps|gray levels)|brightness levels|tones|shades|tonal values|color depth|colour depth|tonal steps)( of {o}| in {o}|)( to (a few|few|four|4|three or four|a handful|only four|a minimum)|)|"
        "(turn|convert|change|transform|make|break|simplify|render|redo|split|divide) {o} (into|to) (a poster|a screen print|a silkscreen print|a cut-out|a stencil|a pop art poster|flat areas|flat areas of tone|flat areas of color|flat patches|a few flat tones|flat tones|bands of tone|a few tones|few colors|four tones|four levels of brightness|a handful of shades|posterized colors|tonal steps|a paper cut-out|a linocut)|"
        "(use|keep|allow|show|leave) only (a few|four|few|a handful of|three or four|some) (tones|colors|colours|shades|brightness levels|levels of brightness|tonal steps|flat tones|flat colors|different tones)( in {o}| for {o}|)|(quantize|quantise|round|snap) (the |)(brightness|tones|levels|colors|colours|luminance|values|pixel brightness)( of {o}|)( to (four|a few|coarse|4) (levels|steps|values|tones)|)|"
        "(flatten|simplify|merge|group|collapse) (the |all |all the |)(tones|shades|gradients|colors|colours|brightness values|similar tones)( of {o}| in {o}|) (into|to) (a few |four |large |)(flat areas|bands|steps|flat patches|levels|flat shapes)|(replace|break up) (the |all |)(smooth |soft |)(gradients|transitions|shading) (with|by|into) (hard |visible |flat |)(steps|bands|banding|flat areas|patches)|"
        "(add|apply|use|put) (an? |some |)(posterize|posterization|poster|poster edges|banding|cut-out|screen print|silkscreen|pop art poster|tonal separation)( filter| effect| look|)( on {o}| to {o}|)|(print|paint|draw|show) {o} (with|in|using) (just |only |)(four|a few|few|three or four) (inks|tones|shades|flat tones|flat colors|brightness levels)|give {o} (a |)(posterized|poster|screen print|cut-out|banded|stencil) (look|effect|style|feel|treatment)|remove the (smooth |soft |)(gradients|tonal transitions))",
        get="(an? |some |)(posterization|posterize effect|posterized (look|effect|version|style|tones)|poster (effect|look|style|filter|print look)|banding|tonal banding|banded (look|tones)|few tones|fewer (tones|shades|brightness levels|colors)|cut-out (look|effect|style|filter)|screen print (look|effect|style)|silkscreen (look|effect|style)|flat (tones|areas of tone|areas of color|color areas)|tonal (steps|separation)|stencil look|pop art poster (look|style)|linocut look|limited (palette of tones|tones|number of tones)|hard tonal steps)",
        say="((four|only four|just a few|only a few|three or four|a handful of) (tones|shades|brightness levels|levels of brightness|steps of brightness|flat tones)( please| and no more| are enough| will do|)|{o} (has|uses|contains|shows) (too many|far too many|so many) (tones|shades|brightness levels|gradations|subtle shades)( , (posterize it|keep four|reduce them|use just a few|flatten them)|)|no (smooth |soft |)(gradients|transitions|shading)( please|, only (steps|flat areas|bands)|)|"
        "{o} should (look|be printed) like a (poster|screen print|paper cut-out|stencil|linocut)|as if (printed|screen printed|silkscreened) with (four|three|a few|few) inks|as if cut (out |)(of|from) (colored |)paper|like an? (obama|soviet|warhol|concert|campaign|propaganda|old travel) poster|flat areas (of (tone|color|colour) |)(instead of|rather than) (gradients|smooth transitions|shading)|posterize( please|)|poster (effect|look)( please|)|gradients should (become|turn into|be) (steps|bands|flat areas))",
        chinese="(((把|将|对){o}|{o}|)(做|进行|)(色调分离|色阶分离|海报化)(处理|一下|效果|)|(色调分离|海报化|海报|版画|丝网印刷|剪纸|色阶)(效果|滤镜|风格|处理)|(把|将|让){o}(变成|做成|转成|改成)(海报|版画|丝网印刷|剪纸|波普海报|色块|几种色调)(的|)(效果|风格|样子|)|(减少|降低)({o}的|{o}|)(色阶|色调数量|亮度级别|颜色数量|色阶数|明暗层次|层次)(到四级|到四阶|)|"
        "(只|仅)(用|保留|留)(四|几|三四|少数几|4)(种色调|个色阶|级亮度|种明暗|个亮度层次)|(添加|加|应用|加上)(色调分离|海报|海报化|版画)(效果|滤镜)|(用|变成)(大|)(平涂|色块|平面色块)(表现|效果|)|不要(渐变|过渡)，(只要|改成)(色块|台阶|平涂))",
    ),
    "flip_horizontal": Words(
        be="(mirrored|mirrored|mirror-inverted|mirrored (horizontally|left to right|left-right|sideways|around the vertical axis)|flipped|flipped (horizontally|left to right|left-right|sideways|from left to right)|horizontally (flipped|mirrored|reversed)|reversed (left to right|left-right|horizontally|from left to right|sideways)|laterally reversed|left-right (flipped|reversed|swapped)|"
        "like (in|seen in|through|a picture in|a selfie in) (a|the) mirror|a mirror image|its own mirror image|facing the other (way|direction|side)|with (left and right|right and left) (swapped|exchanged|reversed|switched|the other way round))",
        do="((flip|mirror|reflect) {o}|(flip|mirror|reverse|reflect|turn over) {o} (horizontally|left to right|right to left|from left to right|left-right|sideways|in the horizontal direction|around the vertical axis|about the vertical axis|around its vertical axis|from side to side|laterally|side to side)|"
        "(swap|exchange|switch|reverse|interchange|flip|invert|trade) (the |)(left and right|right and left|left and the right|left with the right|left side and the right side|left half and right half|left and right sides|left and right hand sides)( of {o}| in {o}|)|(do|make|perform|apply) a (horizontal (flip|mirror|reflection|mirroring)|left-right (flip|mirror|swap)|mirror flip|sideways flip)( of {o}| on {o}|)|"
        "(make|turn|change|convert|transform) {o} (into|to) (a|its|its own) (mirror image|horizontal mirror image|mirrored version|horizontally flipped version|reflection in a mirror)|(show|hold|put|view|look at) {o} (in|in front of|through|up to) a mirror|(bring|move|put|send|carry) (what is|everything|all that is|the things|whatever is) (on the |)(left) (to the |)right and (what is on |everything on |the things on |)(the right|right) (to the |)left|"
        "(make|let|have) {o} (face|look|point|go) (the other way|the other direction|in the opposite direction|to the other side)|hflip {o}|(give|show) me (a|the|its) mirror image( of {o}|)|reverse the horizontal direction( of {o}|)|mirror {o} (around|about) (its|the) vertical (axis|center line|middle line))",
        get="(an? |the |)(horizontal (flip|mirror|reflection|mirroring|reversal)|mirror image|mirror effect|mirrored (version|copy|image|view)|left-right (flip|swap|mirror|reversal)|horizontally (flipped|mirrored) (version|copy|image)|mirror view|lateral inversion|flip (around|about) the vertical axis|selfie mirror look|flipped (version|copy)|mirroring)",
        say="((left|the left|the left side) (becomes|should become|should be|goes to|to|turns into|must be) (the |)right and (the |)(right|right side) (becomes|should become|should be|goes to|to|turns into|must be) (the |)left|(left and right|right and left) (are|seem|look|got) (mixed up|swapped|the wrong way round|reversed|wrong)( , (flip it|mirror it|swap them|reverse them|correct it)|)|{o} is (mirrored|mirror-inverted|the wrong way round|flipped)( , (flip it back|mirror it|undo the mirroring|turn it back|mirror it back))|"
        "(mirror|flip)( please|)|mirror image( please|)|(everything|what is) on the left should (be|go|appear|end up) on the right( and vice versa|)|as (if seen|seen|it looks|it would look|i see it) in (a|the|my) mirror|{o} (should|must) (face|look) the other (way|direction)|i want to see {o} in (a|the) mirror|right becomes left|left for right and right for left|(it|the (person|animal|car|text|writing)) (faces|looks|points) the wrong way( , (flip it|mirror it)|)|horizontal (flip|mirror)( please|)|the selfie camera (flipped|mirrored) {o}( , (undo that|flip it back|turn it back)|))",
        chinese="(((把|将|对){o}|{o}|)(水平|左右|横向)(翻转|镜像|颠倒|反转|对调|翻过来)(一下|)|(水平|左右|横向)(翻转|镜像|反转|对调)({o}|)|(镜像|翻转)({o}|)(一下|)|(左右|左边和右边|左右两边|左侧和右侧)(互换|对调|交换|颠倒|反过来|调换|换过来)|(把|将|让){o}(变成|做成|翻成|变为)(镜像|镜中的样子|左右相反|镜面效果)|像(照镜子|在镜子里|镜子里)(一样|那样|看到的|)|(镜像|镜面|水平翻转|左右翻转|左右镜像)(效果|处理|)|(把左边的|左边)(换到|移到|变成|放到)右边(，|)(把右边的|右边)(换到|移到|变成|放到)左边|(让{o}|)朝向(另一边|相反的方向))",
    ),
    "flip_vertical": Words(
        be="(flipped (vertically|top to bottom|from top to bottom|top-bottom|around the horizontal axis)|vertically (flipped|mirrored|reflected|reversed)|mirrored (vertically|top to bottom|upside down|from top to bottom|around the horizontal axis|downwards)|reflected (vertically|downwards|in water|in a lake|in a puddle)|like (a|its) reflection in (water|the water|a lake|a puddle|a pond|a wet street)|"
        "like (mirrored|reflected) in (water|a lake|the sea|a puddle)|with (top and bottom|bottom and top|the top and the bottom|above and below) (swapped|exchanged|switched|reversed|mirrored)|reversed (vertically|top to bottom|from top to bottom)|top-bottom (flipped|mirrored|swapped)|an upside-down mirror image|a vertical mirror image)",
        do="((flip|mirror|reverse|reflect|turn over) {o} (vertically|vertically|top to bottom|bottom to top|from top to bottom|top-bottom|in the vertical direction|around the horizontal axis|about the horizontal axis|around its horizontal axis|downwards|top down)|mirror {o} upside down|(make|show|give me) {o} mirrored upside down|"
        "(swap|exchange|switch|reverse|interchange|flip|trade) (the |)(top and bottom|bottom and top|top and the bottom|top with the bottom|top half and bottom half|top and bottom edges|upper and lower half|upper and lower halves|up and down|above and below)( of {o}| in {o}|)|(do|make|perform|apply) a (vertical (flip|mirror|reflection|mirroring)|top-bottom (flip|mirror|swap)|top to bottom flip)( of {o}| on {o}|)|"
        "(make|turn|change|convert|transform) {o} (into|to) (a|its|its own) (vertical mirror image|reflection in (water|a lake|a puddle)|vertically (flipped|mirrored) version|water reflection|upside-down mirror image)|(show|render|view) {o} (as|like) (a|its) (reflection in (water|a lake|a pond|the sea)|water reflection|vertical mirror image)|"
        "(bring|move|put|send) (what is|everything|all that is|the things|whatever is) (at the |on |)top (to the |to |)bottom and (what is at |everything at |)(the |)bottom (to the |to |)top(, mirrored|)|vflip {o}|reverse the vertical direction( of {o}|)|reflect {o} (in|on) (the |)(water|a lake|a puddle|a horizontal mirror|a mirror below it)|(lay|put|hold) a mirror (under|below|beneath|above|on top of) {o} and show (the reflection|what it shows|only the reflection))",
        get="(an? |the |)(vertical (flip|mirror|reflection|mirroring|reversal|mirror image)|upside-down mirror image|vertically (flipped|mirrored|reflected) (version|copy|image)|top-bottom (flip|swap|mirror)|top to bottom (flip|mirror|reflection)|reflection in (water|a lake|a puddle)|water reflection( look| of it|)|lake reflection|flip (around|about) the horizontal axis|swap of top and bottom)",
        say="((the |)top (becomes|should become|should be|goes to|to|turns into|must be) (the |)bottom and (the |)bottom (becomes|should become|should be|goes to|to|turns into|must be) (the |)top(, mirrored|)|(top and bottom|up and down|bottom and top) (are|should be|must be) (swapped|switched|exchanged|the other way round|mirrored)( , (flip it|swap them|flip it vertically)|)|{o} is (vertically mirrored|flipped vertically|flipped top to bottom)( , (flip it back|undo that|mirror it back))|"
        "(vertical|top to bottom|top-bottom) (flip|mirror|reflection|mirroring)( please|)|(everything|what is) at the top should (be|go|appear|end up) at the bottom, (mirrored|like in water|left stays left)( please|)|as (if seen|seen|it looks|it would look|if reflected|mirrored) in (the water|a lake|a puddle|a pond|still water)|i want to see {o} reflected in (water|a lake|a puddle)|{o} (should|must) be (flipped|mirrored) (vertically|top to bottom)|the sky (should be|goes|belongs) below and the ground above, mirrored|like a (lake|puddle|water) reflection|top for bottom and bottom for top)",
        chinese="(((把|将|对){o}|{o}|)(垂直|上下|竖直|纵向)(翻转|镜像|反转|对调|翻过来)(一下|)|(垂直|上下|竖直|纵向)(翻转|镜像|反转|对调)({o}|)|(上下|上边和下边|上面和下面|顶部和底部|上半部分和下半部分)(互换|对调|交换|调换|镜像|换过来)|(把|将|让){o}(变成|做成|变为)(水中倒影|倒影|上下镜像|垂直镜像|湖面倒影)|像(水中的倒影|水里的倒影|湖面倒影|倒映在水里)(一样|那样|)|(垂直翻转|上下翻转|上下镜像|垂直镜像|水中倒影|倒影)(效果|处理|)|(把上面的|上面)(换到|移到|变成|放到)下面(，|)(把下面的|下面)(换到|移到|变成|放到)上面)",
    ),
    "rotate_180": Words(
        be="(upside down|upside-down|upside down|rotated (by |)(180|180|one hundred and eighty) degrees|rotated by half a turn|turned (by |)(180 degrees|half a turn|180°)|turned (upside down|bottom up|on its head|over by half a turn)|rotated (halfway round|by two quarter turns|two times by 90 degrees|by π|through half a circle)|turned (halfway round|halfway around|by two quarter turns|head over heels|by π)|standing on its head|on its head|bottom up|head over heels|head down|topsy-turvy|the wrong way up|heads down|bottom side up|feet up|rotated 180°|turned all the way around by 180)",
        do="((rotate|turn|spin|revolve|swing) {o} (by |)(180 degrees|180 degrees|180°|180|180 deg|one hundred and eighty degrees|half a turn|a half turn|half a circle|half a rotation|pi|π|two quarter turns|two times 90 degrees|two times 90°|2 x 90 degrees)|"
        "(rotate|turn|spin|swing|twist|wheel) {o} (halfway round|halfway around|half way round|half a turn|through half a circle|through 180 degrees|a half turn|pi radians|by π|twice by 90 degrees|90 degrees twice|by a quarter turn twice|by a quarter turn and another one|two quarter turns|head over heels|by half a revolution|half a turn to the right|half a turn clockwise)|"
        "(rotate|turn|spin|revolve) {o} (so that|until|so) (the |)(bottom is on top and (the |)left is (on the |)right|top is at the bottom and (the |)left is on the right|bottom comes out on top and (the |)right on the left|bottom left corner is at the top right)|"
        "(make|do) two quarter turns( with {o}| of {o}|)|(turn|put|stand|place|set|hang|rotate|hold|show) {o} (upside down|upside-down|on its head|bottom up|head over heels|bottom side up|on the head|the wrong way up|topsy-turvy)|(make|let|have) {o} stand on its head|"
        "(do|make|perform|apply) (a |)(half turn|180 degree (turn|rotation)|180° (turn|rotation)|half rotation|rotation by 180 degrees|rotation of 180 degrees)( of {o}| on {o}| with {o}|)|(rotate|turn|spin) {o} (so that|until) (it is upside down|the top is at the bottom|the sky is at the bottom|it stands on its head|everything hangs head down|the feet are up)|(give|apply) {o} a (half turn|180 degree turn|turn by 180 degrees|half rotation)|"
        "(show|scan|print|display) {o} (as if i held it|as if held|held|as though held) (upside down|bottom up|the wrong way up|rotated by half a turn)|(turn|bring) {o} (the right way up|right side up) (again|, it is upside down)|(change|set) the (orientation|rotation|angle)( of {o}|) (to|by) (180|180 degrees|180°|upside down|half a turn))",
        get="(an? |the |)(180 degree (rotation|turn)|180° (rotation|turn)|180 (rotation|turn)|half turn|half rotation|rotation (by|of) (180 degrees|180|half a turn|180°)|turn (by|of) (180 degrees|half a circle|π|two quarters)|half revolution|double quarter turn|upside-down (version|copy|view|look)|upside down (version|copy|view)|headstand)",
        say="({o} (is|came out|was scanned|was taken|got in|turned out|looks|hangs) (upside down|the wrong way up|bottom up|on its head|upside-down)( , (turn it|fix it|rotate it|turn it round|correct that|put it right|rotate it back)|)|i (held|scanned|hung|took|had) (the (camera|phone|page)|it|{o}) upside down( , (turn it|rotate it|correct it|fix it)|)|upside down( please|)|(180|180°|180 degrees)( please| rotation|)|half a turn( please|)|half turn( please|)|(halfway round|two quarter turns|two times 90 degrees|by π|twice 90 degrees|half a circle round)( please|)|the bottom (should be|belongs|must be) on top and the left (side |)(on the |)right, (rotated|turned round|by turning it)|"
        "{o} (should|must) (stand|be) on its head|(everyone|everything|everybody|the people|the trees|the houses) should (hang|stand) (upside down|head down|on their heads)|the (top|sky|ceiling|roof|head) (should be|belongs|goes|must be) (at the bottom|below|down) (, turned not mirrored|, rotate it)|as (if|though) (standing on my head|doing a headstand|hanging upside down|held upside down|seen from australia)|head over heels|upside down, (not mirrored|turned)|{o} the other way up( please|)|(rotation|angle|rotate): (180|180 degrees|180°))",
        chinese="(((把|将|让|对){o}|{o}|)(旋转|转|转动|翻转)(180度|一百八十度|180°|半圈|180)(一下|)|(旋转|转动|转)({o}|)(180度|180°|半圈|一百八十度)|((把|将|让|使){o}|{o}|)(倒过来|颠倒过来|倒立|倒置|头朝下|倒着放|掉个头|转半圈|脚朝上|倒过来放)|(倒立|倒置|颠倒|180度旋转|旋转180度)(效果|处理|)|{o}(拍|放|扫描|弄)倒了，(转过来|旋转180度|倒过来|转正)|(倒过来|颠倒)(看|放|显示)?({o}|))",
    ),
    "match_colors": Words(
        be="",
        do="((use|take|borrow|copy|adopt|apply|steal|transfer|grab|reuse|import|pick up) the (same |)"
        + _PALETTE
        + " (of|from|in|of) "
        + _SECOND
        + "( for "
        + _FIRST
        + "| on "
        + _FIRST
        + "| in "
        + _FIRST
        + "|)|"
        "(match|adapt|adjust|fit|align|shift|tune|change|equalize|conform) the "
        + _PALETTE
        + " (of "
        + _FIRST
        + " |)(to|with|to those of|to the ones of|to what is in) "
        + _SECOND
        + "|(match|copy|imitate|follow|adopt|mimic|reproduce) the "
        + _PALETTE
        + " (of|in) "
        + _SECOND
        + "|"
        "(color match|colour match|color-match|color grade|colour grade|grade|recolor|recolour|tone|color correct|harmonize) "
        + _FIRST
        + " (like|to match|to fit|after|with|in the "
        + _PALETTE
        + " of|with the "
        + _PALETTE
        + " of|according to|based on|to go with) "
        + _SECOND
        + "|"
        "(give|lend) "
        + _FIRST
        + " the (same |)"
        + _PALETTE
        + " (of|from|as|as in|that are in) "
        + _SECOND
        + "|(transfer|copy|move|carry over|bring|apply|send) the "
        + _PALETTE
        + " (from|of) "
        + _SECOND
        + " (to|onto|over to) "
        + _FIRST
        + "|"
        "(make|let|have) the "
        + _PALETTE
        + " (of "
        + _FIRST
        + " |)(match|look like|resemble|follow|fit|agree with|go with|be like in) (those of |that of |)"
        + _SECOND
        + "|let "
        + _SECOND
        + " (decide|set|define|determine|guide|dictate) the "
        + _PALETTE
        + "( of "
        + _FIRST
        + "|)|"
        "(make|get|have) "
        + _FIRST
        + " (match|fit|resemble|look like|look like it belongs with) "
        + _SECOND
        + " in (color|colour|tone|mood|its colors|its palette|terms of color)|(do|perform|run) a (color|colour) (transfer|match|matching|grade) (from|with|based on) "
        + _SECOND
        + "|(take|use) "
        + _SECOND
        + " as (the |a |)(color|colour|palette|tone) (reference|guide|source|template)|(paint|colour|color|recolor|bathe) "
        + _FIRST
        + " in the "
        + _PALETTE
        + " of "
        + _SECOND
        + ")",
        get="(the (same |)"
        + _PALETTE
        + " (of|from|as in|that "
        + _SECOND
        + " has|in) "
        + _SECOND
        + "|an? (color|colour) (match|transfer|grade|grading) (from|with|like|based on|to) "
        + _SECOND
        + "|"
        + _PALETTE
        + " like (in |)"
        + _SECOND
        + "|an? (palette|tone|mood|colour scheme) (that matches|matching|borrowed from|taken from|copied from) "
        + _SECOND
        + ")",
        say="("
        + _FIRST
        + " should (have|get|use|share) the (same |)"
        + _PALETTE
        + " (of|as|from) "
        + _SECOND
        + "|the "
        + _PALETTE
        + " (of "
        + _FIRST
        + " |)should (match|come from|be taken from|look like|be the same as) "
        + _SECOND
        + "|same "
        + _PALETTE
        + " as (in |)"
        + _SECOND
        + "( please|)|(i want|i need|i'd like) the "
        + _PALETTE
        + " (of|from) "
        + _SECOND
        + "( in "
        + _FIRST
        + "|)|"
        "(i like|i love|i prefer) the "
        + _PALETTE
        + " (of|in) "
        + _SECOND
        + " , (use them|use that here|give "
        + _FIRST
        + " the same|copy it|take them over|do the same with "
        + _FIRST
        + ")|both (images|pictures|photos) should have the same "
        + _PALETTE
        + " , (follow|use|take) "
        + _SECOND
        + "|"
        + _FIRST
        + " in the "
        + _PALETTE
        + " of "
        + _SECOND
        + "|"
        + _FIRST
        + " with the "
        + _PALETTE
        + " (of|from) "
        + _SECOND
        + "|color (grade|match) like "
        + _SECOND
        + "|"
        + _SECOND
        + " has the (right|better|nicer) "
        + _PALETTE
        + " , (use|copy|take over) (them|it|that))",
        chinese="((参考|按照|根据|照着|依照|模仿|学习|仿照)"
        + _SECOND_ZH
        + "的"
        + _PALETTE_ZH
        + "(，|来|)(调整|修改|调色|处理|改)("
        + _FIRST_ZH
        + "|)|(参考|使用|采用|用|套用|借用|匹配|复制)"
        + _SECOND_ZH
        + "的"
        + _PALETTE_ZH
        + "|(把|将)"
        + _SECOND_ZH
        + "的"
        + _PALETTE_ZH
        + "(用到|应用到|迁移到|转移到|套到|给)"
        + _FIRST_ZH
        + "(上|)|"
        "(让|使|把|将)"
        + _FIRST_ZH
        + "的"
        + _PALETTE_ZH
        + "(和|跟|与)"
        + _SECOND_ZH
        + "(一致|一样|相同|匹配|统一)|(把|将)"
        + _FIRST_ZH
        + "(调成|改成|变成|调色成)"
        + _SECOND_ZH
        + "的"
        + _PALETTE_ZH
        + "|"
        + _FIRST_ZH
        + "的"
        + _PALETTE_ZH
        + "(参考|匹配|改成|用)"
        + _SECOND_ZH
        + "(的|)|(给|为)"
        + _FIRST_ZH
        + "(用上|换上|加上)"
        + _SECOND_ZH
        + "的"
        + _PALETTE_ZH
        + "|以"
        + _SECOND_ZH
        + "为(参考|准)(调色|调整颜色|统一色调))",
    ),
}

BORDER = Words(
    be="(framed (in|with|by) {c}|bordered (in|with|by) {c}|{c}-framed|{c} framed|surrounded by {c}|edged (in|with) {c}|outlined in {c}|{c} (around|at|along) the (edges|border|outside|rim)|enclosed in {c})",
    do="((add|put|draw|place|paint|make|create|insert|apply|set|wrap|attach) (an? |some |)(thick |thin |solid |wide |simple |nice |plain |)({c}|{c} coloured|{c} colored) (frame|border|edge|outline|edging|rim|margin|passe-partout|stripe|surround|band|picture frame|photo frame)( around {o}| to {o}| on {o}| at the edges| all around| along the edges| all the way round| around the outside|)|"
    "(frame|border|surround|enclose|edge|outline|box|rim|wrap|encircle|trim) {o} (in|with|by|with an?|in an?|inside an?) (solid |thick |plain |)({c}|{c} color|{c} colour|{c} frame|{c} border|{c} edge|{c} line|{c} box|{c} margin)|(colour|color|paint|make|turn|fill) the (edges|border|frame|outside|rim|margin|borders|outer edge|edge)( of {o}|) {c}|(put|place|set|hang) {o} (in|into|inside|within|on) an? {c} (frame|border|box|picture frame|mat|background frame|photo frame)|give {o} an? (thick |thin |nice |)({c}) (frame|border|edge|outline|edging|rim|margin|surround))",
    get="(an? |)({c}) (frame|border|edge|outline|edging|rim|margin|picture frame|photo frame|passe-partout|surround)",
    say="((an? |the |)(frame|border) , and make it {c}|{c} is (what i want|how i want|what|the color i want) the (border|frame) to be|(the |an? |)(frame|border) around {o} , {c}( please|)|{c} , that is the (color|colour) for the (frame|border)|all around {o} , an? (frame|border) , {c}|{c} , the (border|frame)|({o} (needs|wants|should have|could use|deserves|gets) (an? |)({c}) (frame|border|edge|outline|rim|margin))|(frame|border|edges|outline|edge|rim|margin)( color| colour|): {c}|{c} (frame|border|edge|outline|edges|rim|margin|borders)( please| around {o}| all around|)|(an? |)(frame|border|edge|outline) in {c}|(i want|i need|i'd like) ({c}) (edges|borders)( around {o}|)|(frame|border) , {c}( please|)|{c} all around (it|the (picture|photo|image)))",
    chinese="(((给|为){o}|在{o}上|)(加|添加|加上|画|画上|做)(一个|一圈|个|)({c})(的|)(边框|相框|框|边|外框|框子|画框|边缘)|(加|添加|加上|画)(一个|一圈|个|)({c})(的|)(边框|相框|框|外框|画框)|({c})(的|)(边框|相框|外框|画框|框)|(用|拿)({c})(的|)(边框|框|相框|外框)?(围|框|包|装)(住|起来|上|起)({o}|)|(边框|相框|边缘|外框)(用|是|为|改成|涂成|变成)({c})|(把|将){o}(放进|装进|框进)({c})(的|)(相框|框|画框)(里|中|))",
)

TINT = Words(
    be="({c}|{c}-ish|{c}ish|{c} tinted|{c}-tinted|tinted {c}|all {c}|a bit {c}|more {c}|slightly {c}|{c} toned|{c} all over|{c} in tone|bathed in {c}|covered in {c}|washed in {c}|in {c} tones|in {c} light|like (seen )?through {c} (glass|glasses|sunglasses|foil|film))",
    do="((tint|tone|colour|color|dye|stain|wash|shade|tinge|bathe|drench|flood|cover|overlay|fill|paint|soak|hue) {o} (in |with |in an? |with an? |)({c}|{c} light|{c} tint|{c} color|{c} colour|{c} tone|{c} tones|{c} wash|{c} overlay)|(add|apply|put|lay|use|overlay|place|throw|cast) (an? |some |)(light |slight |strong |transparent |subtle |soft |)({c}|{c} coloured|{c} colored|{c}ish) (tint|tone|filter|overlay|cast|wash|hue|color filter|colour filter|light|layer|color cast|colour cast|veil|film|glow|gel|shade|tinge|color overlay)( over {o}| to {o}| on {o}| on top| all over {o}| across {o}| onto {o}|)|"
    "(give|lend) {o} an? (light |slight |strong |overall |soft |)({c}|{c}ish) (tint|tone|cast|hue|wash|colour cast|color cast|glow|shade|look|tinge|mood|touch)|(turn|make|shift|push|tilt) {o} ({c}|{c}-ish|{c}ish|to {c}|towards {c}|more {c})|(mix|blend|bring) (some |more |a bit of |)({c})( into {o}| in| with {o}|)|(make|let) (it all|everything|all of it|the whole (thing|picture|photo)) (look |be |appear |)({c}|{c}ish|{c}-ish)|shine (an? |){c} light (on|over) {o})",
    get="(an? |some |)(slight |strong |light |)({c}) (tint|tone|filter|overlay|cast|wash|hue|color cast|colour cast|color filter|colour filter|light|glow|veil|layer|shade|color overlay|tinge|mood)",
    say="(({o} (needs|wants|should have|could use|should get) (an? |some |more |)({c}) (tint|tone|cast|hue|light|overlay|filter))|(tint|filter|overlay|tone|hue|color filter)( color| colour|): {c}|{c} (tint|filter|overlay|tone|hue|light|cast|wash|glow)( please| over everything| all over|)|(an? |)(tint|filter|overlay|wash|tone) (in|of) {c}|{o} should (be|look|appear|become) ({c}|{c}ish|{c}-ish|tinted {c}|more {c})|as if (seen )?through {c} (glass|glasses|foil|sunglasses)|as if lit by (an? |){c} (light|lamp|neon)|{c} everywhere|more {c})",
    chinese="(((给|为){o}|在{o}上|)(加|添加|加上|罩|叠加|盖)(一层|一个|)({c})(的|)(色调|滤镜|滤色|光|蒙版|薄纱|色罩|叠加)|(加|添加|加上|叠加|使用)(一层|一个|个|)({c})(的|)(色调|滤镜|滤色|光|蒙版|叠加)|({c})(的|)(色调|滤镜|滤光|叠加|色偏)|(把|将|让|使){o}(整体|全部|)(染成|变成|偏|染|调成|变得偏|带点)({c})(色调|一点|)|(整体|全部|画面)(偏|染成|变成)({c}))",
)

COLOUR_WORDS: dict[str, tuple[str, str]] = {
    "white": ("(white|white|snow white|pure white|ivory)", "(白色|白|纯白|纯白色)"),
    "black": ("(black|black|jet black|pure black|pitch black)", "(黑色|黑|纯黑|纯黑色)"),
    "red": ("(red|red|red|crimson|scarlet|bright red|dark red|ruby)", "(红色|红|大红|鲜红色|红彤彤)"),
    "green": ("(green|green|green|emerald|bright green|grass green|forest green)", "(绿色|绿|翠绿|草绿色)"),
    "blue": ("(blue|blue|blue|navy|navy blue|bright blue|azure|royal blue|sky blue)", "(蓝色|蓝|天蓝|深蓝色|湛蓝)"),
    "yellow": ("(yellow|yellow|yellow|lemon|lemon yellow|bright yellow)", "(黄色|黄|柠檬黄|明黄色)"),
    "orange": ("(orange|orange|orange|tangerine|bright orange)", "(橙色|橙|橘色|橘黄色|橘)"),
    "purple": ("(purple|purple|purple|violet|lilac|magenta-purple|dark purple|lavender)", "(紫色|紫|紫罗兰|深紫色)"),
    "pink": ("(pink|pink|pink|rose|rosy|hot pink|light pink)", "(粉色|粉红|粉红色|粉)"),
}

SQUARE = Words(
    be="",
    do="((put|draw|add|place|paint|insert|set|stick|include|make|create|render|show|overlay|paste|stamp|lay|position|drop|print) (an? |an? |an? |one |)(solid |filled |filled-in |plain |simple |full |flat |big |small |opaque |little ||||)({c}|{c}|{c}|{c} coloured|{c} colored|{c}-filled) (square|square|square|box|block|patch|tile|quadrat|square shape|square patch|square block|square box) {p}|"
    "(put|draw|add|place|paint|insert|make|create|overlay|show) (an? |one )(solid |filled |plain ||)(square|square|box|block|square patch) {p} (in |filled with |that is |and fill it with |and make it |and paint it |and colour it |of colour |in the color ){c}|(put|draw|add|place|paint|insert|make) (an? |one )(solid |filled |)(square|box|block) (in|of|filled with|painted) {c} {p}|"
    "(fill|cover|paint|colour|color) (a|one) (square|square area|square region|square patch|square spot|square part) {p} (with |in |with the color |with solid |){c}|{p} , (put|draw|add|place|paint|insert|make|create|show) an? (solid |filled |plain |)({c}) (square|square|box|block|patch)|(let|have) an? ({c}) (square|box|block) appear {p}|(mark|decorate) {o} (with|by) an? (solid |filled |)({c}) (square|box|block|patch) {p})",
    get="(an? |an? |one )(solid |filled |plain |simple |full |big |small |||)({c}|{c}|{c} coloured|{c}-filled) (square|square|square|box|block|patch|tile|square shape|square block) {p}",
    say="({p} , an? square , {c}|{p} , an? (square|box|block) , and make it {c}|an? (square|box|block) , {c} , {p}|{c} is what i want the (square|box) {p} to be|{c} , {p} , an? (square|box|block)|(an? |)({c}|{c}|solid {c}|filled {c}) (square|square|box|block|patch) {p}( please|)|(an? |)({c}|{c}|{c} coloured) (square|square|box|block) , {p}( please|)|there (should|must) be an? ({c}|filled {c}) (square|box|block|patch) {p}|{o} (should have|needs|gets|wants|could use|must have) an? ({c}|filled {c}|solid {c}) (square|box|block|patch) {p}|"
    "(i want|i need|i would like|i'd like|i wish for|i want to see|i would like to see|i'd like to see) an? ({c}|filled {c}|solid {c}) (square|box|block|patch) {p}|(square|box) {p} , {c}( please|)|{p}: (an? |)({c}) (square|box|block)|{p} (i want|i need|there should be|goes|comes) an? ({c}) (square|square|box|block)|(shape: |)square , (colour|color|fill): {c} , (position|place|where): {p})",
    chinese="((在|在|在|往|)({o}的|{o}|){p}(的位置|处|)(画|加|放|添加|画上|加上|放上|放置|贴|插入|来|绘制)(一个|一个|一个|个|一块|)(实心|填充的|小|大|纯色||||)({c})(的|)(方块|方块|正方形|正方形|方形|色块|小方块|方格)|(画|加|放|添加|绘制|来)(一个|一个|个|一块)(实心|填充的||)({c})(的|)(方块|正方形|方形|色块)(在|到|，位置在|，放在)({o}的|{o}|){p}|(把|将)(一个|一块)({c})(的|)(方块|正方形|色块)(放在|放到|贴到|画在|加到)({o}的|{o}|){p}|"
    "({o}的|{o}|){p}(要有|应该有|需要|需要有|想要)(一个|个|一块)({c})(的|)(方块|正方形|色块)|({c})(的|)(方块|正方形|色块)(，|，放在|，画在|在){p}|{p}(，|：|)(一个|)({c})(的|)(方块|正方形|色块)|用({c})(填充|涂满|盖住)({o}的|{o}|){p}的(一个|一块|)(方块|正方形|方形区域))",
)


def _corner(vertical: str, horizontal: str, where: str, compass: str) -> str:
    """The ways to name a corner, its preposition included."""
    pair, swapped = f"({vertical})( |-| |){horizontal}", f"{horizontal}( |-| )({vertical})"
    first = vertical.partition("|")[0]
    corner = "( corner| corner|-hand corner| hand corner| part| area| quarter| region|||)( of {o}||)"
    return (
        f"((in|in|at|into|to|on|near|inside) the {pair}{corner}|(in|in|at|into|to) the {pair} corner|(in|at|into) the {swapped}( corner)?( of {{o}}|)|"
        f"at the {first}(, on the| on the|, to the| to the| and on the|,) {horizontal}( side|)( of {{o}}|)|(on|to) the {horizontal}( side|) (at|near|towards) the {first}( of {{o}}|)|"
        f"(in|into) the corner( at the|,| on the) {first} {horizontal}|(in|into) the {horizontal}(-hand|) corner (at the {first}|{where} there|all the way {where})|"
        f"{pair}( corner|)|{pair}( corner|)|{swapped}( corner|)|{where} (on the|to the|in the|at the) {horizontal}|{where} {horizontal}|(in|at) the {compass} corner|where the {first} and the {horizontal} edge meet)"
    )


def _corner_zh(vertical: str, horizontal: str) -> str:
    return f"({horizontal}{vertical}角|{horizontal}{vertical}角|{horizontal}{vertical}方|{horizontal}{vertical}|{horizontal}{vertical}边|{vertical}面{horizontal}边|{horizontal}边{vertical}面|{horizontal}{vertical}角落|{vertical}方{horizontal}侧|{horizontal}侧{vertical}方)"


PLACE_WORDS: dict[str, tuple[str, str]] = {
    "center": (
        "((in|in|in|at|into|to|on|inside) the (very |exact |dead |)(middle|middle|centre|center)( of {o}| of {o}||)|(in|at|into) the (central|middle) (part|area|region|spot|position)( of {o}|)|right in the (middle|centre|center)( of {o}|)|(middle|centre|center|central)|"
        "(centered|centred|centrally|dead center|in a central position|midway between all edges|in the midst of {o}|at its (center|centre)|in its (middle|center|centre)|at the (center|middle) point))",
        "(中间|中间|中央|中央|正中间|正中央|中心|中心位置|正中|中部|正中心|最中间)",
    ),
    "top_left": (_corner("top|upper", "left", "up", "(north-west|northwest)"), _corner_zh("上", "左")),
    "top_right": (_corner("top|upper", "right", "up", "(north-east|northeast)"), _corner_zh("上", "右")),
    "bottom_left": (_corner("bottom|lower", "left", "down", "(south-west|southwest)"), _corner_zh("下", "左")),
    "bottom_right": (_corner("bottom|lower", "right", "down", "(south-east|southeast)"), _corner_zh("下", "右")),
}


@dataclass(frozen=True)
class Complaint:
    """What is wrong with a picture that an edit would mend, and what to do then."""

    bad: str  # "it is too ..."
    good: str  # "it is not ... enough"
    mend: str  # "..., it is too dark"
    bad_zh: str
    mend_zh: str


COMPLAINTS: dict[str, Complaint] = {
    "brighter": Complaint(
        bad="(dark|dark|dim|gloomy|murky|underexposed|black|shadowy|low in light|poorly lit|dusky)",
        good="(bright|bright|light|lit|luminous|exposed)",
        mend="(brighten it|brighten it up|make it brighter|lighten it|light it up|lift it|add light|add some light|more light|give it more light|turn up the light|raise the exposure|raise the brightness|brighter please|up the brightness|i want it brighter|let there be light|lift the shadows)",
        bad_zh="(暗|黑|昏暗|阴暗|黑暗)",
        mend_zh="(调亮|提亮|弄亮|亮|加亮)(一点|一些|点|些|)",
    ),
    "darker": Complaint(
        bad="(bright|bright|light|overexposed|glaring|blown out|dazzling|blinding|brightly lit|white and glaring)",
        good="(dark|dark|dim|gloomy|shadowy)",
        mend="(darken it|darken it a bit|make it darker|dim it|tone it down|take some light away|less light|give it less light|turn the light down|lower the exposure|lower the brightness|reduce the brightness|bring it down|darker please|i want it darker|dim the light)",
        bad_zh="(亮|刺眼|明亮|耀眼|亮得刺眼)",
        mend_zh="(调暗|压暗|弄暗|暗|变暗)(一点|一些|点|些|)",
    ),
    "contrast": Complaint(
        bad="(flat|flat|washed out|hazy|milky|foggy|low in contrast|faded|soft in contrast|even in tone|weak in contrast)",
        good="(contrasty|contrasty|punchy|dramatic|striking|strong in contrast)",
        mend="(add contrast|increase the contrast|more contrast|give it (more |)punch|make it punchier|boost the contrast|more punch|raise the contrast|deepen the blacks|make it pop more in contrast|strengthen the contrast|give it more bite|stretch the tones|contrast up)",
        bad_zh="(平|灰|平淡|灰蒙蒙|没有层次|朦胧)",
        mend_zh="(加强对比|增加对比度|提高对比度|加点对比|对比强一点|加大反差)",
    ),
    "fade": Complaint(
        bad="(contrasty|contrasty|harsh|hard|punchy|stark|dramatic|high in contrast|strong in contrast|hard in its tones)",
        good="(faded|faded|flat|muted|pale|matte|hazy)",
        mend="(fade it|lower the contrast|reduce the contrast|less contrast|flatten it|flatten the tones|soften the contrast|make it flatter|take the punch out|wash it out|tame the contrast|make it paler|give it a matte look|contrast down)",
        bad_zh="(硬|强烈|生硬|刺激)",
        mend_zh="(降低对比度|柔和一点|减点对比|对比弱一点|减小反差|变淡一点)",
    ),
    "warmer": Complaint(
        bad="(cold|cold|cool|blue|bluish|chilly|icy|wintry|frosty|cold in its colors|blue-tinged)",
        good="(warm|warm|cozy|golden|sunny)",
        mend="(warm it up|warm it|make it warmer|add warmth|add some warmth|more warmth|give it warmth|heat it up|warm the tones|give it golden light|raise the color temperature|fix the white balance|warmer please|i want it warmer|bring in some sun)",
        bad_zh="(冷|蓝|偏蓝|冰冷|偏冷)",
        mend_zh="(调暖|暖|变暖|弄暖)(一点|一些|点|些|)",
    ),
    "cooler": Complaint(
        bad="(warm|warm|yellow|orange|yellowish|hot|golden|amber|orange-tinged|warm in its colors|yellow-orange)",
        good="(cool|cold|icy|wintry|crisp and cold)",
        mend="(cool it down|cool it|make it cooler|make it colder|chill it|less warmth|take the warmth out|cool the tones|give it a cold look|lower the color temperature|remove the warm cast|correct the white balance|cooler please|i want it colder|take the yellow out)",
        bad_zh="(暖|黄|橙|偏黄|偏暖)",
        mend_zh="(调冷|冷|变冷|弄冷)(一点|一些|点|些|)",
    ),
    "saturate": Complaint(
        bad="(dull|dull|drab|colorless|colourless|lifeless|desaturated|gray and dull|muted in color|pale in color|weak in color|poor in color|monotonous in color)",
        good="(colorful|colourful|vivid|saturated|vibrant|lively in color)",
        mend="(add color|boost the colors|more color|make the colours pop|more saturation|saturate it|make it more vivid|make it colorful|increase the saturation|bring out the colors|strengthen the colors|intensify the colours|richer colors please|liven up the colors|give it more color)",
        bad_zh="(单调|暗淡|素|不鲜艳|寡淡)",
        mend_zh="(鲜艳一点|增加饱和度|颜色浓一点|更鲜艳一些|提高饱和度|加点色彩)",
    ),
    "grayscale": Complaint(
        bad="(colorful|colourful|gaudy|garish|loud in color|multicolored|saturated|vivid|bright in its colors|full of color)",
        good="(gray|grey|colorless|monochrome|black and white)",
        mend="(remove the color|make it black and white|take all the color out|desaturate it|turn it gray|no color please|make it gray|drop the colors|black and white please|make it grayscale|i want it colorless|lose the color|get rid of the colours|go monochrome)",
        bad_zh="(花|花哨|鲜艳|艳丽|五颜六色)",
        mend_zh="(变成黑白|去掉颜色|去色|改成灰度|转成黑白|不要颜色)",
    ),
    "blur": Complaint(
        bad="(sharp|sharp|crisp|detailed|hard-edged|razor sharp|clear|well focused|in focus)",
        good="(blurry|blurry|blurred|soft|fuzzy|out of focus)",
        mend="(blur it|soften it|make it blurry|smooth it|defocus it|add blur|blur it a bit|soft focus please|make it fuzzy|take the sharpness out|hide the details|lower the sharpness|i want it blurred|reduce the sharpness|throw it out of focus)",
        bad_zh="(清晰|锐利|锐|清楚)",
        mend_zh="(模糊|虚化|弄糊|柔化)(一点|一些|点|一下|)",
    ),
    "sharpen": Complaint(
        bad="(blurry|blurry|soft|fuzzy|unsharp|out of focus|blurred|smeared|indistinct|unclear|soft in its details)",
        good="(sharp|sharp|crisp|clear|focused|in focus|defined)",
        mend="(sharpen it|make it sharper|make it crisp|crispen it|refocus it|get it in focus|bring out the details|make it clear|add sharpness|more sharpness|increase the sharpness|remove the blur|deblur it|sharper please|i want it crisp|sharpen the edges)",
        bad_zh="(模糊|糊|虚|不清晰)",
        mend_zh="(锐化|变清晰|弄清晰|清晰|锐利)(一点|一些|点|一下|)",
    ),
}
_TOO = "(too|too|far too|much too|way too|a bit too|a little too|overly|so|very|rather|really|awfully|terribly|simply too|just too|still too|quite)"
_LOOKS = "(is|is|looks|came out|turned out|seems|appears|feels|has become|got|is looking|ended up)"
_SUBJECT = "(it|it|this|{o}|{o}|the (whole thing|result|scan|snapshot)|this one|my shot|all of it)"
# What may be said without naming the edit: the complaint alone has to be understood.
_SOMEHOW = "(do something about it|do something about that|fix it|fix that|please fix this|correct that|correct it|help|can you help|change that|improve it|that has to change|please change that|i don't like that|repair it|sort it out|see to it|can you do something|what can you do|take care of that|mend it)"
# {b} what is wrong, {g} what would be right, {m} how to mend it.
COMPLAINT_FRAMES = (
    f"{_SUBJECT} {_LOOKS} {_TOO} {{b}}(, |, |; |. | and |, so |, please | - |... ){{m}}",
    f"{_SUBJECT} {_LOOKS} {_TOO} {{b}}(, |; |. |, so |, please | - ){_SOMEHOW}",
    f"{_SUBJECT} {_LOOKS} (too|far too|much too|way too|a bit too|a little too|overly|still too) {{b}}( for me| for my taste| to print| like this||)",
    "(far |much |way |a bit |)too {b}(, |. |; |! | - ){m}",
    f"(far |much |way |a bit |)too {{b}}(, |. |! ){_SOMEHOW}",
    "{m}(, |; |. | because | since |, as | - )(it is|it's|it looks|this is|{o} is|everything is|it came out) (too|far too|much too|way too|a bit too|so|overly) {b}",
    f"{_SUBJECT} (is|looks|seems|came out) not {{g}} enough(, |. | and |; ){{m}}",
    f"{_SUBJECT} (is|looks|seems|came out) not {{g}} enough(, |. |; ){_SOMEHOW}",
    "{m}(, |. |; )(it is|it's|this is|{o} is) not {g} enough",
    f"(why is {_SUBJECT}|how come {_SUBJECT} is) (so|this|too) {{b}}?( {{m}}| {_SOMEHOW})",
    f"i (find|think) (it|this|{{o}}) {_TOO} {{b}}(, |. | - )({{m}}|{_SOMEHOW})",
    "(it|this|{o}) should(n't| not) be (so|this|that) {b}(, |. | - |; ){m}",
    "{b} as it is now, {m}",
)
COMPLAINT_FRAMES_ZH = (
    "(这张图|照片|图片|画面|它|这个|整体|)(太|太|过于|有点太|有些|实在太|看起来太|显得太){b}(了|了|)(，|，请|，帮我|。|，麻烦){m}",
    "{m}(，|吧，)(这张图|照片|图片|画面|它|)(太|有点太|实在太){b}了",
    "(这张图|照片|图片|画面|它|这个)(太|有点太|实在太){b}了(，想想办法|，处理一下|，改一下|，帮我修一下|，修正一下|)",
)

# What people say around a command. None of it asks for an edit, though it may use the words of one.
CONTEXT = {
    "j": "(|||||new|little|first|next|yearly|yellow|red|blue|green|white|pink|orange|purple|black|gray|square|round|dark|bright|warm|cold|old|sharp|faded|blurry-looking|black and white)",
    "t": "(birthday card|wedding invitation|poster|flyer|brochure|calendar|postcard|menu|newsletter|magazine|catalog|catalogue|website|blog|banner|slide|presentation|school project|thesis|report|essay|book cover|album|photo book|scrapbook|diary|passport form|profile|dating profile|linkedin page|store page|shop listing|auction|portfolio|exhibition|gallery|newspaper|leaflet|handout|worksheet|thumbnail|video|podcast cover|record sleeve|mug|t-shirt|tote bag|cushion|puzzle|sticker|label|badge|ticket|certificate|folder|notebook|envelope|locker|fridge|wallpaper|lock screen|avatar|tattoo sketch|recipe|memorial page|obituary|guest book|thank-you note|christmas card|valentine|bookmark|map|signpost|bulletin board|noticeboard|intranet|app|game|storybook)",
    "e": "(birthday|wedding|funeral|anniversary|graduation|baptism|christening|baby shower|housewarming|reunion|farewell|retirement party|garden party|carnival|halloween party|christmas dinner|easter brunch|new year's party|book club|choir|bake sale|flea market|fundraiser|conference|workshop|open day|job fair|marathon|tournament|football match|school play|concert|festival|parade|art class|science fair|photo contest|staff meeting|lecture|picnic)",
    "l": "(kitchen|hallway|office|living room|bedroom|nursery|bathroom|waiting room|classroom|library|cafe|bakery|restaurant|hotel|church|museum|town hall|clinic|dentist's|garage|workshop|barn|cellar|attic|staircase|lobby|shop window|club house|gym|pharmacy|train station|airport|community center|square in front of town hall|beach house|cottage|red barn|white chapel|green door|blue room|black market|orange tent)",
    "w": "(my (aunt|uncle|mother|mom|dad|father|grandma|grandfather|sister|brother|son|daughter|wife|husband|boss|neighbor|teacher|friend|cousin|colleague|landlord|roommate|girlfriend|boyfriend)|the (client|customer|editor|printer|principal|coach|bride|director|publisher|committee|doctor|curator)|our (pastor|trainer|team|designer|secretary|tutor)|she|he)",
    "f": "(sofa|armchair|piano|bookshelf|fireplace|mirror|clock|vase|window|curtain|wardrobe|desk|lamp|carpet|aquarium|bed|cupboard|fridge|map|door|radiator|bench|mailbox|fountain|statue|staircase)",
    "v": "(paris|rome|norway|the alps|the park|the zoo|the lake|the harbor|the market|my garden|a village|the fair|the station|our street|the seaside|a museum|scotland|my grandparents' house|the mountains|the playground|a farm|an island|the forest|lisbon|kyoto|chicago)",
    "y": "(last week|yesterday|last summer|in may|two years ago|on sunday|this morning|during the holidays|at noon|at night|in winter|on a trip|in autumn|when i was a student|a while back|in 1998|at sunset)",
    "m": "(phone|old phone|camera|father's camera|tablet|drone|webcam|new lens|disposable camera|scanner|film camera|cheap camera)",
    "u": "((for|for|for|for use in|meant for|to go with) (my|our|the|an?|his|her|their) {j} {t}|for (my|our|the|his|her|their|a friend's) {e}|for the {l}|for (the |my |our |){e} {t}|to (hang|put up|show) (in|near) the {l}|to go next to the {j} {f})",
    "r": "((because|since|as|because|given that) {w} (likes {z}|loves {z}|collects {z}|hates {z}|asked for it|asked|insists|prefers it|told me to|wants it that way|cannot see well|forgot {h} glasses|is {i}|said so|is coming over|is in a hurry))",
    "h": "(the|those)",
    "i": "(waiting|picky|colorblind|visiting|an artist|very old|a painter|getting married|moving out|turning fifty|in hospital)",
    "z": "({j} {f}s|lilies|roses|postcards|stamps|trains|old photos|old films|jazz|poetry|lemons|foggy days|candles|sunsets|magazines|surprises|snow|autumn|coffee|puzzles|cats|the sea|windows|picture frames|paintings|squares on a shirt|stripes)",
    # Whole sentences, good before and after.
    "s": "((it's|it is|this is|that's|the picture is|it will be) {u}|i (need|want|use|will use) (it|this one|the result) {u}|(we|i|they) (want|plan|hope|are going) to (print it on|glue it on|put it on|send it with|upload it to|use it in) (an?|my|our|the) {j} {t}|(i|we|{w}) (took|shot|snapped|made|found) (it|this one|that) (in|in|near|around) {v} (with (my|an old|a borrowed|his) {m} |){y}|(it|this) was taken (in|near) {v} (by {w} |){y}|the original came from (an old {t}|my {m}|{v}|a box in the {l}|an? {j} {t}|{w})|"
    "{w} (sent it to me|gave it to me|found it|took it|will see it|showed it to me|is on it|asked about it) {y}|it (goes|will hang|will stand|hangs) (next to|above|beside|behind|opposite) the {j} {f}( in the {l}|)|(the (lamp|light|flash|heater|tv) was (on|off)|it was a (foggy|sunny|rainy|gray|cold|warm|bright|dark|windy|snowy) (morning|day|evening|afternoon)|it was (raining|snowing|getting late|windy|hot) {y}|the (sun|moon) was (out|behind us|low)|the {f} was {k}|we had {k} (shirts|hats|coats|umbrellas|balloons))|"
    "the {e} is (tomorrow|next week|on friday|in june|tonight|soon)|{w} (is waiting|has a {e} soon|is getting an? {t}|works at the {l}|will be so happy|is printing an? {t})|(we|i) (are redoing|just painted|are furnishing) the {l}|(i am|i'm) (making|working on|finishing|designing) (an?|my|our|the) {j} {t}|there (is|will be) (an?|an exhibition at an?) {l} (with {k} walls|down the street)|(the|our) {l} has {k} (walls|tiles|doors|chairs)|i know (little|nothing) about (photos|editing|computers)|i have (no idea how this works|never used this before|five minutes|a small question))",
    "k": "(red|blue|green|yellow|white|black|pink|orange|purple|gray|brown|golden)",
    # Before and after only.
    "a": "(ok so|right|hmm|um|well|so|alright|listen|hey there|good morning|good evening|dear editor|excuse me|sorry to bother you|if it's not too much trouble|whenever you have a minute|when you get a chance|if you don't mind|if possible|be so kind|oh and|by the way|quick one|just a thought|i was wondering|as discussed|to be honest|yo|lol ok|hi friend|greetings|one small favor|sir)",
    "b": "(kindly to do the needful|pls can u do this|please to make so|i want that you do this|my request is|here is what i need|what i have in mind|{w} (would like this|says|asks|wants this|told me to write|wrote to me|asked for the following)|the (task|order|wish|brief) of {w}|for {w}|can u pls|need help with this|my idea|could you do me a favor|i'd be grateful for this)",
    "d": "(if it's not too much trouble|whenever you have a minute|i'd be (so |very |)grateful|if you don't mind|when you get a chance|no rush|thanks in advance|many thanks|that would be (great|lovely|wonderful|perfect)|would be awesome|sir|my friend|you're the best|if that's ok|if that makes sense|cheers|i guess|or so i was told|says {w}|{w} would love that|hope that works|much appreciated|as you like|take your time|i owe you one)",
    "q": "((like|the way they do it|as you see it|just like) (in|on) (an?|an old|an?|my favorite) {t}( at the {l}|)|as if (a professional had done it|it came from an? (studio|{t})|it were {u}|{w} had made it)|like {w} (does|did) {y}|like the one (in|at) the {l}|like (on|in) the {t} of {w})",
}  # fmt: skip
CONTEXT_BEFORE = "({s}. |{s}. |{s}, so |{s}, |{s}; |{s} - |{s} and {s}. |{s}. {s}. |{r}, |{u}, |{u}: |{a}, |{a}, |{a}, {s}. |{b}: |{b}: |{s}. {b}: |{a}... )"
CONTEXT_AFTER = "( {u}| {u}|, {u}| {r}|, {r}| {r}, {d}|. {s}|. {s}|, {s}|; {s}| - {s}|. {s}. {s}|, {d}|. {d}|, {d}| {q}|, {q}| {q}, {d}|. {s}, {d}| {u}, {d})"
CONTEXT_ALONE = "({s}|{s}|{s}. {s}|{s}, {d}|{u}|{r}|{a}, {s}|{b}|{a}|{d}|{s} and {s})"
CONTEXT_ZH = {
    "w": "(我妈|妈妈|爸爸|奶奶|爷爷|老婆|老公|女朋友|男朋友|老板|客户|老师|同学|朋友|同事|儿子|女儿|姐姐|弟弟|领导|邻居|编辑)",
    "t": "(海报|头像|封面|明信片|生日贺卡|请柬|日历|相册|简历|论文|报告|课件|幻灯片|网站|公众号|博客|传单|菜单|杂志|壁纸|屏保|名片|书签|拼图|杯子|T恤|抱枕|贴纸|展板|宣传册|作业|视频封面|店铺首页|黄色文件夹|红色信封|蓝色笔记本|黑白杂志)",
    "e": "(婚礼|生日|毕业典礼|年会|聚会|展览|运动会|音乐会|春节|圣诞节|中秋节|满月酒|家长会|摄影比赛|开业|画展|纪念日)",
    "l": "(客厅|办公室|厨房|卧室|教室|咖啡店|餐厅|图书馆|书房|走廊|酒店|博物馆|广场旁边的店|白色的小屋)",
    "v": "(北京|上海|杭州|海边|公园|山上|动物园|老家|学校|车站|湖边|云南|巴黎|日本|村子里|花园)",
    "y": "(昨天|上周|去年|今天早上|暑假|前几天|国庆|冬天|晚上|中午|小时候)",
    "s": "((这是|这张是|是|)(用来做|要做|准备做){t}(的|用的)|(发朋友圈|发微博|发小红书|打印|做纪念|参赛|交作业)用的|(要|想|准备)给{w}看|{w}的{e}要用|{e}的时候要用|要挂在{l}(里|的墙上)|这是(我|{w}|我们){y}在{v}拍的|{y}用(旧手机|相机|无人机|手机|胶片机)拍的|原图是{w}发给我的|(那天|当时)(有雾|下雨|下雪|天很黑|太阳很大|很冷|很热|开着灯)|(因为|){w}(喜欢老照片|喜欢红色的沙发|眼睛不好|看不清|要求的|很着急|催我了|快要过{e}了|穿着蓝色衣服)|要放在(红色沙发|绿色书架|白色花瓶|方桌|钢琴|镜子)旁边|我不太会修图|我第一次用这个)",
    "a": "(你好|嗯|那个|老师好|不好意思打扰了|在吗|亲|麻烦了|有空的话|方便的话|如果可以的话|{w}说|{w}让我问一下|我的要求是|拜托)",
    "d": "(谢谢|多谢|辛苦了|不急|拜托了|感激不尽|有空再弄|麻烦你了|万分感谢|方便的话)",
}  # fmt: skip
CONTEXT_BEFORE_ZH = "({s}，|{s}，|{s}。|{a}，|{a}，{s}，|{s}，{s}。)"
CONTEXT_AFTER_ZH = "(，{s}|，{s}|。{s}|，{s}，{d}|，{d}|，因为是{w}的{e}|，像{t}上那样)"
CONTEXT_ALONE_ZH = "({s}|{s}。|{a}，{s}|{s}，{d}|{s}，{s})"
