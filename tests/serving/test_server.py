import asyncio
import base64
import io
import json
import random
import re
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import copy_as
from warp_translate import image_io
from warp_translate.image_io import decode_image, flatten
from warp_translate.serving import admission, latency_model, server
from warp_translate.serving.latency_model import LatencyModel


@pytest.fixture(scope="module")
def folder(exported, tmp_path_factory):
    return copy_as(
        exported[0],
        tmp_path_factory.mktemp("served"),
        ("apple", "pear"),
        ("apple", "plum"),
        ("plum", "pear"),
    )


def picture(rng, *shape, form="PNG", **options):
    array = rng.integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def post(client, data, **fields):
    return client.post("/v1/translate", content=data, params=fields)


def expect(client, data, pair, factor):
    engine = client.service.snapshot().engines[pair]
    return engine.translate(flatten(decode_image(data, "it"))[None], factor).output[0]


def shown(response):
    return decode_image(response.content, "the answer")


def test_an_image_comes_back_translated_at_its_own_size(client, rng):
    for size in ((21, 34), (1, 1), (64, 50)):
        data = picture(rng, *size, 3)
        response = post(client, data, target="plum", factor=4)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "image/png"
        found = shown(response).rgb.astype(int)
        assert np.abs(found - expect(client, data, ("apple", "plum"), 4)).max() <= 1
        assert response.headers["x-bundle"] == "apple-plum"
        assert response.headers["x-factor"] == "4"
        told = response.headers["x-height"], response.headers["x-width"]
        assert told == tuple(map(str, size))


def test_a_form_is_as_good_as_a_raw_body(client, rng):
    data = picture(rng, 20, 30, 3)
    raw = post(client, data, target="plum", factor=2)
    response = client.post(
        "/v1/translate",
        files={"image": ("../../etc/passwd\x00.png", data, "text/html")},
        data={"target": "plum", "factor": "2"},
    )
    assert response.status_code == 200, response.text
    assert response.content == raw.content


@pytest.mark.parametrize(("form", "media"), server.MEDIA_TYPES.items())
def test_the_answer_has_the_format_that_was_asked_for(client, rng, form, media):
    response = post(client, picture(rng, 20, 30, 3), target="plum", format=form)
    assert response.headers["content-type"] == media
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.format.lower() == form and image.size == (30, 20)


def test_alpha_is_kept_and_refused_where_it_cannot_be(client, rng):
    data = picture(rng, 20, 30, 4)
    response = post(client, data, target="plum")
    np.testing.assert_array_equal(shown(response).alpha, decode_image(data, "it").alpha)
    response = post(client, data, target="plum", format="jpeg")
    assert response.status_code == 400 and "JPEG holds no transparency" in response.json()["error"]


def test_the_maps_come_on_request(client, rng):
    response = post(client, picture(rng, 21, 30, 3), target="plum", factor=4, maps="all")
    found = response.json()
    assert (found["bundle"], found["source"], found["target"]) == ("apple-plum", "apple", "plum")
    assert (found["width"], found["height"], found["factor"]) == (30, 21, 4)

    def size(address):
        head, _, data = address.partition(",")
        assert head == "data:image/png;base64"
        return decode_image(base64.b64decode(data), "it").rgb.shape[:2]

    assert size(found["output"]) == (21, 30)
    sizes = {name: size(address) for name, address in found["maps"].items()}
    assert sizes.pop("reduced") == (6, 8)
    assert set(sizes) == {"pretranslated", "mask", "displacement", "warped"}
    assert set(sizes.values()) == {(21, 30)}


