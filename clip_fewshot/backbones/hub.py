"""Models of the Hugging Face hub: "hf:ORGANISATION/NAME", fetched once into that library's own cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clip_fewshot.errors import ResourceError, UsageError

HUB_PREFIX = "hf:"
HUB_INSTALL = "pip install clip-fewshot[hub]"
BESIDE_WEIGHTS = ("*.json", "*.model", "*.txt")  # configs and tokenizers
HUB_WEIGHTS = ("model.safetensors", "model-*.safetensors")  # no pickles, and no copies for other libraries
ELSEWHERE = "*/*"  # folders hold the same weights in other forms


def fetch_from_hub(name: str) -> Path:
    """The folder of "hf:ORGANISATION/NAME" or "hf:ORGANISATION/NAME@REVISION", downloaded where it is not in the cache.

    A broken connection is taken up again, and a file that is whole is not fetched twice. Without a network, what is in
    the cache is used.

    Raises:
        UsageError: no name of that form.
        ResourceError: huggingface_hub is not installed, or the model is neither in the cache nor reachable.
    """
    model, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if model.count("/") != 1 or not all(model.split("/")):
        form = f"{HUB_PREFIX}ORGANISATION/NAME, or {HUB_PREFIX}ORGANISATION/NAME@REVISION"
        raise UsageError(expected=form, got=repr(name), fix="copy the name from the model's page", where="model")
    hub = _import_hub(name)
    wanted = {"allow_patterns": [*BESIDE_WEIGHTS, *HUB_WEIGHTS], "ignore_patterns": [ELSEWHERE]}
    try:
        return Path(hub.snapshot_download(model, revision=revision or None, **wanted))
    except Exception as error:  # of the hub's client, of its transport, of the disk
        got = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        fix = "check the name and the network; a gated model wants `hf auth login` first"
        raise ResourceError(expected="a model of the hub or its cache", got=got, fix=fix, where=name) from error


def _import_hub(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        expected = "the package huggingface_hub"
        raise ResourceError(expected=expected, got=str(error), fix=HUB_INSTALL, where=name) from error
    return huggingface_hub
