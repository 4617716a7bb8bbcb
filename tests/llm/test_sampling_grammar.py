"""Answers that follow a grammar or a JSON schema, and grammars that are none."""

from __future__ import annotations

import itertools
import json
import random
import re

import pytest
import tiny_models

from bluelm_gguf import DecodeError, InvalidArgumentError, Model
from bluelm_gguf.llm.grammar import read_grammar
from bluelm_gguf.llm.sampling import Sampling

SCHEMA = {
    "type": "object",
    "properties": {
        "shape": {"enum": ["circle", "square", "star"]},
        "count": {"type": "integer"},
        "filled": {"type": "boolean"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
        "size": {"$ref": "#/definitions/size"},
    },
    "required": ["shape", "count", "filled", "tags", "size"],
    "additionalProperties": False,
    "definitions": {"size": {"type": "object", "properties": {"w": {"type": "null"}}, "required": ["w"]}},
}


def check_schema(text: str) -> None:
    value = json.loads(text)
    assert list(value) == list(SCHEMA["properties"])
    assert value["shape"] in SCHEMA["properties"]["shape"]["enum"]
    assert isinstance(value["count"], int)
    assert isinstance(value["filled"], bool)
    assert 1 <= len(value["tags"]) <= 3 and set(value["tags"]) <= {"a", "b"}
    assert value["size"] == {"w": None}


# ----------------------------------------------------------------------------------------------- following


@pytest.mark.parametrize("temp", [0.0, 1.5])
def test_a_schema_is_followed(shared_model: Model, temp: float) -> None:
    seed = random.randrange(2**32)
    reply = shared_model.generate("What?", json_schema=SCHEMA, temp=temp, top_k=0, seed=seed, max_tokens=None)
    assert reply.finish_reason == "stop", seed
    check_schema(reply.text)
    again = shared_model.generate(
        "What?", json_schema=json.dumps(SCHEMA), temp=temp, top_k=0, seed=seed, max_tokens=None
    )
    assert again.text == reply.text


def test_the_demo_model_answers_in_json() -> None:
    with Model(n_threads=1) as model:
        reply = model.generate("What is this?", json_schema=SCHEMA, max_tokens=None)
    assert reply.finish_reason == "stop"
    check_schema(reply.text)


def test_every_sampler_goes_with_a_grammar(shared_model: Model) -> None:
    grammar = "root ::= [a-c]{5} [0-9]"
    options = {
        "temp": 1.0, "top_k": 3, "top_p": 0.5, "min_p": 0.2, "typical_p": 0.5, "repeat_penalty": 1.5,
        "repeat_last_n": -1, "presence_penalty": 0.5, "frequency_penalty": 0.5, "seed": 1,
    }  # fmt: skip
    for without in (None, *options):
        chosen = {k: v for k, v in options.items() if k != without} | {"seed": 1}
        text = shared_model.generate("What?", grammar=grammar, **chosen).text
        assert re.fullmatch("[a-c]{5}[0-9]", text), (without, text)


def test_a_grammar_ends_the_answer_and_a_stop_string_does_too(shared_model: Model) -> None:
    reply = shared_model.generate("What?", grammar='root ::= "yes" | "no"')
    assert reply.text in ("yes", "no") and reply.finish_reason == "stop"
    reply = shared_model.generate("What?", grammar='root ::= "one, two"', stop=[","])
    assert (reply.text, reply.finish_reason) == ("one", "stop")
    reply = shared_model.generate("What?", grammar='root ::= "one, two"', max_tokens=3)
    assert (len(reply.tokens), reply.finish_reason) == (3, "length")


def test_letters_of_several_bytes(shared_model: Model) -> None:
    text = shared_model.generate("What?", grammar='root ::= [äß日🙂]{4} "é"', max_tokens=None).text
    assert re.fullmatch("[äß日🙂]{4}é", text)


def test_in_a_chat(shared_model: Model) -> None:
    chat = shared_model.chat()
    assert chat.ask("Yes?", grammar='root ::= "yes"').text == "yes"
    assert chat.ask("No?", grammar='root ::= "no"').text == "no"
    assert len(chat.turns) == 4


def test_what_the_model_would_say_anyway_is_the_same(tmp_path) -> None:
    with Model(tiny_models.write_llm(tmp_path / "llm.gguf", script="abcdef"), n_threads=1) as model:
        assert model.generate("x").text == "abcdef"
        assert model.generate("x", grammar="root ::= [a-z]*").text == "abcdef"
        # What would be said is refused in the middle: the best of what is left follows.
        assert re.fullmatch("abc[x-z]{2}", model.generate("x", grammar='root ::= "abc" [x-z]{2}').text)


def test_a_dead_end_is_an_error_and_the_model_goes_on(shared_model: Model) -> None:
    before = shared_model.generate("What?", max_tokens=4).text
    # A character that is allowed has a first byte, and then none of its continuations.
    with pytest.raises(DecodeError, match="grammar cannot be followed"):
        shared_model.generate("What?", grammar=r"root ::= [^\x00-\UFFFFFFFF]")
    assert shared_model.generate("What?", max_tokens=4).text == before


def test_tokens_by_name_and_number(shared_model: Model) -> None:
    end = shared_model.llm.tokenize("<|im_start|>", special=True)[0]
    for text in ("<|im_start|>", f"<[{end}]>"):
        reply = shared_model.generate("What?", grammar=f'root ::= "a" {text}')
        assert reply.tokens[-1] == end
    for text in ("<nothing>", "<[999999]>"):
        with pytest.raises(InvalidArgumentError, match="no token of this model"):
            shared_model.generate("What?", grammar=f'root ::= "a" {text}')


# ------------------------------------------------------------------------------------------------- refusing

BAD = {
    "": "empty",
    "x ::= \"a\"": "no rule 'root'",
    "root := \"a\"": "line 1: ::= is missing",
    "\nroot ::= a b\na ::= \"x\"": "line 2: the rule 'b' is not defined",
    "root ::= \"a": "\" is never closed",
    "root ::= [a": r"\[ is never closed",
    "root ::= (\"a\"": "parenthesis is never closed",
    "root ::= \"a\")": r"unexpected '\)'",
    "root ::= \"\\q\"": "unknown escape",
    "root ::= \"\\x1\"": "unknown escape",
    "root ::= *": "nothing before",
    "root ::= \"a\"{2,1}": "1 is less than 2",
    "root ::= \"a\"{x}": "repetition is written",
    "root ::= \"a\"{9999}": "more than 2000",
    "root ::= ((\"a\"{0,100}){100}){100}": "more than 2000",
    "root ::= root \"a\" | \"b\"": "'root' can begin with itself",
    "root ::= a\na ::= b\nb ::= a": "can begin with itself",
    # These two make llama.cpp's sampler take all memory:
    "root ::= a root \"x\" | \"y\"\na ::= b\nb ::= \"\"": "'root' can begin with itself",
    "root ::= a root \"x\" | \"y\"\na ::= \"z\"?": "'root' can begin with itself",
    # and this overflows the stack of its parser:
    "root ::= " + "(" * 30000 + '"a"' + ")" * 30000: "more than 100 parentheses",
    # and this keeps its search for left recursion busy for years:
    "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1} | r{i + 1}" for i in range(60)) + '\nr60 ::= "a"':
        "too many ways",
    "root ::= \"a\0\"": "NUL",
    "root ::= \"\ud800\"": "Unicode",
    "root_a ::= \"x\"": "line 1: ::= is missing",
    "root ::= <a": "token is written",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_a_bad_grammar_is_one_line(shared_model: Model, text: str, capfd) -> None:
    with pytest.raises(InvalidArgumentError, match=BAD[text]) as caught:
        shared_model.stream("What?", grammar=text)
    assert str(caught.value).startswith("grammar: ") and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "object is needed"),
        ({"type": "unheard of"}, "cannot be translated"),
        ({"$ref": "http://example.org/schema"}, "cannot be translated"),
        ({"$ref": "https://example.org/schema"}, "cannot be translated"),
        ({"$ref": "#/nowhere"}, "cannot be translated"),
        ({"type": "string", "pattern": "^("}, "cannot be translated"),
        ({"$ref": "#"}, "cannot be translated"),
        ({"enum": 3}, "cannot be translated"),
        ({"properties": {"a": 1}}, "cannot be translated"),
        ({"a": object()}, "written as JSON"),
    ],
)
def test_a_bad_schema_is_one_line(shared_model: Model, schema, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason) as caught:
        shared_model.stream("What?", json_schema=schema)
    assert str(caught.value).startswith("json_schema: ") and "\n" not in str(caught.value)


