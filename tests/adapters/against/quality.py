"""What a user of eval-protocol has. Its decorator cannot read postponed annotations, so none here."""

import asyncio

from eval_protocol.models import EvaluateResult, EvaluationRow, MetricResult
from eval_protocol.pytest import evaluation_test

ROWS = [[EvaluationRow(messages=[], ground_truth="4")]]


@evaluation_test(input_rows=ROWS)
def right(row: EvaluationRow) -> EvaluationRow:
    said = row.last_assistant_message().content
    unit = row.input_metadata.dataset_info["unit"]
    row.evaluation_result = EvaluateResult(
        score=float(said == f"{row.ground_truth} {unit}"),
        reason=f"said {said}",
        metrics={
            "length": MetricResult(score=len(said) / 10, reason=""),
            "lost": MetricResult(score=0.0, reason="", is_score_valid=False),
        },
    )
    return row


@evaluation_test(input_rows=ROWS)
async def later(row: EvaluationRow) -> EvaluationRow:
    await asyncio.sleep(0)
    row.evaluation_result = EvaluateResult(score=0.5)
    return row


def leaving(result):
    @evaluation_test(input_rows=ROWS)
    def judge(row: EvaluationRow) -> EvaluationRow:
        row.evaluation_result = result
        return row

    return judge


@evaluation_test(input_rows=ROWS, completion_params=[{"model": "a"}, {"model": "b"}], mode="groupwise")
def ranked(rows: list[EvaluationRow]) -> list[EvaluationRow]:
    longest = max(len(row.last_assistant_message().content) for row in rows)
    for row in rows:
        row.evaluation_result = EvaluateResult(score=len(row.last_assistant_message().content) / longest)
    return rows


@evaluation_test(input_rows=ROWS, mode="all")
def everything(rows: list[EvaluationRow]) -> list[EvaluationRow]:
    return rows
