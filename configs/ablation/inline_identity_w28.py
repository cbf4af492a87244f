# Subtractive, identity, windows of 28, with the local part.
_base_ = './sem-fpn_inline-swin-t_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention=[
            *[dict(type='inline', kernel='identity', window_size=28, local_residual=True)] * 3,
            'softmax',
        ]
    )
)
