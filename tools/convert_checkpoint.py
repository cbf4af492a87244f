"""Turn a checkpoint into weights for a backbone.

    python tools/convert_checkpoint.py SRC DST [--force] [--attention NAME]

SRC is a classification checkpoint of InLine-PVT, InLine-Swin, InLine-CSwin, InLine-DeiT, L2ViT,
PVT, Swin, CSwin or ViT as its authors release it, or a checkpoint of mmdet, mmseg or this project
with one of them as backbone. DST ends in .pth or .safetensors and serves as
`init_cfg=dict(type='Pretrained', checkpoint='DST')`. Prints which model it is, what matched, what
is missing and what was left over; exits with status 2 and writes nothing if a single tensor of the
backbone is missing, unknown or of another shape.
"""

from mmlab_inline.cli import ArgumentParser, attention_choice
from mmlab_inline.utils import exit_on_user_error


def main() -> None:
    parser = ArgumentParser(description='Turn a checkpoint into weights for a backbone.')
    parser.add_argument('source', metavar='SRC', help='.pth or .safetensors file')
    parser.add_argument('target', metavar='DST', help='.pth or .safetensors file to write')
    parser.add_argument('--force', action='store_true', help='write over DST if it exists')
    parser.add_argument(
        '--attention',
        type=attention_choice,
        metavar='NAME',
        help='as in a config, where the weights do not tell: a name, or a Python literal such as '
        "\"['linear', 'linear', 'inline', 'softmax']\" or \"{'type': 'linear'}\"",
    )
    args = parser.parse_args()
    from mmlab_inline.weights.conversion import convert_file

    with exit_on_user_error():
        conversion = convert_file(args.source, args.target, args.force, args.attention)
    model = conversion.model
    init_cfg = dict(type='Pretrained', checkpoint=args.target)
    settings = dict(type=f'mmlab_inline.{model.cls.__name__}', **model.settings, init_cfg=init_cfg)
    print(conversion.describe())
    print(f'written to  {args.target}; use it with')
    print(f'    backbone={settings}')


if __name__ == '__main__':
    main()
