"""Images of every kind come out upright, in sRGB and whole; what is no image is refused by name."""

from __future__ import annotations

import io
import itertools
import random
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from retouch import images
from retouch.edit import OutputFormat
from retouch.errors import ImageTooLarge, InvalidImage, NotOneOf, UnsupportedImageFormat

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def photo(width: int = 48, height: int = 32) -> Image.Image:
    """Smooth and different in every corner, so that lossy formats come close and a wrong turn is seen."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = x * 255 / (width - 1), y * 255 / (height - 1), 255 - x * 255 / (width - 1)
    return Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8))


def difference(pixels: images.Pixels, image: Image.Image) -> float:
    return float(np.abs(pixels.astype(int) - np.asarray(image.convert("RGB")).astype(int)).mean())


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_of(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes, *more: bytes) -> bytes:
    header = struct.pack(">II5B", width, height, bit_depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(more) + data + chunk(b"IEND", b"")


def deep_rows(samples: np.ndarray) -> bytes:
    """Rows of big-endian 16-bit samples, each behind filter type 0."""
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)


READABLE = [
    ("PNG", "png", {}),
    ("JPEG", "jpeg", {"quality": 95}),
    ("WEBP", "webp", {"quality": 95}),
    ("WEBP", "webp", {"lossless": True}),
    ("GIF", "gif", {}),
    ("AVIF", "avif", {"quality": 90}),
    ("BMP", "bmp", {}),
    ("TIFF", "tiff", {}),
    ("TIFF", "tiff", {"compression": "tiff_lzw"}),
]


@pytest.mark.parametrize(("file_format", "name", "options"), READABLE)
def test_every_readable_format_is_recognised_and_decoded(file_format: str, name: str, options: dict) -> None:
    data = saved(photo(), file_format, **options)
    assert images.probe(data) == images.ImageHeader(name, f"image/{name}", 48, 32)
    pixels = images.decode(data)
    assert pixels.shape == (32, 48, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert difference(pixels, photo()) < (12 if name == "gif" else 5)


def test_the_readable_formats_are_the_tested_ones() -> None:
    assert set(images.READABLE_FORMATS) == {name for _, name, _ in READABLE}


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_camera_says(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = (
        {"lossless": True} if file_format == "WEBP" else {"quality": 95} if file_format in ("JPEG", "AVIF") else {}
    )
    data = saved(photo(), file_format, exif=exif, **options)
    tagged = photo()
    tagged.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(tagged)
    header = images.probe(data)
    assert (header.width, header.height) == upright.size
    assert difference(images.decode(data), upright) < 5


def test_a_broken_exif_block_does_not_spoil_the_image() -> None:
    data = saved(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff\xff\xff\xff")
    assert images.probe(data).width == 48
    assert images.decode(data).shape == (32, 48, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_are_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (4, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    data = saved(image if mode == "RGBA" else image.convert("LA"), "PNG" if mode != "PA" else "TIFF")
    assert images.decode(data)[0].tolist() == [[0, 0, 0], [255, 255, 255], [127, 127, 127], [0, 0, 0]]


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_is_laid_on_white(file_format: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    assert images.decode(saved(image, file_format, transparency=1)).tolist() == [[list(RED), list(WHITE)]]
    assert images.decode(saved(image, file_format)).tolist() == [[list(RED), list(BLUE)]]


def test_a_palette_with_several_alphas_is_laid_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*BLACK, *BLACK])
    image.putpixel((1, 0), 1)
    assert images.decode(saved(image, "PNG", transparency=bytes([255, 51]))).tolist() == [[[0] * 3, [204] * 3]]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_declared_transparent_is_laid_on_white(mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), (9, 9, 9) if mode == "RGB" else 9)
    data = saved(image, "PNG", transparency=(9, 9, 9) if mode == "RGB" else 9)
    assert images.decode(data).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("mode", ["1", "L"])
def test_black_and_white_and_grey_become_rgb(mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((1, 0), 255)
    assert images.decode(saved(image, "PNG")).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_print_colours_are_not_inverted(file_format: str) -> None:
    ink = photo().convert("CMYK")
    options = {"quality": 95} if file_format == "JPEG" else {}
    assert difference(images.decode(saved(ink, file_format, **options)), ink) < 4


def test_deep_grey_is_scaled_and_not_clipped() -> None:
    samples = np.array([[0, 128, 257, 32768, 65535]])
    assert images.decode(png_of(5, 1, 16, 0, deep_rows(samples)))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert images.decode(saved(Image.fromarray(samples.astype(np.uint16)), "TIFF"))[0, :, 1].tolist() == [
        0,
        0,
        1,
        128,
        255,
    ]


def test_deep_colours_are_scaled_and_not_clipped() -> None:
    samples = np.array([[0, 0x4000, 0xFFFF, 0x8000, 0xC000, 0x0100]])
    assert images.decode(png_of(2, 1, 16, 2, deep_rows(samples)))[0].tolist() == [[0, 64, 255], [128, 192, 1]]


def test_deep_colours_with_alpha_are_laid_on_white() -> None:
    samples = np.array([[0, 0, 0, 0xFFFF, 0, 0, 0, 0]])
    assert images.decode(png_of(2, 1, 16, 6, deep_rows(samples)))[0].tolist() == [[0] * 3, [255] * 3]
    samples = np.array([[0x8000, 0xFFFF, 0, 0]])
    assert images.decode(png_of(2, 1, 16, 4, deep_rows(samples)))[0].tolist() == [[128] * 3, [255] * 3]


def test_a_deep_grey_declared_transparent_is_laid_on_white() -> None:
    rows = deep_rows(np.array([[0, 0x1234]]))
    data = png_of(2, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 0x1234)))
    assert images.decode(data)[0].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([0.0, float("nan"), 2.0], [0, 0, 2])],
)
def test_floating_point_grey_is_scaled(values: list[float], expected: list[int]) -> None:
    data = saved(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert images.decode(data)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(file_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    data = saved(
        frames[0],
        file_format,
        save_all=True,
        append_images=frames[1:],
        **({"duration": 50} if file_format != "TIFF" else {}),
    )
    assert np.abs(images.decode(data).astype(int) - RED).max() < 8


def display_profile(primaries: str = "rgb", gamma: float = 2.2, name: str = "none", padding: int = 0) -> bytes:
    """An ICC profile with sRGB's primaries in the order given, one gamma, and `padding` bytes in a private tag."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    known = {"r": (0.4361, 0.2225, 0.0139), "g": (0.3851, 0.7169, 0.0971), "b": (0.1431, 0.0606, 0.7141)}
    red, green, blue = (known[letter] for letter in primaries)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    text = b"text\0\0\0\0none\0\0\0\0"
    letters = name.encode() + b"\0"
    named = b"desc\0\0\0\0" + struct.pack(">I", len(letters)) + letters + b"\0" * 78
    tags = {b"rXYZ": xyz(*red), b"gXYZ": xyz(*green), b"bXYZ": xyz(*blue), b"wtpt": xyz(0.9642, 1, 0.8249)}
    tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"cprt": text, b"desc": named.ljust(104, b"\0")}
    tags |= {b"priv": b"data\0\0\0\0" + random.Random(1).randbytes(padding)} if padding else {}
    table, bodies, at = b"", b"", 128 + 4 + 12 * len(tags)
    for tag, body in tags.items():
        table += tag + struct.pack(">II", at + len(bodies), len(body))
        bodies += body
    head = struct.pack(">I4sI4s4s4s", at + len(bodies), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies


def swapping_profile() -> bytes:
    """Of a display whose red primary is sRGB's blue one and the other way round."""
    return display_profile("bgr")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_an_embedded_colour_profile_is_followed(file_format: str) -> None:
    data = saved(Image.new("RGB", (16, 16), RED), file_format, icc_profile=swapping_profile())
    pixel = images.decode(data)[8, 8].astype(int)
    assert np.abs(pixel - BLUE).max() < 30


def test_a_profile_is_followed_under_transparency() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (*RED, 0))
    pixels = images.decode(saved(image, "PNG", icc_profile=swapping_profile())).astype(int)
    assert np.abs(pixels[0, 0] - BLUE).max() < 30
    assert pixels[0, 1].tolist() == list(WHITE)


