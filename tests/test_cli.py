import pytest

from mmlab_inline.cli import ArgumentParser, varied


@pytest.fixture
def parser():
    parser = ArgumentParser()
    parser.add_config_arguments('a=1')
    parser.add_argument('--resume', nargs='?')
    return parser


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3),
        ('1e-4', 1e-4),
        ('[1,2]', [1, 2]),
        ('(1, 2)', (1, 2)),
        ('[a,b]', ['a', 'b']),
        ('None', None),
        ('my photos/2026', 'my photos/2026'),
        ("[{'type': 'EMAHook', 'interval': 2}]", [dict(type='EMAHook', interval=2)]),
        ("{'a': (1, 2)}", dict(a=(1, 2))),
        ("['my cat', 'dog']", ['my cat', 'dog']),
    ],
)
def test_values_of_settings(text, value, parser):
    assert parser.parse_args(['x.py', '--cfg-options', f'key={text}']).cfg_options == {'key': value}


@pytest.mark.parametrize(
    'text', ['[1,2', "[dict(type='EMAHook')]", '[{type=EMAHook}]', '{type: EMAHook}']
)
def test_values_that_do_not_parse(text, parser, capsys):
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args(['x.py', '--cfg-options', f'key={text}'])
    assert 'error: --cfg-options takes KEY=VALUE' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('argument', 'advice'),
    [
        ('--epochs', '--cfg-options train_cfg.max_epochs=N'),
        ('--batch_size=4', '--cfg-options train_dataloader.batch_size=N'),
        ('--imgsz', 'new_config.py --short-side'),
        ('--resmue', "(did you mean '--resume'?)"),
    ],
)
def test_unknown_options_get_advice(argument, advice, parser, capsys):
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args(['x.py', argument, '3'])
    assert advice in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'values'),
    [
        ('inline,softmax', {'inline': 'inline', 'softmax': 'softmax'}),
        ('1e-4, 2e-4', {'1e-4': 1e-4, '2e-4': 2e-4}),
        ('[1,2],(3,4),None', {'[1,2]': [1, 2], '(3,4)': (3, 4), 'None': None}),
        (
            "agent,{'type': 'agent', 'agent_num': 9}",
            {
                'agent': 'agent',
                "{'type': 'agent', 'agent_num': 9}": dict(type='agent', agent_num=9),
            },
        ),
        ("'a,b','(',x=1", {"'a,b'": 'a,b', "'('": '(', 'x=1': 'x=1'}),
        ('True', {'True': True}),
        ('1,True,1.0', {'1': 1, 'True': True, '1.0': 1.0}),
    ],
)
def test_varied_values(text, values):
    assert varied(f'model.key={text}') == ('model.key', values)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('key', 'is not KEY=VALUE,VALUE'),
        ('=1', 'is not KEY=VALUE,VALUE'),
        ('key=', 'is not KEY=VALUE,VALUE'),
        ('key=1,,2', 'is not KEY=VALUE,VALUE'),
        ('key=[1,2', 'brackets and quotes'),
        ('key=1],[2', 'brackets and quotes'),
        ("key='a", 'brackets and quotes'),
        ('key={type=agent}', 'brackets and quotes'),
        ('key=a,b,a', 'has a value twice'),
        ('key=1e-4,0.0001', 'has a value twice'),
    ],
)
def test_varied_values_that_do_not_parse(text, message, capsys):
    parser = ArgumentParser()
    parser.add_argument('--vary', type=varied)
    with pytest.raises(SystemExit, match='2'):
        parser.parse_args(['--vary', text])
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
