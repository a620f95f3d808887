"""What callers may ask for (`models.toml`), what can be loaded (`checkpoints`), and which serves which (`routing`).

Nothing here loads anything.
"""

from retouch.catalog.checkpoints import (
    CHECKPOINTS,
    DEMO_SIZES,
    HOSTED,
    QWEN_SIZES,
    Checkpoint,
    FastLora,
    checkpoint_named,
    checkpoints_named,
)
from retouch.catalog.profiles import Limits
from retouch.catalog.routing import MODELS, Catalog, Checks, Model, Price, Route, checks_of, model_named

__all__ = [
    "CHECKPOINTS",
    "DEMO_SIZES",
    "HOSTED",
    "MODELS",
    "QWEN_SIZES",
    "Catalog",
    "Checkpoint",
    "Checks",
    "FastLora",
    "Limits",
    "Model",
    "Price",
    "Route",
    "checkpoint_named",
    "checkpoints_named",
    "checks_of",
    "model_named",
]
