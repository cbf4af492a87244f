import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData, PixelData
from PIL import Image

from mmlab_inline.report import ReportHook


@pytest.fixture
def write_log(tmp_path):
    """Writes what mmengine logs: a start of the run, and the entries it logged."""

    def write(start, *entries, work_dir=tmp_path, torn=''):
        folder = work_dir / start / 'vis_data'
        folder.mkdir(parents=True)
        text = ''.join(json.dumps(entry) + '\n' for entry in entries)
        (folder / 'scalars.json').write_text(text + torn)

    return write


class Dataset:
    """Of noise images in files."""

    def __init__(self, folder, sizes, meta):
        self.metainfo = meta
        self.infos = []
        for number, (height, width) in enumerate(sizes):
            path = folder / f'{number}.png'
            noise = np.random.default_rng(number).integers(0, 255, (height, width, 3))
            Image.fromarray(noise.astype(np.uint8)).save(path)
            self.infos.append(dict(img_id=number, img_path=str(path)))

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return self.infos[index]


@pytest.fixture
def evaluate(tmp_path, caplog):
    """Lets a ReportHook listen to an evaluation of given results; runs as mmengine's loop does."""

    def run(metric, dataset, samples, scope, **settings):
        evaluator = Evaluator(metric)
        evaluator.dataset_meta = dataset.metainfo
        loop = SimpleNamespace(evaluator=evaluator, dataloader=SimpleNamespace(dataset=dataset))
        logger = logging.getLogger('report')
        runner = SimpleNamespace(
            val_loop=loop,
            cfg=Config(dict(default_scope=scope)),
            experiment_name='<noise>',
            work_dir=str(tmp_path / 'run'),
            logger=logger,
            iter=7,
        )
        hook = ReportHook(**settings)
        with caplog.at_level(logging.INFO, 'report'):
            hook.before_val_epoch(runner)
            for index, sample in enumerate(samples):
                hook.before_val_iter(runner, index)
                evaluator.process([sample])
                hook.after_val_iter(runner, index, outputs=[sample])
            metrics = evaluator.evaluate(len(dataset))
            hook.after_val_epoch(runner, metrics)
        path = tmp_path / 'run/report.json'
        return metrics, json.loads(path.read_text()) if path.is_file() else None

    return run


@pytest.fixture
def evaluate_label_maps(tmp_path, evaluate):
    """Evaluates random label maps, right at three quarters of the pixels; also what they are."""
    IoUMetric = pytest.importorskip('mmseg.evaluation').IoUMetric
    SegDataSample = pytest.importorskip('mmseg.structures').SegDataSample

    def run(num_classes, num_images=6, size=(40, 60), with_logits=True, num_pictures=0, **settings):
        draw = torch.Generator().manual_seed(1)
        classes = tuple(f'class <{number}>' for number in range(num_classes))
        dataset = Dataset(tmp_path, [size] * num_images, dict(classes=classes))
        samples = []
        for info in dataset.infos:
            truth = torch.randint(num_classes, (1, *size), generator=draw)
            logits = torch.randn(num_classes, *size, generator=draw)
            hint = torch.rand(1, *size, generator=draw) < 0.75
            logits.scatter_add_(0, truth, 3.0 * hint)
            predicted = logits.argmax(0, keepdim=True)
            truth[torch.rand(1, *size, generator=draw) < 0.1] = 255
            sample = SegDataSample(metainfo=dict(img_path=info['img_path']))
            sample.set_data(
                dict(gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=predicted))
            )
            if with_logits:
                sample.set_data(dict(seg_logits=PixelData(data=logits)))
            samples.append(sample)
        settings['num_pictures'] = num_pictures
        return *evaluate(IoUMetric(), dataset, samples, 'mmseg', **settings), samples

    return run


@pytest.fixture
def evaluate_objects(tmp_path, evaluate):
    """Evaluates random boxes and masks: of each image some are found, moved, mistaken or missed."""
    CocoMetric = pytest.importorskip('mmdet.evaluation').CocoMetric
    DetDataSample = pytest.importorskip('mmdet.structures').DetDataSample

    def run(num_classes, num_images=6, size=(100, 140), find=True, **settings):
        draw = np.random.default_rng(2)
        classes = tuple(f'class <{number}> $x_{{$' for number in range(num_classes))
        dataset = Dataset(tmp_path, [size] * num_images, dict(classes=classes))
        content = dict(
            images=[
                dict(id=i['img_id'], file_name='', height=size[0], width=size[1])
                for i in dataset.infos
            ],
            categories=[dict(id=n + 5, name=name) for n, name in enumerate(classes)],
            annotations=[],
        )
        samples = []
        for info in dataset.infos:
            found = []
            for _ in range(draw.integers(1, 9)):
                x, y, width, height = draw.integers((0, 0, 12, 12), (100, 60, 40, 40)).tolist()
                label = int(draw.integers(num_classes))
                box = [x, y, x + width, y + height]
                corners = [x, y, x + width, y, x + width, y + height, x, y + height]
                content['annotations'].append(
                    dict(
                        id=len(content['annotations']) + 1,
                        image_id=info['img_id'],
                        category_id=label + 5,
                        bbox=[x, y, width, height],
                        area=width * height,
                        segmentation=[corners],
                        iscrowd=0,
                    )
                )
                if draw.random() < 0.8:
                    moved = np.clip(np.array(box) + draw.integers(-4, 5, 4), 0, None)
                    guess = label if draw.random() < 0.8 else int(draw.integers(num_classes))
                    found.append((moved, guess, draw.random()))
            found = found if find else []
            masks = torch.zeros(len(found), *size, dtype=torch.bool)
            for mask, (box, *_) in zip(masks, found, strict=True):
                left, top, right, bottom = box
                mask[top:bottom, left:right] = True
            sample = DetDataSample(metainfo=dict(img_id=info['img_id'], ori_shape=size))
            sample.pred_instances = InstanceData(
                bboxes=torch.tensor(np.array([box for box, *_ in found]).reshape(-1, 4)).float(),
                labels=torch.tensor([label for _, label, _ in found], dtype=torch.long),
                scores=torch.tensor([score for *_, score in found], dtype=torch.float32),
                masks=masks,
            )
            samples.append(sample)
        path = tmp_path / 'annotations.json'
        path.write_text(json.dumps(content))
        metric = CocoMetric(ann_file=str(path), metric=['bbox', 'segm'])
        return *evaluate(metric, dataset, samples, 'mmdet', **settings), samples

    return run
