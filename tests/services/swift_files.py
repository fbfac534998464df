"""The configuration files and rings of a Swift of one disk, one copy and four servers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

SERVERS: Final = ("account", "container", "object", "proxy")
ACCESS_KEY: Final = "test:tester"
SECRET_KEY: Final = "testing"
REGION: Final = "us-east-1"

# Arguments: the folder, then name=port for each ring. 16 partitions are plenty for one disk.
RING_PROGRAM: Final = """
import sys
from pathlib import Path
from swift.common.ring import RingBuilder
folder = Path(sys.argv[1])
for argument in sys.argv[2:]:
    name, _, port = argument.partition("=")
    builder = RingBuilder(4, 1, 0)
    builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1})
    builder.rebalance(seed="darkroom")
    builder.get_ring().save(str(folder / f"{name}.ring.gz"))
"""

_HASH: Final = """
[swift-hash]
swift_hash_path_prefix = darkroom
swift_hash_path_suffix = tests

[storage-policy:0]
name = only
default = yes
"""

# workers = 0: one process that does not fork. Reserve 0: a nearly full disk is no reason to fail a test.
_COMMON: Final = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = WARNING
"""

_BACKEND: Final = """
[pipeline:main]
pipeline = {name}-server

[app:{name}-server]
use = egg:swift#{name}
"""

# Port 1 refuses at once: there is no memcached, and none of another project must be found.
_PROXY: Final = """
[pipeline:main]
pipeline = catch_errors cache s3api tempauth bulk slo dlo symlink versioned_writes proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1

[filter:s3api]
use = egg:swift#s3api
location = us-east-1

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin

[filter:bulk]
use = egg:swift#bulk

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo

[filter:symlink]
use = egg:swift#symlink

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
"""


def write_files(folder: Path, ports: Mapping[str, int], *, user: str) -> None:
    """Write `swift.conf` and one file per server into `folder`, and make the folder of its one disk."""
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(_HASH)
    for name in SERVERS:
        common = _COMMON.format(port=ports[name], user=user, folder=folder)
        own = _PROXY if name == "proxy" else _BACKEND.format(name=name)
        (folder / f"{name}.conf").write_text(common + own)
