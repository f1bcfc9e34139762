"""One picture's bytes -> one square RGB JPEG with its measures, or the reason why not. Every byte is untrusted."""

import io
import warnings
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from mlim.catalog.refusal import Refusal, RefusedError
from mlim.files import sha256_of_bytes

NOT_AN_IMAGE = "not-an-image"
IMAGE_BOMB = "image-bomb"
TOO_MUCH_MEMORY = "too-much-memory"

PIXELS_PER_MEGAPIXEL = 1_000_000
THUMBNAIL_SIDE = 96
THUMBNAIL_QUALITY = 80
SIDEWAYS_ORIENTATIONS = range(5, 9)  # EXIF orientations that swap width and height
HIGH_BYTE_SHIFT = 8
# JPEGs are decoded at a reduced scale when that still leaves this many times the pixels that are needed
DECODE_MARGIN = 2
HASH_CELLS, HASH_SIDE = 32, 8  # the perceptual hash: 8 x 8 frequencies of 32 x 32 grey cells
HASH_MIDDLE = slice(HASH_SIDE**2 // 2 - 1, HASH_SIDE**2 // 2 + 1)  # the two ranks between which the median lies
WHITE = 255
_LEVELS = np.arange(WHITE + 1) / WHITE
DECIMALS = 4


@dataclass(frozen=True)
class ImageRules:
    """Which pictures may be opened, and what they become."""

    formats: tuple[str, ...]
    max_megapixels: float
    size: int
    quality: int


@dataclass(frozen=True)
class Picture:
    """A picture that was accepted: its square JPEG, the hash of the source bytes, the upright source size in pixels.

    `hash` is perceptual (16 hexadecimal digits; few differing bits: nearly the same picture); `brightness` in [0, 1]
    and `contrast` in [0, 0.5] are mean and standard deviation of its grey levels.
    """

    jpeg: bytes
    sha256: str
    width: int
    height: int
    hash: str
    brightness: float
    contrast: float


def prepare_picture(data: bytes, name: str, rules: ImageRules) -> Picture | Refusal:
    """The picture in `data`, squashed to a square of rules.size as the paper does (section 4.1).

    `name` is how a refusal speaks of it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders chatter about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _prepare(data, name, rules)
    except RefusedError as refused:
        return refused.refusal
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as bomb:
        return Refusal(IMAGE_BOMB, f"{name} is too large to decode safely: {bomb}")
    except (MemoryError, cv2.error):  # OpenCV only sees pixels that were decoded, and can only lack memory for more
        return Refusal(TOO_MUCH_MEMORY, f"{name} needs more memory to decode than ingest.decode_memory_mb allows")
    except OSError as error:
        return Refusal(NOT_AN_IMAGE, f"{name} cannot be decoded as one of {', '.join(rules.formats)}: {_brief(error)}")
    except Exception as error:  # broken files make decoders raise anything (SyntaxError, struct.error, KeyError, ...)
        return Refusal(NOT_AN_IMAGE, f"{name} cannot be decoded: {_brief(error)}")


def library_versions() -> tuple[str, ...]:
    """Of the libraries that decide a picture's bytes."""
    return PIL.__version__, cv2.__version__


def use_one_thread() -> None:
    """Keep OpenCV to the thread that calls it: for processes of which there is one for each core."""
    cv2.setNumThreads(1)


def thumbnail_of(picture: Picture) -> bytes:
    """A JPEG of at most 96 x 96 pixels with the proportions of the source."""
    with Image.open(io.BytesIO(picture.jpeg), formats=["JPEG"]) as square:
        return encode_thumbnail(square, picture.width, picture.height)


def encode_thumbnail(square: Image.Image, width: int, height: int) -> bytes:
    """A JPEG of at most 96 x 96 pixels with the proportions `width` x `height` of the source of a squashed square."""
    scale = min(THUMBNAIL_SIDE, *square.size) / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _jpeg(square.convert("RGB").resize(size, Image.Resampling.LANCZOS), THUMBNAIL_QUALITY)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode as RGB: transparency on white, 16 bits per channel by their high byte (Pillow would clip to white).

    The picture itself, and no copy of it, where it is RGB already.
    """
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> HIGH_BYTE_SHIFT).clip(0, 255).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layered = picture.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")


def _prepare(data: bytes, name: str, rules: ImageRules) -> Picture:
    with Image.open(io.BytesIO(data), formats=rules.formats) as source:
        width, height = _upright_size(source)
        megapixels = width * height / PIXELS_PER_MEGAPIXEL
        if megapixels > rules.max_megapixels:
            raise RefusedError(
                IMAGE_BOMB, f"{name} has {megapixels:.1f} megapixels; the limit is {rules.max_megapixels:g}"
            )
        source.draft(None, (DECODE_MARGIN * rules.size, DECODE_MARGIN * rules.size))
        ImageOps.exif_transpose(source, in_place=True)
        upright = to_rgb(source)
        jpeg = _squashed_jpeg(np.asarray(upright), rules.size, rules.quality)
        grey = upright.convert("L")
    brightness, contrast = _levels(grey)
    return Picture(
        jpeg=jpeg,
        sha256=sha256_of_bytes(data),
        width=width,
        height=height,
        hash=_perceptual_hash(grey),
        brightness=brightness,
        contrast=contrast,
    )


def _squashed_jpeg(pixels: NDArray[np.uint8], side: int, quality: int) -> bytes:
    """RGB pixels (H, W, 3) as a JPEG of side x side: areas' means where a side shrinks, linear where it grows.

    By OpenCV's exact kernel, whose bytes do not depend on the processor's instructions; Pillow takes several times as
    long.
    """
    height, width = pixels.shape[:2]
    shrunk = cv2.resize(pixels, (min(width, side), min(height, side)), interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(shrunk, cv2.COLOR_RGB2BGR)
    square = cv2.resize(bgr, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
    _, encoded = cv2.imencode(".jpg", square, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def _levels(grey: Image.Image) -> tuple[float, float]:
    """Mean and standard deviation of the grey levels over all pixels, as shares of white."""
    counts = np.asarray(grey.histogram(), dtype=np.float64)
    shares = counts / counts.sum()
    mean = float(_LEVELS @ shares)
    variance = float((_LEVELS - mean) ** 2 @ shares)
    return round(mean, DECIMALS), round(variance**0.5, DECIMALS)


def _perceptual_hash(grey: Image.Image) -> str:
    """64 bits as hexadecimal: which of the 8 x 8 lowest frequencies lie above their median.

    As imagehash's `phash` (C. Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), but
    over box means, which cost less than half and see every pixel.
    """
    cells = np.asarray(grey.resize((HASH_CELLS, HASH_CELLS), Image.Resampling.BOX), dtype=np.float64)
    basis = _cosines()
    low = basis @ cells @ basis.T
    below, above = np.sort(low, axis=None)[HASH_MIDDLE]  # np.median takes longer than the transform
    return np.packbits(low > (below + above) / 2).tobytes().hex()


@cache
def _cosines() -> NDArray[np.float64]:
    """The lowest basis vectors of the discrete cosine transform (HASH_SIDE, HASH_CELLS)."""
    frequencies, places = np.arange(HASH_SIDE)[:, None], np.arange(HASH_CELLS)[None, :]
    return np.cos(np.pi * frequencies * (2 * places + 1) / (2 * HASH_CELLS))


def _upright_size(source: Image.Image) -> tuple[int, int]:
    sideways = source.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS_ORIENTATIONS
    return (source.height, source.width) if sideways else source.size


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality)
    return target.getvalue()


def _brief(error: Exception) -> str:
    """The message without what differs from run to run: Pillow prints the addresses of file objects."""
    text = str(error).partition(" <")[0] or type(error).__name__
    return text.splitlines()[0]
