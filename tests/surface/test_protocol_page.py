"""The protocol's page names all that there is, and nothing that there is not."""

from __future__ import annotations

import ast
import json
import re
import struct
from pathlib import Path

import pytest

from headway.algorithms import ALGORITHMS, dana, fedasync
from headway.core import ParameterLayout
from headway.core.checks import FAULTS
from headway.runtime import wire
from headway.runtime.chunks import MESSAGE_BYTES
from headway.runtime.timeouts import Timeouts
from headway.runtime.wire import headway_pb2
from headway.training.instructions import instructions_for

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([^`\n]+)`", PAGE))
MESSAGES = headway_pb2.DESCRIPTOR.message_types_by_name


def section(title):
    """The text of a section, those below it included."""
    found = re.search(rf"^(#+) {re.escape(title)}$\n(.*?)(?=^\1 |^## |\Z)", PAGE, re.M | re.S)
    assert found is not None, title
    return found[2]


def rows(title):
    """What stands in the first column of a section's tables."""
    return set(re.findall(r"^\| `([a-z_]+)` \|", section(title), re.M))


def words(name):
    """Whether a name stands in code somewhere, alone or as part of a path."""
    return any(name in re.findall(r"\w+", code) for code in NAMED)


@pytest.mark.parametrize("name", MESSAGES)
def test_every_message_and_field_is_named(name):
    assert words(name), name
    for field in MESSAGES[name].fields:
        assert words(field.name), f"{name}.{field.name}"


@pytest.mark.parametrize("title", ["Join", "Welcome", "Push", "Receipt"])
def test_a_table_of_fields_is_complete(title):
    (table,) = [part for part in MESSAGES if part == title]
    found = set(re.findall(r"^\| `([a-z_]+)` \|", section(f"`{title}`"), re.M))
    assert found == {field.name for field in MESSAGES[table].fields}


def test_the_numbers_of_the_kinds():
    for message in (wire.ToServer, wire.ToWorker):
        for field in message.DESCRIPTOR.fields:
            if field.containing_oneof is not None:
                assert f"| `{field.name}` | {field.number} |" in PAGE
    assert f"`before` ({wire.ToWorker.DESCRIPTOR.fields_by_name['before'].number})" in PAGE


def refusals():
    """The codes in the source: what is said to be refused, wherever that is."""
    codes = set()
    for path in (ROOT / "src" / "headway").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "efus" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            place = {"Refusal": 0, "refused_letter": 0, "refuse": 1}.get(name)
            if place is not None and len(node.args) > place:
                codes.add(node.args[place])
            codes |= {k.value for k in node.keywords if name == "Refused" and k.arg == "code"}
    return {code.value for code in codes if isinstance(code, ast.Constant)}


def test_every_refusal_code_is_told():
    assert refusals() >= {"protocol", "full", "name_taken", "protocol_error"}
    assert set(re.findall(r"^\| `(\w+)` \|", _before_reasons(), re.M)) == refusals()


def _before_reasons():
    return section("Refusal codes").partition("### ")[0]


def test_every_reason_for_a_rejection_is_told():
    assert rows("Reasons for a rejection") == set(FAULTS)


def test_every_key_of_the_instructions_is_told():
    told = [instructions_for(algorithm) for algorithm in (dana(variant="slim"), fedasync())]
    keys = {key for instructions in told for key in instructions} | {"no_model"}
    text = section("Instructions")
    named = set(re.findall(r"^\| `([a-z_]+)` \|", text, re.M))
    payloads = {make().payload for make in ALGORITHMS.values()}
    assert payloads == {"gradient", "delta", "weights"}
    assert named == keys | payloads | {"proximal", "local_momentum"}


def test_the_layout_is_one():
    (written,) = re.findall(r"^```json\n(.*?)^```$", section("Layout"), re.M | re.S)
    layout = json.loads(written)
    assert ParameterLayout.from_description(layout).describe() == layout
    assert rows("Layout") == set(layout)


def test_numbers_of_the_page():
    times = Timeouts()
    assert f"{MESSAGE_BYTES:,}" in section("`Welcome`")
    assert f"The protocol's number is {wire.PROTOCOL}." in PAGE
    deadlines = section("Errors and deadlines")
    assert f"After {times.join_s:g} seconds (`Timeouts.join_s`)" in deadlines
    assert f"After {times.lease_s:g} seconds (`lease_s`)" in deadlines
    assert f"its slack of at most {times.slack_s:g}." in deadlines
    assert f"After {times.stall_s:g} seconds (`stall_s`)" in deadlines


def spoken():
    """The examples in hex, as messages."""
    for block in re.findall(r"^```hex\n(.*?)^```$", PAGE, re.M | re.S):
        for line in block.splitlines():
            side, _, rest = line.partition(" ")
            kind = {">": wire.ToServer, "<": wire.ToWorker}[side]
            yield kind.FromString(bytes.fromhex(rest.partition("#")[0])), rest.partition("# ")[2]


def test_the_examples_say_what_stands_beside_them():
    update = wire.Vectors(num_values=3, inline=struct.pack("<3f", -0.25, 0.0, 0.125))
    model = wire.Vectors(num_values=3, inline=struct.pack("<3f", 1.0, 2.0, -0.5))
    work = {"job": 1, "num_examples": 32, "num_steps": 1, "again": True}
    pushed = wire.Push(**work, num_processed=32, metrics={"loss": 0.5}, update=update)
    expected = [
        wire.ToServer(join=wire.Join(protocol=1, worker="js", instance="7f3a")),
        wire.ToServer(ask=wire.Ask()),
        wire.ToWorker(job=wire.Job(id=1, version=0, model=model, seed=5)),
        wire.ToServer(push=pushed),
        wire.ToWorker(receipt=wire.Receipt(job=1, status="applied", weight=1.0, version=1)),
        wire.ToServer(leave=wire.Leave(reason="done")),
        wire.ToServer(push=wire.Push(**work, update=wire.Vectors(num_values=3))),
        wire.ToServer(chunk=wire.Chunk(data=update.inline[:8])),
        wire.ToServer(chunk=wire.Chunk(data=update.inline[8:])),
    ]
    found = list(spoken())
    assert [message for message, _ in found] == expected
    for message, said in found:
        assert said.startswith(message.WhichOneof("kind").capitalize())
