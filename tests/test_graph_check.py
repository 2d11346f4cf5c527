"""A graph that uses anything but itself is refused before a runtime sees it."""

import pytest
from spoilt_package import add_file, edit, refusal
from training_fakes import write_package

from edge_runtime.evaluation.onnx_wire import write_field, write_number, write_varint
from edge_runtime.package import open_package
from edge_runtime.package.graph_check import check_graph

NAME = "graphs/k100/step.onnx"


def model(*fields: bytes) -> bytes:
    """A model with a graph of these fields."""
    return write_number(1, 8) + write_field(7, b"".join(fields))


def node(*fields: bytes) -> bytes:
    return write_field(1, write_field(4, b"Constant") + b"".join(fields))


def attribute(number: int, content: bytes) -> bytes:
    return node(write_field(5, write_field(1, b"value") + write_field(number, content)))


ENTRY = write_field(1, b"location") + write_field(2, b"/etc/passwd")
IN_FILE = write_field(8, b"w") + write_field(9, b"\0\0\0\0") + write_number(14, 0)
ELSEWHERE = write_field(8, b"w") + write_field(13, ENTRY) + write_number(14, 1)
BRANCH = write_field(5, ELSEWHERE)  # a graph
# Of a field whose tag or value has bits that protobuf drops.
HIDDEN_GRAPH = write_varint(7 << 3 | 2 | 1 << 32) + write_varint(len(BRANCH)) + BRANCH
HIDDEN_VALUE = write_field(8, b"w") + write_number(14, 1 << 32 | 1)

EXTERNAL = "tensor 'w' has its data in another file"
REFUSED = {
    "external": (model(write_field(5, ELSEWHERE)), EXTERNAL),
    "only entries": (
        model(write_field(5, write_field(8, b"w") + write_field(13, b""))),
        EXTERNAL,
    ),
    "only location": (
        model(write_field(5, write_field(8, b"w") + write_number(14, 1))),
        EXTERNAL,
    ),
    "constant": (model(attribute(5, ELSEWHERE)), EXTERNAL),
    "constants": (model(attribute(10, ELSEWHERE)), EXTERNAL),
    "branch": (model(attribute(6, BRANCH)), EXTERNAL),
    "branches": (model(attribute(11, write_field(5, IN_FILE) + BRANCH)), EXTERNAL),
    "sparse values": (model(write_field(15, write_field(1, ELSEWHERE))), EXTERNAL),
    "sparse indices": (model(write_field(15, write_field(2, ELSEWHERE))), EXTERNAL),
    "sparse constant": (model(attribute(22, write_field(1, ELSEWHERE))), EXTERNAL),
    "sparse constants": (model(attribute(23, write_field(2, ELSEWHERE))), EXTERNAL),
    "second graph": (model() + model(write_field(5, ELSEWHERE)), EXTERNAL),
    "hidden value": (model(write_field(5, HIDDEN_VALUE)), EXTERNAL),
    "hidden graph": (model() + HIDDEN_GRAPH, "not an ONNX file: field number"),
    "domain": (model(node(write_field(7, b"evil"))), "it has operators of the domain 'evil'"),
    "domain that is no text": (model(node(write_field(7, b"\xff"))), "of the domain '\ufffd'"),
    "training": (model(node(write_field(7, b"com.microsoft"))), "the domain 'com.microsoft'"),
    "function": (model() + write_field(25, b""), "it has functions of its own"),
    "training info": (model() + write_field(20, BRANCH), "it has training graphs of its own"),
    "group": (model() + b"\x0b", "not an ONNX file: wire type 3 at byte"),
    "cut": (model(write_field(5, IN_FILE))[:-1], "not a complete ONNX file"),
    "over its end": (
        write_field(7, b"\x0a\x03ab") + write_number(1, 8),
        "not a complete ONNX file: a field at byte 2 is truncated",
    ),
    "cut number": (b"\x08" + b"\xff" * 11, "not a complete ONNX file: a number is truncated"),
    "field 0": (b"\0\0", "not an ONNX file: field number 0 at byte 0"),
    "text": (b"not a graph", "not a"),
}


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = attribute(6, graph)
    return model(graph)


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_graph_must_not_use_is_named(case, tmp_path) -> None:
    content, problem = REFUSED[case]
    with pytest.raises(ValueError, match=problem):
        check_graph(NAME, content)
    folder = write_package(tmp_path / "package").path
    add_file(folder, NAME, content)
    message = refusal(folder)
    assert f"{folder}: {NAME} is not a graph that can be used: " in message
    assert problem in message


@pytest.mark.parametrize(
    "content",
    [
        model(write_field(5, IN_FILE), attribute(5, IN_FILE)),
        model(node(write_field(7, b"ai.onnx"), write_field(7, b""))),
        model() + write_field(8, write_field(1, b"org.pytorch.aten")),  # imported, not used
        nested(3),
    ],
)
def test_what_is_inside_the_file_is_accepted(content) -> None:
    check_graph(NAME, content)


def test_deep_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match="nested more than 4 deep"):
        check_graph(NAME, nested(5))
    with pytest.raises(ValueError, match="nested more than 4 deep"):
        check_graph(NAME, nested(500))


def test_another_format_of_the_runtime_is_refused() -> None:
    with pytest.raises(ValueError, match=r"files named \.ort are of another format"):
        check_graph("graphs/step.ORT", model())


def test_models_of_the_training_api_have_its_operators(tmp_path) -> None:
    folder = write_package(tmp_path / "package").path
    names = {name: f"api/{name}" for name in ("training", "eval", "optimizer")}
    for name in names.values():
        add_file(folder, name, model(node(write_field(7, b"com.microsoft"))))

    def fill(table):
        table["rungs"][0]["ort_training"] = names
        nothing = {"inputs": [], "outputs": [], "nodes": 1, "flops": None}
        table["graphs"].update({names[name]: nothing for name in ("training", "eval")})

    edit(folder, fill)
    open_package(folder)
    add_file(folder, names["optimizer"], model(node(write_field(7, b"com.microsoft.other"))))
    assert "api/optimizer is not a graph that can be used" in refusal(folder)


def test_a_reference_is_the_one_of_onnx(tmp_path) -> None:
    onnx = pytest.importorskip("onnx")
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.UINT8, [4], b"\0" * 4, raw=True)
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    check_graph(NAME, onnx.helper.make_model(graph).SerializeToString())
    onnx.external_data_helper.set_external_data(graph.initializer[0], "../../secret")
    graph.initializer[0].ClearField("raw_data")
    with pytest.raises(ValueError, match=EXTERNAL):
        check_graph(NAME, onnx.helper.make_model(graph).SerializeToString())
