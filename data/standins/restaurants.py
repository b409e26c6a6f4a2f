"""Fifteen invented restaurants, each with a character of its own."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Restaurant:
    """`loved` and `blamed` are the aspects most of its reviews praise or complain about."""

    id: str
    name: str
    cuisine: str
    dishes: tuple[str, ...]
    loved: tuple[str, ...]
    blamed: tuple[str, ...]


def _restaurant(line: str) -> Restaurant:
    identifier, name, cuisine, dishes, loved, blamed = (part.strip() for part in line.split("/"))
    return Restaurant(
        identifier, name, cuisine, tuple(dishes.split(",")), tuple(loved.split(",")), tuple(blamed.split(","))
    )


_TABLE = """
rest-01 / 달빛국밥 / 한식 / 돼지국밥,순대국,수육 / taste,portion,price / wait,parking
rest-02 / 온새미로 한정식 / 한식 / 갈비찜,잡채,전복죽 / taste,service,atmosphere / price
rest-03 / 골목파스타 / 이탈리아 / 파스타,봉골레,리소토 / atmosphere,taste / portion,price
rest-04 / 홍매반점 / 중식 / 짜장면,짬뽕,탕수육 / delivery,price,portion / cleanliness,service
rest-05 / 스시여울 / 일식 / 초밥,연어초밥,장어덮밥 / taste,cleanliness,service / price,wait
rest-06 / 불티나떡볶이 / 분식 / 떡볶이,순대,어묵 / price,delivery / cleanliness,menu
rest-07 / 마당너른집 / 고깃집 / 삼겹살,목살,된장찌개 / parking,portion,taste / atmosphere,wait
rest-08 / 카페 느린오후 / 카페 / 케이크,라떼,스콘 / atmosphere,service / wait,price
rest-09 / 바삭당 돈가스 / 일식 / 돈가스,치즈돈가스,우동 / portion,taste,wait / service,parking
rest-10 / 향신료상점 / 인도 / 커리,탄두리치킨,난 / menu,taste / delivery,cleanliness
rest-11 / 초록식탁 / 채식 / 샐러드,두부스테이크,버섯덮밥 / cleanliness,menu,service / taste,portion
rest-12 / 삼거리냉면 / 한식 / 물냉면,비빔냉면,만두 / wait,price / service,taste
rest-13 / 노을포차 / 주점 / 골뱅이무침,계란말이,오뎅탕 / atmosphere,menu,price / cleanliness,parking
rest-14 / 버거공작소 / 양식 / 햄버거,감자튀김,밀크셰이크 / delivery,menu / taste,price
rest-15 / 할매손칼국수 / 한식 / 칼국수,수제비,겉절이 / service,portion,price / atmosphere,parking
"""

RESTAURANTS = tuple(_restaurant(line) for line in _TABLE.strip().splitlines())
