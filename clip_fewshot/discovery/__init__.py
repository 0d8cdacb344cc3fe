"""Unknown images become candidate classes: how many, which, and how sure that is.

Example:
    >>> import clip_fewshot as cf
    >>> list(cf.DISCOVERERS)
    ['silhouette', 'ward', 'semi-supervised']
"""

from clip_fewshot.discovery.base import Discovery as Discovery
from clip_fewshot.discovery.discover import DISCOVERERS as DISCOVERERS
from clip_fewshot.discovery.discover import DiscovererPart as DiscovererPart
from clip_fewshot.discovery.discover import discover_classes as discover_classes
from clip_fewshot.discovery.discover import find_discoverer as find_discoverer
from clip_fewshot.discovery.semi_supervised import semi_supervised_kmeans as semi_supervised_kmeans
