"""The backdrops: each scene paints one, out of focus, as a lens behind a subject would see it.

A scene is drawn on a small stage and enlarged by the painter, so its cost does not grow with the
resolution. All chance comes from the `random.Random` that is handed in.
"""

from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw

from comfyline.sandbox.brushes import Colour, glow, gradient, plant, skyline, soften

Scene = Callable[[tuple[int, int], Random], Image.Image]


def office(size: tuple[int, int], rng: Random) -> Image.Image:
    """A bright room: a wide window over a town, blinds, shelves, a plant, the edge of a desk."""
    width, height = size
    stage = gradient(size, (206, 204, 200), (176, 168, 158))
    draw = ImageDraw.Draw(stage)
    left, right = width * rng.uniform(0.04, 0.08), width * rng.uniform(0.6, 0.66)
    top, sill = height * 0.06, height * 0.66
    view = gradient((int(right - left), int(sill - top)), (128, 180, 228), (226, 236, 244))
    stage.paste(view, (int(left), int(top)))
    skyline(draw, (left, top + (sill - top) * 0.35, right, sill), rng, (132, 154, 178))
    frame = max(3, int(width * 0.012))
    for part in range(4):
        x = left + (right - left) * part / 3
        draw.rectangle((x - frame / 2, top, x + frame / 2, sill), fill=(250, 250, 250))
    slat = height * 0.026
    for line in range(9):
        y = top + line * slat
        draw.rectangle((left, y, right, y + slat * 0.55), fill=(252, 251, 247))
    draw.rectangle((left - frame, sill, right + frame, sill + height * 0.02), fill=(250, 249, 246))
    for level in (0.2, 0.38, 0.56):
        y = height * level
        x = width * 0.72
        while x < width * 0.97:
            wide, tall = width * rng.uniform(0.012, 0.026), height * rng.uniform(0.08, 0.13)
            book = rng.choice([(47, 94, 128), (214, 120, 70), (96, 128, 104), (226, 200, 140)])
            draw.rectangle((x, y - tall, x + wide, y), fill=book)
            x += wide * rng.choice([1.05, 1.05, 2.6])
        draw.rectangle((width * 0.7, y, width, y + height * 0.014), fill=(150, 112, 78))
    plant(draw, (width * 0.88, height * 0.74), height * 0.3, rng)
    desk = int(height * 0.8)
    stage.paste(gradient((width, height - desk), (188, 142, 98), (142, 100, 66)), (0, desk))
    draw.rectangle((0, desk, width, desk + height * 0.008), fill=(222, 184, 142))
    stage = soften(stage, 5)
    glow(stage, (0.3, 0.25), 0.6, (255, 248, 230), 0.4)
    return stage


def beach(size: tuple[int, int], rng: Random) -> Image.Image:
    """Sky, sea with bright lines, sand and a palm leaf from the side."""
    width, height = size
    stage = gradient(size, (88, 170, 232), (214, 240, 250))
    draw = ImageDraw.Draw(stage)
    sea, sand = int(height * 0.48), int(height * 0.68)
    stage.paste(gradient((width, sand - sea), (22, 120, 168), (110, 206, 206)), (0, sea))
    for _ in range(46):
        y = rng.uniform(sea, sand)
        x, long = rng.uniform(0, width), width * rng.uniform(0.03, 0.12)
        draw.line((x, y, x + long, y), fill=(216, 244, 244), width=2)
    stage.paste(gradient((width, height - sand), (244, 222, 172), (220, 184, 126)), (0, sand))
    draw.ellipse((-width * 0.2, sand - height * 0.03, width * 1.2, sand + height * 0.04), "#f4f6ee")
    for _ in range(5):
        x, y = rng.uniform(0, width), height * rng.uniform(0.06, 0.3)
        for puff in range(4):
            reach = width * rng.uniform(0.03, 0.06)
            at = x + puff * width * 0.04
            draw.ellipse((at - reach, y - reach * 0.5, at + reach, y + reach * 0.5), "#f6fafc")
    stem = (width * 1.02, height * 0.1)
    for _ in range(16):
        tip = (width * rng.uniform(0.62, 0.9), height * rng.uniform(-0.05, 0.45))
        middle = ((stem[0] + tip[0]) / 2, min(stem[1], tip[1]) - height * 0.01)
        draw.polygon([stem, middle, tip, (middle[0], middle[1] + height * 0.045)], fill="#2f7a4c")
    stage = soften(stage, 4)
    glow(stage, (0.2, 0.12), 0.35, (255, 252, 220), 0.8)
    return stage


