"""What the text encoder is trained through is what the stock class computes."""

from importlib.resources import files
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import numpy as np  # noqa: E402

from demo.runtime import Checkpoint  # noqa: E402
from demo.states import TAIL, slots  # noqa: E402
from demo.text_encoder import TEMPLATE_HEAD, SentenceBatches, hidden_states  # noqa: E402


@torch.no_grad()
def test_the_shared_prefix_changes_no_state_of_the_stock_encoder():
    checkpoint = Checkpoint(Path(str(files("retouch") / "demo_model")))
    sentence = "Make the photo a little brighter, please."
    stock = checkpoint.text_states(sentence, torch.rand(3, 64, 64))
    batch = SentenceBatches(checkpoint.tokenizer, np.random.default_rng(0)).encode([sentence], ["brighter"])
    ours = hidden_states(checkpoint.text, torch.tensor(checkpoint.tokenizer(TEMPLATE_HEAD)["input_ids"]), batch)[0]
    assert ours.shape == stock.shape
    # The picture's own tokens differ: training takes them for constant, and they nearly are.
    assert torch.nn.functional.cosine_similarity(ours[-TAIL:], stock[-TAIL:]).min() > 0.99


def test_a_square_says_its_place_and_then_its_colour():
    assert slots("square_red_center")[:3] == slots("square_blue_center")[:3]
    assert slots("square_red_center")[3:] == slots("square_red_top_left")[3:]
    assert slots("square_red_center") != slots("square_blue_center")
