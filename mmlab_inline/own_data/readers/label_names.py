"""What the values or colours of label maps stand for, as a file beside them says."""

import csv
from collections.abc import Mapping
from pathlib import Path

from ...utils import UserError, counted
from .folder import Folder, read_lines

IGNORED = 255
_FILES = (
    *('labelmap.txt', 'label_map.txt', '_classes.csv', 'class_names.txt', 'classes.txt'),
    'objectinfo150.txt',
)
_BACKGROUND = 'background'
# Values that differ so much are black and white, not numbers of classes.
_CONTRAST = 128

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
        names = [line.strip() for line in lines]
        # labelme's first name stands for -1, what is ignored.
        return names[1:] if names[:1] == ['__ignore__'] else names
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
    nothing = (0, 0, 0) if coloured else 0
    present = sorted(value for value in shares if coloured or value != IGNORED)
    greys = {key[0] for key in names if len(set(key)) == 1} if by_colour else set()
    # An unnamed 255 is what to ignore, unless there is nothing beside it but 0.
    known = greys | ({IGNORED, 0} if set(shares) - {0, IGNORED} else set())
    by_grey = bool(greys & (set(shares) - {0})) and set(shares) <= known
    # Numbers that names stand for are no stray values.
    numbered = coloured or 0 < max(present, default=0) <= len(names or ())
    two = None if numbered or by_grey or len(names or ()) > 2 else _pair(shares)
    if coloured or by_grey or set(shares) <= greys:
        classes, coding = _number(names)
        if not coloured:
            coding = {key[0]: label for key, label in coding.items() if len(set(key)) == 1}
    elif two and not (isinstance(names, dict) and not by_colour):
        given = _in_order(names) or ['foreground']
        classes = given if len(given) == 2 else [_BACKGROUND, *given]
        dark, bright = two
        coding = {value: int(value - dark > bright - value) for value in {*shares, *two}}
        if set(shares) <= {0, IGNORED}:
            notes.append(f'label maps hold 0 and 255 only: 0 is {classes[0]}, 255 {classes[1]}')
        else:
            notes.append(
                f'label maps hold {len(shares)} values, {dark} and {bright} in '
                f'{shares[dark] + shares[bright]:.2%} of the pixels: the darker ones are '
                f'{classes[0]}, the brighter ones {classes[1]}'
            )
        if zero == 'ignore' and len(given) == 1:
            classes = given
            coding = {value: label - 1 if label else IGNORED for value, label in coding.items()}
    elif names is None:
        kept = [value for value in present if value or zero != 'ignore']
        classes = [f'class_{value}' for value in kept]
        if zero == 'background' and 0 in kept:
            classes[0] = _BACKGROUND
        coding = {value: label for label, value in enumerate(kept)}
        notes.append('nothing names the classes: a value is a class; --classes names them')
    elif isinstance(names, dict) and not by_colour:
        classes, coding = _number(names)
    else:
        classes = _in_order(names)
        first = 0 if not present or present[-1] < len(classes) else 1
        coding = {label + first: label for label in range(len(classes))}
    if nothing in present and nothing not in coding:
        only = len(classes) == 1
        if zero == 'background' or (zero is None and (only or shares[nothing] > 0.5)):
            classes = [_BACKGROUND, *classes]
            coding = {nothing: 0} | {value: label + 1 for value, label in coding.items()}
            meaning = 'is the class background; --zero ignore leaves it out'
        else:
            coding[nothing] = IGNORED
            meaning = 'is ignored; --zero background makes it a class'
        notes.append(f'0 has no name and {shares[nothing]:.0%} of the pixels: it {meaning}')
    coding.setdefault(_WHITE_BORDER if coloured else IGNORED, IGNORED)
    rest = [share for value, share in shares.items() if value not in (0, IGNORED)]
    if coding.get(IGNORED) == IGNORED and shares.get(IGNORED, 0) > max(rest, default=0):
        notes.append(
            f'255, the most frequent value beside 0 ({shares[IGNORED]:.0%} of the pixels), is '
            'ignored; if it is a class, name it in a _classes.csv of lines "value, name"'
        )
    beyond = [value for value in present if value not in coding]
    if beyond:
        what = 'colour' if coloured else 'value'
        raise UserError(
            f'label maps hold the {what} {beyond[0]} ({shares[beyond[0]]:.2%} of the pixels), '
            f'which is none of the {counted(len(classes), "class")}; name it, or write 255 where '
            'there is no class'
        )
    return classes, coding, notes


def _pair(shares: Mapping[int, float]) -> tuple[int, int] | None:
    """Dark and bright value of label maps of two values but for stray or smoothed pixels."""
    if set(shares) <= {0, IGNORED}:
        return 0, IGNORED
    if len(shares) < 2:
        return None
    dark, bright = sorted(sorted(shares, key=shares.get)[-2:])
    stray = 1 - shares[dark] - shares[bright]
    few = stray <= min(0.1, min(shares[dark], shares[bright]) / 4)
    return (dark, bright) if few and bright - dark >= _CONTRAST else None


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
