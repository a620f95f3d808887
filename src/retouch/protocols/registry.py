"""The protocols this server speaks. Adding one is a folder with a `FACE` and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from retouch.errors import NotOneOf
from retouch.protocols.face import Face
from retouch.protocols.fal.face import FACE as FAL
from retouch.protocols.openai.face import FACE as OPENAI
from retouch.protocols.runpod.face import FACE as RUNPOD

FACES: tuple[Face, ...] = (OPENAI, FAL, RUNPOD)

VENDOR_HOSTS: Mapping[str, str] = {host: path for face in FACES for host, path in face.vendor_hosts.items()}
"""Host names that the vendors' clients know, each with the path it stands for here."""


def face_named(name: str) -> Face:
    """The face whose jobs carry `name`; raises NotOneOf."""
    for face in FACES:
        if face.name == name:
            return face
    raise NotOneOf("client", name, tuple(face.name for face in FACES))
