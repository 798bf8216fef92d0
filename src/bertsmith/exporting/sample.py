"""Texts to compare an export on when the user gives none: English and Korean, from a word to a paragraph."""

from __future__ import annotations

from typing import Any

import numpy as np

from bertsmith.tasks.task import Facts

ENGLISH = (
    "The parcel arrived two days late, and one of the cups was broken.",
    "Nobody at the station could say when the next train would leave.",
    "She read the letter twice before she put it back into the drawer.",
    "Prices for bread rose by four percent between March and June.",
    "Could you send me the invoice again? The first one had no date.",
    "What a waste of an evening; the second half is even slower than the first!",
    "Our new office is on the third floor, next to the library.",
    "He learned to swim in a lake near Jeonju when he was six.",
    "The committee will meet on 14 October at 9:30 in room 207.",
    "It isn't perfect, but it's the best phone that I've had so far.",
    "Water boils at a lower temperature high up in the mountains.",
    "My grandmother's recipe needs three eggs, flour, and a little patience.",
    "After the storm, volunteers cleared branches from the road for hours.",
    "Ms. Okafor founded the company with a loan of $12,000 in 1998.",
    "Honestly, I'd rather walk than wait for that bus once more.",
    "The bridge connects the old town with the harbour on the other bank.",
)
KOREAN = (
    "주문한 지 일주일이 지났는데 아직도 배송 준비 중이라고만 나옵니다.",
    "비가 그치자 아이들이 골목으로 뛰어나와 물웅덩이를 밟고 놀았다.",
    "이번 분기 매출은 지난해 같은 기간보다 7.5% 늘었다.",
    "할머니는 마당 한쪽에 심은 감나무를 해마다 손수 돌보셨다.",
    "회의는 다음 주 화요일 오후 두 시에 3층 회의실에서 열립니다.",
    "기대하고 봤는데 너무 지루해서 중간에 나왔어요 ㅠㅠ",
    "서울에서 부산까지 기차로 두 시간 반쯤 걸린다.",
    "화면은 선명한데 배터리가 생각보다 빨리 닳네요.",
    "그는 1987년에 목포에서 태어나 대학에서 지리학을 공부했다.",
    "환불 규정이 어떻게 되는지 자세히 알려 주실 수 있나요?",
    "도서관 앞 은행나무가 올해는 유난히 일찍 물들었다.",
    "와 진짜 맛있다!! 다음에 또 갈게요 ㅎㅎ",
    "정부는 지방 소도시의 빈집을 청년 주택으로 고치기로 했다.",
    "김 선생님은 학생들의 이름을 하루 만에 모두 외우셨다.",
    "창문을 열자 바다 냄새와 갈매기 소리가 방 안으로 들어왔다.",
    "이 약은 식사 후에 하루 세 번, 물과 함께 드세요.",
)
_QUESTIONS = (
    "When will the committee meet?",
    "Who founded the company?",
    "How much did prices rise?",
    "회의는 언제 열립니까?",
    "기차로 얼마나 걸립니까?",
    "그는 어디에서 태어났습니까?",
)
_MOST = 8


def sample_inputs(task: str, facts: Facts, count: int = 500) -> list[Any]:
    """Return inputs for a task as Python gives them: runs of one to eight of the sentences above, in both languages."""
    draw = np.random.default_rng(0)

    def text(most: int = _MOST) -> str:
        sentences = (ENGLISH, KOREAN)[int(draw.integers(2))]
        first, size = int(draw.integers(len(sentences))), int(draw.integers(1, most + 1))
        return " ".join(sentences[(first + n) % len(sentences)] for n in range(size))

    if task == "qa":
        return [(_QUESTIONS[n % len(_QUESTIONS)], text()) for n in range(count)]
    if task == "choose":
        return [(text(), tuple(text(2) for _ in range(facts["choices"] or 3))) for _ in range(count)]
    if "text_b" in facts["columns"]:
        return [(text(), text(2)) for _ in range(count)]
    return [text() for _ in range(count)]
