"""Shapes of what stands in a home: kitchen, furniture, decoration."""

from mlim.embedded.geometry import arc, box, curve, ellipse, line, mirrored, polygon, soft, stroke, turned
from mlim.embedded.parts import Part, Parts, Tone


def mug() -> Parts:
    """A mug with its handle to the right and coffee in it."""
    handle = stroke(arc((0.68, 0.53), (0.19, 0.17), -90, 90), 0.07)
    body = soft(
        polygon(
            (0.16, 0.24), (0.7, 0.24), (0.7, 0.5), (0.68, 0.74), (0.64, 0.84), (0.22, 0.84), (0.18, 0.74), (0.16, 0.5)
        )
    )
    return (
        Part(handle, Tone.DEEP, 0.025),
        Part(body, puff=0.1),
        Part(ellipse(0.43, 0.26, 0.265, 0.07), Tone.LIGHT, 0.01),
        Part(ellipse(0.43, 0.27, 0.235, 0.052), Tone.DARK, 0.02),
    )


def teapot() -> Parts:
    """A round pot with spout, handle and lid."""
    handle = stroke(arc((0.22, 0.54), (0.13, 0.15), 90, 270), 0.05)
    spout = soft(polygon((0.66, 0.66), (0.8, 0.5), (0.84, 0.34), (0.93, 0.33), (0.95, 0.37), (0.9, 0.56), (0.72, 0.78)))
    lid = soft(mirrored((0.56, 0.26), (0.67, 0.31), (0.69, 0.37), (0.6, 0.39)))
    return (
        Part(handle, Tone.TRIM, 0.02),
        Part(spout, Tone.DEEP, 0.03),
        Part(ellipse(0.5, 0.58, 0.32, 0.26), puff=0.13),
        Part(lid, Tone.TRIM, 0.04),
        Part(ellipse(0.5, 0.24, 0.05, 0.05), Tone.TRIM, 0.025),
        Part(box(0.36, 0.81, 0.64, 0.86, 0.02), Tone.DEEP, 0.015),
    )


def bowl() -> Parts:
    """A deep bowl on a foot, seen slightly from above."""
    body = polygon(*map(tuple, arc((0.5, 0.38), (0.41, 0.45), 0, 180)))
    return (
        Part(box(0.36, 0.78, 0.64, 0.87, 0.025), Tone.TRIM, 0.02),
        Part(body, puff=0.12),
        Part(ellipse(0.5, 0.38, 0.41, 0.11), Tone.LIGHT, 0.01),
        Part(ellipse(0.5, 0.39, 0.375, 0.085), Tone.DEEP, 0.04),
    )


def plate() -> Parts:
    """A dinner plate from above, its well marked by a ring."""
    return (
        Part(ellipse(0.5, 0.5, 0.43, 0.43), Tone.TRIM, 0.02),
        Part(ellipse(0.5, 0.5, 0.4, 0.4), puff=0.05),
        Part(ellipse(0.5, 0.5, 0.27, 0.27), Tone.LIGHT, 0.01),
        Part(ellipse(0.5, 0.5, 0.255, 0.255), puff=0.03),
    )


def bottle() -> Parts:
    """A drinking bottle with a screw cap."""
    body = soft(mirrored((0.58, 0.2), (0.6, 0.27), (0.72, 0.36), (0.72, 0.6), (0.72, 0.93), (0.64, 0.95)))
    return (
        Part(body, puff=0.09),
        Part(box(0.39, 0.07, 0.61, 0.24, 0.025), Tone.DARK),
        Part(box(0.4, 0.22, 0.6, 0.255, 0.012), Tone.METAL, 0.012),
    )


def vase() -> Parts:
    """A bellied vase with a narrow neck."""
    body = soft(
        mirrored((0.66, 0.09), (0.58, 0.16), (0.58, 0.28), (0.84, 0.45), (0.8, 0.72), (0.66, 0.92), (0.6, 0.93))
    )
    return (
        Part(body, puff=0.11),
        Part(ellipse(0.5, 0.12, 0.14, 0.035), Tone.TRIM, 0.01),
        Part(ellipse(0.5, 0.122, 0.11, 0.022), Tone.DARK, 0.01),
    )


def bucket() -> Parts:
    """A pail with a wire handle."""
    body = soft(
        polygon(
            (0.15, 0.33), (0.85, 0.33), (0.83, 0.5), (0.75, 0.88), (0.7, 0.91), (0.3, 0.91), (0.25, 0.88), (0.17, 0.5)
        )
    )
    handle = stroke(arc((0.5, 0.34), (0.35, 0.26), 180, 360), 0.02)
    return (
        Part(handle, Tone.METAL, 0.008),
        Part(body, puff=0.11),
        Part(ellipse(0.5, 0.35, 0.355, 0.085), Tone.TRIM, 0.01),
        Part(ellipse(0.5, 0.36, 0.32, 0.065), Tone.DARK, 0.03),
    )


def lamp() -> Parts:
    """A table lamp: shade, stem, foot."""
    shade = soft(
        polygon(
            (0.3, 0.1), (0.7, 0.1), (0.74, 0.16), (0.88, 0.52), (0.84, 0.55), (0.16, 0.55), (0.12, 0.52), (0.26, 0.16)
        )
    )
    stem = soft(mirrored((0.53, 0.5), (0.53, 0.6), (0.6, 0.7), (0.53, 0.82), (0.53, 0.88)))
    return (
        Part(stem, Tone.TRIM, 0.03),
        Part(ellipse(0.5, 0.89, 0.2, 0.045), Tone.TRIM, 0.02),
        Part(shade, puff=0.1),
        Part(stroke(line((0.15, 0.535), (0.85, 0.535)), 0.025), Tone.TRIM, 0.005),
    )


