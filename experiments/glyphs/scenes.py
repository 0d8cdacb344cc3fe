"""Pictures of glyphs: placed, bent, thickened, coloured and put on a ground, a batch at a time.

Every quantity that a caption may state is kept as an integer beside the pictures, so that it is known exactly which
captions are true of which picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from experiments.glyphs.fields import BODY, REACH
from experiments.glyphs.pool import Pool

PATCH = 32  # pixels of a bitmap scan's side; its cells of 4 x 4 pixels make 8 x 8 grey values
COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (1, 1, 1),
    "black": (0, 0, 0),
    "grey": (0.5, 0.5, 0.5),
    "red": (0.85, 0.1, 0.1),
    "orange": (1, 0.55, 0.05),
    "yellow": (0.95, 0.9, 0.15),
    "green": (0.1, 0.6, 0.15),
    "cyan": (0.15, 0.8, 0.85),
    "blue": (0.1, 0.2, 0.85),
    "purple": (0.5, 0.1, 0.6),
    "pink": (1, 0.6, 0.75),
    "brown": (0.45, 0.27, 0.1),
}
GROUNDS = ("plain", "shaded", "mottled", "striped")
ATTRIBUTES = ("class", "kind", "source", "ink", "paper", "ground", "size", "column", "row")
SMALL, LARGE = 0.6, 0.8
KINDS = ("digit", "letter", "mark", "sign", "symbol", "shape")


@dataclass(frozen=True)
class Scenes:
    """Pictures (b, 3, s, s) in [0, 1] and attributes (b, a), columns as in ATTRIBUTES."""

    images: Tensor
    attributes: NDArray[np.int64]


@dataclass(frozen=True)
class SceneStyle:
    """How pictures are drawn.

    Args:
        image_size: pixels of a side.
        scans: fraction drawn as a bitmap scan: white on black, 8 x 8 grey values, filling the picture.
        bend: strength of rotation, shear and elastic distortion; 1 is the full one.
    """

    image_size: int = 32
    scans: float = 0.45
    bend: float = 1.0


def draw_scenes(pool: Pool, rows: NDArray[np.int64], style: SceneStyle, rng: np.random.Generator) -> Scenes:
    """One picture per row of the pool."""
    n_scans = round(len(rows) * style.scans)
    fields = torch.from_numpy(pool.fields[rows]).float().div_(127.5).sub_(1).mul_(REACH)
    attributes = np.zeros((len(rows), len(ATTRIBUTES)), dtype=np.int64)
    attributes[:, 0] = pool.class_of[rows]
    attributes[:, 1] = [KINDS.index(pool.classes[c].kind) for c in attributes[:, 0]]
    attributes[:, 2] = pool.source_of[rows]
    attributes[:n_scans, 3:] = (0, 1, 0, 2, 1, 1)
    parts = []
    if n_scans:
        parts.append(_scans(fields[:n_scans], style, rng))
    if n_scans < len(rows):
        wild, attributes[n_scans:, 3:] = _wild(fields[n_scans:], style, rng)
        parts.append(wild)
    return Scenes(torch.cat(parts), attributes)


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


def _normal(rng: np.random.Generator, scale: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(0, scale, shape).astype(np.float32))


def _distances(fields: Tensor, bend: float, fill: Tensor, rng: np.random.Generator) -> Tensor:
    """(b, PATCH, PATCH) signed distances, turned, sheared and bent; ``fill`` is the glyph's share of the side."""
    n = len(fields)
    turn, shear = _normal(rng, 0.12 * bend, n), _normal(rng, 0.12 * bend, n)
    stretch = torch.exp(_normal(rng, 0.08 * bend, n))
    cos, sin = torch.cos(turn), torch.sin(turn)
    matrix = torch.stack([torch.stack([cos * stretch, shear - sin], 1), torch.stack([sin, cos / stretch], 1)], 1)
    affine = torch.cat([matrix * (BODY / fill)[:, None, None], _normal(rng, 0.02, n, 2, 1)], dim=2)
    grid = F.affine_grid(affine, [n, 1, PATCH, PATCH], align_corners=False)
    knots = _normal(rng, 1.0, n, 2, 5, 5) * _uniform(rng, 0, 0.07 * bend, n, 1, 1, 1)
    grid = grid + F.interpolate(knots, (PATCH, PATCH), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    sampled = F.grid_sample(fields[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    return sampled + _uniform(rng, -0.02, 0.07, n, 1, 1)


def _cells(distances: Tensor) -> Tensor:
    """Bitmap scan: binarise, count the ink in cells of 4 x 4 pixels: (b, 8, 8) with 17 levels in [0, 1]."""
    return F.avg_pool2d((distances > 0).float()[:, None], 4)[:, 0]


def _scans(fields: Tensor, style: SceneStyle, rng: np.random.Generator) -> Tensor:
    """(b, 3, s, s): cells with a black margin of one cell (seldom none or two), enlarged as CLIP does."""
    cells = _cells(_distances(fields, style.bend, _uniform(rng, 0.9, 1.06, len(fields)), rng))[:, None]
    margins = np.array_split(np.arange(len(fields)), [round(len(fields) * 0.1), round(len(fields) * 0.9)])
    size = (style.image_size, style.image_size)
    enlarged = [
        F.interpolate(F.pad(cells[rows], (m,) * 4), size, mode="bicubic", antialias=True)
        for rows, m in zip(margins, (0, 1, 2), strict=True)
        if len(rows)
    ]
    return torch.cat(enlarged).clamp(0, 1).expand(-1, 3, -1, -1)


def _wild(fields: Tensor, style: SceneStyle, rng: np.random.Generator) -> tuple[Tensor, NDArray[np.int64]]:
    n, s = len(fields), style.image_size
    scale = _uniform(rng, 0.45, 1.0, n)
    distances = _distances(fields, style.bend, torch.ones(n), rng)
    soft = (distances * (s / 2) * scale[:, None, None] / BODY + 0.5).clamp(0, 1)
    n_coarse = n // 2
    coarse = F.interpolate(_cells(distances[:n_coarse])[:, None], (PATCH, PATCH), mode="bicubic")[:, 0].clamp(0, 1)
    patch = torch.cat([coarse, soft[n_coarse:]])
    offset = _uniform(rng, -1, 1, n, 2) * (1 - scale[:, None])
    mask = _place(patch, scale, offset, s)
    ink, paper = _two_colours(n, rng)
    ground_kind = rng.integers(0, len(GROUNDS), n)
    images = torch.lerp(_grounds(paper, ground_kind, s, rng), _tinted(ink, rng)[:, :, None, None], mask[:, None])
    images = images + _normal(rng, 1.0, n, 1, s, s) * _uniform(rng, 0, 0.05, n, 1, 1, 1)
    size = np.digitize(scale.numpy(), [SMALL, LARGE])
    place = np.digitize(offset.numpy(), [-0.2, 0.2])
    return images.clamp(0, 1), np.stack([ink, paper, ground_kind, size, place[:, 0], place[:, 1]], axis=1)


def _place(patch: Tensor, scale: Tensor, offset: Tensor, size: int) -> Tensor:
    """(b, s, s): the patch at ``scale`` of the side with its centre at ``offset`` in [-1, 1]."""
    zeros = torch.zeros_like(scale)
    rows = [
        torch.stack([1 / scale, zeros, -offset[:, 0] / scale], 1),
        torch.stack([zeros, 1 / scale, -offset[:, 1] / scale], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), [len(patch), 1, size, size], align_corners=False)
    return F.grid_sample(patch[:, None], grid, align_corners=False)[:, 0]


_PALETTE = np.array(list(COLOURS.values()), dtype=np.float32)
_FAR_APART = np.abs(_PALETTE[:, None] - _PALETTE[None]).sum(axis=2) > 0.75


def _two_colours(n: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ink and paper colours that differ enough to read; half of the time both are white, black or grey."""
    ink = np.where(rng.random(n) < 0.5, rng.integers(0, 3, n), rng.integers(0, len(COLOURS), n))
    allowed = _FAR_APART[ink] & ((np.arange(len(COLOURS)) < 3) | (rng.random((n, 1)) < 0.5))
    return ink, np.argmax(allowed * rng.random(allowed.shape), axis=1)


def _tinted(colour: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
    """(b, 3) the named colours, each a little off."""
    return (torch.from_numpy(_PALETTE[colour]) + _normal(rng, 0.06, len(colour), 3)).clamp(0, 1)


def _grounds(paper: NDArray[np.int64], kind: NDArray[np.int64], size: int, rng: np.random.Generator) -> Tensor:
    """(b, 3, s, s): the paper's colour with a texture of its kind added."""
    n = len(paper)
    axis = torch.linspace(-1, 1, size)
    angle = _uniform(rng, 0, 2 * math.pi, n, 1, 1)
    along = torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]
    strength = _uniform(rng, 0.04, 0.2, n, 1, 1, 1)
    mottled = F.interpolate(_normal(rng, 0.7, n, 3, 8, 8), (size, size), mode="bilinear")
    stripes = torch.sin(along * _uniform(rng, 6, 16, n, 1, 1))[:, None]
    choice = torch.from_numpy(kind)[:, None, None, None]
    shaded = along[:, None] * torch.sign(_normal(rng, 1, n, 3, 1, 1))
    texture = (choice == 1) * shaded + (choice == 2) * mottled + (choice == 3) * stripes
    return _tinted(paper, rng)[:, :, None, None] + texture * strength
