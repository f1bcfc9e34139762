"""Shapes of what is carried and played with: bags, umbrellas, instruments, sports."""

from mlim.embedded.geometry import (
    arc,
    box,
    curve,
    ellipse,
    line,
    mirrored,
    polygon,
    shifted,
    soft,
    stroke,
    turned,
)
from mlim.embedded.parts import Part, Parts, Tone


def backpack() -> Parts:
    """Seen from the front: a handle, a big pocket with a zip, side straps."""
    straps = [
        Part(stroke(curve(((0.5 + s * 0.2, 0.3), (0.5 + s * 0.42, 0.4), (0.5 + s * 0.29, 0.8))), 0.06), Tone.TRIM)
        for s in (-1, 1)
    ]
    pocket = box(0.29, 0.5, 0.71, 0.82, 0.07)
    return (
        *straps,
        Part(stroke(arc((0.5, 0.17), (0.09, 0.09), 180, 360), 0.035), Tone.TRIM, 0.01),
        Part(box(0.21, 0.13, 0.79, 0.89, 0.16), puff=0.08),
        Part(shifted(pocket, 0, 0.008), Tone.DEEP),
        Part(pocket, puff=0.04),
        Part(stroke(line((0.32, 0.57), (0.68, 0.57)), 0.018), Tone.METAL, 0.006),
    )


def handbag() -> Parts:
    """A trapezoid with two handles, a flap in the second colour and a clasp."""
    handle = stroke(arc((0.5, 0.42), (0.2, 0.28), 180, 360), 0.04)
    body = soft(mirrored((0.7, 0.36), (0.76, 0.37), (0.87, 0.84), (0.8, 0.87)))
    flap = soft(mirrored((0.7, 0.36), (0.765, 0.37), (0.77, 0.46), (0.58, 0.55)))
    return (
        Part(handle, Tone.TRIM, 0.012),
        Part(body, puff=0.06),
        Part(flap, Tone.TRIM, 0.03),
        Part(box(0.46, 0.5, 0.54, 0.57, 0.015), Tone.METAL, 0.015),
    )


def suitcase() -> Parts:
    """A standing case with a pulled-out handle and wheels."""
    rails = stroke(line((0.39, 0.3), (0.39, 0.09), (0.61, 0.09), (0.61, 0.3)), 0.025)
    wheels = [Part(ellipse(x, 0.9, 0.045, 0.05), Tone.DARK, 0.02) for x in (0.3, 0.7)]
    corners = [Part(ellipse(x, y, 0.055, 0.05), Tone.TRIM, 0.02) for x in (0.255, 0.745) for y in (0.295, 0.845)]
    return (
        Part(rails, Tone.METAL, 0.01),
        *wheels,
        Part(box(0.22, 0.26, 0.78, 0.88, 0.07), puff=0.05),
        *corners,
        Part(box(0.42, 0.24, 0.58, 0.285, 0.015), Tone.DARK, 0.01),
    )


def umbrella() -> Parts:
    """Open, from the side: a scalloped canopy over a shaft with a bent handle."""
    shaft = stroke(line((0.5, 0.1), (0.5, 0.82)), 0.022)
    hook = stroke(arc((0.44, 0.82), (0.06, 0.08), 0, 170), 0.035)
    scallops = [arc((0.92 - 0.14 * (2 * i + 1), 0.52), (0.14, 0.05), 0, -180) for i in range(3)]
    canopy = polygon(*map(tuple, arc((0.5, 0.53), (0.42, 0.4), 180, 360)), *(tuple(p) for s in scallops for p in s))
    ribs = [
        Part(stroke(curve(((0.5, 0.13), (0.5 + x, 0.2), (0.5 + x, 0.5))), 0.01), Tone.DEEP, 0.0) for x in (-0.14, 0.14)
    ]
    return Part(shaft, Tone.METAL, 0.008), Part(hook, Tone.WOOD, 0.012), Part(canopy, puff=0.08), *ribs


