"""Predictions as files: pictures, COCO's results format, label maps, videos."""

import io
import json
from pathlib import Path

import cv2
import mmcv
import numpy as np
from PIL import Image

from ..utils import UserError, write_atomically
from .pictures import Painter, legend
from .predictions import Instances, Prediction
from .predictor import Predictor
from .sources import Frame, Source


class ResultWriter:
    """Writes what was predicted.

    - ``pictures/NAME.jpg``, and ``pictures/NAME.mp4`` of a video;
    - ``predictions.json``: objects in COCO's results format;
    - ``label_maps/NAME.png``: a pixel is its class's position in the classes;
    - ``images.json``: ``images`` and ``categories`` as in COCO's annotations.

    Args:
        folder: Where to.
        predictor: Knows the classes.
        pictures: Whether to draw pictures.
        data: Whether to write the other files.

    Raises:
        UserError: The folder cannot be written to.
    """

    def __init__(self, folder: str, predictor: Predictor, pictures: bool, data: bool) -> None:
        self.folder = Path(folder)
        self.predictor = predictor
        self.painter = Painter(predictor.classes, predictor.palette) if pictures else None
        self.data = data
        self.images: list[dict] = []
        self.objects: list[dict] = []
        self.videos: dict[Source, cv2.VideoWriter] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--out {folder} cannot be made: {error.strerror}') from None

    def add(self, frame: Frame, prediction: Prediction) -> None:
        """Take the prediction of an image."""
        if self.painter:
            picture = self.painter.draw(frame.image, prediction)
            if frame.source.is_video:
                self._video(frame.source, picture).write(np.ascontiguousarray(picture[..., ::-1]))
            else:
                path = self.folder / self._picture(frame)
                write_atomically(path, _encode(picture, 'JPEG', quality=95, subsampling=0))
        if not self.data:
            return
        height, width = frame.image.shape[:2]
        image = dict(id=frame.number, file_name=frame.file_name, width=width, height=height)
        if self.painter and not frame.source.is_video:
            image['picture'] = str(self._picture(frame))
        if isinstance(prediction, Instances):
            self.objects += self._coco_results(frame.number, prediction, height, width)
        else:
            file = Path('label_maps', f'{frame.name}.png')
            image['label_map'] = str(file)
            write_atomically(self.folder / file, self._encode_label_map(prediction))
        self.images.append(image)

    def finish(self) -> list[str]:
        """Close the videos and write the JSON files; what lies where, in words."""
        for video in self.videos.values():
            video.release()
        said = [f'pictures are in {self.folder / "pictures"}'] if self.painter else []
        if self.painter and self.painter.numbers:
            said.append(legend(self.painter.numbers))
        if not self.data:
            return said
        self.images.sort(key=lambda image: image['id'])
        self.objects.sort(key=lambda found: found['image_id'])
        ids = self.predictor.category_ids
        if self.predictor.is_segmentor:
            ids = range(len(self.predictor.classes))
            said.append(f'label maps are in {self.folder / "label_maps"}')
        else:
            said.append(f'objects are in {self._write_json("predictions", self.objects)}')
        categories = [
            dict(id=number, name=name)
            for number, name in zip(ids, self.predictor.classes, strict=True)
        ]
        index = self._write_json('images', dict(images=self.images, categories=categories))
        return [*said, f'names of images and classes are in {index}']

    @staticmethod
    def _picture(frame: Frame) -> Path:
        return Path('pictures', f'{frame.name}.jpg')

    def _write_json(self, name: str, content: object) -> Path:
        path = self.folder / f'{name}.json'
        write_atomically(path, json.dumps(content, indent=1).encode())
        return path

    def _coco_results(self, image_id: int, found: Instances, height: int, width: int) -> list[dict]:
        results = []
        for index, (box, score) in enumerate(zip(found.boxes, found.scores, strict=True)):
            left, top, right, bottom = (round(float(side), 2) for side in box)
            result = dict(
                image_id=image_id,
                category_id=self.predictor.category_ids[found.labels[index]],
                bbox=[left, top, round(right - left, 2), round(bottom - top, 2)],
                score=round(float(score), 5),
            )
            if found.masks is not None:
                result['segmentation'] = found.masks[index].rle(height, width)
            results.append(result)
        return results

    def _encode_label_map(self, label_map: np.ndarray) -> bytes:
        image = Image.fromarray(label_map)
        if label_map.dtype == np.uint8:
            image.putpalette(self.predictor.palette.tobytes())  # any viewer shows the colours
        return _encode(image, 'PNG')

    def _video(self, source: Source, picture: np.ndarray) -> cv2.VideoWriter:
        if source not in self.videos:
            path = self.folder / 'pictures' / f'{source.name}.mp4'
            path.parent.mkdir(parents=True, exist_ok=True)
            rate = mmcv.VideoReader(str(source.path)).fps or 25
            height, width = picture.shape[:2]
            writer = cv2.VideoWriter(
                str(path), cv2.VideoWriter_fourcc(*'mp4v'), rate, (width, height)
            )
            if not writer.isOpened():
                raise UserError(f'{path} cannot be written: OpenCV here has no MPEG-4 encoder')
            self.videos[source] = writer
        return self.videos[source]


def _encode(image: np.ndarray | Image.Image, form: str, **settings: object) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()
