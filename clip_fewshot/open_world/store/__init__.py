"""What an open-world classifier has seen over weeks, and every decision: one SQLite file, see :class:`Store`."""

from clip_fewshot.open_world.store.decisions import Applied as Applied
from clip_fewshot.open_world.store.ingesting import Ingested as Ingested
from clip_fewshot.open_world.store.queries import Status as Status
from clip_fewshot.open_world.store.review import Review as Review
from clip_fewshot.open_world.store.store import Store as Store
