"""Image classifiers by hub id or folder, through transformers: what `--safety-checker NAME` loads.

Whatever cannot be used is refused when it is loaded, in one sentence: a folder that is no classifier, labels that do
not say what is unsafe, weights that are pickles, timm models (they need torchvision). Never runs code from the folder.
Runs on the CPU in float32, beside the device.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from retouch.engine.pipelines.folders import quiet
from retouch.engine.safety import unsafe_labels
from retouch.errors import InvalidSetting
from retouch.images import Pixels

logger = logging.getLogger(__name__)

WANTED = ("config.json", "preprocessor_config.json", "*.safetensors")
TIMEOUT_S = 30.0


class NamedClassifier:
    """A loaded classifier; `score` may be called from several threads."""

    category = None  # its labels may be of violence as well
    default_threshold = 0.5
    timeout_s = TIMEOUT_S

    def __init__(self, name: str, model: Any, processor: Any, unsafe: Sequence[int], *, independent: bool) -> None:
        """unsafe: indexes of the labels that count. independent: several labels may hold at once."""
        self.name = name
        self.unsafe = tuple(unsafe)
        self._model = model
        self._processor = processor
        self._independent = independent

    @torch.inference_mode()
    def score(self, image: Pixels) -> float:
        """The unsafe labels' share of the softmax, or the largest of their sigmoids where labels are independent."""
        inputs = self._processor(images=image, input_data_format="channels_last", return_tensors="pt")
        logits: torch.Tensor = self._model(**inputs).logits[0].float()
        if self._independent:
            return float(logits.sigmoid()[list(self.unsafe)].max())
        return min(1.0, float(logits.softmax(dim=0)[list(self.unsafe)].sum()))


def load(name: str, labels: Sequence[str] = ()) -> NamedClassifier:
    """The classifier of a folder or hub id. labels: the operator's choice of unsafe ones. Raises InvalidSetting."""
    folder = find_folder(name, WANTED, option="--safety-checker")
    if _is_timm(folder / "config.json"):
        raise _unusable(name, "it is a timm model, which needs torchvision; choose a ViT of transformers instead")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unusable(name, f"its config.json cannot be read: {first_line(error)}") from None
    if not any(str(each).endswith("ForImageClassification") for each in config.architectures or ()):
        held = ", ".join(config.architectures or ()) or config.model_type or "nothing known"
        raise _unusable(name, f"it holds {held}, which is no image classifier")
    if not (folder / "preprocessor_config.json").is_file():
        raise _unusable(name, "it has no preprocessor_config.json, so how its images are prepared is not known")
    if not any(folder.glob("*.safetensors")):
        raise _unusable(name, "it has no weights in safetensors; pickles are never read")
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    chosen = unsafe_labels(names, labels)
    logger.info("%s: unsafe is %s of %s", name, ", ".join(chosen), ", ".join(names))
    try:
        with quiet():
            processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, told = AutoModelForImageClassification.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise _unusable(name, f"it cannot be loaded: {first_line(error)}") from None
    if told["missing_keys"]:
        raise _unusable(name, f"weights are missing, such as {min(told['missing_keys'])}")
    independent = config.problem_type == "multi_label_classification"
    unsafe = [index for index, label in enumerate(names) if label in chosen]
    return NamedClassifier(name, model.eval(), processor, unsafe, independent=independent)


def _is_timm(config: Path) -> bool:
    """Whether it is timm's own config file, or transformers' wrapper of one; without timm neither can be read."""
    try:
        values = json.loads(config.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and (values.get("model_type") == "timm_wrapper" or "pretrained_cfg" in values)


def find_folder(name: str, wanted: Sequence[str], *, option: str) -> Path:
    """A local folder, or the hub's copy of `wanted` files, fetched when missing. Raises InvalidSetting."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if name.startswith((".", "/", "~")):
        raise InvalidSetting(f"{option}: there is no folder '{name}'.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise InvalidSetting(
            f"{option}: '{name}' is not on this machine and could not be fetched: {first_line(error)}"
        ) from None


def _unusable(name: str, reason: str) -> InvalidSetting:
    return InvalidSetting(f"--safety-checker: '{name}' cannot be used: {reason}.")


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
