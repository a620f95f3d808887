"""What the text encoder can say: the states its last tokens take for each request.

A request is a name: an edit's, `match_colors`, or `square_{colour}_{place}`. The five tokens behind
the sentence all say an edit's name; for a square the first three say the place and the last two the
colour, so that 45 requests need 14 states.
"""

from __future__ import annotations

from demo.edits import COLOURS, NAMES, PLACES

TAIL = 5  # tokens behind the sentence
PLACE_TOKENS = 3
EDIT_STATES = 60  # room for states in the text stream
SQUARES = {f"square_{colour}_{place}": (colour, place) for colour in COLOURS for place in PLACES}
REQUESTS: tuple[str, ...] = (*NAMES, "match_colors", *SQUARES)
COLOUR_STATES = tuple(f"colour {colour}" for colour in COLOURS)
PLACE_STATES = tuple(f"place {place}" for place in PLACES)
STATES: tuple[str, ...] = (*NAMES, "match_colors", *COLOUR_STATES, *PLACE_STATES)


def slots(request: str) -> list[int]:
    """The state of each of the TAIL tokens."""
    if request not in SQUARES:
        return [STATES.index(request)] * TAIL
    colour, place = SQUARES[request]
    placed, coloured = STATES.index(f"place {place}"), STATES.index(f"colour {colour}")
    return [placed] * PLACE_TOKENS + [coloured] * (TAIL - PLACE_TOKENS)
