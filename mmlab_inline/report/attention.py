"""What attentions do on photographs: maps over the photograph, figures, and a page of both."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..analysis.attention import ALONE, PAIRS, SAME, BlockLook, Figures
from .page import Page, paragraph, table

_EXPLANATIONS = (
    f'Confusion: share of {PAIRS} pairs of queries whose rows of weights are the same, which is '
    f'when they differ by at most {SAME:g} of their size (L1 norm).',
    'Locality: share of the absolute weights on the 3x3 tokens around the query; with the local '
    'part, the kernels of its convolution are added first.',
    'Masking: relative change of the output of the block (L2 norm) when the weights of the 3x3 '
    f'tokens are 0 and the rest of a row has its old sum; a rest below {ALONE:g} of it counts as '
    'nothing.',
)


@dataclass
class Photograph:
    """An image, and what is found on it.

    Attributes:
        name: What it is called.
        image: ``(H, W, 3)``, RGB.
        shape: (H, W) at which it stands in the backbone's input, in its upper left.
        figures: Of each block, by stage and index in it; None where there are no weights.
        maps: PNG files by name.
    """

    name: str
    image: np.ndarray
    shape: tuple[int, int]
    figures: list[tuple[BlockLook, Figures | None]] = field(default_factory=list)
    maps: dict[str, bytes] = field(default_factory=dict)

    def token(self, query: tuple[float, float], seen: BlockLook) -> int:
        """The token of a stage that a pixel (x, y) of the photograph lies in."""
        place = [
            int((at + 0.5) * inside / side / seen.stride)
            for at, inside, side in zip(query[::-1], self.shape, self.image.shape, strict=False)
        ]
        return place[0] * seen.hw_shape[1] + place[1]


def grid_of_queries(shape: Sequence[int], count: int) -> list[tuple[float, float]]:
    """Points (x, y) in ``count`` rows and columns, each in the middle of its part of the image."""
    rows, columns = (
        [int((index + 0.5) * side / count) for index in range(count)] for side in shape[:2]
    )
    return [(x, y) for y in rows for x in columns]


@torch.no_grad()
def draw_maps(
    photo: Photograph,
    query: tuple[float, float],
    looks: Sequence[BlockLook],
    per_head: bool = False,
) -> bytes:
    """A PNG of the weights of one query over the photograph, of the last block of each stage.

    Args:
        photo: Where to draw.
        query: Pixel (x, y).
        looks: The blocks to draw, a column each.
        per_head: Draw a row of maps a head in place of the mean.
    """
    rows = []
    for seen in looks:
        weights = seen.weights()
        row = weights.rows(torch.tensor([photo.token(query, seen)], device=seen.x.device))[0, :, 0]
        row = row if per_head else row.mean(0, keepdim=True)
        shape = weights.key_shape or seen.hw_shape
        # In units of what every key would have if all had the same; a class token has no place.
        row = (row * row.shape[1])[:, : math.prod(shape)]
        rows.append(row.unflatten(1, shape).float().cpu())
    height = max(map(len, rows))
    figure = Figure(figsize=(3.4 * len(looks), 3 * height + 0.4), layout='constrained')
    axes = figure.subplots(height, len(looks), squeeze=False)
    for column, (seen, heads) in enumerate(zip(looks, rows, strict=True)):
        for line, axis in enumerate(axes[:, column]):
            axis.set_axis_off()
            if line < len(heads):
                kind = f'head {line}' if per_head else 'mean of the heads'
                axis.set_title(f'stage {seen.stage + 1}, {seen.attention}, {kind}', fontsize=8)
                drawn = _overlay(axis, photo, heads[line], seen)
                axis.plot(*query, '+', color='black', ms=11, mew=3.5)
                axis.plot(*query, '+', color='white', ms=9, mew=1.5)
                figure.colorbar(drawn, ax=axis, shrink=0.7).ax.tick_params(labelsize=7)
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=80, metadata={'Software': None})
    return file.getvalue()


def _overlay(axis: object, photo: Photograph, weights: Tensor, seen: BlockLook) -> object:
    """Draw weights (H, W) where their tokens lie; signed ones in a diverging scale around 0."""
    height, width = photo.image.shape[:2]
    axis.imshow(photo.image.mean(-1), cmap='gray', vmin=0, vmax=255)
    # The tokens' edges in pixels of the photograph; those beyond it are padding.
    cell = seen.stride * getattr(seen.mixer, 'sr_ratio', 1)
    down, right = (
        cell * count * side / inside
        for count, side, inside in zip(weights.shape, photo.image.shape, photo.shape, strict=False)
    )
    values = weights.numpy()
    # From end to end, but for outliers, or weights that are all much the same would show nothing.
    low, high = np.quantile(values, (0.005, 0.995))
    signed = bool((values < 0).any())
    if signed:
        high = max(abs(low), abs(high))
        low = -high
    drawn = axis.imshow(
        values,
        cmap='RdBu_r' if signed else 'magma',
        vmin=low,
        vmax=max(high, low + 1e-6),
        alpha=0.65,
        extent=(-0.5, right - 0.5, down - 0.5, -0.5),
        interpolation='nearest',
    )
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    return drawn


def stage_rows(photos: Sequence[Photograph]) -> list[dict[str, object]]:
    """The figures of each stage, mean over its heads, blocks and the photographs.

    A stage with several attentions has a row for each.
    """
    groups: dict[tuple[int, str], list[Figures | None]] = {}
    for photo in photos:
        for seen, figures in photo.figures:
            groups.setdefault((seen.stage, seen.attention), []).append(figures)
    rows = []
    for (stage, attention), found in groups.items():
        names = Figures.__dataclass_fields__
        values = {name: [getattr(one, name) for one in found if one] for name in names}
        rows.append(
            dict(stage=stage + 1, attention=attention)
            | {name: _mean(some) for name, some in values.items()}
        )
    return rows


def stage_table(photos: Sequence[Photograph]) -> tuple[list[str], list[list[object]]]:
    """Headings, and :func:`stage_rows` in percent."""
    headings = ['confusion, %', 'locality, %', 'with local part, %', 'masking, %']
    lines = [
        [100 * value if isinstance(value, float) else value for value in row.values()]
        for row in stage_rows(photos)
    ]
    return ['stage', 'attention', *headings], lines


def as_json(photos: Sequence[Photograph]) -> dict:
    """All figures: of the stages, and of each block and head of each photograph."""
    return dict(
        pairs=PAIRS,
        same=SAME,
        stages=stage_rows(photos),
        photographs={
            photo.name: [
                dict(stage=seen.stage + 1, block=seen.index + 1, attention=seen.attention)
                | dict(map=list(seen.hw_shape), figures=figures and asdict(figures))
                for seen, figures in photo.figures
            ]
            for photo in photos
        },
    )


def attention_page(title: str, facts: Sequence[str], photos: Sequence[Photograph]) -> str:
    """A page of HTML with the figures and all maps."""
    page = Page(title, facts)
    page.add(
        'Figures',
        table(*stage_table(photos)),
        *(paragraph(text, faint=True) for text in (*_EXPLANATIONS, *remarks(photos))),
    )
    for photo in photos:
        images = [_figure(name, file) for name, file in photo.maps.items()]
        note = paragraph(
            'Weights of the query at the cross, in the last block of each stage; 1 is what every '
            'key would have if all had the same. Red and blue are signed weights.',
            faint=True,
        )
        page.add(photo.name, note, *images)
    return page.html()


def remarks(photos: Sequence[Photograph]) -> list[str]:
    """Lines about stages without some figures."""
    lines = []
    for row in stage_rows(photos):
        where = f'stage {row["stage"]}: {row["attention"]}'
        if row['confusion'] is None and row['locality'] is None:
            lines.append(f'{where} has no weights over tokens.')
        elif row['locality'] is None:
            lines.append(
                f'{where} has keys of several tokens each, hence neither locality nor masking.'
            )
    return lines


def _figure(name: str, png: bytes) -> str:
    source = f'data:image/png;base64,{base64.b64encode(png).decode()}'
    name = escape(name)
    return (
        f'<figure><figcaption>{name}</figcaption>'
        f'<img alt="{name}" style="max-width: 100%" src="{source}"></figure>'
    )


def _mean(values: Sequence[object]) -> float | None:
    """Of numbers, and of lists of them; None where there is none."""
    flat = [
        number
        for value in values
        if value is not None
        for number in (value if isinstance(value, list) else [value])
    ]
    return float(np.mean(flat)) if flat else None
