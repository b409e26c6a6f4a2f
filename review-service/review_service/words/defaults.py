"""The words that apply where the operator has no files of his own (`SEARCH_WORDS`)."""

USER_WORDS = """\
# Dishes whose first part has one syllable. Kiwi knows them as one word; longer parts are found without this list.
-국수
-냉면
-국밥
-김밥
-비빔밥
-덮밥
-볶음밥
-찌개
-떡볶이
-만두
-튀김
-볶음
-전골
-갈비
-불고기
-해장국
-돈가스
-돈까스
-짬뽕
-칼국수
-라면
-우동
-파스타
-피자
-치킨
-주차장
혼밥
혼술
오마카세
웨이팅
콜키지
가성비
소확행
"""

SYNONYMS = """\
# Spellings
돈까스, 돈가스, 돈카츠
짜장면, 자장면
짜장, 자장
떡볶이, 떡뽁이, 떡볶기, 떡복이
찌개, 찌게
소시지, 소세지, 쏘세지
육개장, 육계장
곱빼기, 곱배기
주꾸미, 쭈꾸미
낙지, 낚지
바비큐, 바베큐
케이크, 케익
초콜릿, 초콜렛
로브스터, 랍스터, 랍스타
마라탕, 마라탕면
아메리카노, 아아
# The same in other words
웨이팅, 대기, 기다리다
강아지, 반려견, 애견, 반려동물, 멍멍이
콜키지, 반입
혼밥, 혼자
해장, 해장국
주차, 발렛
아이, 애, 아기
종업원, 직원, 점원, 알바
비건, 채식
맛있다, 맛나다
"""

STOP_WORDS = """\
것 곳 거 수 데 집 가게 식당 하다 되다 있다 이다 주다 보다 같다 좀 진짜 정말 너무 아주 매우 제일 가장 여기 저기 거기
추천 알다 찾다
"""
