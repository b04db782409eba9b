"""The published data sets of metric learning, in the folders that their archives unpack to.

    data set                 train                 test
    CUB-200-2011             classes 1 to 100      101 to 200
    Cars-196                 classes 1 to 98       99 to 196
    Stanford Online Products Ebay_train.txt        Ebay_test.txt           11,318 / 11,316 classes
    iNaturalist-2018         ..._train_set1.txt    ..._test_set1.txt        5,690 /  2,452 classes

The network is trained on the train classes, as published. Half of the test classes are for the
calibration and half for the report, since a threshold has to be judged on other classes than it
was chosen on: in each customer every second class, in the order of a hash of its name. Numbers
over the whole published test split come from `limen evaluate RELEASE FOLDER --group label`, which
counts every pair of it, whatever its customer.

A customer sees its own items and the shared ones, so its group has to hold matches and
non-matches of its own. The 12 super classes of the products and the 14 super categories of
iNaturalist do and are the customers; most makes of cars have a class or two in the test split,
and the families of the birds are not in the data: there everybody sees everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.data.items import ItemsError
from pipeline.data.published_files import (
    Row,
    read_birds,
    read_car_devkit,
    read_cars,
    read_products,
    read_species,
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a published data set lies on disk."""

    name: str
    home: str
    """Where it is published."""
    signs: tuple[str, ...]
    """Files and folders that no other folder of images has: any of them tells the data set."""
    others: tuple[str, ...]
    """What has to be there as well."""
    read: Callable[[Path], list[Row]]
    """The images that the annotations name, in their order."""


LAYOUTS = (
    Layout(
        "CUB-200-2011", "https://data.caltech.edu/records/65de6-vp158",
        ("images.txt", "image_class_labels.txt"), ("images",), read_birds,
    ),
    Layout(
        "Cars-196", "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        ("cars_annos.mat",), ("car_ims",), read_cars,
    ),
    Layout(
        "Cars-196", "https://github.com/jhpohovey/StanfordCars-Dataset",
        ("cars_test_annos_withlabels.mat", "devkit/cars_train_annos.mat", "devkit/cars_meta.mat"),
        ("cars_train", "cars_test"), read_car_devkit,
    ),
    Layout(
        "Stanford Online Products", "https://cvgl.stanford.edu/projects/lifted_struct",
        ("Ebay_train.txt", "Ebay_test.txt"), (), read_products,
    ),
    Layout(
        "iNaturalist-2018",
        "https://github.com/visipedia/inat_comp, its split at "
        "https://github.com/Andrew-Brown1/Smooth_AP",
        ("Inat_dataset_splits/Inaturalist_train_set1.txt",
         "Inat_dataset_splits/Inaturalist_test_set1.txt", "train_val2018"),
        (), read_species,
    ),
)  # fmt: skip


def layout_of(folder: Path) -> Layout | None:
    """The published data set that lies in ``folder``, whole or in part; None: no such."""
    def likeness(layout: Layout) -> tuple[bool, int]:
        return not _missing(folder, layout), sum((folder / sign).exists() for sign in layout.signs)

    likest = max(LAYOUTS, key=likeness)
    return likest if likeness(likest)[1] else None


def read_published(folder: Path, layout: Layout) -> pa.Table:
    """The raw table of the data set: a row for each image, its path being relative to ``folder``.

    Raises ``ItemsError``, without the folder's name, for a file that is not there or not in its
    format.
    """
    for name in _missing(folder, layout)[:1]:
        raise ItemsError(f"{layout.name} without {name}; expected it as published at {layout.home}")
    rows = layout.read(folder)
    split = _test_splits(rows)
    columns = {
        "item_id": [row.image for row in rows],
        "label": [row.label for row in rows],
        "customer": [row.customer for row in rows],
        "image": [row.image for row in rows],
        "split": ["train" if row.train else split[row.label] for row in rows],
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _missing(folder: Path, layout: Layout) -> list[str]:
    """What the data set lacks in ``folder``."""
    return [name for name in (*layout.signs, *layout.others) if not (folder / name).exists()]


def _test_splits(rows: list[Row]) -> dict[str, str]:
    """``calibrate`` or ``report`` for each test class."""
    customers = {row.label: row.customer for row in rows if not row.train}
    ordered = sorted(customers, key=lambda label: (customers[label] or "", _rank(label)))
    return {label: ("calibrate", "report")[place % 2] for place, label in enumerate(ordered)}


def _rank(label: str) -> bytes:
    return hashlib.sha256(label.encode()).digest()
