"""A backbone of ours as a folder: ``model.safetensors`` and ``config.json``, the form of the shipped model."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from clip_fewshot.backbones.architectures import STATED, CLIPConfig
from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.checkpoint import assemble
from clip_fewshot.backbones.stated import CONFIG, OPEN_CLIP_CONFIG
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime.files import hash_bytes, read_json, write_json, write_pieces
from clip_fewshot.runtime.outputs import FolderKind, check_folder
from clip_fewshot.runtime.reading import as_path
from clip_fewshot.runtime.tensor_file import TensorFile, check_tensors, read_metadata

BACKBONE_WEIGHTS = "model.safetensors"
# Where Hugging Face and open_clip put weights; behind ".index.json" a list of the files that hold a part of them.
FOREIGN_WEIGHTS = (BACKBONE_WEIGHTS, "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TOKEN_EMBEDDING, TOKEN_ROWS = "token_embedding.weight", "token_rows"
BACKBONE_FOLDER = FolderKind("backbone", ((CONFIG, frozenset({"sha256", "vision_layers"})),))
SHIPPED = Path(__file__).parent / "mini"


def save_backbone(
    backbone: Backbone,
    folder: str | Path,
    used_token_ids: Collection[int] | None = None,
    half: bool = True,
    overwrite: bool = False,
) -> None:
    """Write a backbone as a folder that :func:`load_folder` reads.

    Args:
        backbone: what to write; left as it is.
        folder: where: new, empty, or with an older backbone, which is replaced.
        used_token_ids: tokens whose rows of the embedding are stored one by one; all others share one row, the mean of
            theirs. A vocabulary that training hardly touched then takes no space. None stores every row.
        half: round the weights to float16, half the size; default True.
        overwrite: write into a folder that holds other files too; those of the same names are replaced.

    Raises:
        ResourceError: it does.
        UsageError: weights that are not finite, in float16 if so asked.

    Example:
        >>> from pathlib import Path
        >>> import clip_fewshot as cf
        >>> cf.save_backbone(cf.load_backbone("mini"), Path("my-model"))
        >>> cf.load_backbone("my-model").name
        'my-model'
    """
    folder = check_folder(as_path(folder, "folder"), BACKBONE_FOLDER, overwrite)
    state = {key: tensor.detach().cpu() for key, tensor in backbone.state_dict().items()}
    if used_token_ids is not None:
        state[TOKEN_EMBEDDING], state[TOKEN_ROWS] = _share_rows(state[TOKEN_EMBEDDING], sorted(set(used_token_ids)))
    if half:
        state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    infinite = sorted(key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all()))
    if infinite:
        fix = "save with half=False"
        raise UsageError(expected="finite weights in the range of float16", got=f"others in {infinite[:3]}", fix=fix)
    weights = TensorFile(state, backbone.header())
    digest = write_pieces(folder / BACKBONE_WEIGHTS, weights, weights.size)
    config = asdict(backbone.config) | {"sha256": digest}
    write_json(folder / CONFIG, config)


def load_folder(folder: Path, name: str) -> Backbone:
    """Read what :func:`save_backbone` wrote, checking the SHA-256 of the weights; ``name`` is for reports.

    Raises:
        ArtifactError: a file is missing, damaged or of another kind.
    """
    config, digest = read_config(folder)
    path = folder / BACKBONE_WEIGHTS
    try:
        check_tensors(path)  # a file of another length than its header says is refused before it is read
        data = path.read_bytes()
        state = safetensors.torch.load(data)
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        expected = f"a readable {BACKBONE_WEIGHTS}"
        raise ArtifactError(expected=expected, got=str(error), fix="restore the folder", where=str(path)) from error
    if hash_bytes(data) != digest:
        fix = "restore the folder"
        raise ArtifactError(expected="the weights that config.json names", got="others", fix=fix, where=str(path))
    if read_metadata(path).get(STATED, said := config.header().get(STATED)) != said:  # no shape shows these
        expected = "heads and activation as the weights state them"
        raise ArtifactError(expected=expected, got="others", fix="restore it", where=str(folder))
    if TOKEN_ROWS in state:
        state[TOKEN_EMBEDDING] = _spread_rows(state[TOKEN_EMBEDDING], state.pop(TOKEN_ROWS), str(path))
    return assemble(state, name, str(path), config)


def is_foreign(folder: Path) -> bool:
    """Whether a folder's config is Hugging Face's or open_clip's; another is taken for one of ours."""
    config = read_json(folder / CONFIG) if os.path.isfile(folder / CONFIG) else {}
    ours = not isinstance(config, dict) or "sha256" in config
    return not ours and ("vision_config" in config or os.path.isfile(folder / OPEN_CLIP_CONFIG))


