"""Shapes of what is worn: clothes, shoes, things of cloth."""

from mlim.embedded.geometry import arc, box, curve, ellipse, flipped, line, mirrored, polygon, soft, stroke
from mlim.embedded.parts import Part, Parts, Tone


def t_shirt() -> Parts:
    """Short sleeves spread, collar in the second colour."""
    body = mirrored((0.56, 0.2), (0.62, 0.15), (0.72, 0.18), (0.95, 0.36), (0.86, 0.49), (0.73, 0.41), (0.73, 0.86))
    collar = stroke(arc((0.5, 0.15), (0.125, 0.1), 5, 175), 0.035)
    return Part(body), Part(collar, Tone.TRIM, 0.01)


def jumper() -> Parts:
    """Long sleeves hanging, with cuffs, hem and collar."""
    body = mirrored((0.56, 0.17), (0.64, 0.14), (0.78, 0.2), (0.93, 0.72), (0.82, 0.76), (0.72, 0.42), (0.72, 0.84))
    cuff = polygon((0.815, 0.72), (0.925, 0.69), (0.945, 0.76), (0.835, 0.79))
    collar = stroke(arc((0.5, 0.13), (0.135, 0.085), 0, 180), 0.05)
    return (
        Part(body, puff=0.04),
        Part(box(0.27, 0.81, 0.73, 0.88, 0.02), Tone.TRIM),
        Part(collar, Tone.TRIM, 0.015),
        Part(cuff, Tone.TRIM, 0.02),
        Part(flipped(cuff), Tone.TRIM, 0.02),
    )


def dress() -> Parts:
    """Sleeveless, narrow waist with a belt, wide hem."""
    body = mirrored(
        (0.54, 0.24),
        (0.59, 0.1),
        (0.645, 0.1),
        (0.64, 0.24),
        (0.66, 0.32),
        (0.6, 0.46),
        (0.86, 0.88),
        (0.68, 0.92),
        (0.55, 0.93),
    )
    belt = soft(polygon((0.385, 0.435), (0.615, 0.435), (0.625, 0.49), (0.375, 0.49)))
    return Part(body, puff=0.045), Part(belt, Tone.TRIM, 0.015)


def skirt() -> Parts:
    """A flared skirt below a waistband."""
    body = mirrored((0.64, 0.22), (0.88, 0.78), (0.72, 0.83), (0.57, 0.85))
    folds = [Part(stroke(line((0.5 + x, 0.3), (0.5 + 1.7 * x, 0.8)), 0.012), Tone.DEEP, 0.0) for x in (-0.09, 0.09)]
    return Part(body, puff=0.05), *folds, Part(box(0.35, 0.17, 0.65, 0.25, 0.02), Tone.TRIM, 0.015)


def trousers() -> Parts:
    """Two straight legs below a waistband."""
    body = mirrored((0.67, 0.12), (0.75, 0.34), (0.77, 0.91), (0.57, 0.91), (0.515, 0.42), (0.5, 0.4))
    fly = stroke(line((0.5, 0.18), (0.5, 0.38)), 0.012)
    return Part(body), Part(fly, Tone.DEEP, 0.0), Part(box(0.325, 0.09, 0.675, 0.16, 0.015), Tone.TRIM, 0.015)


def apron() -> Parts:
    """Bib, waist ties, and a pocket in the second colour."""
    neck = stroke(arc((0.5, 0.2), (0.12, 0.13), 180, 360), 0.025)
    body = mirrored((0.63, 0.18), (0.64, 0.3), (0.68, 0.38), (0.79, 0.43), (0.79, 0.84), (0.74, 0.9))
    ties = [
        stroke(curve(((0.5 + side * 0.28, 0.46), (0.5 + side * 0.4, 0.46), (0.5 + side * 0.41, 0.6))), 0.025)
        for side in (-1, 1)
    ]
    return (
        Part(neck, Tone.TRIM, 0.01),
        *(Part(tie, Tone.TRIM, 0.01) for tie in ties),
        Part(body, puff=0.02),
        Part(box(0.39, 0.56, 0.61, 0.72, 0.02), Tone.TRIM, 0.01),
    )


def beanie() -> Parts:
    """A knitted dome with a folded edge and a bobble."""
    dome = soft(mirrored((0.53, 0.22), (0.72, 0.25), (0.83, 0.48), (0.84, 0.74)))
    return (
        Part(ellipse(0.5, 0.19, 0.1, 0.1), Tone.LIGHT, 0.05),
        Part(dome, puff=0.09),
        Part(box(0.15, 0.64, 0.85, 0.84, 0.06), Tone.TRIM, 0.05),
    )


