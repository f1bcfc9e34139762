"""One picture's bytes -> one square RGB JPEG with its measures, or the reason why not. Every byte is untrusted."""

import io
import warnings
from dataclasses import dataclass

import cv2
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from mlim.catalog.rejection import RejectedError, Rejection
from mlim.files import sha256_of_bytes
from mlim.pictures.hashes import stored_hash
from mlim.pictures.sniff import picture_format

NOT_AN_IMAGE = "not-an-image"
FORMAT_NOT_ALLOWED = "format-not-allowed"
IMAGE_BOMB = "image-bomb"
TOO_MUCH_MEMORY = "too-much-memory"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXELS_PER_MEGAPIXEL = 1_000_000
THUMBNAIL_SIDE = 96
THUMBNAIL_QUALITY = 80
TURNS = {  # EXIF orientation -> what makes the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = frozenset(TURNS[orientation] for orientation in range(5, 9))  # those that swap width and height
HIGH_BYTE_SHIFT = 8
# JPEGs are decoded at a reduced scale when that still leaves this many times the pixels that are needed
DECODE_MARGIN = 2
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


def prepare_picture(data: bytes, name: str, rules: ImageRules) -> Picture | Rejection:
    """The picture in `data`, squashed to a square of rules.size as the paper does (section 4.1).

    `name` is its name in a rejection.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders warn about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _prepare(data, name, rules)
    except RejectedError as rejected:
        return rejected.rejection
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as bomb:
        return Rejection(IMAGE_BOMB, f"{name} is too large to decode safely: {bomb}")
    except (MemoryError, cv2.error):  # OpenCV only sees pixels that were decoded, and can only lack memory for more
        return Rejection(TOO_MUCH_MEMORY, f"{name} needs more memory to decode than ingest.decode_memory_mb allows")
    except UnidentifiedImageError as error:
        return _unidentified(data, name, rules, error)
    except OSError as error:
        return Rejection(
            NOT_AN_IMAGE, f"{name} cannot be decoded as one of {', '.join(rules.formats)}: {_brief(error)}"
        )
    except Exception as error:  # broken files make decoders raise anything (SyntaxError, struct.error, KeyError, ...)
        return Rejection(NOT_AN_IMAGE, f"{name} cannot be decoded: {_brief(error)}")


def allow_metadata(most_bytes: int) -> None:
    """Let the texts and the colour profile of a PNG unpack to so many bytes, in this process.

    For processes whose memory is limited. Elsewhere Pillow's limit for all texts of a file holds (64 MiB).
    """
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = most_bytes


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
    thumbnail = square.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    target = io.BytesIO()
    thumbnail.save(target, "JPEG", quality=THUMBNAIL_QUALITY)
    return target.getvalue()


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


def turned_upright(picture: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation; itself where it is upright, or its EXIF cannot be read.

    Pillow's `exif_transpose` writes the EXIF again, which fails on values that readers accept.
    """
    turn = _turn(picture)
    return picture if turn is None else picture.transpose(turn)


def _opened(data: bytes, rules: ImageRules) -> Image.Image:
    """The picture, its pixels not read yet; a PNG also where the checksum of a text, a profile or a date is wrong."""
    try:
        return Image.open(io.BytesIO(data), formats=rules.formats)
    except UnidentifiedImageError:
        if not data.startswith(PNG_SIGNATURE):
            raise
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:  # Pillow has one switch for this and for pixels that are cut off, which stay rejected: they are read later
        return Image.open(io.BytesIO(data), formats=rules.formats)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _prepare(data: bytes, name: str, rules: ImageRules) -> Picture:
    # Pillow's limit for one text (1 MiB) is far below its limit for all of a file: profiles and edits are larger
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    with _opened(data, rules) as source:
        width, height = source.size
        megapixels = width * height / PIXELS_PER_MEGAPIXEL
        if megapixels > rules.max_megapixels:
            raise RejectedError(
                IMAGE_BOMB, f"{name} has {megapixels:.1f} megapixels; the limit is {rules.max_megapixels:g}"
            )
        source.draft(None, (DECODE_MARGIN * rules.size, DECODE_MARGIN * rules.size))
        source.load()
        if _turn(source) in SIDEWAYS:
            width, height = height, width
        upright = to_rgb(turned_upright(source))
        jpeg = _squashed_jpeg(np.asarray(upright), rules.size, rules.quality)
        grey = upright.convert("L")
    brightness, contrast = _levels(grey)
    return Picture(
        jpeg=jpeg,
        sha256=sha256_of_bytes(data),
        width=width,
        height=height,
        hash=stored_hash(grey),
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


def _turn(picture: Image.Image) -> Image.Transpose | None:
    """What makes a loaded picture upright (a PNG may tell it last); None where nothing does."""
    try:
        return TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken EXIF makes its readers raise anything
        return None


def _unidentified(data: bytes, name: str, rules: ImageRules, error: UnidentifiedImageError) -> Rejection:
    """Bytes in which no allowed format was recognised: a picture of another one, or no picture at all."""
    allowed = ", ".join(rules.formats)
    found = picture_format(data)
    if found is None or found in rules.formats:
        return Rejection(NOT_AN_IMAGE, f"{name} cannot be decoded as one of {allowed}: {_brief(error)}")
    article = "an" if found.startswith("A") else "a"
    return Rejection(FORMAT_NOT_ALLOWED, f"{name} is {article} {found}; ingest.formats allows {allowed}")


def _brief(error: Exception) -> str:
    """The message without what differs from run to run: Pillow prints the addresses of file objects."""
    text = str(error).partition(" <")[0] or type(error).__name__
    return text.splitlines()[0]
