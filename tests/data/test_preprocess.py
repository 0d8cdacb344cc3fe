"""The preprocessing against a twin of OpenAI's torchvision pipeline, written with torch: no difference at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip_fewshot.data.image import Geometry, normalise, preprocess, resize_crop
from clip_fewshot.errors import DataError
from tests.data.pictures import pixels


def openai_pipeline(image: Image.Image, size: int) -> torch.Tensor:
    """Resize(size, bicubic), CenterCrop(size), RGB, ToTensor, Normalize, step by step as torchvision documents them."""
    w, h = image.size
    if w <= h:
        new_w, new_h = size, int(size * h / w)
    else:
        new_w, new_h = int(size * w / h), size
    if (w, h) != (new_w, new_h):
        image = image.resize((new_w, new_h), Image.Resampling.BICUBIC)
    top, left = int(round((new_h - size) / 2.0)), int(round((new_w - size) / 2.0))  # noqa: RUF046
    image = image.crop((left, top, left + size, top + size)).convert("RGB")
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    mean = torch.as_tensor((0.48145466, 0.4578275, 0.40821073), dtype=torch.float32).view(-1, 1, 1)
    std = torch.as_tensor((0.26862954, 0.26130258, 0.27577711), dtype=torch.float32).view(-1, 1, 1)
    return tensor.sub_(mean).div_(std)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(8, 300), height=st.integers(8, 300), size=st.sampled_from([32, 64, 97, 224]))
def test_no_difference_on_any_size(width: int, height: int, size: int) -> None:
    if max(width, height) > 20 * min(width, height):
        return
    image = Image.fromarray(pixels(width * 1000 + height, height, width))
    ours = preprocess(image, size)
    assert ours.dtype == np.float32
    assert ours.shape == (3, size, size)
    assert ours.flags["C_CONTIGUOUS"]
    assert np.array_equal(ours, openai_pipeline(image, size).numpy())


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_no_difference_on_other_modes(mode: str) -> None:
    image = Image.fromarray(pixels(7, 50, 71)).convert(mode)
    assert np.array_equal(preprocess(image, 32), openai_pipeline(image, 32).numpy())


def test_all_bytes_normalise_to_the_bit() -> None:
    every = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    assert np.array_equal(normalise(every), openai_pipeline(Image.fromarray(every), 16).numpy())
    assert np.array_equal(normalise(every[None])[0], normalise(every))


def test_a_batch_normalises_like_its_pictures() -> None:
    batch = np.stack([pixels(seed, 32, 32) for seed in range(4)])
    assert batch.transpose(0, 2, 1, 3).flags["C_CONTIGUOUS"] is False
    for layout in (batch, batch.transpose(0, 2, 1, 3)):
        got = normalise(layout)
        assert got.flags["C_CONTIGUOUS"]
        assert np.array_equal(got, np.stack([openai_pipeline(Image.fromarray(p.copy()), 32).numpy() for p in layout]))


def test_margins_are_rounded_half_to_even() -> None:
    columns = np.repeat(np.arange(35, dtype=np.uint8)[None, :, None], 32, axis=0).repeat(3, axis=2)
    assert np.asarray(resize_crop(Image.fromarray(columns), 32))[0, 0, 0] == 2  # margin 1.5 -> 2
    assert np.asarray(resize_crop(Image.fromarray(columns[:, :33]), 32))[0, 0, 0] == 0  # margin 0.5 -> 0


def test_deep_pictures_in_memory_are_scaled_and_not_cut() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (50, 71), dtype=np.uint16)
    twin = preprocess(Image.fromarray((deep >> 8).astype(np.uint8)), 32)
    assert np.array_equal(preprocess(Image.fromarray(deep), 32), twin)
    floats = Image.fromarray(((deep >> 8) / 255).astype(np.float32))
    assert np.abs(preprocess(floats, 32) - twin).max() < 0.02  # a step of 8 bits
    with pytest.raises(DataError, match="floats from"):
        preprocess(Image.fromarray(deep.astype(np.float32)), 32)


def uneven(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_a_squashed_picture_keeps_its_edges() -> None:
    picture = uneven(50, 23)
    found = resize_crop(picture, Geometry(16, squash=True, resample="bilinear"))
    assert found.tobytes() == picture.resize((16, 16), Image.Resampling.BILINEAR).tobytes()


@pytest.mark.parametrize(("floor", "left"), [(False, 4), (True, 3)])
def test_a_margin_of_half_pixels_is_rounded_as_the_library_does(floor: bool, left: int) -> None:
    picture = uneven(23, 16)  # 7 columns too many: 3.5 on each side
    found = resize_crop(picture, Geometry(16, floor=floor))
    assert found.tobytes() == picture.crop((left, 0, left + 16, 16)).tobytes()


def test_the_square_is_cut_out_of_a_larger_picture() -> None:
    picture = uneven(60, 40)
    found = resize_crop(picture, Geometry(16, 20))
    assert found.tobytes() == picture.resize((30, 20), Image.Resampling.BICUBIC).crop((7, 2, 23, 18)).tobytes()


def test_a_palette_is_left_before_or_after_the_resizing() -> None:
    picture = uneven(40, 30).quantize(8)
    first, last = (resize_crop(picture, Geometry(16, rgb_first=early)) for early in (True, False))
    assert first.tobytes() == resize_crop(picture.convert("RGB"), 16).tobytes() != last.tobytes()


def test_what_is_kept_of_a_picture_can_be_prepared_again() -> None:
    picture = uneven(60, 40)
    for how in (Geometry(16, 20), Geometry(16, 20, floor=True), Geometry(16, squash=True), Geometry(16)):
        kept = resize_crop(picture, how.uncut())
        assert resize_crop(kept, how).tobytes() == resize_crop(picture, how).tobytes()


def test_only_what_is_not_openais_is_in_the_key_of_caches() -> None:
    assert Geometry(16).about() == {}
    assert Geometry(16, 20, squash=True).about() == {"resize": 20, "squash": True}
    assert Geometry(16, 20).sized(32) == Geometry(32, 40)
    assert Geometry(16).sized(32) == Geometry(32)
