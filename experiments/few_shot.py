"""The main job: `python -m experiments.few_shot --trials 50`. From a few labelled pictures to a classifier that can
say "unknown", with a report."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass

import clip_fewshot as cf
from clip_fewshot.protocol.run_folder import output_folder, resumed
from experiments.options import run
from experiments.progress import show_progress

PROG = "python -m experiments.few_shot"
DESCRIPTION = "Search, refit, test, reject the unknown and group it; write results.json, report.html and a model."


@dataclass(frozen=True)
class Options(cf.FewShotConfig):
    json: bool = cf.option(False, "print results.json on standard output instead of the table")


def main(options: Options) -> int:
    config = cf.FewShotConfig(options.data, options.search, options.run)
    command = cf.without_password(shlex.join([*PROG.split(), *sys.argv[1:]]))
    with show_progress() as progress:
        results = cf.run_few_shot(config, progress, command)
    config = resumed(config)
    out = output_folder(config.data, config.run.out)
    print(json.dumps(results, indent=1, sort_keys=True) if options.json else cf.headline_table(results))
    for warning in results["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"report: {out / 'report.html'}   model: {out / 'model'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run(main, Options, PROG, DESCRIPTION))
