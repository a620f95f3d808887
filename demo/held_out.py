"""Sentences written by hand for the evaluation. Training knows them only to leave them out."""

from __future__ import annotations

import re

SENTENCES: dict[str, tuple[str, ...]] = {
    "unchanged": (
        "Leave the photo exactly as it is.",
        "Don't do anything to this one.",
        "Just give me back the same picture.",
        "No edits needed here, thanks.",
        "什么都不要改",
    ),
    "grayscale": (
        "Take all the colour out of this photograph.",
        "I'd like this in black & white please",
        "convert to greyscale",
        "Drain the colors so that only shades of gray remain.",
        "Show me how it would look on an old monochrome TV",
        "请把这张照片变成黑白的",
    ),
    "invert": (
        "Flip every colour to its opposite.",
        "make it look like a film negative",
        "Invert the image colours",
        "Turn light areas dark and dark areas light, like a negative.",
        "I want the complementary colors of everything",
        "把颜色反转一下",
    ),
    "brighter": (
        "This shot is too dark, can you give it more light?",
        "Lighten up the photo a bit",
        "raise the exposure",
        "Please make everything brighter.",
        "Could use some more brightness, honestly",
        "图片太暗了，调亮一点",
    ),
    "darker": (
        "Tone down the light, it's overexposed.",
        "make this image darker",
        "Reduce brightness please",
        "The picture is way too bright, dim it.",
        "I would like it to look as if shot with less exposure.",
        "让画面暗一些",
    ),
    "contrast": (
        "Boost the contrast.",
        "The photo looks flat, give it more punch",
        "Make the darks deeper and the highlights stronger",
        "crank up the contrast a little",
        "Could you increase the difference between light and dark?",
        "增加对比度",
    ),
    "fade": (
        "Lower the contrast.",
        "give it a washed-out, faded look",
        "It's too harsh, soften the contrast",
        "Make the picture look flatter and paler.",
        "The midday sun made it so stark, could you ease the contrast off a bit?",
        "降低一点对比度",
    ),
    "warmer": (
        "Warm up the colours.",
        "Give the scene a cosy golden warmth",
        "The white balance is too cold, please fix it",
        "make the tones warmer, like at sunset",
        "shift the color temperature towards orange",
        "让色调暖一些",
    ),
    "cooler": (
        "Make it feel colder.",
        "Cool down the colour temperature",
        "The picture is too yellow, give it a colder white balance",
        "I want chilly, wintry tones",
        "shift the tones towards cool blue",
        "把色调调冷一点",
    ),
    "sepia": (
        "Make it look like a photograph from 1900.",
        "apply a sepia filter",
        "Give it that old brownish vintage tone",
        "Turn this into an antique sepia print",
        "I'd love an old-timey brown look",
        "做成复古的棕褐色照片",
    ),
    "blur": (
        "Make it blurry.",
        "Throw the whole picture out of focus",
        "soften the image with a gaussian blur",
        "Smear the details so that nothing is crisp",
        "Please blur this photo",
        "把图片模糊一下",
    ),
    "sharpen": (
        "Sharpen the details.",
        "It's a bit soft, can you make it crisper?",
        "enhance the sharpness of the photo",
        "Bring out the fine edges",
        "make everything look more crisp and defined",
        "让照片更清晰锐利",
    ),
    "pixelate": (
        "Turn it into pixel art blocks.",
        "Pixelate the photo",
        "make it look like an 8-bit game",
        "Show it as a coarse mosaic of squares",
        "censor the picture with big pixels",
        "给图片打上马赛克",
    ),
    "saturate": (
        "My garden looks drab here, can the flowers and everything else be more colourful?",
        "Increase saturation",
        "I want more vivid and intense colors",
        "The colors are dull, make them richer",
        "crank the vibrance up",
        "让颜色更鲜艳",
    ),
    "swap_red_blue": (
        "Swap the red and blue channels.",
        "exchange red with blue",
        "Turn everything red into blue and everything blue into red",
        "switch the R and B channels please",
        "交换红色和蓝色通道",
    ),
    "vignette": (
        "Add a vignette.",
        "Darken the corners and edges of the photo",
        "Put a dark fade around the outside so that the middle stands out",
        "give it a soft shadowed frame like an old lens",
        "添加暗角效果",
    ),
    "border_white": ("Put a white frame around it.", "add a border, white please"),
    "border_black": ("Surround the photo with a black border.", "I need a black edge around the image"),
    "border_red": ("Frame the picture in red.", "Give it a red outline all around"),
    "border_green": ("Add a green frame.", "a green border around the photo, please"),
    "border_blue": ("Draw a blue border around the image.", "给图片加一个蓝色边框"),
    "border_yellow": ("Put this in a yellow frame.", "I want yellow edges around the picture"),
    "border_orange": ("Add an orange border.", "Can you frame it with orange?"),
    "border_purple": (
        "Wrap a purple border around the picture.",
        "Make the rim of my photo purple, a finger wide",
    ),
    "border_pink": ("Give my photo a pink frame.", "加上粉色的边框"),
    "tint_red": ("Tint the whole picture red.", "make everything look reddish"),
    "tint_green": ("Lay a green tint over the photo.", "give it a greenish colour cast"),
    "tint_blue": ("Apply a blue colour filter.", "tint the image blue please"),
    "tint_yellow": ("Wash the picture in yellow.", "add a yellow tint"),
    "tint_orange": ("Put an orange overlay on it.", "tint this orange"),
    "tint_purple": ("Make it all purple-ish.", "apply a purple tint to the photo"),
    "tint_pink": ("Give the picture a pink tint.", "加一层粉色滤镜"),
    "posterize": (
        "Make it look like a screen-printed poster with only a few flat tones.",
        "simplify it to a few flat shades, like those political campaign posters",
        "cut the shading down to three or four hard steps",
        "Could you get rid of the smooth gradients and leave just a handful of levels?",
        "I'm after that banded poster effect where every area is one flat shade",
        "做成海报那种色调分离的效果",
    ),
    "flip_horizontal": (
        "Mirror the image so that left becomes right.",
        "my selfie came out mirrored, can you swap the left and right sides back?",
        "flip horizontally",
        "He is facing left, I need him facing right instead, just mirror the shot.",
        "Show it the way it would look in a bathroom mirror, please.",
        "把图片左右翻转",
    ),
    "flip_vertical": (
        "Mirror it top to bottom.",
        "flip vertically pls",
        "Reflect the picture like in a lake, with the top edge ending up at the bottom.",
        "Could you exchange top and bottom but keep left and right where they are?",
        "I need a vertical mirror image of this",
        "上下镜像翻转一下",
    ),
    "rotate_180": (
        "Rotate it by 180 degrees.",
        "give the photo half a turn",
        "I scanned this page the wrong way round, please turn it 180°.",
        "spin the image around halfway",
        "Would you rotate this picture twice by ninety degrees?",
        "把照片旋转一百八十度",
    ),
}

