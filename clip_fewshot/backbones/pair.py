"""Any encoder of pictures beside any encoder of texts: two linear projections into a common space make them a CLIP."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.encoder_tower import EncoderTower, TextEncoderTower, replace_modules
from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.errors import ArtifactError, UsageError
from clip_fewshot.runtime import rng
from clip_fewshot.runtime.artifacts import open_artifact, save_artifact
from clip_fewshot.runtime.files import hash_bytes
from clip_fewshot.runtime.tensor_file import TensorFile

PAIR_KIND = "pair of encoders"
PAIR_WEIGHTS = "weights.safetensors"
NO_ARCHITECTURE = {"training", "name_or_path"}  # attributes of modules that change no feature


class PairBackbone(Backbone):
    """Two encoders that were not trained together, in one space; wherever a :class:`Backbone` goes, this goes too.

    Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning", 2022, lock the image tower and train the text
    tower to it; here either tower is locked, or trains its last blocks, or trains as a whole. The projections always
    train: without training the two towers know nothing of each other.

    Args:
        image, text: the encoders; their modules are taken over, not copied, brought to float32 and evaluation mode.
        dim: of the common space; default 512.
        image_layers, text_layers: how many of the last blocks train, with all that follows them. 0 (default): the
            encoder is locked. None: all of it trains, and batch normalisations move their statistics.
        seed: of the projections.
        name: in reports.

    Raises:
        UsageError: an encoder does not fit to its inputs, or has fewer blocks.

    Example:
        >>> import torch
        >>> import clip_fewshot as cf
        >>> from clip_fewshot.backbones.encoders import TextEncoder
        >>> class Words(torch.nn.Embedding):
        ...     def forward(self, ids, mask):
        ...         return super().forward(ids)
        >>> def letters(text):
        ...     return [ord(letter) % 31 + 1 for letter in text]
        >>> layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU())
        >>> pair = cf.PairBackbone(cf.ImageEncoder(layers, size=32), TextEncoder(Words(32, 8), letters), dim=16)
        >>> pair.encode_text(pair.tokenize(["a bee", "two bees"])).shape
        torch.Size([2, 16])
    """

    visual: EncoderTower
    text: TextEncoderTower

    def __init__(
        self,
        image: ImageEncoder,
        text: TextEncoder,
        dim: int = 512,
        *,
        image_layers: int | None = 0,
        text_layers: int | None = 0,
        seed: int = 0,
        name: str = "pair",
    ) -> None:
        nn.Module.__init__(self)
        with rng.seed_torch(seed, "pair"):
            visual, words = image.tower(dim), text.tower(dim)
        self._assemble(name, visual, words, image.geometry)
        self.mean, self.std, self.context_length = image.mean, image.std, text.context_length
        self._rows = text.rows
        self._shape = {"visual": _architecture(visual), "text": _architecture(words), **self._rows.about()}
        self.eval().unfreeze(image_layers, text_layers)

    @property
    def config(self) -> NoReturn:  # type: ignore[override]
        """A pair is no architecture of CLIP's."""
        fix = "use PairBackbone.save and PairBackbone.load"
        raise UsageError(expected="a CLIP model", got=f"the pair {self.name!r}", fix=fix, where="config")

    def header(self) -> dict[str, str]:
        """Nothing: no other code reads a pair's weights."""
        return {}

    def unfreeze(self, image_layers: int | None, text_layers: int | None) -> None:
        """Choose again which layers train; the weights stay as they are."""
        for tower, n in ((self.visual, image_layers), (self.text, text_layers)):
            tower.unfreeze(n)

    def tokenize(self, texts: str | Sequence[str], truncate: bool = False) -> Tensor:
        """Texts -> (n, context_length) int64 ids of the text encoder's own tokenizer.

        Raises:
            UsageError: a text is too long and ``truncate`` is off.
        """
        return self._rows([texts] if isinstance(texts, str) else texts, truncate)

    def trunks(self) -> PairBackbone:
        """The encoders without their projections, each in a width of its own; they share this pair's parameters.

        What training leaves as it is: their stored features stay good while the projections change.
        """
        bare = replace_modules(self, visual=self.visual.trunk(), text=self.text.trunk())
        bare.__dict__["_parameters"] = {"logit_scale": nn.Parameter(torch.zeros_like(self.logit_scale))}
        bare._shape = {"visual": _architecture(bare.visual), "text": _architecture(bare.text), **self._rows.about()}
        bare._digest = None
        return bare

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write all weights in full precision; an older pair there is replaced in one step, others by ``overwrite``."""
        unfrozen = {"image_layers": self.visual.unfrozen, "text_layers": self.text.unfrozen}
        meta = {"name": self.name, "dim": self.visual.out_features, "digest": self.digest, "about": self._about()}
        save_artifact(
            Path(folder), PAIR_KIND, {PAIR_WEIGHTS: TensorFile(self.state_dict())}, meta | unfrozen, overwrite
        )

    @classmethod
    def load(cls, folder: str | Path, image: ImageEncoder, text: TextEncoder) -> PairBackbone:
        """Read back what :meth:`save` wrote, in evaluation mode.

        Args:
            image, text: encoders of the same architecture, whose weights are replaced: a folder holds no code.

        Raises:
            ArtifactError: damaged files, or encoders of another architecture, preprocessing or tokenizer.
        """
        with open_artifact(Path(folder), PAIR_KIND) as (meta, files):
            layers = {"image_layers": meta["image_layers"], "text_layers": meta["text_layers"]}
            return cls(image, text, meta["dim"], **layers, name=meta["name"])._filled(folder, meta, files)

    def load_weights(self, folder: str | Path) -> PairBackbone:
        """A copy with the weights that :meth:`save` wrote of a pair of the same encoders.

        Raises:
            ArtifactError: as :meth:`load`.
        """
        with open_artifact(Path(folder), PAIR_KIND) as (meta, files):
            return copy.deepcopy(self)._filled(folder, meta, files)

    def _filled(self, folder: str | Path, meta: dict[str, Any], files: dict[str, bytes]) -> PairBackbone:
        about = self._about() | {"dim": self.visual.out_features}
        wanted = meta["about"] | {"dim": meta["dim"]}
        other = [key for key, value in wanted.items() if about.get(key) != value]
        if other:
            fix = "build the encoders as they were when it was saved"
            got = f"another {', '.join(other)}"
            raise ArtifactError(expected="the encoders it was saved with", got=got, fix=fix, where=str(folder))
        self.load_state_dict(safetensors.torch.load(files[PAIR_WEIGHTS]))
        if self.digest != meta["digest"]:
            expected = f"digest {meta['digest'][:12]}..."
            raise ArtifactError(expected=expected, got="another", fix="restore the folder", where=str(folder))
        return self

    def _about(self) -> dict[str, Any]:
        inputs = {"size": self.image_size, "mean": list(self.mean), "std": list(self.std)}
        return {"preprocess": "CLIP", **inputs, **self._shape}


def _architecture(tower: nn.Module) -> str:
    """SHA-256 over the kinds of all modules and their plain attributes: strides, heads, epsilons."""
    parts = [
        [name, f"{type(module).__module__}.{type(module).__qualname__}", _plain(vars(module))]
        for name, module in tower.named_modules()
    ]
    return hash_bytes(json.dumps(parts, sort_keys=True).encode())


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    def plain(value: object) -> bool:
        inside = isinstance(value, (tuple, list)) and all(plain(item) for item in value)
        return inside or value is None or isinstance(value, (bool, int, float, str))

    return {k: v for k, v in attributes.items() if not k.startswith("_") and k not in NO_ARCHITECTURE and plain(v)}
