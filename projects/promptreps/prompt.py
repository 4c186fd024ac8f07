"""The wording of the paper, in parts.

Source: Zhuang et al. 2024, "PromptReps", section 3.1 and released prompts, arXiv 2404.18424.
"""

from typing import Literal

from projects.promptreps.config import PromptConfig
from projects.promptreps.lexical.prompted import ChatPrompt

Role = Literal["query", "passage"]
ROLES: tuple[Role, ...] = ("query", "passage")
SYSTEM = "You are an AI assistant that can understand human language."
ASKED = {
    "one": "Use one word to represent",
    "three": "Use three words to represent",
    "free": "Represent",
}
CASE = {
    "one": "Make sure your word is in lowercase.",
    "three": "Make sure your words are in lowercase and split them by space.",
    "free": "Make sure your answer is in lowercase.",
}
ANSWER = {"one": 'The word is: "', "three": 'The words are: "', "free": 'The answer is: "'}
QUOTE = '"'  # ends an answer


def chat_prompt(options: PromptConfig, role: Role) -> ChatPrompt:
    """What is said about a query or a passage.

    >>> chat_prompt(PromptConfig(), "query").user[:55]
    'Query: "{text}". Use one word to represent the query in'
    """
    sentences = [
        f'{role.capitalize()}: "{{text}}".',
        f"{ASKED[options.words]} the {role} in a retrieval task.",
    ]
    sentences += [CASE[options.words]] if options.lowercase else []
    return ChatPrompt(
        user=" ".join(sentences),
        answer=ANSWER[options.words] if options.prefilled else "",
        system=SYSTEM if options.system else "",
    )
