"""What an open-world classifier has seen and been told, for weeks: one SQLite file, see :class:`Store`."""

from clip_fewshot.store.decisions import Applied as Applied
from clip_fewshot.store.ingesting import Ingested as Ingested
from clip_fewshot.store.queries import Status as Status
from clip_fewshot.store.review import Review as Review
from clip_fewshot.store.store import Store as Store
