"""Base losses by name: those of the metric-learning library, ours to parametrise, theirs to run.

All take (n, d) unit embeddings and (n,) int64 class numbers from 0 on. Some own weights (a
proxy for each class) which are trained with the model. Smooth-AP is left out on purpose: in
version 2.9 the library confuses classes with items per class, so that its value is wrong unless
the two are equal.
"""

from __future__ import annotations

from collections.abc import Callable

from pytorch_metric_learning import distances, losses
from torch import Tensor, nn

from pipeline.strict import RecipeError

# (classes, dimension) -> loss. Library defaults are those of the papers, except where noted.
_FACTORIES: dict[str, Callable[[int, int], nn.Module]] = {
    "multi_similarity": lambda _c, _d: losses.MultiSimilarityLoss(),
    "supervised_contrastive": lambda _c, _d: losses.SupConLoss(temperature=0.1),
    # On similarities: the library's defaults of 0 and 1 are for Euclidean distances.
    "contrastive": lambda _c, _d: losses.ContrastiveLoss(
        pos_margin=1.0, neg_margin=0.5, distance=distances.CosineSimilarity()
    ),
    "triplet": lambda _c, _d: losses.TripletMarginLoss(
        margin=0.1, distance=distances.CosineSimilarity()
    ),
    "arcface": lambda classes, dimension: losses.ArcFaceLoss(classes, dimension),
    "proxy_anchor": lambda classes, dimension: losses.ProxyAnchorLoss(classes, dimension),
}

BASE_LOSSES: tuple[str, ...] = tuple(_FACTORIES)
"""Names that ``base_loss`` knows."""


class BaseLoss(nn.Module):
    """One loss of the library: (n, d) unit embeddings and (n,) class numbers to a scalar."""

    def __init__(self, loss: nn.Module) -> None:
        """Wrap ``loss``, whose parameters become ours."""
        super().__init__()
        self.loss = loss

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss over the batch; always attached to the graph of ``embeddings``."""
        value: Tensor = self.loss(embeddings, labels)
        return value


def base_loss(name: str, *, classes: int, dimension: int) -> BaseLoss:
    """The loss called ``name`` for ``classes`` training classes and (n, ``dimension``) rows.

    Weights, where it has any, are drawn from torch's global generator.
    Raises ``RecipeError`` naming the known losses.
    """
    if name not in _FACTORIES:
        raise RecipeError(f"loss.base: unknown loss {name!r}; known: {', '.join(BASE_LOSSES)}")
    return BaseLoss(_FACTORIES[name](classes, dimension))
