"""The catalogue of evaluators, imported as `rft.evaluators`. One idea per file.

Each says what counts as right and what it cannot see, and carries golden cases. In a recipe they go by the
names of the entry points in group `rft.evaluators`: exact, includes, regex, choice, numeric,
position_share, json_fields, code_tests, length, overlong, judge, judge_pairwise, judge_ranked, feedback,
env_reward, reasoning_gym, constant, random; and weighted, which weighs several.
"""

from rft.evaluators.bleu import BLEU
from rft.evaluators.choice import Choice
from rft.evaluators.chrf import ChrF
from rft.evaluators.code_tests import CodeTests
from rft.evaluators.controls import Constant, Random
from rft.evaluators.embedding_similarity import EmbeddingSimilarity
from rft.evaluators.env_reward import EnvReward
from rft.evaluators.exact import Exact
from rft.evaluators.feedback import Feedback
from rft.evaluators.format_tags import FormatTags
from rft.evaluators.fuzzy import Fuzzy
from rft.evaluators.includes import Includes
from rft.evaluators.json_fields import JSONFields
from rft.evaluators.json_schema import JSONSchema
from rft.evaluators.judge import Judge
from rft.evaluators.judge_pairwise import JudgePairwise
from rft.evaluators.judge_ranked import JudgeRanked
from rft.evaluators.language import Language
from rft.evaluators.length import Length
from rft.evaluators.math_equivalence import MathEquivalence
from rft.evaluators.numeric import Numeric
from rft.evaluators.overlong import Overlong
from rft.evaluators.position_share import PositionShare
from rft.evaluators.reasoning_gym import ReasoningGym
from rft.evaluators.regex import Regex
from rft.evaluators.repetition import Repetition
from rft.evaluators.reward_model import RewardModel
from rft.evaluators.rouge_l import RougeL
from rft.evaluators.sql_result import SQLResult
from rft.evaluators.token_f1 import TokenF1
from rft.evaluators.tool_call import ToolCall

__all__ = [
    "BLEU",
    "Choice",
    "ChrF",
    "CodeTests",
    "Constant",
    "EmbeddingSimilarity",
    "EnvReward",
    "Exact",
    "Feedback",
    "FormatTags",
    "Fuzzy",
    "Includes",
    "JSONFields",
    "JSONSchema",
    "Judge",
    "JudgePairwise",
    "JudgeRanked",
    "Language",
    "Length",
    "MathEquivalence",
    "Numeric",
    "Overlong",
    "PositionShare",
    "Random",
    "ReasoningGym",
    "Regex",
    "Repetition",
    "RewardModel",
    "RougeL",
    "SQLResult",
    "TokenF1",
    "ToolCall",
]