@pytest.mark.parametrize(
    "profile", [b"nonsense", swapping_profile()[:150], swapping_profile().replace(b"RGB ", b"CMYK")]
)
def test_a_profile_that_does_not_fit_is_left_aside(profile: bytes) -> None:
    assert images.decode(saved(Image.new("RGB", (4, 4), RED), "PNG", icc_profile=profile))[0, 0].tolist() == list(RED)


def test_a_profile_of_colours_on_a_grey_image_is_left_aside() -> None:
    assert (
        images.decode(saved(Image.new("L", (4, 4), 77), "PNG", icc_profile=swapping_profile()))[0, 0].tolist()
        == [77] * 3
    )


@pytest.mark.parametrize("name", ["sRGB", "sRGB linear", "sRGB IEC61966-2.1", "c2", "Rec. 709 linear"])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_a_linear_profile_is_converted_whatever_it_is_called(file_format: str, name: str) -> None:
    profile = display_profile(gamma=1.0, name=name)
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = saved(Image.new("RGB", (4, 4), (55, 55, 55)), file_format, icc_profile=profile, **options)
    assert images.decode(data)[0, 0].tolist() == [128, 128, 128]


@pytest.mark.parametrize("name", ["sRGB IEC61966-2.1", "My screen", ""])
def test_under_a_profile_that_is_srgb_no_value_is_changed(name: str) -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = profile.find("sRGB".encode("utf-16-be"))
    assert at > 0
    profile[at : at + 8] = name.ljust(4)[:4].encode("utf-16-be")
    pixels = random_pixels(40, 30)
    data = saved(Image.fromarray(pixels), "PNG", icc_profile=bytes(profile))
    assert np.array_equal(images.decode(data), pixels)


