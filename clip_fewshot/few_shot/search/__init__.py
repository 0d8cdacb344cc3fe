"""The Optuna study: which approach, how many layers, which learning rates.

It sees support features and their labels and nothing else. Every finished trial is one file, written before Optuna
hears of it; the study in memory is rebuilt from those files. We rejected Optuna's own files as the place of the study,
because its journal takes no trial any more after an incomplete write (see :mod:`clip_fewshot.few_shot.search.journal`), and a resumed study repeats
or forgets trials. Here a kill loses at most the trials
that are running. What a trial may do depends on earlier generations and on the trials before it in its own generation,
and its sampler is seeded by its number. So a resumed run draws the very parameters that the killed one was working on,
and the study is the same however many processes run its folds, whichever of them is done first. A study that several
workers share lives in a database; the files then are one worker's copies.
"""

from __future__ import annotations

from clip_fewshot.few_shot.search.generation import Evaluate as Evaluate
from clip_fewshot.few_shot.search.space import SearchSpace as SearchSpace
from clip_fewshot.few_shot.search.study import StudyPlan as StudyPlan
from clip_fewshot.few_shot.search.study import run_study as run_study
from clip_fewshot.few_shot.select import TrialRecord as TrialRecord
from clip_fewshot.few_shot.select import select_by_approach as select_by_approach
