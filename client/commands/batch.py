"""`darkroom batch`: a folder of pictures, or a manifest of them, through one batch."""

import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from client.commands import job_options
from client.commands.failing import Failure
from client.commands.follow import INTERRUPTED
from client.commands.job_request import build_fields
from client.commands.options import LOCAL_SERVER, Key, Url
from client.errors import ClientError
from client.folder.errors import FolderError, Stopped
from client.folder.patience import RETRY_SECONDS, Patience
from client.folder.plan import FolderOptions
from client.folder.session import Handed, Session
from client.folder.summary import Summary
from client.plain_text import make_plain
from client.progress import describe_count
from client.sdk import Darkroom

_Folder = {"exists": True, "file_okay": False, "readable": True}
_File = {"exists": True, "dir_okay": False, "readable": True}

Folder = Annotated[Path | None, typer.Argument(**_Folder, help="The pictures: png, jpg, jpeg, webp.")]
Out = Annotated[Path, typer.Option(help="Folder for the results, which have the names of their pictures.")]
Manifest = Annotated[
    Path | None, typer.Option(**_File, metavar="FILE.jsonl|FILE.csv", help="One line per result, also a failed.jsonl.")
]
MaskDir = Annotated[Path | None, typer.Option(**_Folder, help="A mask for every picture, of the same relative name.")]
Name = Annotated[str | None, typer.Option(help="What the batch is called.")]
Priority = Annotated[str | None, typer.Option(help="high, normal or low; default: low.")]
OnInvalid = Annotated[
    str | None, typer.Option(help="reject the batch for one wrong line (the default), or skip such lines.")
]
Recursive = Annotated[
    bool | None, typer.Option("--recursive/--no-recursive", "-r", help="Subfolders too, which is the default.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is not finished in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are in --out already.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="--no-wait hands in and ends; --resume fetches later.")]
Concurrency = Annotated[int, typer.Option(min=1, max=64, help="Files on their way at once.")]

app = typer.Typer()
_notes = Console(stderr=True)
_OPTIONS: Final = (
    "out",
    "folder",
    "mask_dir",
    "manifest",
    "name",
    "priority",
    "on_invalid",
    "recursive",
    "resume",
    "overwrite",
    "wait",
    "concurrency",
)


@app.command()
def batch(
    context: typer.Context,
    folder: Folder = None,
    out: Out = Path("out"),
    prompt: job_options.Prompt = None,
    manifest: Manifest = None,
    mask_dir: MaskDir = None,
    request: job_options.Request = None,
    model: job_options.Model = None,
    negative_prompt: job_options.NegativePrompt = None,
    strength: job_options.Strength = None,
    seed: job_options.Seed = None,
    num_inference_steps: job_options.Steps = None,
    steps_mode: job_options.StepsMode = None,
    guidance_scale: job_options.Guidance = None,
    scheduler: job_options.Scheduler = None,
    num_images: job_options.NumImages = None,
    size: job_options.Size = None,
    resize: job_options.Resize = None,
    mask_mode: job_options.MaskMode = None,
    mask_blur: job_options.MaskBlur = None,
    mask_grow: job_options.MaskGrow = None,
    inpaint_area: job_options.InpaintArea = None,
    format: job_options.Format = None,  # noqa: A002 - the word of the API
    quality: job_options.Quality = None,
    name: Name = None,
    priority: Priority = None,
    on_invalid: OnInvalid = None,
    recursive: Recursive = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    wait: Wait = True,
    concurrency: Concurrency = 8,
    url: Url = LOCAL_SERVER,
    key: Key = None,
) -> None:
    """Edit every picture of a folder, each result into a file as it arrives; Ctrl-C and --resume lose nothing."""
    wishes = {name: context.params[name] for name in _OPTIONS}
    options = FolderOptions(server=url, defaults=_defaults(context.params), **wishes)
    patience = Patience(lambda text: _notes.print(text, markup=False, highlight=False, soft_wrap=True), server=url)
    with open_server(url, key, patience) as server:
        session = Session(server, options, _notes, patience)
        with _ended_well(session, out, patience):
            ending = session.run()
    _tell(ending, out)


def open_server(url: str, key: str | None, patience: Patience) -> Darkroom:
    """The server that the options name, with the patience of a run that lasts for hours."""
    return Darkroom(url, key, retry_seconds=RETRY_SECONDS, sleep=patience.sleep_until_retry)


def _defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all pictures share."""
    fields = build_fields({"grid": False, **options})
    local = [role for role in ("image", "mask") if isinstance(fields.get(role), dict) and "file" in fields[role]]
    if local:
        raise Failure(
            f"a file as {local[0]} cannot be shared by a batch: use FOLDER, --mask-dir or --manifest", exit_code=2
        )
    return fields


@contextmanager
def _ended_well(session: Session, out: Path, patience: Patience) -> Iterator[None]:
    """Around a run: whatever ends it, the user learns how to go on. SIGTERM is taken as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        patience.stop()
        ours = "; what is handed in goes on at the server" if session.is_handed_in else ""
        _notes.print(f"stopped{ours}. {_how_on(out)}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except FolderError as error:
        raise Failure(str(error), exit_code=error.exit_code) from error
    except Stopped:
        raise
    except (ClientError, OSError) as error:
        raise Failure(f"{error}\n{_how_on(out)}") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _how_on(out: Path) -> str:
    return f"Go on with: {_resuming(out)}"


def _resuming(out: Path) -> str:
    return f"darkroom batch --out {shlex.quote(make_plain(out))} --resume"


def _tell(ending: Summary | Handed, out: Path) -> None:
    if isinstance(ending, Summary):
        print(make_plain(ending.describe(), keep_lines=True))
        raise typer.Exit(ending.exit_code)
    if ending.refused:
        _notes.print(f"refused: {describe_count(ending.refused, 'picture')}", markup=False, highlight=False)
    _notes.print(f"Fetch the results with: {_resuming(out)}", markup=False, soft_wrap=True)
    print(ending.batch_id or "nothing was handed in")