def test_claims_3_to_6_by_request(client, rng):
    data = picture(rng, 16, 16, 3)
    # 3: one generator leads to the target.
    assert post(client, data, target="plum").headers["x-bundle"] == "apple-plum"
    # 4: several do; nothing tells what the image is unless the request does.
    response = post(client, data, target="pear")
    assert response.status_code == 300
    assert response.json()["choices"] == [
        {"source": "apple", "target": "pear"},
        {"source": "plum", "target": "pear"},
    ]
    chosen = post(client, data, target="pear", source="plum")
    assert chosen.headers["x-bundle"] == "plum-pear"
    # 5: no target, and one generator leads on.
    assert post(client, data, source="plum").headers["x-bundle"] == "plum-pear"
    # 6: no target, and several do.
    response = post(client, data, source="apple")
    assert response.status_code == 300 and len(response.json()["choices"]) == 2
    assert post(client, data, target="fig").status_code == 404


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"factor": "3"}, "factor 3 is none of 2, 4"),
        ({"factor": "two"}, "factor must be a whole number, got 'two'"),
        ({"factor": "-2"}, "factor must be a whole number"),
        ({"factor": "²"}, "factor must be a whole number"),
        ({"format": "gif"}, "format must be one of png, jpeg, webp"),
        ({"maps": "some"}, "maps must be one of none, all"),
        ({"targt": "woman"}, "there is no field 'targt'; did you mean target?"),
        ({"size": ""}, "there is no field 'size'; known: source, target, factor, format, maps"),
        ({"factor": ["2", "4"]}, "the field factor is there more than once"),
    ],
)
def test_wrong_fields_are_named(client, rng, fields, match):
    data = picture(rng, 8, 8, 3)
    form = client.post(
        "/v1/translate", params={"target": "plum"}, data=fields, files={"image": data}
    )
    for response in (post(client, data, target="plum", **fields), form):
        assert response.status_code == 400 and match in response.json()["error"]


def test_fields_that_nothing_reads_are_refused(client, rng):
    data = picture(rng, 8, 8, 3)
    response = client.post("/v1/classify", params={"target": "plum"}, content=data)
    assert response.status_code == 400 and "there is no field 'target'" in response.json()["error"]
    twice = client.post(
        "/v1/translate", params={"target": "plum"}, data={"target": "pear"}, files={"image": data}
    )
    assert twice.status_code == 400 and "more than once" in twice.json()["error"]


