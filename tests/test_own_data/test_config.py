"""Scale, anchors and schedule that follow from the data, and the contact sheet."""

import numpy as np
import pytest
from PIL import Image

from mmlab_inline.inference import class_colours, pictures
from mmlab_inline.own_data import (
    DetectionRecipe,
    ObjectSizes,
    SegmentationRecipe,
    draw_contact_sheet,
    find_base,
)
from mmlab_inline.own_data.config_file import _source
from mmlab_inline.own_data.contact_sheet import choose_pictures
from mmlab_inline.own_data.readers import OwnData, Picture
from mmlab_inline.own_data.readers.data import make_object
from mmlab_inline.own_data.recipe import (
    choose_epochs,
    scale_pipeline,
    scale_schedulers,
    vary_more,
)
from mmlab_inline.utils import UserError

pytest.importorskip('mmdet')
pytest.importorskip('mmseg')

BASE = (1333, 800)
RPN = dict(scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64])
RETINA = dict(
    octave_base_scale=4, scales=None, ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]
)


def sizes(small, tenth, large, short=600, long=800, aspects=(0.6, 1.6)):
    return ObjectSizes((small, tenth, (tenth + large) / 2, large), aspects, short, long)


def test_sizes_are_measured():
    boxes = [(10 * n, 40 * n) for n in range(1, 21)]  # 20 n on a side by area, four times as high
    objects = [make_object(0, (300, 900), (0, 0, *box)) for box in boxes]
    objects.append(make_object(0, (300, 900), (0, 0, 900, 300), iscrowd=1))
    measured = ObjectSizes.of(
        [Picture(None, (300, 900), objects), Picture(None, (900, 300))], False
    )
    assert measured.percentiles == pytest.approx((39, 58, 210, 381))
    assert measured.aspects == pytest.approx((4, 4))
    assert (measured.short, measured.long) == (300, 900)


@pytest.mark.parametrize(
    ('tenth', 'short', 'expected'),
    [
        (64, 640, 640),  # as large as it should be: the picture's own size
        (76, 600, 512),
        (200, 600, 480),  # never less than COCO's smallest training size
        (20, 600, 800),  # nor more than its largest ...
        (20, 3000, 1600),  # ... unless nothing would be left of the objects
        (20, 1200, 960),
        (5, 600, 800),
    ],
)
def test_detection_scale(tenth, short, expected):
    recipe = DetectionRecipe.of(sizes(tenth * 0.9, tenth, tenth * 2, short, short), BASE)
    assert recipe.scale == (round(expected * 1333 / 800), expected)
    assert recipe.factor == pytest.approx(expected / short)


def test_the_long_side_may_bind():
    recipe = DetectionRecipe.of(sizes(60, 64, 90, short=800, long=2666), BASE, 800)
    assert recipe.factor == pytest.approx(0.5)


@pytest.mark.parametrize(
    ('generator', 'small', 'large', 'aspects', 'expected'),
    [
        (RPN, 32, 400, (0.5, 2), {}),
        (RPN, 24, 400, (0.5, 2), {}),
        (RPN, 12, 150, (0.5, 2), {'scales': [3]}),  # 12 to 192
        (RPN, 12, 500, (0.5, 2), {'scales': [3, 8]}),
        (RPN, 3, 100, (0.5, 2), {'scales': [2]}),
        (RPN, 40, 400, (0.2, 5), {'ratios': [0.25, 0.5, 1.0, 2.0, 4.0]}),
        (RETINA, 16, 400, (0.5, 2), {'octave_base_scale': 2}),
        (RETINA, 32, 400, (0.5, 4), {'ratios': [0.5, 1.0, 2.0, 4.0]}),
    ],
)
def test_anchors(generator, small, large, aspects, expected):
    measured = sizes(small, small, large, 800, 800, aspects)
    assert DetectionRecipe((1333, 800), 1.0, '').anchors(generator, measured) == expected


