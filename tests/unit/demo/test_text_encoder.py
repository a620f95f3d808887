"""What the text encoder is trained through is what the stock class computes."""

from importlib.resources import files
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import numpy as np  # noqa: E402
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer  # noqa: E402
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402

from demo.states import TAIL, slots  # noqa: E402
from demo.text_encoder import IMAGE, PREFIX_TOKENS, SentenceBatches, hidden_states  # noqa: E402
from retouch.engine.pipelines.text_encoder import PREFIX, SUFFIX  # noqa: E402

FOLDER = Path(str(files("retouch") / "demo_model"))


@torch.no_grad()
def test_the_shared_prefix_changes_no_state_of_the_stock_encoder():
    sentence = "Make the photo a little brighter, please."
    tokenizer = Qwen2Tokenizer.from_pretrained(FOLDER / "tokenizer")
    encoder = Qwen2_5_VLForConditionalGeneration.from_pretrained(FOLDER / "text_encoder", dtype=torch.float32).eval()
    image = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    seen = Qwen2VLImageProcessorPil.from_pretrained(FOLDER / "processor")(images=[image], return_tensors="pt")
    text = PREFIX + IMAGE.format(1, "<|image_pad|>" * 4) + sentence + SUFFIX
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    stock = encoder.model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=seen["pixel_values"],
        image_grid_thw=seen["image_grid_thw"],
        mm_token_type_ids=(ids == encoder.config.image_token_id).int(),
    ).last_hidden_state[0, PREFIX_TOKENS:]
    batch = SentenceBatches(tokenizer, np.random.default_rng(0)).encode([sentence], ["brighter"])
    ours = hidden_states(encoder, torch.tensor(tokenizer(PREFIX)["input_ids"]), batch)[0]
    assert ours.shape == stock.shape
    # The image's own tokens differ: training takes them for constant, and they nearly are.
    assert torch.nn.functional.cosine_similarity(ours[-TAIL:], stock[-TAIL:]).min() > 0.99


def test_a_square_says_its_place_and_then_its_colour():
    assert slots("square_red_center")[:3] == slots("square_blue_center")[:3]
    assert slots("square_red_center")[3:] == slots("square_red_top_left")[3:]
    assert slots("square_red_center") != slots("square_blue_center")
