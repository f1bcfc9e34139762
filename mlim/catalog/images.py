"""One source picture -> one square RGB JPEG, or the reason why not. Every byte of a source is untrusted."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from mlim.files import sha256_of

MISSING_IMAGE = "missing-image"
NOT_AN_IMAGE = "not-an-image"
IMAGE_BOMB = "image-bomb"
EMPTY_IMAGE = "empty-image"
OUTSIDE_FOLDER = "outside-folder"

PIXELS_PER_MEGAPIXEL = 1_000_000
THUMBNAIL_SIDE = 96
THUMBNAIL_QUALITY = 80
SIDEWAYS_ORIENTATIONS = range(5, 9)  # EXIF orientations that swap width and height
HIGH_BYTE_SHIFT = 8
# JPEGs are decoded at a reduced scale when that still leaves this many times the pixels that are needed
DECODE_MARGIN = 2


@dataclass(frozen=True)
class ImageRules:
    """Which pictures may be opened, and what they become."""

    folder: Path
    formats: tuple[str, ...]
    max_megapixels: float
    size: int
    quality: int


@dataclass(frozen=True)
class Picture:
    """A picture that was accepted: its square JPEG, the hash of the source file, the upright source size in pixels."""

    jpeg: bytes
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class Refusal:
    """Why a row was set aside: a stable code and one sentence."""

    reason: str
    detail: str


class _RefusedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.refusal = Refusal(reason, detail)
        super().__init__(reason)


def prepare_picture(name: str, rules: ImageRules) -> Picture | Refusal:
    """The picture `name` of the folder, squashed to a square of rules.size as the paper does (section 4.1)."""
    try:
        path = _locate(name, rules.folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _prepare(path, rules)
    except _RefusedError as refused:
        return refused.refusal
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as bomb:
        return Refusal(IMAGE_BOMB, f"{name} is too large to decode safely: {bomb}")
    except OSError as error:
        if error.errno is not None:  # Pillow's own complaints carry no errno
            return Refusal(MISSING_IMAGE, f"{name} cannot be read ({error.strerror})")
        return Refusal(NOT_AN_IMAGE, f"{name} cannot be decoded as one of {', '.join(rules.formats)}: {_brief(error)}")
    except MemoryError:
        raise
    except Exception as error:  # broken files make decoders raise anything (SyntaxError, struct.error, KeyError, ...)
        return Refusal(NOT_AN_IMAGE, f"{name} cannot be decoded: {_brief(error)}")


def thumbnail(name: str, rules: ImageRules) -> bytes | None:
    """A JPEG of at most 96 x 96 pixels of a picture that can be opened, else None."""
    shown = prepare_picture(name, rules)
    if isinstance(shown, Refusal):
        return None
    with Image.open(io.BytesIO(shown.jpeg), formats=["JPEG"]) as square:
        return encode_thumbnail(square, shown.width, shown.height)


def encode_thumbnail(square: Image.Image, width: int, height: int) -> bytes:
    """A JPEG of at most 96 x 96 pixels with the proportions `width` x `height` of the source of a squashed square."""
    scale = min(THUMBNAIL_SIDE, *square.size) / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _jpeg(square.convert("RGB").resize(size, Image.Resampling.LANCZOS), THUMBNAIL_QUALITY)


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any mode as RGB: transparency on white, 16 bits per channel by their high byte (Pillow would clip to white)."""
    if picture.mode.startswith("I"):
        return Image.fromarray((np.asarray(picture) >> HIGH_BYTE_SHIFT).clip(0, 255).astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layered = picture.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")


def _locate(name: str, folder: Path) -> Path:
    """The file `name` inside `folder`; links are followed first, so none of them leads out."""
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL byte, a name too long
        raise _RefusedError(MISSING_IMAGE, f"{name[:200]!r} is no usable path: {error}") from None
    if not path.is_relative_to(folder.resolve()):
        raise _RefusedError(OUTSIDE_FOLDER, f"{name} leads out of the images folder")
    if not path.is_file():
        raise _RefusedError(MISSING_IMAGE, f"{name} is not in the images folder")
    if path.stat().st_size == 0:
        raise _RefusedError(EMPTY_IMAGE, f"{name} is a file of 0 bytes")
    return path


def _prepare(path: Path, rules: ImageRules) -> Picture:
    with Image.open(path, formats=rules.formats) as source:
        width, height = _upright_size(source)
        megapixels = width * height / PIXELS_PER_MEGAPIXEL
        if megapixels > rules.max_megapixels:
            raise _RefusedError(
                IMAGE_BOMB, f"{path.name} has {megapixels:.1f} megapixels; the limit is {rules.max_megapixels:g}"
            )
        source.draft(None, (DECODE_MARGIN * rules.size, DECODE_MARGIN * rules.size))
        upright = to_rgb(ImageOps.exif_transpose(source))
    square = upright.resize((rules.size, rules.size), Image.Resampling.LANCZOS, reducing_gap=DECODE_MARGIN)
    return Picture(_jpeg(square, rules.quality), sha256_of(path), width, height)


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
