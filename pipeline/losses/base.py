"""Base losses by name: those of the metric-learning library, and ours where it has none.

All compare n embeddings with m references, whose first n are the embeddings themselves and
whose others come from a memory; those that own proxies compare with them instead. Ours as well:
InfoNCE (the library's needs all positive by all negative pairs at once), ArcFace (the library's
gradient is NaN on a proxy) and Smooth-AP (the library's value is wrong unless a batch has as
many classes as items a class).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from pytorch_metric_learning import distances, losses
from torch import Tensor, nn

from pipeline.losses.logistic import Uss, infonce_loss
from pipeline.losses.pairs import Marks
from pipeline.losses.proxies import ArcFace
from pipeline.losses.ranking import recall_at_k_loss, smooth_ap_loss

Options = Mapping[str, float]


class BaseLoss(nn.Module):
    """One loss of (n, d) unit embeddings against (m, d) references, a scalar."""

    def forward(
        self, embeddings: Tensor, marks: Marks, references: Tensor, reference_marks: Marks
    ) -> Tensor:
        """The loss; float32."""
        raise NotImplementedError

    def threshold(self) -> float | None:
        """The cosine distance that the loss learned to decide at; None: it learns none."""
        return None


class _Pairwise(BaseLoss):
    """A function of ours: (n, m) similarities and the two kinds of pairs to a scalar."""

    def __init__(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self, embeddings: Tensor, marks: Marks, references: Tensor, reference_marks: Marks
    ) -> Tensor:
        return self.loss(embeddings @ references.T, *marks.pairs(reference_marks))

    def threshold(self) -> float | None:
        return self.loss.threshold() if isinstance(self.loss, Uss) else None


class _LibraryPairs(BaseLoss):
    """A loss of the library that is told its pairs."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def indices(self, marks: Marks, reference_marks: Marks) -> tuple[Tensor, ...]:
        """Rows and columns of the positive pairs, then of the negative ones."""
        positive, negative = marks.pairs(reference_marks)
        return *positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True)

    def forward(
        self, embeddings: Tensor, marks: Marks, references: Tensor, reference_marks: Marks
    ) -> Tensor:
        pairs = self.indices(marks, reference_marks)
        value: Tensor = self.loss(
            embeddings, marks.labels, pairs, references, reference_marks.labels
        )
        return value


class _LibraryTriplets(_LibraryPairs):
    """The same with triplets; made here, as the library would build all n x m x m of them."""

    def indices(self, marks: Marks, reference_marks: Marks) -> tuple[Tensor, ...]:
        positive, negative = marks.pairs(reference_marks)
        anchor, near = positive.nonzero(as_tuple=True)
        pair, far = negative[anchor].nonzero(as_tuple=True)
        return anchor[pair], near[pair], far


class _Proxies(BaseLoss):
    """A loss with a trained proxy for each class, which takes no references."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(
        self, embeddings: Tensor, marks: Marks, references: Tensor, reference_marks: Marks
    ) -> Tensor:
        value: Tensor = self.loss(embeddings, marks.labels)
        return value


def _contrastive(options: Options) -> nn.Module:
    loss: nn.Module = losses.ContrastiveLoss(
        pos_margin=options["positive_margin"], neg_margin=options["negative_margin"],
        distance=distances.CosineSimilarity(),
    )  # fmt: skip
    return loss


_LIBRARY: dict[str, Callable[[Options], nn.Module]] = {
    "multi_similarity": lambda o: losses.MultiSimilarityLoss(**o),
    "supervised_contrastive": lambda o: losses.SupConLoss(**o),
    "contrastive": _contrastive,
    "circle": lambda o: losses.CircleLoss(m=o["margin"], gamma=o["scale"]),
}
_OURS: dict[str, Callable[..., Tensor]] = {
    "infonce": infonce_loss,
    "smooth_ap": smooth_ap_loss,
    "recall_at_k": recall_at_k_loss,
}


def make_base(name: str, options: Options, *, classes: int, dimension: int) -> BaseLoss:
    """The loss called ``name`` (one of ``BASE_LOSSES``) with all its ``options``."""
    sizes = {"classes": classes, "dimension": dimension}
    match name:
        case "uss":
            return _Pairwise(Uss(**sizes, margin=options["margin"], scale=options["scale"]))
        case "arcface":
            return _Proxies(ArcFace(**sizes, margin=options["margin"], scale=options["scale"]))
        case "proxy_anchor":
            return _Proxies(losses.ProxyAnchorLoss(classes, dimension, **options))
        case "triplet":
            loss = losses.TripletMarginLoss(distance=distances.CosineSimilarity(), **options)
            return _LibraryTriplets(loss)
    if name in _OURS:
        return _Pairwise(partial(_OURS[name], **options))
    return _LibraryPairs(_LIBRARY[name](options))
