"""Pre-trained weights by name: a folder here, or one fetched from the Hugging Face hub."""

from pathlib import Path

from mlim.errors import InputError

HUB_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def find_folder(start: str, setting: str, otherwise: str) -> Path:
    """A local folder, else what the hub has of that name.

    `InputError` when neither is there; it names the `setting` and says what it may be set to `otherwise`.
    """
    if Path(start).is_dir():
        return Path(start)
    from huggingface_hub import snapshot_download  # the one part that may use a network

    try:
        return Path(snapshot_download(start, allow_patterns=list(HUB_FILES)))
    except (OSError, ValueError) as error:  # unreachable or offline, no such model, not a model's name
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{setting}: `{start}` is no folder here and could not be fetched from the hub ({reason}); "
            f"set {setting} to {otherwise}"
        ) from None
