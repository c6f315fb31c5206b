"""What this evaluator pays for, in a sentence. Say below what it cannot see."""

from rft import Case, Score, evaluator

PROMPT = "What is the capital of France?"


@evaluator(
    cases=[
        Case(PROMPT, "Paris", reference="Paris", expect=1.0),
        Case(PROMPT, " paris.\n", reference="Paris", expect=1.0),
        Case(PROMPT, "The capital of France is Paris.", reference="Paris", expect=0.5),
        Case(PROMPT, "It is certainly not Paris", reference="Paris", expect=(0.0, 0.5)),
        Case(PROMPT, "Paris, London, Rome, Berlin", reference="Paris", expect=(0.0, 0.5)),
        Case(PROMPT, "London", reference="Paris", expect=0.0),
        Case(PROMPT, "I would rather not say.", reference="Paris", expect=0.0),
        Case(PROMPT, PROMPT, reference="Paris", expect=0.0),
        Case(PROMPT, "", reference="Paris", expect=0.0),
        Case("And of Italy?", "Rome", reference="Rome", expect=1.0),
        Case("And of Italy?", "Paris", reference="Rome", expect=0.0),
    ]
)
def {{name}}(text, reference, in_a_sentence=0.5):
    """1 for the reference alone, less when it stands in a longer answer, 0 without it.

    A low score with a reason is for what the model did wrong. When something that this function calls is down,
    raise rft.EvaluatorError: such an answer is left out of training and never counts as 0.

    Cannot see: whether a longer answer affirms the reference or denies it.
    """
    answer = " ".join(text.split()).strip(" .!").casefold()
    if answer == reference.casefold():
        return Score(1.0, reason="the reference")
    if f" {reference.casefold()} " in f" {answer.replace(',', ' ')} ":
        return Score(in_a_sentence, reason="the reference, among other words")
    return Score(0.0, reason="not the reference")
