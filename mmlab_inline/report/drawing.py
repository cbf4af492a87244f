"""Pictures for a page: truth and prediction in the colours of tools/infer.py, as small files."""

import io

import cv2
import numpy as np
from PIL import Image

from ..inference import Painter, Prediction, legend
from .evaluation import Picture

# The longer side of what is drawn on, pixels; a page shows it at about this size.
MAX_SIDE = 640
# Which leaves half of the height to texts.
TEXTS = 30


def draw_pair(
    name: str,
    score: float,
    image: np.ndarray,
    truth: Prediction,
    prediction: Prediction,
    painter: Painter,
) -> Picture:
    """Draw what is there and what was found; all three are of one size.

    Args:
        name: Of the file.
        score: Of the prediction.
        image: ``(H, W, 3)``, BGR.
        truth, prediction: Of the image.
        painter: What draws.
    """
    pairs = (truth, 'no object'), (prediction, 'nothing found')
    drawn = [_jpeg(painter.draw(image, each, empty)) for each, empty in pairs]
    return Picture(name, score, *drawn)


def remarks_on(painter: Painter) -> list[str]:
    """What the numbers in the pictures stand for, for the reader."""
    text = legend(painter.numbers)
    return [f'{text[0].upper()}{text[1:]}.'] if text else []


def read_image(path: str, height: int, width: int) -> np.ndarray:
    """Read an image ``(H, W, 3)``, BGR, at this size; grey where OpenCV cannot read the file."""
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        return np.full((height, width, 3), 127, np.uint8)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def shrunk_size(height: int, width: int) -> tuple[int, int]:
    """(H, W) of an image of this size when it is shrunk to :data:`MAX_SIDE`."""
    scale = min(1, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, 'JPEG', quality=85)
    return file.getvalue()
