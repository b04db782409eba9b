"""The small world of images as the prepared workspace of a run."""

import io

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.data.items import Items
from tests.training_world import images


def write_items(workspace):
    """Two thirds of the classes to train on, the others to calibrate on."""
    pixels, labels = images()
    workspace.folder.mkdir(parents=True)
    split = np.where(labels < 8, "train", "calibrate").astype(object)
    items = Items(
        item_id=np.asarray([f"i{row}" for row in range(len(labels))], object),
        label=np.asarray([f"c{label}" for label in labels], object),
        customer=np.asarray(["acme"] * len(labels), object),
        role=np.asarray(["both"] * len(labels), object),
        split=split,
        kind="image",
        content=np.asarray([_png(image) for image in pixels], object),
        metadata=pa.table({"vendor": ["v"] * len(labels)}),
    )
    items.write(workspace.items_path)
    np.save(workspace.pixels_path, pixels)


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
