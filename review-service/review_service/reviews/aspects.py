"""Finds the aspects that a Korean review mentions, by its words. Pure.

Words instead of a model make a restaurant's strengths explainable: anyone can check which reviews counted.
"""

import re

_WORDS = {
    "taste": r"맛|국물|육수|양념|소스|고기(?! 양)|반찬(?! 양)|튀김|풍미|(?<![가-힣])간[이은도]|싱겁|느끼",
    "service": r"(?<!배달 )서비스|직원|사장|종업원|알바|점원|이모님|주인|서빙|응대|접객|친절",
    "price": r"가격|가성비|값|비싸|비쌌|저렴|(?<![가-힣])싸",
    "atmosphere": r"분위기|인테리어|조명|음악|실내|장식|창가|시끄러|아늑",
    "portion": r"(?<![가-힣])양[이도은을에 ]|제공량|1인분|곱빼기|푸짐|배부르|배불",
    "cleanliness": r"청결|위생|깨끗|더럽|더러|말끔|지저분|청소|화장실|벌레|머리카락|끈적",
    "wait": r"웨이팅|(?<!차 )대기|(?<![가-힣])줄[이을 ]|기다[리렸]|오래 걸|늦게 나|느리게 나|빨리 나|금방 나|바로 나",
    "delivery": r"배달|포장|배송",
    "parking": r"주차|발렛|(?<![가-힣])차 [댈대]|차를 [댔대]",
    "menu": r"메뉴(?! 가격)|선택지|음식 종류",
}
_PATTERNS = {aspect: re.compile(words) for aspect, words in _WORDS.items()}

LABELS = {
    "taste": "맛",
    "service": "서비스",
    "price": "가격",
    "atmosphere": "분위기",
    "portion": "양",
    "cleanliness": "청결",
    "wait": "대기 시간",
    "delivery": "배달·포장",
    "parking": "주차",
    "menu": "메뉴 구성",
}
"""Korean names of the aspects."""


def aspects_in(text: str) -> list[str]:
    """List the aspects that a text mentions, in the order of `LABELS`."""
    return [aspect for aspect, pattern in _PATTERNS.items() if pattern.search(text)]
