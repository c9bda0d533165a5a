# A model behind an HTTP address: the README's installation, and the server. Not built yet
# (docs/howto/clusters.md).
#   docker build -t stacked-ram .
#   docker run -p 8000:8000 -v "$PWD/results:/models:ro" stacked-ram main.py serve /models/mine --host 0.0.0.0
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 user
WORKDIR /app
COPY requirements.txt requirements-serve.txt ./
RUN python -m pip install --no-cache-dir -r requirements-serve.txt
COPY . .
USER user
ENV HOME=/tmp MPLCONFIGDIR=/tmp NUMBA_CACHE_DIR=/tmp
EXPOSE 8000
ENTRYPOINT ["python"]
CMD ["main.py", "serve", "stacked_ram/runs/demo", "--host", "0.0.0.0"]
