"""HTML elements from plain values: whatever is not an element already is escaped."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from typing import Any

import numpy as np

_VOID = ("img", "meta", "br", "line", "path", "polyline", "rect", "circle", "source")


class Html(str):
    """Text that is HTML already; only ``element`` and ``join`` make it."""


def element(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element.

    Args:
        name: the tag.
        children: elements, or values whose text is escaped; None is left out.
        attributes: ``class_`` for class; underscores become hyphens; values are escaped; None is left out.
    """
    pairs = {
        key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None
    }
    opening = name + "".join(f' {key}="{html.escape(str(value))}"' for key, value in pairs.items())
    if name in _VOID and not children:
        return Html(f"<{opening}/>")
    return Html(f"<{opening}>{join(*children)}</{name}>")


def join(*children: Any) -> Html:
    """Elements and escaped texts, one after another."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children if c is not None))


def data_uri(kind: str, data: bytes) -> str:
    """The bytes as an address that needs no file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png(picture: np.ndarray) -> bytes:
    """A picture ``(H, W, 3)`` uint8 as PNG (ISO/IEC 15948), without loss."""
    height, width = picture.shape[:2]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