def test_lab_colours_become_rgb() -> None:
    lab = Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)])
    assert np.abs(images.decode(saved(lab, "TIFF"))[0, 0].astype(int) - 255).max() < 8


FOREIGN = [
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x --><svg/>", "SVG"),
    (b"<!doctype html><html></html>", "a web page or XML"),
    (b"hello, I am a text file\n", "text"),
    (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "HEIC"),
    (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "HEIC"),
    (b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00isomiso2", "a video"),
    (b"%PDF-1.7\n", "PDF"),
    (b"8BPS\0\1", "PSD"),
    (b"\0\0\1\0\1\0", "ICO"),
    (b"PK\3\4", "a zip archive"),
    (b"\x00\x01\x02\x03", "an unknown format"),
    (b"RIFF\x00\x00\x00\x00WAVEfmt ", "an unknown format"),
]


@pytest.mark.parametrize(("data", "reason"), FOREIGN)
@pytest.mark.parametrize("read", [images.probe, images.decode, images.decode_mask])
def test_what_is_no_readable_image_is_refused_by_name(read, data: bytes, reason: str) -> None:
    with pytest.raises(UnsupportedImageFormat) as caught:
        read(data, field="images[2]")
    assert caught.value.field == "images[2]"
    assert "images[2]" in caught.value.message
    assert f"is {reason};" in caught.value.message
    assert caught.value.context == {"supported_formats": images.READABLE_FORMATS}


def test_an_avif_of_the_general_brand_is_recognised() -> None:
    assert images.probe(saved(photo(), "AVIF").replace(b"ftypavif", b"ftypmif1", 1)).format == "avif"


def test_the_name_and_type_of_a_file_do_not_matter_only_its_bytes() -> None:
    """A PNG sent as a JPEG is a PNG: `probe` is not even told the name."""
    assert images.probe(saved(photo(), "PNG")).media_type == "image/png"


@pytest.mark.parametrize("read", [images.probe, images.decode, images.decode_mask])
def test_zero_bytes_are_an_empty_image(read) -> None:
    with pytest.raises(InvalidImage, match="empty") as caught:
        read(b"", field="mask")
    assert caught.value.field == "mask"
    assert caught.value.code == "invalid_image"


@pytest.mark.parametrize(("file_format", "name", "options"), READABLE)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_an_image_that_is_cut_off_is_refused(file_format: str, name: str, options: dict, part: float) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, file_format, **options)
    with pytest.raises(InvalidImage, match=r"images\[1\].*damaged or cut off") as caught:
        images.decode(data[: int(len(data) * part)], field="images[1]")
    assert type(caught.value) is InvalidImage