def guitar() -> Parts:
    """Upright: a waisted body, sound hole, long neck."""
    body = soft(mirrored((0.52, 0.4), (0.66, 0.41), (0.68, 0.54), (0.64, 0.6), (0.8, 0.68), (0.77, 0.9), (0.56, 0.94)))
    pegs = [Part(ellipse(x, y, 0.022, 0.014), Tone.METAL, 0.008) for x in (0.43, 0.57) for y in (0.08, 0.12)]
    return (
        Part(body, puff=0.04),
        Part(ellipse(0.5, 0.62, 0.085, 0.075), Tone.DARK, 0.01),
        Part(box(0.465, 0.14, 0.535, 0.58), Tone.WOOD, 0.012),
        *pegs,
        Part(box(0.45, 0.05, 0.55, 0.15, 0.015), Tone.WOOD, 0.012),
        Part(box(0.42, 0.79, 0.58, 0.82, 0.01), Tone.DARK, 0.008),
        *(Part(stroke(line((x, 0.12), (x, 0.8)), 0.006), Tone.LIGHT, 0.0) for x in (0.485, 0.5, 0.515)),
    )


def surfboard() -> Parts:
    """A pointed board, leaning, with a stringer and a fin."""
    board = soft(mirrored((0.51, 0.03), (0.62, 0.12), (0.69, 0.4), (0.68, 0.7), (0.6, 0.92), (0.54, 0.95)))
    stringer = stroke(line((0.5, 0.07), (0.5, 0.93)), 0.02)
    parts = (
        Part(board, puff=0.06),
        Part(stringer, Tone.TRIM, 0.004),
        Part(ellipse(0.5, 0.86, 0.03, 0.05), Tone.DARK, 0.01),
    )
    return tuple(part._replace(outline=turned(part.outline, 14, (0.5, 0.5))) for part in parts)


def kite() -> Parts:
    """A diamond with crossed sticks and a tail with bows."""
    tail = stroke(curve(((0.5, 0.7), (0.3, 0.86), (0.72, 0.84), (0.6, 0.97))), 0.012)
    bows = [
        Part(
            turned(
                polygon((x - 0.045, y - 0.028), (x + 0.045, y + 0.028), (x + 0.045, y - 0.028), (x - 0.045, y + 0.028)),
                angle,
                (x, y),
            ),
            Tone.TRIM,
            0.006,
        )
        for x, y, angle in ((0.455, 0.8, 20), (0.575, 0.885, 60))
    ]
    sail = polygon((0.5, 0.05), (0.84, 0.33), (0.5, 0.74), (0.16, 0.33))
    sticks = [
        Part(stroke(line(*points), 0.014), Tone.WOOD, 0.004)
        for points in (((0.5, 0.06), (0.5, 0.73)), ((0.17, 0.33), (0.83, 0.33)))
    ]
    return Part(tail, Tone.DARK, 0.004), *bows, Part(sail, puff=0.04), *sticks


def tent() -> Parts:
    """A ridge tent from the front: an open flap, guy ropes."""
    ropes = [Part(stroke(line((0.5, 0.2), (x, 0.84)), 0.01), Tone.DARK, 0.0) for x in (0.04, 0.96)]
    side = polygon((0.44, 0.18), (0.8, 0.24), (0.94, 0.8), (0.7, 0.84))
    front = polygon((0.44, 0.17), (0.76, 0.84), (0.1, 0.84))
    opening = polygon((0.44, 0.36), (0.57, 0.84), (0.31, 0.84))
    flap = soft(polygon((0.44, 0.34), (0.45, 0.5), (0.36, 0.84), (0.28, 0.84)))
    return *ropes, Part(side, Tone.DEEP), Part(front), Part(opening, Tone.DARK, 0.01), Part(flap, Tone.TRIM, 0.02)
