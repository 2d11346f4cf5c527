"""Change a package's manifest and files, and read the refusal. For tests."""

import hashlib
import json

import pytest

from edge_runtime.errors import PackageError
from edge_runtime.package import open_package


def edit(folder, change):
    """Change the manifest's table in place."""
    path = folder / "manifest.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def add_file(folder, name, content=b"\x12\x07content"):  # a valid model, too
    """Put a file into the package, and into its manifest."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    edit(folder, lambda table: table["sha256"].update({name: sha256(content)}))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def refusal(folder):
    with pytest.raises(PackageError) as caught:
        open_package(folder)
    message = str(caught.value)
    assert str(folder) in message
    return message


def problems(folder):
    """The lines of a refusal that lists problems."""
    first, *lines = refusal(folder).splitlines()
    assert first.startswith(f"{folder / 'manifest.json'}: ")
    assert first.endswith(f": {len(lines)} problem(s)")
    return [line.strip() for line in lines]


def set_in(*keys_and_value):
    """A change of a manifest: the value at the end of a path of keys."""
    *keys, last, value = keys_and_value

    def change(table):
        for key in keys:
            table = table[key]
        table[last] = value

    return change


STEP = "graphs/k100/step.onnx"


def with_everything(folder):
    """The package with every kind of file that a manifest can name."""
    names = ("merge", "periodic", "training", "eval", "optimizer", "checkpoint", "update")
    files = {name: f"more/{name}" for name in names}
    for name in files.values():
        add_file(folder, name)

    def fill(table):
        table["merge"] = files["merge"]
        table["periodic"] = [{"graph": files["periodic"], "every_steps": 5}]
        artifacts = {name: files[name] for name in ("training", "eval", "optimizer")}
        table["rungs"][0]["ort_training"] = artifacts
        facts = {name: files[name] for name in ("checkpoint", "update")}
        table["ort_training"] = {"refused": None, **facts}
        graphs = {name: graph() for name in files.values()}
        del graphs[files["optimizer"]], graphs[files["checkpoint"]]
        graphs[files["update"]] = graph(outputs=[spec("next.ema.w", "state")])
        table["graphs"].update(graphs)

    edit(folder, fill)
    return [STEP, "graphs/embed.onnx", "state.safetensors", *files.values()]


def graph(inputs=(), outputs=()):
    return {"inputs": list(inputs), "outputs": list(outputs), "nodes": 1, "flops": None}


def spec(name, role, shape=(64,), dtype="float32"):
    """A tensor of a manifest."""
    return {"name": name, "dtype": dtype, "shape": list(shape), "role": role}
