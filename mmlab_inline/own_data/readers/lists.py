"""Text files that list the pictures of a split, and what several of them mean together."""

from collections.abc import Mapping
from pathlib import Path

from ...utils import UserError, counted
from .data import OwnData
from .folder import Folder, read_lines
from .names import SPLITS, list_split, normal


def read_lists(folder: Folder, kind: str, notes: list[str]) -> dict[Path, str]:
    """Split of each picture that a list such as train.txt, validation.txt or trainval.txt names.

    Args:
        folder: Where lists and pictures lie.
        kind: Folder below ImageSets whose lists count; where it is absent, those anywhere.
        notes: Gains what the user should know.

    Raises:
        UserError: No line of a list is a picture.
    """
    found: dict[str, list[Path]] = {'own': [], 'other': []}
    for path in folder.with_suffix('.txt'):
        *_, above, last = ('', '', *map(normal, folder.folders_of(path)))
        if list_split(path.stem) and (above != 'imagesets' or last == normal(kind)):
            found['own' if above == 'imagesets' else 'other'].append(path)
    members: dict[str, set[Path]] = {}
    for path in found['own'] or [p for p in found['other'] if not folder.has(p.stem)]:
        members.setdefault(list_split(path.stem), set()).update(
            listed_pictures(folder, path, notes)
        )
    return assign(members, notes)


def listed_pictures(folder: Folder, path: Path, notes: list[str]) -> set[Path]:
    """The pictures that a list names, a line each: a name or path, with suffix or not.

    Raises:
        UserError: No line is a picture.
    """
    lines = [line.strip().strip('"') for line in read_lines(path)]
    # A name may hold blanks, or be followed by a flag.
    found = {
        line: folder.find_picture(line, path) or folder.find_picture(line.split()[0], path)
        for line in lines
        if line.split()
    }
    missing = [line for line, picture in found.items() if picture is None]
    if missing and len(missing) == len(found):
        raise UserError(
            f'{folder.relative(path)} lists {counted(len(found), "picture")}, none of which is '
            f'below {folder.root}, such as {missing[0]}; correct the list or remove it'
        )
    if missing:
        notes.append(
            f'{folder.relative(path)} lists {len(missing)} of {len(found)} pictures that are not '
            f'there, such as {missing[0]}'
        )
    return set(found.values()) - {None}


def assign(members: Mapping[str, set[Path]], notes: list[str]) -> dict[Path, str]:
    """One split for each picture, out of the pictures of ``SPLITS`` and of ``'trainval'``.

    What is in two of them belongs to test, else to the smaller one.
    """
    members = {split: pictures for split, pictures in members.items() if pictures}
    both = members.pop('trainval', set()) - set().union(*members.values())
    if both and not {'train', 'val'} <= members.keys():
        members['val' if 'train' in members else 'train'] = both
    same = [split for split in SPLITS if members.get(split) == members.get('train')]
    if 'train' in members and len(same) > 1:
        notes.append(f'{" and ".join(same)} name the same pictures: split anew')
        members = {split: pictures for split, pictures in members.items() if split not in same}
    splits = {}
    for split in sorted(members, key=lambda name: (name == 'test', -len(members[name]))):
        splits |= dict.fromkeys(members[split], split)
    twice = sum(map(len, members.values())) - len(splits)
    if twice:
        notes.append(f'pictures in several splits: {twice}; each counts in one of them')
    return splits


def split_by_lists(data: OwnData, folder: Folder, kind: str) -> None:
    """Put pictures into the splits that a description or lists name, where there is one.

    Args:
        data: The data, in the splits that the names of folders and files tell; altered.
        folder: Where they lie.
        kind: As in :func:`read_lists`.

    Raises:
        UserError: No line of a list is a picture.
    """
    if data.format == 'COCO' and data.splits.keys() - {None}:
        return  # a file for each split
    splits = data.listed
    splits = read_lists(folder, kind, data.notes) if splits is None else splits
    if not splits:
        return
    told, data.splits = data.splits, {}
    whole = 'train' in splits.values()
    for split, pictures in told.items():
        for picture in pictures:
            chosen = splits.get(picture.path, None if whole else split)
            data.splits.setdefault(chosen, []).append(picture)
    if whole and None in data.splits:
        data.notes.append(
            f'pictures in no list of {"the .yaml" if data.listed else f"ImageSets/{kind}"}, left '
            f'out: {len(data.splits.pop(None))}'
        )
