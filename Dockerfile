FROM python:3.12-slim
ENV HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/fedsim
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY fedsim fedsim
COPY attacks attacks
COPY defenses defenses
COPY clients clients
COPY server server
RUN pip install --constraint constraints.txt .
RUN useradd --create-home fedsim
USER fedsim
WORKDIR /home/fedsim
ENTRYPOINT ["fedsim"]
