"""Which format a folder is in."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from ...utils import UserError, counted
from .coco import find_coco, read_coco
from .data import OwnData, complete_masks, listed
from .folder import Folder
from .label_maps import read_label_maps, to_label_maps
from .label_names import IGNORED, Names, read_names
from .lists import split_by_lists
from .voc import find_voc, read_voc
from .yolo import find_yolo, read_yolo

_OBJECTS = {
    'coco': (find_coco, read_coco),
    'yolo': (find_yolo, read_yolo),
    'voc': (find_voc, read_voc),
}
_DIALECTS = {'yolo-polygons': 'polygons', 'yolo-pose': 'pose'}
_LAYOUT = (
    'photographs in a folder such as images, img_dir, JPEGImages or leftImg8bit, label maps of the '
    'same names in one such as masks, labels, annotations, ann_dir, SegmentationClass or gtFine'
)


def read_folder(
    root: str | Path,
    task: str,
    form: str | None = None,
    classes: list[str] | None = None,
    zero: str | None = None,
    keep_empty: bool = False,
    keep_masks: bool = False,
    images: str | None = None,
    label_maps: str | None = None,
) -> OwnData:
    """Read a folder, whatever format it is in.

    Args:
        root: The folder.
        task: ``'det'``, or ``'seg'``: label maps, or objects with masks if there are none.
        form: One of :data:`~mmlab_inline.choices.DATA_FORMATS`; None: the one that is there.
        classes: Names in place of those in the folder, in the order of their labels; for label
            maps also one file of names.
        zero: For label maps, as in :func:`resolve_coding`.
        keep_empty: Keep classes without any object or pixel.
        keep_masks: Where some objects have a mask, take the boxes of the others for theirs.
        images: Folder of the photographs; None: by the names of the folders.
        label_maps: Folder of the label maps; None: by the names of folders and files.

    Raises:
        UserError: Nothing or too much is there, or it cannot be read.
    """
    roles = {label_maps: 'label map', images: 'photograph'}
    folder = Folder(root, {name: role for name, role in roles.items() if name})
    maps = folder.label_maps() if task == 'seg' and form in (None, 'label-maps') else {}
    if maps:
        data = read_label_maps(folder, maps, _given_names(classes), zero)
    else:
        data = _read_objects(folder, task, form)
        if classes:
            if len(classes) != len(data.classes):
                raise UserError(
                    f'--classes has {counted(len(classes), "name")}, the data '
                    f'{counted(len(data.classes), "class")}: '
                    f'{", ".join(data.classes)}'
                )
            data.classes = list(classes)
    split_by_lists(data, folder, 'Segmentation' if maps else 'Main')
    data.notes[:0] = folder.notes
    pictures = list(data.pictures())
    if not any(picture.amounts() for picture in pictures):
        raise UserError(
            f'none of the {len(pictures)} pictures of {data.root} has any object; annotate some'
        )
    if not keep_empty:
        data = _without_empty(data)
    complete_masks(data, keep_masks)
    if task == 'seg' and not maps:
        data = to_label_maps(data)
    if task == 'seg' and len(data.classes) > IGNORED:
        raise UserError(f'{len(data.classes)} classes do not fit into label maps of 8 bits')
    return data


def _read_objects(folder: Folder, task: str, form: str | None) -> OwnData:
    dialect = _DIALECTS.get(form)
    form = 'yolo' if dialect else form
    found = {
        name: files
        for name, (find, _) in _OBJECTS.items()
        if form in (None, name) and (files := find(folder))
    }
    if len(found) > 1:
        places = ', '.join(
            f'{name} ({folder.relative(next(iter(f)))})' for name, f in found.items()
        )
        raise UserError(f'{folder.root} holds several formats: {places}; choose one by --format')
    if not found:
        if task == 'det' and any(folder.label_maps().values()):
            raise UserError(
                f'{folder.root} holds label maps, which do not tell objects apart; use --task seg'
            )
        looked = form or (
            'annotations as COCO (.json with images, annotations and categories), YOLO (.txt), '
            'Pascal VOC (.xml)'
        )
        raise UserError(
            f'{folder.root} holds {counted(len(folder.pictures), "picture")} but no {looked}; '
            + (
                f'put {_LAYOUT}, or name the two by --images and --label-maps'
                if task == 'seg' and form in (None, 'label-maps')
                else 'export the annotations as COCO into it'
            )
        )
    ((name, files),) = found.items()
    return read_yolo(folder, files, dialect) if name == 'yolo' else _OBJECTS[name][1](folder, files)


def _given_names(classes: list[str] | None) -> Names | None:
    if classes and len(classes) == 1 and Path(classes[0]).is_file():
        return read_names(Path(classes[0]))
    return classes


def _without_empty(data: OwnData) -> OwnData:
    """Without classes that no picture shows: nothing can be learned of them."""
    used = {label for picture in data.pictures() for label in picture.amounts()}
    used |= {item['label'] for picture in data.pictures() for item in picture.objects}
    if len(used) == len(data.classes):
        return data
    empty = [name for label, name in enumerate(data.classes) if label not in used]
    kept = [label for label in range(len(data.classes)) if label in used]
    position = {label: new for new, label in enumerate(kept)}
    position[IGNORED] = IGNORED
    for picture in data.pictures():
        for item in picture.objects:
            item['label'] = position[item['label']]
        picture.pixels = Counter({position[old]: n for old, n in picture.pixels.items()})
    note = f'classes that nothing shows, left out: {listed(empty)}; --keep-empty keeps them'
    coding = {value: position[label] for value, label in data.coding.items() if label in position}
    classes = [data.classes[label] for label in kept]
    return replace(data, classes=classes, coding=coding, notes=[*data.notes, note])
