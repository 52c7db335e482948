"""Measure the latency of the example service and of its inference call: one client, 1 frame and 10 s of sound.

Usage: TVLT_ONNXRUNTIME=$(tvlt-deploy cpp --print-ort) python benchmarks/service.py PATH/TO/tvlt_service BUNDLE [CALLS]
"""

import http.client
import json
import statistics
import subprocess
import sys
import time

import numpy as np

HEIGHT, WIDTH, SAMPLES = 360, 640, 10 * 44100


def main(service: str, bundle: str, calls: int = 30) -> None:
    random = np.random.default_rng(0)
    sound = random.normal(0, 0.1, SAMPLES).astype(np.float32).tobytes()
    body = sound + random.integers(0, 256, HEIGHT * WIDTH * 3, np.uint8).tobytes()
    query = f"samples={SAMPLES}&frames=1&height={HEIGHT}&width={WIDTH}"
    with subprocess.Popen(
        [service, bundle, "--port", "0", "--engine-threads", "2"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(process.stdout.readline().rpartition(":")[2]))
        request, inference = [], []
        for _ in range(calls):
            start = time.perf_counter()
            connection.request("POST", f"/answer?{query}", body)
            answer = json.loads(connection.getresponse().read())
            request.append(1000 * (time.perf_counter() - start))
            inference.append(answer["milliseconds"])
        connection.close()
        process.terminate()
    overhead = [a - b for a, b in zip(request, inference, strict=True)]
    print(
        f"{calls} calls, {len(body) / 1e6:.2f} MB each, medians: request {statistics.median(request):.2f} ms, "
        f"inference {statistics.median(inference):.2f} ms, overhead {statistics.median(overhead):.2f} ms"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]))
