"""What an evaluation found, whatever the task: what a page shows beside the metrics."""

from dataclasses import dataclass, field

import numpy as np

# Where precision-recall curves are sampled, as COCO does.
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Picture:
    """An image with what is there and what was found.

    Attributes:
        name: Of the file.
        score: Of the prediction for this image, 0 to 1; :attr:`Evaluation.score_name` says which.
        truth, prediction: JPEG files.
    """

    name: str
    score: float
    truth: bytes
    prediction: bytes


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        num_images: How many were evaluated.
        classes: Names of the C classes.
        per_class: Columns of the table of classes: heading to C values, NaN where there is none.
        headline: The column that the classes are judged by.
        confusion: ``(K, K)`` counts, a row per true and a column per predicted class; K is C, or
            C + 1 with the background last.
        confusion_names: Of the K rows.
        confusion_note, curves_note, score_note: How they are counted, for the reader.
        curves: Precision at :data:`RECALLS` for each class, by title: ``(C, 101)``, NaN where
            a class does not occur.
        score_name: What images are ranked by.
        best, worst: Images, the extreme ones first.
        remarks: What else a reader should know.
        percent: Whether its numbers are shown in percent, as mmseg's metrics are; COCO's are not.
    """

    num_images: int
    classes: tuple[str, ...]
    per_class: dict[str, np.ndarray]
    headline: str
    confusion: np.ndarray
    confusion_names: tuple[str, ...]
    confusion_note: str
    curves: dict[str, np.ndarray]
    curves_note: str
    score_name: str
    score_note: str
    best: list[Picture]
    worst: list[Picture]
    remarks: list[str] = field(default_factory=list)
    percent: bool = False

    def shown(self, share: float) -> str:
        """A number from 0 to 1 in the unit of this evaluation."""
        return in_unit(share, self.percent)


def in_unit(share: float, percent: bool) -> str:
    """A number from 0 to 1 as text."""
    return f'{100 * share:.1f} %' if percent else f'{share:.3f}'


def unit_note(percent: bool) -> str:
    """The unit, for the reader of a table."""
    return 'In percent.' if percent else 'From 0 to 1, as COCO gives them; counts apart.'


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients, NaN where there is nothing to divide by."""
    out = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) != 0)