def test_a_grammar_and_a_schema_exclude_each_other() -> None:
    with pytest.raises(InvalidArgumentError, match="both"):
        Sampling(grammar='root ::= "a"', json_schema={}).validate()


GOOD = [
    'root ::= "a"',
    'root ::= ("a"*)*',
    'root::=a|b # note\r\na ::=\n "x" |\n "y" # more\n\n\nb ::= ( "z"\n | [^a-z\\]-] ){2,}\n',
    'root ::= "" | "a" root',
    'root ::= a "x"\na ::= ("b" | [] )? . <[1]> !<[2]>',
    'root ::= "\\x41\\u00e4\\U0001F642\\n\\t\\r\\\\\\"" [\\[\\]\\-]+ [a-]',
    'root ::= "a"{0} "b"{ 1 , 3 } "c"{2,} "d"{0,5000}',
    'root ::= root2\nroot2 ::= "early"\nroot2 ::= "late"',
    "root ::= r0\n" + "\n".join(f"r{i} ::= r{i + 1}" for i in range(3000)) + '\nr3000 ::= "a"',
]


@pytest.mark.parametrize("text", GOOD)
def test_what_llama_cpp_takes_is_taken(shared_model: Model, text: str, capfd) -> None:
    read_grammar(text)
    shared_model.generate("What?", grammar=text, max_tokens=2)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "array", "items": {"type": "number"}, "minItems": 2},
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "integer"}, {"const": "x"}]},
        {"type": "string", "pattern": "^[a-f0-9]{4}(-[a-f]+)?$"},
        {"type": "string", "format": "date"},
        {"type": "integer"},
        {"properties": {"b": {"type": "string", "minLength": 1, "maxLength": 40}}},
        {"allOf": [{"properties": {"a": {"type": "boolean"}}}, {"properties": {"b": {}}}]},
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "properties": {
            "left": {"$ref": "#/$defs/tree"}, "right": {"$ref": "#/$defs/tree"}}}}},
    ],
)  # fmt: skip
def test_usual_schemas_are_translated(shared_model: Model, schema) -> None:
    text = shared_model.generate("What?", json_schema=schema, max_tokens=200).text
    assert text[:1] in '{["-0123456789tfn \n'


