"""A trained model of another library as a backbone: its own towers, in the space that it was trained for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.encoder_tower import EncoderTower, TextEncoderTower
from clip_fewshot.backbones.encoders import ImageEncoder, TextEncoder
from clip_fewshot.backbones.tower import CutState, Tail, TextTower
from clip_fewshot.errors import UsageError


class ForeignBackbone(Backbone):
    """A trained model of another library; wherever a :class:`Backbone` goes, this goes too.

    Its features are those of the other library: :func:`prove` compares them before the model is given to anyone.

    Args:
        image: its encoder of pictures, with the projection into the space of the texts among the ``parts``.
        text: its encoder of texts, likewise; None: it reads pictures alone, and what needs texts is refused.
        name: in reports, and in the files of what is trained on it.
        settings: as JSON, what decides the features besides weights and inputs (heads, activation, epsilons).
        scale: factor on cosines.
        bias: what is added to that, of models that were trained with a sigmoid.

    Raises:
        UsageError: an encoder does not fit to its inputs, or the two to each other.
    """

    visual: EncoderTower

    def __init__(
        self,
        image: ImageEncoder,
        text: TextEncoder | None,
        *,
        name: str,
        settings: Mapping[str, Any],
        scale: float | None = None,
        bias: float | None = None,
    ) -> None:
        nn.Module.__init__(self)
        visual, words = image.tower(None), NoTexts(name) if text is None else text.tower(None)
        if isinstance(words, TextEncoderTower) and words.out_features != visual.out_features:
            got = f"{visual.out_features} for pictures, {words.out_features} for texts"
            raise UsageError(expected="features of one width", got=got, fix="give parts with projections", where=name)
        self._assemble(name, visual, words, image.geometry)
        self.mean, self.std, self.context_length = image.mean, image.std, 0 if text is None else text.context_length
        self._rows, self.reads_texts = None if text is None else text.rows, text is not None
        self._settings = dict(settings)
        if scale is not None:
            self.logit_scale.data.fill_(log(scale))
        if bias is not None:
            self.logit_bias = nn.Parameter(torch.tensor(float(bias)))
        for tower in (visual, words):
            if isinstance(tower, EncoderTower):
                tower.unfreeze(None)
        self.eval()

    @property
    def config(self) -> NoReturn:  # type: ignore[override]
        """It is no architecture of CLIP's."""
        fix = "name it where it is loaded from; its own library saves it"
        raise UsageError(expected="a CLIP model", got=f"{self.name!r} of another library", fix=fix, where="config")

    def header(self) -> dict[str, str]:
        """Nothing: these weights are written by their own library."""
        return {}

    def tokenize(self, texts: str | Sequence[str], truncate: bool = False) -> Tensor:
        """Texts -> (n, context_length) int64 ids of the model's own tokenizer.

        Raises:
            UsageError: a text is too long and ``truncate`` is off; or the model reads no texts.
        """
        if self._rows is None:
            raise refuse_texts(self.name)
        return self._rows([texts] if isinstance(texts, str) else texts, truncate)

    def _about(self) -> dict[str, Any]:
        inputs = {"size": self.image_size, "mean": list(self.mean), "std": list(self.std)} | self.geometry.about()
        return {**inputs, "settings": self._settings, **(self._rows.about() if self._rows else {})}


class NoTexts(TextTower):
    """The place of a text tower in a model that has none: to ask it is an error that says so."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.out_features, self.token_features = name, 0, 0

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """None."""
        return ()

    def embed(self, inputs: Tensor) -> CutState:
        """Refused."""
        raise refuse_texts(self.name)

    def ends(self, tokens: Tensor) -> Tensor:
        """Refused."""
        raise refuse_texts(self.name)

    def tail(self) -> Tail:
        """Nothing: there are no parameters."""
        return Tail()


def refuse_texts(name: str) -> UsageError:
    """That a model without a text tower was asked for the features of a text."""
    return UsageError(
        expected="a model with a text tower",
        got=f"{name!r}, which reads pictures alone",
        fix="leave out what needs texts (zero-shot, captions, text detectors), or choose a CLIP or SigLIP",
        where="texts",
    )
