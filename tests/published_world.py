"""Small folders in the layouts of the published data sets: real formats, tiny images."""

from __future__ import annotations

import io
import zlib

import numpy as np
import scipy.io
from PIL import Image


def redness(path):
    """The red of the image at ``path``, 0 to 255."""
    return zlib.crc32(path.encode()) % 256


def put(folder, paths):
    """A plain image at each path, as red as its name says."""
    for path in paths:
        out = io.BytesIO()
        Image.new("RGB", (20, 12), (redness(path), 128, 64)).save(out, "JPEG", quality=95)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(out.getvalue())


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def annotations(entries, name):
    """A MATLAB structure array (1, n) of (file name, class from 1), as in the devkit."""
    fields = [(name, object), ("bbox_x1", object), ("class", object), ("test", object)]
    found = np.zeros((1, len(entries)), fields)
    for place, (file, number) in enumerate(entries):
        found[0, place] = (file, np.uint8(3), np.uint8(number), np.uint8(0))
    return found


def cell(names):
    found = np.zeros((1, len(names)), object)
    found[0, :] = names
    return found


def birds(folder, *, classes=range(95, 107), each=2):
    """CUB-200-2011: of 200 classes those around the border of the split."""
    images = [
        (number, f"{number:03d}.Bird_{number}/Bird_{number}_{k:04d}_{number * k}.jpg")
        for number in classes for k in range(each)
    ]  # fmt: skip
    put(folder, [f"images/{path}" for _, path in images])
    write_lines(folder / "images.txt", [f"{i} {path}" for i, (_, path) in enumerate(images, 1)])
    # The lines stand in another order: the number joins them.
    labels = [f"{i} {number}" for i, (number, _) in enumerate(images, 1)][::-1]
    write_lines(folder / "image_class_labels.txt", labels)
    write_lines(folder / "classes.txt", [f"{n} {n:03d}.Bird_{n}" for n in classes])
    write_lines(folder / "bounding_boxes.txt", [f"{i} 1.0 2.0 3.0 4.0" for i in range(len(images))])
    write_lines(folder / "README", ["not an image"])


CAR_NAMES = [f"Make{number} Model C/V {number} 2012" for number in range(1, 197)]


def cars(folder, *, classes=range(94, 104), each=2):
    """Cars-196 with its images in one folder."""
    entries = [
        (f"car_ims/{number * 10 + k:06d}.jpg", number) for number in classes for k in range(each)
    ]
    put(folder, [file for file, _ in entries])
    scipy.io.savemat(folder / "cars_annos.mat", {
        "annotations": annotations(entries, "relative_im_path"), "class_names": cell(CAR_NAMES),
    })  # fmt: skip


def car_devkit(folder, *, classes=range(94, 104)):
    """Cars-196 in two folders, one image of each class in either."""
    (folder / "devkit").mkdir(parents=True)
    scipy.io.savemat(folder / "devkit/cars_meta.mat", {"class_names": cell(CAR_NAMES)})
    for part, annos in (
        ("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat"),
    ):
        entries = [(f"{number:05d}.jpg", number) for number in classes]
        put(folder, [f"cars_{part}/{file}" for file, _ in entries])
        scipy.io.savemat(folder / annos, {"annotations": annotations(entries, "fname")})


def products(folder, *, groups=("bicycle", "chair", "sofa"), classes=6, each=2):
    """Stanford Online Products: the first half of each super class to train on."""
    header, image, lines = "image_id class_id super_class_id path", 0, {"train": [], "test": []}
    paths = []
    for group, name in enumerate(groups, 1):
        for k in range(classes):
            part = "train" if k < classes // 2 else "test"
            number = 1000 * group + k
            for shot in range(each):
                image += 1
                paths.append(f"{name}_final/11{number}_{shot}.JPG")
                lines[part].append(f"{image} {number} {group} {paths[-1]}")
    put(folder, paths)
    for part, found in lines.items():
        write_lines(folder / f"Ebay_{part}.txt", [header, *found])
    write_lines(folder / "Ebay_info.txt", [header])


def species(folder, *, groups=("Aves", "Fungi", "Plantae"), classes=6, each=2):
    """iNaturalist-2018 with the split of Smooth-AP: even classes to train on."""
    lines = {"train": [], "test": []}
    number = 0
    for name in groups:
        for _ in range(classes):
            number += 1
            lines["train" if number % 2 == 0 else "test"] += [
                f"train_val2018/{name}/{number}/{number:08d}{shot}.jpg" for shot in range(each)
            ]
    put(folder, lines["train"] + lines["test"])
    for part, found in lines.items():
        write_lines(folder / "Inat_dataset_splits" / f"Inaturalist_{part}_set1.txt", found)