@pytest.mark.parametrize(("file_format", "name", "options"), READABLE)
def test_damaged_files_are_decoded_or_refused_and_nothing_else(file_format: str, name: str, options: dict) -> None:
    good = saved(photo(), file_format, **options)
    dice = random.Random(7)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(dice.choice((1, 3, 20))):
            bad[dice.randrange(len(bad))] = dice.randrange(256)
        bad = bytes(bad[: dice.choice((len(bad), dice.randrange(1, len(bad))))])
        for read in (images.probe, images.decode, images.decode_mask):
            with suppress(InvalidImage):
                read(bad, max_pixels=4_000_000)


@pytest.mark.parametrize("missing", [1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 95, "subsampling": 0}, {"restart_marker_blocks": 4}]
)
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(options: dict, mode: str, missing: int) -> None:
    for image in (photo(90, 70), Image.fromarray(random_pixels(90, 70))):
        data = saved(image.convert(mode), "JPEG", **options)
        assert np.array_equal(images.decode(data[:-missing]), images.decode(data))
        assert images.decode_mask(data[:-missing]).shape == (70, 90)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"restart_marker_blocks": 4}])
def test_a_jpeg_that_lacks_some_of_its_scan_is_cut_off(options: dict) -> None:
    """libjpeg would fill the rest with grey: that is another image than the one sent."""
    data = saved(Image.fromarray(random_pixels(90, 70)), "JPEG", **options)
    for missing in (*range(4, 40), len(data) // 20, len(data) // 2):
        with pytest.raises(InvalidImage, match="damaged or cut off"):
            images.decode(data[:-missing])


def text_chunk(name: bytes, keyword: bytes, text: bytes) -> bytes:
    packed = {
        b"tEXt": text,
        b"zTXt": b"\0" + zlib.compress(text),
        b"iTXt": b"\1\0\0\0" + zlib.compress(text),
    }[name]
    return chunk(name, keyword + b"\0" + packed)


def with_chunks(data: bytes, *chunks: bytes, behind: bool = False) -> bytes:
    """A PNG with further chunks before the pixels, or behind them."""
    at = data.index(b"IEND") - 4 if behind else 8 + 25
    return data[:at] + b"".join(chunks) + data[at:]


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt"])
@pytest.mark.parametrize("keyword", [b"workflow", b"parameters", b"XML:com.adobe.xmp", b"Raw profile type exif"])
def test_a_png_with_long_texts_is_read(keyword: bytes, name: bytes, behind: bool) -> None:
    workflow = random.Random(3).randbytes(1_200_000).hex().encode()  # 2.4 MB
    data = with_chunks(saved(photo(), "PNG"), text_chunk(name, keyword, workflow), behind=behind)
    assert images.probe(data).width == 48
    assert np.array_equal(images.decode(data), np.asarray(photo()))


@pytest.mark.parametrize("size", [1_300_000, 4_000_000])
def test_a_large_colour_profile_is_followed(size: int) -> None:
    image = Image.new("RGB", (4, 4), (55, 55, 55))
    data = saved(image, "PNG", icc_profile=display_profile(gamma=1.0, padding=size))
    assert images.probe(data).width == 4
    assert images.decode(data)[0, 0].tolist() == [128, 128, 128]


def metadata_bombs() -> dict[str, bytes]:
    """Small PNG files whose metadata would fill the memory, or take minutes to inflate."""
    bomb = zlib.compress(bytes(2**28), 1)
    base, name = saved(photo(), "PNG"), b"XML:com.adobe.xmp\0"
    return {
        "profile": with_chunks(base, chunk(b"iCCP", b"x\0\0" + bomb)),
        "zTXt": with_chunks(base, chunk(b"zTXt", b"Raw profile type exif\0\0" + bomb)),
        "iTXt": with_chunks(base, chunk(b"iTXt", name + b"\1\0\0\0" + bomb)),
        "behind": with_chunks(base, chunk(b"iTXt", name + b"\1\0\0\0" + bomb), behind=True),
        "many": with_chunks(base, *[chunk(b"iCCP", b"x\0\0" + bomb[:20_000])] * 500),
    }


def test_a_metadata_bomb_is_left_aside_without_its_memory() -> None:
    """In a process of its own, because memory is only seen from outside."""
    program = """
import resource, time
from retouch import images
from tests.unit.test_images import metadata_bombs
files = metadata_bombs()
import gc; gc.collect()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 96 * 2**20,) * 2)
for data in files.values():
    assert images.probe(data).width == 48
    assert images.decode(data).shape == (32, 48, 3)
    assert images.decode_mask(data).shape == (32, 48)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [b"iCCP", b"eXIf", b"gAMA", b"pHYs", b"tEXt", b"zTXt", b"iTXt", b"vpAg"])
@pytest.mark.parametrize("body", [b"", b"\0", b"x\0\xff", b"XML:com.adobe.xmp\0\1"])
def test_damaged_metadata_does_not_spoil_the_pixels(name: bytes, body: bytes) -> None:
    good = chunk(name, body)
    for bad in (good, good[:-1] + bytes((good[-1] ^ 1,))):
        for behind in (False, True):
            data = with_chunks(saved(photo(), "PNG"), bad, behind=behind)
            assert np.array_equal(images.decode(data), np.asarray(photo()))


def test_an_orientation_told_by_xmp_is_followed() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = with_chunks(saved(photo(), "PNG"), text_chunk(b"iTXt", b"XML:com.adobe.xmp", xmp))
    assert images.decode(data).shape == (48, 32, 3)


def test_transparency_that_was_laid_on_white_is_remarked_on() -> None:
    clear = Image.new("RGBA", (2, 1), (9, 9, 9, 255))
    remarks: list[str] = []
    images.decode(saved(clear, "PNG"), remarks=remarks)
    images.decode(saved(photo(), "JPEG"), remarks=remarks)
    assert remarks == []
    clear.putpixel((0, 0), (9, 9, 9, 254))
    images.decode(saved(clear, "PNG"), remarks=remarks)
    assert len(remarks) == 1
    assert "white" in remarks[0]


def drawn_mask(alpha: dict[int, int], values: tuple[int, ...] = (255, 255, 0, 0)) -> bytes:
    """One row of grey values, opaque but for the alpha given at some places."""
    mask = Image.new("RGBA", (len(values), 1))
    mask.putdata([(value, value, value, alpha.get(at, 255)) for at, value in enumerate(values)])
    return saved(mask, "PNG")


@pytest.mark.parametrize("alpha", [{0: 254}, {3: 200}, {0: 128, 1: 250}, dict.fromkeys(range(4), 254)])
def test_a_black_and_white_mask_with_a_softened_alpha_is_read_by_brightness_and_says_so(alpha: dict) -> None:
    remarks: list[str] = []
    assert images.decode_mask(drawn_mask(alpha), remarks=remarks).tolist() == [[255, 255, 0, 0]]
    assert len(remarks) == 1
    assert "white was taken as 'edit here'" in remarks[0]


def test_a_mask_with_transparent_parts_is_read_by_them_even_if_drawn_in_black_and_white() -> None:
    remarks: list[str] = []
    assert images.decode_mask(drawn_mask({2: 0}), remarks=remarks).tolist() == [[0, 0, 255, 0]]
    assert len(remarks) == 1
    assert "transparent was taken as 'edit here'" in remarks[0]


def test_a_faintly_transparent_photo_as_mask_says_how_little_shows() -> None:
    mask, remarks = photo().convert("RGBA"), []
    mask.putalpha(Image.new("L", mask.size, 204))
    assert images.decode_mask(saved(mask, "PNG"), remarks=remarks).max() == 51
    assert "20 % transparent" in remarks[0]


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_a_mask_that_marks_nothing_says_so(mode: str) -> None:
    remarks: list[str] = []
    images.decode_mask(saved(Image.new(mode, (4, 4), 0 if mode == "L" else (0, 0, 0, 255)), "PNG"), remarks=remarks)
    assert len(remarks) == 1
    assert "marks nothing" in remarks[0]


def test_a_plain_mask_needs_no_remark() -> None:
    remarks: list[str] = []
    hole = photo().convert("RGBA")
    hole.putpixel((5, 5), (0, 0, 0, 0))
    images.decode_mask(saved(hole, "PNG"), remarks=remarks)
    images.decode_mask(drawn_mask({}), remarks=remarks)
    assert remarks == []


def bombs() -> dict[str, bytes]:
    """Small files that say they are enormous."""
    side = 60_000
    jpeg = bytearray(saved(photo(), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", side, side)
    webp = bytearray(saved(photo().convert("RGBA"), "WEBP", exif=b"x", lossless=True))
    webp[24:30] = struct.pack("<I", 16383)[:3] * 2
    lossless = bytearray(saved(photo(), "WEBP", lossless=True))
    lossless[21:25] = struct.pack("<I", 16383 | 16383 << 14)
    lossy = bytearray(saved(photo(), "WEBP"))
    lossy[26:30] = struct.pack("<HH", 16383, 16383)
    bmp = bytearray(saved(photo(), "BMP"))
    bmp[18:26] = struct.pack("<II", side, side)
    tiff = bytearray(saved(photo(), "TIFF"))
    first = struct.unpack_from("<I", tiff, 4)[0]
    for entry in range(first + 2, first + 2 + 12 * 12, 12):
        if struct.unpack_from("<H", tiff, entry)[0] in (256, 257):
            tiff[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    gif = bytearray(saved(photo(), "GIF"))
    gif[6:10] = struct.pack("<HH", side, side)
    frame = bytearray(saved(photo(), "GIF"))
    at = frame.index(b",\0\0\0\0") + 5
    frame[at : at + 4] = struct.pack("<HH", side, side)
    return {
        "png": png_of(side, side, 8, 2, b""),
        "jpeg": bytes(jpeg),
        "webp": bytes(webp),
        "webp lossless": bytes(lossless),
        "webp lossy": bytes(lossy),
        "bmp": bytes(bmp),
        "tiff": bytes(tiff),
        "gif": bytes(gif),
        "gif frame": bytes(frame),
        "just above": png_of(10_000, 10_001, 8, 2, b""),
        "above Pillow's error": png_of(20_001, 10_000, 8, 2, b""),
    }


@pytest.mark.parametrize("kind", bombs())
@pytest.mark.parametrize("read", [images.probe, images.decode, images.decode_mask])
def test_an_image_with_too_many_pixels_is_refused(read, kind: str) -> None:
    with pytest.raises(ImageTooLarge) as caught:
        read(bombs()[kind], field="images[1]")
    assert caught.value.field == "images[1]"
    assert caught.value.context == {"max_pixels": images.MAX_PIXELS}


def test_a_bomb_is_refused_before_memory_is_taken_for_it() -> None:
    """In a process of its own, because the memory of decoders is only seen from outside."""
    program = """
import resource, sys
from retouch import images
from retouch.errors import ImageTooLarge
from tests.unit.test_images import bombs
files = bombs()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
room = 64 * 2**20 + int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (room, room))
for data in files.values():
    for read in (images.probe, images.decode):
        try:
            read(data)
        except ImageTooLarge:
            continue
        sys.exit("not refused")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32


