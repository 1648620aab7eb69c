"""Small data sets in the layouts of the original archives."""

import pathlib

import numpy as np
import PIL.Image

ANNOTATION = """<annotation><size><width>40</width><height>20</height><depth>3</depth></size>
<object><name>dog</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>6</ymin><xmax>20</xmax><ymax>{ymax}</ymax></bndbox></object>
<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>1</difficult>
<bndbox><xmin>11</xmin><ymin>1</ymin><xmax>40</xmax><ymax>20</ymax></bndbox></object>
<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>{cat}</difficult>
<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></object></annotation>"""


def image(path: pathlib.Path, size: tuple[int, int] = (20, 20), seed: int = 0) -> None:
    """A JPEG of noise; `size` is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path, quality=60)


def voc(root: pathlib.Path, images: int = 1, ymax: int = 15, name: str = "person", masks: bool = False):
    """`VOCdevkit/VOC2012`, 40x20 pixels: an easy dog, a difficult person, and a cat, difficult in odd images."""
    devkit = root / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main", "SegmentationClass"):
        (devkit / folder).mkdir(parents=True)
    for split in ("train", "val", "test"):
        names = [f"{split}_{number}" for number in range(images)]
        (devkit / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for number, stem in enumerate(names):
            image(devkit / "JPEGImages" / f"{stem}.jpg", (40, 20), number)
            annotation = ANNOTATION.format(ymax=ymax, name=name, cat=number % 2)
            (devkit / "Annotations" / f"{stem}.xml").write_text(annotation)
            if masks:
                _mask().save(devkit / "SegmentationClass" / f"{stem}.png")
    return root


def _mask() -> PIL.Image.Image:
    """Dog, void, tvmonitor and aeroplane in the colours of VOC's palette, at row 7, columns 3 to 6."""
    mask = PIL.Image.new("P", (40, 20))
    palette = np.zeros((256, 3), np.uint8)
    palette[1], palette[12], palette[20], palette[255] = (128, 0, 0), (64, 0, 128), (0, 64, 128), (224, 224, 192)
    mask.putpalette(palette.ravel().tolist())
    for column, number in ((3, 12), (4, 255), (5, 20), (6, 1)):
        mask.putpixel((column, 7), number)
    return mask


def cub(root: pathlib.Path, images: int = 1, box: str = "4 2 10 12"):
    """`CUB_200_2011`, 20x20 pixels: two classes, each with so many images to train and to test."""
    folder = root / "CUB_200_2011"
    lines: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    number = 0
    for label, name in enumerate(("001.Wren", "002.Crow"), start=1):
        for split in (1, 0):
            for _ in range(images):
                number += 1
                lines["images"].append(f"{number} {name}/{number}.jpg")
                lines["image_class_labels"].append(f"{number} {label}")
                lines["train_test_split"].append(f"{number} {split}")
                lines["bounding_boxes"].append(f"{number} {box}")
                image(folder / "images" / name / f"{number}.jpg", seed=number)
    (folder / "classes.txt").write_text("1 001.Wren\n2 002.Crow\n")
    for name, rows in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return root


def caltech256(root: pathlib.Path, images: int = 63):
    """`256_ObjectCategories`: two classes, clutter, and the stray files of the original."""
    folder = root / "256_ObjectCategories"
    for name in ("001.ak47", "198.spider", "257.clutter"):
        for number in range(1, images + 1):
            image(folder / name / f"{name[:3]}_{number:04d}.jpg", (9, 8), number)
    image(folder / "001.ak47" / "greg" / "001_0001.jpg")
    (folder / "198.spider" / "RENAME2").write_text("#!/bin/sh\n")
    return root


def imagenet(root: pathlib.Path, images: int = 2):
    """`train` and `val` with two class folders each, and the unlabelled images of `test`."""
    image(root / "test" / "ILSVRC2012_test_00000001.JPEG")
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            for number in range(images):
                image(root / split / name / f"{name}_{number}.JPEG", (30, 24), number)
    return root


def cifar100(root: pathlib.Path, images: int = 20):
    """`cifar-100-binary`: coarse label, fine label and 3,072 pixels an image."""
    folder = root / "cifar-100-binary"
    folder.mkdir()
    (folder / "coarse_label_names.txt").write_text("".join(f"coarse {number}\n" for number in range(20)))
    (folder / "fine_label_names.txt").write_text("".join(f"fine {number}\n" for number in range(100)))
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        rows = rng.integers(0, 256, (images, 2 + 3072), dtype=np.uint8)
        rows[:, 0], rows[:, 1] = np.arange(images) % 20, np.arange(images) % 100
        (folder / f"{split}.bin").write_bytes(rows.tobytes())
    return root
