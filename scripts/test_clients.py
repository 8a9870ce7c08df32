"""What the official clients see of the server: run by scripts/test_clients."""

import json
import os

import anthropic
import openai
from langchain_openai import ChatOpenAI

URL, KEY = os.environ["SERVER_URL"], os.environ["SERVER_KEY"]
MODEL = "yi-demo"
QUESTION = [{"role": "user", "content": "What is 12 + 30?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 10}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["city", "n"],
    "additionalProperties": False,
}
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
claude = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
# Its newest version knows no temperature.
GREEDY = {"temperature": 0}
tests = []


def test(function):
    tests.append(function)
    return function


def answer():
    chat = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    assert chat.choices[0].finish_reason == "stop"
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + chat.usage.completion_tokens
    return chat.choices[0].message.content


@test
def chat_and_streaming():
    whole = answer()
    assert "42" in whole, whole
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage.completion_tokens > 0


@test
def logprobs():
    chat = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = chat.choices[0].logprobs.content
    assert len(tokens) == chat.usage.completion_tokens
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in tokens)


@test
def tools_streamed_and_not():
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    chat = client.chat.completions.create(
        model=MODEL, messages=QUESTION, tools=tools, tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    call = chat.choices[0].message.tool_calls[0]
    assert call.function.name == "weather" and set(json.loads(call.function.arguments)) == {"city", "n"}
    with client.chat.completions.stream(
        model=MODEL, messages=QUESTION, tools=tools, tool_choice="required", parallel_tool_calls=False, temperature=0
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    messages = QUESTION + [
        chat.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "rain"},
    ]
    client.chat.completions.create(model=MODEL, messages=messages, tools=tools, max_tokens=5)


@test
def json_schema():
    chat = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}},
    )
    assert set(json.loads(chat.choices[0].message.content)) == {"city", "n"}


@test
def completions_with_echo():
    completion = client.completions.create(model=MODEL, prompt="What is", max_tokens=0, echo=True, logprobs=1)
    logprobs = completion.choices[0].logprobs
    assert completion.choices[0].text == "What is"
    assert logprobs.token_logprobs[0] is None and len(logprobs.tokens) == completion.usage.prompt_tokens


@test
def embeddings():
    vectors = client.embeddings.create(model=MODEL, input=["Hello", "你好"]).data
    lengths = [sum(x * x for x in v.embedding) for v in vectors]
    assert all(abs(length - 1) < 1e-3 for length in lengths), lengths
    floats = client.embeddings.create(model=MODEL, input="Hello", encoding_format="float").data[0].embedding
    assert max(abs(a - b) for a, b in zip(floats, vectors[0].embedding)) < 1e-4


@test
def responses():
    response = client.responses.create(model=MODEL, input="What is 12 + 30?", temperature=0)
    assert response.output_text == answer() and response.status == "completed"
    text = ""
    for event in client.responses.create(model=MODEL, input="What is 12 + 30?", temperature=0, stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
    assert text == response.output_text and event.type == "response.completed"
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    response = client.responses.create(
        model=MODEL, input="Weather?", tools=[tool], tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    call = response.output[0]
    assert call.type == "function_call" and set(json.loads(call.arguments)) == {"city", "n"}


@test
def models_and_errors():
    assert [m.id for m in client.models.list()] == [MODEL]
    for function, error in [
        (lambda: openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0).models.list(), openai.AuthenticationError),
        (lambda: client.chat.completions.create(model="other", messages=QUESTION), openai.NotFoundError),
        (lambda: client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=9), openai.BadRequestError),
    ]:
        try:
            function()
        except error as raised:
            assert raised.request_id and raised.request_id.startswith("req_")
        else:
            raise AssertionError(f"{error} is missing")


@test
def anthropic_messages():
    message = claude.messages.create(model=MODEL, max_tokens=60, messages=QUESTION, extra_body=GREEDY)
    assert message.content[0].text == answer() and message.stop_reason == "end_turn"
    with claude.messages.stream(model=MODEL, max_tokens=60, messages=QUESTION, extra_body=GREEDY) as stream:
        assert "".join(stream.text_stream) == message.content[0].text
    called = claude.messages.create(
        model=MODEL,
        max_tokens=200,
        messages=QUESTION,
        extra_body=GREEDY,
        tools=[{"name": "weather", "input_schema": SCHEMA}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert called.content[0].type == "tool_use" and set(called.content[0].input) == {"city", "n"}
    try:
        claude.messages.create(model="other", max_tokens=1, messages=QUESTION)
    except anthropic.NotFoundError:
        pass
    else:
        raise AssertionError("another model is refused")


@test
def langchain():
    chat = ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key=KEY, temperature=0, max_retries=0)
    assert chat.invoke("What is 12 + 30?").content == answer()
    assert "".join(chunk.content for chunk in chat.stream("What is 12 + 30?")) == answer()


for function in tests:
    function()
    print(f"ok  {function.__name__}")