def test_a_limit_of_the_caller_is_kept_to_the_pixel() -> None:
    data = saved(photo(48, 32), "PNG")
    assert images.probe(data, max_pixels=48 * 32).width == 48
    with pytest.raises(ImageTooLarge, match="48 × 32 pixels; at most 1535"):
        images.probe(data, max_pixels=48 * 32 - 1)


def test_an_image_of_the_largest_size_is_read_without_a_warning() -> None:
    assert images.probe(png_of(10_000, 10_000, 8, 2, b"")).width == 10_000


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_header_is_read_without_the_image_behind_it(file_format: str) -> None:
    data = saved(Image.fromarray(random_pixels(400, 300)), file_format)
    cut = data[: len(data) // 2]
    assert images.probe(cut).width == 400
    with pytest.raises(InvalidImage):
        images.decode(cut)


def test_images_can_be_decoded_on_many_threads() -> None:
    files = [
        saved(photo(40 + n, 30 + n), file_format, **options) for n, (file_format, _, options) in enumerate(READABLE)
    ] * 6
    expected = [images.decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for alone, together in zip(expected, pool.map(images.decode, files), strict=True):
            assert np.array_equal(alone, together)


def test_in_a_mask_transparent_means_edit() -> None:
    mask = Image.new("RGBA", (3, 1), (255, 255, 255, 255))
    mask.putpixel((1, 0), (0, 0, 0, 0))
    mask.putpixel((2, 0), (0, 0, 0, 55))
    decoded = images.decode_mask(saved(mask, "PNG"))
    assert decoded.tolist() == [[0, 255, 200]]
    assert decoded.dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "RGBA", "P"])
