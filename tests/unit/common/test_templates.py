"""A plan made of a template is the plan made the long way."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from common.catalogue_file import load_catalogue
from common.domain.errors import Invalid
from common.requests.planning import Inputs, Plan, make_plan
from common.requests.templates import Planner
from common.requests.validation import parse_job_request
from common.settings import Settings

CATALOGUE = load_catalogue(Settings(_env_file=None))
PLANNER = Planner(CATALOGUE)  # one for all examples, so that templates of one serve another

prompts = st.sampled_from([None, "", "  ", "a cat", "ein Hund"])
seeds = st.sampled_from([None, 0, 5, 2**32 - 1])
refiners = st.sampled_from(
    [None, {"model": "sdxl-refiner"}, {"model": "sdxl-refiner", "strength": 0.3}, {"model": "sd15", "strength": 0.4}]
)
steps = st.sampled_from([None, [{"prompt": "one"}, {"strength": 0.3}], [{"seed": 3}, {"seed": None}]])
requests = st.fixed_dictionaries(
    {},
    optional={
        "prompt": prompts,
        "seed": seeds,
        "negative_prompt": st.sampled_from([None, "", "a dog"]),
        "model": st.sampled_from([None, "demo", "sdxl", "sd15-inpaint"]),
        "task": st.sampled_from([None, "txt2img", "img2img", "inpaint"]),
        "strength": st.sampled_from([None, 0.01, 0.5, 1]),
        "guidance_scale": st.sampled_from([None, 0, 7.5]),
        "num_inference_steps": st.sampled_from([None, 1, 20]),
        "width": st.sampled_from([None, 128, 512]),
        "mask_mode": st.sampled_from([None, "alpha"]),
        "output": st.sampled_from([{}, {"quality": 90}, {"format": "jpeg", "quality": 80}]),
        "num_images": st.sampled_from([1, 4]),
        "refiner": refiners,
        "steps": steps,
        "deadline_seconds": st.sampled_from([10, 20]),
        "tags": st.sampled_from([[], ["a"]]),
        "metadata": st.sampled_from([{}, {"a": "b"}]),
    },
)
sizes = st.sampled_from([None, (128, 128), (300, 200)])
inputs = st.builds(
    Inputs,
    has_image=st.booleans(),
    has_mask=st.booleans(),
    image_size=sizes,
    mask_size=sizes,
    is_opaque=st.booleans(),
)


def outcome(plan: Any, *arguments: Any, random_seed: int) -> Plan | list[Any]:
    try:
        made: Plan = plan(*arguments, random_seed=random_seed)
    except Invalid as error:
        return list(error.problems)
    return made


@settings(max_examples=600, deadline=None)
@given(members=requests, others=st.tuples(prompts, seeds), given=inputs, random_seed=st.integers(0, 2**32 - 1))
def test_a_template_gives_what_the_long_way_gives(
    members: dict[str, Any], others: tuple[str | None, int | None], given: Inputs, random_seed: int
) -> None:
    for prompt, seed in ((members.get("prompt"), members.get("seed")), others):
        said = {name: value for name, value in members.items() if value is not None}
        said |= {name: value for name, value in (("prompt", prompt), ("seed", seed)) if value is not None}
        request = parse_job_request(said)
        expected = outcome(make_plan, request, CATALOGUE, given, random_seed=random_seed)
        assert outcome(PLANNER.plan, request, given, random_seed=random_seed) == expected


def test_many_requests_of_one_shape_are_settled_once(monkeypatch: Any) -> None:
    settled: list[Any] = []
    monkeypatch.setattr("common.requests.templates.make_plan", lambda *a, **k: settled.append(a) or make_plan(*a, **k))
    planner = Planner(CATALOGUE)
    for number in range(20):
        request = parse_job_request({"prompt": f"cat {number}", "seed": number, "external_id": f"{number}"})
        assert planner.plan(request, Inputs(), random_seed=1).params.prompt == f"cat {number}"
    assert len(settled) == 1
