"""Where users' URLs may lead in this deployment."""

from common.outbound.addresses import Policy
from common.settings import Settings


def outbound_policy(settings: Settings) -> Policy:
    """Public addresses over https; more with `allow_private_urls`, and on the embedded stack of one person.

    The latter serves this machine alone, without keys, from SQLite: whoever reaches it reaches the loopback anyway, so
    that is permitted too, in http, but no private network. Nothing permits metadata services.
    """
    is_embedded = settings.auth == "none" and settings.is_loopback and settings.database.startswith("sqlite")
    is_open = settings.allow_private_urls
    return Policy(allow_http=is_embedded or is_open, allow_loopback=is_embedded or is_open, allow_private=is_open)