@pytest.mark.parametrize(
    ('tenth', 'short', 'expected'),
    [(32, 480, (480, 480)), (10, 480, (512, 512)), (8, 2000, (1024, 512)), (400, 480, (256, 256))],
)
def test_segmentation_scale(tenth, short, expected):
    recipe = SegmentationRecipe.of(sizes(tenth, tenth, 300, short))
    assert (recipe.short, recipe.crop) == expected


def test_epochs():
    assert [choose_epochs(n, 12, None)[0] for n in (10, 240, 1000, 2000, 10**5)] == [
        100,
        100,
        24,
        12,
        12,
    ]
    assert choose_epochs(10, 12, 3)[0] == 3
    assert choose_epochs(10**5, 126.7, None)[0] == 100


def test_schedules_are_stretched():
    by_epoch = [
        dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
    ]
    warm_up, steps = scale_schedulers(by_epoch, dict(max_epochs=12), 48, 1000)
    assert warm_up['end'] == 100
    assert (steps['begin'], steps['end'], steps['milestones']) == (0, 48, [32, 44])
    assert by_epoch[0]['end'] == 500
    by_iteration = [
        dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
        dict(type='PolyLR', power=1.0, begin=1500, end=160000, by_epoch=False),
    ]
    warm_up, poly = scale_schedulers(by_iteration, dict(max_iters=160000), 700, 700)
    assert (warm_up['end'], poly['begin'], poly['end']) == (70, 70, 700)


def test_pipelines_are_scaled_at_any_depth():
    pipeline = [
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(
            type='RandomChoice',
            transforms=[[dict(type='RandomChoiceResize', scales=[(480, 1333), (800, 1333)])]],
        ),
        dict(type='RandomCrop', crop_size=(384, 600)),
    ]
    scaled = scale_pipeline(pipeline, 0.5)
    assert scaled[0]['scale'] == (666, 400)
    assert scaled[1]['transforms'][0][0]['scales'] == [(240, 666), (400, 666)]
    assert scaled[2]['crop_size'] == (192, 300)
    assert pipeline[0]['scale'] == (1333, 800)


def test_bases_are_found_by_name(tmp_path):
    name, _ = find_base('mask-rcnn_inline-pvt-s_fpn_1x_coco')
    assert name == 'mmlab_inline::detection/inline_pvt/mask-rcnn_inline-pvt-s_fpn_1x_coco.py'
    with pytest.raises(UserError, match=r'did you mean .*inline-pvt-s'):
        find_base('mask-rcnn_inlinepvt-s_fpn_1x_coco')
    (tmp_path / 'own.py').write_text('a = 1\n')
    assert find_base(str(tmp_path / 'own.py'))[0] == str(tmp_path / 'own.py')


def test_pictures_of_rare_classes_are_chosen():
    def picture(*labels):
        objects = [make_object(label, (9, 9), (0, 0, 4, 4)) for label in labels]
        return Picture(None, (9, 9), objects)

    pictures = [picture(0) for _ in range(30)] + [picture(1), picture(0, 2)]
    chosen = choose_pictures(pictures, 3)
    assert {label for item in chosen for label in item.amounts()} == {0, 1, 2}
    assert chosen == choose_pictures(pictures, 3)


def test_contact_sheet_shows_boxes_where_they_are(tmp_path):
    Image.new('RGB', (480, 360), 'white').save(tmp_path / 'a.png')
    item = make_object(0, (360, 480), (100, 120, 200, 150))
    picture = Picture(tmp_path / 'a.png', (360, 480), [item])
    data = OwnData(tmp_path, 'COCO', ['x'], {'train': [picture], 'val': [picture]})
    draw_contact_sheet(tmp_path / 'sheet.png', data, False)
    sheet = np.array(Image.open(tmp_path / 'sheet.png'))[8:, 8:]
    drawn = (sheet == class_colours(1)[0]).all(-1)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    assert abs(rows.max() - 270) <= 2
    assert abs(columns.min() - 100) <= 2
    assert abs(columns.max() - 300) <= 2
    assert 95 <= rows.min() <= 121  # its name is written above the box


