#!/usr/bin/env python3
"""Drives the shop of captures/make.sh: client.py shop|demo|files DIR.

Raw sockets, not http.client, because the odd requests (slow, pipelined, aborted) are
the point. Every session has its own seeded generator and a fixed number of requests,
so that two runs differ in timing only. Prints its own count as JSON: the third
opinion next to the servers' logs and tshark.
"""
import base64
import json
import math
import os
import random
import socket
import sys
import threading
import time
from collections import Counter

SERVER = ("127.0.0.1", 18090)
PASSWORD = "correct-horse-seeded-secret"
TOKEN = "seeded-secret-token"
lock = threading.Lock()
count = Counter()
failures = []

AGENTS = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "ShopApp/4.2 (Android 14)",
]


def note(method, status):
    with lock:
        count["requests"] += 1
        count[f"method {method}"] += 1
        count[f"status {status}"] += 1


class Client:
    """One visitor: an address, a user agent, cookies, at most one connection."""

    def __init__(self, number, agent, keep=True, gzip=False):
        self.address = f"127.0.0.{number}"
        self.rng = random.Random(number)
        self.agent, self.keep, self.gzip = agent, keep, gzip
        self.cookie = None
        self.sock = None

    def connect(self):
        if self.sock is None:
            with lock:
                count["connections"] += 1
            self.sock = socket.create_connection(SERVER, 30, (self.address, 0))
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.buf = b""
        return self.sock

    def close(self):
        if self.sock:
            self.sock.close()
        self.sock = None

    def head(self, method, path, headers=()):
        lines = [f"{method} {path} HTTP/1.1", "Host: shop.example"]
        lines += [f"User-Agent: {self.agent}", "Accept: */*"]
        if self.gzip:
            lines.append("Accept-Encoding: gzip")
        if self.cookie:
            lines.append(f"Cookie: {self.cookie}")
        if not self.keep:
            lines.append("Connection: close")
        lines += headers
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def line(self):
        while b"\r\n" not in self.buf:
            self.more()
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line

    def more(self):
        data = self.sock.recv(65536)
        if not data:
            raise EOFError("server closed")
        self.buf += data

    def take(self, n):
        while len(self.buf) < n:
            self.more()
        body, self.buf = self.buf[:n], self.buf[n:]
        return body

    def answer(self, method):
        status = int(self.line().split()[1])
        headers = {}
        while line := self.line():
            name, value = line.decode("latin-1").split(":", 1)
            headers[name.lower()] = value.strip()
        body = b""
        if method == "HEAD" or status in (204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while n := int(self.line(), 16):
                body += self.take(n)
                self.line()
            self.line()
        else:
            body = self.take(int(headers["content-length"]))
        if "set-cookie" in headers:
            self.cookie = headers["set-cookie"].split(";")[0]
            if self.cookie == "session=":
                self.cookie = None
        note(method, status)
        if not self.keep:
            self.close()
        return status, headers, body

    def ask(self, method, path, headers=(), body=None):
        self.connect()
        headers = list(headers)
        if body is not None:
            headers.append("Content-Type: application/x-www-form-urlencoded")
            headers.append(f"Content-Length: {len(body)}")
        self.sock.sendall(self.head(method, path, headers) + (body or "").encode())
        return self.answer(method)

    def think(self, low=0.05, high=2.0):
        # log-uniform: many short pauses, a few long ones, as people do
        time.sleep(math.exp(self.rng.uniform(math.log(low), math.log(high))))


def shopper(number, pages, keep=True, gzip=True, buys=False):
    c = Client(number, AGENTS[number % len(AGENTS)], keep, gzip)
    r = c.rng
    time.sleep(r.uniform(0, 7))
    etag = c.ask("GET", "/")[1].get("etag")
    for path in ("/static/style.css", "/static/app.js", "/img/1.png"):
        _, headers, _ = c.ask("GET", path)
        etag = headers.get("etag", etag)
        time.sleep(r.uniform(0.005, 0.03))
    if buys:
        c.think(0.5, 2)
        c.ask("POST", "/login", body=f"user=visitor{number}&password={PASSWORD}")
        c.ask("GET", "/")
    for i in range(pages):
        c.think(0.2, 2.0)
        item = r.randint(1, 60)
        kind = r.random()
        if kind < 0.30:
            words = r.choice(["red+shoes", "lamp", "teapot", "blue%20chair", "caf%C3%A9"])
            c.ask("GET", f"/search?q={words}&page={r.randint(1, 3)}")
        elif kind < 0.75:
            c.ask("GET", f"/product/{item}", ["Referer: http://shop.example/search?q=lamp"])
            time.sleep(r.uniform(0.02, 0.08))
            c.ask("GET", f"/api/v1/stock/{item}", ["X-Requested-With: XMLHttpRequest"])
        elif kind < 0.85:
            c.ask("GET", "/img/1.png", [f"If-None-Match: {etag}"])
        elif kind < 0.93:
            c.ask("GET", "/old-offers")
            c.ask("GET", "/search?q=offers")
        else:
            c.ask("GET", "/cart")
    if buys:
        c.think()
        c.ask("POST", "/cart/add", body=f"id={r.randint(1, 60)}&n=1")
        c.ask("GET", "/cart")
        c.think(0.5, 2)
        c.ask("POST", "/checkout", body=f"card=4000-seeded-secret-card&name=visitor{number}")
        c.think()
        c.ask("GET", "/logout")
    c.close()


def api_poller(number, n):
    c = Client(number, "stock-poller/1.0")
    for i in range(n):
        c.ask("GET", f"/api/v1/stock/{i % 7 + 1}", [f"Authorization: Bearer {TOKEN}"])
        time.sleep(c.rng.uniform(0.2, 0.5))
    c.close()


def health_checker(number, n):
    c = Client(number, "health/1.0", keep=False)
    for _ in range(n):
        c.ask("HEAD", "/healthz")
        time.sleep(1)


def crawler(number):
    c = Client(number, "ExampleBot/2.1 (+http://bot.example/)", keep=False, gzip=True)
    for path in ("/robots.txt", "/", "/product/1", "/product/nope", "/sitemap.xml", "/static/app.js",
                 "/%7Eold/page", "/wp-login.php", "/product/2", "/search?q=", "/a/../product/3"):
        c.ask("GET", path)
        c.think(0.3, 2)


def odd_one(number):
    """What does not fit the usual mould, one after the other, each as a person waits."""
    c = Client(number, AGENTS[0])
    # a download that is resumed
    status, headers, _ = c.ask("GET", "/img/2.png", ["Range: bytes=0-499"])
    assert status == 206, status
    c.think()
    c.ask("GET", "/img/2.png", ["Range: bytes=500-", f"If-Range: {headers['etag']}"])
    c.think()
    # two requests in one segment, both answered in order
    c.connect().sendall(c.head("GET", "/product/41") + c.head("GET", "/product/42"))
    assert b"41" in c.answer("GET")[2] and b"42" in c.answer("GET")[2]
    c.think()
    # a request that arrives in pieces, cut inside the path, a name, and a line end
    data = c.head("GET", "/search?q=slowly+typed", ["X-Slow: yes"])
    cuts = [9, 30, data.index(b"User-") + 7, data.index(b"Accept:") - 1, len(data) - 2, len(data)]
    at = 0
    for cut in cuts:
        c.sock.sendall(data[at:cut])
        at = cut
        time.sleep(0.15)
    c.answer("GET")
    c.think()
    # an upload of unknown length, with an extension and a trailer-less end
    c.sock.sendall(c.head("POST", "/upload", ["Transfer-Encoding: chunked", "Content-Type: text/plain"]))
    for size in (100, 700, 1, 300):
        time.sleep(0.2)
        c.sock.sendall(b"%x\r\n" % size + b"u" * size + b"\r\n")
    c.sock.sendall(b"0\r\n\r\n")
    assert c.answer("POST")[0] == 201
    # a body that the server must ask for
    c.sock.sendall(c.head("POST", "/checkout", ["Content-Length: 9", "Expect: 100-continue"]))
    assert c.line().split()[1] == b"100" and c.line() == b""
    c.sock.sendall(b"card=none")
    c.answer("POST")
    # secrets where people put them by mistake
    c.ask("GET", "/reset?token=seeded-secret-query-token&email=seeded-secret-mail%40shop.example")
    c.ask("GET", "/", ["Referer: http://shop.example/reset?token=seeded-secret-query-token"])
    basic = base64.b64encode(b"seeded-secret-user:seeded-secret-basic").decode()
    c.ask("GET", "/admin", [f"Authorization: Basic {basic}"])
    c.close()


def aborter(number):
    c = Client(number, AGENTS[1])
    c.ask("GET", "/")
    c.think()
    # leaves in the middle of a slow answer
    c.connect().sendall(c.head("GET", "/export/orders.csv"))
    c.more()
    time.sleep(1.2)
    note("GET", "aborted")
    c.close()
    time.sleep(1)
    # leaves in the middle of its own request: this is not counted as a request
    c.connect().sendall(c.head("GET", "/search?q=never+finished")[:40])
    time.sleep(0.3)
    with lock:
        count["unfinished"] += 1
    c.close()


def shop():
    return [
        (shopper, 11, 13), (shopper, 12, 13), (shopper, 13, 13, True, True, True),
        (shopper, 14, 12, False), (shopper, 15, 12, True, False, True),
        (shopper, 16, 14, True, True, True), (shopper, 17, 13),
        (api_poller, 18, 50), (health_checker, 19, 20), (crawler, 20), (odd_one, 21), (aborter, 22),
    ]


def demo_slot(slot, until):
    """Sessions one after the other, so that the rate stays level from start to end."""
    r = random.Random(1000 + slot)
    time.sleep(r.uniform(0, 0.2))
    while time.monotonic() < until:
        c = Client(30 + slot, "demo/1")
        for _ in range(r.randint(6, 18)):
            n = r.randint(1, 60)
            c.ask("GET", r.choices(
                ["/", f"/search?q=item{n}", f"/product/{n}", f"/api/v1/stock/{n}", "/static/tiny.js"],
                [1, 2, 4, 2, 1])[0])
            time.sleep(r.uniform(0.03, 0.4))
            if time.monotonic() > until:
                break
        c.close()


def demo():
    until = time.monotonic() + DEMO_SECONDS
    return [(demo_slot, slot, until) for slot in range(DEMO_SLOTS)]


DEMO_SECONDS = 4.5
DEMO_SLOTS = 22


def files(folder):
    """The shop's files. Old modification times, so that ETags are the same each time."""
    r = random.Random(7)
    words = ["cart", "price", "total", "render", "shelf", "basket", "item", "click"]
    text = lambda n, sep: sep.join(r.choice(words) for _ in range(n))
    write = {
        "static/app.js": "".join(f"function f{i}() {{ return '{text(6, ' ')}'; }}\n" for i in range(180)),
        "static/style.css": "".join(f".c{i} {{ color: #{r.randrange(4096):03x}; margin: 0 }}\n" for i in range(220)),
        "static/tiny.js": "init();\n",
        "export/orders.csv": "".join(f"{i},{r.randrange(9999)}\n" for i in range(2000)),
    }
    for i in (1, 2, 3):
        write[f"img/{i}.png"] = b"\x89PNG\r\n\x1a\n" + r.randbytes(500 * i)
    for name, data in write.items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data if isinstance(data, bytes) else data.encode())
        os.utime(path, (1700000000, 1700000000))


def guarded(job, *args):
    try:
        job(*args)
    except Exception as e:  # a thread's error would otherwise only be printed
        failures.append(f"{job.__name__}{args}: {e!r}")


def main():
    if sys.argv[1] == "files":
        return files(sys.argv[2])
    started = time.monotonic()
    threads = [threading.Thread(target=guarded, args=job) for job in {"shop": shop, "demo": demo}[sys.argv[1]]()]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    count["seconds"] = round(time.monotonic() - started, 1)
    print(json.dumps(dict(sorted(count.items()))))
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
