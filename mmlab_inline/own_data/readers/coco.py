"""COCO instances, as exported by Roboflow, CVAT, Label Studio and others, in and out."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...datasets.checks.annotations import EXPORT
from ...utils import UserError, one_line, write_atomically
from .data import OwnData, Picture, identifier, make_object, number
from .folder import Folder, size_of

_LISTS = ('images', 'annotations', 'categories')


def find_coco(folder: Folder) -> dict[Path, dict]:
    """The files below a folder that hold COCO instances, with their content."""
    found = {}
    for path in folder.with_suffix('.json'):
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            raise UserError(f'{path} is no JSON; export it again or remove it') from None
        if isinstance(content, dict) and all(isinstance(content.get(k), list) for k in _LISTS):
            found[path] = content
    return found


def read_coco(folder: Folder, files: Mapping[Path, Mapping]) -> OwnData:
    """Read COCO instances.

    Splits come from the names of the files and of the folders that they lie in.

    Args:
        folder: Where the pictures lie too.
        files: As :func:`find_coco` returns them.

    Raises:
        UserError: The files contradict each other or are damaged, or pictures are missing.
    """
    splits = _one_file_per_split(folder, files)
    names = {}
    for path in splits.values():
        with _told_as_damage(path):
            names[path] = _names(files[path])
    classes = list(dict.fromkeys(name for found in names.values() for name in found.values()))
    data = OwnData(folder.root, 'COCO', classes, {})
    for split, path in splits.items():
        labels = {key: classes.index(name) for key, name in names[path].items()}
        with _told_as_damage(path):
            data.splits[split] = _read_pictures(folder, files[path], path, labels)
    return data


def write_coco(path: Path, data: OwnData, pictures: Sequence[Picture]) -> None:
    """Write COCO instances: ids from 1, classes in their order, files relative to the data.

    Raises:
        UserError: The file cannot be written.
    """
    images, annotations = [], []
    for image_id, picture in enumerate(pictures, 1):
        height, width = picture.size
        name = picture.path.relative_to(data.root).as_posix()
        images.append(dict(id=image_id, file_name=name, height=height, width=width))
        for item in picture.objects:
            item = dict(item)
            item.update(
                id=len(annotations) + 1, image_id=image_id, category_id=item.pop('label') + 1
            )
            annotations.append(item)
    categories = [dict(id=place, name=name) for place, name in enumerate(data.classes, 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    write_atomically(path, json.dumps(content).encode())


def _one_file_per_split(folder: Folder, files: Iterable[Path]) -> dict[str | None, Path]:
    chosen: dict[str | None, Path] = {}
    for path in files:
        split = folder.split_of(path, with_name=True)
        other = chosen.get(split)
        # COCO's own folder has key points beside the instances.
        if other is None or path.name.startswith('instances') > other.name.startswith('instances'):
            chosen[split] = path
        elif path.name.startswith('instances') == other.name.startswith('instances'):
            raise UserError(
                f'{folder.relative(other)} and {folder.relative(path)} both hold annotations of '
                f'{split or "an unnamed"} split; move one of them out of the folder'
            )
    if len(chosen) > 1 and None in chosen:
        raise UserError(
            f'{folder.relative(chosen[None])} belongs to no split, but others do; call it '
            'train.json, val.json or test.json, or move it out of the folder'
        )
    return chosen


@contextmanager
def _told_as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # content of a wrong kind fails in any way, in pycocotools too
        raise UserError(
            f'{path} is damaged ({one_line(error)} is what reading it gave); {EXPORT}'
        ) from None


def _names(content: Mapping) -> dict:
    """Names of the categories by their ids, in the order of these, without names of groups."""
    used = {identifier(item['category_id']) for item in content['annotations']}
    named: dict = {}
    for item in content['categories']:
        named.setdefault(identifier(item['id']), item)
    kept = {
        key: str(item['name'])
        for key, item in named.items()
        if key in used
        or not any(
            str(item['name']) in (str(other['name']), str(other.get('supercategory')))
            for other in named.values()
            if other is not item
        )
    }
    repeated = {name for name in kept.values() if list(kept.values()).count(name) > 1}
    if repeated:
        raise UserError(
            f'several categories are called {min(repeated)!r}; merge them where they were made'
        )
    return {key: kept[key] for key in sorted(kept, key=lambda key: (isinstance(key, str), key))}


def _read_pictures(
    folder: Folder, content: Mapping, path: Path, labels: Mapping[object, int]
) -> list[Picture]:
    pictures, missing = {}, []
    for image in content['images']:
        key = identifier(image['id'])
        if key in pictures:
            raise UserError(f'{path}: several images have the id {image["id"]!r}; {EXPORT}')
        found = folder.find_picture(str(image['file_name']), path)
        if found is None:
            missing.append(str(image['file_name']))
            continue
        what = f'{path}: the {{}} of image {image["id"]!r}'
        size = [
            int(number(image.get(side) or 0, what.format(side), EXPORT))
            for side in ('height', 'width')
        ]
        pictures[key] = Picture(found, tuple(size) if all(size) else size_of(found))
    folder.refuse_missing(missing, len(content['images']), folder.relative(path))
    for item in content['annotations']:
        what = f'{path}: annotation {item["id"]!r}'
        label = labels.get(identifier(item['category_id']))
        if label is None:
            raise UserError(
                f'{what} has category_id {item["category_id"]!r}, which the categories do not '
                f'have; {EXPORT}'
            )
        picture = pictures.get(identifier(item['image_id']))
        if picture is None:
            raise UserError(
                f'{what} is of image_id {item["image_id"]!r}, which the images do not have; '
                f'{EXPORT}'
            )
        box = _numbers(item.get('bbox') or [], f'{what}: a number of its bbox')
        mask = item.get('segmentation')
        if isinstance(mask, list):
            polygons = mask if not mask or isinstance(mask[0], list) else [mask]
            mask = [_numbers(polygon, f'{what}: a number of its polygon') for polygon in polygons]
        elif isinstance(mask, Mapping) and isinstance(mask['counts'], list):
            mask = {
                key: _numbers(mask[key], f'{what}: a number of its run lengths', int)
                for key in ('size', 'counts')
            }
        crowd = item.get('iscrowd') or 0
        crowd = int(crowd is True or number(crowd, f'{what}: iscrowd', EXPORT))
        made = make_object(label, picture.size, box, mask, crowd)
        if made:
            picture.objects.append(made)
    return list(pictures.values())


def _numbers(values: Iterable, what: str, kind: type = float) -> list:
    return [kind(number(value, what, EXPORT)) for value in values]
