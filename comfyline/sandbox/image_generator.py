"""Generate a real image from real inputs, so that an edit can be seen and told from another.

The same order gives the same bytes: everything that looks like chance comes from the `Random` of
the order. Backdrops are drawn small and out of focus, so that a large picture costs little more.
"""

import math
import re
from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

from comfyline.sandbox.order import Order

_STAGE = 768
_MASK = 96
_HORIZON = 0.72

_OFFICE = "office|workplace|meeting room|desk|办公"
# Of each place the words, the sky and the ground from top to bottom, and its lights.
_PLACES = (
    ("beach|sea|ocean|island|summer|沙滩|海", "#58aae8 #78d2d2 #f4deac #dcb87e #ffffff"),
    ("snow|winter|ice|christmas|雪", "#a8c2de #e2eaf4 #ecf1f8 #fafbfd #ffffff"),
    ("forest|woods?|jungle|garden|park|森林", "#96be6e #3a5830 #5c7034 #383e22 #faf6be"),
    ("sunset|sunrise|dusk|golden hour|desert|日落", "#482c74 #ff944a #683052 #3a1e3c #ffc460"),
    ("night|neon|cyberpunk|midnight|夜", "#080c26 #262a5c #1e1e3a #0c0c1c #ffbe5c"),
    ("city|street|town|urban|城市", "#7ab2e2 #b0beca #929294 #5c5c62 #e8f0f4"),
    (
        "studio|plain|product shot|white background|摄影棚",
        "#767470 #cecac4 #cecac4 #bcb8b2 #fcfaf6",
    ),
)
_TINTS = (
    ("warm|sunset|sunrise|golden|autumn|co[sz]y", "#ffa854", 0.6),
    ("cold|cool|winter|snow|night|ice", "#548ce6", 0.6),
    ("daylight|bright|soft light|sunny|morning", "#fff0d6", 0.22),
)
_GREY = "black[ -]and[ -]white|monochrome|b&w|noir"
_FADED = "vintage|retro|sepia|old photo|film look"
_BOOKS = ("#2f5e80", "#d67846", "#608068", "#e2c88c")


def generate_image(order: Order, index: int, target: Path) -> None:
    """Write the image of an order, in the format of the target's name."""
    size = order.size("image")
    picture = Image.new("RGB", size, "#7f7f7f")
    if not order.is_blank:
        picture = graded(compose(order.words, order.pictures, size, order.chance(index)), order)
        _caption(picture, order.words)
    # Each format takes of these what it knows. PNG of level 3 is five times as fast as of 9.
    picture.save(target, quality=90, method=2, compress_level=3)


def _mentions(prompt: str, words: str) -> bool:
    """Tell whether a prompt has one of these words, which no other Latin letter touches."""
    return re.search(rf"(?<![a-z])({words})(?![a-z])", prompt.lower()) is not None


def graded(picture: Image.Image, order: Order) -> Image.Image:
    """Give a picture the mood of the prompt."""
    for words, colour, strength in _TINTS:
        if _mentions(order.words, words):
            layer = ImageChops.soft_light(picture, Image.new("RGB", picture.size, colour))
            picture = Image.blend(picture, layer, strength)
    grey = ImageOps.grayscale(picture)
    if _mentions(order.words, _GREY):
        return ImageOps.autocontrast(grey, cutoff=1).convert("RGB")
    if _mentions(order.words, _FADED):
        return Image.blend(picture, ImageOps.colorize(grey, "#2b1d14", "#f6e7c8", "#a27c56"), 0.75)
    return picture


def compose(
    prompt: str, photos: tuple[Image.Image, ...], size: tuple[int, int], chance: Random
) -> Image.Image:
    """Place the first photo before the backdrop of a prompt, and the others at its edge."""
    place = next((colours for words, colours in _PLACES if _mentions(prompt, words)), None)
    is_office = _mentions(prompt, _OFFICE)
    styles = "|".join([_GREY, _FADED, *(words for words, *_ in _TINTS)])
    if photos and not (is_office or place) and _mentions(prompt, styles):
        # Where a style alone is named, nobody asked for another background.
        return ImageOps.fit(photos[0], size, Image.Resampling.LANCZOS)
    scale = min(1.0, _STAGE / max(size))
    stage = (max(8, round(size[0] * scale)), max(8, round(size[1] * scale)))
    drawn = _office(stage, chance) if is_office else _lights(place, stage, chance)
    if chance.random() < 0.5:  # noqa: PLR2004 - a coin
        drawn = ImageOps.mirror(drawn)
    picture = drawn.resize(size)
    if photos:
        _place_subject(picture, photos[0], chance)
    for number, photo in enumerate(photos[1:6]):
        side = round(min(size) * 0.18)
        rim = max(2, side // 24)
        sheet = ImageOps.expand(ImageOps.fit(photo, (side, side)), rim, fill="#faf8f2")
        picture.paste(sheet, (picture.width - (side + 4 * rim) * (number + 1), 3 * rim))
    return picture


def _gradient(size: tuple[int, int], top: str, bottom: str) -> Image.Image:
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)


