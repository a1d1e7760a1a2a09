"""Draw the backdrops of images: an office, or light and ground in the colours of a place.

A backdrop is drawn on a small stage, out of focus, and enlarged by the image generator, so its
cost does not grow with the resolution. All chance comes from the `Random` that is handed in.
"""

import re
from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Palette:
    """The colours of a place: its sky and its ground from top to bottom, and its lights."""

    sky: tuple[Colour, Colour]
    ground: tuple[Colour, Colour]
    light: Colour
    horizon: float = 0.68


_OFFICE = ("office", "workplace", "meeting room", "desk", "办公")
_PLACES: tuple[tuple[tuple[str, ...], Palette], ...] = (
    (
        ("beach", "sea", "ocean", "island", "summer", "沙滩", "海"),
        Palette(((88, 170, 232), (120, 210, 210)), ((244, 222, 172), (220, 184, 126)), (255,) * 3),
    ),
    (
        ("snow", "winter", "ice", "christmas", "雪"),
        Palette(((168, 194, 222), (226, 234, 244)), ((236, 241, 248), (250, 251, 253)), (255,) * 3),
    ),
    (
        ("forest", "wood", "woods", "jungle", "garden", "park", "森林"),
        Palette(((150, 190, 110), (58, 88, 48)), ((92, 112, 52), (56, 62, 34)), (250, 246, 190)),
    ),
    (
        ("sunset", "sunrise", "dusk", "golden hour", "desert", "日落"),
        Palette(((72, 44, 116), (255, 148, 74)), ((104, 48, 82), (58, 30, 60)), (255, 196, 96)),
    ),
    (
        ("night", "neon", "cyberpunk", "midnight", "夜"),
        Palette(((8, 12, 38), (38, 42, 92)), ((30, 30, 58), (12, 12, 28)), (255, 190, 92), 0.8),
    ),
    (
        ("city", "street", "town", "urban", "城市"),
        Palette(
            ((122, 178, 226), (176, 190, 202)), ((146, 146, 148), (92, 92, 98)), (232, 240, 244)
        ),
    ),
    (
        ("studio", "plain", "product shot", "white background", "摄影棚"),
        Palette(
            ((118, 116, 112), (206, 202, 196)),
            ((206, 202, 196), (188, 184, 178)),
            (252, 250, 246),
            0.8,
        ),
    ),
)


def names_a_place(prompt: str) -> bool:
    """Tell whether a prompt asks for a place that there is a backdrop for."""
    return mentions(prompt, _OFFICE) or _palette(prompt) is not None


def backdrop(prompt: str, size: tuple[int, int], rng: Random) -> Image.Image:
    """Draw the backdrop that a prompt asks for; without a place, colours that chance chooses."""
    if mentions(prompt, _OFFICE):
        return _office(size, rng)
    return _lights(_palette(prompt) or _any_palette(rng), size, rng)


def mentions(prompt: str, words: tuple[str, ...]) -> bool:
    """Tell whether one of these words stands in a prompt."""
    # Chinese writes no spaces, so its words cannot be bounded.
    patterns = (
        re.escape(word) if not word.isascii() else rf"(?<![a-z]){re.escape(word)}(?![a-z])"
        for word in words
    )
    return any(re.search(pattern, prompt.lower()) for pattern in patterns)


def gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    """Run from one colour down to another."""
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)


def _palette(prompt: str) -> Palette | None:
    return next((palette for words, palette in _PLACES if mentions(prompt, words)), None)


def _any_palette(rng: Random) -> Palette:
    def tone(low: int, high: int) -> Colour:
        return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)

    return Palette((tone(20, 140), tone(90, 220)), (tone(60, 160), tone(20, 90)), tone(170, 255))


