"""Every known-bad behaviour makes a named trap fail; a suite that passes them all proves nothing."""

import pytest

from tests.conformance import mutations, setting
from tests.conformance import test_traps_algebra as algebra
from tests.conformance import test_traps_batches as batches
from tests.conformance.conftest import cached_toy
from tests.toys import random_chunks


def padding(toy):
    queries = random_chunks(2, seed=99)
    batches.test_trap_01_padding_invariance(toy, queries, 5, "right")


def damping(toy):
    algebra.test_trap_08_damping_is_each_modules_own_and_leaves_no_trace(toy)


def tokens(toy):
    algebra.test_trap_02_lambda_squares_the_documents_gradient_not_the_tokens(toy, 3)


prompt = batches.test_trap_03_prompt_mask_is_the_same_for_labels_loss_and_measurement
rotation = algebra.test_trap_07_gradients_are_rotated_by_q_transposed_g_q

CAUGHT_BY = [
    (mutations.labels_at_padding, padding),
    (mutations.labels_at_padding, prompt),
    (mutations.labels_at_prompts, prompt),
    (mutations.rotation_of_rows_transposed, rotation),
    (mutations.rotation_of_queries_transposed, rotation),
    (mutations.rotation_of_eigenvalues_transposed, rotation),
    (mutations.damping_of_the_first_module, damping),
    (mutations.eigenvalues_that_grow, damping),
    (mutations.mask_of_activations_only, prompt),
    (mutations.mask_of_inputs_in_gradients, prompt),
    (mutations.inputs_shared_by_strangers, prompt),
    (mutations.half_of_a_symmetric_sum, prompt),
    (mutations.tokens_squared_one_by_one, tokens),
]


@pytest.mark.parametrize("kind", setting.KINDS)
@pytest.mark.parametrize(
    ("mutation", "trap"), CAUGHT_BY, ids=[f"{m.__name__}-{t.__name__}" for m, t in CAUGHT_BY]
)
def test_every_known_bad_behaviour_is_caught(kind, mutation, trap, monkeypatch):
    toy = cached_toy(kind)
    batches.alone.cache_clear()
    mutation(monkeypatch)
    try:
        with pytest.raises(AssertionError):
            trap(toy)
    finally:
        batches.alone.cache_clear()


@pytest.mark.parametrize("kind", setting.KINDS)
@pytest.mark.parametrize("trap", [prompt, rotation, damping, tokens], ids=lambda x: x.__name__)
def test_the_traps_pass_without_a_mutation(kind, trap):
    trap(cached_toy(kind))
