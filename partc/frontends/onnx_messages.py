"""Words for nodes and for other libraries' errors, as they appear in our messages."""

from __future__ import annotations

import re

from onnx import NodeProto

_OPERATOR_DUMP = re.compile(r"^In ir\.Op\(.*?support_level=\d+\), ")


def describe_node(node: NodeProto, index: int) -> str:
    """The operator and the node's name, or its place and output where it has no name."""
    operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    if node.name:
        return f"{operator} {node.name!r}"
    outputs = ", ".join(repr(output) for output in node.output if output)
    return f"{operator} at node {index} (output {outputs})"


def reason(error: Exception) -> str:
    """The one line of a foreign error that says what is wrong."""
    lines = (line.strip() for line in str(error).splitlines())
    told = (line for line in lines if line and not line.startswith(("Traceback", "File ")))
    text = next(told, type(error).__name__)
    return _OPERATOR_DUMP.sub("", text).rstrip(".:")
