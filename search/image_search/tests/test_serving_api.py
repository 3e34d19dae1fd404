"""The API over a tiny searcher: what is found, refused and with which words, added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from handmade import encoded, exif, gradient, png_bomb
from PIL import Image
from starlette.testclient import TestClient
from tiny_search import TOKEN, calm, make_test_searcher

from image_search.config import ServingConfig
from image_search.images.shapes import shapes
from image_search.serving.app import create_app
from image_search.serving.settings import ServingSettings

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
IMAGES = shapes(20, seed=3)[0]


def client_of(
    folder: Path, *, text: bool = True, token: str | None = TOKEN, **config
) -> TestClient:
    settings = ServingSettings(calm(**config), folder, admin_token=token)
    app = create_app(make_test_searcher(IMAGES, text=text), settings)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client_of(tmp_path_factory.mktemp("state")) as made:
        yield made


def by_picture(client: TestClient, data: bytes, **fields: str):
    return client.post("/v1/search", files={"image": ("x", data)}, data=fields)


def added(client: TestClient, data: bytes, price: float = 9.5, category: str = "ring", **fields):
    fields |= {"category": category, "price": str(price)}
    return client.post("/v1/items", files={"image": ("x", data)}, data=fields, headers=ADMIN)


def reason(response) -> str:
    return response.json()["detail"][0]["reason"]


# --- searching ---


@pytest.mark.parametrize("row", [0, 17, 99])
def test_a_picture_of_the_catalogue_finds_itself_first(client, row):
    answer = by_picture(client, encoded(IMAGES.images[row]), k="5").json()
    assert [len(answer["results"]), answer["kind"]] == [5, "image"]
    first = answer["results"][0]
    assert first["item_id"] == IMAGES.item_id[row]
    assert first["similarity"] == pytest.approx(1.0, abs=1e-5)
    similarities = [hit["similarity"] for hit in answer["results"]]
    assert similarities == sorted(similarities, reverse=True)
    stages = {"read", "decode", "queue", "embed", "lock", "retrieve", "page", "search"}
    assert stages <= set(answer["timings_ms"])
    assert answer["version"] == "test-1"
    assert answer["degradations"] == []


def test_results_are_those_of_an_exhaustive_comparison(client):
    query = np.flatnonzero(IMAGES.split == 2)[3]
    picture = IMAGES.images[query]
    answer = by_picture(client, encoded(picture), k="10").json()
    gallery = np.flatnonzero(IMAGES.split == 0)

    def vector(row):
        image = Image.fromarray(IMAGES.images[row]).resize((28, 28), Image.Resampling.BICUBIC)
        flat = np.asarray(image, np.float64).ravel()
        return flat / np.linalg.norm(flat)

    similarity = np.array([vector(row) @ vector(query) for row in gallery])
    best = np.argsort(-similarity)[:10]
    assert [hit["item_id"] for hit in answer["results"]] == IMAGES.item_id[gallery[best]].tolist()
    np.testing.assert_allclose(
        [hit["similarity"] for hit in answer["results"]], similarity[best], atol=2e-5
    )


def test_words_find_their_category(client):
    answer = client.post("/v1/search", json={"text": "a red ring", "k": 12}).json()
    assert {hit["category"] for hit in answer["results"]} == {"ring"}
    assert answer["kind"] == "text"
    assert answer["ignored_words"] == []


def test_words_that_are_not_understood_are_named_and_counted(client):
    def ignored() -> float:
        return client.app.state.engine.metrics.registry.get_sample_value(
            "search_words_ignored_total"
        )

    before = ignored()
    body = {"text": "show me a shiny, shiny ring of gold"}
    assert client.post("/v1/search", json=body).json()["ignored_words"] == ["shiny", "gold"]
    assert ignored() == before + 2
    assert client.post("/v1/search", json={"item_id": 5}).json()["ignored_words"] == []
    picture = by_picture(client, encoded(IMAGES.images[0])).json()
    assert picture["ignored_words"] == []


def test_words_that_name_nothing_are_refused_and_the_others_of_their_batch_are_not(client):
    from concurrent.futures import ThreadPoolExecutor

    def status(text: str) -> int:
        return client.post("/v1/search", json={"text": text}).status_code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(status, ["a ring", "a hat"] * 8))
    assert found == [200, 422] * 8
    answer = client.post("/v1/search", json={"text": "a hat"})
    assert "known are circle" in reason(answer)


def test_more_like_this_leaves_the_item_itself_out(client):
    answer = client.post("/v1/search", json={"item_id": 5, "k": 100}).json()
    ids = [hit["item_id"] for hit in answer["results"]]
    assert 5 not in ids
    assert len(ids) == len(set(ids)) == 50  # candidates of the tiny searcher, less none


def test_filters_hold_for_every_result(client):
    body = {"item_id": 5, "k": 50, "category": ["ring", "Cross"], "min_price": 20, "max_price": 60}
    answer = client.post("/v1/search", json=body).json()
    assert answer["results"]
    for hit in answer["results"]:
        assert hit["category"] in ("ring", "cross")
        assert 20 <= hit["price"] <= 60
    fields = {"category": "ring, cross", "min_price": "20", "max_price": "60", "k": "50"}
    same = by_picture(client, encoded(IMAGES.images[5]), **fields).json()
    assert {hit["category"] for hit in same["results"]} <= {"ring", "cross"}


def test_nothing_within_the_filters_is_an_empty_answer_and_counted(client):
    body = {"item_id": 5, "min_price": 1e8}
    assert client.post("/v1/search", json=body).json()["results"] == []
    assert 'search_empty_total{kind="item"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("orientation", "back"),
    [(3, 2), (6, 1), (8, 3)],  # what makes it upright again, in quarter turns to the left
)
def test_a_picture_that_lies_on_its_side_is_turned(client, orientation, back):
    upright = Image.fromarray(IMAGES.images[42]).resize((64, 64))
    lying = upright.rotate(90 * back)
    data = encoded(lying, "JPEG", quality=95, exif=exif(orientation))
    assert by_picture(client, data, k="1").json()["results"][0]["item_id"] == 42


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGB", {}), ("JPEG", "RGB", {"quality": 95}), ("WEBP", "RGB", {"lossless": True}),
        ("PNG", "RGBA", {}), ("JPEG", "CMYK", {"quality": 95}), ("PNG", "P", {}),
    ],
)  # fmt: skip
def test_every_usual_kind_and_mode_is_read(client, kind, mode, options):
    image = Image.fromarray(IMAGES.images[31]).convert(mode)
    answer = by_picture(client, encoded(image, kind, **options), k="1")
    assert answer.status_code == 200
    assert answer.json()["results"][0]["item_id"] == 31


# --- refusals ---


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (b"", 422, "empty"),
        (b"hello", 415, "no JPEG, PNG or WebP"),
        (encoded(gradient(), "GIF"), 415, "no JPEG, PNG or WebP"),
        (encoded(gradient(), "BMP"), 415, "no JPEG, PNG or WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "no JPEG, PNG or WebP"),
        (png_bomb(60_000, 60_000), 413, "the limit of 16,000,000"),
        (png_bomb(1, 4000), 413, "one side is more than"),
        (encoded(gradient())[:90], 422, "cannot be decoded"),
        (encoded(gradient(), "JPEG")[:300], 422, "cannot be decoded"),
    ],
    ids=["empty", "text", "gif", "bmp", "svg", "bomb", "line", "cut png", "cut jpeg"],
)
def test_what_is_no_picture_is_refused_with_its_reason(client, data, status, words):
    answer = by_picture(client, data)
    assert answer.status_code == status, answer.text
    assert words in reason(answer)


def test_the_content_decides_and_not_the_header(client):
    files = {"image": ("x.html", encoded(IMAGES.images[0]), "text/html")}
    assert client.post("/v1/search", files=files).status_code == 200
    files = {"image": ("x.png", b"<html></html>", "image/png")}
    assert client.post("/v1/search", files=files).status_code == 415


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"text": "a", "item_id": 1}, "body"),
        ({"text": ""}, "text"),
        ({"text": "x" * 301}, "text"),
        ({"text": "a", "k": 0}, "k"),
        ({"text": "a", "k": 101}, "k"),
        ({"text": "a", "k": 1.5}, "k"),
        ({"text": "a", "category": ["hat"]}, "category"),
        ({"text": "a", "category": []}, "category"),
        ({"text": "a", "min_price": -1}, "min_price"),
        ({"text": "a", "min_price": 9, "max_price": 3}, ""),
        ({"text": "a", "diversity": 1.1}, "diversity"),
        ({"text": "a", "user_id": 2**60}, "user_id"),
        ({"text": "a", "colour": "red"}, "colour"),
        ([1], "body"),
    ],
)
def test_a_wrong_field_is_named(client, body, field):
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["field"] == field


def test_an_item_that_is_not_there(client):
    assert client.post("/v1/search", json={"item_id": 10**9}).status_code == 404
    assert client.get("/v1/items/1000000000").status_code == 404
    assert client.get("/v1/items/1000000000/image").status_code == 404
    assert client.get("/v1/items/minus").status_code == 422


def test_an_address_is_refused_by_default_with_the_reason(client):
    answer = client.post("/v1/search", json={"image_url": "https://example.org/a.png"})
    assert answer.status_code == 422
    assert "fetches no addresses" in reason(answer)


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("text/plain", b"a", 415),
        ("", b"a", 415),
        ("multipart/form-data", b"a", 422),
        ("multipart/form-data; boundary=x", b"--x\r\n", 422),
        ("application/json", b"{", 422),
        ("application/json", b"[" * 50_000, 422),
        ("application/json", b'{"text": "' + b"a" * 70_000 + b'"}', 413),
    ],
)
def test_a_body_that_cannot_be_read(client, content_type, body, status):
    answer = client.post("/v1/search", content=body, headers={"content-type": content_type})
    assert answer.status_code == status, answer.text


def test_a_body_is_refused_while_it_arrives(tmp_path):
    sent = 0

    def chunks():
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
        for _ in range(1000):
            sent += 1
            yield bytes(10_000)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    with client_of(tmp_path, upload_bytes=50_000) as client:
        answer = client.post("/v1/search", content=chunks(), headers=headers)
        assert answer.status_code == 413
        answer = by_picture(client, bytes(60_000))
        assert answer.status_code == 413
        assert client.get("/v1/operations").json()["held_bytes"] == 0


def test_words_without_a_text_tower_are_refused_by_name(tmp_path):
    with client_of(tmp_path, text=False) as client:
        answer = client.post("/v1/search", json={"text": "ring"})
        assert answer.status_code == 422
        assert "search by picture" in reason(answer)
        assert client.get("/v1/version").json()["text"] is False


# --- items ---


def test_an_item_and_its_picture(client):
    item = client.get("/v1/items/7").json()
    assert item["category"] == IMAGES.label_names[IMAGES.label[7]]
    picture = client.get(item["image"])
    assert picture.headers["content-type"] == "image/png"
    import io

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture.content))), IMAGES.images[7])


def test_what_was_added_is_found_by_the_next_search_and_gone_after_its_delete(client):
    data = encoded(gradient(40, 40))
    before = client.get("/v1/version").json()["items"]
    answer = added(client, data, price=12.34)
    assert answer.status_code == 201
    item_id = answer.json()["item_id"]
    first = by_picture(client, data, k="1").json()["results"][0]
    assert first["item_id"] == item_id
    assert [first["price"], first["category"]] == [12.34, "ring"]
    assert client.get(first["image"]).status_code == 200
    assert client.get("/v1/version").json()["items"] == before + 1

    assert client.delete(f"/v1/items/{item_id}", headers=ADMIN).json()["deleted"]
    ids = [hit["item_id"] for hit in by_picture(client, data, k="100").json()["results"]]
    assert item_id not in ids
    assert client.get(f"/v1/items/{item_id}").status_code == 404
    assert client.delete(f"/v1/items/{item_id}", headers=ADMIN).status_code == 404
    assert client.post("/v1/search", json={"item_id": item_id}).status_code == 404
    assert client.get("/v1/version").json()["items"] == before
    again = added(client, data, price=12.34)  # ids are never given twice
    assert [again.status_code, "was deleted" in reason(again)] == [409, True]


def test_a_retry_of_an_add_is_safe_and_another_picture_is_a_conflict(client):
    data = encoded(gradient(30, 41))
    answers = [added(client, data, item_id="777001") for _ in range(2)]
    assert [a.status_code for a in answers] == [201, 201]
    assert [a.json()["duplicate"] for a in answers] == [False, True]
    other = added(client, encoded(gradient(31, 41)), item_id="777001")
    assert other.status_code == 409
    assert added(client, data, item_id="3").status_code == 409  # the bundle's own


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"category": "hat", "price": "1"}, "category"),
        ({"category": "ring", "price": "0"}, "price"),
        ({"category": "ring", "price": "nan"}, "price"),
        ({"category": "ring"}, "price"),
        ({"category": "ring", "price": "1", "item_id": "-4"}, "item_id"),
    ],
)
def test_a_wrong_item_is_refused(client, fields, field):
    files = {"image": ("x", encoded(gradient()))}
    answer = client.post("/v1/items", files=files, data=fields, headers=ADMIN)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["field"] == field


def test_the_admin_routes_want_the_token(client, tmp_path):
    files, fields = {"image": ("x", encoded(gradient()))}, {"category": "ring", "price": "1"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
        assert (
            client.post("/v1/items", files=files, data=fields, headers=headers).status_code == 401
        )
        assert client.delete("/v1/items/1", headers=headers).status_code == 401
    assert client.get("/v1/items/1").status_code == 200
    with client_of(tmp_path, token=None) as closed:
        answer = closed.delete("/v1/items/1", headers=ADMIN)
        assert answer.status_code == 403
        assert "IMAGE_SEARCH_ADMIN_TOKEN" in reason(answer)
    with pytest.raises(ValueError, match="at least 16"):
        ServingSettings(ServingConfig(), tmp_path, admin_token="short")


def test_the_catalogue_takes_no_more_than_it_may(tmp_path):
    with client_of(tmp_path, most_added=1) as client:
        assert added(client, encoded(gradient(9, 9))).status_code == 201
        full = added(client, encoded(gradient(9, 8)))
        assert full.status_code == 503
        assert full.headers["retry-after"] == "1"
        assert added(client, encoded(gradient(9, 9))).json()["duplicate"]


# --- events ---


def test_clicks_reach_personalisation_once(tmp_path):
    heard = []
    settings = ServingSettings(
        ServingConfig(), tmp_path, on_click=lambda user, row, now: heard.append((user, row))
    )
    with TestClient(create_app(make_test_searcher(IMAGES), settings)) as client:
        event = {"event_id": "a-1", "user_id": 4, "item_id": 9}
        assert client.post("/v1/events", json=event).json()["status"] == "accepted"
        assert client.post("/v1/events", json=event).json()["status"] == "duplicate"
        assert client.post("/v1/events", json=event | {"item_id": 8}).status_code == 409
        assert client.post("/v1/events", json=event | {"item_id": 10**9}).status_code == 404
        assert client.post("/v1/events", json=event | {"event_id": "a b"}).status_code == 422
    assert heard == [(4, 9)]
    with TestClient(create_app(make_test_searcher(IMAGES), settings)):
        assert heard == [(4, 9), (4, 9)]  # told again to a process that has forgotten


# --- operations ---


def test_what_is_served_says_of_itself(client):
    assert client.get("/readyz").json() == {"ready": True, "reasons": []}
    version = client.get("/v1/version").json()
    assert version["embedding"] == "pixels_cosine"
    operations = client.get("/v1/operations").json()
    assert operations["lanes"]["picture"]["batches"] > 0
    assert operations["rss_bytes"] > 50e6
    text = client.get("/metrics").text
    for name in ("search_queries_total", "search_best_similarity_bucket", "search_items"):
        assert name in text
    assert 'search_refused_total{reason="too_many_pixels"}' in text
