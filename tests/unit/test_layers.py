"""Imports only go down: read from the source, those inside functions and for type checking too."""

import ast
import re
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "cxrdist"
LONGEST = 350

LEVELS = [
    {"cli"},
    {"run", "report"},
    {"lungs"},
    {"learn", "cohort"},
    {"study", "stats"},
    {"config", "outputs"},
    {"errors", "machine"},
]
READER_OF_YAML = "cxrdist.config.document"
FREE_OF_CONFIG = {"study", "stats", "learn"}
FORBIDDEN = {
    "study": {"torch", "torchvision", "ray", "pyarrow", "pathlib", "io", "os", "shutil", "tempfile"},
    "stats": {"torch", "torchvision", "ray", "pyarrow", "pathlib", "io", "os", "shutil", "tempfile"},
    "learn": {"ray", "wandb", "pydantic", "albumentations"},
}


@cache
def source_of_package():
    """The package's modules by dotted name."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return modules


@cache
def import_statements(text):
    """Every import, wherever it stands: (level, module, names)."""
    found: list[tuple[int, str | None, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module, tuple(alias.name for alias in node.names)))
    return found


def imported_modules(name, text, modules):
    """Every module that this one imports; of the package's own, as exactly as can be said."""
    found: set[str] = set()
    for level, module, names in import_statements(text):
        assert level == 0, f"{name} imports relatively, which this test does not read"
        inner = {f"{module}.{each}" for each in names} & set(modules)
        found |= inner if len(inner) == len(names) > 0 else inner | {module}
    return found - {name}


def graph_of(modules):
    return {name: imported_modules(name, text, modules) for name, text in modules.items()}


def part_of(name):
    """`learn` of `cxrdist.learn.train`; the package itself has none."""
    parts = name.split(".")
    return parts[1] if parts[0] == "cxrdist" and len(parts) > 1 else ""


def level_of(part):
    return next(number for number, level in enumerate(LEVELS) if part in level)


def faults(modules):
    """Each import that climbs, goes sideways, is forbidden, or closes a circle."""
    found = []
    graph = graph_of(modules)
    own = {name: {other for other in imports if other in modules} for name, imports in graph.items()}
    for name, imports in graph.items():
        part = part_of(name)
        if not part or part == "__main__":
            continue
        for other in sorted(imports):
            top, target = other.split(".")[0], part_of(other)
            if top in FORBIDDEN.get(part, ()):
                found.append(f"{name} imports {other}")
            elif target and target != part:
                if level_of(target) <= level_of(part):
                    found.append(f"{name} imports {other}, which is not below it")
                elif target == "config" and part in FREE_OF_CONFIG:
                    found.append(f"{name} imports {other}, which needs pydantic")
    for kind, edges in (("module", own), ("package", by_package(own))):
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            found.append(f"{kind}s in a circle: {' <- '.join(error.args[1])}")
    return found


def by_package(graph):
    edges: dict[str, set[str]] = {}
    for name, imports in graph.items():
        edges.setdefault(part_of(name), set()).update({part_of(other) for other in imports} - {part_of(name), ""})
    return edges


def test_every_part_of_the_package_has_a_level():
    parts = {part_of(name) for name in source_of_package()} - {"", "__main__"}
    assert {"cli", "config", "errors", "learn", "study"} <= parts
    assert parts <= set.union(*LEVELS)


def test_imports_only_go_down_and_never_in_a_circle():
    assert faults(source_of_package()) == []


@pytest.mark.parametrize("part", ["study", "stats"])
def test_planning_and_statistics_open_no_file(part):
    calls = [
        f"{name}:{node.lineno}"
        for name, text in source_of_package().items()
        if part_of(name) == part
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and (getattr(node.func, "id", "") == "open" or getattr(node.func, "attr", "") in ("open", "tofile", "fromfile"))
    ]
    assert calls == []


@pytest.mark.parametrize("name", source_of_package())
def test_no_module_is_longer_than_is_read_in_one_go(name):
    assert len(source_of_package()[name].splitlines()) <= LONGEST


@pytest.mark.parametrize(
    ("name", "planted", "fault"),
    [
        ("cxrdist.study.folds", "import cxrdist.learn.train", "cxrdist.learn.train, which is not below it"),
        (
            "cxrdist.study.folds",
            "def f():\n    from cxrdist.run import store",
            "cxrdist.run.store, which is not below it",
        ),
        ("cxrdist.errors", "from cxrdist.config import Study", "cxrdist.config, which is not below it"),
        ("cxrdist.run.board", "from cxrdist.report.table import Table", "cxrdist.report.table, which is not below it"),
        ("cxrdist.learn.train", "from cxrdist.cohort import table", "cxrdist.cohort.table, which is not below it"),
        ("cxrdist.stats.roc", "from cxrdist.study import seeds", "cxrdist.study.seeds, which is not below it"),
        ("cxrdist.learn.train", "from cxrdist.config import Study", "cxrdist.config, which needs pydantic"),
        ("cxrdist.learn.train", "def f():\n    import wandb", "cxrdist.learn.train imports wandb"),
        ("cxrdist.study.queue", "if TYPE_CHECKING:\n    from torch import Tensor", "cxrdist.study.queue imports torch"),
        ("cxrdist.study.recipe", "def f():\n    from cxrdist.study import folds", ""),
        ("cxrdist.study.seeds", "from cxrdist.study.folds import Folds", "modules in a circle: "),
        ("cxrdist.study.seeds", "def f():\n    from cxrdist.study import folds", "modules in a circle: "),
        ("cxrdist.stats.roc", "from cxrdist.learn.models import ParameterCount\n", "not below it"),
    ],
)
def test_a_planted_fault_is_found(name, planted, fault):
    modules = source_of_package()
    found = faults(modules | {name: f"{modules[name]}\n{planted}\n"})
    assert any(fault in each for each in found) if fault else not found


def test_packages_in_a_circle_are_found_where_no_module_is_in_one():
    modules = {
        "cxrdist.report.a": "import cxrdist.run.b",
        "cxrdist.run.b": "",
        "cxrdist.run.c": "import cxrdist.report.d",
        "cxrdist.report.d": "",
    }
    assert any(fault.startswith("packages in a circle: ") for fault in faults(modules))


def test_csv_is_written_without_formulas_or_is_a_manifest():
    writers = {name for name, text in source_of_package().items() if re.search(r"csv\.(writer|DictWriter)\(", text)}
    assert writers == {f"cxrdist.cohort.{name}" for name in ("check_text", "build", "phantoms")}


def test_yaml_is_read_and_written_by_one_set_of_rules():
    found = {
        f"{name}: yaml.{node.attr}"
        for name, text in source_of_package().items()
        if name != READER_OF_YAML and "yaml" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "yaml"
        if "load" in node.attr.lower() or "safe" in node.attr.lower()
    }
    assert not found, f"{sorted(found)}: parse_document and dump_document of {READER_OF_YAML} do that"
    assert not [name for name, text in source_of_package().items() if "from yaml " in text]
