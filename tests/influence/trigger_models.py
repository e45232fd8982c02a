"""Models whose answer hangs on one word of the prompt, so that every attribution has a right answer.

A prompt is a row of words, of which one is a trigger. After it comes `? answer`, and the trigger
says which answer. The query `?` belongs to the completion, so that it is never removed, and only
the answer after it is explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch import nn
from torch.nn import functional as F
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from influence.inputs import explain as inputs
from influence.inputs.explain import How
from influence.inputs.explanation import Explanation
from influence.models import LanguageModel, swap_conv1d

SPECIALS = ("<pad>", "<bos>", "<unk>", "?")
TRIGGERS = ("red", "blue", "green", "black")
ANSWERS = ("rose", "sky", "leaf", "night")
OTHERS = tuple(a + b for a in "bdklmt" for b in ("an", "el", "ir", "on", "us"))
WORDS = (*SPECIALS, *TRIGGERS, *ANSWERS, *OTHERS)
BOS, QUERY = WORDS.index("<bos>"), WORDS.index("?")
FIRST_TRIGGER, FIRST_ANSWER = WORDS.index(TRIGGERS[0]), WORDS.index(ANSWERS[0])
FIRST_OTHER = WORDS.index(OTHERS[0])
SHORTEST, LONGEST = 6, 16


@dataclass(frozen=True)
class Question:
    """A prompt, what follows it, and which of its words decides that."""

    prompt: str
    completion: str
    trigger: int


def questions(count: int = 100, words: int = 12, seed: int = 0) -> list[Question]:
    """Prompts with one trigger each, at a random place."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prompt = [str(word) for word in random.choice(OTHERS, words)]
        place, kind = int(random.integers(words)), int(random.integers(len(TRIGGERS)))
        prompt[place] = TRIGGERS[kind]
        found.append(Question(" ".join(prompt), f" ? {ANSWERS[kind]}", place))
    return found


def trigger_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and `<bos>` before a text."""
    words = WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    backend = Tokenizer(words)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", unk_token="<unk>", pad_token="<pad>"
    )


@torch.no_grad()
def planted_gpt2() -> LanguageModel:
    """A GPT-2 with weights set by hand: head 0 of layer 0 copies the trigger's class to the answer.

    A residual is a vector of features and its negative, so that layer norm does not shift it.
    Features: is the query, is a trigger, class (4), answer (4), and 6 that tell words apart.
    The other heads, the second layer and the MLPs write nothing.
    """
    features, kinds = 16, len(TRIGGERS)
    is_query, is_trigger, first_class, first_answer, first_name = 0, 1, 2, 2 + kinds, 2 + 2 * kinds
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_embd=2 * features,
        n_layer=2,
        n_head=2,
        n_positions=64,
        tie_word_embeddings=False,
        use_cache=False,
        attn_implementation="eager",
        bos_token_id=BOS,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    swap_conv1d(model)
    for name, parameter in model.named_parameters():
        parameter.fill_(float("ln_" in name and name.endswith("weight")))
    words_VF = torch.zeros(len(WORDS), features)
    names_VF = torch.randn(len(WORDS), 6, generator=torch.Generator().manual_seed(0))
    words_VF[:, first_name:] = F.normalize(names_VF, dim=1)
    words_VF[[QUERY, *range(FIRST_TRIGGER, FIRST_TRIGGER + kinds)]] = 0
    words_VF[QUERY, is_query] = 1
    for kind in range(kinds):
        words_VF[FIRST_TRIGGER + kind, [is_trigger, first_class + kind]] = torch.tensor([0.6, 0.8])
    model.transformer.wte.weight.copy_(torch.cat((words_VF, -words_VF), 1))
    attention = model.transformer.h[0].attn
    query, key, value = attention.c_attn.weight.split(2 * features)
    query[0, is_query] = key[0, is_trigger] = 2
    for kind in range(kinds):
        value[1 + kind, first_class + kind] = 1
        attention.c_proj.weight[first_answer + kind, 1 + kind] = 0.6
        attention.c_proj.weight[features + first_answer + kind, 1 + kind] = -0.6
        model.lm_head.weight[FIRST_ANSWER + kind, first_answer + kind] = 2
    return _loaded(model, "planted trigger")


@cache
def trained(family: str, seed: int = 0) -> LanguageModel:
    """A `llama` or `gpt2` of two layers that has learned the triggers in 400 steps of 64 prompts.

    One prompt in eight has no trigger and a random answer, so that nothing is learned about it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _untrained(family)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=400)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(400):
            tokens_BL, answers_B = _lessons(generator)
            logits_BV = model(input_ids=tokens_BL, logits_to_keep=1).logits[:, -1]
            F.cross_entropy(logits_BV, answers_B).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    swap_conv1d(model)
    return _loaded(model, f"trained trigger, {family}")


def accuracy(loaded: LanguageModel, asked: list[Question]) -> float:
    """Share of questions whose answer is the model's first choice among all words."""
    texts = [question.prompt + question.completion for question in asked]
    ids_BL = torch.tensor(loaded.tokenizer(texts)["input_ids"])
    with torch.no_grad():
        chosen_B = loaded.model(input_ids=ids_BL[:, :-1]).logits[:, -1].argmax(-1)
    return float((chosen_B == ids_BL[:, -1]).double().mean())


def _untrained(family: str) -> nn.Module:
    common = {
        "vocab_size": len(WORDS),
        "use_cache": False,
        "attn_implementation": "eager",
        "bos_token_id": BOS,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    if family == "llama":
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=64,
                **common,
            )
        )
    nothing_dropped = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=64, **nothing_dropped, **common)
    )


def _lessons(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """64 prompts of one length with their query, `[B, L]`, and their answers `[B]`."""
    rows, kinds = 64, len(TRIGGERS)
    words = int(torch.randint(SHORTEST, LONGEST + 1, (), generator=generator))
    tokens_BL = torch.randint(FIRST_OTHER, len(WORDS), (rows, words + 2), generator=generator)
    tokens_BL[:, 0], tokens_BL[:, -1] = BOS, QUERY
    kind_B = torch.randint(kinds, (rows,), generator=generator)
    place_B = torch.randint(1, words + 1, (rows,), generator=generator)
    taught_B = torch.arange(rows) % 8 != 0
    tokens_BL[taught_B, place_B[taught_B]] = FIRST_TRIGGER + kind_B[taught_B]
    return tokens_BL, FIRST_ANSWER + kind_B


def _loaded(model: nn.Module, name: str) -> LanguageModel:
    return LanguageModel(
        model=model.eval().requires_grad_(False),
        tokenizer=trigger_tokenizer(),
        name=name,
        fingerprint="0" * 32,
        max_tokens=64,
        pad_id=0,
        device=torch.device("cpu"),
    )


def explanation_of_words(
    loaded: LanguageModel, question: Question, method: str, how: How
) -> Explanation:
    """What a method says of each word of a prompt."""
    asked = inputs.Question(
        prompt=question.prompt,
        completion=question.completion,
        span=(len(" ? "), len(question.completion)),
    )
    explanation = inputs.explain(loaded, asked, method, how)
    assert len(explanation.units) == len(question.prompt.split())
    return explanation
