"""A chest as functions of the plane, for phantoms: lungs, bones, heart and what three pneumonias do to them.

Coordinates are the patient's: x from -1 (image left) to 1, y from -1 (top) to 1; `u` is the distance from the
midline towards the side of a lung. Brightness is 0 for air and about 1 for bone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

Finding = Literal["normal", "covid19", "viral_pneumonia", "bacterial_pneumonia"]
Plane = NDArray[np.float32]
Texture = Callable[[Plane, Plane], Plane]

FINDINGS: tuple[Finding, ...] = ("normal", "covid19", "viral_pneumonia", "bacterial_pneumonia")
SIDES = (-1, 1)
"""Image left (the patient's right lung) and image right."""

LESION = 0.2
"""Share of the lung's air that a finding takes, from which on it counts as a lesion."""

_TEXTURE_GRID = 192


@dataclass(frozen=True)
class Chest:
    """What all images of one patient share."""

    width: float
    """Half the width of the lungs."""
    top: float
    diaphragm: dict[int, float]
    """Lowest y of each lung's base."""
    dome: float
    heart: tuple[float, float, float, float]
    """x, y and half axes."""
    rib_pitch: float
    rib_offset: float
    rib_jitter: Plane
    rib_strength: float
    clavicle_slope: float
    tissue: float
    vessels: dict[int, Plane]
    """[k, 3] for each side: direction and bend of a vessel in radians, and strength."""
    coarse: Texture
    fine: Texture
    haze: dict[int, float]
    """For each side, the share of a lung's air that is taken without any finding, at the height of the midline."""
    finding: dict[int, Callable[[Plane, Plane], Plane]]
    """For each side that has one, the share of its air that the finding takes besides, of (u, y)."""


def draw_chest(finding: Finding, rng: np.random.Generator) -> Chest:
    """Return a patient with `finding`, of which no two are alike."""
    width, top = rng.uniform(0.66, 0.79), rng.uniform(-0.84, -0.74)
    base = rng.uniform(0.54, 0.7)
    diaphragm = {-1: base, 1: base + rng.uniform(0.0, 0.08)}
    coarse, fine = _texture(rng, 0.05), _texture(rng, 0.014)
    return Chest(
        width=width,
        top=top,
        diaphragm=diaphragm,
        dome=rng.uniform(0.1, 0.2),
        heart=(
            rng.uniform(0.1, 0.17),
            base - rng.uniform(0.18, 0.24),
            rng.uniform(0.34, 0.43),
            rng.uniform(0.24, 0.29),
        ),
        rib_pitch=rng.uniform(0.125, 0.155),
        rib_offset=rng.uniform(0, 0.15),
        rib_jitter=rng.uniform(-0.014, 0.014, 41).astype(np.float32),
        rib_strength=rng.uniform(0.07, 0.13),
        clavicle_slope=rng.uniform(-0.28, -0.1),
        tissue=rng.uniform(0.5, 0.62),
        vessels={side: _vessels(rng) for side in SIDES},
        coarse=coarse,
        fine=fine,
        haze={side: rng.uniform(0, 0.1) for side in SIDES},
        finding=_findings(finding, width, top, base, coarse, fine, rng),
    )


def brightness(chest: Chest, x: Plane, y: Plane, inspiration: float) -> tuple[Plane, NDArray[np.bool_]]:
    """Return the brightness at `x`, `y`, and where lung is seen.

    Args:
        chest: the patient.
        x, y: [h, w], the patient's coordinates of each pixel.
        inspiration: how much lower than usual the diaphragm stands.
    """
    body = _body(x, y)
    lungs = {side: _lung(chest, side, x, y, inspiration) for side in SIDES}
    air = np.maximum(lungs[-1], lungs[1])
    heart = _edge(-_heart_distance(chest, x, y, inspiration), 0.022)
    abdomen = _edge(y - chest.diaphragm[-1] - inspiration + chest.dome * 0.6, 0.05)
    image = chest.tissue * (1 - 0.25 * np.abs(x) ** 3) + 0.15 * heart + 0.14 * abdomen
    image += 0.18 * np.exp(-((x / 0.15) ** 4)) * (1 + 0.12 * np.cos(2 * np.pi * y / chest.rib_pitch))
    image -= 0.13 * np.exp(-((x / 0.055) ** 4)) * _edge(-0.22 - y, 0.05)
    image += 0.05 * chest.coarse(x, y)
    for side in SIDES:
        u = side * x
        opacity = _opacity(chest, side, u, y)
        image -= lungs[side] * (0.44 * chest.tissue / 0.56) * (1 - opacity)
        image += lungs[side] * (1 - 0.8 * opacity) * _vessel_shadow(chest, side, u, y)
        image += _bones(chest, u, y)
    return np.asarray(image * body, dtype=np.float32), (air > 0.5) & (body > 0.5)


def lesions(chest: Chest, x: Plane, y: Plane, inspiration: float) -> NDArray[np.bool_]:
    """Return where the patient's finding takes much of a lung's air, by the arguments of `brightness`: [h, w]."""
    inside = np.zeros(x.shape, dtype=np.bool_)
    for side, finding in chest.finding.items():
        inside |= (finding(side * x, y) >= LESION) & (_lung(chest, side, x, y, inspiration) > 0.5)
    return inside & (_body(x, y) > 0.5)


def _edge(distance: Plane, softness: float) -> Plane:
    """0 where `distance` is negative, 1 where positive, with a soft edge."""
    return np.asarray(1 / (1 + np.exp(np.clip(-distance / softness, -30, 30))), dtype=np.float32)


def _texture(rng: np.random.Generator, scale: float) -> Texture:
    """Return smooth noise over the plane, of mean 0 and standard deviation 1, fixed to the patient."""
    noise = gaussian_filter(rng.standard_normal((_TEXTURE_GRID, _TEXTURE_GRID)), scale * _TEXTURE_GRID / 2, mode="wrap")
    noise = ((noise - noise.mean()) / noise.std()).astype(np.float32)

    def sample(x: Plane, y: Plane) -> Plane:
        rows, columns = ((v + 1) * (_TEXTURE_GRID / 2) for v in (y, x))
        return np.asarray(map_coordinates(noise, [rows, columns], order=1, mode="grid-wrap"), dtype=np.float32)

    return sample


def _body(x: Plane, y: Plane) -> Plane:
    shoulder = -0.86 + 0.5 * np.maximum(np.abs(x) - 0.3, 0) ** 1.6
    torso = np.minimum(y - shoulder, 0.97 + 0.04 * y - np.abs(x))
    neck = 0.26 - np.abs(x)
    return _edge(np.maximum(torso, neck), 0.012)


def _lateral(width: float, top: float, y: Plane) -> Plane:
    """The outer border of a lung as a distance from the midline."""
    depth = np.clip((y - top) / 1.3, 0, 1)
    return np.asarray(width * (1 - (1 - depth) ** 2.8) ** 0.55, dtype=np.float32)


def _heart_distance(chest: Chest, x: Plane, y: Plane, inspiration: float) -> Plane:
    cx, cy, a, b = chest.heart
    dx, dy = x - cx, y - cy - inspiration
    along, across = 0.82 * dx + 0.57 * dy, 0.82 * dy - 0.57 * dx  # the apex points down and to the patient's left
    return np.asarray((np.hypot(along / a, across / b) - 1) * min(a, b), dtype=np.float32)


def _lung(chest: Chest, side: int, x: Plane, y: Plane, inspiration: float) -> Plane:
    u = side * x
    medial = 0.13 + 0.05 * np.cos(3.2 * (y + 0.2))
    base = chest.diaphragm[side] + inspiration - chest.dome * (1 - ((u - 0.38) / 0.36) ** 2)
    inside = np.minimum.reduce(
        [
            _lateral(chest.width, chest.top, y) - u,
            u - medial,
            0.8 * (base - y),
            y - chest.top,
            _heart_distance(chest, x, y, inspiration),
        ]
    )
    return _edge(inside, 0.011)


def _bones(chest: Chest, u: Plane, y: Plane) -> Plane:
    """Ribs and the clavicle of one side."""
    reach = _edge(u - 0.05, 0.02) * _edge(_lateral(chest.width, chest.top, y) + 0.05 - u, 0.015)
    behind = _ribs(chest, y - 0.1 * np.sin(3 * u) - 0.42 * u**2, 0.027)
    before = _ribs(chest, y + 0.5 * (u - 0.15) - 0.1 * u**2 + 0.06, 0.034) * _edge(u - 0.3, 0.08)
    ribs = reach * (behind + 0.45 * before) * _edge(0.75 - y, 0.05)
    line = chest.top + 0.17 + chest.clavicle_slope * (u - 0.1) + 0.05 * np.sin(5 * u)
    clavicle = np.exp(-(((y - line) / 0.03) ** 4)) * _edge(u - 0.09, 0.02) * _edge(0.8 - u, 0.05)
    return np.asarray(chest.rib_strength * ribs + 0.11 * clavicle, dtype=np.float32)


def _ribs(chest: Chest, height: Plane, half_width: float) -> Plane:
    position = (height - chest.rib_offset) / chest.rib_pitch
    number = np.rint(position)
    jitter = chest.rib_jitter[(number.astype(np.int64) + 20) % len(chest.rib_jitter)]
    distance = np.abs((position - number) * chest.rib_pitch - jitter) / half_width
    # Cortical bone: a rib is brightest at its borders.
    return np.asarray(np.exp(-(distance**4)) * (0.7 + 0.5 * np.minimum(distance, 1) ** 2), dtype=np.float32)


def _vessels(rng: np.random.Generator) -> Plane:
    count = 15
    directions = np.linspace(-1.35, 1.45, count) + rng.uniform(-0.1, 0.1, count)
    return np.stack([directions, rng.uniform(-0.6, 0.6, count), rng.uniform(0.5, 1, count)], axis=1).astype(np.float32)


def _vessel_shadow(chest: Chest, side: int, u: Plane, y: Plane) -> Plane:
    du, dy = u - 0.17, y + 0.05 - 0.03 * side
    radius, angle = np.hypot(du, dy), np.arctan2(dy, du)
    shadow = 0.13 * np.exp(-((radius / 0.14) ** 2)) * (1 + 0.3 * chest.coarse(side * u, y))
    apart = 0.13 * (1 - np.exp(-((radius / 0.09) ** 2)))  # vessels that overlap at the hilum do not add up
    for direction, bend, strength in chest.vessels[side]:
        across = radius * np.sin(np.clip(angle - direction - bend * radius, -1.5, 1.5))
        thickness = 0.008 + 0.012 * np.exp(-3 * radius)
        shadow = shadow + apart * strength * np.exp(-((across / thickness) ** 2) - 3.2 * radius)
    return np.asarray(shadow, dtype=np.float32)


def _opacity(chest: Chest, side: int, u: Plane, y: Plane) -> Plane:
    """Return the share of a lung's air that is taken."""
    healthy = np.asarray(chest.haze[side] * (0.6 + 0.4 * np.clip(y, -1, 1)), dtype=np.float32)
    return np.clip(healthy + chest.finding[side](u, y), 0, 0.95) if side in chest.finding else healthy


def _findings(
    finding: Finding,
    width: float,
    top: float,
    base: float,
    coarse: Texture,
    fine: Texture,
    rng: np.random.Generator,
) -> dict[int, Callable[[Plane, Plane], Plane]]:
    if finding == "covid19":
        return {side: _peripheral_patches(side, width, top, base, coarse, rng) for side in SIDES}
    if finding == "viral_pneumonia":
        amount, grain = rng.uniform(0.14, 0.34), rng.uniform(0.12, 0.24)
        return {side: _interstitial(side, amount, grain, fine) for side in SIDES}
    if finding == "bacterial_pneumonia":
        side = int(rng.choice(SIDES))
        return {side: _consolidation(side, width, base, coarse, rng)}
    return {}


def _peripheral_patches(
    side: int, width: float, top: float, base: float, coarse: Texture, rng: np.random.Generator
) -> Callable[[Plane, Plane], Plane]:
    """COVID-19: hazy patches of ground glass at the outer border, mostly in the lower zones, on both sides."""
    count = int(rng.integers(2, 5))
    heights = rng.triangular(-0.15, base - 0.1, base, count)
    borders = _lateral(width, top, heights.astype(np.float32)) * rng.uniform(0.78, 1.0, count)
    radii, depths = rng.uniform(0.1, 0.2, count), rng.uniform(0.35, 0.75, count)

    def patches(u: Plane, y: Plane) -> Plane:
        clear = np.ones_like(u)
        for height, border, radius, depth in zip(heights, borders, radii, depths, strict=True):
            distance = np.hypot((u - border) / radius, (y - height) / (1.3 * radius)) + 0.16 * coarse(side * u, y)
            clear = clear * (1 - depth * _edge(1 - distance, 0.16))
        return np.asarray(1 - clear, dtype=np.float32)

    return patches


def _interstitial(side: int, amount: float, grain: float, fine: Texture) -> Callable[[Plane, Plane], Plane]:
    """Viral: a net of fine lines and haze around both hila."""

    def net(u: Plane, y: Plane) -> Plane:
        lines = np.exp(-((fine(side * u, y) / 0.5) ** 2))
        around = np.exp(-((np.hypot(u - 0.25, 0.8 * (y + 0.02)) / 0.55) ** 2))
        return np.asarray((amount + grain * (lines - 0.4)) * (0.35 + 0.65 * around), dtype=np.float32)

    return net


def _consolidation(
    side: int, width: float, base: float, coarse: Texture, rng: np.random.Generator
) -> Callable[[Plane, Plane], Plane]:
    """Bacterial: one lobe filled, dense, with a sharp border at the fissure."""
    upper = bool(rng.random() < 0.4)
    fissure, slope = rng.uniform(-0.12, 0.12), rng.uniform(-0.25, 0.25)
    depth, reach = rng.uniform(0.55, 0.9), rng.uniform(0.28, 0.42)
    centre = (rng.uniform(0.35, 0.6) * width / 0.7, fissure - 0.22 if upper else min(fissure + 0.25, base - 0.1))

    def lobe(u: Plane, y: Plane) -> Plane:
        above = fissure + slope * (u - 0.4) - y
        beyond = _edge(above if upper else -above, 0.014)
        near = _edge(1 - np.hypot((u - centre[0]) / reach, (y - centre[1]) / reach) + 0.1 * coarse(side * u, y), 0.12)
        return np.asarray(depth * beyond * near, dtype=np.float32)

    return lobe
