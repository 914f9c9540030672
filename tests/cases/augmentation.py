"""Layers that draw in training, and at inference leave images as they are, or crop them."""

import keras
from keras import layers as k

from cases.building import BACKEND, case, conv, variants

UNIT = (0, 1)

# one draw for each row
ROWS = {
    "RandomBrightness": lambda: k.RandomBrightness(0.5, UNIT),
    "RandomColorDegeneration": lambda: k.RandomColorDegeneration(0.5, UNIT),
    "RandomContrast": lambda: k.RandomContrast(0.5, UNIT),
    "RandomErasing": lambda: k.RandomErasing(value_range=UNIT),
    "RandomFlip": lambda: k.RandomFlip(),
    "RandomGrayscale": lambda: k.RandomGrayscale(0.5),
    "RandomHue": lambda: k.RandomHue(0.5, UNIT),
    "RandomInvert": lambda: k.RandomInvert(0.5, UNIT),
    "RandomPerspective": lambda: k.RandomPerspective(0.9),
    "RandomPosterization": lambda: k.RandomPosterization(4, UNIT),
    "RandomRotation": lambda: k.RandomRotation(0.5),
    "RandomSaturation": lambda: k.RandomSaturation(0.4, UNIT),
    "RandomSharpness": lambda: k.RandomSharpness(0.9, UNIT),
    "RandomShear": lambda: k.RandomShear((0.1, 0.5), (0.1, 0.5)),
    "RandomTranslation": lambda: k.RandomTranslation(0.5, 0.5),
    "RandomZoom": lambda: k.RandomZoom(0.5),
    "Solarization": lambda: k.Solarization((0.0, 0.9), (0.1, 0.9), UNIT),
}
# one draw for a batch, or rows that are mixed
BATCHES = {
    "AugMix": lambda: k.AugMix(UNIT),
    "CutMix": lambda: k.CutMix(),
    "MixUp": lambda: k.MixUp(),
    "RandAugment": lambda: k.RandAugment(UNIT),
    "RandomColorJitter": lambda: k.RandomColorJitter(UNIT, 0.5, 0.5, 0.5, 0.2),
    "RandomCrop": lambda: k.RandomCrop(4, 5),
    "RandomElasticTransform": lambda: k.RandomElasticTransform(value_range=UNIT),
    "RandomGaussianBlur": lambda: k.RandomGaussianBlur(value_range=UNIT),
}

variants("augmentation_of_rows", (7, 7, 3), *ROWS.values(), first=conv(3, 1))
variants("augmentation_of_batches", (7, 7, 3), *BATCHES.values(), first=conv(3, 1))


@case
def images_with_labels():
    """Layers that take and give dictionaries."""
    images, labels = keras.Input((9, 9, 3)), keras.Input((2,))
    mixed = k.MixUp()({"images": k.Conv2D(3, 1)(images), "labels": labels})
    cut = k.CutMix()({"images": images, "labels": labels})
    return keras.Model([images, labels], [k.Conv2D(2, 3)(mixed["images"]), mixed["labels"], cut["labels"]])


if BACKEND != "jax":  # where Keras's own models with boxes do not compile

    @case
    def images_with_boxes():
        boxes = {"boxes": keras.Input((4, 4), name="boxes"), "labels": keras.Input((4,), name="box_labels")}
        inputs = {"images": keras.Input((9, 9, 3), name="images"), "bounding_boxes": boxes}
        cut = k.MaxNumBoundingBoxes(3, bounding_box_format="xyxy")(inputs)
        flipped = k.RandomFlip(bounding_box_format="xyxy")(inputs)
        return keras.Model(inputs, [cut["bounding_boxes"]["boxes"], k.Conv2D(2, 3)(flipped["images"])])
