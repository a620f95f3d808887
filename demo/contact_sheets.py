"""Contact sheets: input, output and true edit of held-out photos side by side, with the sentence."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from demo import edits, photos
from demo.editor import pack
from demo.held_out import SENTENCES, SQUARES, TWO_PICTURES
from demo.runtime import Checkpoint, to_image
from demo.states import SQUARES as ALL_SQUARES

CAPTION_PX = 16


def _row(shown: list[Tensor], caption: str) -> Image.Image:
    tiles = [to_image(t) for t in shown]
    width = sum(t.width + 2 for t in tiles)
    cell = Image.new("RGB", (width + 6, tiles[0].height + CAPTION_PX), "white")
    ImageDraw.Draw(cell).text((2, 1), caption, fill="black", font=ImageFont.load_default(11))
    left = 0
    for tile in tiles:
        cell.paste(tile, (left, CAPTION_PX))
        left += tile.width + 2
    return cell


def _sheet(cells: list[Image.Image], columns: int) -> Image.Image:
    width, height = cells[0].size
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % columns * width, i // columns * height))
    return sheet


def _latin(edit: str, turn: int) -> str:
    """A held-out sentence that Pillow's own font can draw."""
    sentences = [s for s in SENTENCES[edit] if s.isascii()]
    return sentences[turn % len(sentences)]


def answered(checkpoint: Checkpoint, picture: Tensor, sentence: str, steps: int = 4) -> Tensor:
    return checkpoint.edit(picture[None], [checkpoint.read(sentence, picture)], steps)[0]


def _two_pictures(checkpoint: Checkpoint, crops: Tensor) -> list[Image.Image]:
    """First, second, answer and truth of edits that look at two pictures."""
    cells = []
    for i, sentence in enumerate(s for s in TWO_PICTURES["match_colors"] if s.isascii()):
        first, second = crops[(8 * i) % len(crops)], crops[(8 * i + 12) % len(crops)]
        states = checkpoint.read(sentence, first, second)
        tokens = [pack(checkpoint.encode(picture[None])) for picture in (first, second)]
        answer = checkpoint.edit_tokens(tokens, [states], steps=4)[0]
        truth = edits.match_colors(first[None], second[None])[0]
        cells.append(_row([first, second, answer, truth], sentence))
    return cells


def _squares(checkpoint: Checkpoint, crops: Tensor) -> list[Image.Image]:
    cells = []
    for i, (name, sentences) in enumerate(SQUARES.items()):
        crop, sentence = crops[(5 * i + 3) % len(crops)], next(s for s in (*sentences, name) if s.isascii())
        truth = edits.square(crop[None], *ALL_SQUARES[name])[0]
        cells.append(_row([crop, answered(checkpoint, crop, sentence), truth], sentence))
    return cells


def _cells(checkpoint: Checkpoint, crops: Tensor, names: list[str], start: int) -> list[Image.Image]:
    cells = []
    for i, name in enumerate(names):
        crop = crops[(start + 5 * i) % len(crops)]
        sentence = _latin(name, i)
        truth = edits.EDITS[name](crop[None])[0]
        cells.append(_row([crop, answered(checkpoint, crop, sentence), truth], sentence))
    return cells


def write_sheets(checkpoint: Checkpoint, folder: Path) -> None:
    """Core edits at 128 px, every edit at 256 px, squares and two pictures, other sizes and aspects."""
    folder.mkdir(parents=True, exist_ok=True)
    small, large = photos.crops(128), photos.crops(256)
    core = ["grayscale", "invert", "brighter", "darker"]
    cells = _cells(checkpoint, small, core * 6, 0)
    _sheet(cells, 4).save(folder / "core_128.jpg", quality=88)
    cells = _cells(checkpoint, large, list(edits.NAMES), 0)
    sheet = _sheet(cells, 4)
    sheet.resize((sheet.width * 5 // 8, sheet.height * 5 // 8), Image.Resampling.LANCZOS).save(
        folder / "all_256.jpg", quality=85
    )
    _sheet(_squares(checkpoint, small), 3).save(folder / "squares_128.jpg", quality=88)
    _sheet(_two_pictures(checkpoint, small), 2).save(folder / "two_pictures_128.jpg", quality=88)
    cells = []
    for i, (width, height) in enumerate(((256, 128), (128, 256), (320, 256), (512, 512))):
        for j, name in enumerate(("flip_horizontal", "border_red", "vignette", "blur")):
            photo = photos.load(list(photos.CREDITS)[(i + j) % 6])
            picture = photos.to_tensor(photo.resize((width, height), Image.Resampling.LANCZOS))
            sentence = _latin(name, i + j)
            truth = edits.EDITS[name](picture[None])[0]
            shown = [picture, answered(checkpoint, picture, sentence), truth]
            cell = _row(shown, f"{width} x {height}: {sentence}")
            cell.thumbnail((600, 330))
            padded = Image.new("RGB", (600, 330), "white")
            padded.paste(cell, (0, 0))
            cells.append(padded)
    _sheet(cells, 4).save(folder / "sizes.jpg", quality=85)


def main_pair(checkpoint: Checkpoint, photo: Tensor, sentence: str) -> tuple[Image.Image, Image.Image]:
    """The README's before and after."""
    with torch.no_grad():
        return to_image(photo), to_image(answered(checkpoint, photo, sentence))
