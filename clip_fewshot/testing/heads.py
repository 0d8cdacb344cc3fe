"""The contract of a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from clip_fewshot.runtime.rng import seed_torch
from clip_fewshot.testing.contract import ContractError, demand, run_checks

Head = Callable[..., nn.Module]
_N, _C, _D, _L = 11, 7, 24, 5  # different from each other, so that an axis of length 7 is the class axis


def check_head(head: Head, **options: Any) -> None:
    """Check a head: ``head(in_features, n_classes, **options)`` is a module that maps features to logits.

    Raises:
        ContractError: names what does not hold.
    """
    run_checks(_CHECKS, head, **options)


def build(head: Head, options: dict[str, Any]) -> Any:
    """The same start each time."""
    with seed_torch(0, "contract of a head"):
        return head(_D, _C, **options)


def batch(built: Any, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(n, d) features, or (n, l, d) tokens where the head takes them, and (n,) labels."""
    shape = (_N, _L, _D) if built.takes_tokens else (_N, _D)
    features = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 1
    return features.to(dtype), torch.arange(_N) % _C


def has_the_attributes(head: Head, **options: Any) -> None:
    """``in_features``, ``n_classes``, ``takes_tokens``."""
    built = build(head, options)
    demand(isinstance(built, nn.Module), f"it makes a {type(built).__name__}, and no module of torch")
    for name, value in (("in_features", _D), ("n_classes", _C), ("takes_tokens", None)):
        demand(hasattr(built, name), f"attribute {name} is missing")
        demand(value is None or getattr(built, name) == value, f"attribute {name} is not {value}")


def gives_logits(head: Head, **options: Any) -> None:
    """(n, c), in training and after it, with labels and without, in the precision of the features."""
    built = build(head, options)
    for dtype in (torch.float32, torch.float64):
        features, labels = batch(built, dtype)
        for logits in (built.to(dtype)(features), built(features, labels), built.eval()(features)):
            demand(logits.shape == (_N, _C), f"logits have the shape {tuple(logits.shape)}, not ({_N}, {_C})")
            demand(logits.dtype == dtype, f"logits of {dtype} features are in {logits.dtype}")
            demand(logits.isfinite().all(), "logits are not finite")
        built.train()
    demand(built(torch.randn(_N, _D).double()).shape == (_N, _C), "plain features (n, d) give no logits (n, c)")


def gives_no_probabilities(head: Head, **options: Any) -> None:
    """Nor their logarithms: the loss takes the softmax."""
    built = build(head, options)
    logits = built(batch(built)[0])
    ones = torch.allclose(logits.sum(1), torch.ones(_N), atol=1e-3) and (logits >= 0).all()
    demand(not ones, "it gives probabilities, not logits")
    demand(not torch.allclose(logits.logsumexp(1), torch.zeros(_N), atol=1e-3), "it gives logarithms of probabilities")


def labels_change_nothing_outside_training(head: Head, **options: Any) -> None:
    """A margin on the true class belongs to training alone."""
    built = build(head, options)
    features, labels = batch(built)
    plain = built.eval()(features)
    told = [built(features, labels), built(features, (labels + 1) % _C)]
    demand(all(torch.equal(plain, one) for one in told), "labels change the logits outside training")


def gradients_reach_everything(head: Head, **options: Any) -> None:
    """Every parameter that wants one, and the features, for the layers below train too."""
    built = build(head, options)
    features, labels = batch(built)
    features.requires_grad_()
    loss = nn.functional.cross_entropy(built(features, labels), labels)
    torch.autograd.backward(loss)
    tensors = {"features": features, **{k: p for k, p in built.named_parameters() if p.requires_grad}}
    silent = [key for key, one in tensors.items() if one.grad is None or not (one.grad.abs() > 1e-6).any()]
    demand(not silent, f"no gradient reaches {', '.join(silent)}")
    broken = [key for key, one in tensors.items() if one.grad is not None and not one.grad.isfinite().all()]
    demand(not broken, f"the gradient of {', '.join(broken)} is not finite")


def renamed_classes_have_renamed_logits(head: Head, **options: Any) -> None:
    """No class is another kind of class than the others."""
    built, order = build(head, options), torch.randperm(_C, generator=torch.Generator().manual_seed(2))
    features, labels = batch(built)
    with torch.no_grad():
        before = built(features, labels)
        built.load_state_dict({name: _renamed(value, order) for name, value in built.state_dict().items()})
        after = built(features, order.argsort()[labels])
    demand(torch.allclose(after, before[:, order], atol=1e-5), "with the classes renamed the logits are others")


def _renamed(value: Tensor, order: Tensor) -> Tensor:
    for axis, length in enumerate(value.shape):
        value = value.index_select(axis, order) if length == _C else value
    return value


def rows_do_not_see_each_other(head: Head, **options: Any) -> None:
    """A picture's logits are its own; batches of any size train."""
    built = build(head, options)
    features, labels = batch(built)
    with torch.no_grad():
        whole = built(features, labels)
        apart = torch.cat([built(features[i : i + 3], labels[i : i + 3]) for i in range(0, _N, 3)])
    demand(torch.allclose(whole, apart, atol=1e-5), "logits of a picture depend on the others of its batch")


def its_state_is_all_of_it(head: Head, **options: Any) -> None:
    """A saved head gives the same bits, and a seeded block fixes how it begins."""
    built, other = build(head, options), head(_D, _C, **options)
    first, second = built.state_dict(), build(head, options).state_dict()
    demand(all(torch.equal(first[key], second[key]) for key in first), "the start depends on more than torch's seed")
    other.load_state_dict(first)
    features = batch(built)[0]
    demand(torch.equal(other.eval()(features), built.eval()(features)), "a head with the same state gives other logits")


def another_width_is_refused(head: Head, **options: Any) -> None:
    """An error of any kind."""
    built = build(head, options)
    try:
        built(torch.zeros(3, 5))
    except Exception:  # torch's own will do
        return
    raise ContractError(f"features of width 5 are taken by a head of width {_D}")


_CHECKS = (
    has_the_attributes,
    gives_logits,
    gives_no_probabilities,
    labels_change_nothing_outside_training,
    gradients_reach_everything,
    renamed_classes_have_renamed_logits,
    rows_do_not_see_each_other,
    its_state_is_all_of_it,
    another_width_is_refused,
)
