"""Complete threshold search on a device of torch.

Every row that by its product may be a match, or the nearest that is none, is left to the
deciding distance.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import distance
from pipeline.cuda import device_named, full_precision
from pipeline.distance import Vectors

_PRODUCTS = 1 << 28  # of queries and rows held at a time: 1 GB
_ROUNDING = 2.0**-21  # above that of the limits and of the deciding distance to float32


class DeviceRows:
    """A segment's rows on a device, and which of them the answer to a query may need."""

    def __init__(self, vectors: Vectors, device: str) -> None:
        """``vectors``: (m, d). Raises ``DeviceError`` as ``negatives`` does."""
        place = device_named(device)
        self._rows = torch.from_numpy(np.array(vectors, np.float32)).to(place)
        axis = np.eye(1, vectors.shape[1], dtype=np.float32)
        self._error = distance.error_of_products(axis, vectors)

    def near(
        self, queries: Vectors, threshold: np.float32, at_least: int
    ) -> list[NDArray[np.int64]]:
        """For each of the queries (n, d) rows that hold all up to the threshold, the nearest one
        beyond, and the ``at_least`` nearest."""
        lengths = np.sqrt(np.square(queries, dtype=np.float64).sum(axis=1))
        error = self._error * float(lengths.max(initial=1.0)) * (1 + 1e-6) + _ROUNDING
        found = []
        step = max(1, _PRODUCTS // max(1, len(self._rows)))
        with torch.inference_mode(), full_precision():
            for start in range(0, len(queries), step):
                some = torch.from_numpy(queries[start : start + step]).to(self._rows.device)
                products = some @ self._rows.T
                near = products >= _cuts(products, float(threshold), at_least, error)[:, None]
                owner, rows = near.nonzero(as_tuple=True)
                ends = torch.bincount(owner, minlength=len(some)).cumsum(0).cpu().numpy()
                found += np.split(rows.cpu().numpy(), ends[:-1])
        return found


def _cuts(products: Tensor, threshold: float, at_least: int, error: float) -> Tensor:
    """(n,) the product from which on a row (n, m) may be needed; -inf: all may be."""
    none = torch.full_like(products[:, :1], -torch.inf)
    rejected = products < 1 - threshold - error
    if threshold >= distance.MAX_DISTANCE:  # where distances are cut off: all are matches
        return none[:, 0]
    nearest = torch.where(rejected, products, none).amax(dim=1)
    if at_least > 1:
        nearest = nearest.minimum(products.topk(min(at_least, products.shape[1])).values[:, -1])
    cut = nearest - 2 * error
    # Products below -1 are all at distance 2: ties, whichever of them is least.
    return torch.where(cut <= error - 1, none[:, 0], cut)