def armchair() -> Parts:
    """A club chair from the front."""
    legs = [
        Part(polygon((x - 0.03, 0.82), (x + 0.03, 0.82), (x + 0.02, 0.95), (x - 0.02, 0.95)), Tone.WOOD, 0.012)
        for x in (0.22, 0.78)
    ]
    arms = [Part(box(x, 0.44, x + 0.2, 0.86, 0.08), puff=0.06) for x in (0.08, 0.72)]
    return (
        *legs,
        Part(box(0.2, 0.1, 0.8, 0.75, 0.14), puff=0.08),
        Part(box(0.24, 0.66, 0.76, 0.87, 0.03), Tone.DEEP),
        Part(box(0.25, 0.54, 0.75, 0.7, 0.06), puff=0.05),
        *arms,
    )


def sofa() -> Parts:
    """A two-seater from the front."""
    legs = [Part(box(x, 0.74, x + 0.04, 0.84), Tone.WOOD, 0.012) for x in (0.12, 0.84)]
    backs = [Part(box(x, 0.26, x + 0.36, 0.62, 0.06), puff=0.06) for x in (0.14, 0.5)]
    seats = [Part(box(x, 0.53, x + 0.34, 0.66, 0.04), puff=0.04) for x in (0.16, 0.5)]
    arms = [Part(box(x, 0.42, x + 0.13, 0.78, 0.05), puff=0.05) for x in (0.05, 0.82)]
    return *legs, *backs, Part(box(0.14, 0.6, 0.86, 0.78, 0.02), Tone.DEEP), *seats, *arms


def cushion() -> Parts:
    """A square cushion with pointed corners and piping."""
    outline = polygon(
        (0.1, 0.1),
        (0.3, 0.15),
        (0.5, 0.16),
        (0.7, 0.15),
        (0.9, 0.1),
        (0.85, 0.3),
        (0.84, 0.5),
        (0.85, 0.7),
        (0.9, 0.9),
        (0.7, 0.85),
        (0.5, 0.84),
        (0.3, 0.85),
        (0.1, 0.9),
        (0.15, 0.7),
        (0.16, 0.5),
        (0.15, 0.3),
    )
    return Part(outline, Tone.TRIM, 0.02), Part((outline - 0.5) * 0.95 + 0.5, puff=0.13)


def clock() -> Parts:
    """An alarm clock with two bells."""
    bells = [
        Part(turned(polygon(*map(tuple, arc((x, 0.2), (0.13, 0.11), 180, 360))), angle, (x, 0.2)), Tone.TRIM, 0.04)
        for x, angle in ((0.29, -35), (0.71, 35))
    ]
    legs = [
        Part(stroke(line(*ends), 0.05), Tone.METAL, 0.02)
        for ends in (((0.3, 0.8), (0.22, 0.93)), ((0.7, 0.8), (0.78, 0.93)))
    ]
    hands = [
        Part(stroke(line((0.5, 0.54), end), width), Tone.DARK, 0.005)
        for end, width in (((0.5, 0.3), 0.03), ((0.65, 0.62), 0.04))
    ]
    return (
        *bells,
        *legs,
        Part(ellipse(0.5, 0.54, 0.37, 0.37), Tone.METAL, 0.03),
        Part(ellipse(0.5, 0.54, 0.325, 0.325), puff=0.03),
        *hands,
        Part(ellipse(0.5, 0.54, 0.03, 0.03), Tone.DARK, 0.01),
    )


def book() -> Parts:
    """A hardback, turned a little, pages showing below."""
    pages = polygon((0.23, 0.86), (0.27, 0.79), (0.85, 0.79), (0.83, 0.87), (0.83, 0.87))
    return (
        Part(box(0.19, 0.12, 0.83, 0.91, 0.02), Tone.DEEP, 0.01),
        Part(pages, Tone.LIGHT, 0.01),
        Part(box(0.19, 0.09, 0.85, 0.83, 0.02), puff=0.02),
        Part(box(0.17, 0.09, 0.28, 0.91, 0.02), Tone.TRIM, 0.03),
        Part(box(0.4, 0.2, 0.73, 0.34, 0.01), Tone.LIGHT, 0.008),
    )


def gift_box() -> Parts:
    """A storage box seen over its corner, with a lid and a bow."""
    left = polygon((0.1, 0.4), (0.52, 0.5), (0.52, 0.94), (0.12, 0.8))
    right = polygon((0.52, 0.5), (0.9, 0.4), (0.88, 0.8), (0.52, 0.94))
    top = polygon((0.48, 0.24), (0.93, 0.35), (0.52, 0.47), (0.07, 0.35))
    rim = polygon((0.07, 0.35), (0.52, 0.47), (0.93, 0.35), (0.93, 0.45), (0.52, 0.58), (0.07, 0.45))
    loops = [
        Part(
            stroke(curve(((0.5, 0.35), (0.5 + s * 0.25, 0.02), (0.5 + s * 0.36, 0.34), (0.5, 0.35))), 0.04),
            Tone.TRIM,
            0.012,
        )
        for s in (-1, 1)
    ]
    return Part(left), Part(right, Tone.DEEP), Part(rim, Tone.TRIM, 0.015), Part(top, puff=0.02), *loops
