"""Logs: events with constant names and bound fields, for a person at a terminal or as JSON lines for a machine."""

import logging
import sys

import structlog

from common.settings import Settings

_LEVELS = logging.getLevelNamesMapping()


def configure_logging(settings: Settings, role: str) -> None:
    """Set up structlog and the standard library's loggers for this process. `role` stands in every line."""
    level = _LEVELS[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer = _renderer(settings)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(role=role)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _renderer(settings: Settings) -> structlog.typing.Processor:
    for_person = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    if for_person:
        return structlog.dev.ConsoleRenderer()
    return structlog.processors.JSONRenderer()
