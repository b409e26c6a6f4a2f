"""What diners talk about: ten aspects, who or what is judged, and the words that judge it."""
# ruff: noqa: E501 (a Korean syllable counts as two columns)

from dataclasses import dataclass
from functools import cache

from standins.korean import Predicate


@dataclass(frozen=True)
class Group:
    """Subjects that go with the same praising and complaining predicates."""

    subjects: tuple[str, ...]
    praise: tuple[Predicate, ...]
    blame: tuple[Predicate, ...]


@dataclass(frozen=True)
class Aspect:
    """One thing a review can be about; `label` is its name in Korean sentences."""

    id: str
    label: str
    groups: tuple[Group, ...]
    praise_idioms: tuple[str, ...]
    blame_idioms: tuple[str, ...]


# Each group: subjects / praise / blame. A suffix marks verbs (:v), nouns (:n) and ㅂ-irregular adjectives (:p).
_GROUPS: dict[str, tuple[str, ...]] = {
    "taste": (
        "음식,국물,고기,반찬,소스,양념,요리,메인 메뉴,찌개,밥,면,디저트,튀김,육수"
        "/맛있,훌륭하,고소하,담백하,일품:n,최고:n,신선하,부드럽:p,입에 맞:v,감칠맛이 있,예술:n,깊은 맛이 나:v"
        "/맛없,짜,싱겁:p,느끼하,밍밍하,비리,질기,딱딱하,실망스럽:p,별로:n,엉망:n,텁텁하,눅눅하,입에 안 맞:v",
        "맛,음식 맛,국물 맛,풍미,손맛,맛의 균형"
        "/좋,훌륭하,뛰어나,완벽하,깊,최고:n,만족스럽:p"
        "/별로:n,형편없,아쉽:p,이상하,부족하,나쁘,실망스럽:p",
    ),
    "service": (
        "직원,직원분들,직원분,사장님,알바생,종업원,서빙하시는 분,이모님,주인아저씨,점원"
        "/친절하,상냥하,다정하,싹싹하,세심하,예의 바르,잘 챙겨 주:v,최고:n,밝게 인사하:v,자상하,정중하"
        "/불친절하,무뚝뚝하,퉁명스럽:p,무례하,쌀쌀맞,짜증을 내:v,무성의하,별로:n,건방지,손님을 무시하:v",
        "서비스,응대,접객,손님 응대,직원 응대,직원 태도"
        "/좋,훌륭하,만족스럽:p,최고:n,친절하,정성스럽:p,기분 좋"
        "/별로:n,엉망:n,형편없,아쉽:p,불쾌하,실망스럽:p,최악:n,나쁘",
    ),
    "price": (
        "가격,값,음식값,가격대,점심값,세트 가격,술값,메뉴 가격"
        "/저렴하,착하,합리적:n,적당하,부담 없,괜찮,싸,알뜰하"
        "/비싸,부담스럽:p,과하,사악하,터무니없,세,아깝:p,너무하",
        "가성비,가격 대비 만족도,가격 대비 품질"
        "/좋,최고:n,훌륭하,뛰어나,괜찮,높"
        "/나쁘,떨어지:v,별로:n,꽝:n,최악:n,낮,아쉽:p",
    ),
    "atmosphere": (
        "분위기,인테리어,매장 분위기,조명,실내 장식,가게 분위기,공간,실내"
        "/좋,아늑하,고급스럽:p,멋지,예쁘,감각적:n,편안하,세련되,은은하,근사하,운치 있,낭만적:n"
        "/어수선하,촌스럽:p,칙칙하,산만하,별로:n,우중충하,삭막하,정신없,시끄럽:p,답답하",
        "음악,배경 음악,창가 자리/좋,멋지,편안하,근사하,마음에 들:v/별로:n,산만하,거슬리:v,시끄럽:p,아쉽:p",
    ),
    "portion": (
        "양,음식 양,고기 양,밥 양,1인분 양,한 그릇 양,제공량,반찬 양,면 양"
        "/많,푸짐하,넉넉하,충분하,든든하,후하,배부르"
        "/적,부족하,모자라:v,인색하,야박하,빈약하,초라하,아쉽:p",
    ),
    "cleanliness": (
        "매장,테이블,그릇,수저,화장실,주방,바닥,컵,식기,물컵,의자"
        "/깨끗하,청결하,깔끔하,위생적:n,잘 정돈되어 있,말끔하,반짝반짝하,깨끗이 닦여 있"
        "/더럽:p,지저분하,끈적거리:v,불결하,비위생적:n,얼룩져 있,찝찝하,기름때가 있",
        "위생,위생 상태,청결 상태,청소 상태,위생 관리"
        "/좋,훌륭하,완벽하,철저하,믿음직하,우수하"
        "/나쁘,엉망:n,형편없,의심스럽:p,불량하,걱정되:v,별로:n",
    ),
    "wait": (
        "웨이팅,대기,대기 시간,줄,기다리는 시간,대기 줄"
        "/짧,거의 없,전혀 없,금방 끝나:v,금방 줄어들:v,길지 않,견딜 만하"
        "/길,엄청 길,지루하,심하,엄청나,끝이 없,힘들",
        "음식,주문한 메뉴,요리,주문한 음식,식사"
        "/빨리 나오:v,금방 나오:v,바로 나오:v,재빨리 나오:v,기다림 없이 나오:v"
        "/늦게 나오:v,한참 걸리:v,오래 걸리:v,느리게 나오:v,한참 뒤에 나오:v",
    ),
    "delivery": (
        "배달,배달 속도,배달 시간,배달 서비스"
        "/빠르,정확하,신속하,좋,만족스럽:p,최고:n"
        "/느리,늦,엉망:n,답답하,오래 걸리:v,지연되:v,최악:n",
        "포장,포장 상태,배달 용기,배달 포장,배달 음식 포장"
        "/꼼꼼하,튼튼하,완벽하,정성스럽:p,야무지,훌륭하"
        "/허술하,엉성하,부실하,찌그러져 있,엉망:n,성의 없,터져 있",
    ),
    "parking": (
        "주차,주차하기,차 대기,주차 여건,주차 환경"
        "/편하,편리하,수월하,쉽:p,좋,괜찮"
        "/불편하,어렵:p,힘들,까다롭:p,복잡하,나쁘",
        "주차장,주차 공간,주차 자리,전용 주차장,가게 앞 주차장"
        "/넓,넉넉하,여유롭:p,충분하,널찍하,크"
        "/좁,부족하,협소하,없,모자라:v,비좁",
    ),
    "menu": (
        "메뉴,메뉴 구성,메뉴판,음식 종류,사이드 메뉴,선택지,메뉴 선택지,계절 메뉴"
        "/다양하,알차,많,풍성하,폭넓,흥미롭:p,새롭:p,독특하"
        "/단조롭:p,적,부실하,뻔하,한정적:n,빈약하,식상하,단출하",
    ),
}

