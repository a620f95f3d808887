"""A model is loaded and run without torch's compiler; a program that compiles afterwards has it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import numpy as np
from retouch.catalog import checkpoint_named
from retouch.edit import EditSpec
from retouch.engine.engine import Engine
from retouch.engine.pipeline import SILENT
from retouch.engine.pipelines import has_gpu, load_pipeline, share_device

demo = checkpoint_named("demo")
has_gpu("auto")
share_device([demo, demo], device="cpu", precision="auto", offload="auto", speaks=[SILENT, SILENT])
engine = Engine(load_pipeline(demo, device="cpu"))
engine.add(EditSpec("make it grayscale", 64, 64, seed=1, steps=1), [np.zeros((64, 64, 3), np.uint8)])
while engine.busy:
    report = engine.step()
assert report.finished, report.failed
assert not [name for name in sys.modules if name.startswith(("torch._dynamo", "peft"))]

import torch
assert torch.distributed.is_available()
assert not torch.compiler.is_compiling()
double = torch.compile(lambda values: values * 2, backend="eager")
assert double(torch.ones(3)).tolist() == [2, 2, 2]
import torch._dynamo
assert torch._dynamo.__file__
from diffusers.utils import is_peft_available
assert is_peft_available()
from diffusers import QwenImageEditPlusPipeline
from transformers import AutoModelForCausalLM
"""


def test_a_worker_looks_loads_and_edits_without_the_compiler_and_leaves_it_whole() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
