"""The layers of docs/architecture.md, checked by reading every import."""

import ast
import re
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
MOST_PAIRS = 40
MOST_START_UP_S = 0.5

# Lower line = higher layer. A module may import its own part, or a part of a line above.
LAYERS = [
    {"errors"},
    {"leaving", "printable", "version", "units"},
    {"reading"},
    {"storage"},
    {"state", "schema"},
    {"documents", "facts"},
    {"package", "device", "records"},
    {"planning"},
    {"data"},
    {"engines"},
    {"training", "selftest"},
    {"calibration", "profiling"},
    {"within_budget"},
    {"evaluation", "live", "report"},
    {"cli"},
    {"__main__"},
]
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

EXPORT_LAYERS = [
    {"parameters"},
    {"vit"},
    {"declaration"},
    {"axes", "border", "context", "models", "patches"},
    {"objectives", "parametrizations", "policies"},
    {"recipe"},
    {"analysis", "lowering", "step"},
    {"ort_training"},
    {"package"},
    {"ranking", "selftest"},
]
EXPORT_RANK = {part: rank for rank, layer in enumerate(EXPORT_LAYERS) for part in layer}

# A library, and the only folders whose code may name it.
HOME = {
    "torch": ("export/",),
    "onnx": ("export/",),
    "onnxruntime": (
        "edge_runtime/engines/",
        "export/edge_export/ort_training/",
    ),  # its artifact generator
    "tensorrt": ("edge_runtime/engines/tensorrt/",),
    "pycuda": ("edge_runtime/engines/tensorrt/cuda.py",),
    "cv2": ("edge_runtime/data/",),
    "PIL": ("edge_runtime/data/",),
    "psutil": ("edge_runtime/device/",),
    "jtop": ("edge_runtime/device/",),
    "pynvml": ("edge_runtime/device/",),
    "plotly": ("edge_runtime/report/page/",),
    "jinja2": ("edge_runtime/report/page/",),
    "prometheus_client": ("edge_runtime/live/",),
    "rich": ("edge_runtime/cli/",),
    "shtab": ("edge_runtime/cli/",),
}
# Parts of the device side that export/ may use, and more for single files of it.
EXPORT_MAY_USE = {"errors", "package", "reading", "schema", "state", "storage", "version"}
ALSO = {
    "export/edge_export/package/verify.py": {"engines"},
    "export/edge_export/selftest.py": {"selftest"},
}
MAY_USE_EXPORT = {"edge_runtime/cli/export.py"}


class Import(NamedTuple):
    """One imported name, and where."""

    file: str  # below the repository
    name: str  # "edge_runtime.data.sources.open_source"
    in_function: bool

    @property
    def package(self) -> str:
        return self.name.split(".")[0]

    @property
    def part(self) -> str:
        return f"{self.name}.".split(".")[1]


def sources(*folders: str) -> list[Path]:
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert files  # a wrong path would scan no file and pass
    return files


@cache
def imports(*folders: str) -> list[Import]:
    modules_imported = []
    for path in sources(*folders):
        tree = ast.parse(path.read_text())
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for node in ast.walk(function)
        }
        file = path.relative_to(ROOT).as_posix()
        modules_imported += [
            Import(file, name, id(node) in inside)
            for node in ast.walk(tree)
            for name in imported_names(node)
        ]
    return modules_imported


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def part_of(file: str) -> str:
    return Path(file).with_suffix("").parts[1]


def goes_up(each: Import) -> bool:
    own = part_of(each.file)
    if each.package != "edge_runtime" or own in ("__init__", each.part):
        return False  # the package root re-exports; nothing inside may import it
    return RANK.get(each.part, len(LAYERS)) >= RANK[own]


def test_imports_only_point_down() -> None:
    assert [each for each in imports("edge_runtime") if goes_up(each)] == []


