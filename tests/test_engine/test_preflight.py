import re

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmlab_inline.engine import check_data, check_pretrained, load_weights
from mmlab_inline.utils import UserError
from mmlab_inline.weights.released import RELEASED_WEIGHTS


def coco(root, **settings):
    dataset = dict(
        type='CocoDataset',
        data_root=str(root),
        ann_file='annotations/a.json',
        data_prefix=dict(img='images/'),
        **settings,
    )
    return Config(dict(train_dataloader=dict(dataset=dataset)))


def test_complete_data_pass(tmp_path):
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations/a.json').write_text('{}')
    (tmp_path / 'images').mkdir()
    check_data(coco(tmp_path), 'train', 'val')


def test_missing_root_is_named_with_its_source(tmp_path):
    with pytest.raises(UserError, match=r'absent is missing.*cocodataset\.org'):
        check_data(coco(tmp_path / 'absent'), 'train')


def test_missing_part_is_named(tmp_path):
    (tmp_path / 'images').mkdir()
    with pytest.raises(UserError, match=re.escape(str(tmp_path / 'annotations')) + ' is missing'):
        check_data(coco(tmp_path), 'train')


def test_wrapped_datasets_are_checked(tmp_path):
    inner = coco(tmp_path / 'absent').train_dataloader.dataset
    repeated = dict(type='RepeatDataset', dataset=dict(type='ConcatDataset', datasets=[inner]))
    with pytest.raises(UserError, match='absent'):
        check_data(Config(dict(val_dataloader=dict(dataset=repeated))), 'val')


def test_remote_data_are_left_alone():
    check_data(coco('s3://bucket/coco'), 'train')


def test_missing_weights_name_their_page(tmp_path):
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'inline_swin_base.pth'))
    cfg = Config(dict(model=dict(backbone=dict(init_cfg=init_cfg))))
    with pytest.raises(UserError, match=re.escape(RELEASED_WEIGHTS['inline_swin_base'])) as info:
        check_pretrained(cfg)
    command = f'tools/download_weights.py inline_swin_base --out {tmp_path}'
    assert command in str(info.value)
    (tmp_path / 'inline_swin_base.pth').touch()
    check_pretrained(cfg)


def test_unknown_missing_weights(tmp_path):
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'mine.pth'))
    with pytest.raises(UserError, match=r'mine\.pth does not exist.*--from-scratch'):
        check_pretrained(Config(dict(model=dict(init_cfg=init_cfg))))


def test_missing_weights_in_a_list(tmp_path):
    init_cfg = [dict(type='Pretrained', checkpoint=str(tmp_path / 'mine.pth'))]
    with pytest.raises(UserError, match=r'mine\.pth does not exist'):
        check_pretrained(Config(dict(model=dict(init_cfg=init_cfg))))


def test_url_of_weights():
    """Only the backbones here, which read files, refuse it."""
    init_cfg = dict(type='Pretrained', checkpoint='https://example.org/x.pth')
    check_pretrained(Config(dict(model=dict(backbone=dict(type='ResNet', init_cfg=init_cfg)))))
    for name in ('InLinePVT', 'mmlab_inline.InLineSwin'):
        cfg = Config(dict(model=dict(backbone=dict(type=name, init_cfg=init_cfg))))
        with pytest.raises(UserError, match=r'URL \(https://example\.org/x\.pth\): fetch the file'):
            check_pretrained(cfg)


def test_load_weights(tmp_path):
    path = tmp_path / 'a.pth'
    source, target = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save(dict(state_dict=source.state_dict(), meta=dict(epoch=1)), path)
    load_weights(target, str(path))
    assert torch.equal(source.weight, target.weight)


@pytest.mark.parametrize('other', [nn.Linear(2, 4), nn.Linear(2, 3, bias=False), nn.PReLU()])
def test_load_weights_of_another_model(tmp_path, other):
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict=other.state_dict()), path)
    model = nn.Linear(2, 3)
    before = model.weight.clone()
    with pytest.raises(UserError, match=r'a\.pth is of another model'):
        load_weights(model, str(path))
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', None, dict(epoch=3), [1]])
def test_load_weights_unreadable(tmp_path, content):
    path = tmp_path / 'a.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=r'a\.pth'):
        load_weights(nn.Linear(2, 3), str(path))
