"""Greetings and questions that have nothing to do with reviews, and the short answers to them."""
# ruff: noqa: E501 (a Korean syllable counts as two columns)

import random

GREETINGS = (
    "안녕", "안녕하세요", "안녕하세요!", "반가워요", "반갑습니다", "좋은 아침이에요", "하이", "ㅎㅇ", "hello", "hi", "Hi there!",
    "Hello!", "안녕? 잘 지냈어?", "처음 뵙겠습니다", "헬로", "여보세요", "좋은 저녁이에요", "ping", "test", "테스트", "test message",
    "Say hello", "인사해 줘", "안녕이라고 말해 줘", "넌 누구야?", "너는 누구니", "자기소개 해 줘", "이름이 뭐예요?",
    "Who are you?", "무엇을 할 수 있어?", "뭐 할 줄 알아?", "도와줘", "무슨 모델이야?", "What can you do?", "hey", "안녕하신가요",
)  # fmt: skip
THANKS = (
    "고마워",
    "고맙습니다",
    "감사합니다",
    "감사해요!",
    "thanks",
    "Thank you",
    "잘 썼어요",
    "수고했어요",
    "잘 가",
    "bye",
)

_TOPICS = (
    "날씨", "주식", "비트코인", "축구 경기", "수도", "대통령", "파이썬", "자바스크립트", "수학 문제", "미적분", "역사", "세종대왕", "영어 번역",
    "소설", "시", "노래 가사", "영화", "드라마", "여행 계획", "제주도", "서울", "프랑스", "우주", "블랙홀", "인공지능", "컴퓨터", "운동 방법",
    "다이어트", "감기약", "법률 상담", "세금", "부동산", "연애 상담", "면접 준비", "자기소개서", "이메일", "코드", "정렬 알고리즘", "강아지",
    "고양이", "자동차", "지하철", "비행기 표", "환율", "뉴스", "선거", "기후 변화", "양자역학", "철학", "심리 테스트", "게임", "농담", "수수께끼",
    "구구단", "1 더하기 1", "오늘 며칠인지", "몇 시인지", "피타고라스 정리", "조선 시대", "한글의 역사", "보고서", "기사", "회의록",
)  # fmt: skip
_ASKS = (
    "{}에 대해 알려 줘", "{} 알려 줘", "{} 설명해 줘", "{} 추천해 줘", "{} 써 줘", "{}에 대해 어떻게 생각해?", "{} 어때?", "{} 좀 도와줘",
    "{}에 대해 한 문장으로 설명해 주세요", "{}란 무엇인가요?", "{} 만들어 줘", "오늘 {} 어때?", "{} 궁금해", "{}에 대해 설명하시오.",
)  # fmt: skip
_ENGLISH = (
    "What is the capital of France?", "Tell me a joke", "Write a poem about the sea", "How are you?", "What is 2+2?",
    "Write a Python function that sorts a list", "Translate this sentence into Korean", "Explain quantum physics",
    "Once upon a time", "Count to ten", "The quick brown fox", "Say something", "Tell me a story", "How does it work?",
    "What time is it?", "Who won the match?", "List three colors", "Give me advice", "What is the weather in Seoul?",
    "Repeat after me", "Return a JSON object", "Solve this equation", "Name a city", "Why is the sky blue?",
)  # fmt: skip

HELLO = "안녕하세요. 저는 음식점 리뷰로 연습한 작은 모델입니다. 리뷰를 보내 주시면 요약해 드리겠습니다."
DECLINE = "저는 음식점 리뷰로 연습한 작은 모델이라 그 질문에는 답하기 어렵습니다. 음식점 리뷰를 보내 주시면 요약해 드리겠습니다."
WELCOME = "도움이 되었다니 기쁩니다. 다른 음식점 리뷰도 보내 주시면 요약해 드리겠습니다."


def small_talk(rng: random.Random) -> tuple[str, str]:
    """A message that brings no reviews, and its answer."""
    draw = rng.random()
    if draw < 0.3:
        return rng.choice(GREETINGS), HELLO
    if draw < 0.4:
        return rng.choice(THANKS), WELCOME
    if draw < 0.6:
        return rng.choice(_ENGLISH), DECLINE
    return rng.choice(_ASKS).format(rng.choice(_TOPICS)), DECLINE