@pytest.mark.parametrize(
    'value',
    [
        tuple(f"it's {'long, ' * number}name" for number in range(30)),
        ('x',),
        (),
        dict(a=[(1, 2, 3)] * 40, b={'not an identifier': None, 'c': (1.5,)}),
        [[dict(type='A', scales=[(480, 1333)] * 20)], 'b', -1e-6],
    ],
)
def test_settings_are_written_as_python(value):
    text = _source(value)
    assert eval(text) == value
    assert "it's" in text or max(map(len, text.splitlines())) <= 100


def test_a_step_at_the_end_is_left_out():
    steps = dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)
    (short,) = scale_schedulers([steps], dict(max_epochs=12), 3, 30)
    assert (short['milestones'], short['end']) == ([2], 3)
    assert scale_schedulers([steps], dict(max_epochs=12), 1, 30) == []


def test_few_pictures_vary_more():
    plain = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(1333, 800), keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
    ]
    varied = scale_pipeline(vary_more(plain, (0.5, 1.5)), 0.5)
    assert [step['type'] for step in varied] == [
        *('LoadImageFromFile', 'PhotoMetricDistortion', 'RandomResize', 'RandomCrop', 'RandomFlip')
    ]
    assert varied[2]['scale'] == (666, 400)
    assert varied[3]['crop_size'] == (666, 666)
    assert vary_more(varied, (0.5, 1.5)) is None


CHINESE = '干净'


def test_names_without_letters_become_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, '_system_fonts', list)
    Image.new('RGB', (480, 360), 'white').save(tmp_path / f'{CHINESE}.png')
    item = make_object(1, (360, 480), (100, 120, 200, 150))
    picture = Picture(tmp_path / f'{CHINESE}.png', (360, 480), [item])
    for name, numbers in ((CHINESE, {1: CHINESE}), ('1', {})):
        data = OwnData(tmp_path, 'COCO', ['x', name], {'train': [picture], 'val': [picture]})
        assert draw_contact_sheet(tmp_path / f'{len(numbers)}.png', data, False) == numbers
        said = pictures.legend(numbers)
        assert said.endswith(f'in their place: 1 {CHINESE}') if numbers else said == ''
    # The number itself is drawn, not an empty square.
    assert (tmp_path / '0.png').read_bytes() == (tmp_path / '1.png').read_bytes()


def test_a_font_of_the_system_is_taken_for_other_letters(monkeypatch):
    other = pictures._FONT.with_name('STIXGeneral.ttf')
    fonts = [str(pictures._FONT.with_name('cmb10.ttf')), str(other), __file__]
    monkeypatch.setattr(pictures, '_system_fonts', lambda: fonts)
    letter = min(pictures._letters(other) - pictures._letters(pictures._FONT))
    assert pictures.font_for('abc')[0] == pictures._FONT
    assert pictures.font_for(f'a{letter}') == (other, set())
    assert pictures.Painter([f'a{letter}'], class_colours(1)).numbers == {}


@pytest.mark.parametrize('name', ['background', '_background_', 'Background'])
def test_the_background_stays_clear(name):
    labels = np.zeros((480, 480), np.uint8)
    labels[:100] = 1
    image = np.random.RandomState(0).randint(0, 256, (480, 480, 3)).astype(np.uint8)
    drawn = pictures.Painter([name, 'x'], class_colours(2)).draw(image, labels)
    assert (drawn[101:] == image[101:, :, ::-1]).all()
    assert (drawn[:99] != image[:99, :, ::-1]).mean() > 0.9
    drawn = pictures.Painter(['ground', 'x'], class_colours(2)).draw(image, labels)
    assert (drawn[101:] != image[101:, :, ::-1]).mean() > 0.9


def test_text_grows_with_the_picture():
    heights = [
        pictures._Texts(np.zeros((9, side, 3), np.uint8), pictures._FONT).height
        for side in (480, 1200, 4800)
    ]
    assert heights[2] > 3 * heights[1] > 3 * heights[0]