def sunset(size: tuple[int, int], rng: Random) -> Image.Image:
    """A low sun over hills, in orange and violet."""
    width, height = size
    stage = gradient(size, (72, 44, 116), (255, 148, 74))
    sun = (rng.uniform(0.25, 0.75), 0.5)
    glow(stage, sun, 0.5, (255, 196, 96), 0.9)
    glow(stage, sun, 0.1, (255, 246, 206), 1.0)
    draw = ImageDraw.Draw(stage)
    for row, tone in enumerate(((152, 72, 92), (104, 48, 82), (58, 30, 60))):
        level = height * (0.6 + 0.11 * row)
        ridge = [(width * step / 8, level + height * rng.uniform(-0.06, 0.05)) for step in range(9)]
        draw.polygon([(0, height), *ridge, (width, height)], fill=tone)
    return soften(stage, 5)


def night(size: tuple[int, int], rng: Random) -> Image.Image:
    """A town after dark: lit windows, and lamps as large soft discs."""
    width, height = size
    stage = gradient(size, (8, 12, 38), (38, 42, 92))
    draw = ImageDraw.Draw(stage)
    skyline(draw, (0, height * 0.12, width, height * 0.8), rng, (22, 26, 52), (255, 208, 120))
    stage.paste(
        gradient((width, height - int(height * 0.8)), (30, 30, 58), (12, 12, 28)),
        (0, int(height * 0.8)),
    )
    stage = soften(stage, 6)
    for _ in range(22):
        tone = rng.choice([(255, 190, 92), (255, 110, 130), (96, 196, 255), (255, 236, 190)])
        at = (rng.random(), rng.uniform(0.3, 0.95))
        glow(stage, at, rng.uniform(0.02, 0.06), tone, rng.uniform(0.4, 0.8))
    return stage


def city(size: tuple[int, int], rng: Random) -> Image.Image:
    """A street by day: two rows of houses, one behind the other, and the road."""
    width, height = size
    stage = gradient(size, (122, 178, 226), (232, 240, 244))
    draw = ImageDraw.Draw(stage)
    skyline(draw, (0, height * 0.1, width, height * 0.72), rng, (176, 190, 202))
    skyline(draw, (0, height * 0.3, width, height * 0.74), rng, (126, 128, 136), (206, 222, 234))
    road = int(height * 0.74)
    stage.paste(gradient((width, height - road), (146, 146, 148), (92, 92, 98)), (0, road))
    for part in range(6):
        x = width * (part + 0.1) / 6
        draw.rectangle((x, height * 0.88, x + width * 0.09, height * 0.895), fill=(236, 232, 214))
    stage = soften(stage, 5)
    glow(stage, (0.75, 0.08), 0.4, (255, 248, 222), 0.5)
    return stage


def forest(size: tuple[int, int], rng: Random) -> Image.Image:
    """Trunks in green haze, with light falling through the leaves."""
    width, height = size
    stage = gradient(size, (150, 190, 110), (58, 88, 48))
    draw = ImageDraw.Draw(stage)
    for depth in range(3):
        tone = [(126, 158, 108), (84, 108, 70), (52, 58, 40)][depth]
        for _ in range(8 - depth):
            x, wide = rng.uniform(0, width), width * (0.012 + 0.014 * depth)
            draw.polygon(
                [(x - wide * 0.7, 0), (x + wide * 0.7, 0), (x + wide, height), (x - wide, height)],
                fill=tone,
            )
    floor = int(height * 0.82)
    stage.paste(gradient((width, height - floor), (92, 112, 52), (56, 62, 34)), (0, floor))
    for _ in range(150):
        x, y = (
            rng.uniform(0, width),
            height * rng.choice([rng.uniform(0, 0.3), rng.uniform(0.78, 1)]),
        )
        reach = width * rng.uniform(0.008, 0.03)
        green = (rng.randint(50, 130), rng.randint(110, 178), rng.randint(40, 80))
        draw.ellipse((x - reach, y - reach * 0.7, x + reach, y + reach * 0.7), fill=green)
    stage = soften(stage, 6)
    for _ in range(4):
        glow(
            stage, (rng.random(), rng.uniform(0, 0.4)), rng.uniform(0.15, 0.3), (250, 246, 190), 0.5
        )
    return stage


