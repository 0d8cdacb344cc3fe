"""What is part of a page: pictures as data URIs, small and stripped of metadata, and the hash of its script."""

from __future__ import annotations

import base64
from hashlib import sha256
from io import BytesIO

from PIL import Image

from clip_fewshot.data.thumbnail import shrink_picture

REPORT_SIDE = 96  # pixels; the page shows thumbnails at 72 to 96 CSS pixels
PREVIEW_SIDE = 240  # pixels of a picture that can be looked at closer: some 10 kB of a photo


def thumbnail_uri(picture: Image.Image, side: int = REPORT_SIDE) -> str:
    """``picture`` shrunk to fit ``side`` x ``side`` pixels, as a ``data:image/...;base64`` URI.

    Stored as PNG or JPEG, whichever is smaller: PNG wins on scans and glyphs, JPEG by far on photos. Drawing it
    afresh drops EXIF data (place, camera, owner), which does not belong in a page that is passed on.
    """
    small = shrink_picture(picture, side)
    png, jpeg = _encode(small, "PNG"), _encode(small, "JPEG")
    kind, data = ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def svg_uri(svg: str) -> str:
    """An SVG drawing as a data URI. As an image it can run no script and shares no ids with its neighbours."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode('ascii')}"


def hash_source(source: str) -> str:
    """The SHA-256 of a script or style as a content security policy writes it."""
    return base64.b64encode(sha256(source.encode()).digest()).decode("ascii")


def _encode(picture: Image.Image, kind: str) -> bytes:
    buffer = BytesIO()
    if kind == "PNG":
        picture.save(buffer, kind, optimize=True)
    else:
        picture.save(buffer, kind, quality=82, optimize=True)
    return buffer.getvalue()
