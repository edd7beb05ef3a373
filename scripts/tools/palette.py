"""Choose the colours of components in plots, and print the smallest differences between them.

    python scripts/tools/palette.py

Starts with six colours of the palette of M. Okabe and K. Ito (2008), and adds one colour after the other, each as far
as possible from all previous ones. The distance of two colours is their CIEDE2000 difference for normal vision, or 1.8
times that for deuteranopes or protanopes, whichever is smallest. Candidates are a grid of sRGB colours that are seen on
white and on black, and neither grey nor glaring. The result is `COLORS` of `fastpmf/plot/_common.py`.

References: G. Sharma, W. Wu and E. N. Dalal, "The CIEDE2000 color-difference formula", Color Research and Application
30 (2005); G. M. Machado, M. M. Oliveira and L. A. F. Fernandes, "A physiologically-based model for simulation of color
vision deficiency", IEEE Transactions on Visualization and Computer Graphics 15 (2009).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

START = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"]
N_COLORS, N_GRID = 32, 18
LIGHTNESS, CHROMA = (30, 90), (12, 80)  # of CIELAB
VISIONS = {  # matrices on linear RGB, and the weight of the difference
    "normal": (np.eye(3), 1.0),
    "deuteranopia": (
        np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
        1.8,
    ),
    "protanopia": (
        np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        1.8,
    ),
}
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def main() -> None:
    """Choose and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    levels = np.linspace(0, 1, N_GRID)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = seen(grid)["normal"]
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    grid = grid[
        (LIGHTNESS[0] <= lab[:, 0]) & (lab[:, 0] <= LIGHTNESS[1]) & (CHROMA[0] <= chroma) & (chroma <= CHROMA[1])
    ]
    chosen = np.array([[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in START])
    while len(chosen) < N_COLORS:
        weighted = [VISIONS[name][1] * d for name, d in differences(grid, chosen).items()]
        best = np.minimum.reduce(weighted).min(axis=1).argmax()
        chosen = np.vstack([chosen, grid[best]])
    names = ["#{:02X}{:02X}{:02X}".format(*np.rint(255 * color).astype(int)) for color in chosen]
    for start in range(0, N_COLORS, 8):
        common.echo(" ".join(f'"{name}",' for name in names[start : start + 8]))
    for k in (6, 8, 12, 20, 30, N_COLORS):
        upper = np.triu_indices(k, 1)
        smallest = {name: d[upper].min() for name, d in differences(chosen[:k], chosen[:k]).items()}
        common.echo(f"{k} colours: " + ", ".join(f"{name} {value:.1f}" for name, value in smallest.items()))


def seen(rgb: np.ndarray) -> dict[str, np.ndarray]:
    """CIELAB coordinates of sRGB colours (..., 3) for each kind of vision."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    found = {}
    for name, (matrix, _) in VISIONS.items():
        xyz = np.clip(linear @ matrix.T, 0, 1) @ XYZ.T / XYZ.sum(axis=1)
        x, y, z = np.moveaxis(np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116), -1, 0)
        found[name] = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
    return found


def differences(colors: np.ndarray, others: np.ndarray) -> dict[str, np.ndarray]:
    """CIEDE2000 differences of sRGB colours (m, 3) and (n, 3) for each kind of vision, (m, n)."""
    first, second = seen(colors), seen(others)
    return {name: ciede2000(first[name][:, None], second[name]) for name in VISIONS}


def ciede2000(lab: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Difference of CIELAB colours (..., 3), with the symbols of Sharma, Wu and Dalal."""
    (L1, a1, b1), (L2, a2, b2) = (np.moveaxis(A, -1, 0) for A in (lab, other))
    C_mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    G = 0.5 * (1 - np.sqrt(C_mean**7 / (C_mean**7 + 25.0**7)))
    a1, a2 = (1 + G) * a1, (1 + G) * a2
    C1, C2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.degrees(np.arctan2(b1, a1)) % 360, np.degrees(np.arctan2(b2, a2)) % 360
    dh = (h2 - h1 + 180) % 360 - 180
    dL, dC, dH = L2 - L1, C2 - C1, 2 * np.sqrt(C1 * C2) * np.sin(np.radians(dh) / 2)
    L, C, h = (L1 + L2) / 2, (C1 + C2) / 2, (h1 + dh / 2) % 360
    T = (
        1 - 0.17 * np.cos(np.radians(h - 30)) + 0.24 * np.cos(np.radians(2 * h))
        + 0.32 * np.cos(np.radians(3 * h + 6)) - 0.20 * np.cos(np.radians(4 * h - 63))
    )  # fmt: skip
    R = -2 * np.sqrt(C**7 / (C**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((h - 275) / 25) ** 2))))
    dL /= 1 + 0.015 * (L - 50) ** 2 / np.sqrt(20 + (L - 50) ** 2)
    dC, dH = dC / (1 + 0.045 * C), dH / (1 + 0.015 * C * T)
    return np.sqrt(dL**2 + dC**2 + dH**2 + R * dC * dH)


if __name__ == "__main__":
    main()