def snow(size: tuple[int, int], rng: Random) -> Image.Image:
    """White hills, fir trees and falling flakes."""
    width, height = size
    stage = gradient(size, (168, 194, 222), (236, 242, 248))
    draw = ImageDraw.Draw(stage)
    for row, tone in enumerate(((216, 226, 238), (232, 238, 246), (248, 250, 253))):
        level = height * (0.5 + 0.13 * row)
        if row < 2:  # noqa: PLR2004 - no trees on the nearest hill
            for _ in range(12):
                x, tall = rng.uniform(0, width), height * rng.uniform(0.12, 0.26) * (row + 1) / 1.6
                for part in range(3):
                    y, wide = level + height * 0.06 - tall * part / 3, tall * (0.3 - 0.07 * part)
                    draw.polygon(
                        [(x - wide, y), (x + wide, y), (x, y - tall * 0.5)], fill=(70, 100, 104)
                    )
        draw.ellipse((-width * 0.3, level, width * 1.3, level + height), fill=tone)
    stage = soften(stage, 4)
    for _ in range(70):
        at = (rng.random(), rng.random())
        glow(stage, at, rng.uniform(0.004, 0.014), (255, 255, 255), 0.9)
    return stage


def studio(size: tuple[int, int], rng: Random) -> Image.Image:
    """A plain paper roll with one lamp behind the subject."""
    base = rng.choice([(206, 202, 196), (188, 200, 208), (212, 196, 190), (196, 204, 190)])
    dark = (base[0] * 5 // 9, base[1] * 5 // 9, base[2] * 5 // 9)
    stage = gradient(size, dark, base)
    glow(stage, (0.5, 0.42), 0.62, (252, 250, 246), 0.9)
    return stage


def dream(size: tuple[int, int], rng: Random) -> Image.Image:
    """For a prompt that names no place: soft discs in colours that the seed chooses."""
    hue = rng.randrange(256)

    def tone(shift: int, saturation: int, value: int) -> Colour:
        one = Image.new("HSV", (1, 1), ((hue + shift) % 256, saturation, value)).convert("RGB")
        pixel = one.getpixel((0, 0))
        if not isinstance(pixel, tuple):
            raise TypeError("an RGB picture has three values a pixel")
        return pixel[0], pixel[1], pixel[2]

    stage = gradient(size, tone(0, 150, 120), tone(40, 130, 235))
    for _ in range(18):
        at, reach = (rng.random(), rng.random()), rng.uniform(0.06, 0.28)
        glow(stage, at, reach, tone(rng.randrange(-30, 80), 140, 245), rng.uniform(0.25, 0.7))
    return stage


SCENES: dict[str, tuple[Scene, tuple[str, ...]]] = {
    "office": (office, ("office", "workplace", "meeting room", "desk", "办公")),
    "beach": (beach, ("beach", "sea", "ocean", "island", "summer", "沙滩", "海")),
    "snow": (snow, ("snow", "winter", "ice", "christmas", "雪")),
    "forest": (forest, ("forest", "wood", "woods", "jungle", "garden", "park", "森林")),
    "sunset": (sunset, ("sunset", "sunrise", "dusk", "golden hour", "desert", "日落")),
    "night": (night, ("night", "neon", "cyberpunk", "midnight", "夜")),
    "city": (city, ("city", "street", "town", "urban", "城市")),
    "studio": (studio, ("studio", "plain", "product shot", "white background", "摄影棚")),
}
"""The scenes by name, each with the words of a prompt that ask for it; the first found wins."""
