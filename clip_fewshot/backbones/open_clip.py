"""Models by their names in the open_clip package, which is imported when it is used."""

from __future__ import annotations

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.backbones.objects import convert
from clip_fewshot.errors import ResourceError, UsageError

OPEN_CLIP_PREFIX = "open_clip:"


def load(name: str) -> Backbone:
    """Load "open_clip:NAME" or "open_clip:NAME/PRETRAINED"; without PRETRAINED the weights are random.

    Raises:
        ResourceError: open_clip is not installed, or cannot be imported beside this torch.
        UsageError: open_clip knows no such model.
        ArtifactError: a model of another architecture than OpenAI's.
    """
    model, _, tag = name.removeprefix(OPEN_CLIP_PREFIX).partition("/")
    try:
        import open_clip
    except Exception as error:  # a torchvision that does not fit to torch raises RuntimeError
        fix = "pip install open-clip-torch, with a torchvision that fits to your torch"
        expected = "the package open_clip"
        raise ResourceError(expected=expected, got=f"{type(error).__name__}: {error}", fix=fix, where=name) from error
    if (model, tag or None) not in {(known, None) for known in open_clip.list_models()} | set(
        open_clip.list_pretrained()
    ):
        expected = "a model and weights that open_clip lists"
        raise UsageError(expected=expected, got=repr(name), fix="see open_clip.list_pretrained()")
    return convert(open_clip.create_model(model, pretrained=tag or None), name)