def read_model_type(folder: Path) -> str:
    """What transformers calls the kind of model in a folder of ``save_pretrained``; "" of another."""
    if not os.path.isfile(folder / CONFIG) or os.path.isfile(folder / OPEN_CLIP_CONFIG):
        return ""
    config = read_json(folder / CONFIG)
    return str(config.get("model_type", "")) if isinstance(config, dict) and "sha256" not in config else ""


def find_weights(path: Path) -> list[Path]:
    """The files that hold the weights: ``path`` itself, or those in a folder of another library.

    Raises:
        ArtifactError: the folder has none, or a list that leads elsewhere.
    """
    if not os.path.isdir(path):
        return [path]
    for file in (path / name for name in FOREIGN_WEIGHTS):
        if file.is_file():
            return [file]
        index = file.with_name(f"{file.name}.index.json")
        if index.is_file():
            return _shards(index)
    expected, fix = f"one of {', '.join(FOREIGN_WEIGHTS)}", "restore the folder, or name the file"
    raise ArtifactError(expected=expected, got="none", fix=fix, where=str(path))


def _shards(index: Path) -> list[Path]:
    listed = read_json(index)
    names = listed.get("weight_map") if isinstance(listed, dict) else None
    files = sorted({*map(str, names.values())}) if isinstance(names, dict) else []
    if not files or any(Path(name).name != name for name in files):
        fix = "restore the folder"
        raise ArtifactError(expected="a list of files in this folder", got=str(files)[:80], fix=fix, where=str(index))
    return [index.with_name(name) for name in files]


def read_config(folder: Path) -> tuple[CLIPConfig, str]:
    """Architecture and SHA-256 of the weights."""
    path = folder / CONFIG
    if not os.path.isfile(path):
        expected = f"a folder with {CONFIG} and {BACKBONE_WEIGHTS}"
        raise ArtifactError(expected=expected, got="none", fix="check the path", where=str(folder))
    fields: dict[str, Any] = read_json(path)
    try:
        digest = str(fields.pop("sha256"))
        if isinstance(fields["vision_layers"], list):
            fields["vision_layers"] = tuple(fields["vision_layers"])
        return CLIPConfig(**fields), digest
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        other = isinstance(fields, dict) and fields.get("model_type")  # as Hugging Face's config.json has it
        got = f"that of {other!r}" if other else repr(error)
        fix = "name the folder of a CLIP model" if other else "restore the folder"
        raise ArtifactError(expected="the architecture of a CLIP model", got=got, fix=fix, where=str(path)) from error


def _share_rows(table: Tensor, used: list[int]) -> tuple[Tensor, Tensor]:
    """Embedding (vocabulary, d) -> stored rows (used + 1, d), and for each token the row it has there."""
    if used and not 0 <= used[0] <= used[-1] < len(table):
        got = f"{used[0]}..{used[-1]}"
        raise UsageError(expected=f"token ids in 0..{len(table) - 1}", got=got, fix="use the tokenizer's ids")
    rest = torch.ones(len(table), dtype=torch.bool)
    rest[used] = False
    shared = table[rest].mean(dim=0, keepdim=True) if bool(rest.any()) else table[:0]
    rows = torch.full((len(table),), len(used), dtype=torch.int32)
    rows[used] = torch.arange(len(used), dtype=torch.int32)
    return torch.cat([table[used], shared]), rows


def _spread_rows(stored: Tensor, rows: Tensor, where: str) -> Tensor:
    if rows.numel() == 0 or not 0 <= int(rows.min()) <= int(rows.max()) < len(stored):
        fix = "restore the folder"
        raise ArtifactError(expected="token rows inside the stored table", got="others", fix=fix, where=where)
    return stored[rows.long()]
