"""Prototypes with text: a class is the mean of its pictures plus a multiple of its text."""

from __future__ import annotations

from clip_fewshot.probes.joined import JoinedProbe
from clip_fewshot.probes.prototype import PrototypeProbe


class PrototypeTextProbe(JoinedProbe):
    """logits = a q (mu_j + m t_j), with mu_j the mean direction of the pictures of class j and t_j its text.

    The prototypes are those of :class:`~clip_fewshot.probes.prototype.PrototypeProbe`, whose q is centred and of unit
    length; m = s / a of :class:`~clip_fewshot.probes.joined.JoinedProbe`. A convex combination of prototype and text is
    the adaptive mixture of Xing, Rostamzadeh, Oreshkin, Pinheiro, "Adaptive Cross-Modal Few-shot Learning", 2019,
    section 3.2, with one weight for all classes in place of a network.
    """

    part = PrototypeProbe
