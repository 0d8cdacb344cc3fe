"""Rivals as foreign parts: methods of others, which reach the library through its public sockets alone.

Each stands in a file of its own with its paper. ``PEERS`` are the approaches, for ``FewShotClassifier`` and for
commands, as ``--approaches python:experiments.peers:TIP_ADAPTER_F``. CoOp, which classifies by a text tower that it
trains, has no socket and is a function: :func:`experiments.peers.coop.learn_contexts`.
"""

from __future__ import annotations

from clip_fewshot.few_shot.approach import Approach
from experiments.peers.clap import ClapProbe
from experiments.peers.clip_adapter import ClipAdapterProbe
from experiments.peers.lp_plus_plus import LPPlusPlusProbe
from experiments.peers.task_res import TaskResProbe
from experiments.peers.tip_adapter_f import TipAdapterFProbe

TIP_ADAPTER_F = Approach("tip-adapter-f", towers="none", ends_in="probe", probe=TipAdapterFProbe)
CLIP_ADAPTER = Approach("clip-adapter", towers="none", ends_in="probe", probe=ClipAdapterProbe)
TASK_RES = Approach("task-res", towers="none", ends_in="probe", probe=TaskResProbe)
LP_PLUS_PLUS = Approach("lp++", towers="none", ends_in="probe", probe=LPPlusPlusProbe)
CLAP = Approach("clap", towers="none", ends_in="probe", probe=ClapProbe)

PEERS = {peer.name: peer for peer in (TIP_ADAPTER_F, CLIP_ADAPTER, TASK_RES, LP_PLUS_PLUS, CLAP)}