TWO_PICTURES: dict[str, tuple[str, ...]] = {
    "match_colors": (
        "Give the first picture the colours of the second one.",
        "make image 1 match the color palette of image 2",
        "I love the mood of the second photo, can you grade the first one the same way?",
        "Transfer the overall tones from picture 2 onto picture 1, please.",
        "color match the first to the second",
        "让第一张图的整体色调和第二张一样",
    ),
}

SQUARES: dict[str, tuple[str, ...]] = {
    "square_white_center": (
        "Put a white square right in the middle.",
        "cover the centre of the photo with a solid white square",
    ),
    "square_red_center": ("I want a red square at the center of the image.", "在图片正中间画一个红色方块"),
    "square_purple_center": ("draw a purple square, dead centre", "Could the middle get a filled square in purple?"),
    "square_black_top_left": (
        "Black out the top left corner with a square.",
        "a black square in the upper left, please",
    ),
    "square_yellow_top_left": ("Stick a yellow square into the upper left corner.", "左上角加个黄色的正方形"),
    "square_green_top_left": ("top left: green square", "Would you place a green square up in the left corner?"),
    "square_blue_top_right": (
        "Add a blue square at the top right.",
        "the upper right corner needs a solid blue square",
    ),
    "square_orange_top_right": (
        "Paint an orange square in the top right-hand corner.",
        "orange square, upper right",
    ),
    "square_white_top_right": ("Hide the logo at the upper right behind a white square.", "请在右上角放一个白色方块"),
    "square_pink_bottom_left": (
        "There should be a pink square in the lower left corner.",
        "drop a pink square bottom left",
    ),
    "square_red_bottom_left": (
        "Place a red square down in the left corner.",
        "fill a square at the lower left with red",
    ),
    "square_blue_bottom_left": ("can you draw me a blue square at the bottom left", "在左下角画一个蓝色的正方形"),
    "square_green_bottom_right": (
        "Put a filled green square in the bottom right corner.",
        "lower right corner, square, green",
    ),
    "square_black_bottom_right": (
        "Cover the date stamp at the bottom right with a black square.",
        "I'd like a black square in the lower right-hand corner",
    ),
    "square_yellow_bottom_right": (
        "Add a square to the lower right and make it yellow.",
        "右下角来一个黄色方块",
    ),
}

