"""Which kinds of upstreams there are. The rest of the package knows an upstream by its interface only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from retouch.errors import InvalidSetting
from retouch.upstreams.dashscope.upstream import DashScopeUpstream
from retouch.upstreams.fal.upstream import FalUpstream
from retouch.upstreams.openai.upstream import FLAVOURS, OpenAIUpstream
from retouch.upstreams.options import UpstreamOptions
from retouch.upstreams.replicate.upstream import ReplicateUpstream
from retouch.upstreams.retouch.upstream import RetouchUpstream
from retouch.upstreams.runpod.upstream import RunPodUpstream
from retouch.upstreams.upstream import Upstream

Factory: TypeAlias = Callable[[UpstreamOptions], Upstream]

KINDS: Final[Mapping[str, Factory]] = {
    "fal": FalUpstream,
    "runpod": RunPodUpstream,
    "replicate": ReplicateUpstream,
    "dashscope": DashScopeUpstream,
    "retouch": RetouchUpstream,
    **{name: partial(OpenAIUpstream, flavour=name) for name in FLAVOURS},
}


def open_upstream(kind: str, options: UpstreamOptions) -> Upstream:
    """A provider as its options say; nothing is contacted. Raises InvalidSetting for a kind that is not known."""
    factory = KINDS.get(kind)
    if factory is None:
        raise InvalidSetting(f"'{kind[:50]}' is no kind of upstream; there are {', '.join(KINDS)}.")
    return factory(options)
