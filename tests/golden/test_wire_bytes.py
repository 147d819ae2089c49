"""Every field of the protocol by its bytes: a line of ``wire_fields.txt`` for each.

A field that is added gets a line; a line is never changed or removed, because there may be workers
in other languages that were written by it. Whole messages are in ``tests/unit/runtime/test_wire.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from headway.runtime.wire import headway_pb2

PINNED = [
    line.split(maxsplit=2)
    for line in Path(__file__).with_name("wire_fields.txt").read_text().splitlines()
]
MESSAGES = headway_pb2.DESCRIPTOR.message_types_by_name
VALUES = {
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
    FieldDescriptor.CPPTYPE_STRING: "a",
    FieldDescriptor.CPPTYPE_UINT32: 300,
    FieldDescriptor.CPPTYPE_UINT64: 300,
}


def example(message, name):
    """A message with one field set: to 300, 0.5, "a", true, or an empty message."""
    made = getattr(headway_pb2, message)()
    field = MESSAGES[message].fields_by_name[name]
    value = b"a" if field.type == FieldDescriptor.TYPE_BYTES else VALUES.get(field.cpp_type)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(made, name)["a"] = 0.5
    elif field.message_type is not None and field.is_repeated:
        getattr(made, name).add()
    elif field.message_type is not None:
        getattr(made, name).SetInParent()
    elif field.is_repeated:
        getattr(made, name).append(value)
    else:
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(("field", "kind", "written"), PINNED, ids=[line[0] for line in PINNED])
def test_the_bytes_of_a_field_are_what_they_were(field, kind, written):
    message, name = field.split(".")
    made = example(message, name)
    assert made.SerializeToString(deterministic=True).hex(" ") == written
    assert type(made).FromString(bytes.fromhex(written)) == made
    found = MESSAGES[message].fields_by_name[name]
    # A number keeps its wire type by accident if a uint32 becomes a bool; not its meaning.
    assert f"TYPE_{kind.upper()}" in vars(FieldDescriptor)
    assert getattr(FieldDescriptor, f"TYPE_{kind.upper()}") == found.type


def test_every_field_is_pinned():
    fields = {f"{name}.{field.name}" for name, m in MESSAGES.items() for field in m.fields}
    assert {line[0] for line in PINNED} == fields
    assert len(PINNED) == len(fields)


def test_the_methods_are_what_they_were():
    (service,) = headway_pb2.DESCRIPTOR.services_by_name.values()
    assert service.full_name == "headway.v1.Exchange"
    told = {m.name: (m.input_type.name, m.output_type.name) for m in service.methods}
    assert told == {"Work": ("ToServer", "ToWorker"), "Status": ("StatusRequest", "StatusReply")}
