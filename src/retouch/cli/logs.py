"""How log lines look: key=value on the error stream, coloured on a terminal. What is logged is each module's matter."""

from __future__ import annotations

import logging
import sys

import structlog

from retouch.secret import redact_line
from retouch.settings import LogLevel


class _ErrorStream:
    """Writes to the error stream of the moment, one write a line, so that lines of threads do not mix."""

    def msg(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    debug = info = warning = error = critical = exception = msg


def set_up_logging(level: LogLevel) -> None:
    """For a whole process, once. Libraries that log in the standard way are heard from `warning` up, our own modules
    from `level`; all lines look alike."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The default prints the local variables of every frame: keys and images in the log, and seconds for a deep stack.
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        pad_event_to=0,
        pad_level=False,
        exception_formatter=structlog.dev.plain_traceback,
    )
    standard = logging.StreamHandler()
    standard.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer, redact_line],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[standard])
    logging.getLogger("retouch").setLevel(number)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer, redact_line],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: _ErrorStream(),
        cache_logger_on_first_use=True,
    )