UNKNOWN: tuple[str, ...] = (
    "Add a party hat to the cat.",
    "Remove the person in the background.",
    "Replace the sky with a starry night.",
    "Write HELLO in big letters at the top.",
    "Turn the dog into a robot.",
    "What is in this picture?",
    "在左边加一棵树",
    "Make her smile.",
    "Rotate the photo a quarter turn to the right.",
    "put a golden star in the upper left corner",
    "Can you paint the square in the middle a different colour?",
    "Get rid of the square at the bottom right.",
    "Blend the two pictures into one double exposure.",
    "在图片中间画一个红色的圆",
)

# Written after the grammar, read after one training: what it missed were commands inside a context, and the
# grammar learned contexts (none of these).
FRESH: dict[str, tuple[str, ...]] = {
    "unchanged": (
        "I'm happy with this one already, so hand it back untouched.",
        "please not change anything, photo is good like this",
    ),
    "grayscale": (
        "The newspaper only prints in black and white, so could you get rid of the colours?",
        "我要打印黑白版，把彩色去掉吧",
    ),
    "invert": (
        "I scanned a strip of negatives, please reverse the colours so I can see the real ones",
        "swap black for white and every other colour for its opposite, negative style",
    ),
    "brighter": (
        "We took this in the pub and you can barely see our faces, could you brighten the whole thing?",
        "拍的时候光线不够，帮我提亮",
    ),
    "darker": (
        "My white shirt is blinding in this one, bring the brightness down a touch would you",
        "too much light in this foto, please do it more dark",
    ),
    "contrast": (
        "The receipt is all mid-grey and hard to read, stronger contrast please",
        "It was foggy and everything looks flat; push the blacks and whites further apart.",
    ),
    "fade": (
        "The shadows are too black and the whites too white, bring them closer together.",
        "对比太强了，柔和一点，要那种褪色的感觉",
    ),
    "warmer": (
        "Our living room looks like a hospital here, can you make the light warmer for the estate agent listing?",
        "the colours are too cold for my taste, more warm please",
    ),
    "cooler": (
        "The light bulbs made everything orangey, could you cool the tones down?",
        "整体偏黄了，改成冷色调",
    ),
    "sepia": (
        "For granny's ninetieth we'd like this in sepia, like the photos in her old album.",
        "sepia tone, the brown kind from the wild west pictures",
    ),
    "blur": (
        "I need it as a background behind my slides, so blur the whole image",
        "can you make all the photo unsharp, like when I take off my glasses",
    ),
    "sharpen": (
        "My hands were shaking a bit when I took it. Any chance of sharpening it up?",
        "for the passport form they say the photo is not sharp enough, please sharpen",
    ),
    "pixelate": (
        "Make it blocky, like a screenshot from an old Game Boy.",
        "像素化处理，要能看到一个个大方格",
    ),
    "saturate": (
        "The market stalls were far more colourful in real life, make the colours stronger.",
        "颜色太淡了，饱和度拉高",
    ),
    "swap_red_blue": (
        "My camera software saved BGR instead of RGB, so put red and blue back in each other's place.",
        "let red and blue trade places, leave green alone",
    ),
    "vignette": (
        "Shade the edges gradually towards the corners so you look straight at the bride.",
        "四周压暗，突出中间的主体",
    ),
    "border_white": (
        "I'm printing these like old snapshots, so leave a white border all the way round.",
        "white edge around the whole picture pls",
    ),
    "border_black": (
        "It gets lost on the white page, so give it a black frame.",
        "black edges on all four sides, not too thick",
    ),
    "border_red": (
        "This one's the winner, put a red border round it.",
        "i want frame of red color around my photo",
    ),
    "border_green": (
        "Could you edge the whole picture in green, for St Patrick's Day?",
        "green frame round the outside",
    ),
    "border_blue": (
        "Our club colour is blue, so frame the team photo in that.",
        "run a blue line along all four sides of the picture",
    ),
    "border_yellow": (
        "Pop a yellow border on it so it looks like a magazine cover.",
        "图片外面要一圈黄色的框",
    ),
    "border_orange": (
        "For the Halloween invitation I'd like an orange frame around the photo.",
        "all four edges with an orange border thx",
    ),
    "border_purple": (
        "My daughter wants her picture framed in purple.",
        "Please to add one purple border at the outside of image",
    ),
    "border_pink": (
        "It's for a baby shower, so a pink border would be lovely.",
        "surround the pic with pink edges",
    ),
    "tint_red": (
        "Make the whole scene glow red as though lit by a darkroom lamp.",
        "cast the full image in red",
    ),
    "tint_green": (
        "I want the entire photo tinted green, like looking through a wine bottle.",
        "green filter over everything",
    ),
    "tint_blue": (
        "Lay a transparent blue over the entire picture.",
        "as if I look through a blue glass, please",
    ),
    "tint_yellow": (
        "Hold a sheet of yellow cellophane in front of the picture, so to speak.",
        "yellow colour filter on the full image",
    ),
    "tint_orange": (
        "Could the whole photo have an orange tint? It's for the Dutch king's day poster.",
        "给整张照片加橙色滤镜",
    ),
    "tint_purple": (
        "colour the entire image with a see-through purple",
        "I fancy a purple tint over the lot, like nightclub lighting.",
    ),
    "tint_pink": (
        "Everything through rose-tinted spectacles: a pink tint over the photo, please.",
        "need a pink colour wash on the whole pic for my valentines card",
    ),
    "posterize": (
        "Reduce the number of tones so that the shading falls into a few flat bands.",
        "I'm cutting a stencil from it, so limit each colour to just a few levels",
    ),
    "flip_horizontal": (
        "The writing on my T-shirt reads backwards, mirror the photo left to right.",
        "It's for an iron-on transfer, so I need the mirror image, left and right reversed.",
    ),
    "flip_vertical": (
        "Flip this over vertically so that the top is at the bottom, but don't swap left and right.",
        "垂直翻转，像水里的倒影",
    ),
    "rotate_180": (
        "I held the phone upside down, turn the picture round by 180 degrees",
        "Turn it a half circle please, I don't want it mirrored.",
    ),
    "match_colors": (
        "Both are from the same wedding but the first looks off. Make its colours match the second.",
        "please take the color tones from second photo and use them for first photo",
        "recolour picture one so its overall palette is like picture two's, for a matching pair on the wall",
        "参考第二张照片的颜色，给第一张调色",
    ),
    "square_black_center": (
        "Block out the middle of the picture with a black square, I don't want my mum to see.",
        "black square in the centre",
    ),
    "square_green_center": (
        "Could you pop a solid green square slap bang in the middle?",
        "put green square to the center of photo please",
    ),
    "square_yellow_center": (
        "The middle of the image should have a yellow square on it.",
        "照片中央放一个黄色正方形",
    ),
    "square_white_top_left": (
        "I need some blank space for a stamp: a white square in the top left corner.",
        "add white square, corner on the left at the top",
    ),
    "square_pink_top_left": (
        "Top left-hand corner, a pink square if you'd be so kind.",
        "a pink square goes in the upper left",
    ),
    "square_blue_top_left": (
        "mark the upper left corner with a blue square",
        "左上方画一个蓝色方块",
    ),
    "square_purple_top_right": (
        "Hide the channel logo in the top right with a purple square.",
        "purple square up in the right corner pls",
    ),
    "square_green_top_right": (
        "This photo is approved, so put a green square in its top right corner.",
        "make one square, green, in the upper right side corner",
    ),
    "square_black_bottom_left": (
        "There's a phone number at the bottom left, cover it with a black square please.",
        "左下角用黑色方块遮住",
    ),
    "square_orange_bottom_left": (
        "I'd like an orange square down in the bottom left corner.",
        "lower left: a filled orange square",
    ),
    "square_blue_bottom_right": (
        "Stick a blue square in the bottom right-hand corner so I know which set it belongs to.",
        "blue square, lower right corner",
    ),
    "square_red_bottom_right": (
        "Rejected ones get a red square at the bottom right. This is one of them.",
        "could u put a red square in the right bottom corner",
    ),
}

