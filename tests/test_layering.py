"""What each room of the package may import of the others, as docs/architecture.md draws it."""

import ast
from pathlib import Path

import pytest

import mmlab_inline

PACKAGE = Path(mmlab_inline.__file__).parent
# From the ground up; a room imports rooms of lower floors only.
FLOORS = (
    ('version', 'environment', 'choices', 'cli', 'ops'),
    ('utils',),
    ('registry', 'layers', 'datasets'),
    ('mixers', 'runs'),
    ('backbones',),
    ('weights',),
    ('engine', 'timm'),
    ('analysis', 'inference', 'export'),
    ('report', 'own_data'),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACE = {'__init__', '__main__'}
MAX_ENGINE_LINES = 2000


def imports(path: Path) -> set[str]:
    """Rooms of the package that a file imports, wherever in it."""
    package = path.relative_to(PACKAGE.parent).with_suffix('').parts[:-1]
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = '.'.join(package[: len(package) - node.level + 1]) if node.level else ''
            module = '.'.join(filter(None, (base, node.module)))
            names = [f'{module}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts = [name.split('.') for name in names]
        rooms |= {p[1] for p in parts if p[0] == 'mmlab_inline' and len(p) > 1}
    return rooms & FLOOR_OF.keys()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix('').parts[0]


def test_every_file_lies_in_a_room():
    rooms = {room_of(path) for path in PACKAGE.rglob('*.py') if '.mim' not in path.parts}
    assert rooms - FACE == FLOOR_OF.keys()


@pytest.mark.parametrize('room', FLOOR_OF)
def test_rooms_import_lower_floors_only(room):
    for path in PACKAGE.rglob('*.py'):
        if room_of(path) != room or '.mim' in path.parts:
            continue
        for other in imports(path) - {room}:
            assert FLOOR_OF[other] < FLOOR_OF[room], f'{path} imports {other}'


def test_engine_stays_small():
    lines = sum(len(path.read_text().splitlines()) for path in (PACKAGE / 'engine').glob('*.py'))
    assert lines <= MAX_ENGINE_LINES
