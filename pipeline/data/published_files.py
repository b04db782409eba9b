"""The annotations of the published data sets, each in its own format.

Every function takes the folder of a data set and returns its images in the order of the file.
Raises ``ItemsError`` with one line that names file and line, without the folder.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import scipy.io

from pipeline.data.items import ItemsError

_BIRDS_TRAINED = 100
_CARS_TRAINED = 98
"""Classes, counted from 1, that the published split trains on."""

# What scipy raises on files that are cut off, damaged, or of another kind.
_MALFORMED = (
    ValueError, TypeError, LookupError, OSError, NotImplementedError, MemoryError, OverflowError,
    zlib.error, scipy.io.matlab.MatReadError,
)  # fmt: skip


class Row(NamedTuple):
    """An image of a data set."""

    image: str
    """Path relative to the data set's folder, with slashes."""
    label: str
    customer: str | None
    """Group whose items are seen by itself alone; None: seen by all."""
    train: bool
    """Of the published train split."""


def read_birds(folder: Path) -> list[Row]:
    """CUB-200-2011: ``images.txt`` and ``image_class_labels.txt``, joined by the image's number."""
    classes = {
        number: _number("image_class_labels.txt", line, label)
        for line, (number, label) in _fields(folder, "image_class_labels.txt", 2)
    }
    rows = []
    for line, (number, path) in _fields(folder, "images.txt", 2):
        if number not in classes:
            raise ItemsError(
                f"images.txt, line {line}: image {number} has no class; expected a line for it in "
                "image_class_labels.txt"
            )
        label = _parents("images.txt", line, path, 1)[0]
        rows.append(Row(f"images/{path}", label, None, classes[number] <= _BIRDS_TRAINED))
    return rows


def read_cars(folder: Path) -> list[Row]:
    """Cars-196 in one folder: ``cars_annos.mat`` and ``car_ims``."""
    content = _matlab(folder, "cars_annos.mat", "class_names")
    return _cars(content["annotations"], content["class_names"], "cars_annos.mat", "")


def read_car_devkit(folder: Path) -> list[Row]:
    """Cars-196 as in its newer devkit: ``cars_train`` and ``cars_test``, each half of all classes.

    The split by classes does not follow these folders. The test labels are in a file of their
    own beside the devkit.
    """
    meta, train = "devkit/cars_meta.mat", "devkit/cars_train_annos.mat"
    names = _matlab(folder, meta, "class_names", annotated=False)["class_names"]
    rows = _cars(_matlab(folder, train)["annotations"], names, train, "cars_train/")
    test = "cars_test_annos_withlabels.mat"
    return rows + _cars(_matlab(folder, test)["annotations"], names, test, "cars_test/")


def read_products(folder: Path) -> list[Row]:
    """Stanford Online Products: ``Ebay_train.txt`` and ``Ebay_test.txt``; customer: super class."""
    rows = []
    for name, train in (("Ebay_train.txt", True), ("Ebay_test.txt", False)):
        for line, (_, label, _, path) in _fields(folder, name, 4, header=True):
            group = _parents(name, line, path, 1)[0].removesuffix("_final")
            rows.append(Row(path, label, group, train))
    return rows


def read_species(folder: Path) -> list[Row]:
    """iNaturalist-2018 by the split of Smooth-AP: paths of images of both published parts.

    A path is ``train_val2018/SUPER CATEGORY/CLASS/FILE``; customer: super category.
    """
    rows = []
    for part, train in (("train", True), ("test", False)):
        name = f"Inat_dataset_splits/Inaturalist_{part}_set1.txt"
        for line, (path,) in _fields(folder, name, 1):
            group, label = _parents(name, line, path, 2)
            rows.append(Row(path, label, group, train))
    return rows


def _fields(
    folder: Path, name: str, count: int, *, header: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """The number, from 1, and the ``count`` fields of each line of a text file that has any."""
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ItemsError(f"{name}: not a readable text file: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or (header and number == 1):
            continue
        fields = line.split()
        if len(fields) != count:
            raise ItemsError(
                f"{name}, line {number}: {len(fields)} fields; expected {count}, as published"
            )
        yield number, fields


def _number(name: str, line: int, text: str) -> int:
    if not text.isdecimal():
        raise ItemsError(f"{name}, line {line}: class {text!r}; expected a number from 1 up")
    return int(text)


def _parents(name: str, line: int, path: str, count: int) -> list[str]:
    """The names of the last ``count`` folders of an image's path."""
    parents = list(PurePosixPath(path).parent.parts)[-count:]
    if len(parents) < count:
        raise ItemsError(f"{name}, line {line}: {path!r}; expected {count} folders above the image")
    return parents


def _matlab(folder: Path, name: str, *more: str, annotated: bool = True) -> dict[str, Any]:
    """The variables of a .mat file, structures as dictionaries."""
    try:
        content: dict[str, Any] = scipy.io.loadmat(folder / name, simplify_cells=True)
    except _MALFORMED as error:
        raise ItemsError(f"{name}: not a readable .mat file: {error}") from None
    wanted = (*(["annotations"] if annotated else []), *more)
    for variable in wanted:
        if variable not in content:
            raise ItemsError(f"{name}: no variable {variable!r}; expected it as published")
    return content


def _cars(annotations: object, class_names: object, name: str, folder: str) -> list[Row]:
    """The rows of a list of annotations; ``folder`` goes before the names of files."""
    names = [str(text) for text in np.atleast_1d(np.asarray(class_names, np.object_))]
    rows = []
    for place, entry in enumerate(np.atleast_1d(np.asarray(annotations, np.object_)), 1):
        try:
            number = int(entry["class"])
            image = folder + str(entry["fname" if folder else "relative_im_path"])
        except (KeyError, TypeError, ValueError, IndexError):
            raise ItemsError(
                f"{name}, annotation {place}: no class or no file name; expected both, as "
                "published with the labels of the test images"
            ) from None
        if not 1 <= number <= len(names):
            raise ItemsError(
                f"{name}, annotation {place}: class {number}; expected 1 to {len(names)}"
            )
        rows.append(Row(image, names[number - 1], None, number <= _CARS_TRAINED))
    return rows