def scarf() -> Parts:
    """Laid around a neck: a loop on top, two ends of different length with fringes."""
    ends = ((0.27, 0.86), (0.53, 0.74))
    fringes = [
        Part(
            stroke(line((left + 0.02 + 0.04 * i, bottom), (left + 0.02 + 0.04 * i, bottom + 0.08)), 0.016),
            Tone.TRIM,
            0.004,
        )
        for left, bottom in ends
        for i in range(5)
    ]
    tails = [Part(box(left, 0.34, left + 0.2, bottom, 0.01), puff=0.04) for left, bottom in ends]
    return (
        Part(ellipse(0.5, 0.24, 0.29, 0.17), puff=0.05),
        Part(ellipse(0.5, 0.2, 0.16, 0.08), Tone.DEEP, 0.04),
        *fringes,
        *tails,
        Part(soft(polygon((0.25, 0.26), (0.49, 0.3), (0.5, 0.44), (0.24, 0.42))), puff=0.05),
    )


def mitten() -> Parts:
    """A hand with a thumb above a cuff."""
    hand = soft(
        polygon(
            (0.3, 0.74),
            (0.27, 0.4),
            (0.3, 0.14),
            (0.46, 0.08),
            (0.62, 0.15),
            (0.66, 0.45),
            (0.7, 0.43),
            (0.76, 0.3),
            (0.87, 0.32),
            (0.87, 0.46),
            (0.72, 0.66),
            (0.68, 0.76),
        )
    )
    return Part(hand, puff=0.07), Part(box(0.27, 0.7, 0.71, 0.9, 0.04), Tone.TRIM, 0.04)


def sock() -> Parts:
    """One sock, toe and cuff in the second colour."""
    leg = soft(
        polygon(
            (0.32, 0.1),
            (0.58, 0.1),
            (0.58, 0.34),
            (0.58, 0.52),
            (0.72, 0.62),
            (0.87, 0.7),
            (0.86, 0.86),
            (0.68, 0.89),
            (0.44, 0.8),
            (0.31, 0.7),
            (0.31, 0.42),
        )
    )
    toe = soft(polygon((0.74, 0.64), (0.88, 0.68), (0.89, 0.86), (0.76, 0.9), (0.7, 0.86)))
    return Part(leg, puff=0.06), Part(toe, Tone.TRIM, 0.05), Part(box(0.31, 0.09, 0.59, 0.2, 0.03), Tone.TRIM)


def sneaker() -> Parts:
    """Seen from the side: pale sole, laces, heel and toe caps."""
    upper = soft(
        polygon(
            (0.1, 0.36),
            (0.17, 0.3),
            (0.27, 0.4),
            (0.38, 0.38),
            (0.44, 0.24),
            (0.52, 0.26),
            (0.66, 0.46),
            (0.84, 0.53),
            (0.93, 0.64),
            (0.93, 0.74),
            (0.08, 0.74),
            (0.08, 0.55),
        )
    )
    toe = soft(polygon((0.78, 0.5), (0.94, 0.56), (0.95, 0.76), (0.74, 0.76), (0.74, 0.64)))
    laces = [
        Part(
            stroke(line((0.46 + 0.055 * i, 0.4 + 0.045 * i), (0.55 + 0.05 * i, 0.33 + 0.05 * i)), 0.025),
            Tone.LIGHT,
            0.006,
        )
        for i in range(4)
    ]
    return (
        Part(upper, puff=0.06),
        Part(toe, Tone.TRIM, 0.05),
        *laces,
        Part(box(0.06, 0.7, 0.95, 0.82, 0.05), Tone.LIGHT, 0.03),
    )


def boot() -> Parts:
    """A high boot from the side, dark sole with a heel."""
    upper = soft(
        polygon(
            (0.24, 0.1),
            (0.6, 0.1),
            (0.6, 0.3),
            (0.58, 0.52),
            (0.78, 0.6),
            (0.9, 0.68),
            (0.91, 0.82),
            (0.24, 0.82),
            (0.24, 0.4),
        )
    )
    sole = polygon(
        (0.24, 0.74), (0.9, 0.74), (0.93, 0.79), (0.92, 0.86), (0.5, 0.86), (0.46, 0.84), (0.45, 0.92), (0.24, 0.92)
    )
    return Part(sole, Tone.DARK, 0.02), Part(upper, puff=0.07), Part(box(0.235, 0.09, 0.605, 0.18, 0.03), Tone.TRIM)
