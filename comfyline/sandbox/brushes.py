"""What the scenes are drawn with: runs of colour, lights, houses, a plant."""

from random import Random

from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]


def gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    """A vertical run from one colour to another."""
    ramp = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), ramp)


def glow(
    stage: Image.Image, centre: tuple[float, float], radius: float, colour: Colour, strength: float
) -> None:
    """Adds a round light that fades outwards; `centre` and `radius` are parts of the stage."""
    width, height = stage.size
    reach = max(2, int(radius * max(width, height)))
    # Pillow's circle reaches the corners, and stands at 180 where it leaves the square.
    fade = Image.radial_gradient("L").point(
        [int(255 * strength * (max(0, 178 - v) / 178) ** 1.5) for v in range(256)]
    )
    spot = fade.resize((2 * reach, 2 * reach))
    place = (int(centre[0] * width) - reach, int(centre[1] * height) - reach)
    stage.paste(Image.new("RGB", spot.size, colour), place, spot)


def soften(stage: Image.Image, amount: float) -> Image.Image:
    """Takes a stage out of focus; `amount` is in thousandths of its longer side."""
    return stage.filter(ImageFilter.GaussianBlur(amount * max(stage.size) / 1000))


def skyline(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    rng: Random,
    tone: Colour,
    lit: Colour | None = None,
) -> None:
    """Draws houses inside `box` (left, top, right, bottom), with lit windows when asked."""
    left, top, right, bottom = box
    x = left
    while x < right:
        wide = (right - left) * rng.uniform(0.06, 0.13)
        roof = bottom - (bottom - top) * rng.uniform(0.3, 0.95)
        shade = rng.uniform(0.85, 1.12)
        fill = (int(tone[0] * shade), int(tone[1] * shade), int(tone[2] * shade))
        draw.rectangle((x, roof, min(x + wide, right), bottom), fill=fill)
        if lit is not None:
            step = max(4.0, wide / 5)
            y = roof + step
            while y < bottom - step:
                for column in range(1, 5):
                    if rng.random() < 0.45:  # noqa: PLR2004 - not quite half of the lights are on
                        at = x + column * wide / 5
                        draw.rectangle((at, y, at + step * 0.5, y + step * 0.6), fill=lit)
                y += step * 1.3
        x += wide * rng.uniform(0.9, 1.25)


def plant(draw: ImageDraw.ImageDraw, foot: tuple[float, float], tall: float, rng: Random) -> None:
    """Draws a leafy plant in a white pot that stands at `foot`."""
    x, y = foot
    for _ in range(26):
        lean, length = rng.uniform(-0.55, 0.55), tall * rng.uniform(0.5, 1.0)
        tip = (x + lean * tall, y - length)
        green = (rng.randint(45, 95), rng.randint(105, 160), rng.randint(60, 95))
        broad = tall * 0.06
        middle = ((x + tip[0]) / 2 + lean * broad, (y + tip[1]) / 2)
        draw.polygon(
            [(x, y), (middle[0] - broad, middle[1]), tip, (middle[0] + broad, middle[1])],
            fill=green,
        )
    draw.polygon(
        [
            (x - tall * 0.2, y - tall * 0.02),
            (x + tall * 0.2, y - tall * 0.02),
            (x + tall * 0.15, y + tall * 0.36),
            (x - tall * 0.15, y + tall * 0.36),
        ],
        fill=(232, 228, 220),
    )
