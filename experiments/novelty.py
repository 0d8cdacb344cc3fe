"""How well the unknown is told: `python -m experiments.novelty digits` of all detectors, `--saved` of one model."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import clip_fewshot as cf
from clip_fewshot.config import MODELS
from experiments import detectors, saved_novelty
from experiments.options import run

DESCRIPTION = (
    "Compare all novelty detectors on the frozen features of one model, over fresh support sets and the same sealed "
    "test pictures, or with --saved measure the detector of a model that was saved. The test side of DATA is then the "
    "one that was sealed when the model was trained on the same data under the same seed."
)
OF_SAVED, OF_DETECTORS = ("fresh", "discover"), ("shots", "seeds", "detectors", "out")


@dataclass(frozen=True)
class Options:
    data: str = cf.option("digits", "labelled pictures; or digits, digits-wild", positional=True)
    saved: Path | None = cf.option(None, "folder of a saved model: measure that one alone")
    model: str | None = cf.option(
        None, f"{MODELS} (default: ViT-B/32; mini for digits; with --saved the one it was trained on)"
    )
    unseen: str | None = cf.option(
        None, "number of classes to hide, or their names (default: 3; with --saved all it does not know)"
    )
    novel: str | None = cf.option(None, "pictures of unknown classes (default: those of the hidden classes)")
    shots: int = cf.option(16, "labelled pictures per known class")
    seeds: int = cf.option(10, "support sets")
    detectors: tuple[str, ...] = cf.option((), "detectors to compare (default: all)")
    alpha: tuple[float, ...] = cf.option((0.01, 0.05, 0.1), "false-alarm rates to try, in (0, 1)")
    test_fraction: float = cf.option(0.5, "share of each class sealed; not used where DATA has a test part")
    seed: int | None = cf.option(None, "seed of everything random (default: 0; with --saved the model's)")
    fresh: bool = cf.option(False, "with --saved: no picture of DATA was used in training, so take all of them")
    discover: bool = cf.option(True, "with --saved: group what was called unknown at the model's own false-alarm rate")
    out: Path | None = cf.option(None, "folder for novelty.json, det.svg and densities.svg")
    device: str = cf.option("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    json: bool = cf.option(False, "print JSON")

    @property
    def config(self) -> cf.FewShotConfig:
        """The same as options of the main job, which knows their ranges."""
        return cf.FewShotConfig.of(
            data=self.data,
            model=self.model,
            shots=self.shots,
            unseen="3" if self.unseen is None else self.unseen,
            seeds=self.seeds,
            test_fraction=self.test_fraction,
            seed=self.seed or 0,
            device=self.device,
        )

    @property
    def unseen_names(self) -> list[str]:
        """As names; none where none were given."""
        named = [] if self.unseen is None else self.config.data.unseen_classes
        if isinstance(named, int):
            raise cf.UsageError(
                expected="names of classes",
                got=f"the number {named}",
                fix="a saved model knows its own",
                where="--unseen",
            )
        return named

    def __post_init__(self) -> None:
        idle = OF_SAVED if self.saved is None else OF_DETECTORS
        given = [f"--{one.name}" for one in fields(self) if one.name in idle and getattr(self, one.name) != one.default]
        if given:
            which = "with --saved" if self.saved is None else "without --saved"
            raise cf.UsageError(
                expected=f"{' and '.join(given)} {which}", got="another command", fix="leave it out", where=given[0]
            )
        if self.saved and self.novel and self.unseen:
            raise cf.UsageError(expected="--novel or --unseen", got="both", fix="leave one out")
        for alpha in self.alpha:
            if not 0 < alpha < 1:
                raise cf.UsageError(
                    expected="fractions between 0 and 1", got=f"{alpha:g}", fix="change --alpha", where="--alpha"
                )
        for name in self.detectors:
            if name not in cf.DETECTORS:
                raise cf.UsageError(
                    expected=f"some of {', '.join(cf.DETECTORS)}",
                    got=name,
                    fix="check the spelling",
                    where="--detectors",
                )


def main(options: Options) -> int:
    if options.saved is not None:
        found = saved_novelty.judged(options, options.saved)
        said = saved_novelty.text(found)
    else:
        found = detectors.compared(options)
        said = detectors.text(found)
    print(json.dumps(found, indent=1) if options.json else said)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, Options, "python -m experiments.novelty", DESCRIPTION))
