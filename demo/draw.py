"""A corpus that is drawn from nothing but a seed: every class is a fractal, every image a variation of it.

The idea is FractalDB's ("Pre-training without Natural Images", arXiv 2101.08515): a class is an iterated function
system, and its images differ in the system's parameters. The maps are drawn by their singular values, so that all of
them contract and none has to be thrown away for diverging ("Improving Fractal Pre-training", arXiv 2110.03091).
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

MAPS = (2, 4)  # fewest and most of a system
WIDE, NARROW = (0.5, 0.9), (0.2, 0.8)  # singular values of a map; the second as a share of the first
FILLED = (0.15, 0.6)  # the share of the pixels that a class's picture touches
VARIATION = 0.15  # of a singular value, an angle in radians, an offset
TURN = np.pi / 10  # of a whole image, to either side
SETTLE, KEEP = 16, 16  # rounds until a point is on the attractor; rounds of which the points are drawn
NOISE = 0.06


@dataclass(frozen=True)
class System:
    """K affine maps x -> U(turn) diag(stretch) V(lean) x + offset of the plane."""

    turn: np.ndarray  # [K], radians
    lean: np.ndarray  # [K], radians
    stretch: np.ndarray  # [K, 2], below 1; the second may be negative: a reflection
    offset: np.ndarray  # [K, 2]

    def varied(self, rng: np.random.Generator) -> "System":
        """Another one near it."""

        def near(values: np.ndarray) -> np.ndarray:
            return values + VARIATION * rng.uniform(-1, 1, values.shape)

        stretch = np.clip(self.stretch * near(np.ones_like(self.stretch)), -0.95, 0.95)
        return System(near(self.turn), near(self.lean), stretch, near(self.offset))

    def points(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """The chaos game: `count` points follow maps drawn at random. Returns [KEEP * count, 2], on the attractor.

        A map is drawn as often as its image is large, by its determinant, so that the attractor is evenly covered.
        """
        maps = rotation(self.turn) @ (self.stretch[:, :, None] * rotation(self.lean))
        areas = np.abs(self.stretch.prod(axis=1)) + 0.02
        chosen = rng.choice(len(maps), (SETTLE + KEEP, count), p=areas / areas.sum())
        point, kept = np.zeros((count, 2)), []
        for choice in chosen:
            point = np.einsum("nij,nj->ni", maps[choice], point) + self.offset[choice]
            kept.append(point)
        return np.concatenate(kept[SETTLE:])


def rotation(angle: np.ndarray | float) -> np.ndarray:
    """[...] radians -> [..., 2, 2]."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def draw_system(seed: int, label: int) -> System:
    """The system of a class: the first of those drawn whose picture is neither dust nor a blot."""
    rng = np.random.default_rng([seed, label])
    while True:
        count = rng.integers(MAPS[0], MAPS[1] + 1)
        turn, lean = rng.uniform(-np.pi, np.pi, (2, count))
        wide = rng.uniform(*WIDE, count)
        narrow = wide * rng.uniform(*NARROW, count) * rng.choice([-1, 1], count)
        system = System(turn, lean, np.stack([wide, narrow], 1), rng.uniform(-1, 1, (count, 2)))
        filled = np.mean(density(system.points(256, rng), 32, 0.0, 1.0, rng) > 0)
        if FILLED[0] <= filled <= FILLED[1]:
            return system


def density(points: np.ndarray, size: int, turn: float, scale: float, rng: np.random.Generator) -> np.ndarray:
    """Counts [size, size] of points [N, 2], turned, and fitted so that `scale` of the image's side is theirs."""
    points = points @ rotation(turn).T
    low, high = np.quantile(points, [0.005, 0.995], axis=0)
    middle = (low + high) / 2 + rng.uniform(-0.5, 0.5, 2) * (1 - scale) * (high - low).max()
    cells = np.floor(((points - middle) / (high - low).max() * scale + 0.5) * size).astype(np.int64)
    x, y = cells[np.all((cells >= 0) & (cells < size), axis=1)].T
    return np.bincount(y * size + x, minlength=size * size).reshape(size, size)


def draw_image(system: System, size: int, rng: np.random.Generator) -> np.ndarray:
    """One image [size, size, 3], uint8: the system varied, turned, perhaps mirrored, bright on a dark gradient."""
    points = system.varied(rng).points(max(64, size * size // 4), rng)
    counts = density(points, size, rng.uniform(-TURN, TURN), rng.uniform(0.75, 1.0), rng)
    tone = np.minimum(1.0, np.sqrt(counts / max(1.0, np.quantile(counts[counts > 0], 0.8))))[:, :: rng.choice([-1, 1])]
    ramp = rng.uniform(-1, 1, 2) @ np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].reshape(2, -1) / 4 + 0.5
    corners, ink = rng.uniform(0, 0.4, (2, 3)), rng.uniform(0.6, 1, 3)
    ground = corners[0] + ramp.reshape(size, size, 1) * (corners[1] - corners[0])
    image = ground + tone[:, :, None] * (ink - ground) + NOISE * rng.standard_normal((size, size, 3))
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def write_drawn(root: Path, classes: int, images: int, size: int, seed: int = 0) -> None:
    """Writes `root`/CLASS/NNNNN.png. Image n of class c depends on nothing but (seed, c, n, size)."""
    for label in range(classes):
        folder = root / f"{label:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        system = draw_system(seed, label)
        for number in range(images):
            pixels = draw_image(system, size, np.random.default_rng([seed, label, number]))
            Image.fromarray(pixels).save(folder / f"{number:05d}.png")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.draw", description="Draws a corpus of fractals.")
    parser.add_argument("root", type=Path, help="folder to write CLASS/NNNNN.png to")
    for name, default in (("classes", 100), ("images", 240), ("size", 32), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    write_drawn(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
