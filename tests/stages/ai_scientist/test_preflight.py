"""What is refused before anything is paid, with cause and fix."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.model_access import ModelAccess
from pod_worker.stages.ai_scientist import preflight
from pod_worker.stages.ai_scientist.checkout import LAUNCHER
from pod_worker.stages.ai_scientist.params import complete, parse
from tests.stages.ai_scientist.original_run import CHECKOUT, KEY, OriginalRun, params

WITH_KEY = ModelAccess(openai_api_key=KEY)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that a test may damage."""
    return Path(shutil.copytree(CHECKOUT, tmp_path / "checkout"))


def refusal(access: ModelAccess = WITH_KEY, **more: object) -> RunError:
    with pytest.raises(RunError) as caught:
        preflight.prepare(parse(params(**more)), access, isolate=lambda: ())
    return caught.value


@pytest.mark.parametrize("missing", [LAUNCHER, "bfts_config.yaml", "ai_scientist/vlm.py"])
def test_a_folder_that_is_no_checkout_is_refused_with_the_missing_file(checkout: Path, missing: str) -> None:
    (checkout / missing).unlink()
    error = refusal(checkout=str(checkout))
    assert error.code is FailureCode.INVALID_INPUT
    assert f"{missing} is missing" in error.message
    assert "Fix: clone" in error.message


@pytest.mark.parametrize(("name", "content"), [("bfts_config.yaml", "agent: 3"), (LAUNCHER, "def (")])
def test_a_file_that_is_not_the_originals_is_refused(checkout: Path, name: str, content: str) -> None:
    (checkout / name).write_text(content)
    assert "is no checkout of AI-Scientist-v2" in refusal(checkout=str(checkout)).message


def test_a_path_without_a_folder_is_refused() -> None:
    assert "no such folder" in refusal(checkout="/no/such/checkout").message


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ({"model_writeup": "palm-9"}, "does not know the model model_writeup=palm-9"),
        ({"model_review": "o1"}, "model_review=o1 cannot look at figures"),
        ({"model": None}, "model_code=anthropic.claude-3-5-sonnet-20241022-v2:0 needs AWS_ACCESS_KEY_ID"),
        ({"model_citation": "gemini-2.0-flash"}, "GEMINI_API_KEY, which a worker does not pass on"),
    ],
)
def test_a_model_that_would_fail_later_is_refused(models: dict[str, str | None], text: str) -> None:
    error = refusal(**models)
    assert error.code is FailureCode.INVALID_INPUT
    assert text in error.message


def test_an_option_that_the_checkout_lacks_is_refused(checkout: Path) -> None:
    """The fork of the original has no --model_writeup_small."""
    launcher = checkout / LAUNCHER
    launcher.write_text(launcher.read_text().replace("model_writeup_small", "another_option"))
    error = refusal(checkout=str(checkout), model_writeup_small="gpt-4o-2024-05-13")
    assert "no option --model_writeup_small" in error.message


def test_an_absent_key_is_refused() -> None:
    error = refusal(ModelAccess(anthropic_api_key="sk-ant-0123456789"))
    assert error.code is FailureCode.LLM_AUTH
    assert "set OPENAI_API_KEY of the worker" in error.message


def test_the_program_gets_the_keys_of_its_models_and_no_others() -> None:
    access = ModelAccess(openai_api_key=KEY, anthropic_api_key="sk-ant-0123456789", anthropic_base_url="http://a")
    plan = preflight.prepare(parse(params()), access, isolate=lambda: ())
    assert plan.keys == {"OPENAI_API_KEY": KEY}
    assert KEY not in repr(plan)
    plan = preflight.prepare(parse(params(model_writeup="claude-3-5-sonnet-20241022")), access, isolate=lambda: ())
    assert plan.keys.keys() == {"OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"}


def test_missing_latex_is_refused_where_a_paper_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    error = refusal()
    assert error.code is FailureCode.ENVIRONMENT
    assert "pdflatex and bibtex" in error.message
    assert "apt-get install" in error.message
    preflight.prepare(parse(params(skip_writeup=True)), WITH_KEY, isolate=lambda: ())


def test_an_interpreter_that_is_not_there_is_refused() -> None:
    error = refusal(python="/no/such/python")
    assert error.code is FailureCode.ENVIRONMENT
    assert "/no/such/python" in error.message


def test_an_interpreter_without_the_requirements_is_refused(checkout: Path, original: OriginalRun) -> None:
    launcher = checkout / LAUNCHER
    launcher.write_text("import no_such_library\n" + launcher.read_text())
    failure = original.fails(checkout=str(checkout))
    assert failure.code is FailureCode.ENVIRONMENT
    assert "No module named 'no_such_library'" in failure.message
    assert f"-r {checkout}/requirements.txt" in failure.message
    assert not list((original.program / "experiments").iterdir()), "nothing was started"
    assert original.state == {}


def test_a_file_that_is_no_interpreter_is_refused(original: OriginalRun, tmp_path: Path) -> None:
    wrong = tmp_path / "python"
    wrong.write_bytes(b"\x7fELF")
    wrong.chmod(0o755)
    failure = original.fails(python=str(wrong))
    assert failure.code is FailureCode.ENVIRONMENT
    assert "Exec format error" in failure.message


def test_a_machine_without_namespaces_is_refused() -> None:
    def none() -> tuple[str, ...]:
        raise RunError(FailureCode.ENVIRONMENT, "no namespace")

    with pytest.raises(RunError, match="no namespace"):
        preflight.prepare(parse(params()), WITH_KEY, isolate=none)


def test_a_cap_on_money_is_refused_at_enqueue_with_what_to_use() -> None:
    with pytest.raises(RunError, match="'max_usd' has no effect: use --max-duration") as caught:
        complete(params(max_usd=5))
    assert caught.value.code is FailureCode.INVALID_INPUT


def test_an_idea_without_a_field_is_refused_at_enqueue() -> None:
    with pytest.raises(RunError, match="'Abstract' is missing"):
        complete(params(idea={"Title": "t", "Short Hypothesis": "h", "Experiments": ["e"]}))


def test_an_own_interpreter_of_the_checkout_is_found(checkout: Path) -> None:
    own = checkout / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    plan = preflight.prepare(parse(params(checkout=str(checkout))), WITH_KEY, isolate=lambda: ())
    assert plan.interpreter == own
