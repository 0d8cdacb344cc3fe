"""Any head as a scikit-learn classifier on fixed features."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from clip_fewshot.errors import DivergedError, UsageError
from clip_fewshot.geometry import normalise
from clip_fewshot.heads import ArcFaceHead, CentredHead, LinearHead, build_head
from clip_fewshot.losses import cross_entropy
from clip_fewshot.probes.checked import checked, checked_rows
from clip_fewshot.runtime.rng import generator, seed_torch
from clip_fewshot.types import FloatArray


class HeadClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trains a head of ``clip_fewshot.heads`` on (n, d) features that do not change.

    Features are brought to length 1 and centred on the training mean first, see ``CentredHead``. A head with class
    directions of its own starts from the class means (see ``LinearHead.init_from``). Training is AdamW with a cosine
    schedule in float32; prediction runs in float64, so that it does not depend on which rows are predicted together.

    Args:
        head: key of ``HEADS``; one with something to train.
        options: further arguments of the head, such as {"margin": 0.2}; default none.
        epochs: passes over the training rows.
        lr: peak learning rate.
        weight_decay: of AdamW.
        batch_size: rows per step; up to this many rows every step sees them all.
        seed: of the initialisation and the order of batches.

    Attributes:
        classes_: (c,) the labels seen in ``fit``.
        state_: name -> array, the state of the head and its centring: with ``classes_`` all that prediction needs.
        loss_: training loss of the last step, in nats.
    """

    def __init__(
        self,
        head: str = "mlp",
        *,
        options: dict[str, Any] | None = None,
        epochs: int = 100,
        lr: float = 3e-3,
        weight_decay: float = 1e-2,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        self.head = head
        self.options = options
        self.epochs = epochs
        self.lr = lr
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike) -> HeadClassifier:
        """Train on (n, d) features and (n,) labels of at least two classes."""
        X, y = checked(self, X, y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            fix = "add samples of another class"
            raise UsageError(expected="samples of at least 2 classes", got="1 class", fix=fix, where="y")
        features = torch.tensor(X, dtype=torch.float32)
        labels = torch.tensor(encoded)
        head = self._start(features, labels)
        self.loss_ = self._train(head, features, labels)
        self.state_ = {name: value.numpy().copy() for name, value in head.state_dict().items()}
        return self

    def decision_function(self, X: ArrayLike) -> FloatArray:
        """(n, d) -> logits (n, c); for two classes (n,), positive for ``classes_[1]``."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> FloatArray:
        """(n, d) -> (n, c) softmax of the logits, columns in the order of ``classes_``."""
        probabilities: FloatArray = torch.from_numpy(self._logits(X)).softmax(1).numpy()
        return probabilities

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """(n, d) -> (n,) labels."""
        best = self._logits(X).argmax(axis=1)
        chosen: NDArray[Any] = self.classes_[best]
        return chosen

    def _build(self, mean: Tensor) -> CentredHead:
        with seed_torch(self.seed, "head", self.head):
            head = build_head(self.head, len(mean), len(self.classes_), **(self.options or {}))
        return CentredHead(head, mean)

    def _start(self, features: Tensor, labels: Tensor) -> nn.Module:
        unit = normalise(features)
        head = self._build(unit.mean(0))
        if isinstance(head.head, LinearHead | ArcFaceHead):
            means = [unit[labels == c].mean(0) for c in range(len(self.classes_))]
            head.head.init_from(torch.stack(means) - unit.mean(0))
        return head

    def _train(self, head: nn.Module, features: Tensor, labels: Tensor) -> float:
        parameters = list(head.parameters())
        if not parameters:
            fix = "choose another head"
            raise UsageError(expected="a head with something to train", got=repr(self.head), fix=fix, where="head")
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay)
        steps_per_epoch = -(-len(features) // self.batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * steps_per_epoch)
        shuffle = generator(self.seed, "head batches")
        for _ in range(self.epochs):
            for rows in torch.split(torch.tensor(shuffle.permutation(len(features))), self.batch_size):
                loss = cross_entropy(head(features[rows], labels[rows]), labels[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
        if not torch.isfinite(loss):
            got = f"{loss.item()}"
            raise DivergedError(expected="a finite training loss", got=got, fix="lower lr", where="HeadClassifier.fit")
        return float(loss.detach())

    @torch.no_grad()
    def _logits(self, X: ArrayLike) -> FloatArray:
        X = checked_rows(self, X)
        state = {name: torch.from_numpy(value) for name, value in self.state_.items()}
        head = self._build(state["mean"]).eval()
        head.load_state_dict(state)
        logits: FloatArray = head.double()(torch.tensor(X)).numpy()
        return logits
