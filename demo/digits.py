"""scikit-learn's 1,797 scanned handwritten digits (UCI Optical Recognition), as class folders of PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIZE = 32


def write_digits(root: Path) -> None:
    """Writes `root`/CLASS/NNNN.png, enlarged from 8 x 8 to 32 x 32 pixels so that a person can look at them."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(np.rint(pixels * 255 / 16).astype(np.uint8))
        grey.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.png")
