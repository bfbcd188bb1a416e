"""Frames that cost more than their size says: each within 16 MiB, which one frame could have at first."""

__all__ = ["ATTACKS"]

MIB = 1024 * 1024
ATTACKS = {
    "nested lists": b'{"type":"heartbeat","x":[' + (b"[" * 198 + b"]" * 198 + b",") * 40_000 + b"1]}",
    "nested objects": b'{"type":"heartbeat","x":[' + (b'{"":' * 190 + b"1" + b"}" * 190 + b",") * 16_000 + b"1]}",
    "empty lists": b'{"type":"heartbeat","x":[' + b"[]," * 5_000_000 + b"1]}",
    "empty objects": b'{"type":"heartbeat","x":[' + b"{}," * 5_000_000 + b"1]}",
    "small strings": b'{"type":"heartbeat","x":[' + b'"",' * 5_000_000 + b"1]}",
    "one key again and again": b'{"type":"heartbeat","x":{' + b'"k":[],' * 2_000_000 + b'"k":1}}',
    "numbers": b'{"type":"heartbeat","x":[' + b"0," * 8_000_000 + b"1]}",
    "quotes": b'{"type":"heartbeat","x":"' + b'"' * (15 * MIB),
    "brackets in strings": b'{"type":"heartbeat","x":[' + b'"[[,",' * 99_000 + b"1]}",
    "a string of escapes": b'{"type":"heartbeat","x":"' + b"\\u0000" * 2_500_000 + b'"}',
    "a string of backslashes": b'{"type":"heartbeat","x":"' + b"\\\\" * (7 * MIB) + b'"}',
    "a string of brackets": b'{"type":"heartbeat","x":"' + b"[" * (15 * MIB) + b'"}',
    "a number of a million digits": b'{"type":"heartbeat","x":' + b"1" * 1_000_000 + b"}",
    "a fraction of millions of digits": b'{"type":"heartbeat","x":0.' + b"1" * (15 * MIB) + b"}",
    "spaces": b'{"type":"heartbeat","x":' + b" " * (15 * MIB) + b"1}",
    "results": b'{"type":"command_results","action_results":[' + b'{"status":"none"},' * 49_000 + b"{}]}",
    "results that are none": b'{"type":"command_results","action_results":[' + b"{}," * 49_000 + b"{}]}",
    "messages": b'{"type":"command_results","messages":[' + b"1," * 99_000 + b"1]}",
}