def test_in_a_mask_that_is_nowhere_transparent_white_means_edit(mode: str) -> None:
    mask = Image.new("RGB", (2, 1), WHITE)
    mask.putpixel((1, 0), BLACK)
    assert images.decode_mask(saved(mask.convert(mode), "PNG")).tolist() == [[255, 0]]


def test_a_deep_mask_is_scaled() -> None:
    assert images.decode_mask(png_of(2, 1, 16, 0, deep_rows(np.array([[0, 65535]])))).tolist() == [[0, 255]]


def test_a_mask_is_turned_like_its_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    mask = Image.new("L", (2, 1), 0)
    mask.putpixel((1, 0), 255)
    assert images.decode_mask(saved(mask, "PNG", exif=exif)).tolist() == [[0], [255]]


def test_a_mask_by_a_transparent_palette_colour_is_read() -> None:
    mask = Image.new("P", (2, 1))
    mask.putpalette([*BLACK, *WHITE])
    mask.putpixel((1, 0), 1)
    assert images.decode_mask(saved(mask, "PNG", transparency=0)).tolist() == [[255, 0]]


def random_pixels(width: int, height: int, seed: int = 0) -> images.Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None)
def test_a_png_of_ours_gives_back_every_pixel(width: int, height: int, seed: int) -> None:
    pixels = random_pixels(width, height, seed)
    data = images.encode(pixels, OutputFormat.PNG, 100)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), pixels)


