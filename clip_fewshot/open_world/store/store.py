"""The store: an open-world classifier, every picture it has judged, and every decision taken over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clip_fewshot.backbones.backbone import Backbone
from clip_fewshot.conformal.shift import MOST_OF_BATCH, Shift, find_shift
from clip_fewshot.data.collect import Images, collect_images
from clip_fewshot.data.dataset import ImageDataset
from clip_fewshot.discovery import Discovery
from clip_fewshot.errors import UsageError
from clip_fewshot.few_shot.classifier import NOTHING
from clip_fewshot.open_world.classifier import OpenWorldClassifier
from clip_fewshot.open_world.groups import Group, Groups
from clip_fewshot.open_world.store import decisions, ingesting, labels, queries, rows, saved_classifiers
from clip_fewshot.open_world.store.decisions import Applied
from clip_fewshot.open_world.store.ingesting import Ingested
from clip_fewshot.open_world.store.material import build_dataset, is_there
from clip_fewshot.open_world.store.queries import Status
from clip_fewshot.open_world.store.reembedding import reembed
from clip_fewshot.open_world.store.regrouping import find_groups, read_judged
from clip_fewshot.open_world.store.review import Review, list_digests
from clip_fewshot.open_world.store.rows import StoredPicture
from clip_fewshot.open_world.store.session import DECISIONS_LOCK, Session
from clip_fewshot.open_world.store.undoing import undo
from clip_fewshot.open_world.unknown import UnknownPictures
from clip_fewshot.runtime.files import hold_file
from clip_fewshot.runtime.reading import as_path

INGEST_BATCH = 256  # pictures per transaction


class Store:
    """What :meth:`create` made and :meth:`open` opened; close it, or use it in a ``with``.

    Every picture is one row under the SHA-256 of its file, with its embedding, a thumbnail and what is held of it:
    ``known`` (its class), ``unknown``, ``named`` (the class it was given) or ``rejected`` (shown no more). Decisions
    are never rewritten, an undo is a further one. Each change is one transaction: it is there, on the disk, when the
    call has returned, or not at all; the same call again changes nothing more. Any number of processes may work at
    once, each with a store object of its own; a decision is taken by one at a time.

    The embeddings are those of one backbone. Another is let in by :meth:`reembed` alone. Source files may move or go:
    thumbnails and embeddings stay, and :meth:`relink` or another :meth:`ingest` finds them again by content. A model
    with tuned layers needs the pictures themselves to learn; of what is unknown or may be its store keeps the square
    that it sees.

    Attributes:
        folder, database, session: where it lies, its tables, and what is loaded of it.
        grouped_, discovery_: what :meth:`discover` looked at and found last, as of :class:`OpenWorldClassifier`.

    Example:
        >>> import clip_fewshot as cf
        >>> split = cf.split_open_world(cf.read_dataset("digits"), shots=8, unseen=3)
        >>> model = cf.FewShotClassifier(cf.load_backbone("mini"), approach="linear-probe")
        >>> world = cf.OpenWorldClassifier(model, detector="knn").fit(split.support)
        >>> with cf.Store.create("store/", world) as store:
        ...     ingested = store.ingest(split.novel)
    """

    grouped_: UnknownPictures
    discovery_: Discovery

    def __init__(self, session: Session) -> None:
        self.session, self.folder, self.database = session, session.folder, session.database

    @classmethod
    def create(cls, folder: str | Path, world: OpenWorldClassifier) -> Store:
        """A new store around a fitted classifier, in a new or empty folder.

        Raises:
            ResourceError: a folder with something else in it, or no place to write to.
        """
        return cls(Session.create(as_path(folder, "folder"), world))

    @classmethod
    def open(
        cls,
        folder: str | Path,
        backbone: Backbone | None = None,
        check: bool | None = None,
        trusted: Mapping[str, Any] = NOTHING,
    ) -> Store:
        """Open a store. Its classifier is loaded when it is first needed.

        Args:
            backbone: the one it was made with; None loads it by its name.
            check: look for damage first, SQLite's own and rows that say something else than was written; None: in files
                up to 256 MiB, that is for a second at most. Of others each picture's row is checked when it is read.
            trusted: as of :meth:`OpenWorldClassifier.load`.

        Raises:
            ArtifactError: no store, one of a newer release, a damaged one, or one made with another backbone.
        """
        return cls(Session.open(as_path(folder, "folder"), backbone, check, trusted))

    def close(self) -> None:
        """Give the files back."""
        self.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def id(self) -> str:
        """What no other store is called."""
        return self.session.id

    @property
    def revision(self) -> int:
        """How many decisions were taken. Pictures that come in do not count: a review of before still fits."""
        return self.session.revision

    @property
    def world(self) -> OpenWorldClassifier:
        """The classifier with all that was named, as of the newest decision of any process."""
        return self.session.world

    def ingest(
        self, images: Images, batch: int = INGEST_BATCH, acknowledged: Callable[[Ingested], None] | None = None
    ) -> Ingested:
        """Judge pictures and store them, ``batch`` at a time; those that are there already only update their path.

        Args:
            acknowledged: called with the sums so far whenever a batch is on the disk for good.

        Raises:
            DataError: a picture that cannot be read. What was acknowledged stays; the rest can be given again.
        """
        if batch < 1:
            raise UsageError(expected="1 picture or more", got=str(batch), fix="choose a larger batch", where="batch")
        pictures, done = collect_images(images, purpose="ingest"), Ingested()
        for start in range(0, len(pictures), batch):
            part = pictures.subset(np.arange(start, min(start + batch, len(pictures))))
            done = done.add(ingesting.ingest(self.session, part))
            if acknowledged is not None:
                acknowledged(done)
        return done

    def relink(self, images: Images) -> int:
        """Note where pictures of the store lie now; how many were found in it."""
        pictures = collect_images(images, purpose="relink")
        with self.database.transaction():
            return ingesting.relink(self.database, pictures)

    def unknown(self) -> UnknownPictures:
        """The pictures without a name, their (n, d) features and (n,) p-values, in the order in which they came."""
        with self.database.snapshot():
            held = rows.find_unknown(self.database)
            return read_judged(self.session, held)

    def unlabelled(self) -> ImageDataset:
        """All pictures without a name whose files are there: what ``fit(support, unlabelled=)`` may be given.

        The classifier that is fitted so takes the place of the store's by :meth:`reembed`.
        """
        return build_dataset([one for one in rows.find_unnamed(self.database) if is_there(one)])

    def discover(self) -> Groups:
        """The groups among the unknown, the largest first; their pictures go by digest, see :meth:`thumbnails`.

        As of :meth:`OpenWorldClassifier.discover`: pictures that were given a class may join, and stay ``known``. The
        groups are kept, and only what came since is grouped the next time, see :func:`extend_groups`; after a decision,
        and once the pictures have doubled, all are grouped afresh.
        """
        found = find_groups(self.session)
        self.grouped_, self.discovery_ = found.pictures, found.found
        return found.groups

    def thumbnails(self, digests: Iterable[str]) -> dict[str, bytes]:
        """JPEGs of at most 128 x 128 pixels of those that are in the store, by digest."""
        found = rows.find(self.database, digests)
        data = rows.read_blobs(self.database, "thumbnail", [held.seq for held in found.values()])
        return {digest: data[held.seq] for digest, held in found.items()}

    def name(self, pictures: Group | ImageDataset | Sequence[str], name: str) -> Applied:
        """Make a class of pictures of the store, see :meth:`OpenWorldClassifier.name`.

        All other unknown pictures are judged again, and those of classes that are known by their names only.

        Args:
            pictures: a group, or digests.
        """
        return self._decide(named={name: list_digests(pictures)})

    def add_class(self, name: str, pictures: Group | ImageDataset | Sequence[str] = ()) -> Applied:
        """Make a class of its name alone, or with pictures of the store, see :meth:`OpenWorldClassifier.add_class`."""
        return self.name(pictures, name)

    def assign(self, pictures: Group | ImageDataset | Sequence[str], name: str) -> Applied:
        """Add pictures of the store to a class that is there, see :meth:`OpenWorldClassifier.assign`."""
        return self._decide(assigned={name: list_digests(pictures)})

    def reject(self, pictures: Group | ImageDataset | Sequence[str]) -> Applied:
        """Show pictures no more: they show nothing worth a class."""
        return self._decide(rejected=list_digests(pictures))

    def _decide(
        self,
        named: Mapping[str, tuple[str, ...]] | None = None,
        assigned: Mapping[str, tuple[str, ...]] | None = None,
        rejected: tuple[str, ...] = (),
    ) -> Applied:
        with hold_file(self.folder / DECISIONS_LOCK):
            review = Review(self.id, self.revision, named or {}, assigned or {}, rejected)
            return decisions.apply(self.session, review)

    def apply(self, review: Review | Mapping[str, Any] | str | Path) -> Applied:
        """All decisions of a review in one transaction; the same review again changes nothing.

        Args:
            review: or its JSON, or the file that the review page saved; or the file or folder of :func:`export_groups`
                with labels that another tool has changed.

        Raises:
            DataError: not a review, or labels that cannot be used. ArtifactError: one of another store.
            UsageError: one made before another decision was taken; nothing is changed.
        """
        if isinstance(review, str | Path):
            review = labels.read_review(self.session, as_path(review, "review"))
        elif not isinstance(review, Review):
            review = Review.from_json(review)
        with hold_file(self.folder / DECISIONS_LOCK):
            return decisions.find_applied(self.session, review) or decisions.apply(self.session, review, review.token())

    def undo(self) -> Applied:
        """Take the last decision back.

        The classifier before it returns to the last bit, and every picture that it changed to what was held of it.

        Raises:
            UsageError: nothing to take back since the store was made, or embedded again.
        """
        return Applied(undo(self.session))

    def reembed(self, world: OpenWorldClassifier, images: Images | None = None) -> int:
        """Change the backbone: embed every picture again, then change over in one transaction.

        What was embedded before a kill is not embedded again. The classes that were named are named again in
        ``world``, all else is judged again; decisions from before cannot be undone afterwards. Returns the revision.

        Args:
            world: fitted on the new backbone, with the classes that the store began with.
            images: pictures whose files have moved; None: all lie where they were last seen.

        Raises:
            DataError: pictures whose files are not found; the work done so far is kept.
        """
        given = None if images is None else collect_images(images, purpose="reembed")
        with hold_file(self.folder / DECISIONS_LOCK):
            return reembed(self.session, world, given)

    def newest(self) -> int:
        """The number of the picture that came last; 0 before the first."""
        return self.database.next_number("image", "seq") - 1

    def find_shift(self, after: int = 0) -> Shift:
        """Whether the pictures without a name that came after number ``after`` come from another camera.

        See :meth:`OpenWorldClassifier.find_shift`.
        """
        seqs = [seq for (seq,) in self.database.rows(f"SELECT seq {rows.WITHOUT_A_NAME}", (after,))]
        some = seqs[:: max(1, len(seqs) // MOST_OF_BATCH)]
        encoder = saved_classifiers.find_current(self.database).encoder
        features = rows.read_embeddings(self.database, some, encoder, str(self.database.path))
        return find_shift(*self.world.reference_, features, self.world.model.seed)

    def status(self) -> Status:
        """What is there, without loading the classifier."""
        return queries.read_status(self.database)

    def history(self) -> list[dict[str, Any]]:
        """Every event, oldest first: number, revision, kind, class, detail, at (UTC)."""
        return queries.read_history(self.database)

    def held(self, digests: Iterable[str]) -> dict[str, StoredPicture]:
        """What is held of pictures, by digest; those that are not in the store are left out."""
        return rows.find(self.database, digests)

    def check(self) -> None:
        """Read everything once.

        Raises:
            ArtifactError: damage, with the place of the first.
        """
        queries.check(self.database)
        self.session.read_world(saved_classifiers.find_current(self.database).state, self.world.model.backbone)
