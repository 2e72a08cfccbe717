"""What several test files share."""

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