def _lights(palette: Palette, size: tuple[int, int], rng: Random) -> Image.Image:
    width, height = size
    stage = gradient(size, *palette.sky)
    horizon = round(height * palette.horizon)
    stage.paste(gradient((width, height - horizon), *palette.ground), (0, horizon))
    draw = ImageDraw.Draw(stage)
    for _ in range(9):
        x, wide = width * rng.random(), width * rng.uniform(0.04, 0.14)
        tone = _between(*palette.sky, rng.uniform(0.3, 1))
        draw.rectangle((x, horizon - height * rng.uniform(0.04, 0.3), x + wide, horizon), fill=tone)
    stage = _soften(stage, 9)
    for _ in range(16):
        at = (rng.random(), rng.uniform(0, palette.horizon))
        _glow(stage, at, rng.uniform(0.03, 0.2), palette.light, rng.uniform(0.2, 0.6))
    return stage


def _office(size: tuple[int, int], rng: Random) -> Image.Image:
    """Draw a bright room: a wide window over a town, shelves, the edge of a desk."""
    width, height = size
    stage = gradient(size, (206, 204, 200), (176, 168, 158))
    draw = ImageDraw.Draw(stage)
    left, right = width * rng.uniform(0.04, 0.08), width * rng.uniform(0.6, 0.66)
    top, sill = height * 0.06, height * 0.66
    view = gradient((int(right - left), int(sill - top)), (128, 180, 228), (226, 236, 244))
    stage.paste(view, (int(left), int(top)))
    x = left
    while x < right:
        house = min(x + (right - left) * rng.uniform(0.06, 0.13), right)
        shade = rng.randint(-16, 16)
        tone = (132 + shade, 154 + shade, 178 + shade)
        draw.rectangle((x, sill - (sill - top) * rng.uniform(0.15, 0.6), house, sill), fill=tone)
        x = house
    frame = max(3, int(width * 0.012))
    for part in range(4):
        x = left + (right - left) * part / 3
        draw.rectangle((x - frame / 2, top, x + frame / 2, sill), fill=(250, 250, 250))
    for line in range(9):
        y = top + line * height * 0.026
        draw.rectangle((left, y, right, y + height * 0.014), fill=(252, 251, 247))
    draw.rectangle((left - frame, sill, right + frame, sill + height * 0.02), fill=(250, 249, 246))
    for level in (0.2, 0.38, 0.56):
        y, x = height * level, width * 0.72
        while x < width * 0.97:
            wide, tall = width * rng.uniform(0.012, 0.026), height * rng.uniform(0.08, 0.13)
            book = rng.choice([(47, 94, 128), (214, 120, 70), (96, 128, 104), (226, 200, 140)])
            draw.rectangle((x, y - tall, x + wide, y), fill=book)
            x += wide * rng.choice([1.05, 1.05, 2.6])
        draw.rectangle((width * 0.7, y, width, y + height * 0.014), fill=(150, 112, 78))
    desk = int(height * 0.8)
    stage.paste(gradient((width, height - desk), (188, 142, 98), (142, 100, 66)), (0, desk))
    draw.rectangle((0, desk, width, desk + height * 0.008), fill=(222, 184, 142))
    stage = _soften(stage, 5)
    _glow(stage, (0.3, 0.25), 0.6, (255, 248, 230), 0.4)
    return stage


def _glow(
    stage: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, strength: float
) -> None:
    width, height = stage.size
    reach = max(2, int(radius * max(width, height)))
    # Pillow's circle reaches the corners, and stands at 180 where it leaves the square.
    fade = Image.radial_gradient("L").point(
        [int(255 * strength * (max(0, 178 - v) / 178) ** 1.5) for v in range(256)]
    )
    spot = fade.resize((2 * reach, 2 * reach))
    place = (int(centre[0] * width) - reach, int(centre[1] * height) - reach)
    stage.paste(Image.new("RGB", spot.size, colour), place, spot)


def _soften(stage: Image.Image, thousandths: float) -> Image.Image:
    return stage.filter(ImageFilter.GaussianBlur(thousandths * max(stage.size) / 1000))


def _between(one: Colour, other: Colour, way: float) -> Colour:
    red, green, blue = (round(a + (b - a) * way) for a, b in zip(one, other, strict=True))
    return red, green, blue
