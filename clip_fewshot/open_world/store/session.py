"""One process at a store: its database, and the classifier of the newest revision, read when it is first needed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip_fewshot.open_world.store import rows, saved_classifiers
from clip_fewshot.open_world.store.database import DATABASE_FILE, Database
from clip_fewshot.open_world.store.rows import StoredPicture
from clip_fewshot.open_world.store.saved_classifiers import Revision
from clip_fewshot.open_world.store.schema import APPLICATION, PAGE, SUMMED
from clip_fewshot.runtime.artifacts import explain_content
from clip_fewshot.runtime.files import make_folder
from clip_fewshot.runtime.outputs import FolderKind, check_folder
from clip_fewshot.types import FloatArray

if TYPE_CHECKING:
    from clip_fewshot.backbones.backbone import Backbone
    from clip_fewshot.open_world.classifier import OpenWorldClassifier

DECISIONS_LOCK = ".decisions.lock"
BESIDE = {DECISIONS_LOCK, *(f"{DATABASE_FILE}-{end}" for end in ("wal", "shm", "journal"))}
CHECKED = 1 << 28  # bytes
FEW_ROWS = SUMMED[:4]  # tables that are read against their checksums however large the store is


def check_new_store(folder: Path) -> None:
    """Refuse a place where no store can be made; one that has a store is refused when it is opened.

    Raises:
        ResourceError: a folder with other files, or one that cannot be written to.
    """
    check_folder(folder, FolderKind("store"), None, is_leftover=_is_of_store)


def _is_of_store(path: Path) -> bool:
    """Whether ``path`` is a file of a store, finished or never filled; not a database of another program."""
    if path.name != DATABASE_FILE or path.is_symlink() or not path.is_file():
        return path.name in BESIDE
    with path.open("rb") as file:
        head = file.read(100)
    page, pages, application = (int.from_bytes(head[i:j], "big") for i, j in ((16, 18), (28, 32), (68, 72)))
    half = (page, application) == (PAGE, 0) and pages <= 1  # of ours, before its tables were made
    return not head or (head.startswith(b"SQLite format 3\0") and (half or application == APPLICATION))


class Session:
    """What decisions, ingesting and embedding again need of a store.

    Attributes:
        folder: where it lies. database: its tables.
    """

    def __init__(self, folder: Path, database: Database, backbone: Backbone | None, trusted: Mapping[str, Any]) -> None:
        self.folder, self.database, self._backbone, self._trusted = folder, database, backbone, {**trusted}
        self._loaded: tuple[int, OpenWorldClassifier] | None = None
        self._shown_at = -1  # the revision up to which the classifier knows what was shown

    @classmethod
    def create(cls, folder: Path, world: OpenWorldClassifier) -> Session:
        """See :meth:`Store.create`."""
        check_new_store(folder)
        make_folder(folder)
        database = Database(folder, fresh=True)
        try:
            with database.transaction():
                database.make_tables()
                database.insert("identity", uuid.uuid4().hex)
                encoder = saved_classifiers.find_encoder(database, world.model.backbone)
                saved_classifiers.add_revision(database, world.to_artifact(), 0, None, encoder)
                saved_classifiers.add_event(
                    database, 0, "create", None, {"classes": list(world.model.label_space_.names)}
                )
        except BaseException:
            database.close()
            raise
        return cls(folder, database, world.model.backbone, world.foreign_parts())

    @classmethod
    def open(cls, folder: Path, backbone: Backbone | None, check: bool | None, trusted: Mapping[str, Any]) -> Session:
        """See :meth:`Store.open`."""
        database = Database(folder)
        try:
            look = database.path.stat().st_size <= CHECKED if check is None else check
            if look:
                database.refuse_damage()
            database.check_rows(SUMMED if look else FEW_ROWS)
            saved_classifiers.check_backbone(database, backbone)
        except BaseException:
            database.close()
            raise
        return cls(folder, database, backbone, trusted)

    @property
    def id(self) -> str:
        """See :attr:`Store.id`."""
        return str(self.database.value("SELECT id FROM identity"))

    @property
    def revision(self) -> int:
        """See :attr:`Store.revision`."""
        return saved_classifiers.find_current(self.database).number

    @property
    def world(self) -> OpenWorldClassifier:
        """See :attr:`Store.world`."""
        return self.state()[1]

    def state(self) -> tuple[Revision, OpenWorldClassifier]:
        """The newest revision and its classifier."""
        at = saved_classifiers.find_current(self.database)
        if self._loaded is None or self._loaded[0] != at.state:
            digest = saved_classifiers.describe_encoder(self.database, at.encoder)[1]
            fits = self._backbone is not None and self._backbone.digest == digest  # not after another's reembed()
            world = self.read_world(at.state, self._backbone if fits else None)
            self._backbone, self._loaded, self._shown_at = world.model.backbone, (at.state, world), -1
        world = self._loaded[1]
        if self._shown_at != at.number:
            self._shown_at, world.shown_ = at.number, world.shown_ | saved_classifiers.list_shown(self.database)
        return at, world

    def read_world(self, state: int, backbone: Backbone | None) -> OpenWorldClassifier:
        """The classifier of a state.

        Raises:
            ArtifactError: a damaged file, another backbone than it was trained on, or an untrusted foreign part.
        """
        from clip_fewshot.open_world.classifier import OpenWorldClassifier  # and torch: most of a small command's time

        where = str(self.database.path)
        with explain_content(where):
            files, meta = saved_classifiers.read_artifact(self.database, state)
            return OpenWorldClassifier.from_artifact(files, meta, backbone, where, self._trusted)

    def set_world(self, state: int | None, world: OpenWorldClassifier | None) -> None:
        """Keep the classifier of a new state; None: read it again when it is next needed."""
        self._loaded = None if state is None or world is None else (state, world)
        self._shown_at = -1
        if world is not None:
            self._backbone = world.model.backbone
            self._trusted |= world.foreign_parts()

    def features(self, held: Sequence[StoredPicture]) -> FloatArray:
        """(n, d) embeddings."""
        encoder = saved_classifiers.find_current(self.database).encoder
        return rows.read_embeddings(self.database, [one.seq for one in held], encoder, str(self.database.path))
