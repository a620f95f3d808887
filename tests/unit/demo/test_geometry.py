"""Mirrors, squares and the colours of image 2 are exact at every size, whatever was trained."""

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from demo import edits  # noqa: E402
from demo.editor import Editor, pack  # noqa: E402
from demo.geometry import LONGEST  # noqa: E402
from demo.stages import wanted_tokens  # noqa: E402
from demo.states import EDIT_STATES, slots  # noqa: E402
from demo.text_encoder import WIDTH, prototypes  # noqa: E402
from demo.transformer import assemble  # noqa: E402
from demo.wiring import CHANNELS  # noqa: E402

MIRRORED = {"unchanged": (), "flip_horizontal": (3,), "flip_vertical": (2,), "rotate_180": (2, 3)}
SIZES = [(64, 64), (112, 80), (80, 240), (512, 256), (256, 1056)]


def _cloudy(height, width):
    """A smooth random image, 0..1."""
    coarse = torch.rand(1, 3, height // 16 + 2, width // 16 + 2)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (0.2 + 0.6 * fine).clamp(0, 1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


@pytest.fixture(scope="module")
def network(codec):
    """The stock class with an editor that does nothing of its own."""
    editor = Editor(codec)
    with torch.no_grad():
        for block in editor.blocks:
            for layer in (block.out, block.down):
                layer.weight[:CHANNELS] = 0.0
                layer.bias[:CHANNELS] = 0.0
    return assemble(editor, codec).to(torch.bfloat16).float()


@pytest.fixture(scope="module")
def busy(codec):
    """An editor with random weights, as stored, and the stock class with it."""
    editor = Editor(codec)
    with torch.no_grad():
        for parameter in editor.parameters():
            parameter.copy_(parameter.bfloat16())
    return editor, assemble(editor, codec).to(torch.bfloat16).float()


@torch.no_grad()
def _answer(network, codec, request_name, *images):
    """Tokens of the answer, in one step from noise."""
    references = [pack(codec.encode(image)) for image in images]
    _, height, width, _ = references[0].shape
    x = torch.randn(1, height * width, CHANNELS)
    sentence = prototypes()[-1].repeat(20, 1)
    sentence[-5:] = prototypes()[slots(request_name)]
    velocity = network(
        hidden_states=torch.cat([x, *(tokens.reshape(1, -1, CHANNELS) for tokens in references)], 1),
        encoder_hidden_states=sentence[None] * math.sqrt(WIDTH),
        timestep=torch.tensor([1.0]),
        img_shapes=[[(1, height, width)] * (1 + len(references))],
        return_dict=False,
    )[0][:, : x.shape[1]]
    return (x - velocity).view(1, height, width, CHANNELS)


def _error(codec, found, truth):
    wanted = pack(codec.encode(truth))
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("request_name", MIRRORED)
def test_a_mirror_moves_every_token_to_its_place(network, codec, request_name, size):
    image = _cloudy(*size)
    found = _answer(network, codec, request_name, image)
    assert _error(codec, found, image.flip(MIRRORED[request_name])) < 0.01


@pytest.mark.parametrize("size", [(128, 128), (112, 144), (256, 400)])
@pytest.mark.parametrize("place", edits.PLACES)
def test_a_square_covers_its_tokens_and_no_other(network, codec, place, size):
    image = _cloudy(*size)
    found = _answer(network, codec, f"square_purple_{place}", image)
    wanted = pack(codec.encode(edits.square(image, "purple", place)))
    assert float((found - wanted).abs().max()) < 0.3


@torch.no_grad()
@pytest.mark.parametrize(("name", "axes"), [("flip_horizontal", (2,)), ("flip_vertical", (1,)), ("rotate_180", (1, 2))])
def test_a_mirror_moves_what_was_trained_as_well(busy, codec, name, axes):
    editor, network = busy
    image = _cloudy(96, 144)
    states = torch.zeros(1, EDIT_STATES)
    states[0, slots(name)[0]] = 1.0
    edited = editor(pack(codec.encode(image)), states).flip(axes)
    found = _answer(network, codec, name, image)
    assert float((found - edited).norm() / edited.norm()) < 0.02


@torch.no_grad()
def test_a_square_lies_over_what_was_trained(busy, codec):
    editor, network = busy
    image = _cloudy(128, 160)
    plain = editor(pack(codec.encode(image)), torch.zeros(1, EDIT_STATES))
    found = _answer(network, codec, "square_green_bottom_left", image)
    painted = (found - plain).abs().amax(-1)[0] > 0.5
    assert painted.nonzero().tolist() == [[row, column] for row in range(4, 7) for column in range(1, 4)]


@pytest.mark.parametrize("name", ["flip_horizontal", "flip_vertical", "rotate_180"])
def test_what_is_wanted_of_a_mirror_is_each_token_mirrored_at_its_place(codec, name):
    image = _cloudy(64, 96)
    label = torch.tensor([edits.NAMES.index(name)])
    wanted = wanted_tokens(codec, image, label)
    tokens = pack(codec.encode(image))
    assert wanted[..., :4].sum(-1) == pytest.approx(tokens[..., :4].sum(-1), abs=1e-3)


def test_mirrors_hold_on_the_longest_canvas_of_the_demo():
    from retouch.catalog import checkpoint_named

    sizes = checkpoint_named("demo").sizes
    assert math.sqrt(sizes.max_area * sizes.max_ratio) <= 16 * LONGEST


def test_the_second_images_mean_colour_is_taken_over(network, codec):
    image, second = 0.5 * _cloudy(64, 96), 0.4 + 0.4 * _cloudy(64, 96)
    found = _answer(network, codec, "match_colors", image, second)
    assert _error(codec, found, edits.match_colors(image, second)) < 0.01


def test_without_a_second_image_its_colours_change_nothing(network, codec):
    image = _cloudy(64, 96)
    assert _error(codec, _answer(network, codec, "match_colors", image), image) < 0.01


def test_a_mirror_does_not_look_at_the_second_image(network, codec):
    image, second = _cloudy(80, 64), _cloudy(80, 64)
    assert _error(codec, _answer(network, codec, "flip_horizontal", image, second), image.flip(3)) < 0.01
