"""Choosing and calibrating what says "unknown", without any unseen class."""

from clip_fewshot.rejection.alternatives import AUTO as AUTO
from clip_fewshot.rejection.alternatives import Alternative as Alternative
from clip_fewshot.rejection.alternatives import known_detectors as known_detectors
from clip_fewshot.rejection.choice import CALIBRATION_FOLDS as CALIBRATION_FOLDS
from clip_fewshot.rejection.choice import NoveltyChoice as NoveltyChoice
from clip_fewshot.rejection.choice import choose_novelty as choose_novelty
from clip_fewshot.rejection.rejector import Rejector as Rejector
from clip_fewshot.rejection.rejector import Verdict as Verdict
from clip_fewshot.rejection.rejector import fit_rejector as fit_rejector
from clip_fewshot.rejection.spaces import DEPTHS as DEPTHS
from clip_fewshot.rejection.spaces import stored_depths as stored_depths
