"""Imports transformers and diffusers, and builds their models, without torch's compiler and distributed part, and peft.

Neither library needs these to run a model on one device, but they import them for decorators, for names that are used
in training and for hooks that are not used here, which takes as long as torch itself. Changes nothing afterwards.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

COMPILER: Final = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within the block torch has no distributed part and diffusers no peft; a stand-in takes the compiler's place.

    Does nothing when the compiler, or either library outside such a block, is imported already. Not for two threads at
    a time.
    """
    # Whether a block came before this one. Not by getattr, for which torch would import its compiler.
    lean = "torch" in sys.modules and isinstance(vars(sys.modules["torch"]).get("_dynamo"), _Later)
    if COMPILER in sys.modules or (not lean and {"transformers", "diffusers"} & sys.modules.keys()):
        yield
        return
    try:
        import torch
        import torch.distributed
    except ModuleNotFoundError:  # reported where it is needed
        yield
        return
    # What is found in sys.modules is not imported; and where there is no distributed part, none of it is asked for.
    is_available = torch.distributed.is_available
    stand_in = _StandIn(COMPILER)
    stand_in.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]  # a submodule of it is imported by itself
    sys.modules[COMPILER] = stand_in
    torch._dynamo = stand_in  # noqa: SLF001
    torch.distributed.is_available = lambda: False
    try:
        with _without_peft():
            yield
    finally:
        torch.distributed.is_available = is_available
        torch._dynamo = _Later(COMPILER)  # noqa: SLF001 - diffusers asks it at every step whether it compiles
        # So that whatever compiles later imports the real one; what took names from the stand-in keeps its decorators.
        for name in [name for name in sys.modules if name == COMPILER or name.startswith(f"{COMPILER}.")]:
            del sys.modules[name]


@contextmanager
def _without_peft() -> Iterator[None]:
    """diffusers imports it with the first model, for layers that are kept in two dtypes and have adapters as well."""
    try:
        from diffusers.utils import import_utils
    except ModuleNotFoundError:  # reported where it is needed
        yield
        return
    known: bool = import_utils._peft_available  # noqa: SLF001
    import_utils._peft_available = False  # noqa: SLF001
    try:
        yield
    finally:
        import_utils._peft_available = known  # noqa: SLF001


class _Later(ModuleType):
    """The compiler as long as nothing compiles; the real one is imported when more is needed."""

    @staticmethod
    def is_compiling() -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(COMPILER), name)


class _StandIn(ModuleType):
    """Every public name is a decorator that gives back what it is put on."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _as_it_is


def _as_it_is(decorated: Any = None, *_: Any, **__: Any) -> Any:
    return decorated if callable(decorated) else _as_it_is
