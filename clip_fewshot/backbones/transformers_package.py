"""What the package transformers reads: models, tokenizers and processors from a folder, never from the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from clip_fewshot.errors import ArtifactError, ResourceError
from clip_fewshot.runtime.files import read_json

EXTRA = "pip install clip-fewshot[text]"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # how pictures are prepared
CLASSIFIER = "classifier."  # tensors that are no part of the features


class Source(NamedTuple):
    """A model as transformers read it.

    Attributes:
        model: of that package.
        tokenizer: of that package; None where the folder has none.
        processor: its image processor; None where it needs torchvision, which is not there.
        preparation: the settings of that processor.
    """

    model: Any
    tokenizer: Any
    processor: Any
    preparation: dict[str, Any]


def import_transformers(where: str) -> Any:
    """The package.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        expected = "the package transformers"
        raise ResourceError(expected=expected, got=str(error), fix=EXTRA, where=where) from error
    return transformers


def read_module(folder: str | Path, **kept: Any) -> Any:
    """The model of a folder in evaluation mode, in float32; pickles are not read, and code in the folder is not run.

    Raises:
        ResourceError: transformers is not installed.
        ArtifactError: it cannot read the folder.
    """
    package = import_transformers(str(folder))
    strict = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    expected = "a model in Hugging Face's form, in safetensors, whose code transformers has"
    return _read(lambda: package.AutoModel.from_pretrained(folder, **strict, **kept), expected, folder)


def read_source(folder: Path, model: Any = None) -> Source:
    """Everything that a folder of ``save_pretrained`` holds of a model.

    Args:
        model: an object that is used in place of the folder's weights.

    Raises:
        ResourceError: transformers, or what its tokenizer needs, is not installed.
        ArtifactError: it cannot read the folder, or tensors are missing or left over.
    """
    package = import_transformers(str(folder))
    model = _whole(folder) if model is None else copy.deepcopy(model).float().cpu()
    if not (hasattr(model, "get_image_features") or getattr(model, "main_input_name", "") == "pixel_values"):
        got, fix = f"a {type(model).__name__}", "name one of CLIP's, SigLIP's or DINO's kind"
        raise ArtifactError(expected="a model that reads pictures", got=got, fix=fix, where=str(folder))
    settings = next((read_json(folder / name) for name in PROCESSORS if (folder / name).is_file()), None)
    if not isinstance(settings, dict):
        fix = "save its image processor there too: processor.save_pretrained(folder)"
        raise ArtifactError(expected=f"one of {', '.join(PROCESSORS)}", got="none", fix=fix, where=str(folder))
    processor, tokenizer = _processor(package, folder), None
    if hasattr(model, "get_text_features"):
        expected = "its tokenizer beside it (sentencepiece installed, if it is one of those)"
        load = package.AutoTokenizer.from_pretrained
        tokenizer = _read(lambda: load(folder, local_files_only=True, trust_remote_code=False), expected, folder)
    preparation = settings.get("image_processor", settings) if processor is None else processor.to_dict()
    return Source(model.eval(), tokenizer, processor, preparation)


def _whole(folder: Path) -> Any:
    """The model, if the folder has exactly its tensors: transformers draws others at random, or leaves them out."""
    model, found = read_module(folder, output_loading_info=True, dtype="float32")
    extra = [key for key in found["unexpected_keys"] if not key.startswith(CLASSIFIER)]
    wrong = sorted({*found["missing_keys"], *extra, *map(str, found["mismatched_keys"])})
    if wrong:
        fix = "get an undamaged copy, or the whole model that these tensors are a part of"
        got = f"{len(wrong)} missing or left over: {', '.join(wrong[:3])}"
        raise ArtifactError(expected="the tensors of the model in config.json", got=got, fix=fix, where=str(folder))
    return model


def _processor(package: Any, folder: Path) -> Any:
    """Pillow's way where there is one: torchvision's resizing rounds otherwise."""
    try:
        return package.AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    except (OSError, ValueError, ImportError):
        return None


def _read(load: Callable[[], Any], expected: str, folder: str | Path) -> Any:
    try:
        with _silenced():
            return load()
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
        got, fix = f"{type(error).__name__}: {error}"[:400], "give a folder that transformers can read"
        raise ArtifactError(expected=expected, got=got, fix=fix, where=str(folder)) from error


@contextmanager
def _silenced() -> Iterator[None]:
    """No progress bars and reports of that package on the user's screen: what is wrong becomes an error here."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
