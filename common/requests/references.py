"""What may be named as an input: an upload that is ready, an image of a job that succeeded."""

from typing import Final

from common.db.earlier_jobs import EarlierJob
from common.db.uploads import Upload, UploadState
from common.domain.errors import Invalid, Problem
from common.domain.job import InputRef, StoredImage
from common.domain.lifecycle import JobState

LIFE_OVER: Final = "the life of this image is over; send it again"
_NOT_READY: Final = {
    UploadState.PENDING: "the upload is not complete; PUT its file, then POST its /complete",
    UploadState.REJECTED: "the upload was rejected; its file was not what was declared",
}


def require_picture(upload: Upload | None, pointer: str) -> InputRef:
    """The picture of the upload that the source at `pointer` names; None is one that the tenant does not have.

    Raises `Invalid` for one that is unknown, expired or not ready.
    """
    if upload is None:
        raise _invalid(f"{pointer}/upload", "there is no such upload")
    if upload.is_expired:
        raise _invalid(f"{pointer}/upload", "the upload's life is over; send it again")
    if upload.picture is None:
        detail = _NOT_READY.get(upload.state, "the upload's picture is no longer there")
        raise _invalid(f"{pointer}/upload", detail)
    return upload.picture


def require_result(job: EarlierJob | None, index: int, pointer: str) -> StoredImage:
    """Image `index` of the job that the source at `pointer` names; None is one that the tenant does not have.

    Raises `Invalid` unless the job succeeded and its results are still there; the code is `gone` for an erased one.
    """
    if job is None:
        raise _invalid(f"{pointer}/job", "there is no such job")
    if job.is_erased:
        raise Invalid([Problem(f"{pointer}/job", "gone", "the job has been erased")])
    if job.state is not JobState.SUCCEEDED:
        raise _invalid(f"{pointer}/job", f"the job is {job.state}; only one that succeeded has images")
    if job.is_expired:
        raise _invalid(f"{pointer}/job", "the life of the job's images is over")
    if index not in job.images:
        raise _invalid(f"{pointer}/index", f"the job has {len(job.images)} images; an index counts from 0")
    return job.images[index]


def _invalid(pointer: str, detail: str) -> Invalid:
    return Invalid([Problem(pointer, "validation_error", detail)])