def test_what_is_no_image_is_named(client, rng):
    good = picture(rng, 40, 40, 3)
    for data, match in (
        (b"", "is empty"),
        (b"GIF89a" + bytes(40), "unusual kind of GIF"),
        (picture(rng, 8, 8, 3, form="TIFF"), "TIFF is not accepted here"),
        (b"<svg/>", "is not a JPEG, PNG, WebP"),
        (good[: len(good) // 2], "is damaged or cut short"),
    ):
        response = post(client, data, target="plum")
        assert response.status_code == 400 and match in response.json()["error"]
    response = client.post("/v1/translate", data={"target": "plum"}, files={"file": good})
    assert response.status_code == 400 and "no file called image" in response.json()["error"]


def in_chunks(client, chunks):
    """The status of a request of unknown length; the client itself would join the chunks."""
    scope = {
        **{"type": "http", "method": "POST", "path": "/v1/translate", "headers": []},
        **{"raw_path": b"/v1/translate", "query_string": b"target=plum", "http_version": "1.1"},
        **{"scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": ""},
    }
    messages = [{"type": "http.request", "body": each, "more_body": True} for each in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    client.portal.call(client.app, scope, receive, send)
    return sent[0]["status"]


def test_limits_of_bytes_and_pixels(serve, rng):
    client = serve(most_bytes=3000, most_pixels=900)
    assert post(client, picture(rng, 30, 30, 3), target="plum").status_code == 200
    response = post(client, picture(rng, 31, 30, 3), target="plum")
    assert response.status_code == 400 and "more than 900 pixels" in response.json()["error"]
    bomb = bytearray(picture(rng, 4, 4, 3))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2  # Whatever the header claims.
    assert post(client, bytes(bomb), target="plum").status_code == 400
    response = post(client, bytes(3001), target="plum")
    assert response.status_code == 413 and "more than 3000 bytes" in response.json()["error"]
    assert in_chunks(client, [bytes(1000)] * 4) == 413
    assert in_chunks(client, [bytes(1000)] * 3) == 400  # No image, but not too long.
    response = client.post("/v1/translate", files={"image": bytes(5000)})
    assert response.status_code == 413


def test_claim_8_the_factor_follows_from_the_device(serve, rng, monkeypatch):
    """By what was measured of it at first, and by what translations take from then on."""
    data = picture(rng, 16, 16, 3)

    def factors(model, budget, times):
        monkeypatch.setattr(latency_model, "load", lambda path: model)
        client = serve(budget=budget)
        answers = [post(client, data, target="plum") for _ in range(times)]
        return [int(answer.headers["x-factor"]) for answer in answers]

    assert factors(LatencyModel(0.0, 0.0, 1.0), 100.0, 1) == [2]  # 64 ms, by the model.
    assert factors(LatencyModel(0.0, 0.0, 1.0), 50.0, 1) == [4]
    # It takes longer than a thousandth of a millisecond, whatever the model says.
    assert factors(LatencyModel(0.0, 0.0, 1e-9), 1e-3, 4) == [2, 2, 2, 4]
    # What the request says is not the device's to choose.
    assert post(serve(budget=1e-3), data, target="plum", factor=2).headers["x-factor"] == "2"


def test_a_full_queue_is_503_with_a_time_to_come_back(serve, rng):
    client = serve(queue={"most_waiting": 1})
    engine = client.service.snapshot().engines["apple", "plum"]
    go, busy = threading.Event(), threading.Event()
    translate = engine.translate

    def slow(*arguments, **options):
        busy.set()
        assert go.wait(20)
        return translate(*arguments, **options)

    engine.translate = slow
    data, answers = picture(rng, 16, 16, 3), []
    asking = [
        threading.Thread(target=lambda: answers.append(post(client, data, target="plum")))
        for _ in range(2)
    ]
    asking[0].start()
    assert busy.wait(20)
    asking[1].start()
    while not client.service.batcher.waiting:
        pass
    refused = post(client, data, target="plum")
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert "1 requests are waiting" in refused.json()["error"]
    go.set()
    for thread in asking:
        thread.join(20)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_requests_are_bounded_before_their_bodies_are_read(serve, rng, monkeypatch):
    monkeypatch.setattr(admission, "_WAIT_SECONDS", 0.0)
    client = serve(most_requests=1)
    engine = client.service.snapshot().engines["apple", "plum"]
    go, busy, translate = threading.Event(), threading.Event(), engine.translate

    def held(*arguments, **options):
        busy.set()
        assert go.wait(20)
        return translate(*arguments, **options)

    engine.translate = held
    data = picture(rng, 8, 8, 3)
    asking = threading.Thread(target=lambda: post(client, data, target="plum"))
    asking.start()
    assert busy.wait(20)
    # Nobody looks whether the next is a picture at all.
    refused = post(client, b"no picture", target="plum")
    assert refused.status_code == 503 and "1 requests are being answered" in refused.text
    go.set()
    asking.join(20)
    assert post(client, data, target="plum").status_code == 200


def test_what_does_not_fit_into_the_memory_is_refused_before_it_is_unpacked(
    serve, rng, monkeypatch
):
    client = serve(memory=64_000_000, most_bytes=1 << 22)
    clear = picture(rng, 600, 700, 4)
    assert post(client, picture(rng, 20, 20, 3), target="plum", factor=2).status_code == 200
    monkeypatch.setattr(image_io, "decode_image", None)
    for data, fields in (
        (clear, {"target": "plum", "factor": 2}),
        # Whatever it will be, and with the factor that would be chosen.
        (clear, {"target": "pear"}),
    ):
        response = post(client, data, **fields)
        assert response.status_code == 413
        assert re.fullmatch(
            r"600 x 700 pixels at factor \d take about \S+ MB of memory, and one request may take "
            r"52 MB; send a smaller picture, or ask for a larger factor",
            response.json()["error"],
        )
    assert client.post("/v1/classify", content=clear).status_code == 404


def test_a_request_that_does_not_come_whole_is_given_up():
    """Over a connection of its own: the headers promise more than ever comes."""
    sent = []

    async def never():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    app = server.build(None, most_bytes=99, most_requests=1, read_seconds=0.05, log=None)
    scope = {
        **{"type": "http", "method": "POST", "path": "/v1/translate"},
        **{"headers": [(b"content-length", b"50")], "query_string": b""},
    }
    asyncio.run(app(scope, never, send))
    assert sent[0]["status"] == 408 and b"did not come whole" in sent[1]["body"]


def test_the_looks_at_the_folder_go_on_whatever_happens(serve, monkeypatch):
    client = serve(scan_seconds=0.02)
    looks = []

    def scan():
        looks.append(1)
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(client.service.registry, "scan", scan)
    for _ in range(500):
        if len(looks) > 2:
            break
        threading.Event().wait(0.02)
    assert len(looks) > 2
    assert client.get("/health/ready").status_code == 200


def test_health_and_what_is_served(client, serve, tmp_path):
    assert client.get("/health/live").json() == {"live": True}
    assert client.get("/health/ready").json() == {"ready": True, "generators": 3}
    found = client.get("/v1/generators").json()
    assert found["problems"] == {}
    assert [each["name"] for each in found["generators"]] == [
        *("apple-pear", "apple-plum", "plum-pear"),
    ]
    assert found["generators"][0]["factors"] == [2, 4]
    (tmp_path / "empty").mkdir()
    empty = serve(root=tmp_path / "empty")
    assert empty.get("/health/ready").status_code == 503
    response = post(empty, b"x", target="plum")
    assert response.status_code == 404 and "there is no generator" in response.json()["error"]


def test_bundles_that_come_are_picked_up(serve, folder, tmp_path, rng):
    root = tmp_path / "grows"
    root.mkdir()
    client = serve(root=root, scan_seconds=0.05)
    assert not client.get("/v1/generators").json()["generators"]
    shutil.copytree(folder / "apple-plum", root / ".partial")
    (root / ".partial").rename(root / "apple-plum")
    for _ in range(400):
        if client.get("/v1/generators").json()["generators"]:
            break
        threading.Event().wait(0.02)
    assert post(client, picture(rng, 8, 8, 3), target="plum").status_code == 200


def test_requests_are_counted_and_logged_by_known_paths(serve, rng):
    client = serve()
    answer = post(client, picture(rng, 8, 9, 3), target="plum", factor=2, maps="all")
    post(client, b"", target="plum")
    assert client.get("/some/secret/place").status_code == 404
    text = client.get("/metrics").text
    assert 'warp_translate_requests_total{path="/v1/translate",status="200"} 1.0' in text
    assert 'warp_translate_requests_total{path="/v1/translate",status="400"} 1.0' in text
    assert 'path="other",status="404"' in text and "secret" not in text
    assert "warp_translate_generators 3.0" in text
    first, second, *_ = map(json.loads, client.log.getvalue().splitlines())
    assert first["status"] == 200 and first["factor"] == 2
    assert (first["width"], first["height"]) == (9, 8)
    assert second["status"] == 400 and "width" not in second
    # One number, of the translation alone; what the whole request took has a name of its own.
    spent = answer.json()["milliseconds"]
    assert first["milliseconds"] == spent == float(answer.headers["x-milliseconds"])
    assert first["request_milliseconds"] > spent > 0 and "milliseconds" not in second


def test_what_is_read_can_be_asked_for_without_its_body(client):
    for path in ("/", "/app.js", "/health/live", "/health/ready", "/metrics", "/v1/generators"):
        whole, head = client.get(path), client.head(path)
        assert head.status_code == 200
        assert head.headers["content-type"] == whole.headers["content-type"]
    for path in ("/v2", "/v2/health/live", "/v2/models/apple-pear"):
        assert client.head(path).status_code == 200
    assert client.head("/v2/models/apple-fig").status_code == 404
    assert client.head("/v1/translate").status_code == 405


APP = "https://app.example"


def test_foreign_names_and_pages_are_refused(serve, rng):
    """The names of the server and the pages of other sites, with one of each allowed."""
    client = serve(hosts=["localhost", "[::1]"], origins=[APP])
    data = picture(rng, 8, 8, 3)

    def status(**headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        asked = client.get("/v1/generators", headers=headers)
        sent = client.post("/v1/translate?target=plum", content=data, headers=headers)
        return asked.status_code, sent.status_code

    for host in ("localhost", "LOCALHOST:8000", "localhost.", "[::1]:8000"):
        assert status(host=host) == (200, 200), host
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1", "[::2]", "[", "a b", "@"):
        assert status(host=host) == (403, 403), host
    here = {"host": "localhost:8000"}
    # A page may always send what it could send as a link, and never read it.
    assert status(**here, origin="https://evil.example") == (200, 403)
    assert status(**here, origin="http://localhost:3000") == (200, 403)
    assert status(**here, origin="null") == (200, 403)
    assert status(**here, origin="http://localhost:8000") == (200, 200)
    assert status(**here, origin=APP) == (200, 200)
    for site, expected in (("cross-site", 403), ("same-site", 403), ("none", 200)):
        assert status(**here, sec_fetch_site=site) == (200, expected)
    # Behind a proxy that has TLS and calls the server by another name than the browser does.
    assert status(**here, origin="https://here.example", sec_fetch_site="same-origin")[1] == 200
    assert status(**here, origin=APP, sec_fetch_site="cross-site") == (200, 200)
    refused = client.post("/v1/translate", headers={"origin": "http://a\x1b[31m", **here})
    assert "--allow_origin" in refused.json()["error"] and refused.json()["error"].isprintable()
    assert '"status": 403' in client.log.getvalue()


def test_pages_that_are_allowed_may_ask_and_read(serve, rng):
    client = serve(origins=[APP], api_key="open")
    asks = {
        "origin": APP,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-api-key",
    }
    told = client.options("/v1/translate", headers=asks)
    assert told.status_code == 200 and told.headers["access-control-allow-origin"] == APP
    assert "X-API-Key" in told.headers["access-control-allow-headers"]
    assert "POST" in told.headers["access-control-allow-methods"]
    refused = client.options("/v1/translate", headers=asks | {"origin": "https://evil.example"})
    assert refused.status_code == 403 and "--allow_origin" in refused.json()["error"]
    assert "access-control-allow-origin" not in refused.headers
    # Errors can be read as well.
    for key, status in (("wrong", 401), ("open", 200)):
        answer = client.post(
            "/v1/translate",
            params={"target": "plum"},
            content=picture(rng, 8, 8, 3),
            headers={"origin": APP, "x-api-key": key},
        )
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == APP
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {name for name in answer.headers if name.startswith("x-")} <= {
        *exposed,
        "x-content-type-options",
    }


def test_no_answer_may_be_taken_for_another_type(serve, monkeypatch):
    client = serve()
    answers = [client.get(path) for path in ("/", "/style.css", "/metrics", "/nowhere")]
    answers += [client.post("/v1/translate"), client.put("/metrics")]

    def fail(*arguments, **options):
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(client.service, "answer", fail)
    answers.append(client.post("/v1/translate", params={"target": "plum"}))
    assert [each.status_code for each in answers] == [200, 200, 200, 404, 400, 405, 500]
    assert {each.headers["x-content-type-options"] for each in answers} == {"nosniff"}
    assert "fire" not in answers[-1].json()["error"]


def test_an_api_key_is_asked_of_all_but_health(serve, rng):
    client = serve(api_key="öffne dich")
    data = picture(rng, 8, 8, 3)
    assert client.get("/health/ready").status_code == 200
    assert post(client, data, target="plum").status_code == 401
    assert client.get("/v1/generators").status_code == 401
    good = "öffne dich".encode()
    for headers, status in (
        ({"X-API-Key": b"wrong"}, 401),
        ({"X-API-Key": good}, 200),
        ({"Authorization": b"Bearer " + good}, 200),
        ({"Authorization": b"Basic " + good}, 401),
    ):
        response = client.post(
            "/v1/translate", content=data, params={"target": "plum"}, headers=headers
        )
        assert response.status_code == status, headers


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "zlib", "utf-16", "", "no"])
def test_no_encoding_of_a_form_is_a_500(client, rng, charset):
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    response = client.post(
        "/v1/translate",
        content=head + picture(rng, 8, 8, 3) + b"\r\n--x--\r\n",
        params={"target": "plum"},
        headers={"Content-Type": kind},
    )
    assert response.status_code in (200, 400), response.text
    assert response.status_code == 200 or set(response.json()) == {"error"}


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\0", "\u202e", "y" * 201])
def test_names_that_would_spoil_the_error_are_refused(client, rng, name):
    data = picture(rng, 8, 8, 3)
    for field in ("source", "target"):
        response = client.post("/v1/translate", data={field: name}, files={"image": data})
        assert response.status_code == 400, response.text
        error = response.json()["error"]
        assert error.startswith(f"{field} must be the name of a domain")
        assert error.isprintable() and len(error) < 300


def test_a_client_that_goes_away_is_no_failure(serve):
    sent = []

    async def gone():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    app = server.build(None, most_bytes=99, most_requests=1, log=None)
    for kind in (b"image/png", b"multipart/form-data; boundary=x"):
        headers = [(b"content-length", b"50"), (b"content-type", kind)]
        scope = {
            **{"type": "http", "method": "POST", "path": "/v1/translate"},
            **{"headers": headers, "query_string": b""},
        }
        asyncio.run(app(scope, gone, send))
    assert [message["status"] for message in sent[::2]] == [400, 400]


def test_a_wrong_method_is_told_the_right_one(client):
    response = client.get("/v1/translate")
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert response.json() == {"error": "Method Not Allowed"}


def test_of_an_animation_the_first_frame_is_translated(client, rng):
    frames = [Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)) for _ in range(3)]
    still, moving = io.BytesIO(), io.BytesIO()
    frames[0].save(still, "PNG")
    frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:])
    first, found = (post(client, each.getvalue(), target="plum") for each in (still, moving))
    assert found.status_code == 200 and found.content == first.content


