"""Generate a real image from real inputs, so that an edit can be seen and told from another.

The same order gives the same bytes: everything that looks like chance is drawn from a seed over
the prompt, the bytes of the inputs and the settings.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from comfyline.sandbox.backdrops import backdrop, mentions, names_a_place
from comfyline.sandbox.store import Unfulfillable

EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
"""The output formats, each with the extension of its files."""

_STAGE = 768
_WIDEST = 8.0
_MASK = 160

_TINTS = (
    (("warm", "sunset", "sunrise", "golden", "autumn", "cosy", "cozy"), (255, 168, 84), 0.6),
    (("cold", "cool", "winter", "snow", "night", "ice"), (84, 140, 230), 0.6),
    (("daylight", "bright", "soft light", "sunny", "morning"), (255, 240, 214), 0.22),
)
_GREY = ("black and white", "black-and-white", "monochrome", "b&w", "noir")
_FADED = ("vintage", "retro", "sepia", "old photo", "film look")


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """What is to be made. `pictures` are local files; the first one is the subject."""

    prompt: str
    pictures: tuple[Path, ...] = ()
    aspect_ratio: str = "auto"
    resolution: str = "1K"
    output_format: str = "png"
    seed: bytes = b""
    is_blank: bool = False
    pixels: int = 1024


def frame_size(
    aspect_ratio: str, resolution: str, natural: tuple[int, int] | None, pixels: int = 1024
) -> tuple[int, int]:
    """Compute the size: `auto` and unknown words take the ratio of the input, else a square."""
    ratio = natural[0] / natural[1] if natural else 1.0
    if (parts := re.fullmatch(r"(\d+):(\d+)", aspect_ratio)) and "0" not in parts.groups():
        ratio = int(parts[1]) / int(parts[2])
    ratio = min(_WIDEST, max(1 / _WIDEST, ratio))
    known = re.fullmatch(r"(\d+(?:\.\d+)?)K", resolution)
    long = round(pixels * min(4.0, max(0.25, float(known[1])))) if known else pixels
    return (long, round(long / ratio)) if ratio >= 1 else (round(long * ratio), long)


def generate_image(order: ImageOrder, target: Path) -> None:
    """Make the picture of an order. Raises `Unfulfillable` for an input that is none."""
    photos = [read_picture(path) for path in order.pictures]
    natural = photos[0].size if photos else None
    size = frame_size(order.aspect_ratio, order.resolution, natural, order.pixels)
    if order.is_blank:
        _write(Image.new("RGB", size, (127, 127, 127)), order.output_format, target)
        return
    rng = Random(order.seed)  # noqa: S311 - a seed for a picture, not a secret
    picture = _graded(_compose(order.prompt, photos, size, rng), order.prompt)
    _caption(picture, order.prompt)
    _write(picture, order.output_format, target)


def still(
    photo: Image.Image | None, prompt: str, size: tuple[int, int], rng: Random
) -> Image.Image:
    """Generate one without a caption: the photo in the mood of the prompt, else its backdrop."""
    if photo is None:
        return _graded(_compose(prompt, [], size, rng), prompt)
    return _graded(ImageOps.fit(photo, size, Image.Resampling.BICUBIC), prompt)


def _graded(picture: Image.Image, prompt: str) -> Image.Image:
    for words, colour, strength in _TINTS:
        if mentions(prompt, words):
            layer = ImageChops.soft_light(picture, Image.new("RGB", picture.size, colour))
            picture = Image.blend(picture, layer, strength)
    grey = ImageOps.grayscale(picture)
    if mentions(prompt, _GREY):
        return ImageOps.autocontrast(grey, cutoff=1).convert("RGB")
    if mentions(prompt, _FADED):
        faded = ImageOps.colorize(grey, "#2b1d14", "#f6e7c8", mid="#a27c56")
        return Image.blend(picture, faded, 0.75)
    return picture


def _keeps_subject(prompt: str) -> bool:
    """Tell whether the subject gets a new backdrop: not where a style alone is named."""
    styles = (_GREY, _FADED, *(words for words, *_ in _TINTS))
    return names_a_place(prompt) or not any(mentions(prompt, words) for words in styles)


def read_picture(path: Path) -> Image.Image:
    """Open a submitted picture as it is meant to be seen. Raises Unfulfillable."""
    try:
        with Image.open(path) as photo:
            return ImageOps.exif_transpose(photo).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow reports broken PNG chunks as a SyntaxError.
        raise Unfulfillable("an input is no picture that can be read") from error


def _compose(
    prompt: str, photos: list[Image.Image], size: tuple[int, int], rng: Random
) -> Image.Image:
    if photos and not _keeps_subject(prompt):
        return ImageOps.fit(photos[0], size, Image.Resampling.LANCZOS)
    scale = min(1.0, _STAGE / max(size))
    stage = backdrop(prompt, (max(8, round(size[0] * scale)), max(8, round(size[1] * scale))), rng)
    if rng.random() < 0.5:  # noqa: PLR2004 - a coin
        stage = ImageOps.mirror(stage)
    picture = stage.resize(size, Image.Resampling.BICUBIC)
    if photos:
        _place_subject(picture, photos[0], rng)
    for number, photo in enumerate(photos[1:6]):
        _pin(picture, photo, number)
    return picture


def _place_subject(backdrop: Image.Image, photo: Image.Image, rng: Random) -> None:
    """Stand the subject at the lower edge, lit by the backdrop and with a shadow behind it."""
    width, height = backdrop.size
    tall = height * rng.uniform(0.86, 0.92)
    # A photo that is much wider than the frame may lose its sides, not its middle.
    factor = min(tall / photo.height, 1.4 * width / photo.width)
    subject = photo.resize(
        (max(1, round(photo.width * factor)), max(1, round(photo.height * factor))),
        Image.Resampling.LANCZOS,
    )
    mask = _subject_mask(photo).resize(subject.size, Image.Resampling.BICUBIC)
    light = backdrop.resize((1, 1), Image.Resampling.BOX).resize(subject.size)
    subject = Image.blend(subject, ImageChops.soft_light(subject, light), 0.55)
    place = (
        (width - subject.width) // 2 + round(width * rng.uniform(-0.04, 0.04)),
        height - subject.height,
    )
    # Blurred small: a shadow needs no detail, and a wide blur of a 4K mask is slow.
    small = mask.resize((_MASK, _MASK)).filter(ImageFilter.GaussianBlur(5))
    shadow = small.point([v * 2 // 5 for v in range(256)]).resize(subject.size)
    offset = (place[0] + round(width * 0.015), place[1] + round(height * 0.02))
    backdrop.paste(Image.new("RGB", subject.size, (24, 20, 18)), offset, shadow)
    backdrop.paste(subject, place, mask)


def _subject_mask(photo: Image.Image) -> Image.Image:
    """Guess the subject: colours that are frequent in the middle and rare at the rim."""
    small = photo.resize((_MASK, _MASK), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1))
    palette = small.quantize(32, dither=Image.Dither.NONE)
    colours = Image.frombytes("L", palette.size, palette.tobytes())
    middle, rim = Image.new("L", colours.size, 0), Image.new("L", colours.size, 255)
    ImageDraw.Draw(middle).ellipse((_MASK * 0.24, _MASK * 0.2, _MASK * 0.76, _MASK * 0.9), fill=255)
    ImageDraw.Draw(rim).rectangle((_MASK * 0.1, _MASK * 0.1, _MASK * 0.9, _MASK), fill=0)
    inside, outside = colours.histogram(middle), colours.histogram(rim)
    all_inside, all_outside = max(1, sum(inside)), max(1, sum(outside))
    likely = []
    for here, there in zip(inside, outside, strict=True):
        a, b = here / all_inside, there / all_outside
        likely.append(round(255 * a / (a + b)) if a + b > 0 else 0)
    by_colour = colours.point(likely).filter(ImageFilter.MedianFilter(5))
    # Grown and shrunk again, which closes holes: a dark visor, the coffee in the cup.
    by_colour = by_colour.filter(ImageFilter.MaxFilter(9)).filter(ImageFilter.MinFilter(9))
    by_colour = by_colour.filter(ImageFilter.GaussianBlur(2.5))
    # An egg around the middle that reaches the lower edge, for subjects stand on something.
    fade = ImageOps.invert(Image.radial_gradient("L")).resize((_MASK, round(_MASK * 1.5)))
    by_place = fade.crop((0, round(_MASK * 0.2), _MASK, round(_MASK * 1.2)))
    summed = ImageChops.add(by_colour, by_place, scale=2)
    steep = summed.point([_clamp((value - 100) * 5.5) for value in range(256)])
    # No straight edge of the photo may show, only the lower one, which lies on the frame's.
    rimless = Image.new("L", summed.size, 0)
    ImageDraw.Draw(rimless).rectangle((_MASK * 0.1, _MASK * 0.1, _MASK * 0.9, _MASK * 2), fill=255)
    rimless = rimless.filter(ImageFilter.GaussianBlur(_MASK * 0.035))
    egg = by_place.point([_clamp((value - 84) * 7) for value in range(256)])
    return ImageChops.multiply(
        steep.filter(ImageFilter.GaussianBlur(2)), ImageChops.darker(rimless, egg)
    )


def _clamp(value: float) -> int:
    return max(0, min(255, round(value)))


def _pin(backdrop: Image.Image, photo: Image.Image, number: int) -> None:
    """Pin a further input as a small print to the upper edge."""
    side = round(min(backdrop.size) * 0.18)
    rim = max(2, side // 24)
    sheet = ImageOps.expand(ImageOps.fit(photo, (side, side)), rim, fill=(250, 248, 242))
    step = side + 4 * rim
    backdrop.paste(sheet, (backdrop.width - step * (number + 1), 3 * rim))


def _caption(picture: Image.Image, prompt: str) -> None:
    """Write the prompt into a dark strip at the lower edge, cut where it does not fit."""
    width, height = picture.size
    letter = max(9, round(math.sqrt(width * height) * 0.021))
    strip = round(letter * 2.1)
    below = picture.crop((0, height - strip, width, height))
    picture.paste(
        Image.blend(below, Image.new("RGB", below.size, (16, 16, 20)), 0.68), (0, height - strip)
    )
    font = ImageFont.load_default(size=letter)
    draw = ImageDraw.Draw(picture)
    text = " ".join(prompt.split())[:400]
    room = width - 2 * letter
    if draw.textlength(text, font=font) > room:
        while text and draw.textlength(text + "…", font=font) > room:
            text = text[:-1]
        text = text.rstrip() + "…"
    draw.text((letter, height - strip / 2), text, font=font, fill=(244, 242, 236), anchor="lm")


def _write(picture: Image.Image, output_format: str, target: Path) -> None:
    match output_format:
        case "jpeg":
            picture.save(target, "JPEG", quality=90)
        case "webp":
            picture.save(target, "WEBP", quality=88, method=2)
        case _:
            # Level 3: a third larger than level 9, and five times as fast.
            picture.save(target, "PNG", compress_level=3)
