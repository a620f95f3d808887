"""Write the trained parts as a hub folder that the stock classes load with `from_pretrained`.

Missing parts are written untrained, so that a folder with the final structure exists from the first
minute. The model card holds the table that `demo.evaluate --out RUN` wrote.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.nn import functional
from transformers import Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from demo.editor import Editor
from demo.loop import averaged
from demo.stages import to_images
from demo.text_encoder import new_text_encoder
from demo.transformer import assemble
from demo.vae import Codec, folded_decoder, new_vae, unfold

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LN_3 = 1.0986122886681098  # the shift of the few-step schedules, see diffusers' Lightning example
MODEL_INDEX = {
    "_class_name": "QwenImageEditPlusPipeline",
    "_diffusers_version": "0.42.1",
    "processor": ["transformers", "Qwen2VLProcessor"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
    "tokenizer": ["transformers", "Qwen2Tokenizer"],
    "transformer": ["diffusers", "QwenImageTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLQwenImage"],
}


def export(run: Path, codec: Codec, bank: np.ndarray, seed: int) -> None:
    """Assemble what `run` holds so far into its folder `checkpoint`."""
    folder = run / "checkpoint"
    folder.mkdir(exist_ok=True)
    tokenizer = Qwen2Tokenizer.from_pretrained(run / "tokenizer")
    _write_tokenizer(tokenizer, folder)
    vae, decoder, editor = new_vae(codec), folded_decoder(codec), Editor(codec)
    encoder = new_text_encoder(tokenizer, seed)
    for stage, network in (("decoder", decoder), ("editor", editor), ("text", encoder)):
        if (run / f"{stage}.pt").exists():
            network.load_state_dict(averaged(run / f"{stage}.pt"))
    unfold(decoder, vae, codec)
    for part, network in (("vae", vae), ("transformer", assemble(editor, codec)), ("text_encoder", encoder)):
        network.to(torch.bfloat16).save_pretrained(folder / part)
    scheduler = FlowMatchEulerDiscreteScheduler(
        base_shift=LN_3, max_shift=LN_3, shift_terminal=None, use_dynamic_shifting=True,
        base_image_seq_len=256, max_image_seq_len=8192, time_shift_type="exponential",
    )  # fmt: skip
    scheduler.save_pretrained(folder / "scheduler")
    _write_json(folder / "preview.json", fit_preview(codec, bank))
    _write_json(folder / "model_index.json", MODEL_INDEX)
    card, figures = Path(__file__).with_name("model_card.md").read_text(), run / "figures.md"
    measured = figures.read_text().strip() if figures.exists() else "Not measured yet."
    (folder / "README.md").write_text(card.replace("FIGURES", measured))
    for weights in folder.glob("*/*.safetensors"):
        weights.chmod(0o644)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def _write_tokenizer(tokenizer: Qwen2Tokenizer, folder: Path) -> None:
    """tokenizer/ and processor/ as the hub repository has them."""
    tokenizer.chat_template = CHAT_TEMPLATE
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    for name in ("tokenizer", "processor"):
        tokenizer.save_pretrained(folder / name)
    _write_json(folder / "tokenizer" / "vocab.json", model["vocab"])
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "tokenizer" / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    least, most = 56 * 56, 28 * 28 * 64
    images = Qwen2VLImageProcessorPil(
        patch_size=14, merge_size=2, temporal_patch_size=2, size={"shortest_edge": least, "longest_edge": most}
    )
    images.save_pretrained(folder / "processor")
    path = folder / "processor" / "preprocessor_config.json"
    names = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor"}
    _write_json(path, json.loads(path.read_text()) | names | {"min_pixels": least, "max_pixels": most})


def fit_preview(codec: Codec, bank: np.ndarray) -> dict[str, list[list[float]] | list[float]]:
    """The best linear map from a normalised latent to the mean colour of its 8x8 block."""
    images = to_images(bank[:400])
    latents = codec.encode(images).permute(0, 2, 3, 1).flatten(0, 2)
    colours = functional.avg_pool2d(images, 8).permute(0, 2, 3, 1).flatten(0, 2)
    known = functional.pad(latents, (0, 1), value=1.0)
    solution = torch.linalg.lstsq(known.double(), colours.double()).solution
    rounded = [[round(float(x), 6) for x in row] for row in solution]
    return {"matrix": rounded[:-1], "bias": rounded[-1]}
