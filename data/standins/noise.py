"""Neutral words strewn into training texts, so that words the lexicon lacks do not sway a model."""
# ruff: noqa: E501 (a Korean syllable counts as two columns)

import random
from functools import cache

from standins.grammar import TRAIN_FRAMES
from standins.lexicon import CLOSERS, aspects

_WORDS = (
    "어제 오늘 주말에 평일에 점심에 저녁에 아침에 지난주에 이번주 작년에 처음 두번째 세번째 가끔 자주 항상 보통 대체로 대부분 전체적으로 "
    "개인적으로 일반적으로 기본적으로 결국 사실 일단 아무래도 어쨌든 그리고 그래서 그런데 그러니까 그때 여기 저기 거기 이곳 동네 근처 회사 "
    "학교 역 앞에서 뒤에서 가족이랑 친척과 동료와 엄마랑 아빠랑 아이들과 남편과 아내와 언니가 오빠가 누나가 형이 동생과 할머니와 모임 회식 "
    "데이트 생일 기념일 여행 산책 퇴근길에 출근길에 방문했는데 방문 갔는데 갔더니 왔는데 앉아서 시켰는데 주문했는데 먹었는데 보고 듣고 "
    "말하자면 말 그대로 생각 느낌 정도 부분 경우 때문에 위해서 대해서 제가 저는 우리 저희 다들 모두 누구나 사람 사람들 손님 혼자 둘이 셋이 "
    "넷이서 예약하고 검색하고 지나가다 우연히 드디어 이제 아직 벌써 다시 계속 조금 약간 살짝 제법 상당히 워낙 굉장히 유독 특히 물론 "
    "무조건 무난히 확인 확신 기분 기억 기대 기본 정도로 정리 정오 전화 전철 반나절 반쯤 적당량 적어도 으레 로비 것이 것은 게임 게시글 "
    "보니 보면 보자 니까 이라서 라서 아서 어서 거든요 더라고요 던데요 답니다 군요 구나 인가 인지 만큼 처럼 보다 부터 까지 마저 조차"
)
NEUTRAL = tuple(_WORDS.split())
"""Words without a polarity. Their syllables matter more than their sense."""


@cache
def _syllables() -> tuple[str, ...]:
    """Syllables by how often they stand outside the lexicon's own phrases."""
    texts = [*NEUTRAL, *CLOSERS[True], *CLOSERS[False], *TRAIN_FRAMES.plain]
    for aspect in aspects().values():
        texts += [*aspect.praise_idioms, *aspect.blame_idioms]
    return tuple(letter for text in texts for letter in text if "가" <= letter <= "힣")


def _word(rng: random.Random) -> str:
    """A neutral word or a made-up one of one to four syllables."""
    if rng.random() < 0.5:
        return rng.choice(NEUTRAL)
    return "".join(rng.choice(_syllables()) for _ in range(rng.choice((1, 2, 3, 3, 4))))


def with_neutral_words(rng: random.Random, text: str) -> str:
    """Two texts in three get one to three more words, mostly in front."""
    if rng.random() < 0.35:
        return text
    words = text.split(" ")
    for _ in range(rng.choice((1, 1, 2, 3))):
        words.insert(0 if rng.random() < 0.4 else rng.randint(0, len(words)), _word(rng))
    return " ".join(words)