def test_every_part_has_its_layer() -> None:
    parts = {part_of(path.relative_to(ROOT).as_posix()) for path in sources("edge_runtime")}
    assert parts - {"__init__"} == set(RANK)
    folder = ROOT / "export" / "edge_export"
    parts = {path.relative_to(folder).with_suffix("").parts[0] for path in sources("export")}
    assert parts - {"__init__"} == set(EXPORT_RANK)


def test_the_document_shows_every_part() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    without_diagrams = re.sub(r"^```mermaid\n.*?^```$", "", text, flags=re.DOTALL | re.M)
    shown = {
        word
        for block in re.findall(r"^```\n(.*?)^```$", without_diagrams, re.DOTALL | re.M)
        for word in re.findall(r"\w+", block)
    }
    assert {*RANK, *EXPORT_RANK} - {"__main__"} - shown == set()


def test_imports_of_the_export_side_only_point_down() -> None:
    upward = [
        each
        for each in imports("export")
        if each.package == "edge_export"
        and (own := Path(each.file).with_suffix("").parts[2]) != each.part
        and EXPORT_RANK[each.part] >= EXPORT_RANK[own]
    ]
    assert upward == []


@pytest.mark.parametrize("library", HOME)
def test_a_library_is_imported_only_in_its_part(library: str) -> None:
    abroad = [
        each
        for each in imports("edge_runtime", "export")
        if each.package == library and not each.file.startswith(HOME[library])
    ]
    assert abroad == []


def test_only_device_reads_the_kernels_files() -> None:
    abroad = [
        (path.name, node.value)
        for path in sources("edge_runtime")
        if "device" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and str(node.value).startswith(("/proc", "/sys"))
    ]
    assert abroad == []


# The kernel's files are no regular ones, and the others are edge-train's: just written, inside
# the wheel, or /dev/null.
OPENS_FILES = (
    "edge_runtime/reading.py",
    "edge_runtime/storage.py",
    "edge_runtime/records/jsonl.py",
    "edge_runtime/state.py",  # the library checks a file that `reading` has opened
    "export/edge_export/package/initial.py",  # likewise
    "edge_runtime/data/digits.py",
    "edge_runtime/device/",
    "edge_runtime/cli/output.py",
    "edge_runtime/report/page/render.py",
    "export/edge_export/ort_training/artifacts.py",
)
PARSES = (
    "edge_runtime/reading.py",
    "edge_runtime/schema.py",
    "edge_runtime/profiling/worker.py",  # its own command line
    "edge_runtime/cli/doctor.py",  # what its own process printed
)


def opens_a_file(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name.endswith((".read_text", ".read_bytes", ".fromfile")):
        return True
    if name in ("os.open", "np.load", "safe_open", "tarfile.open", "io.open", "FileIO"):
        return True
    modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    modes += [
        word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)
    ]
    writes = any(str(mode).startswith(("w", "x", "a")) for mode in modes)
    if name == "open":
        return not writes
    return name.endswith(".open") and (not call.args or "r" in modes or "rb" in modes)


def calls(*folders: str) -> list[tuple[str, ast.Call]]:
    return [
        (path.relative_to(ROOT).as_posix(), node)
        for path in sources(*folders)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def test_files_of_others_are_opened_in_one_place() -> None:
    opening = [each for each in calls("edge_runtime", "export") if opens_a_file(each[1])]
    assert len(opening) > 10  # the reading of calls works
    assert [each for each in opening if not each[0].startswith(OPENS_FILES)] == []


def test_json_and_toml_are_read_in_one_place() -> None:
    loaders = ("json.loads", "json.load", "tomllib.loads", "tomllib.load")
    abroad = {
        file
        for file, call in calls("edge_runtime", "export")
        if ast.unparse(call.func) in loaders and file not in PARSES
    }
    assert abroad == set()


def test_only_the_command_line_writes_to_the_terminal() -> None:
    abroad = [
        (path.relative_to(ROOT).as_posix(), node.lineno)
        for path in sources("edge_runtime", "export")
        if "cli" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name | ast.Attribute)
        and ast.unparse(node) in ("print", "sys.stdout.write", "sys.stderr.write")
    ]
    assert abroad == []


