"""Guard models by folder, on tiny random weights: their own template is used, and what is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from retouch.engine.pipelines import load_guard
from retouch.engine.pipelines.safety_models import GuardModel, conversation
from retouch.engine.prompt_safety import PromptChecker, read_llama_guard, read_qwen_guard
from retouch.errors import InvalidSetting, SafetyUnavailable
from tests import tiny_checkpoints

QWEN = "# Policy: answer Safety: Safe, Unsafe or Controversial\nUSER: {{ messages[0]['content'] }}\n<|im_end|>"
LLAMA = "unsafe content: S1 S2\n{{ messages[0]['content'] }}\nanswer:"
LLAMA_PARTS = "unsafe content: S1 S2\n{{ messages[0]['content'][0]['text'] }}\nanswer:"


def save(folder: Path, template: str) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny_checkpoints.build_tokenizer()
    tokenizer.chat_template = template
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("template", "read"), [(QWEN, read_qwen_guard), (LLAMA, read_llama_guard), (LLAMA_PARTS, read_llama_guard)])  # fmt: skip
def test_a_guard_is_known_and_asked_by_its_own_template(tmp_path: Path, template: str, read: object) -> None:
    guard = load_guard(str(save(tmp_path, template)), "cpu")
    assert isinstance(guard, GuardModel)
    assert guard._read is read
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert "draw a cat" in conversation(tokenizer, "draw a cat", parts=guard._parts)


def test_what_a_random_guard_says_is_a_failed_check(tmp_path: Path) -> None:
    guard = load_guard(str(save(tmp_path, QWEN)), "cpu")
    with pytest.raises(SafetyUnavailable):
        PromptChecker(guard).check("draw a cat")


def test_a_chat_model_is_no_guard(tmp_path: Path) -> None:
    save(tmp_path, "{{ messages[0]['content'] }}")
    with pytest.raises(InvalidSetting, match="neither that of Qwen3Guard-Gen nor that of Llama Guard"):
        load_guard(str(tmp_path), "cpu")


def test_a_template_that_drops_the_prompt_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "S1 unsafe {{ messages[0]['role'] }}")
    with pytest.raises(InvalidSetting, match="does not show the prompt"):
        load_guard(str(tmp_path), "cpu")


def test_a_guard_in_a_pickle_is_refused(tmp_path: Path) -> None:
    (save(tmp_path, QWEN) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidSetting, match="pickles are never read"):
        load_guard(str(tmp_path), "cpu")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    for file in save(tmp_path, QWEN).glob("*token*"):
        file.unlink()
    with pytest.raises(InvalidSetting, match="its tokenizer cannot be read"):
        load_guard(str(tmp_path), "cpu")