def _lights(place: str | None, size: tuple[int, int], chance: Random) -> Image.Image:
    """Draw sky, ground and lights in the colours of a place; without one chance chooses them."""
    width, height = size
    if place is None:
        hue = chance.randrange(360)
        tones = ((0, 35), (30, 60), (60, 55), (90, 30), (30, 85))
        place = " ".join(f"hsl({(hue + turn) % 360},40%,{light}%)" for turn, light in tones)
    sky, haze, ground, shade, light = place.split()
    stage = _gradient(size, sky, haze)
    horizon = round(height * _HORIZON)
    stage.paste(_gradient((width, height - horizon), ground, shade), (0, horizon))
    draw = ImageDraw.Draw(stage)
    for _ in range(9):
        x, top = width * chance.random(), horizon - height * chance.uniform(0.04, 0.3)
        tone = stage.getpixel((0, round(horizon * chance.uniform(0.3, 0.99))))
        draw.rectangle((x, top, x + width * chance.uniform(0.04, 0.14), horizon), fill=tone)
    stage = stage.filter(ImageFilter.GaussianBlur(0.009 * max(size)))
    for _ in range(16):
        at = (chance.random(), chance.uniform(0, _HORIZON))
        _glow(stage, at, chance.uniform(0.03, 0.2), light, chance.uniform(0.2, 0.6))
    return stage


def _office(size: tuple[int, int], chance: Random) -> Image.Image:
    """Draw a bright room: a wide window over a town, shelves, the edge of a desk."""
    width, height = size
    stage = _gradient(size, "#ceccc8", "#b0a89e")
    draw = ImageDraw.Draw(stage)

    def box(left: float, top: float, wide: float, tall: float, colour: str) -> None:
        """Draw a rectangle, given in shares of the stage."""
        right, bottom = (left + wide) * width, (top + tall) * height
        draw.rectangle((left * width, top * height, right, bottom), fill=colour)

    left, wide, top, tall = chance.uniform(0.04, 0.08), 0.57, 0.06, 0.6
    view = _gradient((int(wide * width), int(tall * height)), "#80b4e4", "#e2ecf4")
    stage.paste(view, (int(left * width), int(top * height)))
    for house in range(10):
        roof = chance.uniform(0.09, 0.36)
        tone = f"hsl(211,24%,{chance.randint(55, 67)}%)"
        box(left + wide * house / 10, top + tall - roof, wide / 10, roof, tone)
    for slat in range(9):
        box(left, top + 0.026 * slat, wide, 0.014, "#fcfbf7")
    for frame in range(4):
        box(left + wide * frame / 3 - 0.006, top, 0.012, tall, "#fafafa")
    box(left - 0.012, top + tall, wide + 0.024, 0.02, "#faf9f6")
    for shelf in (0.2, 0.38, 0.56):
        x = 0.72
        while x < 0.97:  # noqa: PLR2004 - the end of the shelf
            book, spine = chance.uniform(0.08, 0.13), chance.uniform(0.012, 0.026)
            box(x, shelf - book, spine, book, chance.choice(_BOOKS))
            x += spine * chance.choice((1.05, 1.05, 2.6))
        box(0.7, shelf, 0.3, 0.014, "#96704e")
    desk = int(height * 0.8)
    stage.paste(_gradient((width, height - desk), "#bc8e62", "#8e6442"), (0, desk))
    box(0, 0.8, 1, 0.008, "#deb88e")
    stage = stage.filter(ImageFilter.GaussianBlur(0.005 * max(size)))
    _glow(stage, (0.3, 0.25), 0.6, "#fff8e6", 0.4)
    return stage


def _glow(
    stage: Image.Image, centre: tuple[float, float], radius: float, colour: str, strength: float
) -> None:
    reach = max(2, int(radius * max(stage.size)))
    # Pillow's circle reaches the corners, and stands at 180 where it leaves the square.
    fade = Image.radial_gradient("L").point(
        [int(255 * strength * (max(0, 178 - v) / 178) ** 1.5) for v in range(256)]
    )
    spot = fade.resize((2 * reach, 2 * reach))
    left, top = int(centre[0] * stage.width) - reach, int(centre[1] * stage.height) - reach
    stage.paste(Image.new("RGB", spot.size, colour), (left, top), spot)


