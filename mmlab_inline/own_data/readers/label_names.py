"""What the values or colours of label maps stand for, as a file beside them says."""

import csv
from collections.abc import Mapping
from pathlib import Path

from ...utils import UserError
from .folder import Folder, read_lines

IGNORED = 255
_FILES = ('labelmap.txt', 'label_map.txt', '_classes.csv', 'classes.txt', 'objectinfo150.txt')
_BACKGROUND = 'background'

# A class per value or (r, g, b); or names alone, whose values have to be found out.
Names = dict[int | tuple[int, int, int], str] | list[str]


def find_names(folder: Folder) -> Names | None:
    """Names out of the file that a labelling tool put beside the label maps, or None."""
    path = folder.named(*_FILES)
    return read_names(path) if path else None


def read_names(path: Path) -> Names:
    """Read names.

    Takes CVAT's labelmap.txt (``name:r,g,b::``), Roboflow's _classes.csv (``value, name``),
    ADE20K's objectInfo150.txt (a table with the columns Idx and Name), and a name per line.

    Raises:
        UserError: It is none of these.
    """
    try:
        lines = [line for line in read_lines(path) if not line.startswith('#')]
        if path.suffix == '.csv':
            rows = list(csv.reader(lines, skipinitialspace=True))[1:]
            return {int(row[0]): row[1].strip() for row in rows}
        if lines and lines[0].split('\t')[0] == 'Idx':
            rows = list(csv.DictReader(lines, delimiter='\t'))
            return {int(row['Idx']): row['Name'].strip() for row in rows}
        if lines and all(':' in line for line in lines):
            parts = [line.split(':') for line in lines]
            return {_colour(text): name for name, text, *_ in parts}
        return [line.strip() for line in lines]
    except (ValueError, IndexError, KeyError):
        raise UserError(
            f'{path} does not tell what label maps mean; write one class name per line in it'
        ) from None


def _colour(text: str) -> tuple[int, int, int]:
    red, green, blue = map(int, text.split(','))
    return red, green, blue


def resolve_coding(
    names: Names | None, shares: Mapping, zero: str | None, example: str
) -> tuple[list[str], dict, list[str]]:
    """Classes, and which value or colour of the label maps is which.

    Args:
        names: What is known of them.
        shares: Share of the pixels of each value or colour that occurs.
        zero: What 0 is where no name stands for it: ``'ignore'``, ``'background'``, or None to
            decide by its share of the pixels.
        example: A label map, for messages.

    Returns:
        The class names; the label of each value or colour; what the user should know.

    Raises:
        UserError: Values or colours occur that are none of the classes.
    """
    notes: list[str] = []
    coloured = any(isinstance(value, tuple) for value in shares)
    by_colour = isinstance(names, dict) and any(isinstance(key, tuple) for key in names)
    if coloured and not by_colour:
        raise UserError(
            f'{example} is RGB: colours, not class numbers, and nothing tells what they mean; '
            "put a labelmap.txt with a line 'name:r,g,b' per class beside the label maps"
        )
    present = sorted(value for value in shares if coloured or value != IGNORED)
    greys = {key[0] for key in names if len(set(key)) == 1} if by_colour else set()
    # An unnamed 255 is what to ignore, unless there is nothing beside it but 0.
    known = greys | {IGNORED} if set(shares) - {0, IGNORED} else greys
    by_grey = bool(greys) and set(shares) <= known
    if coloured or by_grey:
        classes, coding = _number(names)
        if by_grey:
            coding = {key[0]: label for key, label in coding.items() if len(set(key)) == 1}
    elif set(shares) <= {0, IGNORED} and (names is None or len(names) <= 2):
        given = _in_order(names) or ['foreground']
        classes = given if len(given) == 2 else [_BACKGROUND, *given]
        coding = {0: 0, IGNORED: 1}
        notes.append(f'label maps hold 0 and 255 only: 0 is {classes[0]}, 255 {classes[1]}')
    elif names is None:
        classes = [f'class_{value}' for value in present]
        coding = {value: label for label, value in enumerate(present)}
        notes.append('nothing names the classes: a value is a class; --classes names them')
    elif isinstance(names, dict) and not by_colour:
        classes, coding = _number(names)
    else:
        classes = _in_order(names)
        first = 0 if not present or present[-1] < len(classes) else 1
        coding = {label + first: label for label in range(len(classes))}
    if not coloured and 0 in present and 0 not in coding:
        only = len(classes) == 1
        if zero == 'background' or (zero is None and (only or shares[0] > 0.5)):
            classes = [_BACKGROUND, *classes]
            coding = {0: 0} | {value: label + 1 for value, label in coding.items()}
            meaning = 'is the class background; --zero ignore leaves it out'
        else:
            coding[0] = IGNORED
            meaning = 'is ignored; --zero background makes it a class'
        notes.append(f'0 has no name and {shares[0]:.0%} of the pixels: it {meaning}')
    coding.setdefault(_WHITE_BORDER if coloured else IGNORED, IGNORED)
    beyond = [value for value in present if value not in coding]
    if beyond:
        what = 'colour' if coloured else 'value'
        raise UserError(
            f'label maps hold the {what} {beyond[0]} ({shares[beyond[0]]:.2%} of the pixels), '
            f'which is none of the {len(classes)} classes; name it, or write 255 where there is no '
            'class'
        )
    return classes, coding, notes


# Around objects in the pictures of Pascal VOC.
_WHITE_BORDER = (224, 224, 192)


def _number(names: Mapping) -> tuple[list[str], dict]:
    classes = list(dict.fromkeys(_in_order(names)))
    if _BACKGROUND in classes:
        classes.sort(key=_BACKGROUND.__ne__)
    return classes, {key: classes.index(name) for key, name in names.items()}


def _in_order(names: Names | None) -> list[str]:
    """Names by their values; those of colours as the file has them."""
    if not isinstance(names, dict):
        return list(names or [])
    coloured = any(isinstance(key, tuple) for key in names)
    return [names[key] for key in (names if coloured else sorted(names))]