def test_no_malformed_request_is_a_500(client, rng):
    """Mutated files and forms; the service goes on afterwards."""
    chance = random.Random(0)
    files = [
        picture(rng, 24, 24, 3),
        picture(rng, 24, 24, 3, form="JPEG"),
        picture(rng, 24, 24, 3, form="WEBP"),
        picture(rng, 24, 24, form="PNG"),
    ]
    statuses = set()
    for number in range(120):
        data = bytearray(chance.choice(files))
        for _ in range(chance.randrange(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        if number % 4:
            response = post(client, bytes(data), target="plum")
        else:
            edge = chance.choice(["x", "", "\xff", "y" * 300, 'z"'])
            body = (
                f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="../a"\r\n\r\n'
            ).encode("latin1") + bytes(data)
            if chance.random() < 0.5:
                body += f"\r\n--{edge}--\r\n".encode("latin1")
            kind = f"multipart/form-data; boundary={edge}".encode("latin1")
            response = client.post(
                "/v1/translate",
                content=body,
                params={"target": "plum"},
                headers={"Content-Type": kind},
            )
        statuses.add(response.status_code)
        assert response.status_code < 500, (number, response.text)
        if response.status_code != 200:
            assert set(response.json()) == {"error"} and "\n" not in response.json()["error"]
    assert {200, 400} <= statuses
    assert post(client, files[0], target="plum").status_code == 200
