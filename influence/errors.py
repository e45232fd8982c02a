"""What a user of this package can get wrong; each message says what to do."""


class InfluenceError(ValueError):
    """Base of all errors that a user of `influence` can cause."""


class ModelError(InfluenceError):
    """A model, tokenizer or adapter cannot be loaded or used."""


class TextError(InfluenceError):
    """A document, prompt or completion cannot become scored tokens."""


class GradientError(InfluenceError):
    """Gradients, curvature or scores have no answer; `documents` holds the rows to blame."""

    def __init__(self, message: str, documents: tuple[int, ...] = ()) -> None:
        super().__init__(message, documents)
        self.documents = documents

    def __str__(self) -> str:
        return str(self.args[0])


class InputError(InfluenceError):
    """An output cannot be attributed to its prompt as asked."""
