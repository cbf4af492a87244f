"""Parting pictures into training and evaluation."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ...utils import UserError, counted
from .data import OwnData, Picture

# Shuffles to choose from; fewer where there are many pictures, which need it less.
_TRIES = 1000
_LEAST_TRIES, _PICTURES_SHUFFLED = 20, 200_000


def arrange_splits(data: OwnData, share: float, seed: int = 0, anew: bool = False) -> list[str]:
    """Give data a train and a val split, and keep a test split, by altering ``data.splits``.

    Splits of the folder are kept if they have pictures to train and to evaluate on; a test split
    stands in for val. Else the pictures are parted by :func:`split_pictures`, without those of the
    test split.

    Args:
        data: The data.
        share: Part of the pictures to evaluate on, where they are parted.
        seed: The same seed gives the same split.
        anew: Part them even if the folder has splits.

    Returns:
        What the user should know.

    Raises:
        UserError: There are not two different pictures.
    """
    splits, notes = data.splits, []
    if not anew and None in splits and 'train' not in splits and 'val' in splits:
        splits['train'] = splits.pop(None)
        notes.append('there is no train split: the pictures in no split are trained on')
    if not anew and 'train' in splits and splits.keys() & {'val', 'test'} and splits['train']:
        outside = splits.pop(None, [])
        if outside:
            notes.append(f'pictures in no split, left out: {len(outside)}')
        if 'val' not in splits:
            splits['val'] = splits.pop('test')
            notes.append('there is no val split: test is evaluated while training')
        pictures = [*splits['train'], *splits['val']]
        boundary = len(splits['train'])
        leaks = sum(g[0] < boundary <= g[-1] for g in exact_duplicates(pictures))
        if leaks:
            notes.append(
                f'pictures in both train and val: {leaks}; the metrics flatter, --new-split parts '
                'them anew'
            )
        return notes
    tests = {} if anew or 'test' not in splits else {'test': splits.pop('test')}
    pictures = list(data.pictures())
    if tests and not pictures:
        raise UserError(
            f'all pictures of {data.root} are called test; --new-split parts them all the same'
        )
    train, val = split_pictures(pictures, len(data.classes), share, seed)
    if not val:
        raise UserError(
            f'{data.root} has {counted(len(pictures), "annotated picture")} that differ; at least '
            'two are needed, one to train and one to evaluate on'
        )
    data.splits = {'train': train, 'val': val, **tests}
    return [*notes, f'split anew, seed {seed}: held out are {len(val)} of {len(pictures)} pictures']


def split_pictures(
    pictures: Sequence[Picture], num_classes: int, share: float, seed: int = 0
) -> tuple[list[Picture], list[Picture]]:
    """Part pictures so that both sides are alike.

    Of up to 1000 shuffles the one is taken that leaves the fewest classes without a picture to
    train on, then the fewest without one to evaluate on, and then comes nearest to ``share`` in
    every class. Copies of one file stay on one side.

    Args:
        pictures: All of them.
        num_classes: Number of classes.
        share: Part of the pictures to evaluate on, in 0..1.
        seed: The same seed gives the same split.

    Returns:
        Pictures to train on and to evaluate on, each in their order; none to evaluate on if no
        two differ.
    """
    copies = exact_duplicates(pictures)
    twins = {index: group[0] for group in copies for index in group}
    groups = defaultdict(list)
    for index in range(len(pictures)):
        groups[twins.get(index, index)].append(index)
    groups = list(groups.values())
    amounts = np.zeros((len(pictures), num_classes))
    for index, picture in enumerate(pictures):
        for label, amount in picture.amounts().items():
            amounts[index, label] = amount
    total = amounts.sum(0)
    wanted = max(1, round(share * len(pictures)))
    generator = random.Random(seed)
    best, best_cost = np.zeros(len(pictures), bool), (np.inf,)
    for _ in range(min(_TRIES, max(_LEAST_TRIES, _PICTURES_SHUFFLED // len(pictures)))):
        generator.shuffle(groups)
        held_out = np.zeros(len(pictures), bool)
        for group in groups[:-1]:  # one stays for training
            if held_out.sum() + len(group) <= wanted or not held_out.any():
                held_out[group] = True
            if held_out.sum() >= wanted:
                break
        held = amounts[held_out].sum(0)[total > 0] / total[total > 0]
        cost = (held == 1).sum(), (held == 0).sum(), np.abs(held - share).sum()
        if cost < best_cost:
            best, best_cost = held_out, cost
    train = [picture for picture, out in zip(pictures, best, strict=True) if not out]
    val = [picture for picture, out in zip(pictures, best, strict=True) if out]
    return train, val


def exact_duplicates(pictures: Sequence[Picture]) -> list[list[int]]:
    """Positions of pictures whose files are the same byte by byte, in groups of two and more."""
    by_size = defaultdict(list)
    for index, picture in enumerate(pictures):
        by_size[picture.path.stat().st_size].append(index)
    by_content = defaultdict(list)
    for group in by_size.values():
        for index in group if len(group) > 1 else ():
            content = pictures[index].path.read_bytes()
            by_content[hashlib.sha256(content).digest()].append(index)
    return [group for group in by_content.values() if len(group) > 1]
