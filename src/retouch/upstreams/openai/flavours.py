"""What differs among the servers of the OpenAI kind, as data. Names and values of parameters are in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Flavour:
    """One server. base_url: None where an operator must say it. paid: a submit costs money.

    streams: it can answer in events, whose comments keep a long edit's connection open. cost_header, cost_member: where
    an answer tells its cost in US dollars. stops_when_closed: closing the connection stops the work, without charge.
    """

    base_url: str | None = None
    paid: bool = True
    streams: bool = False
    cost_header: str = ""
    cost_member: tuple[str, str] | None = None
    stops_when_closed: bool = False


FLAVOURS: Final[Mapping[str, Flavour]] = {
    "openai": Flavour("https://api.openai.com/v1", streams=True),
    "lumenfall": Flavour("https://api.lumenfall.ai/openai/v1", cost_member=("metadata", "cost")),
    "deepinfra": Flavour("https://api.deepinfra.com/v1/openai"),
    "litellm": Flavour(cost_header="x-litellm-response-cost"),
    "vllm-omni": Flavour(paid=False, stops_when_closed=True),
    "sglang": Flavour(paid=False),
}
