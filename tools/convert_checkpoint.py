"""Turn a checkpoint into weights for a backbone.

    python tools/convert_checkpoint.py SRC DST [--force]

SRC is a classification checkpoint of InLine-PVT, InLine-Swin, PVT or Swin as its authors release
it, or a checkpoint of mmdet, mmseg or this project with one of them as backbone. DST ends in .pth
or .safetensors and serves as `init_cfg=dict(type='Pretrained', checkpoint='DST')`. Prints which
model it is, what matched, what is missing and what was left over; exits with status 2 and writes
nothing if a single tensor of the backbone is missing, unknown or of another shape.
"""

from mmlab_inline.cli import ArgumentParser
from mmlab_inline.utils import exit_on_user_error


def main() -> None:
    parser = ArgumentParser(description='Turn a checkpoint into weights for a backbone.')
    parser.add_argument('source', metavar='SRC', help='.pth or .safetensors file')
    parser.add_argument('target', metavar='DST', help='.pth or .safetensors file to write')
    parser.add_argument('--force', action='store_true', help='write over DST if it exists')
    args = parser.parse_args()
    from mmlab_inline.weights.conversion import convert_file

    with exit_on_user_error():
        conversion = convert_file(args.source, args.target, args.force)
    model = conversion.model
    init_cfg = dict(type='Pretrained', checkpoint=args.target)
    settings = dict(type=f'mmlab_inline.{model.cls.__name__}', **model.settings, init_cfg=init_cfg)
    print(conversion.describe())
    print(f'written to  {args.target}; use it with')
    print(f'    backbone={settings}')


if __name__ == '__main__':
    main()
