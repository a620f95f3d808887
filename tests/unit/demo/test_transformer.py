"""What the demo's transformer is trained as is what the stock class computes."""

import copy
import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from demo import edits  # noqa: E402
from demo.editor import Editor, pack  # noqa: E402
from demo.known import Tones  # noqa: E402
from demo.states import EDIT_STATES, NAMES  # noqa: E402
from demo.text_encoder import WIDTH, prototypes  # noqa: E402
from demo.transformer import assemble  # noqa: E402
from demo.wiring import CHANNELS  # noqa: E402

EDIT, OTHER = 3, 4


@pytest.fixture(scope="module")
def networks(codec, images):
    torch.manual_seed(0)
    editor = Editor(codec)
    editor.fit_sharpening(codec, images)
    return editor, assemble(editor, codec)


def _sentence(direction):
    """Kept tokens of a prompt whose last five point along a direction."""
    states = prototypes()[-1].repeat(20, 1)
    states[-5:] = direction
    return states[None] * math.sqrt(WIDTH)


def _edited(network, tokens, sentence, sigma, extra_references=0):
    _, height, width, _ = tokens.shape
    reference = tokens.reshape(1, -1, CHANNELS)
    x = torch.randn_like(reference)
    others = [torch.randn_like(reference)] * extra_references
    velocity = network(
        hidden_states=torch.cat([x, reference, *others], 1),
        encoder_hidden_states=sentence,
        timestep=torch.tensor([sigma]),
        img_shapes=[[(1, height, width)] * (2 + extra_references)],
        return_dict=False,
    )[0][:, : x.shape[1]]
    return (x - sigma * velocity).view(1, height, width, CHANNELS)


def _relative_error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("sigma", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("size", [(4, 4), (8, 3), (10, 16)])
@torch.no_grad()
def test_the_stock_class_gives_the_editors_answer_at_any_sigma_and_size(networks, sigma, size):
    editor, network = networks
    tokens = torch.randn(1, *size, CHANNELS)
    states = torch.nn.functional.one_hot(torch.tensor([EDIT]), EDIT_STATES).float()
    found = _edited(network, tokens, _sentence(prototypes()[EDIT]), sigma)
    assert _relative_error(found, editor(tokens, states)) < 0.01


@pytest.mark.parametrize("name", ["sharpen", "posterize"])
@torch.no_grad()
def test_known_maps_are_written_as_they_are_trained_around(networks, codec, images, name):
    editor, network = networks
    tokens = pack(codec.encode(images[:1]))
    state = NAMES.index(name)
    states = torch.nn.functional.one_hot(torch.tensor([state]), EDIT_STATES).float()
    found = _edited(network, tokens, _sentence(prototypes()[state]), 0.9)
    wanted = editor(tokens, states)
    moved = wanted - editor(tokens, 0 * states)
    assert float((found - wanted).norm() / moved.norm()) < 0.1


@torch.no_grad()
def test_chosen_tones_are_those_of_a_posterised_image(codec, images):
    tokens = pack(codec.encode(images))
    wanted = pack(codec.encode(edits.posterize(images)))
    found = tokens + Tones(codec)(tokens)
    worth = codec.std.repeat_interleave(4)
    assert _relative_error(worth * found, worth * wanted) < 0.5 * _relative_error(worth * tokens, worth * wanted)


@torch.no_grad()
def test_the_fitted_map_sharpens(networks, codec, images):
    editor, _ = networks
    tokens = pack(codec.encode(images))
    wanted = pack(codec.encode(edits.sharpen(images)))
    found = tokens + editor.maps["sharpen"](tokens)
    worth = codec.std.repeat_interleave(4)
    assert _relative_error(worth * found, worth * wanted) < 0.6 * _relative_error(worth * tokens, worth * wanted)


@torch.no_grad()
def test_a_second_reference_changes_nothing(networks):
    editor, network = networks
    tokens = torch.randn(1, 6, 6, CHANNELS)
    states = torch.nn.functional.one_hot(torch.tensor([EDIT]), EDIT_STATES).float()
    found = _edited(network, tokens, _sentence(prototypes()[EDIT]), 0.9, extra_references=1)
    assert _relative_error(found, editor(tokens, states)) < 0.01


@torch.no_grad()
def test_a_sentence_that_names_no_edit_is_read_as_no_edit(networks):
    editor, network = networks
    tokens = torch.randn(1, 6, 6, CHANNELS)
    unsure = _sentence(0.3 * prototypes()[EDIT] + 0.3 * prototypes()[OTHER] + 0.9 * prototypes()[-2])
    found = _edited(network, tokens, unsure, 0.9)
    assert _relative_error(found, editor(tokens, torch.zeros(1, EDIT_STATES))) < 0.01


@torch.no_grad()
def test_a_state_that_is_named_is_heard_as_exactly_one(networks):
    """Block 1 gates steep hinges with it: at 1.04 the tones of a posterised image were others."""
    _, network = networks
    stored = copy.deepcopy(network).to(torch.bfloat16).float()
    heard = {}

    def keep(index):
        return lambda module, args, output: heard.__setitem__(index, output[0])

    for index in (0, 1):
        stored.transformer_blocks[index].register_forward_hook(keep(index))
    _edited(stored, torch.zeros(1, 4, 4, CHANNELS), _sentence(prototypes()[EDIT]), 0.9)
    for index, level in ((0, 1), (1, 2)):
        stream = heard[index][0, -5:, level * EDIT_STATES : (level + 1) * EDIT_STATES]
        assert stream[:, EDIT] == pytest.approx(1.0, abs=2e-3)
        assert stream.sum(-1) == pytest.approx(1.0, abs=2e-3)