def test_export_uses_the_contract_only() -> None:
    abroad = [
        each
        for each in imports("export")
        if each.package == "edge_runtime"
        and each.part not in EXPORT_MAY_USE | ALSO.get(each.file, set())
    ]
    assert abroad == []


def test_the_device_side_knows_export_in_one_command_only() -> None:
    users = [each for each in imports("edge_runtime") if each.package == "edge_export"]
    assert {each.file for each in users} == MAY_USE_EXPORT
    assert [each for each in users if not each.in_function] == []


def module_of(file: str) -> str:
    parts = Path(file.removeprefix("export/")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def importers() -> dict[str, set[str]]:
    """Who imports each module."""
    all_imports = imports("edge_runtime", "export")
    users: dict[str, set[str]] = {module_of(each.file): set() for each in all_imports}
    for each in all_imports:
        name = each.name
        while name and name not in users:
            name = name.rpartition(".")[0]
        if name and name != module_of(each.file):
            users[name].add(module_of(each.file))
    return users


def test_few_modules_exist_for_one_other_alone() -> None:
    """Such a pair is often one module cut in two, and reading it means switching files.

    Entries of a table (a sensor, an engine, a method, a lowering) and what a part offers to
    others have one importer by design: the table, or the part's `__init__`.
    """
    single = {module: min(users) for module, users in importers().items() if len(users) == 1}
    by_design = {
        module
        for module, user in single.items()
        if user in (module.rpartition(".")[0], "edge_export.lowering.trace")
    }
    assert len(single) > len(by_design) > 10  # the reading of imports works
    assert len(single.keys() - by_design) <= MOST_PAIRS


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a new process has imported after `code`."""
    code += "\nimport sys\nprint('LOADED', *{name.split('.')[0] for name in sys.modules})"
    # A new process, because this one may already have imported torch.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_the_device_side_imports_nothing_heavy() -> None:
    code = (
        "import importlib, pkgutil, edge_runtime\n"
        "for module in pkgutil.walk_packages(edge_runtime.__path__, 'edge_runtime.'):\n"
        "    importlib.import_module(module.name)"
    )
    loaded = loaded_by(code)
    assert "edge_runtime" in loaded
    heavy = {"torch", "onnx", "onnxruntime", "tensorrt", "pandas", "sklearn", "edge_export"}
    assert loaded & heavy == set()


def test_help_imports_no_numpy() -> None:
    code = (
        "import contextlib\n"
        "from edge_runtime.cli.main import main\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main(['--help'])"
    )
    assert loaded_by(code) & {"numpy", "cv2", "onnxruntime", "edge_export"} == set()


def test_the_command_line_starts_fast() -> None:
    def spent_s() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime

    costs_s = []  # processor time, so that a busy machine does not matter
    for _ in range(3):
        before_s = spent_s()
        loaded_by("import edge_runtime.cli.main")
        costs_s.append(spent_s() - before_s)
    assert min(costs_s) < MOST_START_UP_S


def is_fixture(decorator: ast.expr) -> bool:
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(call).endswith("fixture")


def test_no_test_is_hidden_as_a_fixture() -> None:
    hidden = [
        f"{path.name}: {node.name}"
        for path in sources("tests", "device_tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
        if any(is_fixture(decorator) for decorator in node.decorator_list)
    ]
    assert hidden == []


def test_no_file_is_too_long() -> None:
    folders = ("edge_runtime", "export", "tests", "device_tests", "benchmarks")
    lengths = {path: len(path.read_text().splitlines()) for path in sources(*folders)}
    too_long = {
        str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MOST_LINES
    }
    assert too_long == {}
