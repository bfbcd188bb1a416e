"""Logs: one record, one line, to standard error; text for people, JSON for machines.

Facts travel in `extra` and come out as `key=value` or as JSON fields. Line breaks in values are escaped, so that no id
can forge a line, and the value of `token` in any URL is replaced before anything is written. What is said while working
for a trace names it: `trace_id`.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from node.telemetry.trace import facts

__all__ = ["configure"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message", "taskName"}
_TOKEN = re.compile(r"((?:token|api_key)=)[^&\s\"']+", re.IGNORECASE)


def _redact(text: str) -> str:
    return _TOKEN.sub(r"\1[redacted]", text)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    return {**facts(), **{k: v for k, v in record.__dict__.items() if k not in _STANDARD}}


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        facts = "".join(f" {_escape(k)}={_plain(v)}" for k, v in _facts(record).items())
        line = f"{at} {record.levelname:<7} {record.name}: {_escape(record.getMessage())}{facts}"
        if record.exc_info:
            line += f" exception={_plain(self.formatException(record.exc_info))}"
        return _redact(line)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_facts(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # The standard library's writer takes any number, key and character, and escapes all that is not ASCII.
        return _redact(json.dumps(entry, default=str, skipkeys=True, separators=(",", ":")))


def _escape(text: str) -> str:
    """Text that stays on its line, whatever a terminal or a log shipper takes for the end of one."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def _plain(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    return json.dumps(text)


def configure(level: str, style: str) -> None:
    """Send all records of `level` and above to standard error. `OFF` logs nothing at all."""
    root = logging.getLogger()
    root.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Text())
    root.addHandler(handler)
    if level == "OFF":
        logging.disable(logging.CRITICAL)
        return
    logging.disable(logging.NOTSET)
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    # Its INFO says what our own records say with more facts, and a line per socket.
    logging.getLogger("uvicorn.error").setLevel(max(root.level, logging.WARNING))
