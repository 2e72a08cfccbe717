"""What several test files share."""

import json

import pytest

import evaluate
import results


@pytest.fixture
def run(capsys):
    """Exit code, output and errors of evaluate.py."""

    def call(*arguments):
        code = 0
        try:
            with results.plain_errors("evaluate.py"):
                evaluate.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def rows(run):
    """Rows of evaluate.py as JSON, which must go well."""

    def call(*arguments):
        code, out, error = run(*arguments, "--format", "json")
        assert code == 0, error
        return json.loads(out)

    return call
