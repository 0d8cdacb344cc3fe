"""The contracts of the open folders as functions, for members outside the package: each takes under a second.

``check_detector(MyDetector)`` returns nothing, or raises :class:`ContractError`, an AssertionError whose message says
what does not hold: "method score_samples is missing", "scores depend on the order of the pictures". What stands here is
what the rest of the library relies on; how well a member does is no part of it. The library's own members pass the same
functions.
"""

from clip_fewshot.testing.backbones import check_backbone as check_backbone
from clip_fewshot.testing.contract import ContractError as ContractError
from clip_fewshot.testing.detectors import check_detector as check_detector
from clip_fewshot.testing.discoverers import check_discoverer as check_discoverer
from clip_fewshot.testing.heads import check_head as check_head
from clip_fewshot.testing.losses import check_loss as check_loss
from clip_fewshot.testing.probes import check_probe as check_probe
