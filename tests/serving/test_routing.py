"""The four cases of the patent (JP7133003B2, claims 3 to 6), and what lies beside them."""

import pytest

from warp_translate.serving.routing import Choices, NoRoute, Route, route

FRUIT = [("apple", "pear"), ("plum", "pear"), ("apple", "plum"), ("pear", "apple")]


def unasked():
    raise AssertionError("nothing was to be classified")


def test_claim_3_a_target_to_which_one_generator_leads():
    assert route(FRUIT, unasked, target="plum") == Route("apple", "plum")
    assert route(FRUIT, None, target="apple") == Route("pear", "apple")


@pytest.mark.parametrize("domain", ["apple", "plum"])
def test_claim_4_a_target_to_which_several_lead_from_the_domain_of_the_image(domain):
    found = route(FRUIT, lambda: domain, target="pear")
    assert found == Route(domain, "pear", recognised=domain)


def test_claim_5_no_target_and_one_generator_from_the_domain_of_the_image():
    assert route(FRUIT, lambda: "plum") == Route("plum", "pear", recognised="plum")


def test_claim_6_no_target_and_several_are_offered():
    expected = Choices("apple", (("apple", "pear"), ("apple", "plum")))
    assert route(FRUIT, lambda: "apple") == expected


@pytest.mark.parametrize("classify", [None, lambda: None])
def test_an_unknown_domain_leaves_the_choice_to_the_user(classify):
    assert route(FRUIT, classify) == Choices(None, tuple(sorted(FRUIT)))
    expected = Choices(None, (("apple", "pear"), ("plum", "pear")))
    assert route(FRUIT, classify, target="pear") == expected


def test_the_only_generator_takes_what_nobody_can_classify():
    only = [("apple", "pear")]
    assert route(only, None) == Route("apple", "pear")
    assert route(only, lambda: None) == Choices(None, (("apple", "pear"),))
    with pytest.raises(NoRoute, match="looks like plum"):
        route(only, lambda: "plum")


def test_a_domain_that_was_said_is_not_classified():
    assert route(FRUIT, unasked, source="plum") == Route("plum", "pear")
    assert route(FRUIT, unasked, source="apple", target="plum") == Route("apple", "plum")
    assert route(FRUIT, unasked, source="apple") == Choices(
        "apple", (("apple", "pear"), ("apple", "plum"))
    )


def test_the_image_is_classified_once():
    asked = []
    route(FRUIT, lambda: asked.append(1) or "apple")
    assert asked == [1]


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"target": "fig"}, "no generator leads to fig; there are those to apple, pear, plum"),
        ({"source": "fig"}, "no generator leads from fig; there are those from apple, pear, plum"),
        (
            {"source": "plum", "target": "apple"},
            "no generator leads from plum to apple; there are apple to pear, apple to plum, "
            "pear to apple, plum to pear",
        ),
    ],
)
def test_what_nothing_leads_to_is_said_with_what_there_is(request_, match):
    with pytest.raises(NoRoute, match=match):
        route(FRUIT, unasked, **request_)


def test_an_image_from_which_nothing_leads_is_said_with_what_it_looks_like():
    with pytest.raises(NoRoute, match="looks like fig, but no generator leads from there; say"):
        route(FRUIT, lambda: "fig")
    with pytest.raises(NoRoute, match=r"from there to pear; .* one of apple, plum"):
        route(FRUIT, lambda: "pear", target="pear")


def test_without_generators_there_is_no_route():
    with pytest.raises(NoRoute, match="there is no generator; add a bundle"):
        route([], unasked)
