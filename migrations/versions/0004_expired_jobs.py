"""expired jobs: which of them have been cleaned up, and finding the others at once; how workers ended"""

import sqlalchemy as sa
from alembic import op

from common.db import types

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_UNCLEANED = "cleaned_at IS NULL"


def upgrade() -> None:
    comment = "when its results, steps and references were removed, after that"
    op.add_column("jobs", sa.Column("cleaned_at", types.Timestamp(), nullable=True, comment=comment))
    comment = "how its process ended, as its supervisor saw it: `crashed` or `killed`"
    op.add_column("workers", sa.Column("ended", sa.Text(), nullable=True, comment=comment))
    comment = "token of the launcher that started it"
    op.add_column("workers", sa.Column("launcher", sa.Text(), nullable=True, comment=comment))
    op.create_index(
        "ix_jobs_expired",
        "jobs",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text(_UNCLEANED),
        sqlite_where=sa.text(_UNCLEANED),
    )
    op.drop_index("ix_jobs_expires_at", table_name="jobs")
    _say("job_requests", "The wide half of a job. Written by submit, by couriers and by PATCH; emptied by erasure.")
    _say(
        "workers",
        "One row per worker process. Written by that worker and its launcher; removed by worker or sweeper.",
    )


def downgrade() -> None:
    _say("job_requests", "The wide, immutable half of a job. Written by submit; emptied by erasure.")
    _say("workers", "One row per living worker process. Written by that worker; removed by it or the sweeper.")
    op.create_index("ix_jobs_expires_at", "jobs", ["expires_at"], unique=False)
    op.drop_index("ix_jobs_expired", table_name="jobs")
    op.drop_column("workers", "launcher")
    op.drop_column("workers", "ended")
    op.drop_column("jobs", "cleaned_at")


def _say(table: str, comment: str) -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        op.create_table_comment(table, comment)
