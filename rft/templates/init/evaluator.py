"""What a good answer is: the right city, and no more words than it takes."""

from rft import Case, Score, evaluator

PROMPT = "What is the capital of France?"


@evaluator(
    cases=[
        Case(PROMPT, "Paris", reference="Paris", expect=1.0),
        Case(PROMPT, "The capital of France is Paris.", reference="Paris", expect=0.5),
        Case(PROMPT, "Paris " * 50, reference="Paris", expect=0.2),
        Case(PROMPT, "London", reference="Paris", expect=0.0),
        Case(PROMPT, "", reference="Paris", expect=0.0),
    ]
)
def brief_and_right(text, reference, cost_per_word=0.1):
    """1 for the reference alone, a tenth less for each further word, down to 0.2; 0 without the reference.

    Cannot see: "It is not Paris", or a list of cities with the right one among them.
    """
    if reference.casefold() not in text.casefold():
        return Score(0.0, reason=f"without {reference}")
    extra = max(0, len(text.split()) - len(reference.split()))
    return Score(max(0.2, 1 - cost_per_word * extra), reason=f"right, with {extra} words too many")
