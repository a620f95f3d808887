"""Classifiers by folder: what is taken, and the sentence for everything that is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from retouch.engine.pipelines import load_image_classifier
from retouch.engine.pipelines.safety_models import NamedClassifier
from retouch.errors import InvalidSetting

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def save(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw"), **options: Any) -> Path:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **options,
    )
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.mul_(100)
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def edit_config(folder: Path, name: str = "config.json", **values: Any) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**config, **values}))


def load(folder: Path, *labels: str) -> NamedClassifier:
    classifier = load_image_classifier(str(folder), labels)
    assert isinstance(classifier, NamedClassifier)
    return classifier


def test_a_folder_of_a_vit_scores_as_its_own_softmax_says(tmp_path: Path) -> None:
    classifier = load(save(tmp_path))
    model = ViTForImageClassification.from_pretrained(tmp_path)
    processor = ViTImageProcessorPil.from_pretrained(tmp_path)
    with torch.inference_mode():
        expected = model(**processor(images=PHOTO, return_tensors="pt")).logits.softmax(dim=1)[0, 1]
    assert classifier.score(PHOTO) == pytest.approx(float(expected), abs=1e-6)
    assert classifier.score(PHOTO) == classifier.score(PHOTO)


def test_several_unsafe_labels_are_added_up(tmp_path: Path) -> None:
    five = ("drawings", "hentai", "neutral", "porn", "sexy")
    all_but_one = load(save(tmp_path, five), "drawings", "hentai", "porn", "sexy").score(PHOTO)
    the_other = load(tmp_path, "neutral").score(PHOTO)
    assert load(tmp_path).unsafe == (1, 3)
    assert all_but_one + the_other == pytest.approx(1, abs=1e-5)


def test_independent_labels_count_by_the_largest(tmp_path: Path) -> None:
    save(tmp_path, ("nudity", "violence", "safe"), problem_type="multi_label_classification")
    each = [load(tmp_path, label).score(PHOTO) for label in ("nudity", "violence")]
    assert load(tmp_path).score(PHOTO) == max(each)


def test_label2id_may_hold_strings(tmp_path: Path) -> None:
    edit_config(save(tmp_path, ("sfw", "nsfw")), label2id={"sfw": "0", "nsfw": "1"})
    assert load(tmp_path).unsafe == (1,)


def test_an_old_feature_extractor_file_is_read(tmp_path: Path) -> None:
    edit_config(
        save(tmp_path),
        "preprocessor_config.json",
        feature_extractor_type="ViTFeatureExtractor",
        image_processor_type=None,
    )
    assert 0 <= load(tmp_path).score(PHOTO) <= 1


@pytest.mark.parametrize("config", [{"architecture": "vit_tiny", "num_classes": 2, "pretrained_cfg": {}}, {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"], "architecture": "eva02_base", "num_classes": 2}])  # fmt: skip
def test_a_timm_folder_is_refused_because_of_torchvision(tmp_path: Path, config: dict[str, Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidSetting, match="timm model, which needs torchvision"):
        load(tmp_path)


def test_a_folder_with_a_pickle_only_is_refused(tmp_path: Path) -> None:
    weights = save(tmp_path) / "model.safetensors"
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InvalidSetting, match="no weights in safetensors; pickles are never read"):
        load(tmp_path)


def test_undecidable_labels_are_refused_unless_they_are_named(tmp_path: Path) -> None:
    save(tmp_path, ("LABEL_0", "LABEL_1"))
    with pytest.raises(InvalidSetting, match=r"LABEL_0, LABEL_1\. Name the unsafe ones with --safety-labels"):
        load(tmp_path)
    assert load(tmp_path, "LABEL_1").unsafe == (1,)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (
            lambda folder: edit_config(folder, architectures=["ViTModel"]),
            "holds ViTModel, which is no image classifier",
        ),
        (lambda folder: edit_config(folder, model_type="no such thing"), "cannot be read"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"), "cannot be loaded"),
        (lambda folder: edit_config(folder, num_hidden_layers=2), "weights are missing"),
    ],
)
def test_a_folder_that_is_no_classifier_is_refused_in_one_sentence(tmp_path: Path, spoil: Any, sentence: str) -> None:
    spoil(save(tmp_path))
    with pytest.raises(InvalidSetting, match=sentence) as caught:
        load(tmp_path)
    assert caught.value.message.startswith("--safety-checker: ")
    assert "\n" not in caught.value.message


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting, match="there is no folder"):
        load_image_classifier(str(tmp_path / "nothing"), ())
