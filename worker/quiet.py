"""Third-party chatter that no operator can act on, silenced in one place."""

import logging
import warnings

_WARNINGS = (
    # Old checkpoints' scheduler files are patched by the pipeline itself, which then tells so at every start.
    (FutureWarning, r".*(steps_offset|clip_sample|sample_size).*"),
    # transformers falls back to Pillow where torchvision is not installed, which is what we want.
    (UserWarning, r".*requires torchvision.*"),
    (UserWarning, r"Already found a `peft_config`.*"),  # a second adapter beside the first, as asked for
)


def quiet_libraries() -> None:
    """Progress bars and known warnings of torch's friends are off from here on; errors still show."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # before diffusers imports the parts that complain
    transformers_logging.disable_progress_bar()

    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    disable_progress_bars()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for category, message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)