def test_strings_are_json(shared_model: Model) -> None:
    """Sampled wildly, strings hold what JSON allows and nothing else."""
    seed = random.randrange(2**31)
    plain = {"type": "string", "minLength": 30, "maxLength": 40}
    for schema in (plain, {"type": "string", "pattern": "^a.{20}$"}):
        reply = shared_model.generate(
            "What?", json_schema=schema, temp=9.0, top_k=0, seed=seed, max_tokens=None
        )
        assert reply.finish_reason == "stop" and isinstance(json.loads(reply.text), str), (seed, reply.text)


def test_what_is_not_enforced_is_said(shared_model: Model) -> None:
    schema = {"properties": {"not": {"type": "integer", "maximum": 3}, "b": {"const": {"minimum": 1}}}}
    with pytest.warns(UserWarning, match="^json_schema: maximum will not be enforced$"):
        shared_model.generate("What?", json_schema=schema, max_tokens=3)


def test_random_grammars_never_surprise_llama_cpp(shared_model: Model, capfd) -> None:
    """What is read here without complaint, llama.cpp reads without complaint."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    pieces = [
        '"a"',
        '"b"',
        "[a-c]",
        ".",
        '""',
        "root",
        "x",
        "y",
        "(",
        ")",
        "|",
        "*",
        "+",
        "?",
        "{2}",
        "{0,3}",
        " ",
    ]
    weights = [5, 5, 5, 3, 1, 1, 2, 2, 2, 2, 3, 1, 1, 1, 1, 1, 1]
    n_good = 0
    for _ in range(400):
        rules = [
            f"{name} ::= " + " ".join(rng.choices(pieces, weights, k=rng.randint(1, 7)))
            for name in ("root", "x", "y")
        ]
        text = "\n".join(rules)
        try:
            read_grammar(text)
        except InvalidArgumentError:
            continue
        try:
            shared_model.generate("What?", grammar=text, max_tokens=2)
            n_good += 1
        except (InvalidArgumentError, DecodeError) as error:
            assert "refuses" in str(error), (seed, text, error)
    assert n_good > 10, seed
    assert capfd.readouterr().err == "", seed


# ------------------------------------------------------------------------------------------------ penalties


def test_the_penalties_and_typical_p_do_something(shared_model: Model) -> None:
    plain = shared_model.generate("What?", max_tokens=40)
    assert len(set(plain.tokens)) < 40
    strong = {"presence_penalty": 1000.0, "frequency_penalty": 1000.0}
    for name, value in strong.items():
        reply = shared_model.generate("What?", max_tokens=40, repeat_last_n=-1, **{name: value})
        assert len(set(reply.tokens)) == 40, name
        assert (
            shared_model.generate("What?", max_tokens=40, repeat_last_n=0, **{name: value}).text == plain.text
        )
    near = shared_model.generate("What?", max_tokens=40, repeat_last_n=1, presence_penalty=1000.0).tokens
    assert all(a != b for a, b in itertools.pairwise(near))
    assert shared_model.generate("What?", max_tokens=40, typical_p=0.05).text != plain.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("typical_p", 0.0), ("typical_p", 1.1), ("repeat_last_n", -2), ("presence_penalty", float("nan")),
        ("frequency_penalty", float("inf")),
    ],
)  # fmt: skip
def test_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=name):
        Sampling(**{name: value}).validate()
