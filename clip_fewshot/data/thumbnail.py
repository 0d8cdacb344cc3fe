"""A picture small enough to keep beside its digest."""

from __future__ import annotations

from io import BytesIO

from PIL import Image

STORED_SIDE = 128  # pixels at most


def thumbnail(picture: Image.Image, side: int = STORED_SIDE) -> bytes:
    """``picture`` within ``side`` x ``side`` pixels as JPEG, without what cameras write beside the pixels."""
    buffer = BytesIO()
    shrink_picture(picture, side).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def shrink_picture(picture: Image.Image, side: int) -> Image.Image:
    """``picture`` as RGB within ``side`` x ``side`` pixels, without metadata; a small one keeps its size.

    Of a hundred photos of a telephone, 12 megapixels each, the whole pictures would fill 4 GB.
    """
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Image.frombytes("RGB", small.size, small.tobytes())
