# Divisive, relu, windows of 14, without the local part.
_base_ = './sem-fpn_inline-swin-t_8xb2-40k_ade20k-512x512.py'

model = dict(
    backbone=dict(
        attention=[
            *[dict(type='linear', kernel='relu', window_size=14, local_residual=False)] * 3,
            'softmax',
        ]
    )
)
