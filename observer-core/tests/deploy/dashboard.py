"""Reads dashboards with Grafana's classes, and prints what those do not have: fields, values, and types of panels.

Arguments: files. The classes of grafana-foundation-sdk check nothing themselves: they copy the fields that they know.
"""
import enum
import json
import re
import sys
import types
import typing

from grafana_foundation_sdk.cog import encoder, plugins, runtime
from grafana_foundation_sdk.models.dashboard import Dashboard

# Fields that Grafana leaves to the data source, here that of Prometheus.
OF_DATA_SOURCE = re.compile(
    r"\.templating\.list\[\d+\]\.definition"
    r"|\.annotations\.list\[\d+\]\.(step|titleFormat|textFormat|useValueForTime|target\..*)"
)


def lost(path, before, after):
    """Fields that do not survive reading and writing."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(f"{path}.{key}", value, after[key])
            elif not OF_DATA_SOURCE.fullmatch(f"{path}.{key}"):
                yield f"{path}.{key}: no such field"
    elif isinstance(before, list) and isinstance(after, list):
        for at, pair in enumerate(zip(before, after)):
            yield from lost(f"{path}[{at}]", *pair)
    elif before != after:
        yield f"{path}: {before!r} is read as {after!r}"


def written(value):
    return json.loads(encoder.JSONEncoder().encode(value))


def fits(value, hint):
    """Whether a value, not its fields, is of a type."""
    origin = typing.get_origin(hint)
    if hint is typing.Any or hint is object:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, it) for it in typing.get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(fits(it, typing.get_args(hint)[0]) for it in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(it, typing.get_args(hint)[1]) for it in value.values())
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [it.value for it in hint]
    if isinstance(value, dict) and hasattr(hint, "from_json"):
        # Not every class reads its parts.
        return not (*lost("", value, written(hint.from_json(value))), *mistyped("", hint.from_json(value)))
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is float:
        return isinstance(value, (int, float))
    return not isinstance(hint, type) or isinstance(value, hint)


def unknown_panels(path, panels):
    """Panels of a type that Grafana does not have."""
    for at, panel in enumerate(panels):
        kind = panel["type"]
        if kind != "row" and runtime.Runtime().panelcfg_config(kind) is None:
            yield f"{path}[{at}]: no such panel: {kind!r}"
        yield from unknown_panels(f"{path}[{at}].panels", panel.get("panels", []))


def mistyped(path, value):
    """Fields of an object, and of those in it, that are of another type."""
    if isinstance(value, (list, dict)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from mistyped(f"{path}[{key}]", item)
    elif type(value).__module__.startswith("grafana_foundation_sdk"):
        hints = typing.get_type_hints(type(value))
        for name, item in vars(value).items():
            if name in hints and not fits(item, hints[name]):
                yield f"{path}.{name}: {item!r} is not {hints[name]}"
            yield from mistyped(f"{path}.{name}", item)


plugins.register_default_plugins()
wrong = []
for file in sys.argv[1:]:
    with open(file) as text:
        before = json.load(text)
    dashboard = Dashboard.from_json(before)
    found = [
        *lost("", before, written(dashboard)),
        *mistyped("", dashboard),
        *unknown_panels(".panels", before["panels"]),
    ]
    wrong += [f"{file}: {it}" for it in found]
print("\n".join(wrong), end="")
sys.exit(bool(wrong))