_LABELS = {
    "taste": "음식 맛", "service": "서비스", "price": "가격", "atmosphere": "분위기", "portion": "음식 양",
    "cleanliness": "청결", "wait": "대기 시간", "delivery": "배달", "parking": "주차", "menu": "메뉴 구성",
}  # fmt: skip

# Whole sentences, praise / blame, for colour beyond subject and predicate.
_IDIOMS: dict[str, str] = {
    "taste": "국물까지 싹 비웠어요|한 입 먹고 반했어요|먹는 내내 감탄했어요/한 입 먹고 남겼어요|무슨 맛인지 모르겠어요|먹다가 젓가락을 내려놨어요",
    "service": "부탁하기도 전에 물을 채워 주셨어요|아이 의자까지 먼저 챙겨 주셨어요/불러도 대답을 안 해요|인사도 없이 반말을 했어요",
    "price": "이 가격에 이 정도면 감사하죠|만 원으로 배불리 먹었어요/계산서를 보고 놀랐어요|이 돈이면 다른 데 갈래요",
    "atmosphere": "데이트하기 좋은 곳이에요|사진 찍기 좋은 곳이에요/대화가 안 들릴 만큼 시끄러워요|조용히 이야기할 수 없어요",
    "portion": "둘이 먹다 남겨서 포장했어요|곱빼기가 필요 없어요/먹고 나서도 배가 고팠어요|두 젓가락이면 끝나요",
    "cleanliness": "화장실에서 좋은 향이 났어요|주방이 훤히 보여서 안심돼요/음식에서 머리카락이 나왔어요|벌레가 지나갔어요",
    "wait": "앉자마자 음식이 나왔어요|줄 서지 않고 바로 들어갔어요/한 시간 넘게 줄을 섰어요|주문하고 사십 분을 기다렸어요",
    "delivery": "집까지 따끈하게 도착했어요|예상 시간보다 일찍 왔어요/다 식어서 도착했어요|국물이 새서 왔어요",
    "parking": "가게 앞에 바로 차를 댔어요|발렛까지 해 주셔서 편했어요/차 댈 곳을 찾아 세 바퀴 돌았어요|주차 위반 딱지를 끊었어요",
    "menu": "고르는 재미가 있어요|갈 때마다 새로운 메뉴가 있어요/먹을 만한 메뉴가 하나뿐이에요|메뉴가 반이나 품절이었어요",
}  # fmt: skip

# Closing words about the visit as a whole: praise, blame.
CLOSERS = {
    True: ("또 갈게요.", "재방문 의사 있어요.", "추천해요!", "단골 될 것 같아요.", "대만족입니다.",
           "잘 먹었습니다 :)", "가족과 다시 오고 싶어요.", "최고예요 👍", "강추!", "기분 좋게 먹었어요."),
    False: ("다시는 안 가요.", "재방문 의사 없어요.", "추천하지 않아요.", "돈이 아까워요.", "후회했어요.",
            "기분만 상했어요.", "실망이 커요 ㅠㅠ", "비추입니다.", "최악이었어요.", "다른 데 가세요."),
}  # fmt: skip


def _group(text: str) -> Group:
    subjects, praise, blame = text.split("/")
    return Group(
        tuple(subjects.split(",")),
        tuple(Predicate.parse(p) for p in praise.split(",")),
        tuple(Predicate.parse(p) for p in blame.split(",")),
    )


@cache
def aspects() -> dict[str, Aspect]:
    """All aspects by id, in the order summaries name them."""
    found = {}
    for aspect_id, groups in _GROUPS.items():
        praise, blame = _IDIOMS[aspect_id].split("/")
        found[aspect_id] = Aspect(
            id=aspect_id,
            label=_LABELS[aspect_id],
            groups=tuple(_group(g) for g in groups),
            praise_idioms=tuple(praise.split("|")),
            blame_idioms=tuple(blame.split("|")),
        )
    return found