def _place_subject(picture: Image.Image, photo: Image.Image, chance: Random) -> None:
    """Stand the subject at the lower edge, lit by the backdrop and with a shadow behind it."""
    width, height = picture.size
    # A photo that is much wider than the frame may lose its sides, not its middle.
    factor = min(height * chance.uniform(0.86, 0.92) / photo.height, 1.4 * width / photo.width)
    size = (max(1, round(photo.width * factor)), max(1, round(photo.height * factor)))
    subject = photo.resize(size, Image.Resampling.LANCZOS)
    light = picture.resize((1, 1), Image.Resampling.BOX).resize(size)
    subject = Image.blend(subject, ImageChops.soft_light(subject, light), 0.55)
    small = _subject_mask(photo)
    shadow = small.filter(ImageFilter.GaussianBlur(3)).point([v * 2 // 5 for v in range(256)])
    left = (width - size[0]) // 2 + round(width * chance.uniform(-0.04, 0.04))
    place = (left, height - size[1])
    behind = (left + round(width * 0.015), place[1] + round(height * 0.02))
    picture.paste(Image.new("RGB", size, "#181412"), behind, shadow.resize(size))
    picture.paste(subject, place, small.resize(size))


def _subject_mask(photo: Image.Image) -> Image.Image:
    """Guess the subject: colours that are frequent in the middle and rare at the rim."""
    small = photo.resize((_MASK, _MASK), Image.Resampling.BOX)
    palette = small.quantize(32, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    colours = Image.frombytes("L", palette.size, palette.tobytes())
    middle, rim = Image.new("L", colours.size, 0), Image.new("L", colours.size, 255)
    ImageDraw.Draw(middle).ellipse((_MASK * 0.24, _MASK * 0.2, _MASK * 0.76, _MASK * 0.9), fill=255)
    ImageDraw.Draw(rim).rectangle((_MASK * 0.1, _MASK * 0.1, _MASK * 0.9, _MASK), fill=0)
    inside, outside = colours.histogram(middle), colours.histogram(rim)
    shares = [
        (here / max(1, sum(inside)), there / max(1, sum(outside)))
        for here, there in zip(inside, outside, strict=True)
    ]
    likely = colours.point([round(255 * a / (a + b)) if a + b else 0 for a, b in shares])
    # Grown and shrunk again, which closes holes: a dark visor, the coffee in the cup.
    for each in (
        ImageFilter.MedianFilter(3),
        ImageFilter.MaxFilter(5),
        ImageFilter.MinFilter(5),
        ImageFilter.GaussianBlur(1.5),
    ):
        likely = likely.filter(each)
    # An egg around the middle that reaches the lower edge, for subjects stand on something.
    fade = ImageOps.invert(Image.radial_gradient("L")).resize((_MASK, round(_MASK * 1.5)))
    egg = fade.crop((0, round(_MASK * 0.2), _MASK, round(_MASK * 1.2)))
    subject = _steep(ImageChops.add(likely, egg, scale=2), 100, 5.5)
    # No straight edge of the photo may show, only the lower one, which lies on the frame's.
    below = _steep(Image.linear_gradient("L").resize(egg.size), 12, 7)
    egg = ImageChops.darker(_steep(egg, 84, 7), below)
    return ImageChops.multiply(subject.filter(ImageFilter.GaussianBlur(1.2)), egg)


def _steep(mask: Image.Image, start: int, slope: float) -> Image.Image:
    return mask.point([max(0, min(255, round((value - start) * slope))) for value in range(256)])


def _caption(picture: Image.Image, prompt: str) -> None:
    """Write the prompt into a dark strip at the lower edge, cut where it does not fit."""
    width, height = picture.size
    letter = max(9, round(math.sqrt(width * height) * 0.021))
    top = height - round(letter * 2.1)
    below = picture.crop((0, top, width, height))
    picture.paste(Image.blend(below, Image.new("RGB", below.size, "#101014"), 0.68), (0, top))
    font = ImageFont.load_default(size=letter)
    text, room = " ".join(prompt.split())[:400], width - 2 * letter
    if (length := font.getlength(text)) > room:
        text = text[: int(len(text) * room / length) - 1].rstrip() + "…"
    at = (letter, (top + height) / 2)
    ImageDraw.Draw(picture).text(at, text, font=font, fill="#f4f2ec", anchor="lm")