FRESH_UNKNOWN: tuple[str, ...] = (
    "My ex is standing on the left, can you make him disappear?",
    "Give the horse a pair of wings.",
    "Put 'Happy Birthday Nana' along the bottom in curly letters.",
    "The photo is lying on its side, turn it 90 degrees clockwise.",
    "a blue triangle in the bottom right corner please",
    "Make it look as if Van Gogh had painted it.",
    "Cut out the dog from the second picture and put him on the sofa in the first.",
    "How many people can you count here?",
    "for my CV, change my t-shirt to a suit with tie",
    "Draw a yellow heart in the middle.",
    "在右下角写上今天的日期",
    "这是什么品种的狗？",
)

# Written before that second training and read once, after it; nothing was changed for it.
LAST: dict[str, tuple[str, ...]] = {
    "unchanged": (
        "Hand it straight back to me untouched",
        "I was going to ask for a filter but I changed my mind, keep it the way it was.",
    ),
    "grayscale": (
        "b&w pls",
        "The newspaper only prints in black ink, so I need a version with no colour in it.",
    ),
    "invert": (
        "swap every color for its negative",
        "反相处理，做成底片那样",
    ),
    "brighter": (
        "bump the brightness up",
        "We shot this in a candlelit cellar and you can hardly see our faces, please lighten it.",
    ),
    "darker": (
        "Make it dimmer.",
        "My eyes hurt when I look at this on the projector, could the whole thing be a good deal darker?",
    ),
    "contrast": (
        "more contrast!!",
        "Everything in this foggy harbour shot is the same mushy grey. Pull the lights and darks further apart.",
    ),
    "fade": (
        "reduce the contrast",
        "I'm going to lay text over it as a background, so make it look pale and washed out, please.",
    ),
    "warmer": (
        "warmer white balance",
        "这张照片色调太冷了，帮我调暖一些",
    ),
    "cooler": (
        "Shift the tones toward cold.",
        "The lamp in our kitchen makes all look too warm, please do the colours more cool.",
    ),
    "sepia": (
        "apply a sepia tone",
        "It's for grandma's ninetieth: give it that brownish look photographs had around 1900.",
    ),
    "blur": (
        "make everything out of focus",
        "There are some strangers in the shot who never agreed to this, so blur the whole image a bit.",
    ),
    "sharpen": (
        "Sharpen this up.",
        "有点糊，锐化一下",
    ),
    "pixelate": (
        "turn it into big chunky pixels",
        "I'm making a guess-the-picture quiz for my class, can you turn it into a blocky mosaic?",
    ),
    "saturate": (
        "Make the colors way more vivid",
        "Looks so dull compared with how the market really was, give me richer, more intense colours.",
    ),
    "swap_red_blue": (
        "exchange the red and blue channels",
        "My script read the file as BGR instead of RGB, so please switch red with blue.",
    ),
    "vignette": (
        "give it a vignette, subtle dark corners like an old lens",
        "请把照片四周边缘压暗，突出中间",
    ),
    "posterize": (
        "posterize it",
        "For a screen print I can only use a handful of flat tones, so reduce it to a few levels of brightness.",
    ),
    "flip_horizontal": (
        "mirror it left to right",
        "My selfie camera reversed the writing on my shirt. Flip the picture horizontally so one can read it.",
    ),
    "flip_vertical": (
        "Flip it top to bottom, like a reflection in a pond",
        "上下翻转这张图",
    ),
    "rotate_180": (
        "rotate by 180°",
        "The scanner took in the page the wrong way up; give it a half turn.",
    ),
    "border_white": (
        "white frame around it",
        "I like how polaroids look on my wall, so add a white border on all sides please.",
    ),
    "border_black": (
        "Put a black border round the picture.",
        "给图片加一圈黑色边框",
    ),
    "border_red": (
        "I want red frame around the photo",
        "outline the image with a red border",
    ),
    "border_green": (
        "Frame this in green.",
        "It goes on the St Patrick's Day flyer, so how about a green border along the edges?",
    ),
    "border_blue": (
        "add blue edging all the way around",
        "照片四周加上蓝色的框",
    ),
    "border_yellow": (
        "yellow border please",
        "Can you surround my picture by a yellow frame?",
    ),
    "border_orange": (
        "Give the image an orange frame",
        "Our club's colour is orange and all the member photos have a border like that; do mine too.",
    ),
    "border_purple": (
        "put it in a purple frame",
        "Purple border, same width on every side.",
    ),
    "border_pink": (
        "a pink frame would be cute, add one",
        "加个粉色相框",
    ),
    "tint_red": (
        "Tint the photo red.",
        "It's for a horror poster, lay a see-through red wash over the entire picture.",
    ),
    "tint_green": (
        "overlay a translucent green across everything",
        "Let it look as seen through a night vision goggle: all with a green tint.",
    ),
    "tint_blue": (
        "blue color filter over the whole thing",
        "整张图加一层淡淡的蓝色滤镜",
    ),
    "tint_yellow": (
        "Give it a yellow tint",
        "I'd like it to seem as though I'd held a sheet of yellow cellophane in front of the lens.",
    ),
    "tint_orange": (
        "tint everything orange",
        "After the wildfires the sky had this orange cast over everything. Tint the picture that way, orange all over.",
    ),
    "tint_purple": (
        "Wash the whole image with purple.",
        "给画面整体染上紫色调",
    ),
    "tint_pink": (
        "pink tint",
        "She loves anything that looks seen through rose glasses, so can the picture get a pink overlay?",
    ),
    "match_colors": (
        "Match the colours to those of the second picture.",
        "I took these two on different days and they don't go together; give the first the overall color of the other.",
        "make this one have same color mood like my other photo",
        "让这张图的颜色跟第二张图保持一致",
    ),
    "square_black_center": (
        "black square in the middle",
        "There's a licence plate dead centre that nobody should read, cover it with a black square.",
    ),
    "square_yellow_center": (
        "Place a yellow square at the center.",
        "在图片正中间画一个黄色方块",
    ),
    "square_red_top_left": (
        "draw a red square in the upper left corner",
        "Top left: one solid red square, thanks",
    ),
    "square_white_top_left": (
        "I need somewhere to write the date later, so put a white square into the top left corner.",
        "add a white square, top-left",
    ),
    "square_blue_top_right": (
        "Stick a blue square in the top right.",
        "右上角放一个蓝色的正方形",
    ),
    "square_purple_top_right": (
        "purple square, upper right corner",
        "Please to put one square of purple colour in the corner up on the right",
    ),
    "square_green_bottom_left": (
        "put a green square at the bottom left",
        "We mark the approved photos with a green square down in the left corner, can you add that?",
    ),
    "square_orange_bottom_left": (
        "Orange square in the lower left-hand corner",
        "左下角加一个橙色方块",
    ),
    "square_pink_bottom_right": (
        "paint a pink square in the lower right",
        "The shop's watermark sits in the bottom right corner, hide it under a pink square.",
    ),
    "square_black_bottom_right": (
        "Add a black square to the bottom-right corner.",
        "bottom right corner, fill in a square there in black",
    ),
}

LAST_UNKNOWN: tuple[str, ...] = (
    "Remove the lamp post behind my sister",
    "Could you crop it so that only the boat is left?",
    "put sunglasses on the dog",
    "Write 'Happy Birthday Tom' across the top.",
    "make him smile",
    "Replace the cloudy sky with a starry night, it's for a book cover.",
    "把背景里的路人去掉",
    "How many people are in this photo?",
    "turn my cat into a tiger",
    "Save it as a PDF and mail it to my boss",
)


def plain(sentence: str) -> str:
    """Letters and digits only, in lower case: what makes two sentences the same."""
    return re.sub(r"\W+", "", sentence).lower()


KEPT = frozenset(
    plain(sentence)
    for sentences in (
        *SENTENCES.values(), *TWO_PICTURES.values(), *SQUARES.values(), *FRESH.values(), *LAST.values(),
        UNKNOWN, FRESH_UNKNOWN, LAST_UNKNOWN,
    )
    for sentence in sentences
)  # fmt: skip
