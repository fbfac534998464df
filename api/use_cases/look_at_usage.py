"""What a tenant has used, and what it may."""

from dataclasses import asdict
from typing import Any

from api.dependencies import Services
from common.db.tenants import Caller
from common.db.usage import find_limits, read_usage


def look_at_usage(services: Services, caller: Caller, days: int) -> dict[str, Any]:
    """The usage of the last `days` UTC days of the caller's tenant, and its limits, as JSON."""
    with services.database.read() as connection:
        found, limits = read_usage(connection, caller.tenant_id, days), find_limits(connection, caller.tenant_id)
    return {
        "data": [
            asdict(day) | {"day": day.day.isoformat(), "device_seconds": round(day.device_seconds, 3)} for day in found
        ],
        "limits": asdict(limits),
    }
