"""Outlines in object coordinates: the unit square, x to the right, y down; every outline is an (N, 2) array."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]
Point = tuple[float, float]

ELLIPSE_POINTS = 48
CORNER_CUTS = 3
CUT = 0.25  # Chaikin's corner cutting: new points at 1/4 and 3/4 of every edge


def polygon(*points: Point) -> Outline:
    """A closed outline with sharp corners."""
    return np.array(points, dtype=np.float64)


def soft(outline: Outline) -> Outline:
    """The closed outline with its corners cut off again and again (Chaikin), so that it looks bent, not broken."""
    for _ in range(CORNER_CUTS):
        following = np.roll(outline, -1, axis=0)
        near, far = outline + CUT * (following - outline), following + CUT * (outline - following)
        outline = np.stack([near, far], axis=1).reshape(-1, 2)
    return outline


def mirrored(*right_half: Point) -> Outline:
    """A closed outline that is symmetric about x = 0.5, given its right half from top to bottom."""
    right = polygon(*right_half)
    left = right[::-1] * (-1.0, 1.0) + (1.0, 0.0)
    return np.concatenate([right, left])


def arc(center: Point, radii: Point, start: float, stop: float) -> Outline:
    """Points of an ellipse from angle `start` to `stop` (degrees, clockwise from the right); not closed."""
    angles = np.radians(np.linspace(start, stop, ELLIPSE_POINTS))
    return np.stack([center[0] + radii[0] * np.cos(angles), center[1] + radii[1] * np.sin(angles)], axis=1)


def ellipse(x: float, y: float, width: float, height: float) -> Outline:
    """An ellipse about (x, y) with the given half axes."""
    return arc((x, y), (width, height), 0, 360)


def box(left: float, top: float, right: float, bottom: float, corner: float = 0.0) -> Outline:
    """A rectangle, its corners rounded with radius `corner`."""
    if corner == 0:
        return polygon((left, top), (right, top), (right, bottom), (left, bottom))
    centers = (
        (right - corner, top + corner, -90),
        (right - corner, bottom - corner, 0),
        (left + corner, bottom - corner, 90),
        (left + corner, top + corner, 180),
    )
    return np.concatenate([arc((x, y), (corner, corner), angle, angle + 90) for x, y, angle in centers])


def stroke(line: Outline, width: float) -> Outline:
    """A line drawn with a pen: the outline at half the `width` on both of its sides."""
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    return np.concatenate([line + across * (width / 2), (line - across * (width / 2))[::-1]])


def turned(outline: Outline, degrees: float, center: Point) -> Outline:
    """The outline turned clockwise about `center`."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    result: Outline = (outline - center) @ np.array([[cos, sin], [-sin, cos]]) + center
    return result


def shifted(outline: Outline, x: float, y: float) -> Outline:
    """The outline moved by (x, y)."""
    result: Outline = outline + np.array((x, y))
    return result


def flipped(outline: Outline) -> Outline:
    """The outline mirrored about x = 0.5."""
    result: Outline = outline * (-1.0, 1.0) + (1.0, 0.0)
    return result


def line(*points: Point) -> Outline:
    """An open line through the points, for `stroke`."""
    return polygon(*points)


def curve(points: Sequence[Point]) -> Outline:
    """An open line through the first and last point, bent smoothly along those between (quadratic or cubic Bezier)."""
    along = np.linspace(0, 1, ELLIPSE_POINTS)[:, None]
    levels = [np.broadcast_to(np.array(point), (ELLIPSE_POINTS, 2)) for point in points]
    while len(levels) > 1:  # de Casteljau
        levels = [first + along * (second - first) for first, second in pairwise(levels)]
    return np.array(levels[0])


def clipped(outline: Outline) -> Outline:
    """The part of a closed outline inside the unit square, (0, 2) where nothing is (Sutherland and Hodgman, 1974)."""
    for axis in (0, 1):
        for limit, sign in ((0.0, 1.0), (1.0, -1.0)):
            inside = sign * (outline[:, axis] - limit)
            following, after = np.roll(outline, -1, axis=0), np.roll(inside, -1)
            crossing = (inside < 0) != (after < 0)
            share = np.where(crossing, inside, 0) / np.where(crossing, inside - after, 1)
            points = np.stack([outline, outline + share[:, None] * (following - outline)], axis=1)
            outline = points[np.stack([inside >= 0, crossing], axis=1)]
    return outline
