"""Causal language models and their tokenizers, from folders, hub ids, GGUF files and adapters.

The only file here that reads files, and the only one that knows transformers and peft.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from torch import nn
from torch.nn.utils import skip_init
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from influence.errors import ModelError
from influence.layers import Layer as Layer
from influence.layers import ProjectedHead as ProjectedHead
from influence.layers import head_name as head_name
from influence.layers import project_head as project_head
from influence.layers import tracked_layers as tracked_layers
from influence.layers import uncovered_parameters as uncovered_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONTEXT_KEYS = ("n_positions", "max_position_embeddings", "n_ctx", "max_seq_len", "seq_length")
DEFAULT_CONTEXT = 1024
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json"),
    *("*.model", "*.tiktoken"),
)
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
ADAPTER_CONFIG = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
PATH_KEYS = ("_name_or_path", "name_or_path", "base_model_name_or_path")
LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError)


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A causal language model, frozen for attribution, with its tokenizer."""

    model: nn.Module
    """In eval mode, eager attention, no cache, no parameter requires a gradient."""
    tokenizer: PreTrainedTokenizerBase
    name: str
    """For display: hub id, or the folder's or file's name; `+ name` for an adapter."""
    fingerprint: str
    """Hash of weights, config and tokenizer; the same wherever the files lie."""
    max_tokens: int
    """Longest context, from the config; 1024 where that does not say."""
    pad_id: int
    """Token put at padding: pad, else end of text, else 0; always masked."""
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Where the parts of a model lie."""

    folder: Path
    gguf: str | None
    tokenizer: Path | None  # None: inside the GGUF file
    adapter: Path | None
    name: str


def load_model(
    source: str | Path,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    gguf_file: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """Load a causal language model for attribution.

    Code and pickles from the source are never run. GPT-2's transposed layers are swapped for
    linear ones (see `swap_conv1d`), except under an adapter, where they are frozen.

    Args:
        source: A folder with safetensors, a hub id, a `.gguf` file, or a folder with a LoRA
            adapter whose config names the base model.
        tokenizer: Folder or hub id of another tokenizer; None: the source's own.
        revision: Of a hub id: branch, tag or commit.
        adapter: Folder or hub id of a LoRA adapter to put on the source.
        gguf_file: Name of the GGUF file within the source.
        device: Where the model goes.
        dtype: Of the weights; curvature wants float32.

    Returns:
        The model, with all that others need to know of it.

    Raises:
        ModelError: If anything is missing or unreadable, or the model is not a causal LM.
    """
    files = _find(source, tokenizer, revision, adapter, gguf_file)
    with quiet_transformers():
        loaded_tokenizer = _load_tokenizer(files)
        model = _load_causal(files, dtype)
        if files.adapter is None:
            swap_conv1d(model)
        else:
            model = _with_adapter(model, files.adapter)
    model = model.to(device).eval().requires_grad_(False)
    _check_model(model, loaded_tokenizer, files.name)
    return LanguageModel(
        model=model,
        tokenizer=loaded_tokenizer,
        name=files.name,
        fingerprint=_digest(files),
        max_tokens=_context(model.config),
        pad_id=_pad_id(loaded_tokenizer, _vocabulary(model)),
        device=torch.device(device),
    )


def fingerprint(
    source: str | Path,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    gguf_file: str | None = None,
) -> str:
    """Hash what determines a model's numbers: weights, config, tokenizer and adapter.

    Where the files lie does not enter, nor paths that configs mention.

    Args:
        source: As for `load_model`, like the other arguments.
        tokenizer: As there.
        revision: As there.
        adapter: As there.
        gguf_file: As there.

    Returns:
        32 hexadecimal digits.
    """
    return _digest(_find(source, tokenizer, revision, adapter, gguf_file))


def swap_conv1d(model: nn.Module) -> None:
    """Replace, in place, GPT-2's `Conv1D` layers by linear layers that compute the same.

    `Conv1D` holds its weight as (in, out). It is known by its class, never by its shape, which may
    be square. Names stay; do not save the model afterwards, as its weights are transposed.

    Args:
        model: Any model.
    """
    for name, module in list(model.named_modules()):
        if not isinstance(module, Conv1D):
            continue
        n_in, n_out = module.weight.shape
        like = {"device": module.weight.device, "dtype": module.weight.dtype}
        linear = skip_init(nn.Linear, n_in, n_out, **like)  # leaves the random state alone
        weight = module.weight.detach().T.contiguous()
        linear.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
        linear.bias = module.bias
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, linear.train(module.training))


def _find(
    source: str | Path,
    tokenizer: str | Path | None,
    revision: str | None,
    adapter: str | Path | None,
    gguf_file: str | None,
) -> _Files:
    # Resolve all parts to local folders; refuse what cannot be loaded, before reading weights.
    name = str(source) if _is_hub_id(source) else Path(source).expanduser().resolve().name
    name = name.removesuffix(".gguf")
    if str(source).endswith(".gguf"):
        source, gguf_file = Path(source).parent, gguf_file or Path(source).name
    folder = _local(source, revision, gguf_file)
    if (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists():
        if adapter is not None:
            raise ModelError(
                f"{name}: an adapter, with another adapter {adapter}; expected a base model. Give "
                "one of them as the source."
            )
        config = _adapter_config(folder)
        base = config["base_model_name_or_path"]
        try:
            return _find(base, tokenizer, config.get("revision"), folder, gguf_file)
        except ModelError as error:
            raise ModelError(f"{name}: an adapter over {base!r}, which fails. {error}") from error
    adapter_folder = None if adapter is None else _local(adapter, None, None)
    if adapter_folder is not None:
        _adapter_config(adapter_folder)
        name = f"{name} + {adapter_folder.name if not _is_hub_id(str(adapter)) else adapter}"
    _check_weights(folder, gguf_file, name)
    own = (path for path in (adapter_folder, folder) if path and _matching(path, TOKENIZER_FILES))
    fallback = None if gguf_file else next(own, folder)
    tokenizer_folder = fallback if tokenizer is None else _local(tokenizer, None, None)
    if tokenizer_folder and not _matching(tokenizer_folder, TOKENIZER_FILES):
        raise ModelError(
            f"{name}: no tokenizer in {tokenizer_folder}, expected tokenizer.json or the like. "
            "Save the tokenizer there with save_pretrained, or name another one with `tokenizer`."
        )
    return _Files(
        folder=folder,
        gguf=gguf_file,
        tokenizer=tokenizer_folder,
        adapter=adapter_folder,
        name=name,
    )


def _is_hub_id(source: str | Path) -> bool:
    text = str(source)
    is_path = isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1
    return not is_path and not text.endswith(".gguf") and not Path(text).exists()


def _local(source: str | Path, revision: str | None, gguf_file: str | None) -> Path:
    # A local folder as it is; of a hub id, the files that are needed and no others.
    if not _is_hub_id(source):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise ModelError(
                f"model {source}: no such folder, expected one with config.json and safetensors, a "
                ".gguf file or a hub id. Check the path."
            )
        return folder
    wanted = [gguf_file] if gguf_file else [*WEIGHT_FILES, "config.json", ADAPTER_CONFIG]
    try:
        path = snapshot_download(
            str(source),
            revision=revision,
            allow_patterns=[*wanted, *TOKENIZER_FILES],
            ignore_patterns=["*/*"],
        )
    except (*LOAD_ERRORS, HfHubHTTPError) as error:
        raise ModelError(
            f"model {source!r}, revision {revision or 'main'!r}: neither a folder here nor to be "
            f"had from the hub ({_first_line(error)}). Check the spelling and the network, or "
            "give a local folder."
        ) from error
    return Path(path)


def _adapter_config(folder: Path) -> dict[str, Any]:
    # The adapter's settings; refuses other kinds than LoRA, and pickles.
    config = _read_json(folder / ADAPTER_CONFIG)
    if config.get("peft_type") != "LORA" or not config.get("base_model_name_or_path"):
        raise ModelError(
            f"adapter {folder.name}: of type {config.get('peft_type')!r} over "
            f"{config.get('base_model_name_or_path')!r}, expected a LORA over a named base model. "
            "Merge other kinds into their base model."
        )
    if not (folder / "adapter_model.safetensors").exists():
        raise ModelError(
            f"adapter {folder.name}: no adapter_model.safetensors. Save it again with "
            "save_pretrained; pickled weights are not read, since they can run code."
        )
    return config


def _check_weights(folder: Path, gguf_file: str | None, name: str) -> None:
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise ModelError(f"{name}: no file {gguf_file} in {folder}. Check its name.")
        return
    if not (folder / "config.json").exists():
        found = _matching(folder, ("*.gguf",))
        hint = f"Name the file with `gguf_file`: {found[0].name}." if found else "Check the path."
        raise ModelError(f"{name}: no config.json in {folder}, expected a model's folder. {hint}")
    _read_json(folder / "config.json")
    if not _matching(folder, ("*.safetensors",)):
        pickles = ", ".join(path.name for path in _matching(folder, PICKLES))
        raise ModelError(
            f"{name}: {f'only pickled weights ({pickles})' if pickles else 'no weights'}, expected "
            "safetensors. Pickles can run code and are not read: convert them where you trust "
            "them, with model.save_pretrained(folder)."
        )


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: unreadable ({_first_line(error)}), expected JSON.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: a {type(content).__name__}, expected a JSON object.")
    return content


def _load_tokenizer(files: _Files) -> PreTrainedTokenizerBase:
    from_gguf = None if files.tokenizer else files.gguf
    try:
        return AutoTokenizer.from_pretrained(
            str(files.tokenizer or files.folder), gguf_file=from_gguf, trust_remote_code=False
        )
    except LOAD_ERRORS as error:
        raise ModelError(
            f"{files.name}: its tokenizer cannot be loaded ({_first_line(error)}). Save it again "
            "with save_pretrained, or name another one with `tokenizer`."
        ) from error


def _load_causal(files: _Files, dtype: torch.dtype) -> nn.Module:
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(files.folder),
            gguf_file=files.gguf,
            dtype=dtype,
            attn_implementation="eager",
            trust_remote_code=False,
            use_safetensors=None if files.gguf else True,
            output_loading_info=True,
        )
    except LOAD_ERRORS as error:
        raise ModelError(
            f"{files.name}: cannot be loaded as a causal language model ({_first_line(error)}). "
            "Use a decoder with a language-model head, of an architecture that transformers knows."
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"{files.name}: {len(missing)} weights are not in its files ({', '.join(missing[:3])}),"
            " expected all of a causal language model's. Save the model with its head."
        )
    model.config.use_cache = False
    if files.gguf:  # the weights are plain now, and can be saved as such
        del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
    return model


def _with_adapter(model: nn.Module, folder: Path) -> nn.Module:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ModelError(
            f"adapter {folder.name}: peft is not installed. Run `pip install peft`."
        ) from error
    try:
        return PeftModel.from_pretrained(model, str(folder))
    except LOAD_ERRORS as error:
        raise ModelError(
            f"adapter {folder.name}: does not fit its base model ({_first_line(error)}). Use the "
            "base model that it was trained on."
        ) from error


@torch.no_grad()
def _check_model(model: nn.Module, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    # Refuse headless and bidirectional models, broken weights, and another model's tokenizer.
    head_name(model)
    vocabulary = _vocabulary(model)
    if tokenizer.vocab_size > vocabulary:
        raise ModelError(
            f"{name}: the tokenizer has {tokenizer.vocab_size} tokens, the model {vocabulary}. Use "
            "the model's own tokenizer."
        )
    ids = torch.arange(4).repeat(2, 1) % vocabulary
    ids[1, -1] = (ids[1, -1] + 1) % vocabulary
    ids = ids.to(next(model.parameters()).device)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :-1]
    if not bool(torch.isfinite(logits).all()):
        raise ModelError(f"{name}: its logits are not finite. Check the weights, or the dtype.")
    difference, largest = (logits[0] - logits[1]).abs().max(), logits.abs().max()
    if difference > 8 * torch.finfo(logits.dtype).eps * largest:
        raise ModelError(
            f"{name}: a later token changes the logits of earlier ones, expected a causal language "
            "model. Use a decoder, or set is_decoder in its config."
        )


def _context(config: Any) -> int:
    text_config = config.get_text_config()
    found = (getattr(text_config, key, None) for key in CONTEXT_KEYS)
    return next((value for value in found if isinstance(value, int)), DEFAULT_CONTEXT)


def _vocabulary(model: nn.Module) -> int:
    return len(model.get_input_embeddings().weight)  # type: ignore[operator]


def _pad_id(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int:
    # Some tokenizers were given a pad token that the model has no embedding for.
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in found if token is not None and token < vocabulary)


def _digest(files: _Files) -> str:
    labelled = {}
    if files.tokenizer:
        for path in _matching(files.tokenizer, TOKENIZER_FILES):
            labelled[f"tokenizer/{path.name}"] = path
    if files.gguf:
        labelled["model.gguf"] = files.folder / files.gguf
    else:
        for path in _matching(files.folder, ("config.json", *WEIGHT_FILES)):
            labelled[f"model/{path.name}"] = path
    if files.adapter:
        for path in _matching(files.adapter, (ADAPTER_CONFIG, "*.safetensors")):
            labelled[f"adapter/{path.name}"] = path
    total = blake2b(digest_size=16)
    for label, path in sorted(labelled.items()):
        total.update(f"{label}\0{_file_digest(path)}\0".encode())
    return total.hexdigest()


def _file_digest(path: Path) -> str:
    # Configs are hashed without the paths that they mention.
    total = blake2b(digest_size=16)
    if path.name in ("config.json", "tokenizer_config.json", ADAPTER_CONFIG):
        content = {key: v for key, v in _read_json(path).items() if key not in PATH_KEYS}
        total.update(json.dumps(content, sort_keys=True).encode())
        return total.hexdigest()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            total.update(block)
    return total.hexdigest()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}".rstrip(": ")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and reports of transformers' own; what goes wrong is raised.

    Yields:
        Nothing.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
