"""A picture small enough to keep beside its digest."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

STORED_SIDE = 128  # pixels at most


def thumbnail(picture: Image.Image, side: int = STORED_SIDE) -> bytes:
    """``picture`` within ``side`` x ``side`` pixels as JPEG, without what cameras write beside the pixels."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = BytesIO()
    Image.frombytes("RGB", small.size, small.tobytes()).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
