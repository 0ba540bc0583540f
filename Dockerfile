# The service and its commands: `docker run IMAGE serve`, `docker run IMAGE migrate`, whatever `invoke --list` shows.
# The tag can be moved by whoever publishes it; where that matters, put the digest that you have looked at behind it.
FROM python:3.11.14-slim-trixie AS build

ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/aurumai \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --root-user-action=ignore uv==0.13.9

WORKDIR /srv/aurumai
# What they need changes less often than they do.
COPY pyproject.toml ./
RUN uv sync --no-cache --no-default-groups --no-install-project && rm -r uv.lock pyproject.toml
COPY piccolo_conf.py tasks.py ./
COPY app app
COPY piccolo_migrations piccolo_migrations
# Nothing can be compiled where nothing can be written.
RUN python -m compileall -q . && install -d -o 10001 -g 10001 backups

FROM python:3.11.14-slim-trixie

# The user has no name and no home here, which programs ask for.
ENV HOME=/tmp \
    LOGNAME=aurumai \
    PATH=/opt/aurumai/bin:$PATH \
    PYTHONUNBUFFERED=1
COPY --from=build /opt/aurumai /opt/aurumai
COPY --from=build /srv/aurumai /srv/aurumai
WORKDIR /srv/aurumai
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-m", "app.ops.probe"]
ENTRYPOINT ["invoke"]
CMD ["serve"]
