"""A COCO annotation file, checked before mmdet reads it."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ...utils import did_you_mean, one_line
from .finding import Finding, recorder

_LISTS = ('images', 'annotations', 'categories')
_ID, _NUMBER = (int, str), (int, float)
_KEYS = {
    'images': dict(id=_ID, file_name=str, height=_NUMBER, width=_NUMBER),
    'annotations': dict(id=_ID, image_id=_ID, category_id=_ID, bbox=list, area=_NUMBER),
    'categories': dict(id=_ID, name=str),
}
EXPORT = 'export the file again as COCO instances'


def read_annotations(path: str) -> tuple[dict | None, list[Finding]]:
    """Read an annotation file and check its outer form.

    Returns:
        The content, or None where it is not usable, and the findings.
    """
    findings, add = recorder(path)
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except (OSError, ValueError) as error:
        add('fatal', 'annotations-not-json', f'is no JSON ({one_line(error)})', EXPORT)
        return None, findings
    missing = [
        key
        for key in _LISTS
        if not isinstance(content, dict) or not _is_list_of_dicts(content, key)
    ]
    if missing:
        add(
            'fatal',
            'annotations-lack-lists',
            f'has no list of objects {_quoted(missing)}',
            f'{EXPORT}: images, annotations and categories',
        )
        return None, findings
    for key, keys in _KEYS.items():
        for name, types in keys.items():
            lacking = [item for item in content[key] if not isinstance(item.get(name), types)]
            if lacking:
                first = lacking[0].get('file_name') or lacking[0].get('id')
                add(
                    'fatal',
                    'annotations-lack-keys',
                    f'{len(lacking)} of {len(content[key])} {key} have no usable {name!r} (first: '
                    f'{first})',
                    EXPORT,
                )
    return (None if findings else content), findings


def check_annotations(
    content: Mapping,
    file: str,
    classes: Sequence[str],
    with_mask: bool = False,
    evaluated: bool = False,
) -> list[Finding]:
    """Check the content of an annotation file.

    Args:
        content: As :func:`read_annotations` returns it.
        file: Where it comes from.
        classes: Class names of the dataset.
        with_mask: Whether the pipeline loads masks.
        evaluated: Whether metrics are computed on it.
    """
    findings, add = recorder(file)
    _check_ids(content, add)
    _check_categories(content['categories'], classes, add)
    if evaluated:
        lacking = sum('iscrowd' not in item for item in content['annotations'])
        if lacking:
            add(
                'fatal',
                'annotations-lack-iscrowd',
                f'{lacking} of {len(content["annotations"])} annotations lack iscrowd, which '
                'evaluation reads',
                "write 'iscrowd': 0",
            )
    images = {image['id']: image for image in content['images']}
    names = {item['id'] for item in content['categories'] if item['name'] in classes}
    for item in content['annotations']:
        image = images.get(item['image_id'])
        if image is not None and item['category_id'] in names:
            place = f'annotation {item["id"]} of {image["file_name"]}'
            if _check_box(item, image, place, add) and with_mask:
                _check_mask(item, image, place, add)
    return findings


def _check_ids(content: Mapping, add) -> None:
    for key in _LISTS:
        repeated = _repeated(item['id'] for item in content[key])
        if repeated:
            add(
                'fatal',
                'ids-repeated',
                f'{len(repeated)} ids of {key} occur more than once, such as {repeated[0]}',
                'number them anew, each once; files that were merged need new ids',
            )
    files = _repeated(image['file_name'] for image in content['images'])
    if files:
        add(
            'warning',
            'image-listed-twice',
            f'{len(files)} images are listed more than once, such as {files[0]}',
            'list each once with all its annotations',
        )
    for key, ids in (('image_id', 'images'), ('category_id', 'categories')):
        known = {item['id'] for item in content[ids]}
        lost = [item for item in content['annotations'] if item[key] not in known]
        if lost:
            add(
                'warning',
                f'{key.replace("_", "-")}-unknown',
                f'{len(lost)} annotations name {key}s that {ids} does not have, such as '
                f'{lost[0][key]!r} in annotation {lost[0]["id"]}: they are left out',
                f'add the {ids}, or take the annotations out',
            )


def _check_categories(categories: Sequence[Mapping], classes: Sequence[str], add) -> None:
    names = [item['name'] for item in categories]
    repeated = _repeated(names)
    if repeated:
        add(
            'fatal',
            'category-names-repeated',
            f'categories {_quoted(repeated)} occur more than once: each makes a class of its own',
            'merge them',
        )
    missing = [name for name in classes if name not in names]
    if missing:
        near = did_you_mean(missing[0], names)
        lost = 'no class has any object' if len(missing) == len(classes) else 'later classes shift'
        add(
            'fatal',
            'classes-not-in-file',
            f'classes {_quoted(missing)} of the config are not among the categories '
            f'{_quoted(names)}{near}: {lost}',
            'set metainfo=dict(classes=...) of the dataset to the names in the file',
        )
    else:
        unused = [name for name in names if name not in classes]
        if unused:
            add(
                'note',
                'categories-unused',
                f'categories {_quoted(unused)} are not among the classes of the config: their '
                'objects count as background',
                'add them to metainfo.classes and to num_classes, or leave it',
            )
        if [name for name in names if name in classes] != list(classes) and not repeated:
            add(
                'warning',
                'classes-order',
                f'lists the categories in another order than the config its classes '
                f'{_quoted(classes)}: mmdet numbers them as the file does, so pictures of '
                'predictions carry the wrong names',
                'list the classes in the order of the file: '
                f'{_quoted(name for name in names if name in classes)}',
            )
    ids = sorted(item['id'] for item in categories if isinstance(item['id'], int))
    if ids and ids != list(range(1, len(ids) + 1)):
        add(
            'note',
            'category-ids',
            f'has category ids {ids[0]}..{ids[-1]} for {len(ids)} categories',
            'nothing to do: labels come from the names, so ids may start at 0 and have gaps',
        )


def _check_box(item: Mapping, image: Mapping, place: str, add) -> bool:
    """Whether mmdet keeps the object."""
    box = item['bbox']
    if len(box) != 4 or not all(isinstance(n, _NUMBER) and math.isfinite(n) for n in box):
        add('fatal', 'box-malformed', f'{place}: bbox {box} is not four numbers', EXPORT)
        return False
    x, y, width, height = box
    shown = f'{place}: box [{", ".join(f"{n:g}" for n in box)}]'
    dropped = 'the object is left out'
    form = 'boxes are x, y, width, height in pixels; correct it or take it out'
    if width < 0 or height < 0:
        add('warning', 'box-negative', f'{shown} has a negative side: {dropped}', form)
        return False
    if width < 1 or height < 1:
        add('warning', 'box-empty', f'{shown} is less than a pixel: {dropped}', form)
        return False
    right, bottom = x + width - image['width'], y + height - image['height']
    size = f'{image["width"]}x{image["height"]}'
    if x >= image['width'] or y >= image['height'] or x + width <= 0 or y + height <= 0:
        add('warning', 'box-outside', f'{shown} lies outside of {size}: {dropped}', form)
        return False
    if item['area'] <= 0:
        problem = f'{place}: area {item["area"]:g} is not positive: {dropped}'
        add('warning', 'area-not-positive', problem, 'write the area of mask or box')
        return False
    if max(-x, -y, right, bottom) > 1:
        add('warning', 'box-partly-outside', f'{shown} reaches out of {size}', form)
    return True


def _check_mask(item: Mapping, image: Mapping, place: str, add) -> None:
    mask = item.get('segmentation')
    if not mask:
        add(
            'fatal',
            'mask-absent',
            f'{place}: no segmentation, but the pipeline loads masks',
            'train a detector without masks, or take the object out',
        )
    elif isinstance(mask, Mapping):
        if mask.get('size') is None or not isinstance(mask.get('counts'), list | str):
            problem = f'{place}: RLE without size and counts: the object is left out'
            add('warning', 'mask-rle-incomplete', problem, 'encode the mask again')
        elif problem := _rle_problem(mask, image):
            add('fatal', 'mask-rle', f'{place}: RLE {problem}', 'encode the mask again')
    elif not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        add(
            'fatal',
            'mask-malformed',
            f'{place}: segmentation is neither a list of polygons [[x, y, ...], ...] nor RLE',
            EXPORT,
        )
    else:
        short = [polygon for polygon in mask if len(polygon) < 6 or len(polygon) % 2]
        if short:
            whole = len(short) == len(mask)
            add(
                'warning',
                'polygon-short',
                f'{place}: {len(short)} of {len(mask)} polygons are not three points or more: '
                + ('the object is left out' if whole else 'they are left out'),
                'draw them again or take them out',
            )


def _rle_problem(mask: Mapping, image: Mapping) -> str | None:
    size, counts = mask['size'], mask['counts']
    if size != [image['height'], image['width']]:
        return f'size {size} is not [height, width] of the image'
    if isinstance(counts, str):
        counts = _decode_counts(counts)
    if counts is None or any(not isinstance(n, int) or n < 0 for n in counts):
        return 'counts are not run lengths'
    if sum(counts) != size[0] * size[1]:
        return f'counts cover {sum(counts)} pixels of {size[0] * size[1]}'
    return None


def _decode_counts(text: str) -> list[int] | None:
    """Run lengths out of COCO's compressed form: 5 bits a character, differences from the third
    on."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return None if shift else counts


def _is_list_of_dicts(content: Mapping, key: str) -> bool:
    items = content.get(key)
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _quoted(names: Iterable[str]) -> str:
    names = list(names)
    more = f' and {len(names) - 10} more' if len(names) > 10 else ''
    return ', '.join(repr(name) for name in names[:10]) + more