def test_pixels_need_not_be_contiguous() -> None:
    pixels = random_pixels(20, 10)[::2, ::-1]
    assert np.array_equal(images.decode(images.encode(pixels, "png")), pixels)


@pytest.mark.parametrize("file_format", OutputFormat)
def test_every_output_format_is_written_and_read_back(file_format: OutputFormat) -> None:
    pixels = np.array(photo())
    data = images.encode(pixels, file_format, 95)
    assert images.probe(data) == images.ImageHeader(file_format.value, file_format.media_type, 48, 32)
    assert difference(images.decode(data), photo()) < 8


@pytest.mark.parametrize("file_format", OutputFormat)
def test_the_same_pixels_give_the_same_bytes(file_format: OutputFormat) -> None:
    pixels = random_pixels(70, 50)
    assert images.encode(pixels, file_format, 80) == images.encode(pixels.copy(), file_format, 80)


@pytest.mark.parametrize("file_format", [OutputFormat.JPEG, OutputFormat.WEBP, OutputFormat.AVIF])
def test_quality_is_honoured_from_end_to_end(file_format: OutputFormat) -> None:
    pixels = np.array(photo(128, 128)) ^ (random_pixels(128, 128) & 31)
    sizes = [len(images.encode(pixels, file_format, quality)) for quality in (0, 40, 70, 95, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(("quality", "sampling"), [(10, 2), (89, 2), (90, 0), (100, 0)])
def test_jpeg_keeps_full_colour_from_quality_90(quality: int, sampling: int) -> None:
    with Image.open(io.BytesIO(images.encode(random_pixels(16, 16), "jpeg", quality))) as image:
        assert JpegImagePlugin.get_sampling(image) == sampling


def test_a_gif_has_a_palette_of_its_own() -> None:
    pixels = np.array(Image.new("RGB", (8, 8), (201, 17, 99)))
    assert images.decode(images.encode(pixels, "gif")).tolist() == pixels.tolist()


def test_a_png_holds_three_chunks_and_no_more() -> None:
    data = images.encode(random_pixels(9, 9), "png")
    names, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        names.append(data[at + 4 : at + 8])
        at += length + 12
    assert names == [b"IHDR", b"IDAT", b"IEND"]


@pytest.mark.parametrize("file_format", OutputFormat)
def test_nothing_but_the_image_is_written(file_format: OutputFormat) -> None:
    exif = Image.Exif()
    exif[0x010E] = "SECRET-PLACE"
    source = saved(photo(), "JPEG", exif=exif, comment=b"SECRET-COMMENT", icc_profile=swapping_profile())
    data = images.encode(images.decode(source), file_format, 90)
    assert b"SECRET" not in data
    assert not any(word in data for word in (b"Exif", b"ICC_PROFILE", b"EXIF", b"ICCP", b"xmp"))
    with Image.open(io.BytesIO(data)) as image:
        assert not dict(image.getexif())
        assert not {"icc_profile", "exif", "comment", "xmp"} & set(image.info)


@pytest.mark.parametrize(("file_format", "side"), [("webp", 16_384), ("jpeg", 65_501), ("gif", 65_536)])
def test_a_side_that_a_format_cannot_hold_is_refused(file_format: str, side: int) -> None:
    for shape in ((1, side, 3), (side, 1, 3)):
        with pytest.raises(ImageTooLarge) as caught:
            images.encode(np.zeros(shape, np.uint8), file_format)
        assert caught.value.field == "output_format"
        assert caught.value.context == {"max_width": side - 1, "max_height": side - 1}
    assert images.probe(images.encode(np.zeros((1, side - 1, 3), np.uint8), file_format)).width == side - 1


def test_an_unknown_output_format_is_refused() -> None:
    with pytest.raises(NotOneOf):
        images.encode(random_pixels(2, 2), "tiff")


@pytest.mark.parametrize(("width", "height"), list(itertools.product((1, 17, 200), repeat=2)))
def test_resize_is_pillows_lanczos_bit_by_bit(width: int, height: int) -> None:
    pixels = random_pixels(64, 48)
    expected = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    assert np.array_equal(images.resize(pixels, (width, height)), np.asarray(expected))


def test_resize_takes_masks_and_leaves_the_right_size_alone() -> None:
    mask = random_pixels(64, 48)[..., 0]
    assert images.resize(mask, (32, 24)).shape == (24, 32)
    assert images.resize(mask, (64, 48)) is mask


def test_a_data_uri_holds_the_bytes() -> None:
    assert images.data_uri(b"abc", "image/png") == "data:image/png;base64,YWJj"


def test_a_jpeg_far_larger_than_needed_is_decoded_smaller_in_its_own_shape_and_looks_the_same() -> None:
    large = photo(640, 480).convert("RGB")
    data = saved(large, "JPEG", quality=92)
    for needed, scale in (((40, 30), 8), ((91, 68), 4), ((213, 160), 2), ((214, 160), 1), ((640, 480), 1)):
        pixels = images.decode(data, at_least=needed)
        assert pixels.shape == (480 // scale, 640 // scale, 3)
        size = (40, 30)
        whole = images.resize(images.decode(data), size)
        error = np.square(images.resize(pixels, size).astype(float) - whole).mean()
        assert error < 255**2 / 10**4.7, "47 dB"


def test_a_photo_on_its_side_is_measured_as_it_is_seen() -> None:
    sideways = Image.Exif()
    sideways[0x0112] = 6
    data = saved(photo(640, 320), "JPEG", exif=sideways)
    assert images.decode(data, at_least=(70, 150)).shape == (320, 160, 3)
    assert images.decode(data, at_least=(150, 70)).shape == (640, 320, 3)


@pytest.mark.parametrize(("size", "file_format"), [((641, 480), "JPEG"), ((640, 480), "PNG"), ((640, 480), "WEBP")])
def test_what_cannot_be_decoded_smaller_without_a_shift_comes_whole(size: tuple[int, int], file_format: str) -> None:
    data = saved(photo(*size), file_format)
    assert images.decode(data, at_least=(8, 8)).shape == (size[1], size[0], 3)
