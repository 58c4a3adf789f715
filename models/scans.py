"""Synthetic grey pictures like slices of a head scan, without a finding or with one of three.

    0  no finding
    1  a round mass with a sharp edge, on the inner side of the skull
    2  an irregular, diffuse mass with a dark core, inside
    3  a small mass, low in the middle

Skulls differ in size, shape, place and rotation; masses in size, place and contrast; and all have
ventricles, bright vessels, uneven brightness and noise that hide the faint ones. They are drawn,
not taken from anyone, and say nothing about medicine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SIDE = 48
CLASSES = 4
# Grey levels after 0, and what is black: the noise of air is, so that stored samples are small.
LEVELS = 31
BLACK = 0.12


@dataclass(frozen=True)
class Skull:
    """An ellipse: each pixel's place in its frame, in half axes, and how far out it is, in pixels.

    `across` and `down` are -1 to 1 inside; `depth` is positive inside and negative outside.
    """

    across: Array
    down: Array
    depth: Array
    half_axes: tuple[float, float]


def make_scans(count: int, seed: int) -> tuple[Array, Array]:
    """Return scans [count, 1, SIDE, SIDE], float32 in 0..1, and their labels, int64 [count]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % CLASSES)
    scans = np.stack([_scan(rng, int(label)) for label in labels])
    return (np.round(scans * LEVELS) / LEVELS).astype(np.float32)[:, None], labels


def _scan(rng: np.random.Generator, label: int) -> Array:
    skull = _skull(rng)
    inside = _soft(skull.depth - rng.uniform(1.2, 2.6), 0.5)
    tissue = rng.uniform(0.38, 0.5) + _folds(rng, skull) - _ventricles(rng, skull)
    tissue = tissue + _vessels(rng, skull)
    if label:
        tissue = _mass(rng, skull, label, tissue)
    bone = rng.uniform(0.75, 0.95)
    signal = _soft(skull.depth, 0.5) * (bone + inside * (tissue - bone))
    return _acquired(rng, signal)


def _skull(rng: np.random.Generator) -> Skull:
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle = rng.normal(0, 0.2)
    half_axes = rng.uniform(15, 19), rng.uniform(19, 22.5)
    x, y = columns - rng.uniform(-1.5, 1.5), rows - rng.uniform(-1.0, 1.0)
    across = (x * np.cos(angle) + y * np.sin(angle)) / half_axes[0]
    down = (y * np.cos(angle) - x * np.sin(angle)) / half_axes[1]
    power = rng.uniform(1.9, 2.5)  # an ellipse, or somewhat squarer
    out = (np.abs(across) ** power + np.abs(down) ** power) ** (1 / power)
    return Skull(across, down, (1 - out) * float(np.mean(half_axes)), half_axes)


def _soft(distance: Array, width: float) -> Array:
    """Return an edge: 0 where the distance is very negative, 1 where it is large."""
    return 1 / (1 + np.exp(-np.clip(distance / width, -30, 30)))


def _blob(skull: Skull, at: tuple[float, float], radii: tuple[float, float], edge: float) -> Array:
    """Return an ellipse of 1 at a place in the skull's frame; radii and edge in pixels."""
    x = (skull.across - at[0]) * skull.half_axes[0] / radii[0]
    y = (skull.down - at[1]) * skull.half_axes[1] / radii[1]
    return _soft((1 - np.hypot(x, y)) * min(radii), edge)


def _folds(rng: np.random.Generator, skull: Skull) -> Array:
    """Return slow waves, and the dark line between the hemispheres."""
    folds = np.zeros_like(skull.depth)
    for _ in range(5):
        turn, pitch, phase = rng.uniform(0, np.pi), rng.uniform(4, 10), rng.uniform(0, 2 * np.pi)
        along = skull.across * np.cos(turn) + skull.down * np.sin(turn)
        folds = folds + rng.uniform(0.01, 0.035) * np.sin(pitch * along + phase)
    line = np.exp(-((skull.across * skull.half_axes[0]) ** 2))
    return folds - rng.uniform(0, 0.12) * line * (skull.down < rng.uniform(-0.4, 0.9))


def _ventricles(rng: np.random.Generator, skull: Skull) -> Array:
    size, height = rng.uniform(0.6, 1.3), rng.uniform(-0.2, 0.05)
    dark = np.zeros_like(skull.depth)
    for side in (-1, 1):
        at = side * rng.uniform(0.12, 0.22), height + rng.uniform(-0.05, 0.05)
        dark = dark + _blob(skull, at, (1.8 * size, 4.5 * size), 0.6)
    return rng.uniform(0.1, 0.3) * np.minimum(dark, 1)


def _vessels(rng: np.random.Generator, skull: Skull) -> Array:
    """Return a few bright spots, smaller than any mass, anywhere."""
    bright = np.zeros_like(skull.depth)
    for _ in range(rng.integers(0, 5)):
        turn, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.8))
        size = rng.uniform(0.7, 1.5)
        spot = _blob(skull, (far * np.cos(turn), far * np.sin(turn)), (size, size), 0.4)
        bright = bright + rng.uniform(0.1, 0.3) * spot
    return bright


def _mass(rng: np.random.Generator, skull: Skull, label: int, tissue: Array) -> Array:
    if label == 1:
        turn, size = rng.uniform(0, 2 * np.pi), rng.uniform(2.2, 5.0)
        far = 1 - (size * rng.uniform(0.5, 1.0) + 1.5) / float(np.mean(skull.half_axes))
        round_ = _blob(skull, (far * np.cos(turn), far * np.sin(turn)), (size, size), 0.4)
        return tissue + rng.uniform(0.15, 0.4) * round_
    if label == 3:
        at = rng.normal(0, 0.05), rng.uniform(0.42, 0.66)
        small = _blob(skull, at, (rng.uniform(1.8, 3.2), rng.uniform(1.6, 2.8)), 0.5)
        return tissue + rng.uniform(0.15, 0.4) * small
    return _diffuse(rng, skull, tissue)


def _diffuse(rng: np.random.Generator, skull: Skull, tissue: Array) -> Array:
    """Add a mass whose edge wanders, bright outside and dark inside."""
    turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.6)
    x = (skull.across - far * np.cos(turn)) * skull.half_axes[0]
    y = (skull.down - far * np.sin(turn)) * skull.half_axes[1]
    bearing, size = np.arctan2(y, x), rng.uniform(3.5, 7.5)
    edge = np.full_like(x, size)
    for lobes in (2, 3, 5):
        wander = rng.uniform(0.05, 0.18) * np.cos(lobes * bearing + rng.uniform(0, 2 * np.pi))
        edge = edge + size * wander
    distance = edge - np.hypot(x, y)
    rim = _soft(distance, rng.uniform(0.8, 2.0))
    core = _soft(distance - size * rng.uniform(0.35, 0.6), 0.8)
    return tissue + rng.uniform(0.1, 0.3) * rim - rng.uniform(0.15, 0.35) * core


def _acquired(rng: np.random.Generator, signal: Array) -> Array:
    """Return what a scanner makes of it: uneven brightness, and the noise of a magnitude."""
    slope = np.linspace(-1, 1, SIDE)
    uneven = rng.uniform(-0.12, 0.12) * slope + rng.uniform(-0.12, 0.12) * slope[:, None]
    noise = rng.standard_normal((2, SIDE, SIDE)) * rng.uniform(0.02, 0.05)
    bright = signal * (1 + uneven) * rng.uniform(0.85, 1.1) + noise[0]
    return np.clip((np.hypot(bright, noise[1]) - BLACK) / (1 - BLACK), 0, 1)
