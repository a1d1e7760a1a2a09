"""What a prompt asks for, in the few words that the sandbox understands.

It is no language model: it looks for words, and takes what it does not understand as a seed.
"""

import re
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

from comfyline.sandbox.brushes import Colour, gradient
from comfyline.sandbox.scenes import SCENES, Scene, dream

_GRADES = {
    "warm": ("warm", "sunset", "sunrise", "golden", "autumn", "cosy", "cozy"),
    "cold": ("cold", "cool", "winter", "snow", "night", "ice"),
    "bright": ("daylight", "bright", "soft light", "sunny", "morning"),
    "mono": ("black and white", "black-and-white", "monochrome", "b&w", "noir"),
    "vintage": ("vintage", "retro", "sepia", "old photo", "film look"),
    "watercolor": ("watercolor", "watercolour", "painting", "painted", "illustration"),
}


@dataclass(frozen=True, slots=True)
class Look:
    """The look of one picture: where it plays, how it is graded, what is kept of the input."""

    scene: Scene
    grades: tuple[str, ...]
    keeps_subject: bool


def _says(text: str, word: str) -> bool:
    # Chinese writes no spaces, so its words cannot be bounded.
    pattern = re.escape(word) if not word.isascii() else rf"(?<![a-z]){re.escape(word)}(?![a-z])"
    return re.search(pattern, text) is not None


def read_prompt(prompt: str) -> Look:
    """Reads the look out of a prompt; a place that is named is a wish for a new backdrop."""
    text = prompt.lower()
    named = [scene for scene, words in SCENES.values() if any(_says(text, w) for w in words)]
    grades = tuple(name for name, words in _GRADES.items() if any(_says(text, w) for w in words))
    only_a_style = not named and bool(grades)
    return Look(scene=named[0] if named else dream, grades=grades, keeps_subject=not only_a_style)


def _tint(picture: Image.Image, colour: Colour, strength: float) -> Image.Image:
    layer = Image.new("RGB", picture.size, colour)
    return Image.blend(picture, ImageChops.soft_light(picture, layer), strength)


def _vintage(picture: Image.Image) -> Image.Image:
    faded = ImageOps.colorize(ImageOps.grayscale(picture), "#2b1d14", "#f6e7c8", mid="#a27c56")
    return Image.blend(picture, faded, 0.75)


def _watercolor(picture: Image.Image) -> Image.Image:
    # Painted small and enlarged: the strokes keep their size relative to the picture.
    width, height = picture.size
    factor = 448 / max(width, height)
    small = picture.resize((max(1, round(width * factor)), max(1, round(height * factor))))
    washed = small.filter(ImageFilter.MedianFilter(7))
    contour = ImageOps.invert(ImageOps.grayscale(washed.filter(ImageFilter.FIND_EDGES)))
    washed = ImageChops.multiply(washed, ImageOps.colorize(contour, "#3a3450", "#ffffff"))
    washed = ImageEnhance.Color(washed.resize(picture.size, Image.Resampling.BICUBIC)).enhance(1.15)
    paper = gradient(picture.size, (255, 252, 244), (246, 240, 226))
    return ImageChops.multiply(ImageEnhance.Brightness(washed).enhance(1.08), paper)


def apply_grade(picture: Image.Image, grade: str) -> Image.Image:
    """Gives a picture one of the grades that `read_prompt` finds."""
    match grade:
        case "warm":
            return _tint(picture, (255, 168, 84), 0.6)
        case "cold":
            return _tint(picture, (84, 140, 230), 0.6)
        case "bright":
            return _tint(picture, (255, 240, 214), 0.22)
        case "mono":
            return ImageOps.autocontrast(ImageOps.grayscale(picture), cutoff=1).convert("RGB")
        case "vintage":
            return _vintage(picture)
        case _:
            return _watercolor(picture)
