"""A child process `cascade-rt serve`, started when it is needed and started again when it has ended. Standard library alone."""

import base64, hashlib, json, os, subprocess, threading, time, urllib.error, urllib.request


class Server:
    """One server, for one GPU or a few cores. Threads may share it."""

    def __init__(self, program="cascade-rt", flags=()):
        self.command = [program, "serve", "--port", "0", "--quiet", "--exit-with-parent", *flags]
        self.process, self.url, self.lock = None, None, threading.Lock()

    def start(self):
        """The address of a server that runs."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                # It ends with this process: its standard input does.
                self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                line = self.process.stdout.readline()
                if not line:
                    raise RuntimeError(f"{self.command[0]} ended with {self.process.wait()}")
                self.url = json.loads(line)["url"]
            return self.url

    def picture(self, order, tries=8):
        """The file of one picture. A server that ends in the middle is started again; the same order makes the same bytes."""
        body = json.dumps({**order, "n": 1, "response_format": "b64_json"}).encode()
        for attempt in range(tries):
            try:
                request = urllib.request.Request(self.start() + "/v1/images/generations", body, {"Content-Type": "application/json"})
                with urllib.request.urlopen(request, timeout=900) as answer:
                    return base64.b64decode(json.load(answer)["data"][0]["b64_json"])
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503):
                    raise RuntimeError(error.read().decode(errors="replace")) from error
                time.sleep(min(float(error.headers.get("Retry-After", 1)), 10))
            except (OSError, ValueError, RuntimeError):
                if attempt + 1 == tries:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise RuntimeError("the server is busy for too long")


def name_of(order, model=""):
    """The name of an order's picture: the same order has the same name, whoever makes it."""
    text = json.dumps([model, order], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32] + ".png"


def write_once(folder, name, data):
    """Writes a file whole or not at all."""
    path = os.path.join(folder, name)
    part = f"{path}.{os.getpid()}.part"
    with open(part, "wb") as file:
        file.write(data)
    os.replace(part, path)
    return path
